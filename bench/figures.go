package bench

import (
	"fmt"
	"runtime"
	"slices"
	"time"

	"canto/bench/result"
)

// figures computes the figures of the run: the numbers that tables, requirements and comparisons
// name.
//
// For each phase: how long it took, CPU and memory of the server, its event loops and garbage
// collector where its metrics have them. For each step: percentiles of latency, rate, and the
// counts of deliveries.
func (c *collector) figures() {
	r := c.run
	add := func(name string, v float64, unit, better, about string) {
		r.Figures = append(r.Figures, result.Figure{Name: name, Value: v, Unit: unit, Better: better, About: about})
	}
	done := map[string]uint64{}
	for i := range r.Steps {
		s := &r.Steps[i]
		if st := c.stepOf(s); !st.isPart && !st.isEffect {
			done[s.Phase] += s.Done
			if st.held && s.Expected > s.Failed+s.Done { // one that is superseded is done later, or never sent
				done[s.Phase] += s.Expected - s.Failed - s.Done
			}
			if st.away && s.Sent > s.Failed { // they are done in a later phase
				done[s.Phase] += s.Sent - s.Failed - s.Done
			}
		}
	}
	for i, p := range r.Phases {
		r.Figures = append(r.Figures, serverFigures(r, p)...)
		wall := p.To - p.From
		kind := c.scenario.Phases[i].Kind
		login := slices.IndexFunc(r.Steps, func(s result.Step) bool {
			return s.Phase == p.Name &&
				s.Name == "login" && s.Done > 0
		})
		switch {
		case kind == Storm && login >= 0:
			add(p.Name+".seconds", r.Steps[login].Latency.Max().Seconds(), "s", "lower",
				"from the time at which all connections were dropped until the last session was back")
		case kind != Hold && kind != Settle && kind != Storm:
			add(p.Name+".seconds", wall, "s", "lower", "duration of the phase")
		}
		if kind == Settle && p.Sessions > 0 {
			add(p.Name+".client_bytes", float64(p.Client.RSS-c.baseClient.RSS)/float64(p.Sessions), "bytes",
				"lower", "memory of the bench itself for each client")
		}
		c.countFigures(i, add)
		if p.Server == nil {
			continue
		}
		if kind == Settle && c.scenario.Phases[i].Base != "" {
			c.growthFigures(i, add)
		}
		if n := done[p.Name]; n > 0 {
			each := p.Server.CPU * 1e6 / float64(n)
			add(p.Name+".cpu_us", each, "us", "lower",
				"server CPU for each operation of the phase that was done (a delivery, a login)")
			if base := c.scenario.Phases[i].Base; base != "" {
				if f, ok := r.Figure(base + ".cpu_us"); ok {
					add(p.Name+".added_cpu_us", each-f.Value, "us", "lower",
						"by how much more than in the phase "+base)
					if f.Value > 0 {
						add(p.Name+".cpu_ratio", each/f.Value, "ratio", "lower", "how many times as much as in the phase "+
							base)
					}
				}
			}
		}
		if kind == Storm && login >= 0 {
			add(p.Name+".reconnect_cpu_us", p.Server.CPU*1e6/float64(r.Steps[login].Done), "us", "lower",
				"server CPU for each session that came back, with the end of the old one and with what else went on")
		}
		if wall > 0 {
			add(p.Name+".cpu_cores", p.Server.CPU/wall, "cores", "lower", "server CPU")
		}
		if t, ok := c.loopTurns[p.Name]; ok {
			add(p.Name+".long_turns", t.long, "count", "lower", "turns of the server's loops of over 20 ms")
			add(p.Name+".longest_turn_ms", t.longest*1e3, "ms", "lower",
				"longest turn of the server's loops since it was started")
			if t.loops > 0 && t.busy > 0 {
				add(p.Name+".flood_share", t.flooding/t.busy, "ratio", "lower",
					"share of what the server's loops did that was input over a client's rate")
				add(p.Name+".flood_wall_share", t.flooding/(t.loops*t.wall), "ratio", "lower",
					"the same of all the time that the loops had")
			}
		}
		add(p.Name+".rss_bytes", float64(p.Server.RSS), "bytes", "lower", "server memory at the end of the phase")
		if p.Sessions > 0 && p.Resting == 0 && (kind == Settle || kind == Ramp && !c.settles()) {
			add(p.Name+".session_bytes", float64(p.Server.RSS-c.base.RSS)/float64(p.Sessions), "bytes", "lower",
				"server memory for each session: its growth since the time before any client was connected")
		}
	}
	for i := range r.Steps {
		s := &r.Steps[i]
		n := s.Phase + "." + s.Name
		what := "latency, from when it was sent"
		if s.Open {
			what = "latency, from when it was meant to be sent"
		}
		for _, q := range []struct {
			name string
			q    float64
		}{{"p50", .5}, {"p90", .9}, {"p99", .99}, {"p999", .999}} {
			add(n+"."+q.name+"_ms", result.Millis(s.Latency.Quantile(q.q)), "ms", "lower", what)
		}
		add(n+".max_ms", result.Millis(s.Latency.Max()), "ms", "lower", what)
		if c.stepOf(s).isPart {
			continue
		}
		if d := c.activeSeconds(s.Phase); d > 0 {
			add(n+".rate", float64(s.Done)/d, "1/s", "higher", "done in a second")
		}
		add(n+".done", float64(s.Done), "count", "higher", "came, each once")
		add(n+".lost", float64(s.Lost), "count", "lower", "never came")
		add(n+".duplicated", float64(s.Duplicated), "count", "lower", "came again")
		add(n+".reordered", float64(s.Reordered), "count", "lower", "came after a later one of the same sender")
		add(n+".failed", float64(s.Failed), "count", "lower", "answered by an error, or could not be sent")
		if st := c.stepOf(s); st.pushes != 0 && s.Sent > 0 {
			for j := range r.Steps {
				if e := &r.Steps[j]; e.Phase == s.Phase && e.Name == s.Name+"-pushes" {
					add(n+"-pushes.per_message", float64(e.Done)/float64(s.Sent), "ratio", "lower",
						"pushes for each message: 1, or less where the server makes one of several")
				}
			}
		}
		add(n+".wrong", float64(s.Wrong), "count", "lower", "came and was not as it must be")
		add(n+".late", float64(s.Late), "count", "lower", fmt.Sprintf("took over %g ms", s.LateAfter))
		if c.stepOf(s).isEffect {
			continue
		}
		if s.Open {
			add(n+".unsent", float64(s.Unsent), "count", "lower",
				"due in the phase, and not sent by its end: the rate was beyond the client")
		}
		add(n+".lag_p99_ms", result.Millis(s.Lag.Quantile(.99)), "ms", "lower",
			"how much later than meant the client sent")
	}
	add("sessions", float64(r.Sessions), "count", "higher", "most that were bound at a time")
}

// addFigure adds a figure to the result.
type addFigure func(name string, v float64, unit, better, about string)

// countFigures adds what was counted in the i-th phase besides operations, and how many sessions were
// resumed.
func (c *collector) countFigures(i int, add addFigure) {
	p := &c.scenario.Phases[i]
	inactive := c.scenario.Clients.Inactive
	for _, q := range c.scenario.Phases[:i] {
		if q.Kind == CSI {
			inactive = !q.Off
		}
	}
	for id := c.first[i]; id < c.first[i+1]; id++ {
		st, t := &c.steps[id], c.all.steps[id]
		if t == nil {
			t = new(tally)
		}
		switch n := float64(t.Done); {
		case st.counts == countObserved:
			add(p.Name+".observed", n, "count", "lower",
				"presence of contacts that came to the group that observes: 0 if they saw no change")
		case st.counts == countInactiveStanzas && inactive:
			add(p.Name+".inactive_stanzas", n, "count", "lower", "stanzas that came to inactive clients")
		case st.counts == countInactiveWrites && inactive:
			add(p.Name+".inactive_writes", n, "count", "lower",
				"how often input came to inactive clients: 0 if the server held all of it back")
		case st.resume != 0:
			if x := c.all.steps[st.resume]; x != nil {
				add(p.Name+".resumed", float64(x.Done), "count", "higher", "sessions that were resumed")
				add(p.Name+".refused", float64(x.Failed), "count", "lower",
					"sessions that were to be resumed and were not: the failures of the run have the reasons")
				if x.Latency != nil {
					add(p.Name+".back_seconds", x.Latency.Max().Seconds(), "s", "lower", "from the beginning of the phase "+
						"(of a storm: from the drop) until the last of them was back, by resumption or anew")
				}
			}
		}
	}
}

// growthFigures adds by how much the server's memory has grown in the settle with the index i since its base:
// for each session that has begun to rest, or for each message to a client that is away.
func (c *collector) growthFigures(i int, add addFigure) {
	r := c.run
	p := &r.Phases[i]
	at := slices.IndexFunc(r.Phases, func(q result.Phase) bool { return q.Name == c.scenario.Phases[i].Base })
	if at < 0 || r.Phases[at].Server == nil {
		return
	}
	base := &r.Phases[at]
	var messages uint64
	for j := range r.Steps {
		s := &r.Steps[j]
		if st := c.stepOf(s); st.away && st.phase > at && st.phase < i {
			messages += s.Sent - s.Failed
		}
	}
	name, n, what := "resting_bytes", float64(p.Resting-base.Resting), "session that rests"
	if n <= 0 {
		name, n, what = "message_bytes", float64(messages), "message to a client that is away"
	}
	if n <= 0 {
		return
	}
	add(p.Name+"."+name, float64(p.Server.RSS-base.Server.RSS)/n, "bytes", "lower",
		"server memory for each "+what+": its growth since the phase "+base.Name)
	if live, ok := c.heap[p.Name]; ok {
		if was, ok := c.heap[base.Name]; ok {
			add(p.Name+".heap_"+name, (live-was)/n, "bytes", "lower",
				"the same of its live heap after a collection, without the cache of its store")
		}
	}
}

// serverFigures are figures of a phase from the server's own metrics, if it has those of a Go
// program: the cost of the garbage collector, and the part of its memory that is the store's cache,
// which grows with reads and not with sessions.
func serverFigures(r *result.Run, p result.Phase) (list []result.Figure) {
	var from, to map[string]float64 // at the phase's beginning and end
	for i := range r.Samples {
		switch s := &r.Samples[i]; {
		case s.Metrics == nil:
		case s.Phase == p.Name:
			to = s.Metrics
			if from == nil {
				from = to
			}
		case to == nil:
			from = s.Metrics
		}
	}
	if to == nil {
		return nil
	}
	add := func(name string, v float64, unit, about string) {
		list = append(list, result.Figure{Name: p.Name + "." + name, Value: v, Unit: unit, Better: "lower",
			About: about})
	}
	spent := func(class string) float64 {
		name := "go_cpu_classes_" + class + "_cpu_seconds_total"
		return to[name] - from[name]
	}
	if busy := spent("total") - spent("idle"); busy > 0 {
		add("gc_share", spent("gc_total")/busy, "ratio", "share of the server's CPU that its collector took")
		add("gc_assist_share", spent("gc_mark_assist")/busy, "ratio",
			"share of the server's CPU with which its own work had to help the collector: 0 unless it "+
				"allocates faster than that marks")
	}
	if v, ok := to["go_gc_duration_seconds_max"]; ok {
		add("gc_pause_max_ms", v*1e3, "ms", "longest pause of the server for its collector until the end of "+
			"the phase, of the last 256 collections")
	}
	if v, ok := to["canto_store_cache_bytes"]; ok {
		add("store_cache_bytes", v, "bytes", "what of the server's memory at the end of the phase was the "+
			"cache of its store")
	}
	return list
}

// settles reports whether the scenario has a settle phase, in which memory per session is measured.
// Otherwise it is measured after a ramp.
func (c *collector) settles() bool {
	return slices.ContainsFunc(c.scenario.Phases, func(p Phase) bool { return p.Kind == Settle })
}

// stepOf is the step of the scenario that a step of the result is of.
func (c *collector) stepOf(s *result.Step) *step {
	for i := range c.steps {
		if st := &c.steps[i]; st.name == s.Name && c.scenario.Phases[st.phase].Name == s.Phase {
			return st
		}
	}
	return &step{}
}

// activeSeconds is for how many seconds a phase began operations; a hold then waits for deliveries.
func (c *collector) activeSeconds(name string) float64 {
	for i, p := range c.run.Phases {
		if p.Name == name {
			d := p.To - p.From
			if q := &c.scenario.Phases[i]; q.Kind == Hold {
				d = min(d, time.Duration(q.Length).Seconds())
			}
			return d
		}
	}
	return 0
}

// warn adds warnings that make figures doubtful: operations that were not sent, a client that was
// late or full, a machine that was full. The limits are rules of thumb: an open loop is late if a
// hundredth of its operations waited for over 5 ms and for over a quarter of their latency.
func (c *collector) warn() {
	r := c.run
	warn := func(format string, a ...any) { r.Warnings = append(r.Warnings, fmt.Sprintf(format, a...)) }
	for i := range r.Steps {
		s := &r.Steps[i]
		if s.Unsent > 0 {
			warn("the rate of %s.%s was beyond the client: %d of %d operations were not sent by the end of the "+
				"phase: lower the rate, or spread the clients over more processes (--workers) or machines (--agent)",
				s.Phase, s.Name, s.Unsent, s.Intended)
			continue
		}
		st := c.stepOf(s)
		if !s.Open || st.isPart || st.away || st.held || s.Lag.Count() == 0 { // away, held: without latency
			continue
		}
		lag, lat := s.Lag.Quantile(.99), s.Latency.Quantile(.99)
		if lag > 5*time.Millisecond && lag > lat/4 {
			warn("the client was the bottleneck in %s.%s: it sent 1 %% of its operations %.1f ms or more after "+
				"their time (latency p99: %.1f ms)", s.Phase, s.Name, result.Millis(lag), result.Millis(lat))
		}
		if want := float64(s.Intended); want > 0 && float64(s.Sent) < .99*want && s.Failed == 0 {
			warn("the client was the bottleneck in %s.%s: it sent %d of %d", s.Phase, s.Name, s.Sent, s.Intended)
		}
	}
	cores := float64(runtime.NumCPU())
	for i, p := range r.Phases {
		wall := p.To - p.From
		if kind := c.scenario.Phases[i].Kind; wall < 2 || kind != Hold && kind != Storm {
			continue
		}
		mine := p.Client.CPU / wall
		if len(c.options.Agents) == 0 && mine > .85*cores {
			warn("the client was the bottleneck in %s: it used %.1f of %.0f cores", p.Name, mine, cores)
			continue
		}
		if p.Server != nil && len(c.options.Agents) == 0 && mine+p.Server.CPU/wall > .93*cores {
			warn("the machine was full in %s: the server used %.1f and the client %.1f of %.0f cores, and each "+
				"waited for the other", p.Name, p.Server.CPU/wall, mine, cores)
		}
	}
}
