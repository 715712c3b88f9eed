package session

import (
	"slices"

	"canto/session/jid"
	"canto/session/stanza"
	"canto/xmlstream"
)

// add makes w wait for its ticket. If that is settled already, w runs in the loop's next turn:
// not at once, because the hooks of the present stanza are not done.
func (c *commitWaiterList) add(w commitWaiter) {
	c.waiters = append(c.waiters, w)
	if w.ticket <= c.l.router.Committer.LastSettled() {
		c.l.Loop.Post(c.settleFunc)
	}
}

// await runs f on the loop, under no lock, when t is settled.
func (c *commitWaiterList) await(t Ticket, f func(err error)) {
	c.add(commitWaiter{ticket: t, callback: f})
}

// WhenDurable calls f on the loop of l, under no lock, when t is settled: err is nil if it is durable. On the
// loop.
func WhenDurable(l *LoopRouter, t Ticket, f func(err error)) { l.commitWaiters.await(t, f) }

// lastTicket returns the greatest ticket that is waited for.
func (c *commitWaiterList) lastTicket() (t Ticket) {
	for _, w := range c.waiters {
		t = max(t, w.ticket)
	}
	return t
}

// waitsUpTo reports whether t, or a ticket before it, is waited for.
func (c *commitWaiterList) waitsUpTo(t Ticket) bool {
	return slices.ContainsFunc(c.waiters, func(w commitWaiter) bool { return w.ticket <= t })
}

// settleAll runs the waiters with settled tickets, in the order in which they were added. It
// stops at the first with a ticket that is not settled. A waiter after that one with an older ticket
// waits a little longer: until the next group of batches is settled. The committer posts it to
// the loop after each group.
func (c *commitWaiterList) settleAll() {
	l := c.l
	last := l.router.Committer.LastSettled()
	n := 0
	for n < len(c.waiters) && c.waiters[n].ticket <= last {
		w := c.waiters[n]
		c.waiters[n] = commitWaiter{}
		n++
		l.enter()
		err := l.router.commitError(w.ticket, w.creationTicket)
		if err == nil && w.senderTicket != 0 {
			if err = l.router.Committer.Err(w.senderTicket); err != nil {
				w.entity = nil // what it has stored is stored
			}
		}
		w.run(l, err)
		l.leave()
	}
	left := copy(c.waiters, c.waiters[n:])
	// Clear the rest, or the array would keep settled stanzas in memory.
	clear(c.waiters[left:])
	c.waiters = c.waiters[:left]
}

// commitError returns why the batch t has failed, or the batch that created its entity. Both are
// settled.
func (r *Router) commitError(t, creation Ticket) error {
	err := r.Committer.Err(t)
	if err == nil && creation != 0 {
		err = r.Committer.Err(creation)
	}
	return err
}

// run continues after the commit of w, which has ended with err. A failed commit invalidates the
// entity. then is called under the entity's lock, unless the entity was deleted in the meantime:
// then the stanza is answered as if it had never existed. A panic ends only what has waited. On
// the loop, under no lock.
func (w commitWaiter) run(l *LoopRouter, err error) {
	if w.st != nil {
		defer w.st.unpark(parkedWork)
	}
	defer l.recoverPanic(newPanicFrame(l, jid.JID{}, w.ev))
	if w.callback != nil {
		w.callback(err)
		return
	}
	if w.stored.settlesOrigin {
		w.stored.origin.settle(l, w.stored.originLoopNumber, err)
		return
	}
	if w.stored.bytes != nil {
		if err != nil {
			w.fail(l, err)
		}
		l.commitWaiters.giveBack(w.stored.bytes)
		return
	}
	if w.then == nil && err == nil {
		return
	}
	if w.ev != nil {
		l.origin, l.originLoopNumber = w.ev.origin, w.ev.originLoopNumber
		defer w.ev.finish(l)
	}
	e := w.entity
	if e == nil {
		w.ev.loopRouter = l
		w.then(w.ev, err)
		return
	}
	e.lock(l)
	if w.then != nil {
		e.pins--
	}
	if err != nil {
		e.invalidate()
	}
	switch {
	case w.then == nil:
	case e.resident == evictedMark: // it was deleted
		w.ev.loopRouter, w.ev.entity = l, e
		failDeleted(w.ev)
	default:
		w.ev.loopRouter, w.ev.entity = l, e
		w.then(w.ev, err)
		writeBatch(w.ev)
	}
	e.unlock(l)
}

// Commit ends an iq handler that has changed memory and given the change to the store with ticket
// t. The client's input is parked until t is settled. Then then is called, under the entity's
// lock on the loop that ran the handler, even if the session has ended. With a nil error it
// replies; with an error the entity was invalidated, and it calls [Stanza.FailCommit]. Commit
// returns the Verdict for the handler. Under the lock.
func (ev *Stanza) Commit(t Ticket, then func(ev *Stanza, err error) Verdict) Verdict {
	return ev.awaitCommit(t, ev.stream, then, true)
}

// Stored ends the handling of a stanza that was given to the store with ticket t, and that has no
// answer if t succeeds. If t fails the sender gets an error, and the entity is invalidated.
// Nothing is parked. Under the lock.
func (ev *Stanza) Stored(t Ticket) Verdict {
	ev.stored = true
	return ev.loopRouter.commitWaiters.awaitStored(ev, t, false)
}

// awaitStored is awaitCommit for a stanza that is answered only if t fails; with silent it is not answered
// then either, and the entity is invalidated. It allocates nothing once the loop's buffers are warm.
func (c *commitWaiterList) awaitStored(ev *Stanza, t Ticket, silent bool) Verdict {
	l, e := c.l, ev.entity
	var creation Ticket
	if e != nil {
		e.ticket = max(e.ticket, t)
		creation = creationTicketOf(e)
	}
	addWrite(ev, t, creation)
	if t <= l.router.Committer.LastSettled() {
		err := l.router.commitError(t, creation)
		if err != nil {
			if e != nil {
				e.invalidate()
			}
			if !silent {
				return ev.FailCommit(err)
			}
		}
		return Done
	}
	w := commitWaiter{ticket: t, creationTicket: creation, entity: e}
	if !silent {
		w.senderTicket, ev.senderTicket = ev.senderTicket, 0
		w.stored = valuesOf(ev)
		w.stored.bytes = ev.Element.Append(c.buffer(), xmlstream.Streamed)
		w.stored.settlesOrigin = false // ev settles it, after t
	}
	c.add(w)
	ev.replied = true // a failure is answered later
	return Done
}

// fail answers the stored stanza of w, whose commit has failed with err. Under no lock.
func (w commitWaiter) fail(l *LoopRouter, err error) {
	el, perr := l.Parser.Element(w.stored.bytes)
	if perr != nil {
		return
	}
	defer l.Parser.Release(el)
	ev := l.stanzas.push(l)
	defer l.stanzas.pop()
	w.stored.fillStanza(l, ev, el)
	l.origin, l.originLoopNumber = ev.origin, ev.originLoopNumber
	defer func() { l.origin, l.originLoopNumber = Origin{}, 0 }()
	e := w.entity
	if e == nil {
		ev.FailCommit(err)
		return
	}
	ev.Host = e.host
	e.lock(l)
	e.invalidate()
	ev.entity = e
	if e.resident == evictedMark { // it was deleted
		failDeleted(ev)
	} else {
		ev.FailCommit(err)
	}
	e.unlock(l)
}

// buffer returns an empty buffer for the bytes of a stored stanza.
func (c *commitWaiterList) buffer() []byte {
	if n := len(c.buffers); n > 0 {
		b := c.buffers[n-1]
		c.buffers = c.buffers[:n-1]
		return b
	}
	return make([]byte, 0, 512)
}

// giveBack makes b free for another stanza. Large buffers, and more than a group of commits needs, are left
// to the garbage collector.
func (c *commitWaiterList) giveBack(b []byte) {
	if cap(b) <= 4096 && len(c.buffers) < 1024 {
		c.buffers = append(c.buffers, b[:0])
	}
}

// awaitCommit is Commit for a stream st, which is parked until t is settled; nil: none. settles
// says that the callback, not the present hooks, ends the way of ev: it settles the origin then.
// If t is settled already, then is called at once.
func (ev *Stanza) awaitCommit(t Ticket, st *Stream, then func(ev *Stanza, err error) Verdict,
	settles bool) Verdict {
	l, e := ev.loopRouter, ev.entity
	var creation Ticket
	if e != nil {
		e.ticket = max(e.ticket, t)
		creation = creationTicketOf(e)
	}
	addWrite(ev, t, creation)
	if t <= l.router.Committer.LastSettled() {
		err := l.router.commitError(t, creation)
		if err != nil && e != nil {
			e.invalidate()
		}
		return then(ev, err)
	}
	w := commitWaiter{ticket: t, creationTicket: creation, ev: ev.Clone(), entity: e, st: st, then: then}
	if e != nil {
		e.pins++
	}
	if settles {
		transferOrigin(ev, w.ev)
	}
	if w.st != nil {
		w.st.park(parkedWork)
	}
	l.commitWaiters.add(w)
	ev.replied = true // then will answer
	return Done
}

// FailCommit answers ev after a failed commit: with resource-constraint if the store is full,
// else with internal-server-error.
func (ev *Stanza) FailCommit(err error) Verdict {
	if full, ok := err.(interface{ Full() bool }); ok && full.Full() {
		return ev.Fail(stanza.ResourceConstraint)
	}
	return ev.Fail(stanza.InternalServerError)
}

// MarkUncommitted notes that e's memory is newer than the store until t is settled, for a change
// that no stanza has asked for. If t fails e is invalidated. Under the lock, on the loop of l.
func (e *Entity) MarkUncommitted(l *LoopRouter, t Ticket) {
	e.ticket = max(e.ticket, t)
	if t <= l.router.Committer.LastSettled() && l.router.Committer.Err(t) == nil {
		return
	}
	l.commitWaiters.add(commitWaiter{ticket: t, entity: e})
}

// An Outcome is what became of a stanza at the entity that it was for.
type Outcome struct {
	Delivered int  // number of sessions that took it, or a copy of it
	Stored    bool // it is stored for later delivery
	Refused   bool // its sender got an error
	Answered  bool // its sender was answered as work took too long (Await): another answer is dropped
}

// Outcome returns what became of ev so far. It is complete in phase [Record]. Under the lock.
func (ev *Stanza) Outcome() Outcome {
	return Outcome{Delivered: int(ev.deliveredCount), Stored: ev.stored, Refused: ev.failed,
		Answered: ev.noReply}
}

// DeliveredTo reports whether s took ev. In phase [Record], under the account's lock.
func (ev *Stanza) DeliveredTo(s *Session) bool {
	for _, t := range ev.deliveredTo {
		if t == s {
			return true
		}
	}
	return false
}

// Batch returns the batch for all that modules store of ev at the locked entity. The kernel
// commits it after the hooks that run under this lock. If that fails the sender gets an error,
// and the entity is invalidated. Its type is the store's: package storage converts it. Only in a
// hook at an entity that is stored; else it panics.
func (ev *Stanza) Batch() any {
	if ev.entity == nil || ev.entity.id == 0 {
		panic("session: Batch of what is not stored")
	}
	if ev.batch == nil {
		ev.batch = ev.loopRouter.router.Committer.NewBatch(ev.entity.id)
	}
	return ev.batch
}

// StoredInBatch ends the handling of a stanza that was put into its Batch for later delivery. It
// returns Done. Under the lock.
func (ev *Stanza) StoredInBatch() Verdict {
	ev.stored = true
	return Done
}

// writeBatch commits the batch of ev, if there is one, for the locked entity. If it fails the
// sender gets an error, unless ev has its answer already or will get one (RFC 6120 section
// 8.2.3). Under the lock.
func writeBatch(ev *Stanza) {
	b := ev.batch
	if b == nil {
		return
	}
	replied, failed := ev.replied, ev.failed
	ev.batch = nil
	l := ev.loopRouter
	l.commitWaiters.awaitStored(ev, l.router.Committer.Commit(b), replied || ev.noReply)
	if ev.failed == failed {
		ev.replied = replied // if the stanza is forwarded, its recipient may still answer it
	}
}

// addWrite notes that ev has made an entity store something with ticket t. creation is the ticket
// of the batch that creates the entity, 0 if that is durable.
func addWrite(ev *Stanza, t, creation Ticket) {
	for ev.successor != nil {
		ev = ev.successor
	}
	if ev.settlesOrigin && t > ev.lastWrite {
		ev.lastWrite, ev.creationTicket = t, creation
	}
}

// transferOrigin lets k, a copy of ev that is kept, settle the origin instead of ev. What hooks
// store for ev after that counts for k too.
func transferOrigin(ev, k *Stanza) {
	if ev.settlesOrigin {
		k.settlesOrigin, ev.settlesOrigin, ev.successor = true, false, k
	}
}

// writeSenderBatch commits the batch of ev, a message from a client, for the locked account of its sender,
// before ev goes on. If that fails later, the account is invalidated, and ev is answered where its way ends:
// so a message gets one error, whatever fails of it. It returns false if the batch has failed at once, and ev
// has its answer. Under the lock.
func writeSenderBatch(ev *Stanza) (onward bool) {
	l, e := ev.loopRouter, ev.entity
	t := l.router.Committer.Commit(ev.batch)
	ev.batch = nil
	e.ticket = max(e.ticket, t)
	addWrite(ev, t, 0)
	if t > l.router.Committer.LastSettled() {
		ev.senderTicket = t
		l.commitWaiters.add(commitWaiter{ticket: t, entity: e})
		return true
	}
	if err := l.router.Committer.Err(t); err != nil {
		e.invalidate()
		ev.FailCommit(err)
		return false
	}
	return true
}

// awaitSender ends the way of ev, of which its sender's account has stored something: if that fails, ev is
// answered. It has no other answer. On the loop of l, under no lock.
func (c *commitWaiterList) awaitSender(ev *Stanza) {
	t := ev.senderTicket
	ev.senderTicket = 0
	if ev.failed || ev.noReply {
		return
	}
	w := commitWaiter{ticket: t}
	w.stored = valuesOf(ev)
	w.stored.bytes = ev.Element.Append(c.buffer(), xmlstream.Streamed)
	w.stored.settlesOrigin = false
	c.add(w)
}

// finish ends the way of ev. If ev settles an origin it does so, after the last write that ev has
// caused is settled. Every Stanza that was routed is finished once; further calls do nothing. On
// the loop of l.
func (ev *Stanza) finish(l *LoopRouter) {
	if ev.senderTicket != 0 {
		l.commitWaiters.awaitSender(ev)
	}
	l.origin, l.originLoopNumber = Origin{}, 0
	if !ev.settlesOrigin {
		return
	}
	ev.settlesOrigin = false
	if ev.lastWrite == 0 {
		ev.origin.settle(l, ev.originLoopNumber, nil)
		return
	}
	w := commitWaiter{ticket: ev.lastWrite, creationTicket: ev.creationTicket}
	w.stored.origin, w.stored.originLoopNumber, w.stored.settlesOrigin = ev.origin, ev.originLoopNumber, true
	l.commitWaiters.add(w)
}
