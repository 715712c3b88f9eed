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
// other <r/> is unanswered, and once more when an answer leaves stanzas over. It does not ask again if the
// answer says nothing new and nothing was sent since.
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
// A session that hibernates outlives the process, and the time of its account in memory: see rows.go. The
// time in which no process runs does not count.
//
// In memory, in the outbox of a managed session: the kernel's state, see package session, management.go; in a
// session that hibernates, what the store has of it. Stored: sessions that hibernate, with their queues, and
// how many stanzas of clients are handled.
//
// Hooks: Hibernate, Hibernated, Unsent, Unbound, Resumed, Persist, Loaded, Message in phase AfterRecord and
// PreMessage in phase Deliver under the account's lock; a stream feature on the stream's loop.
package sm

import (
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"canto/reactor"
	"canto/session"
	"canto/session/stanza"
	"canto/session/storage"
	"canto/session/store"
	"canto/xmlstream"
)

// Manifest describes this module to the loader.
var Manifest = session.Manifest{
	Name:    "sm",
	Spec:    "XEP-0198 1.6.3",
	Summary: "acknowledges stanzas and resumes sessions",
	Cases: "acknowledgements both ways, resumption within the time, also after a stop or a crash of the " +
		"server, errors by the XEP; location is not sent, as there is one process",
	Provides: []session.Feature{"sm"},
	Requires: []session.Feature{"accounts", "stream-features", "resting", "outgoing", "resident",
		"store"},
	Options: func() any { o := defaultOptions(); return &o },
	New:     func() session.Module { return new(module) },
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

// A module is the module of one profile. Its fields but sweep and ended do not change after Load.
type module struct {
	keep   time.Duration // how long sessions hibernate; 0: they do not
	newID  IDGenerator
	db     *store.DB
	rows   *store.Map[string, []byte] // see rowsDef
	log    *slog.Logger
	answer func(st *session.Stream, n uint32) // answerWith
	old    bool                               // at the start the index of deadlines had entries
	sweep  sync.Once                          // begins expireOld and noteAlive
	ended  atomic.Bool                        // they end
	// dead has the ids of sessions that have ended and of which the rows are not deleted durably yet.
	dead sync.Map
	// timers has the deadlines for which a timer runs: see expireAt.
	timers sync.Map

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
	var err error
	if m.db, err = storage.Open(api); err != nil {
		return err
	}
	if m.rows, err = storage.OpenMap(api, rowsDef); err != nil {
		return err
	}
	if m.old, err = m.haveOld(); err != nil {
		return err
	}
	m.log, m.answer = api.Log, m.answerWith
	session.Resident(api, part, m.read)
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
			if s := st.Session(); s == nil || !managed(s) {
				a.Open(featureName).Close()
			}
		},
		Handle: m.handle,
	}, session.StreamFeature{ // before the login it is refused, and the client may log in (sections 3 and 6)
		Name:          enableName,
		Continuations: []xmlstream.Name{resumeName},
		Forbids:       session.HasUser | session.S2S,
		Handle: func(st session.Negotiation, _ xmlstream.Element) {
			fail(st, stanza.UnexpectedRequest)
		},
	})
	h.Inline = append(h.Inline,
		session.InlineFeature{Module: api.Module, Name: resumeName, Place: session.InlineResume,
			Offer:  func(_ session.Negotiation, a *xmlstream.Appender) { a.Open(featureName).Close() },
			Handle: m.resumeInline},
		session.InlineFeature{Module: api.Module, Name: enableName, Place: session.InlineSession,
			Begin: m.enableInline})
	h.Hibernate.Add(api.Module, session.Deliver, m.hibernate)
	h.Hibernated.Add(api.Module, session.Deliver, m.hibernated)
	h.Resumed.Add(api.Module, session.Deliver, m.resumedHook)
	h.Unbound.Add(api.Module, session.Deliver, m.unbound)
	h.Persist.Add(api.Module, session.Deliver, m.persist)
	h.Loaded.Add(api.Module, session.Deliver, m.loaded)
	h.Bound.Add(api.Module, session.Deliver, m.bound)
	for t := range h.Message {
		h.Message[t].Add(api.Module, session.AfterRecord, m.record)
		h.PreMessage[t].Add(api.Module, session.Deliver, m.record) // after the copies: here Record does not run
	}
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
		session.WhenSettled(st.Stream, answerTicks, m.answer)
	default:
		m.acknowledge(st, e)
	}
}

// managed reports whether stream management is enabled for s.
func managed(s *session.Session) (is bool) {
	s.Outbox(func(o session.Outbox) { is = o.Terms() != nil })
	return is
}

// An ackState says which acknowledgement of a session is a row. The outbox lock guards it.
type ackState struct {
	storing, known bool   // a commit is under way; the row says durable
	durable        uint32 // stanzas of the client
	again          bool   // the client has asked meanwhile,
	next           uint32 // when so many were handled
}

// acks is set in sessions that were sent an acknowledgement and may be resumed.
var acks = session.NewOutboxVar[ackState]("sm-acks")

// answerWith answers <r/>: n stanzas of the client are handled. If the client may resume the session, that is
// durable first: a process that follows this one must not say less. One commit of a session runs at a time.
// On the stream's loop.
func (m *module) answerWith(st *session.Stream, n uint32) {
	var t *session.Terms
	waits, row := false, false
	s := st.Session()
	s.Outbox(func(o session.Outbox) {
		if t = o.Terms(); t == nil || t.ID == "" || m.db.Full() != nil {
			return
		}
		a := acks.Get(o)
		if a == nil {
			a = new(ackState)
			acks.Set(o, a)
		}
		switch {
		case a.storing:
			a.again, a.next, waits = true, n, true
		case !a.known || a.durable != n:
			a.storing, row = true, true
		}
	})
	if !row {
		if !waits {
			sendAnswer(st, n)
		}
		return
	}
	b := m.db.NewBatch(t.Owner)
	m.putHandled(b, t, n)
	session.WhenDurable(st.LoopRouter(), session.Ticket(m.db.Commit(b)), func(err error) {
		again, next := false, uint32(0)
		s.Outbox(func(o session.Outbox) {
			if a := acks.Get(o); a != nil {
				again, next = a.again, a.next
				*a = ackState{known: err == nil, durable: n}
			}
		})
		if st.Session() != s || !s.Connected() {
			return
		}
		if err == nil {
			sendAnswer(st, n)
		}
		if again {
			m.answerWith(st, next)
		}
	})
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
	appendFailed(a, c, nil)
	st.Send(a.B)
}

// appendFailed appends <failed/>. handled is the number of the stanzas that the server has handled; nil: it
// is not known.
func appendFailed(a *xmlstream.Appender, c stanza.Condition, handled *uint32) {
	a.Open(failedName)
	if handled != nil {
		a.Attr(attrH, strconv.FormatUint(uint64(*handled), 10))
	}
	a.Open(xmlstream.N(stanza.NSStanzas, c.String())).Close().Close()
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
	t := m.terms(e, session.AccountID(st.LoopRouter(), s))
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
	t := m.terms(e, s.Account().ID())
	appendEnabled(a, t)
	s.Outbox(func(o session.Outbox) { o.Manage(t) })
	m.enabled.Add(1)
}

// terms returns the terms that <enable/> gets, of a client of the account with the id owner.
func (m *module) terms(e xmlstream.Element, owner uint64) *session.Terms {
	t := &session.Terms{Request: request, Owner: owner}
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
	owner  uint64 // the id of the account
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
		if exists {
			r.owner = a.ID()
		}
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
// handled stanzas are. It deletes the rows of the session first: after a crash the client is refused rather
// than given a state that is not the last one. Under no lock.
func (r *resumption) takenOver(handled uint32) {
	r.again(func(a *session.Account, s *session.Session) {
		if !r.check(a, s) {
			return
		}
		l := r.st.LoopRouter()
		t := r.m.forget(l, s, handled)
		host, bare := s.Host(), a.JID()
		session.WhenDurable(l, t, func(error) { // after finish, which is called first
			l.Loop.Post(func() {
				l.Enter(func() {
					l.WithAccount(host, bare, func(l *session.LoopRouter, a *session.Account, _ bool, _ error) {
						if s := find(a, r.previd); s != nil {
							r.m.notResumed(l, s)
						}
					})
				})
			})
		})
		r.st.WhenDurable(t, func(err error) {
			if err != nil {
				r.refuse(stanza.ResourceConstraint)
				return
			}
			r.again(func(a *session.Account, s *session.Session) { r.finish(a, s, handled) })
		})
	})
}

// check reports whether s may be resumed by a client that has handled r.h stanzas; if not, the client has its
// answer. Under the account's lock.
func (r *resumption) check(a *session.Account, s *session.Session) bool {
	sent, ok := session.MayRewind(s, r.h)
	whole := false
	s.Outbox(func(o session.Outbox) { _, _, whole = o.Unacknowledged() })
	switch {
	case ok:
		return true
	case !whole:
		a.ExpireSession(r.st.LoopRouter(), s)
		r.refuse(stanza.ItemNotFound)
	default:
		r.st.Close(tooHigh(r.h, sent))
	}
	return false
}

// again calls then with the session, if it still hibernates: it may have ended, or another stream may have
// resumed it. Under no lock; then runs under that of the account.
func (r *resumption) again(then func(a *session.Account, s *session.Session)) {
	r.st.Bind(func(a *session.Account, exists bool, err error) {
		if s := find(a, r.previd); err == nil && exists && s != nil && !s.Connected() {
			then(a, s)
			return
		}
		r.refuse(stanza.ItemNotFound)
	})
}

// refuse answers <failed/>. If the session is not there, it says what the server has handled of it, as far as
// the store knows: the client need not send that again (XEP-0198 section 5). Any lock may be held.
func (r *resumption) refuse(c stanza.Condition) {
	r.m.refused.Add(1)
	if c == stanza.ItemNotFound {
		var handled *uint32
		read := func() (err error) {
			handled, err = r.m.handledOf(r.owner, r.previd)
			return err
		}
		if r.st.Await(reactor.Disk, read, func(error) { r.fail(c, handled) }) {
			return
		}
	}
	if r.inline == nil {
		r.fail(c, nil)
		return
	}
	l := r.st.LoopRouter()
	l.Loop.Post(func() { l.Enter(func() { r.fail(c, nil) }) }) // the login goes on under no lock
}

// fail answers <failed/> with the condition c, and with h if the number of handled stanzas is known. If it is
// part of a login, under no lock.
func (r *resumption) fail(c stanza.Condition, handled *uint32) {
	a := r.st.LoopRouter().Appender()
	appendFailed(a, c, handled)
	if r.inline == nil {
		r.st.Send(a.B)
		return
	}
	r.inline.Add(a.B)
	r.inline.Continue()
}

// finish gives s, which hibernates, to the stream. Under the account's lock, on the loop of the stream.
func (r *resumption) finish(a *session.Account, s *session.Session, handled uint32) {
	l := r.st.LoopRouter()
	if !r.check(a, s) {
		return
	}
	session.Rewind(l, s, r.h)
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

// hibernated is the Hibernated hook: it stores the session, and ends it if it is not resumed in time.
func (m *module) hibernated(l *session.LoopRouter, s *session.Session) {
	t, _ := hibernation(s)
	if t == nil {
		return
	}
	r := restingVar.Get(s) // it was restored, and had begun to hibernate before
	if r == nil {
		r = &resting{deadline: m.db.Deadlines().Now() + int64(t.Keep)*tickMillis}
		restingVar.Set(s, r)
	}
	m.expireAt(l, s, t, r)
	m.keepWhenHandled(l, s, t)
}

// A timerKey is the deadline of the session with an id.
type timerKey struct {
	id string
	at int64
}

// expireAt ends s at the deadline of r, if it still hibernates then.
func (m *module) expireAt(l *session.LoopRouter, s *session.Session, t *session.Terms, r *resting) {
	host, full, deadline := s.Host(), s.JID(), r.deadline
	key := timerKey{t.ID, deadline}
	if _, runs := m.timers.LoadOrStore(key, true); runs { // the account was evicted, and is loaded again
		return
	}
	l.After(m.untilDeadline(r), func() {
		m.timers.Delete(key)
		l.WithAccount(host, full.Bare(), func(l *session.LoopRouter, a *session.Account, _ bool, _ error) {
			if a == nil {
				return
			}
			// It may have been resumed, and hibernate again.
			if s := find(a, t.ID); s != nil && !s.Connected() {
				if r := restingVar.Get(s); r != nil && r.deadline == deadline {
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
