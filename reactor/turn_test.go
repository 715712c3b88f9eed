package reactor

import (
	"context"
	"net"
	"net/netip"
	"testing"
	"time"
)

// counting is an engine that only counts how often it is asked for a turn.
type counting struct{ asked int }

func (e *counting) Start(*Reactor, []*Loop) (bool, error) { return true, nil }
func (e *counting) Enrol(*Conn, net.Conn) error           { return nil }
func (e *counting) Execute(*Loop) error                   { e.asked++; return nil }
func (e *counting) Later(time.Duration, func()) bool      { return false }
func (e *counting) Stop()                                 {}
func (e *counting) Wait(ctx context.Context) error        { <-ctx.Done(); return nil }

// sink is a connection that takes everything.
type sink struct{ writes int }

func (s *sink) Write([]byte) error     { s.writes++; return nil }
func (s *sink) Buffered() int          { return 0 }
func (s *sink) SetRead(bool)           {}
func (s *sink) Flush()                 {}
func (s *sink) CloseWrite()            {}
func (s *sink) Close()                 {}
func (s *sink) Remote() netip.AddrPort { return netip.AddrPort{} }

// quiet is a handler that does nothing.
type quiet struct{ Handler }

// What a turn makes dirty leaves in that turn, and asks the engine for no other: each is three system calls.
// What it posts runs in the next one, which is asked for once.
func TestATurnWritesWhatItMadeDirty(t *testing.T) {
	e := &counting{}
	r, err := New(Config{Loops: 1, backend: e})
	if err != nil {
		t.Fatal(err)
	}
	l, s := r.Loops()[0], &sink{}
	c := &Conn{loop: l, io: s, port: &port{h: quiet{}}, flags: flagOpen}
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
