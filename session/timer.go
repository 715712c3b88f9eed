package session

import "canto/reactor"

// Arm makes the kernel call [EntityHandler.Timer] of e at that tick or a little later, under the
// lock; 0 disarms. An entity has one timer: a second call replaces the first. An armed entity
// stays in memory. Under the lock, on the loop of l.
func (e *Entity) Arm(l *LoopRouter, at reactor.Tick) {
	if at == 0 {
		if e.pending != nil {
			e.pending.timerAt = 0
			e.releasePending()
		}
		return
	}
	w := e.ensurePending()
	w.timerAt = at
	if w.wakeAt != 0 && w.wakeAt <= at {
		return // timerDue arms it again then
	}
	w.wakeAt = at
	l.After(at-l.Loop.Tick(), func() {
		e.lock(l)
		defer e.unlockOrRepanic(l)
		timerDue(e, l, at)
	})
}

// timerDue handles a timer of the loop that Arm has set for the tick at. If e was armed again for
// a later tick it sets another, else it calls Timer when e is warm. It does nothing if a newer
// timer of the loop has replaced this one, or if e was evicted. Under the lock.
func timerDue(e *Entity, l *LoopRouter, at reactor.Tick) {
	w := e.pending
	if w == nil || w.wakeAt != at || e.resident == evictedMark {
		return
	}
	w.wakeAt = 0
	switch {
	case w.timerAt == 0:
		e.releasePending()
		return
	case w.timerAt > l.Loop.Tick():
		e.Arm(l, w.timerAt)
		return
	}
	w.timerAt = 0
	run := func(l *LoopRouter, e *Entity, err error) {
		if e == nil {
			return // its host is no longer served
		}
		b := e.handler()
		switch {
		case err != nil:
			e.Arm(l, l.Loop.Tick()+timerRetry)
		case e.exists() && b != nil && b.Timer != nil:
			b.Timer(l, e)
		}
	}
	if e.warm() && !w.draining && w.inbox.empty() {
		defer e.releasePending() // the timer no longer keeps e in memory, even if Timer panics
		run(l, e, nil)
		return
	}
	e.mailbox().runWarm(l, run)
}

// timerRetry is the delay, in ticks, after which a timer is tried again if its entity could not
// be read.
const timerRetry = 100
