package session

import (
	"slices"

	"canto/session/jid"
	"canto/session/stanza"
)

// add has w wait. What is settled by now goes on in the loop's next turn: not at once, as the hooks of
// the present stanza go on with what they have.
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

// settleAll runs, in the order in which it was added, what waited for tickets that are settled by now. It
// stops at the first that is not: one behind that with an older ticket waits with it, no longer than
// until the store has settled what it was given by then.
func (c *commits) settleAll() {
	l := c.l
	last := l.router.Durable.Durable()
	n := 0
	for n < len(c.list) && c.list[n].ticket <= last {
		w := c.list[n]
		c.list[n] = wait{}
		n++
		l.enter()
		w.settled(l, l.router.failure(w.ticket, w.born))
		l.leave()
	}
	left := copy(c.list, c.list[n:])
	clear(c.list[left:]) // else what is settled would be kept by the array: stanzas, and what their answers need
	c.list = c.list[:left]
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
// waits until t is settled. then runs under the lock on the loop that has run the handler, which need not
// be the stream's, also when the session is gone: with nil, and it replies; with an error, and the entity
// is read again and the answer is an error, which [Stanza.FailCommit] gives.
func (ev *Stanza) Commit(t Ticket, then func(ev *Stanza, err error) Verdict) Verdict {
	return ev.commit(t, ev.stream, then, true)
}

// Kept ends the handling of a stanza that was given to the store, and that has no answer unless t fails:
// then its sender is told, and the entity is read again. Nothing waits for it.
func (ev *Stanza) Kept(t Ticket) Verdict {
	ev.kept = true
	return ev.commit(t, nil, failKept, false)
}

func failKept(ev *Stanza, err error) Verdict {
	if err != nil {
		return ev.FailCommit(err)
	}
	return Done
}

// commit is Commit; st, if there is one, takes no element until t is settled. ends: the way of ev ends
// with then.
func (ev *Stanza) commit(t Ticket, st *Stream, then func(ev *Stanza, err error) Verdict, ends bool) Verdict {
	l, e := ev.on, ev.at
	var born Ticket
	if e != nil {
		e.ticket = max(e.ticket, t)
		born = bornOf(e)
	}
	ev.pledge(t, born)
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
	if ends {
		passOn(ev, w.ev)
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

// Wrote remembers that e's memory is newer than the store until t is settled, for a change that no stanza
// asked for. If t fails e is read again. Under the lock, on the loop of l.
func (e *Entity) Wrote(l *Local, t Ticket) {
	e.ticket = max(e.ticket, t)
	if t <= l.router.Durable.Durable() && l.router.Durable.Err(t) == nil {
		return
	}
	l.commits.add(wait{ticket: t, at: e})
}

// maxOpen is how many stanzas of one stream may be open: above it nothing more is read from it.
const maxOpen = 1024

// A stanza that a tracked stream has sent is settled when everything that the server does with it has
// been done, and what it made entities store is durable or has failed. A module that acknowledges stanzas
// (XEP-0198 §4) may say so for no more than the longest settled prefix: what was not acknowledged is sent
// again.
//
// The stanza carries its [Origin], values only, through its sender's inbox, on to its recipient and
// through that one's inbox. What an entity stores because of it is a pledge: the ticket of
// [Stanza.Commit], [Stanza.Kept] or of the batch of phase [Record]. Where the stanza ends, the last of
// its tickets is waited for, and the loop of its stream is told once. What it sets off (broadcasts,
// probes, copies, answers) has the same origin and pledges nothing.

// Track numbers the stanzas that st takes from now on, from 1, and has the hooks Settled called when more
// of them are settled. On the stream's loop, once it is bound.
func (st *Stream) Track() {
	l := st.loop
	if l.ledgers == nil {
		l.ledgers = make(map[uint64]*ledger)
	}
	if l.ledgers[st.id] == nil {
		l.ledgers[st.id] = &ledger{st: st}
		st.bits |= bitTracked
	}
}

// Settled is the number of the last stanza of st before which, itself included, all are settled; 0 for a
// stream that is not tracked. On the stream's loop.
func (st *Stream) Settled() uint32 {
	if d := st.loop.ledgers[st.id]; d != nil {
		return d.settled
	}
	return 0
}

// take gives ev, which st has just read, the next number.
func (d *ledger) take(ev *Stanza) {
	d.last++
	d.ring = append(d.ring, entry{open: true})
	ev.origin.Number, ev.carrier = d.last, true
	if len(d.ring) == maxOpen {
		d.st.park(parkedPledges)
	}
}

// settle closes the entry of that number.
func (d *ledger) settle(number uint32, err error) {
	if number <= d.settled || number > d.last {
		return
	}
	e := &d.ring[number-d.settled-1]
	e.open, e.failed = false, err != nil
	n, failed := 0, 0
	for n < len(d.ring) && !d.ring[n].open {
		if d.ring[n].failed {
			failed++
		}
		n++
	}
	if n == 0 {
		return
	}
	full := len(d.ring) >= maxOpen
	d.settled += uint32(n)
	d.ring = append(d.ring[:0], d.ring[n:]...)
	if full && len(d.ring) < maxOpen {
		d.st.unpark(parkedPledges)
	}
	if st := d.st; st.sess != nil && st.state != Closing {
		d.tell(failed)
	}
}

// tell runs the Settled hooks. A panic ends the stream alone, whichever stanza has set them off: its
// client can't be told what was handled any more.
func (d *ledger) tell(failed int) {
	st, l := d.st, d.st.loop
	at := newFrame(l, st.Peer(), nil)
	at.held = l.held
	defer func() {
		if r := recover(); r != nil {
			l.panicked(r, at)
			st.Close(ErrInternal)
		}
	}()
	c := &st.host.Profile().Hooks.Settled
	for i := range c.links {
		c.links[i].f(st, d.settled, failed)
	}
}

// pledge notes that ev makes an entity store something with t; born is of the batch that made the entity,
// see [wait].
func (ev *Stanza) pledge(t, born Ticket) {
	for ev.heir != nil {
		ev = ev.heir
	}
	if ev.carrier && t > ev.pledged {
		ev.pledged, ev.born = t, born
	}
}

// passOn has the way of ev end where that of k does, a copy of ev that is kept for later: what k stores
// then is a pledge too, and so is what hooks store of ev behind the one that has made k.
func passOn(ev, k *Stanza) {
	if ev.carrier {
		k.carrier, ev.carrier, ev.heir = true, false, k
	}
}

// land is the end of ev's way. If it carries an origin, the origin's loop is told when all that it
// pledged is settled.
func (ev *Stanza) land(l *Local) {
	l.origin, l.originLoop = Origin{}, 0
	if !ev.carrier {
		return
	}
	ev.carrier = false
	origin, home := ev.origin, ev.loop
	if ev.pledged == 0 {
		origin.tell(l, home, nil)
		return
	}
	l.commits.add(wait{ticket: ev.pledged, born: ev.born, f: func(err error) { origin.tell(l, home, err) }})
}

// tell has the ledger of o, which is on the loop home, settle o.
func (o Origin) tell(l *Local, home uint16, err error) {
	r := l.router
	if home == 0 || int(home) > len(r.locals) || o.Stream.Node != r.Node || o.Stream.Inc != r.Incarnation {
		return
	}
	at := r.locals[home-1]
	f := func() {
		if d := at.ledgers[o.Stream.ID]; d != nil {
			d.settle(o.Number, err)
		}
	}
	if at == l {
		f()
		return
	}
	at.Loop.Post(func() { at.Enter(f) })
}

// An Outcome is what became of a stanza at the entity that it has arrived at.
type Outcome struct {
	Taken   int  // sessions that have it, or hold it back for their client
	Kept    bool // it is stored for later
	Refused bool // its sender is told that it was not delivered
}

// Outcome is what became of ev so far; it is complete in phase [Record].
func (ev *Stanza) Outcome() Outcome {
	return Outcome{Taken: int(ev.taken), Kept: ev.kept, Refused: ev.failed}
}

// TakenBy reports whether s has ev. In phase [Record], under the account's lock.
func (ev *Stanza) TakenBy(s *Session) bool {
	for _, t := range ev.takers {
		if t == s {
			return true
		}
	}
	return false
}

// Batch is what all modules store of ev at the entity whose lock is held: one batch, which is given to
// the store after the hooks that run under this lock. If it fails, the sender is told and the entity is
// read again. What it is, the store says: package mod/storage has it by its type. In a hook of a chain of
// an entity that is stored; elsewhere it panics.
func (ev *Stanza) Batch() any {
	if ev.at == nil || ev.at.id == 0 {
		panic("session: Batch of what is not stored")
	}
	if ev.batch == nil {
		ev.batch = ev.on.router.Durable.NewBatch(ev.at.id)
	}
	return ev.batch
}

// KeptInBatch ends the handling of a stanza that was put into its Batch, to be delivered later: see
// [Stanza.Kept].
func (ev *Stanza) KeptInBatch() Verdict {
	ev.kept = true
	return Done
}

// writeBatch gives the batch of ev, if there is one, to the store, for the entity whose lock is held. If
// it fails the sender is told, unless it has an answer already, or the promise of one (RFC 6120 §8.2.3).
func writeBatch(ev *Stanza) {
	b := ev.batch
	if b == nil {
		return
	}
	then, replied := failKept, ev.replied
	if replied {
		then = failSilently
	}
	failed := ev.failed
	ev.batch = nil
	ev.commit(ev.on.router.Durable.Commit(b), nil, then, false)
	if ev.failed == failed {
		ev.replied = replied // where the stanza goes on, what comes next may answer it
	}
}

func failSilently(*Stanza, error) Verdict { return Done }
