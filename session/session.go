package session

import (
	"bytes"
	"sync"

	"canto/session/jid"
	"canto/session/stanza"
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

// out is what an outbox needs besides the wire's bytes: what waits while the session rests or catches up, or while
// its wire has no room. Nil while nothing waits.
type out struct {
	held  []heldElement
	bytes int
	// full: a message was refused for want of room. So are those after it, which keeps their order.
	full bool
	// clogged: the wire had no room. Everything waits until it has taken what it has.
	clogged bool
	taken   []func(l *Local, taken bool) // see AfterFlush
}

// A heldElement waits in an outbox.
type heldElement struct {
	bytes    []byte // Streamed
	from, to jid.JID
	kind     stanza.Kind
}

// What a session may hold back.
const (
	heldBytes = 1 << 20
	heldCount = 1000
)

// SliceBytes is how much of what was stored is given to a session at a time: the next slice follows when
// the socket has taken this one, so that no amount of it fills the outbox.
const SliceBytes = 128 << 10

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
func (s *Session) Connected() bool { return s.stream != (StreamRef{}) }

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
	Kind  stanza.Kind
	// First marks a stored message, which a catching session gets before everything that it holds back.
	First bool
	// From and To are the addresses of a stanza that another entity has sent: it keeps its place among those, and
	// is routed again if s ends before it has it. What the server itself says has none, and waits for nothing.
	From, To jid.JID
}

// Send puts p in the outbox of s: it runs the Outgoing hooks, appends p, and marks the connection dirty.
// A session that rests, catches up, or has a full outbox keeps p for later. It reports whether s took p. A
// session that is closing takes nothing; one that catches up and has no room for another message refuses it, and
// lives; one whose client does not read is closed when it can keep no more. Any goroutine, any lock held; the order
// is that of callers that hold the account's lock.
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
	if !s.waits(p) {
		switch {
		case s.wire.Send(p.Bytes):
			return true
		case p.First:
			return false // it stays where it is stored until there is room
		}
		s.clog()
	}
	if s.hold(p) {
		return true
	}
	switch {
	case s.catching && p.Kind == stanza.Message:
		return false // it is stored behind what s is given
	case s.wire == nil || s.out.clogged:
		s.ended = true // it does not read; or it could not be resumed without a hole
		if s.wire != nil {
			s.wire.Close(errSlowReader)
		}
		return false
	}
	return s.wire.Send(p.Bytes) // presence overtakes two megabytes rather than being lost
}

// waits reports whether p is held back. Under the outbox lock.
func (s *Session) waits(p Parcel) bool {
	switch {
	case s.wire == nil:
		return true
	case p.First:
		return false
	case s.out != nil && s.out.clogged:
		return true
	case p.From.IsZero():
		return false
	}
	return s.catching && p.Kind == stanza.Message || s.out != nil && len(s.out.held) > 0
}

// clog has everything wait until the wire has taken what it has. Under the outbox lock.
func (s *Session) clog() {
	if s.out == nil {
		s.out = new(out)
	}
	s.out.clogged = true
	s.notifyDrain()
}

// notifyDrain has l.drained called once the client has what was sent. Under the outbox lock.
func (s *Session) notifyDrain() {
	if d, ok := s.wire.(Drainer); ok {
		d.NotifyDrain()
	}
}

// drained goes on with what waits in the outbox of s, as the client has what was sent before: the stream ref says so.
func (l *Local) drained(s *Session, ref StreamRef) {
	s.lockOut()
	o := s.out
	if o == nil || s.stream != ref {
		s.unlockOut()
		return
	}
	clogged, taken := o.clogged, o.taken
	o.taken = nil
	s.unlockOut()
	for _, f := range taken {
		f(l, true)
	}
	if clogged {
		l.Account(s.account.host, s.account.bare, func(l *Local, now *Account, _ bool, _ error) {
			if now == s.account && now.index(s) >= 0 {
				s.unclog(l)
			}
		})
	}
}

// closing says that the stream ref of s takes nothing any more.
func (s *Session) closing(ref StreamRef) {
	s.lockOut()
	defer s.unlockOut()
	if s.stream == ref {
		s.ended = true
	}
}

// unclog goes on after the wire has taken what it had: with what is held back, unless Caught will.
func (s *Session) unclog(l *Local) {
	if !s.catching {
		s.Release(l, nil)
		return
	}
	s.lockOut()
	if s.out != nil {
		s.out.clogged = false
	}
	s.unlockOut()
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

// hold keeps p for later; false: there is no room. One element has room, whatever its length. Presence and iqs have
// twice the room of messages, which can be stored. Under the outbox lock.
func (s *Session) hold(p Parcel) bool {
	if s.out == nil {
		s.out = new(out)
	}
	o, room := s.out, 2
	if p.Kind == stanza.Message {
		room = 1
	}
	if o.full && p.Kind == stanza.Message || len(o.held) >= room*heldCount || len(o.held) > 0 && o.bytes+len(p.Bytes) > room*heldBytes {
		o.full = o.full || p.Kind == stanza.Message
		return false
	}
	o.held = append(o.held, heldElement{bytes.Clone(p.Bytes), p.From, p.To, p.Kind})
	o.bytes += len(p.Bytes)
	return true
}

// full reports whether s refuses messages because it holds back as many as it may.
func (s *Session) full() bool {
	s.lockOut()
	defer s.unlockOut()
	return !s.ended && s.out != nil && s.out.full
}

// Ended reports whether s takes nothing any more, as its stream closes. Under the account's lock.
func (s *Session) Ended() bool {
	s.lockOut()
	defer s.unlockOut()
	return s.ended
}

// Catch has live messages wait while stored ones are handed over, until Caught. Under the account's lock.
func (s *Session) Catch() {
	s.lockOut()
	s.catching = true
	s.unlockOut()
}

// Catching reports whether Catch was called, and Caught has not ended it. Under the account's lock.
func (s *Session) Catching() bool { return s.catching }

// Reopen lets s hold back messages again after it had no room. The caller will hand over what was stored instead
// before anything that is held back from now on. Under the account's lock.
func (s *Session) Reopen() {
	s.lockOut()
	if s.out != nil {
		s.out.full = false
	}
	s.unlockOut()
}

// Caught ends Catch when what is still held back has left, as the client takes it; then runs done, if there is one,
// with whether messages were refused meanwhile. Under the account's lock.
func (s *Session) Caught(l *Local, done func(l *Local, refused bool)) {
	s.Release(l, func(l *Local) {
		s.lockOut()
		refused := s.out != nil && s.out.full
		s.catching, s.out = false, nil
		s.unlockOut()
		if done != nil {
			done(l, refused)
		}
	})
}

// Release hands what is held back to the client of s, in order, [SliceBytes] at a time as the socket takes
// it, and then runs done, if there is one, under the account's lock on the loop of the stream. If s ends
// before, done is not run, and what is still held back is routed again. Under the account's lock.
func (s *Session) Release(l *Local, done func(l *Local)) {
	sent := 0
	for sent < SliceBytes {
		h, ok := s.next()
		if !ok {
			break
		}
		if !h.from.IsZero() && !l.mayHave(s, h.from) {
			if h.kind == stanza.IQ {
				l.again(h) // it has an answer, as to an address that takes nothing
			}
			continue
		}
		sent += len(h.bytes)
		if !s.write(h) {
			sent = max(sent, 1)
			break // its stream is closing, and Unbind sees to the rest; or its wire is full, and it waits
		}
	}
	if sent == 0 {
		if done != nil && s.wire != nil {
			done(l)
		}
		return
	}
	s.AfterFlush(l, func(l *Local, taken bool) {
		if !taken {
			return
		}
		l.Account(s.account.host, s.account.bare, func(l *Local, a *Account, _ bool, err error) {
			if a == s.account && a.index(s) >= 0 {
				s.Release(l, done)
			}
		})
	})
}

// next takes the first element that is held back.
func (s *Session) next() (h heldElement, ok bool) {
	s.lockOut()
	defer s.unlockOut()
	o := s.out
	if o == nil || s.wire == nil {
		return h, false
	}
	if len(o.held) == 0 {
		if o.clogged = false; len(o.taken) == 0 && (!o.full || !s.catching) {
			s.out = nil
		}
		return h, false
	}
	h = o.held[0]
	o.held[0] = heldElement{}
	o.held = o.held[1:]
	o.bytes -= len(h.bytes)
	return h, true
}

// write gives h to the wire, or puts it back in the first place.
func (s *Session) write(h heldElement) bool {
	s.lockOut()
	defer s.unlockOut()
	if s.wire != nil && s.wire.Send(h.bytes) {
		return true
	}
	if s.out == nil {
		s.out = new(out)
	}
	s.out.held = append([]heldElement{h}, s.out.held...)
	s.out.bytes += len(h.bytes)
	return false
}

// TakeHeld calls keep with each message that s holds back, and forgets those for which it returns true: they are
// stored instead. The others are routed again when s is unbound. Under the account's lock.
func (s *Session) TakeHeld(keep func(el []byte) bool) {
	s.lockOut()
	o := s.out
	s.out = nil
	s.unlockOut()
	if o == nil {
		return
	}
	rest := o.held[:0]
	for _, h := range o.held {
		if h.kind != stanza.Message || h.to.IsZero() || !keep(h.bytes) {
			rest = append(rest, h)
		}
	}
	s.lockOut()
	defer s.unlockOut()
	if s.out != nil {
		rest = append(rest, s.out.held...)
	}
	o.held = rest
	s.out = o
}

// again routes an element once more that a session held back.
func (l *Local) again(h heldElement) {
	if !h.to.IsZero() && h.kind != stanza.Presence {
		l.append(letter{from: h.from, to: h.to, hops: 1}, h.bytes)
	}
}

// AfterFlush runs f on the loop of the stream of s, under no lock: with taken once the socket has everything
// that was sent to s before, so that it may be erased where it was stored; with taken false if the
// connection closes first, or s has none. Under the account's lock.
func (s *Session) AfterFlush(l *Local, f func(l *Local, taken bool)) {
	s.lockOut()
	defer s.unlockOut()
	if s.wire == nil {
		l.Loop.Post(func() { l.Enter(func() { f(l, false) }) })
		return
	}
	if s.out == nil {
		s.out = new(out)
	}
	s.out.taken = append(s.out.taken, f)
	s.notifyDrain()
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
