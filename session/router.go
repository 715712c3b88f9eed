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
			l.Loop.Post(l.settle)
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

// Receive takes one element of a stream that has its header (RFC 6120 §4.3, §8.1). e is good until
// it returns.
func (l *Local) Receive(st *Stream, e xmlstream.Element) {
	l.crowded, l.copied = 0, 0
	l.receive(st, e)
	if l.copied > 0 {
		l.spend(st, l.copied/copyShare)
	}
	if l.crowded > 0 {
		// Who writes to somebody that takes it slowly pays more for it: a few messages cost nothing, a
		// flood is slowed to what that one can take.
		l.stats.Limits["crowded"]++
		l.spend(st, l.crowded*crowdPrice)
	}
}

// copyShare copies of a broadcast cost the sender's rate as much as the stanza itself: a usual presence costs a
// user with some hundred contacts a kilobyte, the longest to 5,000 contacts a burst.
const copyShare = 64

// crowdPrice is what a byte to a crowded wire costs the sender's rate besides itself.
const crowdPrice = 15

func (l *Local) receive(st *Stream, e xmlstream.Element) {
	l.enter()
	defer l.leave()
	defer l.caught(st)
	if st.sess == nil {
		l.negotiate(st, e)
		return
	}
	kind := stanza.KindOf(e)
	if kind == stanza.Nonza {
		l.nonza(st, e)
		return
	}
	l.stats.In[kind]++
	l.stanza(st, kind, e)
}

// nonza finds the feature that a bound stream's element belongs to.
func (l *Local) nonza(st *Stream, e xmlstream.Element) {
	if f := st.feature(e, e, false); f != nil {
		f.Handle(st, e)
		return
	}
	if n := e.Name(); n.Space == nameStreamErr.Space {
		if n == nameStreamErr { // RFC 6120 §4.9: the peer ends the stream
			st.Close(nil)
			return
		}
	}
	if st.known(e.Name()) {
		st.Close(ErrPolicyViolation) // a second login, TLS after it (attack S06)
		return
	}
	st.Close(ErrUnsupportedStanza)
}

// stanza checks what every stanza from a client owes (RFC 6120 §8.1), and routes it.
func (l *Local) stanza(st *Stream, kind stanza.Kind, e xmlstream.Element) {
	s := st.sess
	ev := l.push()
	defer l.pop()
	ev.on, ev.stream, ev.Session, ev.Host = l, st, s, s.account.host
	ev.Kind, ev.Element, ev.From, ev.Fresh = kind, e, s.jid, true
	ev.lang = st.Lang()
	typ, _ := e.Attr(stanza.AttrType)
	ev.Type = stanza.ParseType(kind, typ)
	if from, ok := e.Attr(stanza.AttrFrom); ok {
		// RFC 6120 §8.1.2.1: the server stamps it; what the client wrote must be its own.
		j, err := l.JID(from)
		if err != nil || j != s.jid && j != s.account.bare {
			st.Close(ErrInvalidFrom)
			return
		}
	}
	to, directed := e.Attr(stanza.AttrTo)
	switch {
	case !directed:
		ev.bare, ev.To, ev.Target = true, s.account.bare, ToSelf
	default:
		j, err := l.JID(to)
		if err != nil {
			ev.bare, ev.To = true, s.account.bare
			ev.Fail(stanza.JIDMalformed)
			return
		}
		ev.To = j
		ev.Target = l.target(ev)
	}
	if ev.Type == stanza.TypeUnknown {
		ev.Fail(stanza.BadRequest)
		return
	}
	if kind == stanza.IQ && !wellFormedIQ(ev) {
		ev.Fail(stanza.BadRequest)
		return
	}
	l.route(ev)
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

func (l *Local) target(ev *Stanza) Target {
	local, _, resource := ev.To.Parts()
	switch {
	case local == "":
		return ToHost
	case resource != "":
		return ToFull
	case ev.To == ev.From.Bare():
		return ToSelf
	}
	return ToBare
}

func (l *Local) push() *Stanza {
	if l.depth == len(l.stack) {
		panic("session: stanzas nested too deep")
	}
	l.depth++
	return &l.stack[l.depth-1]
}

func (l *Local) pop() {
	if l.depth > 0 { // a panic has emptied it
		l.depth--
		ev := &l.stack[l.depth]
		if ev.other {
			l.Parser.Release(ev.Element)
		}
		extra := ev.extra[:0]
		*ev = Stanza{}
		if cap(extra) <= 4096 {
			ev.extra = extra
		}
	}
}

// route takes a fresh stanza through its sender's chain and on to its recipient.
func (l *Local) route(ev *Stanza) {
	a := ev.Session.account
	l.lock(&a.Entity)
	if ev.stream != nil && (ev.Session.stream != ev.stream.ref() || a.index(ev.Session) < 0) {
		l.unlock() // a superseded stream, or a session that was ended: RFC 6121 has nobody to answer
		return
	}
	if a.waits() || a.sending > 0 {
		l.enqueue(a, ev)
		l.unlock()
		return
	}
	v := l.depart(a, ev)
	l.unlock()
	if v == Pass {
		l.forward(ev)
	}
}

// depart runs the Pre chain under the sender's lock, and for ToSelf all there is. Pass: it goes on.
func (l *Local) depart(a *Account, ev *Stanza) Verdict {
	ev.at, ev.acct = &a.Entity, a
	h := a.host.Profile().Hooks
	var c *Chain[StanzaFunc]
	switch ev.Kind {
	case stanza.Message:
		c = &h.PreMessage[ev.Target]
	case stanza.Presence:
		c = &h.PrePresence[ev.Target]
	default:
		c = &h.PreIQ[ev.Target]
	}
	if Run(c, ev) == Done {
		return Done
	}
	if ev.Target != ToSelf {
		return Pass
	}
	ev.Fresh = false
	l.arrive(h, ev)
	return Done
}

// resume goes on with a fresh stanza that waited in its sender's inbox, whose lock is held. It gives
// the lock back if the stanza goes on to somebody else.
func (l *Local) resume(a *Account, lt letter, err error) {
	ev := l.push()
	defer l.pop()
	e, perr := l.Parser.Element(lt.bytes)
	if perr != nil {
		return
	}
	defer l.Parser.Release(e)
	lt.fill(l, ev, e)
	if a.index(lt.fresh) < 0 {
		return
	}
	ev.Session, ev.Fresh = lt.fresh, true
	ev.at, ev.acct = &a.Entity, a
	if lt.stream != nil && lt.stream.loop == l && lt.stream.bits&bitGone == 0 {
		ev.stream = lt.stream
	}
	if err != nil || !a.resident.exists {
		ev.Fail(stanza.InternalServerError)
		return
	}
	if l.depart(a, ev) == Pass {
		l.unlock()
		l.forward(ev)
	}
}

// forward takes a stanza to where it is addressed, with no lock held.
func (l *Local) forward(ev *Stanza) {
	ev.Fresh, ev.Session, ev.stream, ev.at, ev.acct = false, nil, nil, nil, nil
	if ev.Hops >= maxHops {
		l.stats.Limits["hops"]++
		return
	}
	host, ours := l.router.Table.Host(domainOf(ev.To))
	if !ours {
		p := ev.Host.Profile()
		if Run(&p.Hooks.Remote, ev) == Pass {
			ev.Fail(stanza.RemoteServerNotFound)
		}
		return
	}
	ev.Host = host
	h := host.Profile().Hooks
	if ev.Target == ToHost {
		l.arrive(h, ev)
		return
	}
	for i := range h.Home.links {
		if e := h.Home.links[i].f(host, ev.To); e != nil {
			l.lock(e)
			ev.at = e
			if e.resident.kind.Stanza(ev) == Pass {
				ev.Fail(stanza.ServiceUnavailable)
			}
			l.unlock()
			return
		}
	}
	if ev.Target == ToSelf {
		ev.Target = ToBare
	}
	a, ok := l.lockAccount(host, ev.To.Bare())
	if !ok {
		ev.Absent()
		return
	}
	if a.waits() {
		l.enqueue(a, ev)
		l.unlock()
		return
	}
	l.arriveAt(a, ev)
	l.unlock()
}

func (l *Local) arriveAt(a *Account, ev *Stanza) {
	a.used = l.Loop.Tick()
	if !a.resident.exists {
		ev.Absent()
		return
	}
	ev.at, ev.acct = &a.Entity, a
	l.arrive(a.host.Profile().Hooks, ev)
}

// arrive runs the chain of a stanza at its recipient, whose lock is held, or at a host.
func (l *Local) arrive(h *Hooks, ev *Stanza) {
	switch ev.Kind {
	case stanza.Message:
		if Run(&h.Message[ev.Target], ev) == Pass {
			ev.Fail(stanza.ServiceUnavailable)
		}
	case stanza.Presence:
		Run(&h.Presence[ev.Target], ev)
	case stanza.IQ:
		c := &h.IQ[ev.Target]
		if runPhases(c, ev, Guard, Deliver) == Done {
			return
		}
		if ev.Type == stanza.TypeGet || ev.Type == stanza.TypeSet {
			if f, ok := h.iq[iqKey{ev.Target, ev.Type == stanza.TypeSet, ev.Payload().Name()}]; ok {
				if f.f(ev) == Done {
					return
				}
			}
		}
		if runPhases(c, ev, Deliver, Fallback+1) == Pass {
			ev.Fail(stanza.ServiceUnavailable)
		}
	}
}

// Absent answers ev as if its recipient, an address of ours, had no account (RFC 6121 §8.5.1). A module whose
// account hides from the sender answers so.
func (ev *Stanza) Absent() Verdict {
	switch ev.Kind {
	case stanza.Presence:
		return Done
	case stanza.Message:
		if ev.Type == stanza.TypeHeadline && ev.Target != ToFull {
			return Done // §8.5.2.2.1; to a resource that is not there §8.5.3.2.1 has an error
		}
	case stanza.IQ:
		if Run(&ev.Host.Profile().Hooks.Absent, ev) == Done {
			return Done
		}
	}
	return ev.Fail(stanza.ServiceUnavailable)
}

func domainOf(j jid.JID) string {
	_, d, _ := j.Parts()
	return d
}

// Deliver sends ev to one session of the account whose lock is held: its bytes, with the sender's true
// address. It reports whether the session took it; if not, ev is handled as if there were no such resource
// (RFC 6121 §8.5.3.2).
func (l *Local) Deliver(to *Session, ev *Stanza) bool {
	l.scratch = ev.Append(l.scratch[:0])
	ok, crowded := to.deliver(Parcel{Bytes: l.scratch, Kind: ev.Kind, From: ev.From, To: ev.To})
	switch {
	case ok:
		l.stats.Out[ev.Kind]++
	case to.refuses():
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

// deliver is Send, and reports besides whether more waits for the client than it takes at a time.
func (s *Session) deliver(p Parcel) (ok, crowded bool) {
	s.lockOut()
	defer s.unlockOut()
	ok = s.send(p)
	return ok, s.wire != nil && s.wire.Crowded()
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
func (l *Local) mayHave(s *Session, from jid.JID) bool {
	a := s.account
	if from.Bare() == a.bare {
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

// Seats lends an empty set of receivers, until the hook returns.
func (l *Local) Seats() *Seats {
	l.seats.Reset(len(l.router.locals))
	return &l.seats
}
