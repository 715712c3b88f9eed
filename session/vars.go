package session

import (
	"fmt"
	"strings"
	"sync"
)

// This file has what modules keep in sessions and hosts: a [Flag] is a bit in every session, a
// [SessionVar] a value that few sessions have, a [HostVar] a value of each host. An [OutboxVar] is in
// outbox.go, a [Part] of an entity in resident.go. All are numbered once, for the life of the process, by
// package variables.

// Flags are the flags of one session: a bit for each [Flag].
type Flags uint64

// A Flag is a boolean that a module has in every session: the number of a bit of [Flags].
type Flag uint8

// registry has the names of everything that is numbered for the process; the index is the number.
var registry struct {
	// guards the lists; they are read at start, and never on a hot path
	sync.Mutex
	flags, sessionVars, outboxVars, hostVars, parts, kinds []string
	codecs                                                 []varCodec // by session variable
}

// NewFlag returns the flag called name, and registers it if it is new. It is meant for package variables; any
// goroutine may call it. It panics if 64 flags are taken, with their names.
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

// Is reports whether the flag is set in s. Under the account's lock.
func (f Flag) Is(s *Session) bool { return s.flags&(1<<f) != 0 }

// Set sets or clears the flag in s. Under the account's lock.
func (f Flag) Set(s *Session, on bool) {
	if on {
		s.flags |= 1 << f
	} else {
		s.flags &^= 1 << f
	}
}

// A varNode is a value in a list of values: a session has few, and most sessions none.
type varNode struct {
	id   uint16 // of the variable
	v    any    // a *T
	next *varNode
}

// A SessionVar is a value that a module keeps in sessions. It costs a session nothing while it is not
// set: use it for values that few sessions have.
type SessionVar[T any] struct{ id uint16 }

// NewSessionVar registers a session variable, for a package variable. c marshals the value when the
// session moves to another kernel; nil: the value is lost then. Any goroutine.
func NewSessionVar[T any](name string, c *Codec[T]) SessionVar[T] {
	k := SessionVar[T]{id: registerName(&registry.sessionVars, name)}
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

// registerName appends name to a list of the registry and returns its number. It panics beyond 65,535.
func registerName(list *[]string, name string) uint16 {
	registry.Lock()
	defer registry.Unlock()
	if len(*list) == 1<<16-1 {
		panic(fmt.Sprintf("session: no number left for %s", name))
	}
	*list = append(*list, name)
	return uint16(len(*list) - 1)
}

// Get returns the value in s, or nil. Under the account's lock.
func (k SessionVar[T]) Get(s *Session) *T { return varOf[T](s.vars, k.id) }

// Set stores v in s; nil takes the value out. Under the account's lock.
func (k SessionVar[T]) Set(s *Session, v *T) { setVar(&s.vars, k.id, v) }

// varOf is the value of the variable id in a list, or nil.
func varOf[T any](list *varNode, id uint16) *T {
	for n := list; n != nil; n = n.next {
		if n.id == id {
			return n.v.(*T)
		}
	}
	return nil
}

// setVar stores v as the value of the variable id in a list; nil takes the value out.
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

// A HostVar is a value that a module keeps for each host. The first Get makes it; it stays when a reload
// changes the profile. Many goroutines use the T at once, so it has to be safe for that.
type HostVar[T any] struct {
	id       uint16
	newValue func(h *Host) *T
}

// NewHostVar registers a host variable, for a package variable. newValue makes the value of one host, under a
// lock of all host variables: it must not call Get. Any goroutine.
func NewHostVar[T any](name string, newValue func(h *Host) *T) HostVar[T] {
	return HostVar[T]{registerName(&registry.hostVars, name), newValue}
}

// hostVarMu serializes the making of values of host variables.
var hostVarMu sync.Mutex

// Get returns the value of h. The first call for a host makes it, which takes a lock and allocates. Any
// goroutine.
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

// A Codec marshals the value of a [SessionVar], and unmarshals it in another kernel.
type Codec[T any] struct {
	// Version is the version of the form that AppendMarshal writes. Raise it when the form changes.
	Version uint8
	// AppendMarshal appends v to dst. Under the account's lock.
	AppendMarshal func(dst []byte, v *T) []byte
	// Unmarshal reads a value of any version up to Version; b is not kept. An error loses the
	// value, which is logged; the session is restored without it.
	Unmarshal func(version uint8, b []byte) (*T, error)
}

// A varCodec is a [Codec] without its type. Its functions are nil where the variable has no codec.
type varCodec struct {
	version uint8
	append  func(dst []byte, v any) []byte
	read    func(version uint8, b []byte) (any, error)
}
