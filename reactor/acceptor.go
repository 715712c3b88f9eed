package reactor

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// acceptor is one open port. Its socket is a file of ours: what package net accepts costs three times the
// system calls.
type acceptor struct {
	file     *os.File
	addr     net.Addr
	name     string
	endpoint *endpoint
	started  bool
	closed   atomic.Bool
	inFlight chan struct{} // a place for each connection on its way to its loop

	refusal func(full bool) []byte // nil: nothing is said
}

// maxInFlight bounds how many accepted connections wait for their loops: what a full loop leaves waits in the
// kernel's backlog.
const maxInFlight = 64

func (r *Reactor) listen(ln Listener) (*acceptor, error) {
	s, err := listenConfig().Listen(context.Background(), "tcp", ln.Addr)
	if err != nil {
		return nil, fmt.Errorf("listen %s: %w", ln.Addr, err)
	}
	defer s.Close()
	f, err := s.(*net.TCPListener).File()
	if err != nil {
		return nil, fmt.Errorf("listen %s: %w", ln.Addr, err)
	}
	l := &acceptor{file: f, addr: s.Addr(), name: ln.Name, endpoint: listenerEndpoint(ln),
		inFlight: make(chan struct{}, maxInFlight), refusal: ln.Refusal}
	if l.refusal != nil && ln.DirectTLS != nil {
		l.refusal = func(bool) []byte { return alertInternal }
		if ln.AllowPlain { // nobody knows yet what it speaks
			l.refusal = func(bool) []byte { return nil }
		}
	}
	return l, nil
}

func (s *acceptor) close() error {
	s.closed.Store(true)
	return s.file.Close()
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
		s.close()
		return nil, ErrStopped
	}
	r.acceptors[s.addr.String()] = s
	s.start(r)
	return s.addr, nil
}

// Unlisten closes a port; its connections stay. Any goroutine. Cold path.
func (r *Reactor) Unlisten(addr string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	s, ok := r.acceptors[addr]
	if !ok {
		return fmt.Errorf("reactor: nobody listens on %s", addr)
	}
	delete(r.acceptors, addr)
	return s.close()
}

func (s *acceptor) start(r *Reactor) {
	if !s.started {
		s.started = true
		go s.accept(r)
	}
}

// accept takes connections until the port is closed. No other error ends it: descriptors that ran out come
// back.
func (s *acceptor) accept(r *Reactor) {
	wait, said := time.Duration(0), false
	raw, err := s.file.SyscallConn()
	if err != nil {
		return // closed already
	}
	for {
		full := false
		for since := time.Now(); r.cfg.Connections > 0 && r.conns.Load() >= int64(r.cfg.Connections); {
			if full = s.refusal != nil && time.Since(since) > capWait; full {
				break
			}
			select { // the kernel's backlog waits
			case <-r.capFreed:
			case <-time.After(TickLength):
			}
		}
		fd, remote, err := accept(raw)
		if err != nil {
			if s.closed.Load() {
				return
			}
			if !said {
				r.log.Error("accepting failed; it is tried again", "addr", s.addr.String(), "err", err)
				said = true
			}
			wait = min(max(2*wait, 10*time.Millisecond), time.Second)
			time.Sleep(wait)
			continue
		}
		wait, said = 0, false
		if full && r.conns.Load() >= int64(r.cfg.Connections) {
			r.refused.Add(1)
			s.refuse(r, fd, true)
			continue
		}
		if s.endpoint.accept != nil && !s.endpoint.accept(remote) {
			s.refuse(r, fd, false)
			continue
		}
		s.inFlight <- struct{}{}
		r.assign(s.endpoint, fd, remote, s.inFlight)
	}
}

// accept waits for a connection. One that its peer has given up meanwhile is none.
func accept(raw syscall.RawConn) (fd int, remote netip.AddrPort, err error) {
	if e := raw.Read(func(ln uintptr) bool {
		for {
			var sa syscall.Sockaddr // unix.Accept4 asks for the protocol, too
			fd, sa, err = syscall.Accept4(int(ln), syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC)
			switch err {
			case syscall.EAGAIN:
				return false
			case syscall.EINTR, syscall.ECONNABORTED:
				continue
			case nil:
				remote = addressOf(sa)
			}
			return true
		}
	}); e != nil {
		return 0, remote, e
	}
	return fd, remote, os.NewSyscallError("accept4", err)
}

func addressOf(sa syscall.Sockaddr) netip.AddrPort {
	switch a := sa.(type) {
	case *syscall.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *syscall.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr).Unmap(), uint16(a.Port))
	}
	return netip.AddrPort{}
}

// capWait is how long a connection at the cap waits for another to end before it is refused.
const capWait = time.Second

// Refused connections are left open for refusalLinger, or closing with unread input would reset them and
// take back what they were told; at most partings of them.
const (
	refusalLinger        = time.Second
	maxLingeringRefusals = 64
)

// refuse says why, and closes.
func (s *acceptor) refuse(r *Reactor, fd int, full bool) {
	if s.refusal == nil || r.lingeringRefusals.Load() >= maxLingeringRefusals {
		unix.Close(fd)
		return
	}
	r.lingeringRefusals.Add(1)
	unix.SendmsgN(fd, s.refusal(full), nil, nil, unix.MSG_NOSIGNAL) // its buffer is empty
	unix.Shutdown(fd, unix.SHUT_WR)
	time.AfterFunc(refusalLinger, func() {
		unix.Close(fd)
		r.lingeringRefusals.Add(-1)
	})
}
