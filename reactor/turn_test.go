package reactor

import (
	"context"
	"errors"
	"io"
	"net/netip"
	"testing"
	"time"

	"canto/reactor/buf"
)

// counting is an engine that only counts how often it is asked for a turn.
type counting struct{ asked int }

func (e *counting) Start(*Reactor, []*Loop) (bool, error)            { return true, nil }
func (e *counting) Register(*Conn, int, netip.AddrPort, func(error)) {}
func (e *counting) Wakeup(*Loop) error                               { e.asked++; return nil }
func (e *counting) WakeupAfterPoll(*Loop) error                      { e.asked++; return nil }
func (e *counting) AfterFunc(time.Duration, func()) bool             { return false }
func (e *counting) Stop()                                            {}
func (e *counting) Wait(ctx context.Context) error                   { <-ctx.Done(); return nil }

// sink is a connection that takes everything.
type sink struct{ writes int }

func (s *sink) Write([]byte) error     { s.writes++; return nil }
func (s *sink) Buffered() int          { return 0 }
func (s *sink) SetRead(bool)           {}
func (s *sink) Reading() bool          { return true }
func (s *sink) Flush()                 {}
func (s *sink) CloseWrite()            {}
func (s *sink) Close()                 {}
func (s *sink) Remote() netip.AddrPort { return netip.AddrPort{} }

// quiet is a handler that does nothing.
type quiet struct{ Handler }

// Output that a turn appends leaves in that turn, and asks the engine for no other one, which would
// be three system calls. Functions that it posts run in the next turn, which is asked for once.
func TestATurnWritesWhatItMadeDirty(t *testing.T) {
	e := &counting{}
	r, err := New(Config{Loops: 1, backend: e})
	if err != nil {
		t.Fatal(err)
	}
	defer r.ownWorkers.close()
	l, s := r.Loops()[0], &sink{}
	c := &Conn{loop: l, sock: s, endpoint: &endpoint{handler: quiet{}}, flags: flagOpened}
	ran := 0
	l.Post(func() {
		c.Append([]byte("one"))
		c.Append([]byte("two"))
	})
	if l.turn(); e.asked != 1 || s.writes != 1 {
		t.Errorf("after a turn that wrote: %d turns were asked for, %d writes; want 1 and 1", e.asked, s.writes)
	}
	l.Post(func() {
		l.Post(func() { ran++ })
		l.Post(func() { ran++; c.Append([]byte("three")) })
	})
	l.turn()
	if e.asked != 3 || ran != 0 {
		t.Errorf("after a turn that posted: %d turns asked for, %d of the posted ran; want 3 and 0", e.asked, ran)
	}
	if l.turn(); e.asked != 3 || ran != 2 || s.writes != 2 {
		t.Errorf("after the next: %d turns asked for, %d ran, %d writes; want 3, 2 and 2", e.asked, ran, s.writes)
	}
	// And what comes from outside between turns asks for one.
	if c.Append([]byte("four")); e.asked != 4 {
		t.Errorf("%d turns were asked for; want 4", e.asked)
	}
}

// reasons is a handler that keeps why connections ended.
type reasons struct {
	quiet
	why []error
}

func (r *reasons) OnClose(_ *Conn, err error) { r.why = append(r.why, err) }

// If a peer hangs up because of our alert, OnClose gets the error of the handshake, whichever the
// loop sees first; and it is called once.
func TestHandshakeErrorBeforeHangUp(t *testing.T) {
	refused := errors.New("the certificate is another's")
	for _, c := range []struct {
		name string
		role Role
		err  error
		want error
	}{
		{"the handshake failed", ClientRole, refused, refused},
		{"it was cut off", ClientRole, nil, io.ErrUnexpectedEOF},
		{"a server's end", ServerRole, refused, io.ErrUnexpectedEOF},
	} {
		r, err := New(Config{Loops: 1, backend: &counting{}})
		if err != nil {
			t.Fatal(err)
		}
		defer r.ownWorkers.close()
		h := &reasons{}
		l := r.Loops()[0]
		conn := &Conn{loop: l, sock: &sink{}, endpoint: &endpoint{handler: h}, flags: flagOpened}
		l.addConn(conn)
		l.connCount.Add(1)
		conn.tls = &tlsConn{std: &stdTLS{c: conn, mem: memConn{ready: make(chan struct{}, 1)}}}
		if c.role == ClientRole {
			conn.tls.flags = tlsClient
		}
		conn.onClose(nil)
		l.turn()
		if shaking := conn.tls; shaking != nil {
			shaking.handshakeDone(nil, nil, c.err)
		}
		l.turn()
		l.turn()
		if len(h.why) != 1 || !errors.Is(h.why[0], c.want) {
			t.Errorf("%s: it ended with %v; want %v, once", c.name, h.why, c.want)
		}
		if len(l.openConns) != 0 {
			t.Errorf("%s: the connection is still there", c.name)
		}
	}
}

// passing is a Handler that has hijacked its connection.
type passing struct {
	reasons
	h *hijackedConn
}

func (p *passing) OnOpen(*Conn)  {}
func (p *passing) OnDrain(*Conn) { p.h.pumpToOutbox() }

// A goroutine's output leaves although the outbox is full until the end of the turn.
func TestPumpedTwiceInATurn(t *testing.T) {
	m := NewMemory(Config{Loops: 1})
	p := &passing{}
	pipe := m.Open(0, Listener{Handler: p}, netip.MustParseAddrPort("192.0.2.1:1"))
	for m.RunTurn() {
	}
	c := pipe.c
	p.h = c.hijack(nil, nil, func() {})
	pump := func(n int) {
		p.h.mu.Lock()
		p.h.out = append(buf.Outbox.Get(n), make([]byte, n)...)
		p.h.mu.Unlock()
		p.h.pumpToOutbox()
	}
	c.loop.Post(func() {
		pump(maxHijackedOut)
		pump(1000)
	})
	for m.RunTurn() {
	}
	if n := len(pipe.Take()); n != maxHijackedOut+1000 {
		t.Errorf("%d bytes of %d have left", n, maxHijackedOut+1000)
	}
}
