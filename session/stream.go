package session

import (
	"bytes"
	"errors"
	"io"

	"canto/reactor"
	"canto/session/stanza"
	"canto/xmlstream"
)

// NewStream is the kernel's half of the connection w, on its loop. The front door sets it up, and feeds
// it: see [Stream.Feed]. The peer has until the login deadline to become a session.
func NewStream(l *LoopRouter, w Transport, traits Traits) *Stream {
	lim := l.router.limits()
	st := &Stream{transport: w, loop: l, id: l.router.streams.Add(1), negotiation: &negotiationState{},
		traits: traits}
	st.in.Reset(lim.unauthed)
	st.tokens = int32(lim.burst())
	l.stats.Streams++
	if d := lim.LoginTimeout; d > 0 {
		st.setDeadline(deadlineLogin, l.Loop.Tick().After(d))
	}
	return st
}

// turnBudget is how many elements a stream has handled in one turn; some cost 100 µs and more.
const turnBudget = 50

// Feed hands st what its peer has sent, as far as st takes it now: used says how much that is. The rest
// comes again, in front of what follows, when the transport was resumed. overhead is what it took besides
// to bring p, in bytes: what TLS adds (attacks K33, K34) is paid from the peer's rate like p itself.
// over: the peer is over its rate, and was paused. On st's loop.
func (st *Stream) Feed(p []byte, overhead int) (used int, over bool) {
	if st.state == Closing {
		return len(p), false
	}
	used = st.streamReader().feed(p)
	if st.state == Closing {
		return len(p), false
	}
	return used, st.streamReader().spendTokens(used + overhead)
}

// feed takes the elements of p one by one until st has had its share of the turn, waits for something, or
// closes.
func (st streamReader) feed(p []byte) (used int) {
	l := st.loop
	l.Parser.Feed(&st.in, p)
	for range turnBudget {
		err := st.next()
		if err == xmlstream.ErrNeedMore {
			return len(p)
		}
		if err != nil {
			st.parseFailed(err)
		}
		if st.state == Closing {
			return len(p)
		}
		if st.bits&bitUpgrade != 0 {
			st.startTLS(p[len(p)-l.Parser.Rest(&st.in):])
			return len(p)
		}
		if st.transport.Congested() {
			st.pauseUntilDrained()
		}
		if !st.CanReceive() {
			return len(p) - l.Parser.Rest(&st.in)
		}
	}
	st.yield()
	return len(p) - l.Parser.Rest(&st.in)
}

// next takes one element of what was fed: the stream header, white space in front of it, or a child of
// the stream (RFC 6120 §4.2, §4.4). It returns the parser's error if it has none.
func (st streamReader) next() error {
	l := st.loop
	if st.state != Opening {
		el, err := l.Parser.Stanza(&st.in)
		if err == nil {
			st.receive(el)
		}
		return err
	}
	tok, err := l.Parser.Next(&st.in)
	if err == nil && !tok.Whitespace {
		st.header(tok.Element)
	}
	return err
}

// pauseUntilDrained stops reading until the peer has what waits for it, also where the socket takes
// everything at once: what a peer asks for is charged to its own patience (attack K23).
func (st streamReader) pauseUntilDrained() {
	st.park(parkedOutbox)
	if s := st.sess; s != nil {
		out := s.lockOutbox()
		own := s.stream == st.ref()
		if own {
			out.requestDrain() // its outbox counts each answer that is to come
		}
		out.unlock()
		if own {
			return
		}
	}
	st.transport.NotifyDrain()
}

// Drained is what the transport calls once the socket has everything that was sent before: see [Drainer].
// On st's loop, under no lock.
func (st *Stream) Drained() {
	l := st.loop
	l.enter()
	defer l.leave()
	defer closeOnPanic(st)
	st.unpark(parkedOutbox)
	if st.sess != nil {
		st.sess.drained(l, st.ref())
	}
}

// spendTokens takes n bytes off what st may read; a stream over its rate is paused until it has earned
// some, and TCP slows the peer: over says so.
func (st streamReader) spendTokens(n int) (over bool) {
	l := st.loop
	lim := l.router.limits()
	if lim.Rate <= 0 || st.state == Closing {
		return false
	}
	// The debt is one burst at most, so that no stanza, to however many clogged clients, stops its sender
	// for longer than it takes to earn a burst.
	st.tokens = int32(max(int64(st.tokens)-int64(n), -lim.burst()))
	if st.tokens >= 0 {
		return false
	}
	st.streamReader().refillTokens()
	if st.tokens >= 0 {
		return false
	}
	l.stats.Limits["rate"]++
	st.park(parkedRate)
	wait := int64(-st.tokens)*10/int64(lim.Rate) + 1
	st.setDeadline(deadlineRate, l.Loop.Tick()+reactor.Tick(wait))
	return true
}

// refillTokens adds what st has earned since it was last asked, at most one burst.
func (st streamReader) refillTokens() {
	lim := st.loop.router.limits()
	now := st.loop.Loop.Tick()
	earned := int64(now-st.refilledAt) * int64(lim.Rate) / 10
	st.refilledAt = now
	st.tokens = int32(min(int64(st.tokens)+earned, lim.burst()))
}

// yield leaves the rest of st's input to the loop's next turn: others come first.
func (st streamReader) yield() {
	st.park(parkedTurn)
	st.loop.Loop.Post(func() { st.unpark(parkedTurn) })
}

// startTLS goes on with an Upgrade; rest is what was read behind <starttls/>. RFC 6120 §5.3.3 forbids white
// space there, but some clients end their lines with it, and it carries nothing: it is dropped. All else was
// sent in the clear and would be taken for something that TLS protects: it ends the stream (attack T09).
func (st streamReader) startTLS(rest []byte) {
	st.bits &^= bitUpgrade
	if len(bytes.TrimLeft(rest, " \t\r\n")) > 0 {
		st.Close(&StreamError{Condition: "policy-violation", Text: "data behind <starttls/>"})
		return
	}
	st.Send([]byte("<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>"))
	if err := st.transport.StartTLS(st.host); err != nil {
		st.loop.Log.Warn("STARTTLS failed", "err", err)
		st.state = Closing
		st.transport.Close(err)
	}
}

// header takes the peer's stream header (RFC 6120 §4.7) and answers with ours and the features.
func (st streamReader) header(e xmlstream.Element) {
	l := st.loop
	l.enter()
	defer l.leave()
	defer closeOnPanic(st.Stream)
	if st.state == Closing {
		return
	}
	if st.state != Opening {
		st.Close(ErrInvalidXML) // a second header without a restart
		return
	}
	if string(e.Local()) != "stream" || string(e.Space()) != stanza.NSStream {
		if string(e.Local()) == "stream" {
			st.Close(ErrInvalidNamespace)
		} else {
			st.Close(ErrBadFormat)
		}
		return
	}
	if r := st.in.Root(); r == nil || !contentNamespace(r.Default) {
		st.Close(ErrInvalidNamespace)
		return
	}
	if err := st.Negotiation().readHeader(e); err != nil {
		st.Close(err)
		return
	}
	st.bits &^= bitLang
	if r := st.in.Root(); r.Lang != "" && wellFormedLang(r.Lang) {
		st.bits |= bitLang
	}
	st.state = Unauthed
	if st.traits&HasUser != 0 {
		st.state = Authed
	}
	st.openHeader()
	st.Negotiation().sendFeatures()
}

// negotiate takes an element of a stream without a session (RFC 6120 §4.3).
func (st streamReader) negotiate(e xmlstream.Element) {
	kind := stanza.KindOf(e)
	if kind == stanza.Nonza {
		if f := st.Negotiation().feature(e, e, false); f != nil {
			f.Handle(st.Negotiation(), e)
			return
		}
		if e.Is(nameStreamErr) {
			st.endStream(nil, peerError)
			return
		}
		if st.Negotiation().knowsElement(e.Name()) {
			st.Close(ErrPolicyViolation) // a negotiation that is not open now: twice, too early, or closed
			return
		}
		st.Close(ErrUnsupportedStanza)
		return
	}
	if kind == stanza.IQ {
		if typ, _ := e.Attr(stanza.AttrType); string(typ) == "set" || string(typ) == "get" {
			if p, ok := e.First(); ok {
				if f := st.Negotiation().feature(e, p, true); f != nil {
					f.Handle(st.Negotiation(), e)
					return
				}
			}
			if id, ok := e.Attr(stanza.AttrID); ok && st.traits&HasUser != 0 && st.Negotiation().forUs(e) {
				// RFC 6120 §7.1 ends the stream for a stanza to others only.
				st.Negotiation().FailIQ(string(id), stanza.ServiceUnavailable)
				return
			}
		}
	}
	// RFC 6120 §4.9.3.12: a stanza before the stream may carry one; never routed, never stored.
	st.Close(ErrNotAuthorized)
}

// parseFailed ends st for what the parser refused, or for the peer's end tag (io.EOF).
func (st streamReader) parseFailed(err error) {
	l := st.loop
	l.enter()
	defer l.leave()
	if errors.Is(err, io.EOF) {
		st.endStream(nil, loggedOut)
		return
	}
	se := syntaxStreamError(err)
	if se == errStanzaTooBig {
		l.stats.Limits["stanza"]++
	}
	st.Close(se)
}

// receive takes one element of a stream that has its header (RFC 6120 §4.3, §8.1). e is good until
// it returns.
func (st streamReader) receive(e xmlstream.Element) {
	l := st.loop
	l.congestedBytes, l.fanoutBytes = 0, 0
	size := len(e.Raw())
	st.element(e)
	if l.fanoutBytes > 0 {
		st.spendTokens(l.fanoutBytes / fanoutDiscount)
	}
	if l.congestedBytes > 0 {
		// A stanza to a client that takes it slowly costs its sender more: a few messages cost nothing, a
		// flood is slowed to what that one can take.
		l.stats.Limits["crowded"]++
		st.spendTokens(min(l.congestedBytes, size) * congestionPrice)
	}
}

// fanoutDiscount copies of a broadcast cost the sender's rate as much as the stanza itself: a usual presence
// costs a user with some hundred contacts a kilobyte, the longest to 5,000 contacts a burst.
const fanoutDiscount = 64

// congestionPrice is what a byte of a stanza to crowded wires, however many, costs the sender's rate besides
// itself.
const congestionPrice = 15

// element takes e, whatever it costs.
func (st streamReader) element(e xmlstream.Element) {
	l := st.loop
	l.enter()
	defer l.leave()
	if st.sess == nil {
		defer closeOnPanic(st.Stream)
		st.negotiate(e)
		return
	}
	kind := stanza.KindOf(e)
	if kind == stanza.Nonza {
		defer closeOnPanic(st.Stream)
		st.nonza(e)
		return
	}
	l.stats.In[kind]++
	st.stanza(kind, e)
}

// nonza finds the feature that a bound stream's element belongs to.
func (st streamReader) nonza(e xmlstream.Element) {
	if f := st.Negotiation().feature(e, e, false); f != nil {
		f.Handle(st.Negotiation(), e)
		return
	}
	if n := e.Name(); n.Space == nameStreamErr.Space {
		if n == nameStreamErr { // RFC 6120 §4.9: the peer ends the stream
			st.endStream(nil, peerError)
			return
		}
	}
	if st.Negotiation().knowsElement(e.Name()) {
		st.Close(ErrPolicyViolation) // a second login, TLS after it (attack S06)
		return
	}
	st.Close(ErrUnsupportedStanza)
}

// stanza checks what every stanza from a client owes (RFC 6120 §8.1), and routes it.
func (st streamReader) stanza(kind stanza.Kind, e xmlstream.Element) {
	l := st.loop
	s := st.sess
	ev := l.stanzas.push(l)
	defer l.stanzas.pop()
	ev.stream, ev.Session, ev.Host = st.Stream, s, s.account.host
	ev.Kind, ev.Element, ev.From, ev.PrePending = kind, e, s.jid, true
	ev.lang, ev.originLoopNumber = st.Lang(), l.loopNumber
	ev.origin.Stream = st.ref()
	if st.bits&bitTracked != 0 {
		l.ackWindows[st.id].assign(ev)
		defer ev.finish(l)
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
		ev.noTo, ev.To, ev.Target = true, s.account.addr, ToSelf
	default:
		j, err := l.JID(to)
		if err != nil {
			ev.noTo, ev.To = true, s.account.addr
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
	routeStanza(l, ev)
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

// OnDeadline is what the front door's timer calls: deadlines that have passed take effect.
func (st *Stream) OnDeadline() {
	l := st.loop
	l.enter()
	defer l.leave()
	now := l.Loop.Tick()
	if d := st.deadlines[deadlineRate]; d != 0 && d <= now {
		st.deadlines[deadlineRate] = 0
		st.streamReader().refillTokens()
		st.unpark(parkedRate)
	}
	if d := st.deadlines[deadlineLogin]; d != 0 && d <= now {
		st.deadlines[deadlineLogin] = 0
		if st.sess == nil {
			l.stats.Limits["login_timeout"]++
			st.Close(ErrConnectionTimeout)
			return
		}
	}
	st.setDeadline(deadlineRate, st.deadlines[deadlineRate])
}

// OnClosed takes a stream apart whose connection is closed, the one teardown path: what becomes of its
// session is decided by what has ended the stream. err is why the connection was closed. A second call
// does nothing.
func (st *Stream) OnClosed(err error) {
	l := st.loop
	if st.bits&bitGone != 0 {
		return
	}
	l.enter()
	defer l.leave()
	why := st.ending
	if why == notEnded {
		why = connLost
		countClose(l, err) // of the session: st itself has not heard of it
	}
	st.bits |= bitGone
	if st.bits&bitTracked != 0 {
		delete(l.ackWindows, st.id)
	}
	st.state = Closing
	l.stats.StreamsEnd++
	st.leaveHost()
	st.in.Reset(l.router.limits().unauthed)
	s := st.sess
	st.sess, st.negotiation = nil, nil
	if s == nil {
		return
	}
	sessionStreamEnded(l, s, st.ref(), why, 0)
}
