package reactor

import (
	"crypto/tls"
	"errors"
	"io"
	"net/netip"
	"sync"
	"time"

	"canto/reactor/buf"
)

// This file is the connection: its input, its output and its end. tls.go has the TLS part, loop.go the turns.
// The terms:
//
//   - The engine is what polls sockets and calls onOpen, onTraffic and onClose: gnet, or a Memory in tests.
//   - Parked input is plaintext that was read and that the handler has not consumed. tlsConn.buffered is
//     ciphertext that was read and not opened. Both together are unconsumed.
//   - A connection is write-blocked while its output waits for a retry: see Loop.retryWrites.
//   - A connection ends in this order: closing is set (Close was called, or the socket was lost). The last
//     flush sets flagClosing. finishClose calls OnClose and sets flagClosed; then flagLinger is set until
//     the peer's FIN comes. flagSocketClosed may be set at any time: the engine has closed the socket.
//
// (K22 and the like are attacks with a test each: cmd/internal/house/attacks.txt.)

// Errors that Handler.OnClose gets as its reason. The handler may also get an error of crypto/tls, of the
// TLS 1.3 record layer, of the socket, or the reason that it gave to Conn.Close itself.
var (
	// ErrPanic ends a connection after a panic in a callback of its handler, or in its flush (see
	// Loop.flushOne). The panic itself is in the log.
	ErrPanic = errors.New("reactor: a handler panicked")
	// ErrInputOverflow ends a connection if more than maxParkedBytes of its input are unconsumed: it sent
	// ahead of a pause or of its admission, or it filled the input of its handshake.
	ErrInputOverflow = errors.New("reactor: too much input while paused")
	// ErrStopped ends every connection when the reactor shuts down. Reactor.Listen returns it then, too.
	ErrStopped = errors.New("reactor: the reactor is shutting down")
	// ErrUnexpectedPlaintext is returned by Conn.StartTLS if plaintext was received that the handler has
	// not consumed: it must not be read as if it had come over TLS (RFC 6120 section 5.3.3).
	ErrUnexpectedPlaintext = errors.New("reactor: plaintext after the start of TLS")
	// ErrTooManyHandshakes ends a connection at the limit of handshakes in flight: Config.Handshakes in
	// total, Config.HandshakesPerAddr per address.
	ErrTooManyHandshakes = errors.New("reactor: too many handshakes")
	// ErrHandshakeTimeout ends a connection if its handshake was not done after handshakeTicks, or if it
	// waited for admission longer than handshakeQueueTicks.
	ErrHandshakeTimeout = errors.New("reactor: the handshake took too long")
	// ErrSlowConsumer ends a connection if its peer has read too slowly for slowConsumerTicks (attack K22).
	ErrSlowConsumer = errors.New("reactor: the peer reads too slowly")

	errEngineEnded   = errors.New("reactor: the event engine ended by itself") // see Reactor.Run
	errConnLost      = errors.New("reactor: connection lost")
	errUnexpectedEOF = io.ErrUnexpectedEOF
)

// The bits of Conn.flags. Only the loop reads and writes them.
const (
	flagPaused           = 1 << iota // the handler has called Pause or PauseForReply
	flagOpened                       // OnOpen was called
	flagSocketClosed                 // the engine has closed the socket
	flagClosing                      // the last flush has begun or is done: no more input is delivered
	flagClosed                       // OnClose was called
	flagWriteBlocked                 // c is on Loop.writeBlocked
	flagLinger                       // OnClose was called; c reads and drops until the peer's FIN
	flagBackoffReset                 // c has reset the loop's write backoff, and was not written since
	flagNotifyDrain                  // OnDrain is to be called when the outbox is empty
	flagCloseQueued                  // c is on Loop.closes
	flagDiscardInput                 // input overflowed or was refused: further input is dropped
	flagAdmissionQueued              // c waits in the loop's admission queue: its input is kept
	flagAdmissionReadOff             // reading is off until c is admitted: onAdmitted turns it on
	flagDeferred                     // c is in the loop's deferred-input queue
	flagOverRate                     // the last delivery took c over its rate: see MarkOverRate
	flagLazyPause                    // c is paused, but stays in the poller's read set until it sends
)

// lingerTicks bounds two waits at the end of a connection, by 2 seconds each: the last flush, if the
// peer does not read (flushTimeout), and then the wait for the peer's FIN (flagLinger). A socket that is
// closed with unread input sends a reset, and the reset can destroy the last bytes written.
const lingerTicks = 20

// slowConsumerTicks is how long the engine may have unsent bytes of a connection while its outbox has
// more, or while it is paused (one minute). The engine keeps up to 64 KiB (writeChunk), so a peer is a
// slow consumer if it reads less than that in a minute. A paused connection may be one with an empty outbox,
// as only retries write the engine's buffer then.
const slowConsumerTicks = 600

// maxParkedBytes bounds the input that is kept for a connection that does not consume it: two reads
// of the engine (readBuffer).
const maxParkedBytes = 128 << 10

// writeChunk is the largest write to the engine. The engine buffers the bytes that the socket does
// not take; with writes of this size the rest stays in the outbox, where Config.OutboxBytes bounds
// it.
const writeChunk = 64 << 10

// A Conn is one connection, of a client, of a server, or dialled by this process. It belongs to one loop
// for its whole life. Methods with "any goroutine" in their comments may be called with any lock held: the
// locks under them, Conn.mu and Loop.mu, are leaves. All others must be called on c's loop, for example in
// a callback of the Handler. A Conn takes 128 bytes while it is plain and idle: buffers exist only while
// there is something in them.
type Conn struct {
	// HandlerState belongs to the Handler. The reactor never reads it.
	HandlerState any
	sock         backendConn // the engine's connection; nil before onOpen and after release
	endpoint     *endpoint
	loop         *Loop
	// mu is the outbox lock. It guards outbox, dirty and closing, which any goroutine may change through
	// Append and Close. It is a leaf: no other lock is taken under it.
	mu     sync.Mutex
	outbox *outbox // guarded by mu; nil while empty and not closed with a reason
	// parked is the parked input, borrowed from buf.Input. A pointer takes 16 bytes less than a slice. On the
	// loop.
	parked *[]byte
	tls    *tlsConn // nil while plain; on the loop
	timer  Timer    // the deadline of Arm; at the end that of flushTimeout, then of flagLinger; on the loop
	flags  uint16   // on the loop
	// Guarded by mu:
	dirty   bool // c is on the loop's list of connections to flush
	closing bool // Close was called: Append takes nothing more
	// On the loop:
	blockedSince Tick // when a flush first found c blocked (slowConsumerTicks); 0: it is not
}

// An outbox is the part of a Conn that exists only while bytes wait to be written, while callbacks wait
// for a flush, or when the connection was closed with a reason. Guarded by Conn.mu.
type outbox struct {
	buf            []byte             // nil, or borrowed from buf.Outbox
	reason         error              // what OnClose will get
	flushCallbacks []func(taken bool) // see Conn.AfterFlush
}

var outboxPool = sync.Pool{New: func() any { return new(outbox) }}

// ensureOutbox returns c's outbox and takes one from the pool if there is none. Under c.mu.
func (c *Conn) ensureOutbox() *outbox {
	if c.outbox == nil {
		c.outbox = outboxPool.Get().(*outbox)
	}
	return c.outbox
}

// takeOutbox removes the bytes from the outbox and returns them; the caller returns them to
// buf.Outbox. The outbox goes back to its pool if neither a reason nor a callback is in it. Under
// c.mu.
func (c *Conn) takeOutbox() (b []byte) {
	if c.outbox == nil {
		return nil
	}
	b, c.outbox.buf = c.outbox.buf, nil
	if c.outbox.reason == nil && len(c.outbox.flushCallbacks) == 0 {
		outboxPool.Put(c.outbox)
		c.outbox = nil
	}
	return b
}

// outboxLen returns the number of bytes in the outbox. Under c.mu.
func (c *Conn) outboxLen() int {
	if c.outbox == nil {
		return 0
	}
	return len(c.outbox.buf)
}

// markClosing notes that c closes, and the reason for OnClose. The caller checks that it is the first.
// Under c.mu.
func (c *Conn) markClosing(reason error) {
	c.closing = true
	if reason != nil {
		c.ensureOutbox().reason = reason
	}
}

// An endpoint is what all connections of one listener, or one dialled connection, have in common. It is
// never changed once a connection uses it.
type endpoint struct {
	handler   Handler
	directTLS *tls.Config               // TLS begins with the first byte; nil: plain
	role      Role                      // our end of TLS
	admitter  AdmissionHandler          // handler, if it is one; else nil
	accept    func(netip.AddrPort) bool // Listener.Accept, for acceptor
	aborted   func(netip.AddrPort)      // Listener.Aborted, for Reactor.assign
}

// Loop returns the loop that owns c. It never changes. Any goroutine.
func (c *Conn) Loop() *Loop { return c.loop }

// Handler returns the handler that gets c's callbacks now. On a port with several protocols it
// changes once, when the protocol is known.
func (c *Conn) Handler() Handler { return c.endpoint.handler }

// switchEndpoint gives c to the handler of another protocol. The new handler gets OnOpen as if c
// had just been opened; a deadline of the old handler is disarmed. The
// caller recovers a panic of OnOpen.
func (c *Conn) switchEndpoint(p *endpoint) {
	c.endpoint = p
	c.loop.wheel.arm(&c.timer, 0, nil)
	p.handler.OnOpen(c)
}

// Remote returns the peer's address, or the zero AddrPort once the connection was released. In
// OnClose the address is still there. On the loop.
func (c *Conn) Remote() netip.AddrPort {
	if c.sock == nil {
		return netip.AddrPort{}
	}
	return c.sock.Remote()
}

// TLS returns what the handshake negotiated. It is nil while c is plain or in its handshake, and
// after ReleaseHandshakeState. The caller must not change it.
func (c *Conn) TLS() *tls.ConnectionState {
	if c.tls == nil || c.tls.handshake == nil {
		return nil
	}
	return &c.tls.handshake.state
}

// Secure reports whether c's TLS handshake is done. It stays true until c is released,
// and is false from then on. On the loop.
func (c *Conn) Secure() bool { return c.tls != nil && c.tls.flags&tlsSecure != 0 }

// ReleaseHandshakeState frees what the handshake negotiated, 0.3 kB: TLS and PresentedCertificate
// return nil from now on. The handler calls it after a login, once channel binding can no longer be
// requested.
func (c *Conn) ReleaseHandshakeState() {
	if c.tls != nil {
		c.tls.handshake = nil
	}
}

// TakeTLSOverhead returns and resets the TLS overhead since the last call, in bytes: padding, records
// without data, and 1 KiB (keyUpdateOverhead) for each KeyUpdate of the peer. A handler that limits a
// peer's rate adds it to the length of what OnData gets. Where crypto/tls stays for the life of the
// connection, a KeyUpdate counts as the length of its record.
func (c *Conn) TakeTLSOverhead() (n int) {
	switch {
	case c.tls == nil:
	case c.tls.std != nil:
		n, c.tls.std.overhead = c.tls.std.overhead, 0
	case c.tls.layer.warm != nil:
		w := c.tls.layer.warm
		n, w.overhead = w.overhead, 0
	}
	return n
}

// PresentedCertificate returns the certificate that our end has shown to the peer, for the channel
// binding tls-server-end-point. It is known only if GetCertificate of the configuration called
// Present(*tls.Certificate) on [tls.ClientHelloInfo].Conn, which is a memConn here. It is nil otherwise,
// and where a session was resumed: the peer then knows the certificate of an earlier handshake, which may
// be another one.
func (c *Conn) PresentedCertificate() *tls.Certificate {
	if c.tls == nil {
		return nil
	}
	return c.tls.presentedCertificate()
}

// Append copies p to the outbox. The bytes that are appended in one turn leave together at its end, in
// writes of writeChunk. It reports whether p was taken. After Close it takes nothing (see
// [Conn.Closing]). It also takes nothing while Config.OutboxBytes or more wait for a peer that does not
// read; the caller decides what becomes of that connection. Below the limit p is taken whole, of whatever
// length. Any goroutine.
func (c *Conn) Append(p []byte) (ok bool) {
	c.mu.Lock()
	if c.closing {
		c.mu.Unlock()
		return false
	}
	if c.outboxLen() >= c.loop.r.cfg.OutboxBytes {
		c.mu.Unlock()
		return false
	}
	o := c.ensureOutbox()
	if o.buf == nil {
		o.buf = buf.Outbox.Get(len(p))
	}
	o.buf = append(o.buf, p...)
	wake := !c.dirty
	c.dirty = true
	c.mu.Unlock()
	if wake {
		c.loop.markDirty(c)
	}
	return true
}

// Closing reports whether Close was called or the connection was lost: Append takes nothing any
// more. Any goroutine.
func (c *Conn) Closing() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closing
}

// NotifyDrain asks for one call of the handler's OnDrain when the outbox is empty; the engine may still
// have unsent bytes. The call comes at the end of this turn at the earliest, also when the outbox is
// empty now. OnDrain also comes without a request, after c was write-blocked (markWriteBlocked).
func (c *Conn) NotifyDrain() {
	c.loop.AssertOwned()
	c.flags |= flagNotifyDrain
	c.mu.Lock()
	wake := !c.dirty
	c.dirty = true
	c.mu.Unlock()
	if wake {
		c.loop.markDirty(c)
	}
}

// AfterFlush calls f once on c's loop, never inside this call. f(true) means that the socket has
// taken all bytes that were appended before this call. f(false) means that c closed first, and its last
// bytes may be lost. f is not called if the reactor has stopped, or if the flush panics. Any goroutine.
func (c *Conn) AfterFlush(f func(taken bool)) {
	c.mu.Lock()
	if c.closing {
		c.mu.Unlock()
		c.loop.Post(func() { f(false) })
		return
	}
	o := c.ensureOutbox()
	o.flushCallbacks = append(o.flushCallbacks, f)
	wake := !c.dirty
	c.dirty = true
	c.mu.Unlock()
	if wake {
		c.loop.markDirty(c)
	}
}

// takeFlushCallbacks removes and returns the callbacks that wait for a flush. Under c.mu.
func (c *Conn) takeFlushCallbacks() (list []func(bool)) {
	if c.outbox != nil {
		list, c.outbox.flushCallbacks = c.outbox.flushCallbacks, nil
	}
	return list
}

// runFlushCallbacks calls the functions of list; a panic in one ends nothing else. On the loop,
// without c.mu.
func (c *Conn) runFlushCallbacks(list []func(bool), taken bool) {
	for _, f := range list {
		c.loop.protect(nil, func() { f(taken) })
	}
}

// requeueFlushCallbacks puts list back before callbacks that came later: the bytes that it waits
// for are not in the socket yet. On the loop, without c.mu.
func (c *Conn) requeueFlushCallbacks(list []func(bool)) {
	if len(list) == 0 {
		return
	}
	c.mu.Lock()
	o := c.ensureOutbox()
	o.flushCallbacks = append(list, o.flushCallbacks...)
	c.mu.Unlock()
}

// Buffered returns the number of bytes in the outbox. Bytes that the engine keeps are not counted.
// Any goroutine.
func (c *Conn) Buffered() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.outboxLen()
}

// Close flushes the outbox and then closes the connection, at the end of a turn and never inside a
// callback. OnClose gets the reason of the first call; nil means a clean close. If the peer reads
// nothing, the flush is given up after lingerTicks. Any goroutine.
func (c *Conn) Close(reason error) { c.CloseWith(nil, reason) }

// CloseWith is Close after a last Append of last, which is copied and taken even if the outbox is
// full. If c is closing already, nothing is sent and the reason is ignored. Any goroutine.
func (c *Conn) CloseWith(last []byte, reason error) {
	c.mu.Lock()
	if c.closing {
		c.mu.Unlock()
		return
	}
	if len(last) > 0 {
		o := c.ensureOutbox()
		if o.buf == nil {
			o.buf = buf.Outbox.Get(len(last))
		}
		o.buf = append(o.buf, last...)
	}
	c.markClosing(reason)
	wake := !c.dirty
	c.dirty = true
	c.mu.Unlock()
	if wake {
		c.loop.markDirty(c)
	}
}

// Abort closes c with a TCP reset (RFC 9293 section 3.10.5), as a network that fails does: what was not sent
// is dropped, and the peer gets neither the end of its stream nor that of TLS. A Memory knows no reset, and
// only closes. OnClose is called later in the turn. If the socket is closed already, Abort does nothing.
func (c *Conn) Abort() {
	c.loop.AssertOwned()
	if c.flags&(flagClosed|flagSocketClosed) != 0 {
		return
	}
	if g, ok := c.sock.(*gnetConn); ok {
		g.resetOnClose()
	}
	c.onClose(nil)
	if c.flags&flagSocketClosed != 0 {
		c.sock.Close()
	}
}

// Pause stops reading: c leaves the poller's read set, so that TCP's flow control slows the peer. A
// pause has no deadline of its own; the handler sets one with Arm. The peer's FIN is noticed only after
// Resume.
func (c *Conn) Pause() {
	c.loop.AssertOwned()
	if c.flags&(flagPaused|flagSocketClosed) != 0 {
		c.enforcePause()
		return
	}
	c.flags |= flagPaused
	c.loop.meter.Paused++
	c.sock.SetRead(false)
	if c.sock.Buffered() > 0 {
		c.markWriteBlocked()
	}
}

// PauseForReply is a lazy pause, for a peer that, by its protocol, sends nothing until it gets a reply.
// c stays in the read set. If the peer sends anyway, that one read is parked, and c leaves the read set
// then (enforcePause). This saves a login four system calls. It is not for long work: if the peer hangs
// up during a lazy pause, the connection closes at once. While c is on crypto/tls this is Pause, because
// crypto/tls may have buffered input that the socket does not show.
func (c *Conn) PauseForReply() {
	c.loop.AssertOwned()
	if c.tls != nil && c.tls.std != nil { // crypto/tls
		c.Pause()
		return
	}
	if c.flags&(flagPaused|flagSocketClosed) != 0 {
		return
	}
	c.flags |= flagPaused
	c.loop.meter.Paused++
	if c.sock.Reading() {
		c.flags |= flagLazyPause
	} // otherwise reading is off already, as after Pause, and Resume treats it so
}

// enforcePause turns a lazy pause into a real one: c leaves the read set. Pause calls it, and
// a delivery that has left input unconsumed. onTraffic does the same when c sends during the pause.
func (c *Conn) enforcePause() {
	if c.flags&flagLazyPause != 0 && c.flags&flagSocketClosed == 0 {
		c.flags &^= flagLazyPause
		c.sock.SetRead(false)
	}
}

// Resume ends a pause. A connection with parked input, with TLS, or over its rate goes to the
// loop's deferred-input queue; its parked input is delivered from there, in turn with other
// connections, and reading is turned on only when all of it is consumed. Otherwise a handler that
// consumes a little at a time would park another read each time, up to maxParkedBytes. A plain
// connection without parked input, and not over its rate, is read again at once. After a lazy pause
// that was not enforced there is nothing to do.
func (c *Conn) Resume() {
	c.loop.AssertOwned()
	if c.flags&flagPaused == 0 {
		return
	}
	stillReading := c.flags&flagLazyPause != 0
	c.flags &^= flagPaused | flagLazyPause
	c.loop.meter.Paused--
	switch {
	case stillReading: // no input is unconsumed (enforcePause), and reading was never turned off
	case c.flags&flagSocketClosed != 0:
	case c.flags&flagOverRate == 0 && c.parked == nil && c.tls == nil:
		c.sock.SetRead(true)
	default:
		c.loop.deferred.push(c)
	}
}

// resumeInput delivers c's unconsumed input, and turns reading on if c is not paused again. Only the
// deferred-input queue calls it; Meter.Posted has its time. It does nothing if c is closing. Input of an
// unauthenticated connection passes admission first: c may be queued there instead.
func (c *Conn) resumeInput() {
	if c.flags&(flagPaused|flagSocketClosed|flagClosing|flagDiscardInput) != 0 {
		return
	}
	if c.flags&flagAdmissionQueued != 0 || c.unconsumed() > 0 && c.queuedForAdmission(0) {
		c.flags |= flagAdmissionReadOff
		return
	}
	start := c.loop.readClock()
	c.deliver(nil)
	c.noteOverRate(c.loop.readClock().Sub(start))
	if c.flags&(flagPaused|flagSocketClosed|flagDiscardInput) == 0 {
		c.sock.SetRead(true)
	}
}

// MarkOverRate notes that the current delivery took c over its rate. The reactor counts the time of the
// delivery in Meter.OverRate and throttles the deferred-input queue. Call it from OnData. It sets a field
// of the loop, which each delivery resets: only one is under way. A delivery of onAdmitted does not
// count.
func (c *Conn) MarkOverRate() { c.loop.overRate = true }

// noteOverRate accounts for a delivery that took d, if the handler called MarkOverRate in it.
func (c *Conn) noteOverRate(d time.Duration) {
	if !c.loop.overRate {
		c.flags &^= flagOverRate
		return
	}
	c.flags |= flagOverRate
	c.loop.meter.OverRate += d
	c.loop.deferred.throttle(d)
}

// unconsumed returns how many received bytes the handler has not consumed, plaintext and
// ciphertext.
func (c *Conn) unconsumed() (n int) {
	if c.parked != nil {
		n = len(*c.parked)
	}
	if c.tls != nil {
		n += c.tls.buffered()
	}
	return n
}

// Arm sets c's only deadline and replaces an earlier one; OnTimer is called when it has passed.
// Arm(0) disarms. On a connection that is closing it does nothing.
func (c *Conn) Arm(at Tick) {
	c.loop.AssertOwned()
	if c.flags&(flagSocketClosed|flagClosed|flagClosing) == 0 {
		c.loop.wheel.arm(&c.timer, at, c)
	}
}

// OnTimer implements TimerHandler for the wheel. If c lingers, the peer's FIN has not come in time;
// otherwise the handler's deadline has passed.
func (c *Conn) OnTimer(l *Loop) {
	if c.flags&flagLinger != 0 {
		c.destroy()
		return
	}
	if c.flags&flagClosed == 0 && c.flags&flagOpened != 0 {
		defer l.recoverPanic(c)
		c.endpoint.handler.OnTimer(c)
	}
}

// onOpen is called once by the engine, on the loop, when c's socket is in the poller. The handler
// gets OnOpen before the TLS handshake begins.
func (c *Conn) onOpen(sock backendConn) {
	l := c.loop
	l.updateTime()
	c.sock = sock
	l.addConn(c)
	c.flags |= flagOpened
	l.protect(c, func() { c.endpoint.handler.OnOpen(c) })
	if c.endpoint.directTLS != nil {
		if err := c.StartTLS(c.endpoint.directTLS, c.endpoint.role); err != nil {
			c.Close(err)
		}
	}
}

// onTraffic is called by the engine, on the loop, with the bytes of one read. p belongs to the
// engine and is overwritten after the call. The steps:
//
//  1. A connection that is closing drops p.
//  2. If c is paused or waits for admission, reading is turned off (a lazy pause becomes a real
//     one).
//  3. If c is unauthenticated and the loop's token bucket has too little for a login step, c is
//     queued for admission.
//  4. After step 2 or 3 p is kept: plaintext is parked, and tlsConn.deliver leaves ciphertext
//     unopened in the record layer, as it checks the flags again. If the queue was full, c is
//     closing, and p is freed with it.
//  5. Otherwise p is delivered to the handler, and the time is metered.
func (c *Conn) onTraffic(p []byte) {
	l := c.loop
	l.AssertOwned()
	defer l.recoverPanic(c)
	start := l.updateTime()
	l.meter.Reads++
	l.meter.BytesIn += uint64(len(p))
	if c.flags&(flagClosing|flagLinger|flagDiscardInput) != 0 {
		return
	}
	if c.flags&(flagPaused|flagAdmissionQueued) != 0 {
		// Besides a lazy pause: gnet puts c back in the read set when gnet's buffer of c fills or drains.
		c.flags &^= flagLazyPause
		c.sock.SetRead(false)
		if c.flags&flagAdmissionQueued != 0 {
			c.flags |= flagAdmissionReadOff
			l.admission.addBytes(c, len(p))
		}
	}
	if c.flags&(flagPaused|flagAdmissionQueued) != 0 || c.queuedForAdmission(len(p)) {
		if c.tls == nil {
			c.parkInput(p)
			return
		} // step 4: tlsConn.deliver opens nothing
	}
	c.deliver(p)
	d := l.readClock().Sub(start)
	l.meter.Handling += d
	c.noteOverRate(d)
	l.recordTurn(d)
}

// queuedForAdmission charges a login step (LoginStepCost) to the loop's token bucket for the n bytes
// that c has just sent, and reports whether they must not be delivered now: the bucket has too little,
// and c is queued for admission; or the queue is full, and c is refused. Input of an established session
// never waits; its time is noted in admission.lastSessionInput. Input of a handshake does not wait here,
// because the handshake as a whole does (tryBeginHandshake).
func (c *Conn) queuedForAdmission(n int) bool {
	if c.endpoint.admitter == nil || c.tls != nil && !c.Secure() {
		return false
	}
	a := &c.loop.admission
	if _, unauthenticated := c.endpoint.admitter.Unauthenticated(c); !unauthenticated {
		a.lastSessionInput = c.loop.now
		return false
	}
	if a.tryAdmit(LoginStepCost) {
		return false
	}
	if !a.enqueue(c, false, n) {
		c.loop.meter.AdmissionRefused++
		c.refuse(ErrAdmissionFull)
	}
	return true
}

// onAdmitted continues with a connection that has waited for admission: it begins its handshake, or
// delivers the input that was kept. It then turns reading on, if it was turned off while c waited.
// Admission has taken c out of its queue and cleared flagAdmissionQueued. handshake is true only before
// the handshake has begun, so c.tls.std is not nil then.
func (c *Conn) onAdmitted(handshake bool) {
	readOff := c.flags&flagAdmissionReadOff != 0
	c.flags &^= flagAdmissionReadOff
	switch {
	case c.flags&(flagSocketClosed|flagClosing|flagDiscardInput) != 0:
		return
	case handshake:
		c.tls.std.beginHandshake()
	case c.flags&flagPaused == 0:
		c.deliver(nil)
	}
	if readOff && c.flags&(flagPaused|flagAdmissionQueued|flagSocketClosed|flagDiscardInput) == 0 {
		c.sock.SetRead(true)
	}
}

// alertInternal is a TLS record with the fatal alert internal_error (RFC 8446 section 6.2). It is
// not encrypted: it is sent only before crypto/tls has begun the handshake.
var alertInternal = []byte{21, 3, 3, 0, 2, 2, 80}

// refuse closes a connection that admission or the handshake limit turns away. Before its handshake it
// gets an alert; otherwise, over plaintext or TLS, its AdmissionHandler may send an error first.
func (c *Conn) refuse(why error) {
	c.flags |= flagDiscardInput
	switch {
	case c.tls != nil && !c.Secure():
		c.sock.Write(alertInternal)
	case c.endpoint.admitter != nil:
		c.loop.protect(c, func() { c.endpoint.admitter.OnAdmissionRefused(c) })
	}
	c.Close(why)
}

// parkInput keeps a copy of p until the handler consumes it, after what is parked already. With
// more than maxParkedBytes it ends c.
func (c *Conn) parkInput(p []byte) {
	if len(p) == 0 {
		return
	}
	if c.parked == nil {
		b := buf.Input.Get(len(p))
		c.parked = &b
	}
	if len(*c.parked)+len(p) > maxParkedBytes {
		c.overflow()
		return
	}
	*c.parked = append(*c.parked, p...)
	c.loop.meter.ParkedBytes += len(p)
}

// overflow ends c because more than maxParkedBytes of its input are unconsumed: see ErrInputOverflow. On
// an engine that can't pause reading (Config.NoPause, or gnet without its epoll descriptor) every long
// pause may end so. An OverflowHandler may send a last error.
func (c *Conn) overflow() {
	if c.flags&flagDiscardInput != 0 {
		return
	}
	c.flags |= flagDiscardInput
	if h, ok := c.endpoint.handler.(OverflowHandler); ok && c.flags&(flagClosed|flagSocketClosed) == 0 {
		c.loop.protect(c, func() { h.OnOverflow(c) })
	}
	c.Close(ErrInputOverflow)
}

// deliver gives the parked input, and p after it, to the handler; with TLS it opens p first.
func (c *Conn) deliver(p []byte) {
	c.loop.overRate = false
	if c.tls != nil {
		c.tls.deliver(c, p)
		return
	}
	c.feedHandler(p)
}

// feedHandler calls OnData with plaintext: the parked input, if any, and p after it. The steps:
//
//  1. p is joined to the parked input, so that the handler sees one slice in the order of arrival.
//  2. OnData returns how much it consumed. A handler that leaves input must have paused; without
//     TLS, c is closed if it has not. With TLS, tlsConn.deliver delivers the rest again.
//  3. The rest is parked. If it came from a parked buffer that is not much too large, it moves to the
//     front of that buffer. Input that is consumed in many parts would otherwise be copied to a new
//     buffer each time. c.parked was taken before the call, so it is nil after OnData unless OnData itself
//     has caused a delivery, as by Resume in it.
//
// A handler that calls StartTLS in OnData must consume all of p: the rest would be parked plaintext, and
// be delivered after the handshake as if it had come over TLS. session.streamReader.startTLS checks it.
func (c *Conn) feedHandler(p []byte) {
	var parked []byte
	if c.parked != nil {
		c.parkInput(p)
		if c.flags&flagDiscardInput != 0 {
			return
		}
		parked = *c.parked
		c.parked = nil
		c.loop.meter.ParkedBytes -= len(parked)
		p = parked
	}
	if len(p) == 0 {
		return
	}
	used := c.callOnData(p)
	if used < len(p) {
		c.enforcePause()
	}
	partial := used < len(p) && c.flags&flagClosing == 0
	if partial && c.flags&flagPaused == 0 && c.tls == nil {
		c.Close(errors.New("reactor: a handler left input without a pause"))
		partial = false
	}
	switch {
	case partial && c.parked == nil && parked != nil && cap(parked) < 4*(len(p)-used)+4096:
		// The buffer is reused: see step 3.
		rest := parked[:copy(parked, p[used:])]
		c.parked = &rest
		c.loop.meter.ParkedBytes += len(rest)
		return
	case partial:
		c.parkInput(p[used:])
	}
	if parked != nil {
		buf.Input.Put(parked)
	}
}

// callOnData calls the handler's OnData. After a panic all of p counts as consumed, and c closes.
func (c *Conn) callOnData(p []byte) (used int) {
	used = len(p)
	defer c.loop.recoverPanic(c)
	used = c.endpoint.handler.OnData(c, p)
	return used
}

// onClose is called by the engine, on the loop, when the socket is closed; perhaps inside one of
// our own writes. err is nil after the peer's FIN. A FIN without close_notify over TLS is an
// error, because the end of the data may be missing (RFC 8446 section 6.1).
func (c *Conn) onClose(err error) {
	if c.flags&flagSocketClosed != 0 {
		return
	}
	c.flags |= flagSocketClosed
	if c.tls != nil {
		c.tls.abortHandshake()
		if c.tls.flags&(tlsClient|tlsSecure) == tlsClient &&
			c.flags&(flagClosed|flagCloseQueued|flagClosing|flagLinger) == 0 {
			// A server may hang up because of our alert. The error of the handshake says more than
			// the lost connection, and handshakeDone reports it. abortHandshake has ended the input,
			// so the handshake's goroutine gets io.EOF and posts handshakeDone.
			return
		}
		if err == nil && c.tls.flags&tlsPeerClosed == 0 {
			err = errUnexpectedEOF // FIN without close_notify
		}
	}
	c.closeLost(err)
}

// closeLost marks a connection with a lost socket as closing, and queues its OnClose for the end of
// the turn. It posts an empty function, so that a turn comes.
func (c *Conn) closeLost(err error) {
	c.mu.Lock()
	if !c.closing {
		c.markClosing(err)
	}
	c.mu.Unlock()
	c.queueClose()
	c.loop.Post(func() {})
}

// queueClose queues finishClose for the end of a turn.
func (c *Conn) queueClose() {
	if c.flags&flagCloseQueued == 0 {
		c.flags |= flagCloseQueued
		c.loop.closes = append(c.loop.closes, c)
	}
}

// flush writes the outbox to the engine, as far as the socket takes it, and completes a Close. The
// loop calls it at the end of a turn for each dirty connection, and again for write-blocked ones.
// The steps:
//
//  1. If the socket is gone, the outbox is dropped and OnClose is queued.
//  2. During a handshake nothing of the outbox leaves; bytes of the handshake do (tlsConn.writeOut).
//     The outbox of a connection that closes during its handshake is dropped.
//  3. While c is paused the poller does not watch whether the socket takes output. So a retry
//     flushes the engine's buffer here, if Loop.flushPaused allows it.
//  4. If the engine still has unsent bytes (c.sock.Buffered, not the outbox of c.Buffered) and the
//     outbox has more, or c is closing or paused, c becomes write-blocked. After slowConsumerTicks of
//     that it is a slow consumer and is closed. A closing connection gets the flush timeout.
//  5. Otherwise the outbox is taken and written in chunks until the engine keeps some bytes. The
//     rest goes back to the outbox, and c becomes write-blocked.
//  6. Callbacks of AfterFlush wait until the engine has no unsent bytes. If c closes, finishClose
//     runs them with false.
//  7. Once the outbox is empty: OnDrain, if asked for, which may Append more; the callbacks; and the end of
//     a closing connection (bytes that the engine still keeps are its to write, see finishClose).
//
// Engine calls may close the socket (onClose), so flagSocketClosed is checked before c.sock is used for
// more output. On the loop, without c.mu. After a panic (see flushOne) the outbox and the callbacks that
// flush has taken are lost.
func (c *Conn) flush() {
	c.mu.Lock()
	c.dirty = false
	closing := c.closing
	if c.flags&flagSocketClosed != 0 {
		c.discardOutbox()
		c.mu.Unlock()
		// Otherwise handshakeDone reports the error: see onClose.
		if closing || c.tls == nil || c.tls.flags&(tlsClient|tlsSecure) != tlsClient {
			c.queueClose()
		}
		return
	}
	if c.sock == nil { // onOpen has not come: no handler knows c yet, so the outbox is empty
		c.mu.Unlock()
		return
	}
	if c.tls != nil && !c.Secure() && !closing {
		c.mu.Unlock() // plaintext waits for the handshake
		c.tls.writeOut(c)
		return
	}
	if c.sock.Buffered() > 0 && c.flags&flagLinger == 0 && c.flags&flagPaused != 0 && c.loop.flushPaused {
		c.mu.Unlock() // step 3
		c.sock.Flush()
		c.mu.Lock()
		if c.flags&flagSocketClosed != 0 {
			c.discardOutbox()
			c.mu.Unlock()
			c.queueClose()
			return
		}
	}
	if c.sock.Buffered() > 0 && (c.outboxLen() > 0 || closing || c.flags&flagPaused != 0) &&
		c.flags&flagLinger == 0 {
		c.mu.Unlock()
		c.markWriteBlocked()
		if now := c.loop.Tick(); c.blockedSince == 0 {
			c.blockedSince = now
		} else if now >= c.blockedSince+slowConsumerTicks && !closing {
			c.loop.meter.SlowConsumers++
			c.Close(ErrSlowConsumer)
			closing = true
		}
		if closing && c.flags&flagClosing == 0 {
			c.armFlushTimeout()
		}
		return
	}
	c.blockedSince = 0
	callbacks := c.takeFlushCallbacks()
	out := c.takeOutbox()
	c.mu.Unlock()
	if out != nil && c.tls != nil && !c.Secure() { // closed in the middle of a handshake
		buf.Outbox.Put(out)
		out = nil
	}
	n := 0
	for n < len(out) && c.flags&flagSocketClosed == 0 && c.sock.Buffered() == 0 {
		k := min(len(out)-n, writeChunk)
		c.write(out[n : n+k])
		n += k
	}
	partial := n < len(out) && c.flags&flagSocketClosed == 0
	if partial {
		c.requeueOutbox(out[n:])
	}
	if out != nil {
		buf.Outbox.Put(out)
	}
	if c.flags&flagSocketClosed != 0 {
		c.requeueFlushCallbacks(callbacks)
		c.queueClose()
		return
	}
	if c.tls != nil {
		c.tls.writeOut(c)
	}
	if partial {
		c.requeueFlushCallbacks(callbacks)
		c.markWriteBlocked()
		if closing {
			c.armFlushTimeout()
		}
		return
	}
	if len(callbacks) > 0 && (closing || c.sock.Buffered() > 0) {
		c.requeueFlushCallbacks(callbacks)
		callbacks = nil
		if !closing { // the engine does not report that it has written the rest: retries find out
			c.scheduleWriteRetry()
		}
	}
	if c.flags&flagPaused != 0 && !closing && c.sock.Buffered() > 0 {
		c.markWriteBlocked() // the engine does not write for a paused connection
		return
	}
	if c.flags&flagNotifyDrain != 0 && !closing && c.Buffered() == 0 {
		c.flags &^= flagNotifyDrain
		c.loop.protect(c, func() { c.endpoint.handler.OnDrain(c) })
	}
	if c.flags&flagWriteBlocked == 0 {
		c.flags &^= flagBackoffReset
	}
	c.runFlushCallbacks(callbacks, true)
	if closing {
		c.flags |= flagClosing
		c.queueClose()
	}
}

// requeueOutbox puts p, the bytes that were not written, before bytes that were appended in the
// meantime. p is copied.
func (c *Conn) requeueOutbox(p []byte) {
	c.mu.Lock()
	b := append(buf.Outbox.Get(len(p)+c.outboxLen()), p...)
	if later := c.takeOutbox(); later != nil {
		b = append(b, later...)
		buf.Outbox.Put(later)
	}
	c.ensureOutbox().buf = b
	c.mu.Unlock()
}

// discardOutbox drops the bytes of the outbox. Under c.mu.
func (c *Conn) discardOutbox() {
	if b := c.takeOutbox(); b != nil {
		buf.Outbox.Put(b)
	}
}

// armFlushTimeout bounds the last flush of a closing connection by lingerTicks, once. From then on no
// more input is delivered.
func (c *Conn) armFlushTimeout() {
	if c.flags&flagClosing == 0 {
		c.flags |= flagClosing
		c.loop.wheel.arm(&c.timer, c.loop.Tick()+lingerTicks, flushTimeout{c})
	}
}

// A flushTimeout is the TimerHandler of Conn.timer while a closing connection flushes its last bytes. It
// ends the connection if its peer does not read them. flagLinger is not set yet.
type flushTimeout struct{ conn *Conn }

// OnTimer drops the outbox and queues the end of the connection. The empty function makes a turn come.
func (t flushTimeout) OnTimer(*Loop) {
	t.conn.mu.Lock()
	t.conn.discardOutbox()
	t.conn.mu.Unlock()
	t.conn.queueClose()
	t.conn.loop.Post(func() {})
}

// markWriteBlocked schedules another flush of c, and OnDrain for when its outbox is empty.
func (c *Conn) markWriteBlocked() {
	c.flags |= flagNotifyDrain
	c.scheduleWriteRetry()
}

// scheduleWriteRetry puts c on the loop's list of write-blocked connections. A connection that is
// new there resets the loop's write backoff, so that it is retried soon. With flagBackoffReset it has
// done so since its output was last written; it then waits for the backoff.
func (c *Conn) scheduleWriteRetry() {
	if c.flags&flagBackoffReset == 0 {
		c.flags |= flagBackoffReset
		c.loop.writeBackoff, c.loop.retryArmed = 0, false
	}
	if c.flags&flagWriteBlocked == 0 {
		c.flags |= flagWriteBlocked
		c.loop.writeBlocked = append(c.loop.writeBlocked, c)
	}
}

// write gives one chunk to the engine, sealed if c has TLS. Sealed bytes can't go back to the outbox, so
// the caller stops when the engine keeps some.
func (c *Conn) write(p []byte) {
	l := c.loop
	if c.Secure() {
		c.tls.seal(c, p)
		return
	}
	l.meter.Writes++
	l.meter.BytesOut += uint64(len(p))
	c.sock.Write(p)
}

// finishClose ends c at the end of a turn. The steps of the first call:
//
//  1. It cancels everything pending: admission, deadline, pause, outbox, parked input. Callbacks of
//     AfterFlush get false.
//  2. It calls OnClose with the reason of Close.
//  3. If the socket is open, it sends close_notify and FIN and reads on until the peer's FIN, for
//     lingerTicks at most: a socket that is closed with unread input resets the connection, and the
//     peer may lose the last bytes.
//
// When the socket is closed, now or in a later call, c is released.
func (c *Conn) finishClose() {
	c.flags &^= flagCloseQueued
	if c.flags&flagClosed == 0 {
		c.flags |= flagClosed | flagClosing
		c.loop.admission.cancel(c)
		c.loop.wheel.arm(&c.timer, 0, nil)
		if c.flags&flagPaused != 0 {
			c.flags &^= flagPaused
			c.loop.meter.Paused--
		}
		c.mu.Lock()
		c.closing = true
		c.discardOutbox()
		var reason error
		if c.outbox != nil {
			reason, c.outbox.reason = c.outbox.reason, nil
		}
		callbacks := c.takeFlushCallbacks()
		c.takeOutbox()
		c.mu.Unlock()
		c.runFlushCallbacks(callbacks, false)
		if c.parked != nil {
			c.loop.meter.ParkedBytes -= len(*c.parked)
			buf.Input.Put(*c.parked)
			c.parked = nil
		}
		c.loop.protect(nil, func() { c.endpoint.handler.OnClose(c, reason) })
		if c.flags&flagSocketClosed == 0 {
			if c.tls != nil {
				c.tls.sendCloseNotify(c)
			}
			if c.flags&flagSocketClosed == 0 {
				// Step 3.
				c.sock.CloseWrite()
				c.sock.SetRead(true)
				c.flags |= flagLinger
				c.loop.wheel.arm(&c.timer, c.loop.Tick()+lingerTicks, c)
			}
		}
	}
	if c.flags&flagSocketClosed != 0 {
		c.release()
	}
}

// destroy closes the socket of a lingering connection without waiting any longer.
func (c *Conn) destroy() {
	if c.flags&flagSocketClosed == 0 {
		c.flags |= flagSocketClosed
		c.sock.Close()
	}
	c.release()
}

// release removes c from its loop and frees its TLS state. The engine has closed the socket. After this
// only methods for any goroutine, Remote, TLS and Secure may be called. A second call does no harm.
func (c *Conn) release() {
	if c.loop.removeConn(c) {
		c.loop.connCount.Add(-1)
		c.loop.r.connClosed()
	}
	c.loop.wheel.arm(&c.timer, 0, nil)
	if c.tls != nil {
		c.tls.release(c.loop)
	}
	c.sock, c.tls = nil, nil
}
