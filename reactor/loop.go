package reactor

import (
	"context"
	"fmt"
	"math/bits"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"
)

// A Loop is one event loop: one goroutine, the connections that it owns, and its timers. It works in
// turns (see turn). What a connection or a timer does runs on its loop, one callback at a time, so none of
// that needs a lock. Other goroutines reach the loop through Post and through the methods of Conn that say
// "any goroutine".
type Loop struct {
	r         *Reactor
	index     int
	engine    any          // the engine's own loop: a gnet.EventLoop
	epollFD   int          // its epoll descriptor, for pauses; 0: this engine can't pause
	connCount atomic.Int32 // connections of this loop; Reactor.assign takes the loop with the fewest

	// mu guards the fields up to stopped. It is the last lock in the lock order: it is taken under the
	// locks of entities and outboxes, and no other lock is taken under it.
	mu          sync.Mutex
	posted      []func() // functions for the next turn
	dirty       []*Conn  // connections to flush
	turnPending bool     // a turn was asked for, or runs: no other wakeup is needed
	stopped     bool     // the engine takes no wakeups any more

	// The fields below are used on the loop only, without a lock.

	// postedBatch and dirtyBatch are worked off by the present turn; the spares are their arrays of the
	// turn before, which posted and dirty use again.
	postedBatch, sparePosted []func()
	dirtyBatch, spareDirty   []*Conn
	turnEndFuncs             []func()      // see AtTurnEnd
	closes                   []*Conn       // connections for finishClose at the end of the turn
	writeBlocked             []*Conn       // connections with bytes that the socket does not take
	writeBackoff             time.Duration // until writeBlocked is retried; 0: no timer was started yet
	retryArmed               bool          // the timer of the write backoff runs
	overRate                 bool          // set by Conn.MarkOverRate during a delivery
	retryGeneration          uint32        // counts backoff timers: only the latest one takes effect
	// tickRetry is set while a retry may flush paused connections: once a tick, or after a backoff.
	tickRetry         bool
	openConns         []*Conn // open connections; Timer.connIndex is the position of each, plus 1
	wheel             wheel
	now               time.Time     // see Now
	sincePoll         time.Duration // time spent in turns since the last poll
	pollWakeupPending bool          // WakeupAfterPoll was called, and its turn has not begun
	pollCompleted     bool          // the turn that begins follows a poll
	readBatchStart    time.Time     // when the reads began that no turn has followed yet; zero: none
	admission         admission
	deferred          deferredQueue
	meter             Meter
	published         atomic.Pointer[Meter] // copy of meter, for other goroutines
	goroutine         loopGoroutine         // see AssertOwned
	sealBuf           []byte                // scratch for records that are sealed
	openBuf           []byte                // scratch for records that are opened: see tlsConn.deliver
}

// A Meter holds the counters of one loop since its start, except where a field is a present value. The
// loop publishes a copy once a tick.
type Meter struct {
	// Turns counts turns and callbacks by length: below 1 µs, 2 µs, 4 µs, and so on.
	Turns [24]uint64
	// Handling is the time spent in handlers, with the opening of TLS records.
	Handling time.Duration
	// Posted is the time spent in posted functions and in deferred input, Flushing that in writes and
	// closes.
	Posted, Flushing time.Duration
	// OverRate is the part of Handling and Posted that input of connections took that were over their
	// rate by it: see Conn.MarkOverRate.
	OverRate time.Duration
	// Longest is the longest turn or callback.
	Longest time.Duration
	// Connected is the number of open connections, Paused that of paused ones, now.
	Connected, Paused int
	// ParkedBytes is the input that was received and not consumed by handlers, now.
	ParkedBytes int
	// OutboxBytes is what waits for sockets that take no more bytes, now.
	OutboxBytes int
	// ScratchBytes is the capacity of the loop's own buffers and lists, now.
	ScratchBytes int
	// TLS is the number of connections with TLS. StdTLS is the number of those that crypto/tls holds: in
	// a handshake, or for good. Now.
	TLS, StdTLS int
	// StdTLSGrowth is by how many bytes buffers of crypto/tls have grown since their handshakes, now. Such
	// a buffer never shrinks.
	StdTLSGrowth int
	// WarmTLS is the number of TLS 1.3 record layers with their AEADs in memory, now.
	WarmTLS int
	// Panics counts panics that were caught on the loop.
	Panics uint64
	// Reads counts reads from sockets, Writes the writes of our own; the engine's retries are not counted.
	Reads, Writes uint64
	// BytesIn counts bytes that were read, BytesOut bytes that were given to the engine.
	BytesIn, BytesOut uint64
	// SlowConsumers counts connections that ended with ErrSlowConsumer.
	SlowConsumers uint64
	// AdmissionQueued is the length of the admission queue, now.
	AdmissionQueued int
	// AdmissionWaits counts waits in the admission queue by length, as Turns does.
	AdmissionWaits [24]uint64
	// AdmissionRefused counts refusals by a full admission queue, HandshakesRefused those by the limits of
	// handshakes in flight.
	AdmissionRefused, HandshakesRefused uint64
	// HandshakeTimeouts counts handshakes that ended with ErrHandshakeTimeout, in the queue or after it.
	HandshakeTimeouts uint64
	// LongTurns counts turns and callbacks that took over LongTurn.
	LongTurns uint64
}

// LongTurn is the length from which Meter.LongTurns counts turns. No turn should take so long:
// every connection of the loop waits for it.
const LongTurn = 20 * time.Millisecond

// Index returns l's position in [Reactor.Loops], by which other packages keep a value for each
// loop. It never changes. Any goroutine.
func (l *Loop) Index() int { return l.index }

// Post runs f on the loop in its next turn. A function that is posted by a posted function runs in
// the turn after. ok is false once the reactor has stopped: f will not run. A caller on a hot path
// should keep f rather than make a closure for each call. Any goroutine.
func (l *Loop) Post(f func()) (ok bool) {
	l.mu.Lock()
	if l.stopped {
		l.mu.Unlock()
		return false
	}
	l.posted = append(l.posted, f)
	wake := !l.turnPending
	l.turnPending = true
	l.mu.Unlock()
	if wake {
		l.wake()
	}
	return true
}

// wake asks the engine for a turn. The caller has set turnPending.
func (l *Loop) wake() {
	if err := l.r.backend.Wakeup(l); err != nil {
		l.mu.Lock()
		l.stopped = true
		l.mu.Unlock()
	}
}

// markDirty queues c for a flush at the end of the turn, and asks for a turn if none is pending.
// The caller has set c.dirty. Any goroutine.
func (l *Loop) markDirty(c *Conn) {
	l.mu.Lock()
	l.dirty = append(l.dirty, c)
	wake := !l.turnPending && !l.stopped
	l.turnPending = true
	l.mu.Unlock()
	if wake {
		l.wake()
	}
}

// AtTurnEnd runs f once, in this turn after its posted functions, or in the next turn. It is for
// work that is cheaper when it is done once for many callbacks.
func (l *Loop) AtTurnEnd(f func()) {
	l.AssertOwned()
	l.turnEndFuncs = append(l.turnEndFuncs, f)
	l.Post(func() {})
}

// Now returns the time at which the present turn or read began. All callbacks of a turn see the
// same time.
func (l *Loop) Now() time.Time { return l.now }

// Tick returns the tick that the loop's timer wheel has reached.
func (l *Loop) Tick() Tick { return l.wheel.now }

// Arm makes t call to.OnTimer on this loop when tick at has come, instead of what t was armed for
// before. At 0 disarms it. t must always be armed on the same loop, as it is an element of that
// loop's wheel.
func (l *Loop) Arm(t *Timer, at Tick, to TimerHandler) {
	l.AssertOwned()
	l.wheel.arm(t, at, to)
}

// Meter returns the last published copy of the loop's counters, up to a tick old. Any goroutine.
func (l *Loop) Meter() Meter {
	if m := l.published.Load(); m != nil {
		return *m
	}
	return Meter{}
}

// Run runs a turn. It implements gnet.Runnable, so that a wakeup allocates no closure; only the
// engine calls it.
func (l *Loop) Run(context.Context) error {
	l.turn()
	return nil
}

// turn is one pass of the loop over its queues. The engine runs it after a wakeup (Wakeup,
// WakeupAfterPoll) and among many reads (afterRead). The steps:
//
//  1. If turns took more than turnBudget since the last poll, the turn is put off until after a
//     poll: gnet works off its task queue completely before it polls, so turns that cause turns
//     would keep sockets waiting.
//  2. After a poll, unauthenticated connections that wait for admission are served.
//  3. The functions posted so far run, for turnBudget at most; the others go back to the front of
//     the list. Functions that they post run in the next turn.
//  4. The functions of AtTurnEnd run.
//  5. A slice of the deferred-input queue is served.
//  6. Outboxes are flushed, for turnBudget at most. Connections that became dirty in steps 2 to 5
//     are included: that needs no further wakeup, which would be three system calls.
//  7. Connections are closed, for turnBudget at most.
//  8. If anything was posted meanwhile or is left, another turn is asked for.
//
// Times are wall-clock times: on an overcommitted machine the system may take the processor away in
// between.
func (l *Loop) turn() {
	l.AssertOwned()
	if l.sincePoll > turnBudget && l.wakeupAfterPoll() {
		return // step 1
	}
	start := l.updateTime()
	l.readBatchStart = time.Time{}
	afterPoll := l.pollCompleted
	if l.pollCompleted {
		l.pollCompleted = false
		l.admission.runQueued()
	} else if !l.admission.hasRunnable() {
		l.admission.turnSpent = 0
	}
	l.mu.Lock()
	l.turnPending = true // what is posted from here on needs no wakeup: step 8 sees it
	l.postedBatch, l.posted = l.posted, l.sparePosted[:0]
	l.mu.Unlock()
	for i, f := range l.postedBatch {
		l.postedBatch[i] = nil
		l.protect(nil, f)
		if i&3 == 3 && l.readClock().Sub(start) > turnBudget {
			l.requeuePosted(l.postedBatch[i+1:])
			clear(l.postedBatch[i+1:])
			break
		}
	}
	l.sparePosted = l.postedBatch
	if cap(l.sparePosted) > 4096 {
		l.sparePosted = nil
	}
	if len(l.turnEndFuncs) > 0 {
		list := l.turnEndFuncs
		l.turnEndFuncs = nil
		for _, f := range list {
			l.protect(nil, f)
		}
	}
	l.deferred.run(afterPoll)
	posted := l.readClock()
	l.meter.Posted += posted.Sub(start)
	l.flush()
	l.runCloses()
	end := l.readClock()
	l.meter.Flushing += end.Sub(posted)
	l.sincePoll += end.Sub(start)
	l.recordTurn(end.Sub(start))
	l.mu.Lock()
	l.turnPending = len(l.posted) > 0 || len(l.dirty) > 0 || len(l.closes) > 0
	more := l.turnPending && !l.stopped
	l.mu.Unlock()
	if more {
		l.wake()
	}
}

// wakeupAfterPoll asks the engine for a turn after its next poll. It reports whether the engine
// still runs. A Wakeup would not do: gnet runs all its tasks, also those that tasks add, before it
// polls.
func (l *Loop) wakeupAfterPoll() bool {
	l.AssertOwned()
	l.sincePoll = 0
	return l.r.backend.WakeupAfterPoll(l) == nil
}

// afterRead is called by the engine after each read. When reads of one poll have taken readBudget,
// it runs a turn, so that answers to the first reads do not wait for the last one.
func (l *Loop) afterRead() {
	l.sincePoll = 0
	switch {
	case l.readBatchStart.IsZero():
		l.readBatchStart = l.now
	case l.readClock().Sub(l.readBatchStart) > readBudget:
		l.turn()
	}
}

// readBudget is for how long sockets are read before a turn flushes the answers.
const readBudget = 2 * time.Millisecond

// turnBudget bounds each of these by itself: the posted functions of a turn, its flushes, its
// closes, the admissions of a turn, and the turns between two polls. At 2 ms instead of 4, 6
// instead of 8 turns of a TLS login storm took over 20 ms.
const turnBudget = 4 * time.Millisecond

// requeuePosted puts functions that did not run back before those posted since.
func (l *Loop) requeuePosted(rest []func()) {
	l.mu.Lock()
	l.posted = slices.Insert(l.posted, 0, rest...)
	l.mu.Unlock()
}

// flush writes the outboxes of dirty connections, for turnBudget at most; the others go back to the
// front of the list. It then retries write-blocked connections, unless a backoff timer will do so.
// The clock is read with every fourth connection, as a read costs a fraction of a write.
func (l *Loop) flush() {
	l.mu.Lock()
	l.dirtyBatch, l.dirty = l.dirty, l.spareDirty[:0]
	l.mu.Unlock()
	var deadline time.Time
	for i, c := range l.dirtyBatch {
		l.dirtyBatch[i] = nil
		l.flushOne(c)
		if i&3 == 3 {
			if now := l.readClock(); deadline.IsZero() {
				deadline = now.Add(turnBudget)
			} else if now.After(deadline) && i+1 < len(l.dirtyBatch) {
				l.mu.Lock()
				l.dirty = slices.Insert(l.dirty, 0, l.dirtyBatch[i+1:]...)
				l.mu.Unlock()
				clear(l.dirtyBatch[i+1:])
				break
			}
		}
	}
	if l.spareDirty = l.dirtyBatch; cap(l.spareDirty) > 16384 {
		l.spareDirty = nil
	}
	if len(l.writeBlocked) > 0 && !l.retryArmed {
		l.retryWrites()
	}
}

// retryWrites flushes the write-blocked connections. gnet does not report when a socket takes bytes
// again, so the loop tries: after minWriteBackoff at first, then after twice the time whenever no
// socket took a byte, up to a tick. (Only waiting for the tick would let a burst to a client that
// reads at line rate overflow its outbox.) With many connections the backoff is longer, so that
// tries take a small part of the loop's time. Without engine timers, in a Memory, ticks retry.
func (l *Loop) retryWrites() {
	before := l.meter.Writes
	list := l.writeBlocked
	l.writeBlocked = nil
	for _, c := range list {
		c.flags &^= flagWriteBlocked
		l.flushOne(c)
	}
	l.tickRetry = false
	if l.meter.Writes != before {
		l.writeBackoff = 0
	}
	if len(l.writeBlocked) == 0 || l.retryArmed {
		return
	}
	l.writeBackoff = min(max(2*l.writeBackoff, minWriteBackoff,
		time.Duration(len(l.writeBlocked))*retryCostPerConn), TickLength)
	l.retryGeneration++
	n := l.retryGeneration
	l.retryArmed = l.r.backend.AfterFunc(l.writeBackoff, func() {
		l.Post(func() {
			if n == l.retryGeneration { // no newer backoff was started by a newly blocked connection
				l.retryArmed, l.tickRetry = false, true
			}
		})
	})
}

// minWriteBackoff is the first write backoff. retryCostPerConn is the least backoff for each
// write-blocked connection, some two hundred times what a try costs.
const (
	minWriteBackoff  = 2 * time.Millisecond
	retryCostPerConn = 20 * time.Microsecond
)

// flushOne flushes c. A panic in it, as in sealing a record, ends only c.
func (l *Loop) flushOne(c *Conn) {
	defer l.recoverPanic(c)
	c.flush()
}

// runCloses calls finishClose for connections that close, for turnBudget at most: thousands may be
// lost at the same time. The others wait for the next turn.
func (l *Loop) runCloses() {
	start := l.readClock()
	for n := 0; n < len(l.closes); n++ {
		if n&3 == 3 && l.readClock().Sub(start) > turnBudget {
			l.closes = l.closes[:copy(l.closes, l.closes[n:])]
			return
		}
		c := l.closes[n]
		l.closes[n] = nil
		c.finishClose()
	}
	if l.closes = l.closes[:0]; cap(l.closes) > 4096 {
		l.closes = nil
	}
}

// readClock reads the clock of the configuration; a Memory has one that a test moves.
func (l *Loop) readClock() time.Time { return l.r.cfg.Clock() }

// updateTime sets Now to the present time and returns it.
func (l *Loop) updateTime() time.Time {
	l.now = l.readClock()
	return l.now
}

// recordTurn counts a turn or a callback of length d in the meter.
func (l *Loop) recordTurn(d time.Duration) {
	b := bits.Len64(uint64(d / time.Microsecond))
	l.meter.Turns[min(b, len(l.meter.Turns)-1)]++
	l.meter.Longest = max(l.meter.Longest, d)
	if d > LongTurn {
		l.meter.LongTurns++
	}
}

// tick is posted every TickLength. It fires timers that are due, retries write-blocked connections,
// and publishes the meter. While connections wait for admission it also asks for a turn after the
// poll, as a Memory has no other timer for that.
func (l *Loop) tick() {
	start := l.updateTime()
	l.wheel.advance(l, l.r.tickAt(l.now))
	if len(l.writeBlocked) > 0 {
		l.tickRetry = true
		l.retryWrites()
		l.runCloses()
	}
	l.meter.Connected = int(l.connCount.Load())
	l.meter.OutboxBytes = 0
	for _, c := range l.writeBlocked {
		if c.sock != nil { // it may have been released by runCloses above
			l.meter.OutboxBytes += c.Buffered() + c.sock.Buffered()
		}
	}
	l.meter.ScratchBytes = cap(l.sealBuf) + cap(l.openBuf) + int(unsafe.Sizeof(func() {}))*(cap(l.sparePosted)+
		cap(l.spareDirty)+cap(l.writeBlocked)+cap(l.openConns)+cap(l.deferred.conns))
	if l.meter.AdmissionQueued = l.admission.queueLen(); l.meter.AdmissionQueued > 0 {
		l.wakeupAfterPoll()
	}
	m := l.meter
	l.published.Store(&m)
	l.recordTurn(l.readClock().Sub(start))
}

// protect runs f. A panic in it is counted, logged, and closes c; c may be nil.
func (l *Loop) protect(c *Conn, f func()) {
	defer l.recoverPanic(c)
	f()
}

// recoverPanic must be deferred. It recovers a panic, counts and logs it, and closes c with
// ErrPanic, if there is a c.
func (l *Loop) recoverPanic(c *Conn) {
	r := recover()
	if r == nil {
		return
	}
	l.meter.Panics++
	l.r.log.Error("panic on a loop", "loop", l.index, "panic", fmt.Sprint(r), "stack", string(debug.Stack()))
	if c != nil {
		c.flags |= flagDiscardInput
		c.Close(ErrPanic)
	}
}

// addConn adds c to the open connections. A list with positions takes 8 bytes a connection, a map
// of pointers took 39.
func (l *Loop) addConn(c *Conn) {
	l.openConns = append(l.openConns, c)
	c.timer.connIndex = uint32(len(l.openConns))
}

// removeConn removes c from the open connections, and reports whether it was there. The last
// connection of the list moves to c's position. The array shrinks when less than a quarter of it is
// used.
func (l *Loop) removeConn(c *Conn) bool {
	i := c.timer.connIndex
	if i == 0 {
		return false
	}
	last := len(l.openConns) - 1
	l.openConns[i-1] = l.openConns[last]
	l.openConns[i-1].timer.connIndex = i
	l.openConns[last] = nil
	l.openConns = l.openConns[:last]
	c.timer.connIndex = 0
	if n := cap(l.openConns); n > 1024 && last < n/4 {
		l.openConns = append(make([]*Conn, 0, n/2), l.openConns...)
	}
	return true
}
