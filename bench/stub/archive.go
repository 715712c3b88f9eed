package stub

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"canto/bench/xmpp"
	"canto/xmlstream"
)

var (
	rsmMax    = xmlstream.N(xmpp.NSRSM, "max")
	rsmBefore = xmlstream.N(xmpp.NSRSM, "before")
	rsmAfter  = xmlstream.N(xmpp.NSRSM, "after")
	queryID   = xmlstream.N("", "queryid")
)

// pageSize is how many rows a page has if the query asks for no fewer.
const pageSize = 100

// page is which rows, of n, a query is for: [from, to).
func page(n int, query xmlstream.Element) (from, to int, condition string) {
	size, to := pageSize, n
	set, ok := query.Child(xmpp.ResultSet)
	if !ok {
		return 0, min(size, n), ""
	}
	if e, ok := set.Child(rsmMax); ok {
		v, err := strconv.Atoi(string(e.Text()))
		if err != nil || v < 0 {
			return 0, 0, "bad-request"
		}
		size = min(v, pageSize)
	}
	row := func(e xmlstream.Element) int {
		v, err := strconv.Atoi(strings.TrimPrefix(string(e.Text()), "row"))
		if err != nil || v < 0 || v >= n {
			condition = "item-not-found"
		}
		return v
	}
	if e, ok := set.Child(rsmAfter); ok {
		from = row(e) + 1
	}
	if e, ok := set.Child(rsmBefore); ok { // backwards: the last rows before it
		if len(e.Text()) > 0 {
			to = row(e)
		}
		return max(from, to-size), to, condition
	}
	return from, min(from+size, to), condition
}

// archive answers a query (XEP-0313, XEP-0059) with made-up rows.
func (s *Server) archive(c *client, query xmlstream.Element) (body, condition string) {
	n := s.cfg.Archive
	from, to, condition := page(n, query)
	if condition != "" {
		return "", condition
	}
	id := ""
	if v, ok := query.Attr(queryID); ok {
		id = " queryid='" + escaped(v) + "'"
	}
	began := time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)
	for i := from; i < to; i++ {
		stamp := began.Add(time.Duration(i) * time.Minute).Format(time.RFC3339)
		c.sendf("<message to='%s'><result xmlns='%s'%s id='row%d'><forwarded "+
			"xmlns='urn:xmpp:forward:0'><delay xmlns='urn:xmpp:delay' stamp='%s'/>"+
			"<message xmlns='jabber:client' type='chat' id='old%d' from='%s' to='%s'><body>row "+
			"%[4]d</body></message></forwarded></result></message>",
			escaped(c.full), xmpp.NSMAM, id, i, stamp, i, escaped("peer@"+s.cfg.Domain+"/x"), escaped(c.bare))
	}
	complete := ""
	if _, back := before(query); back && from == 0 || !back && to == n {
		complete = " complete='true'"
	}
	b := "<fin xmlns='" + xmpp.NSMAM + "'" + complete + "><set xmlns='" + xmpp.NSRSM + "'>"
	if to > from {
		b += fmt.Sprintf("<first index='%d'>row%d</first><last>row%d</last>", from, from, to-1)
	}
	return b + fmt.Sprintf("<count>%d</count></set></fin>", n), ""
}

func before(query xmlstream.Element) (xmlstream.Element, bool) {
	set, ok := query.Child(xmpp.ResultSet)
	if !ok {
		return set, false
	}
	return set.Child(rsmBefore)
}
