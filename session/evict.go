package session

import "canto/reactor"

// mayEvict reports whether the kernel has no reason to keep e in memory: nothing is pending or in
// flight, no timer is armed, and the store has what is in memory. Under the lock.
func (e *Entity) mayEvict(r *Router) bool {
	return e.pending == nil && e.directLoop == 0 && e.pins == 0 && e.ticket <= r.Committer.LastSettled() &&
		e.resident != evictedMark
}

// liveStateDroppable reports whether the live state of e may be dropped: the store has each session of an
// account, or the kind's Cold function agrees. If Cold panics it returns false. Under the lock.
func (e *Entity) liveStateDroppable(l *LoopRouter) (cold bool) {
	if a := e.account(); a != nil {
		return len(a.sessions) == 0 || sessionsPersist(l, a)
	}
	b := e.handler()
	if b == nil || b.Cold == nil || e.live == nil {
		return true
	}
	defer l.recoverLocked(e)
	return b.Cold(e)
}

// evictAfter is how long an idle entity stays in memory after its last stanza: 600 ticks, a
// minute.
const evictAfter = 600

// sweepEvery is the time between two sweeps of a loop, in ticks. Each sweep takes one shard, so
// that all shards are swept within a minute and a half.
const sweepEvery = 3

// OnTimer sweeps the next of this loop's shards. The loop's timer calls it.
func (l *LoopRouter) OnTimer(*reactor.Loop) {
	l.enter()
	defer l.leave()
	l.Loop.Arm(&l.sweepTimer, l.Loop.Tick()+sweepEvery, l)
	n := len(l.router.loopRouters)
	l.sweepAt = (l.sweepAt + n) % shards
	sweepShard(l, l.sweepAt+l.Loop.Index()%n)
}

// sweepShard evicts the idle entities of shard i: those without a stanza for evictAfter ticks, and at
// once those that are cold or absent. On the loop of l.
func sweepShard(l *LoopRouter, i int) {
	now := l.Loop.Tick()
	l.swept = l.router.Table.Entities(i, l.swept[:0])
	for _, e := range l.swept {
		e.lock(l)
		if e.mayEvict(l.router) && (e.resident == nil || !e.exists() || now-e.lastUsed > evictAfter) &&
			e.liveStateDroppable(l) {
			if a := e.account(); a != nil {
				for len(a.sessions) > 0 {
					forgetSession(l, a.sessions[0])
				}
			}
			l.router.Table.remove(e, false, 0)
		}
		e.unlock(l)
	}
	clear(l.swept)
}
