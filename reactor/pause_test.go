package reactor_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"canto/reactor"
	"canto/reactor/reactortest"
)

// stopper pauses as soon as it gets something, and counts.
type stopper struct {
	script
	seen  atomic.Int64
	conns chan *reactor.Conn
	ended chan error
	sum   byte
}

func newStopper() *stopper {
	s := &stopper{conns: make(chan *reactor.Conn, 1), ended: make(chan error, 1)}
	s.data = func(c *reactor.Conn, p []byte) int {
		for _, b := range p {
			s.sum += b
		}
		if s.seen.Add(int64(len(p))) == int64(len(p)) {
			c.Pause()
			s.conns <- c
		}
		return len(p)
	}
	s.closed = func(_ *reactor.Conn, err error) { s.ended <- err }
	return s
}

// A paused connection with a peer that reads slowly: gnet puts it back in its read set whenever its
// write buffer fills or drains. That must read nothing and must not end the connection, in plain
// and with TLS (K20).
func TestAttackK20SlowReader(t *testing.T) {
	for _, secure := range []bool{false, true} {
		s := newStopper()
		ln := reactor.Listener{Addr: "127.0.0.1:0", Handler: s}
		if secure {
			ln.DirectTLS = serverTLS(t)
		}
		_, addr := serve(t, reactor.Config{Loops: 1, Listeners: []reactor.Listener{ln}})
		c := dial(t, addr)
		if secure {
			c = tls.Client(c, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"xmpp-client"}})
		}
		c.Write([]byte{1})
		conn := <-s.conns
		const input = 32 << 20 // more than any socket buffer holds
		sent := make(chan error, 1)
		go func() { _, err := c.Write(bytes.Repeat([]byte{1}, input)); sent <- err }()
		chunk := bytes.Repeat([]byte("o"), 100_000)
		for range 8 {
			out := 0
			for { // until the socket, the engine and the outbox are full
				if out > 100<<20 {
					t.Fatalf("tls=%v: it took %d bytes: %v", secure, out, <-s.ended)
				}
				if !conn.Append(chunk) {
					full := make(chan bool)
					conn.Loop().Post(func() { full <- conn.Buffered() > 0 })
					<-full
					select {
					case err := <-s.ended:
						t.Fatalf("tls=%v: it ended: %v", secure, err)
					default:
					}
					if !conn.Append(chunk) {
						break
					}
				}
				out += len(chunk)
			}
			if _, err := io.CopyN(io.Discard, c, int64(out)); err != nil {
				t.Fatalf("tls=%v: %v after %d bytes of input", secure, err, s.seen.Load())
			}
		}
		if n := s.seen.Load(); n != 1 {
			t.Fatalf("tls=%v: %d bytes were read while paused", secure, n)
		}
		select {
		case err := <-sent:
			t.Fatalf("tls=%v: 32 MB went to a paused connection: %v", secure, err)
		default:
		}
		conn.Loop().Post(conn.Resume)
		if err := <-sent; err != nil {
			t.Fatalf("tls=%v: %v", secure, err)
		}
		waitFor(t, func() bool { return s.seen.Load() == input+1 })
		c.Close()
		if err := <-s.ended; err != nil {
			t.Fatal(err)
		}
	}
}

// A peer that sends much and then FIN is read to the end, with pauses in between, and its
// connection ends cleanly.
func TestPauseBeforeFIN(t *testing.T) {
	var seen atomic.Int64
	ended := make(chan error, 1)
	h := &script{closed: func(_ *reactor.Conn, err error) { ended <- err }}
	h.data = func(c *reactor.Conn, p []byte) int {
		seen.Add(int64(len(p)))
		c.Pause()
		c.Loop().Post(func() { c.Loop().Post(c.Resume) })
		return len(p)
	}
	_, addr := serve(t, reactor.Config{Loops: 1,
		Listeners: []reactor.Listener{{Addr: "127.0.0.1:0", Handler: h}}})
	for range 5 {
		seen.Store(0)
		c := dial(t, addr)
		const size = 4 << 20
		if _, err := c.Write(make([]byte, size)); err != nil {
			t.Fatal(err)
		}
		c.(*net.TCPConn).CloseWrite()
		if err := <-ended; err != nil || seen.Load() != size {
			t.Fatalf("%d of %d bytes, %v", seen.Load(), size, err)
		}
		c.Close()
	}
}

// If the engine can't pause, which is tried at start, the log says so once, and a connection that
// sends ahead of a pause is closed at a bound; its handler may send a last error.
func TestNoPause(t *testing.T) {
	for _, secure := range []bool{false, true} {
		for _, word := range []string{"", "policy"} {
			var log bytes.Buffer
			s := newStopper()
			var h reactor.Handler = s
			if word != "" {
				h = &lastWord{stopper: s}
			}
			ln := reactor.Listener{Addr: "127.0.0.1:0", Handler: h}
			if secure {
				ln.DirectTLS = serverTLS(t)
			}
			r, err := reactor.New(reactor.Config{Loops: 2, NoPause: true,
				Log: slog.New(slog.NewTextHandler(&log, nil)), Listeners: []reactor.Listener{ln}})
			if err != nil {
				t.Fatal(err)
			}
			if strings.Count(log.String(), "can't pause") != 1 {
				t.Fatalf("the log says %q", log.String())
			}
			ctx, stop := context.WithCancel(context.Background())
			done := make(chan error, 1)
			go func() { done <- r.Run(ctx) }()
			c := dial(t, r.Addrs()[0])
			if secure {
				c = tls.Client(c, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"xmpp-client"}})
			}
			c.Write([]byte("x"))
			conn := <-s.conns
			c.Write(make([]byte, 100_000)) // below the cap: kept
			go c.Write(make([]byte, 32<<20))
			b, _ := io.ReadAll(c)
			if string(b) != word {
				t.Errorf("tls=%v: the last word was %q, not %q", secure, b, word)
			}
			if err := <-s.ended; word == "" && !errors.Is(err, reactor.ErrInputOverflow) || word != "" &&
				err != errWord {
				t.Errorf("tls=%v: OnClose got %v", secure, err)
			}
			if s.seen.Load() != 1 {
				t.Errorf("%d bytes were read while paused", s.seen.Load())
			}
			_ = conn
			c.Close()
			stop()
			if err := <-done; err != nil {
				t.Fatal(err)
			}
		}
	}
}

var errWord = errors.New("policy-violation")

type lastWord struct{ *stopper }

func (l *lastWord) OnOverflow(c *reactor.Conn) {
	c.Append([]byte("policy"))
	c.Close(errWord)
}

// The engine of all other tests can pause, so the log has no warning.
func TestPauseTried(t *testing.T) {
	var log bytes.Buffer
	r, err := reactor.New(reactor.Config{Loops: 2, Log: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	stop()
	if err := r.Run(ctx); err != nil || log.Len() > 0 {
		t.Fatalf("%v, %q", err, log.String())
	}
}

// What is parked and what is dropped, in memory: up to the bound all is delivered after Resume, in
// order; beyond it nothing more is delivered, not even input that would fit.
func TestParked(t *testing.T) {
	n := reactortest.New(1, reactor.Config{Loops: 1, NoPause: true})
	var got []byte
	var ended error
	h := &script{data: func(c *reactor.Conn, p []byte) int { got = append(got, p...); c.Pause(); return len(p) },
		closed: func(_ *reactor.Conn, err error) { ended = err }}
	c := n.Connect(0, h)
	c.Send([]byte("a"))
	c.Send(bytes.Repeat([]byte("b"), 60_000))
	c.Send(bytes.Repeat([]byte("c"), 60_000))
	c.Conn().Resume()
	n.Run()
	if want := "a" + strings.Repeat("b", 60_000) + strings.Repeat("c", 60_000); string(got) != want {
		t.Fatalf("%d of %d bytes", len(got), len(want))
	}
	c.Send(bytes.Repeat([]byte("d"), 140_000))
	c.Conn().Resume()
	c.Send([]byte("e"))
	n.Advance(3 * time.Second)
	if !errors.Is(ended, reactor.ErrInputOverflow) || bytes.Contains(got, []byte("e")) {
		t.Fatalf("%v", ended)
	}

	// The same within one turn: a stream with a gap would be another stream.
	c, got = n.Connect(0, h), nil
	c.Send([]byte("a"))
	c.Feed(bytes.Repeat([]byte("f"), 128<<10))
	c.Feed([]byte("g"))
	c.Conn().Resume()
	c.Feed([]byte("e"))
	n.Run()
	if string(got) != "a" {
		t.Fatalf("after an overflow %d bytes came, and at their end %q", len(got), got[len(got)-1])
	}
}

// together is a net.Conn that keeps what is written until it is flushed.
type together struct {
	net.Conn
	b []byte
}

func (c *together) Write(p []byte) (int, error) { c.b = append(c.b, p...); return len(p), nil }

func (c *together) flush(t *testing.T) {
	t.Helper()
	if _, err := c.Conn.Write(c.b); err != nil {
		t.Fatal(err)
	}
	c.b = nil
}

// TLS records that came with a question are kept although the peer hangs up before the reply.
func TestPauseForReplyTLS(t *testing.T) {
	var got atomic.Int64
	conns, ended := make(chan *reactor.Conn, 2), make(chan error, 1)
	s := &script{closed: func(_ *reactor.Conn, err error) { ended <- err }}
	s.data = func(c *reactor.Conn, p []byte) int {
		if got.Add(1) > 1 { // the first byte shows that the handshake is over
			c.PauseForReply()
			conns <- c
		}
		return len(p)
	}
	_, addr := serve(t, reactor.Config{Loops: 1,
		Listeners: []reactor.Listener{{Addr: "127.0.0.1:0", Handler: s, DirectTLS: serverTLS(t)}}})
	w := &together{Conn: dial(t, addr)}
	c := tls.Client(&flushing{w}, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"xmpp-client"}})
	if err := c.Handshake(); err != nil {
		t.Fatal(err)
	}
	c.Write([]byte("."))
	w.flush(t)
	waitFor(t, func() bool { return got.Load() == 1 })
	c.Write([]byte("q"))
	c.Write([]byte("q"))
	w.flush(t)
	conn := <-conns
	w.Conn.(*net.TCPConn).CloseWrite()
	// The only loop has polled since: it has done a handshake with another peer. Its packets
	// came later.
	if err := tls.Client(dial(t, addr), &tls.Config{InsecureSkipVerify: true,
		NextProtos: []string{"xmpp-client"}}).Handshake(); err != nil {
		t.Fatal(err)
	}
	if n := got.Load(); n != 2 {
		t.Fatalf("%d bytes came before the answer", n)
	}
	conn.Loop().Post(conn.Resume)
	select {
	case conn = <-conns:
	case err := <-ended:
		t.Fatalf("it ended before the second question: %v", err)
	}
	conn.Loop().Post(conn.Resume)
	if err := <-ended; err != io.ErrUnexpectedEOF { // there was no close_notify
		t.Error(err)
	}
}

// flushing writes at once as long as there is something to read: in a handshake.
type flushing struct{ *together }

func (f *flushing) Read(p []byte) (int, error) {
	if len(f.b) > 0 {
		if _, err := f.Conn.Write(f.b); err != nil {
			return 0, err
		}
		f.b = nil
	}
	return f.Conn.Read(p)
}
