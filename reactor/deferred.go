package reactor

import "time"

// A deferredQueue is the run queue of a loop's connections with parked input: their handlers have paused
// and resumed, because they had their share of a turn or were over their rate. After each poll the loop
// serves a slice of the queue, first come first served, so that the input of other connections waits for
// one slice and not for all of them. After a connection that is over its rate the queue is throttled: all
// such connections together take about a sixth of the loop's time. On the loop.
type deferredQueue struct {
	loop         *Loop
	conns        []*Conn // the queue from head on; the entries before head are nil
	head         int
	throttled    bool   // no slice is served until the timer of throttle fires
	throttleOver bool   // it has fired: the next slice need not wait for a poll
	endThrottle  func() // what the timer calls; one function for all timers
}

const (
	// deferredBudget is the length of a slice. A single delivery may take longer.
	deferredBudget = 250 * time.Microsecond
	// throttleFactor is for how many times as long as an over-rate connection was served the queue
	// rests after it: 5 gives these connections a sixth of the time. maxThrottle bounds the rest.
	throttleFactor = 5
	maxThrottle    = 20 * time.Millisecond
)

// init sets up the queue of l.
func (a *deferredQueue) init(l *Loop) {
	a.loop = l
	end := func() { a.throttled, a.throttleOver = false, true }
	a.endThrottle = func() { l.Post(end) }
}

// push appends c, unless it is in the queue.
func (a *deferredQueue) push(c *Conn) {
	if c.flags&flagDeferred != 0 {
		return
	}
	c.flags |= flagDeferred
	a.conns = append(a.conns, c)
	if !a.throttled {
		a.scheduleRun()
	}
}

// scheduleRun asks for a slice after the next poll, however short the last one was: a connection
// over its rate has more input in its socket, which is read only then.
func (a *deferredQueue) scheduleRun() {
	if !a.loop.wakeupAfterPoll() { // the engine has stopped
		a.throttleOver = true
		a.loop.Post(func() {})
	}
}

// throttle is called after input of an over-rate connection was handled for d. The queue rests for
// throttleFactor times d from now. Engines without timers do not throttle.
func (a *deferredQueue) throttle(d time.Duration) {
	if !a.throttled {
		a.throttled = a.loop.r.backend.AfterFunc(min(throttleFactor*d, maxThrottle), a.endThrottle)
	}
}

// run serves a slice. afterPoll is whether there was a poll before this turn; without one it does
// nothing, unless a throttle has just ended. The slice ends after deferredBudget, after a
// connection that was over its rate, or when a delivery has set the throttle. If connections are
// left it schedules the next slice. The array is compacted when more than half of it is served, and
// dropped when it is large and empty.
func (a *deferredQueue) run(afterPoll bool) {
	if a.head == len(a.conns) || a.throttled || !afterPoll && !a.throttleOver {
		return
	}
	a.throttleOver = false
	start := a.loop.readClock()
	for a.head < len(a.conns) {
		c := a.conns[a.head]
		a.conns[a.head] = nil
		a.head++
		c.flags &^= flagDeferred
		overRate := c.flags&flagOverRate != 0 // its socket will be read now
		a.loop.protect(c, c.resumeInput)
		if overRate || a.throttled || a.loop.readClock().Sub(start) > deferredBudget {
			break
		}
	}
	if a.head == len(a.conns) {
		if a.conns, a.head = a.conns[:0], 0; cap(a.conns) > 4096 {
			a.conns = nil
		}
		return
	}
	if a.head > 64 && a.head > len(a.conns)/2 {
		n := copy(a.conns, a.conns[a.head:])
		clear(a.conns[n:])
		a.conns, a.head = a.conns[:n], 0
	}
	if !a.throttled {
		a.scheduleRun()
	}
}
