package reactor

import "time"

// A deferredQueue is the run queue of a loop's connections that were paused and that Conn.Resume must not
// read at once: they have parked input, TLS, or are over their rate (Conn.MarkOverRate). A handler pauses a
// connection that has had its share of a turn, or its rate, and resumes it later. After each poll the loop
// serves a slice of the queue, first-come, first-served. So the other connections wait for one slice, not
// for the whole queue. After a connection that is over its rate the whole queue is throttled, connections
// within their rate included: it rests until a timer fires. On the loop only.
type deferredQueue struct {
	loop         *Loop
	conns        []*Conn // the queue from head on; the entries before head are nil
	head         int
	throttled    bool   // no slice is served until the timer of throttle fires
	throttleOver bool   // a throttle has ended since the last slice: the next one needs no poll
	endThrottle  func() // what the timer calls; made once, so that timers allocate no closure
}

const (
	// deferredBudget is the length of a slice. A single delivery may take longer.
	deferredBudget = 250 * time.Microsecond
	// After a delivery of an over-rate connection the queue is throttled for throttleFactor times as long
	// as the delivery took, so that these connections get a sixth of the loop's time. maxThrottle bounds
	// the throttle: after a delivery of over 4 ms they get more.
	throttleFactor = 5
	maxThrottle    = 20 * time.Millisecond
)

// init sets up the queue of l. end runs as a posted function, in a turn that serves a slice afterwards.
func (q *deferredQueue) init(l *Loop) {
	q.loop = l
	end := func() { q.throttled, q.throttleOver = false, true }
	q.endThrottle = func() { l.Post(end) }
}

// push appends c, unless it is in the queue. A connection that closes stays in the queue: resumeInput then
// does nothing.
func (q *deferredQueue) push(c *Conn) {
	if c.flags&flagDeferred != 0 {
		return
	}
	c.flags |= flagDeferred
	q.conns = append(q.conns, c)
	if !q.throttled {
		q.scheduleRun()
	}
}

// scheduleRun asks for a slice after the next poll. Without a poll in between, the next slice would find
// nothing new of a connection over its rate: the last slice has turned its reading on, and a poll must
// read it. Several requests before one poll count as one. If the engine has stopped, or its self-pipe is
// broken, it falls back to a turn without a poll.
func (q *deferredQueue) scheduleRun() {
	if !q.loop.wakeupAfterPoll() {
		q.throttleOver = true
		q.loop.Post(func() {})
	}
}

// throttle is called by Conn.noteOverRate after a delivery of an over-rate connection that took d. From now
// on no slice is served for throttleFactor times d, but at most maxThrottle. While a throttle runs, a
// further call does not extend it. An engine without timers, a Memory, does not throttle.
func (q *deferredQueue) throttle(d time.Duration) {
	if !q.throttled {
		q.throttled = q.loop.r.backend.AfterFunc(min(throttleFactor*d, maxThrottle), q.endThrottle)
	}
}

// run serves a slice; Loop.turn calls it once. afterPoll is whether there was a poll before this turn;
// without one it does nothing, unless a throttle has ended since the last slice. The slice ends after
// deferredBudget, after a connection that was over its rate, or when a delivery has set the throttle. If
// connections are left it schedules the next slice. The array is compacted when more than half of it has
// been served, and dropped when it is large and empty.
func (q *deferredQueue) run(afterPoll bool) {
	if q.head == len(q.conns) || q.throttled || !afterPoll && !q.throttleOver {
		return
	}
	q.throttleOver = false
	start := q.loop.readClock()
	for q.head < len(q.conns) {
		c := q.conns[q.head]
		q.conns[q.head] = nil
		q.head++
		c.flags &^= flagDeferred
		// A slice ends after a connection that was over its rate, whether or not it still is: floods are served one
		// at a time. resumeInput clears the flag if c is not over its rate again; the next poll then reads c.
		overRate := c.flags&flagOverRate != 0
		q.loop.protect(c, c.resumeInput)
		if overRate || q.throttled || q.loop.readClock().Sub(start) > deferredBudget {
			break
		}
	}
	if q.head == len(q.conns) {
		if q.conns, q.head = q.conns[:0], 0; cap(q.conns) > 4096 {
			q.conns = nil
		}
		return
	}
	if q.head > 64 && q.head > len(q.conns)/2 {
		n := copy(q.conns, q.conns[q.head:])
		clear(q.conns[n:])
		q.conns, q.head = q.conns[:n], 0
	}
	if !q.throttled {
		q.scheduleRun()
	}
}
