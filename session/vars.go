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

var registry struct {
	sync.Mutex
	flags, slots, outSlots, hostSlots, parts, kinds []string
	codecs                                          []varCodec // by slot
}

// NewFlag takes a bit. It is for package variables, and panics beyond 64 with the list of owners.
// The name of a Flag that exists already gives that Flag.
func NewFlag(name string) Flag {
	registry.Lock()
	defer registry.Unlock()
	for i, n := range registry.flags {
		if n == name {
			return Flag(i)
		}
	}
	if len(registry.flags) == 64 {
		panic("session: no Flag left for " + name + "; taken by " + strings.Join(registry.flags, ", "))
	}
	registry.flags = append(registry.flags, name)
	return Flag(len(registry.flags) - 1)
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

type varNode struct {
	id   uint16
	v    any
	next *varNode
}

// SessionVar is one module's state in a session: mostly absent, typed where it is present. It is for
// what few sessions have.
type SessionVar[T any] struct{ id uint16 }

// NewSessionVar makes a Slot, for a package variable. c writes the state down and reads it back when the
// session moves to another kernel; nil: it is lost then.
func NewSessionVar[T any](name string, c *Codec[T]) SessionVar[T] {
	k := SessionVar[T]{id: registerName(&registry.slots, name)}
	var e varCodec
	if c != nil {
		e = varCodec{c.Version, func(dst []byte, v any) []byte { return c.AppendMarshal(dst, v.(*T)) },
			func(version uint8, b []byte) (any, error) { return c.Unmarshal(version, b) }}
	}
	registry.Lock()
	defer registry.Unlock()
	for len(registry.codecs) <= int(k.id) {
		registry.codecs = append(registry.codecs, varCodec{})
	}
	registry.codecs[k.id] = e
	return k
}

func registerName(list *[]string, name string) uint16 {
	registry.Lock()
	defer registry.Unlock()
	if len(*list) == 1<<16-1 {
		panic(fmt.Sprintf("session: no slot left for %s", name))
	}
	*list = append(*list, name)
	return uint16(len(*list) - 1)
}

// Get is the state in s, nil if there is none. Under the lock.
func (k SessionVar[T]) Get(s *Session) *T { return varOf[T](s.vars, k.id) }

// Set puts v into s; nil takes it out. Under the lock.
func (k SessionVar[T]) Set(s *Session, v *T) { setVar(&s.vars, k.id, v) }

// varOf is the T of that id in a list, nil if there is none.
func varOf[T any](list *varNode, id uint16) *T {
	for n := list; n != nil; n = n.next {
		if n.id == id {
			return n.v.(*T)
		}
	}
	return nil
}

// setVar puts v into a list; nil takes it out.
func setVar[T any](at **varNode, id uint16, v *T) {
	for *at != nil && (*at).id != id {
		at = &(*at).next
	}
	switch {
	case v == nil && *at != nil:
		*at = (*at).next
	case v != nil && *at != nil:
		(*at).v = v
	case v != nil:
		*at = &varNode{id: id, v: v}
	}
}

// A HostVar is one module's state for a host, made by the first Get, and kept when the profile
// changes. The T guards itself.
type HostVar[T any] struct {
	id       uint16
	newValue func(h *Host) *T
}

// NewHostVar makes a HostVar, for a package variable. fresh makes the state of one host.
func NewHostVar[T any](name string, fresh func(h *Host) *T) HostVar[T] {
	return HostVar[T]{registerName(&registry.hostSlots, name), fresh}
}

var hostVarMu sync.Mutex

// Get is the state of h. Any goroutine; the first call for a host takes a lock and allocates.
func (k HostVar[T]) Get(h *Host) *T {
	if s := h.vars.Load(); s != nil && int(k.id) < len(*s) && (*s)[k.id] != nil {
		return (*s)[k.id].(*T)
	}
	hostVarMu.Lock()
	defer hostVarMu.Unlock()
	var old []any
	if s := h.vars.Load(); s != nil {
		old = *s
		if int(k.id) < len(old) && old[k.id] != nil {
			return old[k.id].(*T)
		}
	}
	list := make([]any, max(len(old), int(k.id)+1))
	copy(list, old)
	v := k.newValue(h)
	list[k.id] = v
	h.vars.Store(&list)
	return v
}

// A Codec writes the state of a [SessionVar] down and reads it back.
type Codec[T any] struct {
	Version       uint8 // of what Append writes; grows when that changes
	AppendMarshal func(dst []byte, v *T) []byte
	Unmarshal     func(version uint8, b []byte) (*T, error)
}

// varCodec is a Codec of a slot of any type.
type varCodec struct {
	version uint8
	append  func(dst []byte, v any) []byte
	read    func(version uint8, b []byte) (any, error)
}
