package session

import (
	"slices"

	"canto/session/jid"
	"canto/session/stanza"
)

// A Ticket numbers what was given to the store; tickets grow and become durable in order. Zero is
// durable already.
type Ticket uint64

// Durable is the committer as the kernel sees it; tests have one that is durable at once. Any
// goroutine.
type Durable interface {
	// Durable is the last ticket that is settled: it and all before it are durable or have failed.
	Durable() Ticket
	// Err is why a settled ticket failed; nil: it is durable.
	Err(t Ticket) error
	// Notify has f called after each batch was settled, on the committer's goroutine.
	Notify(f func())
	// Await blocks until t is settled, and returns its Err. For workers.
	Await(t Ticket) error
	// Full reports whether the store is known to refuse writes for want of room.
	Full() bool
	// NewBatch is a batch of the entity with that id, and Commit gives it to the store: see [Stanza.Batch].
	NewBatch(id uint64) any
	Commit(batch any) Ticket
	// Snapshot is what the loaders of one resident set read from. One that has a Close is closed.
	Snapshot() any
}

// A Directory knows what there is at an address: a bare JID, or a domain. On a worker.
type Directory interface {
	// Entity is the id and the kind of what is at addr; false: nothing.
	Entity(snap any, addr jid.JID) (id uint64, kind string, ok bool, err error)
}

// A wait is what depends on a commit: a stanza's answer, or with f something else.
type wait struct {
	ticket Ticket
	born   Ticket // of the batch that made at: what was committed behind it fails with it
	ev     *Stanza
	at     *Entity
	st     *Stream
	then   func(ev *Stanza, err error) Verdict
	f      func(err error)
}

// commits are what waits on a loop for commits that are not settled. The loop's.
type commits struct {
	l      *Local
	list   []wait // in the order of their tickets
	settle func() // settleAll: made once, posted often
}

// add has w wait. What is settled by now goes on in the loop's next turn: not at once, as the hooks of the present
// stanza go on with what they have.
func (c *commits) add(w wait) {
	c.list = append(c.list, w)
	if w.ticket <= c.l.router.Durable.Durable() {
		c.l.Loop.Post(c.settle)
	}
}

// await runs f on the loop, under no lock, when t is settled.
func (c *commits) await(t Ticket, f func(err error)) { c.add(wait{ticket: t, f: f}) }

// last is the last ticket that something waits for.
func (c *commits) last() (t Ticket) {
	for _, w := range c.list {
		t = max(t, w.ticket)
	}
	return t
}

// waiting reports whether something waits for t or a ticket before it.
func (c *commits) waiting(t Ticket) bool {
	return slices.ContainsFunc(c.list, func(w wait) bool { return w.ticket <= t })
}

// settleAll runs, in order, what waited for tickets that are settled by now.
func (c *commits) settleAll() {
	l := c.l
	l.enter()
	defer l.leave()
	last := l.router.Durable.Durable()
	n := 0
	for n < len(c.list) && c.list[n].ticket <= last {
		w := c.list[n]
		c.list[n] = wait{}
		n++
		w.settled(l, l.router.failure(w.ticket, w.born))
		l.mail.deliver()
	}
	c.list = append(c.list[:0], c.list[n:]...)
}

// failure is why t has failed, or the batch that made its entity; both are settled.
func (r *Router) failure(t, born Ticket) error {
	err := r.Durable.Err(t)
	if err == nil && born != 0 {
		err = r.Durable.Err(born)
	}
	return err
}

// settled goes on with w, whose commit has ended with err. A panic in what was waiting ends that alone.
func (w wait) settled(l *Local, err error) {
	if w.st != nil {
		defer w.st.unpark(parkedWork)
	}
	defer l.boundary(newFrame(l, jid.JID{}, w.ev))
	if w.f != nil {
		w.f(err)
		return
	}
	if w.then == nil && err == nil {
		return
	}
	if w.ev != nil {
		l.origin, l.originLoop = w.ev.origin, w.ev.loop
		defer w.ev.land(l)
	}
	e := w.at
	if e == nil {
		w.ev.on = l
		w.then(w.ev, err)
		return
	}
	e.lock(l)
	if w.then != nil {
		e.pins--
	}
	if err != nil {
		e.unlike()
	}
	switch {
	case w.then == nil:
	case e.resident == goneMark: // it was deleted meanwhile
		w.ev.on, w.ev.at = l, e
		orphaned(w.ev)
	default:
		w.ev.on, w.ev.at = l, e
		w.then(w.ev, err)
		writeBatch(w.ev)
	}
	e.unlock(l)
}

// Commit ends an iq handler that changed memory and gave the change to the store. The client's input
// waits until t is settled. then runs on the stream's loop under the lock, also when the session is
// gone: with nil, and it replies; with an error, and the entity is read again and the answer is an
// error, which [Stanza.FailCommit] gives.
func (ev *Stanza) Commit(t Ticket, then func(ev *Stanza, err error) Verdict) Verdict {
	return ev.commit(t, ev.stream, then)
}

// Kept ends the handling of a stanza that was given to the store, and that has no answer unless t fails: then its
// sender is told, and the entity is read again. Nothing waits for it.
func (ev *Stanza) Kept(t Ticket) Verdict {
	ev.kept = true
	return ev.commit(t, nil, failKept)
}

func failKept(ev *Stanza, err error) Verdict {
	if err != nil {
		return ev.FailCommit(err)
	}
	return Done
}

// commit is Commit; st, if there is one, takes no element until t is settled.
func (ev *Stanza) commit(t Ticket, st *Stream, then func(ev *Stanza, err error) Verdict) Verdict {
	l, e := ev.on, ev.at
	ev.pledge(t)
	var born Ticket
	if e != nil {
		e.ticket = max(e.ticket, t)
		born = bornOf(e)
	}
	if t <= l.router.Durable.Durable() {
		err := l.router.failure(t, born)
		if err != nil && e != nil {
			e.unlike()
		}
		return then(ev, err)
	}
	w := wait{ticket: t, born: born, ev: ev.Keep(), at: e, st: st, then: then}
	if e != nil {
		e.pins++
	}
	if w.st != nil {
		w.st.park(parkedWork)
	}
	l.commits.add(w)
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
