package session

import (
	"errors"

	"canto/reactor"
	"canto/session/jid"
	"canto/session/stanza"
)

// This file is the receiving side of an Entity. The terms:
//
//   - An Entity (the Go object) may exist for an address with nothing at it. It is said below that "the
//     address has no entity", or that the Entity is absent (exists returns false).
//   - The resident set has the stored parts of an entity in memory. An Entity with a current set is warm,
//     else it is cold.
//   - In flight are the stanzas that the entity has sent and that no loop has delivered yet (outgoing.go). An
//     entity with too many in flight (outgoingState.full) takes no stanza: each could make it send more.
//   - The negative cache of the Table has the addresses that are known to have no entity.
//   - The creation epoch counts the entities made in a part of the Table. An absence that a worker has read
//     enters the negative cache only if the epoch is still the same.
//
// How a stanza reaches an entity: routeStanza and forward (route.go) lock the entity. If its hooks may run
// they run at once, else the stanza is copied into the entity's inbox (enqueue) and a worker loads the
// resident set (load, loadJob.read). The loop that started the load takes the result (onLoaded) and drains
// the inbox (drain): one item at a time, in order, each under the lock. A drain stops when the inbox is
// empty, when the entity is cold again, or when it has too much in flight; it goes on later (resumeDrain).
// pendingState.draining is set from the start of a load or a drain until its end: no other loop begins one.

// A mailbox is an [Entity] in its role as a receiver: the methods that queue and drain its inbox and that
// load its resident set. They need the entity's lock, unless their comment says otherwise.
type mailbox struct{ *Entity }

// An inbox is the queue of stanzas and calls that wait for one entity, oldest first. The entity's lock
// guards it.
type inbox struct {
	items []inboxItem
	calls []inboxCall // one for each item with isCall, in the same order
	bytes int         // sum of the lengths of the stanzas
}

// An inboxItem is a stanza, or stands for the next of inbox.calls.
type inboxItem struct {
	envelope
	isCall bool
}

// An inboxCall is a function that waits until the entity is warm: the binding of a resource, a timer, the
// function given to WithEntity. f gets the error of a failed load.
type inboxCall struct {
	f    func(l *LoopRouter, e *Entity, err error)
	loop *LoopRouter // f runs on this loop; if the loop has ended f is never called
}

// empty reports whether nothing waits in the inbox.
func (b *inbox) empty() bool { return len(b.items) == 0 }

// WithAccount calls f under the lock of the account at the bare JID of h, a host with logins, once its
// resident set is in memory: before WithAccount returns if the set is there, else later on the same loop.
// f is not called if that loop ends before. exists is false if there is no such account: then a is nil if
// the address is in the negative cache, else an Account without id. err is not nil if the set could not be
// read; a is not nil then, and exists says nothing. On l's loop. It panics if the loop holds an entity lock.
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

// WithEntity calls f under the lock of the entity at addr, a bare JID or a domain of h, once it is warm:
// before WithEntity returns if it is, else later on the same loop. f is not called if that loop ends before.
// e is nil if the address is in the negative cache, or if h is no longer served. A warm e may also be an
// Entity whose address has no entity. err is not nil if the entity could not be read. On l's loop. It panics
// if the loop holds an entity lock (Entity.lock).
func (l *LoopRouter) WithEntity(h *Host, addr jid.JID, f func(l *LoopRouter, e *Entity, err error)) {
	e, ok := l.router.Table.lockEntity(l, h, addr)
	if !ok {
		f(l, nil, nil)
		return
	}
	defer e.unlockOrRepanic(l)
	e.mailbox().runWarm(l, f)
}

// lockEntity returns the Entity at addr, locked for l, and adds a cold one to the table if there is none. It
// returns false for an address in the negative cache, and if the service host h is no longer served. An
// Entity that was evicted between the look-up and the lock is looked up again.
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

// runWarm calls f under e's lock once e is warm and the items that wait in the inbox are done: at once,
// or later on l's loop, whichever loop drains the inbox. A warm e with an empty inbox does not let f wait
// for what e has in flight; once f is in the inbox, it waits with the other items. err is not nil if e
// could not be read. The lock is held when runWarm is called and when it returns.
func (e mailbox) runWarm(l *LoopRouter, f func(l *LoopRouter, e *Entity, err error)) {
	if w := e.pending; (w == nil || !w.draining && w.inbox.empty()) && e.warm() {
		e.lastUsed = l.Loop.Tick()
		f(l, e.Entity, nil)
		return
	}
	e.pushCall(inboxCall{f, l})
	e.load(l)
}

// push appends env to the inbox. It returns false if env is a stanza and the inbox is full; the entity's kind
// may set the bound. Other envelopes are always taken, though they count: replies to requests of the
// account's own sessions, a session's request for more stored elements, and an entity's offer of more
// (envelopeForm). Their number is bounded by the requests and the sessions. push keeps env.bytes.
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

// pushCall appends c to the inbox. Calls do not count against the inbox's bound: each belongs to a bind, a
// timer or a session, and those are bounded.
func (e mailbox) pushCall(c inboxCall) {
	b := &e.ensurePending().inbox
	b.items = append(b.items, inboxItem{isCall: true})
	b.calls = append(b.calls, c)
}

// The bounds of an inbox, if EntityHandler.Inbox sets no others. They limit the memory that senders can fill
// for one cold address. A stanza that does not fit is answered with resource-constraint, type wait.
const (
	inboxCount = 64
	inboxBytes = 256 << 10
)

// pop removes the first item; c is its call, if it is one.
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

// mustQueue reports whether a stanza that arrives for e has to wait in its inbox: others wait
// there, e is cold, or e has too much in flight.
func (e mailbox) mustQueue() bool {
	w := e.pending
	return w != nil && (w.draining || !w.inbox.empty() || w.outgoing.full()) || !e.warm()
}

// enqueue copies ev into e's inbox and makes sure that the inbox is drained: it starts a load if none is
// running. If the inbox is full, ev is answered with resource-constraint; ev.unprocessed lets that answer
// pass the stanzas that wait in the sender's own inbox.
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
	ev.settlesOrigin = false // the end of the copy, not of ev, lets the client's stanza be acknowledged
	ev.senderTicket = 0
	e.load(l)
}

// load makes a worker read e's resident set, and drains the inbox after it. It does nothing if a load or a
// drain is under way, or if e is warm and has too much in flight: the delivery of that continues the drain.
// If the workers' queue for the disk is full, the load fails with ErrBusy in the loop's next turn, and the
// items of the inbox get that error. Needs e.pending.
func (e mailbox) load(l *LoopRouter) {
	w := e.pending
	if w.draining || e.warm() && w.outgoing.full() {
		return
	}
	w.draining = true
	l.stats.Loads++
	l.loads++
	j := &loadJob{e: e.Entity, oldID: e.id, mustSee: e.ticket,
		creationEpoch: l.router.Table.creationEpoch(e.addr)}
	p := e.host.Profile()
	// An invalidated set has no profile. Parts that a hook has put into it since are not those of the store.
	if e.resident != nil && e.resident.profile != nil {
		j.oldParts = e.resident.parts
	}
	if !l.runOnWorker(p, reactor.Disk, func() error {
		return j.read(l.router, p)
	}, func(err error) { e.onLoaded(l, j, err) }) {
		// The disk's queue is full.
		l.Loop.Post(func() { e.onLoaded(l, j, ErrBusy) })
	}
}

// A loadJob is one load of an entity. The loop fills the first fields under the entity's lock, a worker
// reads them and fills the rest, and onLoaded takes the result on the loop.
type loadJob struct {
	e             *Entity
	oldID         uint64 // the entity's id at the start
	mustSee       Ticket // the read begins after this ticket is settled: it sees what the entity wrote
	creationEpoch uint32 // of the address's part of the Table, at the start
	oldParts      []any  // parts that are in memory already and are kept

	id     uint64       // 0: there is nothing at the address
	kind   KindID       // of what is stored
	result *residentSet // not nil if read has returned no error
}

// read looks the address up in the directory and loads the parts of the resident set, all from
// one snapshot of the store. p is the profile of the entity's host. It waits for the entity's last ticket
// first; even if that has failed, the stored state is read. An address without an entity, or with one that
// its host can't have, gets p.absentSet, whose exists is false. It runs on a worker, under no lock, and may
// block.
func (j *loadJob) read(r *Router, p *Profile) (err error) {
	addr := j.e.addr
	if err = r.Committer.Await(j.mustSee); err != nil {
		r.Log.Warn("a commit failed; the entity is read again", "jid", addr.String(), "err", err)
	}
	snap := r.Committer.Snapshot()
	defer func() {
		if c, ok := snap.(interface{ Close() error }); ok {
			c.Close()
		}
	}()
	j.result = &p.absentSet
	id, kind, ok, err := r.Directory.Lookup(snap, addr)
	if err != nil || !ok {
		return err
	}
	if j.kind = kindByName(kind); !j.e.host.service && j.kind != KindAccount {
		j.kind = 0
		return nil // a host with logins has accounts only; this row is from a time when it was a service
	}
	if moved, err := p.moveRows(r, snap, EntityRef{addr, id}); err != nil {
		return err
	} else if moved {
		if c, ok := snap.(interface{ Close() error }); ok {
			c.Close()
		}
		snap = r.Committer.Snapshot()
	}
	old := j.oldParts
	if j.id = id; id != j.oldID {
		old = nil // these parts belong to an entity that was deleted
	}
	j.result, err = p.loadParts(snap, j.kind, EntityRef{addr, id}, old)
	return err
}

// onLoaded installs what j has read, and drains the inbox. If the load failed with err, the items
// that waited for it get the error. On the loop that started the load, under no lock.
func (e mailbox) onLoaded(l *LoopRouter, j *loadJob, err error) {
	l.enter()
	defer l.leave()
	l.loads--
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

// A loadResult tells a drain how the preceding load has ended. The zero value: there was none.
type loadResult struct {
	creationEpoch uint32 // of the address's part of the Table, before the load
	err           error  // nil: the entity was read
	failed        int    // how many items, from the head of the inbox, get err
}

// tryInstall is install, followed by the Loaded hooks, except that a panic in EntityHandler.New or in a hook
// becomes errInstall: e is cold then, as if it could not be read.
func (e mailbox) tryInstall(l *LoopRouter, j *loadJob) (err error) {
	err = errInstall
	defer func() {
		if err != nil {
			e.resident = nil
		}
	}()
	defer l.recoverLocked(e.Entity)
	e.install(l, j)
	if a := e.account(); a != nil && j.result.exists {
		for _, h := range a.host.Profile().Hooks.Loaded.hooks {
			h.f(l, a)
		}
	}
	return nil
}

// errInstall is the error of a load after which EntityHandler.New or a Loaded hook has panicked.
var errInstall = errors.New("session: a panic after an entity was read")

// install makes what j has read the resident set of e:
//
//   - An entity that a stanza has created in memory (Stanza.Create; never an account), and of which nothing
//     is stored, stays as it is.
//   - If e had an id, and the store has nothing at the address, or another id, then that entity was deleted.
//     Its sessions, or its live state, are ended; the address may belong to a new entity.
//   - Then the set is installed, with the kind and the id that are stored, and the live state is made if the
//     kind has one. If the address has no entity the kind is 0. The live value of an account is the Account
//     itself, and its kind is always KindAccount: these stay.
func (e mailbox) install(l *LoopRouter, j *loadJob) {
	e.lastUsed = l.Loop.Tick()
	switch {
	case e.id == 0 && e.kind != 0 && e.kind != KindAccount && !j.result.exists:
		r := &residentSet{profile: e.host.Profile(), exists: true}
		if e.resident != nil {
			r.parts = e.resident.parts
		}
		e.resident = r
		return
	case e.id != 0 && (!j.result.exists || e.id != j.id): // it was deleted
		e.resident = nil // so that no hook reads parts of the deleted entity
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
		orphanAsks(e.Entity)
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

// drain runs the items of e's inbox in order, each under the lock, with its mail routed before the next
// item. The lock is held when drain is called and when it returns, but it is released in between: runCall and
// processItem unlock e. It stops
//
//   - when the inbox is empty: then e is removed from the table if its address has no entity;
//   - when e was evicted, because its service host was removed: requeueAtSuccessor;
//   - when e is cold, after a panic or a failed commit: another load is started;
//   - when e has too much in flight: resumeDrain continues, after a delivery;
//   - after inboxBudget items: it continues in the loop's next turn, after sockets were polled;
//   - at a call that belongs to another loop: that loop runs the call and drains the rest. If that loop has
//     ended the call is dropped, and this loop goes on.
//
// In the last two cases pendingState.draining stays set, for the drain that was posted. Items that waited for
// a load that failed get its error; the items after them wait for another load.
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
			r.err = nil // the rest arrived after that load
			continue
		case r.err == nil && !e.warm():
			// A panic or a failed commit has invalidated e.
			w.draining = false
			e.load(l)
			return
		case r.err == nil && w.outgoing.full():
			w.draining = false
			return
		case n >= inboxBudget && e.drainOn(l, r):
			return
		}
		w.draining = true
		if w.inbox.items[0].isCall {
			if target := w.inbox.calls[0].loop; target != l {
				if e.drainOn(target, r) {
					return
				}
				w.inbox.pop() // its loop has ended: drop the call
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

// evictIfAbsent removes e from the table if its address has no entity, or if it could not be read. In the
// first case the address goes into the negative cache, unless an entity was created since the load began. e
// stays while something is pending, while commits or awaited requests pin it, or while its kind needs its
// live state (liveStateDroppable).
func (e mailbox) evictIfAbsent(l *LoopRouter, r loadResult) {
	if e.resident != evictedMark && (r.err != nil || e.warm() && !e.resident.exists) && e.pending == nil &&
		e.liveStateDroppable(l) && e.pins == 0 {
		l.router.Table.remove(e.Entity, r.err == nil, r.creationEpoch)
	}
}

// inboxBudget is how many items of one inbox a loop drains before it polls its sockets: a bounded
// share of a turn for each inbox.
const inboxBudget = 32

// runCall runs c under e's lock. The lock is held when it is called and released when it returns. A panic
// ends only this call; recoverPanic then invalidates and unlocks the entity that the loop holds.
func (e mailbox) runCall(l *LoopRouter, c inboxCall, err error) {
	defer l.recoverPanic(newPanicFrame(l, e.addr, nil))
	c.f(l, e.Entity, err)
	e.unlock(l)
}

// requeueAtSuccessor looks the address of e, which was evicted, up again for each item of its inbox. Calls
// are posted to their loops; stanzas are routed again as mail; the order between the two is lost. Stanzas
// of an account's own clients (prePending; an account is evicted so when it was deleted) are dropped, because
// their sessions have ended. The lock is
// held when it is called and when it returns, but it is released in between.
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
			target := c.loop
			target.Loop.Post(func() { target.Enter(func() { target.WithEntity(e.host, e.addr, c.f) }) })
		case it.prePending:
		default:
			l.mail.add(it.envelope, it.bytes)
		}
	}
	l.mail.deliver()
	e.lock(l)
}

// pushFront puts unsent stanzas of a session that was removed at the head of e's inbox: they are routed
// again, as sent on once (hops), before newer stanzas. The bound of the inbox does not hold for them, as the
// bound of the session's outbox held. Presence is dropped, and so are elements that the server itself
// originated, which have no address.
func (e mailbox) pushFront(l *LoopRouter, unsent []queuedElement) {
	var items []inboxItem
	for _, q := range unsent {
		if !q.to.IsZero() && q.kind != stanza.Presence {
			items = append(items, inboxItem{envelope: envelope{from: q.from, to: q.to, hops: 1, bytes: q.bytes,
				number: q.number, archived: q.archived, again: true}})
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

// resumeDrain continues the drain of e's inbox in the loop's next turn, if items wait, no load or drain is
// under way, and e has not too much in flight. Needs e.pending.
func (e mailbox) resumeDrain(l *LoopRouter) {
	w := e.pending
	if w.draining || w.inbox.empty() || w.outgoing.full() {
		return
	}
	w.draining = e.drainOn(l, loadResult{})
}

// drainOn posts the rest of a drain to the loop of l. It returns false if that loop has ended.
func (e mailbox) drainOn(l *LoopRouter, r loadResult) bool {
	return l.Loop.Post(func() { e.continueDrain(l, r) })
}

// continueDrain is the function that drainOn posts. On l's loop, under no lock.
func (e mailbox) continueDrain(l *LoopRouter, r loadResult) {
	l.enter()
	defer l.leave()
	e.lock(l)
	e.drain(l, r)
	e.unlock(l)
}

// ErrBusy is the error of work that was not started because the queue of the workers is full, and of a
// request that was not sent because too many have no answer yet ([LoopRouter.Ask]).
var ErrBusy = errBusy{}

type errBusy struct{}

// Error implements error.
func (errBusy) Error() string {
	return "session: the queue of the workers is full, or too many requests have no answer"
}

// unlockOrRepanic must be deferred. It releases the lock of e. After a panic it also invalidates e, as a
// change may be half done, and panics again: the panic boundary further out handles it.
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

// bounce answers q, an unsent element of a session of a, with a stanza error. It is for elements that must
// not be routed again. Those of a deleted account are one case: another account may have its name by now, so
// they are answered like stanzas to an address without an account (RFC 6121 section 8.5.1). Presence is
// dropped, and so are elements that the server itself originated. Under the account's lock, on l's loop.
func bounce(l *LoopRouter, a *Account, q queuedElement, c stanza.Condition) {
	if q.to.IsZero() || q.kind == stanza.Presence {
		return
	}
	el, err := l.Parser.Element(q.bytes)
	if err != nil {
		l.Log.Error("a queued stanza does not parse", "jid", q.to.String(), "err", err)
		return
	}
	defer l.Parser.Release(el)
	ev := l.stanzas.push(l)
	defer l.stanzas.pop()
	env := envelope{from: q.from, to: q.to, kind: q.kind, hops: 1}
	env.fillStanza(l, ev, el)
	ev.Host = a.host
	ev.Fail(c)
}
