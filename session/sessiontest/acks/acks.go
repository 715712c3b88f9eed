// Package acks is what modules of stream management (XEP-0198) and of an archive need of the kernel, and no more: it
// is for tests, and shows how stanzas are acknowledged, how a session outlives its stream, and how what became of a
// message is written down.
//
//	C: <on xmlns='urn:canto:test:acks'/>
//	C: <message to='juliet@example.org' type='chat'><body>Hi</body></message>
//	C: <r xmlns='urn:canto:test:acks'/>
//	S: <a xmlns='urn:canto:test:acks' h='0'/>
//	   (the message is durable)
//	S: <a xmlns='urn:canto:test:acks' h='1'/>
//	   (the connection is lost; another one logs in, and asks instead of binding)
//	C: <resume xmlns='urn:canto:test:acks'/>
//	S: <resumed xmlns='urn:canto:test:acks' jid='romeo@example.org/orchard'/>
//
// State in a session: a flag, that its stream is acknowledged and that it is kept when it loses it. Stored: a row for
// each message that has arrived at an account, in one batch with the message if that is kept. Hooks: Message in phase
// Record; Settled; Rest and Rested.
package acks

import (
	"fmt"

	"canto/session"
	"canto/session/jid"
	"canto/session/mod/storage"
	"canto/session/stanza"
	"canto/session/store"
	"canto/xmlstream"
)

// Manifest is how the loader knows this module.
var Manifest = session.Manifest{
	Name:     "test-acks",
	Spec:     "XEP-0198 1.6",
	Summary:  "acknowledges stanzas when they are settled",
	Cases:    "acknowledgement of what a client sends, resumption without repetition, one record for each message",
	Requires: []session.Feature{"stream-features", "resting", "store"},
	New:      func() session.Module { return new(module) },
}

const ns = "urn:canto:test:acks"

var (
	on     = xmlstream.N(ns, "on")
	ask    = xmlstream.N(ns, "r")
	resume = xmlstream.N(ns, "resume")
	kept   = session.NewFlag("test-acks")

	// Rows are what became of messages, in the order in which they arrived at the account: see [session.Outcome].
	Rows = store.NewLog[string]("test-acks", 'w', 1)
	part = session.NewPart[written]("test-acks")
)

// written is what is in memory of an account: the number of its next row.
type written struct{ next uint64 }

// restFor is how long a session is kept without a stream, in ticks.
const restFor = 3000

type module struct{ rows *store.Log[string] }

// Load adds the hooks.
func (m *module) Load(api *session.API) (err error) {
	if m.rows, err = storage.Log(api, Rows); err != nil {
		return err
	}
	session.Resident(api, part, func(snap *store.Snapshot, who session.Who) (*written, error) {
		last, ok, err := m.rows.Last(snap, who.ID)
		if err != nil || !ok {
			return nil, err
		}
		return &written{last + 1}, nil
	})
	h := api.Hooks
	h.Features = append(h.Features,
		session.StreamFeature{Name: on, More: []xmlstream.Name{ask}, Needs: session.HasResource, Handle: negotiate},
		session.StreamFeature{Name: resume, Needs: session.HasUser, Forbids: session.HasResource, Handle: takeOver})
	h.Settled.Add(api.Module, session.Deliver, func(st *session.Stream, n uint32, _ int) { tell(st, n) })
	h.Rest.Add(api.Module, session.Deliver, func(_ *session.Local, s *session.Session) session.Verdict {
		if kept.Is(s) {
			return session.Done
		}
		return session.Pass
	})
	h.Rested.Add(api.Module, session.Deliver, expire)
	for _, to := range []session.Target{session.ToSelf, session.ToBare, session.ToFull} {
		h.Message[to].Add(api.Module, session.Record, m.record)
	}
	return nil
}

func negotiate(st session.Negotiation, e xmlstream.Element) {
	if !e.Is(on) {
		tell(st.Stream, st.Settled())
		return
	}
	st.Track()
	s := st.Session()
	st.Local().Account(s.Host(), s.JID().Bare(), func(_ *session.Local, a *session.Account, _ bool, _ error) {
		if a != nil && a.Resource(s.JID()) == s {
			kept.Set(s, true)
		}
	})
}

func tell(st *session.Stream, n uint32) { st.Send(fmt.Appendf(nil, "<a xmlns='%s' h='%d'/>", ns, n)) }

// takeOver gives a session that rests to a stream that has logged in.
func takeOver(st session.Negotiation, _ xmlstream.Element) {
	st.Bind(func(a *session.Account, _ bool, err error) {
		if err == nil {
			for _, s := range a.Resources() {
				if kept.Is(s) && !s.Connected() {
					st.Send(fmt.Appendf(nil, "<resumed xmlns='%s' jid='%s'/>", ns, s.JID()))
					a.Adopt(st, s)
					return
				}
			}
		}
		st.Send(fmt.Appendf(nil, "<failed xmlns='%s'/>", ns))
	})
}

// expire ends a session that rests too long.
func expire(l *session.Local, s *session.Session) {
	host, full := s.Host(), s.JID()
	l.After(restFor, func() { l.Account(host, full.Bare(), end(full)) })
}

func end(full jid.JID) func(*session.Local, *session.Account, bool, error) {
	return func(l *session.Local, a *session.Account, _ bool, _ error) {
		if a == nil {
			return
		}
		if s := a.Resource(full); s != nil && !s.Connected() {
			a.Unbind(l, s)
		}
	}
}

// record writes down what became of a message.
func (m *module) record(ev *session.Stanza) session.Verdict {
	o := ev.Outcome()
	var by []string
	for _, s := range ev.Account().Resources() {
		if ev.TakenBy(s) {
			by = append(by, s.JID().Resource())
		}
	}
	w := part.Own(ev.Account())
	m.rows.Append(storage.Rows(ev), ev.Account().ID(), w.next, fmt.Sprintf("%s: taken by %v, kept %v, refused %v", body(ev), by, o.Kept, o.Refused))
	w.next++
	return session.Pass
}

func body(ev *session.Stanza) string {
	b, _ := ev.Element.Child(stanza.BodyName)
	return string(b.Text())
}
