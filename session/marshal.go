package session

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"canto/session/jid"
	"canto/session/stanza"
)

// What an entity has in memory and not in the store (an account's sessions, a room's occupants) can be
// written down, and taken up by another kernel on the same store: a later start, or another version of
// the program. Modules' flags and slots stand there by name and version, never by the numbers that they
// have in this process.

// marshalVersion is the first byte of an entity that was written down.
const marshalVersion = 1

// MarshalEntities writes down what the entities in memory have that is not stored, and calls put with
// each, under no lock; b is put's to keep. Sessions that have a stream are detached. It reports how many
// entities are left, as something waits for them or is under way from them, or as a session of theirs has
// ended and is not removed yet: with any left, what was put is of no use, and a later call puts all. On
// l's loop, under no lock; it takes the lock of each entity in turn.
func (l *LoopRouter) MarshalEntities(put func(b []byte)) (left int) {
	for i := range shards {
		for _, e := range l.router.Table.Entities(i, nil) {
			b, ok := marshalLocked(e, l)
			if !ok {
				left++
			} else if b != nil {
				put(b)
			}
		}
	}
	return left
}

// marshalLocked is marshalEntity under the lock of e. A panic in a function of a module leaves that entity.
func marshalLocked(e *Entity, l *LoopRouter) (b []byte, ok bool) {
	defer l.recoverPanic(newPanicFrame(l, e.addr, nil))
	e.lock(l)
	b, ok = marshalEntity(e, l)
	e.unlock(l)
	return b, ok
}

// marshalEntity is what e has that is not stored; nil: nothing. false: not yet. Under the lock.
func marshalEntity(e *Entity, l *LoopRouter) (b []byte, ok bool) {
	a := e.account()
	switch {
	case e.resident == evictedMark:
		return nil, true
	case hasPending(e):
		return nil, false
	case a != nil && len(a.sessions) == 0, a == nil && (e.live == nil || !e.exists()):
		return nil, true
	case a != nil && !hibernateAll(a, l):
		return nil, false
	}
	b = append(b, marshalVersion)
	b = appendString(b, e.kind.String())
	b = appendString(b, e.addr.String())
	b = binary.AppendUvarint(b, e.id)
	if a == nil {
		if h := e.handler(); h != nil && h.MarshalLive != nil {
			b = h.MarshalLive(e, b)
		}
		return b, true
	}
	b = binary.AppendUvarint(b, uint64(len(a.sessions)))
	for _, s := range a.sessions {
		b = marshalSession(s, b)
	}
	return b, true
}

// hibernateAll leaves the sessions of a without streams; false: one of them has ended, or its hooks have
// begun something that is still under way. Under the lock.
func hibernateAll(a *Account, l *LoopRouter) bool {
	ended := func(s *Session) bool {
		why, _ := s.endedBy()
		return why != notEnded
	}
	if slices.ContainsFunc(a.sessions, ended) {
		return false
	}
	for _, s := range slices.Clone(a.sessions) {
		if s.Connected() && !a.hibernate(l, s) {
			return false
		}
	}
	return !slices.ContainsFunc(a.sessions, ended) && !hasPending(&a.Entity)
}

// hasPending reports whether something waits for e, or is under way from it. Under the lock.
func hasPending(e *Entity) bool {
	return e.directLoop != 0 || e.pins != 0 || e.pending != nil && !e.pending.empty()
}

// marshalSession appends s. Under the account's lock.
func marshalSession(s *Session, b []byte) []byte {
	b = appendString(b, s.jid.Resource())
	b = append(b, byte(s.priority), byte(s.traits))
	if s.presence == nil {
		b = append(b, 0)
	} else {
		b = appendString(append(b, 1), string(s.presence))
	}
	registry.Lock()
	flags, slots, codecs := slices.Clone(registry.flags), slices.Clone(registry.slots),
		slices.Clone(registry.codecs)
	registry.Unlock()
	n := 0
	var list []byte
	for i, name := range flags {
		if Flag(i).Is(s) {
			list = appendString(list, name)
			n++
		}
	}
	b = append(binary.AppendUvarint(b, uint64(n)), list...)
	n, list = 0, nil
	for at := s.vars; at != nil; at = at.next {
		if c := codecs[at.id]; c.append != nil {
			list = append(appendString(list, slots[at.id]), c.version)
			list = appendString(list, string(c.append(nil, at.v)))
			n++
		}
	}
	b = append(binary.AppendUvarint(b, uint64(n)), list...)
	defer s.lockOutbox().unlock()
	var held []queuedElement
	if s.outbox != nil {
		held = append(append(held, s.outbox.queue...), s.outbox.deferred...)
	}
	b = binary.AppendUvarint(b, uint64(len(held)))
	for _, h := range held {
		b = append(b, byte(h.kind))
		b = appendString(appendString(appendString(b, h.from.String()), h.to.String()), string(h.bytes))
	}
	return b
}

// RestoreEntity takes over what Carry of another kernel has written down, and calls done with what is
// wrong with it, or nil: an entity of a domain that is not served, or that is gone from the store, or a
// module that panics. Sessions rest until [Account.Resume]. On l's loop, under no lock; done may be
// called later, under the entity's.
func (l *LoopRouter) RestoreEntity(b []byte, done func(err error)) {
	r := &unmarshaler{b: b}
	if v := r.byte(); v != marshalVersion && r.err == nil {
		r.err = fmt.Errorf("%w: version %d, and %d is the latest known here", errUnmarshal, v, marshalVersion)
	}
	kind, addr, id := kindByName(r.string()), r.jid(r.string()), r.uvarint()
	h, ok := l.router.Table.Host(domainOf(addr))
	if r.err == nil && (!ok || kind == 0 || h.service == (kind == KindAccount)) {
		r.err = fmt.Errorf("%w: neither the domain nor the kind of %s is served", errUnmarshal, addr)
	}
	if r.err != nil {
		done(r.err)
		return
	}
	l.WithEntity(h, addr, func(l *LoopRouter, e *Entity, err error) {
		switch {
		case err != nil:
		case e == nil || e.exists() && (e.id != id || e.kind != kind) || !e.exists() &&
			(id != 0 || kind == KindAccount):
			err = fmt.Errorf("%w: %s is gone", errUnmarshal, addr)
		default:
			err = restoreEntity(e, l, kind, r)
		}
		done(err)
	})
}

// restoreEntity takes over what r has of e, of that kind; a panic in a function of a module is its error.
// What is in memory only is not kept if it can't be taken over. Under the lock.
func restoreEntity(e *Entity, l *LoopRouter, kind KindID, r *unmarshaler) (err error) {
	made := !e.exists()
	defer func() {
		if err != nil && made {
			e.makeAbsent()
		}
	}()
	err = fmt.Errorf("%w: a module has panicked", errUnmarshal) // unless this returns
	defer l.recoverLocked(e)
	if kind == KindAccount {
		return e.account().restoreSessions(l, r)
	}
	if made {
		e.become(l, kind)
	}
	if b := e.handler(); b != nil && b.RestoreLive != nil {
		return b.RestoreLive(l, e, r.b)
	}
	return nil
}

// restoreSessions makes the sessions that r has, which rest. Under the lock.
func (a *Account) restoreSessions(l *LoopRouter, r *unmarshaler) (err error) {
	var list []*Session
	for n := r.uvarint(); n > 0 && r.err == nil; n-- {
		s := &Session{account: a}
		if err := restoreSession(s, l, r); err != nil {
			return err
		}
		if a.Resource(s.jid) == nil {
			list = append(list, s)
		}
	}
	if r.err != nil {
		return r.err
	}
	for _, s := range list {
		a.sessions = append(a.sessions, s)
		l.stats.Bound++
		if !runHook(l, s, func() { runSessions(&a.host.Profile().Hooks.Hibernated, l, s) }) {
			s.close(ErrInternal, hookFailed) // it might rest for ever
			err = fmt.Errorf("%w: a module has panicked at %s", errUnmarshal, s.jid)
		}
	}
	return err
}

func restoreSession(s *Session, l *LoopRouter, r *unmarshaler) (err error) {
	if s.jid, err = s.account.addr.WithResource(r.string()); err != nil {
		return err
	}
	s.priority, s.traits = int8(r.byte()), Traits(r.byte())
	if r.byte() == 1 {
		s.presence = []byte(r.string())
	}
	registry.Lock()
	flags, slots, codecs := slices.Clone(registry.flags), slices.Clone(registry.slots),
		slices.Clone(registry.codecs)
	registry.Unlock()
	for n := r.uvarint(); n > 0 && r.err == nil; n-- {
		if i := slices.Index(flags, r.string()); i >= 0 { // else its module is not there any more
			Flag(i).Set(s, true)
		}
	}
	for n := r.uvarint(); n > 0 && r.err == nil; n-- {
		name, version, b := r.string(), r.byte(), r.string()
		i := slices.Index(slots, name)
		if i < 0 || codecs[i].read == nil {
			continue
		}
		v, err := codecs[i].read(version, []byte(b))
		if err != nil {
			l.Log.Error("the state of a module in a session can't be read", "jid", s.jid.String(), "state", name,
				"err", err)
			continue
		}
		s.vars = &varNode{id: uint16(i), v: v, next: s.vars}
	}
	s.wire = &hibernatingWire{l, s}
	for n := r.uvarint(); n > 0 && r.err == nil; n-- {
		h := queuedElement{kind: stanza.Kind(r.byte()), from: r.jid(r.string()), to: r.jid(r.string()),
			bytes: []byte(r.string())}
		o := Outbox{s}.ensure() // no other goroutine knows s yet
		o.queue = append(o.queue, h)
		o.queuedBytes += len(h.bytes)
	}
	return r.err
}

var errUnmarshal = errors.New("session: what was written down can't be taken up")

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// An unmarshaler reads what was written down; after the first error it reads nothing.
type unmarshaler struct {
	b   []byte
	err error
}

func (r *unmarshaler) fail() { r.err, r.b = fmt.Errorf("%w: cut short", errUnmarshal), nil }

func (r *unmarshaler) byte() byte {
	if len(r.b) == 0 {
		r.fail()
		return 0
	}
	v := r.b[0]
	r.b = r.b[1:]
	return v
}

func (r *unmarshaler) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.fail()
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *unmarshaler) string() string {
	n := r.uvarint()
	if n > uint64(len(r.b)) {
		r.fail()
		return ""
	}
	v := string(r.b[:n])
	r.b = r.b[n:]
	return v
}

// jid reads an address; an empty one is none.
func (r *unmarshaler) jid(s string) jid.JID {
	if s == "" {
		return jid.JID{}
	}
	j, err := jid.Parse(s)
	if err != nil && r.err == nil {
		r.err = fmt.Errorf("%w: %w", errUnmarshal, err)
	}
	return j
}
