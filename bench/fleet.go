package bench

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"canto/bench/result"
	"canto/bench/xmpp"
	"canto/reactor"
	"canto/reactor/buf"
	"canto/session/stanza"
	"canto/xmlstream"
)

// A Fleet is the clients of one process, with event loops of their own: all clients of a run, or a
// [Assignment] of them.
//
// A client belongs to one event loop, and its state is touched there. One goroutine at a time runs phases
// ([Fleet.Phase]), and starts pacers, which post operations to the loops. An action in a phase, and the
// logins of a phase, are a step, by whose id operations are counted. Each loop counts in tallies of its own;
// [Fleet.Collect] reads and clears them. Methods are for the goroutine that runs the phases, where their
// comments do not say otherwise.
//
// NewFleet makes a Fleet, and Close ends it. A function that is posted to a loop which has ended is dropped:
// loops end by Close, after the last phase.
type Fleet struct {
	target    Target            // the server, after Target.Check
	sc        *Scenario         // the scenario, after Scenario.Check
	steps     []step            // all steps of the scenario, in the order of their ids; see plan
	firstStep []uint16          // the id of the first step of each phase, and one more at the end
	run       uint32            // a random number, in the ids of the stanzas that are measured: see traceID
	tls       *tls.Config       // shared by all clients; nil: no TLS
	limits    xmlstream.LimitID // of the clients' parsers
	// messages may be carbons: see Scenario.copiesCarbons
	watchCarbons bool
	appServers   map[uint16]bool // by the number of the group; see findAppServers
	pushStep     atomic.Uint32   // the last step that counts pushes and has begun; 0: none

	reactor *reactor.Reactor // runs the loops
	loops   []*loopState     // by the number of the loop
	groups  []group          // in the order of the scenario
	// by index. It is filled by NewFleet and does not change: any goroutine may read it.
	clients map[uint32]*client

	saltedKeys    sync.Map     // the derived key of the last login, by sasl.Mechanism: accounts often share it
	sessions      atomic.Int64 // clients that are online
	resting       atomic.Int64 // clients that are not, and can resume their session
	phase         atomic.Int32 // index of the phase that runs
	phaseBegan    atomic.Int64 // when it began, on the monotonic clock; of a storm when all were dropped
	restarting    atomic.Bool  // the server ends all sessions: that is no failure
	disconnecting atomic.Int64 // clients whose connection disconnect is closing
	fastTokens    atomic.Int64 // FAST tokens that the server has issued
	resumedTLS    atomic.Int64 // TLS handshakes that resumed a session
	featuresSeen  atomic.Int32 // 1: noteFeatures has seen the features before authentication; 2: and after it
	needsSession  atomic.Bool  // the server wants a session request after bind (RFC 3921)
	mechanism     atomic.Value // string: of the last login
	cipher        atomic.Value // string: TLS version and cipher suite of the first handshake

	mu             sync.Mutex                        // guards the two maps below
	serverFeatures map[string]bool                   // by the names that scenarios use: "sm", "sasl2"
	awaitedIQs     map[string]chan xmlstream.Element // by the id of the request; see queryIQ

	counting [][len(countNames)]uint16 // the steps of what is counted, by phase; see countSteps

	// of closed loops (pace.go), by step; set before their phase's actions start
	windows      []*window
	notified     chan struct{}            // wakes the goroutine of the phase; capacity 1; see notify
	inFlight     atomic.Pointer[inFlight] // the bound of the phase that runs now
	failures     atomic.Int64             // logins, joins and subscriptions that failed since the phase began
	firstFailure atomic.Pointer[Failure]  // of the logins since the phase began
	done         chan error               // receives the error of the reactor when it has stopped
	stop         context.CancelFunc       // ends the reactor
}

// A group is this process's clients of one group of the scenario.
type group struct {
	name    string
	clients []*client
	total   int // clients of the group in all processes
}

// floodSendBuffer is the size of the send buffer of a flooding client's socket, in bytes. With the
// kernel's default, megabytes of each client would wait in sockets when the phase ends, and would
// take minutes to arrive at a server that limits rates.
const floodSendBuffer = 16 << 10

// A loopState is the state of one event loop. Only its loop uses it.
type loopState struct {
	f        *Fleet
	loop     *reactor.Loop
	parser   *xmlstream.Parser
	tallies  []*tally          // by step; nil until the step counts something on this loop
	lag      *result.Histogram // how late posted functions ran; see measureLag
	failures []result.Failure  // kinds of failure since the last Collect, with their counts
	buf      []byte            // scratch space for one stanza; actions store the grown buffer back
	filler   []byte            // text of message bodies; grown to the longest that was asked for
	rng      *rand.Rand        // picks partners
	readAt   int64             // when the input that is handled now was read, on the monotonic clock
}

// tally returns the loop's tally of a step.
func (ls *loopState) tally(id uint16) *tally {
	if ls.tallies[id] == nil {
		ls.tallies[id] = new(tally)
	}
	return ls.tallies[id]
}

// maxFailureKinds bounds how many kinds of failure a loop tells apart. Their texts contain names
// that the server chooses.
const maxFailureKinds = 50

// countFailure counts a failure by its text. Beyond maxFailureKinds all new kinds are counted as
// "other failures", which takes the place of the last kind, with its count.
func (ls *loopState) countFailure(r Failure) {
	for i := range ls.failures {
		if ls.failures[i].What == r.What {
			ls.failures[i].Count++
			return
		}
	}
	if len(ls.failures) == maxFailureKinds {
		r = Failure{What: "other failures"}
		if n := &ls.failures[maxFailureKinds-1]; n.What == r.What {
			n.Count++
			return
		}
		ls.failures[maxFailureKinds-1] = r.counted(ls.failures[maxFailureKinds-1].Count + 1)
		return
	}
	ls.failures = append(ls.failures, r.counted(1))
}

// An Assignment is the part of the clients that one worker process has. Together the workers of a run
// cover every client exactly once: workers for groups with [Group.Apart] are numbered by themselves.
type Assignment struct {
	Worker, Workers int // the number of this worker, from 0, and how many there are
	// the groups that it has clients of; the key is read by `canto-bench agent` of older versions
	Groups GroupFilter `json:"Apart"`
}

// A GroupFilter selects groups by [Group.Apart]: those groups get a worker process of their own.
type GroupFilter uint8

const (
	AllGroups   GroupFilter = iota // all of them
	ApartGroups                    // the groups with Apart
	OtherGroups                    // the groups without Apart
)

// rangeOfGroup returns the range [from, to) of g's clients that the worker has.
func (p Assignment) rangeOfGroup(g *Group) (from, to int) {
	if p.Groups == ApartGroups && !g.Apart || p.Groups == OtherGroups && g.Apart {
		return 0, 0
	}
	return p.rangeOf(g.Count)
}

// rangeOf returns the range [from, to) of n clients that the worker has. Its limits are even (but for n,
// the end of the last one), so that the two clients of a pair are in one process.
func (p Assignment) rangeOf(n int) (from, to int) {
	cut := func(k int) int {
		if k == p.Workers {
			return n
		}
		return n * k / p.Workers &^ 1
	}
	return cut(p.Worker), cut(p.Worker + 1)
}

// NewFleet starts the event loops and makes the clients. It opens no connection. run is the same
// number in all workers of a run. With an error nothing runs: the target or a certificate is wrong, or the
// event loops can't be started.
//
// First it checks the target and makes the TLS configuration. It numbers the scenario's steps. It starts
// a reactor, with the limits of servers (handshakes, outboxes) set so high that they do not hold the
// fleet back. It makes the clients of its part of each group. The two clients of a pair go to
// neighbouring loops: on one loop every message between them would be written and read in the same turn,
// which is faster than between clients of different machines.
func NewFleet(sc *Scenario, t Target, part Assignment, run uint32) (*Fleet, error) {
	if err := t.Check(sc.Clients.TLS); err != nil {
		return nil, err
	}
	cfg, err := t.tls(&sc.Clients)
	if err != nil {
		return nil, err
	}
	limits, err := xmlstream.Limits{StanzaBytes: 16 << 20, StanzaAttrs: 1 << 18, Nodes: 1 << 18}.ID()
	if err != nil {
		return nil, err
	}
	f := &Fleet{target: t, sc: sc, run: run, tls: cfg, limits: limits, clients: make(map[uint32]*client),
		serverFeatures: make(map[string]bool), awaitedIQs: make(map[string]chan xmlstream.Element),
		notified: make(chan struct{}, 1), done: make(chan error, 1)}
	f.watchCarbons = sc.copiesCarbons()
	f.findAppServers()
	f.steps, f.firstStep = plan(sc)
	f.counting = countSteps(sc, f.steps)
	f.windows = make([]*window, len(f.steps))
	r, err := reactor.New(reactor.Config{Handshakes: 1 << 20, HandshakesPerAddr: 1 << 20, OutboxBytes: 4 << 20,
		Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, err
	}
	f.reactor = r
	for i, l := range r.Loops() {
		f.loops = append(f.loops, &loopState{f: f, loop: l, parser: xmlstream.NewParser(&buf.Input),
			tallies: make([]*tally, len(f.steps)),
			lag:     result.NewHistogram(), rng: rand.New(rand.NewPCG(uint64(run), uint64(i)))})
	}
	floods, samples := make(map[string]bool), make(map[string]bool) // groups
	for _, p := range sc.Phases {
		for _, a := range p.Do {
			floods[a.Group] = floods[a.Group] || a.Kind == Flood
			samples[a.Group] = samples[a.Group] || wantsSamples(a.Pages)
		}
	}
	offsets := sc.offsets()
	for n := range sc.Groups {
		g := &sc.Groups[n]
		from, to := part.rangeOfGroup(g)
		gr := group{name: g.Name, total: g.Count, clients: make([]*client, 0, to-from)}
		for i := from; i < to; i++ {
			c := &client{index: uint32(offsets[n] + i), account: uint32(offsets[n] + i), group: uint16(n),
				loop: uint16(len(gr.clients) / 2 % len(f.loops))}
			if of := sc.groupNumber(g.Of); of >= 0 {
				c.account = uint32(offsets[of] + i)
			}
			if len(gr.clients)%2 == 1 {
				c.loop = uint16((len(gr.clients)/2 + 1) % len(f.loops))
			}
			if floods[g.Name] {
				c.flags |= flagFloods
			}
			if samples[g.Name] {
				c.flags |= flagSamples
			}
			gr.clients = append(gr.clients, c)
			f.clients[c.index] = c
		}
		f.groups = append(f.groups, gr)
	}
	ctx, stop := context.WithCancel(context.Background())
	f.stop = stop
	go func() { f.done <- r.Run(ctx) }()
	return f, nil
}

// Close closes all connections, ends the loops, and returns when they have ended. The error is that
// of the reactor.
func (f *Fleet) Close() error {
	f.stop()
	return <-f.done
}

// groupNumber is the number of the group of that name; -1 if there is none.
func (s *Scenario) groupNumber(name string) int {
	return slices.IndexFunc(s.Groups, func(g Group) bool { return g.Name == name })
}

// offsets are the indexes of the first clients of the groups: those with accounts of their own, and then
// those with second devices.
func (s *Scenario) offsets() []int {
	offsets := make([]int, len(s.Groups))
	next := 0
	for _, second := range []bool{false, true} {
		for i, g := range s.Groups {
			if (g.Of != "") == second {
				offsets[i] = next
				next += g.Count
			}
		}
	}
	return offsets
}

// plan lists the steps of a scenario, and the id of each phase's first step. It depends on the
// scenario only, so that all workers come to the same ids. A phase has first the steps of its
// logins ("login" and its parts), joins, subscriptions or requests, then those of what its actions
// cause, and then one for each action.
func plan(sc *Scenario) (steps []step, first []uint16) {
	offsets := sc.offsets()
	for i, p := range sc.Phases {
		first = append(first, uint16(len(steps)))
		add := func(name string, open, part bool, late time.Duration) {
			steps = append(steps, step{id: uint16(len(steps)), phase: i, name: name, open: open, isPart: part,
				lateAfter: late})
		}
		logins := func() {
			add("login", p.Rate > 0 || p.Kind == Storm, false, time.Second)
			for _, n := range partNames[1:] {
				add(n, false, true, time.Second)
			}
			if sc.Clients.Resume {
				add("resume", false, false, time.Second)
				resume := len(steps) - 1
				steps[resume].isEffect = true
				steps[resume-len(partNames)].resume = uint16(resume)
			}
		}
		switch p.Kind {
		case Ramp, Storm:
			logins()
		case Befriend:
			add("subscribe", false, false, time.Second)
		case Join:
			add("join", false, false, time.Second)
		case Carbons, Push, SM, CSI:
			add("request", false, false, time.Second)
			steps[len(steps)-1].request = true
		}
		if p.Kind == Fill {
			add("fill", false, false, time.Second)
			steps[len(steps)-1].away = p.Away
		}
		if len(steps) > 0 { // the first step of a scenario is never one
			for kind, name := range countNames {
				if sc.counts(countKind(kind), i) {
					add(name, false, false, 0)
					steps[len(steps)-1].counts = countKind(kind)
				}
			}
		}
		effects := make(map[string]uint16) // by name
		for _, a := range p.Do {
			for _, effect := range slices.Sorted(maps.Keys(a.effects())) {
				add(effect, a.Rate > 0, false, time.Duration(cmp.Or(a.Late, Span(time.Second))))
				steps[len(steps)-1].isEffect = true
				effects[effect] = steps[len(steps)-1].id
			}
		}
		for _, a := range p.Do {
			add(a.Step, a.Rate > 0, false, time.Duration(cmp.Or(a.Late, Span(time.Second))))
			s := &steps[len(steps)-1]
			s.flood = a.Kind == Flood
			s.held = a.Held
			s.away, s.pushes = a.Away, effects[a.Step+"-pushes"]
			if s.carbons = effects[a.Step+"-carbons"]; s.carbons != 0 {
				s.copies = a.Copies
				s.deviceAt = offsets[sc.groupNumber(a.Copies)] - offsets[sc.groupNumber(a.To)]
			}
		}
	}
	return steps, append(first, uint16(len(steps)))
}

// actionStep is the id of the step of the j-th action of phase k.
func (f *Fleet) actionStep(k, j int) uint16 {
	return f.firstStep[k+1] - uint16(len(f.sc.Phases[k].Do)) + uint16(j)
}

// members returns this process's clients of the named groups.
func (f *Fleet) members(names ...string) (list []*client) {
	for _, n := range names {
		for _, g := range f.groups {
			if g.name == n {
				list = append(list, g.clients...)
			}
		}
	}
	return list
}

// Bound returns how many clients are online: their resource is bound. Any goroutine may call it.
func (f *Fleet) Bound() int { return int(f.sessions.Load()) }

// scratch returns the empty buffer of c's loop, for one stanza, which the connection copies. A stanza that is
// longer than the buffer is allocated. It may be called on that loop only, and the next call returns the same
// memory.
func (f *Fleet) scratch(c *client) []byte { return f.loops[c.loop].buf[:0] }

// notify wakes the goroutine of the phase: a login, a join, a subscription or a connection has
// ended. Any goroutine may call it.
func (f *Fleet) notify() {
	select {
	case f.notified <- struct{}{}:
	default:
	}
}

// awaitNotify waits for notify. It returns false if ctx ends first. Several calls of notify may
// wake it once only, so the caller checks its condition again.
func (f *Fleet) awaitNotify(ctx context.Context) bool {
	select {
	case <-f.notified:
		return true
	case <-ctx.Done():
		return false
	}
}

// dial begins a login of c, which is counted in the given step and was due at intended. Any goroutine may
// call it while c has no connection and no login: before its first login, and after notify has said that
// c is offline.
func (f *Fleet) dial(c *client, step uint16, intended int64) {
	f.loops[c.loop].loop.Post(f.dialFunc(c, step, intended))
}

// dialAll begins logins of all of list, which were due at intended. It posts a few at a time and
// waits until they have begun: other work of the loops waits for those few, not for the whole list.
func (f *Fleet) dialAll(list []*client, step uint16, intended int64) {
	const few = 32 // clients
	var wg sync.WaitGroup
	for len(list) > 0 {
		some := list[:min(few, len(list))]
		list = list[len(some):]
		for _, c := range some {
			d := f.dialFunc(c, step, intended)
			wg.Add(1)
			if !f.loops[c.loop].loop.Post(func() { defer wg.Done(); d() }) {
				wg.Done()
			}
		}
		wg.Wait()
	}
}

// dialFunc returns the function that begins a login; run it on c's loop. It counts the login as begun,
// forgets the sequence numbers that c has received in earlier phases, and dials. handler takes over when
// the connection is open; loginFailed ends the login if it can't be opened. The last argument of Dial is
// called for a connection that was not opened.
func (f *Fleet) dialFunc(c *client, step uint16, intended int64) func() {
	ls := f.loops[c.loop]
	return func() {
		n := now()
		y := ls.tally(step)
		y.Intended++
		y.Sent++
		y.Expected++
		y.recordLag(n - intended)
		c.login = &login{step: step, intended: intended, last: intended}
		if f.resumes(c) {
			c.login.resume = f.steps[step].resume
			r := ls.tally(c.login.resume)
			r.Intended++
			r.Sent++
			r.Expected++
		}
		c.flags &^= flagFailureCounted
		c.received.discardBefore(f.firstStep[f.steps[step].phase], f.outlives)
		cfg := reactor.DialConfig{Addr: f.target.addr(f.sc.Clients.TLS),
			Local:   f.target.source(f.sc.Clients.TLS, int(c.index), f.run),
			Timeout: time.Duration(f.sc.Clients.Timeout), Handler: handler{f}, HandlerState: c}
		if f.sc.Clients.TLS == "direct" {
			cfg.TLS = f.tls
		}
		if c.flags&flagFloods != 0 {
			cfg.SendBuffer = floodSendBuffer
		}
		f.reactor.Dial(ls.loop, cfg, func(err error) {
			ls.loop.Post(func() {
				if c.conn == nil {
					f.loginFailed(c, err)
				}
			})
		})
	}
}

// outlives reports whether stanzas of a step may come after a later login.
func (f *Fleet) outlives(step uint16) bool {
	return f.steps[step].away || f.steps[step].held || f.sc.Clients.Resume
}

// loginFailed ends a failed login: it is counted, and has no latency. It may be called on c's loop, also
// when the login has ended already.
func (f *Fleet) loginFailed(c *client, err error) {
	l := c.login
	if l == nil {
		return
	}
	c.login = nil
	c.flags |= flagFailureCounted
	ls := f.loops[c.loop]
	r := failureOf(err, &f.target)
	ls.tally(l.step).Failed++
	ls.countFailure(r)
	f.failures.Add(1)
	f.firstFailure.CompareAndSwap(nil, &r)
	f.releaseInFlight()
	f.notify()
}

// loggedIn ends a login that has succeeded: c is online from here on. It is called on c's loop.
func (f *Fleet) loggedIn(ls *loopState, c *client) {
	l := c.login
	c.login = nil
	c.conn.Arm(0)
	if c.resting.Swap(false) {
		f.resting.Add(-1)
	}
	ls.tally(l.step).done(nanos(ls.loop.Now())-l.intended, f.steps[l.step].lateAfter)
	if l.resume != 0 {
		ls.tally(l.resume).recordLatency(nanos(ls.loop.Now())-f.phaseBegan.Load(), f.steps[l.resume].lateAfter)
	}
	c.online.Store(true)
	f.sessions.Add(1)
	for _, b := range l.again {
		f.send(c, b)
	}
	f.releaseInFlight()
	f.notify()
}

// markOffline clears the state of c that ends with its session. It is called on c's loop when the
// connection has ended, whatever the reason is.
func (f *Fleet) markOffline(c *client) {
	if c.online.Swap(false) {
		f.sessions.Add(-1)
	}
	if c.flags&flagGentle == 0 && f.resumes(c) { // carbons and rooms stay with the session
		c.flags &^= flagSM | flagNotReading | flagInactive
		if !c.resting.Swap(true) {
			f.resting.Add(1)
		}
	} else {
		c.flags &^= flagNotReading
		f.forgetSession(c)
	}
	c.flags &^= flagGentle
	c.pending = nil
	if c.reader != nil {
		c.reader.queries = nil
	}
	f.notify()
}

// disconnected takes a connection that disconnect has closed out of the count disconnecting. It is called
// on the client's loop when the connection has ended.
func (f *Fleet) disconnected(*client) {
	f.disconnecting.Add(-1)
	f.notify()
}

// An inFlight bounds how many operations of a phase are in flight. The channel has an element for each: an
// operation that begins sends one, which blocks at the bound, and releaseInFlight receives one. Capacity 0
// means no bound: then operations do not send.
type inFlight struct{ places chan struct{} }

// limitInFlight bounds the operations in flight of the phase that begins; 0 is no bound.
func (f *Fleet) limitInFlight(n int) *inFlight {
	s := &inFlight{make(chan struct{}, n)}
	f.inFlight.Store(s)
	return s
}

// releaseInFlight counts an operation as ended. It is called on any loop. Without a bound it does nothing.
func (f *Fleet) releaseInFlight() {
	if limit := f.inFlight.Load(); limit != nil {
		select {
		case <-limit.places:
		default:
		}
	}
}

// noteTLS notes what a TLS handshake agreed on. It is called on any loop.
func (f *Fleet) noteTLS(st *tls.ConnectionState) {
	if st.DidResume {
		f.resumedTLS.Add(1)
	}
	if f.cipher.Load() == nil {
		f.cipher.Store(tls.VersionName(st.Version) + " " + tls.CipherSuiteName(st.CipherSuite))
	}
}

// disconnect closes c's connection, if it has one. If gentle is true, it first ends the stream. It may be
// called on c's loop, once a connection. disconnecting counts it until handler.OnClose calls
// disconnected.
func (f *Fleet) disconnect(c *client, gentle bool) {
	if c.conn == nil {
		return
	}
	c.flags |= flagLeaving
	f.disconnecting.Add(1)
	if gentle {
		c.flags |= flagGentle
		c.conn.Append([]byte(xmpp.EndStream))
	}
	c.conn.Close(nil)
}

// onLoops runs do for each client of list, on the client's loop, and returns when all have run. A
// posted function handles 256 clients at most, so that the loop also reads and writes in between.
func (f *Fleet) onLoops(list []*client, do func(ls *loopState, c *client)) {
	const perTurn = 256 // clients
	by := make([][]*client, len(f.loops))
	for _, c := range list {
		by[c.loop] = append(by[c.loop], c)
	}
	var wg sync.WaitGroup
	for i, part := range by {
		ls := f.loops[i]
		for len(part) > 0 {
			n := min(len(part), perTurn)
			some := part[:n]
			part = part[n:]
			wg.Add(1)
			if !ls.loop.Post(func() {
				defer wg.Done()
				for _, c := range some {
					do(ls, c)
				}
			}) {
				wg.Done()
			}
		}
	}
	wg.Wait()
}

// Collect returns all that was counted since the last call, and clears it. Any goroutine may call
// it, one at a time.
//
// On each loop it adds the tallies and failures to the result, and clears them; the loops do so one after
// another. It also measures how late its own function runs there, which includes the wait for the others.
func (f *Fleet) Collect() *Counts {
	k := &Counts{Steps: make(map[uint16]*tally), Lag: result.NewHistogram()}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, ls := range f.loops {
		wg.Add(1)
		posted := now()
		if !ls.loop.Post(func() {
			defer wg.Done()
			mu.Lock()
			defer mu.Unlock()
			k.Lag.Record(time.Duration(now() - posted))
			k.Lag.Add(ls.lag)
			ls.lag.Reset()
			for id, t := range ls.tallies {
				if t == nil || t.empty() {
					continue
				}
				if k.Steps[uint16(id)] == nil {
					k.Steps[uint16(id)] = new(tally)
				}
				k.Steps[uint16(id)].add(t)
				t.clear()
			}
			all := total{failures: k.Refusals}
			for _, r := range ls.failures {
				all.addFailure(r)
			}
			k.Refusals, ls.failures = all.failures, nil // Refusals is what agents call failures: see Counts
		}) {
			wg.Done()
		}
	}
	wg.Wait()
	k.Bound, k.Resting = f.Bound(), int(f.resting.Load())
	return k
}

// measureLag measures, until ctx ends, how late the loops run a function that is posted to them: a delay
// that also affects every operation. It has a goroutine of its own, which [Run] starts.
func (f *Fleet) measureLag(ctx context.Context) {
	t := time.NewTicker(20 * time.Millisecond)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			for _, ls := range f.loops {
				posted := now()
				ls.loop.Post(func() { ls.lag.Record(time.Duration(now() - posted)) })
			}
		}
	}
}

// An Info is what a fleet has learned of the server.
type Info struct {
	Mechanism string // of SASL, of the last login
	Cipher    string // TLS version and cipher suite; "" without TLS
	Tokens    int64  // FAST tokens (XEP-0484) that the server has issued
	Resumed   int64  // TLS handshakes that resumed a session
}

// Info returns what the fleet has learned so far. Any goroutine may call it.
func (f *Fleet) Info() Info {
	i := Info{Tokens: f.fastTokens.Load(), Resumed: f.resumedTLS.Load()}
	i.Mechanism, _ = f.mechanism.Load().(string)
	i.Cipher, _ = f.cipher.Load().(string)
	return i
}

// errNoAnswer is the error of a query that the server does not answer.
var errNoAnswer = errors.New("no answer in 10 s")

// queryIQ sends an IQ request of a client that is online, and waits for the answer, up to 10 s or until
// ctx ends. payload is XML. It must not be called on a loop. The element that it returns is a copy. An
// error answer is a [Failure], and the element is returned with it. It is for the few queries of a run:
// their entries in awaitedIQs stay, so that ids are never used twice.
func (f *Fleet) queryIQ(ctx context.Context, c *client, kind, to, payload string) (xmlstream.Element, error) {
	f.mu.Lock()
	id := fmt.Sprintf("ask%d", len(f.awaitedIQs)+1)
	ch := make(chan xmlstream.Element, 1)
	f.awaitedIQs[id] = ch
	f.mu.Unlock()
	b := fmt.Appendf(nil, "<iq type='%s' id='%s' to='", kind, id)
	b = xmlstream.AppendValue(b, to)
	b = append(b, "'>"+payload+"</iq>"...)
	f.loops[c.loop].loop.Post(func() {
		if c.conn != nil {
			f.send(c, b)
		}
	})
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	select {
	case e := <-ch:
		if t, _ := e.Attr(stanza.AttrType); string(t) == "error" {
			return e, stanzaFailure("a query", e)
		}
		return e, nil
	case <-ctx.Done():
		return xmlstream.Element{}, errNoAnswer
	}
}

// deliverIQ passes the answer of an IQ to queryIQ. It is called on any loop. An answer that is not
// awaited is dropped.
func (f *Fleet) deliverIQ(id string, e xmlstream.Element) {
	f.mu.Lock()
	ch := f.awaitedIQs[id]
	f.mu.Unlock()
	if ch != nil {
		select {
		case ch <- e.Clone():
		default:
		}
	}
}
