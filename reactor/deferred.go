package reactor

import "time"

// A lane is a loop's connections that go on with what they have parked: they had their share of a turn,
// or were paused for their rate. They are served in turn, a slice of deferredBudget each time that sockets
// have been looked at, so that what others send waits for one slice and not for all of them; and behind a
// slice of a flood the lane rests, so that all floods together take about a sixth of the loop's time.
type deferredQueue struct {
	loop         *Loop
	conns        []*Conn
	head         int
	throttled    bool // a timer ends it
	throttleOver bool // it has
	endThrottle  func()
}

const (
	// deferredBudget is how long connections are served one after another; one alone may take longer.
	deferredBudget = 250 * time.Microsecond
	// throttleFactor is for how many times as long as a flood was served the lane rests; maxThrottle bounds it.
	throttleFactor = 5
	maxThrottle    = 20 * time.Millisecond
)

func (a *deferredQueue) init(l *Loop) {
	a.loop = l
	over := func() { a.throttled, a.throttleOver = false, true }
	a.endThrottle = func() { l.Post(over) }
}

// push puts c at the end.
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

// scheduleRun has the rest served when sockets have been looked at, however short this slice was: it may have
// been a flood's that is read only then.
func (a *deferredQueue) scheduleRun() {
	if !a.loop.wakeupAfterPoll() { // the engine stops
		a.throttleOver = true
		a.loop.Post(func() {})
	}
}

// throttle is told that a flood was served for d.
func (a *deferredQueue) throttle(d time.Duration) {
	if !a.throttled {
		a.throttled = a.loop.r.backend.AfterFunc(min(throttleFactor*d, maxThrottle), a.endThrottle)
	}
}

// run goes on with the first ones; behind is whether sockets have been looked at since the last time.
func (a *deferredQueue) run(behind bool) {
	if a.head == len(a.conns) || a.throttled || !behind && !a.throttleOver {
		return
	}
	a.throttleOver = false
	start := a.loop.readClock()
	for a.head < len(a.conns) {
		c := a.conns[a.head]
		a.conns[a.head] = nil
		a.head++
		c.flags &^= flagDeferred
		flood := c.flags&flagOverRate != 0 // what its socket has will be read now
		a.loop.protect(c, c.resumeInput)
		if flood || a.throttled || a.loop.readClock().Sub(start) > deferredBudget {
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
