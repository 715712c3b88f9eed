package session

import (
	"runtime/debug"

	"canto/reactor"
	"canto/session/jid"
	"canto/session/stanza"
)

// enter and leave frame everything that comes from outside: bytes, timers, workers. leave, deferred,
// routes the mail that it has caused.
func (l *Local) enter() {
	l.Loop.Owned()
	l.nest++
}

func (l *Local) leave() {
	defer func() { l.nest-- }()
	if l.nest == 1 {
		l.mail.deliver()
	}
}

// Enter runs f as something that came from outside, for timers and posts of modules: mail that f causes
// is routed when it returns. A panic ends f alone.
func (l *Local) Enter(f func()) {
	l.enter()
	defer l.leave()
	defer l.boundary(newFrame(l, jid.JID{}, nil))
	f()
}

// A frame is what a boundary goes back to.
type frame struct {
	who   jid.JID // for the log
	ev    *Stanza // answered, if there is one
	depth int     // of the loop's stack of Stanzas
	held  *Entity // whose lock stays the caller's
}

func newFrame(l *Local, who jid.JID, ev *Stanza) frame {
	return frame{who: who, ev: ev, depth: l.stack.depth}
}

// boundary is the one boundary of panics. It is deferred around the smallest thing that can end: a stanza
// on its way, one receiver of a broadcast, an item of an inbox, a commit, the work of a worker, a timer.
// It counts and logs the panic and gives back the entity lock that it left behind; what is stored of that
// entity is read again, and the rest is for its kind to say. A stanza is answered with an error, as far
// as its type has one (RFC 6120 §8.2.3, §8.3.1).
func (l *Local) boundary(f frame) {
	if r := recover(); r != nil {
		l.panicked(r, f)
	}
}

// within, deferred around a function of e's kind, is boundary where the lock of e stays the caller's.
func (l *Local) within(e *Entity) {
	if r := recover(); r != nil {
		l.panicked(r, frame{who: e.addr, depth: l.stack.depth, held: e})
	}
}

func (l *Local) panicked(r any, f frame) {
	l.stats.Panics++
	who := f.who
	if who.IsZero() && f.ev != nil {
		who = f.ev.From
	}
	l.Log.Error("panic in a handler", "jid", who.String(), "panic", r, "stack", string(debug.Stack()))
	if e := l.held; e != nil {
		e.spoilt(l)
		if e != f.held {
			e.unlock(l)
		}
	}
	l.stack.depth = f.depth
	if f.ev != nil && f.ev.on != nil && !f.ev.replied {
		f.ev.at = nil
		f.ev.Fail(stanza.InternalServerError)
	}
}

// spoilt has e read again after a panic under its lock: what was changed halfway is dropped.
func (e *Entity) spoilt(l *Local) {
	if e.resident == goneMark {
		return
	}
	if b := e.behaviour(); b != nil && b.Failed != nil && e.kind != 0 {
		func() {
			defer func() {
				if recover() != nil { // it can't be trusted with what it has
					l.stats.Panics++
					if e.live = nil; e.id == 0 { // and nothing of it is stored
						e.vanish()
					}
				}
			}()
			b.Failed(l, e)
		}()
	}
	e.unlike()
}

// do has a worker run work, and this loop then: for modules of p, which is not unloaded meanwhile. false: the
// queue of c has no room, and nothing is run.
func (l *Local) do(p *Profile, c reactor.Class, work func() error, then func(err error)) bool {
	p.works.Add(1)
	ok := l.router.Workers.Do(c, l.Loop, work, func(err error) {
		defer p.works.Add(-1)
		then(err)
	})
	if !ok {
		p.works.Add(-1)
	}
	return ok
}

// Work has a worker run work, and this loop then, as something that came from outside: for a module of the
// host h, which stays loaded until then has returned. It reports whether the queue of c had room; if not,
// nothing is run. On l's loop, with any lock held. Cold path.
func (l *Local) Work(h *Host, c reactor.Class, work func() error, then func(l *Local, err error)) bool {
	return l.do(h.Profile(), c, work, func(err error) { l.Enter(func() { then(l, err) }) })
}

// later runs f on a loop after a while.
type later struct {
	timer reactor.Timer
	f     func()
}

func (t *later) OnTimer(*reactor.Loop) { t.f() }

// After runs f on the loop, as something that came from outside, after d. Cold path.
func (l *Local) After(d reactor.Tick, f func()) {
	t := &later{f: func() { l.Enter(f) }}
	l.Loop.Arm(&t.timer, l.Loop.Tick()+max(d, 1), t)
}

// guarded runs f, a call of a module under the account's lock, and keeps a panic to it: what is in memory
// of the account is read again. ok: there was none.
func guarded(l *Local, s *Session, f func()) (ok bool) {
	at := newFrame(l, s.jid, nil)
	at.held = l.held // the caller gives it back
	defer l.boundary(at)
	f()
	return true
}
