package reactor

import (
	"context"
	"net/netip"
	"time"
)

// backendConn is one connection of the engine below. Only on its loop.
type backendConn interface {
	Write(p []byte) error // all of p, kept where the socket has no room
	Buffered() int        // what is kept
	SetRead(on bool)      // take it out of the poller's read set, and back
	Reading() bool        // whether it is in the read set
	Flush()               // writes of what is kept what the socket takes; while reading is off nobody else does
	CloseWrite()          // send FIN behind what was written
	Close()               // at once; no callback after it
	Remote() netip.AddrPort
}

// backend is the engine below: it calls loops' onOpen, onTraffic and onClose.
type backend interface {
	// Start runs n loops; each is bound to the engine's by the time it returns. pauses is whether
	// SetRead was tried and works.
	Start(r *Reactor, loops []*Loop) (pauses bool, err error)
	// Register gives a connected socket to c's loop, which calls onOpen and then done. done with an error,
	// at once or on the loop, means that the socket was closed, and onOpen not called.
	Register(c *Conn, fd int, remote netip.AddrPort, done func(error))
	// Wakeup runs l.turn on l soon. Any goroutine.
	Wakeup(l *Loop) error
	// WakeupAfterPoll runs l.turn when sockets have been looked at. On l.
	WakeupAfterPoll(l *Loop) error
	// AfterFunc runs f after d, on any goroutine; false: only ticks tell the time here.
	AfterFunc(d time.Duration, f func()) bool
	// Stop ends the loops. Wait returns when they have ended, with the cause if nobody asked for it.
	Stop()
	Wait(ctx context.Context) error
}
