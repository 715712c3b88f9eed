package reactor_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"canto/reactor"
	"canto/reactor/buf"
	"canto/reactor/reactortest"
)

// script is a handler made of functions.
type script struct {
	open   func(c *reactor.Conn)
	data   func(c *reactor.Conn, p []byte) int
	secure func(c *reactor.Conn, st *tls.ConnectionState)
	timer  func(c *reactor.Conn)
	drain  func(c *reactor.Conn)
	closed func(c *reactor.Conn, err error)
}

func (s *script) OnOpen(c *reactor.Conn) {
	if s.open != nil {
		s.open(c)
	}
}
func (s *script) OnData(c *reactor.Conn, p []byte) int {
	if s.data != nil {
		return s.data(c, p)
	}
	return len(p)
}
func (s *script) OnSecure(c *reactor.Conn, st *tls.ConnectionState) {
	if s.secure != nil {
		s.secure(c, st)
	}
}
func (s *script) OnTimer(c *reactor.Conn) {
	if s.timer != nil {
		s.timer(c)
	}
}
func (s *script) OnDrain(c *reactor.Conn) {
	if s.drain != nil {
		s.drain(c)
	}
}
func (s *script) OnClose(c *reactor.Conn, err error) {
	if s.closed != nil {
		s.closed(c, err)
	}
}

func certificate(t testing.TB) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "localhost"},
		DNSNames: []string{"localhost"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func serverTLS(t testing.TB) *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{certificate(t)}, MinVersion: tls.VersionTLS12,
		NextProtos: []string{"xmpp-client"}}
}

func descriptors(t *testing.T) int {
	t.Helper()
	d, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(d)
}

// Connections that come and go in every state leave no memory, descriptors or goroutines in use.
func TestAttackT01Flat(t *testing.T) {
	h := new(echo)
	conf := serverTLS(t)
	r, addr := serve(t, reactor.Config{Listeners: []reactor.Listener{{Addr: "127.0.0.1:0", Handler: h,
		DirectTLS: conf}}})
	round := func(n int) {
		for i := range n {
			c, err := net.Dial("tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			switch i % 5 {
			case 0: // not a byte
			case 1:
				c.Write([]byte{0x16, 3, 1}) // half a record
			case 2:
				c.Write([]byte("GET / HTTP/1.1\r\n\r\n"))
			case 3: // in the middle of the handshake
				tc := tls.Client(c, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"xmpp-client"}})
				go tc.Handshake()
				time.Sleep(time.Millisecond)
			case 4:
				tc := tls.Client(c, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"xmpp-client"}})
				if err := tc.Handshake(); err != nil {
					t.Fatal(err)
				}
				exchange(t, tc, "x")
			}
			if i%2 == 0 {
				c.(*net.TCPConn).SetLinger(0) // RST
			}
			c.Close()
		}
		waitFor(t, func() bool { return r.Connections() == 0 })
	}
	round(200)
	waitFor(t, func() bool { return runtime.NumGoroutine() < 100 })
	goroutines, fds, out := runtime.NumGoroutine(), descriptors(t), buf.Outbox.InUse()+buf.Input.InUse()
	round(1000)
	waitFor(t, func() bool { return runtime.NumGoroutine() <= goroutines+4 })
	waitFor(t, func() bool { return descriptors(t) <= fds+2 })
	waitFor(t, func() bool { return buf.Outbox.InUse()+buf.Input.InUse() <= out })
	waitFor(t, func() bool { // what the loops count is nothing
		secured := 0
		for _, l := range r.Loops() {
			m := l.Meter()
			secured += m.Connected + m.TLS + m.StdTLS + m.WarmTLS + m.ParkedBytes
			if min(m.TLS, m.StdTLS, m.WarmTLS) < 0 {
				t.Fatalf("%+v", m)
			}
		}
		return secured == 0
	})
}

// When other files use up all descriptors, no connection ends, and new ones are accepted once some
// are free.
func TestAttackT02Descriptors(t *testing.T) {
	h := new(echo)
	_, addr := serve(t, reactor.Config{Listeners: []reactor.Listener{{Addr: "127.0.0.1:0", Handler: h}}})
	var conns []net.Conn
	for range 100 {
		c := dial(t, addr)
		exchange(t, c, "hello")
		conns = append(conns, c)
	}
	late := make([]int, 0, 50) // sockets made while there are descriptors, connected when there are none
	for range 50 {
		fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
		if err != nil {
			t.Fatal(err)
		}
		late = append(late, fd)
	}
	var old syscall.Rlimit
	syscall.Getrlimit(syscall.RLIMIT_NOFILE, &old)
	low := old
	low.Cur = uint64(descriptors(t)) + 20
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &low); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Setrlimit(syscall.RLIMIT_NOFILE, &old) })
	var files []*os.File
	for {
		f, err := os.Open("/dev/null")
		if err != nil {
			break
		}
		files = append(files, f)
	}
	port := netip.MustParseAddrPort(addr)
	for _, fd := range late {
		syscall.Connect(fd, &syscall.SockaddrInet4{Port: int(port.Port()), Addr: port.Addr().As4()})
	}
	for i := range 5 {
		for _, c := range conns {
			exchange(t, c, fmt.Sprint("round ", i))
		}
	}
	for _, f := range files {
		f.Close()
	}
	syscall.Setrlimit(syscall.RLIMIT_NOFILE, &old)
	for _, fd := range late {
		c := os.NewFile(uintptr(fd), "late")
		nc, err := net.FileConn(c)
		c.Close()
		if err != nil {
			t.Fatal(err)
		}
		nc.SetDeadline(time.Now().Add(20 * time.Second))
		exchange(t, nc, "late")
		nc.Close()
	}
}

// At the limit of connections new ones wait in the kernel's backlog; none is dropped, and they are
// accepted when others end.
func TestAttackT02K26Cap(t *testing.T) {
	h := new(echo)
	r, addr := serve(t, reactor.Config{Connections: 20,
		Listeners: []reactor.Listener{{Addr: "127.0.0.1:0", Handler: h}}})
	var conns []net.Conn
	for range 60 {
		conns = append(conns, dial(t, addr))
	}
	waitFor(t, func() bool { return r.Connections() >= 20 })
	for _, c := range conns[:20] {
		exchange(t, c, "in")
	}
	if n := r.Connections(); n > 21 {
		t.Fatalf("%d connections at a cap of 20", n)
	}
	for i, c := range conns {
		exchange(t, c, "turn")
		c.Close()
		_ = i
	}
}

// Plaintext after the start of TLS is never read as if it had come over TLS: StartTLS fails while
// input is parked.
func TestAttackT09Parked(t *testing.T) {
	n := reactortest.New(1, reactor.Config{Loops: 1})
	var got error
	var conn *reactor.Conn
	h := &script{data: func(c *reactor.Conn, p []byte) int {
		conn = c
		c.Pause()
		return 1
	}}
	c := n.Connect(0, h)
	c.Send([]byte("xyz"))
	got = conn.StartTLS(&tls.Config{}, reactor.ServerRole)
	if !errors.Is(got, reactor.ErrUnexpectedPlaintext) {
		t.Fatalf("StartTLS with parked plaintext: %v", got)
	}
}

// Old versions and foreign protocols get no connection (T12, T18); renegotiation does not exist (T04).
func TestAttackT12T18T04(t *testing.T) {
	h := new(echo)
	_, addr := serve(t, reactor.Config{Listeners: []reactor.Listener{{Addr: "127.0.0.1:0", Handler: h,
		DirectTLS: serverTLS(t)}}})
	for _, v := range []uint16{tls.VersionTLS10, tls.VersionTLS11} {
		c := tls.Client(dial(t, addr), &tls.Config{InsecureSkipVerify: true, MinVersion: v, MaxVersion: v})
		if err := c.Handshake(); err == nil {
			t.Errorf("version %x was taken", v)
		}
	}
	for _, p := range []string{"http/1.1", "h2", "xmpp-server"} {
		c := tls.Client(dial(t, addr), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{p}})
		if err := c.Handshake(); err == nil || !strings.Contains(err.Error(), "application protocol") {
			t.Errorf("ALPN %s: %v", p, err)
		}
	}
	for _, v := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		c := tls.Client(dial(t, addr), &tls.Config{InsecureSkipVerify: true, MaxVersion: v,
			NextProtos: []string{"xmpp-client"}})
		exchange(t, c, "fine")
		c.Close()
	}
}

// A peer that resets while it is being written to is taken apart once.
func TestAttackT14Reset(t *testing.T) {
	var opened, closed atomic.Int64
	h := &script{
		open: func(c *reactor.Conn) { opened.Add(1) },
		data: func(c *reactor.Conn, p []byte) int {
			c.Append(bytes.Repeat([]byte("e"), 100_000))
			c.Close(nil)
			return len(p)
		},
		closed: func(*reactor.Conn, error) { closed.Add(1) },
	}
	r, addr := serve(t, reactor.Config{Listeners: []reactor.Listener{{Addr: "127.0.0.1:0", Handler: h}}})
	for range 2000 {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		c.Write([]byte("x"))
		c.(*net.TCPConn).SetLinger(0)
		c.Close()
	}
	waitFor(t, func() bool { return r.Connections() == 0 })
	if opened.Load() != closed.Load() || opened.Load() == 0 {
		t.Fatalf("%d opened, %d closed", opened.Load(), closed.Load())
	}
}

// Huge and strange ClientHellos are refused or done, and hold no more than a record.
func TestAttackT15Hello(t *testing.T) {
	h := new(echo)
	r, addr := serve(t, reactor.Config{Listeners: []reactor.Listener{{Addr: "127.0.0.1:0", Handler: h,
		DirectTLS: serverTLS(t)}}})
	many := make([]string, 3000)
	for i := range many {
		many[i] = fmt.Sprint("protocol-", i)
	}
	c := tls.Client(dial(t, addr), &tls.Config{InsecureSkipVerify: true, NextProtos: many})
	if c.Handshake() == nil {
		t.Error("3,000 foreign protocols were taken")
	}
	raw := dial(t, addr)
	// a message of 16 MB
	raw.Write(append([]byte{0x16, 3, 1, 0x40, 0, 1, 0xFF, 0xFF, 0xFF}, make([]byte, 0x4000)...))
	if b, err := io.ReadAll(raw); err != nil && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("%x, %v", b, err)
	}
	waitFor(t, func() bool { return r.Connections() <= 1 })
}

// 500 clients with slow lines finish their handshakes while 200 others stop after the ClientHello:
// a handshake that waits for its peer holds no handshake slot (T17, K27). Time is counted in round
// trips, not seconds.
func TestAttackT17K27Handshakes(t *testing.T) {
	h := new(echo)
	_, addr := serve(t, reactor.Config{Listeners: []reactor.Listener{{Addr: "127.0.0.1:0", Handler: h,
		DirectTLS: serverTLS(t)}}})
	for range 200 {
		c := dial(t, addr)
		c.Write([]byte{0x16, 3, 1, 2, 0, 1, 0, 1, 0xFC, 3, 3}) // and no more
	}
	done := make(chan error, 100)
	for range 100 {
		go func() {
			c, err := net.Dial("tcp", addr)
			if err != nil {
				done <- err
				return
			}
			defer c.Close()
			done <- tls.Client(slow{c}, &tls.Config{InsecureSkipVerify: true,
				NextProtos: []string{"xmpp-client"}}).Handshake()
		}()
	}
	for range 100 {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
}

// slow is a line with a delay.
type slow struct{ net.Conn }

func (s slow) Write(p []byte) (int, error) {
	time.Sleep(20 * time.Millisecond)
	return s.Conn.Write(p)
}

// A handshake that stands still is ended by its deadline.
func TestAttackT17Deadline(t *testing.T) {
	n := reactortest.New(1, reactor.Config{Loops: 1})
	var reason error
	h := &script{closed: func(_ *reactor.Conn, err error) { reason = err }}
	h.data = func(c *reactor.Conn, p []byte) int {
		if err := c.StartTLS(&tls.Config{Certificates: []tls.Certificate{certificate(t)}},
			reactor.ServerRole); err != nil {
			t.Error(err)
		}
		return len(p)
	}
	c := n.Connect(0, h)
	c.Send([]byte("s"))
	n.Advance(9 * time.Second)
	if reason != nil {
		t.Fatalf("ended early: %v", reason)
	}
	n.Advance(2 * time.Second)
	if !errors.Is(reason, reactor.ErrHandshakeTimeout) {
		t.Fatalf("after 11 s of silence: %v", reason)
	}
}

// What is appended late to a connection that has ended never reaches the connection that got its descriptor.
func TestAttackT19Stranger(t *testing.T) {
	conns := make(chan *reactor.Conn, 1)
	h := &script{data: func(c *reactor.Conn, p []byte) int {
		if string(p) == "mine" {
			conns <- c
		} else {
			c.Append(p)
		}
		return len(p)
	}}
	r, addr := serve(t, reactor.Config{Loops: 1,
		Listeners: []reactor.Listener{{Addr: "127.0.0.1:0", Handler: h}}})
	for range 200 {
		a := dial(t, addr)
		a.Write([]byte("mine"))
		gone := <-conns
		a.(*net.TCPConn).SetLinger(0)
		a.Close()
		waitFor(t, func() bool { return r.Connections() == 0 })
		b := dial(t, addr)
		exchange(t, b, "hello")
		gone.Append([]byte("secret of another"))
		gone.Close(nil)
		exchange(t, b, "again")
		b.Close()
		waitFor(t, func() bool { return r.Connections() == 0 })
	}
}

// Input that comes while a connection is paused is held back by TCP, and all of it comes afterwards
// (K20).
func TestAttackK20Pause(t *testing.T) {
	conns := make(chan *reactor.Conn, 1)
	var seen atomic.Int64
	var paused atomic.Bool
	h := &script{data: func(c *reactor.Conn, p []byte) int {
		if paused.Load() {
			t.Error("data while paused")
		}
		seen.Add(int64(len(p)))
		if seen.Load() == 1 {
			c.Pause()
			paused.Store(true)
			conns <- c
		}
		return len(p)
	}}
	_, addr := serve(t, reactor.Config{Loops: 1,
		Listeners: []reactor.Listener{{Addr: "127.0.0.1:0", Handler: h}}})
	c := dial(t, addr)
	c.Write([]byte("x"))
	conn := <-conns
	sent := make(chan int, 1)
	go func() {
		n, _ := c.Write(make([]byte, 32<<20)) // more than any socket buffer holds
		sent <- n
	}()
	select {
	case <-sent:
		t.Fatal("32 MB went to a paused connection")
	case <-time.After(300 * time.Millisecond):
	}
	if n := seen.Load(); n != 1 {
		t.Fatalf("%d bytes were read while paused", n)
	}
	conn.Append([]byte("out")) // writing goes on
	b := make([]byte, 3)
	if _, err := io.ReadFull(c, b); err != nil || string(b) != "out" {
		t.Fatalf("%q, %v", b, err)
	}
	conn.Loop().Post(func() { paused.Store(false); conn.Resume() })
	if n := <-sent; n != 32<<20 {
		t.Fatalf("%d bytes were taken", n)
	}
	waitFor(t, func() bool { return seen.Load() == 32<<20+1 })
}

// A reader that never reads costs its own outbox and nothing else (K21).
func TestAttackK21SlowReader(t *testing.T) {
	n := reactortest.New(1, reactor.Config{Loops: 1, OutboxBytes: 100_000})
	var conn *reactor.Conn
	drained := 0
	h := &script{open: func(c *reactor.Conn) { conn = c }, drain: func(*reactor.Conn) { drained++ }}
	c := n.Connect(0, h)
	c.SetWindow(0)
	taken := 0
	for conn.Append(make([]byte, 1000)) {
		taken += 1000
		n.Run()
		if taken > 1_000_000 {
			t.Fatal("the outbox has no limit")
		}
	}
	if taken > 100_000+64<<10 || conn.Buffered() > 100_000 {
		t.Fatalf("%d bytes were taken, %d are in the outbox", taken, conn.Buffered())
	}
	c.SetWindow(-1)
	n.Advance(time.Second)
	if got := len(c.Received()); got != taken || drained != 1 {
		t.Fatalf("%d of %d bytes arrived, drained %d times", got, taken, drained)
	}
}

// A closing connection is given up after a while if its peer never reads (K22).
func TestAttackK22Closing(t *testing.T) {
	n := reactortest.New(1, reactor.Config{Loops: 1})
	var conn *reactor.Conn
	h := &script{open: func(c *reactor.Conn) { conn = c }}
	c := n.Connect(0, h)
	c.SetWindow(0)
	conn.Append(make([]byte, 200_000))
	n.Run()
	conn.Close(nil)
	n.Advance(10 * time.Second)
	if n.Connections() != 0 {
		t.Fatal("it is still there")
	}
}

// Buffers that go back to a pool never show another peer's bytes (K10): a small answer after a large
// one, on another connection, is just that.
func TestAttackK10Pool(t *testing.T) {
	n := reactortest.New(1, reactor.Config{Loops: 1})
	h := &script{data: func(c *reactor.Conn, p []byte) int { c.Append(p); return len(p) }}
	a, b := n.Connect(0, h), n.Connect(0, h)
	for range 100 {
		a.Send(bytes.Repeat([]byte("A"), 5000))
		b.Send([]byte("b"))
		if got := b.Received(); string(got) != "b" {
			t.Fatalf("%q", got)
		}
		a.Received()
	}
}

// A million posts from one loop to another are taken in turns; what a posted function posts runs in
// the turn after (K24).
func TestAttackK24Posts(t *testing.T) {
	n := reactortest.New(1, reactor.Config{Loops: 2})
	l := n.Loops()[0]
	var order []string
	l.Post(func() {
		l.Post(func() { order = append(order, "after") })
		order = append(order, "first")
	})
	l.Post(func() { order = append(order, "second") })
	n.Run()
	if fmt.Sprint(order) != "[first second after]" {
		t.Fatal(order)
	}
	count := 0
	f := func() { count++ }
	for range 1_000_000 {
		n.Loops()[1].Post(f)
	}
	n.Run()
	if count != 1_000_000 {
		t.Fatal(count)
	}
}

// A hundred thousand timers with one deadline all fire, once, and arming one again and again costs
// nothing that stays (K25).
func TestAttackK25Timers(t *testing.T) {
	n := reactortest.New(1, reactor.Config{Loops: 1})
	l := n.Loops()[0]
	fired := make(counted, 1)
	timers := make([]reactor.Timer, 100_000)
	for i := range timers {
		l.Arm(&timers[i], l.Tick()+50, fired)
	}
	for range 10_000 {
		l.Arm(&timers[0], l.Tick()+70, fired)
	}
	l.Arm(&timers[1], 0, nil)
	n.Advance(5 * time.Second)
	if fired[0] != len(timers)-2 {
		t.Fatalf("%d fired", fired[0])
	}
	n.Advance(200 * time.Second) // more than a round of the wheel
	if fired[0] != len(timers)-1 {
		t.Fatalf("%d fired in the end", fired[0])
	}
}

type counted []int

func (c counted) OnTimer(*reactor.Loop) { c[0]++ }

// A clock that jumps a day fires what is due and no more, and one that stands still fires nothing (K29).
func TestAttackK29Clock(t *testing.T) {
	n := reactortest.New(1, reactor.Config{Loops: 1})
	l := n.Loops()[0]
	fired := make(counted, 1)
	var soon, late reactor.Timer
	l.Arm(&soon, l.Tick().After(time.Minute), fired)
	l.Arm(&late, l.Tick().After(48*time.Hour), fired)
	n.Jump(24 * time.Hour)
	if fired[0] != 1 {
		t.Fatalf("%d timers fired after a day", fired[0])
	}
	n.Jump(0)
	if fired[0] != 1 {
		t.Fatal("a clock that stands still fired a timer")
	}
}

// Nothing is allocated on the way out, nor by timers and posts, once warm.
func TestAllocations(t *testing.T) {
	n := reactortest.New(1, reactor.Config{Loops: 1})
	var conn *reactor.Conn
	h := &script{open: func(c *reactor.Conn) { conn = c }}
	c := n.Connect(0, h)
	msg := bytes.Repeat([]byte("m"), 374)
	l := n.Loops()[0]
	f := func() {}
	var tm reactor.Timer
	var fired reactor.TimerHandler = make(counted, 1)
	once := func() {
		conn.Append(msg)
		l.Post(f)
		l.Arm(&tm, l.Tick()+5, fired)
		n.Run()
		c.Discard()
	}
	for range 100 {
		once()
	}
	if a := testing.AllocsPerRun(1000, once); a > 0 && !raced {
		t.Errorf("%v allocations for an append with its flush, a post and a timer", a)
	}
}

// A peer that reads nothing, or a byte now and then, while more waits than the engine buffers, is a
// slow consumer after a minute. A peer that reads as much as that in a minute is not (K22).
func TestAttackK22Progress(t *testing.T) {
	for _, x := range []struct {
		name string
		step int           // bytes that the peer takes each time
		each time.Duration // and how often
		slow bool
	}{{"nothing", 0, time.Second, true}, {"a byte", 1, 100 * time.Millisecond, true},
		{"64 KiB in 50 s", 64 << 10, 50 * time.Second, false}, {"2 KiB a second", 2 << 10, time.Second, false}} {
		n := reactortest.New(1, reactor.Config{Loops: 1})
		var conn *reactor.Conn
		var reason error
		ended := false
		h := &script{open: func(c *reactor.Conn) {
			conn = c
		}, closed: func(_ *reactor.Conn, err error) { reason, ended = err, true }}
		c := n.Connect(0, h)
		c.SetWindow(0)
		conn.Append(make([]byte, 900_000))
		n.Run()
		at := n.Now()
		for ; !ended && n.Now().Sub(at) < 3*time.Minute; n.Advance(x.each) {
			c.SetWindow(x.step)
			if n.Now().Sub(at) < 55*time.Second && ended {
				t.Errorf("%s: ended early", x.name)
			}
		}
		if ended != x.slow || x.slow && (!errors.Is(reason, reactor.ErrSlowConsumer) ||
			n.Now().Sub(at) > 70*time.Second) {
			t.Errorf("%s: ended %v after %v, with %v", x.name, ended, n.Now().Sub(at), reason)
		}
		if x.slow {
			n.Advance(5 * time.Second)
			if n.Connections() != 0 {
				t.Errorf("%s: it is still there", x.name)
			}
		}
	}
}

// packer changes what a TLS client writes.
type packer struct {
	net.Conn
	change func(p []byte, write func([]byte)) // nil: as it is
}

func (c *packer) Write(p []byte) (n int, err error) {
	if c.change == nil {
		return c.Conn.Write(p)
	}
	c.change(p, func(b []byte) {
		if err == nil {
			_, err = c.Conn.Write(b)
		}
	})
	return len(p), err
}

// Handshake messages packed into the record of another, across a change of keys, are refused, and
// nothing of them is read as data (T07).
func TestAttackT07Packed(t *testing.T) {
	var data atomic.Int64
	h := &script{data: func(c *reactor.Conn, p []byte) int {
		data.Add(int64(len(p)))
		c.Append(p)
		return len(p)
	}}
	r, addr := serve(t, reactor.Config{Listeners: []reactor.Listener{{Addr: "127.0.0.1:0", Handler: h,
		DirectTLS: serverTLS(t)}}})
	for _, extra := range []string{"\x14\x00\x00\x00", "<stream:stream>", "\x18\x00\x00\x01\x00",
		"\x0b\x00\x00\x04\x00\x00\x00\x00"} {
		first := true
		c := tls.Client(&packer{dial(t, addr), func(p []byte, write func([]byte)) {
			if first { // the record of the ClientHello gets longer
				first = false
				n := int(p[3])<<8 + int(p[4]) + len(extra)
				p = append(append([]byte{p[0], p[1], p[2], byte(n >> 8), byte(n)}, p[5:]...), extra...)
			}
			write(p)
		}}, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"xmpp-client"}})
		if err := c.Handshake(); err == nil || !strings.Contains(err.Error(), "unexpected message") {
			t.Errorf("%q after the ClientHello: %v", extra, err)
		}
		c.Close()
	}
	waitFor(t, func() bool { return r.Connections() == 0 })
	if n := data.Load(); n != 0 {
		t.Errorf("%d bytes of them were data", n)
	}
}

// What a client sends in the same segment as the end of its handshake is read after it, whole and once,
// however it is cut (K43).
func TestAttackK43SameSegment(t *testing.T) {
	h := new(echo)
	_, addr := serve(t, reactor.Config{Listeners: []reactor.Listener{{Addr: "127.0.0.1:0", Handler: h,
		DirectTLS: serverTLS(t)}}})
	text := strings.Repeat("0123456789", 5000)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		for _, cut := range []int{1, 7, 100, 5000, 1 << 20} {
			var held []byte
			hello, done := true, false
			raw := dial(t, addr)
			p := &packer{Conn: raw}
			p.change = func(b []byte, write func([]byte)) {
				if hello || version == tls.VersionTLS12 && !done { // TLS 1.2 waits for the server's Finished
					hello = false
					write(b)
					return
				}
				held = append(held, b...)
			}
			c := tls.Client(p, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"xmpp-client"},
				MaxVersion: version})
			if err := c.Handshake(); err != nil {
				t.Fatal(err)
			}
			done = true
			c.Write([]byte(text))
			if len(held) < len(text) {
				t.Fatalf("%d bytes were held", len(held))
			}
			for len(held) > 0 {
				k := min(cut, len(held))
				raw.Write(held[:k])
				held = held[k:]
				if len(held) < len(text)-200*cut { // the rest at once: what is of interest is at its beginning
					cut = len(held) + 1
				}
			}
			p.change = nil
			b := make([]byte, len(text))
			if _, err := io.ReadFull(c, b); err != nil || string(b) != text {
				t.Fatalf("version %x: %d bytes, %v", version, len(b), err)
			}
			exchange(t, c, "behind")
			c.Close()
		}
	}
}

// A ClientHello that offers early data gets no connection in which those are read (K41).
func TestAttackK41EarlyData(t *testing.T) {
	var data atomic.Int64
	h := &script{data: func(c *reactor.Conn, p []byte) int { data.Add(int64(len(p))); return len(p) }}
	r, addr := serve(t, reactor.Config{Listeners: []reactor.Listener{{Addr: "127.0.0.1:0", Handler: h,
		DirectTLS: serverTLS(t)}}})
	for range 20 {
		early := true
		c := tls.Client(&packer{dial(t, addr), func(p []byte, write func([]byte)) {
			if early { // extension 42, empty, at the end; every length around it grows by 4
				early = false
				at := 5 + 4 + 2 + 32
				at += 1 + int(p[at])                   // session id
				at += 2 + int(p[at])<<8 + int(p[at+1]) // cipher suites
				at += 1 + int(p[at])                   // compression methods
				for _, l := range []int{3, 7, at} {    // record, message (its low bytes), extensions
					n := int(p[l])<<8 + int(p[l+1]) + 4
					p[l], p[l+1] = byte(n>>8), byte(n)
				}
				p = append(p, 0, 42, 0, 0)
				p = append(p, "\x17\x03\x03\x00\x20<stream:stream from='0-rtt'>....."...)
			}
			write(p)
		}}, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"xmpp-client"}})
		if err := c.Handshake(); err == nil || !strings.Contains(err.Error(), "unsupported extension") {
			t.Errorf("a ClientHello with early data: %v", err)
		}
		c.Close()
	}
	waitFor(t, func() bool { return r.Connections() == 0 })
	if data.Load() != 0 {
		t.Errorf("%d bytes of early data were read", data.Load())
	}
}

// A storm of connections that end at once, in all states of a handshake, does not keep other
// connections from being served, and leaves nothing in use (K26).
func TestAttackK26Storm(t *testing.T) {
	h := new(echo)
	r, addr := serve(t, reactor.Config{Loops: 2, Handshakes: 50,
		Listeners: []reactor.Listener{{Addr: "127.0.0.1:0", Handler: h, DirectTLS: serverTLS(t)}}})
	other := tls.Client(dial(t, addr), &tls.Config{InsecureSkipVerify: true,
		NextProtos: []string{"xmpp-client"}})
	exchange(t, other, "before")
	done := make(chan error, 4)
	for range 4 {
		go func() {
			for i := range 1500 {
				c, err := net.Dial("tcp", addr)
				if err != nil {
					done <- err
					return
				}
				if i%2 == 0 {
					c.Write([]byte{0x16, 3, 1, 2, 0, 1, 0, 1, 0xFC, 3, 3})
				}
				c.(*net.TCPConn).SetLinger(0)
				c.Close()
			}
			done <- nil
		}()
	}
	for ended := 0; ended < 4; {
		select {
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
			ended++
		default:
			exchange(t, other, "meanwhile")
			if n := r.Shaking(); n > 50 {
				t.Fatalf("%d handshakes in flight, of 50", n)
			}
		}
	}
	waitFor(t, func() bool { return r.Connections() == 1 && r.Shaking() == 0 && r.SlotsHeld() == 0 })
	late := tls.Client(dial(t, addr), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"xmpp-client"}})
	exchange(t, late, "afterwards")
}
