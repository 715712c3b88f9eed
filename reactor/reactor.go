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
	// Loops is the number of event loops; GOMAXPROCS by default.
	Loops int
	// OutboxBytes is the limit of a connection's outbox, from which on Append takes nothing; 1 MiB.
	OutboxBytes int
	// Connections is the limit of connections in all; 0: none. At the limit a new one waits in the
	// kernel's backlog, see Listener.Refusal.
	Connections int
	// Handshakes bounds TLS handshakes in flight, HandshakesPerAddr those of one address; 4,096 and 64.
	// Loopback addresses have no limit of their own.
	Handshakes, HandshakesPerAddr int
	// AdmissionQueue bounds the admission queue of each loop; 8,192.
	AdmissionQueue int
	// AdmissionBurst is the size of each loop's token bucket for the work of unauthenticated connections,
	// in microseconds of a core; 10,000.
	AdmissionBurst int
	// Workers are used instead of a pool of the reactor's own.
	Workers Workers
	// Listeners are opened by New. Reactor.Listen opens more.
	Listeners []Listener
	// Log gets errors of accept and panics; slog.Default.
	Log *slog.Logger
	// Clock tells the time; time.Now. It is called on any goroutine.
	Clock func() time.Time
	// OnShutdown is called for each connection, on its loop, before it is closed by a shutdown. It may
	// Append a farewell.
	OnShutdown func(c *Conn)
	// Busy reports whether the handler has work on a loop that must end before a shutdown: what clients have
	// sent and workers have not read yet. On the loop. Nil: never.
	Busy func(l *Loop) bool
	// ShutdownTimeout bounds how long a shutdown waits for connections to close, and for loops that are busy; 5
	// s.
	ShutdownTimeout time.Duration
	// StdTLS leaves TLS 1.3 connections to crypto/tls for their whole life, at 4 to 9 kB each. Otherwise
	// the record layer of this package continues them after their handshakes.
	StdTLS bool
	// NoPause is for tests: pauses do not work, as on an engine that can't stop reading a connection.
	NoPause bool

	backend backend // the engine; nil: gnet
}

// A Listener is an address and what is spoken there.
type Listener struct {
	// Addr is the address to listen on, host:port. Port 0 chooses a free one.
	Addr string
	// Name groups listeners for [Reactor.Addrs].
	Name string
	// Handler gets the connections.
	Handler Handler
	// DirectTLS is the TLS configuration of a port where TLS comes first (XEP-0368); nil: plain.
	DirectTLS *tls.Config
	// Protocols are further protocols of a port with DirectTLS. Each gets the connections that agree on its
	// ALPN name in their handshakes; Handler gets all others. DirectTLS must offer the names in NextProtos.
	Protocols []Protocol
	// AllowPlain lets a connection to a port with DirectTLS begin in plain. Its first byte decides; in plain
	// it goes to Handler.
	AllowPlain bool
	// Accept may refuse a connection before it costs anything, as a limit by address does. It is called on
	// the accept goroutine and must not block.
	Accept func(remote netip.AddrPort) bool
	// Refusal returns the bytes that a refused connection gets in plain: full is false if Accept refused
	// it, true if it waited a second (capWait) at the limit of connections. With DirectTLS it gets the
	// alert internal_error instead, with AllowPlain nothing. If Refusal is nil, a connection that Accept
	// refuses is closed, and at the limit connections wait without end.
	Refusal func(full bool) []byte
	// Aborted is called for a connection that Accept let in and that ended before its Handler's OnOpen, so
	// that what Accept counted is given back. It is called on the accept goroutine or on the connection's
	// loop.
	Aborted func(remote netip.AddrPort)
}

// A Reactor is a set of loops with their engine, listeners and workers.
type Reactor struct {
	cfg            Config // with defaults filled in; never changes
	log            *slog.Logger
	loops          []*Loop
	backend        backend
	workers        Workers
	ownWorkers     *pool     // workers, if the configuration has none; ends with Run
	startTime      time.Time // where ticks begin
	handshakeSlots *handshakeSlots
	handshakeLimit handshakeLimiter
	captureConfigs captureConfigs

	conns             atomic.Int64  // open connections, and those on their way to a loop
	refused           atomic.Uint64 // see Refused
	lingeringRefusals atomic.Int64  // refused connections that are not closed yet
	// cap 1: signalled when a connection ends; acceptors at the limit wait for it
	capFreed  chan struct{}
	mu        sync.Mutex           // guards acceptors and stopped
	acceptors map[string]*acceptor // by address
	stopped   bool                 // a shutdown has begun: Listen fails
}

// New opens the listeners and starts the loops. An address in use is an error here. Connections are
// accepted once Run is called. The steps:
//
//  1. The configuration gets its defaults, the reactor its loops and, if need be, a pool of
//     workers.
//  2. Listeners are opened. After an error all are closed again.
//  3. The engine starts; it says whether pauses work.
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

// newReactor returns a Reactor with its loops, without workers, engine and listeners.
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
	r.handshakeSlots = newHandshakeSlots(max(1, runtime.GOMAXPROCS(0)-1)) // one processor is left to the loops
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

// tickAt returns the tick of a time. The first is 1, as Tick 0 means no deadline.
func (r *Reactor) tickAt(now time.Time) Tick {
	return Tick(now.Sub(r.startTime)/TickLength) + 1
}

// Tick returns the present tick. Any goroutine.
func (r *Reactor) Tick() Tick { return r.tickAt(r.cfg.Clock()) }

// Loops returns the loops, by Loop.Index. The slice must not be changed. Any goroutine.
func (r *Reactor) Loops() []*Loop { return r.loops }

// Workers returns the workers of the configuration, or the reactor's own. Any goroutine.
func (r *Reactor) Workers() Workers { return r.workers }

// Connections returns the number of open connections, dialled ones included. Any goroutine.
func (r *Reactor) Connections() int { return int(r.conns.Load()) }

// Refused returns how many connections were refused at the limit Config.Connections. Any goroutine.
func (r *Reactor) Refused() uint64 { return r.refused.Load() }

// Addrs returns the addresses that are listened on, sorted: those of listeners with one of names,
// or all. Any goroutine.
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

// Run serves until ctx ends, and then shuts down: it closes the listeners, calls Config.OnShutdown
// for each connection, flushes its outbox, closes it, and stops the loops. It returns nil then. It
// returns early, with the cause, only if the engine ends by itself. Errors of accept do not end it.
// It posts the ticks of all loops, so without Run no timer fires. To be called once, on any
// goroutine that may block.
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

// shutdown closes all listeners and connections, and waits until the connections are gone and no loop is
// busy, for Config.ShutdownTimeout at most. Meanwhile it posts ticks, as linger timers need them.
func (r *Reactor) shutdown(ticks *time.Ticker) {
	r.closeAcceptors()
	r.shutdownConns()
	timeout := time.NewTimer(r.cfg.ShutdownTimeout)
	defer timeout.Stop()
	for r.conns.Load() > 0 || r.busy(timeout.C) {
		select {
		case <-timeout.C:
			return
		case <-ticks.C:
			for _, l := range r.loops {
				l.Post(l.tick)
			}
		}
	}
}

// busy reports whether a loop is busy: see Config.Busy. It returns false if the time is over first.
func (r *Reactor) busy(over <-chan time.Time) bool {
	if r.cfg.Busy == nil {
		return false
	}
	answers := make(chan bool, len(r.loops))
	for _, l := range r.loops {
		if !l.Post(func() { answers <- r.cfg.Busy(l) }) {
			answers <- false
		}
	}
	is := false
	for range r.loops {
		select {
		case b := <-answers:
			is = is || b
		case <-over:
			return false
		}
	}
	return is
}

// shutdownConns posts to each loop a function that calls Config.OnShutdown for each of its
// connections and closes it with ErrStopped.
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

// closeAcceptors closes all listeners; Listen fails from now on.
func (r *Reactor) closeAcceptors() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stopped = true
	for _, s := range r.acceptors {
		s.close()
	}
}

// connClosed counts an open connection less, and wakes an acceptor that waits at the limit. Any
// goroutine.
func (r *Reactor) connClosed() {
	r.conns.Add(-1)
	select {
	case r.capFreed <- struct{}{}:
	default:
	}
}

// assign gives the accepted socket fd to the loop with the fewest connections, so that loops share
// a storm of logins evenly. When the connection is open, or has failed, it takes a value from
// inFlight. On the accept goroutine.
func (r *Reactor) assign(ep *endpoint, fd int, remote netip.AddrPort, inFlight <-chan struct{}) {
	best := r.loops[0]
	for _, l := range r.loops[1:] {
		if l.connCount.Load() < best.connCount.Load() {
			best = l
		}
	}
	r.register(best, ep, nil, fd, remote, func(err error) {
		<-inFlight
		if err != nil && ep.aborted != nil {
			ep.aborted(remote)
		}
	})
}

// register makes a Conn for the connected socket fd and gives it to l. done is called once: with
// nil on l, after OnOpen, or with an error, here or on l, if fd was closed and OnOpen not called.
// Any goroutine.
func (r *Reactor) register(l *Loop, ep *endpoint, handlerState any, fd int, remote netip.AddrPort,
	done func(error)) {
	c := &Conn{loop: l, endpoint: ep, HandlerState: handlerState}
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
