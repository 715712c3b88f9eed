// Package reactortest runs the reactor's own loops, connections and handlers over memory, with a
// clock that moves when a test says so, on the goroutine of the test: no socket, no waiting, and the
// same order every time for the same seed.
package reactortest

import (
	"io"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"time"

	"canto/reactor"
)

// A Net is a reactor over memory.
type Net struct {
	*reactor.Memory
	ClockStep time.Duration // by which each look of the loops at the clock moves it; 0: work takes no time
	now       time.Time
	halted    bool // by Halt
	rnd       *rand.Rand
	jobs      []func()
	nextPort  uint16
}

// Start is when a Net's clock begins.
var Start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// New makes a Net. Its workers run what they are given in Run, in an order that the seed says.
func New(seed uint64, cfg reactor.Config) *Net { return NewAt(Start, seed, cfg) }

// NewAt is New with a clock that begins at a time: that of a process that starts after another one.
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
		cfg.AdmissionBurst = 1 << 30 // while a test talks, no time passes for it to come back in
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	n.Memory = reactor.NewMemory(cfg)
	return n
}

// Do is reactor.Workers: the work is done in Run.
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

// Now is the Net's time.
func (n *Net) Now() time.Time { return n.now }

// Halt stops the Net in the midst of what it does, as the end of a process would: nothing moves any more,
// and its clients get what was written to them before.
func (n *Net) Halt() { n.halted = true }

// Run goes on until nothing moves any more. It panics if that takes for ever.
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
		j := n.jobs[i]
		n.jobs = append(n.jobs[:i], n.jobs[i+1:]...)
		j()
	}
	panic("reactortest: it never comes to rest")
}

// Advance moves the clock in ticks, with all that they set off.
func (n *Net) Advance(d time.Duration) {
	for end := n.now.Add(d); n.now.Before(end); {
		n.now = n.now.Add(min(reactor.TickLength, end.Sub(n.now)))
		n.TickLoops()
		n.Run()
	}
}

// Jump moves the clock at once: timers are looked at when it has moved.
func (n *Net) Jump(d time.Duration) {
	n.now = n.now.Add(d)
	n.TickLoops()
	n.Run()
}

// A Client is the other end of a connection in memory.
type Client struct {
	net *Net
	*reactor.Pipe
}

// Connect opens a connection to h on a loop; it is open when it returns.
func (n *Net) Connect(loop int, h reactor.Handler) *Client {
	return n.ConnectTo(loop, reactor.Listener{Handler: h})
}

// ConnectTo is Connect to a port that is more than its handler.
func (n *Net) ConnectTo(loop int, ln reactor.Listener) *Client {
	return n.ConnectFrom(netip.AddrFrom4([4]byte{192, 0, 2, 1}), loop, ln)
}

// ConnectFrom is ConnectTo from an address.
func (n *Net) ConnectFrom(from netip.Addr, loop int, ln reactor.Listener) *Client {
	n.nextPort++
	c := &Client{n, n.Memory.Open(loop, ln, netip.AddrPortFrom(from, n.nextPort))}
	n.Run()
	return c
}

// Send writes p in one piece and lets everything happen.
func (c *Client) Send(p []byte) {
	c.Write(p)
	c.net.Run()
}

// SendChunks writes p in pieces of at most step bytes.
func (c *Client) SendChunks(p []byte, step int) {
	for len(p) > 0 {
		k := min(step, len(p))
		c.Send(p[:k])
		p = p[k:]
	}
}

// Received takes what has come so far.
func (c *Client) Received() []byte {
	c.net.Run()
	return c.Take()
}

// Close ends the connection from the client's side; err nil: cleanly.
func (c *Client) Close(err error) {
	c.Hangup(err)
	c.net.Run()
}
