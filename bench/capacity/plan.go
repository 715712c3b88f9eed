// Package capacity answers how many sessions a machine holds. In about five minutes on that machine
// it logs clients in step by step; fits what a session takes of memory and CPU, and what a message,
// a presence and a login cost; and computes how many sessions of a [Profile] that makes, with the
// margin of error. Then it checks itself in a run that the fit has not seen, and widens the margin
// if that run was further off than promised.
//
// Costs are assumed to add up. They nearly do: operations that come together cost less, so a plan
// of CPU is rather too careful than too bold.
//
// Clients and server run on one machine, and the server's processes must be known. A plan holds for
// loads like those that it measured, and says how far it extrapolates.
//
// The parts: steps.go plans the scenarios, plan.go runs them, model.go and fit.go have the
// statistics, proc.go reads the kernel's limits, text.go writes the plan.
package capacity

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"canto/bench"
	"canto/bench/result"
	"canto/bench/sampler"
)

// A Config says what to plan for.
type Config struct {
	// Target is a server that runs on this machine, without clients and with its PIDs. It has
	// [Accounts] accounts from Target.First on, without contacts. The plan leaves contacts behind.
	Target      bench.Target
	Profile     Profile // Profile of the sessions; the zero Profile is Mobile.
	Cores       int     // Cores for the server and the kernel's part of its connections; 0: all.
	Memory      int64   // Memory for the same, in bytes; 0: 80 % of the machine's.
	Utilisation float64 // Utilisation of the cores that is allowed on average; 0: 0.7.
	// Budget is about how long it may take; 0: 5 minutes. Shorter ones have wider margins.
	Budget time.Duration
	// Sessions of the largest step; 0: 7,000. The check has 1.4 times as many, if possible.
	Sessions int
	// Command starts a worker process (see bench.Options), for more sessions than one process has
	// descriptors; nil: the plan has as many as one process allows.
	Command []string
	Tool    result.Tool           // Tool describes canto-bench.
	Watch   func(result.Progress) // Watch takes the progress each second; may be nil.
	Note    func(string)          // Note takes a line for each finding; may be nil.
}

// defaults is c with its defaults filled in.
func (c Config) defaults() Config {
	if c.Profile == (Profile{}) {
		c.Profile = Mobile()
	}
	c.Sessions = max(cmp.Or(c.Sessions, mostSessions), fewSessions)
	c.Budget = cmp.Or(c.Budget, 5*time.Minute)
	c.Utilisation = cmp.Or(c.Utilisation, .7)
	if c.Watch == nil {
		c.Watch = func(result.Progress) {}
	}
	if c.Note == nil {
		c.Note = func(string) {}
	}
	return c
}

// LeastSessions is the least value of Config.Sessions other than 0.
const LeastSessions = 30

// Accounts is how many accounts the server must have for the plan: for the fit, the check and the
// probe.
func Accounts(c Config) int {
	c = c.defaults()
	return c.Sessions + int(further*float64(c.Sessions)) + probeSessions(c.Sessions)
}

// probeSessions is how many sessions the probe has.
func probeSessions(most int) int { return min(maxProbeSessions, most) }

// A Plan is the outcome: plain data that is kept as JSON.
type Plan struct {
	Profile     Profile        `json:"profile"`      // Profile that it is for.
	Target      result.Target  `json:"target"`       // Target that was measured.
	Machine     result.Machine `json:"machine"`      // Machine that it ran on.
	Tool        result.Tool    `json:"tool"`         // Tool that made it.
	Began       time.Time      `json:"began"`        // Began is when.
	Seconds     float64        `json:"seconds"`      // Seconds that it took.
	Cores       int            `json:"cores"`        // Cores that it plans with.
	Memory      int64          `json:"memory_bytes"` // Memory that it plans with.
	Utilisation float64        `json:"utilisation"`  // Utilisation of the cores.

	Sessions int     `json:"sessions"` // Sessions of the profile that the machine holds: the answer.
	Low      int     `json:"low"`      // Low end of its 95 % interval.
	High     int     `json:"high"`     // High end of its 95 % interval.
	Binds    string  `json:"binds"`    // Binds is the name of the limit that it is.
	Limits   []Limit `json:"limits"`   // Limits, the lowest first.

	Steps []int `json:"steps"`   // Steps are the sessions of each step of the fit.
	CPU   *Fit  `json:"cpu_fit"` // CPU is the fit of cores.
	RSS   *Fit  `json:"rss_fit"` // RSS is the fit of the server's memory by sessions, in bytes.
	// Kernel is the fit of the kernel's memory by sessions, of both ends, in bytes; nil: the kernel
	// does not tell.
	Kernel *Fit   `json:"kernel_fit,omitempty"`
	Check  *Check `json:"check"` // Check compares the fits with a run that they have not seen.
	// Sockets is the fit of what the TCP sockets of both ends buffer, by sessions; nil: unknown.
	Sockets *Fit `json:"socket_fit,omitempty"`
	// Files is the fit of the server's file descriptors, by sessions; nil: unknown.
	Files        *Fit          `json:"descriptor_fit,omitempty"`
	Observations []Observation `json:"looks"`              // Observations are what was measured.
	Warnings     []string      `json:"warnings,omitempty"` // Warnings make the plan doubtful.
}

// An Observation is what the server did and used in one phase of a run. Counts are a second's.
type Observation struct {
	Run        string  `json:"run"`        // Run by its scenario: "plan: fit".
	Phase      string  `json:"phase"`      // Phase of the run.
	Seconds    float64 `json:"seconds"`    // Seconds that it took.
	Sessions   float64 `json:"sessions"`   // Sessions on average.
	Logins     float64 `json:"logins"`     // Logins for the first time.
	Returns    float64 `json:"reconnects"` // Returns are logins of sessions that were there before.
	Messages   float64 `json:"messages"`   // Messages that were delivered.
	Deliveries float64 `json:"deliveries"` // Deliveries of presence.
	CPU        float64 `json:"cpu_cores"`  // CPU of the server, in cores.
	RSS        int64   `json:"rss_bytes"`  // RSS of the server at the end, in bytes.
}

// A Check compares the fits with a run that they have not seen.
type Check struct {
	Sessions int `json:"sessions"` // Sessions of that run.
	// Speed is how many times faster than the profile its mix was.
	Speed  float64    `json:"speed"`
	Memory Prediction `json:"memory_bytes"` // Memory of the server.
	CPU    Prediction `json:"cpu_cores"`    // CPU of the server.
}

// A Prediction is a predicted value, its 95 % interval for one observation, and the value that was
// measured.
type Prediction struct {
	Predicted float64 `json:"predicted"` // Predicted by the fit.
	Low       float64 `json:"low"`       // Low end of the interval.
	High      float64 `json:"high"`      // High end of the interval.
	Seen      float64 `json:"seen"`      // Seen is what was measured.
}

// Off is the relative error of the prediction: 0.1 is 10 % more than predicted.
func (p Prediction) Off() float64 {
	if p.Predicted == 0 {
		return 0
	}
	return p.Seen/p.Predicted - 1
}

// Held reports whether the measured value is in the interval.
func (p Prediction) Held() bool { return p.Seen >= p.Low && p.Seen <= p.High }

// A Forecast is what a number of sessions takes.
type Forecast struct {
	CPU    Prediction // CPU in cores.
	RSS    Prediction // RSS of the server, in bytes.
	Kernel float64    // Kernel is the kernel's memory for the server's connections, in bytes.
	Doubts []string   // Doubts are reasons why the fit may not hold.
}

// Predict is what a number of sessions of profile p takes by this plan's fits. Another kind of TLS,
// more contacts or longer messages than in the plan's profile are doubts.
func (pl *Plan) Predict(p Profile, sessions int) Forecast {
	n := float64(sessions)
	w := p.work()
	row := work{n, n * w.messages, n * w.deliveries, n * w.logins, n * w.returns}.row()
	f := Forecast{CPU: predict(pl.CPU, row, 0), RSS: predict(pl.RSS, []float64{1, n}, 1)}
	f.Kernel = n * leastKernel
	if pl.Kernel != nil {
		f.Kernel = n * kernelShare(pl.Kernel.Beta)
	}
	if p.TLS != pl.Profile.TLS {
		f.Doubts = append(f.Doubts, fmt.Sprintf("the plan was made with tls %q, not %q", pl.Profile.TLS, p.TLS))
	}
	if p.Contacts != pl.Profile.Contacts {
		f.Doubts = append(f.Doubts, fmt.Sprintf("the plan's sessions had %d contacts, not %d",
			pl.Profile.Contacts, p.Contacts))
	}
	if p.Body > 2*pl.Profile.Body {
		f.Doubts = append(f.Doubts, fmt.Sprintf("the plan's messages had %d bytes of text, not %d",
			pl.Profile.Body, p.Body))
	}
	if pl.Check != nil && sessions > 10*pl.Check.Sessions {
		f.Doubts = append(f.Doubts, fmt.Sprintf("at most %d sessions were seen", pl.Check.Sessions))
	}
	return f
}

// predict is the prediction of f at x. v is the variance of one observation relative to weight 1; 0
// predicts the mean.
func predict(f *Fit, x []float64, v float64) Prediction {
	y, s := max(f.at(x), 0), f.spread(x, v)
	return Prediction{Predicted: y, Low: max(y-s, 0), High: y + s}
}

// Run makes a plan. The error is one line, and then nothing runs. Watch and Note are called by one
// goroutine at a time.
func Run(ctx context.Context, c Config) (*Plan, error) {
	c = c.defaults()
	if err := c.Profile.Check(); err != nil {
		return nil, err
	}
	if c.Utilisation < 0 || c.Utilisation > 1 {
		return nil, fmt.Errorf("the utilisation is %g: above 0, to 1", c.Utilisation)
	}
	if len(c.Target.PIDs) == 0 {
		return nil, bench.Failure{What: "a plan needs to sample the server's process",
			Remedy: "run it on the server's machine and name its pid"}
	}
	m := sampler.Machine()
	pl := &Plan{Profile: c.Profile, Machine: m, Tool: c.Tool, Began: time.Now().UTC(),
		Cores: cmp.Or(c.Cores, m.Cores), Memory: cmp.Or(c.Memory, m.Memory/5*4), Utilisation: c.Utilisation}
	r := &runner{Config: c, plan: pl}
	if err := r.all(ctx); err != nil {
		return nil, err
	}
	pl.Seconds = time.Since(pl.Began).Seconds()
	return pl, nil
}

// A runner goes through the runs of one plan.
type runner struct {
	Config
	plan *Plan

	mu sync.Mutex // guards kernel while a run is sampled; the map is read after the run
	// by phase: the kernel's memory when the phase was sampled last
	kernel map[string]float64
}

// all makes the plan. Its steps: a short probe, which shows how large the other runs may be; the
// run that is fitted; the run that checks the fit, with accounts that have no contacts yet; the
// limits and the answer.
func (r *runner) all(ctx context.Context) error {
	p := r.Profile
	share := func(q float64) time.Duration { return time.Duration(q * float64(r.Budget)) }
	n := probeSessions(r.Sessions)
	first := r.Target.First
	r.Target.First = first + Accounts(r.Config) - n
	run, err := r.run(ctx, probeScenario(p, n, min(max(share(.02), 100*time.Millisecond), 6*time.Second)))
	if err != nil {
		return err
	}
	s, err := r.readProbe(run)
	if err != nil {
		return err
	}
	h, err := plan(s, p, r.Sessions, r.Budget, runtime.NumCPU())
	if err != nil {
		return err
	}
	r.Note(fmt.Sprintf("probe: %.0f logins a second, %.0f µs of CPU a message with the client's; steps "+
		"of %v sessions, then %d for the check", s.logins, s.message*1e6, h.steps, h.check))

	r.Target.First = first
	if run, err = r.run(ctx, fitScenario(p, h)); err != nil {
		return err
	}
	if err := r.fit(run, h); err != nil {
		return err
	}
	pl := r.plan
	r.Note(fmt.Sprintf("fit: %.1f kB of memory a session, %.0f µs of CPU a message, %.0f µs a reconnect",
		(pl.RSS.Beta[1])/1000, pl.CPU.Beta[perMessage]*1e6, pl.CPU.Beta[perReturn]*1e6))

	sc, speed := checkScenario(p, h)
	r.Target.First = first + r.Sessions // these accounts have no contacts yet
	if run, err = r.run(ctx, sc); err != nil {
		return err
	}
	if err := r.check(run, h, speed); err != nil {
		return err
	}
	r.Note(fmt.Sprintf("check: memory %+.0f %%, CPU %+.0f %% off", 100*pl.Check.Memory.Off(),
		100*pl.Check.CPU.Off()))
	r.answer()
	return nil
}

// run runs one scenario, which must complete, and adds its phases to the observations. It warns if
// the machine was full, or if more than a hundredth of the deliveries did not come. Late clients do
// not matter: costs are measured, and not latencies.
func (r *runner) run(ctx context.Context, sc *bench.Scenario) (*result.Run, error) {
	if err := sc.Check(); err != nil {
		return nil, err
	}
	r.kernel = map[string]float64{}
	t := r.Target
	if len(t.Sources) == 0 {
		t.Sources = freshSources(t, r.Profile.TLS)
	}
	res, err := bench.Run(ctx, sc, t, bench.Options{Command: r.Command, Tool: r.Tool,
		Progress: func(p result.Progress) {
			if m, ok := kernelMemory(); ok {
				r.mu.Lock()
				r.kernel[p.Phase] = m
				r.mu.Unlock()
			}
			r.Watch(p)
		}})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", sc.Name, err)
	}
	if res.Partial != "" {
		return nil, fmt.Errorf("%s: %s: a plan needs all of its runs", sc.Name, res.Partial)
	}
	r.plan.Target = res.Target
	full := 0
	for _, p := range res.Phases {
		if wall := p.To - p.From; p.Kind == bench.Hold && p.Server != nil &&
			(p.Server.CPU+p.Client.CPU)/wall > .85*float64(runtime.NumCPU()) {
			full++
		}
	}
	if full > 0 {
		r.warn("%s: server and client filled the machine in %d stretches, and costs are those of a full one",
			sc.Name, full)
	}
	for _, p := range res.Phases {
		o := observe(res, p.Name)
		l := Observation{sc.Name, p.Name, o.wall, o.sessions, o.logins, o.returns, o.messages, o.deliveries,
			o.cpu, 0}
		if p.Server != nil {
			l.RSS = p.Server.RSS
		}
		r.plan.Observations = append(r.plan.Observations, l)
	}
	for i := range res.Steps {
		if s := &res.Steps[i]; s.Expected > 0 && s.Failed+s.Lost > s.Expected/100 {
			r.warn("%s: %d of %d did not come in %s.%s", sc.Name, s.Failed+s.Lost, s.Expected, s.Phase, s.Name)
		}
	}
	return res, nil
}

// freshSources are loopback addresses to connect from. The ports of earlier runs' addresses are in
// TIME_WAIT for a minute, and a plan logs in more often than an address has ports. It is nil
// elsewhere: the system chooses.
func freshSources(t bench.Target, tls string) (list []netip.Addr) {
	to := t.Addr.Addr()
	if tls == "direct" {
		to = t.Direct.Addr()
	}
	if !to.IsLoopback() || !to.Is4() {
		return nil
	}
	for range 4 {
		list = append(list, netip.AddrFrom4([4]byte{127, byte(64 + rand.IntN(128)), byte(rand.IntN(256)),
			byte(1 + rand.IntN(254))}))
	}
	return list
}

func (r *runner) warn(format string, a ...any) {
	r.plan.Warnings = append(r.plan.Warnings, fmt.Sprintf(format, a...))
}

// observe combines the named phases of a run into one observation. Phases that the run does not
// have, and phases without figures of the server, are left out. For each of the others it adds
// the duration, the sessions weighted by duration (the mean of first and last in a ramp or
// drain), the server's CPU, and the operations of its steps: logins, messages, deliveries of
// presence. Logins of a phase whose name ends in "back" count as returns. Last, it divides all
// sums by the duration. Without any phase the observation is zero.
func observe(res *result.Run, names ...string) (o observation) {
	var cpu float64
	for _, name := range names {
		i := slices.IndexFunc(res.Phases, func(p result.Phase) bool { return p.Name == name })
		if i < 0 || res.Phases[i].Server == nil {
			continue
		}
		p := res.Phases[i]
		wall := p.To - p.From
		from := p.Sessions
		if (p.Kind == bench.Ramp || p.Kind == bench.Drain) && i > 0 {
			from = res.Phases[i-1].Sessions
		}
		o.wall += wall
		o.sessions += wall * float64(from+p.Sessions) / 2
		cpu += p.Server.CPU
		for _, s := range res.Steps {
			if s.Phase != name {
				continue
			}
			switch kind, _, _ := strings.Cut(s.Name, "-"); kind {
			case "login":
				if strings.HasSuffix(name, "back") {
					o.returns += float64(s.Done)
				} else {
					o.logins += float64(s.Done)
				}
			case bench.Chat:
				o.messages += float64(s.Done)
			case bench.Presence:
				o.deliveries += float64(s.Done)
			}
		}
	}
	if o.wall > 0 {
		o.sessions /= o.wall
		o.logins /= o.wall
		o.returns /= o.wall
		o.messages /= o.wall
		o.deliveries /= o.wall
		o.cpu = cpu / o.wall
	}
	return o
}

// readProbe reads the speed of server and machine off the probe, and how many sessions file
// descriptors allow.
func (r *runner) readProbe(res *result.Run) (s probeResult, err error) {
	s.subscriptions = math.Inf(1)
	for _, p := range res.Phases {
		for _, st := range res.Steps {
			switch wall := max(p.To-p.From, 1e-3); {
			case st.Phase != p.Name || st.Done == 0:
			case st.Name == "login":
				s.logins = float64(st.Done) / wall
			case p.Kind == bench.Befriend:
				s.subscriptions = float64(st.Done) / wall
			case st.Name == bench.Chat:
				s.message = (p.Server.CPU + p.Client.CPU) / float64(st.Done)
			}
		}
	}
	if s.logins == 0 || s.message < 0 {
		return s, bench.Failure{What: "the probe saw no login", Remedy: "look at the server's log"}
	}
	s.message = max(s.message, 5e-6) // no server needs less
	s.room = math.MaxInt32
	for _, p := range res.Phases {
		if p.Kind == bench.Drain || p.Server == nil {
			continue
		}
		if limit := openFiles(r.Target.PIDs[0]); limit > 0 && p.Server.FDs > 0 {
			s.room = min(s.room, limit-(p.Server.FDs-p.Sessions)-64)
		}
	}
	if len(r.Command) == 0 {
		s.room = min(s.room, int(r.plan.Machine.Descriptors)-250)
	}
	if slices.Contains(r.Target.PIDs, os.Getpid()) {
		s.room /= 2 // the server is in this process
	}
	return s, nil
}

// fit fits CPU, memory, socket buffers and file descriptors to the run of steps. For each number of
// sessions it takes the highest memory and descriptors that a phase had, the lowest socket buffers,
// which fill and empty with messages, and the kernel's memory at the end of the step.
func (r *runner) fit(res *result.Run, h stepPlan) (err error) {
	var obs []observation
	var n, rss, kernel, sockets, files []float64
	for i, p := range res.Phases {
		if p.Server == nil {
			return bench.Failure{What: "the server's process could not be sampled",
				Remedy: "run the plan as the same user"}
		}
		if p.Kind == bench.Befriend || p.Kind == bench.Drain {
			continue
		}
		g, what, _ := strings.Cut(p.Name, "-")
		if what == "back" { // with the end of the old sessions
			obs = append(obs, observe(res, g+"-leave", p.Name))
		} else {
			obs = append(obs, observe(res, p.Name))
		}
		if p.Kind == bench.Ramp || what == "" {
			continue
		}
		if len(n) == 0 || n[len(n)-1] != float64(p.Sessions) {
			n, rss, sockets, files = append(n, float64(p.Sessions)), append(rss, 0),
				append(sockets, math.Inf(1)), append(files, 0)
		}
		// The highest values of a step must fit. Steps grow, so memory that earlier steps have freed is
		// not counted.
		k := len(n) - 1
		rss[k], files[k] = max(rss[k], float64(p.Server.RSS)), max(files[k], float64(p.Server.FDs))
		// Socket buffers fill and empty with messages, and other programs have some: the lowest value counts.
		sockets[k] = min(sockets[k], float64(p.Server.Sockets))
		last := i+1 == len(res.Phases) || !strings.HasPrefix(res.Phases[i+1].Name, g+"-")
		if m, ok := r.kernel[p.Name]; ok && last {
			kernel = append(kernel, m)
		}
	}
	pl := r.plan
	pl.Steps = h.steps
	if pl.CPU, err = fitCPU(obs); err != nil {
		return err
	}
	if pl.RSS, err = fitLine(n, rss); err != nil {
		return err
	}
	if len(kernel) == len(n) {
		if pl.Kernel, err = fitLine(n, kernel); err != nil {
			return err
		}
	}
	if slices.Min(sockets) > 0 {
		if pl.Sockets, err = fitLine(n, sockets); err != nil {
			return err
		}
	}
	if slices.Min(files) > 0 {
		pl.Files, err = fitLine(n, files)
	}
	return err
}

// check compares the predictions of the fit with the check's run.
func (r *runner) check(res *result.Run, h stepPlan, speed float64) error {
	o := observe(res, "mix", "leave", "back")
	pl := r.plan
	ch := &Check{Sessions: h.check, Speed: speed}
	row := o.row()
	ch.CPU = predict(pl.CPU, row, variance(pl.CPU.at(row), o.wall))
	ch.CPU.Seen = o.cpu
	ch.Memory = predict(pl.RSS, []float64{1, float64(h.check)}, 1)
	for _, p := range res.Phases {
		if (p.Name == "rest" || p.Name == "mix") && p.Server != nil {
			ch.Memory.Seen = max(ch.Memory.Seen, float64(p.Server.RSS))
		}
	}
	pl.Check = ch
	if ch.Memory.Seen == 0 || o.wall == 0 {
		return bench.Failure{What: "the server's process could not be sampled",
			Remedy: "run the plan as the same user"}
	}
	return nil
}

// answer computes the limits from the fits, and the answer from the limits: memory, CPU, file
// descriptors, and socket memory if it grows with sessions. The intervals are those of coefficients
// drawn at random from the fits' distributions. A limit that the check was further off than
// promised is widened.
func (r *runner) answer() {
	pl := r.plan
	w := pl.Profile.work()
	kernel := &Fit{Beta: []float64{0, 0}, Cov: square(2), DOF: 1}
	if pl.Kernel != nil {
		kernel = pl.Kernel
	}
	memory := func(rss, kernel []float64) float64 { return memoryLine(rss, kernel).fits(float64(pl.Memory)) }
	ofRSS, ofKernel := pl.RSS.draws(), kernel.draws()
	low, high := interval(func(rng *rand.Rand) float64 { return memory(ofRSS(rng), ofKernel(rng)) })
	l := newLimit("memory", memory(pl.RSS.Beta, kernel.Beta), low, high)
	l.Of, l.Remedy = fmt.Sprintf("%.1f GB for the server and for the kernel's part of its connections",
		float64(pl.Memory)/1e9), "more memory"
	if !pl.Check.Memory.Held() {
		// Relative to the memory of sessions: the base does not depend on them.
		m := pl.Check.Memory
		l.widen(math.Abs(m.Seen-m.Predicted) / max(m.Predicted-max(pl.RSS.Beta[0], 0), 1))
	}
	pl.Limits = append(pl.Limits, l)

	budget := float64(pl.Cores) * pl.Utilisation
	ofCPU := pl.CPU.draws()
	low, high = interval(func(rng *rand.Rand) float64 { return cpuLine(ofCPU(rng), w).fits(budget) })
	l = newLimit("cpu", cpuLine(pl.CPU.Beta, w).fits(budget), low, high)
	l.Of, l.Remedy = fmt.Sprintf("%.0f %% of %d cores", 100*pl.Utilisation, pl.Cores), "more cores"
	if !pl.Check.CPU.Held() {
		l.widen(math.Abs(pl.Check.CPU.Off()))
	}
	pl.Limits = append(pl.Limits, l)

	if limit := openFiles(r.Target.PIDs[0]); limit > 0 {
		files := line{0, 1}
		if pl.Files != nil {
			files = line{max(pl.Files.Beta[0], 0), pl.Files.Beta[1]}
		}
		n := files.fits(float64(limit))
		l = newLimit("descriptors", n, n, n)
		l.Of, l.Remedy = fmt.Sprintf("%d that the server's process may have open", limit),
			"ulimit -n, or LimitNOFILE= of its unit"
		pl.Limits = append(pl.Limits, l)
	}
	// Socket memory that does not grow with sessions, within its margin, is no limit.
	if limit := socketLimit(); limit > 0 && pl.Sockets != nil && pl.Sockets.Beta[1] > pl.Sockets.margin(1) {
		each := func(beta []float64) float64 { return line{0, beta[1] / 2}.fits(limit) }
		of := pl.Sockets.draws()
		low, high = interval(func(rng *rand.Rand) float64 { return each(of(rng)) })
		l = newLimit("socket memory", each(pl.Sockets.Beta), low, high)
		l.Of, l.Remedy = fmt.Sprintf("%.1f GB that TCP sockets of the machine may buffer", limit/1e9),
			"sysctl net.ipv4.tcp_mem"
		pl.Limits = append(pl.Limits, l)
	}
	slices.SortStableFunc(pl.Limits, func(a, b Limit) int { return cmp.Compare(a.Sessions, b.Sessions) })
	pl.Sessions, pl.Binds = pl.Limits[0].Sessions, pl.Limits[0].Name
	pl.Low, pl.High = pl.Limits[0].Low, pl.Limits[0].High
	for _, l := range pl.Limits {
		pl.Low, pl.High = min(pl.Low, l.Low), min(pl.High, l.High)
	}
}
