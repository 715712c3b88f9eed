package reactor_test

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strconv"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"canto/reactor"
	"canto/reactor/buf"
	"canto/reactor/reactortest"
)

// schedules is how many a test runs: n, or what CANTO_SCHEDULES says.
func schedules(t *testing.T, n int) int {
	if s := os.Getenv("CANTO_SCHEDULES"); s != "" {
		var err error
		if n, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	return n
}

// fates are how a schedule's connection ends.
const (
	lives = iota
	closes
	alerts
	vanishes // FIN, without close_notify
	resets
	fates
)

// An end is one side of a schedule.
type end struct {
	*reactortest.Client
	conn      *reactor.Conn // from OnSecure on
	sent, got []byte
	left      int  // things that it still does
	fate      int  // and what it does then
	done      bool // that is done
	paused    bool
	ended     bool
	why       error
	wire      []byte // from it to the other
}

// A schedule is a connection with both ends in this process. A seed shuffles what the ends do, how
// output is cut, and when the loop gets it.
type schedule struct {
	n    *reactortest.Net
	rnd  *rand.Rand
	ends [2]*end // server, client
	next byte
}

func (s *schedule) script(e *end) *script {
	return &script{
		secure: func(c *reactor.Conn, _ *tls.ConnectionState) {
			e.conn = c
			for s.rnd.IntN(4) > 0 && s.act(e) { // after the handshake, in the same write
			}
		},
		data: func(c *reactor.Conn, p []byte) int {
			k := len(p)
			if s.rnd.IntN(8) == 0 {
				c.Pause()
				e.paused, k = true, s.rnd.IntN(k+1)
			}
			e.got = append(e.got, p[:k]...)
			return k
		},
		closed: func(_ *reactor.Conn, err error) { e.ended, e.why = true, err },
	}
}

// act has e do one thing; false: there is no more to do.
func (s *schedule) act(e *end) bool {
	if e.conn == nil || e.ended || e.done || !e.conn.Detached() {
		return false
	}
	if e.left--; e.left < 0 {
		e.done = true
		switch e.fate {
		case closes:
			e.conn.Close(nil)
		case alerts:
			e.conn.Push()
			e.conn.Say(21, []byte{2, 48}, 0)
		}
		return false
	}
	switch s.rnd.IntN(6) {
	case 0, 1, 2:
		n := 1 + s.rnd.IntN(200)
		if s.rnd.IntN(20) == 0 {
			n = 10_000 + s.rnd.IntN(30_000)
		}
		p := make([]byte, n)
		for i := range p {
			p[i] = s.next
			s.next++
		}
		e.conn.Append(p)
		e.sent = append(e.sent, p...)
	case 3, 4:
		e.conn.Push()
		e.conn.Renew(byte(s.rnd.IntN(2)))
	case 5:
		e.conn.Push()
		e.conn.Say(23, nil, s.rnd.IntN(100))
	}
	return true
}

// carry has up to k bytes of what an end has written arrive at the other; false: there are none.
func (s *schedule) carry(i, k int) bool {
	e := s.ends[i]
	e.wire = append(e.wire, e.Take()...)
	if k = min(k, len(e.wire)); k > 0 {
		s.ends[1-i].Write(e.wire[:k])
		e.wire = e.wire[k:]
	}
	return k > 0
}

// run is one schedule; what is wrong with it is the error.
func run(seed uint64, conf, cc *tls.Config) error {
	s := &schedule{n: reactortest.New(seed, reactor.Config{Loops: 1 + int(seed>>1%2)}),
		rnd: rand.New(rand.NewPCG(seed, 43))}
	for i := range s.ends {
		s.ends[i] = &end{left: s.rnd.IntN(6)}
	}
	server, client := s.ends[0], s.ends[1]
	actor, fate := s.rnd.IntN(2), s.rnd.IntN(fates)
	s.ends[actor].fate = fate
	server.Client = s.n.ConnectTo(0, reactor.Listener{DirectTLS: conf, Handler: s.script(server)})
	h := s.script(client)
	h.open = func(c *reactor.Conn) { c.StartTLS(cc, reactor.ClientRole) }
	client.Client = s.n.Connect(1, h)
	settle(s.n)
	s.carry(1, 1<<20) // the ClientHello, and the server's flight: before them there is nothing to race
	settle(s.n)
	s.carry(0, 1<<20)
	if seed%2 == 0 { // half of all are the same each time
		settle(s.n)
	}
	gone := s.rnd.IntN(60) // when the actor vanishes
	for step := range 60 {
		if seed%2 == 0 {
			synctest.Wait()
		}
		i := s.rnd.IntN(2)
		e := s.ends[i]
		switch s.rnd.IntN(8) {
		case 0:
			s.carry(i, 1)
		case 1, 2:
			s.carry(i, 1+s.rnd.IntN(300))
		case 3:
			s.carry(i, 1<<20)
		case 4:
			for s.rnd.IntN(3) > 0 && s.n.RunTurn() {
			}
		case 5:
			s.act(e)
		case 6:
			if e.paused && !e.ended {
				e.paused = false
				e.conn.Resume()
			}
		case 7:
			settle(s.n)
		}
		if step == gone && fate >= vanishes {
			e := s.ends[1-actor]
			e.Hangup(map[int]error{resets: syscall.ECONNRESET}[fate])
			s.ends[actor].done = true
		}
	}
	for moved := true; moved; {
		settle(s.n)
		moved = false
		for i, e := range s.ends {
			for s.act(e) {
				moved = true
			}
			if e.paused && !e.ended {
				e.paused, moved = false, true
				e.conn.Resume()
			}
			settle(s.n)
			moved = s.carry(i, 1<<20) || moved
		}
	}
	err := s.verdict(actor, fate)
	for _, e := range s.ends {
		e.Hangup(nil)
	}
	settle(s.n)
	s.n.Advance(3 * time.Second)
	settle(s.n)
	for _, l := range s.n.Loops() {
		if m := l.Meter(); m.ParkedBytes != 0 || m.TLS != 0 || m.StdTLS != 0 || m.WarmTLS != 0 {
			return errors.Join(err, fmt.Errorf("%+v are left", m))
		}
	}
	return err
}

func (s *schedule) verdict(actor, fate int) error {
	for i, e := range s.ends {
		other := s.ends[1-i]
		if !bytes.HasPrefix(other.sent, e.got) {
			return fmt.Errorf("end %d was given other bytes than were sent", i)
		}
		all := fate == lives || fate <= alerts && i != actor // the end that closes may not get the rest
		if all && len(e.got) != len(other.sent) {
			return fmt.Errorf("end %d was given %d of %d bytes", i, len(e.got), len(other.sent))
		}
		if fate <= alerts && e.conn == nil {
			return fmt.Errorf("end %d has done no handshake: %v", i, e.why)
		}
	}
	e, why := s.ends[1-actor], ""
	switch fate {
	case lives:
		for i, e := range s.ends {
			if e.ended || !e.conn.Detached() {
				return fmt.Errorf("end %d: ended %v with %v", i, e.ended, e.why)
			}
		}
		return nil
	case closes:
		why = "<nil>"
	case alerts:
		why = "remote error: tls: unknown certificate authority"
	case vanishes:
		why = io.ErrUnexpectedEOF.Error()
	case resets:
		why = syscall.ECONNRESET.Error()
	}
	if got := fmt.Sprint(e.why); !e.ended || got != why && (e.conn != nil || e.why == nil) {
		return fmt.Errorf("end %d: ended %v with %s, want %s", 1-actor, e.ended, got, why)
	}
	return nil
}

// Connections change to tls13Layer in many schedules: no byte is lost, doubled or read out of
// order, and nothing stays in use. The list of attacks asks for CANTO_SCHEDULES=1000000 (attack
// K43).
func TestAttackK43Schedules(t *testing.T) {
	conf, cc := serverTLS(t), clientTLS()
	conf.CurvePreferences = []tls.CurveID{tls.X25519} // the cheapest
	const batch = 500
	lent := buf.Input.InUse()
	for from, n := 0, schedules(t, 2000); from < n; from += batch {
		synctest.Test(t, func(t *testing.T) {
			for seed := from; seed < min(n, from+batch); seed++ {
				if err := run(uint64(seed), conf, cc); err != nil {
					t.Errorf("schedule %d: %v", seed, err)
				}
			}
		})
		if t.Failed() {
			return
		}
		reactor.ForgetNonces()
	}
	if n := buf.Input.InUse(); n != lent {
		t.Errorf("%d buffers are not given back", n-lent)
	}
}
