package reactor_test

import (
	"bytes"
	"crypto/tls"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"canto/reactor"
	"canto/reactor/reactortest"
)

// A line joins two connections of one Net: what one end writes reaches the other when its time has come.
type addrQueue struct {
	a, b *reactortest.Client
	way  []parcel
}

type parcel struct {
	at time.Time
	to *reactortest.Client
	p  []byte
}

// move takes what was written into the line, and out of it what has arrived by now.
func (l *addrQueue) move(now time.Time, delay time.Duration) {
	for _, d := range []struct{ from, to *reactortest.Client }{{l.a, l.b}, {l.b, l.a}} {
		if p := d.from.Take(); len(p) > 0 {
			l.way = append(l.way, parcel{now.Add(delay), d.to, p})
		}
	}
	for len(l.way) > 0 && !l.way[0].at.After(now) {
		l.way[0].to.Write(l.way[0].p)
		l.way = l.way[1:]
	}
}

// 500 clients with lines of 200 ms finish their handshakes within 2 s of fake time, while 200
// others stop after the ClientHello: a handshake that waits for its peer holds no handshake slot.
// Goroutines run until all of them wait before the clock moves, so nothing here depends on the
// speed of the machine (T17, K27).
func TestAttackT17K27FakeTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := reactortest.New(1, reactor.Config{Loops: 2, HandshakesPerAddr: 4096})
		conf := serverTLS(t)
		secure, ended := 0, 0
		server := &script{secure: func(c *reactor.Conn, st *tls.ConnectionState) { secure++ },
			closed: func(*reactor.Conn, error) { ended++ }}
		ln := reactor.Listener{Handler: server, DirectTLS: conf}
		for range 200 {
			n.ConnectTo(0, ln).Send([]byte{0x16, 3, 1, 2, 0, 1, 0, 1, 0xFC, 3, 3}) // and no more
		}
		client := &script{open: func(c *reactor.Conn) {
			if err := c.StartTLS(&tls.Config{InsecureSkipVerify: true, NextProtos: []string{"xmpp-client"}},
				reactor.ClientRole); err != nil {
				t.Error(err)
			}
		}}
		var lines []*addrQueue
		for i := range 500 {
			lines = append(lines, &addrQueue{a: n.Connect(i, client), b: n.ConnectTo(i, ln)})
		}
		const delay = 100 * time.Millisecond // each way
		waited := time.Duration(0)
		for secure < 500 {
			settle(n)
			if held := n.SlotsHeld(); held != 0 {
				t.Fatalf("%d CPU slots are held after %v while all wait for their peers", held, waited)
			}
			for _, l := range lines {
				l.move(n.Now(), delay)
			}
			settle(n)
			if waited >= 2*time.Second {
				break
			}
			n.Advance(delay)
			waited += delay
		}
		if secure != 500 {
			t.Fatalf("%d of 500 are secure after %v", secure, waited)
		}
		if ended != 0 || n.Shaking() < 200 {
			t.Fatalf("%d ended early; %d handshakes are in flight", ended, n.Shaking())
		}
		for n.Now().Before(reactortest.Start.Add(11 * time.Second)) {
			n.Advance(time.Second)
			settle(n)
		}
		if ended != 200 || n.Shaking() != 0 || n.SlotsHeld() != 0 {
			t.Fatalf("after 11 s %d of the 200 have ended, %d handshakes are in flight, %d slots held", ended,
				n.Shaking(), n.SlotsHeld())
		}
		for _, l := range lines {
			l.a.Hangup(nil)
			l.b.Hangup(nil)
		}
		settle(n)
	})
}

// At the limit of handshakes in flight the next is refused; its place is free again when one ends (K26).
func TestAttackK26Handshakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := reactortest.New(1, reactor.Config{Loops: 1, Handshakes: 10, HandshakesPerAddr: 8})
		var reasons []error
		h := &script{closed: func(_ *reactor.Conn, err error) { reasons = append(reasons, err) }}
		ln := reactor.Listener{Handler: h, DirectTLS: serverTLS(t)}
		var in []*reactortest.Client
		hello := func() *reactortest.Client {
			c := n.ConnectTo(0, ln)
			c.Send([]byte{0x16})
			return c
		}
		for range 8 {
			in = append(in, hello())
		}
		ninth := hello() // of the same address
		settle(n)
		if got := ninth.Take(); !bytes.Equal(got, []byte{21, 3, 3, 0, 2, 2, 80}) {
			t.Errorf("the refused one got %x", got)
		}
		if len(reasons) != 1 || reasons[0] != reactor.ErrTooManyHandshakes || n.Shaking() != 8 {
			t.Fatalf("%v, %d in flight", reasons, n.Shaking())
		}
		in[0].Close(nil)
		settle(n)
		in = append(in, hello())
		settle(n)
		if len(reasons) != 2 || n.Shaking() != 8 {
			t.Fatalf("%v, %d in flight: its place was not used again", reasons, n.Shaking())
		}
		for _, c := range in[1:] {
			c.Close(nil)
		}
		settle(n)
		if n.Shaking() != 0 || n.SlotsHeld() != 0 {
			t.Fatalf("%d in flight, %d slots held", n.Shaking(), n.SlotsHeld())
		}
		n.Advance(3 * time.Second) // the refused one lingers
		settle(n)
	})
}

// A loop that waits for a processor, as after a system call, gets one before many handshakes have
// followed each other; while many connections wait for admission, after one or two.
func TestHandshakesLetLoopsIn(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	for _, c := range []struct {
		queued int
		most   int64
	}{{0, 30}, {1000, 3}} {
		s := reactor.NewSlots(1, c.queued)
		var stop atomic.Bool
		var done atomic.Int64
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for !stop.Load() {
					s.Take()
					for end := time.Now().Add(200 * time.Microsecond); time.Now().Before(end); {
					}
					done.Add(1)
					s.Leave()
				}
			})
		}
		var between []int64
		for last := int64(0); len(between) < 100; {
			runtime.Gosched() // a goroutine without a processor waits in the same queue as a loop
			now := done.Load()
			between, last = append(between, now-last), now
		}
		stop.Store(true)
		wg.Wait()
		slices.Sort(between)
		if mid := between[len(between)/2]; mid > c.most {
			t.Errorf("%d queued: %d handshakes followed each other while a goroutine waited; median of %v",
				c.queued, mid, between)
		}
	}
}
