package session

import (
	"sync"

	"canto/session/jid"
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
	wire     Wire      // that stream's; a resting where it rests. Both written under both locks, read under either
	out      *outbox   // outbox lock; nil while nothing waits
	mu       sync.Mutex
	priority int8
	traits   Traits
	ending   Ending // outbox lock: what ends it, or its stream; goesOn: nothing
}

// Account is whose resource s is. Any goroutine.
func (s *Session) Account() *Account { return s.account }

// JID is the full JID. Any goroutine.
func (s *Session) JID() jid.JID { return s.jid }

// Host is the account's. Any goroutine.
func (s *Session) Host() *Host { return s.account.host }

// Traits are those of the stream that it has, or had last.
func (s *Session) Traits() Traits { return s.traits }

// Presence is the last broadcast presence as the client sent it, and its priority; nil if
// unavailable. The bytes are never changed: a new presence is a new slice.
func (s *Session) Presence() (p []byte, priority int8) { return s.presence, s.priority }

// SetPresence keeps p, which is never changed from now on, as the last broadcast presence; nil: unavailable.
func (s *Session) SetPresence(p []byte, priority int8) { s.presence, s.priority = p, priority }

// Connected reports whether s is a connected resource (RFC 6120 §7): bound, with a stream.
func (s *Session) Connected() bool { return s.stream != (StreamRef{}) }

// Available reports whether s is an available resource (RFC 6121 §4.2.1). Every one is connected, or
// rests.
func (s *Session) Available() bool { return s.presence != nil }

// Interested reports whether s is an interested resource (RFC 6121 §2.2): it asked for the roster.
func (s *Session) Interested() bool { return interested.Is(s) }

// SetInterested makes s an interested resource.
func (s *Session) SetInterested() { interested.Set(s, true) }

var interested = NewFlag("interested")

// lockOut takes the outbox lock of s; it is the last of the order of locks.
func (s *Session) lockOut() Outbox {
	outboxCheck()
	s.mu.Lock()
	return Outbox{s}
}

func (out Outbox) unlock() {
	out.s.mu.Unlock()
	outboxUncheck()
}
