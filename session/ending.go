package session

import (
	"errors"
	"slices"

	"canto/reactor"
	"canto/session/jid"
	"canto/session/stanza"
)

// sessionStreamEnded is called when ref, the stream of s, has ended for the reason why, or with a
// zero ref when a hibernating session is to end. The end needs the account's resident set, for
// the contacts that are notified: if the store cannot read it the end is tried again later, at most
// maxUnbindTries times. tries is how often it was tried before. It does nothing if s has another
// stream by now, or was removed. On l's loop, under no lock.
func sessionStreamEnded(l *LoopRouter, s *Session, ref StreamRef, why Ending, tries int) {
	l.WithAccount(s.account.host, s.account.addr, func(l *LoopRouter, a *Account, exists bool, err error) {
		if a == nil || a != s.account || s.stream != ref || a.sessionIndex(s) < 0 {
			return
		}
		if now, _ := s.endedBy(); s.hibernating() && now == notEnded {
			return // it was resumed in the meantime, and hibernates again
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

// endSession decides what the end of a stream, or a decision, means for the session s: by the row
// of its Ending in endingTable, s hibernates if a hook of Hooks.Hibernate keeps it, or it is
// removed. It is the only place that decides, except for accounts that are unreadable for good
// (sessionStreamEnded). It may be called twice. Under the account's lock.
func (a *Account) endSession(l *LoopRouter, s *Session, why Ending) {
	if a.sessionIndex(s) < 0 {
		return
	}
	if endingTable[s.setEnding(why)].mayHibernate && a.mayHibernateNow(l) {
		kept, ok := askHibernate(l, s)
		if !ok { // the panic has invalidated the account: it is loaded first, then s ends
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

// askHibernate runs the Hibernate hooks. kept is true if one of them keeps s; ok is false if one
// has panicked. Under the account's lock.
func askHibernate(l *LoopRouter, s *Session) (kept, ok bool) {
	ok = runHook(l, s, func() {
		links := s.account.host.Profile().Hooks.Hibernate.hooks
		kept = slices.ContainsFunc(links, func(h hook[func(*LoopRouter, *Session) Verdict]) bool {
			return h.f(l, s) == Done
		})
	})
	return kept && ok, ok
}

// hibernate takes the stream from s: what is sent to it is queued from now on, within the bounds
// of its outbox. Then it runs the Hibernated hooks. It returns false if s was ended by a decision
// in the meantime. Under the account's lock.
func (a *Account) hibernate(l *LoopRouter, s *Session) bool {
	s.endSources(l, StreamEnded)
	if !s.setWire(&hibernatingWire{s.wire.Loop(), s}, StreamRef{}) {
		return false
	}
	closeWindow(s, l)
	if !runHook(l, s, func() { runSessions(&a.host.Profile().Hooks.Hibernated, l, s) }) {
		s.close(ErrInternal, hookFailed) // or s might hibernate for ever
	}
	return true
}

// removeSession removes s, which has ended, from its account. Its steps:
//
//   - The unsent elements are taken out of the outbox. If the account was deleted they are
//     answered with an error.
//   - Else the Unsent hooks may take them over, to store them, say. The Unbound hooks run,
//     while s is still in the list: contacts see it leave.
//   - s leaves the list and loses its wire, and the end is counted.
//   - Its sources end.
//   - The messages and iqs that no hook has taken over are routed again, as if the resource
//     did not exist, before newer stanzas.
//
// A panic in a hook does not keep s in the list. Under the account's lock.
func (a *Account) removeSession(l *LoopRouter, s *Session) {
	why, _ := s.endedBy()
	row := endingTable[why]
	list := s.takeUnsent(l)
	if row.bounces {
		for _, h := range list {
			bounce(l, a, h, stanza.ServiceUnavailable)
		}
		list = nil
	}
	if a.warm() && a.resident.exists { // hooks need the resident set
		list = runUnsent(l, s, list)
		runHook(l, s, func() { runSessions(&a.host.Profile().Hooks.Unbound, l, s) })
	}
	if i := a.sessionIndex(s); i >= 0 {
		a.sessions = append(a.sessions[:i:i], a.sessions[i+1:]...)
	}
	out := s.lockOutbox()
	s.wire, s.stream = nil, StreamRef{}
	if s.outbox != nil {
		s.outbox.managed = nil
	}
	out.unlock()
	l.stats.Unbound++
	l.stats.Ended[why]++
	if row.limit != "" {
		l.stats.Limits[row.limit]++
	}
	a.lastUsed = l.Loop.Tick()
	s.endSources(l, SessionEnded)
	if late := s.takeUnsent(l); !row.bounces { // what hooks have sent to it since
		list = append(list, late...)
	}
	a.mailbox().pushFront(l, list)
}

// runUnsent gives the unsent elements of s to the Unsent hooks, one hook after the other, and
// returns those that none has taken over. A hook that panics has taken over nothing.
func runUnsent(l *LoopRouter, s *Session, list []queuedElement) (left []queuedElement) {
	hooks := s.account.host.Profile().Hooks.Unsent.hooks
	if len(list) == 0 || len(hooks) == 0 {
		return list
	}
	unsent := make([]OutboundStanza, len(list))
	for i, h := range list {
		unsent[i] = h.outbound()
	}
	for i := range hooks {
		runHook(l, s, func() { unsent = hooks[i].f(l, s, slices.Clone(unsent)) })
	}
	for _, p := range unsent {
		left = append(left, queuedElement{bytes: p.Bytes, from: p.From, to: p.To, kind: p.Kind,
			number: p.Number, archived: p.Archived})
	}
	return left
}

// ExpireSession ends s, a hibernating session, for the module that has kept it. Under the
// account's lock.
func (a *Account) ExpireSession(l *LoopRouter, s *Session) { a.endSession(l, s, expired) }

// persist reports whether a module makes what s has durable: the store has it, or will have it with the last
// ticket of the account. s hibernates. Under the account's lock.
func persist(l *LoopRouter, s *Session) (kept bool) {
	if why, _ := s.endedBy(); why != notEnded {
		return false
	}
	if unsettled(s) {
		return len(s.account.host.Profile().Hooks.Persist.hooks) > 0 // WhenHandled is about to call a module
	}
	ok := runHook(l, s, func() {
		links := s.account.host.Profile().Hooks.Persist.hooks
		kept = slices.ContainsFunc(links, func(h hook[func(*LoopRouter, *Session) Verdict]) bool {
			return h.f(l, s) == Done
		})
	})
	return kept && ok
}

// sessionsPersist reports whether the store has all that the sessions of a have: none has a stream, and
// nothing of them is uncommitted. Modules write what is not stored yet: then a later call returns true. Under
// a's lock, while it is warm.
func sessionsPersist(l *LoopRouter, a *Account) bool {
	for _, s := range a.sessions {
		if !s.hibernating() || unsettled(s) {
			return false
		}
	}
	if !a.warm() {
		return false
	}
	for _, s := range slices.Clone(a.sessions) {
		if !persist(l, s) {
			return false
		}
	}
	return a.ticket <= l.router.Committer.LastSettled()
}

// forgetSession takes s, which hibernates and which the store has, out of its account. No hook runs, as it
// has not ended. Under the account's lock.
func forgetSession(l *LoopRouter, s *Session) {
	a := s.account
	if i := a.sessionIndex(s); i >= 0 {
		a.sessions = append(a.sessions[:i:i], a.sessions[i+1:]...)
	}
	out := s.lockOutbox()
	defer out.unlock()
	if m := out.management(); m != nil {
		m.releaseCounts(len(m.counts))
		m.release()
	}
	s.wire, s.stream, s.outbox = nil, StreamRef{}, nil
	l.stats.Unbound++
}

// mayHibernateNow reports whether a session of a may hibernate. While the process stops, only one that a
// module keeps in the store may.
func (a *Account) mayHibernateNow(l *LoopRouter) bool {
	return !l.router.stopping.Load() || len(a.host.Profile().Hooks.Persist.hooks) > 0
}

// LoggedOut reports whether the client of s has ended it: it will not resume it. Any goroutine; it takes the
// outbox lock.
func LoggedOut(s *Session) bool {
	why, _ := s.endedBy()
	return why == loggedOut
}

// displaceHibernating ends one hibernating session, the first in the order of binding, to make
// room for a new one. It returns false if there is none. Under the account's lock.
func (a *Account) displaceHibernating(l *LoopRouter) bool {
	for _, s := range a.sessions {
		if s.hibernating() {
			a.endSession(l, s, displaced)
			return true
		}
	}
	return false
}

// endSessions ends all sessions of a, for the reason why, and sends their clients err. read is
// false if the resident set could not be read: then each session ends when its stream has closed
// and the set can be read. Under the account's lock.
func (a *Account) endSessions(l *LoopRouter, err error, why Ending, read bool) {
	for _, s := range slices.Clone(a.sessions) {
		s.close(err, why)
		if read {
			a.endSession(l, s, why)
		}
	}
}

// endDeleted ends the sessions of an account that was deleted. Their unsent stanzas are answered
// with errors: a new account of the same name must not get them. Under the lock.
func (a *Account) endDeleted(l *LoopRouter) { a.endSessions(l, ErrNotAuthorized, deleted, true) }

// Close removes the session from its account, as there is no stream that would do it.
// The reason was noted in Session.ending before; if not, the session has expired. Any goroutine.
func (r *hibernatingWire) Close(error) {
	r.l.Loop.Post(func() { r.l.Enter(func() { sessionStreamEnded(r.l, r.s, StreamRef{}, expired, 0) }) })
}

// Errors of Account.Bind.
var (
	// ErrResourceConflict: another session has the resource, and keeps it.
	ErrResourceConflict = errors.New("session: the resource is in use")
	// ErrResourceLimit: the account has as many sessions as it may, and none of them hibernates.
	ErrResourceLimit = errors.New("session: the account has as many resources as it may")
)

// Bind makes the session of st with the full JID. If another session has the resource that is
// ended first, with the stream error conflict and unavailable presence to its contacts; with
// keepOlder Bind returns ErrResourceConflict instead. If the account has as many sessions as it
// may, a hibernating one is ended, or Bind returns ErrResourceLimit. The new session is in the
// account's list, and hooks run, only after [Account.AddSession]. Under the account's lock, on
// st's loop.
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

// AddSession puts s, which Bind has made, into the account's list, binds st to it, and runs the
// Bound hooks. The result of the bind must be sent to the client between Bind and AddSession,
// because stanzas may follow at once. Under the account's lock, on st's loop.
func (a *Account) AddSession(st Negotiation, s *Session) {
	a.sessions = append(a.sessions, s)
	st.sess, st.negotiation = s, nil
	st.traits |= HasResource
	st.setDeadline(deadlineLogin, 0)
	if isManaged(s) {
		st.Track()
	}
	st.loop.stats.Bound++
	runSessions(&a.host.Profile().Hooks.Bound, st.loop, s)
}

// Attach gives s, which hibernates or has another stream, the wire w of the stream ref
// (resumption, XEP-0198 section 5). The former stream is closed with the error conflict. The
// Resumed hooks run: what they send and pull comes first, then the queue is flushed. It returns
// false if s was removed, or will be: its client has logged out, or a decision has ended it.
// Under the account's lock.
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
		s.close(ErrInternal, hookFailed)
		return true
	}
	out := s.lockOutbox()
	if s.outbox != nil {
		out.requestDrain() // the drain flushes the queue
	}
	out.unlock()
	return true
}

// setWire gives s another wire and stream, and clears the end of the former stream. It returns
// false, and changes nothing, if s is to end although it has a new stream: by a decision, or
// because its client has logged out. Under the account's lock.
func (s *Session) setWire(w Wire, ref StreamRef) (ok bool) {
	out := s.lockOutbox()
	defer out.unlock()
	if s.ending != notEnded && !endingTable[s.ending].mayHibernate {
		return false
	}
	s.wire, s.stream, s.ending = w, ref, notEnded
	if m := out.management(); m != nil && ref == (StreamRef{}) {
		m.hibernations++
		m.requested = false
	}
	if s.outbox != nil {
		s.outbox.blocked, s.outbox.drainsPending, s.outbox.sentSinceDrain = false, 0, 0
		out.releaseIfEmpty()
	}
	return true
}

// Resume attaches st to s, as [Account.Attach] does, and makes st a bound stream. It returns
// false if Attach does. Under the account's lock, on st's loop.
func (a *Account) Resume(st Negotiation, s *Session) bool {
	if !a.Attach(st.loop, s, st.transport, st.ref(), st.traits) {
		return false
	}
	st.sess, st.negotiation = s, nil
	st.traits |= HasResource
	st.setDeadline(deadlineLogin, 0)
	if isManaged(s) {
		st.Track()
	}
	return true
}

// Kick ends all sessions of an account, with the stream error reason. A stream that has logged in
// but not bound is closed when it binds, because the revocation epoch has changed. Any goroutine;
// the sessions end later, on the account's home loop.
func (r *Router) Kick(bare jid.JID, reason error) {
	r.kick(bare, reason, func(*Session) bool { return true })
}

// kick ends the sessions of an account for which which returns true. An account that is not in memory is
// loaded, as the store may have sessions.
func (r *Router) kick(bare jid.JID, reason error, which func(s *Session) bool) {
	r.Table.revoke(bare)
	host, ok := r.Table.Host(bare.Domain())
	if a, in := r.Table.LookupAccount(bare); in {
		host = a.host // it may have been removed
	} else if !ok {
		return
	}
	l := r.homeLoop(bare)
	l.Loop.Post(func() {
		l.Enter(func() {
			l.WithAccount(host, bare, func(l *LoopRouter, a *Account, _ bool, err error) {
				if a == nil {
					return
				}
				for _, s := range slices.Clone(a.sessions) {
					if !which(s) {
						continue
					}
					s.close(reason, kicked)
					if err == nil { // else the session ends when its stream has closed
						a.endSession(l, s, kicked)
					}
				}
			})
		})
	})
}

// Close ends st: the peer is sent the stream error err, or only the end tag if err is nil. As the
// client has not logged out, its session may hibernate. Further calls do nothing. On the stream's
// loop.
func (st *Stream) Close(err error) { st.endStream(err, endingOf(err)) }

// Shutdown ends st because the process stops: the peer is sent system-shutdown. A client that may resume its
// session with the next process is sent nothing, and its connection is closed: many clients give up a session
// of which the server has ended the stream. On the stream's loop.
func Shutdown(st *Stream) {
	if st.sess != nil && mayOutlive(st.sess) {
		st.endStream(errResumable, shutdown)
		return
	}
	st.Close(errSystemShutdown)
}

// errResumable is why a connection is closed without an error and without the end of its stream.
var errResumable = errors.New("session: the process stops, and the client may resume its session")

// mayOutlive reports whether a module may keep s in the store when its stream has ended.
func mayOutlive(s *Session) bool {
	out := s.lockOutbox()
	defer out.unlock()
	m := out.management()
	return m != nil && m.terms.ID != "" && !m.overflowed && out.s.ending == notEnded &&
		len(s.account.host.Profile().Hooks.Persist.hooks) > 0
}

// endStream is Close with the reason why. It notes the reason in the session, and closes the
// transport; the rest is done when the connection has closed ([Stream.OnClosed]).
func (st *Stream) endStream(err error, why Ending) {
	st.loop.Loop.AssertOwned()
	if st.state == Closing {
		return
	}
	countClose(st.loop, err)
	if st.bits&bitHeader == 0 {
		// RFC 6120 section 4.9.1.2: a stream error needs a header before it.
		st.openHeader()
	}
	st.state, st.ending = Closing, why
	if st.sess != nil {
		st.sess.streamClosing(st.ref(), why)
	}
	st.transport.Close(err)
}

// countClose counts err, if it is a stream error, by its condition.
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
