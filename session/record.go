package session

import "canto/session/stanza"

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

// Batch is what all modules store of ev at the entity whose lock is held: one batch, which is given to the store
// after the hooks that run under this lock. If it fails, the sender is told and the entity is read again. What it
// is, the store says: package mod/storage has it by its type. In a hook of a chain of an entity that is stored;
// elsewhere it panics.
func (ev *Stanza) Batch() any {
	if ev.at == nil || ev.at.id == 0 {
		panic("session: Batch of what is not stored")
	}
	if ev.batch == nil {
		ev.batch = ev.on.router.Durable.NewBatch(ev.at.id)
	}
	return ev.batch
}

// KeptInBatch ends the handling of a stanza that was put into its Batch, to be delivered later: see [Stanza.Kept].
func (ev *Stanza) KeptInBatch() Verdict {
	ev.kept = true
	return Done
}

// records runs run, the chain c of ev at its recipient, and then phase Record of c, whatever run said. A store that is
// known to be full refuses a message before anything of it is delivered.
func records(l *Local, c *Chain[StanzaFunc], ev *Stanza, run func(l *Local, c *Chain[StanzaFunc], ev *Stanza)) {
	if ev.Kind == stanza.Message && ev.Type != stanza.TypeError && l.router.Durable.Full() {
		ev.Fail(stanza.ResourceConstraint)
		return
	}
	ev.recorded = true
	run(l, c, ev)
	for i := range c.records {
		c.records[i].f(ev)
	}
}

// write gives the batch of ev, if there is one, to the store, for the entity whose lock is held.
func writeBatch(ev *Stanza) {
	b := ev.batch
	if b == nil {
		return
	}
	ev.batch = nil
	ev.commit(ev.on.router.Durable.Commit(b), nil, failKept)
}
