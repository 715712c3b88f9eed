package session

import (
	"errors"

	"canto/reactor"
	"canto/session/jid"
	"canto/session/stanza"
)

// A mailbox is an Entity as what takes stanzas in: those that can't be looked at yet wait in its inbox.
// Under the lock, unless a line says otherwise.
type mailbox struct{ *Entity }

// An inbox is what waits for one entity, in order: stanzas, and calls of this process.
type inbox struct {
	items []inboxItem
	calls []inboxCall // one for each item that is a call
	bytes int
}

// An inboxItem is a stanza, or the next of the calls.
type inboxItem struct {
	envelope
	isCall bool
}

// An inboxCall wants the entity warm and its lock.
type inboxCall struct {
	f    func(l *LoopRouter, e *Entity, err error)
	loop *LoopRouter // where f runs
}

func (b *inbox) empty() bool { return len(b.items) == 0 }

// WithAccount runs f under the lock of the account behind bare, once its resident set is in memory: at once,
// or when it has been read; on l's loop, whichever has read it. exists is false for an address without an
// account; err says why the set could not be read. With an entity lock held it panics.
func (l *LoopRouter) WithAccount(h *Host, bare jid.JID, f func(l *LoopRouter, a *Account, exists bool,
	err error)) {
	l.WithEntity(h, bare, func(l *LoopRouter, e *Entity, err error) {
		if e == nil {
			f(l, nil, false, nil)
			return
		}
		f(l, e.account(), e.exists(), err)
	})
}

// WithEntity runs f under the lock of what is at addr, a bare JID or a domain of h, once it is warm: at once,
// or when it has been read; on l's loop, whichever has read it. e is nil for an address that is known to
// have nothing, and where a service host was taken away; err says why it could not be read. With an
// entity lock held it panics.
func (l *LoopRouter) WithEntity(h *Host, addr jid.JID, f func(l *LoopRouter, e *Entity, err error)) {
	e, ok := l.router.Table.lockEntity(l, h, addr)
	if !ok {
		f(l, nil, nil)
		return
	}
	defer e.unlockOrRepanic(l)
	e.mailbox().runWarm(l, f)
}

// lockEntity takes the lock of what is at addr for l; it is in the table from then on. false: there is
// nothing.
func (t *Table) lockEntity(l *LoopRouter, h *Host, addr jid.JID) (*Entity, bool) {
	for {
		e, ok := t.getOrCreate(h, addr)
		if !ok {
			return nil, false
		}
		e.lock(l)
		if e.resident != evictedMark {
			return e, true
		}
		e.unlock(l)
	}
}

// runWarm runs f under e's lock once e is warm: at once, or when it has been read; on l's loop, whichever
// loop has read it. err says why e could not be read. The lock is held at the call and at the return.
func (e mailbox) runWarm(l *LoopRouter, f func(l *LoopRouter, e *Entity, err error)) {
	if w := e.pending; (w == nil || !w.draining && w.inbox.empty()) && e.warm() {
		e.lastUsed = l.Loop.Tick()
		f(l, e.Entity, nil)
		return
	}
	e.pushCall(inboxCall{f, l})
	e.load(l)
}

// push keeps env for later; false: the inbox is full. What is no stanza has room always: there is no more
// of it than requests that were let in, and sessions that are there. A refusal does not come here.
func (e mailbox) push(env envelope) bool {
	lim := Bounds{inboxCount, inboxBytes}
	if h := e.handler(); h != nil && h.Inbox.Count > 0 {
		lim = h.Inbox
	}
	b := &e.ensurePending().inbox
	if env.form == formStanza && (len(b.items)-len(b.calls) >= lim.Count || b.bytes+len(env.bytes) > lim.Bytes) {
		return false
	}
	b.bytes += len(env.bytes)
	b.items = append(b.items, inboxItem{envelope: env})
	return true
}

// pushCall keeps c for later.
func (e mailbox) pushCall(c inboxCall) {
	b := &e.ensurePending().inbox
	b.items = append(b.items, inboxItem{isCall: true})
	b.calls = append(b.calls, c)
}

// The bounds of an inbox whose kind says nothing else. What does not fit is answered with
// resource-constraint of type wait.
const (
	inboxCount = 64
	inboxBytes = 256 << 10
)

// pop takes the first item; c is what a call calls.
func (b *inbox) pop() (it inboxItem, c inboxCall) {
	it = b.items[0]
	b.items[0] = inboxItem{}
	b.items = b.items[1:]
	b.bytes -= len(it.bytes)
	if it.isCall {
		c = b.calls[0]
		b.calls[0] = inboxCall{}
		b.calls = b.calls[1:]
	}
	if len(b.items) == 0 {
		b.items, b.calls = nil, nil
	}
	return it, c
}

// mustQueue reports whether what comes for e waits in its inbox: something waits there already, e is cold,
// or more of it is under way than it may have.
func (e mailbox) mustQueue() bool {
	w := e.pending
	return w != nil && (w.draining || !w.inbox.empty() || w.outgoing.full()) || !e.warm()
}

// enqueue keeps ev in e's inbox and sees to it that the inbox is worked off. Under the lock.
func (e mailbox) enqueue(l *LoopRouter, ev *Stanza) {
	l.stats.Inboxed++
	if !e.push(seal(ev)) {
		l.stats.InboxFull++
		l.stats.Limits["inbox"]++
		ev.unprocessed = true
		ev.Fail(stanza.ResourceConstraint)
		e.releasePending()
		return
	}
	ev.settlesOrigin = false // it goes on in the inbox
	e.load(l)
}

// load has a worker read what is stored of e, whose lock is held, and then works off the inbox.
func (e mailbox) load(l *LoopRouter) {
	w := e.pending
	if w.draining || e.warm() && w.outgoing.full() {
		return // what is under way ends, and goes on with the inbox
	}
	w.draining = true
	l.stats.Loads++
	j := &loadJob{e: e.Entity, oldID: e.id, mustSee: e.ticket,
		creationEpoch: l.router.Table.creationEpoch(e.addr)}
	p := e.host.Profile()
	if e.resident != nil && e.resident.profile != nil { // else a part is what a hook made, not what is stored
		j.oldParts = e.resident.parts
	}
	if !l.runOnWorker(p, reactor.Disk, func() error {
		return j.read(l.router, p)
	}, func(err error) { e.onLoaded(l, j, err) }) {
		// The disk's queue is full: what waits is told so, in its order.
		l.Loop.Post(func() { e.onLoaded(l, j, ErrBusy) })
	}
}

// A loadJob is one read of an entity.
type loadJob struct {
	e             *Entity
	oldID         uint64 // its id then
	mustSee       Ticket // what the read must see
	creationEpoch uint32
	oldParts      []any // parts that are in memory

	id     uint64
	kind   KindID
	result *residentSet
}

// read reads e. A worker.
func (j *loadJob) read(r *Router, p *Profile) (err error) {
	addr := j.e.addr
	if err = r.Committer.Await(j.mustSee); err != nil {
		r.Log.Warn("a commit failed; the entity is read again", "jid", addr.String(), "err", err)
	}
	snap := r.Committer.Snapshot()
	if c, ok := snap.(interface{ Close() error }); ok {
		defer c.Close()
	}
	j.result = &p.absentSet
	id, kind, ok, err := r.Directory.Lookup(snap, addr)
	if err != nil || !ok {
		return err
	}
	if j.kind = kindByName(kind); !j.e.host.service && j.kind != KindAccount {
		j.kind = 0
		return nil // only accounts are addressed on a host where users log in
	}
	old := j.oldParts
	if j.id = id; id != j.oldID {
		old = nil // they are of an entity that was deleted
	}
	j.result, err = p.loadParts(snap, j.kind, EntityRef{addr, id}, old)
	return err
}

// onLoaded takes over what a loading has read, and works off the inbox.
func (e mailbox) onLoaded(l *LoopRouter, j *loadJob, err error) {
	l.enter()
	defer l.leave()
	e.lock(l)
	switch {
	case err != nil:
		l.Log.Error("an entity could not be read", "jid", e.addr.String(), "err", err)
	case e.resident != evictedMark:
		err = e.tryInstall(l, j)
	}
	r := loadResult{creationEpoch: j.creationEpoch, err: err}
	if err != nil && e.pending != nil {
		r.failed = len(e.pending.inbox.items)
	}
	e.drain(l, r)
	e.unlock(l)
}

// A loadResult is what came of a load, for those that waited for it.
type loadResult struct {
	creationEpoch uint32 // of the table, before it
	err           error  // nil: it was read
	failed        int    // how many items, the first of the inbox, have waited for a load that failed
}

// tryInstall is take, with a panic in a function of e's kind as its error: e could not be read.
func (e mailbox) tryInstall(l *LoopRouter, j *loadJob) (err error) {
	err = errInstall
	defer func() {
		if err != nil {
			e.resident = nil
		}
	}()
	defer l.recoverLocked(e.Entity)
	e.install(l, j)
	return nil
}

var errInstall = errors.New("session: a panic in Behaviour.New")

// install makes what j has read the resident set of e.
func (e mailbox) install(l *LoopRouter, j *loadJob) {
	e.lastUsed = l.Loop.Tick()
	switch {
	case e.id == 0 && e.kind != 0 && e.kind != KindAccount && !j.result.exists:
		r := &residentSet{profile: e.host.Profile(), exists: true} // it lives in memory only
		if e.resident != nil {
			r.parts = e.resident.parts
		}
		e.resident = r
		return
	case e.id != 0 && (!j.result.exists || e.id != j.id): // it was deleted, and the name may be another's by now
		e.resident = nil // hooks have nothing to look at
		if a := e.account(); a != nil {
			a.endDeleted(l)
		} else if e.live != nil {
			e.callEnded(l)
		}
		if e.kind != KindAccount {
			e.live = nil
		}
		if e.id = 0; e.pending != nil {
			e.pending.timerAt = 0
		}
	}
	e.resident = j.result
	if !j.result.exists {
		if e.kind != KindAccount {
			e.kind = 0
		}
		return
	}
	if j.id != 0 {
		e.id = j.id
	}
	e.kind = j.kind
	e.ensureLiveState(l)
}

// drain runs what waits in e's inbox, in order, an item under the lock each, with the mail of one
// routed before the next, until it is empty or e has to wait again; then an e where there is nothing
// leaves the table. Items that waited for a load that failed get its error; for those behind them e is
// read again. A call of another loop runs there, and what comes after it follows from there. The lock is
// held at the call and at the return, not in between.
func (e mailbox) drain(l *LoopRouter, r loadResult) {
	for n := 0; e.pending != nil; n++ {
		w := e.pending
		switch {
		case e.resident == evictedMark:
			e.requeueAtSuccessor(l)
			return
		case w.inbox.empty():
			w.draining = false
			e.releasePending()
			e.evictIfAbsent(l, r)
			return
		case r.err != nil && r.failed <= 0:
			r.err = nil // the rest came after that load
			continue
		case r.err == nil && !e.warm():
			// A panic or a failed commit dropped what was read: the rest waits for the next load.
			w.draining = false
			e.load(l)
			return
		case r.err == nil && w.outgoing.full():
			w.draining = false
			return
		case n >= inboxBudget && e.drainOn(l, r):
			return // the loop's sockets come first
		}
		w.draining = true
		if w.inbox.items[0].isCall {
			if h := w.inbox.calls[0].loop; h != l {
				if e.drainOn(h, r) {
					return
				}
				w.inbox.pop() // its loop has ended, and what it is for
				r.failed--
				continue
			}
		}
		it, c := w.inbox.pop()
		r.failed--
		if it.isCall {
			e.runCall(l, c, r.err)
		} else {
			e.processItem(l, &it.envelope, r.err)
		}
		l.mail.deliver()
		e.lock(l)
	}
	e.evictIfAbsent(l, r)
}

// evictIfAbsent takes e out of the table if there is nothing at its address, or it could not be read.
func (e mailbox) evictIfAbsent(l *LoopRouter, r loadResult) {
	if e.resident != evictedMark && (r.err != nil || e.warm() && !e.resident.exists) && e.pending == nil &&
		e.liveStateDroppable(l) && e.pins == 0 {
		l.router.Table.remove(e.Entity, r.err == nil, r.creationEpoch)
	}
}

// inboxBudget is how much of one inbox a loop works off before it looks at its sockets.
const inboxBudget = 32

// runCall runs c under e's lock, which is held at the call and not at the return. A panic ends it alone.
func (e mailbox) runCall(l *LoopRouter, c inboxCall, err error) {
	defer l.recoverPanic(newPanicFrame(l, e.addr, nil))
	c.f(l, e.Entity, err)
	e.unlock(l)
}

// requeueAtSuccessor hands what waits for e, which has left the table, to what has its address now: a
// deleted account is not brought back. The lock is held at the call and at the return, not in between.
func (e mailbox) requeueAtSuccessor(l *LoopRouter) {
	b := e.pending.inbox
	e.pending.inbox = inbox{}
	e.pending.draining = false
	e.releasePending()
	e.unlock(l)
	for len(b.items) > 0 {
		it, c := b.pop()
		switch {
		case it.isCall:
			h := c.loop
			h.Loop.Post(func() { h.Enter(func() { h.WithEntity(e.host, e.addr, c.f) }) })
		case it.prePending: // its session has ended
		default:
			l.mail.add(it.envelope, it.bytes)
		}
	}
	l.mail.deliver()
	e.lock(l)
}

// pushFront puts stanzas in front of e's inbox that it had taken before: they were held back for a session
// that has ended. They have room, as they had it there. Under the lock.
func (e mailbox) pushFront(l *LoopRouter, held []queuedElement) {
	var items []inboxItem
	for _, h := range held {
		if !h.to.IsZero() && h.kind != stanza.Presence {
			items = append(items, inboxItem{envelope: envelope{from: h.from, to: h.to, hops: 1, bytes: h.bytes}})
		}
	}
	if len(items) == 0 {
		return
	}
	w := e.ensurePending()
	for i := range items {
		w.inbox.bytes += len(items[i].bytes)
	}
	w.inbox.items = append(items, w.inbox.items...)
	e.resumeDrain(l)
}

// resumeDrain has the inbox worked off, if nothing does. Under the lock.
func (e mailbox) resumeDrain(l *LoopRouter) {
	w := e.pending
	if w.draining || w.inbox.empty() || w.outgoing.full() {
		return
	}
	w.draining = e.drainOn(l, loadResult{})
}

// drainOn has l go on with the inbox in another turn; false: that loop has ended.
func (e mailbox) drainOn(l *LoopRouter, r loadResult) bool {
	return l.Loop.Post(func() { e.continueDrain(l, r) })
}

// continueDrain goes on with an inbox that another loop was working off.
func (e mailbox) continueDrain(l *LoopRouter, r loadResult) {
	l.enter()
	defer l.leave()
	e.lock(l)
	e.drain(l, r)
	e.unlock(l)
}

// ErrBusy: a worker queue is full.
var ErrBusy = errBusy{}

type errBusy struct{}

func (errBusy) Error() string { return "session: the workers have no room" }

// unlockOrRepanic, deferred, gives the lock of e back, also after a panic, which goes on to the boundary
// around it: what is stored of e is read again then.
func (e *Entity) unlockOrRepanic(l *LoopRouter) {
	r := recover()
	if r != nil {
		e.invalidateAfterPanic(l)
	}
	e.unlock(l)
	if r != nil {
		panic(r)
	}
}

// bounce answers h, which was held back for a session of a, with a stanza error. Where a was deleted that
// is what a stanza to an address without an account gets (RFC 6121 §8.5.1): routed again it might be for
// another of that name.
func bounce(l *LoopRouter, a *Account, h queuedElement, c stanza.Condition) {
	if h.to.IsZero() || h.kind == stanza.Presence {
		return
	}
	e, err := l.Parser.Element(h.bytes)
	if err != nil {
		l.Log.Error("a stanza that was held back does not parse", "jid", h.to.String(), "err", err)
		return
	}
	defer l.Parser.Release(e)
	ev := l.stanzas.push(l)
	defer l.stanzas.pop()
	env := envelope{from: h.from, to: h.to, kind: h.kind, hops: 1}
	env.fillStanza(l, ev, e)
	ev.Host = a.host
	ev.Fail(c)
}
