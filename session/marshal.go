package session

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"canto/reactor"
	"canto/session/jid"
	"canto/session/stanza"
	"canto/session/stanzaid"
)

// This file marshals what entities have in memory and not in the store (the sessions of an account, the
// occupants of a room), and restores it in another kernel on the same store: a later start, or another
// version of the program. Flags and variables of modules are marshaled by name and version, as their
// numbers differ from process to process.

// marshalVersion is the first byte of a marshaled entity.
const marshalVersion = 4

// MarshalEntities marshals what the entities in memory have that is not stored, and calls put with the
// bytes of each, which put may keep. Sessions with a stream lose it and hibernate. It returns how many
// entities could not be marshaled, because something is pending for them or from them, or because one of
// their sessions has ended and is not removed yet. If that is not 0 the bytes put so far are useless:
// call it again later, which marshals all entities anew. On the loop of l, under no lock; it takes the
// lock of each entity in turn, and calls put without it.
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

// marshalLocked is marshalEntity under the lock of e. If a function of a module panics the entity counts
// as not marshaled.
func marshalLocked(e *Entity, l *LoopRouter) (b []byte, ok bool) {
	defer l.recoverPanic(newPanicFrame(l, e.addr, nil))
	e.lock(l)
	b, ok = marshalEntity(e, l)
	e.unlock(l)
	return b, ok
}

// marshalEntity returns the bytes of what e has in memory only; nil if that is nothing. False: e can't be
// marshaled yet. The form: version, kind, address, id; then the sessions of an account, or what
// [EntityHandler.MarshalLive] appends. Under the lock of e.
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
		b = marshalOutbox(s, marshalSession(s, b), true)
	}
	return b, true
}

// hibernateAll takes the streams from the sessions of a. False: a session has ended and is not removed
// yet, or the hooks have begun something that is pending. Under a's lock.
func hibernateAll(a *Account, l *LoopRouter) bool {
	ended := func(s *Session) bool {
		why, _ := s.endedBy()
		return why != notEnded
	}
	if slices.ContainsFunc(a.sessions, ended) {
		return false
	}
	for _, s := range slices.Clone(a.sessions) {
		if s.Connected() && !a.hibernate(l, s) || unsettled(s) {
			return false
		}
	}
	return !slices.ContainsFunc(a.sessions, ended) && !hasPending(&a.Entity)
}

// hasPending reports whether stanzas wait for e, or are in flight from it. Under the lock of e.
func hasPending(e *Entity) bool {
	return e.directLoop != 0 || e.pins != 0 || e.pending != nil && !e.pending.empty()
}

// marshalSession appends s to b, but for its outbox: resource, priority, traits, presence, flags and
// variables. Variables without a codec are left out. Under the account's lock.
func marshalSession(s *Session, b []byte) []byte {
	b = appendString(b, s.jid.Resource())
	b = append(b, byte(s.priority), byte(s.traits))
	if s.presence == nil {
		b = append(b, 0)
	} else {
		b = appendString(append(b, 1), string(s.presence))
	}
	registry.Lock()
	flags, vars, codecs := slices.Clone(registry.flags), slices.Clone(registry.sessionVars),
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
			list = append(appendString(list, vars[at.id]), c.version)
			list = appendString(list, string(c.append(nil, at.v)))
			n++
		}
	}
	b = append(binary.AppendUvarint(b, uint64(n)), list...)
	return b
}

// marshalOutbox appends the outbox of s to b: the elements that wait in it, those of the queue only if
// withQueue is set, and what was sent and is not acknowledged. Under the account's lock; it takes the outbox
// lock.
func marshalOutbox(s *Session, b []byte, withQueue bool) []byte {
	defer s.lockOutbox().unlock()
	if s.outbox == nil {
		return append(b, 0, 0)
	}
	o, n, list := s.outbox, 0, []byte(nil)
	if withQueue {
		for i := range o.queue {
			list = o.queue[i].marshal(list)
		}
		n = len(o.queue)
	}
	for i := range o.deferred {
		if h := &o.deferred[i]; h.bytes != nil {
			list = h.marshal(list)
			n++
		}
	}
	b = append(binary.AppendUvarint(b, uint64(n)), list...)
	return o.managed.marshal(b)
}

// marshal appends h to b. Under the account's lock, which guards its count.
func (h *queuedElement) marshal(b []byte) []byte {
	b = append(b, byte(h.kind))
	b = appendString(appendString(appendString(b, h.from.String()), h.to.String()), string(h.bytes))
	b = append(binary.AppendUvarint(b, uint64(h.number)), h.bits())
	b = binary.AppendUvarint(binary.AppendUvarint(b, uint64(h.copyFrom)), uint64(h.copyTo))
	if h.deliveries == nil {
		return append(b, 0)
	}
	return binary.AppendUvarint(b, uint64(h.deliveries.n))
}

// bits returns the flags of h as the bits of a byte.
func (h *queuedElement) bits() (b byte) {
	for i, set := range []bool{h.archived, h.kept, h.ordered} {
		if set {
			b |= 1 << i
		}
	}
	return b
}

// setBits sets the flags that bits has returned.
func (h *queuedElement) setBits(b byte) { h.archived, h.kept, h.ordered = b&1 != 0, b&2 != 0, b&4 != 0 }

// unmarshal reads what marshal has written.
func (h *queuedElement) unmarshal(r *unmarshaler, counts restoredCounts) {
	*h = queuedElement{kind: stanza.Kind(r.byte()), from: r.jid(r.string()), to: r.jid(r.string()),
		bytes: []byte(r.string()), number: stanzaid.ID(r.uvarint())}
	h.setBits(r.byte())
	h.copyFrom, h.copyTo = int32(r.uvarint()), int32(r.uvarint())
	if h.copyFrom < 0 || h.copyFrom > h.copyTo || int(h.copyTo) > len(h.bytes) {
		r.fail()
	}
	h.deliveries = counts.get(h.number, r.uvarint())
}

// restoredCounts are the counts of the messages that several restored sessions of one account have got. The
// key is the number of the message.
type restoredCounts map[stanzaid.ID]*restoredCount

// A restoredCount is the count of one message, and how many restored sessions have it.
type restoredCount struct {
	*deliveryCount
	holders int
}

// get returns the count of the message number, of which n sessions had taken it when it was marshaled; nil if
// n is 0. The sessions may have been marshaled at different times: the smallest n counts.
func (m restoredCounts) get(number stanzaid.ID, n uint64) *deliveryCount {
	if n == 0 || n > maxRestoredCount || number == 0 {
		return nil
	}
	c := m[number]
	if c == nil {
		c = &restoredCount{deliveryCount: newDeliveryCount()}
		c.n = int(n)
		m[number] = c
	}
	c.holders++
	c.n = max(min(c.n, int(n)), c.holders)
	return c.deliveryCount
}

// maxRestoredCount bounds what is read as a count: an account has fewer sessions.
const maxRestoredCount = 1 << 20

// RestoreEntity restores an entity that [LoopRouter.MarshalEntities] of another kernel has marshaled. It
// calls done with an error if the bytes are damaged or of a later version, if the domain or the kind is
// not served, if the entity is no longer in the store, or if a module panics; else with nil. Restored
// sessions hibernate until [Account.Resume]. On the loop of l, under no lock. done may be called at once
// or later; it runs under the lock of the entity, but not for damaged bytes and domains that are not served.
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

// restoreEntity restores e, of that kind, from r. A panic in a function of a module becomes an error. An
// entity that was in memory only ends if it can't be restored. Under the lock of e.
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

// restoreSessions restores the sessions in r, which hibernate. One whose resource is bound by now is
// dropped; one that was restored from the store is replaced. It adds all of them, or none if r is damaged.
// Under a's lock.
func (a *Account) restoreSessions(l *LoopRouter, r *unmarshaler) (err error) {
	var list []*Session
	counts := make(restoredCounts)
	for n := r.uvarint(); n > 0 && r.err == nil; n-- {
		s := &Session{account: a}
		if err := errors.Join(restoreSession(s, l, r), restoreOutbox(s, r, counts)); err != nil {
			return err
		}
		switch old := a.Resource(s.jid); {
		case old != nil && old.hibernating():
			forgetSession(l, old)
		case old != nil:
			continue
		}
		list = append(list, s)
	}
	if r.err != nil {
		return r.err
	}
	for _, s := range list {
		err = errors.Join(err, a.addRestored(l, s))
	}
	return err
}

// addRestored adds s, which was restored and hibernates, to a. Under a's lock.
func (a *Account) addRestored(l *LoopRouter, s *Session) error {
	a.sessions = append(a.sessions, s)
	l.stats.Bound++
	if !runHook(l, s, func() { runSessions(&a.host.Profile().Hooks.Hibernated, l, s) }) {
		s.close(ErrInternal, hookFailed) // without the hook no module would ever end it
		return fmt.Errorf("%w: a module has panicked at %s", errUnmarshal, s.jid)
	}
	return nil
}

// restoreSession reads one session from r into s, in the order in which marshalSession has written it:
// resource, priority, traits, presence; flags; variables. It hibernates, so its wire takes nothing. A flag or
// variable that this program does not have is skipped; a variable that can't be read is logged and skipped.
func restoreSession(s *Session, l *LoopRouter, r *unmarshaler) (err error) {
	if s.jid, err = s.account.addr.WithResource(r.string()); err != nil {
		return err
	}
	s.priority, s.traits = int8(r.byte()), Traits(r.byte())
	if r.byte() == 1 {
		s.presence = []byte(r.string())
	}
	registry.Lock()
	flags, vars, codecs := slices.Clone(registry.flags), slices.Clone(registry.sessionVars),
		slices.Clone(registry.codecs)
	registry.Unlock()
	for n := r.uvarint(); n > 0 && r.err == nil; n-- {
		if i := slices.Index(flags, r.string()); i >= 0 { // else this program has no such flag
			Flag(i).Set(s, true)
		}
	}
	tail := &s.vars
	for n := r.uvarint(); n > 0 && r.err == nil; n-- {
		name, version, b := r.string(), r.byte(), r.string()
		i := slices.Index(vars, name)
		if i < 0 || codecs[i].read == nil {
			continue
		}
		v, err := codecs[i].read(version, []byte(b))
		if err != nil {
			l.Log.Error("the state of a module in a session can't be read", "jid", s.jid.String(), "state", name,
				"err", err)
			continue
		}
		*tail = &varNode{id: uint16(i), v: v}
		tail = &(*tail).next
	}
	s.wire = &hibernatingWire{l, s}
	return r.err
}

// restoreOutbox reads what marshalOutbox has written. No other goroutine has s yet.
func restoreOutbox(s *Session, r *unmarshaler, counts restoredCounts) error {
	for n := r.uvarint(); n > 0 && r.err == nil; n-- {
		var h queuedElement
		h.unmarshal(r, counts)
		o := Outbox{s}.ensure()
		o.queue = append(o.queue, h)
		o.queuedBytes += len(h.bytes)
	}
	if m := unmarshalManagement(r, counts); m != nil && r.err == nil {
		m.terms.Owner = s.account.id
		Outbox{s}.ensure().managed = m
	}
	return r.err
}

// errUnmarshal is wrapped by all errors of a restore.
var errUnmarshal = errors.New("session: a marshaled entity can't be restored")

// appendString appends the length of s as a uvarint, and s.
func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// An unmarshaler reads a marshaled entity. After the first error all its reads return zero.
type unmarshaler struct {
	b   []byte
	err error
}

// fail sets the error of an input that is too short.
func (r *unmarshaler) fail() { r.err, r.b = fmt.Errorf("%w: cut short", errUnmarshal), nil }

// byte reads one byte.
func (r *unmarshaler) byte() byte {
	if len(r.b) == 0 {
		r.fail()
		return 0
	}
	v := r.b[0]
	r.b = r.b[1:]
	return v
}

// uvarint reads a uvarint.
func (r *unmarshaler) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.fail()
		return 0
	}
	r.b = r.b[n:]
	return v
}

// string reads a string with its length.
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

// jid parses an address; the empty string is the zero JID.
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

// marshal appends m to b, as part of its session: whether there is one; its terms, counts, the log, and the
// counts of deliveries of its entries. Under the account's lock and the outbox lock.
func (m *management) marshal(b []byte) []byte {
	if m == nil {
		return append(b, 0)
	}
	b = appendString(append(b, 1), string(m.terms.Request))
	b = binary.AppendUvarint(appendString(b, m.terms.ID), uint64(m.terms.Keep))
	for _, n := range []uint32{m.sent, m.acked, m.handled, m.hibernations} {
		b = binary.AppendUvarint(b, uint64(n))
	}
	if m.overflowed {
		return append(b, 1)
	}
	b = appendString(append(b, 0), string(m.log[m.head:]))
	for _, c := range m.counts {
		b = binary.AppendUvarint(b, uint64(c.n))
	}
	return b
}

// unmarshalManagement reads what marshal has written; nil if there is none, or if it is damaged.
func unmarshalManagement(r *unmarshaler, counts restoredCounts) *management {
	if r.byte() == 0 || r.err != nil {
		return nil
	}
	m := &management{terms: &Terms{Request: []byte(r.string()), ID: r.string(), Keep: reactor.Tick(r.uvarint())}}
	for _, n := range []*uint32{&m.sent, &m.acked, &m.handled, &m.hibernations} {
		*n = uint32(r.uvarint())
	}
	if m.overflowed = r.byte() == 1; m.overflowed {
		return m
	}
	log := []byte(r.string())
	entries := uint32(0)
	var shared [][]byte
	for b := log; len(b) > 0; entries++ {
		n := logHeader
		if len(b) >= logHeader {
			n += int(binary.LittleEndian.Uint32(b))
		}
		if n > len(b) || n < logHeader || b[5]&logCopy != 0 && !validCopy(b[logHeader:n]) {
			r.fail()
			return nil
		}
		if b[5]&logShared != 0 {
			shared = append(shared, b[:n])
		}
		b = b[n:]
	}
	if entries != m.sent-m.acked {
		r.fail()
		return nil
	}
	for _, b := range shared {
		if c := counts.get(stanzaid.ID(binary.LittleEndian.Uint64(b[6:])), r.uvarint()); c != nil {
			c.refs.Add(1)
			m.counts = append(m.counts, c)
		} else {
			b[5] &^= logShared
		}
	}
	if len(log) > 0 {
		m.log = append(logs.Get(len(log)), log...)
	}
	return m
}

// validCopy reports whether the bounds before the bytes of a copy are within them.
func validCopy(b []byte) bool {
	if len(b) < 8 {
		return false
	}
	from, to := binary.LittleEndian.Uint32(b), binary.LittleEndian.Uint32(b[4:])
	return from <= to && uint64(to) <= uint64(len(b)-8)
}
