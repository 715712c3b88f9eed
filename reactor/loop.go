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

// This file is the event loop: its turns, its retries of writes, and its meter. The terms:
//
//   - The engine is the backend: gnet, or a Memory (memory.go), which runs loops in tests and has no timers.
//   - A poll is the engine's epoll_wait; a wakeup makes the engine call turn.
//   - A pause stops the reading of one connection: Conn.Pause.
//   - A delivery is one call chain from the engine, or from a queue, to Handler.OnData.
//   - A connection is write-blocked while its output waits for a retry (retryWrites).
//   - A connection is over its rate after Conn.MarkOverRate. Admission bounds the work of unauthenticated
//     connections: admission.go.

// A Loop is one event loop: one goroutine, the connections that it owns, and its timers. It works in
// turns (see turn). What a connection or a timer does runs on its loop, one callback at a time, so none of
// that needs a lock. Other goroutines reach the loop through Post and through the methods of Conn that say
// "any goroutine".
type Loop struct {
	r         *Reactor
	index     int
	engine    any          // the engine's own loop: a gnet.EventLoop
	epollFD   int          // its epoll descriptor, for SetRead; 0: reading can't be paused
	connCount atomic.Int32 // connections of this loop; Reactor.assign takes the loop with the fewest

	// mu guards the fields up to stopped. It is the last lock in the lock order: callers of Post and
	// Conn.Append may hold any other lock, such as an entity's, and no lock is taken under mu.
	mu          sync.Mutex
	posted      []func() // functions for the next turn
	dirty       []*Conn  // connections to flush
	turnPending bool     // a turn was asked for, or runs: no other wakeup is needed
	stopped     bool     // a wakeup has failed: the engine has stopped. See Post

	// The fields below are used only on the loop's goroutine, without a lock.

	// postedBatch and dirtyBatch are drained by the current turn. The spares are the arrays of earlier
	// batches, which posted and dirty use again.
	postedBatch, sparePosted []func()
	dirtyBatch, spareDirty   []*Conn
	turnEndFuncs             []func()      // see AtTurnEnd
	closes                   []*Conn       // connections for finishClose at the end of the turn
	writeBlocked             []*Conn       // connections with bytes that the socket does not take
	writeBackoff             time.Duration // the delay of the last timer; 0: the next one is the shortest
	retryArmed               bool          // the timer of the write backoff runs
	overRate                 bool          // set by Conn.MarkOverRate during a delivery
	// counts backoff timers: scheduleWriteRetry may make a running one void
	retryGeneration uint32
	// flushPaused lets Conn.flush write the engine's buffer of a paused connection, which the engine does
	// not do by itself. It is set by a tick and by a backoff timer, for one retryWrites.
	flushPaused       bool
	openConns         []*Conn // connections from onOpen to release; see addConn
	wheel             wheel
	now               time.Time     // see Now
	sincePoll         time.Duration // time spent in turns since the last poll
	pollWakeupPending bool          // used by engine: WakeupAfterPoll was called, and its turn has not begun
	pollCompleted     bool          // set by the engine before a turn: there was a poll since WakeupAfterPoll
	readBatchStart    time.Time     // start of the first read since the last turn; zero: none
	admission         admission
	deferred          deferredQueue
	meter             Meter
	published         atomic.Pointer[Meter] // copy of meter, for other goroutines
	goroutine         loopGoroutine         // see AssertOwned
	sealBuf           []byte                // scratch for records that are sealed
	openBuf           []byte                // scratch for records that are opened: see tlsConn.deliver
}

// A Meter holds the counters of one loop since its start. A field that says "currently" is a gauge: the
// value at the last tick or change. The loop publishes a copy once a tick.
type Meter struct {
	// Turns counts turns and callbacks by length: below 1 µs, 2 µs, 4 µs, and so on.
	Turns [24]uint64
	// Handling is the time of the deliveries of reads, with the opening of TLS records, and of admitted work.
	Handling time.Duration
	// Posted is the time of a turn before its flushes: admission, posted functions (ticks are among them),
	// functions of AtTurnEnd and deferred input. Admitted work that a turn runs is in Handling as well.
	// Flushing is the time of a turn's flushes and closes.
	Posted, Flushing time.Duration
	// OverRate is the time of the deliveries in which the handler called Conn.MarkOverRate. Those of reads
	// are in Handling as well, those of deferred input in Posted.
	OverRate time.Duration
	// Longest is the longest turn or callback.
	Longest time.Duration
	// Connected is the number of connections that currently belong to the loop, those on their way to it
	// included (Loop.connCount). Paused is the number of those that are currently paused.
	Connected, Paused int
	// ParkedBytes is the input, plaintext and ciphertext, that currently waits unconsumed.
	ParkedBytes int
	// OutboxBytes is the output of write-blocked connections, currently, in outboxes and in the engine.
	OutboxBytes int
	// ScratchBytes is the capacity of the loop's own buffers and lists, currently.
	ScratchBytes int
	// TLS is the number of connections with TLS, currently. StdTLS is the number of those on crypto/tls:
	// during a handshake, or for the life of the connection (see tls13Layer).
	TLS, StdTLS int
	// StdTLSGrowth is by how many bytes buffers of crypto/tls have grown since their handshakes, currently.
	// Such a buffer never shrinks.
	StdTLSGrowth int
	// WarmTLS is the number of TLS 1.3 record layers that currently have their AEADs in memory; those of
	// idle connections are dropped (coolTicks).
	WarmTLS int
	// Panics counts panics that were caught on the loop.
	Panics uint64
	// Reads counts reads from sockets. Writes counts calls of backendConn.Write; what the engine writes
	// later from its buffer is not counted.
	Reads, Writes uint64
	// BytesIn counts bytes that were read, BytesOut bytes that were given to the engine.
	BytesIn, BytesOut uint64
	// SlowConsumers counts connections that ended with ErrSlowConsumer.
	SlowConsumers uint64
	// AdmissionQueued is the length of the admission queues, currently.
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

// LongTurn is the length above which Meter.LongTurns counts turns. No turn should take so long:
// every connection of the loop waits for it.
const LongTurn = 20 * time.Millisecond

// Index returns l's position in [Reactor.Loops]. Other packages keep their values for each loop by it. It
// never changes. Any goroutine.
func (l *Loop) Index() int { return l.index }

// Post runs f on the loop in a turn that has not begun, in the order of the calls: usually the next one,
// or a later one if turnBudget is used up. ok is false if the reactor is known to have stopped: f will
// not run. true is no promise: functions that are pending when the reactor stops are dropped. The list
// has no bound. A caller on a hot path should keep f rather than make a closure for each call. Any
// goroutine.
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

// wake asks the engine for a turn. The caller has set turnPending. If the engine refuses, it has stopped:
// after Reactor.Run has ended, or by itself.
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

// AtTurnEnd runs f once: in this turn, after its posted functions, if it is called by one of them or by an
// admitted connection; otherwise in the next turn. The empty function makes a turn come. It serves to
// batch work across callbacks, such as the deliveries of one poll.
func (l *Loop) AtTurnEnd(f func()) {
	l.AssertOwned()
	l.turnEndFuncs = append(l.turnEndFuncs, f)
	l.Post(func() {})
}

// Now returns the time at which the current turn, read or tick began. It is not updated between the
// callbacks of a turn. On the loop.
func (l *Loop) Now() time.Time { return l.now }

// Tick returns the tick that the loop's timer wheel has reached. On the loop.
func (l *Loop) Tick() Tick { return l.wheel.now }

// Arm makes t call to.OnTimer on this loop once the tick given by the parameter at has come. It replaces
// an earlier arming; 0 disarms t. t must always be armed on the same loop, as it is an element of that
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
//     poll: gnet drains its task queue before it polls, so turns that cause turns would keep sockets
//     waiting.
//  2. After a poll, unauthenticated connections that wait for admission are served. Without a poll,
//     admission's quota is renewed if nothing is queued that could use it.
//  3. The functions posted so far run, for turnBudget at most; the others go back to the front of
//     the list. Functions that they post run in the next turn.
//  4. The functions of AtTurnEnd run.
//  5. A slice of the deferred-input queue is served, if there was a poll (deferredQueue.run).
//  6. Outboxes are flushed, for turnBudget at most. Connections that became dirty in steps 2 to 5
//     are included: that needs no further wakeup, which would be three system calls.
//  7. Connections are closed, for turnBudget at most.
//  8. If anything was posted meanwhile, or posted functions, flushes or closes are left, another turn is
//     asked for. Admission and the deferred-input queue ask for theirs themselves.
//
// Budgets are checked at every fourth item, so one long function overruns its budget. Times are elapsed
// times, not processor times. Handlers, posted functions, flushes and admitted work are recovered after a
// panic; the steps themselves are not.
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
// still runs. Wakeup is not enough: gnet runs all its tasks, including those that tasks add, before it
// polls. sincePoll becomes 0 with the request, so that step 1 asks once, and not in each turn until the poll.
func (l *Loop) wakeupAfterPoll() bool {
	l.AssertOwned()
	l.sincePoll = 0
	return l.r.backend.WakeupAfterPoll(l) == nil
}

// afterRead is called by the engine after each read. When readBudget has passed since the first read
// that no turn has followed, it runs a turn, so that answers to the first reads of a poll do not wait for
// the last one. (A read that made no output is followed by no turn; the next read may then run one that
// has nothing to do.)
func (l *Loop) afterRead() {
	l.sincePoll = 0
	switch {
	case l.readBatchStart.IsZero():
		l.readBatchStart = l.now
	case l.readClock().Sub(l.readBatchStart) > readBudget:
		l.turn()
	}
}

// readBudget bounds how long sockets are read before a turn flushes the answers.
const readBudget = 2 * time.Millisecond

// turnBudget bounds each of these: the admissions and posted functions of a turn together, its flushes,
// its closes, and the turns between two polls. Connections that were write-blocked are tried again in the
// same step as the flushes, without a bound of time. Half of the budget gains little: with 2 ms, 6 turns
// of a storm of TLS logins took over 20 ms, with 4 ms 8 turns.
const turnBudget = 4 * time.Millisecond

// requeuePosted puts functions that did not run back before those posted since.
func (l *Loop) requeuePosted(rest []func()) {
	l.mu.Lock()
	l.posted = slices.Insert(l.posted, 0, rest...)
	l.mu.Unlock()
}

// flush writes the outboxes of dirty connections, for turnBudget at most, counted from the fourth one; the
// others go back to the front of the list. It then retries write-blocked connections, unless a backoff
// timer will do so. A connection that became write-blocked just now is tried once more, which starts its
// timer. The clock is read with every fourth connection, as a read costs a fraction of a write.
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
// again, so the loop tries: after minWriteBackoff at first, then after twice the time as long as no
// try led to a write of ours, up to a tick. (Only waiting for the tick would let a burst to a client that
// reads at line rate overflow its outbox.) With many connections the backoff is longer, so that
// tries take a small part of the loop's time. A Memory has no timers: there each turn and each tick
// retries.
func (l *Loop) retryWrites() {
	before := l.meter.Writes
	list := l.writeBlocked
	l.writeBlocked = nil
	for _, c := range list {
		c.flags &^= flagWriteBlocked
		l.flushOne(c)
	}
	l.flushPaused = false
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
			if n == l.retryGeneration { // scheduleWriteRetry has not caused a newer timer
				l.retryArmed, l.flushPaused = false, true
			}
		})
	})
}

// minWriteBackoff is the first write backoff. retryCostPerConn is the minimum backoff per
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

// runCloses calls finishClose for connections that close, for turnBudget at most: thousands may drop at
// once. The others wait for the next turn.
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

// updateTime sets Now to the current time and returns it.
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

// tick is posted every TickLength by Reactor.Run. It fires timers that are due (wheel.advance recovers a
// panic of each), retries write-blocked connections, and publishes the meter. While connections wait for
// admission it also asks for a turn after the poll: in a Memory the timer of admission.scheduleRun does
// not exist.
func (l *Loop) tick() {
	start := l.updateTime()
	l.wheel.advance(l, l.r.tickAt(l.now))
	if len(l.writeBlocked) > 0 {
		l.flushPaused = true
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

// addConn adds c to openConns. c's position there, plus 1, is in c.timer.connIndex: a Timer has four free
// bytes, a Conn has none. A list with positions takes 8 bytes a connection, a map of pointers took 39.
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
