package session

import (
	"bytes"

	"canto/session/jid"
	"canto/session/stanza"
)

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

// A session whose account can't be read is ended later: after firstUnbind ticks, then after twice as
// many, up to longestUnbind. After unbindTries tries, some five minutes, it is ended all the same, and
// its contacts are not told: an account that can't be read for good must not hold its sessions, and the
// store's work, for ever.
const (
	firstUnbind   = 10
	longestUnbind = 640
	unbindTries   = 10
)

// LowMark is how much of a [Source], in bytes, may be on its way to the client before the source is asked
// for more: no amount of what the server itself has to say fills the outbox, whose limit is for what
// others send.
const LowMark = 128 << 10

// Send puts p in the outbox of s: it runs the Outgoing hooks and gives p to the wire. A session that
// rests, is given stored messages, or whose wire has no room keeps p for later. It reports whether s took
// p: a session that is closing takes nothing; one that is [Session.Backlogged] and has no room for
// another message refuses it, and lives; one whose client does not read ends when it can keep no more, as
// does one that rests. Any goroutine, any lock held; the order is that of callers that hold the account's
// lock.
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
	case p.Kind == stanza.Presence && out.s.ending == goesOn && !out.s.rests() && !out.s.out.clogged &&
		out.s.wire.Send(p.Bytes):
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

// clog has everything wait until the client has what the wire took, which has refused an element; false:
// it closes, and s ends. Under the outbox lock.
func (out Outbox) clog() (ok bool) {
	o := out.box()
	o.clogged = out.askDrain() // also where it was asked before: it may close by now
	if !o.clogged {
		out.stop(lineLost)
	}
	return o.clogged
}

// askDrain has [Session.drained] called once the client has what was sent; false: the wire closes. Under
// the outbox lock.
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
	if o := out.s.out; o != nil && !o.clogged && o.asks == 0 && len(o.held)+len(o.sources)+len(o.kept) == 0 &&
		o.values == nil {
		out.s.out = nil
	}
}

// hold keeps p for later; false: there is no room. One element has room, whatever its length. Presence
// and iqs have twice the room of messages, which can be stored. A session that has ended, or whose stream
// has, keeps what comes until it is unbound or rests, so that nothing overtakes what it has: as much
// again. Under the outbox lock.
func (out Outbox) hold(p Parcel) bool {
	o, room := out.box(), 2
	if p.Kind == stanza.Message {
		room = 1
	}
	if out.s.ending != goesOn {
		room += 2
	}
	if o.full && p.Kind == stanza.Message || len(o.held) >= room*heldCount || len(o.held) > 0 && o.bytes+
		len(p.Bytes) > room*heldBytes {
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

// Ended reports whether nothing more leaves for the client of s, as its stream closes. Under the
// account's lock.
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

// nextHeld takes the first element that is held back, if the wire should have it now; left: there is one,
// and it waits until the client has what the wire took.
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

// endings is the table. rests: Hooks.Rest is asked whether the session outlives its stream. bounces: what the
// session had not sent is for no other session and no storage. limit is counted beside Stats.Ended.
var endings = [numEndings]struct {
	name           string
	rests, bounces bool
	limit          string
}{
	loggedOut:  {name: "logged-out"},
	peerError:  {name: "peer-error"},
	ourError:   {name: "our-error", rests: true},
	shutdown:   {name: "shutdown", rests: true},
	slowReader: {name: "slow-reader", rests: true}, // its limit is counted with the stream error
	lineLost:   {name: "line-lost", rests: true},
	overflow:   {name: "overflow", limit: "outbox"},
	expired:    {name: "expired"},
	displaced:  {name: "displaced", limit: "resting_displaced"},
	superseded: {name: "superseded"},
	kicked:     {name: "kicked"},
	deleted:    {name: "deleted", bounces: true},
	failed:     {name: "failed"},
}

// String is the label of the metric.
func (e Ending) String() string { return endings[e].name }

// endingOf is what a stream has ended by that this server closes with err.
func endingOf(err error) Ending {
	switch err {
	case ErrSystemShutdown:
		return shutdown
	case errSlowReader:
		return slowReader
	}
	return ourError
}

// stop notes what ends s: the first thing counts, but what is known of the connection only gives way to
// any other, and a decision that the session ends comes before all that happens to its stream. Under the
// outbox lock.
func (out Outbox) stop(why Ending) {
	if out.s.ending == goesOn || out.s.ending == lineLost || why > lineLost && out.s.ending < lineLost ||
		why == deleted {
		out.s.ending = why
	}
}

// stopped is stop under the outbox lock, and returns what s has ended by.
func (s *Session) stopped(why Ending) Ending {
	out := s.lockOut()
	defer out.unlock()
	out.stop(why)
	return s.ending
}

// endedBy is what ends s, goesOn if nothing does, and whether it ends whatever the hooks of Hooks.Rest say.
func (s *Session) endedBy() (why Ending, over bool) {
	defer s.lockOut().unlock()
	return s.ending, s.ending != goesOn && !endings[s.ending].rests
}

// takes reports whether s takes what it is sent: it goes on, or may rest once its connection is closed,
// or rests and keeps what comes, until it is unbound, behind what it has. Under the outbox lock.
func (out Outbox) takes() bool {
	switch {
	case out.s.ending == goesOn:
		return true
	case out.s.wire == nil:
		return false
	case out.s.rests():
		return true
	}
	if o := out.s.out; o != nil && len(o.held) > 0 {
		return true // behind what is routed again when it is unbound
	}
	return endings[out.s.ending].rests && len(out.s.account.host.Profile().Hooks.Rest.links) > 0
}

// bounce answers h, which was held back for a session of a, with a stanza error. Where a was deleted that
// is what a stanza to an address without an account gets (RFC 6121 §8.5.1): routed again it might be for
// another of that name.
func bounce(l *Local, a *Account, h heldElement, c stanza.Condition) {
	if h.to.IsZero() || h.kind == stanza.Presence {
		return
	}
	e, err := l.Parser.Element(h.bytes)
	if err != nil {
		l.Log.Error("a stanza that was held back does not parse", "jid", h.to.String(), "err", err)
		return
	}
	defer l.Parser.Release(e)
	ev := l.stack.push(l)
	defer l.stack.pop()
	env := envelope{from: h.from, to: h.to, kind: h.kind, hops: 1}
	env.fill(l, ev, e)
	ev.Host = a.host
	ev.Fail(c)
}

// unsent takes everything that waits out of the outbox of s but its sources. What other sessions of the
// account have is left out. Under the account's lock.
func (s *Session) unsent() (list []heldElement) {
	defer s.lockOut().unlock()
	o := s.out
	if o == nil {
		return nil
	}
	for _, h := range append(o.held, o.kept...) {
		if h.last() {
			list = append(list, h)
		}
	}
	o.held, o.kept, o.bytes, o.weight = nil, nil, 0, 0
	if o.values = nil; len(o.sources) == 0 {
		s.out = nil
	}
	return list
}

// Close ends the stream of s with a stream error, or cleanly if err is nil, and s with it, at the latest
// when its connection is closed. Any goroutine, any lock held.
func (s *Session) Close(err error) { s.close(err, kicked) }

// close has s end by why, a decision, and tells its client err.
func (s *Session) close(err error, why Ending) {
	out := s.lockOut()
	w := s.wire
	out.stop(why)
	out.unlock()
	if w != nil {
		w.Close(err)
	}
}

// A resting is the wire of a session without a stream. Nothing is sent by it; what closes it ends the
// session.
type resting struct {
	l *Local // where the session's last stream was
	s *Session
}

func (r *resting) Send([]byte) bool { return false }

func (r *resting) Crowded() bool { return false }

func (r *resting) Loop() *Local { return r.l }

// Outbox runs f with the outbox of s, under its lock: for a module that changes there what it has in an
// [OutSlot]. Any goroutine, the account's lock held or not.
func (s *Session) Outbox(f func(o Outbox)) {
	out := s.lockOut()
	defer out.unlock()
	f(out)
	out.unbox()
}

// Append sends p before what the hook was asked about, past the hooks. It reports whether the session
// took it: see [Session.Send].
func (out Outbox) Append(p Parcel) (ok bool) { return out.takes() && out.put(p) }

// Hold keeps a copy of p until [Outbox.Flush]; false: it can't be held back, as it is from a [Source],
// which would be told that it was taken, or there is no room: 1 MiB and 1,000 elements. If the session
// ends before, stanzas of others are routed again.
func (out Outbox) Hold(p Parcel) (ok bool) {
	b := out.box()
	if p.pulled || len(b.kept) >= heldCount || len(b.kept) > 0 && b.weight+len(p.Bytes) > heldBytes {
		return false
	}
	b.kept = append(b.kept, p.keep())
	b.weight += len(p.Bytes)
	return true
}

// Flush sends what was held back, in order, past the hooks. What the session does not take now stays held
// back.
func (out Outbox) Flush() {
	b := out.s.out
	if b == nil {
		return
	}
	list := b.kept
	b.kept, b.weight = nil, 0
	for i := range list {
		h := &list[i]
		p := Parcel{Bytes: h.bytes, Kind: h.kind, From: h.from, To: h.to}
		if h.copies != nil {
			p.copies = &h.copies
		}
		if !out.Append(p) {
			b = out.box()
			b.kept = list[i:]
			for _, h := range b.kept {
				b.weight += len(h.bytes)
			}
			return
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

// An OutSlot is one module's state in an outbox, under the outbox lock: what its OutFunc has to know. It
// is for what few sessions have, and is lost when the session ends.
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

// mayHave reports whether the account of s takes what from sent, by the rules that hold now.
func mayHave(l *Local, s *Session, from jid.JID) bool {
	a := s.account
	if from.Bare() == a.addr {
		return true
	}
	for _, refuses := range a.host.Profile().Hooks.Refuses {
		if refuses(a, from) {
			return false
		}
	}
	return true
}

// Backlogged reports whether live messages for s wait behind what a [Source] gives it. A message that
// such a session does not take belongs behind what is stored. Under the account's lock.
func (s *Session) Backlogged() bool {
	out := s.lockOut()
	defer out.unlock()
	return out.backlogged()
}

func (out Outbox) backlogged() bool {
	if out.s.out != nil {
		for _, f := range out.s.out.sources {
			if f.ahead {
				return true
			}
		}
	}
	return false
}

// askTaken has the wire tell when the client has what f has given. Under the outbox lock.
func (out Outbox) askTaken(f *pulled) {
	if out.s.out.asks == 0 {
		f.due, f.dueSent = f.given, f.sent
		out.askDrain()
	}
}
