package session

import (
	"sync"

	"canto/session/jid"
	"canto/xmlstream"
)

// A Session is a resource, and outlives connections. It lives in its Account's list; everything is
// under the account's lock unless a comment says otherwise. It knows its stream by wire and ref
// only, never its loop, socket or TLS.
type Session struct {
	account  *Account  // never changes
	jid      jid.JID   // full; never changes
	presence []byte    // last broadcast presence, as it was sent; nil if unavailable
	slots    *slot     // modules' own state, a list; nil for most
	flags    Flags     // modules' booleans
	stream   StreamRef // which one it has; zero: resting
	wire     Wire      // that stream's. Both written under both locks, read under either
	out      *out      // outbox lock
	mu       sync.Mutex
	priority int8
	traits   Traits
	catching bool // outbox lock: offline messages go first; live messages queue behind them
	ended    bool // outbox lock: takes nothing any more
}

// out is what an outbox needs besides the wire's bytes: what waits while the session rests or
// catches up. Nil while nothing waits.
type out struct {
	held  []byte // elements, one after the other, Streamed
	count int
}

// What a resting or catching session may hold back.
const (
	heldBytes = 1 << 20
	heldCount = 1000
)

// Account is whose resource s is. Any goroutine.
func (s *Session) Account() *Account { return s.account }

// JID is the full JID. Any goroutine.
func (s *Session) JID() jid.JID { return s.jid }

// Host is the account's. Any goroutine.
func (s *Session) Host() *Host { return s.account.host }

// Traits are those of the stream it was bound on.
func (s *Session) Traits() Traits { return s.traits }

// Presence is the last broadcast presence as the client sent it, and its priority; nil if
// unavailable. The bytes are never changed: a new presence is a new slice.
func (s *Session) Presence() (p []byte, priority int8) { return s.presence, s.priority }

// SetPresence keeps p, which is never changed from now on, as the last broadcast presence; nil: unavailable.
func (s *Session) SetPresence(p []byte, priority int8) { s.presence, s.priority = p, priority }

// Connected reports whether s is a connected resource (RFC 6120 §7): bound, with a stream.
func (s *Session) Connected() bool { return s.stream.ID != 0 }

// Available reports whether s is an available resource (RFC 6121 §4.2.1). Every one is connected, or
// rests.
func (s *Session) Available() bool { return s.presence != nil }

// Interested reports whether s is an interested resource (RFC 6121 §2.2): it asked for the roster.
func (s *Session) Interested() bool { return interested.Is(s) }

// SetInterested makes s an interested resource.
func (s *Session) SetInterested() { interested.Set(s, true) }

var interested = NewFlag("interested")

// A Parcel is one element on its way out; its bytes are copied.
type Parcel struct {
	Bytes []byte
	Form  xmlstream.Form
	Kind  Kind
	// First marks what a catching session gets before everything that is held back for it.
	First bool
}

// Send puts p in front of s's peer: under the outbox lock it runs the Outgoing hooks, appends it,
// and marks the connection dirty. A resting session keeps it. Any goroutine, any lock held. It
// reports whether s took it; a session that could not is closed.
func (s *Session) Send(p Parcel) (ok bool) {
	s.lockOut()
	defer s.unlockOut()
	return s.send(p)
}

func (s *Session) send(p Parcel) (ok bool) {
	if s.ended {
		return false
	}
	if h := s.account.host.Profile().Hooks; len(h.Outgoing.links) > 0 {
		var taken bool
		if p, taken = h.outgoing(s, p); taken {
			return true
		}
	}
	if s.wire == nil || s.catching && !p.First && p.Kind == Message || s.out != nil && s.out.count > 0 && !p.First {
		return s.hold(p)
	}
	if ok = s.wire.Send(p.Bytes, p.Form); !ok {
		s.ended = true
		s.wire.Close(errSlowReader)
	}
	return ok
}

// outgoing asks the modules about p. It is a function of its own because what they are handed
// escapes: without modules a send allocates nothing.
func (h *Hooks) outgoing(s *Session, p Parcel) (changed Parcel, taken bool) {
	for i := range h.Outgoing.links {
		if h.Outgoing.links[i].f(s, &p) == Done {
			return p, true
		}
	}
	return p, false
}

func (s *Session) hold(p Parcel) bool {
	if s.out == nil {
		s.out = new(out)
	}
	if s.out.count >= heldCount || len(s.out.held)+len(p.Bytes) > heldBytes {
		s.ended = true
		if s.wire != nil {
			s.wire.Close(errSlowReader)
		}
		return false
	}
	s.out.held = append(s.out.held, p.Bytes...)
	s.out.count++
	return true
}

// release sends what was held back, in order. Under the outbox lock.
func (s *Session) release() {
	o := s.out
	if o == nil || s.wire == nil || s.catching {
		return
	}
	s.out = nil
	if o.count > 0 && !s.wire.Send(o.held, xmlstream.Streamed) {
		s.ended = true
		s.wire.Close(errSlowReader)
	}
}

// Catch has live messages queue behind those that are sent with Parcel.First, until Caught. Under
// the lock.
func (s *Session) Catch() {
	s.lockOut()
	s.catching = true
	s.unlockOut()
}

// Caught ends Catch: what was held back leaves. Under the lock.
func (s *Session) Caught() {
	s.lockOut()
	s.catching = false
	s.release()
	s.unlockOut()
}

// Close ends the stream of s with a stream error, or cleanly if err is nil, and s with it; a resting
// session is unbound at once by [Account.Unbind]. Under the lock.
func (s *Session) Close(err error) {
	s.lockOut()
	w := s.wire
	s.ended = true
	s.unlockOut()
	if w != nil {
		w.Close(err)
	}
}

func (s *Session) lockOut() {
	outboxCheck()
	s.mu.Lock()
}

func (s *Session) unlockOut() {
	s.mu.Unlock()
	outboxUncheck()
}
