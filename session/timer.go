package session

import "canto/reactor"

// Arm has [EntityHandler.Timer] called at that tick, under the lock; 0: never. There is one timer: a
// second call replaces the first. An armed entity stays in memory. Under the lock, on the loop of l.
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
		return // it will look again then
	}
	w.wakeAt = at
	l.After(at-l.Loop.Tick(), func() {
		e.lock(l)
		defer e.unlockOrRepanic(l)
		timerDue(e, l, at)
	})
}

// timerDue is called at the tick at, for which e was armed once. Under the lock.
func timerDue(e *Entity, l *LoopRouter, at reactor.Tick) {
	w := e.pending
	if w == nil || w.wakeAt != at || e.resident == evictedMark {
		return // it was armed for an earlier one, or is gone
	}
	w.wakeAt = 0
	switch {
	case w.timerAt == 0:
		e.releasePending()
		return
	case w.timerAt > l.Loop.Tick():
		e.Arm(l, w.timerAt) // it was armed again
		return
	}
	w.timerAt = 0
	run := func(l *LoopRouter, e *Entity, err error) {
		if e == nil {
			return // its host was taken away
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
		defer e.releasePending() // it keeps e in memory no longer, whatever Timer does
		run(l, e, nil)
		return
	}
	e.mailbox().runWarm(l, run)
}

// timerRetry is how much later the timer of an entity is due that could not be read, in ticks.
const timerRetry = 100
