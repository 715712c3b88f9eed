package reactor_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"canto/reactor"
	"canto/reactor/reactortest"
)

// echo writes back what it gets.
type echo struct {
	secure, closed atomic.Int32
	panics         bool
	mu             sync.Mutex
	errs           []error
}

func (e *echo) OnOpen(c *reactor.Conn) {}
func (e *echo) OnData(c *reactor.Conn, p []byte) int {
	if bytes.Contains(p, []byte("panic")) {
		panic("asked for")
	}
	if bytes.Contains(p, []byte("bye")) {
		c.Append([]byte("farewell"))
		c.Close(nil)
		return len(p)
	}
	c.Append(p)
	return len(p)
}
func (e *echo) OnSecure(*reactor.Conn, *tls.ConnectionState) { e.secure.Add(1) }
func (e *echo) OnTimer(*reactor.Conn)                        {}
func (e *echo) OnDrain(*reactor.Conn)                        {}
func (e *echo) OnClose(_ *reactor.Conn, err error) {
	e.mu.Lock()
	e.errs = append(e.errs, err)
	e.mu.Unlock()
	e.closed.Add(1)
}

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

// serve runs a reactor until the test ends, and returns it with the address of its first port.
func serve(t testing.TB, cfg reactor.Config) (*reactor.Reactor, string) {
	t.Helper()
	cfg.Log = quiet
	if cfg.Loops == 0 {
		cfg.Loops = 2
	}
	r, err := reactor.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return r, r.Addrs()[0]
}

func dial(t testing.TB, addr string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	return c
}

func exchange(t testing.TB, c io.ReadWriter, text string) {
	t.Helper()
	if _, err := c.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, len(text))
	if _, err := io.ReadFull(c, b); err != nil || string(b) != text {
		t.Fatalf("echo of %q: %q, %v", text, b, err)
	}
}

func TestEcho(t *testing.T) {
	h := new(echo)
	_, addr := serve(t, reactor.Config{Listeners: []reactor.Listener{{Addr: "127.0.0.1:0", Handler: h}}})
	for range 50 {
		exchange(t, dial(t, addr), "hello")
	}
	c := dial(t, addr)
	c.Write([]byte("bye"))
	if b, err := io.ReadAll(c); string(b) != "farewell" || err != nil {
		t.Fatalf("%q, %v: what was appended before a close is lost", b, err)
	}
}

// A panic in a handler ends its connection and nothing else.
func TestAttackK28Panic(t *testing.T) {
	h := new(echo)
	r, addr := serve(t, reactor.Config{Loops: 1,
		Listeners: []reactor.Listener{{Addr: "127.0.0.1:0", Handler: h}}})
	other, c := dial(t, addr), dial(t, addr)
	exchange(t, other, "before")
	c.Write([]byte("panic"))
	if _, err := io.ReadAll(c); err != nil {
		t.Fatal(err)
	}
	exchange(t, other, "after")
	waitFor(t, func() bool { return r.Loops()[0].Meter().Panics == 1 && h.closed.Load() >= 1 })
	h.mu.Lock()
	defer h.mu.Unlock()
	if !errors.Is(h.errs[0], reactor.ErrPanic) {
		t.Fatalf("OnClose got %v", h.errs)
	}
}

func waitFor(t testing.TB, f func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it never came to that")
		}
	}
}

func TestPortInUse(t *testing.T) {
	_, addr := serve(t, reactor.Config{Listeners: []reactor.Listener{{Addr: "127.0.0.1:0", Handler: new(echo)}}})
	if _, err := reactor.New(reactor.Config{Log: quiet,
		Listeners: []reactor.Listener{{Addr: addr, Handler: new(echo)}}}); err == nil {
		t.Fatal("a second reactor opened the same port")
	}
}

// When the context of Run ends, OnShutdown is called for each connection, which is flushed and
// closed.
func TestDrain(t *testing.T) {
	h := new(echo)
	cfg := reactor.Config{Log: quiet, Loops: 2, Listeners: []reactor.Listener{{Addr: "127.0.0.1:0", Handler: h}},
		OnShutdown: func(c *reactor.Conn) { c.Append([]byte("shutdown")) }}
	r, err := reactor.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	var conns []net.Conn
	for range 20 {
		c := dial(t, r.Addrs()[0])
		exchange(t, c, "x")
		conns = append(conns, c)
	}
	stop()
	for _, c := range conns {
		b, err := io.ReadAll(c)
		if string(b) != "shutdown" || err != nil {
			t.Fatalf("%q, %v", b, err)
		}
		c.Close()
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if h.closed.Load() != 20 {
		t.Fatalf("OnClose was called %d times", h.closed.Load())
	}
}

// Parked input, and output that a socket does not take, are counted while they wait, and no longer.
func TestWaitingBytes(t *testing.T) {
	n := reactortest.New(1, reactor.Config{Loops: 1})
	var conn *reactor.Conn
	take := 10
	h := &script{
		open: func(c *reactor.Conn) { conn = c },
		data: func(c *reactor.Conn, p []byte) int {
			if take < len(p) {
				c.Pause()
			}
			return min(take, len(p))
		},
	}
	see := func(what string, parked, outbox int) {
		t.Helper()
		n.Run() // what is resumed goes on
		n.Advance(100 * time.Millisecond)
		if m := n.Loops()[0].Meter(); m.ParkedBytes != parked || m.OutboxBytes != outbox {
			t.Errorf("%s: %d bytes are parked and %d in outboxes, not %d and %d", what, m.ParkedBytes, m.OutboxBytes,
				parked, outbox)
		}
	}
	c := n.Connect(0, h)
	c.Send(make([]byte, 1000))
	see("paused", 990, 0)
	take = 100
	conn.Resume()
	see("once more", 890, 0)
	take = 1000
	conn.Resume()
	see("taken", 0, 0)
	c.SetWindow(0)
	conn.Append(make([]byte, 100_000))
	n.Run()
	see("no room", 0, 100_000)
	c.SetWindow(-1)
	see("room", 0, 0)
	take = 1
	c.Send(make([]byte, 500))
	see("paused again", 499, 0)
	conn.Close(nil)
	n.Run()
	see("closed", 0, 0)
}
