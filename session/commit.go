package session

import (
	"slices"

	"canto/session/jid"
	"canto/session/stanza"
)

// add has w wait. What is settled by now goes on in the loop's next turn: not at once, as the hooks of
// the present stanza go on with what they have.
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

// lastTicket is the last ticket that something waits for.
func (c *commitWaiterList) lastTicket() (t Ticket) {
	for _, w := range c.waiters {
		t = max(t, w.ticket)
	}
	return t
}

// waitsUpTo reports whether something waits for t or a ticket before it.
func (c *commitWaiterList) waitsUpTo(t Ticket) bool {
	return slices.ContainsFunc(c.waiters, func(w commitWaiter) bool { return w.ticket <= t })
}

// settleAll runs, in the order in which it was added, what waited for tickets that are settled by now. It
// stops at the first that is not: one behind that with an older ticket waits with it, no longer than
// until the store has settled what it was given by then.
func (c *commitWaiterList) settleAll() {
	l := c.l
	last := l.router.Committer.LastSettled()
	n := 0
	for n < len(c.waiters) && c.waiters[n].ticket <= last {
		w := c.waiters[n]
		c.waiters[n] = commitWaiter{}
		n++
		l.enter()
		w.run(l, l.router.commitError(w.ticket, w.creationTicket))
		l.leave()
	}
	left := copy(c.waiters, c.waiters[n:])
	// else what is settled would be kept by the array: stanzas, and what their answers need
	clear(c.waiters[left:])
	c.waiters = c.waiters[:left]
}

// commitError is why t has failed, or the batch that made its entity; both are settled.
func (r *Router) commitError(t, born Ticket) error {
	err := r.Committer.Err(t)
	if err == nil && born != 0 {
		err = r.Committer.Err(born)
	}
	return err
}

// run goes on with w, whose commit has ended with err. A panic in what was waiting ends that alone.
func (w commitWaiter) run(l *LoopRouter, err error) {
	if w.st != nil {
		defer w.st.unpark(parkedWork)
	}
	defer l.recoverPanic(newPanicFrame(l, jid.JID{}, w.ev))
	if w.callback != nil {
		w.callback(err)
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
	case e.resident == evictedMark: // it was deleted meanwhile
		w.ev.loopRouter, w.ev.entity = l, e
		failDeleted(w.ev)
	default:
		w.ev.loopRouter, w.ev.entity = l, e
		w.then(w.ev, err)
		writeBatch(w.ev)
	}
	e.unlock(l)
}

// Commit ends an iq handler that changed memory and gave the change to the store. The client's input
// waits until t is settled. then runs under the lock on the loop that has run the handler, which need not
// be the stream's, also when the session is gone: with nil, and it replies; with an error, and the entity
// is read again and the answer is an error, which [Stanza.FailCommit] gives.
func (ev *Stanza) Commit(t Ticket, then func(ev *Stanza, err error) Verdict) Verdict {
	return ev.awaitCommit(t, ev.stream, then, true)
}

// Stored ends the handling of a stanza that was given to the store, and that has no answer unless t fails:
// then its sender is told, and the entity is read again. Nothing waits for it.
func (ev *Stanza) Stored(t Ticket) Verdict {
	ev.stored = true
	return ev.awaitCommit(t, nil, failStored, false)
}

func failStored(ev *Stanza, err error) Verdict {
	if err != nil {
		return ev.FailCommit(err)
	}
	return Done
}

// awaitCommit is Commit; st, if there is one, takes no element until t is settled. ends: the way of ev ends
// with then.
func (ev *Stanza) awaitCommit(t Ticket, st *Stream, then func(ev *Stanza, err error) Verdict,
	ends bool) Verdict {
	l, e := ev.loopRouter, ev.entity
	var born Ticket
	if e != nil {
		e.ticket = max(e.ticket, t)
		born = creationTicketOf(e)
	}
	ev.addWrite(t, born)
	if t <= l.router.Committer.LastSettled() {
		err := l.router.commitError(t, born)
		if err != nil && e != nil {
			e.invalidate()
		}
		return then(ev, err)
	}
	w := commitWaiter{ticket: t, creationTicket: born, ev: ev.Clone(), entity: e, st: st, then: then}
	if e != nil {
		e.pins++
	}
	if ends {
		transferOrigin(ev, w.ev)
	}
	if w.st != nil {
		w.st.park(parkedWork)
	}
	l.commitWaiters.add(w)
	ev.replied = true // then sees to it
	return Done
}

// FailCommit answers ev for a commit that failed: resource-constraint for a store without room,
// else internal-server-error.
func (ev *Stanza) FailCommit(err error) Verdict {
	if full, ok := err.(interface{ Full() bool }); ok && full.Full() {
		return ev.Fail(stanza.ResourceConstraint)
	}
	return ev.Fail(stanza.InternalServerError)
}

// MarkUncommitted remembers that e's memory is newer than the store until t is settled, for a change that
// no stanza asked for. If t fails e is read again. Under the lock, on the loop of l.
func (e *Entity) MarkUncommitted(l *LoopRouter, t Ticket) {
	e.ticket = max(e.ticket, t)
	if t <= l.router.Committer.LastSettled() && l.router.Committer.Err(t) == nil {
		return
	}
	l.commitWaiters.add(commitWaiter{ticket: t, entity: e})
}

// An Outcome is what became of a stanza at the entity that it has arrived at.
type Outcome struct {
	Delivered int  // sessions that have it, or hold it back for their client
	Stored    bool // it is stored for later
	Refused   bool // its sender is told that it was not delivered
}

// Outcome is what became of ev so far; it is complete in phase [Record].
func (ev *Stanza) Outcome() Outcome {
	return Outcome{Delivered: int(ev.deliveredCount), Stored: ev.stored, Refused: ev.failed}
}

// DeliveredTo reports whether s has ev. In phase [Record], under the account's lock.
func (ev *Stanza) DeliveredTo(s *Session) bool {
	for _, t := range ev.deliveredTo {
		if t == s {
			return true
		}
	}
	return false
}

// Batch is what all modules store of ev at the entity whose lock is held: one batch, which is given to
// the store after the hooks that run under this lock. If it fails, the sender is told and the entity is
// read again. What it is, the store says: package storage has it by its type. In a hook of a chain of
// an entity that is stored; elsewhere it panics.
func (ev *Stanza) Batch() any {
	if ev.entity == nil || ev.entity.id == 0 {
		panic("session: Batch of what is not stored")
	}
	if ev.batch == nil {
		ev.batch = ev.loopRouter.router.Committer.NewBatch(ev.entity.id)
	}
	return ev.batch
}

// StoredInBatch ends the handling of a stanza that was put into its Batch, to be delivered later: see
// [Stanza.Stored].
func (ev *Stanza) StoredInBatch() Verdict {
	ev.stored = true
	return Done
}

// writeBatch gives the batch of ev, if there is one, to the store, for the entity whose lock is held. If
// it fails the sender is told, unless it has an answer already, or the promise of one (RFC 6120 §8.2.3).
func writeBatch(ev *Stanza) {
	b := ev.batch
	if b == nil {
		return
	}
	then, replied := failStored, ev.replied
	if replied {
		then = failSilently
	}
	failed := ev.failed
	ev.batch = nil
	ev.awaitCommit(ev.loopRouter.router.Committer.Commit(b), nil, then, false)
	if ev.failed == failed {
		ev.replied = replied // where the stanza goes on, what comes next may answer it
	}
}

func failSilently(*Stanza, error) Verdict { return Done }

// A stanza that a tracked stream has sent is settled when everything that the server does with it has
// been done, and what it made entities store is durable or has failed. A module that acknowledges stanzas
// (XEP-0198 §4) may say so for no more than the longest settled prefix: what was not acknowledged is sent
// again.
//
// The stanza carries its [Origin], values only, through its sender's inbox, on to its recipient and
// through that one's inbox. What an entity stores because of it is a pledge: the ticket of
// [Stanza.Commit], [Stanza.Stored] or of the batch of phase [Record]. Where the stanza ends, the last of
// its tickets is waited for, and the loop of its stream is told once. What it sets off (broadcasts,
// probes, copies, answers) has the same origin and pledges nothing.

// maxUnsettled is how many stanzas of one stream may be open: above it nothing more is read from it.
const maxUnsettled = 1024

// Track numbers the stanzas that st takes from now on, from 1, and has the hooks Settled called when more
// of them are settled. On the stream's loop, once it is bound.
func (st *Stream) Track() {
	l := st.loop
	if l.ackWindows == nil {
		l.ackWindows = make(map[uint64]*ackWindow)
	}
	if l.ackWindows[st.id] == nil {
		l.ackWindows[st.id] = &ackWindow{st: st}
		st.bits |= bitTracked
	}
}

// Settled is the number of the last stanza of st before which, itself included, all are settled; 0 for a
// stream that is not tracked. On the stream's loop.
func (st *Stream) Settled() uint32 {
	if d := st.loop.ackWindows[st.id]; d != nil {
		return d.settledNumber
	}
	return 0
}

// assign gives ev, which st has just read, the next number.
func (d *ackWindow) assign(ev *Stanza) {
	d.lastNumber++
	d.entries = append(d.entries, ackEntry{open: true})
	ev.origin.Number, ev.settlesOrigin = d.lastNumber, true
	if len(d.entries) == maxUnsettled {
		d.st.park(parkedUnsettled)
	}
}

// settle closes the entry of that number.
func (d *ackWindow) settle(number uint32, err error) {
	if number <= d.settledNumber || number > d.lastNumber {
		return
	}
	e := &d.entries[number-d.settledNumber-1]
	e.open, e.failed = false, err != nil
	n, failed := 0, 0
	for n < len(d.entries) && !d.entries[n].open {
		if d.entries[n].failed {
			failed++
		}
		n++
	}
	if n == 0 {
		return
	}
	full := len(d.entries) >= maxUnsettled
	d.settledNumber += uint32(n)
	d.entries = append(d.entries[:0], d.entries[n:]...)
	if full && len(d.entries) < maxUnsettled {
		d.st.unpark(parkedUnsettled)
	}
	if st := d.st; st.sess != nil && st.state != Closing {
		d.notifySettled(failed)
	}
}

// notifySettled runs the Settled hooks. A panic ends the stream alone, whichever stanza has set them off: its
// client can't be told what was handled any more.
func (d *ackWindow) notifySettled(failed int) {
	st, l := d.st, d.st.loop
	at := newPanicFrame(l, st.Peer(), nil)
	at.lockedEntity = l.lockedEntity
	defer func() {
		if r := recover(); r != nil {
			l.handlePanic(r, at)
			st.Close(ErrInternal)
		}
	}()
	c := &st.host.Profile().Hooks.Settled
	for i := range c.hooks {
		c.hooks[i].f(st, d.settledNumber, failed)
	}
}

// addWrite notes that ev makes an entity store something with t; born is of the batch that made the entity,
// see [commitWaiter].
func (ev *Stanza) addWrite(t, born Ticket) {
	for ev.successor != nil {
		ev = ev.successor
	}
	if ev.settlesOrigin && t > ev.lastWrite {
		ev.lastWrite, ev.creationTicket = t, born
	}
}

// transferOrigin has the way of ev end where that of k does, a copy of ev that is kept for later: what k
// stores then is a pledge too, and so is what hooks store of ev behind the one that has made k.
func transferOrigin(ev, k *Stanza) {
	if ev.settlesOrigin {
		k.settlesOrigin, ev.settlesOrigin, ev.successor = true, false, k
	}
}

// finish is the end of ev's way. If it carries an origin, the origin's loop is told when all that it
// pledged is settled.
func (ev *Stanza) finish(l *LoopRouter) {
	l.origin, l.originLoopNumber = Origin{}, 0
	if !ev.settlesOrigin {
		return
	}
	ev.settlesOrigin = false
	origin, home := ev.origin, ev.originLoopNumber
	if ev.lastWrite == 0 {
		origin.settle(l, home, nil)
		return
	}
	l.commitWaiters.add(commitWaiter{ticket: ev.lastWrite, creationTicket: ev.creationTicket,
		callback: func(err error) {
			origin.settle(l, home, err)
		}})
}

// settle has the ledger of o, which is on the loop home, settle o.
func (o Origin) settle(l *LoopRouter, home uint16, err error) {
	r := l.router
	if home == 0 || int(home) > len(r.loopRouters) || o.Stream.Node != r.Node ||
		o.Stream.Incarnation != r.Incarnation {
		return
	}
	at := r.loopRouters[home-1]
	f := func() {
		if d := at.ackWindows[o.Stream.ID]; d != nil {
			d.settle(o.Number, err)
		}
	}
	if at == l {
		f()
		return
	}
	at.Loop.Post(func() { at.Enter(f) })
}
