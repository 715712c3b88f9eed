package session

import "canto/reactor"

// mayEvict reports whether e may leave memory as far as the kernel knows: nothing waits, nothing is under
// way, and what is in memory is stored.
func (e *Entity) mayEvict(r *Router) bool {
	return e.pending == nil && e.directLoop == 0 && e.pins == 0 && e.ticket <= r.Committer.LastSettled() &&
		e.resident != evictedMark
}

// liveStateDroppable reports whether the live state of e may be dropped.
func (e *Entity) liveStateDroppable(l *LoopRouter) (cold bool) {
	if a := e.account(); a != nil {
		return len(a.sessions) == 0
	}
	b := e.handler()
	if b == nil || b.Cold == nil || e.live == nil {
		return true
	}
	defer l.recoverLocked(e)
	return b.Cold(e)
}

// evictAfter is how long an entity without live state is kept after its last stanza, in ticks of 100 ms.
const evictAfter = 600

// sweepEvery is between two looks at one shard each: all of them within a minute and a half.
const sweepEvery = 3 // ticks

// OnTimer sweeps the next of this loop's shards: entities that no stanza has asked for leave memory.
func (l *LoopRouter) OnTimer(*reactor.Loop) {
	l.enter()
	defer l.leave()
	l.Loop.Arm(&l.sweepTimer, l.Loop.Tick()+sweepEvery, l)
	n := len(l.router.loopRouters)
	l.sweepAt = (l.sweepAt + n) % shards
	l.sweep(l.sweepAt + l.Loop.Index()%n)
}

func (l *LoopRouter) sweep(i int) {
	now := l.Loop.Tick()
	l.swept = l.router.Table.Entities(i, l.swept[:0])
	for _, e := range l.swept {
		e.lock(l)
		if e.mayEvict(l.router) && (e.resident == nil || !e.exists() || now-e.lastUsed > evictAfter) &&
			e.liveStateDroppable(l) {
			l.router.Table.remove(e, false, 0)
		}
		e.unlock(l)
	}
	clear(l.swept)
}
