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

// An acceptor is an open port. A goroutine of its own accepts connections, from start until close. It calls
// accept4 itself: a connection that package net accepts takes three times the system calls.
type acceptor struct {
	file     *os.File // the listening socket; Go's poller waits on it
	addr     net.Addr
	name     string
	endpoint *endpoint
	started  bool        // the goroutine was started; guarded by Reactor.mu
	closed   atomic.Bool // close was called: an error of accept is the end
	// inFlight has a value for each accepted connection on its way to its loop.
	inFlight chan struct{}

	refusal func(full bool) []byte // what a refused connection gets; nil: it is closed. See Listener.Refusal
}

// maxInFlight bounds the accepted connections that wait for their loops, for each port. While loops
// are busy, further ones wait in the kernel's backlog.
const maxInFlight = 64

// listen opens the socket of ln. Nothing is accepted until start.
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
		if ln.AllowPlain { // whether the client speaks TLS is not known yet
			l.refusal = func(bool) []byte { return nil }
		}
	}
	return l, nil
}

// close closes the socket, which ends the goroutine. Any goroutine.
func (s *acceptor) close() error {
	s.closed.Store(true)
	return s.file.Close()
}

// Listen opens another port while the reactor runs, and returns its address. After a shutdown has
// begun the error is ErrStopped. Any goroutine that may block.
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

// Unlisten closes the port with this address, as Addrs returns it. Its connections stay open. Any
// goroutine that may block.
func (r *Reactor) Unlisten(addr string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	s, ok := r.acceptors[addr]
	if !ok {
		return fmt.Errorf("reactor: there is no listener on %s", addr)
	}
	delete(r.acceptors, addr)
	return s.close()
}

// start starts the goroutine, once. Under r.mu.
func (s *acceptor) start(r *Reactor) {
	if !s.started {
		s.started = true
		go s.accept(r)
	}
}

// accept accepts connections until the port is closed. The steps for each:
//
//  1. At the limit Config.Connections it waits for a connection to end; the new one waits in the
//     kernel's backlog. With a refusal it waits for capWait only.
//  2. It calls accept4. An error, as EMFILE, does not end the loop: descriptors become free again.
//     It waits 10 ms, doubling up to a second, and logs the first error of a row.
//  3. A connection that is still over the limit, or that Listener.Accept refuses, is refused.
//  4. Others are assigned to a loop, at most maxInFlight at a time.
func (s *acceptor) accept(r *Reactor) {
	backoff, logged := time.Duration(0), false
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
			select {
			case <-r.capFreed:
			case <-time.After(TickLength):
			}
		}
		fd, remote, err := accept(raw)
		if err != nil {
			if s.closed.Load() {
				return
			}
			if !logged {
				r.log.Error("accepting failed; it is tried again", "addr", s.addr.String(), "err", err)
				logged = true
			}
			backoff = min(max(2*backoff, 10*time.Millisecond), time.Second)
			time.Sleep(backoff)
			continue
		}
		backoff, logged = 0, false
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

// accept waits for a connection of the listening socket raw, in Go's poller. A connection that its
// peer has aborted meanwhile is skipped. The socket is non-blocking and close-on-exec.
func accept(raw syscall.RawConn) (fd int, remote netip.AddrPort, err error) {
	if e := raw.Read(func(ln uintptr) bool {
		for {
			var sa syscall.Sockaddr // unix.Accept4 would make another system call, for the protocol
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

// addressOf returns the address in sa; IPv4 in IPv6 becomes IPv4.
func addressOf(sa syscall.Sockaddr) netip.AddrPort {
	switch a := sa.(type) {
	case *syscall.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *syscall.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr).Unmap(), uint16(a.Port))
	}
	return netip.AddrPort{}
}

// capWait is how long a connection waits at the limit of connections before it is refused.
const capWait = time.Second

// A refused connection stays half open for refusalLinger: closing it with unread input would send a
// reset, and the client would lose the refusal. maxLingeringRefusals bounds how many do; others are
// closed at once.
const (
	refusalLinger        = time.Second
	maxLingeringRefusals = 64
)

// refuse sends the refusal to fd, if there is one, and closes it.
func (s *acceptor) refuse(r *Reactor, fd int, full bool) {
	if s.refusal == nil || r.lingeringRefusals.Load() >= maxLingeringRefusals {
		unix.Close(fd)
		return
	}
	r.lingeringRefusals.Add(1)
	unix.SendmsgN(fd, s.refusal(full), nil, nil, unix.MSG_NOSIGNAL) // the send buffer of a new socket is empty
	unix.Shutdown(fd, unix.SHUT_WR)
	time.AfterFunc(refusalLinger, func() {
		unix.Close(fd)
		r.lingeringRefusals.Add(-1)
	})
}
