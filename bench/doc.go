// Package bench is the load generator of canto-bench: it measures XMPP servers from outside. A
// [Fleet] of clients on Canto's own event loops follows a [Scenario], and [Run] returns what
// that showed as a result.Run. It knows the protocol, and never imports the server.
//
// A run goes through the phases of its scenario, such as a ramp of logins, a hold with messages,
// and a drain. In a phase, each kind of operation is a step: a login, a chat message, a ping. An
// open loop begins operations at the times of a schedule that does not depend on answers, and
// measures latency from the time at which an operation was due. So a server that stalls does not
// hide its stall from the client (coordinated omission). A closed loop keeps a number of operations
// in flight.
//
// The id of each stanza that is measured is a [traceID]: sender, number and time. The receiver
// tells by it what comes once, twice, late or out of order; stanzas that never come are lost.
//
// How the parts work together: Run is the coordinator. It asks the server for its capabilities
// ([Discover]), starts workers, and makes each of them run phase after phase. A worker is a Fleet
// in this process, in another one ([ServeWorker]) or on another machine ([ServeAgent]), with a
// [Assignment] of the clients. In a Fleet, pacers (pace.go) are goroutines that post due operations
// to the loops, and each client belongs to one loop. Once a second a collector reads the counts of
// all workers, and the usage of the processes (bench/sampler). At the end it makes figures of them
// (figures.go).
//
// Packages beside this one: xmpp has the client's side of the protocol, target and servers describe
// and start servers, suite and compare run and judge comparisons, report and slo show and judge
// results.
package bench
