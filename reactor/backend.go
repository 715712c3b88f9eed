package reactor

import (
	"context"
	"net/netip"
	"time"
)

// backendConn is the engine's side of one connection: gnetConn for a socket, pipeEnd in a Memory. Its
// methods are called on the connection's loop only.
type backendConn interface {
	// Write sends all of p. The engine copies and buffers the bytes that the socket does not take. It may
	// call Conn.onClose before it returns, if the socket fails.
	Write(p []byte) error
	// Buffered returns the number of bytes that the engine buffers.
	Buffered() int
	// SetRead takes the connection out of the poller's read set, or puts it back.
	SetRead(on bool)
	// Reading reports whether the connection is in the read set.
	Reading() bool
	// Flush writes buffered bytes, as far as the socket takes them. While reading is off the engine does
	// not do this by itself.
	Flush()
	// CloseWrite sends FIN after the bytes that were written.
	CloseWrite()
	// Close closes the socket at once. It may call Conn.onClose before it returns.
	Close()
	// Remote returns the peer's address, also after Close.
	Remote() netip.AddrPort
}

// backend is an engine. It runs the goroutines of the loops, polls sockets, and calls onOpen, onTraffic and
// onClose of a Conn on its loop. There are two: engine (gnet.go) and Memory.
type backend interface {
	// Start runs a goroutine for each of loops. Each Loop is bound to its goroutine when Start returns.
	// pauses reports whether SetRead was tried and works.
	Start(r *Reactor, loops []*Loop) (pauses bool, err error)
	// Register adds the connected socket fd to c's loop, which calls c.onOpen and then done(nil). If that
	// fails, at once or on the loop, it closes fd and calls done with the error; onOpen is not called then.
	Register(c *Conn, fd int, remote netip.AddrPort, done func(error))
	// Wakeup runs l.turn on l soon, perhaps before the next poll. The error says that the loops have
	// stopped. Any goroutine.
	Wakeup(l *Loop) error
	// WakeupAfterPoll runs l.turn after the next poll, with l.pollCompleted set. Only on l.
	WakeupAfterPoll(l *Loop) error
	// AfterFunc runs f after d, on any goroutine. False means that this engine has no timers: the caller
	// has to try again in each tick.
	AfterFunc(d time.Duration, f func()) bool
	// Stop ends the loops.
	Stop()
	// Wait returns nil when ctx ends. It returns the cause if the loops end without Stop.
	Wait(ctx context.Context) error
}
