package reactor

import "time"

// A lane is a loop's connections that go on with what they have parked: they had their share of a turn,
// or were paused for their rate. They are served in turn, a slice of laneBudget each time that sockets
// have been looked at, so that what others send waits for one slice and not for all of them; and behind a
// slice of a flood the lane rests, so that all floods together take about a sixth of the loop's time.
type lane struct {
	l     *Loop
	conns []*Conn
	head  int
	rests bool // a timer ends it
	due   bool // it has
	wake  func()
}

const (
	// laneBudget is how long connections are served one after another; one alone may take longer.
	laneBudget = 250 * time.Microsecond
	// laneRest is for how many times as long as a flood was served the lane rests; longestRest bounds it.
	laneRest    = 5
	longestRest = 20 * time.Millisecond
)

func (a *lane) init(l *Loop) {
	a.l = l
	over := func() { a.rests, a.due = false, true }
	a.wake = func() { l.Post(over) }
}

// enter puts c at the end.
func (a *lane) enter(c *Conn) {
	if c.flags&flagLane != 0 {
		return
	}
	c.flags |= flagLane
	a.conns = append(a.conns, c)
	if !a.rests {
		a.ask()
	}
}

// ask has the rest served when sockets have been looked at, however short this slice was: it may have
// been a flood's that is read only then.
func (a *lane) ask() {
	if !a.l.again() { // the engine stops
		a.due = true
		a.l.Post(func() {})
	}
}

// rest is told that a flood was served for d.
func (a *lane) rest(d time.Duration) {
	if !a.rests {
		a.rests = a.l.r.backend.Later(min(laneRest*d, longestRest), a.wake)
	}
}

// serve goes on with the first ones; behind is whether sockets have been looked at since the last time.
func (a *lane) serve(behind bool) {
	if a.head == len(a.conns) || a.rests || !behind && !a.due {
		return
	}
	a.due = false
	start := a.l.clock()
	for a.head < len(a.conns) {
		c := a.conns[a.head]
		a.conns[a.head] = nil
		a.head++
		c.flags &^= flagLane
		flood := c.flags&flagFlood != 0 // what its socket has will be read now
		a.l.protect(c, c.resumed)
		if flood || a.rests || a.l.clock().Sub(start) > laneBudget {
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
	if !a.rests {
		a.ask()
	}
}
