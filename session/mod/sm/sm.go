// Package sm implements stream management (XEP-0198): client and server acknowledge each other's stanzas, and
// a session outlives its connection, until the client resumes it.
//
//	C: <enable xmlns='urn:xmpp:sm:3' resume='true'/>
//	S: <enabled xmlns='urn:xmpp:sm:3' id='3fe2…' resume='true' max='600'/>
//	C: <message to='juliet@localhost'><body>Hi</body></message>
//	C: <r xmlns='urn:xmpp:sm:3'/>
//	   (the message is durable where it belongs)
//	S: <a xmlns='urn:xmpp:sm:3' h='1'/>
//	   (the connection is lost; the client logs in again)
//	C: <resume xmlns='urn:xmpp:sm:3' previd='3fe2…' h='4'/>
//	S: <resumed xmlns='urn:xmpp:sm:3' previd='3fe2…' h='1'/>
//	   (what the client had not acknowledged, and what has come since)
//
// What is acknowledged. An <a/> of the server counts the client's stanzas of which everything is settled: an
// iq that is answered, another stanza when its recipient's writes are durable. <r/> is answered when no
// stanza is unsettled, and after a second at the latest. The server asks with an <r/> behind a stanza if no
// other <r/> is unanswered, and once more when an answer leaves stanzas over.
//
// Resumption. A session that has lost its stream without a logout hibernates for [Options.Resume]. Until it
// is resumed, its stanzas wait in its queue. If it still has a stream when a client resumes it, that one is
// closed with conflict. <resumed/> waits until everything that the old stream had accepted is settled, so
// its h is exact. If the session ends unresumed, what was not acknowledged goes the way of what was not sent:
// messages wait or are routed again, iqs are answered. Room messages, headlines and what the server has made
// are dropped: the client gets them anew when it comes back.
//
// A client that does not acknowledge 1,000 stanzas or 1 MiB goes on, but its session can't be resumed until
// everything is acknowledged.
//
// In memory, in the outbox of a managed session: the kernel's state, see package session, management.go.
// Stored: nothing.
//
// Hooks: Hibernate, Hibernated and Unsent under the account's lock; a stream feature on the stream's loop.
package sm

import (
	"errors"
	"fmt"
	"strconv"
	"time"

	"canto/reactor"
	"canto/session"
	"canto/session/stanza"
	"canto/xmlstream"
)

// Manifest describes this module to the loader.
var Manifest = session.Manifest{
	Name:    "sm",
	Spec:    "XEP-0198 1.6.3",
	Summary: "acknowledges stanzas and resumes sessions",
	Cases: "acknowledgements both ways, resumption within the time, errors by the XEP; location is not sent, " +
		"as there is one process",
	Provides: []session.Feature{"sm"},
	Requires: []session.Feature{"accounts", "stream-features", "resting", "outgoing"},
	Options:  func() any { o := defaultOptions(); return &o },
	New:      func() session.Module { return new(module) },
}

// ns is the namespace of stream management.
const ns = "urn:xmpp:sm:3"

// The names of the elements and attributes.
var (
	featureName = xmlstream.N(ns, "sm")
	enableName  = xmlstream.N(ns, "enable")
	enabledName = xmlstream.N(ns, "enabled")
	resumeName  = xmlstream.N(ns, "resume")
	resumedName = xmlstream.N(ns, "resumed")
	failedName  = xmlstream.N(ns, "failed")
	requestName = xmlstream.N(ns, "r")
	answerName  = xmlstream.N(ns, "a")
	tooHighName = xmlstream.N(ns, "handled-count-too-high")

	attrResume    = xmlstream.N("", "resume")
	attrMax       = xmlstream.N("", "max")
	attrPrevID    = xmlstream.N("", "previd")
	attrH         = xmlstream.N("", "h")
	attrSendCount = xmlstream.N("", "send-count")
)

// request is what asks for an acknowledgement.
var request = []byte("<r xmlns='" + ns + "'/>")

// answerTicks is how long the answer to <r/> may wait for stanzas that are not settled: a second.
const answerTicks reactor.Tick = 10

// An IDGenerator makes the id of a session that can be resumed: 128 random bits. The process gives it to the
// module as a [session.Dependency]; any loop calls it.
type IDGenerator func() string

// Options is the module's section of the configuration.
type Options struct {
	Resume string `toml:"resume"` // how long a session without a connection is kept, as "10m"; "0s": not at all
}

// defaultOptions returns the options of a configuration that does not mention the module.
func defaultOptions() Options { return Options{Resume: "10m"} }

// Check implements [session.OptionChecker].
func (o *Options) Check() (key, why string) {
	if d, err := time.ParseDuration(o.Resume); err != nil || d < 0 || d > 24*time.Hour {
		return "resume", fmt.Sprintf("%q: it is a time from 0s to 24h, as 10m", o.Resume)
	}
	return "", ""
}

// A module is the module of one profile. It does not change after Load.
type module struct {
	keep  time.Duration // how long sessions hibernate; 0: they do not
	newID IDGenerator

	enabled, resumed, refused, expired *session.Counter
}

// Load implements [session.Module].
func (m *module) Load(api *session.API) error {
	opt := defaultOptions()
	if err := api.Decode(&opt); err != nil {
		return err
	}
	m.keep, _ = time.ParseDuration(opt.Resume)
	var ok bool
	if m.newID, ok = session.Lookup[IDGenerator](api); !ok {
		return errors.New("the process has given no generator of resumption ids")
	}
	count := func(name, help string) *session.Counter {
		return api.Router.Counter(session.CounterName{Name: name, Help: help})
	}
	m.enabled = count("sm_enabled_total", "Sessions for which stream management was enabled.")
	m.resumed = count("sm_resumed_total", "Sessions that were resumed.")
	m.refused = count("sm_refused_total", "Resumptions that were refused.")
	m.expired = count("sm_expired_total", "Sessions that were not resumed in time.")
	h := api.Hooks
	h.Features = append(h.Features, session.StreamFeature{
		Name:          enableName,
		Continuations: []xmlstream.Name{resumeName, requestName, answerName},
		Needs:         session.HasUser,
		Forbids:       session.S2S,
		Offer: func(st session.Negotiation, a *xmlstream.Appender) {
			if st.Session() == nil {
				a.Open(featureName).Close()
			}
		},
		Handle: m.handle,
	})
	h.Inline = append(h.Inline,
		session.InlineFeature{Module: api.Module, Name: resumeName, Place: session.InlineResume,
			Offer:  func(_ session.Negotiation, a *xmlstream.Appender) { a.Open(featureName).Close() },
			Handle: m.resumeInline},
		session.InlineFeature{Module: api.Module, Name: enableName, Place: session.InlineSession,
			Begin: m.enableInline})
	h.Hibernate.Add(api.Module, session.Deliver, m.hibernate)
	h.Hibernated.Add(api.Module, session.Deliver, m.hibernated)
	h.Unsent.Add(api.Module, session.Guard, dropEphemeral)
	return nil
}

// handle processes each element of stream management that the client sends. On the stream's loop.
func (m *module) handle(st session.Negotiation, e xmlstream.Element) {
	s := st.Session()
	switch {
	case e.Is(enableName):
		m.enable(st, e)
	case e.Is(resumeName):
		m.resume(st, e)
	case s == nil:
		st.Close(session.ErrPolicyViolation)
	case e.Is(requestName):
		if !managed(s) {
			fail(st, stanza.UnexpectedRequest)
			return
		}
		session.WhenSettled(st.Stream, answerTicks, sendAnswer)
	default:
		m.acknowledge(st, e)
	}
}

// managed reports whether stream management is enabled for s.
func managed(s *session.Session) (is bool) {
	s.Outbox(func(o session.Outbox) { is = o.Terms() != nil })
	return is
}

// sendAnswer sends <a/>: n stanzas of the client are handled.
func sendAnswer(st *session.Stream, n uint32) {
	a := st.LoopRouter().Appender()
	var h [10]byte
	a.Open(answerName).AttrBytes(attrH, strconv.AppendUint(h[:0], uint64(n), 10)).Close()
	st.Send(a.B)
}

// fail answers an element with <failed/>.
func fail(st session.Negotiation, c stanza.Condition) {
	a := st.LoopRouter().Appender()
	appendFailed(a, c)
	st.Send(a.B)
}

// appendFailed appends <failed/>.
func appendFailed(a *xmlstream.Appender, c stanza.Condition) {
	a.Open(failedName).Open(xmlstream.N(stanza.NSStanzas, c.String())).Close().Close()
}

// acknowledge handles <a/>: the client has handled so many stanzas. One that acknowledges more than it was
// sent is out of step, and its stream ends (XEP-0198 section 4).
func (m *module) acknowledge(st session.Negotiation, e xmlstream.Element) {
	h, ok := numberOf(e, attrH)
	if !ok {
		st.Close(session.ErrBadFormat)
		return
	}
	if !managed(st.Session()) {
		fail(st, stanza.UnexpectedRequest)
		return
	}
	var sent uint32
	st.Session().Outbox(func(o session.Outbox) { sent, ok = o.Acknowledge(h) })
	if !ok {
		st.Close(tooHigh(h, sent))
	}
}

// tooHigh is the stream error for an acknowledgement of more than was sent.
func tooHigh(h, sent uint32) error {
	return &session.StreamError{Condition: "undefined-condition", App: tooHighName,
		AppAttrs: []xmlstream.Attr{{Name: attrH, Value: strconv.FormatUint(uint64(h), 10)},
			{Name: attrSendCount, Value: strconv.FormatUint(uint64(sent), 10)}}}
}

// numberOf returns the attribute n of e, a number of 32 bits.
func numberOf(e xmlstream.Element, n xmlstream.Name) (v uint32, ok bool) {
	b, ok := e.Attr(n)
	if !ok || len(b) > 10 {
		return 0, false
	}
	x, err := strconv.ParseUint(string(b), 10, 32)
	return uint32(x), err == nil
}

// enable handles <enable/>. A client that has bound nothing yet, and one that has enabled it already, gets
// unexpected-request (XEP-0198 section 3).
func (m *module) enable(st session.Negotiation, e xmlstream.Element) {
	s := st.Session()
	if s == nil || managed(s) {
		fail(st, stanza.UnexpectedRequest)
		return
	}
	t := m.terms(e)
	s.Outbox(func(o session.Outbox) { // nothing else is sent between the answer and the count
		a := st.LoopRouter().Appender()
		appendEnabled(a, t)
		st.Send(a.B)
		o.Manage(t)
	})
	st.Track()
	m.enabled.Add(1)
}

// enableInline handles <enable/> within the binding of s (XEP-0198 section 9.1).
func (m *module) enableInline(_ *session.InlineLogin, s *session.Session, e xmlstream.Element,
	a *xmlstream.Appender) {
	t := m.terms(e)
	appendEnabled(a, t)
	s.Outbox(func(o session.Outbox) { o.Manage(t) })
	m.enabled.Add(1)
}

// terms returns the terms that <enable/> gets.
func (m *module) terms(e xmlstream.Element) *session.Terms {
	t := &session.Terms{Request: request}
	keep := m.keep
	if max, ok := numberOf(e, attrMax); ok { // the client's wish, in seconds
		keep = min(keep, time.Duration(max)*time.Second)
	}
	if v, _ := e.Attr(attrResume); keep > 0 && (string(v) == "true" || string(v) == "1") {
		t.ID, t.Keep = m.newID(), reactor.Tick(keep/(time.Second/10))
	}
	return t
}

// appendEnabled appends <enabled/> for t.
func appendEnabled(a *xmlstream.Appender, t *session.Terms) {
	a.Open(enabledName)
	if t.ID != "" {
		a.Attr(stanza.AttrID, t.ID).Attr(attrResume, "true").Attr(attrMax, strconv.Itoa(int(t.Keep)/10))
	}
	a.Close()
}

// A resumption is one <resume/>: as an element of its own, or within a login by SASL2.
type resumption struct {
	m      *module
	st     session.Negotiation
	inline *session.InlineLogin // nil: an element of its own
	previd string
	h      uint32 // what the client has handled
}

// resume handles <resume/> on a stream that has logged in and bound nothing (XEP-0198 section 5).
func (m *module) resume(st session.Negotiation, e xmlstream.Element) {
	if st.Session() != nil {
		fail(st, stanza.UnexpectedRequest)
		return
	}
	(&resumption{m: m, st: st}).begin(e)
}

// resumeInline handles <resume/> within a login (XEP-0198 section 9.2).
func (m *module) resumeInline(l *session.InlineLogin, e xmlstream.Element) {
	(&resumption{m: m, st: l.Stream(), inline: l}).begin(e)
}

// begin looks for the session, and takes it over. A session that is not of this account is not found, as one
// that does not exist. The client may bind then. On the stream's loop, under no lock.
func (r *resumption) begin(e xmlstream.Element) {
	id, _ := e.Attr(attrPrevID)
	h, ok := numberOf(e, attrH)
	if !ok || len(id) == 0 {
		r.refuse(stanza.BadRequest)
		return
	}
	r.previd, r.h = string(id), h
	r.st.Bind(func(a *session.Account, exists bool, err error) {
		switch s := find(a, r.previd); {
		case err != nil:
			r.refuse(stanza.ResourceConstraint)
		case !exists:
			r.st.Close(session.ErrNotAuthorized)
		case s == nil:
			r.refuse(stanza.ItemNotFound)
		default:
			r.st.TakeOver(s, r.takenOver)
		}
	})
}

// takenOver is called when the session hibernates, and everything that its streams have accepted is settled:
// handled stanzas are. Under no lock.
func (r *resumption) takenOver(handled uint32) {
	r.st.Bind(func(a *session.Account, exists bool, err error) {
		// It may have ended meanwhile, or another stream may have resumed it.
		if s := find(a, r.previd); err == nil && exists && s != nil && !s.Connected() {
			r.finish(a, s, handled)
			return
		}
		r.refuse(stanza.ItemNotFound)
	})
}

// refuse answers <failed/>. Any lock may be held.
func (r *resumption) refuse(c stanza.Condition) {
	r.m.refused.Add(1)
	if r.inline == nil {
		fail(r.st, c)
		return
	}
	l := r.st.LoopRouter()
	l.Loop.Post(func() { // the login goes on under no lock
		l.Enter(func() {
			a := l.Appender()
			appendFailed(a, c)
			r.inline.Add(a.B)
			r.inline.Continue()
		})
	})
}

// finish gives s, which hibernates, to the stream. Under the account's lock, on the loop of the stream.
func (r *resumption) finish(a *session.Account, s *session.Session, handled uint32) {
	l := r.st.LoopRouter()
	whole := false
	s.Outbox(func(o session.Outbox) { _, _, whole = o.Unacknowledged() })
	switch sent, ok := session.Rewind(l, s, r.h); {
	case ok:
	case !whole:
		a.ExpireSession(l, s)
		r.refuse(stanza.ItemNotFound)
		return
	default:
		r.st.Close(tooHigh(r.h, sent))
		return
	}
	ap := l.Appender()
	ap.Open(resumedName).Attr(attrPrevID, r.previd).Attr(attrH, strconv.FormatUint(uint64(handled), 10)).Close()
	if r.inline != nil {
		if !r.inline.Resumed(a, s, ap.B) {
			r.refuse(stanza.ItemNotFound)
			return
		}
	} else {
		r.st.Send(ap.B)
		if !a.Resume(r.st, s) {
			r.st.Close(session.ErrReset) // it was ended just now
			return
		}
	}
	r.m.resumed.Add(1)
}

// find returns the session of a that may be resumed with id; nil if there is none. Under the account's lock.
func find(a *session.Account, id string) (found *session.Session) {
	if a == nil {
		return nil
	}
	for _, s := range a.Resources() {
		s.Outbox(func(o session.Outbox) {
			if t := o.Terms(); t != nil && t.ID != "" && t.ID == id {
				found = s
			}
		})
	}
	return found
}

// hibernate is the Hibernate hook: a session that can be resumed is kept.
func (m *module) hibernate(_ *session.LoopRouter, s *session.Session) session.Verdict {
	v := session.Pass
	s.Outbox(func(o session.Outbox) {
		if _, _, whole := o.Unacknowledged(); whole && o.Terms().ID != "" {
			v = session.Done
		}
	})
	return v
}

// hibernated is the Hibernated hook: it ends the session if it is not resumed in time.
func (m *module) hibernated(l *session.LoopRouter, s *session.Session) {
	host, full := s.Host(), s.JID()
	t, times := hibernation(s)
	if t == nil {
		return
	}
	l.After(t.Keep, func() {
		l.WithAccount(host, full.Bare(), func(l *session.LoopRouter, a *session.Account, _ bool, _ error) {
			if a == nil {
				return
			}
			// Another session may have the resource by now, and this one may have been resumed and hibernate again.
			if s := find(a, t.ID); s != nil && !s.Connected() {
				if _, now := hibernation(s); now == times {
					m.expired.Add(1)
					a.ExpireSession(l, s)
				}
			}
		})
	})
}

// hibernation returns the terms of s, and how often it has hibernated.
func hibernation(s *session.Session) (t *session.Terms, times uint32) {
	s.Outbox(func(o session.Outbox) { t, times = o.Terms(), o.Hibernations() })
	return t, times
}

// dropEphemeral is the Unsent hook: of a session that was managed it drops what a client that comes back gets
// anew, or what has no meaning later: messages of rooms, and headlines, as events of pubsub are.
func dropEphemeral(l *session.LoopRouter, s *session.Session, list []session.OutboundStanza) (
	left []session.OutboundStanza) {
	if !managed(s) {
		return list
	}
	for _, p := range list {
		if p.Kind == stanza.Message && ephemeral(l, p.Bytes) {
			continue
		}
		left = append(left, p)
	}
	return left
}

// ephemeral reports whether b is a message of a room, or a headline.
func ephemeral(l *session.LoopRouter, b []byte) bool {
	el, err := l.Parser.Element(b)
	if err != nil {
		return true
	}
	defer l.Parser.Release(el)
	v, _ := el.Attr(stanza.AttrType)
	t := stanza.ParseType(stanza.Message, v)
	return t == stanza.TypeGroupchat || t == stanza.TypeHeadline
}
