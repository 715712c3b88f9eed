package session

import (
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
	// Snapshot is what the loaders of one resident set read from. One that has a Close is closed.
	Snapshot() any
}

// A Directory knows which accounts there are. On a worker.
type Directory interface {
	Account(snap any, bare jid.JID) (id uint64, ok bool, err error)
}

// A wait is a stanza whose answer depends on a commit.
type wait struct {
	ticket Ticket
	ev     *Stanza
	acct   *Account
	st     *Stream
	then   func(ev *Stanza, err error) Verdict
}

// settleWaits runs, in order, what waited for tickets that are settled by now.
func (l *Local) settleWaits() {
	l.enter()
	defer l.leave()
	last := l.router.Durable.Durable()
	n := 0
	for n < len(l.waits) && l.waits[n].ticket <= last {
		w := l.waits[n]
		l.waits[n] = wait{}
		n++
		if w.then == nil {
			l.missed(w)
			continue
		}
		l.settled(w)
	}
	l.waits = append(l.waits[:0], l.waits[n:]...)
}

// settled goes on with w. A panic in what was waiting ends that stanza alone, which is answered.
func (l *Local) settled(w wait) {
	defer func() {
		if r := recover(); r != nil {
			l.panicked(r, w.ev.From)
			l.failed(w.ev)
			l.deliverMail()
		}
	}()
	if w.st != nil {
		defer w.st.unpark(parkedWork)
	}
	err := l.router.Durable.Err(w.ticket)
	if w.acct != nil {
		l.lock(&w.acct.Entity)
		w.acct.Unpin()
		if err != nil {
			w.acct.unlike()
		}
	}
	w.ev.on = l
	w.ev.at = nil
	w.ev.acct = w.acct
	if w.acct != nil {
		w.ev.at = &w.acct.Entity
	}
	if w.acct == nil || w.acct.resident != goneMark { // else the account was deleted, and its sessions ended
		w.then(w.ev, err)
	} else {
		l.orphaned(w.ev, w.acct)
	}
	if w.acct != nil {
		l.unlock()
	}
	l.deliverMail()
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
func (ev *Stanza) Kept(t Ticket) Verdict { return ev.commit(t, nil, failKept) }

func failKept(ev *Stanza, err error) Verdict {
	if err != nil {
		return ev.FailCommit(err)
	}
	return Done
}

// commit is Commit; st, if there is one, takes no element until t is settled.
func (ev *Stanza) commit(t Ticket, st *Stream, then func(ev *Stanza, err error) Verdict) Verdict {
	l := ev.on
	if ev.acct != nil {
		ev.acct.ticket = max(ev.acct.ticket, t)
	}
	if t <= l.router.Durable.Durable() {
		err := l.router.Durable.Err(t)
		if err != nil && ev.acct != nil {
			ev.acct.unlike()
		}
		return then(ev, err)
	}
	w := wait{ticket: t, ev: ev.Keep(), acct: ev.acct, st: st, then: then}
	if w.acct != nil {
		w.acct.Pin()
	}
	if w.st != nil {
		w.st.park(parkedWork)
	}
	l.waits = append(l.waits, w)
	return Done
}

// Wrote remembers that a's memory is newer than the store until t is settled, for a change that no stanza asked
// for. If t fails a is read again. Under the lock, on the loop of l.
func (a *Account) Wrote(l *Local, t Ticket) {
	a.ticket = max(a.ticket, t)
	settled := t <= l.router.Durable.Durable()
	if settled && l.router.Durable.Err(t) == nil {
		return
	}
	l.waits = append(l.waits, wait{ticket: t, acct: a})
	if settled {
		l.Loop.Post(l.settle) // not at once: the hooks of this stanza go on with what they have
	}
}

// missed ends the wait for a change that nobody waits for.
func (l *Local) missed(w wait) {
	defer l.contain(w.acct.bare)
	if l.router.Durable.Err(w.ticket) == nil {
		return
	}
	l.lock(&w.acct.Entity)
	w.acct.unlike()
	l.unlock()
}

// unlike makes e cold, as what is in memory is not what is stored.
func (e *Entity) unlike() {
	if e.resident != nil && e.resident != goneMark && e.resident.kind == nil {
		e.resident = &resident{exists: e.resident.exists}
	}
}

// FailCommit answers ev for a commit that failed: resource-constraint for a store without room,
// else internal-server-error.
func (ev *Stanza) FailCommit(err error) Verdict {
	if full, ok := err.(interface{ Full() bool }); ok && full.Full() {
		return ev.Fail(stanza.ResourceConstraint)
	}
	return ev.Fail(stanza.InternalServerError)
}
