package bench

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
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

// A Fleet is one process's share of the clients, on loops of its own. Its methods are for one goroutine at
// a time, the one that runs the phases, but for those that say otherwise.
type Fleet struct {
	target    Target
	sc        *Scenario
	steps     []step
	firstStep []uint16 // first step of each phase
	run       uint32
	tls       *tls.Config
	limits    xmlstream.LimitID

	reactor *reactor.Reactor
	loops   []*loopState
	groups  []group
	clients map[uint32]*client // by index; made once, before anything runs

	saltedKeys    sync.Map // mechanism -> sasl.Salted
	sessions      atomic.Int64
	disconnecting atomic.Int64
	fastTokens    atomic.Int64
	resumedTLS    atomic.Int64
	featuresSeen  atomic.Int32
	needsSession  atomic.Bool
	mechanism     atomic.Value // string: that the last login used
	cipher        atomic.Value // string: TLS version that was agreed on

	mu             sync.Mutex
	serverFeatures map[string]bool
	awaitedIQs     map[string]chan xmlstream.Element

	windows      []*window // by step, of closed loops
	notified     chan struct{}
	inFlight     atomic.Pointer[inFlight]
	failures     atomic.Int64
	firstFailure atomic.Pointer[Failure]
	done         chan error
	stop         context.CancelFunc
}

// A group is this process's clients of one group of the scenario.
type group struct {
	name    string
	clients []*client
	total   int // in all processes
}

// floodSendBuffer is what the socket of a client that floods keeps: megabytes of each of a thousand would be memory of
// the machine, and take minutes to arrive at the rate that a server allows.
const floodSendBuffer = 16 << 10

// loopState is what belongs to one loop.
type loopState struct {
	f        *Fleet
	loop     *reactor.Loop
	parser   *xmlstream.Parser
	tallies  []*tally // by step
	lag      *result.Histogram
	failures []result.Failure
	buf      []byte
	filler   []byte
	rng      *rand.Rand
	readAt   int64 // when what is handled now was read
}

func (ls *loopState) tally(id uint16) *tally {
	if ls.tallies[id] == nil {
		ls.tallies[id] = new(tally)
	}
	return ls.tallies[id]
}

// maxFailureKinds bounds how many kinds of failure are told apart: their names come from a server.
const maxFailureKinds = 50

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
		ls.failures[maxFailureKinds-1] = r.counted(1)
		return
	}
	ls.failures = append(ls.failures, r.counted(1))
}

// A Share is which part of the clients a worker has.
type Partition struct {
	Worker, Workers int
	Groups          GroupFilter `json:"Apart"`
}

// GroupFilter is which groups a worker has clients of.
type GroupFilter uint8

const (
	AllGroups   GroupFilter = iota // all of them
	ApartGroups                    // those that the scenario wants apart from the others
	OtherGroups                    // the others
)

// rangeOfGroup is the range of g's clients that is s's.
func (s Partition) rangeOfGroup(g *Group) (from, to int) {
	if s.Groups == ApartGroups && !g.Apart || s.Groups == OtherGroups && g.Apart {
		return 0, 0
	}
	return s.rangeOf(g.Count)
}

// rangeOf is the range of n clients that is s's; pairs stay together.
func (s Partition) rangeOf(n int) (from, to int) {
	cut := func(k int) int {
		if k == s.Workers {
			return n
		}
		return n * k / s.Workers &^ 1
	}
	return cut(s.Worker), cut(s.Worker + 1)
}

// NewFleet starts the loops and connects nobody. run is a number that all workers of a run share.
func NewFleet(sc *Scenario, t Target, share Partition, run uint32) (*Fleet, error) {
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
		serverFeatures: make(map[string]bool), awaitedIQs: make(map[string]chan xmlstream.Element), notified: make(chan struct{}, 1), done: make(chan error, 1)}
	f.steps, f.firstStep = plan(sc)
	f.windows = make([]*window, len(f.steps))
	// What connections of the fleet hold is bounded by what it sends, and its own server is no attacker.
	r, err := reactor.New(reactor.Config{Handshakes: 1 << 20, HandshakesPerAddr: 1 << 20, OutboxBytes: 4 << 20,
		Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, err
	}
	f.reactor = r
	for i, l := range r.Loops() {
		f.loops = append(f.loops, &loopState{f: f, loop: l, parser: xmlstream.NewParser(&buf.Tail), tallies: make([]*tally, len(f.steps)),
			lag: result.NewHistogram(), rng: rand.New(rand.NewPCG(uint64(run), uint64(i)))})
	}
	floods := make(map[string]bool) // groups
	for _, p := range sc.Phases {
		for _, a := range p.Do {
			floods[a.Group] = floods[a.Group] || a.Kind == Flood
		}
	}
	offset := 0
	for i := range sc.Groups {
		g := &sc.Groups[i]
		from, to := share.rangeOfGroup(g)
		gr := group{name: g.Name, total: g.Count, clients: make([]*client, 0, to-from)}
		for i := from; i < to; i++ {
			c := &client{index: uint32(offset + i), loop: uint16(len(gr.clients) / 2 % len(f.loops))} // pairs share a loop no more often than chance would have it
			if len(gr.clients)%2 == 1 {
				c.loop = uint16((len(gr.clients)/2 + 1) % len(f.loops))
			}
			if floods[g.Name] {
				c.flags = flagFloods
			}
			gr.clients = append(gr.clients, c)
			f.clients[c.index] = c
		}
		f.groups = append(f.groups, gr)
		offset += g.Count
	}
	ctx, stop := context.WithCancel(context.Background())
	f.stop = stop
	go func() { f.done <- r.Run(ctx) }()
	return f, nil
}

// Close ends every connection and the loops.
func (f *Fleet) Close() error {
	f.stop()
	return <-f.done
}

// plan numbers the steps of a scenario: every worker comes to the same numbers.
func plan(sc *Scenario) (steps []step, first []uint16) {
	for i, p := range sc.Phases {
		first = append(first, uint16(len(steps)))
		add := func(name string, open, part bool, late time.Duration) {
			steps = append(steps, step{id: uint16(len(steps)), phase: i, name: name, open: open, isPart: part, lateAfter: late})
		}
		logins := func() {
			add("login", p.Rate > 0 || p.Kind == Storm, false, time.Second)
			for _, n := range partNames[1:] {
				add(n, false, true, time.Second)
			}
		}
		switch p.Kind {
		case Ramp, Storm:
			logins()
		case Befriend:
			add("subscribe", false, false, time.Second)
		case Join:
			add("join", false, false, time.Second)
		}
		for _, a := range p.Do {
			add(a.Step, a.Rate > 0, false, time.Duration(cmp.Or(a.Late, Span(time.Second))))
			steps[len(steps)-1].flood = a.Kind == Flood
		}
	}
	return steps, append(first, uint16(len(steps)))
}

// actionStep is the number of the j-th action of phase k.
func (f *Fleet) actionStep(k, j int) uint16 {
	return f.firstStep[k+1] - uint16(len(f.sc.Phases[k].Do)) + uint16(j)
}

// members are this process's clients of the named groups.
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

// Bound is how many clients are online. Any goroutine.
func (f *Fleet) Bound() int { return int(f.sessions.Load()) }

// scratch is a buffer of c's loop; on that loop.
func (f *Fleet) scratch(c *client) []byte { return f.loops[c.loop].buf[:0] }

func (f *Fleet) notify() {
	select {
	case f.notified <- struct{}{}:
	default:
	}
}

// awaitNotify waits for news; false if ctx is over.
func (f *Fleet) awaitNotify(ctx context.Context) bool {
	select {
	case <-f.notified:
		return true
	case <-ctx.Done():
		return false
	}
}

// dial begins a login that was meant to begin at intended, as step. On any goroutine, while c has no
// connection and no login.
func (f *Fleet) dial(c *client, step uint16, intended int64) {
	f.loops[c.loop].loop.Post(f.dialFunc(c, step, intended))
}

// dialAll dials all of list, few at a time: what else the loops have to do waits for those, not for all.
func (f *Fleet) dialAll(list []*client, step uint16, intended int64) {
	const few = 32
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

// dialFunc is what dial does on c's loop.
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
		c.flags &^= flagFailureCounted
		c.received.discardBefore(f.firstStep[f.steps[step].phase])
		cfg := reactor.DialConfig{Addr: f.target.addr(f.sc.Clients.TLS), Local: f.target.source(f.sc.Clients.TLS, int(c.index), f.run), Timeout: time.Duration(f.sc.Clients.Timeout), Handler: handler{f}, Owner: c}
		if f.sc.Clients.TLS == "direct" {
			cfg.TLS = f.tls
		}
		if c.flags&flagFloods != 0 {
			cfg.Send = floodSendBuffer
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

// loginFailed ends a login that will not succeed: it is no latency. On c's loop.
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

// loggedIn is told that c has all that a client needs.
func (f *Fleet) loggedIn(ls *loopState, c *client) {
	l := c.login
	c.login = nil
	c.conn.Arm(0)
	ls.tally(l.step).done(nanos(ls.loop.Now())-l.intended, f.steps[l.step].lateAfter)
	c.online.Store(true)
	f.sessions.Add(1)
	f.releaseInFlight()
	f.notify()
}

// markOffline notes that c is not online any more.
func (f *Fleet) markOffline(c *client) {
	if c.online.Swap(false) {
		f.sessions.Add(-1)
	}
	c.flags &^= flagSM | flagNotReading
	c.sm, c.room, c.pending = nil, nil, nil
	f.notify()
}

// disconnected is told that c, which was meant to go, has gone.
func (f *Fleet) disconnected(*client) {
	f.disconnecting.Add(-1)
	f.notify()
}

// inFlight bound how many operations of a phase are on their way.
type inFlight struct{ places chan struct{} }

// limitInFlight begins with n that are free; 0: there is no bound.
func (f *Fleet) limitInFlight(n int) *inFlight {
	s := &inFlight{make(chan struct{}, n)}
	f.inFlight.Store(s)
	return s
}

func (f *Fleet) releaseInFlight() {
	if s := f.inFlight.Load(); s != nil {
		select {
		case <-s.places:
		default:
		}
	}
}

func (f *Fleet) secured(st *tls.ConnectionState) {
	if st.DidResume {
		f.resumedTLS.Add(1)
	}
	if f.cipher.Load() == nil {
		f.cipher.Store(tls.VersionName(st.Version) + " " + tls.CipherSuiteName(st.CipherSuite))
	}
}

// disconnect ends c's stream, or only its connection. On c's loop.
func (f *Fleet) disconnect(c *client, gentle bool) {
	if c.conn == nil {
		return
	}
	c.flags |= flagLeaving
	f.disconnecting.Add(1)
	if gentle {
		c.conn.Append([]byte(xmpp.EndStream))
	}
	c.conn.Close(nil)
}

// onLoops posts do for each of list, on the loops they belong to, and waits for them.
func (f *Fleet) onLoops(list []*client, do func(ls *loopState, c *client)) {
	by := make([][]*client, len(f.loops))
	for _, c := range list {
		by[c.loop] = append(by[c.loop], c)
	}
	var wg sync.WaitGroup
	for i, part := range by {
		ls := f.loops[i]
		for len(part) > 0 {
			n := min(len(part), 256) // a bounded share of a turn
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

// Collect collects what was counted since the last one. Any goroutine, one at a time.
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
			k.Refusals, ls.failures = all.failures, nil
		}) {
			wg.Done()
		}
	}
	wg.Wait()
	k.Bound = f.Bound()
	return k
}

// measureLag measures the loops' lag until ctx ends: how late a function runs that is posted now.
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

// Info is what a fleet has learnt of the server.
type Info struct {
	Mechanism string
	Cipher    string
	Tokens    int64 // FAST
	Resumed   int64 // TLS handshakes
}

// Info may be called from any goroutine.
func (f *Fleet) Info() Info {
	i := Info{Tokens: f.fastTokens.Load(), Resumed: f.resumedTLS.Load()}
	i.Mechanism, _ = f.mechanism.Load().(string)
	i.Cipher, _ = f.cipher.Load().(string)
	return i
}

// Asking.

var errNoAnswer = errors.New("no answer in 10 s")

// queryIQ sends an iq of a client that is online and waits for its answer. Any goroutine.
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
			c.conn.Append(b)
		}
	})
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	select {
	case e := <-ch:
		if t, _ := e.Attr(stanza.AttrType); string(t) == "error" {
			return e, stanzaFailure("a question", e)
		}
		return e, nil
	case <-ctx.Done():
		return xmlstream.Element{}, errNoAnswer
	}
}

// deliverIQ hands an answer on.
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
