package reactor_test

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"canto/reactor"
	"canto/reactor/reactortest"
)

// A desk is a Handler with admission: a connection is established once it has sent "known". It
// notes its input.
type desk struct {
	script
	got     []string
	refused int
}

func newDesk() *desk {
	d := &desk{}
	d.data = func(c *reactor.Conn, p []byte) int {
		d.got = append(d.got, string(p))
		if string(p) == "known" {
			c.HandlerState = "known"
		}
		return len(p)
	}
	return d
}

func (d *desk) Unauthenticated(c *reactor.Conn) (uint32, bool) { return 1, c.HandlerState == nil }

func (d *desk) OnAdmissionRefused(c *reactor.Conn) {
	d.refused++
	c.Append([]byte("full"))
}

func host(i int) netip.Addr { return netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}) }

// busy makes an established session active on the loop, so that only time fills the bucket, and
// empties the bucket.
func busy(n *reactortest.Net, d *desk) *reactortest.Client {
	c := n.ConnectFrom(host(250), 0, reactor.Listener{Handler: d})
	c.Send([]byte("known"))
	c.Send([]byte("hello"))
	n.Loops()[0].ChargeAdmission(1, host(250), 1000)
	n.Run()
	d.got = nil
	return c
}

// Unauthenticated connections wait for tokens, address by address in turn; established sessions do
// not.
func TestAttackK26UnauthenticatedWait(t *testing.T) {
	d := newDesk()
	n := reactortest.New(1, reactor.Config{Loops: 1, AdmissionBurst: 1000})
	ln := reactor.Listener{Handler: d}
	known := busy(n, d)
	for i := range 50 {
		n.ConnectFrom(host(1), 0, ln).Send(fmt.Appendf(nil, "crowd %d", i))
	}
	one := n.ConnectFrom(host(2), 0, ln)
	one.Send([]byte("one"))
	one.Send([]byte(" and more"))
	if len(d.got) != 0 || !one.Paused() || n.Crowd() != 51 {
		t.Fatalf("let in without a token: %q; paused: %v; %d wait", d.got, one.Paused(), n.Crowd())
	}
	known.Send([]byte("chat"))
	if len(d.got) != 1 {
		t.Fatalf("the established session waited: %q", d.got)
	}
	n.Advance(50 * time.Millisecond) // 35 ms of work have come back, but a burst is 1 ms: some 34 steps
	first := len(d.got)
	at := -1
	for i, s := range d.got {
		if s == "one and more" {
			at = i
		}
	}
	if at < 0 || at > 5 || first < 25 || first > 40 {
		t.Fatalf("the one of another address was number %d of %d", at, first)
	}
	if one.Paused() {
		t.Error("an admitted connection is not read from")
	}
	for i := range 5 { // in order, of one address
		known.Send([]byte("chat"))
		n.Advance(50 * time.Millisecond)
		if i == 4 {
			next := 0
			for _, s := range d.got {
				if s == fmt.Sprint("crowd ", next) {
					next++
				}
			}
			if next != 50 {
				t.Errorf("%d of 50 came in their order: %q", next, d.got)
			}
		}
	}
	m := n.Loops()[0].Meter()
	waits := uint64(0)
	for _, k := range m.AdmissionWaits {
		waits += k
	}
	if m.AdmissionQueued+n.Crowd() != 0 || waits != 51 || m.ParkedBytes != 0 {
		t.Errorf("%d wait, %d have, %d bytes are parked", m.AdmissionQueued, waits, m.ParkedBytes)
	}
}

// In one turn no more work of unauthenticated connections begins than its quota, however much the
// bucket holds.
func TestUnauthenticatedQuota(t *testing.T) {
	d := newDesk()
	n := reactortest.New(1, reactor.Config{Loops: 1})
	var all []*reactortest.Client
	for i := range 500 {
		all = append(all, n.ConnectFrom(host(1+i%5), 0, reactor.Listener{Handler: d}))
	}
	for _, c := range all {
		c.Write([]byte("step")) // all have come before the loop runs
	}
	before, most := 0, 0
	for n.RunTurn() {
		most = max(most, len(d.got)-before)
		before = len(d.got)
	}
	// A share of steps let in at once and one from the queue.
	if limit := 2 * (1000/reactor.LoginStepCost + 1); most > limit || len(d.got) != 500 {
		t.Errorf("%d steps in one turn, of at most %d; %d in all", most, limit, len(d.got))
	}
}

// A connection that finds the admission queue full is refused, counted and closed. A quarter of the
// queue is for logins that have begun. A connection that ends makes room for another.
func TestAttackK26UnauthenticatedRefused(t *testing.T) {
	d := newDesk()
	var why []error
	d.closed = func(_ *reactor.Conn, err error) { why = append(why, err) }
	n := reactortest.New(1, reactor.Config{Loops: 1, AdmissionBurst: 1000, AdmissionQueue: 8})
	busy(n, d)
	var in []*reactortest.Client
	enter := func() *reactortest.Client {
		c := n.ConnectFrom(host(1), 0, reactor.Listener{Handler: d})
		c.Send([]byte("let me in"))
		return c
	}
	for range 8 {
		in = append(in, enter())
	}
	if d.refused != 0 {
		t.Fatalf("%d were refused of 8", d.refused)
	}
	late := enter()
	if got := string(late.Take()); got != "full" || !late.Ended() || d.refused != 1 || len(why) != 1 ||
		!errors.Is(why[0], reactor.ErrAdmissionFull) {
		t.Fatalf("the ninth got %q; %d refused, %v", got, d.refused, why)
	}
	in[3].Close(nil)
	enter()
	if d.refused != 1 {
		t.Error("the place of a connection that ended was not used again")
	}
	n.Advance(2 * reactor.TickLength)
	if m := n.Loops()[0].Meter(); m.AdmissionRefused != 1 || m.AdmissionQueued != 0 || len(d.got) != 8 {
		t.Errorf("%d counted, %d wait, %d let in", m.AdmissionRefused, m.AdmissionQueued, len(d.got))
	}
}

// A connection that waits for admission and hangs up, or is closed by its handler, leaves the
// queue.
func TestUnauthenticatedGone(t *testing.T) {
	d := newDesk()
	n := reactortest.New(1, reactor.Config{Loops: 1, AdmissionBurst: 1000})
	busy(n, d)
	for i := range 30 {
		c := n.ConnectFrom(host(i%3), 0, reactor.Listener{Handler: d})
		c.Send([]byte("let me in"))
		if i%2 == 0 {
			c.Close(nil)
		} else {
			c.Conn().Close(nil)
			n.Run()
		}
	}
	n.Advance(5 * time.Second)
	if m := n.Loops()[0].Meter(); m.AdmissionQueued+n.Crowd() != 0 || len(d.got) != 0 || n.Connections() != 1 ||
		m.ParkedBytes != 0 {
		t.Errorf("%d wait, %d let in, %d connections, %d bytes parked", m.AdmissionQueued, len(d.got),
			n.Connections(),
			m.ParkedBytes)
	}
}

// While few connections log in, admission neither delays them nor allocates.
func TestUnauthenticatedAllocs(t *testing.T) {
	d := newDesk()
	d.data = func(_ *reactor.Conn, p []byte) int { return len(p) }
	n := reactortest.New(1, reactor.Config{Loops: 1})
	c := n.Connect(0, d)
	p := []byte("step")
	if allocs := testing.AllocsPerRun(50, func() { c.Feed(p) }); allocs != 0 {
		t.Errorf("%g allocations for input of an unauthenticated connection", allocs)
	}
}

// Handshakes wait in a queue of their own while as many as may are in flight, and do not delay
// login steps.
func TestAttackK27HandshakesWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk()
		secured := 0
		d.secure = func(*reactor.Conn, *tls.ConnectionState) { secured++ }
		n := reactortest.New(1, reactor.Config{Loops: 1, Handshakes: 2})
		ln := reactor.Listener{Handler: d, DirectTLS: serverTLS(t)}
		var stalled []*reactortest.Client
		for i := range 2 {
			c := n.ConnectFrom(host(i), 0, ln)
			c.Send([]byte{0x16})
			stalled = append(stalled, c)
		}
		other, conf := reactortest.New(1, reactor.Config{Loops: 1}), clientTLS()
		l := addrQueue{
			a: other.Connect(0, &script{open: func(c *reactor.Conn) { c.StartTLS(conf, reactor.ClientRole) }}),
			b: n.ConnectFrom(host(3), 0, ln),
		}
		talk := func() {
			for range 8 {
				settle(other)
				settle(n)
				l.move(n.Now(), 0)
			}
		}
		settle(other)
		hello := l.a.Take()
		l.b.Send(hello[:10])
		l.b.Send(hello[10:]) // now it is paused
		talk()
		if n.Connect(0, d).Send([]byte("step")); secured != 0 || n.Shaking() != 2 || len(d.got) != 1 {
			t.Fatalf("%d secure, %d handshakes under way, %d steps", secured, n.Shaking(), len(d.got))
		}
		stalled[0].Close(nil)
		settle(n)
		n.Advance(reactor.TickLength)
		if talk(); secured != 1 {
			t.Errorf("a place was free, and the queued handshake did not begin: %d under way", n.Shaking())
		}
		for _, c := range []*reactortest.Client{stalled[1], l.a, l.b} {
			c.Close(nil)
		}
		settle(other)
		settle(n)
		if n.Shaking() != 0 || n.SlotsHeld() != 0 {
			t.Errorf("%d handshakes are under way", n.Shaking())
		}
	})
}

// Input of a connection that waits to begin its handshake is bounded.
func TestHandshakeFlood(t *testing.T) {
	d := newDesk()
	n := reactortest.New(1, reactor.Config{Loops: 1, Handshakes: 1, AdmissionQueue: 1})
	ln := reactor.Listener{Handler: d, DirectTLS: serverTLS(t)}
	n.Loops()[0].ChargeAdmission(0, host(1), 1<<30)
	c := n.ConnectFrom(host(1), 0, ln)
	for range 5 {
		c.Send(make([]byte, 60<<10))
	}
	if !c.Ended() && !c.Paused() {
		t.Errorf("%d bytes are kept", c.Conn().Held())
	}
	n.Advance(10 * time.Second)
}

// A connection that Listener.Accept refuses, or that finds the reactor at its limit for a second,
// gets the refusal and is closed, in plain or by an alert. At the limit it is counted, and
// connections that end make room.
func TestAttackT02K26Refusals(t *testing.T) {
	h := new(echo)
	var deny atomic.Bool
	refusal := func(full bool) []byte { return fmt.Appendf(nil, "full: %v", full) }
	accept := func(netip.AddrPort) bool { return !deny.Load() }
	r, addr := serve(t, reactor.Config{Connections: 2,
		Listeners: []reactor.Listener{{Addr: "127.0.0.1:0", Handler: h, Accept: accept, Refusal: refusal}}})
	secure, err := r.Listen(reactor.Listener{Addr: "127.0.0.1:0", Handler: h, Accept: accept, Refusal: refusal,
		DirectTLS: serverTLS(t)})
	if err != nil {
		t.Fatal(err)
	}
	readAll := func(addr string) string {
		c := dial(t, addr)
		defer c.Close()
		c.SetDeadline(time.Now().Add(20 * time.Second))
		b, err := io.ReadAll(c)
		if err != nil {
			t.Error(err)
		}
		return string(b)
	}
	deny.Store(true)
	if got := readAll(addr); got != "full: false" {
		t.Errorf("a refused one got %q", got)
	}
	if got := readAll(secure.String()); got != "\x15\x03\x03\x00\x02\x02\x50" {
		t.Errorf("a refused one got %q where TLS comes first", got)
	}
	deny.Store(false)
	in := []net.Conn{dial(t, addr), dial(t, addr)}
	for _, c := range in {
		exchange(t, c, "in")
	}
	if got := readAll(addr); got != "full: true" || r.Refused() == 0 {
		t.Errorf("at the cap it got %q, and %d are counted", got, r.Refused())
	}
	in[0].Close()
	waitFor(t, func() bool { return r.Connections() < 2 })
	c := dial(t, addr)
	exchange(t, c, "again")
}

// What a handler appends to a connection that it closes during the handshake does not leave in
// plain.
func TestNothingPlainInAHandshake(t *testing.T) {
	d := newDesk()
	n := reactortest.New(1, reactor.Config{Loops: 1})
	c := n.ConnectTo(0, reactor.Listener{Handler: d, DirectTLS: serverTLS(t)})
	c.Conn().Append([]byte("between us"))
	c.Conn().Close(nil)
	if got := c.Received(); len(got) != 0 || !c.Ended() {
		t.Errorf("%q", got)
	}
}
