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

// This file is TLS on a connection: the handshake in crypto/tls, and the change to a record layer. A
// goroutine runs the handshake over a memConn, which the loop feeds. Then detach (tlskeycapture.go) makes a
// tls13Layer (tls13layer.go) from the captured keys, and the tls.Conn is dropped; or the connection stays on
// crypto/tls for good. The terms:
//
//   - std is the crypto/tls side (stdTLS), layer the reactor's own record layer for TLS 1.3.
//   - Parked plaintext is in Conn.parked. Ciphertext that waits is in the record layer: buffered.
//   - TLS overhead is what a peer sends without data, or besides it: see Conn.TakeTLSOverhead.
//   - A handshake counts in handshakeLimit from its beginning to its end. It holds one of handshakeSlots
//     only while it computes.
//
// (T08 and the like are attacks with a test each: cmd/internal/house/attacks.txt.)

// A Role is the side of TLS that the process takes on a connection.
type Role uint8

const (
	// ServerRole is the TLS server, which presents a certificate: accepted connections, also with STARTTLS.
	ServerRole Role = iota
	// ClientRole is the TLS client, which sends the ClientHello: dialled connections.
	ClientRole
)

// handshakeTicks bounds two times by 10 seconds each: from StartTLS to the first bytes of the peer, and from
// beginHandshake to the end of the handshake. A handshake that waits for admission between the two may wait
// for handshakeQueueTicks: 30 seconds.
const (
	handshakeTicks      = 100
	handshakeQueueTicks = 300
)

// coolTicks is the time without traffic after which a TLS 1.3 record layer drops its AEADs: 10
// seconds. They take 1.3 kB (warmState), and making them again takes about a microsecond.
const coolTicks = 100

// A recordLayer opens and seals TLS records after the handshake: stdTLS, which is crypto/tls, or
// tls13Layer. Only on the loop.
type recordLayer interface {
	// feed takes received ciphertext. p is valid until parkUnread is called.
	feed(p []byte)
	// Read opens the next record into p and returns the length of its plaintext. p has a length of
	// maxCiphertext bytes at least. The error is errWouldBlock if the input ends within a record, and io.EOF
	// after close_notify. Any other error ends the connection.
	Read(p []byte) (int, error)
	// parkUnread copies the input that was fed and not read to a buffer of the record layer.
	parkUnread()
	// buffered returns the number of bytes of that input.
	buffered() int
	// seal appends records with p to dst. dst's array may be replaced by a larger one.
	seal(dst, p []byte) ([]byte, error)
	// takePending appends what the layer sends of its own accord: alerts, handshake messages, answers to
	// KeyUpdate.
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

// A tlsConn is the TLS part of a Conn: 160 bytes, with layer. A connection begins with std. After a TLS 1.3
// handshake std becomes nil, and layer is used. It belongs to the loop; the handshake's goroutine uses only
// its stdTLS.
type tlsConn struct {
	std          *stdTLS         // during the handshake, and for good if the connection stays on crypto/tls
	handshake    *handshakeState // nil until the handshake is done, and after ReleaseHandshakeState
	meteredBytes int32           // what this connection's ciphertext has added to Meter.ParkedBytes
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
	meteredGrowth int  // what this connection has added to Meter.StdTLSGrowth
}

// maxBlanks is how many bytes of white space after <starttls/> are skipped. Further ones go to
// crypto/tls, which fails.
const maxBlanks = 256

// skipBlanks returns p without white space before the first byte of the handshake. RFC 6120 section
// 5.3.3 forbids a client to send white space after <starttls/>, but clients that write lines do,
// and it carries nothing. It is skipped only for a server whose endpoint has no directTLS, where
// plaintext came before TLS: StartTLS sets blanksLeft.
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

// StartTLS makes c a TLS connection, at either end. Bytes that were appended before are sent in plaintext;
// later ones are sent once the handshake is done. A client's handshake begins at once, a
// server's with the first bytes of its peer. Then OnSecure is called, or OnClose if the handshake fails.
// cfg is shared by connections and never changed; it must be the same pointer for all connections of a
// port, as session tickets depend on it (captureConfigs).
//
// Parked plaintext is ErrUnexpectedPlaintext: it was sent before the handshake, and must not be
// read after it as if it were protected; the caller ends the stream with policy-violation. A caller in
// OnData must consume all of its input, and check it: it is not parked yet (see feedHandler). StartTLS also
// fails if c has TLS already, if cfg is nil, or if the socket is lost. On the loop.
func (c *Conn) StartTLS(cfg *tls.Config, role Role) error {
	if c.parked != nil {
		return ErrUnexpectedPlaintext
	}
	if c.tls != nil || cfg == nil {
		return errors.New("reactor: TLS has been started already, or has no configuration")
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

// tryBeginHandshake is called when the peer has sent bytes before the end of the handshake. The first bytes
// begin a server's handshake, if admission allows it. If not, or if the process has Config.Handshakes in
// flight, c is queued for admission; if the queue is full, c is refused. beginHandshake may still refuse c;
// the cost stays charged then. More than maxParkedBytes of input end c.
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
//  1. The handshake is counted in handshakeLimit. c is refused at the limit of its address, or if other
//     loops have reached the limit of the process since tryBeginHandshake.
//  2. Without Config.StdTLS the configuration gets a key capture. In FIPS 140 mode the connection
//     stays on crypto/tls: the mode allows only AES-GCM nonces that Go's FIPS module makes.
//  3. The goroutine takes a handshake slot, which memConn.Read gives back while it waits for input,
//     runs the handshake, and makes the TLS 1.3 record layer from the captured keys (detach).
//  4. It posts handshakeDone to the loop. If the reactor has stopped, handshakeDone does not run.
//
// The goroutine ends after the connection does, once it has got a slot: abortHandshake makes memConn.Read
// return io.EOF.
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

// OnTimer implements TimerHandler: it closes the connection, as its handshake has taken too long. markClosed
// ends the handshake's goroutine, which Close alone does not do before the socket is closed.
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
//  1. If OnClose was called or the socket is lost, nothing more is done; except that the OnClose of a
//     client that has lost its socket gets the error of the handshake as its reason (see Conn.onClose).
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
		defer layer.wipeAll() // step 4 makes *layer the zero value
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
	// When a session is resumed no certificate is sent. crypto/tls may still choose one (in TLS 1.2), but the
	// peer knows the certificate of its first handshake (attack T08).
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

// feed gives ciphertext to the handshake. Only sniffer (sniff.go) calls it, with the first bytes of a
// connection, which it got as plaintext. All later ciphertext comes through deliver.
func (t *tlsConn) feed(p []byte) { t.recordLayer().feed(p) }

// deliver gives the ciphertext p to the record layer, and the plaintext of complete records to the
// handler. The steps:
//
//  1. During the handshake the bytes are only fed, and its goroutine reads them; the first ones begin the
//     handshake.
//  2. While c is not paused, queued for admission or closing, parked plaintext is delivered first, then
//     one record after another. Each is opened into the loop's openBuf, 32 KiB, which is more than both
//     record layers need.
//  3. close_notify closes c cleanly; any other error of the record layer becomes the reason of the close.
//  4. The record layer copies what it has not opened, and a lazy pause becomes a real one. The meter gets
//     the difference. More than maxParkedBytes of it end c. (c is released only at the end of a turn, so
//     release has not run yet.)
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

// seal seals p and writes it to the socket. An error of the record layer closes c; the records that were
// sealed before it are still sent.
func (t *tlsConn) seal(c *Conn, p []byte) {
	b, err := t.recordLayer().seal(c.loop.sealBuf[:0], p)
	if err != nil {
		c.Close(err)
	}
	t.write(c, b)
	t.keepWarm(c)
}

// writeOut sends what the record layer sends of its own accord (takePending). While the engine has unsent
// bytes of a connection on tls13Layer it sends nothing: at most one KeyUpdate is pending, and the next seal
// sends it first. After a fatal alert nothing will be sealed, so the alert is written at once.
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

// keepWarm restarts the cool-down of the TLS 1.3 record layer. If its timer is armed, only
// lastUsed is set, and OnTimer arms the timer again for the rest of the time. An armed Timer has a handler.
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
// coolTicks (tls13Layer.cool). The wheel has disarmed the timer.
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

// abortHandshake makes a handshake that waits for input fail, because the connection is lost.
func (t *tlsConn) abortHandshake() {
	if t.std != nil {
		t.std.mem.markClosed()
	}
}

// release aborts a handshake, takes the connection out of the meter, and wipes the keys of the record layer.
// The timer of a handshake that never began stays armed.
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

// presentedCertificate returns the certificate that our end has presented to the peer; nil if it is
// unknown, as after a resumption.
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

// wouldBlockError is a net.Error that is a timeout and temporary. crypto/tls stores any other error of its
// connection and returns it for good; after this one, Read can be called again.
type wouldBlockError struct{}

// Error implements error.
func (wouldBlockError) Error() string { return "reactor: no input" }

// Timeout implements net.Error.
func (wouldBlockError) Timeout() bool { return true }

// Temporary implements net.Error; crypto/tls checks it before it stores an error.
func (wouldBlockError) Temporary() bool { return true }

// errWouldBlock is returned by Read of a record layer that needs more input.
var errWouldBlock net.Error = wouldBlockError{}

// errNoData ends a connection on crypto/tls if its peer has sent too many bytes without application data.
var errNoData = errors.New("reactor: too many bytes of TLS without data")

const (
	// maxNoData is how many bytes a client may send after its handshake without data. If it has sent more,
	// memConn.Read fails at the beginning of the next record. A server may send maxTicket, as its tickets may be
	// large. crypto/tls keeps a handshake message until it is complete, so this bounds its memory (attack
	// K44).
	maxNoData = 16 << 10
	// recordOverhead is the most that a record of any cipher suite has besides data and padding. It is not
	// charged as overhead.
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
// A hijackedConn (hijack.go) uses a memConn without TLS.
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
	capture        *keyCapture      // nil on crypto/tls for good, and after detach; of the handshake's goroutine

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
// compacted when at least half of it was read, so that it does not grow without bound.
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

// buffered returns how much input was fed and not delivered: the part that was not read, and the part of an
// incomplete record that was read, which crypto/tls keeps.
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

// setSecured is called after the handshake: Read no longer blocks, and bytes without data are counted and
// bounded from now on.
func (m *memConn) setSecured(client bool) {
	m.mu.Lock()
	m.nonblocking, m.noData, m.baseBufSize = true, 0, m.bufSize
	if m.maxNoData = maxNoData; client {
		m.maxNoData = maxTicket
	}
	m.mu.Unlock()
}

// noteData is called when crypto/tls has returned n bytes of data. It resets the count of bytes that were
// read since the last call, and returns by how much that count exceeded n.
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
// too much without data. Once closed it returns the rest of the input without regard to records: the
// connection ends then, whatever the handshake makes of it.
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

// Write implements net.Conn for crypto/tls. It appends p to the output. The output has no bound of its own:
// during the handshake it is what the handshake sends, and onOutput makes the loop flush it; later the loop
// calls crypto/tls itself and takes the output in the same call chain. Records of the handshake's goroutine
// are noted in capture, which is nil or wiped after it.
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

// Close implements net.Conn; it does nothing, as the Conn is closed by other means.
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

// handshakeSlots is a semaphore. A handshake computes only while it has a slot. newReactor makes one slot
// fewer than there are processors, but at least one, so that a loop that comes back from a system call finds
// a free processor.
type handshakeSlots struct {
	tokens    chan struct{} // its capacity is the number of slots
	start     time.Time     // when it was made
	lastYield atomic.Int64  // when a handshake last yielded, in nanoseconds since start
	waiters   atomic.Int32  // the entries of the admission queues of all loops; admission counts them here
}

// yieldInterval is how often a handshake that begins to compute yields its processor. While
// alwaysYieldFrom or more connections wait for admission, each handshake yields. Go's scheduler (Go
// 1.26) gives a processor first to the goroutine that was woken last on it, which is the next handshake.
// A loop that comes back from a system call without a processor waits in the global run queue, which the
// scheduler checks only every 61st time. With these yields, a storm of TLS logins had on average 0.3
// turns of over 20 ms instead of 4.8. Yielding always would make an ordinary login cost an eighth more,
// as a yield may wake a thread.
const (
	yieldInterval   = 2 * time.Millisecond
	alwaysYieldFrom = 256
)

// newHandshakeSlots returns a semaphore with n slots.
func newHandshakeSlots(n int) *handshakeSlots {
	return &handshakeSlots{tokens: make(chan struct{}, n), start: time.Now()}
}

// acquire waits for a slot, and may then yield the processor (see yieldInterval). Not on a loop.
func (s *handshakeSlots) acquire() {
	s.tokens <- struct{}{}
	if s.waiters.Load() < alwaysYieldFrom {
		now := int64(time.Since(s.start))
		if last := s.lastYield.Load(); now-last < int64(yieldInterval) || !s.lastYield.CompareAndSwap(last, now) {
			return
		}
	}
	runtime.Gosched()
}

// release gives a slot back. It does not block.
func (s *handshakeSlots) release() { <-s.tokens }

// A handshakeLimiter counts the handshakes in flight of the process, in total and per address, and bounds
// both. Loopback addresses have only the bound in total.
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

// full reports whether as many handshakes are in flight as max allows.
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
