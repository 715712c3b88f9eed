// Package session is the kernel of Canto. It knows which clients are connected, takes each stanza from
// its sender to its recipient by the rules of RFC 6121 section 8, and calls the hooks of modules on the
// way. Every feature is a module (session/mod); the kernel imports none. It runs without a disk and
// without a socket: the store is a [Committer] and a [Directory], a connection is a [Transport].
//
// There are three kinds of state, with one rule each:
//
//   - A [Stream] is the kernel's half of a connection. It belongs to its loop, and only that loop uses it.
//   - An [Entity] is what is at an address: an [Account], or what a module serves, such as a room. It is a
//     monitor: its mutex guards its state, and its hooks run under that mutex, on the loop that routes the
//     stanza. A loop never holds two entity locks. What a hook sends to another entity is mail: it is
//     routed after the lock is released (outgoing.go).
//   - The outbox of a [Session] has a lock of its own, the outbox lock. [Session.Send] takes only that.
//
// The lock order is: entity, outbox of a session, outbox of a connection, the loop's list of connections
// to flush. Nothing blocks or does I/O under a lock.
//
// A stanza from a client takes this way. [Stream.Feed] parses it on the stream's loop (stream.go).
// routeStanza (route.go) locks the sender's account and runs its Pre chain, then locks the recipient and
// runs the chain of its kind. If the recipient is not in memory the stanza waits in its inbox while a
// worker loads what is stored (mailbox.go). A hook of phase Deliver gives the stanza to the sessions that
// get it ([LoopRouter.Deliver]); the outbox of each writes it to its wire, or queues it (outbox.go). What is
// written to the store is durable, or has failed, when its [Ticket] is settled (commit.go). When a stream
// has ended, ending.go decides what becomes of its session.
//
// Each function's comment says where it may be called:
//
//   - "Any goroutine": with any lock held, unless it says which not.
//   - "Under the lock": the entity's, on any loop. "Under the account's lock": that of the session's account.
//   - Otherwise on the loop that owns the value.
//
// Two pages beside this file explain more: session.txt has each field of Stream and Session, with when it
// is set and by which code; stanza_routing.txt has RFC 6121 section 8 as a table.
package session
