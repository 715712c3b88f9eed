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

// Errors that OnClose gets.
var (
	ErrPanic               = errors.New("reactor: a handler panicked")
	ErrInputOverflow       = errors.New("reactor: too much input while paused")
	ErrStopped             = errors.New("reactor: the reactor stops")
	ErrUnexpectedPlaintext = errors.New("reactor: plaintext behind the start of TLS")
	ErrTooManyHandshakes   = errors.New("reactor: too many handshakes")
	ErrHandshakeTimeout    = errors.New("reactor: the handshake took too long")
	ErrSlowConsumer        = errors.New("reactor: the peer takes too little of what is written")
	errEngineEnded         = errors.New("reactor: the event engine ended by itself")
	errConnLost            = errors.New("reactor: connection lost")
	errUnexpectedEOF       = io.ErrUnexpectedEOF
)

const (
	flagPaused           = 1 << iota
	flagOpen             // OnOpen was called
	flagSocketClosed     // the engine's connection is closed
	flagClosing          // on its loop: Close has taken effect
	flagClosed           // OnClose was called
	flagWriteBlocked     // on the loop's stuck list
	flagLinger           // waits for the peer's FIN
	flagWriteRetried     // what it has to write was tried before: it need not be tried again soon
	flagNotifyDrain      // OnDrain is owed when the outbox is empty
	flagCloseQueued      // on the loop's list of closes
	flagDiscardInput     // more came than may be kept: nothing is read any more
	flagAdmissionQueued  // a guest in a queue: what it sends is kept
	flagAdmissionReadOff // and reading is off, as it has sent more than once
	flagDeferred         // on the loop's lane
	flagOverRate         // Flooded by what was delivered last
	flagLazyPause        // paused, and in the read set until more comes
)

// lingerTicks is how long a closed connection waits for the peer's FIN, so that what was written last
// is not lost to a reset.
const lingerTicks = 20

// slowConsumerTicks is how long a peer may take for what the engine keeps, 64 KiB, while more waits
// behind it.
const slowConsumerTicks = 600

// maxParkedBytes bounds input that is read while paused: two reads.
const maxParkedBytes = 128 << 10

// writeChunk is the most that is given to the engine at a time: what its socket has no room for stays
// in the outbox, where it is counted.
const writeChunk = 64 << 10

// A Conn is one connection: 128 bytes while plain and idle.
type Conn struct {
	HandlerState any // the handler's own state
	sock         backendConn
	endpoint     *endpoint
	loop         *Loop
	mu           sync.Mutex // the outbox lock, a leaf
	outbox       *outbox    // under mu; nil while empty and not closed with a reason
	parked       *[]byte    // read and not consumed
	tls          *tlsConn   // nil while plain
	timer        Timer
	flags        uint16
	// Under mu:
	dirty   bool
	closing bool
	// On the loop:
	blockedSince Tick // since when the engine has kept something, and more waits behind it; 0: not
}

// An outbox is what a Conn has only while it has something to write, or is closed for a reason.
type outbox struct {
	buf            []byte // nil, or lent by buf.Outbox
	reason         error
	flushCallbacks []func(taken bool) // see Conn.AfterFlush
}

var outboxPool = sync.Pool{New: func() any { return new(outbox) }}

// ensureOutbox is c's outbox, made where there is none. Under mu.
func (c *Conn) ensureOutbox() *outbox {
	if c.outbox == nil {
		c.outbox = outboxPool.Get().(*outbox)
	}
	return c.outbox
}

// takeOutbox takes the bytes out, and gives the outbox back if nothing else is in it. Under mu.
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

// outboxLen is how much is in the outbox. Under mu.
func (c *Conn) outboxLen() int {
	if c.outbox == nil {
		return 0
	}
	return len(c.outbox.buf)
}

// markClosing notes that c closes, and why. Under mu.
func (c *Conn) markClosing(reason error) {
	c.closing = true
	if reason != nil {
		c.ensureOutbox().reason = reason
	}
}

// A port is what the connections of one listener or dialler share.
type endpoint struct {
	handler   Handler
	directTLS *tls.Config
	role      Role
	admitter  AdmissionHandler // h, if it is one
	accept    func(netip.AddrPort) bool
	aborted   func(netip.AddrPort)
}

// Loop is the loop that owns c. Any goroutine; never changes.
func (c *Conn) Loop() *Loop { return c.loop }

// Handler is whose connection c is. On the loop.
func (c *Conn) Handler() Handler { return c.endpoint.handler }

// switchEndpoint gives c to the handler of another protocol, as if it had just been opened.
func (c *Conn) switchEndpoint(p *endpoint) {
	c.endpoint = p
	c.loop.wheel.arm(&c.timer, 0, nil)
	p.handler.OnOpen(c)
}

// Remote is the peer's address; zero once the connection is closed.
func (c *Conn) Remote() netip.AddrPort {
	if c.sock == nil {
		return netip.AddrPort{}
	}
	return c.sock.Remote()
}

// TLS is nil while plain, and from Settle on.
func (c *Conn) TLS() *tls.ConnectionState {
	if c.tls == nil || c.tls.handshake == nil {
		return nil
	}
	return &c.tls.handshake.state
}

// Secure reports whether c has done its handshake; for as long as it is open.
func (c *Conn) Secure() bool { return c.tls != nil && c.tls.flags&tlsSecure != 0 }

// ReleaseHandshakeState says that nobody will ask any more what the handshake has shown, as nothing is
// bound to it behind a login: TLS and Presented are nil from now on, and 0.3 kB are free. On the loop.
func (c *Conn) ReleaseHandshakeState() {
	if c.tls != nil {
		c.tls.handshake = nil
	}
}

// TakeTLSOverhead takes what the peer has sent since the last call that was work and no data: bytes of
// padding and of records without data, and 1 KiB for each change of keys. Whoever limits a peer's rate
// adds it to what OnData brings. Where crypto/tls stays, changes of keys count by their bytes. On the
// loop.
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

// PresentedCertificate is the certificate that was shown to the peer, if GetCertificate of the
// configuration said so with Present(*tls.Certificate) on the connection that [tls.ClientHelloInfo]
// names; else nil, as it is where a session was resumed: what the peer knows is from another handshake.
func (c *Conn) PresentedCertificate() *tls.Certificate {
	if c.tls == nil {
		return nil
	}
	return c.tls.presentedCertificate()
}

// Append puts p in the outbox; it is copied, and leaves with everything else appended in this turn in
// one write. It reports whether p was taken. It is not taken after Close, see [Conn.Closing], nor while
// Config.OutboxBytes or more wait for a peer that does not read; that peer's fate is the caller's. One
// element of any length is taken below the limit. Any goroutine.
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

// Closing reports whether c is closed, or will be at the end of this turn: it takes nothing any more.
// Any goroutine.
func (c *Conn) Closing() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closing
}

// NotifyDrain has the handler's OnDrain called once the outbox is empty, at the earliest at the end of
// this turn: also where the socket takes everything at once. On c's loop.
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

// AfterFlush has f called on c's loop: with true once the socket has taken everything that was appended
// before, and nothing waits; with false if c closes first, as what was written last may be lost then.
// f is called once, not inside this call. Any goroutine.
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

// takeFlushCallbacks takes the functions that wait for a flush. Under mu.
func (c *Conn) takeFlushCallbacks() (list []func(bool)) {
	if c.outbox != nil {
		list, c.outbox.flushCallbacks = c.outbox.flushCallbacks, nil
	}
	return list
}

// runFlushCallbacks calls the functions of list. On c's loop, without mu.
func (c *Conn) runFlushCallbacks(list []func(bool), taken bool) {
	for _, f := range list {
		c.loop.protect(nil, func() { f(taken) })
	}
}

// requeueFlushCallbacks puts list back: what it waits for is not in the socket yet.
func (c *Conn) requeueFlushCallbacks(list []func(bool)) {
	if len(list) == 0 {
		return
	}
	c.mu.Lock()
	o := c.ensureOutbox()
	o.flushCallbacks = append(list, o.flushCallbacks...)
	c.mu.Unlock()
}

// Buffered is how much is in the outbox. Any goroutine.
func (c *Conn) Buffered() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.outboxLen()
}

// Close flushes the outbox and closes at the end of a turn, never inside a callback; the first reason
// counts. Any goroutine.
func (c *Conn) Close(reason error) { c.CloseWith(nil, reason) }

// CloseWith is Close after last, which is copied and taken whatever waits: it is the last that the peer is
// sent. Where c closes already nothing is sent. Any goroutine.
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

// Pause takes c out of the poller's read set, so that TCP slows the peer. The deadline of a pause is
// the caller's (Arm): a peer's FIN shows on Resume.
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

// PauseForReply is Pause for a peer that is taken to wait for what it asked for: only when it sends all
// the same is it taken out of the read set, which is two system calls less if it does not. What it sends
// then is kept, one read; if it hangs up instead, nobody waits for the answer any more.
func (c *Conn) PauseForReply() {
	c.loop.AssertOwned()
	if c.tls != nil && c.tls.std != nil { // it may have read more than it shows
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
	} // else it goes on with what is parked
}

// enforcePause takes c out of the read set where it was left to wait for an answer.
func (c *Conn) enforcePause() {
	if c.flags&flagLazyPause != 0 && c.flags&flagSocketClosed == 0 {
		c.flags &^= flagLazyPause
		c.sock.SetRead(false)
	}
}

// Resume hands on what is parked when it is c's turn, behind what sockets have and others that were
// resumed, and then has c read again: who takes a little at a time is not given more before it has taken
// what is there.
func (c *Conn) Resume() {
	c.loop.AssertOwned()
	if c.flags&flagPaused == 0 {
		return
	}
	read := c.flags&flagLazyPause != 0
	c.flags &^= flagPaused | flagLazyPause
	c.loop.meter.Paused--
	switch {
	case read: // and nothing has come
	case c.flags&flagSocketClosed != 0:
	case c.flags&flagOverRate == 0 && c.parked == nil && c.tls == nil:
		c.sock.SetRead(true)
	default:
		c.loop.deferred.push(c)
	}
}

// resumeInput goes on with what c has parked.
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

// MarkOverRate says that what OnData was given took c over its rate: the time is in the loop's Meter. In
// OnData.
func (c *Conn) MarkOverRate() { c.loop.overRate = true }

// noteOverRate notes whether a delivery that took d was Flooded.
func (c *Conn) noteOverRate(d time.Duration) {
	if !c.loop.overRate {
		c.flags &^= flagOverRate
		return
	}
	c.flags |= flagOverRate
	c.loop.meter.OverRate += d
	c.loop.deferred.throttle(d)
}

// unconsumed is how much has come that was not taken.
func (c *Conn) unconsumed() (n int) {
	if c.parked != nil {
		n = len(*c.parked)
	}
	if c.tls != nil {
		n += c.tls.buffered()
	}
	return n
}

// Arm sets c's one deadline; an earlier one is replaced. Arm(0) disarms.
func (c *Conn) Arm(at Tick) {
	c.loop.AssertOwned()
	if c.flags&(flagSocketClosed|flagClosed|flagClosing) == 0 {
		c.loop.wheel.arm(&c.timer, at, c)
	}
}

// OnTimer is the wheel's.
func (c *Conn) OnTimer(l *Loop) {
	if c.flags&flagLinger != 0 {
		c.destroy()
		return
	}
	if c.flags&flagClosed == 0 && c.flags&flagOpen != 0 {
		defer l.recoverPanic(c)
		c.endpoint.handler.OnTimer(c)
	}
}

// onOpen is called by the backend, on the loop.
func (c *Conn) onOpen(io backendConn) {
	l := c.loop
	l.updateTime()
	c.sock = io
	l.addConn(c)
	c.flags |= flagOpen
	l.protect(c, func() { c.endpoint.handler.OnOpen(c) })
	if c.endpoint.directTLS != nil {
		if err := c.StartTLS(c.endpoint.directTLS, c.endpoint.role); err != nil {
			c.Close(err)
		}
	}
}

// onTraffic is called by the backend with what was read.
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
		// The engine looks again whenever its own buffer fills or drains.
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
		} // what is sealed is kept by deliver, which opens nothing while paused
	}
	c.deliver(p)
	d := l.readClock().Sub(start)
	l.meter.Handling += d
	c.noteOverRate(d)
	l.recordTurn(d)
}

// queuedForAdmission reports whether c is a guest that has to wait with the n bytes that it has sent.
func (c *Conn) queuedForAdmission(n int) bool {
	if c.endpoint.admitter == nil || c.tls != nil && !c.Secure() {
		return false // what a handshake reads does not wait; it waits itself
	}
	a := &c.loop.admission
	if _, guest := c.endpoint.admitter.Unauthenticated(c); !guest {
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

// onAdmitted goes on with a guest that has waited: with its handshake, or with what it has sent.
func (c *Conn) onAdmitted(shake bool) {
	shut := c.flags&flagAdmissionReadOff != 0
	c.flags &^= flagAdmissionReadOff
	switch {
	case c.flags&(flagSocketClosed|flagClosing|flagDiscardInput) != 0:
		return
	case shake:
		c.tls.std.beginHandshake()
	case c.flags&flagPaused == 0:
		c.deliver(nil)
	}
	if shut && c.flags&(flagPaused|flagAdmissionQueued|flagSocketClosed|flagDiscardInput) == 0 {
		c.sock.SetRead(true)
	}
}

// alertInternal is a TLS record with the fatal alert internal_error (RFC 8446 §6.2), in plain as before
// any key.
var alertInternal = []byte{21, 3, 3, 0, 2, 2, 80}

// refuse ends a guest that there is no room for.
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

// overflow ends c because more came than may be kept while it is paused: the peer has sent ahead of a
// pause, or the engine can't pause.
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

// deliver hands on what is parked and p behind it.
func (c *Conn) deliver(p []byte) {
	c.loop.overRate = false
	if c.tls != nil {
		c.tls.deliver(c, p)
		return
	}
	c.feedHandler(p)
}

// feedHandler gives plaintext to the handler.
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
	left := used < len(p) && c.flags&flagClosing == 0
	if left && c.flags&flagPaused == 0 && c.tls == nil {
		c.Close(errors.New("reactor: a handler left input without a pause"))
		left = false
	}
	switch {
	case left && c.parked == nil && parked != nil && cap(parked) < 4*(len(p)-used)+4096:
		// A flood is taken in many parts: each in a buffer of its own would be three times the memory.
		rest := parked[:copy(parked, p[used:])]
		c.parked = &rest
		c.loop.meter.ParkedBytes += len(rest)
		return
	case left:
		c.parkInput(p[used:])
	}
	if parked != nil {
		buf.Input.Put(parked)
	}
}

func (c *Conn) callOnData(p []byte) (used int) {
	used = len(p)
	defer c.loop.recoverPanic(c)
	used = c.endpoint.handler.OnData(c, p)
	return used
}

// onClose is called by the backend when the connection is gone, perhaps inside one of our writes.
func (c *Conn) onClose(err error) {
	if c.flags&flagSocketClosed != 0 {
		return
	}
	c.flags |= flagSocketClosed
	if c.tls != nil {
		c.tls.abortHandshake()
		if c.tls.flags&(tlsClient|tlsSecure) == tlsClient &&
			c.flags&(flagClosed|flagCloseQueued|flagClosing|flagLinger) == 0 {
			// The peer may hang up because of our alert: the handshake's own error says more, and shaken
			// brings it now that the handshake has no more input.
			return
		}
		if err == nil && c.tls.flags&tlsPeerClosed == 0 {
			err = errUnexpectedEOF // FIN without close_notify: what was cut is not taken for complete
		}
	}
	c.closeLost(err)
}

// closeLost queues the end of a connection that is gone.
func (c *Conn) closeLost(err error) {
	c.mu.Lock()
	if !c.closing {
		c.markClosing(err)
	}
	c.mu.Unlock()
	c.queueClose()
	c.loop.Post(func() {})
}

func (c *Conn) queueClose() {
	if c.flags&flagCloseQueued == 0 {
		c.flags |= flagCloseQueued
		c.loop.closes = append(c.loop.closes, c)
	}
}

// flush writes the outbox.
func (c *Conn) flush() {
	c.mu.Lock()
	c.dirty = false
	closing := c.closing
	if c.flags&flagSocketClosed != 0 {
		c.discardOutbox()
		c.mu.Unlock()
		// else shaken says why, see closed
		if closing || c.tls == nil || c.tls.flags&(tlsClient|tlsSecure) != tlsClient {
			c.queueClose()
		}
		return
	}
	if c.sock == nil { // closed before it was opened: the engine has yet to say so
		c.mu.Unlock()
		return
	}
	if c.tls != nil && !c.Secure() && !closing {
		c.mu.Unlock() // plaintext waits for the handshake
		c.tls.writeOut(c)
		return
	}
	if c.sock.Buffered() > 0 && c.flags&flagLinger == 0 && c.flags&flagPaused != 0 && c.loop.tickRetry {
		c.mu.Unlock() // once a tick is often enough for who reads slowly
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
			c.armLingerTimer()
		}
		return
	}
	c.blockedSince = 0
	flushed := c.takeFlushCallbacks()
	out := c.takeOutbox()
	c.mu.Unlock()
	if out != nil && c.tls != nil && !c.Secure() { // it closes in the middle of a handshake
		buf.Outbox.Put(out)
		out = nil
	}
	n := 0
	for n < len(out) && c.flags&flagSocketClosed == 0 && c.sock.Buffered() == 0 {
		k := min(len(out)-n, writeChunk)
		c.write(out[n : n+k])
		n += k
	}
	left := n < len(out) && c.flags&flagSocketClosed == 0
	if left {
		c.requeueOutbox(out[n:])
	}
	if out != nil {
		buf.Outbox.Put(out)
	}
	if c.flags&flagSocketClosed != 0 {
		c.requeueFlushCallbacks(flushed)
		c.queueClose()
		return
	}
	if c.tls != nil {
		c.tls.writeOut(c)
	}
	if left {
		c.requeueFlushCallbacks(flushed)
		c.markWriteBlocked()
		if closing {
			c.armLingerTimer()
		}
		return
	}
	if len(flushed) > 0 && (closing || c.sock.Buffered() > 0) {
		c.requeueFlushCallbacks(flushed)
		flushed = nil
		if !closing { // then finish answers; else the engine writes, and does not say when it has
			c.scheduleWriteRetry()
		}
	}
	if c.flags&flagPaused != 0 && !closing && c.sock.Buffered() > 0 {
		c.markWriteBlocked() // the engine doesn't write for it
		return
	}
	if c.flags&flagNotifyDrain != 0 && !closing && c.Buffered() == 0 {
		c.flags &^= flagNotifyDrain
		c.loop.protect(c, func() { c.endpoint.handler.OnDrain(c) })
	}
	if c.flags&flagWriteBlocked == 0 {
		c.flags &^= flagWriteRetried
	}
	c.runFlushCallbacks(flushed, true)
	if closing {
		c.flags |= flagClosing
		c.queueClose()
	}
}

// requeueOutbox puts what was not written in front of what has been appended meanwhile.
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

// discardOutbox gives the outbox back. Under mu.
func (c *Conn) discardOutbox() {
	if b := c.takeOutbox(); b != nil {
		buf.Outbox.Put(b)
	}
}

// armLingerTimer bounds how long a closing connection may take to be read.
func (c *Conn) armLingerTimer() {
	if c.flags&flagClosing == 0 {
		c.flags |= flagClosing
		c.loop.wheel.arm(&c.timer, c.loop.Tick()+lingerTicks, lingerTimer{c})
	}
}

// lingerTimer ends a closing connection whose peer doesn't read.
type lingerTimer struct{ conn *Conn }

func (t lingerTimer) OnTimer(*Loop) {
	t.conn.mu.Lock()
	t.conn.discardOutbox()
	t.conn.mu.Unlock()
	t.conn.queueClose()
	t.conn.loop.Post(func() {})
}

// markWriteBlocked has the outbox tried again later, and OnDrain called when it is empty.
func (c *Conn) markWriteBlocked() {
	c.flags |= flagNotifyDrain
	c.scheduleWriteRetry()
}

// scheduleWriteRetry has c flushed again later: soon where it is new among those that wait for the
// socket, else when the loop's patience has run out.
func (c *Conn) scheduleWriteRetry() {
	if c.flags&flagWriteRetried == 0 {
		c.flags |= flagWriteRetried
		c.loop.writeBackoff, c.loop.retryArmed = 0, false
	}
	if c.flags&flagWriteBlocked == 0 {
		c.flags |= flagWriteBlocked
		c.loop.writeBlocked = append(c.loop.writeBlocked, c)
	}
}

func (c *Conn) write(p []byte) {
	l := c.loop
	if c.Secure() {
		c.tls.seal(c, p) // to the socket at once: the caller stops when that has no more room
		return
	}
	l.meter.Writes++
	l.meter.BytesOut += uint64(len(p))
	c.sock.Write(p)
}

// finishClose ends c, at the end of a turn: OnClose, and what the socket still has to do.
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
		flushed := c.takeFlushCallbacks()
		c.takeOutbox()
		c.mu.Unlock()
		c.runFlushCallbacks(flushed, false)
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
				// FIN first, and read on until the peer's: closing with unread input would reset
				// the connection and lose what was written last.
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

// destroy closes a lingering connection for good.
func (c *Conn) destroy() {
	if c.flags&flagSocketClosed == 0 {
		c.flags |= flagSocketClosed
		c.sock.Close()
	}
	c.release()
}

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
