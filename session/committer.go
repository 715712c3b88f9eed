package session

import "canto/session/jid"

// A Ticket numbers a batch that was given to the store. Batches become durable, or fail, in the
// order of their tickets: they are settled then. Zero is always settled.
type Ticket uint64

// A Committer is the store's group committer, as the kernel sees it. In tests it is one that settles at
// once. Any goroutine may call its methods.
type Committer interface {
	// LastSettled returns the last settled ticket: all up to it are durable or have failed.
	LastSettled() Ticket
	// Err returns why a settled ticket has failed; nil if it is durable.
	Err(t Ticket) error
	// Notify registers f, which is called after each group of batches was settled, on the committer's
	// goroutine. f must not block.
	Notify(f func())
	// Await blocks until t is settled, and returns its Err. For workers only.
	Await(t Ticket) error
	// Full reports whether the store refuses writes because the disk is full.
	Full() bool
	// NewBatch returns a new batch for the entity with that id: see [Stanza.Batch].
	NewBatch(id uint64) any
	// Commit gives a batch of NewBatch to the store and returns its ticket. It does not block.
	Commit(batch any) Ticket
	// Snapshot returns what the loaders of one resident set read from. If it has a Close method that is
	// called after the read.
	Snapshot() any
}

// A Directory knows which entity is at an address: a bare JID or a domain. Workers call it.
type Directory interface {
	// Lookup returns the id and the kind of the entity at addr; ok is false if there is none. snap is a
	// Snapshot of the Committer.
	Lookup(snap any, addr jid.JID) (id uint64, kind string, ok bool, err error)
}
