// Package store keeps what must last: accounts, rooms and other entities, hosts, and what modules know of
// them. It hides Pebble, and nothing else imports it.
//
// # Writing
//
// Writes are asynchronous. A [Batch] belongs to one owner, an entity's id, and refuses keys of another;
// [DB.Commit] queues it and returns a [Ticket], a number that grows. One committer makes batches durable
// in the order of tickets, many with one sync, and tells the listeners of [DB.OnCommit] once for each
// group. What was told durable survives kill -9 and power loss. Whoever may wait (commands, tests,
// workers) calls [DB.Wait].
//
// # Reading
//
// A [Snapshot] sees every batch whose ticket was given before it was taken, and belongs to a worker:
// taking one waits for the committer, and reading may wait for the disk.
//
// # Tables
//
// A module defines its tables as package variables and gets them from the space it was offered:
//
//	var rosters = store.NewMap[string, []byte]("roster", 'r', 1)
//
//	t, err := store.MapOf(space, rosters)
//	t.Put(batch, owner, "juliet@example.com", item)
//	item, ok, err := t.Get(snap, owner, "juliet@example.com")
//
// A store key is the table's prefix byte, the owner's id in 8 bytes big endian, and the encoded key, so
// that two different (table, owner, key) never share one, and all of an owner's rows of a table are one
// range. Every value begins with the version of its table, and readers take the version before theirs
// too. The tables of the system (the directory, hosts, secrets) have no owner and no other package writes
// to them.
//
// # Entities
//
// [Entities] is the directory: one row for each address that is something here, an account, a room, a service
// under its bare domain. The row names the kind and the id; the rest of what an entity is are rows of
// modules' tables under the id.
//
//	b, err := db.Entities().New("rooms.example.org", "orchard", "room")
//	t.Put(b, b.Owner(), "owner", "juliet@example.org")
//	ticket := db.Commit(b) // the name, the id and the rows, or none of them
//
// The keys of the system:
//
//	u|domain|NUL|local    the directory: version 1 is an account with its credentials, 2 is id, time and kind
//	NUL gone NUL|id       what was removed and still has rows: domain|NUL|local, and |NUL|kind but for accounts
//	NUL number            the end of the block of numbers that is reserved for ids
//	NUL format, NUL incarnation, NUL unicode    versions, and the starts that were counted
//	NUL table NUL|name    each table that there ever was: prefix, version, oldest version
//	NUL lease NUL|name    the end of a [Lease]
//	h|domain, s|name…     hosts, secrets
//
// An id is the slot of the address in its upper 12 bits and a number that no other id ever has. A name
// belongs to one entity: the committer looks when it writes, so that making, removing and changing need
// neither a lock nor a read, and any number of them share a sync.
//
// # What goes wrong
//
// [ErrLocked]: another process has the folder. [ErrFormat]: it was written by a version that this one
// can't read. [ErrFull]: less than [Options.MinFree] is left, writes are refused, reads go on.
// [ErrUnavailable]: a write failed for good, and nothing is acknowledged any more; [Options.Fatal] is
// called once, and the process should end in order.
package store
