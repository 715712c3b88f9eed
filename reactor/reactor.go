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
	AdmissionQueue                int // guests that wait on a loop: 8,192
	// of guests' work, in microseconds, that may begin at once on a loop: 10 ms
	AdmissionBurst int
	Workers        Workers
	Listeners      []Listener
	Log            *slog.Logger
	Clock          func() time.Time // any goroutine
	// OnShutdown is told of each connection, on its loop, when the reactor is about to stop.
	OnShutdown      func(c *Conn)
	ShutdownTimeout time.Duration // 5 s
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
	// DirectTLS is the TLS configuration of a port where TLS comes first (XEP-0368); nil: plain.
	DirectTLS *tls.Config
	// Protocols are others than Handler on a port with Direct: each takes the connections whose handshake
	// agrees on its ALPN name. Direct names them all.
	Protocols []Protocol
	// AllowPlain: a connection to a port with Direct may begin in plain instead, as its first byte shows, and
	// is Handler's.
	AllowPlain bool
	// Accept may refuse a connection before it costs anything. On the accept goroutine.
	Accept func(remote netip.AddrPort) bool
	// Refusal is what a connection is told in plain that Accept refuses, or, if full, that finds the reactor at
	// its cap for a while. On a port with Direct it is told internal_error. Nil: it is closed, and at the cap
	// it waits.
	Refusal func(full bool) []byte
	// Aborted is told of a connection that Accept took and that ended before OnOpen. As Accept,
	// or on its loop.
	Aborted func(remote netip.AddrPort)
}

// A Reactor is the running set of loops.
type Reactor struct {
	cfg            Config
	log            *slog.Logger
	loops          []*Loop
	backend        backend
	workers        Workers
	ownWorkers     *pool
	startTime      time.Time
	handshakeSlots *handshakeSlots
	handshakeLimit handshakeLimiter
	// captureConfigs are the configurations of handshakes.
	captureConfigs    captureConfigs
	conns             atomic.Int64
	refused           atomic.Uint64 // connections refused at the cap
	lingeringRefusals atomic.Int64  // refused ones that are not closed yet
	capFreed          chan struct{} // signalled when a connection ends at the cap
	mu                sync.Mutex
	acceptors         map[string]*acceptor
	stopped           bool
}

// New opens the listeners and starts the loops: a port in use is an error here, and port 0 works.
func New(cfg Config) (*Reactor, error) {
	r := newReactor(cfg)
	if r.workers == nil {
		r.ownWorkers = newPool()
		r.workers = r.ownWorkers
	}
	if r.backend == nil {
		r.backend = newEngine()
	}
	var open []*acceptor
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
			"its pause is closed instead", "cap", maxParkedBytes)
	}
	for _, s := range open {
		r.acceptors[s.addr.String()] = s
	}
	return r, nil
}

func newReactor(cfg Config) *Reactor {
	def := func(v *int, d int) {
		if *v == 0 {
			*v = d
		}
	}
	def(&cfg.Loops, runtime.GOMAXPROCS(0))
	def(&cfg.OutboxBytes, 1<<20)
	def(&cfg.Handshakes, 4096)
	def(&cfg.HandshakesPerAddr, 64)
	def(&cfg.AdmissionQueue, defaultAdmissionQueue)
	def(&cfg.AdmissionBurst, defaultAdmissionBurst)
	if cfg.Clock == nil {
		cfg.Clock = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.ShutdownTimeout == 0 {
		cfg.ShutdownTimeout = 5 * time.Second
	}
	r := &Reactor{cfg: cfg, log: cfg.Log, workers: cfg.Workers, backend: cfg.backend, startTime: cfg.Clock(),
		acceptors: make(map[string]*acceptor), capFreed: make(chan struct{}, 1)}
	r.handshakeSlots = newSlots(max(1, runtime.GOMAXPROCS(0)-1)) // a core is left to the loops
	r.handshakeLimit = handshakeLimiter{byAddr: make(map[netip.Addr]int), max: cfg.Handshakes,
		maxPerAddr: cfg.HandshakesPerAddr}
	for i := range cfg.Loops {
		l := &Loop{r: r, index: i, now: r.startTime}
		l.wheel.now = 1
		l.admission = admission{l: l, maxQueued: cfg.AdmissionQueue, burst: cfg.AdmissionBurst,
			queued: make(map[*Conn]*waiter)}
		l.deferred.init(l)
		r.loops = append(r.loops, l)
	}
	return r
}

func (r *Reactor) tickAt(now time.Time) Tick {
	return Tick(now.Sub(r.startTime)/TickLength) + 1
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
func (r *Reactor) Refused() uint64 { return r.refused.Load() }

// Addrs are the addresses that are listened on, of the listeners with these names, or of all.
func (r *Reactor) Addrs(names ...string) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var a []string
	for k, s := range r.acceptors {
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
	for _, s := range r.acceptors {
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
				err = errEngineEnded
			}
			r.closeAcceptors()
			r.backend.Stop()
			return err
		case <-ctx.Done():
		}
		break
	}
	r.shutdown(ticks)
	r.backend.Stop()
	if r.ownWorkers != nil {
		r.ownWorkers.close()
	}
	return nil
}

// shutdown closes every connection and waits until they are gone, for ShutdownTimeout at most.
func (r *Reactor) shutdown(ticks *time.Ticker) {
	r.closeAcceptors()
	r.shutdownConns()
	late := time.NewTimer(r.cfg.ShutdownTimeout)
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

// shutdownConns calls Drain for every connection, and closes it.
func (r *Reactor) shutdownConns() {
	for _, l := range r.loops {
		l.Post(func() {
			for _, c := range l.openConns {
				if r.cfg.OnShutdown != nil {
					l.protect(nil, func() { r.cfg.OnShutdown(c) })
				}
				c.Close(ErrStopped)
			}
		})
	}
}

func (r *Reactor) closeAcceptors() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stopped = true
	for _, s := range r.acceptors {
		s.close()
	}
}

// connClosed is told that a connection is gone.
func (r *Reactor) connClosed() {
	r.conns.Add(-1)
	select {
	case r.capFreed <- struct{}{}:
	default:
	}
}

// assign makes the Conn of an accepted socket on the loop with the fewest; room gets a place back when it is
// there, or will never be.
func (r *Reactor) assign(p *endpoint, fd int, remote netip.AddrPort, room <-chan struct{}) {
	best := r.loops[0]
	for _, l := range r.loops[1:] {
		if l.connCount.Load() < best.connCount.Load() {
			best = l
		}
	}
	r.register(best, p, nil, fd, remote, func(err error) {
		<-room
		if err != nil && p.aborted != nil {
			p.aborted(remote)
		}
	})
}

// register gives a connected socket to l, which calls OnOpen and then done; done with an error, here or
// on the loop, means that it was closed.
func (r *Reactor) register(l *Loop, p *endpoint, owner any, fd int, remote netip.AddrPort, done func(error)) {
	c := &Conn{loop: l, endpoint: p, HandlerState: owner}
	l.connCount.Add(1)
	r.conns.Add(1)
	r.backend.Register(c, fd, remote, func(err error) {
		if err != nil {
			l.connCount.Add(-1)
			r.connClosed()
			r.log.Debug("a connection could not be taken", "err", err)
		}
		done(err)
	})
}
