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

// A Loop is one event loop: one goroutine, its connections and its timers.
type Loop struct {
	r         *Reactor
	index     int
	engine    any // the engine's own loop
	epollFD   int // its descriptor; 0: it can't pause
	connCount atomic.Int32

	mu          sync.Mutex
	posted      []func()
	dirty       []*Conn
	turnPending bool
	stopped     bool

	// The loop's own, without a lock.
	postedBatch, sparePosted         []func()
	dirtyBatch, spareDirty           []*Conn
	turnEndFuncs                     []func()
	closes                           []*Conn
	writeBlocked                     []*Conn       // what waits for the socket
	writeBackoff                     time.Duration // until they are tried again; 0: nobody was asked to wake us
	retryArmed                       bool
	overRate                         bool    // by what was delivered last
	retryGeneration                  uint32  // numbers the wake-ups: the last one counts
	tickRetry                        bool    // this retry is not one of many in a tick
	openConns                        []*Conn // each knows its place
	wheel                            wheel
	now                              time.Time
	sincePoll                        time.Duration // spent in turns since sockets were looked at
	pollWakeupPending, pollCompleted bool          // for a turn behind sockets; it is one
	// when the turn began that sockets are being read in; zero: none is
	readBatchStart time.Time
	admission      admission
	deferred       deferredQueue
	meter          Meter
	published      atomic.Pointer[Meter]
	goroutine      loopGoroutine // see Owned
	sealBuf        []byte        // scratch for sealing
	openBuf        []byte        // scratch for opening
}

// A Meter is a loop's account of itself: plain counters, copied out once a tick.
type Meter struct {
	Turns             [24]uint64    // by length: below 1 µs, 2 µs, 4 µs, ...
	Handling          time.Duration // in handlers, with opening TLS records
	Posted, Flushing  time.Duration
	OverRate          time.Duration // of Handling and Posted: input of connections that were Flooded by it
	Longest           time.Duration // turn or callback
	Connected, Paused int
	ParkedBytes       int // read, and not taken by handlers yet
	OutboxBytes       int // waiting for sockets with no room
	ScratchBytes      int // the loop's own
	// connections with TLS; those of them that crypto/tls holds: in a handshake, or for good
	TLS, StdTLS       int
	StdTLSGrowth      int // by which buffers of crypto/tls have grown behind the handshake: they never shrink
	WarmTLS           int // with the AEADs of our record layer
	Panics            uint64
	Reads, Writes     uint64
	BytesIn, BytesOut uint64
	SlowConsumers     uint64     // connections given up because their peer read too little
	AdmissionQueued   int        // that wait to go on with their login
	AdmissionWaits    [24]uint64 // of guests, by length as Turns
	// guests sent away: too many waited; too many handshakes of one address were under way
	AdmissionRefused, HandshakesRefused uint64
	HandshakeTimeouts                   uint64 // handshakes that took too long
	LongTurns                           uint64 // turns and callbacks of over LongTurn
}

// LongTurn is what no turn should take.
const LongTurn = 20 * time.Millisecond

// Index is l's place in [Reactor.Loops]: the way to memory of one's own for each loop. Any goroutine;
// never changes.
func (l *Loop) Index() int { return l.index }

// Post runs f on the loop in its next turn; what a posted function posts runs in the turn after. It
// reports whether the loop still runs. Any goroutine. Hot callers keep one f instead of making it.
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

func (l *Loop) wake() {
	if err := l.r.backend.Wakeup(l); err != nil {
		l.mu.Lock()
		l.stopped = true
		l.mu.Unlock()
	}
}

// markDirty queues c's flush. Any goroutine.
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

// AtTurnEnd runs f once at the end of this turn: work that is cheaper together.
func (l *Loop) AtTurnEnd(f func()) {
	l.AssertOwned()
	l.turnEndFuncs = append(l.turnEndFuncs, f)
	l.Post(func() {})
}

// Now is the time, read once for each callback.
func (l *Loop) Now() time.Time { return l.now }

// Tick is the same on the wheel's scale.
func (l *Loop) Tick() Tick { return l.wheel.now }

// Arm has to.OnTimer called at a tick; 0 disarms.
func (l *Loop) Arm(t *Timer, at Tick, to TimerHandler) {
	l.AssertOwned()
	l.wheel.arm(t, at, to)
}

// Meter is the last copy of the loop's counters. Any goroutine.
func (l *Loop) Meter() Meter {
	if m := l.published.Load(); m != nil {
		return *m
	}
	return Meter{}
}

// Run is turn as the engine calls it; for the engine alone.
func (l *Loop) Run(context.Context) error {
	l.turn()
	return nil
}

// turn is what Execute runs: the end of a turn.
func (l *Loop) turn() {
	l.AssertOwned()
	if l.sincePoll > turnBudget && l.wakeupAfterPoll() {
		return // the engine would run turns for as long as somebody posts
	}
	start := l.updateTime()
	l.readBatchStart = time.Time{}
	behind := l.pollCompleted
	if l.pollCompleted {
		l.pollCompleted = false
		l.admission.runQueued()
	} else if !l.admission.hasRunnable() {
		l.admission.turnSpent = 0
	}
	l.mu.Lock()
	l.turnPending = true // what comes from here on is seen at the end
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
	l.deferred.run(behind)
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

// wakeupAfterPoll asks for a turn behind sockets: the engine works off what is asked of it before it
// looks at them, and what a turn asks for by Execute too.
func (l *Loop) wakeupAfterPoll() bool {
	l.AssertOwned()
	l.sincePoll = 0
	return l.r.backend.WakeupAfterPoll(l) == nil
}

// afterRead is called by the engine behind each read: a turn ends among many of them, too, so that
// nobody's answer waits for all.
func (l *Loop) afterRead() {
	l.sincePoll = 0
	switch {
	case l.readBatchStart.IsZero():
		l.readBatchStart = l.now
	case l.readClock().Sub(l.readBatchStart) > readBudget:
		l.turn()
	}
}

// readBudget is how long sockets are read before what was answered is flushed.
const readBudget = 2 * time.Millisecond

// turnBudget is how long posted functions run before what is there is flushed, how long is flushed, how long
// connections are ended, and how long turns follow each other before sockets are looked at.
const turnBudget = 4 * time.Millisecond

// requeuePosted puts functions back in front of those posted since.
func (l *Loop) requeuePosted(rest []func()) {
	l.mu.Lock()
	l.posted = slices.Insert(l.posted, 0, rest...)
	l.mu.Unlock()
}

// flush writes the outboxes that have something, as many as a turn has time for.
func (l *Loop) flush() {
	l.mu.Lock()
	l.dirtyBatch, l.dirty = l.dirty, l.spareDirty[:0]
	l.mu.Unlock()
	var late time.Time
	for i, c := range l.dirtyBatch {
		l.dirtyBatch[i] = nil
		l.flushOne(c)
		if i&3 == 3 {
			if now := l.readClock(); late.IsZero() {
				late = now.Add(turnBudget)
			} else if now.After(late) && i+1 < len(l.dirtyBatch) {
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
		l.retryWrites() // else it is looked at when patience has run out, not in every turn
	}
}

// retryWrites writes again to those whose socket had no room. The engine does not say when there is room
// again, so the loop looks: soon while somebody reads, and less and less often while nobody does.
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
			if n == l.retryGeneration { // nobody has become impatient meanwhile
				l.retryArmed, l.tickRetry = false, true
			}
		})
	})
}

// minWriteBackoff is how long a full socket is left alone at first; retryCostPerConn is for each of many,
// some two hundred times what a look costs.
const (
	minWriteBackoff  = 2 * time.Millisecond
	retryCostPerConn = 20 * time.Microsecond
)

// flushOne writes c's outbox; a panic below, as in sealing a record, ends c alone.
func (l *Loop) flushOne(c *Conn) {
	defer l.recoverPanic(c)
	c.flush()
}

// runCloses ends connections, a share in each turn: thousands may be lost at a time.
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

func (l *Loop) readClock() time.Time { return l.r.cfg.Clock() }

func (l *Loop) updateTime() time.Time {
	l.now = l.readClock()
	return l.now
}

func (l *Loop) recordTurn(d time.Duration) {
	b := bits.Len64(uint64(d / time.Microsecond))
	l.meter.Turns[min(b, len(l.meter.Turns)-1)]++
	l.meter.Longest = max(l.meter.Longest, d)
	if d > LongTurn {
		l.meter.LongTurns++
	}
}

// tick is called every TickLength.
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
		if c.sock != nil { // it may have been closed just now
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

// protect runs f; a panic is counted and logged, and closes c.
func (l *Loop) protect(c *Conn, f func()) {
	defer l.recoverPanic(c)
	f()
}

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

// addConn puts c on the list of open connections.
func (l *Loop) addConn(c *Conn) {
	l.openConns = append(l.openConns, c)
	c.timer.connIndex = uint32(len(l.openConns))
}

// removeConn takes c off it; false: it was not there.
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
