// Package bench measures XMPP servers from outside: a fleet of clients on Canto's own reactor, one small
// state machine each, does what a [Scenario] says, and [Run] returns what that showed as a result.Run. It
// is a black box: it knows the protocol and nothing of the server behind it.
//
// A run goes through the phases of its scenario. In each, operations begin at times that were laid down
// before (an open loop), and a latency is from that time to the arrival at the receiver, so that a server
// which stalls has every operation counted that should have been in the meantime (no coordinated
// omission). Each stanza's id is a token with its sender, number and time: receivers count what comes
// once, twice, late, out of order; what never comes is lost.
//
// Who owns what: a client belongs to its loop; pacers are goroutines that hand due operations to loops; a
// collector asks the loops for their counts once a second and adds up. Several processes ([ServeWorker])
// and machines ([ServeAgent]) share a run: each has its part of every group and its own loops.
package bench
