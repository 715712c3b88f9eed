// Package acks has what stream management (XEP-0198) and an archive ask of the kernel, and no more. It
// shows how stanzas are acknowledged, how a session outlives its stream, and how the outcome of a message
// is stored. It is for tests.
//
//	C: <on xmlns='urn:canto:test:acks'/>
//	C: <message to='juliet@example.org' type='chat'><body>Hi</body></message>
//	C: <r xmlns='urn:canto:test:acks'/>
//	S: <a xmlns='urn:canto:test:acks' h='0'/>
//	   (the message is durable)
//	S: <a xmlns='urn:canto:test:acks' h='1'/>
//	   (the connection is lost; the client logs in on another one, and names the session instead of binding)
//	C: <resume xmlns='urn:canto:test:acks' resource='orchard'/>
//	S: <resumed xmlns='urn:canto:test:acks' jid='romeo@example.org/orchard'/>
//	   (what was sent to it meanwhile)
//
// If the account has no hibernating session of that name, or the session can't go on, the answer is
// <failed/>; the stream may bind then (XEP-0198 section 5).
//
// In memory, in a session: a flag, which says that its stream is acknowledged and that the session
// hibernates when it loses it; the number of its hibernations; the stream that resumes it. In memory, in a
// warm account: the number of its next row. Stored: a row for each message that has arrived at an account,
// in one batch with the message if that is stored.
//
// Hooks: Message in phase Record, Hibernate, Hibernated and Resumed under the account's lock; Settled, and
// two stream features, on the stream's loop.
package acks

import (
	"fmt"

	"canto/session"
	"canto/session/stanza"
	"canto/session/storage"
	"canto/session/store"
	"canto/xmlstream"
)

// Manifest describes this module to the loader.
var Manifest = session.Manifest{
	Name:    "test-acks",
	Spec:    "XEP-0198 1.6",
	Summary: "acknowledges stanzas when they are settled",
	Cases: "acknowledgement of what a client sends, resumption without repetition, one record for each " +
		"message",
	Requires: []session.Feature{"stream-features", "resting", "store"},
	New:      func() session.Module { return new(module) },
}

// ns is the namespace of the module.
const ns = "urn:canto:test:acks"

var (
	enableName   = xmlstream.N(ns, "on")
	resumedName  = xmlstream.N(ns, "resumed")
	requestName  = xmlstream.N(ns, "r")
	resumeName   = xmlstream.N(ns, "resume")
	attrResource = xmlstream.N("", "resource")
	resumable    = session.NewFlag("test-acks")
	// hibernations counts how often a session has hibernated, so that a timer knows its own hibernation. It is
	// not marshaled: a kernel that restores a session runs the Hibernated hooks again.
	hibernations = session.NewSessionVar[int]("test-acks-rests", nil)
	// resumingStream is the stream that is resuming a session.
	resumingStream = session.NewSessionVar[session.Negotiation]("test-acks-resumes", nil)

	// Rows has the outcomes of messages, in the order in which they arrived at the account: see
	// [session.Outcome].
	Rows = store.NewLog[string]("test-acks", 'w', 1)
	part = session.NewPart[rowCounter]("test-acks")
)

// A rowCounter is what an account has in memory: the number of its next row.
type rowCounter struct{ next uint64 }

// hibernateTicks is how long a session is kept without a stream, in ticks.
const hibernateTicks = 3000

// A module is the module of one profile. It does not change after Load.
type module struct{ rows *store.Log[string] }

// Load implements [session.Module].
func (m *module) Load(api *session.API) (err error) {
	if m.rows, err = storage.OpenLog(api, Rows); err != nil {
		return err
	}
	session.Resident(api, part, func(snap *store.Snapshot, acc session.EntityRef) (*rowCounter, error) {
		last, ok, err := m.rows.Last(snap, acc.ID)
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

// negotiate handles <on/>, which starts acknowledgements, and <r/>, which asks for one. On the stream's
// loop.
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

// sendAck acknowledges the stanzas up to number n.
func sendAck(st *session.Stream, n uint32) {
	st.Send(fmt.Appendf(nil, "<a xmlns='%s' h='%d'/>", ns, n))
}

// handleResume handles <resume/> on a stream that has logged in: it resumes the named session, or answers
// <failed/>.
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

// resumeSession gives the session with the resource to st. It returns false if there is none, if it does
// not hibernate, or if its ending does not allow it. Under the account's lock.
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

// resumed is the Resumed hook: it answers <resume/>. In phase Guard, so the client gets this before
// anything else.
func resumed(l *session.LoopRouter, s *session.Session) {
	if st := resumingStream.Get(s); st != nil {
		resumingStream.Set(s, nil)
		a := l.Appender()
		a.Open(resumedName).Attr(stanza.AttrJID, s.JID().String()).Close()
		st.Send(a.B)
	}
}

// expire is the Hibernated hook: it ends the session if it is not resumed in time. Under the account's
// lock.
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
			// Another session may have the resource by now, and this one may have been resumed and hibernate again:
			// then the counter differs.
			if s := a.Resource(full); s != nil && hibernations.Get(s) == n && *n == this && !s.Connected() {
				a.ExpireSession(l, s)
			}
		})
	})
}

// record is the Record hook: it stores the outcome of a message. Under the account's lock.
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

// body returns the text of the message's body.
func body(ev *session.Stanza) string {
	b, _ := ev.Element.Child(stanza.BodyName)
	return string(b.Text())
}
