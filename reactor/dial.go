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

// A DialConfig says where to connect to and how.
type DialConfig struct {
	// Addr is the address to connect to.
	Addr netip.AddrPort
	// Local is the address to connect from; zero: the kernel chooses. Port 0: any port.
	Local netip.AddrPort
	// Timeout bounds the connecting, without TLS; 10 s.
	Timeout time.Duration
	// TLS is the configuration of a connection where TLS comes first. With nil it is plain, and the
	// handler may call StartTLS.
	TLS *tls.Config
	// SendBuffer is the size of the socket's send buffer (SO_SNDBUF; Linux doubles it), in bytes; 0: the
	// kernel's default.
	SendBuffer int
	// Handler gets the events of the connection.
	Handler Handler
	// HandlerState becomes Conn.HandlerState, before OnOpen.
	HandlerState any
}

// Dial opens a connection on loop l. Either the handler's OnOpen is called on l, or failed with a
// *net.OpError or the engine's error, on any goroutine, perhaps before Dial returns. It does not
// block: where connecting takes time, a goroutine waits for it. Any goroutine.
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

// dialled gives the connected socket fd to l.
func (r *Reactor) dialled(l *Loop, cfg *DialConfig, fd int, failed func(error)) {
	r.register(l, &endpoint{handler: cfg.Handler, directTLS: cfg.TLS, role: ClientRole}, cfg.HandlerState, fd,
		cfg.Addr,
		func(err error) {
			if err != nil {
				failed(err)
			}
		})
}

// opError wraps err as package net does.
func (cfg *DialConfig) opError(err error) error {
	e := &net.OpError{Op: "dial", Net: "tcp", Addr: net.TCPAddrFromAddrPort(cfg.Addr), Err: err}
	if cfg.Local.IsValid() {
		e.Source = net.TCPAddrFromAddrPort(cfg.Local)
	}
	return e
}

// connect makes a socket and begins to connect it. pending means that connecting goes on;
// awaitConnect waits for it. To an address of this machine it is done at once. A connection takes
// 14 system calls so, 7 of them for options, with Register; with a net.Dialer it took 19, and a
// goroutine. After an error the socket is closed. The steps: the socket, its options, the local
// address if one is given, and connect.
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
			// The kernel chooses the port in connect. In bind it could use each port of the address only
			// once, whatever the destination.
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

// connectDone reports whether connecting fd has ended, and the error that it ended with. It does
// not wait.
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

// awaitConnect waits until fd is connected, in Go's poller, as a net.Dialer does. It takes fd over
// and returns a duplicate, which Go's poller does not know. It blocks for timeout at most, and then
// returns os.ErrDeadlineExceeded.
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
			err = os.ErrDeadlineExceeded // without the name of the os.File
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

// sockaddr returns a as the kernel takes it. The zone of an IPv6 address must be the name of an
// interface.
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
