package reactor

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net/netip"
	"runtime"
	"slices"
	"sort"
	"sync"
	"sync/atomic"
	"time"
)

// Config sets up a Reactor. The zero value of a field means its default.
type Config struct {
	Loops       int // GOMAXPROCS
	OutboxBytes int // 1 MiB
	Connections int // in all; 0: no cap
	// in flight: 4,096 and 64, 10 s each; loopback addresses have no limit of their own
	Handshakes, HandshakesPerAddr int
	Waiting                       int // guests that wait on a loop: 8,192
	// of guests' work, in microseconds, that may begin at once on a loop: 10 ms
	Burst     int
	Workers   Workers
	Listeners []Listener
	Log       *slog.Logger
	Clock     func() time.Time // any goroutine
	// Drain is told of each connection, on its loop, when the reactor is about to stop.
	Drain        func(c *Conn)
	DrainTimeout time.Duration // 5 s
	// StdTLS leaves TLS 1.3 to crypto/tls for the life of a connection, at 4 to 9 kB each; else the record
	// layer is our own once the handshake is done.
	StdTLS bool
	// NoPause is for tests: as if the engine could not stop reading from a connection.
	NoPause bool

	backend backend
}

// A Listener is one address and what is spoken there.
type Listener struct {
	Addr    string
	Name    string // of what is spoken, for [Reactor.Addrs]
	Handler Handler
	// Direct is the TLS configuration of a port where TLS comes first (XEP-0368); nil: plain.
	Direct *tls.Config
	// Speaks are others than Handler on a port with Direct: each takes the connections whose handshake
	// agrees on its ALPN name. Direct names them all.
	Speaks []Protocol
	// Plain: a connection to a port with Direct may begin in plain instead, as its first byte shows, and
	// is Handler's.
	Plain bool
	// Accept may refuse a connection before it costs anything. On the accept goroutine.
	Accept func(remote netip.AddrPort) bool
	// Refusal is what a connection is told in plain that Accept refuses, or, if full, that finds the reactor at
	// its cap for a while. On a port with Direct it is told internal_error. Nil: it is closed, and at the cap
	// it waits.
	Refusal func(full bool) []byte
	// Lost is told of a connection that Accept took and that ended before OnOpen. As Accept,
	// or on its loop.
	Lost func(remote netip.AddrPort)
}

// A Reactor is the running set of loops.
type Reactor struct {
	cfg     Config
	log     *slog.Logger
	loops   []*Loop
	backend backend
	workers Workers
	own     *pool
	start   time.Time
	slots   *slots
	shakes  shakes
	// detaching are the configurations of handshakes.
	detaching detaching
	conns     atomic.Int64
	turned    atomic.Uint64 // connections refused at the cap
	going     atomic.Int64  // refused ones that are not closed yet
	room      chan struct{} // signalled when a connection ends at the cap
	mu        sync.Mutex
	ports     map[string]*listening
	stopped   bool
}

// New opens the listeners and starts the loops: a port in use is an error here, and port 0 works.
func New(cfg Config) (*Reactor, error) {
	r := prepare(cfg)
	if r.workers == nil {
		r.own = newPool()
		r.workers = r.own
	}
	if r.backend == nil {
		r.backend = newEngine()
	}
	var open []*listening
	for _, ln := range cfg.Listeners {
		s, err := r.listen(ln)
		if err != nil {
			for _, o := range open {
				o.close()
			}
			return nil, err
		}
		open = append(open, s)
	}
	pauses, err := r.backend.Start(r, r.loops)
	if err != nil {
		for _, o := range open {
			o.close()
		}
		return nil, fmt.Errorf("reactor: %w", err)
	}
	if !pauses {
		r.log.Warn("the event engine can't pause reading on this system: a connection that sends ahead of "+
			"its pause is closed instead", "cap", maxPark)
	}
	for _, s := range open {
		r.ports[s.addr.String()] = s
	}
	return r, nil
}

func prepare(cfg Config) *Reactor {
	def := func(v *int, d int) {
		if *v == 0 {
			*v = d
		}
	}
	def(&cfg.Loops, runtime.GOMAXPROCS(0))
	def(&cfg.OutboxBytes, 1<<20)
	def(&cfg.Handshakes, 4096)
	def(&cfg.HandshakesPerAddr, 64)
	def(&cfg.Waiting, guestsWaiting)
	def(&cfg.Burst, guestBurst)
	if cfg.Clock == nil {
		cfg.Clock = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.DrainTimeout == 0 {
		cfg.DrainTimeout = 5 * time.Second
	}
	r := &Reactor{cfg: cfg, log: cfg.Log, workers: cfg.Workers, backend: cfg.backend, start: cfg.Clock(),
		ports: make(map[string]*listening), room: make(chan struct{}, 1)}
	r.slots = newSlots(max(1, runtime.GOMAXPROCS(0)-1)) // a core is left to the loops
	r.shakes = shakes{by: make(map[netip.Addr]int), all: cfg.Handshakes, perAddr: cfg.HandshakesPerAddr}
	for i := range cfg.Loops {
		l := &Loop{r: r, index: i, now: r.start}
		l.wheel.now = 1
		l.guests = admission{l: l, room: cfg.Waiting, burst: cfg.Burst, waiting: make(map[*Conn]*waiter)}
		l.lane.init(l)
		r.loops = append(r.loops, l)
	}
	return r
}

func (r *Reactor) tickAt(now time.Time) Tick {
	return Tick(now.Sub(r.start)/TickLength) + 1
}

// Tick is the time on the wheels' scale. Any goroutine.
func (r *Reactor) Tick() Tick { return r.tickAt(r.cfg.Clock()) }

// Loops are all of them. Any goroutine.
func (r *Reactor) Loops() []*Loop { return r.loops }

// Workers are the configured ones, or the reactor's own. Any goroutine.
func (r *Reactor) Workers() Workers { return r.workers }

// Connections is how many are open. Any goroutine.
func (r *Reactor) Connections() int { return int(r.conns.Load()) }

// Refused is how many connections were refused because there were as many as may be. Any goroutine.
func (r *Reactor) Refused() uint64 { return r.turned.Load() }

// Addrs are the addresses that are listened on, of the listeners with these names, or of all.
func (r *Reactor) Addrs(names ...string) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var a []string
	for k, s := range r.ports {
		if len(names) == 0 || slices.Contains(names, s.name) {
			a = append(a, k)
		}
	}
	sort.Strings(a)
	return a
}

// Run serves until ctx ends, then drains: no new connections, Drain called for each connection,
// outboxes flushed, OnClose called for each. It returns early only if the engine ended by itself, with
// the cause. No error of accept ends it.
func (r *Reactor) Run(ctx context.Context) error {
	r.mu.Lock()
	for _, s := range r.ports {
		s.start(r)
	}
	r.mu.Unlock()
	ticks := time.NewTicker(TickLength)
	defer ticks.Stop()
	ended := make(chan error, 1)
	wait, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() { ended <- r.backend.Wait(wait) }()
	for {
		select {
		case <-ticks.C:
			for _, l := range r.loops {
				l.Post(l.tick)
			}
			continue
		case err := <-ended:
			if err == nil {
				err = errEnded
			}
			r.closePorts()
			r.backend.Stop()
			return err
		case <-ctx.Done():
		}
		break
	}
	r.drain(ticks)
	r.backend.Stop()
	if r.own != nil {
		r.own.close()
	}
	return nil
}

// drain closes every connection and waits until they are gone, for DrainTimeout at most.
func (r *Reactor) drain(ticks *time.Ticker) {
	r.closePorts()
	r.dismiss()
	late := time.NewTimer(r.cfg.DrainTimeout)
	defer late.Stop()
	for r.conns.Load() > 0 {
		select {
		case <-late.C:
			return
		case <-ticks.C:
			for _, l := range r.loops {
				l.Post(l.tick)
			}
		}
	}
}

// dismiss calls Drain for every connection, and closes it.
func (r *Reactor) dismiss() {
	for _, l := range r.loops {
		l.Post(func() {
			for _, c := range l.live {
				if r.cfg.Drain != nil {
					l.protect(nil, func() { r.cfg.Drain(c) })
				}
				c.Close(ErrStopped)
			}
		})
	}
}

func (r *Reactor) closePorts() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stopped = true
	for _, s := range r.ports {
		s.close()
	}
}

// left is told that a connection is gone.
func (r *Reactor) left() {
	r.conns.Add(-1)
	select {
	case r.room <- struct{}{}:
	default:
	}
}

// admit makes the Conn of an accepted socket on the loop with the fewest; room gets a place back when it is
// there, or will never be.
func (r *Reactor) admit(p *port, fd int, remote netip.AddrPort, room <-chan struct{}) {
	best := r.loops[0]
	for _, l := range r.loops[1:] {
		if l.conns.Load() < best.conns.Load() {
			best = l
		}
	}
	r.enrol(best, p, nil, fd, remote, func(err error) {
		<-room
		if err != nil && p.lost != nil {
			p.lost(remote)
		}
	})
}

// enrol gives a connected socket to l, which calls OnOpen and then done; done with an error, here or on the
// loop, means that it was closed.
func (r *Reactor) enrol(l *Loop, p *port, owner any, fd int, remote netip.AddrPort, done func(error)) {
	c := &Conn{loop: l, port: p, Owner: owner}
	l.conns.Add(1)
	r.conns.Add(1)
	r.backend.Enrol(c, fd, remote, func(err error) {
		if err != nil {
			l.conns.Add(-1)
			r.left()
			r.log.Debug("a connection could not be taken", "err", err)
		}
		done(err)
	})
}
