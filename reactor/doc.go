// Package reactor runs connections on a fixed set of event loops: an engine without listeners below
// (gnet, behind backend.go and gnet.go), and accepting, TLS, timers, outboxes and workers on top. It
// knows bytes and time, and no XML.
//
// A loop works in turns. What arrives is handed to a [Handler] as it is read; what a handler or
// anybody else appends to a connection marks it dirty, and the first dirty connection of a loop
// queues the end of the turn. At the end of a turn, in order: posted functions, AtTurnEnd functions,
// flushes (one write for each connection), closes. All closes happen there, so that no callback ever
// sees its connection vanish under it.
//
// Sockets are looked at between turns, and turns are bounded, so that nobody waits for all that others
// have set off. What guests send, whose login is under way, is admitted by its cost: see [AdmissionHandler].
//
// "Any goroutine" in a comment means with any lock held; without that phrase a function is for the
// loop that owns the connection.
package reactor
