package reactor

import (
	"bytes"
	"cmp"
	"crypto/fips140"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// A Role is which end of TLS we are.
type Role uint8

// The two ends.
const (
	ServerRole Role = iota
	ClientRole
)

// handshakeTicks is how long a handshake may take, and how long the peer has to begin; waitTicks is how
// long it may wait for its turn in between.
const (
	handshakeTicks = 100
	waitTicks      = 300
)

// quietTicks is how long a record layer of ours stays warm without traffic.
const quietTicks = 100

// A record is the layer that opens and seals TLS records once the handshake is done: a std, or a layer of
// our own. Only on the loop.
type record interface {
	feed(p []byte)                      // what has come; good until settle
	Read(p []byte) (int, error)         // plaintext; errWouldBlock when the input ends inside a record
	settle()                            // keeps what was fed and not read
	held() int                          // how much of it
	seal(dst, p []byte) ([]byte, error) // appends records with p
	take(dst []byte) []byte             // appends what the layer has to say by itself
	bye(dst []byte) []byte              // appends close_notify
}

const (
	tlsClient = 1 << iota // ours is the client's end
	tlsSecure             // the handshake is done
	tlsSaid               // the peer has sent close_notify
	tlsFailed             // the handshake has failed: no close_notify
)

// tlsConn is the TLS half of a Conn: 160 bytes, with the record layer.
type tlsConn struct {
	std   *std   // in a handshake, and for good where crypto/tls stays; else nil
	shown *shown // nil until the handshake is done, and from Settle on
	kept  int32  // ciphertext that waits, as the meter knows it
	flags uint8
	layer layer // in use from tlsSecure on, if std is nil
}

// shown is what a handshake has shown of both ends.
type shown struct {
	state tls.ConnectionState
	cert  *tls.Certificate // ours
}

// std is crypto/tls over a memory connection.
type std struct {
	m     memConn
	tc    *tls.Conn   // from begin on
	cfg   *tls.Config // what StartTLS was given
	timer Timer       // of the handshake
	c     *Conn
	begun bool
	blank int // how many blanks may still come before the handshake: see skipBlanks
	over  int // see Conn.Overhead
	raw   int // memConn.grown, as the meter knows it
}

// maxBlanks is how many blanks behind <starttls/> are dropped before they are taken for a handshake that
// is none.
const maxBlanks = 256

// skipBlanks drops what XML calls white space before the first byte of a handshake, which is none of it.
// RFC 6120 §5.3.3 forbids a client to send white space behind <starttls/>; clients that write lines do,
// and it carries nothing. Only where plain text came before TLS.
func (s *std) skipBlanks(p []byte) []byte {
	for s.blank > 0 && len(p) > 0 && (p[0] == ' ' || p[0] == '\t' || p[0] == '\r' || p[0] == '\n') {
		s.blank--
		p = p[1:]
	}
	if len(p) > 0 {
		s.blank = 0
	}
	return p
}

// StartTLS turns c into a TLS connection, at either end. Bytes already appended leave in plain. Parked
// plaintext is an error: it was sent before the handshake and must never be read after it; the caller
// ends the stream with policy-violation. A server drops white space that comes before the handshake. cfg
// is shared and never changed. OnSecure follows, or OnClose.
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
	s := &std{c: c, cfg: cfg}
	s.m = memConn{records: true, remote: c.io.Remote(), ready: make(chan struct{}, 1), slots: c.loop.r.slots,
		wake: func() {
			c.loop.markDirty(c)
		}}
	c.tls = &tlsConn{std: s}
	if role == ServerRole && c.port.direct == nil {
		s.blank = maxBlanks
	}
	c.loop.meter.Secured++
	c.loop.meter.Std++
	c.loop.Arm(&s.timer, c.loop.Tick()+handshakeTicks, s)
	if role == ClientRole {
		c.tls.flags = tlsClient
		s.begin()
	}
	return nil
}

// hello is called when the peer has sent something during a handshake. With its first bytes a server's
// begins, if others leave room for it; else it waits.
func (t *tlsConn) hello(c *Conn) {
	held := t.held()
	switch a := &c.loop.guests; {
	case held > maxPark:
		c.overflow()
	case held == 0 || t.std.begun || c.flags&flagWaits != 0:
	case !c.loop.r.shakes.full() && a.enter(HandshakeCost):
		t.std.begin()
	case a.wait(c, true, held):
		c.loop.Arm(&t.std.timer, c.loop.Tick()+waitTicks, t.std)
	default:
		c.loop.meter.Crowded++
		c.sendAway(ErrCrowded)
	}
}

// begin has a goroutine do the handshake.
func (s *std) begin() {
	c := s.c
	t, r, cfg, addr := c.tls, c.loop.r, s.cfg, c.io.Remote().Addr()
	if !r.shakes.enter(addr) {
		c.loop.meter.Busy++
		c.sendAway(ErrBusy)
		return
	}
	s.begun = true
	c.loop.Arm(&s.timer, c.loop.Tick()+handshakeTicks, s)
	client := t.flags&tlsClient != 0
	stays := r.cfg.StdTLS || fips140.Enabled() // there only the nonces of crypto/tls itself are approved
	if client {
		s.tc = tls.Client(&s.m, s.client(cfg, stays))
	} else {
		s.tc = tls.Server(&s.m, r.detaching.server(s, cfg, stays))
	}
	go func() {
		s.m.slot(true)
		err := Protected(s.tc.Handshake)
		var y *layer
		var st tls.ConnectionState
		if err == nil {
			st = s.tc.ConnectionState()
			y = s.detach(&st, client)
		} else if s.m.takes != nil {
			s.m.takes.wipe()
		}
		s.m.slot(false)
		r.shakes.leave(addr)
		c.loop.Post(func() { t.shaken(&shown{state: st}, y, err) })
	}()
}

// OnTimer ends a handshake that takes too long.
func (s *std) OnTimer(*Loop) {
	if !s.c.Secure() {
		s.c.loop.meter.Late++
		s.c.Close(ErrTimeout)
		s.m.end()
	}
}

// shaken goes on after the handshake; y is the record layer from here on, or nil if crypto/tls stays.
func (t *tlsConn) shaken(sh *shown, y *layer, err error) {
	s := t.std
	c := s.c
	c.loop.Arm(&s.timer, 0, nil)
	if y != nil {
		defer y.drop() // or what is left of it
	}
	if c.tls != t || c.flags&flagDone != 0 {
		return
	}
	if c.flags&flagGone != 0 {
		if t.flags&tlsClient != 0 {
			c.lost(cmp.Or(err, errHalfDone))
		}
		return
	}
	if err != nil {
		t.flags |= tlsFailed
		t.writeOut(c) // the alert
		c.Close(err)
		return
	}
	s.m.secure(t.flags&tlsClient != 0)
	// TLS 1.2 has chosen one then, but the peer holds that of its first handshake (attack T08)
	if !sh.state.DidResume {
		sh.cert = s.m.presented()
	}
	t.shown = sh
	t.flags |= tlsSecure
	t.writeOut(c) // the end of the handshake
	if y != nil && c.flags&flagGone == 0 {
		t.layer, *y = *y, layer{}
		t.std = nil
		c.loop.meter.Std--
		t.layer.feed(s.m.rest())
		t.layer.settle()
		t.touch(c)
	}
	c.loop.protect(c, func() { c.port.h.OnSecure(c, &sh.state) })
	if c.flags&flagClosing == 0 {
		t.deliver(c, nil)
	}
	c.loop.markDirty(c) // what was appended meanwhile
}

// rec is the record layer, once the handshake is done.
func (t *tlsConn) rec() record {
	if t.std != nil {
		return t.std
	}
	return &t.layer
}

// feed takes ciphertext that the handshake reads.
func (t *tlsConn) feed(p []byte) { t.rec().feed(p) }

// deliver opens what p completes and gives it to the handler.
func (t *tlsConn) deliver(c *Conn, p []byte) {
	rec := t.rec()
	if t.flags&tlsSecure == 0 && !t.std.begun {
		p = t.std.skipBlanks(p)
	}
	rec.feed(p)
	if t.flags&tlsSecure == 0 {
		t.hello(c) // the handshake's goroutine reads it
		return
	}
	l := c.loop
	for c.flags&(flagPaused|flagWaits|flagClosing|flagGone|flagDeaf) == 0 {
		if c.park != nil {
			c.feed(nil)
			continue
		}
		if l.plain == nil {
			l.plain = make([]byte, 32<<10)
		}
		n, err := rec.Read(l.plain)
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
			t.flags |= tlsSaid
			c.Close(nil)
		} else {
			c.Close(err)
		}
		break
	}
	rec.settle()
	if s := t.std; s != nil {
		raw := s.m.grown()
		l.meter.RawBytes += raw - s.raw
		s.raw = raw
	}
	held := rec.held()
	if held > 0 {
		c.impatient()
	}
	l.meter.ParkedBytes += held - int(t.kept)
	t.kept = int32(held)
	if held > maxPark {
		c.overflow()
	}
	t.writeOut(c) // answers of the layer itself: alerts, key updates
	t.touch(c)
}

// seal writes p as records.
func (t *tlsConn) seal(c *Conn, p []byte) {
	b, err := t.rec().seal(c.loop.cipher[:0], p)
	if err != nil {
		c.Close(err)
	}
	t.write(c, b)
	t.touch(c)
}

// writeOut gives to the socket what the layer says by itself. While the peer takes nothing it waits: there
// is at most one answer, and what is sealed next has it in front.
func (t *tlsConn) writeOut(c *Conn) {
	if c.io == nil || c.flags&flagGone != 0 || t.std == nil && t.layer.flags&layerDead == 0 &&
		c.io.Buffered() > 0 {
		return
	}
	t.write(c, t.rec().take(c.loop.cipher[:0]))
}

// write gives ciphertext to the socket; b becomes the loop's scratch.
func (t *tlsConn) write(c *Conn, b []byte) {
	if len(b) == 0 || c.io == nil || c.flags&flagGone != 0 {
		return
	}
	c.loop.meter.Writes++
	c.loop.meter.BytesOut += uint64(len(b))
	c.io.Write(b)
	if cap(b) <= 256<<10 {
		c.loop.cipher = b
	}
}

// bye sends close_notify.
func (t *tlsConn) bye(c *Conn) {
	if t.flags&(tlsSecure|tlsFailed) == tlsSecure {
		t.write(c, t.rec().bye(c.loop.cipher[:0]))
	}
}

// touch keeps a layer of ours warm for quietTicks more.
func (t *tlsConn) touch(c *Conn) {
	if w := t.layer.warm; w != nil {
		w.used = c.loop.Tick()
		if w.timer.to == nil && c.flags&flagGone == 0 {
			c.loop.Arm(&w.timer, w.used+quietTicks, t)
			c.loop.meter.Warm++
		}
	}
}

// OnTimer cools a layer of ours that was quiet.
func (t *tlsConn) OnTimer(l *Loop) {
	w := t.layer.warm
	if w == nil {
		return
	}
	if at := w.used + quietTicks; at > l.Tick() {
		l.Arm(&w.timer, at, t)
		return
	}
	t.layer.cool()
	l.meter.Warm--
}

// held is how much ciphertext waits.
func (t *tlsConn) held() int { return t.rec().held() }

// end wakes a handshake that goes on: the connection is gone.
func (t *tlsConn) end() {
	if t.std != nil {
		t.std.m.end()
	}
}

// forget wipes what is left.
func (t *tlsConn) forget(l *Loop) {
	t.end()
	l.meter.ParkedBytes -= int(t.kept)
	t.kept = 0
	l.meter.Secured--
	if t.std != nil {
		l.meter.Std--
		l.meter.RawBytes -= t.std.raw
	}
	if w := t.layer.warm; w != nil && w.timer.to != nil {
		l.Arm(&w.timer, 0, nil)
		l.meter.Warm--
	}
	t.layer.drop()
}

// presented is the certificate that was shown to the peer.
func (t *tlsConn) presented() *tls.Certificate {
	switch {
	case t.shown != nil:
		return t.shown.cert
	case t.std != nil && t.flags&tlsSecure == 0:
		return t.std.m.presented()
	}
	return nil
}

// The record layer of crypto/tls.

func (s *std) feed(p []byte)          { s.m.feed(p) }
func (s *std) settle()                {}
func (s *std) held() int              { return s.m.held() }
func (s *std) take(dst []byte) []byte { return s.m.take(dst) }

func (s *std) Read(p []byte) (int, error) {
	n, err := s.tc.Read(p)
	if n > 0 {
		s.over += max(0, s.m.data(n)-recordExtra)
	}
	return n, err
}

func (s *std) seal(dst, p []byte) ([]byte, error) {
	_, err := s.tc.Write(p)
	return s.m.take(dst), err
}

func (s *std) bye(dst []byte) []byte {
	s.tc.Close()
	return s.m.take(dst)
}

type wouldBlock struct{}

func (wouldBlock) Error() string   { return "reactor: no input" }
func (wouldBlock) Timeout() bool   { return true }
func (wouldBlock) Temporary() bool { return true }

var errWouldBlock net.Error = wouldBlock{}

// errIdle ends who sends much and no data.
var errIdle = errors.New("reactor: too much of TLS without data")

const (
	// maxIdle is how much a client may send without data, once the handshake is done, before it begins another
	// record; a server, whose tickets may be large, has maxTicket. crypto/tls keeps a handshake message until
	// it is whole (attack K44).
	maxIdle = 16 << 10
	// recordExtra is what a record of any suite has beside data and padding, and is not charged.
	recordExtra = 64
)

// A memConn is the net.Conn under crypto/tls: the loop feeds it ciphertext and takes from it what is to
// be sent. During the handshake its Read waits; a CPU slot is held only while it does not. It gives no
// more than a record at a time: the buffer of crypto/tls never shrinks and grows by doubling, and what is
// behind the last record of a handshake may be ours to open (attacks K43, K44). A handed lives on it
// without TLS.
type memConn struct {
	mu     sync.Mutex
	in     []byte
	off    int
	out    []byte
	ended  bool
	nonblk bool
	late   bool          // a deadline of Read has passed
	ready  chan struct{} // cap 1
	slots  *slots
	wake   func()
	remote netip.AddrPort
	cert   *tls.Certificate // presented to the peer
	takes  *takeover        // of a handshake whose connection is to be detached; its goroutine's

	records        bool // what is read are records of TLS; else text of HTTP
	size, left     int  // of the record that is being read, and how much of it is still to be
	raw, base      int  // what the buffer of crypto/tls has grown to, and had at the end of the handshake
	idle, patience int  // read since there was data; how much it may be, 0: any
}

// within cuts in where the record ends that crypto/tls reads. Under mu.
func (m *memConn) within(in []byte) []byte {
	if m.left == 0 {
		if len(in) < recordHead {
			return nil
		}
		m.size = recordHead + int(binary.BigEndian.Uint16(in[3:]))
		m.left = m.size
		if n := m.size + bytes.MinRead; n > m.raw {
			m.raw = max(n, 2*m.raw) // as bytes.Buffer does
		}
	}
	return in[:min(len(in), m.left)]
}

// Present notes which certificate a handshake takes: [tls.ClientHelloInfo].Conn is this connection, and
// crypto/tls tells nobody afterwards.
func (m *memConn) Present(c *tls.Certificate) {
	m.mu.Lock()
	m.cert = c
	m.mu.Unlock()
}

func (m *memConn) presented() *tls.Certificate {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.cert
}

func (m *memConn) slot(take bool) {
	switch {
	case m.slots == nil:
	case take:
		m.slots.take()
	default:
		m.slots.leave()
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
	n := len(m.in) - m.off
	if m.left > 0 {
		n += m.size - m.left
	}
	return n
}

// rest is what was fed and not read.
func (m *memConn) rest() []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	b := m.in[m.off:]
	m.in, m.off = nil, 0
	return b
}

func (m *memConn) end() {
	m.mu.Lock()
	m.ended = true
	m.mu.Unlock()
	m.signal()
}

// secure is called behind the handshake: Read waits no more.
func (m *memConn) secure(client bool) {
	m.mu.Lock()
	m.nonblk, m.idle, m.base = true, 0, m.raw
	if m.patience = maxIdle; client {
		m.patience = maxTicket
	}
	m.mu.Unlock()
}

// data says that what was read since it was said last brought n bytes of data; it returns what it cost
// beside.
func (m *memConn) data(n int) (over int) {
	m.mu.Lock()
	over, m.idle = m.idle-n, 0
	m.mu.Unlock()
	return over
}

// grown is by how much the buffer of crypto/tls has grown since the handshake.
func (m *memConn) grown() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.raw - m.base
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
		in := m.in[m.off:]
		if m.left == 0 && m.patience > 0 && m.idle > m.patience {
			m.mu.Unlock()
			return 0, errIdle
		}
		if m.records && !m.ended {
			in = m.within(in)
		}
		if n := copy(p, in); n > 0 || len(p) == 0 {
			m.off += n
			m.left = max(0, m.left-n)
			m.idle += n
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
	m.takes.wrote(p)
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

// slots are the processors that handshakes compute on, one each at a time.
type slots struct {
	taken  chan struct{}
	since  time.Time
	last   atomic.Int64 // yield, behind since
	guests atomic.Int32 // that wait on any loop
}

// yieldEvery is for how long handshakes follow each other before whoever else waits for a processor has
// one; while a crowd waits to log in, each lets them in. Go's scheduler gives the processor to the next
// handshake, which the last one has woken; a loop that comes back from a system call without one stands
// in a queue that is looked at behind 60 of them.
const (
	yieldEvery = 2 * time.Millisecond
	crowd      = 256
)

func newSlots(n int) *slots { return &slots{taken: make(chan struct{}, n), since: time.Now()} }

func (s *slots) take() {
	s.taken <- struct{}{}
	if s.guests.Load() < crowd {
		now := int64(time.Since(s.since))
		if last := s.last.Load(); now-last < int64(yieldEvery) || !s.last.CompareAndSwap(last, now) {
			return
		}
	}
	runtime.Gosched()
}

func (s *slots) leave() { <-s.taken }

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

func (s *shakes) full() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.n >= s.all
}

func (s *shakes) leave(a netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.n--
	if s.by[a]--; s.by[a] <= 0 {
		delete(s.by, a)
	}
}
