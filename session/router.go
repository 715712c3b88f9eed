package session

import (
	"bytes"
	"log/slog"
	"sync"
	"sync/atomic"

	"canto/reactor"
	"canto/session/jid"
	"canto/session/stanza"
	"canto/xmlstream"
)

// A Router takes a stanza from where it came from to where it goes, by the rules of RFC 6121,
// section 8; stanza_routing.txt, beside this file, is its table. Its fields are set before Start.
type Router struct {
	Table       *Table
	Durable     Durable
	Directory   Directory
	Workers     reactor.Workers
	Log         *slog.Logger
	Node        uint16 // of this process, in ids
	Incarnation uint32 // its starts are counted

	Clock func() reactor.Tick // any goroutine

	// StreamID makes the id of a stream header: unpredictable, 128 bits (RFC 6120 §4.7.3).
	StreamID func() string

	locals  []*Local
	lim     atomic.Pointer[limitSet]
	streams atomic.Uint64
	refused sync.Map // limit name -> *atomic.Uint64, of connections refused before they had a loop; a fixed set
}

// Tick is the time on the reactor's scale. Any goroutine.
func (r *Router) Tick() reactor.Tick { return r.Clock() }

// CountRefused counts a connection that was refused by the limit of that name. Any goroutine.
func (r *Router) CountRefused(limit string) {
	n, _ := r.refused.LoadOrStore(limit, new(atomic.Uint64))
	n.(*atomic.Uint64).Add(1)
}

// Refused calls f with each of these counters. Any goroutine.
func (r *Router) Refused(f func(limit string, n uint64)) {
	r.refused.Range(func(limit, n any) bool {
		f(limit.(string), n.(*atomic.Uint64).Load())
		return true
	})
}

// Start makes the kernel's part of each loop. Before it nothing else may be called.
func (r *Router) Start(loops []*reactor.Loop) {
	if r.lim.Load() == nil {
		if err := r.SetLimits(DefaultLimits()); err != nil {
			panic(err) // the defaults are registered by no other path
		}
	}
	r.locals = make([]*Local, len(loops))
	for i, loop := range loops {
		r.locals[i] = newLocal(r, loop)
	}
	r.Durable.Notify(func() {
		for _, l := range r.locals {
			l.Loop.Post(l.commits.settle)
		}
	})
	for _, l := range r.locals {
		l.Loop.Post(func() { l.Loop.Arm(&l.sweeper, l.Loop.Tick()+sweepEvery, l) })
	}
}

// Local is the kernel's part of loop. Any goroutine, after Start.
func (r *Router) Local(loop *reactor.Loop) *Local { return r.locals[loop.Index()] }

// Locals are all of them. Any goroutine, after Start.
func (r *Router) Locals() []*Local { return r.locals }

// receive takes one element of a stream that has its header (RFC 6120 §4.3, §8.1). e is good until
// it returns.
func (st reader) receive(e xmlstream.Element) {
	l := st.loop
	l.crowded, l.copied = 0, 0
	size := len(e.Raw())
	st.element(e)
	if l.copied > 0 {
		st.spend(l.copied / copyShare)
	}
	if l.crowded > 0 {
		// Who writes to somebody that takes it slowly pays more for it: a few messages cost nothing, a
		// flood is slowed to what that one can take.
		l.stats.Limits["crowded"]++
		st.spend(min(l.crowded, size) * crowdPrice)
	}
}

// copyShare copies of a broadcast cost the sender's rate as much as the stanza itself: a usual presence costs a
// user with some hundred contacts a kilobyte, the longest to 5,000 contacts a burst.
const copyShare = 64

// crowdPrice is what a byte of a stanza to crowded wires, however many, costs the sender's rate besides itself.
const crowdPrice = 15

// element takes e, whatever it costs.
func (st reader) element(e xmlstream.Element) {
	l := st.loop
	l.enter()
	defer l.leave()
	if st.sess == nil {
		defer caught(st.Stream)
		st.negotiate(e)
		return
	}
	kind := stanza.KindOf(e)
	if kind == stanza.Nonza {
		defer caught(st.Stream)
		st.nonza(e)
		return
	}
	l.stats.In[kind]++
	st.stanza(kind, e)
}

// nonza finds the feature that a bound stream's element belongs to.
func (st reader) nonza(e xmlstream.Element) {
	if f := st.Negotiation().feature(e, e, false); f != nil {
		f.Handle(st.Negotiation(), e)
		return
	}
	if n := e.Name(); n.Space == nameStreamErr.Space {
		if n == nameStreamErr { // RFC 6120 §4.9: the peer ends the stream
			st.end(nil, peerError)
			return
		}
	}
	if st.Negotiation().known(e.Name()) {
		st.Close(ErrPolicyViolation) // a second login, TLS after it (attack S06)
		return
	}
	st.Close(ErrUnsupportedStanza)
}

// stanza checks what every stanza from a client owes (RFC 6120 §8.1), and routes it.
func (st reader) stanza(kind stanza.Kind, e xmlstream.Element) {
	l := st.loop
	s := st.sess
	ev := l.stack.push(l)
	defer l.stack.pop()
	ev.stream, ev.Session, ev.Host = st.Stream, s, s.account.host
	ev.Kind, ev.Element, ev.From, ev.Fresh = kind, e, s.jid, true
	ev.lang, ev.loop = st.Lang(), l.mark
	ev.origin.Stream = st.ref()
	if st.bits&bitTracked != 0 {
		l.ledgers[st.id].take(ev)
		defer ev.land(l)
	}
	typ, _ := e.Attr(stanza.AttrType)
	ev.Type = stanza.ParseType(kind, typ)
	if from, ok := e.Attr(stanza.AttrFrom); ok {
		// RFC 6120 §8.1.2.1: the server stamps it; what the client wrote must be its own.
		j, err := l.JID(from)
		if err != nil || j != s.jid && j != s.account.addr {
			st.Close(ErrInvalidFrom)
			return
		}
	}
	to, directed := e.Attr(stanza.AttrTo)
	switch {
	case !directed:
		ev.bare, ev.To, ev.Target = true, s.account.addr, ToSelf
	default:
		j, err := l.JID(to)
		if err != nil {
			ev.bare, ev.To = true, s.account.addr
			ev.Fail(stanza.JIDMalformed)
			return
		}
		ev.To = j
		ev.Target = targetOf(l, ev)
	}
	if ev.Type == stanza.TypeUnknown {
		ev.Fail(stanza.BadRequest)
		return
	}
	if kind == stanza.IQ && !wellFormedIQ(ev) {
		ev.Fail(stanza.BadRequest)
		return
	}
	walk(l, ev)
}

// wellFormedIQ holds RFC 6120 §8.2.3: an id; exactly one child for get and set, at most one for
// result.
func wellFormedIQ(ev *Stanza) bool {
	if _, ok := ev.Element.Attr(stanza.AttrID); !ok || ev.Type == stanza.TypeNone {
		return false
	}
	n := 0
	for c, ok := ev.Element.First(); ok; c, ok = c.Next() {
		n++
	}
	switch ev.Type {
	case stanza.TypeGet, stanza.TypeSet:
		return n == 1
	case stanza.TypeResult:
		return n <= 1
	}
	return true
}

// Deliver sends ev to one session of the account whose lock is held: its bytes, with the sender's true
// address. It reports whether the session took it; if not, ev is handled as if there were no such resource
// (RFC 6121 §8.5.3.2).
func (l *Local) Deliver(to *Session, ev *Stanza) bool {
	l.scratch = ev.Append(l.scratch[:0])
	ok, crowded, full := to.deliver(Parcel{Bytes: l.scratch, Kind: ev.Kind, From: ev.From, To: ev.To, copies: &ev.copies})
	switch {
	case ok:
		l.stats.Out[ev.Kind]++
		if ev.taken++; ev.copies != nil {
			ev.copies.n = int(ev.taken)
		}
		if ev.recorded {
			ev.takers = append(ev.takers, to)
		}
	case full:
		l.stats.Limits["held"]++
	}
	if crowded {
		l.crowded += len(l.scratch)
	}
	if cap(l.scratch) > 64<<10 {
		l.scratch = nil
	}
	return ok
}

// deliver is Send, and reports besides whether more waits for the client than it takes at a time; full: p was
// refused, as there are as many messages held back as may be.
func (s *Session) deliver(p Parcel) (ok, crowded, full bool) {
	out := s.lockOut()
	defer out.unlock()
	ok = out.send(p)
	return ok, s.wire != nil && s.wire.Crowded(), !ok && out.refuses()
}

// Append appends ev as it is delivered: from is the sender's true address, to the one it was sent
// to, xml:lang the sender's if the stanza has none (RFC 6120 §8.1), and what was added behind the
// children.
func (ev *Stanza) Append(dst []byte) []byte {
	from := xmlstream.Attr{Name: stanza.AttrFrom, Value: ev.From.String()}
	to := xmlstream.Attr{Name: stanza.AttrTo, Value: ev.To.String()}
	start := len(dst)
	if _, has := ev.Element.Attr(stanza.AttrLang); ev.lang != "" && !has {
		dst = ev.Element.Append(dst, xmlstream.Streamed, from, to, xmlstream.Attr{Name: stanza.AttrLang, Value: ev.lang})
	} else {
		dst = ev.Element.Append(dst, xmlstream.Streamed, from, to)
	}
	if len(ev.extra) == 0 {
		return dst
	}
	return addChildren(dst, start, ev.extra)
}

// AppendKept appends ev as it is to be kept for later: with the sender's xml:lang if it has none of its own
// (RFC 6120 §8.1.5), and otherwise as it was sent.
func (ev *Stanza) AppendKept(dst []byte) []byte {
	if _, has := ev.Element.Attr(stanza.AttrLang); ev.lang != "" && !has {
		return ev.Element.Append(dst, xmlstream.Streamed, xmlstream.Attr{Name: stanza.AttrLang, Value: ev.lang})
	}
	return ev.Element.Append(dst, xmlstream.Streamed)
}

// AppendChildren appends el, one complete element, with extra after its own children.
func AppendChildren(dst, el, extra []byte) []byte {
	start := len(dst)
	return addChildren(append(dst, el...), start, extra)
}

// addChildren puts extra behind the children of the element that dst[start:] is.
func addChildren(dst []byte, start int, extra []byte) []byte {
	if bytes.HasSuffix(dst, []byte("/>")) {
		name := dst[start+1:]
		if i := bytes.IndexAny(name, " \t\r\n/>"); i >= 0 {
			name = name[:i]
		}
		dst = append(dst[:len(dst)-2], '>')
		dst = append(dst, extra...)
		dst = append(append(dst, "</"...), dst[start+1:start+1+len(name)]...)
		return append(dst, '>')
	}
	i := bytes.LastIndex(dst, []byte("</"))
	var tag [64]byte
	if len(dst)-i > len(tag) { // a prefix that long is a client's own choice
		end := append([]byte(nil), dst[i:]...)
		return append(append(dst[:i], extra...), end...)
	}
	n := copy(tag[:], dst[i:])
	return append(append(dst[:i], extra...), tag[:n]...)
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

// BecameAvailable runs the Available hooks: s has its first presence with a non-negative priority.
// Under the lock.
func (l *Local) BecameAvailable(s *Session) {
	runSessions(&s.account.host.Profile().Hooks.Available, l, s)
}
