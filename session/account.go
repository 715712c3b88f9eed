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
// which makes it ErrResourceConflict. Hooks run when Ready is called.
func (a *Account) Bind(st *Stream, full jid.JID, keepOlder bool) (*Session, error) {
	l := st.loop
	if old := a.Resource(full); old != nil {
		if keepOlder {
			return nil, ErrResourceConflict
		}
		old.Close(ErrConflict)
		a.Unbind(l, old)
	}
	if lim := l.router.hostLimits(a.host).ResourcesPerAccount; lim > 0 && len(a.sessions) >= lim {
		return nil, ErrResourceLimit
	}
	s := &Session{account: a, jid: full, traits: st.traits | HasResource}
	s.stream = st.ref()
	s.wire = st.wire
	return s, nil
}

// Ready puts s, made by Bind, into the list and runs the Bound hooks; st is bound from now on. What
// must reach the client before any stanza is sent in between.
func (a *Account) Ready(st *Stream, s *Session) {
	a.sessions = append(a.sessions, s)
	st.sess, st.deal = s, nil
	st.traits |= HasResource
	st.arm(dueLogin, 0)
	st.loop.stats.Bound++
	runSessions(&a.host.Profile().Hooks.Bound, st.loop, s)
}

// Unbind ends s: the Unbound hooks run while it is still in the list, then it is taken out. Messages and iqs that it
// held back are routed again, as to a resource that is not there. It may be called twice. A panic in a hook
// does not keep s in the list.
func (a *Account) Unbind(l *Local, s *Session) {
	if a.index(s) < 0 {
		return
	}
	if a.warm() && a.resident.exists { // an account that was deleted has nothing for hooks to look at
		l.unbound(a, s)
	}
	if i := a.index(s); i >= 0 {
		a.sessions = append(a.sessions[:i:i], a.sessions[i+1:]...)
	}
	s.lockOut()
	s.ended, s.wire, s.stream = true, nil, StreamRef{}
	s.unlockOut()
	l.stats.Unbound++
	a.used = l.Loop.Tick()
	a.first(l, s.emptied(l, SessionEnded))
}

// unbound runs the Unbound hooks of s. After a panic what is in memory of a is read again.
func (l *Local) unbound(a *Account, s *Session) {
	f := l.frame(s.jid, nil)
	f.held = l.held
	defer l.boundary(f)
	runSessions(&a.host.Profile().Hooks.Unbound, l, s)
}

func (a *Account) index(s *Session) int {
	for i := range a.sessions {
		if a.sessions[i] == s {
			return i
		}
	}
	return -1
}

// Attach hangs the stream of w under s, a session that rests or whose stream is superseded, and
// sends what was held back (resumption, XEP-0198 §5), behind what the Resumed hooks send and pull. false: s has ended as it rested
// for longer than it could keep what it was sent, and is about to be unbound.
func (a *Account) Attach(l *Local, s *Session, w Wire, ref StreamRef) bool {
	if s.rests() && s.Ended() {
		return false
	}
	if old := s.wire; !s.rests() && old != w {
		old.Close(ErrConflict)
	}
	l.endSources(s, StreamEnded)
	s.hang(w, ref)
	runSessions(&a.host.Profile().Hooks.Resumed, l, s)
	s.lockOut()
	if s.out != nil {
		s.askDrain() // and then it gets what was held back
	}
	s.unlockOut()
	return true
}

// hang gives s another wire. Under the account's lock.
func (s *Session) hang(w Wire, ref StreamRef) {
	s.lockOut()
	defer s.unlockOut()
	s.wire, s.stream, s.ended = w, ref, false
	if s.out != nil {
		s.out.clogged, s.out.asks, s.out.given = false, 0, 0
		s.unbox()
	}
}

// Detach leaves s resting: what is sent to it is held back, within limits. The Rested hooks run
// after it.
func (a *Account) Detach(l *Local, s *Session) {
	l.endSources(s, StreamEnded)
	s.hang(&resting{s.wire.Loop(), s}, StreamRef{})
	runSessions(&a.host.Profile().Hooks.Rested, l, s)
}

// Adopt hangs st under s, as Attach does, and makes st a bound stream; false: Attach said so.
func (a *Account) Adopt(st *Stream, s *Session) bool {
	if !a.Attach(st.loop, s, st.wire, st.ref()) {
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
func (s *Session) streamOn(l *Local) *Stream {
	w, ok := s.wire.(interface{ Stream() *Stream })
	if !ok {
		return nil
	}
	if st := w.Stream(); st != nil && st.loop == l && st.bits&bitGone == 0 {
		return st
	}
	return nil
}
