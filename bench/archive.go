package bench

import (
	"fmt"
	"time"

	"canto/bench/xmpp"
	"canto/session/stanza"
	"canto/xmlstream"
)

// This file reads archives (XEP-0313) in pages, and checks each page: its rows have the trace ids of the
// messages that this run has sent, so that rows that are missing, come twice or in the wrong order are seen.

// Pages of an archive, by Action.Pages.
const (
	pagesWalk   = "walk"   // from the newest to the oldest, and again
	pagesLast   = "last"   // the newest
	pagesFirst  = "first"  // the oldest
	pagesBefore = "before" // before a row somewhere in the archive
	pagesAfter  = "after"  // after one
	pagesWith   = "with"   // the newest with one contact
	pagesStart  = "start"  // from a time on
)

var pageKinds = []string{pagesWalk, pagesLast, pagesFirst, pagesBefore, pagesAfter, pagesWith, pagesStart}

// wantsSamples reports whether pages of this kind begin at rows, contacts or times that the client must know.
func wantsSamples(pages string) bool {
	return pages == pagesBefore || pages == pagesAfter || pages == pagesWith || pages == pagesStart
}

// A rowKey names messages that are numbered one after another: those of a step from one client to one
// account.
type rowKey struct {
	step     uint16
	from, to uint32
}

// A row is a message of which the client knows where it is in its archive.
type row struct {
	id  string // in the archive: from the stanza id of the message (XEP-0359)
	key rowKey
	seq uint32
	at  time.Time // when it came
}

// maxSamples bounds the rows that a client knows.
const maxSamples = 64

// An archiveReader is what a client knows of its archive. Its loop uses it.
type archiveReader struct {
	samples []row // a random choice of the messages that have come
	seen    int   // messages that the choice is of

	before  string            // of a walk: the id before which the next page ends; "": the newest page
	lowest  map[rowKey]uint32 // of a walk: the lowest numbers so far
	queries []*pageQuery      // that are not answered, the oldest first
}

// A pageQuery is a page on its way: what was asked for, and what has come of it.
type pageQuery struct {
	step   uint16
	seq    uint32 // of the query's trace id
	pages  string
	most   int               // rows that were asked for
	anchor row               // the row that the page is before or after, with its contact and time
	walk   bool              // it is the next page of the client's walk; false: the walk waits for another one
	rows   int               // that have come
	first  map[rowKey]uint32 // the first numbers in the page
	last   map[rowKey]uint32 // the last ones so far
	fault  string            // the first thing that is wrong with it; "": nothing
}

const pageHole = "a page had a hole"

// wrong notes a fault of the page. The first one counts.
func (q *pageQuery) wrong(fault string) {
	if q.fault == "" {
		q.fault = fault
	}
}

// archiveReader is what c knows of its archive. It is called on c's loop.
func (c *client) archiveReader() *archiveReader {
	if c.reader == nil {
		c.reader = new(archiveReader)
	}
	return c.reader
}

// sample keeps, of all messages that c receives, a random choice of those whose stanza has an id of c's
// archive (reservoir sampling). It is called on c's loop.
func (f *Fleet) sample(ls *loopState, c *client, e xmlstream.Element, t traceID) {
	own := f.bareAddress(c)
	id := ""
	for k, ok := e.First(); ok; k, ok = k.Next() {
		if k.Is(xmpp.StanzaID) {
			if by, _ := k.Attr(xmpp.AttrBy); string(by) == own {
				v, _ := k.Attr(stanza.AttrID)
				id = string(v)
			}
		}
	}
	if id == "" {
		return
	}
	r := c.archiveReader()
	r.seen++
	at := len(r.samples)
	if at == maxSamples {
		if at = ls.rng.IntN(r.seen); at >= maxSamples {
			return
		}
	} else {
		r.samples = append(r.samples, row{})
	}
	r.samples[at] = row{id: id, key: rowKey{t.step, t.from, c.account}, seq: t.seq, at: time.Now()}
}

// appendPageQuery appends the request for a page, and notes it. ok is false if c knows no row that such a
// page can begin at. It is called on c's loop.
func (f *Fleet) appendPageQuery(ls *loopState, c *client, b []byte, a *Action,
	t traceID) (_ []byte, ok bool) {
	r := c.archiveReader()
	q := &pageQuery{step: t.step, seq: t.seq, pages: a.Pages, most: a.Page, first: make(map[rowKey]uint32),
		last: make(map[rowKey]uint32)}
	if wantsSamples(a.Pages) {
		if len(r.samples) == 0 {
			return b, false
		}
		q.anchor = r.samples[ls.rng.IntN(len(r.samples))]
	}
	var id [64]byte
	b = append(b, "<iq type='set' id='"...)
	b = t.append(b)
	b = append(b, "'><query xmlns='"+xmpp.NSMAM+"' queryid='"...)
	b = append(append(b, t.append(id[:0])...), "'>"...)
	switch a.Pages {
	case pagesWith:
		b = appendFilter(b, "with", f.target.name(int(f.clients[q.anchor.key.from].account))+"@"+f.target.Domain)
	case pagesStart:
		b = appendFilter(b, "start", q.anchor.at.UTC().Format("2006-01-02T15:04:05.000Z"))
	}
	b = fmt.Appendf(b, "<set xmlns='%s'><max>%d</max>", xmpp.NSRSM, a.Page)
	switch a.Pages {
	case pagesWalk:
		q.walk = true
		for _, other := range r.queries {
			q.walk = q.walk && !other.walk
		}
		before := ""
		if q.walk {
			before = r.before
		}
		b = appendPlace(b, "before", before)
	case pagesLast, pagesWith:
		b = appendPlace(b, "before", "")
	case pagesBefore, pagesAfter:
		b = appendPlace(b, a.Pages, q.anchor.id)
	}
	b = append(b, "</set></query></iq>"...)
	r.queries = append(r.queries, q)
	return b, true
}

// appendPlace appends where a page begins (XEP-0059 section 2).
func appendPlace(b []byte, name, id string) []byte {
	b = append(append(append(b, '<'), name...), '>')
	b = xmlstream.AppendText(b, id)
	return append(append(append(b, "</"...), name...), '>')
}

// appendFilter appends the form that filters a query (XEP-0313 section 4.1).
func appendFilter(b []byte, name, value string) []byte {
	b = append(b, "<x xmlns='"+xmpp.NSDataForms+"' type='submit'><field var='FORM_TYPE' type='hidden'><value>"+
		xmpp.NSMAM+"</value></field><field var='"+name+"'><value>"...)
	b = xmlstream.AppendText(b, value)
	return append(b, "</value></field></x>"...)
}

// query finds the query that has a trace id; nil if there is none.
func (r *archiveReader) query(step uint16, seq uint32) *pageQuery {
	for _, q := range r.queries {
		if q.step == step && q.seq == seq {
			return q
		}
	}
	return nil
}

// archiveRow takes a row of a page: x is the result in the message e. Rows of other runs are not looked
// into. It is called on c's loop.
func (f *Fleet) archiveRow(ls *loopState, c *client, e, x xmlstream.Element) {
	id, _ := x.Attr(xmpp.AttrQueryID)
	t, _ := parseTraceID(id)
	q := c.reader.query(t.step, t.seq)
	if q == nil || t.from != c.index {
		ls.countFailure(Failure{"a row came that no query is waiting for", "the server breaks XEP-0313"})
		return
	}
	q.rows++
	own := f.bareAddress(c)
	if from, ok := e.Attr(stanza.AttrFrom); ok && string(from) != own {
		q.wrong("a page was not from its archive")
	}
	m, err := forwardedMessage(x)
	if err != nil {
		q.wrong("a row of an archive has no message")
		return
	}
	f.checkStart(q, x)
	traced, _ := m.Attr(stanza.AttrID)
	t, ok := parseTraceID(traced)
	if !ok || t.run != f.run {
		return
	}
	to, _ := m.Attr(stanza.AttrTo)
	account, ok := f.target.number(string(bareJID(to)))
	sender := f.clients[t.from]
	if !ok || sender == nil {
		return
	}
	k := rowKey{t.step, t.from, account}
	switch {
	case account != c.account && sender.account != c.account:
		q.wrong("a row is of other accounts")
	case q.pages == pagesWith && account != f.contact(q) && sender.account != f.contact(q):
		q.wrong("a row is of another contact than was asked for")
	}
	switch last, ok := q.last[k]; {
	case !ok:
		q.first[k] = t.seq
	case t.seq == last:
		q.wrong("a row came twice")
	case t.seq < last:
		if q.fault == pageHole { // the row that was missing has come
			q.fault = ""
		}
		q.wrong("rows were out of order")
	case t.seq > last+1:
		q.wrong(pageHole)
	}
	q.last[k] = t.seq
}

// contact is the account that a page is of the messages with.
func (f *Fleet) contact(q *pageQuery) uint32 { return f.clients[q.anchor.key.from].account }

// checkStart checks the time of a row of a page that begins at a time. Servers may round to seconds.
func (f *Fleet) checkStart(q *pageQuery, x xmlstream.Element) {
	if q.pages != pagesStart {
		return
	}
	w, _ := x.Child(xmpp.Forwarded)
	d, ok := w.Child(xmpp.Delay)
	if !ok {
		q.wrong("a row of an archive has no time")
		return
	}
	text, _ := d.Attr(xmpp.AttrStamp)
	at, err := time.Parse(time.RFC3339, string(text))
	if err != nil || at.Before(q.anchor.at.Add(-time.Second)) {
		q.wrong("a row is older than was asked for")
	}
}

// endPage ends the query with the trace id t, which the iq e has answered, and counts the page as wrong if it
// is. e is zero if the answer is an error: then a walk begins again. It is called on c's loop.
func (f *Fleet) endPage(ls *loopState, c *client, e xmlstream.Element, t traceID) {
	r := c.reader
	if r == nil {
		return
	}
	q := r.query(t.step, t.seq)
	if q == nil {
		return
	}
	for i := range r.queries {
		if r.queries[i] == q {
			r.queries = append(r.queries[:i], r.queries[i+1:]...)
			break
		}
	}
	if e.IsZero() {
		if q.walk {
			r.before, r.lowest = "", nil
		}
		return
	}
	fin, ok := e.Child(xmpp.ArchiveEnd)
	if !ok {
		q.wrong("a page has no end")
	} else {
		r.check(q, fin)
	}
	if q.fault != "" {
		ls.tally(t.step).Wrong++
		ls.countFailure(Failure{q.fault, "the server breaks XEP-0313, or has lost messages"})
	}
}

// check looks at a page as a whole, whose end is fin, and notes where a walk goes on.
func (r *archiveReader) check(q *pageQuery, fin xmlstream.Element) {
	v, _ := fin.Attr(xmpp.AttrComplete)
	complete := string(v) == "true"
	first := ""
	if set, ok := fin.Child(xmpp.ResultSet); ok {
		if e, ok := set.Child(xmpp.ResultSetFirst); ok {
			first = string(e.Text())
		}
	}
	switch {
	case q.rows > q.most:
		q.wrong("a page had more rows than were asked for")
	case q.rows > 0 && first == "":
		q.wrong("a page does not say which row is its first")
	case q.rows == 0 && !complete:
		q.wrong("a page had no rows, and was not the last")
	}
	k := q.anchor.key
	switch q.pages {
	case pagesAfter:
		if n, ok := q.first[k]; ok && n != q.anchor.seq+1 {
			q.wrong("a page does not begin after the row that was named")
		}
	case pagesBefore:
		if n, ok := q.last[k]; ok && n+1 != q.anchor.seq {
			q.wrong("a page does not end before the row that was named")
		}
	case pagesFirst:
		for _, n := range q.first {
			if n != 0 {
				q.wrong("the oldest rows are missing")
			}
		}
	}
	if !q.walk {
		return
	}
	if r.lowest == nil {
		r.lowest = make(map[rowKey]uint32)
	}
	for k, n := range q.last {
		switch low, ok := r.lowest[k]; {
		case ok && n >= low:
			q.wrong("a row was in two pages")
		case ok && n+1 != low:
			q.wrong("rows between two pages are missing")
		}
		r.lowest[k] = q.first[k]
	}
	r.before = first
	if complete || first == "" {
		for _, n := range r.lowest {
			if n != 0 {
				q.wrong("the oldest rows are missing")
			}
		}
		r.before, r.lowest = "", nil
	}
}
