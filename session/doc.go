// Package session is the kernel of Canto: who is connected, where a stanza goes, and which modules
// are asked on the way. Everything else is a module. It runs without a disk and without a socket.
//
// Three kinds of state, three rules:
//
//   - A [Stream] belongs to its loop and is touched only there.
//   - An [Entity] (an [Account], or of a kind that a module brings: a room, a service at a domain) is a
//     monitor: one mutex and everything behind it. Its hook chains run under that lock, on whatever
//     loop the stanza arrived on. Never two entity locks at once: what a hook sends to another
//     entity is mail, a plain list on the same loop, routed after the lock is released, or while
//     something of the entity is under way elsewhere, queued behind that: see outgoing.go.
//   - An outbox is a leaf lock: [Session.Send] takes only that, from any goroutine, under any lock.
//
// The lock order is entity, session's outbox, connection's outbox, loop's dirty list. Nothing under
// a lock waits or does I/O.
//
// Two pages beside this file say the rest: session.txt has every field of Stream and Session, with
// when it is set and by whom; stanza_routing.txt has RFC 6121 section 8 as one table. Words used in
// one sense only: "any goroutine" (with any lock held), "under the lock" (the entity's, on any
// loop); without either a function is for the owning loop.
package session
