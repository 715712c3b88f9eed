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
	r      *Reactor
	index  int
	engine any // the engine's own loop
	epoll  int // its descriptor; 0: it can't pause
	conns  atomic.Int32

	mu     sync.Mutex
	posted []func()
	dirty  []*Conn
	woken  bool
	dead   bool

	// The loop's own, without a lock.
	runs, spareRuns   []func()
	flushes, spareDir []*Conn
	atEnd             []func()
	closes            []*Conn
	stuck             []*Conn       // what waits for the socket
	patience          time.Duration // until they are tried again; 0: nobody was asked to wake us
	waking            bool
	flooded           bool    // by what was delivered last
	looks             uint32  // numbers the wake-ups: the last one counts
	ticking           bool    // this retry is not one of many in a tick
	live              []*Conn // each knows its place
	wheel             wheel
	now               time.Time
	unseen            time.Duration // spent in turns since sockets were looked at
	asked, seen       bool          // for a turn behind sockets; it is one
	since             time.Time     // when the turn began that sockets are being read in; zero: none is
	guests            admission
	lane              lane
	meter             Meter
	shown             atomic.Pointer[Meter]
	owner             owner  // see Owned
	cipher            []byte // scratch for sealing
	plain             []byte // scratch for opening
}

// A Meter is a loop's account of itself: plain counters, copied out once a tick.
type Meter struct {
	Turns             [24]uint64    // by length: below 1 µs, 2 µs, 4 µs, ...
	Handling          time.Duration // in handlers, with opening TLS records
	Posted, Flushing  time.Duration
	Flooding          time.Duration // of Handling and Posted: input of connections that were Flooded by it
	Longest           time.Duration // turn or callback
	Connected, Paused int
	ParkedBytes       int // read, and not taken by handlers yet
	OutboxBytes       int // waiting for sockets with no room
	ScratchBytes      int // the loop's own
	// connections with TLS; those of them that crypto/tls holds: in a handshake, or for good
	Secured, Std      int
	RawBytes          int // by which buffers of crypto/tls have grown behind the handshake: they never shrink
	Warm              int // with the AEADs of our record layer
	Panics            uint64
	Reads, Writes     uint64
	BytesIn, BytesOut uint64
	Unread            uint64     // connections given up because their peer read too little
	Guests            int        // that wait to go on with their login
	Waits             [24]uint64 // of guests, by length as Turns
	// guests sent away: too many waited; too many handshakes of one address were under way
	Crowded, Busy uint64
	Late          uint64 // handshakes that took too long
	Long          uint64 // turns and callbacks of over LongTurn
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
	if l.dead {
		l.mu.Unlock()
		return false
	}
	l.posted = append(l.posted, f)
	wake := !l.woken
	l.woken = true
	l.mu.Unlock()
	if wake {
		l.wake()
	}
	return true
}

func (l *Loop) wake() {
	if err := l.r.backend.Execute(l); err != nil {
		l.mu.Lock()
		l.dead = true
		l.mu.Unlock()
	}
}

// markDirty queues c's flush. Any goroutine.
func (l *Loop) markDirty(c *Conn) {
	l.mu.Lock()
	l.dirty = append(l.dirty, c)
	wake := !l.woken && !l.dead
	l.woken = true
	l.mu.Unlock()
	if wake {
		l.wake()
	}
}

// AtEnd runs f once at the end of this turn: work that is cheaper together.
func (l *Loop) AtEnd(f func()) {
	l.Owned()
	l.atEnd = append(l.atEnd, f)
	l.Post(func() {})
}

// Now is the time, read once for each callback.
func (l *Loop) Now() time.Time { return l.now }

// Tick is the same on the wheel's scale.
func (l *Loop) Tick() Tick { return l.wheel.now }

// Arm has to.OnTimer called at a tick; 0 disarms.
func (l *Loop) Arm(t *Timer, at Tick, to Timed) {
	l.Owned()
	l.wheel.arm(t, at, to)
}

// Meter is the last copy of the loop's counters. Any goroutine.
func (l *Loop) Meter() Meter {
	if m := l.shown.Load(); m != nil {
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
	l.Owned()
	if l.unseen > turnBudget && l.again() {
		return // the engine would run turns for as long as somebody posts
	}
	start := l.begin()
	l.since = time.Time{}
	behind := l.seen
	if l.seen {
		l.seen = false
		l.guests.serve()
	} else if !l.guests.ready() {
		l.guests.spent = 0
	}
	l.mu.Lock()
	l.woken = true // what comes from here on is seen at the end
	l.runs, l.posted = l.posted, l.spareRuns[:0]
	l.mu.Unlock()
	for i, f := range l.runs {
		l.runs[i] = nil
		l.protect(nil, f)
		if i&3 == 3 && l.clock().Sub(start) > turnBudget {
			l.putOff(l.runs[i+1:])
			clear(l.runs[i+1:])
			break
		}
	}
	l.spareRuns = l.runs
	if cap(l.spareRuns) > 4096 {
		l.spareRuns = nil
	}
	if len(l.atEnd) > 0 {
		list := l.atEnd
		l.atEnd = nil
		for _, f := range list {
			l.protect(nil, f)
		}
	}
	l.lane.serve(behind)
	posted := l.clock()
	l.meter.Posted += posted.Sub(start)
	l.flush()
	l.runCloses()
	end := l.clock()
	l.meter.Flushing += end.Sub(posted)
	l.unseen += end.Sub(start)
	l.measure(end.Sub(start))
	l.mu.Lock()
	l.woken = len(l.posted) > 0 || len(l.dirty) > 0 || len(l.closes) > 0
	more := l.woken && !l.dead
	l.mu.Unlock()
	if more {
		l.wake()
	}
}

// again asks for a turn behind sockets: the engine works off what is asked of it before it looks at them, and
// what a turn asks for by Execute too.
func (l *Loop) again() bool {
	l.Owned()
	l.unseen = 0
	return l.r.backend.Again(l) == nil
}

// read is called by the engine behind each read: a turn ends among many of them, too, so that nobody's answer
// waits for all.
func (l *Loop) read() {
	l.unseen = 0
	switch {
	case l.since.IsZero():
		l.since = l.now
	case l.clock().Sub(l.since) > readBudget:
		l.turn()
	}
}

// readBudget is how long sockets are read before what was answered is flushed.
const readBudget = 2 * time.Millisecond

// turnBudget is how long posted functions run before what is there is flushed, how long is flushed, how long
// connections are ended, and how long turns follow each other before sockets are looked at.
const turnBudget = 4 * time.Millisecond

// putOff puts functions back in front of those posted since.
func (l *Loop) putOff(rest []func()) {
	l.mu.Lock()
	l.posted = slices.Insert(l.posted, 0, rest...)
	l.mu.Unlock()
}

// flush writes the outboxes that have something, as many as a turn has time for.
func (l *Loop) flush() {
	l.mu.Lock()
	l.flushes, l.dirty = l.dirty, l.spareDir[:0]
	l.mu.Unlock()
	var late time.Time
	for i, c := range l.flushes {
		l.flushes[i] = nil
		l.flushOne(c)
		if i&3 == 3 {
			if now := l.clock(); late.IsZero() {
				late = now.Add(turnBudget)
			} else if now.After(late) && i+1 < len(l.flushes) {
				l.mu.Lock()
				l.dirty = slices.Insert(l.dirty, 0, l.flushes[i+1:]...)
				l.mu.Unlock()
				clear(l.flushes[i+1:])
				break
			}
		}
	}
	if l.spareDir = l.flushes; cap(l.spareDir) > 16384 {
		l.spareDir = nil
	}
	if len(l.stuck) > 0 && !l.waking {
		l.retry() // else it is looked at when patience has run out, not in every turn
	}
}

// retry writes again to those whose socket had no room. The engine does not say when there is room
// again, so the loop looks: soon while somebody reads, and less and less often while nobody does.
func (l *Loop) retry() {
	before := l.meter.Writes
	list := l.stuck
	l.stuck = nil
	for _, c := range list {
		c.flags &^= flagStuck
		l.flushOne(c)
	}
	l.ticking = false
	if l.meter.Writes != before {
		l.patience = 0
	}
	if len(l.stuck) == 0 || l.waking {
		return
	}
	l.patience = min(max(2*l.patience, minPatience, time.Duration(len(l.stuck))*lookPrice), TickLength)
	l.looks++
	n := l.looks
	l.waking = l.r.backend.Later(l.patience, func() {
		l.Post(func() {
			if n == l.looks { // nobody has become impatient meanwhile
				l.waking, l.ticking = false, true
			}
		})
	})
}

// minPatience is how long a full socket is left alone at first; lookPrice is for each of many, some two
// hundred times what a look costs.
const (
	minPatience = 2 * time.Millisecond
	lookPrice   = 20 * time.Microsecond
)

// flushOne writes c's outbox; a panic below, as in sealing a record, ends c alone.
func (l *Loop) flushOne(c *Conn) {
	defer l.recovered(c)
	c.flush()
}

// runCloses ends connections, a share in each turn: thousands may be lost at a time.
func (l *Loop) runCloses() {
	start := l.clock()
	for n := 0; n < len(l.closes); n++ {
		if n&3 == 3 && l.clock().Sub(start) > turnBudget {
			l.closes = l.closes[:copy(l.closes, l.closes[n:])]
			return
		}
		c := l.closes[n]
		l.closes[n] = nil
		c.finish()
	}
	if l.closes = l.closes[:0]; cap(l.closes) > 4096 {
		l.closes = nil
	}
}

func (l *Loop) clock() time.Time { return l.r.cfg.Clock() }

func (l *Loop) begin() time.Time {
	l.now = l.clock()
	return l.now
}

func (l *Loop) measure(d time.Duration) {
	b := bits.Len64(uint64(d / time.Microsecond))
	l.meter.Turns[min(b, len(l.meter.Turns)-1)]++
	l.meter.Longest = max(l.meter.Longest, d)
	if d > LongTurn {
		l.meter.Long++
	}
}

// tick is called every TickLength.
func (l *Loop) tick() {
	start := l.begin()
	l.wheel.advance(l, l.r.tickAt(l.now))
	if len(l.stuck) > 0 {
		l.ticking = true
		l.retry()
		l.runCloses()
	}
	l.meter.Connected = int(l.conns.Load())
	l.meter.OutboxBytes = 0
	for _, c := range l.stuck {
		if c.io != nil { // it may have been closed just now
			l.meter.OutboxBytes += c.Buffered() + c.io.Buffered()
		}
	}
	l.meter.ScratchBytes = cap(l.cipher) + cap(l.plain) + int(unsafe.Sizeof(func() {}))*(cap(l.spareRuns)+
		cap(l.spareDir)+cap(l.stuck)+cap(l.live)+cap(l.lane.conns))
	if l.meter.Guests = l.guests.n(); l.meter.Guests > 0 {
		l.again()
	}
	m := l.meter
	l.shown.Store(&m)
	l.measure(l.clock().Sub(start))
}

// protect runs f; a panic is counted and logged, and closes c.
func (l *Loop) protect(c *Conn, f func()) {
	defer l.recovered(c)
	f()
}

func (l *Loop) recovered(c *Conn) {
	r := recover()
	if r == nil {
		return
	}
	l.meter.Panics++
	l.r.log.Error("panic on a loop", "loop", l.index, "panic", fmt.Sprint(r), "stack", string(debug.Stack()))
	if c != nil {
		c.flags |= flagDeaf
		c.Close(ErrPanic)
	}
}

// enter puts c on the list of open connections.
func (l *Loop) enter(c *Conn) {
	l.live = append(l.live, c)
	c.timer.place = uint32(len(l.live))
}

// exit takes c off it; false: it was not there.
func (l *Loop) exit(c *Conn) bool {
	i := c.timer.place
	if i == 0 {
		return false
	}
	last := len(l.live) - 1
	l.live[i-1] = l.live[last]
	l.live[i-1].timer.place = i
	l.live[last] = nil
	l.live = l.live[:last]
	c.timer.place = 0
	if n := cap(l.live); n > 1024 && last < n/4 {
		l.live = append(make([]*Conn, 0, n/2), l.live...)
	}
	return true
}
