package session

import (
	"bytes"

	"canto/session/jid"
	"canto/session/stanza"
)

// An outbox is what a [Session] has beside its wire while something waits: live stanzas for which there is no room
// yet, sources of many elements, and what hooks keep. Nil while there is none of these. Under the outbox lock.
type outbox struct {
	held    []heldElement // live stanzas that wait, in order
	bytes   int           // of held
	given   int           // bytes given to the wire by release since the client was last known to have everything
	full    bool          // a message was refused for want of room. So are those after it, which keeps their order
	clogged bool          // the wire had no room. Everything waits until the client has what the wire took
	asks    int           // how often the wire was asked to tell when it has drained, and has not yet
	sources []*pulled     // the first one is asked; the others wait their turn
	kept    []heldElement // what hooks hold back: see Outbox.Hold
	weight  int           // bytes of kept
	values  *slot         // of hooks: see OutSlot
}

// A heldElement waits in an outbox.
type heldElement struct {
	bytes    []byte
	from, to jid.JID
	kind     stanza.Kind
	copies   *copies // nil: it is for this session alone
}

// copies counts the sessions of an account that took one message: those that sent it to their client, and those
// that hold it back. Under the account's lock.
type copies struct{ n int }

// last reports whether h, whose session ends, is the only copy that is left.
func (h *heldElement) last() bool {
	if h.copies == nil {
		return true
	}
	if h.copies.n--; h.copies.n > 0 {
		return false
	}
	h.copies = nil
	return true
}

// What a session may hold back: bytes, and elements.
const (
	heldBytes = 1 << 20
	heldCount = 1000
)

// LowMark is how much of a [Source], in bytes, may be on its way to the client before the source is asked for more:
// no amount of what the server itself has to say fills the outbox, whose limit is for what others send.
const LowMark = 128 << 10

// A Parcel is one element on its way out; its bytes are copied.
type Parcel struct {
	Bytes []byte
	Kind  stanza.Kind

	pulled bool // it is of a Source
	asked  bool // the hooks were asked about it

	copies **copies // of a stanza that several sessions may get; made when one holds it back

	// From and To are the addresses of a stanza that another entity has sent: it keeps its place among those, and
	// is routed again if s ends before it has it. What the server itself says has none, and waits for nothing.
	From, To jid.JID
}

// Send puts p in the outbox of s: it runs the Outgoing hooks and gives p to the wire. A session that rests, is given
// stored messages, or whose wire has no room keeps p for later. It reports whether s took p: a session that is
// closing takes nothing; one that is [Session.Backlogged] and has no room for another message refuses it, and lives;
// one whose client does not read ends when it can keep no more, as does one that rests. Any goroutine, any lock held;
// the order is that of callers that hold the account's lock.
func (s *Session) Send(p Parcel) (ok bool) {
	out := s.lockOut()
	defer out.unlock()
	return out.send(p)
}

func (out Outbox) send(p Parcel) (ok bool) {
	if !out.takes() || p.pulled && out.s.ending != goesOn {
		return false
	}
	if !p.asked {
		links := out.s.account.host.Profile().Hooks.Outgoing.links
		for i := range links {
			if links[i].f(out, p) == Done {
				return true
			}
		}
	}
	return out.put(p)
}

// put is send behind the hooks.
func (out Outbox) put(p Parcel) (ok bool) {
	if !out.waits(p) {
		if out.s.wire.Send(p.Bytes) {
			return true
		}
		if !out.clog() && !out.takes() || p.pulled {
			return false // what is pulled is kept where it is
		}
	}
	switch {
	case out.hold(p):
		return true
	case out.backlogged() && p.Kind == stanza.Message:
		return false // it is stored behind what s is given
	case out.s.ending == goesOn && !out.s.rests() && !out.s.out.clogged && out.s.wire.Send(p.Bytes):
		return true // presence overtakes two megabytes rather than being lost
	case out.s.ending != goesOn: // and it is about to be unbound, or to rest
		return false
	}
	why := slowReader
	if out.s.rests() {
		why = overflow // it could not be resumed without a hole
	}
	out.stop(why)
	out.s.wire.Close(errSlowReader)
	return out.takes() && out.hold(p) // behind what it has, and routed again with that if it ends
}

// waits reports whether p is held back. Under the outbox lock.
func (out Outbox) waits(p Parcel) bool {
	switch {
	case out.s.rests() || out.s.ending != goesOn || out.s.out != nil && out.s.out.clogged:
		return true
	case p.pulled || p.From.IsZero():
		return false
	}
	return out.backlogged() && p.Kind == stanza.Message || out.s.out != nil && len(out.s.out.held) > 0
}

// rests reports whether s has no stream. Under the account's lock, or the outbox lock.
func (s *Session) rests() bool { return s.stream == (StreamRef{}) }

// clog has everything wait until the client has what the wire took, which has refused an element; false: it closes,
// and s ends. Under the outbox lock.
func (out Outbox) clog() (ok bool) {
	o := out.box()
	o.clogged = out.askDrain() // also where it was asked before: it may close by now
	if !o.clogged {
		out.stop(lineLost)
	}
	return o.clogged
}

// askDrain has [Session.drained] called once the client has what was sent; false: the wire closes. Under the outbox
// lock.
func (out Outbox) askDrain() (ok bool) {
	if out.s.rests() {
		return false
	}
	if d, is := out.s.wire.(Drainer); is {
		ok = d.NotifyDrain()
	} else { // it never refuses an element, and so has sent it
		l, ref := out.s.wire.Loop(), out.s.stream
		ok = l.Loop.Post(func() { l.Enter(func() { out.s.drained(l, ref) }) })
	}
	if ok {
		out.box().asks++
	}
	return ok
}

// box is the outbox of s, made where there is none. Under the outbox lock.
func (out Outbox) box() *outbox {
	if out.s.out == nil {
		out.s.out = new(outbox)
	}
	return out.s.out
}

// unbox forgets an outbox in which nothing is. Under the outbox lock.
func (out Outbox) unbox() {
	if o := out.s.out; o != nil && !o.clogged && o.asks == 0 && len(o.held)+len(o.sources)+len(o.kept) == 0 && o.values == nil {
		out.s.out = nil
	}
}

// hold keeps p for later; false: there is no room. One element has room, whatever its length. Presence and iqs have
// twice the room of messages, which can be stored. A session that has ended, or whose stream has, keeps what comes
// until it is unbound or rests, so that nothing overtakes what it has: as much again. Under the outbox lock.
func (out Outbox) hold(p Parcel) bool {
	o, room := out.box(), 2
	if p.Kind == stanza.Message {
		room = 1
	}
	if out.s.ending != goesOn {
		room += 2
	}
	if o.full && p.Kind == stanza.Message || len(o.held) >= room*heldCount || len(o.held) > 0 && o.bytes+len(p.Bytes) > room*heldBytes {
		o.full = o.full || p.Kind == stanza.Message && out.backlogged()
		return false
	}
	o.held = append(o.held, p.keep())
	o.bytes += len(p.Bytes)
	return true
}

// keep is p with bytes of its own.
func (p *Parcel) keep() heldElement {
	h := heldElement{bytes: bytes.Clone(p.Bytes), from: p.From, to: p.To, kind: p.Kind}
	if p.copies != nil {
		if *p.copies == nil {
			*p.copies = new(copies)
		}
		h.copies = *p.copies
	}
	return h
}

// refuses reports whether no message is taken, as there are as many held back as may be.
func (out Outbox) refuses() bool {
	s := out.s
	return s.ending == goesOn && s.out != nil && s.out.full
}

// Ended reports whether nothing more leaves for the client of s, as its stream closes. Under the account's lock.
func (s *Session) Ended() bool {
	why, _ := s.endedBy()
	return why != goesOn
}

// closing says that the stream ref of s ends by why.
func (s *Session) closing(ref StreamRef, why Ending) {
	out := s.lockOut()
	defer out.unlock()
	if s.stream == ref {
		out.stop(why)
	}
}

// release gives the client of s what is held back, in order, as far as the wire should take it now: all says that
// nothing is left. Under the account's lock, on the loop of the stream.
func (s *Session) release(l *Local) (all bool) {
	for {
		out := s.lockOut()
		h, ok, left := out.nextHeld()
		out.unlock()
		if !ok {
			return !left
		}
		may := h.from.IsZero()
		switch {
		case !may && !guarded(l, s, func() { may = mayHave(l, s, h.from) }):
			if h.last() { // else another session of the account has it
				bounce(l, s.account, h, stanza.InternalServerError)
			}
			continue
		case !may:
			if h.kind == stanza.IQ {
				l.mail.again(h) // it has an answer, as to an address that takes nothing
			}
			continue
		}
		out = s.lockOut()
		ok = out.giveHeld(h)
		out.unlock()
		if !ok {
			return false
		}
	}
}

// nextHeld takes the first element that is held back, if the wire should have it now; left: there is one, and it
// waits until the client has what the wire took.
func (out Outbox) nextHeld() (h heldElement, ok, left bool) {
	s, o := out.s, out.s.out
	switch {
	case o == nil || len(o.held) == 0:
		return h, false, false
	case s.rests() || s.ending != goesOn || o.clogged:
		return h, false, true
	case o.given >= LowMark:
		if o.asks == 0 {
			out.askDrain()
		}
		return h, false, true
	}
	h = o.held[0]
	o.held[0] = heldElement{}
	o.held = o.held[1:]
	o.bytes -= len(h.bytes)
	return h, true, true
}

// giveHeld gives h to the wire, or puts it back in the first place.
func (out Outbox) giveHeld(h heldElement) bool {
	s, o := out.s, out.box()
	if !s.rests() && s.wire.Send(h.bytes) {
		o.given += len(h.bytes)
		return true
	}
	o.held = append([]heldElement{h}, o.held...)
	o.bytes += len(h.bytes)
	out.clog()
	return false
}
