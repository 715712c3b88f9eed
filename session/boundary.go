package session

import (
	"runtime/debug"

	"canto/reactor"
	"canto/session/jid"
	"canto/session/stanza"
)

// enter and leave frame everything that comes from outside: bytes, timers, workers. leave, deferred,
// routes the mail that it has caused.
func (l *LoopRouter) enter() {
	l.Loop.AssertOwned()
	l.enterDepth++
}

func (l *LoopRouter) leave() {
	defer func() { l.enterDepth-- }()
	if l.enterDepth == 1 {
		l.mail.deliver()
	}
}

// Enter runs f as something that came from outside, for timers and posts of modules: mail that f causes
// is routed when it returns. A panic ends f alone.
func (l *LoopRouter) Enter(f func()) {
	l.enter()
	defer l.leave()
	defer l.recoverPanic(newPanicFrame(l, jid.JID{}, nil))
	f()
}

// A panicFrame is what a boundary goes back to.
type panicFrame struct {
	addr         jid.JID // for the log
	ev           *Stanza // answered, if there is one
	depth        int     // of the loop's stack of Stanzas
	lockedEntity *Entity // whose lock stays the caller's
}

func newPanicFrame(l *LoopRouter, who jid.JID, ev *Stanza) panicFrame {
	return panicFrame{addr: who, ev: ev, depth: l.stanzas.depth}
}

// recoverPanic is the one boundary of panics. It is deferred around the smallest thing that can end: a stanza
// on its way, one receiver of a broadcast, an item of an inbox, a commit, the work of a worker, a timer.
// It counts and logs the panic and gives back the entity lock that it left behind; what is stored of that
// entity is read again, and the rest is for its kind to say. A stanza is answered with an error, as far
// as its type has one (RFC 6120 §8.2.3, §8.3.1).
func (l *LoopRouter) recoverPanic(f panicFrame) {
	if r := recover(); r != nil {
		l.handlePanic(r, f)
	}
}

// recoverLocked, deferred around a function of e's kind, is boundary where the lock of e stays the caller's.
func (l *LoopRouter) recoverLocked(e *Entity) {
	if r := recover(); r != nil {
		l.handlePanic(r, panicFrame{addr: e.addr, depth: l.stanzas.depth, lockedEntity: e})
	}
}

func (l *LoopRouter) handlePanic(r any, f panicFrame) {
	l.stats.Panics++
	who := f.addr
	if who.IsZero() && f.ev != nil {
		who = f.ev.From
	}
	l.Log.Error("panic in a handler", "jid", who.String(), "panic", r, "stack", string(debug.Stack()))
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

// invalidateAfterPanic has e read again after a panic under its lock: what was changed halfway is dropped.
func (e *Entity) invalidateAfterPanic(l *LoopRouter) {
	if e.resident == evictedMark {
		return
	}
	if b := e.handler(); b != nil && b.Failed != nil && e.kind != 0 {
		func() {
			defer func() {
				if recover() != nil { // it can't be trusted with what it has
					l.stats.Panics++
					if e.live = nil; e.id == 0 { // and nothing of it is stored
						e.makeAbsent()
					}
				}
			}()
			b.Failed(l, e)
		}()
	}
	e.invalidate()
}

// runOnWorker has a worker run work, and this loop then: for modules of p, which is not unloaded
// meanwhile. false: the queue of c has no room, and nothing is run.
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

// RunOnWorker has a worker run work, and this loop then, as something that came from outside: for a
// module of the host h, which stays loaded until then has returned. It reports whether the queue of c had
// room; if not, nothing is run. On l's loop, with any lock held. Cold path.
func (l *LoopRouter) RunOnWorker(h *Host, c reactor.Class, work func() error,
	then func(l *LoopRouter, err error)) bool {
	return l.runOnWorker(h.Profile(), c, work, func(err error) { l.Enter(func() { then(l, err) }) })
}

// delayedCall runs f on a loop after a while.
type delayedCall struct {
	timer reactor.Timer
	f     func()
}

func (t *delayedCall) OnTimer(*reactor.Loop) { t.f() }

// After runs f on the loop, as something that came from outside, after d. Cold path.
func (l *LoopRouter) After(d reactor.Tick, f func()) {
	t := &delayedCall{f: func() { l.Enter(f) }}
	l.Loop.Arm(&t.timer, l.Loop.Tick()+max(d, 1), t)
}

// runHook runs f, a call of a module under the account's lock, and keeps a panic to it: what is in memory
// of the account is read again. ok: there was none.
func runHook(l *LoopRouter, s *Session, f func()) (ok bool) {
	at := newPanicFrame(l, s.jid, nil)
	at.lockedEntity = l.lockedEntity // the caller gives it back
	defer l.recoverPanic(at)
	f()
	return true
}
