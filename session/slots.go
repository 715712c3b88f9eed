package session

import (
	"fmt"
	"strings"
	"sync"
)

// Flags are the booleans of all modules, one bit each.
type Flags uint64

// A Flag is one module's bit in the [Flags] of every session, taken once at start-up.
type Flag uint8

var names struct {
	sync.Mutex
	flags, slots, outSlots, hostSlots, parts, kinds []string
	codecs                                          []slotCodec // by slot
}

// NewFlag takes a bit. It is for package variables, and panics beyond 64 with the list of owners.
// The name of a Flag that exists already gives that Flag.
func NewFlag(name string) Flag {
	names.Lock()
	defer names.Unlock()
	for i, n := range names.flags {
		if n == name {
			return Flag(i)
		}
	}
	if len(names.flags) == 64 {
		panic("session: no Flag left for " + name + "; taken by " + strings.Join(names.flags, ", "))
	}
	names.flags = append(names.flags, name)
	return Flag(len(names.flags) - 1)
}

// Is reports the flag of s. Under the lock.
func (f Flag) Is(s *Session) bool { return s.flags&(1<<f) != 0 }

// Set sets the flag of s. Under the lock.
func (f Flag) Set(s *Session, on bool) {
	if on {
		s.flags |= 1 << f
	} else {
		s.flags &^= 1 << f
	}
}

type slot struct {
	id   uint16
	v    any
	next *slot
}

// A Slot is one module's state in a session: mostly absent, typed where it is present. It is for
// what few sessions have.
type Slot[T any] struct{ id uint16 }

// NewSlot makes a Slot, for a package variable. c writes the state down and reads it back when the
// session moves to another kernel; nil: it is lost then.
func NewSlot[T any](name string, c *Codec[T]) Slot[T] {
	k := Slot[T]{id: register(&names.slots, name)}
	var e slotCodec
	if c != nil {
		e = slotCodec{c.Version, func(dst []byte, v any) []byte { return c.Append(dst, v.(*T)) },
			func(version uint8, b []byte) (any, error) { return c.Read(version, b) }}
	}
	names.Lock()
	defer names.Unlock()
	for len(names.codecs) <= int(k.id) {
		names.codecs = append(names.codecs, slotCodec{})
	}
	names.codecs[k.id] = e
	return k
}

func register(list *[]string, name string) uint16 {
	names.Lock()
	defer names.Unlock()
	if len(*list) == 1<<16-1 {
		panic(fmt.Sprintf("session: no slot left for %s", name))
	}
	*list = append(*list, name)
	return uint16(len(*list) - 1)
}

// Get is the state in s, nil if there is none. Under the lock.
func (k Slot[T]) Get(s *Session) *T { return slotOf[T](s.slots, k.id) }

// Set puts v into s; nil takes it out. Under the lock.
func (k Slot[T]) Set(s *Session, v *T) { setSlot(&s.slots, k.id, v) }

// slotOf is the T of that id in a list, nil if there is none.
func slotOf[T any](list *slot, id uint16) *T {
	for n := list; n != nil; n = n.next {
		if n.id == id {
			return n.v.(*T)
		}
	}
	return nil
}

// setSlot puts v into a list; nil takes it out.
func setSlot[T any](at **slot, id uint16, v *T) {
	for *at != nil && (*at).id != id {
		at = &(*at).next
	}
	switch {
	case v == nil && *at != nil:
		*at = (*at).next
	case v != nil && *at != nil:
		(*at).v = v
	case v != nil:
		*at = &slot{id: id, v: v}
	}
}

// A HostSlot is one module's state for a host, made by the first Get, and kept when the profile
// changes. The T guards itself.
type HostSlot[T any] struct {
	id    uint16
	fresh func(h *Host) *T
}

// NewHostSlot makes a HostSlot, for a package variable. fresh makes the state of one host.
func NewHostSlot[T any](name string, fresh func(h *Host) *T) HostSlot[T] {
	return HostSlot[T]{register(&names.hostSlots, name), fresh}
}

var hostSlotMu sync.Mutex

// Get is the state of h. Any goroutine; the first call for a host takes a lock and allocates.
func (k HostSlot[T]) Get(h *Host) *T {
	if s := h.slots.Load(); s != nil && int(k.id) < len(*s) && (*s)[k.id] != nil {
		return (*s)[k.id].(*T)
	}
	hostSlotMu.Lock()
	defer hostSlotMu.Unlock()
	var old []any
	if s := h.slots.Load(); s != nil {
		old = *s
		if int(k.id) < len(old) && old[k.id] != nil {
			return old[k.id].(*T)
		}
	}
	list := make([]any, max(len(old), int(k.id)+1))
	copy(list, old)
	v := k.fresh(h)
	list[k.id] = v
	h.slots.Store(&list)
	return v
}

// A Codec writes the state of a [Slot] down and reads it back.
type Codec[T any] struct {
	Version uint8 // of what Append writes; grows when that changes
	Append  func(dst []byte, v *T) []byte
	Read    func(version uint8, b []byte) (*T, error)
}

// slotCodec is a Codec of a slot of any type.
type slotCodec struct {
	version uint8
	append  func(dst []byte, v any) []byte
	read    func(version uint8, b []byte) (any, error)
}
