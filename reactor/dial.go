package reactor

import (
	"cmp"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// A DialConfig says where to and how.
type DialConfig struct {
	Addr    netip.AddrPort
	Local   netip.AddrPort // may be zero
	Timeout time.Duration  // of connecting; 10 s
	TLS     *tls.Config    // TLS comes first; nil: plain, StartTLS may follow
	// bytes that its socket keeps at most (SO_SNDBUF, which Linux doubles); 0: as the kernel likes
	SendBuffer   int
	Handler      Handler
	HandlerState any
}

// Dial opens a connection on the loop of the caller's choosing. OnOpen is called on l, or failed, on any
// goroutine, perhaps inside Dial. Any goroutine; it does not wait.
func (r *Reactor) Dial(l *Loop, cfg DialConfig, failed func(error)) {
	fd, pending, err := connect(&cfg)
	switch {
	case err != nil:
		failed(cfg.opError(err))
	case pending:
		go func() {
			fd, err := awaitConnect(fd, cmp.Or(cfg.Timeout, 10*time.Second))
			if err != nil {
				failed(cfg.opError(err))
				return
			}
			r.dialled(l, &cfg, fd, failed)
		}()
	default:
		r.dialled(l, &cfg, fd, failed)
	}
}

func (r *Reactor) dialled(l *Loop, cfg *DialConfig, fd int, failed func(error)) {
	r.register(l, &endpoint{handler: cfg.Handler, directTLS: cfg.TLS, role: ClientRole}, cfg.HandlerState, fd,
		cfg.Addr,
		func(err error) {
			if err != nil {
				failed(err)
			}
		})
}

// opError is err as package net words it.
func (cfg *DialConfig) opError(err error) error {
	e := &net.OpError{Op: "dial", Net: "tcp", Addr: net.TCPAddrFromAddrPort(cfg.Addr), Err: err}
	if cfg.Local.IsValid() {
		e.Source = net.TCPAddrFromAddrPort(cfg.Local)
	}
	return e
}

// connect begins to connect a socket of its own. To an address of this machine it is done at once: with
// the enrolment 14 system calls, 7 of them for options; by a net.Dialer it was 19, and a goroutine.
func connect(cfg *DialConfig) (fd int, pending bool, err error) {
	to, err := sockaddr(cfg.Addr)
	if err != nil {
		return 0, false, err
	}
	family := unix.AF_INET6
	if _, ok := to.(*unix.SockaddrInet4); ok {
		family = unix.AF_INET
	}
	s, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, false, os.NewSyscallError("socket", err)
	}
	defer func() {
		if err != nil {
			unix.Close(s)
		}
	}()
	setSocketOptions(s)
	if cfg.SendBuffer > 0 {
		unix.SetsockoptInt(s, unix.SOL_SOCKET, unix.SO_SNDBUF, cfg.SendBuffer)
	}
	if cfg.Local.IsValid() {
		from, err := sockaddr(cfg.Local)
		if err != nil {
			return 0, false, err
		}
		if cfg.Local.Port() == 0 {
			// The port is chosen by where it connects to: else an address has no more of them than for one peer.
			unix.SetsockoptInt(s, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
		}
		if err = unix.Bind(s, from); err != nil {
			return 0, false, os.NewSyscallError("bind", err)
		}
	}
	switch err = unix.Connect(s, to); err {
	case nil:
		return s, false, nil
	case unix.EINPROGRESS, unix.EINTR:
		err = nil
		done, err := connectDone(s)
		return s, !done, err
	}
	return 0, false, os.NewSyscallError("connect", err)
}

// connectDone reports whether connecting has ended, and how.
func connectDone(fd int) (done bool, err error) {
	p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
	if n, err := unix.Poll(p, 0); n == 0 || err != nil {
		return false, nil
	}
	e, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil {
		return true, os.NewSyscallError("getsockopt", err)
	}
	if e != 0 {
		return true, os.NewSyscallError("connect", unix.Errno(e))
	}
	return true, nil
}

// awaitConnect waits until fd, which it takes over, is connected. In Go's own poller, as a net.Dialer does.
func awaitConnect(fd int, timeout time.Duration) (_ int, err error) {
	f := os.NewFile(uintptr(fd), "socket")
	defer f.Close()
	rc, err := f.SyscallConn()
	if err != nil {
		return 0, err
	}
	if err = f.SetWriteDeadline(time.Now().Add(timeout)); err != nil {
		return 0, err
	}
	var failed error
	if err = rc.Write(func(s uintptr) (done bool) {
		done, failed = connectDone(int(s))
		return done
	}); err != nil {
		if errors.Is(err, os.ErrDeadlineExceeded) {
			err = os.ErrDeadlineExceeded // without the words of a file
		}
		return 0, err
	}
	if failed != nil {
		return 0, failed
	}
	if e := rc.Control(func(s uintptr) { fd, err = unix.FcntlInt(s, unix.F_DUPFD_CLOEXEC, 0) }); e != nil {
		return 0, e
	}
	return fd, os.NewSyscallError("fcntl", err)
}

func sockaddr(a netip.AddrPort) (unix.Sockaddr, error) {
	if ip := a.Addr().Unmap(); ip.Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: ip.As4()}, nil
	}
	s := &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
	if zone := a.Addr().Zone(); zone != "" {
		i, err := net.InterfaceByName(zone)
		if err != nil {
			return nil, err
		}
		s.ZoneId = uint32(i.Index)
	}
	return s, nil
}
