package reactor

import (
	"cmp"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"
)

// A Role is which end of TLS we are.
type Role uint8

// The two ends.
const (
	ServerRole Role = iota
	ClientRole
)

// handshakeTicks is how long a handshake may take.
const handshakeTicks = 100

// A record is the layer that opens and seals TLS records once the handshake is done. Today it is
// crypto/tls over a memory connection; a compact layer of our own takes its place behind the same two
// calls. Only on the loop.
type record interface {
	Read(p []byte) (int, error)  // plaintext; errWouldBlock when the input ends inside a record
	Write(p []byte) (int, error) // seals into memConn.out
	Close() error                // close_notify
}

// tlsConn is the TLS half of a Conn.
type tlsConn struct {
	mem    *memConn
	rec    record
	state  *tls.ConnectionState // nil until the handshake is done
	timer  Timer
	c      *Conn
	kept   int  // ciphertext that waits in mem, as the meter knows it
	said   bool // the peer has sent close_notify
	client bool // ours is the client's end
	failed bool
}

// StartTLS turns c into a TLS connection, at either end. Bytes already appended leave in plain.
// Parked plaintext is an error: it was sent before the handshake and must never be read after it; the
// caller ends the stream with policy-violation. cfg is shared and never changed. OnSecure follows, or
// OnClose.
func (c *Conn) StartTLS(cfg *tls.Config, role Role) error {
	if c.park != nil {
		return ErrPlain
	}
	if c.tls != nil || cfg == nil {
		return errors.New("reactor: no TLS to start")
	}
	c.flush() // what was appended so far leaves in plain
	if c.flags&flagGone != 0 {
		return errNotSaid
	}
	r := c.loop.r
	if !r.shakes.enter(c.io.Remote().Addr()) {
		return ErrBusy
	}
	m := &memConn{remote: c.io.Remote(), ready: make(chan struct{}, 1), slots: r.slots}
	t := &tlsConn{mem: m, c: c, client: role == ClientRole}
	c.tls = t
	m.wake = func() { c.loop.markDirty(c) }
	var tc *tls.Conn
	if role == ServerRole {
		tc = tls.Server(m, cfg)
	} else {
		tc = tls.Client(m, cfg)
	}
	c.loop.Arm(&t.timer, c.loop.Tick()+handshakeTicks, t)
	addr := c.io.Remote().Addr()
	go func() {
		m.slot(true)
		err := Protected(tc.Handshake)
		m.slot(false)
		r.shakes.leave(addr)
		c.loop.Post(func() { t.shaken(tc, err) })
	}()
	return nil
}

// OnTimer ends a handshake that takes too long.
func (t *tlsConn) OnTimer(*Loop) {
	if t.state == nil {
		t.c.Close(ErrTimeout)
		t.mem.end()
	}
}

// shaken goes on after the handshake.
func (t *tlsConn) shaken(tc *tls.Conn, err error) {
	c := t.c
	c.loop.Arm(&t.timer, 0, nil)
	if c.tls != t || c.flags&flagDone != 0 {
		return
	}
	if c.flags&flagGone != 0 {
		if t.client {
			c.lost(cmp.Or(err, errHalfDone))
		}
		return
	}
	if err != nil {
		t.failed = true
		t.writeOut(c) // the alert
		c.Close(err)
		return
	}
	st := tc.ConnectionState()
	t.mem.block(false)
	t.rec, t.state = tc, &st
	t.writeOut(c)
	c.loop.protect(c, func() { c.port.h.OnSecure(c, t.state) })
	if c.flags&flagClosing == 0 {
		t.deliver(c, nil)
	}
	c.loop.markDirty(c) // what was appended meanwhile
}

// deliver opens what p completes and gives it to the handler.
func (t *tlsConn) deliver(c *Conn, p []byte) {
	t.mem.feed(p)
	if t.state == nil {
		return // the handshake's goroutine reads it
	}
	l := c.loop
	for c.flags&(flagPaused|flagClosing|flagGone|flagDeaf) == 0 {
		if c.park != nil {
			c.feed(nil)
			continue
		}
		if l.plain == nil {
			l.plain = make([]byte, 32<<10)
		}
		n, err := t.rec.Read(l.plain)
		if n > 0 {
			c.feed(l.plain[:n])
		}
		if err == nil {
			continue
		}
		if errors.Is(err, errWouldBlock) {
			break
		}
		if errors.Is(err, io.EOF) {
			t.said = true
			c.Close(nil)
		} else {
			c.Close(err)
		}
		break
	}
	held := t.mem.held()
	l.meter.ParkedBytes += held - t.kept
	t.kept = held
	if held > maxPark {
		c.overflow()
	}
	t.writeOut(c) // answers of the layer itself: alerts, key updates
}

// seal writes p as records.
func (t *tlsConn) seal(c *Conn, p []byte) {
	if _, err := t.rec.Write(p); err != nil {
		c.Close(err)
	}
}

// writeOut gives ciphertext to the socket.
func (t *tlsConn) writeOut(c *Conn) {
	if c.io == nil || c.flags&flagGone != 0 {
		return
	}
	if b := t.mem.take(c.loop.cipher[:0]); len(b) > 0 {
		c.loop.meter.Writes++
		c.loop.meter.BytesOut += uint64(len(b))
		c.io.Write(b)
		if cap(b) <= 256<<10 {
			c.loop.cipher = b
		}
	}
}

// bye sends close_notify.
func (t *tlsConn) bye(c *Conn) {
	if t.rec != nil && !t.failed {
		t.rec.Close()
		t.writeOut(c)
	}
}

type wouldBlock struct{}

func (wouldBlock) Error() string   { return "reactor: no input" }
func (wouldBlock) Timeout() bool   { return true }
func (wouldBlock) Temporary() bool { return true }

var errWouldBlock net.Error = wouldBlock{}

// A memConn is the net.Conn under crypto/tls: the loop feeds it ciphertext and takes from it what is
// to be sent. During the handshake its Read waits; a CPU slot is held only while it does not.
type memConn struct {
	mu     sync.Mutex
	in     []byte
	off    int
	out    []byte
	ended  bool
	nonblk bool
	late   bool          // a deadline of Read has passed
	ready  chan struct{} // cap 1
	slots  chan struct{}
	wake   func()
	remote netip.AddrPort
	cert   *tls.Certificate // presented to the peer
}

// Present notes which certificate a handshake takes: [tls.ClientHelloInfo].Conn is this connection, and
// crypto/tls tells nobody afterwards.
func (m *memConn) Present(c *tls.Certificate) {
	m.mu.Lock()
	m.cert = c
	m.mu.Unlock()
}

func (m *memConn) slot(take bool) {
	if m.slots == nil {
		return
	}
	if take {
		m.slots <- struct{}{}
	} else {
		<-m.slots
	}
}

func (m *memConn) feed(p []byte) {
	if len(p) == 0 {
		return
	}
	m.mu.Lock()
	if m.off == len(m.in) {
		m.in, m.off = m.in[:0], 0
		if cap(m.in) > 4096 {
			m.in = nil
		}
	} else if m.off >= len(m.in)-m.off {
		// A reader that never catches up must not make it grow for ever.
		m.in, m.off = m.in[:copy(m.in, m.in[m.off:])], 0
	}
	m.in = append(m.in, p...)
	m.mu.Unlock()
	m.signal()
}

func (m *memConn) signal() {
	select {
	case m.ready <- struct{}{}:
	default:
	}
}

func (m *memConn) held() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.in) - m.off
}

func (m *memConn) end() {
	m.mu.Lock()
	m.ended = true
	m.mu.Unlock()
	m.signal()
}

func (m *memConn) block(on bool) {
	m.mu.Lock()
	m.nonblk = !on
	m.mu.Unlock()
}

func (m *memConn) take(dst []byte) []byte {
	m.mu.Lock()
	dst = append(dst, m.out...)
	m.out = nil
	m.mu.Unlock()
	return dst
}

func (m *memConn) Read(p []byte) (int, error) {
	for {
		m.mu.Lock()
		if m.late {
			m.mu.Unlock()
			return 0, os.ErrDeadlineExceeded
		}
		if n := copy(p, m.in[m.off:]); n > 0 || len(p) == 0 {
			m.off += n
			if m.off == len(m.in) {
				m.in, m.off = nil, 0
			}
			m.mu.Unlock()
			return n, nil
		}
		ended, nonblk := m.ended, m.nonblk
		m.mu.Unlock()
		switch {
		case ended:
			return 0, io.EOF
		case nonblk:
			return 0, errWouldBlock
		}
		m.slot(false)
		<-m.ready
		m.slot(true)
	}
}

func (m *memConn) Write(p []byte) (int, error) {
	m.mu.Lock()
	if m.ended {
		m.mu.Unlock()
		return 0, net.ErrClosed
	}
	m.out = append(m.out, p...)
	wake := !m.nonblk
	m.mu.Unlock()
	if wake {
		m.wake()
	}
	return len(p), nil
}

// The rest of net.Conn.
func (m *memConn) Close() error                     { return nil }
func (m *memConn) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (m *memConn) RemoteAddr() net.Addr             { return net.TCPAddrFromAddrPort(m.remote) }
func (m *memConn) SetDeadline(time.Time) error      { return nil }
func (m *memConn) SetReadDeadline(time.Time) error  { return nil }
func (m *memConn) SetWriteDeadline(time.Time) error { return nil }

// shakes counts handshakes in flight, in all and by address.
type shakes struct {
	mu           sync.Mutex
	n            int
	by           map[netip.Addr]int
	all, perAddr int
}

func (s *shakes) enter(a netip.Addr) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.n >= s.all || !a.IsLoopback() && s.by[a] >= s.perAddr {
		return false
	}
	s.n++
	s.by[a]++
	return true
}

func (s *shakes) leave(a netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.n--
	if s.by[a]--; s.by[a] <= 0 {
		delete(s.by, a)
	}
}
