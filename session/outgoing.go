package session

import (
	"canto/session/jid"
	"canto/session/stanza"
)

// An OutFunc is asked about each element that a session is sent, under the outbox lock: Done, and p goes no further,
// as it was dropped, or kept by [Outbox.Hold]; Pass, and it leaves behind what o was given meanwhile. It may not route,
// send or lock, and p is good until it returns. What it is told of, a delivery of a [Source] included, allocates
// nothing.
type OutFunc func(o Outbox, p Parcel) Verdict

// An Outbox is what a hook may do with the outbox of a session. Good until the hook returns.
type Outbox struct{ s *Session }

// Outbox runs f with the outbox of s, under its lock: for a module that changes there what it has in an [OutSlot]. Any
// goroutine, the account's lock held or not.
func (s *Session) Outbox(f func(o Outbox)) {
	out := s.lockOut()
	defer out.unlock()
	f(out)
	out.unbox()
}

// Append sends p before what the hook was asked about, past the hooks. It reports whether the session took it: see
// [Session.Send].
func (out Outbox) Append(p Parcel) (ok bool) { return out.takes() && out.put(p) }

// Hold keeps a copy of p until [Outbox.Flush]; false: it can't be held back, as it is from a [Source], which would
// be told that it was taken, or there is no room: 1 MiB and 1,000 elements. If the session ends before, stanzas of
// others are routed again.
func (out Outbox) Hold(p Parcel) (ok bool) {
	b := out.box()
	if p.pulled || len(b.kept) >= heldCount || len(b.kept) > 0 && b.weight+len(p.Bytes) > heldBytes {
		return false
	}
	b.kept = append(b.kept, p.keep())
	b.weight += len(p.Bytes)
	return true
}

// Flush sends what was held back, in order, past the hooks.
func (out Outbox) Flush() {
	b := out.s.out
	if b == nil {
		return
	}
	list := b.kept
	b.kept, b.weight = nil, 0
	for _, h := range list {
		if !out.Append(Parcel{Bytes: h.bytes, Kind: h.kind, From: h.from, To: h.to}) {
			return // it ends
		}
	}
}

// Forget drops what is held back and old says so of: presence that a newer one replaces.
func (out Outbox) Forget(old func(kind stanza.Kind, from jid.JID) bool) {
	b := out.s.out
	if b == nil {
		return
	}
	rest := b.kept[:0]
	for _, h := range b.kept {
		if old(h.kind, h.from) {
			b.weight -= len(h.bytes)
			continue
		}
		rest = append(rest, h)
	}
	clear(b.kept[len(rest):])
	b.kept = rest
}

// An OutSlot is one module's state in an outbox, under the outbox lock: what its OutFunc has to know. It is for
// what few sessions have, and is lost when the session ends.
type OutSlot[T any] struct{ id uint16 }

// NewOutSlot makes an OutSlot, for a package variable.
func NewOutSlot[T any](name string) OutSlot[T] { return OutSlot[T]{register(&names.outSlots, name)} }

// Get is the state in o, nil if there is none.
func (k OutSlot[T]) Get(out Outbox) *T {
	if out.s.out == nil {
		return nil
	}
	return slotOf[T](out.s.out.values, k.id)
}

// Set puts v into o; nil takes it out.
func (k OutSlot[T]) Set(out Outbox, v *T) {
	if v != nil || out.s.out != nil {
		setSlot(&out.box().values, k.id, v)
	}
}
