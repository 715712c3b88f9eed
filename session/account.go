package session

import (
	"errors"

	"canto/session/jid"
)

// An Account is the entity behind a bare JID of ours. It is in the Table while it has a session, an
// inbox or a warm resident set. All methods: under the lock.
type Account struct {
	Entity
	sessions []*Session // connected and resting
}

// Resources are the account's sessions, in the order they were bound. Good while the lock is held;
// not to be changed.
func (a *Account) Resources() []*Session { return a.sessions }

// Resource is the session with this full JID, nil if there is none.
func (a *Account) Resource(full jid.JID) *Session {
	for _, s := range a.sessions {
		if s.jid == full {
			return s
		}
	}
	return nil
}

// Errors of Bind.
var (
	ErrResourceConflict = errors.New("session: the resource is in use")
	ErrResourceLimit    = errors.New("session: the account has as many resources as it may")
)

// Bind makes the Session of st. Of two with one resource the older is ended with the stream error
// conflict, and its unavailable presence sent, before the newer is in the list, unless keepOlder,
// which makes it ErrResourceConflict. Where the account has as many resources as it may, one that rests gives way.
// Hooks run when Ready is called.
func (a *Account) Bind(st Negotiation, full jid.JID, keepOlder bool) (*Session, error) {
	l := st.loop
	if old := a.Resource(full); old != nil {
		if keepOlder {
			return nil, ErrResourceConflict
		}
		old.close(ErrConflict, superseded)
		a.end(l, old, superseded)
	}
	if lim := l.router.hostLimits(a.host).ResourcesPerAccount; lim > 0 && len(a.sessions) >= lim && !a.displace(l) {
		return nil, ErrResourceLimit
	}
	s := &Session{account: a, jid: full, traits: st.traits | HasResource}
	s.stream = st.ref()
	s.wire = st.wire
	return s, nil
}

// Ready puts s, made by Bind, into the list and runs the Bound hooks; st is bound from now on. What
// must reach the client before any stanza is sent in between.
func (a *Account) Ready(st Negotiation, s *Session) {
	a.sessions = append(a.sessions, s)
	st.sess, st.deal = s, nil
	st.traits |= HasResource
	st.arm(dueLogin, 0)
	st.loop.stats.Bound++
	runSessions(&a.host.Profile().Hooks.Bound, st.loop, s)
}

func (a *Account) index(s *Session) int {
	for i := range a.sessions {
		if a.sessions[i] == s {
			return i
		}
	}
	return -1
}

// Attach hangs the stream of w under s, a session that rests or whose stream is superseded, which has its traits
// from then on, and sends what was held back (resumption, XEP-0198 §5), behind what the Resumed hooks send and
// pull. false: s has ended, or is about to: its client has logged out, or it is to end although a stream takes it
// over.
func (a *Account) Attach(l *Local, s *Session, w Wire, ref StreamRef, traits Traits) bool {
	if _, over := s.endedBy(); over || a.index(s) < 0 {
		return false
	}
	if old := s.wire; !s.rests() && old != w {
		old.Close(ErrConflict)
	}
	s.endSources(l, StreamEnded)
	s.traits = traits | HasResource
	s.hang(w, ref)
	if !guarded(l, s, func() { runSessions(&a.host.Profile().Hooks.Resumed, l, s) }) {
		s.close(ErrInternal, failed) // it has not all that it needs
		return true
	}
	out := s.lockOut()
	if s.out != nil {
		out.askDrain() // and then it gets what was held back
	}
	out.unlock()
	return true
}

// hang gives s another wire. Under the account's lock.
func (s *Session) hang(w Wire, ref StreamRef) {
	out := s.lockOut()
	defer out.unlock()
	s.wire, s.stream, s.ending = w, ref, goesOn
	if s.out != nil {
		s.out.clogged, s.out.asks, s.out.given = false, 0, 0
		out.unbox()
	}
}

// Adopt hangs st under s, as Attach does, and makes st a bound stream; false: Attach said so.
func (a *Account) Adopt(st Negotiation, s *Session) bool {
	if !a.Attach(st.loop, s, st.wire, st.ref(), st.traits) {
		return false
	}
	st.sess, st.deal = s, nil
	st.traits |= HasResource
	st.arm(dueLogin, 0)
	return true
}

func (st *Stream) ref() StreamRef {
	return StreamRef{Node: st.loop.router.Node, Inc: st.loop.router.Incarnation, ID: st.id}
}

// streamOn is the stream of s, if it is of l's loop and its connection is open. Under the account's lock.
func streamOn(s *Session, l *Local) *Stream {
	w, ok := s.wire.(interface{ Stream() *Stream })
	if !ok {
		return nil
	}
	if st := w.Stream(); st != nil && st.loop == l && st.bits&bitGone == 0 {
		return st
	}
	return nil
}
