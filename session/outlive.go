package session

import (
	"errors"
	"fmt"
	"slices"

	"canto/reactor"
)

// This file is the kernel's part of sessions that outlive the process, or the time of their account in
// memory: a module keeps what they have in the store (Hooks.Persist), and restores them when their account is
// loaded (Hooks.Loaded).

// MarshalSession returns what s, which hibernates, has in memory only: state is what it is, sent is what its
// client has not acknowledged, with deferred presence. The queue is apart: see [MarshalQueue]. Under the
// account's lock; it takes the outbox lock.
func MarshalSession(s *Session) (state, sent []byte) {
	return MarshalState(s), marshalOutbox(s, nil, false)
}

// MarshalState is MarshalSession without sent. Under the account's lock.
func MarshalState(s *Session) []byte { return marshalSession(s, []byte{marshalVersion}) }

// SharedCounts tells two states of the counts apart that say how many sessions of the account have each
// message in the outbox of s. Under the account's lock; it takes the outbox lock.
func SharedCounts(s *Session) (sum uint64) {
	defer s.lockOutbox().unlock()
	if s.outbox == nil {
		return 0
	}
	for _, h := range s.outbox.queue {
		if h.deliveries != nil {
			sum = sum*31 + uint64(h.deliveries.n)
		}
	}
	if m := s.outbox.managed; m != nil {
		for _, c := range m.counts {
			sum = sum*31 + uint64(c.n)
		}
	}
	return sum
}

// MarshalQueue calls put for each element in the queue of s, which hibernates, from the one with that index
// on. put may keep el. It returns the length of the queue; while s hibernates, that grows and the elements
// stay. Under the account's lock; it takes the outbox lock, under which put runs.
func MarshalQueue(s *Session, from int, put func(i int, el []byte)) (n int) {
	defer s.lockOutbox().unlock()
	if s.outbox == nil {
		return 0
	}
	for i := from; i < len(s.outbox.queue); i++ {
		put(i, s.outbox.queue[i].marshal(nil))
	}
	return len(s.outbox.queue)
}

// A StoredSession is one session as a module has it in the store.
type StoredSession struct {
	State []byte   // what MarshalSession has returned first
	Sent  []byte   // what it has returned second
	Queue [][]byte // the elements of MarshalQueue
}

// RestoreSessions restores sessions that the store has: they hibernate. It calls add for each before its
// Hibernated hooks run. An error says why the session with that index is not restored, and s is nil then: the
// bytes are damaged or of a later version, or its resource is bound. Under a's lock, on the loop of l.
func (a *Account) RestoreSessions(l *LoopRouter, list []StoredSession,
	add func(i int, s *Session, err error)) {
	counts := make(restoredCounts)
	sessions := make([]*Session, len(list))
	for i, stored := range list {
		s := &Session{account: a}
		if err := restoreStored(s, l, stored, counts); err != nil {
			add(i, nil, err)
			continue
		}
		sessions[i] = s
	}
	for i, s := range sessions {
		switch {
		case s == nil:
		case a.Resource(s.jid) != nil:
			add(i, nil, fmt.Errorf("%w: the resource of %s is bound", errUnmarshal, s.jid))
		default:
			add(i, s, nil)
			if err := a.addRestored(l, s); err != nil {
				l.Log.Error("a session is restored and ends", "jid", s.jid.String(), "err", err)
			}
		}
	}
}

// StoredResource returns the resource of a session that MarshalSession has marshaled; false if the bytes are
// damaged.
func StoredResource(b []byte) (resource string, ok bool) {
	r := &unmarshaler{b: b}
	r.byte()
	resource = r.string()
	return resource, r.err == nil
}

// restoreStored reads s from stored.
func restoreStored(s *Session, l *LoopRouter, stored StoredSession, counts restoredCounts) error {
	r := &unmarshaler{b: stored.State}
	if v := r.byte(); v != marshalVersion && r.err == nil {
		return fmt.Errorf("%w: version %d, and %d is the latest known here", errUnmarshal, v, marshalVersion)
	}
	err := errors.Join(restoreSession(s, l, r), restoreOutbox(s, &unmarshaler{b: stored.Sent}, counts))
	if err != nil {
		return err
	}
	o := Outbox{s}.ensure() // no other goroutine has s yet
	o.deferred, o.deferredBytes, o.queue, o.queuedBytes = o.queue, o.queuedBytes, nil, 0
	for _, b := range stored.Queue {
		r := &unmarshaler{b: b}
		var h queuedElement
		if h.unmarshal(r, counts); r.err != nil {
			return r.err
		}
		o.queue = append(o.queue, h)
		o.queuedBytes += len(h.bytes)
	}
	return nil
}

// WhenHandled calls then, under the account's lock, when everything that the streams of s have accepted is
// settled, if s hibernates then: at once, or later on the loop of l. A shutdown waits for it. Under the
// account's lock, on the loop of l.
func WhenHandled(l *LoopRouter, s *Session, then func(l *LoopRouter, a *Account)) {
	out := s.lockOutbox()
	var at *LoopRouter
	var id uint64
	if m := out.management(); m != nil {
		at, id = m.windowLoop, m.window
	}
	out.unlock()
	if at == nil {
		then(l, s.account)
		return
	}
	l.loads++
	host, bare := s.account.host, s.account.addr
	back := func() {
		l.Loop.Post(func() {
			l.Enter(func() {
				l.loads--
				l.WithAccount(host, bare, func(l *LoopRouter, a *Account, exists bool, err error) {
					if a == s.account && exists && err == nil && a.sessionIndex(s) >= 0 && s.hibernating() {
						then(l, a)
					}
				})
			})
		})
	}
	at.Loop.Post(func() {
		at.Enter(func() {
			if d := at.ackWindows[id]; d != nil {
				d.waiters = append(d.waiters, back)
				return
			}
			back()
		})
	})
}

// Stop makes the sessions that hibernate outlive the process, because it is about to stop; those that no
// module keeps in the store end: what they have not been sent is stored. From now on a session ends with its
// stream, unless a module keeps it in the store. Call it before the reactor is shut down, which waits for
// what Stop has begun. Any goroutine.
func (r *Router) Stop() {
	r.stopping.Store(true)
	for _, l := range r.loopRouters {
		l.Loop.Post(func() { l.Enter(func() { persistHibernating(l) }) })
	}
}

// persistHibernating makes the hibernating sessions outlive the process, or ends them: of the accounts whose
// home loop is that of l. On the loop of l.
func persistHibernating(l *LoopRouter) {
	for i := range shards {
		for _, e := range l.router.Table.Entities(i, nil) {
			a := e.account()
			if a == nil || l.router.homeLoop(e.addr) != l {
				continue
			}
			e.lock(l)
			found := slices.ContainsFunc(a.sessions, (*Session).hibernating)
			e.unlock(l)
			if !found {
				continue
			}
			l.WithAccount(e.host, e.addr, func(l *LoopRouter, a *Account, _ bool, _ error) {
				if a == nil {
					return
				}
				for _, s := range slices.Clone(a.sessions) {
					if s.hibernating() && !persist(l, s) {
						a.endSession(l, s, shutdown)
					}
				}
			})
		}
	}
}

// Busy reports whether stanzas on loop wait for entities that are being read, or sessions for what they have
// accepted: a shutdown waits for them, after the connections have closed. When they have come, it makes the
// sessions durable as they are then. On the loop.
func (r *Router) Busy(loop *reactor.Loop) bool {
	l := r.LoopRouter(loop)
	if l.loads == 0 && r.stopping.Load() && !l.persisted {
		l.persisted = true
		l.Enter(func() { persistHibernating(l) })
	}
	return l.loads > 0
}
