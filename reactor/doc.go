// Package reactor runs connections on a fixed set of event loops. It owns sockets, TLS, timers, output
// buffers and workers. It knows bytes and time, and nothing of XML.
//
// # The parts
//
// A [Reactor] is the whole: listeners, loops and shared limits. [New] makes one from a [Config], and
// [Reactor.Run] serves until its context ends. Each listener has a goroutine that accepts sockets and gives
// each to the loop with the fewest connections; [Reactor.Dial] gives a socket to a loop of the caller's
// choice. The first bytes of a connection may decide its [Handler], where several protocols share a port.
//
// A [Loop] is one goroutine with its connections and its timers. A [Conn] belongs to one loop for its whole
// life. What happens to it (input, timers, its end) the loop reports to the connection's [Handler], one
// callback at a time. So the state of a connection needs no lock.
//
// The engine polls sockets and reads them. It is gnet without its listeners, used through interfaces of
// backend.go; gnet.go is the only file that knows it. [Memory] is a second engine, for tests: pipes instead
// of sockets, on the goroutine of the test. Package reactortest builds on it.
//
// # Turns
//
// A loop alternates between polls and turns. After a poll the engine reads each ready socket, and the Conn
// delivers the bytes to its Handler at once. Output is not written at once: [Conn.Append] puts it in the
// connection's outbox and marks the connection dirty. The first dirty connection, or posted function, of a
// loop asks for a turn. A turn runs, in this order: connections that admission lets in, posted functions
// ([Loop.Post]), functions of [Loop.AtTurnEnd], a slice of the deferred input, flushes (one write for each
// dirty connection), and closes. A connection is closed nowhere else, so no callback sees its connection
// vanish.
//
// No part of a turn may take long, because every connection of the loop waits for it. Each has a budget of
// some milliseconds; the rest waits for the next turn, and turns that follow each other give way to a poll.
//
// # Flow control
//
// Input: a handler that does not want more calls [Conn.Pause]. Bytes that it has not consumed are parked,
// within a bound. After [Conn.Resume] the connection goes to the deferred-input queue of its loop, which
// delivers parked input to connections in turn. Output: the outbox has a limit, and Append says when it is
// reached. A connection with a full socket is write-blocked; the loop retries it with a backoff, and ends
// it when its peer is a slow consumer.
//
// Logins are expensive, so the work of unauthenticated connections passes admission: TLS handshakes, login
// steps, and what they cause elsewhere each have a price, which a token bucket of the loop pays. Work that
// finds the bucket empty waits in a fair queue. A Handler takes part by implementing [AdmissionHandler].
//
// # TLS
//
// [Conn.StartTLS] begins TLS at either end. A goroutine of its own runs the handshake in crypto/tls, over a
// connection in memory that the loop feeds. After a TLS 1.3 handshake the record layer of tls13layer.go
// takes over: it needs a tenth of the memory, and nearly none while there is no traffic. Its keys come from
// the key capture (tlskeycapture.go). Other versions stay on crypto/tls. The Handler sees plaintext only.
//
// # Time, workers, HTTP
//
// Every loop has a timer wheel with the resolution of a [Tick], 100 ms. Work that may block or takes long
// (disk, key derivation, look-ups) is for the [Workers]; its results come back to a loop. An
// [HTTPListener] reads the head of a request on the loop and then gives the connection to net/http: a
// hijacked connection. The loop still moves its bytes.
//
// # What may call what
//
// A function with "any goroutine" in its comment may be called from any goroutine, with any lock held. All
// others belong to the loop that owns the connection or timer, and are called in its callbacks or in
// functions that are posted to it. Builds with the tag invariants or with -race check this
// ([Loop.AssertOwned]). Callbacks must not block. The locks of this package are leaves in the order
// Conn.mu, Loop.mu; no callback runs under them.
package reactor
