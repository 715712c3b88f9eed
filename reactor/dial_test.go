package reactor_test

import (
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"canto/reactor"
)

// Errors of Dial are those that package net returns.
func TestDialFails(t *testing.T) {
	r, _ := serve(t, reactor.Config{Loops: 1,
		Listeners: []reactor.Listener{{Addr: "127.0.0.1:0", Handler: new(script)}}})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	unused := ln.Addr().(*net.TCPAddr).AddrPort()
	ln.Close()
	before := descriptors(t)
	for _, c := range []struct {
		name string
		cfg  reactor.DialConfig
		is   error
		says string
	}{
		{"no listener", reactor.DialConfig{Addr: unused}, syscall.ECONNREFUSED, "dial tcp " +
			unused.String() + ": connect: connection refused"},
		{"no listener, IPv6", reactor.DialConfig{Addr: netip.AddrPortFrom(netip.IPv6Loopback(),
			unused.Port())}, nil, ""},
		{"a source address of another machine",
			reactor.DialConfig{Addr: unused, Local: netip.MustParseAddrPort("192.0.2.1:0")},
			syscall.EADDRNOTAVAIL,
			"dial tcp 192.0.2.1:0->" + unused.String() + ": bind: cannot assign requested address"},
		{"no such interface", reactor.DialConfig{Addr: netip.MustParseAddrPort("[fe80::1%nowhere]:5222")}, nil, ""},
		{"no address", reactor.DialConfig{}, nil, ""},
	} {
		const times = 20 // descriptors of earlier tests may still be closing
		for range times {
			failed := make(chan error, 2)
			c.cfg.Handler = &script{open: func(*reactor.Conn) { failed <- nil }}
			r.Dial(r.Loops()[0], c.cfg, func(err error) { failed <- err })
			err := <-failed
			var op *net.OpError
			if !errors.As(err, &op) || c.is != nil && !errors.Is(err, c.is) || c.says != "" && err.Error() != c.says {
				t.Fatalf("%s: %v", c.name, err)
			}
		}
		if now := descriptors(t); now >= before+times/2 {
			t.Errorf("%s: %d descriptors are open, %d before", c.name, now, before)
		}
	}
}

// A connection comes from where it is to come from, and its socket keeps what it is to.
func TestDialFrom(t *testing.T) {
	for _, addr := range []string{"127.0.0.1:0", "[::1]:0"} {
		ln, err := net.Listen("tcp", addr)
		if err != nil {
			if addr == "[::1]:0" {
				continue // a machine without IPv6
			}
			t.Fatal(err)
		}
		defer ln.Close()
		to := ln.Addr().(*net.TCPAddr).AddrPort()
		r, _ := serve(t, reactor.Config{Loops: 1,
			Listeners: []reactor.Listener{{Addr: "127.0.0.1:0", Handler: new(script)}}})
		from := netip.AddrPortFrom(to.Addr(), 0)
		if to.Addr().Is4() {
			from = netip.MustParseAddrPort("127.3.2.1:0")
		}
		opened := make(chan *reactor.Conn, 1)
		r.Dial(r.Loops()[0], reactor.DialConfig{Addr: to, Local: from, SendBuffer: 16 << 10, HandlerState: t,
			Handler: &script{open: func(c *reactor.Conn) {
				opened <- c
			}}},
			func(err error) { t.Error(err) })
		peer, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer peer.Close()
		if got := peer.RemoteAddr().(*net.TCPAddr).AddrPort().Addr(); got != from.Addr() {
			t.Errorf("it comes from %v, not %v", got, from)
		}
		c := <-opened
		if c.HandlerState != t || c.Remote() != to {
			t.Errorf("it belongs to %v and goes to %v", c.HandlerState, c.Remote())
		}
		c.Append(make([]byte, 600_000)) // in parts, as the socket keeps 32 KiB
		n, b := 0, make([]byte, 64<<10)
		for n < 600_000 {
			k, err := peer.Read(b)
			if err != nil {
				t.Fatal(err)
			}
			n += k
		}
	}
}

// Abort resets the connection, with and without TLS: the peer gets no end of anything.
func TestAbort(t *testing.T) {
	for _, secure := range []bool{false, true} {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		r, _ := serve(t, reactor.Config{Loops: 1,
			Listeners: []reactor.Listener{{Addr: "127.0.0.1:0", Handler: new(script)}}})
		cfg := reactor.DialConfig{Addr: ln.Addr().(*net.TCPAddr).AddrPort()}
		ready, closed := make(chan *reactor.Conn, 1), make(chan error, 1)
		h := &script{closed: func(_ *reactor.Conn, err error) { closed <- err }}
		if secure {
			cfg.TLS = &tls.Config{InsecureSkipVerify: true}
			h.secure = func(c *reactor.Conn, _ *tls.ConnectionState) { ready <- c }
		} else {
			h.open = func(c *reactor.Conn) { ready <- c }
		}
		cfg.Handler = h
		r.Dial(r.Loops()[0], cfg, func(err error) { t.Error(err) })
		peer, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer peer.Close()
		if secure {
			peer = tls.Server(peer, &tls.Config{Certificates: []tls.Certificate{certificate(t)}})
			go peer.(*tls.Conn).Handshake()
		}
		c := <-ready
		r.Loops()[0].Post(func() {
			c.Append([]byte("never sent"))
			c.Abort()
			c.Abort()
		})
		<-closed
		if n, err := peer.Read(make([]byte, 100)); n > 0 || !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("secure %v: the peer read %d bytes, %v", secure, n, err)
		}
	}
}

// A peer that accepts late is waited for, but not on a loop.
func TestDialWaits(t *testing.T) {
	ln, fd := full(t)
	r, _ := serve(t, reactor.Config{Loops: 1,
		Listeners: []reactor.Listener{{Addr: "127.0.0.1:0", Handler: new(script)}}})
	opened := make(chan *reactor.Conn, 1)
	began := make(chan struct{})
	r.Loops()[0].Post(func() {
		r.Dial(r.Loops()[0], reactor.DialConfig{Addr: ln, Handler: &script{open: func(c *reactor.Conn) {
			opened <- c
		}}}, func(err error) { t.Error(err) })
		close(began)
	})
	select {
	case <-began:
	case <-time.After(5 * time.Second):
		t.Fatal("the loop waits for it")
	}
	select {
	case <-opened:
		t.Fatal("the backlog was not full")
	case <-time.After(50 * time.Millisecond):
	}
	for range 3 {
		if s, _, err := unix.Accept(fd); err == nil {
			defer unix.Close(s)
		}
	}
	select {
	case <-opened:
	case <-time.After(20 * time.Second): // the kernel sends its next SYN after 1, 3, 7 s
		t.Fatal("it was not opened")
	}
}

// full listens, with a backlog that has no room.
func full(t *testing.T) (netip.AddrPort, int) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}),
		unix.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	sa, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	addr := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(sa.(*unix.SockaddrInet4).Port))
	for range 4 { // a backlog of 0 has room for one, and a SYN or two
		if c, err := net.DialTimeout("tcp", addr.String(), 100*time.Millisecond); err == nil {
			t.Cleanup(func() { c.Close() })
		}
	}
	return addr, fd
}
