package bench

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"canto/bench/result"
	"canto/bench/sampler"
)

// Options say how a scenario is run. The zero value is one process, without progress or captures.
type Options struct {
	// Processes is over how many processes of this machine the clients are spread. 0 is as many as the
	// limit of file descriptors requires. More than one needs Command.
	Processes int
	// Command starts a worker process, which calls [ServeWorker] with its standard input and output.
	Command []string
	// Agents are the addresses of agents on other machines. With agents, no client is in a process of
	// this machine.
	Agents []string
	Secret string // Secret is the one that the agents were started with.
	// Progress, if not nil, is called about once an Interval. It must return soon.
	Progress func(result.Progress)
	// Interval is how often the usage of the processes and the server's metrics are sampled. 0 is a
	// second.
	Interval time.Duration
	// Capture, if not nil, is called on a goroutine of its own when a hold or a storm begins. It
	// captures profiles. The phase waits for it to return; ctx ends if the run is interrupted. The
	// files that it names are in the result.
	Capture func(ctx context.Context, p *Phase) []result.File
	// Restart stops the server (SIGTERM), starts it again with its data, and returns when it takes clients: its
	// processes are pids then. nil: the server was not started here, and a scenario can't restart it.
	Restart func(ctx context.Context) (pids []int, err error)
	Tool    result.Tool // Tool describes canto-bench, for the result.
}

// A worker has a part of the clients: in this process (localWorker), or in another one
// (remoteWorker). Methods may be called from any goroutine, Collect one at a time.
type worker interface {
	Phase(ctx context.Context, k int) error // Phase runs the k-th phase; see Fleet.Phase.
	// Collect returns the counts since the last call, and the usage of the process.
	Collect() (*Counts, error)
	Info() (Info, error) // Info returns what the worker has learned of the server.
	Close() error        // Close closes all connections and ends the worker.
}

// A localWorker is the worker in this process.
type localWorker struct {
	f     *Fleet
	share Assignment
	self  *sampler.Process
	stop  context.CancelFunc
}

// newLocalWorker starts a fleet in this process for the plan.
func newLocalWorker(p *Plan) (*localWorker, error) {
	f, err := NewFleet(p.Scenario, p.Target, p.Assignment, p.Run)
	if err != nil {
		return nil, err
	}
	self, err := sampler.Self()
	if err != nil {
		f.Close()
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background())
	go f.measureLag(ctx)
	return &localWorker{f, p.Assignment, self, stop}, nil
}

// Phase implements worker.
func (l *localWorker) Phase(ctx context.Context, k int) error { return l.f.Phase(ctx, k, l.share) }

// Info implements worker.
func (l *localWorker) Info() (Info, error) { return l.f.Info(), nil }

// Collect implements worker.
func (l *localWorker) Collect() (*Counts, error) {
	t := l.f.Collect()
	var err error
	t.Usage, err = l.self.Usage()
	return t, err
}

// Close implements worker.
func (l *localWorker) Close() error {
	l.stop()
	return l.f.Close()
}

// A Plan is all that a worker needs to know. It is sent to workers in other processes as JSON.
type Plan struct {
	Scenario   *Scenario  // the scenario, after Check
	Target     Target     // the server, with its capabilities
	Assignment Assignment `json:"Share"` // the part of the clients that the worker has
	Run        uint32     // the random number of the run
}

// Run runs a scenario against a server, and returns the result. If outer ends early, that is no
// error: the result is partial, and says so with the context's cause. With an error there may be a
// result of all that was measured until then.
//
// Its steps: it checks scenario and target; it discovers what the server offers, and fails if the
// scenario needs more; it opens the samplers of the server's process and metrics, for a baseline
// before any client is connected; it starts the workers; it runs the phases one after another; it
// collects the last counts, computes the figures, and closes the workers.
func Run(outer context.Context, sc *Scenario, t Target, o Options) (*result.Run, error) {
	setDefault(&o.Interval, time.Second)
	// Phases have deadlines of their own, which are no errors: an end from outside is a cancellation, always.
	ctx, end := context.WithCancelCause(context.WithoutCancel(outer))
	defer end(nil)
	defer context.AfterFunc(outer, func() { end(context.Cause(outer)) })()
	if err := sc.Check(); err != nil {
		return nil, err
	}
	if err := t.Check(sc.Clients.TLS); err != nil {
		return nil, err
	}
	if o.Restart == nil && slices.ContainsFunc(sc.Phases, func(p Phase) bool { return p.Kind == Restart }) {
		return nil, Failure{"the scenario restarts the server, which was not started here",
			"--peer canto, prosody or ejabberd"}
	}
	c := &collector{scenario: sc, heap: make(map[string]float64),
		restarted: make(chan []int, 1), options: o, all: newTotal(), loopTurns: make(map[string]loopTurns),
		interval: newTotal(), began: time.Now()}
	c.steps, c.first = plan(sc)
	c.run = &result.Run{Format: result.Format, Scenario: result.Scenario{Name: sc.Name, About: sc.About,
		Source: sc.Source()}, Machine: sampler.Machine(), Tool: o.Tool}
	if err := c.discover(ctx, &t); err != nil {
		return nil, err
	}
	c.target = t
	c.run.Target = result.Target{Name: t.Name, Software: t.Software, Version: t.Version, Commit: t.Commit,
		Addr:   t.addr(sc.Clients.TLS).String(),
		Domain: t.Domain, TLS: sc.Clients.TLS, Config: t.Config, PIDs: t.PIDs}
	if err := c.openSamplers(ctx); err != nil {
		return nil, err
	}
	err := c.startWorkers(ctx, rand.Uint32())
	defer func() {
		for _, w := range c.workers {
			w.Close()
		}
	}()
	if err != nil {
		return nil, err
	}
	c.began = time.Now()
	c.run.Began = c.began.UTC()
	c.run.Workers = len(c.workers)
	for k := range sc.Phases {
		if err = c.phase(ctx, k); err != nil {
			break
		}
	}
	if err != nil && ctx.Err() != nil {
		c.run.Partial = fmt.Sprintf("interrupted in phase %s", c.run.Phases[len(c.run.Phases)-1].Name)
		if cause := context.Cause(ctx); cause != ctx.Err() {
			c.run.Partial += ": " + cause.Error()
		}
		err = nil
	} else if err != nil {
		c.run.Partial = strings.ReplaceAll(err.Error(), "\n", " ")
	}
	c.finish()
	return c.run, err
}

// reservedDescriptors is how many file descriptors of a process are not for clients: files, pipes,
// epoll, and sockets that are being closed.
const reservedDescriptors = 200

// startWorkers starts the workers: agents if there are any, otherwise as many processes as Options
// or the limit of file descriptors require, or one in this process. Groups with Apart get one more
// process, which runs at idle priority.
func (c *collector) startWorkers(ctx context.Context, run uint32) error {
	n := c.options.Processes
	if len(c.options.Agents) > 0 {
		n = len(c.options.Agents)
	} else if n == 0 {
		n = 1
		if limit := c.run.Machine.Descriptors; limit > reservedDescriptors {
			most := int(limit - reservedDescriptors)
			attackers := c.scenario.Accounts() - c.scenario.Clients.Count // they have connections, too
			connections := c.scenario.Sessions() + attackers
			n = (connections + most - 1) / most
		}
		if n > 1 && len(c.options.Command) == 0 {
			return Failure{fmt.Sprintf("%d clients need more descriptors than the %d of a process",
				c.scenario.Sessions(), c.run.Machine.Descriptors), "raise ulimit -n"}
		}
	}
	shares := make([]Assignment, n)
	for i := range n {
		shares[i] = Assignment{Worker: i, Workers: n}
	}
	if c.scenario.apart("") && len(c.options.Agents) == 0 && len(c.options.Command) > 0 {
		for i := range shares {
			shares[i].Groups = OtherGroups
		}
		shares = append(shares, Assignment{0, 1, ApartGroups})
	}
	for i, share := range shares {
		p := &Plan{Scenario: c.scenario, Target: c.target, Assignment: share, Run: run}
		var w worker
		var err error
		switch {
		case len(c.options.Agents) > 0:
			w, err = dialAgent(ctx, c.options.Agents[i], c.options.Secret, p)
		case n > 1 || share.Groups == ApartGroups:
			w, err = startWorker(c.options.Command, p)
		default:
			w, err = newLocalWorker(p)
		}
		if err != nil {
			return err
		}
		c.workers = append(c.workers, w)
		c.apart = append(c.apart, share.Groups == ApartGroups)
	}
	return nil
}

// A collector coordinates a run. It runs the phases on all workers, adds up their counts, and
// samples the processes. One goroutine uses it.
type collector struct {
	scenario  *Scenario
	options   Options
	target    Target
	steps     []step
	first     []uint16
	workers   []worker
	apart     []bool               // of each worker: it has the groups with Apart, so its lag is not the run's
	server    *sampler.Process     // nil: the server's processes are not on this machine
	scraper   *sampler.Scraper     // nil: the server has no metrics
	loopTurns map[string]loopTurns // by phase; empty if the server does not count them

	run      *result.Run // the result
	began    time.Time
	all      *total // counts of the whole run
	interval *total // counts since the last sample

	bound   int // clients that are online
	resting int // clients that are not, and can resume their session
	// live heap of the server by phase, in bytes, after a collection and without the cache of its store: at
	// the ends of settles that are compared; empty if it is no Go program with a debug listener
	heap      map[string]float64
	restarted chan []int   // the server's processes after a restart
	base      result.Usage // usage of the server before any client was connected
	// sizes of the kernel's slab caches at that time; nil: unknown
	slabs              map[string]int64
	baseClient         result.Usage // usage of the workers at that time
	lastServer         result.Usage // usage of the server at the last sample
	client, lastClient result.Usage // usage of all workers now, and at the last sample
	lastSample         time.Time
	current            int // index of the phase
}

// openSamplers opens the samplers of the server's processes and metrics, and takes the baseline.
func (c *collector) openSamplers(ctx context.Context) (err error) {
	c.run.Base = new(result.Sample)
	if len(c.target.PIDs) > 0 {
		if c.server, err = sampler.Open(c.target.PIDs...); err != nil {
			return Failure{fmt.Sprintf("the server's process can't be sampled: %v", err),
				"--pid must be of a process on this machine; leave it out if the server runs elsewhere"}
		}
		if c.base, err = c.server.Usage(); err != nil {
			return err
		}
		c.lastServer = c.base
		c.run.Base.Server = &c.base
		c.slabs, _ = sampler.Slabs() // for root only
	}
	if c.target.Metrics != "" {
		c.scraper = sampler.NewScraper(c.target.Metrics)
		if c.run.Base.Metrics, err = c.scraper.Scrape(ctx); err != nil {
			return Failure{fmt.Sprintf("the server's metrics can't be read: %v", err),
				"--metrics must be the URL of its Prometheus metrics"}
		}
	}
	return nil
}

// collect adds up the counts of all workers, which it asks side by side.
func (c *collector) collect() error {
	ticks := make([]*Counts, len(c.workers))
	errs := make([]error, len(c.workers))
	var wg sync.WaitGroup
	for i, w := range c.workers {
		wg.Add(1)
		go func() {
			defer wg.Done()
			ticks[i], errs[i] = w.Collect()
		}()
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	c.bound, c.resting = 0, 0
	c.client = result.Usage{}
	for i, t := range ticks {
		if c.apart[i] {
			t.Lag = nil
		}
		c.all.add(t)
		c.interval.add(t)
		c.bound += t.Bound
		c.resting += t.Resting
		c.client.Add(t.Usage)
	}
	c.run.Sessions = max(c.run.Sessions, c.bound)
	return nil
}

// sample appends a sample to the result: the counts and the usage since the last one. A machine
// that sleeps makes long intervals; the time of a sample is when it ended.
func (c *collector) sample() {
	now := time.Now()
	s := result.Sample{At: now.Sub(c.began).Seconds(), Phase: c.scenario.Phases[c.current].Name,
		Sessions: c.bound, Client: c.client.Since(c.lastClient),
		LagP99: result.Millis(c.interval.lag.Quantile(.99)), Steps: make(map[string]result.Interval)}
	c.lastClient = c.client
	by := map[string]*tally{}
	for id, t := range c.interval.steps {
		st := c.steps[id]
		if st.isPart || st.counts != 0 {
			continue
		}
		if by[st.name] == nil {
			by[st.name] = new(tally)
		}
		by[st.name].add(t)
	}
	for name, t := range by {
		h := t.Latency
		s.Steps[name] = result.Interval{Sent: t.Sent, Done: t.Done, Failed: t.Failed,
			P50: result.Millis(h.Quantile(.5)), P90: result.Millis(h.Quantile(.9)),
			P99: result.Millis(h.Quantile(.99)), P999: result.Millis(h.Quantile(.999)), Max: result.Millis(h.Max())}
	}
	if c.server != nil {
		if u, err := c.server.Usage(); err == nil {
			d := u.Since(c.lastServer)
			c.lastServer = u
			s.Server = &d
		}
	}
	if c.scraper != nil {
		ctx, cancel := context.WithTimeout(context.Background(), max(500*time.Millisecond, c.options.Interval/2))
		s.Metrics, _ = c.scraper.Scrape(ctx)
		cancel()
	}
	c.run.Samples = append(c.run.Samples, s)
	c.interval = newTotal()
	c.lastSample = now
}

// phase runs the k-th phase on all workers, and returns its first error.
//
// Its steps: it notes usage and counters of the beginning; it starts the phase on each worker, and
// the capture, if there is one; it collects every 100 ms and samples each Interval, while workers
// run the phase, and after a hold, storm or drain until all expected deliveries have come, or the
// Grace is over; an error of a worker cancels the others; it notes usage and counters of the end.
func (c *collector) phase(ctx context.Context, k int) (err error) {
	p := &c.scenario.Phases[k]
	c.current = k
	ph := result.Phase{Name: p.Name, Kind: p.Kind, From: time.Since(c.began).Seconds()}
	var before result.Usage
	if c.server != nil {
		before, _ = c.server.Usage()
	}
	since, counts := c.scrapeTurns()
	if err := c.collect(); err != nil {
		return err
	}
	client := c.client
	if k == 0 {
		c.baseClient = c.client
		c.run.Base.Client = c.client
	}
	c.lastClient = c.client
	c.lastSample = time.Now()
	c.run.Phases = append(c.run.Phases, ph)
	done := make(chan error, len(c.workers)+1)
	phctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var marks chan []result.File
	if c.options.Capture != nil && (p.Kind == Hold || p.Kind == Storm) {
		marks = make(chan []result.File, 1)
		go func() { marks <- c.options.Capture(ctx, p) }()
	}
	for _, w := range c.workers {
		go func() { done <- w.Phase(phctx, k) }()
	}
	working := len(c.workers)
	if p.Kind == Restart {
		working++
		go func() { done <- c.restart(phctx, time.Duration(p.Length)) }()
	}
	// What the phase waits for when the workers have ended it: its deliveries; in a ramp, the messages that
	// waited for those who log in; in a csi, the presence that was held back.
	awaited := func(id uint16) bool {
		switch st := &c.steps[id]; p.Kind {
		case Ramp:
			return st.away
		case CSI:
			return st.held && p.Off
		default:
			return id >= c.first[k] && !st.away && !st.held
		}
	}
	start := time.Now()
	var first error
	every := time.NewTicker(100 * time.Millisecond)
	defer every.Stop()
	c.progress(p, start)
	var ended time.Time // when the workers had ended the phase
	for {
		select {
		case err := <-done:
			working--
			if err != nil && (first == nil || errors.Is(first, context.Canceled)) {
				first = err
				cancel()
			}
			if working > 0 {
				continue
			}
			ended = time.Now()
		case <-every.C:
		}
		if working == 0 || time.Since(c.lastSample) >= c.options.Interval {
			if err := c.collect(); err != nil {
				return cmp.Or(first, err)
			}
		}
		if time.Since(c.lastSample) >= c.options.Interval {
			c.sample()
			c.progress(p, start)
		}
		if working == 0 && (first != nil || ctx.Err() != nil ||
			!slices.Contains([]string{Hold, Storm, Drain, Ramp, CSI}, p.Kind) ||
			c.all.missing(awaited) == 0 || time.Since(ended) > time.Duration(p.Grace)) {
			break
		}
	}
	cancel()
	if marks != nil {
		c.run.Files = append(c.run.Files, <-marks...)
	}
	if time.Since(c.lastSample) > 200*time.Millisecond {
		c.sample()
	}
	q := &c.run.Phases[len(c.run.Phases)-1]
	q.To = time.Since(c.began).Seconds()
	q.Sessions, q.Resting = c.bound, c.resting
	q.Client = c.client.Since(client)
	if p.Kind == Restart && first == nil {
		if pids := <-c.restarted; c.server != nil {
			if c.server, err = sampler.Open(pids...); err != nil {
				return err
			}
		}
		before, c.lastServer = result.Usage{}, result.Usage{} // figures are of the new processes
	}
	if c.server != nil {
		u, err := c.server.Usage()
		if err != nil {
			return cmp.Or(first, error(Failure{"the server has gone", "look at its log: it may have crashed"}))
		}
		d := u.Since(before)
		d.PSS, _ = c.server.PSS()
		if p.Kind == Settle {
			q.Slabs = c.slabGrowth()
		}
		q.Server = &d
		if p.Kind == Settle && c.compared(p) {
			c.collectGarbage(ctx, p.Name)
		}
	}
	if now, ok := c.scrapeTurns(); ok && counts && p.Kind != Restart {
		now.long -= since.long
		now.busy, now.flooding, now.wall = now.busy-since.busy, now.flooding-since.flooding, now.wall-since.wall
		c.loopTurns[q.Name] = now
	}
	if first == nil {
		first = ctx.Err()
	}
	return first
}

// restart restarts the server, and goes on sampling its new processes. The length bounds it.
func (c *collector) restart(ctx context.Context, length time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, length)
	defer cancel()
	pids, err := c.options.Restart(ctx)
	if err != nil {
		return Failure{fmt.Sprintf("the server was not restarted: %v", err), "look at its log"}
	}
	c.restarted <- pids
	return nil
}

// compared reports whether the server's memory at the end of the settle p is compared with that of another.
func (c *collector) compared(p *Phase) bool {
	return p.Base != "" || slices.ContainsFunc(c.scenario.Phases, func(q Phase) bool {
		return q.Kind == Settle && q.Base == p.Name
	})
}

// collectGarbage makes the server collect its garbage, if it is a Go program with a debug listener, and notes
// its live heap at the end of the phase.
func (c *collector) collectGarbage(ctx context.Context, phase string) {
	if c.scraper == nil || c.target.Profiles == "" {
		return
	}
	if err := sampler.CollectGarbage(ctx, c.target.Profiles); err != nil {
		return
	}
	m, err := c.scraper.Scrape(ctx)
	if live, ok := m["go_gc_heap_live_bytes"]; err == nil && ok {
		c.heap[phase] = live - m["canto_store_cache_bytes"]
	}
}

// loopTurns are what a server's metrics say of its event loops. Canto has these metrics.
type loopTurns struct {
	long, longest float64 // turns of over 20 ms, and the longest one in seconds
	loops         float64
	// seconds of all loops: with work, and with input over a client's rate; wall is of the clock
	busy, flooding, wall float64
}

// scrapeTurns reads the metrics of the server's event loops. ok is false if it has none.
func (c *collector) scrapeTurns() (t loopTurns, ok bool) {
	if c.scraper == nil {
		return t, false
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	m, err := c.scraper.Scrape(ctx)
	if err != nil {
		return t, false
	}
	t.long, ok = m["canto_long_turns_total"]
	t.longest = m["canto_longest_turn_seconds"]
	t.loops, t.flooding = m["canto_loops"], m["canto_loop_seconds_total_flooding"]
	for _, w := range []string{"handling", "posted", "flushing"} {
		t.busy += m["canto_loop_seconds_total_"+w]
	}
	t.wall = time.Since(c.began).Seconds()
	return t, ok
}

// progress reports the state of the phase, which began at start, to Options.Progress.
func (c *collector) progress(p *Phase, start time.Time) {
	if c.options.Progress == nil {
		return
	}
	g := result.Progress{Scenario: c.scenario.Name, Target: c.target.Name, Phase: p.Name, Kind: p.Kind,
		Index: c.current, Phases: len(c.scenario.Phases), Elapsed: time.Since(start)}
	switch p.Kind {
	case Hold, Settle:
		g.Length = time.Duration(p.Length)
	case Ramp, Storm:
		g.Goal, g.Now, g.Waiting = c.scenario.Sessions(), c.bound, "sessions bound"
	case Drain:
		g.Waiting = "streams to end"
	case Cut:
		g.Waiting = "connections to end"
	case Restart:
		g.Waiting = "the server to stop and to start"
	case Join, Befriend, Carbons, SM, CSI, Push, Fill:
		g.Waiting = map[string]string{Join: "rooms to fill", Befriend: "subscriptions",
			Carbons: "clients to turn carbons on or off", SM: "clients to turn stream management on",
			CSI: "clients to say whether they are active", Push: "clients to register",
			Fill: "messages to arrive"}[p.Kind]
		if t := c.all.steps[c.first[c.current]]; t != nil {
			g.Now, g.Goal = int(t.Done), int(t.Intended)
		}
	}
	if n := len(c.run.Samples); n > 0 {
		g.Sample = c.run.Samples[n-1]
	} else {
		g.Sample.Sessions = c.bound
	}
	g.Warnings = c.run.Warnings
	c.options.Progress(g)
}

// finish makes the result of the counts. It collects the workers' last counts, and samples once
// more if the last interval is long enough; reads mechanism, cipher and resumed handshakes from
// the workers; makes a result of each step, with its lost deliveries; sorts the failures by
// frequency; and derives the figures and the warnings. A worker that does not answer any more
// adds nothing.
func (c *collector) finish() {
	if err := c.collect(); err == nil && len(c.interval.steps) > 0 &&
		time.Since(c.lastSample) > 200*time.Millisecond {
		c.sample()
	}
	r := c.run
	r.Seconds = time.Since(c.began).Seconds()
	var resumed int64
	for _, w := range c.workers {
		if i, err := w.Info(); err == nil {
			r.Target.Mechanism = cmp.Or(r.Target.Mechanism, i.Mechanism)
			resumed += i.Resumed
			if i.Cipher != "" && !strings.Contains(r.Target.TLS, "TLS") {
				r.Target.TLS += ", " + i.Cipher
			}
		}
	}
	for _, st := range c.steps {
		t := c.all.steps[st.id]
		if t == nil || st.counts != 0 {
			continue
		}
		s := result.Step{Phase: c.scenario.Phases[st.phase].Name, Name: st.name, Open: st.open,
			Intended: t.Intended, Sent: t.Sent, Expected: t.Expected, Done: t.Done,
			Duplicated: t.Duplicated, Reordered: t.Reordered, Failed: t.Failed, Wrong: t.Wrong, Late: t.Late,
			Unsent:    t.Unsent,
			LateAfter: result.Millis(st.lateAfter), Latency: t.Latency, Lag: t.Lag}
		if t.Expected > t.Done+t.Failed {
			s.Lost = t.Expected - t.Done - t.Failed
		}
		if s.Latency == nil {
			s.Latency = result.NewHistogram()
		}
		if s.Lag == nil {
			s.Lag = result.NewHistogram()
		}
		s.Receivers = 1
		if t.Intended > 0 && t.Expected > t.Intended {
			s.Receivers = float64(t.Expected) / float64(t.Intended)
		}
		r.Steps = append(r.Steps, s)
	}
	slices.SortStableFunc(c.all.failures, func(a, b result.Failure) int { return cmp.Compare(b.Count, a.Count) })
	r.Refusals = c.all.failures
	c.figures()
	if c.scenario.Clients.Tickets {
		r.Figures = append(r.Figures, result.Figure{Name: "tls.resumed", Value: float64(resumed),
			Unit: "count", Better: "higher", About: "handshakes that resumed an earlier session"})
	}
	c.warn()
}
