package session

import (
	"runtime/debug"

	"canto/reactor"
	"canto/session/jid"
	"canto/session/stanza"
)

// enter begins the handling of something that comes from outside the kernel: input, a timer, a
// worker's result. Each call has a deferred leave. It panics on another goroutine than the
// loop's, in builds that check that.
func (l *LoopRouter) enter() {
	l.Loop.AssertOwned()
	l.enterDepth++
}

// leave ends what enter has begun. The outermost one routes the mail that was sent in between, so
// no entity lock may be held.
func (l *LoopRouter) leave() {
	defer func() { l.enterDepth-- }()
	if l.enterDepth == 1 {
		l.mail.deliver()
	}
}

// Enter runs f like something from outside: modules call it in their timers and posted functions.
// The mail that f sends is routed when it returns. A panic ends f alone. On the loop.
func (l *LoopRouter) Enter(f func()) {
	l.enter()
	defer l.leave()
	defer l.recoverPanic(newPanicFrame(l, jid.JID{}, nil))
	f()
}

// A panicFrame is the state that a panic boundary restores.
type panicFrame struct {
	addr         jid.JID // for the log
	ev           *Stanza // gets an error as its answer; nil: no stanza
	depth        int     // of the loop's stack of stanzas
	lockedEntity *Entity // stays locked, because the caller unlocks it; nil: none
}

// newPanicFrame returns the frame of a boundary that begins now.
func newPanicFrame(l *LoopRouter, addr jid.JID, ev *Stanza) panicFrame {
	return panicFrame{addr: addr, ev: ev, depth: l.stanzas.depth}
}

// recoverPanic is the panic boundary. It is deferred around the smallest thing that can fail: a
// stanza, one recipient of a broadcast, an item of an inbox, a commit's callback, a worker's
// result, a timer. It recovers a panic and calls handlePanic.
func (l *LoopRouter) recoverPanic(f panicFrame) {
	if r := recover(); r != nil {
		l.handlePanic(r, f)
	}
}

// recoverLocked is deferred around a function of e's kind. It is a panic boundary that leaves e
// locked, for the caller to unlock.
func (l *LoopRouter) recoverLocked(e *Entity) {
	if r := recover(); r != nil {
		l.handlePanic(r, panicFrame{addr: e.addr, depth: l.stanzas.depth, lockedEntity: e})
	}
}

// handlePanic counts and logs the panic r. If the loop holds an entity lock, the entity is
// invalidated (it is loaded again, and its kind decides about its live state), and unlocked
// unless the frame says otherwise. The stack of stanzas is reset, and the frame's stanza is
// answered with an error, if its type allows one (RFC 6120 sections 8.2.3 and 8.3.1) and it has
// no answer yet.
func (l *LoopRouter) handlePanic(r any, f panicFrame) {
	l.stats.Panics++
	addr := f.addr
	if addr.IsZero() && f.ev != nil {
		addr = f.ev.From
	}
	l.Log.Error("panic in a handler", "jid", addr.String(), "panic", r, "stack", string(debug.Stack()))
	if e := l.lockedEntity; e != nil {
		e.invalidateAfterPanic(l)
		if e != f.lockedEntity {
			e.unlock(l)
		}
	}
	l.stanzas.depth = f.depth
	if f.ev != nil && f.ev.loopRouter != nil && !f.ev.replied {
		f.ev.entity = nil
		f.ev.Fail(stanza.InternalServerError)
	}
}

// invalidateAfterPanic invalidates e after a panic under its lock, because a change may be half
// done, and calls EntityHandler.Failed for its live state. If that panics too the live state is
// dropped, and with it an entity that was never stored. Under the lock.
func (e *Entity) invalidateAfterPanic(l *LoopRouter) {
	if e.resident == evictedMark {
		return
	}
	if b := e.handler(); b != nil && b.Failed != nil && e.kind != 0 {
		func() {
			defer func() {
				if recover() != nil {
					l.stats.Panics++
					if e.live = nil; e.id == 0 {
						e.makeAbsent()
					}
				}
			}()
			b.Failed(l, e)
		}()
	}
	e.invalidate()
}

// runOnWorker lets a worker run work, and this loop then. p is the profile of the module that
// calls: it counts as pending work, so that the module is not unloaded. It returns false if the
// queue of c is full; then neither runs.
func (l *LoopRouter) runOnWorker(p *Profile, c reactor.Class, work func() error, then func(err error)) bool {
	p.pendingWork.Add(1)
	ok := l.router.Workers.Do(c, l.Loop, work, func(err error) {
		defer p.pendingWork.Add(-1)
		then(err)
	})
	if !ok {
		p.pendingWork.Add(-1)
	}
	return ok
}

// RunOnWorker lets a worker run work, which may block, and then runs then on this loop, like
// something from outside. It is for a module of the host h, which stays loaded until then has
// returned. It returns false if the queue of c is full; then neither runs. On l's loop, with any
// lock held. It allocates.
func (l *LoopRouter) RunOnWorker(h *Host, c reactor.Class, work func() error,
	then func(l *LoopRouter, err error)) bool {
	return l.runOnWorker(h.Profile(), c, work, func(err error) { l.Enter(func() { then(l, err) }) })
}

// A delayedCall is a function that a timer of a loop runs once.
type delayedCall struct {
	timer reactor.Timer
	f     func()
}

// OnTimer is called by the loop.
func (t *delayedCall) OnTimer(*reactor.Loop) { t.f() }

// After runs f on the loop after d ticks, one at least, like something from outside. It cannot be
// stopped. On the loop. It allocates.
func (l *LoopRouter) After(d reactor.Tick, f func()) {
	t := &delayedCall{f: func() { l.Enter(f) }}
	l.Loop.Arm(&t.timer, l.Loop.Tick()+max(d, 1), t)
}

// runHook runs f, a call of a module under the account's lock. It returns false if f panics: the
// panic is logged and the account invalidated, and the lock stays held.
func runHook(l *LoopRouter, s *Session, f func()) (ok bool) {
	at := newPanicFrame(l, s.jid, nil)
	at.lockedEntity = l.lockedEntity // the caller unlocks it
	defer l.recoverPanic(at)
	f()
	return true
}
