package reactor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"
)

// listening is one open port.
type listening struct {
	ln   net.Listener
	name string
	port *port
	on   bool

	refusal func(full bool) []byte
}

func (r *Reactor) listen(ln Listener) (*listening, error) {
	lc := net.ListenConfig{KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 5 * time.Minute, Interval: time.Minute, Count: 3}}
	s, err := lc.Listen(context.Background(), "tcp", ln.Addr)
	if err != nil {
		return nil, fmt.Errorf("listen %s: %w", ln.Addr, err)
	}
	l := &listening{ln: s, name: ln.Name, port: ports(ln), refusal: ln.Refusal}
	if l.refusal != nil && ln.Direct != nil {
		l.refusal = func(bool) []byte { return alertInternal }
		if ln.Plain { // nobody knows yet what it speaks
			l.refusal = func(bool) []byte { return nil }
		}
	}
	return l, nil
}

// Listen opens another port while running. Any goroutine. Cold path.
func (r *Reactor) Listen(ln Listener) (net.Addr, error) {
	s, err := r.listen(ln)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stopped {
		s.ln.Close()
		return nil, ErrStopped
	}
	r.ports[s.ln.Addr().String()] = s
	s.start(r)
	return s.ln.Addr(), nil
}

// Unlisten closes a port; its connections stay. Any goroutine. Cold path.
func (r *Reactor) Unlisten(addr string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	s, ok := r.ports[addr]
	if !ok {
		return fmt.Errorf("reactor: nobody listens on %s", addr)
	}
	delete(r.ports, addr)
	return s.ln.Close()
}

func (s *listening) start(r *Reactor) {
	if !s.on {
		s.on = true
		go s.accept(r)
	}
}

// accept takes connections until the listener is closed. No other error ends it: descriptors that ran
// out come back.
func (s *listening) accept(r *Reactor) {
	wait, said := time.Duration(0), false
	// Giving a connection to its loop takes a second descriptor for a moment: one is kept for it, so
	// that whoever was accepted gets in.
	spare, _ := os.Open(os.DevNull)
	defer func() { spare.Close() }()
	for {
		full := false
		for since := time.Now(); r.cfg.Connections > 0 && r.conns.Load() >= int64(r.cfg.Connections); {
			if full = s.refusal != nil && time.Since(since) > roomPatience; full {
				break
			}
			select { // the kernel's backlog waits
			case <-r.room:
			case <-time.After(TickLength):
			}
		}
		var nc net.Conn
		var err error
		if spare == nil {
			spare, err = os.Open(os.DevNull)
		}
		if err == nil {
			nc, err = s.ln.Accept()
		}
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			if !said {
				r.log.Error("accepting failed; it is tried again", "addr", s.ln.Addr().String(), "err", err)
				said = true
			}
			wait = min(max(2*wait, 10*time.Millisecond), time.Second)
			time.Sleep(wait)
			continue
		}
		wait, said = 0, false
		remote := remoteOf(nc.RemoteAddr())
		if full && r.conns.Load() >= int64(r.cfg.Connections) {
			r.turned.Add(1)
			s.refuse(r, nc, true)
			continue
		}
		if s.port.accept != nil && !s.port.accept(remote) {
			s.refuse(r, nc, false)
			continue
		}
		spare.Close()
		if err := r.admit(s.port, nc); err != nil && s.port.lost != nil {
			s.port.lost(remote)
		}
		spare, _ = os.Open(os.DevNull)
	}
}

// roomPatience is how long a connection at the cap waits for another to end before it is refused.
const roomPatience = time.Second

// Refused connections are left open for partingTime, or closing with unread input would reset them and take back
// what they were told; at most partings of them.
const (
	partingTime = time.Second
	partings    = 64
)

// refuse says why, and closes.
func (s *listening) refuse(r *Reactor, nc net.Conn, full bool) {
	tc, ok := nc.(*net.TCPConn)
	if s.refusal == nil || !ok || r.going.Load() >= partings {
		nc.Close()
		return
	}
	r.going.Add(1)
	tc.Write(s.refusal(full)) // its buffer is empty
	tc.CloseWrite()
	time.AfterFunc(partingTime, func() {
		tc.Close()
		r.going.Add(-1)
	})
}
