package session

import "canto/session/jid"

// A Ticket numbers what was given to the store; tickets grow and become durable in order. Zero is
// durable already.
type Ticket uint64

// Committer is the committer as the kernel sees it; tests have one that is durable at once. Any
// goroutine.
type Committer interface {
	// LastSettled is the last ticket that is settled: it and all before it are durable or have failed.
	LastSettled() Ticket
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
	// Lookup is the id and the kind of what is at addr; false: nothing.
	Lookup(snap any, addr jid.JID) (id uint64, kind string, ok bool, err error)
}
