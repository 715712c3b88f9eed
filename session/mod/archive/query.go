package archive

import (
	"errors"
	"math"
	"time"

	"canto/reactor"
	"canto/session"
	"canto/session/archive"
	"canto/session/form"
	"canto/session/jid"
	"canto/session/rsm"
	"canto/session/stanza"
	"canto/session/stanzaid"
	"canto/xmlstream"
)

// The names of what a query has, and of what answers it.
var (
	flipName      = xmlstream.N(ns, "flip-page")
	resultName    = xmlstream.N(ns, "result")
	finName       = xmlstream.N(ns, "fin")
	startName     = xmlstream.N(ns, "start")
	endName       = xmlstream.N(ns, "end")
	forwardedName = xmlstream.N("urn:xmpp:forward:0", "forwarded")
	delayName     = xmlstream.N("urn:xmpp:delay", "delay")
	attrQueryID   = xmlstream.N("", "queryid")
	attrComplete  = xmlstream.N("", "complete")
	attrTimestamp = xmlstream.N("", "timestamp")
)

// maxQueryID is how long the queryid of a client may be: it comes back with each message of the page.
const maxQueryID = 256

// fields is the form of a query (XEP-0313 section 4.1.5).
var fields = &form.Definition{FormType: ns, Fields: []form.FieldDefinition{
	{Var: "with", Type: form.JIDSingle},
	{Var: "start", Type: form.TextSingle, Datatype: "xs:dateTime"},
	{Var: "end", Type: form.TextSingle, Datatype: "xs:dateTime"},
	{Var: "before-id", Type: form.TextSingle},
	{Var: "after-id", Type: form.TextSingle},
	{Var: "ids", Type: form.ListMulti, Datatype: "xs:string", Open: true},
	{Var: "include-groupchat", Type: form.Boolean},
}}

// sendForm answers a request for the form.
func sendForm(ev *session.Stanza) session.Verdict {
	return ev.Reply(func(_ *session.Stanza, a *xmlstream.Appender) {
		a.Open(queryName)
		fields.Append(a, nil)
		a.Close()
	})
}

// A request is a query of a client.
type request struct {
	archive.Query
	queryID string // comes back with each message; empty: none
	flip    bool   // the messages of the page come in reverse order
}

// An asking is a query whose page is being read, and asks has that of a session, which has one at a time. So
// the page does not go to another session at the address. It has a byte, so that each has an address of its
// own.
type asking struct{ _ byte }

var asks = session.NewSessionVar[asking]("archive", nil)

// query answers a query: it reads the page on a worker, sends its messages, and then the result. Under the
// account's lock. The client's stream is parked meanwhile, so that it has one page in work. A page that comes
// too late is not sent.
func (m *Service) query(ev *session.Stanza) session.Verdict {
	a := ev.Account()
	q, bad, ok := m.read(ev, a.ID())
	if !ok {
		if bad == stanza.ItemNotFound {
			m.counters.notFound.Add(1)
		}
		return ev.Fail(bad)
	}
	owner, to, asked := a.ID(), ev.From, new(asking)
	asks.Set(ev.Session, asked)
	var page archive.Page
	return ev.Await(reactor.Disk, func() (err error) {
		began := m.now()
		snap := m.db.Snapshot()
		defer snap.Close()
		if page, err = m.Archive.Page(snap, owner, q.Query); err != nil {
			return err
		}
		m.counters.pages.Add(1)
		m.counters.pageNanos.Add(uint64(max(m.now().Sub(began), 0)))
		return nil
	}, func(ev *session.Stanza, err error) session.Verdict {
		s := ev.Account().Resource(to)
		mine := s != nil && asks.Get(s) == asked
		if mine {
			asks.Set(s, nil)
		}
		switch {
		case !mine || ev.Outcome().Answered: // the client has gone, or was told that it takes too long
			return session.Done
		case errors.Is(err, archive.ErrNotFound):
			m.counters.notFound.Add(1)
			return ev.Fail(stanza.ItemNotFound)
		case err != nil:
			return ev.Fail(stanza.InternalServerError)
		}
		m.sendPage(ev.LoopRouter(), s, &q, &page)
		return ev.Reply(func(_ *session.Stanza, ap *xmlstream.Appender) { m.appendFin(ap, owner, &page) })
	})
}

// read reads a query. If ok is false, bad is the condition of the answer: feature-not-implemented for a field
// that the form does not have (XEP-0313 section 4.1.6), item-not-found for an id that can't be one of this
// archive, and bad-request for all else.
func (m *Service) read(ev *session.Stanza, owner uint64) (q request, bad stanza.Condition, ok bool) {
	p := ev.Payload()
	if _, has := p.Attr(stanza.AttrNode); has {
		return q, stanza.ItemNotFound, false // of pubsub (XEP-0442); an account has no archives of nodes
	}
	id, _ := p.Attr(attrQueryID)
	if len(id) > maxQueryID {
		return q, stanza.BadRequest, false
	}
	q.queryID = string(id)
	_, q.flip = p.Child(flipName)
	set, _, err := rsm.Of(p)
	if err != nil {
		return q, stanza.BadRequest, false
	}
	if set.Index.Given {
		return q, stanza.FeatureNotImplemented, false // XEP-0059 section 2.6
	}
	q.Max = set.Clamp(archive.DefaultRows, archive.MaxRows)
	q.Backwards = set.Before.Given
	if bad, ok := m.readForm(&q, p, owner); !ok {
		return q, bad, false
	}
	for _, at := range []struct {
		text string
		id   *stanzaid.ID
	}{{set.After.Text, &q.After}, {set.Before.Text, &q.Before}} {
		if at.text == "" {
			continue
		}
		if *at.id, err = m.ids.Parse([]byte(at.text), owner); err != nil {
			return q, stanza.ItemNotFound, false
		}
	}
	return q, 0, true
}

// readForm reads the filters of a query from its form, if there is one.
func (m *Service) readForm(q *request, p xmlstream.Element, owner uint64) (bad stanza.Condition, ok bool) {
	x, has := p.Child(form.X)
	if !has {
		return 0, true
	}
	d, err := form.Parse(x, form.Limits{Values: archive.MaxRows + 16})
	if err != nil {
		return stanza.BadRequest, false
	}
	switch unknown, err := fields.Check(d); {
	case err != nil:
		return stanza.BadRequest, false
	case unknown != "":
		return stanza.FeatureNotImplemented, false
	}
	with, given, err := d.JID("with")
	if err != nil {
		return stanza.BadRequest, false
	}
	if given {
		q.With = with.String()
	}
	// The checks of Check hold: these have values of their types, or none.
	q.Start, _, _ = d.Time("start")
	if q.End, given, _ = d.Time("end"); given && q.End.IsZero() {
		q.End = q.End.Add(1) // the zero Time would be no bound; there is no message at either moment
	}
	for _, at := range []struct {
		name string
		id   *stanzaid.ID
	}{{"after-id", &q.AfterID}, {"before-id", &q.BeforeID}} {
		text, given, _ := d.Text(at.name)
		if !given {
			continue
		}
		if *at.id, err = m.ids.Parse([]byte(text), owner); err != nil {
			return stanza.ItemNotFound, false
		}
	}
	if list := d.Values("ids"); len(list) > archive.MaxRows {
		return stanza.BadRequest, false
	}
	for _, text := range d.Values("ids") {
		id, err := m.ids.Parse([]byte(text), owner)
		if err != nil {
			return stanza.ItemNotFound, false
		}
		q.IDs = append(q.IDs, id)
	}
	return 0, true
}

// sendPage sends the messages of a page to s, which has asked for it. Under the account's lock.
func (m *Service) sendPage(l *session.LoopRouter, s *session.Session, q *request, page *archive.Page) {
	owner, from, to := s.Account().ID(), s.Account().JID(), s.JID()
	for i := range page.Items {
		it := &page.Items[i]
		if q.flip {
			it = &page.Items[len(page.Items)-1-i]
		}
		ap := l.Appender()
		m.appendResult(ap, owner, from, to, q.queryID, it)
		if !s.Send(session.OutboundStanza{Bytes: ap.B, Kind: stanza.Message}) {
			return // the session is ending, and its client gets no more
		}
	}
}

// appendResult appends the message that has one row of a page.
func (m *Service) appendResult(a *xmlstream.Appender, owner uint64, from, to jid.JID, queryID string,
	it *archive.Item) {
	var text [2 * stanzaid.WireLen]byte
	id := m.ids.Append(text[:0], owner, it.ID)
	a.Open(stanza.MessageName).Attr(stanza.AttrFrom, from.String()).Attr(stanza.AttrTo, to.String())
	a.Open(resultName)
	if queryID != "" {
		a.Attr(attrQueryID, queryID)
	}
	a.AttrBytes(stanza.AttrID, id)
	a.Open(forwardedName)
	a.Open(delayName).Attr(stanza.AttrStamp, stamp(it.Row.Time(it.ID))).Close()
	a.B = append(a.B, it.Row.Element...)
	a.Close().Close().Close()
}

// stamp returns t, which is in UTC, in the form of XEP-0082, to the millisecond, so that a client may ask for
// what came after it.
func stamp(t time.Time) string { return t.Format("2006-01-02T15:04:05.000Z") }

// appendFin appends the payload of the result of a query.
func (m *Service) appendFin(a *xmlstream.Appender, owner uint64, page *archive.Page) {
	a.Open(finName)
	if page.Complete {
		a.Attr(attrComplete, "true")
	}
	var first, last [2 * stanzaid.WireLen]byte
	var r rsm.Result
	if n := len(page.Items); n > 0 {
		r.First = m.ids.Append(first[:0], owner, page.Items[0].ID)
		r.Last = m.ids.Append(last[:0], owner, page.Items[n-1].ID)
	} else if page.Last != 0 {
		r.First = m.ids.Append(first[:0], owner, page.Last)
		r.Last = r.First
	}
	if page.Index >= 0 {
		r.Index = rsm.Some(page.Index)
	}
	if page.Count >= 0 {
		r.Count = rsm.Some(page.Count)
	}
	r.Append(a)
	a.Close()
}

// metadata answers a request for the ids and times of the oldest and the newest row (XEP-0313 section 5).
func (m *Service) metadata(ev *session.Stanza) session.Verdict {
	owner := ev.Account().ID()
	var ends []archive.Item
	return ev.Await(reactor.Disk, func() (err error) {
		snap := m.db.Snapshot()
		defer snap.Close()
		for _, reverse := range []bool{false, true} {
			err = errors.Join(err, m.Archive.Scan(snap, owner, 0, math.MaxUint64-1, reverse,
				func(id stanzaid.ID, row archive.Row) bool {
					ends = append(ends, archive.Item{ID: id, Row: archive.Row{Skew: row.Skew}})
					return false
				}))
		}
		return err
	}, func(ev *session.Stanza, err error) session.Verdict {
		if err != nil {
			return ev.Fail(stanza.InternalServerError)
		}
		return ev.Reply(func(_ *session.Stanza, a *xmlstream.Appender) {
			a.Open(metadataName)
			if len(ends) == 2 {
				m.appendEnd(a, startName, owner, &ends[0])
				m.appendEnd(a, endName, owner, &ends[1])
			}
			a.Close()
		})
	})
}

// appendEnd appends an element with the id and the time of one row.
func (m *Service) appendEnd(a *xmlstream.Appender, name xmlstream.Name, owner uint64, it *archive.Item) {
	var text [2 * stanzaid.WireLen]byte
	a.Open(name).AttrBytes(stanza.AttrID, m.ids.Append(text[:0], owner, it.ID))
	a.Attr(attrTimestamp, stamp(it.Row.Time(it.ID))).Close()
}

// AppendMetadata appends the ids and times of the oldest and the newest row of the archive of acc, as it is
// now (XEP-0386 section 3.2). Under the account's lock.
func (m *Service) AppendMetadata(acc *session.Account, a *xmlstream.Appender) {
	a.Open(metadataName)
	if s := part.Get(acc); s != nil && s.sum.Last != 0 {
		m.appendEnd(a, startName, acc.ID(), &archive.Item{ID: s.sum.First,
			Row: archive.Row{Skew: s.sum.FirstSkew}})
		m.appendEnd(a, endName, acc.ID(), &archive.Item{ID: s.sum.Last,
			Row: archive.Row{Skew: s.sum.LastSkew}})
	}
	a.Close()
}
