package session

import (
	"canto/reactor"
	"canto/xmlstream"
)

// share is how many elements a stream has handled in one turn; some cost 100 µs and more.
const share = 50

// Feed hands st what its peer has sent, as far as st takes it now: used says how much that is. The rest comes again,
// in front of what follows, when the transport was resumed. overhead is what it took besides to bring p, in bytes:
// what TLS adds (attacks K33, K34) is paid from the peer's rate like p itself. over: the peer is over its rate,
// and was paused. On st's loop.
func (st *Stream) Feed(p []byte, overhead int) (used int, over bool) {
	if st.state == Closing {
		return len(p), false
	}
	used = st.reader().feed(p)
	if st.state == Closing {
		return len(p), false
	}
	return used, st.reader().spend(used + overhead)
}

// feed takes the elements of p one by one until st has had its share of the turn, waits for something, or closes.
func (st reader) feed(p []byte) (used int) {
	l := st.loop
	l.Parser.Feed(&st.in, p)
	for range share {
		err := st.next()
		if err == xmlstream.ErrNeedMore {
			return len(p)
		}
		if err != nil {
			st.syntax(err)
		}
		if st.state == Closing {
			return len(p)
		}
		if st.bits&bitUpgrade != 0 {
			st.startTLS(p[len(p)-l.Parser.Rest(&st.in):])
			return len(p)
		}
		if st.wire.Crowded() {
			st.hold()
		}
		if !st.Ready() {
			return len(p) - l.Parser.Rest(&st.in)
		}
	}
	st.yield()
	return len(p) - l.Parser.Rest(&st.in)
}

// next takes one element of what was fed: the stream header, white space in front of it, or a child of the stream
// (RFC 6120 §4.2, §4.4). It returns the parser's error if it has none.
func (st reader) next() error {
	l := st.loop
	if st.state != Opening {
		el, err := l.Parser.Stanza(&st.in)
		if err == nil {
			st.receive(el)
		}
		return err
	}
	tok, err := l.Parser.Next(&st.in)
	if err == nil && !tok.Blank {
		st.header(tok.Element)
	}
	return err
}

// hold stops reading until the peer has what waits for it, also where the socket takes everything at once: what a
// peer asks for is charged to its own patience (attack K23).
func (st reader) hold() {
	st.park(parkedOutbox)
	st.wire.NotifyDrain()
}

// Drained is what the transport calls once the socket has everything that was sent before: see [Drainer]. On st's
// loop, under no lock.
func (st *Stream) Drained() {
	l := st.loop
	l.enter()
	defer l.leave()
	defer caught(st)
	st.unpark(parkedOutbox)
	if st.sess != nil {
		st.sess.drained(l, st.ref())
	}
}

// spend takes n bytes off what st may read; a stream over its rate is paused until it has earned
// some, and TCP slows the peer: over says so.
func (st reader) spend(n int) (over bool) {
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
	st.reader().refill()
	if st.tokens >= 0 {
		return false
	}
	l.stats.Limits["rate"]++
	st.park(parkedRate)
	wait := int64(-st.tokens)*10/int64(lim.Rate) + 1
	st.arm(dueRate, l.Loop.Tick()+reactor.Tick(wait))
	return true
}

// refill adds what st has earned since it was last asked, at most one burst.
func (st reader) refill() {
	lim := st.loop.router.limits()
	now := st.loop.Loop.Tick()
	earned := int64(now-st.refilled) * int64(lim.Rate) / 10
	st.refilled = now
	st.tokens = int32(min(int64(st.tokens)+earned, lim.burst()))
}
