// Package store keeps on disk what must survive the process: accounts, rooms and other entities,
// hosts, keys, and the rows of modules. It is a layer over Pebble, an LSM key-value store, and the
// only package that imports it.
//
// # Writing
//
// Writes are asynchronous. A [Batch] belongs to one owner, the id of an entity, and refuses rows of
// another. [DB.Commit] queues the batch and returns a [Ticket], a number that grows. One committer
// makes batches durable in the order of tickets, many with one sync (group commit), and calls the
// commit callbacks of [DB.OnCommit] once for each group. A batch that was reported durable survives
// kill -9 and a power failure. Commands, tests and workers, which may block, call [DB.Wait]
// instead. See committer in commit.go for the order, its invariants and its bounds.
//
// # Reading
//
// A [Snapshot] sees every batch whose ticket was given before the snapshot was taken. Taking one
// waits for the committer, and reading may wait for the disk: snapshots are for workers, never for
// event loops. The [DB] itself is a [Reader], too, of the latest state.
//
// # Tables
//
// A module defines its tables as package variables, and opens them in the [TableRegistry] of the
// store:
//
//	var rosters = store.NewMap[string, []byte]("roster", 'r', 1)
//
//	t, err := store.MapOf(db.Tables(), rosters)
//	t.Put(batch, owner, "juliet@example.com", item)
//	item, ok, err := t.Get(snap, owner, "juliet@example.com")
//
// A store key is the table's prefix byte, the owner's id in 8 bytes big-endian, and the encoded
// key. So two different (table, owner, key) never have one store key, and all rows of an owner in a
// table are one range. Every value begins with the version of its table, and a table reads the
// version before its own, too. The tables of the system (the directory, hosts, secrets) have no
// owner, and only this package writes to them.
//
// # Entities
//
// [Entities] is the directory. It has one row for each address that stands for something on this
// server: an account, a room, or a service under its bare domain. The row has the kind and the id.
// All else about an entity is in rows of modules' tables under the id.
//
//	b, err := db.Entities().New("rooms.example.org", "orchard", "room")
//	t.Put(b, b.Owner(), "owner", "juliet@example.org")
//	ticket := db.Commit(b) // the name, the id and the rows, or none of them
//
// The keys of the system's rows:
//
//	u|domain|NUL|local    the directory: version 1 is an account with its credentials, 2 is id, time and kind
//	NUL gone NUL|id       a tombstone: domain|NUL|local, and |NUL|kind but for accounts
//	NUL number            the end of the block of numbers that is reserved for ids
//	NUL format, NUL incarnation, NUL unicode    versions, and the number of starts
//	NUL table NUL|name    each table that was ever used: prefix, version, oldest version
//	NUL lease NUL|name    the end of a [Lease]
//	NUL due NUL|time|id|name   what ends at a time: [Deadlines]; the value is the address of the entity
//	NUL alive             the time of [Deadlines] when a process was last seen
//	h|domain, s|name…     hosts, secrets
//
// An id has the partition of the address in its upper 12 bits, and below a number that no other id
// ever has. A name belongs to one entity. The committer checks that when it writes a batch, so
// making, removing and changing entities needs neither a lock nor a read before, and any number of
// them share a sync.
//
// # Goroutines
//
// Open starts three goroutines: the committer, the goroutine that calls Pebble for it, and the one
// that watches free space. Methods may be called by any goroutine unless they say otherwise. Event
// loops may call only what neither waits nor reads: NewBatch, the tables' Put, Delete, Append and
// Clear, [Entities.New], [Entities.Remove], Commit, Durable, Failed and Full.
//
// # Errors
//
// [ErrLocked]: another process has the folder open. [ErrFormat]: a version that this program can't
// read wrote it. [ErrFull]: less than [Options.MinFree] is left or the queue is full; writes are
// refused, reads go on. [ErrUnavailable]: a write has failed for good. Then nothing is acknowledged
// any more, [Options.Fatal] is called once, and the process should shut down in order.
package store
