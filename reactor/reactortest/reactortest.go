// Package reactortest runs the reactor's own loops, connections and handlers over memory, on the
// goroutine of the test. A Net is the reactor: its clock moves when the test says so, and its
// workers run in an order that a seed determines. A Client is the far end of a connection. No
// sockets, no waiting: Run returns when nothing is left to do, and the same seed gives the same
// order every time.
package reactortest

import (
	"io"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"time"

	"canto/reactor"
)

// A Net is a reactor over memory, with clock and workers. Its methods are for the test's goroutine.
type Net struct {
	*reactor.Memory
	// ClockStep is by how much the clock moves each time a loop reads it; 0: work takes no time.
	ClockStep time.Duration
	now       time.Time
	halted    bool // by Halt
	rnd       *rand.Rand
	jobs      []func() // what Do was given, not run yet
	nextPort  uint16   // of clients
}

// Start is the time at which the clock of a Net begins.
var Start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// New makes a Net. The seed determines the order in which its workers run jobs. Without other
// values in cfg it has two loops, no log, and a token bucket for logins that never empties, as no
// time passes while a test talks.
func New(seed uint64, cfg reactor.Config) *Net { return NewAt(Start, seed, cfg) }

// NewAt is New with a clock that begins at a given time, as that of a process that starts after
// another one.
func NewAt(begin time.Time, seed uint64, cfg reactor.Config) *Net {
	n := &Net{now: begin, rnd: rand.New(rand.NewPCG(seed, 1)), nextPort: 1024}
	cfg.Clock = func() time.Time {
		if n.ClockStep > 0 {
			n.now = n.now.Add(n.ClockStep)
		}
		return n.now
	}
	cfg.Workers = n
	if cfg.Loops == 0 {
		cfg.Loops = 2
	}
	if cfg.AdmissionBurst == 0 {
		cfg.AdmissionBurst = 1 << 30
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	n.Memory = reactor.NewMemory(cfg)
	return n
}

// Do implements reactor.Workers: it keeps the job for Run.
func (n *Net) Do(_ reactor.Class, l *reactor.Loop, work func() error, then func(error)) bool {
	n.jobs = append(n.jobs, func() {
		err := reactor.CatchPanic(work)
		if l == nil {
			then(err)
			return
		}
		l.Post(func() { then(err) })
	})
	return true
}

// Now returns the time of the Net's clock.
func (n *Net) Now() time.Time { return n.now }

// Halt stops the Net at once, also inside a callback, as the end of a process would: Run does
// nothing any more. Clients can still take what was written before.
func (n *Net) Halt() { n.halted = true }

// Run runs turns and, when no turn is pending, one job of the workers, until neither is left. It
// panics after a million steps.
func (n *Net) Run() {
	for range 1_000_000 {
		if n.halted {
			return
		}
		if n.RunTurn() {
			continue
		}
		if len(n.jobs) == 0 {
			return
		}
		i := n.rnd.IntN(len(n.jobs))
		job := n.jobs[i]
		n.jobs = append(n.jobs[:i], n.jobs[i+1:]...)
		job()
	}
	panic("reactortest: it never comes to rest")
}

// Advance moves the clock by d, a tick at a time, and runs what each tick causes.
func (n *Net) Advance(d time.Duration) {
	for end := n.now.Add(d); n.now.Before(end); {
		n.now = n.now.Add(min(reactor.TickLength, end.Sub(n.now)))
		n.TickLoops()
		n.Run()
	}
}

// Jump moves the clock by d at once, and then runs what the passed time causes, as after a
// suspended process.
func (n *Net) Jump(d time.Duration) {
	n.now = n.now.Add(d)
	n.TickLoops()
	n.Run()
}

// A Client is the far end of a connection. Its methods run the Net.
type Client struct {
	net *Net
	*reactor.Pipe
}

// Connect opens a connection to h on the loop with this index, and returns after OnOpen.
func (n *Net) Connect(loop int, h reactor.Handler) *Client {
	return n.ConnectTo(loop, reactor.Listener{Handler: h})
}

// ConnectTo is Connect to a listener, as for TLS or several protocols.
func (n *Net) ConnectTo(loop int, ln reactor.Listener) *Client {
	return n.ConnectFrom(netip.AddrFrom4([4]byte{192, 0, 2, 1}), loop, ln)
}

// ConnectFrom is ConnectTo from a given address.
func (n *Net) ConnectFrom(from netip.Addr, loop int, ln reactor.Listener) *Client {
	n.nextPort++
	c := &Client{n, n.Memory.Open(loop, ln, netip.AddrPortFrom(from, n.nextPort))}
	n.Run()
	return c
}

// Send writes p in one piece and runs what it causes.
func (c *Client) Send(p []byte) {
	c.Write(p)
	c.net.Run()
}

// SendChunks writes p in pieces of at most step bytes, and runs what each causes.
func (c *Client) SendChunks(p []byte, step int) {
	for len(p) > 0 {
		k := min(step, len(p))
		c.Send(p[:k])
		p = p[k:]
	}
}

// Received removes and returns the bytes that have come so far.
func (c *Client) Received() []byte {
	c.net.Run()
	return c.Take()
}

// Close ends the connection from the client's side: with a FIN if err is nil, otherwise with this
// error.
func (c *Client) Close(err error) {
	c.Hangup(err)
	c.net.Run()
}
