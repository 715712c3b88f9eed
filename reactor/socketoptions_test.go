package reactor_test

import (
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"canto/reactor"
)

// Both ends have every option; an accepted socket has them from the listening one.
func TestSocketOptions(t *testing.T) {
	ends := make(chan map[string]int, 2)
	h := &script{open: func(c *reactor.Conn) {
		got := make(map[string]int)
		for name, o := range reactor.Options() {
			v, err := unix.GetsockoptInt(c.EngineConn().Fd(), o[0], o[1])
			if err != nil {
				v = -1
			}
			got[name] = v
		}
		ends <- got
	}}
	r, addr := serve(t, reactor.Config{Listeners: []reactor.Listener{{Addr: "127.0.0.1:0", Handler: h}}})
	r.Dial(r.Loops()[0], reactor.DialConfig{Addr: netip.MustParseAddrPort(addr), Handler: h}, func(err error) {
		t.Error(err)
	})
	for range 2 {
		got := <-ends
		for name, o := range reactor.Options() {
			if got[name] != o[2] {
				t.Errorf("%s is %d, not %d", name, got[name], o[2])
			}
		}
	}
}

// A keepalive ends a connection by its own count, and no sooner than RFC 1122 section 4.2.3.5
// allows: the kernel ends it with the first probe after TCP_USER_TIMEOUT.
func TestUserTimeout(t *testing.T) {
	o := reactor.Options()
	dead := o["TCP_KEEPIDLE"][2] + o["TCP_KEEPINTVL"][2]*o["TCP_KEEPCNT"][2]
	if ms := o["TCP_USER_TIMEOUT"][2]; ms < dead*1000 || ms < 100_000 {
		t.Errorf("%d ms, and the last probe is after %d s", ms, dead)
	}
}

// The backlog is what the operator allows.
func TestBacklog(t *testing.T) {
	b, err := os.ReadFile("/proc/sys/net/core/somaxconn")
	if err != nil {
		t.Fatal(err)
	}
	want, _ := strconv.Atoi(strings.TrimSpace(string(b)))
	r, addr := serve(t, reactor.Config{Listeners: []reactor.Listener{{Addr: "127.0.0.1:0", Handler: new(echo)}}})
	info, err := unix.GetsockoptTCPInfo(r.ListenFD(addr), unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		t.Fatal(err)
	}
	if int(info.Sacked) != min(want, 65535) { // of a socket that listens: its backlog
		t.Errorf("backlog %d, and net.core.somaxconn is %d", info.Sacked, want)
	}
}

// A socket that the poller does not take is closed and no longer counted, and Listener.Aborted is
// called for it; other connections go on.
func TestNotEnrolled(t *testing.T) {
	var lost atomic.Int32
	ln := reactor.Listener{Addr: "127.0.0.1:0", Handler: new(echo), Aborted: func(netip.AddrPort) {
		lost.Add(1)
	}}
	r, addr := serve(t, reactor.Config{Listeners: []reactor.Listener{ln}})
	before := descriptors(t)
	for range 3 {
		fd, err := unix.Open(os.DevNull, unix.O_RDONLY|unix.O_CLOEXEC, 0) // epoll takes none such
		if err != nil {
			t.Fatal(err)
		}
		r.Admit(ln, fd, netip.MustParseAddrPort("192.0.2.1:1"))
	}
	waitFor(t, func() bool { return lost.Load() == 3 && r.Connections() == 0 })
	if n := descriptors(t); n > before {
		t.Errorf("%d descriptors, and %d before", n, before)
	}
	exchange(t, dial(t, addr), "hello")
}

// A port that is closed is free at once, and accepts no more connections.
func TestUnlisten(t *testing.T) {
	r, addr := serve(t, reactor.Config{Listeners: []reactor.Listener{{Addr: "127.0.0.1:0", Handler: new(echo)}}})
	c := dial(t, addr)
	exchange(t, c, "hello")
	if err := r.Unlisten(addr); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool {
		ln, err := net.Listen("tcp", addr)
		if err == nil {
			ln.Close()
		}
		return err == nil
	})
	exchange(t, c, "still here")
}
