package reactor_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/panjf2000/gnet/v2"
	engineerrors "github.com/panjf2000/gnet/v2/pkg/errors"
	"github.com/panjf2000/gnet/v2/pkg/logging"
	"pgregory.net/rapid"

	"canto/reactor"
	"canto/reactor/buf"
	"canto/reactor/reactortest"
)

// A write that fails calls back before it returns: the connection ends once, at the end of the turn and
// not inside a callback, and nothing is written to it any more.
func TestWriteFails(t *testing.T) {
	for _, how := range []string{"append", "close", "drain"} {
		n := reactortest.New(1, reactor.Config{Loops: 1})
		inside, closes := false, 0
		var reason error
		var writes *int
		h := &script{}
		enter := func(f func()) { inside = true; f(); inside = false }
		h.data = func(c *reactor.Conn, p []byte) int {
			enter(func() {
				writes = c.FailWrites()
				c.Append(bytes.Repeat([]byte("x"), 200_000)) // more than one write
				if how == "close" {
					c.Close(nil)
				}
			})
			return len(p)
		}
		h.drain = func(c *reactor.Conn) { t.Error("OnDrain of a connection that has ended") }
		h.closed = func(_ *reactor.Conn, err error) {
			if inside {
				t.Error("OnClose inside a callback")
			}
			closes, reason = closes+1, err
		}
		c := n.Connect(0, h)
		if how == "drain" {
			c.SetWindow(0)
			c.Conn().Append(make([]byte, 100_000))
			n.Run()
			c.SetWindow(-1)
		}
		c.Send([]byte("go"))
		n.Advance(10 * time.Second)
		if closes != 1 || n.Connections() != 0 || how != "close" && reason == nil {
			t.Errorf("%s: OnClose was called %d times, with %v; %d connections are left", how, closes, reason,
				n.Connections())
		}
		c.Conn().Append([]byte("late"))
		n.Run()
		if *writes != 1 {
			t.Errorf("%s: %d writes, the first of which failed", how, *writes)
		}
	}
}

// What the engine itself keeps for a reader that doesn't read is bounded: the rest stays in the outbox,
// where it is counted (K21).
func TestAttackK21Engine(t *testing.T) {
	for _, secure := range []bool{false, true} {
		conns := make(chan *reactor.Conn, 1)
		h := &script{data: func(c *reactor.Conn, p []byte) int { conns <- c; return len(p) }}
		ln := reactor.Listener{Addr: "127.0.0.1:0", Handler: h}
		if secure {
			ln.DirectTLS = serverTLS(t)
		}
		_, addr := serve(t, reactor.Config{Loops: 1, Listeners: []reactor.Listener{ln}})
		c := dial(t, addr)
		if secure {
			c = tls.Client(c, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"xmpp-client"}})
		}
		c.Write([]byte("x"))
		conn := <-conns
		type sizes struct{ engine, outbox int }
		got := make(chan sizes)
		most := sizes{}
		for range 50 { // each fills the outbox before anything is written
			conn.Loop().Post(func() {
				for conn.Append(make([]byte, 50_000)) {
				}
			})
			conn.Loop().Post(func() {
				conn.Loop().Post(func() { got <- sizes{conn.EngineConn().OutboundBuffered(), conn.Buffered()} })
			})
			now := <-got
			most = sizes{max(most.engine, now.engine), max(most.outbox, now.outbox)}
		}
		if most.outbox > 1<<20+50_000 || most.outbox < 1<<20 { // below the limit one more element is taken
			t.Errorf("tls=%v: the outbox had up to %d bytes", secure, most.outbox)
		}
		if most.engine > 66<<10 || most.engine == 0 {
			t.Errorf("tls=%v: the engine kept up to %d bytes", secure, most.engine)
		}
	}
}

// However many pieces a turn appends, they leave in one write: the engine closes a connection that it
// gives more than 1,024 segments.
func TestManyAppends(t *testing.T) {
	h := &script{data: func(c *reactor.Conn, p []byte) int {
		for i := range 5000 {
			c.Append(fmt.Appendf(nil, "%04d ", i))
		}
		return len(p)
	}}
	r, addr := serve(t, reactor.Config{Loops: 1,
		Listeners: []reactor.Listener{{Addr: "127.0.0.1:0", Handler: h}}})
	c := dial(t, addr)
	c.Write([]byte("x"))
	b := make([]byte, 25_000)
	if _, err := io.ReadFull(c, b); err != nil || !bytes.HasSuffix(b, []byte("4998 4999 ")) {
		t.Fatalf("%q, %v", b[len(b)-20:], err)
	}
	waitFor(t, func() bool { return r.Loops()[0].Meter().BytesOut == 25_000 })
	if w := r.Loops()[0].Meter().Writes; w != 1 {
		t.Fatalf("%d writes", w)
	}
}

// The engine logs to standard output unless it is given a logger: all it says goes to ours.
func TestEngineLog(t *testing.T) {
	var log bytes.Buffer
	r, err := reactor.New(reactor.Config{Loops: 1, Log: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	logging.GetDefaultLogger().Fatalf("the engine says %d", 42)
	if !strings.Contains(log.String(), "the engine says 42") {
		t.Errorf("our log has %q", log.String())
	}
	ctx, stop := context.WithCancel(context.Background())
	stop()
	r.Run(ctx)
}

// An engine, or one loop of it, that ends without being asked is an error of Run with a cause.
func TestEngineEnds(t *testing.T) {
	for _, victim := range []int{0, 1} {
		h := new(echo)
		r, err := reactor.New(reactor.Config{Log: quiet, Loops: 2,
			Listeners: []reactor.Listener{{Addr: "127.0.0.1:0", Handler: h}}})
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- r.Run(context.Background()) }()
		c := dial(t, r.Addrs()[0])
		exchange(t, c, "alive")
		r.Loops()[victim].EngineLoop().Execute(context.Background(), gnet.RunnableFunc(func(context.Context) error {
			return engineerrors.ErrEngineShutdown
		}))
		select {
		case err := <-done:
			if err == nil || !strings.Contains(err.Error(), "ended by itself") {
				t.Fatalf("Run: %v", err)
			}
		case <-time.After(20 * time.Second):
			t.Fatal("a loop has ended, and Run goes on")
		}
		if _, err := net.Dial("tcp", r.Addrs()[0]); err == nil {
			t.Error("the port is still open")
		}
	}
}

// A panic in any callback ends its own connection, or nothing, and the loop goes on (K28).
func TestAttackK28EachCallback(t *testing.T) {
	for _, where := range []string{"open", "data", "timer", "drain", "close", "post", "atend", "wheel",
		"overflow", "worker", "write"} {
		n := reactortest.New(1, reactor.Config{Loops: 1, NoPause: where == "overflow", OutboxBytes: 1 << 20})
		closes := 0
		armed := true
		hit := func(at string) {
			if at == where && armed {
				panic("in " + at)
			}
		}
		var conn *reactor.Conn
		l := n.Loops()[0]
		var timer reactor.Timer
		h := &lastWord{&stopper{script: script{
			open: func(c *reactor.Conn) { conn = c; hit("open") },
			data: func(c *reactor.Conn, p []byte) int {
				hit("data")
				switch where {
				case "timer":
					c.Arm(l.Tick() + 1)
				case "post":
					l.Post(func() { hit("post") })
				case "atend":
					l.AtTurnEnd(func() { hit("atend") })
				case "wheel":
					l.Arm(&timer, l.Tick()+1, timed(func() { hit("wheel") }))
				case "overflow":
					c.Pause()
				case "write":
					c.PanicWrites()
					c.Append(p)
				case "worker":
					n.Workers().Do(reactor.Disk, l, func() error { hit("worker"); return nil }, func(err error) {
						if err == nil {
							t.Error("a panic in a worker is no error")
						}
					})
				}
				return len(p)
			},
			timer:  func(*reactor.Conn) { hit("timer") },
			drain:  func(*reactor.Conn) { hit("drain") },
			closed: func(*reactor.Conn, error) { closes++; hit("close") },
		}}}
		var handler reactor.Handler = &h.script
		if where == "overflow" {
			handler = &panicking{&h.script}
		}
		c := n.Connect(0, handler)
		c.Send([]byte("x"))
		switch where {
		case "drain":
			c.SetWindow(0)
			conn.Append(make([]byte, 100_000))
			n.Run()
			c.SetWindow(-1)
		case "overflow":
			c.Send(make([]byte, 200_000))
		case "close":
			c.Close(nil)
		}
		n.Advance(10 * time.Second)
		l.Post(func() {}) // the meter is copied by ticks
		n.Advance(time.Second)
		want := uint64(1)
		if where == "worker" {
			want = 0 // it isn't the loop's
		}
		if got := l.Meter().Panics; got != want {
			t.Errorf("%s: %d panics were counted", where, got)
		}
		switch where {
		case "post", "atend", "wheel", "worker": // of no connection: all stay open
			if closes != 0 {
				t.Errorf("%s: the connection was closed", where)
			}
		default:
			if closes != 1 || n.Connections() != 0 {
				t.Errorf("%s: OnClose was called %d times, %d connections are left", where, closes, n.Connections())
			}
		}
		armed = false
		again := n.Connect(0, &script{data: func(c *reactor.Conn, p []byte) int { c.Append(p); return len(p) }})
		again.Send([]byte("alive"))
		if got := again.Received(); string(got) != "alive" {
			t.Errorf("%s: the next connection got %q", where, got)
		}
	}
}

type timed func()

func (f timed) OnTimer(*reactor.Loop) { f() }

type panicking struct{ *script }

func (*panicking) OnOverflow(*reactor.Conn) { panic("in overflow") }

// Whatever happens to a connection in whatever order: OnOpen comes first, OnClose once and last, nothing
// is read while it is paused, nothing arrives twice or out of order, and no buffer stays lent.
func TestLifecycle(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		lent := buf.Outbox.InUse() + buf.Input.InUse()
		n := reactortest.New(1, reactor.Config{Loops: 1, OutboxBytes: 200_000,
			NoPause: rapid.Bool().Draw(t, "nopause")})
		opened, closed, paused := false, 0, false
		in := byte(0) // what comes next
		check := func(what string) {
			if !opened || closed > 0 {
				t.Fatalf("%s: opened %v, closed %d", what, opened, closed)
			}
		}
		var conn *reactor.Conn
		h := &script{
			open: func(c *reactor.Conn) { conn, opened = c, true },
			data: func(c *reactor.Conn, p []byte) int {
				check("OnData")
				if paused || len(p) == 0 {
					t.Fatalf("%d bytes; paused %v", len(p), paused)
				}
				for i, b := range p {
					if b != in {
						t.Fatalf("byte %d came, not %d", b, in)
					}
					in++
					if b == 77 { // takes no more for now
						paused = true
						c.Pause()
						return i + 1
					}
				}
				return len(p)
			},
			timer:  func(*reactor.Conn) { check("OnTimer") },
			drain:  func(*reactor.Conn) { check("OnDrain") },
			closed: func(*reactor.Conn, error) { check("OnClose"); closed++ },
		}
		c := n.Connect(0, h)
		next, hung, failing := byte(0), false, false
		some := func(max int) []byte {
			p := make([]byte, rapid.IntRange(1, max).Draw(t, "n"))
			for i := range p {
				p[i] = next
				next++
			}
			return p
		}
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			switch rapid.IntRange(0, 11).Draw(t, "op") {
			case 0, 1:
				if !hung {
					c.Write(some(100_000))
				}
			case 2:
				conn.Append(make([]byte, rapid.IntRange(1, 150_000).Draw(t, "out")))
			case 3:
				if !paused && closed == 0 {
					paused = true
					conn.Pause()
				}
			case 4, 5:
				if closed == 0 {
					paused = false
					conn.Resume()
				}
			case 6:
				conn.Close(nil)
			case 7:
				if !hung {
					hung = true
					c.Hangup(rapid.SampledFrom([]error{nil, io.ErrUnexpectedEOF}).Draw(t, "err"))
				}
			case 8:
				c.SetWindow(rapid.SampledFrom([]int{0, 1000, 100_000, -1}).Draw(t, "room"))
			case 9:
				conn.Arm(n.Reactor.Tick().After(time.Duration(rapid.IntRange(0, 300).Draw(t, "arm")) * time.Millisecond))
			case 10:
				n.Advance(time.Duration(rapid.IntRange(1, 3000).Draw(t, "ms")) * time.Millisecond)
			case 11:
				if !failing && closed == 0 && !hung && rapid.IntRange(0, 5).Draw(t, "fail") == 0 {
					failing = true
					conn.FailWrites()
				}
			}
			if rapid.Bool().Draw(t, "run") {
				n.Run()
			}
		}
		conn.Close(nil)
		n.Advance(10 * time.Second)
		if closed != 1 || n.Connections() != 0 {
			t.Fatalf("closed %d times, %d connections are left", closed, n.Connections())
		}
		conn.Append([]byte("late"))
		conn.Close(nil)
		n.Run()
		if now := buf.Outbox.InUse() + buf.Input.InUse(); now != lent {
			t.Fatalf("%d buffers are lent, %d before", now, lent)
		}
	})
}

// Dialling has a deadline, though the engine's own has none: a peer that answers no SYN is given up.
func TestDialTimeout(t *testing.T) {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fd)
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	syscall.Listen(fd, 0)
	sa, _ := syscall.Getsockname(fd)
	addr := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(sa.(*syscall.SockaddrInet4).Port))
	r, _ := serve(t, reactor.Config{Listeners: []reactor.Listener{{Addr: "127.0.0.1:0", Handler: new(echo)}}})
	failed := make(chan error, 10)
	for range 10 { // the backlog has room for one or two
		r.Dial(r.Loops()[0], reactor.DialConfig{Addr: addr, Timeout: 200 * time.Millisecond,
			Handler: new(script)}, func(err error) {
			failed <- err
		})
	}
	var ne net.Error
	if err := <-failed; !errors.As(err, &ne) || !ne.Timeout() {
		t.Fatal(err)
	}
}

// The engine keeps no addresses beside ours, and a peer's is known for as long as the connection is.
func TestEngineForgetsAddresses(t *testing.T) {
	opened := make(chan *reactor.Conn, 1)
	h := &script{open: func(c *reactor.Conn) { opened <- c }}
	_, addr := serve(t, reactor.Config{Loops: 1,
		Listeners: []reactor.Listener{{Addr: "127.0.0.1:0", Handler: h}}})
	nc := dial(t, addr)
	c := <-opened
	got := make(chan [3]string, 1)
	c.Loop().Post(func() {
		e := c.EngineConn()
		got <- [3]string{c.Remote().String(), fmt.Sprint(e.LocalAddr()), fmt.Sprint(e.RemoteAddr())}
	})
	if g := <-got; g != [3]string{nc.LocalAddr().String(), "<nil>", "<nil>"} {
		t.Errorf("remote, and the engine's local and remote: %v; we are %v", g, nc.LocalAddr())
	}
}

// connectPair returns two ends of one connection, also if another process connects to the port
// meanwhile.
func TestPairOn(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	stranger, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	a, b, err := reactor.PairOn(ln)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	defer b.Close()
	if a.LocalAddr().String() != b.RemoteAddr().String() {
		t.Errorf("%v is paired with that of %v", a.LocalAddr(), b.RemoteAddr())
	}
}
