// Package acks is what modules of stream management (XEP-0198) and of an archive need of the kernel, and
// no more: it is for tests, and shows how stanzas are acknowledged, how a session outlives its stream,
// and how what became of a message is written down.
//
//	C: <on xmlns='urn:canto:test:acks'/>
//	C: <message to='juliet@example.org' type='chat'><body>Hi</body></message>
//	C: <r xmlns='urn:canto:test:acks'/>
//	S: <a xmlns='urn:canto:test:acks' h='0'/>
//	   (the message is durable)
//	S: <a xmlns='urn:canto:test:acks' h='1'/>
//	   (the connection is lost; another one logs in, and names the session instead of binding)
//	C: <resume xmlns='urn:canto:test:acks' resource='orchard'/>
//	S: <resumed xmlns='urn:canto:test:acks' jid='romeo@example.org/orchard'/>
//	   (what was sent to it meanwhile)
//
// Where the account has no session of that name at rest, or it can't go on, the answer is <failed/>, and
// the stream may bind (XEP-0198 §5).
//
// State in a session: a flag, that its stream is acknowledged and that it is kept when it loses it; in
// slots, which rest it is, and the stream that resumes it. Stored: a row for each message that has
// arrived at an account, in one batch with the message if that is kept. Hooks: Message in phase Record;
// Settled; Rest, Rested and Resumed.
package acks

import (
	"fmt"

	"canto/session"
	"canto/session/stanza"
	"canto/session/storage"
	"canto/session/store"
	"canto/xmlstream"
)

// Manifest is how the loader knows this module.
var Manifest = session.Manifest{
	Name:    "test-acks",
	Spec:    "XEP-0198 1.6",
	Summary: "acknowledges stanzas when they are settled",
	Cases: "acknowledgement of what a client sends, resumption without repetition, one record for each " +
		"message",
	Requires: []session.Feature{"stream-features", "resting", "store"},
	New:      func() session.Module { return new(module) },
}

const ns = "urn:canto:test:acks"

var (
	enableName   = xmlstream.N(ns, "on")
	resumedName  = xmlstream.N(ns, "resumed")
	requestName  = xmlstream.N(ns, "r")
	resumeName   = xmlstream.N(ns, "resume")
	attrResource = xmlstream.N("", "resource")
	resumable    = session.NewFlag("test-acks")
	// hibernations counts the rests of a session, for the timer of each. It is not carried: a kernel that
	// takes a session up says that it rests.
	hibernations = session.NewSessionVar[int]("test-acks-rests", nil)
	// resumingStream is the stream that resumes a session, while it does.
	resumingStream = session.NewSessionVar[session.Negotiation]("test-acks-resumes", nil)

	// Rows are what became of messages, in the order in which they arrived at the account: see
	// [session.Outcome].
	Rows = store.NewLog[string]("test-acks", 'w', 1)
	part = session.NewPart[rowCounter]("test-acks")
)

// rowCounter is what is in memory of an account: the number of its next row.
type rowCounter struct{ next uint64 }

// hibernateTicks is how long a session is kept without a stream, in ticks.
const hibernateTicks = 3000

type module struct{ rows *store.Log[string] }

// Load adds the hooks.
func (m *module) Load(api *session.API) (err error) {
	if m.rows, err = storage.OpenLog(api, Rows); err != nil {
		return err
	}
	session.Resident(api, part, func(snap *store.Snapshot, who session.EntityRef) (*rowCounter, error) {
		last, ok, err := m.rows.Last(snap, who.ID)
		if err != nil || !ok {
			return nil, err
		}
		return &rowCounter{last + 1}, nil
	})
	h := api.Hooks
	h.Features = append(h.Features,
		session.StreamFeature{Name: enableName, Continuations: []xmlstream.Name{requestName},
			Needs: session.HasResource, Handle: negotiate},
		session.StreamFeature{Name: resumeName, Needs: session.HasUser, Forbids: session.HasResource,
			Handle: handleResume})
	h.Settled.Add(api.Module, session.Deliver, func(st *session.Stream, n uint32, _ int) { sendAck(st, n) })
	h.Hibernate.Add(api.Module, session.Deliver,
		func(_ *session.LoopRouter, s *session.Session) session.Verdict {
			if resumable.Is(s) {
				return session.Done
			}
			return session.Pass
		})
	h.Hibernated.Add(api.Module, session.Deliver, expire)
	h.Resumed.Add(api.Module, session.Guard, resumed) // before the client gets anything else
	for _, to := range []session.Target{session.ToSelf, session.ToBare, session.ToFull} {
		h.Message[to].Add(api.Module, session.Record, m.record)
	}
	return nil
}

func negotiate(st session.Negotiation, e xmlstream.Element) {
	if !e.Is(enableName) {
		sendAck(st.Stream, st.Settled())
		return
	}
	st.Track()
	s := st.Session()
	st.LoopRouter().WithAccount(s.Host(), s.JID().Bare(), func(_ *session.LoopRouter, a *session.Account,
		_ bool, _ error) {
		if a != nil && a.Resource(s.JID()) == s {
			resumable.Set(s, true)
		}
	})
}

func sendAck(st *session.Stream, n uint32) {
	st.Send(fmt.Appendf(nil, "<a xmlns='%s' h='%d'/>", ns, n))
}

// handleResume gives the session that e names, if it rests, to a stream that has logged in.
func handleResume(st session.Negotiation, e xmlstream.Element) {
	v, _ := e.Attr(attrResource)
	resource := string(v)
	st.Bind(func(a *session.Account, _ bool, err error) {
		if err == nil && resumeSession(st, a, resource) {
			return
		}
		st.Send(fmt.Appendf(nil, "<failed xmlns='%s'/>", ns))
	})
}

// resumeSession gives the session of that resource to st; false: it is not there or not at rest, or what has
// ended it does not let it go on. Under the lock.
func resumeSession(st session.Negotiation, a *session.Account, resource string) bool {
	full, err := a.JID().WithResource(resource)
	if err != nil {
		return false
	}
	s := a.Resource(full)
	if s == nil || !resumable.Is(s) || s.Connected() {
		return false
	}
	resumingStream.Set(s, &st)
	if !a.Resume(st, s) {
		resumingStream.Set(s, nil)
		return false
	}
	return true
}

// resumed tells the client of a session that has a stream again, if that has asked for it.
func resumed(l *session.LoopRouter, s *session.Session) {
	if st := resumingStream.Get(s); st != nil {
		resumingStream.Set(s, nil)
		a := l.Appender()
		a.Open(resumedName).Attr(stanza.AttrJID, s.JID().String()).Close()
		st.Send(a.B)
	}
}

// expire ends a session that rests too long. Under the lock, as it begins to.
func expire(l *session.LoopRouter, s *session.Session) {
	n := hibernations.Get(s)
	if n == nil {
		n = new(int)
		hibernations.Set(s, n)
	}
	*n++
	this := *n
	host, full := s.Host(), s.JID()
	l.After(hibernateTicks, func() {
		l.WithAccount(host, full.Bare(), func(l *session.LoopRouter, a *session.Account, _ bool, _ error) {
			if a == nil {
				return
			}
			// Not another session of its name, and not one that was resumed since, which may rest again.
			if s := a.Resource(full); s != nil && hibernations.Get(s) == n && *n == this && !s.Connected() {
				a.ExpireSession(l, s)
			}
		})
	})
}

// record writes down what became of a message.
func (m *module) record(ev *session.Stanza) session.Verdict {
	o := ev.Outcome()
	var by []string
	for _, s := range ev.Account().Resources() {
		if ev.DeliveredTo(s) {
			by = append(by, s.JID().Resource())
		}
	}
	w := part.Mutable(ev.Account())
	m.rows.Append(storage.BatchOf(ev), ev.Account().ID(), w.next,
		fmt.Sprintf("%s: taken by %v, kept %v, refused %v", body(ev), by, o.Stored, o.Refused))
	w.next++
	return session.Pass
}

func body(ev *session.Stanza) string {
	b, _ := ev.Element.Child(stanza.BodyName)
	return string(b.Text())
}
