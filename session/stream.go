package session

import (
	"bytes"
	"errors"
	"io"

	"canto/reactor"
	"canto/session/stanza"
	"canto/xmlstream"
)

// This file reads a client's connection. The terms:
//
//   - The kernel is this package. A front door is a package that accepts connections and implements
//     [Transport] for them, such as session/c2s.
//   - A stream is parked while it must not handle its next element; the reasons are the bits of
//     Stream.parked: an Await, a Commit or a bind is in flight (work), the peer is over its rate, its output
//     is above the high-water mark (outbox), its share of the turn is used, or too many of its stanzas
//     are not settled. park pauses the transport; unpark takes one reason away, and resumes the transport
//     after the last. Both are safe on a closed stream.
//   - A tracked stream numbers its stanzas, so that they can be acknowledged (XEP-0198): see Stream.Track.
//   - A wire is congested while more output waits in it than the high-water mark.
//   - enter and leave (boundary.go) are around everything that may run hooks: the outermost leave routes the
//     mail that hooks have sent.
//   - K23 and the like are attacks with a test each: cmd/internal/house/attacks.txt.
//
// The order of calls: Feed, feed, next; then header, or receive and element, which calls negotiate, nonza or
// stanza. All of it runs on the stream's loop; a streamReader is the Stream itself in this role.

// NewStream makes the kernel's half of the connection w: a Stream in state Opening. A front door
// calls it when the connection is open, on the loop of l, and then gives it input through
// [Stream.Feed]. traits includes Secure if TLS is up already. If the stream has no session when the
// login timeout ends, it is closed.
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

// turnBudget is how many elements of one stream are handled in a turn, so that the loop's other
// connections get their share: some elements cost 100 µs and more.
const turnBudget = 50

// Feed handles the input p of the peer. used is how many bytes of p were taken; if that is not all, the
// stream is parked. The front door keeps the rest, and feeds it again, before newer input, once unpark
// has resumed the transport. overhead is how many bytes the transport received besides p: padding of TLS
// records, and records without data (attacks K33, K34). They count for the peer's rate as p does. over is
// true if the peer has exceeded its rate limit: the stream is parked for that, and the front door notifies
// the reactor, which throttles the connection's parked input. Feed does not keep p. A closing stream
// takes and drops everything. On the stream's loop, under no lock.
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

// feed handles the elements of p one by one, and returns how many bytes it took. It stops
//
//   - when p has no more complete elements: the parser keeps the incomplete one in st.in;
//   - when the input is not well-formed (parseFailed closes the stream), or the stream closes for another
//     reason;
//   - when STARTTLS was negotiated: the rest of p must be white space;
//   - when the stream is parked;
//   - after turnBudget elements: it is parked until the next turn, even if p has no more.
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

// next handles one element of what was fed: before the stream header only the header itself,
// after it any child of the stream (RFC 6120 sections 4.2 and 4.4). White space is skipped. It
// returns the parser's error if there is no element: ErrNeedMore, io.EOF after the peer's end
// tag, or a syntax error.
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

// pauseUntilDrained is back-pressure: it stops reading a peer whose output is above the high-water mark,
// until the socket has taken all of it. So a client that requests much and reads little does not fill the
// server's memory (attack K23). The notification is requested from the session's outbox if this is still
// the stream of the session (another may have resumed it), else from the transport.
func (st streamReader) pauseUntilDrained() {
	st.park(parkedOutbox)
	if s := st.sess; s != nil {
		out := s.lockOutbox()
		current := s.stream == st.ref()
		if current {
			out.requestDrain() // through the outbox, which counts the notifications
		}
		out.unlock()
		if current {
			return
		}
	}
	st.transport.NotifyDrain()
}

// Drained notifies st that the socket has taken everything that was sent before
// [Drainer.NotifyDrain]. Reading continues, and the session continues with its queue and its
// sources. The transport calls it on the stream's loop, under no lock.
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

// spendTokens takes n of the tokens of st. A token is a byte that may be read; a stream earns rate tokens a
// second (the option rate of the section [limits] of the configuration), and holds one burst of them at most.
// If the tokens are below zero then, over is true: st is parked for the time in which it earns the debt, and
// meanwhile TCP slows the peer.
func (st streamReader) spendTokens(n int) (over bool) {
	l := st.loop
	lim := l.router.limits()
	if lim.Rate <= 0 || st.state == Closing {
		return false
	}
	// The debt is one burst at most: so no stanza stops its sender for longer than the time to earn a burst,
	// even if it goes to many congested clients.
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

// refillTokens adds the tokens that st has earned since the last call, up to one burst; the first call of a
// stream counts from tick 0, and so fills the burst. A tick is 100 ms.
func (st streamReader) refillTokens() {
	lim := st.loop.router.limits()
	now := st.loop.Loop.Tick()
	earned := int64(now-st.refilledAt) * int64(lim.Rate) / 10
	st.refilledAt = now
	st.tokens = int32(min(int64(st.tokens)+earned, lim.burst()))
}

// yield parks st until the loop's next turn, because it has used its share of this one.
func (st streamReader) yield() {
	st.park(parkedTurn)
	st.loop.Loop.Post(func() { st.unpark(parkedTurn) })
}

// startTLS sends <proceed/> and starts the handshake after a <starttls/>, with the certificate of the
// host. rest is the input that followed it in the clear. White space there is dropped: RFC 6120 section
// 5.3.3 forbids it, but some clients end their lines with it. Anything else ends the stream, because it
// would be taken for input that TLS protects (attack T09). If the handshake can't start, the transport is
// closed without a stream error: after <proceed/> the peer expects no XML.
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

// header handles the peer's stream header (RFC 6120 section 4.7). It checks the name and the
// namespaces, reads the attributes (Negotiation.readHeader), and answers with the server's header
// and the stream features. A header that is not valid ends the stream with a stream error.
func (st streamReader) header(e xmlstream.Element) {
	l := st.loop
	l.enter()
	defer l.leave()
	defer closeOnPanic(st.Stream)
	if st.state == Closing {
		return
	}
	if st.state != Opening {
		st.Close(ErrInvalidXML) // next calls header in state Opening only
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

// negotiate handles an element of a stream that has no session (RFC 6120 section 4.3). Its steps:
//
//   - While an exchange keeps everything else from the stream, another element ends it.
//   - A nonza goes to the stream feature that it belongs to. A stream error of the peer ends
//     the stream; so do an element of a feature that is not offered now, and an unknown
//     element.
//   - An iq of type get or set goes to the feature that its payload belongs to, such as resource binding.
//     Without such a feature it is answered with service-unavailable, if the client has logged in, the iq has
//     an id, and it is for the server or the client's own account.
//   - Any other stanza ends the stream (RFC 6120 section 4.9.3.12), a result or an error too. It is neither
//     routed nor stored.
func (st streamReader) negotiate(e xmlstream.Element) {
	kind := stanza.KindOf(e)
	if x := st.exclusive(); x != xmlstream.None && e.Name().Space != x && !e.Is(nameStreamErr) {
		st.Close(ErrPolicyViolation)
		return
	}
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
			st.Close(ErrPolicyViolation) // a feature that is not offered now: too early, or twice
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
				// RFC 6120 section 7.1 ends the stream only for a stanza to others.
				st.Negotiation().FailIQ(string(id), stanza.ServiceUnavailable)
				return
			}
		}
	}
	// RFC 6120 section 4.9.3.12: stanzas are allowed after resource binding only.
	st.Close(ErrNotAuthorized)
}

// parseFailed ends st after an error of the parser: io.EOF is the peer's end tag, a logout; all
// others are answered with a stream error.
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

// receive handles one element of a stream that has its header (RFC 6120 sections 4.3 and 8.1). Its effects
// cost the sender tokens besides those for its bytes, which Feed takes: for a broadcast, and for stanzas to
// congested clients. Only the deliveries of this loop, before element returns, are counted; for a broadcast
// that other loops deliver, Fanout counts its bytes at once. e is valid until receive returns.
func (st streamReader) receive(e xmlstream.Element) {
	l := st.loop
	l.congestedBytes, l.fanoutBytes = 0, 0
	size := len(e.Raw())
	st.element(e)
	if l.fanoutBytes > 0 {
		st.spendTokens(l.fanoutBytes / fanoutDiscount)
	}
	if l.congestedBytes > 0 {
		// A few messages to a slow client cost little; a flood is slowed to a sixteenth of its rate.
		l.stats.Limits["crowded"]++ // the metric's label is older than the term congested
		st.spendTokens(min(l.congestedBytes, size) * congestionPrice)
	}
}

// fanoutDiscount is how many bytes of a broadcast, summed over its recipients, cost the sender one token.
// Presence of 200 bytes to 300 contacts costs about 1,000 tokens; presence of 16 KiB to 5,000 contacts costs
// 1.3 million, of which the limit of the debt takes a burst.
const fanoutDiscount = 64

// congestionPrice is how many tokens a byte of a stanza to congested clients costs its sender, in addition to
// the one token for reading it. At most the stanza's own size is charged, however many of its recipients are
// congested.
const congestionPrice = 15

// element dispatches e: to the negotiation if st has no session, else as a nonza or as a stanza.
// A panic in the handling of a nonza, or during negotiation, ends the stream; a panic of a hook ends only the
// stanza (routeStanza).
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

// nonza handles an element of a bound stream that is not a stanza: it belongs to a stream feature (an ack of
// XEP-0198, say), or is the peer's stream error (RFC 6120 section 4.9). Anything else ends the stream: with
// policy-violation if it renegotiates a feature (attack S06), else with unsupported-stanza-type.
func (st streamReader) nonza(e xmlstream.Element) {
	if f := st.Negotiation().feature(e, e, false); f != nil {
		f.Handle(st.Negotiation(), e)
		return
	}
	if n := e.Name(); n.Space == nameStreamErr.Space {
		if n == nameStreamErr { // RFC 6120 section 4.9: the peer ends the stream
			st.endStream(nil, peerError)
			return
		}
	}
	if st.Negotiation().knowsElement(e.Name()) {
		st.Close(ErrPolicyViolation) // such as a second login, or STARTTLS after login
		return
	}
	st.Close(ErrUnsupportedStanza)
}

// stanza checks a stanza from a client, and routes it. Its steps:
//
//   - It fills an empty [Stanza] of the loop's stack, and numbers it if the stream is tracked. PrePending
//     says that the Pre chain of the sender's account is to run first. origin and originLoopNumber name the
//     client's stanza in all envelopes that it causes.
//   - A 'from' that is not the client's own address ends the stream (RFC 6120 section
//     8.1.2.1). The server stamps the full JID.
//   - It parses 'to', and finds the Target. A stanza without 'to' is for the sender's own
//     account. A malformed address is answered with jid-malformed, as from the own account.
//   - It answers an unknown type of an iq or a presence, and an iq that is not well-formed, with bad-request
//     ([Stanza.Fail] answers neither an error nor a result).
//   - It routes the stanza: routeStanza.
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
		if d := l.ackWindows[st.id]; d != nil {
			d.assign(ev)
		}
		defer ev.finish(l)
	}
	typ, _ := e.Attr(stanza.AttrType)
	ev.Type = stanza.ParseType(kind, typ)
	if from, ok := e.Attr(stanza.AttrFrom); ok {
		// RFC 6120 section 8.1.2.1: the server stamps it; what the client wrote must be its own.
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

// wellFormedIQ reports whether ev satisfies RFC 6120 section 8.2.3: an iq has an id and a type;
// get and set have exactly one child, a result has at most one. Of an error no more is asked.
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

// OnDeadline handles the deadlines of st that have passed: the rate allows more input, or the
// login timeout closes the stream. The front door's timer calls it on the stream's loop, after
// [Transport.Arm].
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
	st.setDeadline(deadlineRate, st.deadlines[deadlineRate]) // arms the transport's timer for the deadlines left
}

// OnClosed tears st down after its connection has closed. It is the one teardown path of a stream. err
// says why the connection was closed. Whether the session ends or hibernates depends on why the stream
// has ended: see sessionStreamEnded. The negotiation state is gone then; the Negotiation methods whose
// callbacks may come late check bitGone. The front door calls OnClosed on the stream's loop; a second
// call does nothing.
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
		countClose(l, err) // without endStream: the connection was lost, or Session.close closed it with err
	}
	st.bits |= bitGone
	if d := l.ackWindows[st.id]; d != nil {
		d.close()
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
