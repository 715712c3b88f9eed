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

// A Role is the end of TLS that a connection has here.
type Role uint8

const (
	// ServerRole is the end that shows a certificate: accepted connections, also those of STARTTLS.
	ServerRole Role = iota
	// ClientRole is the end that sends the ClientHello: dialled connections.
	ClientRole
)

// handshakeTicks is how long a peer has to begin its handshake, and how long the handshake may take
// then: 10 seconds each. handshakeQueueTicks is how long it may wait for admission in between: 30
// seconds.
const (
	handshakeTicks      = 100
	handshakeQueueTicks = 300
)

// coolTicks is the time without traffic after which a TLS 1.3 record layer drops its AEADs: 10
// seconds. Making them again takes about a microsecond, and they are 1.3 kB.
const coolTicks = 100

// A recordLayer opens and seals TLS records after the handshake: stdTLS, which is crypto/tls, or
// tls13Layer. Only on the loop.
type recordLayer interface {
	// feed takes received ciphertext. p is valid until parkUnread is called.
	feed(p []byte)
	// Read opens the next record into p, which has a capacity of maxCiphertext bytes at least, and
	// returns the length of its plaintext. The error is errWouldBlock
	// if the input ends within a record, io.EOF after close_notify; any other error ends the connection.
	Read(p []byte) (int, error)
	// parkUnread copies the input that was fed and not read.
	parkUnread()
	// buffered returns the number of bytes of that input.
	buffered() int
	// seal appends records with p to dst. dst's array may be replaced by a larger one.
	seal(dst, p []byte) ([]byte, error)
	// takePending appends what the layer sends by itself: alerts, handshake messages, answers to KeyUpdate.
	takePending(dst []byte) []byte
	// appendCloseNotify appends the alert close_notify; nothing can be sealed after it.
	appendCloseNotify(dst []byte) []byte
}

// The bits of tlsConn.flags.
const (
	tlsClient     = 1 << iota // our end is the client
	tlsSecure                 // the handshake is done
	tlsPeerClosed             // the peer has sent close_notify
	tlsFailed                 // the handshake has failed: no close_notify can be sent
)

// A tlsConn is the TLS part of a Conn: 160 bytes, with the record layer. A connection begins with std. After
// a TLS 1.3 handshake std becomes nil, and layer is used. On the loop.
type tlsConn struct {
	std          *stdTLS         // during the handshake, and for good if the connection stays on crypto/tls
	handshake    *handshakeState // nil until the handshake is done, and after ReleaseHandshakeState
	meteredBytes int32           // the part of Meter.ParkedBytes that is ciphertext of this connection
	flags        uint8
	layer        tls13Layer // in use if tlsSecure is set and std is nil
}

// handshakeState is what a handshake negotiated.
type handshakeState struct {
	state tls.ConnectionState
	cert  *tls.Certificate // what our end presented; nil if unknown, see Conn.PresentedCertificate
}

// stdTLS is a tls.Conn over a memConn. A goroutine runs the handshake; after it everything is on the loop.
type stdTLS struct {
	mem           memConn
	tc            *tls.Conn   // nil until beginHandshake
	cfg           *tls.Config // what StartTLS was given
	timer         Timer       // the deadline of the handshake
	c             *Conn
	begun         bool // beginHandshake was called
	blanksLeft    int  // how many white-space bytes may still come before the handshake: see skipBlanks
	overhead      int  // see Conn.TakeTLSOverhead
	meteredGrowth int  // the part of Meter.StdTLSGrowth that is of this connection
}

// maxBlanks is how many bytes of white space after <starttls/> are skipped. Further ones go to
// crypto/tls, which fails.
const maxBlanks = 256

// skipBlanks returns p without white space before the first byte of the handshake. RFC 6120 section
// 5.3.3 forbids a client to send white space after <starttls/>, but clients that write lines do,
// and it carries nothing. It is skipped on a server only where plaintext came before TLS.
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

// StartTLS makes c a TLS connection, at either end. Bytes that were appended before leave in plain; bytes
// that are appended after leave when the handshake is done. A client's handshake begins at once, a
// server's with the first bytes of its peer. Then OnSecure is called, or OnClose if the handshake fails.
// cfg is shared by connections and never changed; it must be the same value for all connections of a
// port, as session tickets depend on it.
//
// Parked plaintext is ErrUnexpectedPlaintext: it was sent before the handshake, and must not be
// read after it as if it were protected; the caller ends the stream with policy-violation. StartTLS
// also fails if c has TLS, if cfg is nil, or if c is lost.
func (c *Conn) StartTLS(cfg *tls.Config, role Role) error {
	if c.parked != nil {
		return ErrUnexpectedPlaintext
	}
	if c.tls != nil || cfg == nil {
		return errors.New("reactor: no TLS to start")
	}
	c.flush()
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

// tryBeginHandshake is called when the peer has sent bytes during a handshake. The first bytes
// begin a server's handshake, if admission allows it. If not, c is queued for admission; at the
// limit of handshakes in flight it is queued, too. If the queue is full c is refused. More than
// maxParkedBytes of input end c.
func (t *tlsConn) tryBeginHandshake(c *Conn) {
	buffered := t.buffered()
	switch a := &c.loop.admission; {
	case buffered > maxParkedBytes:
		c.overflow()
	case buffered == 0 || t.std.begun || c.flags&flagAdmissionQueued != 0:
	case !c.loop.r.handshakeLimit.full() && a.tryAdmit(HandshakeCost):
		t.std.beginHandshake()
	case a.enqueue(c, true, buffered):
		c.loop.Arm(&t.std.timer, c.loop.Tick()+handshakeQueueTicks, t.std)
	default:
		c.loop.meter.AdmissionRefused++
		c.refuse(ErrAdmissionFull)
	}
}

// beginHandshake starts a goroutine that runs the handshake. The steps:
//
//  1. The handshake is counted in handshakeLimit; at a limit c is refused.
//  2. Without Config.StdTLS the configuration gets a key capture. In FIPS 140 mode the connection
//     stays on crypto/tls: only nonces that the Go module makes itself are approved there.
//  3. The goroutine takes a handshake slot, which memConn.Read gives back while it waits for input,
//     runs the handshake, and makes the TLS 1.3 record layer from the captured keys.
//  4. It posts handshakeDone to the loop.
//
// The goroutine ends soon after the connection: abortHandshake makes memConn.Read return io.EOF.
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
	keepStd := r.cfg.StdTLS || fips140.Enabled() // step 2
	if client {
		s.tc = tls.Client(&s.mem, s.clientConfig(cfg, keepStd))
	} else {
		s.tc = tls.Server(&s.mem, r.captureConfigs.serverConfig(s, cfg, keepStd))
	}
	go func() {
		s.mem.holdSlot(true)
		err := CatchPanic(s.tc.Handshake)
		var layer *tls13Layer
		var st tls.ConnectionState
		if err == nil {
			st = s.tc.ConnectionState()
			layer = s.detach(&st, client)
		} else if s.mem.capture != nil {
			s.mem.capture.wipe()
		}
		s.mem.holdSlot(false)
		r.handshakeLimit.release(addr)
		c.loop.Post(func() { t.handshakeDone(&handshakeState{state: st}, layer, err) })
	}()
}

// OnTimer implements TimerHandler: it closes the connection, as its handshake has taken too long.
func (s *stdTLS) OnTimer(*Loop) {
	if !s.c.Secure() {
		s.c.loop.meter.HandshakeTimeouts++
		s.c.Close(ErrHandshakeTimeout)
		s.mem.markClosed()
	}
}

// handshakeDone continues on the loop after the handshake. hs is what was negotiated, layer the TLS
// 1.3 record layer or nil if the connection stays on crypto/tls, err the error of the handshake.
// The steps:
//
//  1. If c has closed meanwhile, nothing more is done. If a client has lost its socket, OnClose
//     gets the error of the handshake as its reason (see Conn.onClose).
//  2. After an error our alert is sent, and c closes without close_notify.
//  3. The last records of the handshake are sent. What was presented to the peer is noted.
//  4. layer takes over, with the input that crypto/tls has not read, and std is dropped.
//  5. OnSecure is called, and input that came with the end of the handshake is delivered.
//
// In any case the keys of a layer that was not used are wiped.
func (t *tlsConn) handshakeDone(hs *handshakeState, layer *tls13Layer, err error) {
	s := t.std
	c := s.c
	c.loop.Arm(&s.timer, 0, nil)
	if layer != nil {
		defer layer.wipeAll() // after step 4 it is the zero value
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
	// crypto/tls also chooses a certificate when a TLS 1.2 session is resumed, but the peer knows that
	// of its first handshake (attack T08).
	if !hs.state.DidResume {
		hs.cert = s.mem.presentedCertificate()
	}
	t.handshake = hs
	t.flags |= tlsSecure
	t.writeOut(c) // the end of the handshake
	if layer != nil && c.flags&flagSocketClosed == 0 {
		t.layer, *layer = *layer, tls13Layer{}
		t.std = nil
		c.loop.meter.StdTLS--
		t.layer.feed(s.mem.takeUnread())
		t.layer.parkUnread()
		t.keepWarm(c)
	}
	c.loop.protect(c, func() { c.endpoint.handler.OnSecure(c, &hs.state) })
	if c.flags&flagClosing == 0 {
		t.deliver(c, nil)
	}
	c.loop.markDirty(c) // flushes what was appended during the handshake
}

// recordLayer returns the record layer in use. During the handshake it is std.
func (t *tlsConn) recordLayer() recordLayer {
	if t.std != nil {
		return t.std
	}
	return &t.layer
}

// feed gives ciphertext to the handshake. deliver does that later on; sniffer calls feed for the
// first bytes.
func (t *tlsConn) feed(p []byte) { t.recordLayer().feed(p) }

// deliver gives the ciphertext p to the record layer, and the plaintext of complete records to the
// handler. The steps:
//
//  1. During the handshake the bytes are left to its goroutine; the first ones begin it.
//  2. While the handler is not paused, parked plaintext is delivered first, then one record after
//     another. Each is opened into the loop's openBuf, 32 KiB, which is more than both record
//     layers need.
//  3. close_notify closes c cleanly; another error of the record layer is the reason.
//  4. The record layer copies what it has not opened; the meter gets the difference. More than
//     maxParkedBytes of it end c.
//  5. Answers of the record layer are sent, and its cool-down begins again.
func (t *tlsConn) deliver(c *Conn, p []byte) {
	rec := t.recordLayer()
	if t.flags&tlsSecure == 0 && !t.std.begun {
		p = t.std.skipBlanks(p)
	}
	rec.feed(p)
	if t.flags&tlsSecure == 0 {
		t.tryBeginHandshake(c) // step 1
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
		growth := s.mem.bufGrowth()
		l.meter.StdTLSGrowth += growth - s.meteredGrowth
		s.meteredGrowth = growth
	}
	buffered := rec.buffered()
	if buffered > 0 {
		c.enforcePause()
	}
	l.meter.ParkedBytes += buffered - int(t.meteredBytes)
	t.meteredBytes = int32(buffered)
	if buffered > maxParkedBytes {
		c.overflow()
	}
	t.writeOut(c) // step 5
	t.keepWarm(c)
}

// seal seals p and writes it to the socket. An error of the record layer closes c.
func (t *tlsConn) seal(c *Conn, p []byte) {
	b, err := t.recordLayer().seal(c.loop.sealBuf[:0], p)
	if err != nil {
		c.Close(err)
	}
	t.write(c, b)
	t.keepWarm(c)
}

// writeOut sends what the record layer has to send by itself. While a TLS 1.3 connection is
// write-blocked it waits: there is one answer at most, and the next seal sends it first. An alert
// of a dead layer does not wait.
func (t *tlsConn) writeOut(c *Conn) {
	if c.sock == nil || c.flags&flagSocketClosed != 0 || t.std == nil && t.layer.flags&layerDead == 0 &&
		c.sock.Buffered() > 0 {
		return
	}
	t.write(c, t.recordLayer().takePending(c.loop.sealBuf[:0]))
}

// write gives ciphertext to the engine, which copies what the socket does not take. b becomes the
// loop's scratch buffer sealBuf, unless it has grown beyond 256 KiB.
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

// sendCloseNotify sends close_notify, if the handshake is done.
func (t *tlsConn) sendCloseNotify(c *Conn) {
	if t.flags&(tlsSecure|tlsFailed) == tlsSecure {
		t.write(c, t.recordLayer().appendCloseNotify(c.loop.sealBuf[:0]))
	}
}

// keepWarm restarts the cool-down of the TLS 1.3 record layer. The timer is armed once and armed
// again by OnTimer, so traffic costs one assignment.
func (t *tlsConn) keepWarm(c *Conn) {
	if w := t.layer.warm; w != nil {
		w.lastUsed = c.loop.Tick()
		if w.timer.handler == nil && c.flags&flagSocketClosed == 0 {
			c.loop.Arm(&w.timer, w.lastUsed+coolTicks, t)
			c.loop.meter.WarmTLS++
		}
	}
}

// OnTimer implements TimerHandler: it drops the AEADs of a record layer that had no traffic for
// coolTicks.
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

// buffered returns how much ciphertext waits, unread by the record layer.
func (t *tlsConn) buffered() int { return t.recordLayer().buffered() }

// abortHandshake makes a handshake that waits for input fail, because the connection is gone.
func (t *tlsConn) abortHandshake() {
	if t.std != nil {
		t.std.mem.markClosed()
	}
}

// release ends a handshake, corrects the meter, and wipes the keys of the record layer.
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

// presentedCertificate returns the certificate that our end has shown to the peer; nil if it is
// unknown.
func (t *tlsConn) presentedCertificate() *tls.Certificate {
	switch {
	case t.handshake != nil:
		return t.handshake.cert
	case t.std != nil && t.flags&tlsSecure == 0:
		return t.std.mem.presentedCertificate()
	}
	return nil
}

// These methods implement recordLayer with crypto/tls. mem holds the input, so parkUnread has
// nothing to do.
func (s *stdTLS) feed(p []byte)                 { s.mem.feed(p) }
func (s *stdTLS) parkUnread()                   {}
func (s *stdTLS) buffered() int                 { return s.mem.buffered() }
func (s *stdTLS) takePending(dst []byte) []byte { return s.mem.takeOutput(dst) }

// Read implements recordLayer: crypto/tls reads from mem, which returns errWouldBlock when it is
// empty.
func (s *stdTLS) Read(p []byte) (int, error) {
	n, err := s.tc.Read(p)
	if n > 0 {
		s.overhead += max(0, s.mem.noteData(n)-recordOverhead)
	}
	return n, err
}

// seal implements recordLayer: crypto/tls writes to mem, which takeOutput empties.
func (s *stdTLS) seal(dst, p []byte) ([]byte, error) {
	_, err := s.tc.Write(p)
	return s.mem.takeOutput(dst), err
}

// appendCloseNotify implements recordLayer: Close of crypto/tls writes the alert to mem.
func (s *stdTLS) appendCloseNotify(dst []byte) []byte {
	s.tc.Close()
	return s.mem.takeOutput(dst)
}

// wouldBlockError is a net.Error that is a timeout and temporary: crypto/tls keeps no such error of
// its connection, and its Read can be called again. Another error would end the tls.Conn.
type wouldBlockError struct{}

// Error implements error.
func (wouldBlockError) Error() string { return "reactor: no input" }

// Timeout implements net.Error.
func (wouldBlockError) Timeout() bool { return true }

// Temporary implements net.Error; crypto/tls looks at it before it makes an error permanent.
func (wouldBlockError) Temporary() bool { return true }

// errWouldBlock is returned by Read of a record layer that needs more input.
var errWouldBlock net.Error = wouldBlockError{}

// errNoData ends a connection on crypto/tls if its peer has sent too many bytes without data.
var errNoData = errors.New("reactor: too much of TLS without data")

const (
	// maxNoData is how many bytes a client may send without data after its handshake, before it begins
	// another record. A server may send maxTicket, as its tickets may be large. crypto/tls keeps a
	// handshake message until it is complete, so this bounds its memory (attack K44).
	maxNoData = 16 << 10
	// recordOverhead is what a record of any cipher suite has besides data and padding, at most. It is
	// not charged as overhead.
	recordOverhead = 64
)

// A memConn is the net.Conn under crypto/tls: the loop feeds it ciphertext, and takes from it the bytes to
// send. During the handshake Read blocks the handshake's goroutine, and gives the handshake slot back
// while it waits; afterwards Read returns errWouldBlock instead.
//
// Read returns bytes of one record only. A tls.Conn reads into a buffer that grows by doubling and never
// shrinks, so it must not see a queue of records; and the bytes after the last record of the handshake may
// be for tls13Layer (attacks K43, K44). bufSize follows the size of that buffer, from what Go 1.26 does
// (bytes.Buffer.ReadFrom with bytes.MinRead); if that changes, only Meter.StdTLSGrowth becomes wrong.
//
// A hijackedConn uses a memConn without TLS.
type memConn struct {
	// mu guards all fields that change. The loop and the goroutine of the handshake use them.
	mu             sync.Mutex
	in             []byte // the input; in[:off] was read
	off            int
	out            []byte           // the output
	closed         bool             // no more input will come, and output is refused
	nonblocking    bool             // Read returns errWouldBlock instead of blocking
	readExpired    bool             // a read deadline has passed: see hijackedConn
	ready          chan struct{}    // cap 1: signalled when input came or closed was set
	handshakeSlots *handshakeSlots  // nil without TLS; never changes
	onOutput       func()           // called after a Write during the handshake; never changes
	remote         netip.AddrPort   // never changes
	cert           *tls.Certificate // what was presented to the peer
	capture        *keyCapture      // nil if the connection stays on crypto/tls; of the handshake's goroutine

	records                bool // the input is TLS records; never changes
	recordSize, recordLeft int  // size of the record that is being read, and how much of it is still to come
	// bufSize is the size of crypto/tls's buffer, baseBufSize that at the end of the handshake.
	bufSize, baseBufSize int
	// noData is the number of bytes read since there was data, maxNoData its bound; 0: none.
	noData, maxNoData int
}

// limitToRecord returns the part of in that belongs to the record that crypto/tls reads: nothing
// until its header is complete. Under mu.
func (m *memConn) limitToRecord(in []byte) []byte {
	if m.recordLeft == 0 {
		if len(in) < recordHead {
			return nil
		}
		m.recordSize = recordHead + int(binary.BigEndian.Uint16(in[3:]))
		m.recordLeft = m.recordSize
		if n := m.recordSize + bytes.MinRead; n > m.bufSize {
			// bytes.Buffer grows to what is needed, or to twice its size.
			m.bufSize = max(n, 2*m.bufSize)
		}
	}
	return in[:min(len(in), m.recordLeft)]
}

// Present notes the certificate of a handshake. GetCertificate of a tls.Config may call it on
// [tls.ClientHelloInfo].Conn, which is this memConn: crypto/tls does not say later which one it
// used.
func (m *memConn) Present(c *tls.Certificate) {
	m.mu.Lock()
	m.cert = c
	m.mu.Unlock()
}

// presentedCertificate returns what Present has noted, or nil.
func (m *memConn) presentedCertificate() *tls.Certificate {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.cert
}

// holdSlot acquires or releases a handshake slot. Acquiring blocks.
func (m *memConn) holdSlot(acquire bool) {
	switch {
	case m.handshakeSlots == nil:
	case acquire:
		m.handshakeSlots.acquire()
	default:
		m.handshakeSlots.release()
	}
}

// feed copies p to the input and wakes a Read. The array is dropped when it is empty and large, and
// compacted when more than half of it was read, so that it does not grow without bound.
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
		// A reader that never catches up must not make the array grow without bound.
		m.in, m.off = m.in[:copy(m.in, m.in[m.off:])], 0
	}
	m.in = append(m.in, p...)
	m.mu.Unlock()
	m.signal()
}

// signal wakes a Read that waits.
func (m *memConn) signal() {
	select {
	case m.ready <- struct{}{}:
	default:
	}
}

// buffered returns how much input was not read. A record that was read in part counts whole, as
// crypto/tls keeps that part.
func (m *memConn) buffered() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := len(m.in) - m.off
	if m.recordLeft > 0 {
		n += m.recordSize - m.recordLeft
	}
	return n
}

// takeUnread removes and returns the input that was not read.
func (m *memConn) takeUnread() []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	b := m.in[m.off:]
	m.in, m.off = nil, 0
	return b
}

// markClosed ends the input: Read returns io.EOF after what is left, Write fails.
func (m *memConn) markClosed() {
	m.mu.Lock()
	m.closed = true
	m.mu.Unlock()
	m.signal()
}

// setSecured is called after the handshake: Read does not block any more, and the bound of bytes
// without data begins to count.
func (m *memConn) setSecured(client bool) {
	m.mu.Lock()
	m.nonblocking, m.noData, m.baseBufSize = true, 0, m.bufSize
	if m.maxNoData = maxNoData; client {
		m.maxNoData = maxTicket
	}
	m.mu.Unlock()
}

// noteData notes that n bytes of data came out of what was read since the last call. It returns how
// many more bytes were read for them.
func (m *memConn) noteData(n int) (overhead int) {
	m.mu.Lock()
	overhead, m.noData = m.noData-n, 0
	m.mu.Unlock()
	return overhead
}

// bufGrowth returns by how much the buffer of crypto/tls has grown since the handshake.
func (m *memConn) bufGrowth() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.bufSize - m.baseBufSize
}

// takeOutput appends the output to dst and removes it.
func (m *memConn) takeOutput(dst []byte) []byte {
	m.mu.Lock()
	dst = append(dst, m.out...)
	m.out = nil
	m.mu.Unlock()
	return dst
}

// Read implements net.Conn for crypto/tls, on the handshake's goroutine or, after the handshake, on
// the loop. It copies input to p, from one record at most. Without input it returns io.EOF if the
// connection is closed; errWouldBlock after the handshake; and it waits during the handshake,
// without its handshake slot. It fails after a read deadline, and with errNoData where a peer sends
// too much without data.
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
		closed, nonblocking := m.closed, m.nonblocking
		m.mu.Unlock()
		switch {
		case closed:
			return 0, io.EOF
		case nonblocking:
			return 0, errWouldBlock
		}
		m.holdSlot(false)
		<-m.ready
		m.holdSlot(true)
	}
}

// Write implements net.Conn for crypto/tls. It appends p to the output, which has no bound of its
// own: during the handshake it is what a handshake sends, later the loop takes it at once. During
// the handshake onOutput makes the loop flush it.
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

// Close implements net.Conn; it does nothing, as the Conn is closed by other ways.
func (m *memConn) Close() error { return nil }

// LocalAddr implements net.Conn; the address is not known.
func (m *memConn) LocalAddr() net.Addr { return &net.TCPAddr{} }

// RemoteAddr implements net.Conn.
func (m *memConn) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(m.remote) }

// SetDeadline implements net.Conn; it does nothing. The handshake has a Timer of the loop.
func (m *memConn) SetDeadline(time.Time) error { return nil }

// SetReadDeadline implements net.Conn; it does nothing.
func (m *memConn) SetReadDeadline(time.Time) error { return nil }

// SetWriteDeadline implements net.Conn; it does nothing.
func (m *memConn) SetWriteDeadline(time.Time) error { return nil }

// handshakeSlots is a semaphore. A handshake computes only while it has a slot. There is one slot less
// than there are processors, but at least one, so that a loop that comes back from a system call finds a
// free processor.
type handshakeSlots struct {
	tokens    chan struct{} // its capacity is the number of slots
	start     time.Time     // when it was made
	lastYield atomic.Int64  // when a handshake last yielded, in nanoseconds since start
	queued    atomic.Int32  // the length of the admission queues of all loops
}

// yieldInterval is how often a handshake that begins to compute yields its processor. While
// alwaysYieldFrom or more connections wait for admission, each handshake yields. Go's scheduler (Go
// 1.26) gives a processor first to the goroutine that was woken last on it, which is the next handshake.
// A loop that comes back from a system call without a processor waits in the global run queue, which the
// scheduler checks only every 61st time. With these yields, a storm of TLS logins had 0.3 turns of over
// 20 ms instead of 4.8. Yielding always would make an ordinary login cost an eighth more, as a yield may
// wake a thread.
const (
	yieldInterval   = 2 * time.Millisecond
	alwaysYieldFrom = 256
)

// newHandshakeSlots returns a semaphore with n slots.
func newHandshakeSlots(n int) *handshakeSlots {
	return &handshakeSlots{tokens: make(chan struct{}, n), start: time.Now()}
}

// acquire waits for a slot, and may then yield the processor to other goroutines. Not on a loop.
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

// release gives a slot back. It does not block.
func (s *handshakeSlots) release() { <-s.tokens }

// A handshakeLimiter counts the handshakes in flight, in all and by address, and bounds both. Loopback
// addresses have no bound of their own.
type handshakeLimiter struct {
	mu              sync.Mutex // guards n and byAddr; loops and handshakes of the process share them
	n               int
	byAddr          map[netip.Addr]int
	max, maxPerAddr int // never change
}

// acquire counts a handshake of an address, or returns false at a bound.
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

// full reports whether as many handshakes are in flight as may be.
func (s *handshakeLimiter) full() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.n >= s.max
}

// release ends the count of a handshake for which acquire returned true.
func (s *handshakeLimiter) release(a netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.n--
	if s.byAddr[a]--; s.byAddr[a] <= 0 {
		delete(s.byAddr, a)
	}
}
