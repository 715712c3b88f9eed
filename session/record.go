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
// after phase [Record]. If it fails, the sender is told and the entity is read again. What it is, the store says:
// package mod/storage has it by its type. In a hook of a chain with a phase Record, or in that phase.
func (ev *Stanza) Batch() any {
	if ev.batch == nil {
		ev.batch = ev.on.router.Durable.NewBatch(ev.at.id)
	}
	return ev.batch
}

// records runs f, the chain of ev at its recipient, and then phase Record of c, whatever f said; what was put into
// the batch of ev is committed then. A store that is known to be full refuses ev before anything of it is
// delivered.
func (l *Local) records(c *Chain[StanzaFunc], ev *Stanza, f func(l *Local, c *Chain[StanzaFunc], ev *Stanza)) {
	if ev.Kind == stanza.Message && ev.Type != stanza.TypeError && l.router.Durable.Full() {
		ev.Fail(stanza.ResourceConstraint)
		return
	}
	ev.recorded = true
	f(l, c, ev)
	for i := range c.records {
		c.records[i].f(ev)
	}
	if b := ev.batch; b != nil {
		ev.batch = nil
		ev.commit(l.router.Durable.Commit(b), nil, failKept)
	}
}
