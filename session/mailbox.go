package session

import (
	"errors"

	"canto/reactor"
	"canto/session/jid"
	"canto/session/stanza"
)

// Account runs f under the lock of the account behind bare, once its resident set is in memory: at once,
// or when it has been read; on l's loop, whichever has read it. exists is false for an address without an
// account; err says why the set could not be read. With an entity lock held it panics.
func (l *Local) Account(h *Host, bare jid.JID, f func(l *Local, a *Account, exists bool, err error)) {
	l.Entity(h, bare, func(l *Local, e *Entity, err error) {
		if e == nil {
			f(l, nil, false, nil)
			return
		}
		f(l, e.account(), e.exists(), err)
	})
}

// Entity runs f under the lock of what is at addr, a bare JID or a domain of h, once it is warm: at once,
// or when it has been read; on l's loop, whichever has read it. e is nil for an address that is known to
// have nothing, and where a service host was taken away; err says why it could not be read. With an
// entity lock held it panics.
func (l *Local) Entity(h *Host, addr jid.JID, f func(l *Local, e *Entity, err error)) {
	e, ok := l.router.Table.lock(l, h, addr)
	if !ok {
		f(l, nil, nil)
		return
	}
	defer e.release(l)
	e.mailbox().call(l, f)
}

// lock takes the lock of what is at addr for l; it is in the table from then on. false: there is nothing.
func (t *Table) lock(l *Local, h *Host, addr jid.JID) (*Entity, bool) {
	for {
		e, ok := t.entity(h, addr)
		if !ok {
			return nil, false
		}
		e.lock(l)
		if e.resident != goneMark {
			return e, true
		}
		e.unlock(l)
	}
}

// call runs f under e's lock once e is warm: at once, or when it has been read; on l's loop, whichever
// loop has read it. err says why e could not be read. The lock is held at the call and at the return.
func (e mailbox) call(l *Local, f func(l *Local, e *Entity, err error)) {
	if w := e.waits; (w == nil || !w.running && w.inbox.empty()) && e.warm() {
		e.used = l.Loop.Tick()
		f(l, e.Entity, nil)
		return
	}
	e.putCall(call{f, l})
	e.load(l)
}

// put keeps env for later; false: the inbox is full. What is no stanza has room always: there is no more
// of it than requests that were let in, and sessions that are there. A refusal does not come here.
func (e mailbox) put(env envelope) bool {
	lim := Bounds{inboxCount, inboxBytes}
	if h := e.behaviour(); h != nil && h.Inbox.Count > 0 {
		lim = h.Inbox
	}
	b := &e.busy().inbox
	if env.form == aStanza && (len(b.items)-len(b.calls) >= lim.Count || b.bytes+len(env.bytes) > lim.Bytes) {
		return false
	}
	b.bytes += len(env.bytes)
	b.items = append(b.items, item{envelope: env})
	return true
}

// putCall keeps c for later.
func (e mailbox) putCall(c call) {
	b := &e.busy().inbox
	b.items = append(b.items, item{call: true})
	b.calls = append(b.calls, c)
}

// The bounds of an inbox whose kind says nothing else. What does not fit is answered with
// resource-constraint of type wait.
const (
	inboxCount = 64
	inboxBytes = 256 << 10
)

// next takes the first item; c is what a call calls.
func (b *inbox) next() (it item, c call) {
	it = b.items[0]
	b.items[0] = item{}
	b.items = b.items[1:]
	b.bytes -= len(it.bytes)
	if it.call {
		c = b.calls[0]
		b.calls[0] = call{}
		b.calls = b.calls[1:]
	}
	if len(b.items) == 0 {
		b.items, b.calls = nil, nil
	}
	return it, c
}

// blocked reports whether what comes for e waits in its inbox: something waits there already, e is cold,
// or more of it is under way than it may have.
func (e mailbox) blocked() bool {
	w := e.waits
	return w != nil && (w.running || !w.inbox.empty() || w.out.full()) || !e.warm()
}

// enqueue keeps ev in e's inbox and sees to it that the inbox is worked off. Under the lock.
func (e mailbox) enqueue(l *Local, ev *Stanza) {
	l.stats.Inboxed++
	if !e.put(seal(ev)) {
		l.stats.InboxFull++
		l.stats.Limits["inbox"]++
		ev.unseen = true
		ev.Fail(stanza.ResourceConstraint)
		e.calm()
		return
	}
	ev.carrier = false // it goes on in the inbox
	e.load(l)
}

// load has a worker read what is stored of e, whose lock is held, and then works off the inbox.
func (e mailbox) load(l *Local) {
	w := e.waits
	if w.running || e.warm() && w.out.full() {
		return // what is under way ends, and goes on with the inbox
	}
	w.running = true
	l.stats.Loads++
	j := &loading{e: e.Entity, before: e.id, after: e.ticket, births: l.router.Table.births(e.addr)}
	p := e.host.Profile()
	if e.resident != nil && e.resident.profile != nil { // else a part is what a hook made, not what is stored
		j.old = e.resident.parts
	}
	if !l.do(p, reactor.Disk, func() error {
		return j.read(l.router, p)
	}, func(err error) { e.loaded(l, j, err) }) {
		// The disk's queue is full: what waits is told so, in its order.
		l.Loop.Post(func() { e.loaded(l, j, ErrBusy) })
	}
}

// A loading is one read of an entity.
type loading struct {
	e      *Entity
	before uint64 // its id then
	after  Ticket // what the read must see
	births uint32
	old    []any // parts that are in memory

	id   uint64
	kind KindID
	got  *resident
}

// read reads e. A worker.
func (j *loading) read(r *Router, p *Profile) (err error) {
	addr := j.e.addr
	if err = r.Durable.Await(j.after); err != nil {
		r.Log.Warn("a commit failed; the entity is read again", "jid", addr.String(), "err", err)
	}
	snap := r.Durable.Snapshot()
	if c, ok := snap.(interface{ Close() error }); ok {
		defer c.Close()
	}
	j.got = &p.absent
	id, kind, ok, err := r.Directory.Entity(snap, addr)
	if err != nil || !ok {
		return err
	}
	if j.kind = kindNamed(kind); !j.e.host.service && j.kind != Accounts {
		j.kind = 0
		return nil // only accounts are addressed on a host where users log in
	}
	old := j.old
	if j.id = id; id != j.before {
		old = nil // they are of an entity that was deleted
	}
	j.got, err = p.read(snap, j.kind, Who{addr, id}, old)
	return err
}

// loaded takes over what a loading has read, and works off the inbox.
func (e mailbox) loaded(l *Local, j *loading, err error) {
	l.enter()
	defer l.leave()
	e.lock(l)
	switch {
	case err != nil:
		l.Log.Error("an entity could not be read", "jid", e.addr.String(), "err", err)
	case e.resident != goneMark:
		err = e.took(l, j)
	}
	r := reading{births: j.births, err: err}
	if err != nil && e.waits != nil {
		r.failed = len(e.waits.inbox.items)
	}
	e.workOff(l, r)
	e.unlock(l)
}

// A reading is what came of a load, for those that waited for it.
type reading struct {
	births uint32 // of the table, before it
	err    error  // nil: it was read
	failed int    // how many items, the first of the inbox, have waited for a load that failed
}

// took is take, with a panic in a function of e's kind as its error: e could not be read.
func (e mailbox) took(l *Local, j *loading) (err error) {
	err = errTake
	defer func() {
		if err != nil {
			e.resident = nil
		}
	}()
	defer l.within(e.Entity)
	e.take(l, j)
	return nil
}

var errTake = errors.New("session: a panic in Behaviour.New")

// take makes what j has read the resident set of e.
func (e mailbox) take(l *Local, j *loading) {
	e.used = l.Loop.Tick()
	switch {
	case e.id == 0 && e.kind != 0 && e.kind != Accounts && !j.got.exists:
		r := &resident{profile: e.host.Profile(), exists: true} // it lives in memory only
		if e.resident != nil {
			r.parts = e.resident.parts
		}
		e.resident = r
		return
	case e.id != 0 && (!j.got.exists || e.id != j.id): // it was deleted, and the name may be another's by now
		e.resident = nil // hooks have nothing to look at
		if a := e.account(); a != nil {
			a.forget(l)
		} else if e.live != nil {
			e.ended(l)
		}
		if e.kind != Accounts {
			e.live = nil
		}
		if e.id = 0; e.waits != nil {
			e.waits.timer = 0
		}
	}
	e.resident = j.got
	if !j.got.exists {
		if e.kind != Accounts {
			e.kind = 0
		}
		return
	}
	if j.id != 0 {
		e.id = j.id
	}
	e.kind = j.kind
	e.renew(l)
}

// workOff runs what waits in e's inbox, in order, an item under the lock each, with the mail of one
// routed before the next, until it is empty or e has to wait again; then an e where there is nothing
// leaves the table. Items that waited for a load that failed get its error; for those behind them e is
// read again. A call of another loop runs there, and what comes after it follows from there. The lock is
// held at the call and at the return, not in between.
func (e mailbox) workOff(l *Local, r reading) {
	for n := 0; e.waits != nil; n++ {
		w := e.waits
		switch {
		case e.resident == goneMark:
			e.rehome(l)
			return
		case w.inbox.empty():
			w.running = false
			e.calm()
			e.leaveIfNothing(l, r)
			return
		case r.err != nil && r.failed <= 0:
			r.err = nil // the rest came after that load
			continue
		case r.err == nil && !e.warm():
			// A panic or a failed commit dropped what was read: the rest waits for the next load.
			w.running = false
			e.load(l)
			return
		case r.err == nil && w.out.full():
			w.running = false
			return
		case n >= inboxShare && e.handOver(l, r):
			return // the loop's sockets come first
		}
		w.running = true
		if w.inbox.items[0].call {
			if h := w.inbox.calls[0].home; h != l {
				if e.handOver(h, r) {
					return
				}
				w.inbox.next() // its loop has ended, and what it is for
				r.failed--
				continue
			}
		}
		it, c := w.inbox.next()
		r.failed--
		if it.call {
			e.calls(l, c, r.err)
		} else {
			e.open(l, &it.envelope, r.err)
		}
		l.mail.deliver()
		e.lock(l)
	}
	e.leaveIfNothing(l, r)
}

// leaveIfNothing takes e out of the table if there is nothing at its address, or it could not be read.
func (e mailbox) leaveIfNothing(l *Local, r reading) {
	if e.resident != goneMark && (r.err != nil || e.warm() && !e.resident.exists) && e.waits == nil &&
		e.cold(l) && e.pins == 0 {
		l.router.Table.drop(e.Entity, r.err == nil, r.births)
	}
}

// inboxShare is how much of one inbox a loop works off before it looks at its sockets.
const inboxShare = 32

// calls runs c under e's lock, which is held at the call and not at the return. A panic ends it alone.
func (e mailbox) calls(l *Local, c call, err error) {
	defer l.boundary(newFrame(l, e.addr, nil))
	c.f(l, e.Entity, err)
	e.unlock(l)
}

// rehome hands what waits for e, which has left the table, to what has its address now: a deleted account
// is not brought back. The lock is held at the call and at the return, not in between.
func (e mailbox) rehome(l *Local) {
	b := e.waits.inbox
	e.waits.inbox = inbox{}
	e.waits.running = false
	e.calm()
	e.unlock(l)
	for len(b.items) > 0 {
		it, c := b.next()
		switch {
		case it.call:
			h := c.home
			h.Loop.Post(func() { h.Enter(func() { h.Entity(e.host, e.addr, c.f) }) })
		case it.fresh: // its session has ended
		default:
			l.mail.add(it.envelope, it.bytes)
		}
	}
	l.mail.deliver()
	e.lock(l)
}

// first puts stanzas in front of e's inbox that it had taken before: they were held back for a session
// that has ended. They have room, as they had it there. Under the lock.
func (e mailbox) first(l *Local, held []heldElement) {
	var items []item
	for _, h := range held {
		if !h.to.IsZero() && h.kind != stanza.Presence {
			items = append(items, item{envelope: envelope{from: h.from, to: h.to, hops: 1, bytes: h.bytes}})
		}
	}
	if len(items) == 0 {
		return
	}
	w := e.busy()
	for i := range items {
		w.inbox.bytes += len(items[i].bytes)
	}
	w.inbox.items = append(items, w.inbox.items...)
	e.resume(l)
}

// resume has the inbox worked off, if nothing does. Under the lock.
func (e mailbox) resume(l *Local) {
	w := e.waits
	if w.running || w.inbox.empty() || w.out.full() {
		return
	}
	w.running = e.handOver(l, reading{})
}

// handOver has l go on with the inbox in another turn; false: that loop has ended.
func (e mailbox) handOver(l *Local, r reading) bool {
	return l.Loop.Post(func() { e.takeOver(l, r) })
}

// takeOver goes on with an inbox that another loop was working off.
func (e mailbox) takeOver(l *Local, r reading) {
	l.enter()
	defer l.leave()
	e.lock(l)
	e.workOff(l, r)
	e.unlock(l)
}

// ErrBusy: a worker queue is full.
var ErrBusy = errBusy{}

type errBusy struct{}

func (errBusy) Error() string { return "session: the workers have no room" }

// release, deferred, gives the lock of e back, also after a panic, which goes on to the boundary around
// it: what is stored of e is read again then.
func (e *Entity) release(l *Local) {
	r := recover()
	if r != nil {
		e.spoilt(l)
	}
	e.unlock(l)
	if r != nil {
		panic(r)
	}
}

// idle reports whether e may leave memory as far as the kernel knows: nothing waits, nothing is under
// way, and what is in memory is stored.
func (e *Entity) idle(r *Router) bool {
	return e.waits == nil && e.straight == 0 && e.pins == 0 && e.ticket <= r.Durable.Durable() &&
		e.resident != goneMark
}

// cold reports whether the live state of e may be dropped.
func (e *Entity) cold(l *Local) (cold bool) {
	if a := e.account(); a != nil {
		return len(a.sessions) == 0
	}
	b := e.behaviour()
	if b == nil || b.Cold == nil || e.live == nil {
		return true
	}
	defer l.within(e)
	return b.Cold(e)
}

// Arm has [Behaviour.Timer] called at that tick, under the lock; 0: never. There is one timer: a second call
// replaces the first. An armed entity stays in memory. Under the lock, on the loop of l.
func (e *Entity) Arm(l *Local, at reactor.Tick) {
	if at == 0 {
		if e.waits != nil {
			e.waits.timer = 0
			e.calm()
		}
		return
	}
	w := e.busy()
	w.timer = at
	if w.wakes != 0 && w.wakes <= at {
		return // it will look again then
	}
	w.wakes = at
	l.After(at-l.Loop.Tick(), func() {
		e.lock(l)
		defer e.release(l)
		timerDue(e, l, at)
	})
}

// timerDue is called at the tick at, for which e was armed once. Under the lock.
func timerDue(e *Entity, l *Local, at reactor.Tick) {
	w := e.waits
	if w == nil || w.wakes != at || e.resident == goneMark {
		return // it was armed for an earlier one, or is gone
	}
	w.wakes = 0
	switch {
	case w.timer == 0:
		e.calm()
		return
	case w.timer > l.Loop.Tick():
		e.Arm(l, w.timer) // it was armed again
		return
	}
	w.timer = 0
	run := func(l *Local, e *Entity, err error) {
		if e == nil {
			return // its host was taken away
		}
		b := e.behaviour()
		switch {
		case err != nil:
			e.Arm(l, l.Loop.Tick()+timerAgain)
		case e.exists() && b != nil && b.Timer != nil:
			b.Timer(l, e)
		}
	}
	if e.warm() && !w.running && w.inbox.empty() {
		defer e.calm() // it keeps e in memory no longer, whatever Timer does
		run(l, e, nil)
		return
	}
	e.mailbox().call(l, run)
}

// timerAgain is how much later the timer of an entity is due that could not be read, in ticks.
const timerAgain = 100

// sweepEvery is between two looks at one shard each: all of them within a minute and a half.
const sweepEvery = 3 // ticks

// coldAfter is how long an entity without live state is kept after its last stanza, in ticks of 100 ms.
const coldAfter = 600

// OnTimer sweeps the next of this loop's shards: entities that no stanza has asked for leave memory.
func (l *Local) OnTimer(*reactor.Loop) {
	l.enter()
	defer l.leave()
	l.Loop.Arm(&l.sweeper, l.Loop.Tick()+sweepEvery, l)
	n := len(l.router.locals)
	l.sweepAt = (l.sweepAt + n) % shards
	l.sweep(l.sweepAt + l.Loop.Index()%n)
}

func (l *Local) sweep(i int) {
	now := l.Loop.Tick()
	l.swept = l.router.Table.Entities(i, l.swept[:0])
	for _, e := range l.swept {
		e.lock(l)
		if e.idle(l.router) && (e.resident == nil || !e.exists() || now-e.used > coldAfter) && e.cold(l) {
			l.router.Table.drop(e, false, 0)
		}
		e.unlock(l)
	}
	clear(l.swept)
}
