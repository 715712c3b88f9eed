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

// handshakeTicks is how long a handshake may take, and how long the peer has to begin;
// handshakeQueueTicks is how long it may wait for its turn in between.
const (
	handshakeTicks      = 100
	handshakeQueueTicks = 300
)

// coolTicks is how long a record layer of ours stays warm without traffic.
const coolTicks = 100

// A record is the layer that opens and seals TLS records once the handshake is done: a std, or a layer of
// our own. Only on the loop.
type recordLayer interface {
	feed(p []byte)                       // what has come; good until settle
	Read(p []byte) (int, error)          // plaintext; errWouldBlock when the input ends inside a record
	parkUnread()                         // keeps what was fed and not read
	buffered() int                       // how much of it
	seal(dst, p []byte) ([]byte, error)  // appends records with p
	takePending(dst []byte) []byte       // appends what the layer has to say by itself
	appendCloseNotify(dst []byte) []byte // appends close_notify
}

const (
	tlsClient     = 1 << iota // ours is the client's end
	tlsSecure                 // the handshake is done
	tlsPeerClosed             // the peer has sent close_notify
	tlsFailed                 // the handshake has failed: no close_notify
)

// tlsConn is the TLS half of a Conn: 160 bytes, with the record layer.
type tlsConn struct {
	std          *stdTLS         // in a handshake, and for good where crypto/tls stays; else nil
	handshake    *handshakeState // nil until the handshake is done, and from Settle on
	meteredBytes int32           // ciphertext that waits, as the meter knows it
	flags        uint8
	layer        tls13Layer // in use from tlsSecure on, if std is nil
}

// handshakeState is what a handshake has shown of both ends.
type handshakeState struct {
	state tls.ConnectionState
	cert  *tls.Certificate // ours
}

// stdTLS is crypto/tls over a memory connection.
type stdTLS struct {
	mem           memConn
	tc            *tls.Conn   // from begin on
	cfg           *tls.Config // what StartTLS was given
	timer         Timer       // of the handshake
	c             *Conn
	begun         bool
	blanksLeft    int // how many blanks may still come before the handshake: see skipBlanks
	overhead      int // see Conn.TakeTLSOverhead
	meteredGrowth int // memConn.bufGrowth, as the meter knows it
}

// maxBlanks is how many blanks behind <starttls/> are dropped before they are taken for a handshake that
// is none.
const maxBlanks = 256

// skipBlanks drops what XML calls white space before the first byte of a handshake, which is none of it.
// RFC 6120 §5.3.3 forbids a client to send white space behind <starttls/>; clients that write lines do,
// and it carries nothing. Only where plain text came before TLS.
func (s *stdTLS) skipBlanks(p []byte) []byte {
	for s.blanksLeft > 0 && len(p) > 0 && (p[0] == ' ' || p[0] == '\t' || p[0] == '\r' || p[0] == '\n') {
		s.blanksLeft--
		p = p[1:]
	}
	if len(p) > 0 {
		s.blanksLeft = 0
	}
	return p
}

// StartTLS turns c into a TLS connection, at either end. Bytes already appended leave in plain. Parked
// plaintext is an error: it was sent before the handshake and must never be read after it; the caller
// ends the stream with policy-violation. A server drops white space that comes before the handshake. cfg
// is shared and never changed. OnSecure follows, or OnClose.
func (c *Conn) StartTLS(cfg *tls.Config, role Role) error {
	if c.parked != nil {
		return ErrUnexpectedPlaintext
	}
	if c.tls != nil || cfg == nil {
		return errors.New("reactor: no TLS to start")
	}
	c.flush() // what was appended so far leaves in plain
	if c.flags&flagSocketClosed != 0 {
		return errConnLost
	}
	s := &stdTLS{c: c, cfg: cfg}
	s.mem = memConn{records: true, remote: c.sock.Remote(), ready: make(chan struct{}, 1),
		handshakeSlots: c.loop.r.handshakeSlots,
		onOutput: func() {
			c.loop.markDirty(c)
		}}
	c.tls = &tlsConn{std: s}
	if role == ServerRole && c.endpoint.directTLS == nil {
		s.blanksLeft = maxBlanks
	}
	c.loop.meter.TLS++
	c.loop.meter.StdTLS++
	c.loop.Arm(&s.timer, c.loop.Tick()+handshakeTicks, s)
	if role == ClientRole {
		c.tls.flags = tlsClient
		s.beginHandshake()
	}
	return nil
}

// tryBeginHandshake is called when the peer has sent something during a handshake. With its first bytes a
// server's begins, if others leave room for it; else it waits.
func (t *tlsConn) tryBeginHandshake(c *Conn) {
	held := t.buffered()
	switch a := &c.loop.admission; {
	case held > maxParkedBytes:
		c.overflow()
	case held == 0 || t.std.begun || c.flags&flagAdmissionQueued != 0:
	case !c.loop.r.handshakeLimit.full() && a.tryAdmit(HandshakeCost):
		t.std.beginHandshake()
	case a.enqueue(c, true, held):
		c.loop.Arm(&t.std.timer, c.loop.Tick()+handshakeQueueTicks, t.std)
	default:
		c.loop.meter.AdmissionRefused++
		c.refuse(ErrAdmissionFull)
	}
}

// beginHandshake has a goroutine do the handshake.
func (s *stdTLS) beginHandshake() {
	c := s.c
	t, r, cfg, addr := c.tls, c.loop.r, s.cfg, c.sock.Remote().Addr()
	if !r.handshakeLimit.acquire(addr) {
		c.loop.meter.HandshakesRefused++
		c.refuse(ErrTooManyHandshakes)
		return
	}
	s.begun = true
	c.loop.Arm(&s.timer, c.loop.Tick()+handshakeTicks, s)
	client := t.flags&tlsClient != 0
	stays := r.cfg.StdTLS || fips140.Enabled() // there only the nonces of crypto/tls itself are approved
	if client {
		s.tc = tls.Client(&s.mem, s.clientConfig(cfg, stays))
	} else {
		s.tc = tls.Server(&s.mem, r.captureConfigs.serverConfig(s, cfg, stays))
	}
	go func() {
		s.mem.holdSlot(true)
		err := CatchPanic(s.tc.Handshake)
		var y *tls13Layer
		var st tls.ConnectionState
		if err == nil {
			st = s.tc.ConnectionState()
			y = s.detach(&st, client)
		} else if s.mem.capture != nil {
			s.mem.capture.wipe()
		}
		s.mem.holdSlot(false)
		r.handshakeLimit.release(addr)
		c.loop.Post(func() { t.handshakeDone(&handshakeState{state: st}, y, err) })
	}()
}

// OnTimer ends a handshake that takes too long.
func (s *stdTLS) OnTimer(*Loop) {
	if !s.c.Secure() {
		s.c.loop.meter.HandshakeTimeouts++
		s.c.Close(ErrHandshakeTimeout)
		s.mem.markClosed()
	}
}

// handshakeDone goes on after the handshake; y is the record layer from here on, or nil if crypto/tls stays.
func (t *tlsConn) handshakeDone(sh *handshakeState, y *tls13Layer, err error) {
	s := t.std
	c := s.c
	c.loop.Arm(&s.timer, 0, nil)
	if y != nil {
		defer y.wipeAll() // or what is left of it
	}
	if c.tls != t || c.flags&flagClosed != 0 {
		return
	}
	if c.flags&flagSocketClosed != 0 {
		if t.flags&tlsClient != 0 {
			c.closeLost(cmp.Or(err, errUnexpectedEOF))
		}
		return
	}
	if err != nil {
		t.flags |= tlsFailed
		t.writeOut(c) // the alert
		c.Close(err)
		return
	}
	s.mem.setSecured(t.flags&tlsClient != 0)
	// TLS 1.2 has chosen one then, but the peer holds that of its first handshake (attack T08)
	if !sh.state.DidResume {
		sh.cert = s.mem.presentedCertificate()
	}
	t.handshake = sh
	t.flags |= tlsSecure
	t.writeOut(c) // the end of the handshake
	if y != nil && c.flags&flagSocketClosed == 0 {
		t.layer, *y = *y, tls13Layer{}
		t.std = nil
		c.loop.meter.StdTLS--
		t.layer.feed(s.mem.takeUnread())
		t.layer.parkUnread()
		t.keepWarm(c)
	}
	c.loop.protect(c, func() { c.endpoint.handler.OnSecure(c, &sh.state) })
	if c.flags&flagClosing == 0 {
		t.deliver(c, nil)
	}
	c.loop.markDirty(c) // what was appended meanwhile
}

// recordLayer is the record layer, once the handshake is done.
func (t *tlsConn) recordLayer() recordLayer {
	if t.std != nil {
		return t.std
	}
	return &t.layer
}

// feed takes ciphertext that the handshake reads.
func (t *tlsConn) feed(p []byte) { t.recordLayer().feed(p) }

// deliver opens what p completes and gives it to the handler.
func (t *tlsConn) deliver(c *Conn, p []byte) {
	rec := t.recordLayer()
	if t.flags&tlsSecure == 0 && !t.std.begun {
		p = t.std.skipBlanks(p)
	}
	rec.feed(p)
	if t.flags&tlsSecure == 0 {
		t.tryBeginHandshake(c) // the handshake's goroutine reads it
		return
	}
	l := c.loop
	for c.flags&(flagPaused|flagAdmissionQueued|flagClosing|flagSocketClosed|flagDiscardInput) == 0 {
		if c.parked != nil {
			c.feedHandler(nil)
			continue
		}
		if l.openBuf == nil {
			l.openBuf = make([]byte, 32<<10)
		}
		n, err := rec.Read(l.openBuf)
		if n > 0 {
			c.feedHandler(l.openBuf[:n])
		}
		if err == nil {
			continue
		}
		if errors.Is(err, errWouldBlock) {
			break
		}
		if errors.Is(err, io.EOF) {
			t.flags |= tlsPeerClosed
			c.Close(nil)
		} else {
			c.Close(err)
		}
		break
	}
	rec.parkUnread()
	if s := t.std; s != nil {
		raw := s.mem.bufGrowth()
		l.meter.StdTLSGrowth += raw - s.meteredGrowth
		s.meteredGrowth = raw
	}
	held := rec.buffered()
	if held > 0 {
		c.enforcePause()
	}
	l.meter.ParkedBytes += held - int(t.meteredBytes)
	t.meteredBytes = int32(held)
	if held > maxParkedBytes {
		c.overflow()
	}
	t.writeOut(c) // answers of the layer itself: alerts, key updates
	t.keepWarm(c)
}

// seal writes p as records.
func (t *tlsConn) seal(c *Conn, p []byte) {
	b, err := t.recordLayer().seal(c.loop.sealBuf[:0], p)
	if err != nil {
		c.Close(err)
	}
	t.write(c, b)
	t.keepWarm(c)
}

// writeOut gives to the socket what the layer says by itself. While the peer takes nothing it waits: there
// is at most one answer, and what is sealed next has it in front.
func (t *tlsConn) writeOut(c *Conn) {
	if c.sock == nil || c.flags&flagSocketClosed != 0 || t.std == nil && t.layer.flags&layerDead == 0 &&
		c.sock.Buffered() > 0 {
		return
	}
	t.write(c, t.recordLayer().takePending(c.loop.sealBuf[:0]))
}

// write gives ciphertext to the socket; b becomes the loop's scratch.
func (t *tlsConn) write(c *Conn, b []byte) {
	if len(b) == 0 || c.sock == nil || c.flags&flagSocketClosed != 0 {
		return
	}
	c.loop.meter.Writes++
	c.loop.meter.BytesOut += uint64(len(b))
	c.sock.Write(b)
	if cap(b) <= 256<<10 {
		c.loop.sealBuf = b
	}
}

// sendCloseNotify sends close_notify.
func (t *tlsConn) sendCloseNotify(c *Conn) {
	if t.flags&(tlsSecure|tlsFailed) == tlsSecure {
		t.write(c, t.recordLayer().appendCloseNotify(c.loop.sealBuf[:0]))
	}
}

// keepWarm keeps a layer of ours warm for coolTicks more.
func (t *tlsConn) keepWarm(c *Conn) {
	if w := t.layer.warm; w != nil {
		w.lastUsed = c.loop.Tick()
		if w.timer.handler == nil && c.flags&flagSocketClosed == 0 {
			c.loop.Arm(&w.timer, w.lastUsed+coolTicks, t)
			c.loop.meter.WarmTLS++
		}
	}
}

// OnTimer cools a layer of ours that was quiet.
func (t *tlsConn) OnTimer(l *Loop) {
	w := t.layer.warm
	if w == nil {
		return
	}
	if at := w.lastUsed + coolTicks; at > l.Tick() {
		l.Arm(&w.timer, at, t)
		return
	}
	t.layer.cool()
	l.meter.WarmTLS--
}

// buffered is how much ciphertext waits.
func (t *tlsConn) buffered() int { return t.recordLayer().buffered() }

// abortHandshake wakes a handshake that goes on: the connection is gone.
func (t *tlsConn) abortHandshake() {
	if t.std != nil {
		t.std.mem.markClosed()
	}
}

// release wipes what is left.
func (t *tlsConn) release(l *Loop) {
	t.abortHandshake()
	l.meter.ParkedBytes -= int(t.meteredBytes)
	t.meteredBytes = 0
	l.meter.TLS--
	if t.std != nil {
		l.meter.StdTLS--
		l.meter.StdTLSGrowth -= t.std.meteredGrowth
	}
	if w := t.layer.warm; w != nil && w.timer.handler != nil {
		l.Arm(&w.timer, 0, nil)
		l.meter.WarmTLS--
	}
	t.layer.wipeAll()
}

// presentedCertificate is the certificate that was shown to the peer.
func (t *tlsConn) presentedCertificate() *tls.Certificate {
	switch {
	case t.handshake != nil:
		return t.handshake.cert
	case t.std != nil && t.flags&tlsSecure == 0:
		return t.std.mem.presentedCertificate()
	}
	return nil
}

// The record layer of crypto/tls.

func (s *stdTLS) feed(p []byte)                 { s.mem.feed(p) }
func (s *stdTLS) parkUnread()                   {}
func (s *stdTLS) buffered() int                 { return s.mem.buffered() }
func (s *stdTLS) takePending(dst []byte) []byte { return s.mem.takeOutput(dst) }

func (s *stdTLS) Read(p []byte) (int, error) {
	n, err := s.tc.Read(p)
	if n > 0 {
		s.overhead += max(0, s.mem.noteData(n)-recordOverhead)
	}
	return n, err
}

func (s *stdTLS) seal(dst, p []byte) ([]byte, error) {
	_, err := s.tc.Write(p)
	return s.mem.takeOutput(dst), err
}

func (s *stdTLS) appendCloseNotify(dst []byte) []byte {
	s.tc.Close()
	return s.mem.takeOutput(dst)
}

type wouldBlockError struct{}

func (wouldBlockError) Error() string   { return "reactor: no input" }
func (wouldBlockError) Timeout() bool   { return true }
func (wouldBlockError) Temporary() bool { return true }

var errWouldBlock net.Error = wouldBlockError{}

// errNoData ends who sends much and no data.
var errNoData = errors.New("reactor: too much of TLS without data")

const (
	// maxNoData is how much a client may send without data, once the handshake is done, before it begins another
	// record; a server, whose tickets may be large, has maxTicket. crypto/tls keeps a handshake message until
	// it is whole (attack K44).
	maxNoData = 16 << 10
	// recordOverhead is what a record of any suite has beside data and padding, and is not charged.
	recordOverhead = 64
)

// A memConn is the net.Conn under crypto/tls: the loop feeds it ciphertext and takes from it what is to
// be sent. During the handshake its Read waits; a CPU slot is held only while it does not. It gives no
// more than a record at a time: the buffer of crypto/tls never shrinks and grows by doubling, and what is
// behind the last record of a handshake may be ours to open (attacks K43, K44). A handed lives on it
// without TLS.
type memConn struct {
	mu             sync.Mutex
	in             []byte
	off            int
	out            []byte
	closed         bool
	nonblocking    bool
	readExpired    bool          // a deadline of Read has passed
	ready          chan struct{} // cap 1
	handshakeSlots *handshakeSlots
	onOutput       func()
	remote         netip.AddrPort
	cert           *tls.Certificate // presented to the peer
	capture        *keyCapture      // of a handshake whose connection is to be detached; its goroutine's

	records                bool // what is read are records of TLS; else text of HTTP
	recordSize, recordLeft int  // of the record that is being read, and how much of it is still to be
	// what the buffer of crypto/tls has grown to, and had at the end of the handshake
	bufSize, baseBufSize int
	noData, maxNoData    int // read since there was data; how much it may be, 0: any
}

// limitToRecord cuts in where the record ends that crypto/tls reads. Under mu.
func (m *memConn) limitToRecord(in []byte) []byte {
	if m.recordLeft == 0 {
		if len(in) < recordHead {
			return nil
		}
		m.recordSize = recordHead + int(binary.BigEndian.Uint16(in[3:]))
		m.recordLeft = m.recordSize
		if n := m.recordSize + bytes.MinRead; n > m.bufSize {
			m.bufSize = max(n, 2*m.bufSize) // as bytes.Buffer does
		}
	}
	return in[:min(len(in), m.recordLeft)]
}

// Present notes which certificate a handshake takes: [tls.ClientHelloInfo].Conn is this connection, and
// crypto/tls tells nobody afterwards.
func (m *memConn) Present(c *tls.Certificate) {
	m.mu.Lock()
	m.cert = c
	m.mu.Unlock()
}

func (m *memConn) presentedCertificate() *tls.Certificate {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.cert
}

func (m *memConn) holdSlot(take bool) {
	switch {
	case m.handshakeSlots == nil:
	case take:
		m.handshakeSlots.acquire()
	default:
		m.handshakeSlots.release()
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

func (m *memConn) buffered() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := len(m.in) - m.off
	if m.recordLeft > 0 {
		n += m.recordSize - m.recordLeft
	}
	return n
}

// takeUnread is what was fed and not read.
func (m *memConn) takeUnread() []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	b := m.in[m.off:]
	m.in, m.off = nil, 0
	return b
}

func (m *memConn) markClosed() {
	m.mu.Lock()
	m.closed = true
	m.mu.Unlock()
	m.signal()
}

// setSecured is called behind the handshake: Read waits no more.
func (m *memConn) setSecured(client bool) {
	m.mu.Lock()
	m.nonblocking, m.noData, m.baseBufSize = true, 0, m.bufSize
	if m.maxNoData = maxNoData; client {
		m.maxNoData = maxTicket
	}
	m.mu.Unlock()
}

// noteData says that what was read since it was said last brought n bytes of data; it returns what it cost
// beside.
func (m *memConn) noteData(n int) (over int) {
	m.mu.Lock()
	over, m.noData = m.noData-n, 0
	m.mu.Unlock()
	return over
}

// bufGrowth is by how much the buffer of crypto/tls has grown since the handshake.
func (m *memConn) bufGrowth() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.bufSize - m.baseBufSize
}

func (m *memConn) takeOutput(dst []byte) []byte {
	m.mu.Lock()
	dst = append(dst, m.out...)
	m.out = nil
	m.mu.Unlock()
	return dst
}

func (m *memConn) Read(p []byte) (int, error) {
	for {
		m.mu.Lock()
		if m.readExpired {
			m.mu.Unlock()
			return 0, os.ErrDeadlineExceeded
		}
		in := m.in[m.off:]
		if m.recordLeft == 0 && m.maxNoData > 0 && m.noData > m.maxNoData {
			m.mu.Unlock()
			return 0, errNoData
		}
		if m.records && !m.closed {
			in = m.limitToRecord(in)
		}
		if n := copy(p, in); n > 0 || len(p) == 0 {
			m.off += n
			m.recordLeft = max(0, m.recordLeft-n)
			m.noData += n
			if m.off == len(m.in) {
				m.in, m.off = nil, 0
			}
			m.mu.Unlock()
			return n, nil
		}
		ended, nonblk := m.closed, m.nonblocking
		m.mu.Unlock()
		switch {
		case ended:
			return 0, io.EOF
		case nonblk:
			return 0, errWouldBlock
		}
		m.holdSlot(false)
		<-m.ready
		m.holdSlot(true)
	}
}

func (m *memConn) Write(p []byte) (int, error) {
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		return 0, net.ErrClosed
	}
	m.out = append(m.out, p...)
	m.capture.recordWritten(p)
	wake := !m.nonblocking
	m.mu.Unlock()
	if wake {
		m.onOutput()
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

// handshakeSlots are the processors that handshakes compute on, one each at a time.
type handshakeSlots struct {
	tokens    chan struct{}
	start     time.Time
	lastYield atomic.Int64 // yield, behind since
	queued    atomic.Int32 // that wait on any loop
}

// yieldInterval is for how long handshakes follow each other before whoever else waits for a processor has
// one; while a crowd waits to log in, each lets them in. Go's scheduler gives the processor to the next
// handshake, which the last one has woken; a loop that comes back from a system call without one stands
// in a queue that is looked at behind 60 of them.
const (
	yieldInterval   = 2 * time.Millisecond
	alwaysYieldFrom = 256
)

func newSlots(n int) *handshakeSlots {
	return &handshakeSlots{tokens: make(chan struct{}, n), start: time.Now()}
}

func (s *handshakeSlots) acquire() {
	s.tokens <- struct{}{}
	if s.queued.Load() < alwaysYieldFrom {
		now := int64(time.Since(s.start))
		if last := s.lastYield.Load(); now-last < int64(yieldInterval) || !s.lastYield.CompareAndSwap(last, now) {
			return
		}
	}
	runtime.Gosched()
}

func (s *handshakeSlots) release() { <-s.tokens }

// handshakeLimiter counts handshakes in flight, in all and by address.
type handshakeLimiter struct {
	mu              sync.Mutex
	n               int
	byAddr          map[netip.Addr]int
	max, maxPerAddr int
}

func (s *handshakeLimiter) acquire(a netip.Addr) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.n >= s.max || !a.IsLoopback() && s.byAddr[a] >= s.maxPerAddr {
		return false
	}
	s.n++
	s.byAddr[a]++
	return true
}

func (s *handshakeLimiter) full() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.n >= s.max
}

func (s *handshakeLimiter) release(a netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.n--
	if s.byAddr[a]--; s.byAddr[a] <= 0 {
		delete(s.byAddr, a)
	}
}
