package session

import (
	"errors"
	"slices"

	"canto/reactor"
	"canto/session/jid"
	"canto/session/stanza"
)

// sessionStreamEnded is called when ref, the last stream of s, has ended by why, or was none and s has
// ended at rest. What follows needs the resident set, for those who are to be told: it is asked for again
// until the store has it. tries is how often it was asked for already.
func sessionStreamEnded(l *LoopRouter, s *Session, ref StreamRef, why Ending, tries int) {
	l.WithAccount(s.account.host, s.account.addr, func(l *LoopRouter, a *Account, exists bool, err error) {
		if a == nil || a != s.account || s.stream != ref || a.sessionIndex(s) < 0 {
			return // it has ended, or was taken over
		}
		if now, _ := s.endedBy(); s.hibernating() && now == notEnded {
			return // it was taken over, and rests again
		}
		s.setEnding(why)
		switch {
		case err != nil && tries < maxUnbindTries:
			wait := min(firstUnbindRetry<<tries, maxUnbindRetry)
			l.After(reactor.Tick(wait), func() { sessionStreamEnded(l, s, ref, why, tries+1) })
			return
		case err != nil:
			l.Log.Error("a session is ended without its contacts being told: its account can't be read",
				"jid", s.jid.String(), "tries", tries+1, "err", err)
			a.removeSession(l, s)
			return
		}
		a.endSession(l, s, why)
	})
}

// endSession is where the end of a stream, or a decision, becomes one of the session: by what has ended it, s
// rests, if a hook of Hooks.Hibernate keeps it, or is removed. It is the only place, but for a session whose
// account can't be read for good: sessionStreamEnded removes that. It may be called twice.
func (a *Account) endSession(l *LoopRouter, s *Session, why Ending) {
	if a.sessionIndex(s) < 0 {
		return
	}
	if endingTable[s.setEnding(why)].rests {
		kept, ok := askHibernate(l, s)
		if !ok { // its account is read again, and then it ends
			s.setEnding(hookFailed)
			ref := s.stream
			l.Loop.Post(func() { l.Enter(func() { sessionStreamEnded(l, s, ref, hookFailed, 0) }) })
			return
		}
		if kept && a.hibernate(l, s) {
			return
		}
	}
	a.removeSession(l, s)
}

// askHibernate asks whether a module keeps s; ok: none has panicked.
func askHibernate(l *LoopRouter, s *Session) (kept, ok bool) {
	ok = runHook(l, s, func() {
		links := s.account.host.Profile().Hooks.Hibernate.hooks
		kept = slices.ContainsFunc(links, func(h hook[func(*LoopRouter, *Session) Verdict]) bool {
			return h.f(l, s) == Done
		})
	})
	return kept && ok, ok
}

// hibernate leaves s without a stream: what is sent to it is held back, within limits. The Rested hooks run
// after it. false: it was decided meanwhile that s ends.
func (a *Account) hibernate(l *LoopRouter, s *Session) bool {
	s.endSources(l, StreamEnded)
	if !s.setWire(&hibernatingWire{s.wire.Loop(), s}, StreamRef{}) {
		return false
	}
	if !runHook(l, s, func() { runSessions(&a.host.Profile().Hooks.Hibernated, l, s) }) {
		s.close(ErrInternal, hookFailed) // it might rest for ever
	}
	return true
}

// removeSession takes s, which has ended, out of the account: hooks are given what it had not sent, and the
// Unbound hooks run while it is still in the list. Messages and iqs that no hook has taken over are
// routed again, as to a resource that is not there. A panic in a hook does not keep s in the list.
func (a *Account) removeSession(l *LoopRouter, s *Session) {
	why, _ := s.endedBy()
	row := endingTable[why]
	list := s.takeUnsent()
	if row.bounces {
		for _, h := range list {
			bounce(l, a, h, stanza.ServiceUnavailable)
		}
		list = nil
	}
	if a.warm() && a.resident.exists { // an account that was deleted has nothing for hooks to look at
		list = runUnsent(l, s, list)
		runHook(l, s, func() { runSessions(&a.host.Profile().Hooks.Unbound, l, s) })
	}
	if i := a.sessionIndex(s); i >= 0 {
		a.sessions = append(a.sessions[:i:i], a.sessions[i+1:]...)
	}
	out := s.lockOutbox()
	s.wire, s.stream = nil, StreamRef{}
	out.unlock()
	l.stats.Unbound++
	l.stats.Ended[why]++
	if row.limit != "" {
		l.stats.Limits[row.limit]++
	}
	a.lastUsed = l.Loop.Tick()
	s.endSources(l, SessionEnded)
	if late := s.takeUnsent(); !row.bounces { // what its hooks have said to it
		list = append(list, late...)
	}
	a.mailbox().pushFront(l, list)
}

// runUnsent runs the Unsent hooks of s, and returns what none has taken over. One that panics has taken
// over nothing.
func runUnsent(l *LoopRouter, s *Session, list []queuedElement) (left []queuedElement) {
	hooks := s.account.host.Profile().Hooks.Unsent.hooks
	if len(list) == 0 || len(hooks) == 0 {
		return list
	}
	unsent := make([]OutboundStanza, len(list))
	for i, h := range list {
		unsent[i] = OutboundStanza{Bytes: h.bytes, Kind: h.kind, From: h.from, To: h.to}
	}
	for i := range hooks {
		runHook(l, s, func() { unsent = hooks[i].f(l, s, slices.Clone(unsent)) })
	}
	for _, p := range unsent {
		left = append(left, queuedElement{bytes: p.Bytes, from: p.From, to: p.To, kind: p.Kind})
	}
	return left
}

// ExpireSession ends s, which a module had kept at rest. Under the account's lock.
func (a *Account) ExpireSession(l *LoopRouter, s *Session) { a.endSession(l, s, expired) }

// displaceHibernating ends the session that has rested and was bound before all others that rest, to make
// room; false: none does.
func (a *Account) displaceHibernating(l *LoopRouter) bool {
	for _, s := range a.sessions {
		if s.hibernating() {
			a.endSession(l, s, displaced)
			return true
		}
	}
	return false
}

// endSessions ends all sessions of a, at once, or, where its resident set could not be read, when that
// can be.
func (a *Account) endSessions(l *LoopRouter, err error, why Ending, read bool) {
	for _, s := range slices.Clone(a.sessions) {
		s.close(err, why)
		if read {
			a.endSession(l, s, why)
		}
	}
}

// endDeleted ends the sessions of an account that was deleted. What they hold back is for no one else of that
// name.
func (a *Account) endDeleted(l *LoopRouter) { a.endSessions(l, ErrNotAuthorized, deleted, true) }

// Close has the session removed from its account, which has no stream whose end would do it. Why it ends
// was said before; where it was not, it has expired. Any goroutine.
func (r *hibernatingWire) Close(error) {
	r.l.Loop.Post(func() { r.l.Enter(func() { sessionStreamEnded(r.l, r.s, StreamRef{}, expired, 0) }) })
}

// Errors of Bind.
var (
	ErrResourceConflict = errors.New("session: the resource is in use")
	ErrResourceLimit    = errors.New("session: the account has as many resources as it may")
)

// Bind makes the Session of st. Of two with one resource the older is ended with the stream error
// conflict, and its unavailable presence sent, before the newer is in the list, unless keepOlder, which
// makes it ErrResourceConflict. Where the account has as many resources as it may, one that rests gives
// way. Hooks run when Ready is called.
func (a *Account) Bind(st Negotiation, full jid.JID, keepOlder bool) (*Session, error) {
	l := st.loop
	if old := a.Resource(full); old != nil {
		if keepOlder {
			return nil, ErrResourceConflict
		}
		old.close(ErrConflict, superseded)
		a.endSession(l, old, superseded)
	}
	if lim := l.router.hostLimits(a.host).ResourcesPerAccount; lim > 0 && len(a.sessions) >= lim &&
		!a.displaceHibernating(l) {
		return nil, ErrResourceLimit
	}
	s := &Session{account: a, jid: full, traits: st.traits | HasResource}
	s.stream = st.ref()
	s.wire = st.transport
	return s, nil
}

// AddSession puts s, made by Bind, into the list and runs the Bound hooks; st is bound from now on. What
// must reach the client before any stanza is sent in between.
func (a *Account) AddSession(st Negotiation, s *Session) {
	a.sessions = append(a.sessions, s)
	st.sess, st.negotiation = s, nil
	st.traits |= HasResource
	st.setDeadline(deadlineLogin, 0)
	st.loop.stats.Bound++
	runSessions(&a.host.Profile().Hooks.Bound, st.loop, s)
}

// Attach hangs the stream of w under s, a session that rests or whose stream is superseded, which has its
// traits from then on, and sends what was held back (resumption, XEP-0198 §5), behind what the Resumed
// hooks send and pull. false: s has ended, or is about to: its client has logged out, or it is to end
// although a stream takes it over.
func (a *Account) Attach(l *LoopRouter, s *Session, w Wire, ref StreamRef, traits Traits) bool {
	if _, over := s.endedBy(); over || a.sessionIndex(s) < 0 {
		return false
	}
	if old := s.wire; !s.hibernating() && old != w {
		old.Close(ErrConflict)
	}
	s.endSources(l, StreamEnded)
	s.traits = traits | HasResource
	if !s.setWire(w, ref) {
		return false
	}
	if !runHook(l, s, func() { runSessions(&a.host.Profile().Hooks.Resumed, l, s) }) {
		s.close(ErrInternal, hookFailed) // it has not all that it needs
		return true
	}
	out := s.lockOutbox()
	if s.outbox != nil {
		out.requestDrain() // and then it gets what was held back
	}
	out.unlock()
	return true
}

// setWire gives s another wire: what has ended its former stream is over. false: s itself has ended, see
// [Session.Close], and keeps what it has. Under the account's lock.
func (s *Session) setWire(w Wire, ref StreamRef) (ok bool) {
	out := s.lockOutbox()
	defer out.unlock()
	if s.ending != notEnded && !endingTable[s.ending].rests {
		return false
	}
	s.wire, s.stream, s.ending = w, ref, notEnded
	if s.outbox != nil {
		s.outbox.blocked, s.outbox.drainsPending, s.outbox.sentSinceDrain = false, 0, 0
		out.releaseIfEmpty()
	}
	return true
}

// Resume hangs st under s, as Attach does, and makes st a bound stream; false: Attach said so.
func (a *Account) Resume(st Negotiation, s *Session) bool {
	if !a.Attach(st.loop, s, st.transport, st.ref(), st.traits) {
		return false
	}
	st.sess, st.negotiation = s, nil
	st.traits |= HasResource
	st.setDeadline(deadlineLogin, 0)
	return true
}

// Kick ends all sessions of an account with a stream error, from any goroutine. A stream that has logged
// in and not bound is closed when it binds.
func (r *Router) Kick(bare jid.JID, reason error) {
	r.Table.revoke(bare)
	a, ok := r.Table.LookupAccount(bare)
	if !ok {
		return // it has no session: an account with one is in memory
	}
	l := r.homeLoop(bare)
	l.Loop.Post(func() {
		l.Enter(func() {
			l.WithAccount(a.host, bare, func(l *LoopRouter, a *Account, exists bool, err error) {
				if a != nil {
					a.endSessions(l, reason, kicked, err == nil)
				}
			})
		})
	})
}

// Close ends st with a stream error, or with no more than the end tag if err is nil. Its client has not
// logged out: its session may rest. Closing twice is closing once.
func (st *Stream) Close(err error) { st.endStream(err, endingOf(err)) }

// endStream ends st by why.
func (st *Stream) endStream(err error, why Ending) {
	st.loop.Loop.AssertOwned()
	if st.state == Closing {
		return
	}
	countClose(st.loop, err)
	if st.bits&bitHeader == 0 {
		// RFC 6120 §4.9.1.2: an error before our header is sent after one.
		st.openHeader()
	}
	st.state, st.ending = Closing, why
	if st.sess != nil {
		st.sess.streamClosing(st.ref(), why)
	}
	st.transport.Close(err)
}

// countClose counts the stream error that ends a stream.
func countClose(l *LoopRouter, err error) {
	if se, ok := err.(*StreamError); ok {
		c := se.Condition
		if _, ok := streamErrorConditions[c]; !ok {
			c = "undefined-condition"
		}
		l.stats.StreamErrors[c]++
		if se == errSlowReader {
			l.stats.Limits["outbox"]++
		}
	}
}

// openHeader sends our stream header.
func (st *Stream) openHeader() {
	var from jid.JID
	if st.host != nil {
		from = st.host.JID
	}
	id := ""
	if st.loop.router.StreamID != nil {
		id = st.loop.router.StreamID()
	}
	st.bits |= bitHeader
	var to jid.JID
	if st.negotiation != nil {
		to = st.negotiation.claimedFrom
	}
	st.transport.Open(from, to, id, "en")
}
