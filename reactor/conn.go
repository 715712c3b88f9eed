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
	ErrPanic    = errors.New("reactor: a handler panicked")
	ErrParked   = errors.New("reactor: too much input while paused")
	ErrStopped  = errors.New("reactor: the reactor stops")
	ErrPlain    = errors.New("reactor: plaintext behind the start of TLS")
	ErrBusy     = errors.New("reactor: too many handshakes")
	ErrTimeout  = errors.New("reactor: the handshake took too long")
	ErrSlow     = errors.New("reactor: the peer takes too little of what is written")
	errEnded    = errors.New("reactor: the event engine ended by itself")
	errNotSaid  = errors.New("reactor: connection lost")
	errHalfDone = io.ErrUnexpectedEOF
)

const (
	flagPaused  = 1 << iota
	flagOpen    // OnOpen was called
	flagGone    // the engine's connection is closed
	flagClosing // on its loop: Close has taken effect
	flagDone    // OnClose was called
	flagStuck   // on the loop's stuck list
	flagLinger  // waits for the peer's FIN
	flagTried   // what it has to write was tried before: it need not be tried again soon
	flagHigh    // OnDrain is owed when the outbox is empty
	flagQueued  // on the loop's list of closes
	flagDeaf    // more came than may be kept: nothing is read any more
	flagWaits   // a guest in a queue: what it sends is kept
	flagShut    // and reading is off, as it has sent more than once
	flagLane    // on the loop's lane
	flagFlood   // Flooded by what was delivered last
	flagAsked   // paused, and in the read set until more comes
)

// lingerTicks is how long a closed connection waits for the peer's FIN, so that what was written last
// is not lost to a reset.
const lingerTicks = 20

// slowTicks is how long a peer may take for what the engine keeps, 64 KiB, while more waits behind it.
const slowTicks = 600

// maxPark bounds input that is read while paused: two reads.
const maxPark = 128 << 10

// writeChunk is the most that is given to the engine at a time: what its socket has no room for stays
// in the outbox, where it is counted.
const writeChunk = 64 << 10

// A Conn is one connection: 128 bytes while plain and idle.
type Conn struct {
	Owner any // the handler's own state
	io    backendConn
	port  *port
	loop  *Loop
	mu    sync.Mutex // the outbox lock, a leaf
	out   *outbox    // under mu; nil while empty and not closed with a reason
	park  *[]byte    // read and not consumed
	tls   *tlsConn   // nil while plain
	timer Timer
	flags uint16
	// Under mu:
	dirty   bool
	closing bool
	// On the loop:
	full Tick // since when the engine has kept something, and more waits behind it; 0: not
}

// An outbox is what a Conn has only while it has something to write, or is closed for a reason.
type outbox struct {
	b       []byte // nil, or lent by buf.Outbox
	reason  error
	flushed []func(taken bool) // see Conn.Flushed
}

var outboxes = sync.Pool{New: func() any { return new(outbox) }}

// box is c's outbox, made where there is none. Under mu.
func (c *Conn) box() *outbox {
	if c.out == nil {
		c.out = outboxes.Get().(*outbox)
	}
	return c.out
}

// unbox takes the bytes out, and gives the outbox back if nothing else is in it. Under mu.
func (c *Conn) unbox() (b []byte) {
	if c.out == nil {
		return nil
	}
	b, c.out.b = c.out.b, nil
	if c.out.reason == nil && len(c.out.flushed) == 0 {
		outboxes.Put(c.out)
		c.out = nil
	}
	return b
}

// waiting is how much is in the outbox. Under mu.
func (c *Conn) waiting() int {
	if c.out == nil {
		return 0
	}
	return len(c.out.b)
}

// end notes that c closes, and why. Under mu.
func (c *Conn) end(reason error) {
	c.closing = true
	if reason != nil {
		c.box().reason = reason
	}
}

// A port is what the connections of one listener or dialler share.
type port struct {
	h      Handler
	direct *tls.Config
	role   Role
	admits Admitter // h, if it is one
	accept func(netip.AddrPort) bool
	lost   func(netip.AddrPort)
}

// Loop is the loop that owns c. Any goroutine; never changes.
func (c *Conn) Loop() *Loop { return c.loop }

// Handler is whose connection c is. On the loop.
func (c *Conn) Handler() Handler { return c.port.h }

// become gives c to the handler of another protocol, as if it had just been opened.
func (c *Conn) become(p *port) {
	c.port = p
	c.loop.wheel.arm(&c.timer, 0, nil)
	p.h.OnOpen(c)
}

// Remote is the peer's address; zero once the connection is closed.
func (c *Conn) Remote() netip.AddrPort {
	if c.io == nil {
		return netip.AddrPort{}
	}
	return c.io.Remote()
}

// TLS is nil while plain, and from Settle on.
func (c *Conn) TLS() *tls.ConnectionState {
	if c.tls == nil || c.tls.shown == nil {
		return nil
	}
	return &c.tls.shown.state
}

// Secure reports whether c has done its handshake; for as long as it is open.
func (c *Conn) Secure() bool { return c.tls != nil && c.tls.flags&tlsSecure != 0 }

// Settle says that nobody will ask any more what the handshake has shown, as nothing is bound to it behind a
// login: TLS and Presented are nil from now on, and 0.3 kB are free. On the loop.
func (c *Conn) Settle() {
	if c.tls != nil {
		c.tls.shown = nil
	}
}

// Overhead takes what the peer has sent since the last call that was work and no data: bytes of padding and
// of records without data, and 1 KiB for each change of keys. Whoever limits a peer's rate adds it to what
// OnData brings. Where crypto/tls stays, changes of keys count by their bytes. On the loop.
func (c *Conn) Overhead() (n int) {
	switch {
	case c.tls == nil:
	case c.tls.std != nil:
		n, c.tls.std.over = c.tls.std.over, 0
	case c.tls.layer.warm != nil:
		w := c.tls.layer.warm
		n, w.over = w.over, 0
	}
	return n
}

// Presented is the certificate that was shown to the peer, if GetCertificate of the configuration said so
// with Present(*tls.Certificate) on the connection that [tls.ClientHelloInfo] names; else nil, as it is
// where a session was resumed: what the peer knows is from another handshake.
func (c *Conn) Presented() *tls.Certificate {
	if c.tls == nil {
		return nil
	}
	return c.tls.presented()
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
	if c.waiting() >= c.loop.r.cfg.OutboxBytes {
		c.mu.Unlock()
		return false
	}
	o := c.box()
	if o.b == nil {
		o.b = buf.Outbox.Get(len(p))
	}
	o.b = append(o.b, p...)
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
	c.loop.Owned()
	c.flags |= flagHigh
	c.mu.Lock()
	wake := !c.dirty
	c.dirty = true
	c.mu.Unlock()
	if wake {
		c.loop.markDirty(c)
	}
}

// Flushed has f called on c's loop: with true once the socket has taken everything that was appended
// before, and nothing waits; with false if c closes first, as what was written last may be lost then.
// f is called once, not inside this call. Any goroutine.
func (c *Conn) Flushed(f func(taken bool)) {
	c.mu.Lock()
	if c.closing {
		c.mu.Unlock()
		c.loop.Post(func() { f(false) })
		return
	}
	o := c.box()
	o.flushed = append(o.flushed, f)
	wake := !c.dirty
	c.dirty = true
	c.mu.Unlock()
	if wake {
		c.loop.markDirty(c)
	}
}

// takeFlushed takes the functions that wait for a flush. Under mu.
func (c *Conn) takeFlushed() (list []func(bool)) {
	if c.out != nil {
		list, c.out.flushed = c.out.flushed, nil
	}
	return list
}

// tell calls the functions of list. On c's loop, without mu.
func (c *Conn) tell(list []func(bool), taken bool) {
	for _, f := range list {
		c.loop.protect(nil, func() { f(taken) })
	}
}

// flushLater puts list back: what it waits for is not in the socket yet.
func (c *Conn) flushLater(list []func(bool)) {
	if len(list) == 0 {
		return
	}
	c.mu.Lock()
	o := c.box()
	o.flushed = append(list, o.flushed...)
	c.mu.Unlock()
}

// Buffered is how much is in the outbox. Any goroutine.
func (c *Conn) Buffered() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.waiting()
}

// Close flushes the outbox and closes at the end of a turn, never inside a callback; the first reason
// counts. Any goroutine.
func (c *Conn) Close(reason error) { c.Finish(nil, reason) }

// Finish is Close after last, which is copied and taken whatever waits: it is the last that the peer is
// sent. Where c closes already nothing is sent. Any goroutine.
func (c *Conn) Finish(last []byte, reason error) {
	c.mu.Lock()
	if c.closing {
		c.mu.Unlock()
		return
	}
	if len(last) > 0 {
		o := c.box()
		if o.b == nil {
			o.b = buf.Outbox.Get(len(last))
		}
		o.b = append(o.b, last...)
	}
	c.end(reason)
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
	c.loop.Owned()
	if c.flags&(flagPaused|flagGone) != 0 {
		c.impatient()
		return
	}
	c.flags |= flagPaused
	c.loop.meter.Paused++
	c.io.SetRead(false)
	if c.io.Buffered() > 0 {
		c.stick()
	}
}

// PauseToAnswer is Pause for a peer that is taken to wait for what it asked for: only when it sends all
// the same is it taken out of the read set, which is two system calls less if it does not. What it sends
// then is kept, one read; if it hangs up instead, nobody waits for the answer any more.
func (c *Conn) PauseToAnswer() {
	c.loop.Owned()
	if c.tls != nil && c.tls.std != nil { // it may have read more than it shows
		c.Pause()
		return
	}
	if c.flags&(flagPaused|flagGone) != 0 {
		return
	}
	c.flags |= flagPaused
	c.loop.meter.Paused++
	if c.io.Reading() {
		c.flags |= flagAsked
	} // else it goes on with what is parked
}

// impatient takes c out of the read set where it was left to wait for an answer.
func (c *Conn) impatient() {
	if c.flags&flagAsked != 0 && c.flags&flagGone == 0 {
		c.flags &^= flagAsked
		c.io.SetRead(false)
	}
}

// Resume hands on what is parked when it is c's turn, behind what sockets have and others that were
// resumed, and then has c read again: who takes a little at a time is not given more before it has taken
// what is there.
func (c *Conn) Resume() {
	c.loop.Owned()
	if c.flags&flagPaused == 0 {
		return
	}
	read := c.flags&flagAsked != 0
	c.flags &^= flagPaused | flagAsked
	c.loop.meter.Paused--
	switch {
	case read: // and nothing has come
	case c.flags&flagGone != 0:
	case c.flags&flagFlood == 0 && c.park == nil && c.tls == nil:
		c.io.SetRead(true)
	default:
		c.loop.lane.enter(c)
	}
}

// resumed goes on with what c has parked.
func (c *Conn) resumed() {
	if c.flags&(flagPaused|flagGone|flagClosing|flagDeaf) != 0 {
		return
	}
	if c.flags&flagWaits != 0 || c.rest() > 0 && c.queued(0) {
		c.flags |= flagShut
		return
	}
	start := c.loop.clock()
	c.deliver(nil)
	c.flooding(c.loop.clock().Sub(start))
	if c.flags&(flagPaused|flagGone|flagDeaf) == 0 {
		c.io.SetRead(true)
	}
}

// Flooded says that what OnData was given took c over its rate: the time is in the loop's Meter. In OnData.
func (c *Conn) Flooded() { c.loop.flooded = true }

// flooding notes whether a delivery that took d was Flooded.
func (c *Conn) flooding(d time.Duration) {
	if !c.loop.flooded {
		c.flags &^= flagFlood
		return
	}
	c.flags |= flagFlood
	c.loop.meter.Flooding += d
	c.loop.lane.rest(d)
}

// rest is how much has come that was not taken.
func (c *Conn) rest() (n int) {
	if c.park != nil {
		n = len(*c.park)
	}
	if c.tls != nil {
		n += c.tls.held()
	}
	return n
}

// Arm sets c's one deadline; an earlier one is replaced. Arm(0) disarms.
func (c *Conn) Arm(at Tick) {
	c.loop.Owned()
	if c.flags&(flagGone|flagDone|flagClosing) == 0 {
		c.loop.wheel.arm(&c.timer, at, c)
	}
}

// OnTimer is the wheel's.
func (c *Conn) OnTimer(l *Loop) {
	if c.flags&flagLinger != 0 {
		c.drop()
		return
	}
	if c.flags&flagDone == 0 && c.flags&flagOpen != 0 {
		defer l.recovered(c)
		c.port.h.OnTimer(c)
	}
}

// opened is called by the backend, on the loop.
func (c *Conn) opened(io backendConn) {
	l := c.loop
	l.begin()
	c.io = io
	l.enter(c)
	c.flags |= flagOpen
	l.protect(c, func() { c.port.h.OnOpen(c) })
	if c.port.direct != nil {
		if err := c.StartTLS(c.port.direct, c.port.role); err != nil {
			c.Close(err)
		}
	}
}

// traffic is called by the backend with what was read.
func (c *Conn) traffic(p []byte) {
	l := c.loop
	l.Owned()
	defer l.recovered(c)
	start := l.begin()
	l.meter.Reads++
	l.meter.BytesIn += uint64(len(p))
	if c.flags&(flagClosing|flagLinger|flagDeaf) != 0 {
		return
	}
	if c.flags&(flagPaused|flagWaits) != 0 {
		// The engine looks again whenever its own buffer fills or drains.
		c.flags &^= flagAsked
		c.io.SetRead(false)
		if c.flags&flagWaits != 0 {
			c.flags |= flagShut
			l.guests.more(c, len(p))
		}
	}
	if c.flags&(flagPaused|flagWaits) != 0 || c.queued(len(p)) {
		if c.tls == nil {
			c.keep(p)
			return
		} // what is sealed is kept by deliver, which opens nothing while paused
	}
	c.deliver(p)
	d := l.clock().Sub(start)
	l.meter.Handling += d
	c.flooding(d)
	l.measure(d)
}

// queued reports whether c is a guest that has to wait with the n bytes that it has sent.
func (c *Conn) queued(n int) bool {
	if c.port.admits == nil || c.tls != nil && !c.Secure() {
		return false // what a handshake reads does not wait; it waits itself
	}
	a := &c.loop.guests
	if _, guest := c.port.admits.Guest(c); !guest {
		a.others = c.loop.now
		return false
	}
	if a.enter(StepCost) {
		return false
	}
	if !a.wait(c, false, n) {
		c.loop.meter.Crowded++
		c.sendAway(ErrCrowded)
	}
	return true
}

// admitted goes on with a guest that has waited: with its handshake, or with what it has sent.
func (c *Conn) admitted(shake bool) {
	shut := c.flags&flagShut != 0
	c.flags &^= flagShut
	switch {
	case c.flags&(flagGone|flagClosing|flagDeaf) != 0:
		return
	case shake:
		c.tls.std.begin()
	case c.flags&flagPaused == 0:
		c.deliver(nil)
	}
	if shut && c.flags&(flagPaused|flagWaits|flagGone|flagDeaf) == 0 {
		c.io.SetRead(true)
	}
}

// alertInternal is a TLS record with the fatal alert internal_error (RFC 8446 §6.2), in plain as before
// any key.
var alertInternal = []byte{21, 3, 3, 0, 2, 2, 80}

// sendAway ends a guest that there is no room for.
func (c *Conn) sendAway(why error) {
	c.flags |= flagDeaf
	switch {
	case c.tls != nil && !c.Secure():
		c.io.Write(alertInternal)
	case c.port.admits != nil:
		c.loop.protect(c, func() { c.port.admits.OnRefused(c) })
	}
	c.Close(why)
}

func (c *Conn) keep(p []byte) {
	if len(p) == 0 {
		return
	}
	if c.park == nil {
		b := buf.Tail.Get(len(p))
		c.park = &b
	}
	if len(*c.park)+len(p) > maxPark {
		c.overflow()
		return
	}
	*c.park = append(*c.park, p...)
	c.loop.meter.ParkedBytes += len(p)
}

// overflow ends c because more came than may be kept while it is paused: the peer has sent ahead of a
// pause, or the engine can't pause.
func (c *Conn) overflow() {
	if c.flags&flagDeaf != 0 {
		return
	}
	c.flags |= flagDeaf
	if h, ok := c.port.h.(Overflower); ok && c.flags&(flagDone|flagGone) == 0 {
		c.loop.protect(c, func() { h.OnOverflow(c) })
	}
	c.Close(ErrParked)
}

// deliver hands on what is parked and p behind it.
func (c *Conn) deliver(p []byte) {
	c.loop.flooded = false
	if c.tls != nil {
		c.tls.deliver(c, p)
		return
	}
	c.feed(p)
}

// feed gives plaintext to the handler.
func (c *Conn) feed(p []byte) {
	var parked []byte
	if c.park != nil {
		c.keep(p)
		if c.flags&flagDeaf != 0 {
			return
		}
		parked = *c.park
		c.park = nil
		c.loop.meter.ParkedBytes -= len(parked)
		p = parked
	}
	if len(p) == 0 {
		return
	}
	used := c.give(p)
	if used < len(p) {
		c.impatient()
	}
	left := used < len(p) && c.flags&flagClosing == 0
	if left && c.flags&flagPaused == 0 && c.tls == nil {
		c.Close(errors.New("reactor: a handler left input without a pause"))
		left = false
	}
	switch {
	case left && c.park == nil && parked != nil && cap(parked) < 4*(len(p)-used)+4096:
		// A flood is taken in many parts: each in a buffer of its own would be three times the memory.
		rest := parked[:copy(parked, p[used:])]
		c.park = &rest
		c.loop.meter.ParkedBytes += len(rest)
		return
	case left:
		c.keep(p[used:])
	}
	if parked != nil {
		buf.Tail.Put(parked)
	}
}

func (c *Conn) give(p []byte) (used int) {
	used = len(p)
	defer c.loop.recovered(c)
	used = c.port.h.OnData(c, p)
	return used
}

// closed is called by the backend when the connection is gone, perhaps inside one of our writes.
func (c *Conn) closed(err error) {
	if c.flags&flagGone != 0 {
		return
	}
	c.flags |= flagGone
	if c.tls != nil {
		c.tls.end()
		if c.tls.flags&(tlsClient|tlsSecure) == tlsClient &&
			c.flags&(flagDone|flagQueued|flagClosing|flagLinger) == 0 {
			// The peer may hang up because of our alert: the handshake's own error says more, and shaken
			// brings it now that the handshake has no more input.
			return
		}
		if err == nil && c.tls.flags&tlsSaid == 0 {
			err = errHalfDone // FIN without close_notify: what was cut is not taken for complete
		}
	}
	c.lost(err)
}

// lost queues the end of a connection that is gone.
func (c *Conn) lost(err error) {
	c.mu.Lock()
	if !c.closing {
		c.end(err)
	}
	c.mu.Unlock()
	c.queueClose()
	c.loop.Post(func() {})
}

func (c *Conn) queueClose() {
	if c.flags&flagQueued == 0 {
		c.flags |= flagQueued
		c.loop.closes = append(c.loop.closes, c)
	}
}

// flush writes the outbox.
func (c *Conn) flush() {
	c.mu.Lock()
	c.dirty = false
	closing := c.closing
	if c.flags&flagGone != 0 {
		c.drain()
		c.mu.Unlock()
		// else shaken says why, see closed
		if closing || c.tls == nil || c.tls.flags&(tlsClient|tlsSecure) != tlsClient {
			c.queueClose()
		}
		return
	}
	if c.io == nil { // closed before it was opened: the engine has yet to say so
		c.mu.Unlock()
		return
	}
	if c.tls != nil && !c.Secure() && !closing {
		c.mu.Unlock() // plaintext waits for the handshake
		c.tls.writeOut(c)
		return
	}
	if c.io.Buffered() > 0 && c.flags&flagLinger == 0 && c.flags&flagPaused != 0 && c.loop.ticking {
		c.mu.Unlock() // once a tick is often enough for who reads slowly
		c.io.Flush()
		c.mu.Lock()
		if c.flags&flagGone != 0 {
			c.drain()
			c.mu.Unlock()
			c.queueClose()
			return
		}
	}
	if c.io.Buffered() > 0 && (c.waiting() > 0 || closing || c.flags&flagPaused != 0) &&
		c.flags&flagLinger == 0 {
		c.mu.Unlock()
		c.stick()
		if now := c.loop.Tick(); c.full == 0 {
			c.full = now
		} else if now >= c.full+slowTicks && !closing {
			c.loop.meter.Unread++
			c.Close(ErrSlow)
			closing = true
		}
		if closing && c.flags&flagClosing == 0 {
			c.lingerFor()
		}
		return
	}
	c.full = 0
	flushed := c.takeFlushed()
	out := c.unbox()
	c.mu.Unlock()
	if out != nil && c.tls != nil && !c.Secure() { // it closes in the middle of a handshake
		buf.Outbox.Put(out)
		out = nil
	}
	n := 0
	for n < len(out) && c.flags&flagGone == 0 && c.io.Buffered() == 0 {
		k := min(len(out)-n, writeChunk)
		c.write(out[n : n+k])
		n += k
	}
	left := n < len(out) && c.flags&flagGone == 0
	if left {
		c.putBack(out[n:])
	}
	if out != nil {
		buf.Outbox.Put(out)
	}
	if c.flags&flagGone != 0 {
		c.flushLater(flushed)
		c.queueClose()
		return
	}
	if c.tls != nil {
		c.tls.writeOut(c)
	}
	if left {
		c.flushLater(flushed)
		c.stick()
		if closing {
			c.lingerFor()
		}
		return
	}
	if len(flushed) > 0 && (closing || c.io.Buffered() > 0) {
		c.flushLater(flushed)
		flushed = nil
		if !closing { // then finish answers; else the engine writes, and does not say when it has
			c.lookAgain()
		}
	}
	if c.flags&flagPaused != 0 && !closing && c.io.Buffered() > 0 {
		c.stick() // the engine doesn't write for it
		return
	}
	if c.flags&flagHigh != 0 && !closing && c.Buffered() == 0 {
		c.flags &^= flagHigh
		c.loop.protect(c, func() { c.port.h.OnDrain(c) })
	}
	if c.flags&flagStuck == 0 {
		c.flags &^= flagTried
	}
	c.tell(flushed, true)
	if closing {
		c.flags |= flagClosing
		c.queueClose()
	}
}

// putBack puts what was not written in front of what has been appended meanwhile.
func (c *Conn) putBack(p []byte) {
	c.mu.Lock()
	b := append(buf.Outbox.Get(len(p)+c.waiting()), p...)
	if later := c.unbox(); later != nil {
		b = append(b, later...)
		buf.Outbox.Put(later)
	}
	c.box().b = b
	c.mu.Unlock()
}

// drain gives the outbox back. Under mu.
func (c *Conn) drain() {
	if b := c.unbox(); b != nil {
		buf.Outbox.Put(b)
	}
}

// lingerFor bounds how long a closing connection may take to be read.
func (c *Conn) lingerFor() {
	if c.flags&flagClosing == 0 {
		c.flags |= flagClosing
		c.loop.wheel.arm(&c.timer, c.loop.Tick()+lingerTicks, closer{c})
	}
}

// closer ends a closing connection whose peer doesn't read.
type closer struct{ c *Conn }

func (t closer) OnTimer(*Loop) {
	t.c.mu.Lock()
	t.c.drain()
	t.c.mu.Unlock()
	t.c.queueClose()
	t.c.loop.Post(func() {})
}

// stick has the outbox tried again later, and OnDrain called when it is empty.
func (c *Conn) stick() {
	c.flags |= flagHigh
	c.lookAgain()
}

// lookAgain has c flushed again later: soon where it is new among those that wait for the socket, else
// when the loop's patience has run out.
func (c *Conn) lookAgain() {
	if c.flags&flagTried == 0 {
		c.flags |= flagTried
		c.loop.patience, c.loop.waking = 0, false
	}
	if c.flags&flagStuck == 0 {
		c.flags |= flagStuck
		c.loop.stuck = append(c.loop.stuck, c)
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
	c.io.Write(p)
}

// finish ends c, at the end of a turn: OnClose, and what the socket still has to do.
func (c *Conn) finish() {
	c.flags &^= flagQueued
	if c.flags&flagDone == 0 {
		c.flags |= flagDone | flagClosing
		c.loop.guests.leave(c)
		c.loop.wheel.arm(&c.timer, 0, nil)
		if c.flags&flagPaused != 0 {
			c.flags &^= flagPaused
			c.loop.meter.Paused--
		}
		c.mu.Lock()
		c.closing = true
		c.drain()
		var reason error
		if c.out != nil {
			reason, c.out.reason = c.out.reason, nil
		}
		flushed := c.takeFlushed()
		c.unbox()
		c.mu.Unlock()
		c.tell(flushed, false)
		if c.park != nil {
			c.loop.meter.ParkedBytes -= len(*c.park)
			buf.Tail.Put(*c.park)
			c.park = nil
		}
		c.loop.protect(nil, func() { c.port.h.OnClose(c, reason) })
		if c.flags&flagGone == 0 {
			if c.tls != nil {
				c.tls.bye(c)
			}
			if c.flags&flagGone == 0 {
				// FIN first, and read on until the peer's: closing with unread input would reset
				// the connection and lose what was written last.
				c.io.CloseWrite()
				c.io.SetRead(true)
				c.flags |= flagLinger
				c.loop.wheel.arm(&c.timer, c.loop.Tick()+lingerTicks, c)
			}
		}
	}
	if c.flags&flagGone != 0 {
		c.forget()
	}
}

// drop closes a lingering connection for good.
func (c *Conn) drop() {
	if c.flags&flagGone == 0 {
		c.flags |= flagGone
		c.io.Close()
	}
	c.forget()
}

func (c *Conn) forget() {
	if c.loop.exit(c) {
		c.loop.conns.Add(-1)
		c.loop.r.left()
	}
	c.loop.wheel.arm(&c.timer, 0, nil)
	if c.tls != nil {
		c.tls.forget(c.loop)
	}
	c.io, c.tls = nil, nil
}
