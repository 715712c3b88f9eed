// Package store keeps what must last: accounts, hosts, and what modules know of them. It hides Pebble, and
// nothing else imports it.
//
// # Writing
//
// Writes are asynchronous. A [Batch] belongs to one owner, an account id, and refuses keys of another;
// [DB.Commit] queues it and returns a [Ticket], a number that grows. One committer makes batches durable in the
// order of tickets, many with one sync, and tells the listeners of [DB.Notify] once for each group. What was
// told durable survives kill -9 and power loss. Whoever may wait (commands, tests, workers) calls [DB.Wait].
//
// # Reading
//
// A [Snapshot] sees every batch whose ticket was given before it was taken, and belongs to a worker: taking one
// waits for the committer, and reading may wait for the disk.
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
// A store key is the table's prefix byte, the owner's id in 8 bytes big endian, and the encoded key, so that two
// different (table, owner, key) never share one, and all of an owner's rows of a table are one range. Every value
// begins with the version of its table, and readers take the version before theirs too. The tables of the system
// (accounts, hosts, secrets) have no owner and no other package writes to them.
//
// # What goes wrong
//
// [ErrLocked]: another process has the folder. [ErrFormat]: it was written by a version that this one can't
// read. [ErrFull]: less than [Options.MinFree] is left, writes are refused, reads go on. [ErrUnavailable]: a
// write failed for good, and nothing is acknowledged any more; [Options.Fatal] is called once, and the process
// should end in order.
package store
