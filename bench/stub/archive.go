package stub

import (
	"fmt"
	"slices"
	"strconv"
	"time"

	"canto/bench/xmpp"
	"canto/session/jid"
	"canto/session/stanza"
	"canto/xmlstream"
)

var (
	rsmMax    = xmlstream.N(xmpp.NSRSM, "max")
	rsmBefore = xmlstream.N(xmpp.NSRSM, "before")
	rsmAfter  = xmlstream.N(xmpp.NSRSM, "after")
	formField = xmlstream.N(xmpp.NSDataForms, "field")
)

// pageSize is how many rows a page has if the query asks for no fewer.
const pageSize = 100

// An archived is a row of an archive.
type archived struct {
	id      string
	with    string // bare address of the other account
	at      time.Time
	message []byte // its text in a stream
}

// madeUp are the rows of each archive, if the server keeps none.
func (s *Server) madeUp(c *client) []archived {
	began := time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)
	rows := make([]archived, s.cfg.Archive)
	for i := range rows {
		peer := "peer@" + s.cfg.Domain
		rows[i] = archived{id: fmt.Sprintf("row%d", i), with: peer, at: began.Add(time.Duration(i) * time.Minute),
			message: fmt.Appendf(nil, "<message type='chat' id='old%d' from='%s' to='%s'><body>row %[1]d</body>"+
				"</message>", i, escaped(peer+"/x"), escaped(c.bare))}
	}
	return rows
}

// store archives a message for both sides, if the server keeps an archive: b is its text with the sender's
// address. It returns the text for the receiver, with the id of its archive (XEP-0359).
func (s *Server) store(c *client, to jid.JID, e xmlstream.Element, b []byte) []byte {
	_, body := e.Child(bodyName)
	if !s.cfg.Archiving || !body || attr(e, stanza.AttrType) != "chat" {
		return b
	}
	other := to.Bare().String()
	if to.IsZero() {
		other = c.bare
	}
	now := time.Now().UTC()
	s.rowID++
	s.archives[c.bare] = append(s.archives[c.bare], archived{fmt.Sprintf("row%d", s.rowID), other, now, b})
	if other == c.bare {
		return b
	}
	s.rowID++
	id := fmt.Sprintf("row%d", s.rowID)
	s.archives[other] = append(s.archives[other], archived{id, c.bare, now, b})
	b = b[: len(b)-len("</message>") : len(b)-len("</message>")]
	return fmt.Appendf(b, "<stanza-id xmlns='%s' by='%s' id='%s'/></message>", xmpp.NSStanzaID,
		escaped(other), id)
}

// page is which of the rows a query is for: [from, to).
func page(rows []archived, query xmlstream.Element) (from, to int, condition string) {
	size, to := pageSize, len(rows)
	set, ok := query.Child(xmpp.ResultSet)
	if !ok {
		return 0, min(size, len(rows)), ""
	}
	if e, ok := set.Child(rsmMax); ok {
		v, err := strconv.Atoi(string(e.Text()))
		if err != nil || v < 0 {
			return 0, 0, "bad-request"
		}
		size = min(v, pageSize)
	}
	place := func(e xmlstream.Element) int {
		i := slices.IndexFunc(rows, func(r archived) bool { return r.id == string(e.Text()) })
		if i < 0 {
			condition = "item-not-found"
		}
		return max(i, 0)
	}
	if e, ok := set.Child(rsmAfter); ok {
		from = place(e) + 1
	}
	if e, ok := set.Child(rsmBefore); ok { // backwards: the last rows before it
		if len(e.Text()) > 0 {
			to = place(e)
		}
		return max(from, to-size), to, condition
	}
	return from, min(from+size, to), condition
}

// filter applies the form of a query (XEP-0313 section 4.1).
func filter(rows []archived, query xmlstream.Element) (_ []archived, condition string) {
	form, ok := query.Child(xmpp.DataForm)
	if !ok {
		return rows, ""
	}
	rows = slices.Clone(rows)
	for k, ok := form.First(); ok; k, ok = k.Next() {
		v, _ := k.Child(xmpp.FieldValue)
		if !k.Is(formField) || v.IsZero() {
			continue
		}
		text := string(v.Text())
		switch attr(k, stanza.AttrVar) {
		case "with":
			rows = slices.DeleteFunc(rows, func(r archived) bool { return r.with != text })
		case "start":
			at, err := time.Parse(time.RFC3339, text)
			if err != nil {
				return nil, "bad-request"
			}
			rows = slices.DeleteFunc(rows, func(r archived) bool { return r.at.Before(at) })
		}
	}
	return rows, ""
}

// archive answers a query (XEP-0313, XEP-0059), with the faults of pages that are set.
func (s *Server) archive(c *client, query xmlstream.Element) (body, condition string) {
	rows := s.archives[c.bare]
	if !s.cfg.Archiving {
		rows = s.madeUp(c)
	}
	rows, condition = filter(rows, query)
	if condition != "" {
		return "", condition
	}
	from, to, condition := page(rows, query)
	if condition != "" {
		return "", condition
	}
	id := ""
	if v, ok := query.Attr(xmpp.AttrQueryID); ok {
		id = " queryid='" + escaped(v) + "'"
	}
	s.stats.Pages++
	for _, r := range s.faulty(rows[from:to]) {
		before := "<delay xmlns='" + xmpp.NSDelay + "' stamp='" + r.at.Format(time.RFC3339Nano) + "'/>"
		c.sendf("<message to='%s'><result xmlns='%s'%s id='%s'>%s</result></message>", escaped(c.full), xmpp.NSMAM,
			id, r.id, forwarded(r.message, before))
	}
	complete := ""
	if _, back := before(query); back && from == 0 || !back && to == len(rows) {
		complete = " complete='true'"
	}
	b := "<fin xmlns='" + xmpp.NSMAM + "'" + complete + "><set xmlns='" + xmpp.NSRSM + "'>"
	if to > from {
		if from > 0 && s.faults.skipRows.hit() { // the next page back does not have the row before this page
			s.stats.WrongPages++
			from--
		}
		b += fmt.Sprintf("<first index='%d'>%s</first><last>%s</last>", from, rows[from].id, rows[to-1].id)
	}
	return b + fmt.Sprintf("<count>%d</count></set></fin>", len(rows)), ""
}

// faulty is a page with the faults that are set: a page of fewer than four rows has none.
func (s *Server) faulty(rows []archived) []archived {
	if len(rows) < 4 {
		return rows
	}
	rows = slices.Clone(rows)
	i := len(rows) / 2
	switch {
	case s.faults.dropRows.hit():
		rows = slices.Delete(rows, i, i+1)
	case s.faults.duplicateRows.hit():
		rows = slices.Insert(rows, i, rows[i])
	case s.faults.swapRows.hit():
		rows[i-1], rows[i] = rows[i], rows[i-1]
	default:
		return rows
	}
	s.stats.WrongPages++
	return rows
}

func before(query xmlstream.Element) (xmlstream.Element, bool) {
	set, ok := query.Child(xmpp.ResultSet)
	if !ok {
		return set, false
	}
	return set.Child(rsmBefore)
}
