package report

import (
	"cmp"
	"math"
	"slices"

	"canto/bench/plot"
	"canto/bench/result"
)

// columns is the most points a line has: a plot is about as many pixels wide.
const columns = 900

// A timeAxis is the samples of a run, combined to at most as many columns as a plot can show.
type timeAxis struct {
	scale   plot.Scale
	phases  []result.Phase
	at      []float64    // seconds, of each column
	samples []weighted   // in the order of time
	of      [][]weighted // the samples of each column
}

// A weighted sample has the seconds that it stands for.
type weighted struct {
	*result.Sample
	seconds float64 // that it stands for
}

// newTimeAxis sorts the samples of a run into columns of the plots. It drops phases and samples
// with impossible times, as in a file that was edited; sorts the samples by time; weights each by
// the seconds since the sample before it; and makes one column for each sample, or, of more
// samples than columns, one for each width of a column that has samples. A column stands at the
// time of its last sample.
func newTimeAxis(r *result.Run) *timeAxis {
	t := &timeAxis{}
	end := finite(r.Seconds)
	for _, p := range r.Phases {
		if math.IsNaN(p.From+p.To) || math.IsInf(p.From+p.To, 0) {
			continue
		}
		t.phases = append(t.phases, p)
		end = max(end, p.To)
	}
	for i := range r.Samples {
		if s := &r.Samples[i]; !math.IsNaN(s.At) && !math.IsInf(s.At, 0) && s.At >= 0 {
			t.samples = append(t.samples, weighted{s, 0})
			end = max(end, s.At)
		}
	}
	slices.SortStableFunc(t.samples, func(a, b weighted) int { return cmp.Compare(a.At, b.At) })
	before := 0.0
	for i := range t.samples {
		s := &t.samples[i]
		if s.seconds = s.At - before; s.seconds <= 0 {
			s.seconds = 1
		}
		before = s.At
	}
	t.scale = timeline(end)
	if len(t.samples) <= columns {
		for _, s := range t.samples {
			t.at, t.of = append(t.at, s.At), append(t.of, []weighted{s})
		}
		return t
	}
	last := -1
	for _, s := range t.samples {
		c := min(int(s.At/t.scale.High*columns), columns-1)
		if c != last {
			t.at, t.of, last = append(t.at, 0), append(t.of, nil), c
		}
		i := len(t.of) - 1
		t.at[i], t.of[i] = s.At, append(t.of[i], s)
	}
	return t
}

// How the values of several samples become one column: peaks that must not be missed by their
// maximum, rates by their mean.
const (
	mean = iota
	most
)

// line is the value of f in each column; NaN where it has none.
func (t *timeAxis) line(how int, f func(s weighted) float64) []float64 {
	v := make([]float64, len(t.of))
	for i, c := range t.of {
		n, sum, top := 0, 0.0, math.Inf(-1)
		for _, s := range c {
			if x := f(s); !math.IsNaN(x) && !math.IsInf(x, 0) {
				n, sum, top = n+1, sum+x, max(top, x)
			}
		}
		switch {
		case n == 0:
			v[i] = math.NaN()
		case how == most:
			v[i] = top
		default:
			v[i] = sum / float64(n)
		}
	}
	return v
}

func finite(v float64) float64 {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return 0
	}
	return v
}

// positive is v, or NaN if v is not above 0.
func positive(v float64) float64 {
	if v > 0 {
		return v
	}
	return math.NaN()
}

// panels are the plots over time, from top to bottom: sessions, rates, latencies, CPU, memory,
// context switches, the clients' lag, and the server's own metrics. A plot without values is left
// out later.
func panels(r *result.Run, t *timeAxis) (ps []panel) {
	ps = append(ps, panel{title: "Sessions", note: "bound", unit: "count", height: 110, series: []series{
		{name: "sessions", style: "c0", area: true,
			values: t.line(most, func(s weighted) float64 { return float64(s.Sessions) })}}})
	for _, name := range stepNames(r) {
		in := func(f func(i result.Interval, s weighted) float64) func(weighted) float64 {
			return func(s weighted) float64 {
				i, ok := s.Steps[name]
				if !ok {
					return math.NaN()
				}
				return f(i, s)
			}
		}
		rates := []series{
			{name: "sent", style: "c1 thin", values: t.line(mean,
				in(func(i result.Interval, s weighted) float64 { return float64(i.Sent) / s.seconds }))},
			{name: "done", style: "c0", values: t.line(mean,
				in(func(i result.Interval, s weighted) float64 { return float64(i.Done) / s.seconds }))},
		}
		failed := series{name: "failed", style: "bad",
			values: t.line(mean, in(func(i result.Interval,
				s weighted) float64 {
				return float64(i.Failed) / s.seconds
			}))}
		if slices.ContainsFunc(failed.values, func(v float64) bool { return v > 0 }) {
			rates = append(rates, failed)
		}
		ps = append(ps, panel{title: name, about: "throughput",
			note: "operations sent and deliveries done, per second", unit: "1/s", height: 120, series: rates})
		at := func(f func(i result.Interval) float64) []float64 {
			return t.line(most, in(func(i result.Interval, s weighted) float64 {
				if i.Done == 0 && !(i.Max > 0) {
					return math.NaN() // nothing came in this second
				}
				return max(f(i), 0.001)
			}))
		}
		ps = append(ps, panel{title: name, about: "latency", note: "of what came in each second, log scale",
			unit: "ms", log: true, height: 170, series: []series{
				{name: "max", style: "faint", values: at(func(i result.Interval) float64 { return i.Max })},
				{name: "p99", style: "c1", values: at(func(i result.Interval) float64 { return i.P99 })},
				{name: "p90", style: "c0", values: at(func(i result.Interval) float64 { return i.P90 })},
				{name: "p50", style: "c2", values: at(func(i result.Interval) float64 { return i.P50 })},
			}})
	}
	server := func(f func(u *result.Usage, s weighted) float64) func(weighted) float64 {
		return func(s weighted) float64 {
			if s.Server == nil {
				return math.NaN()
			}
			return f(s.Server, s)
		}
	}
	ps = append(ps, panel{title: "CPU", note: "cores in use", unit: "cores", height: 120, series: []series{
		{name: "server", style: "c0", values: t.line(mean,
			server(func(u *result.Usage, s weighted) float64 { return u.CPU / s.seconds }))},
		{name: "client", style: "c1 thin", values: t.line(mean,
			func(s weighted) float64 { return s.Client.CPU / s.seconds })},
	}})
	ps = append(ps, panel{title: "Memory", note: "resident in the server; TCP buffers are the kernel's, " +
		"both ends", unit: "bytes", height: 120, series: []series{
		{name: "server RSS", style: "c0", area: true,
			values: t.line(most, server(func(u *result.Usage,
				s weighted) float64 {
				return positive(float64(u.RSS))
			}))},
		{name: "TCP buffers", style: "c2 thin", values: t.line(most, func(s weighted) float64 {
			if s.Server != nil && s.Server.Sockets > 0 {
				return float64(s.Server.Sockets)
			}
			return positive(float64(s.Client.Sockets))
		})},
	}})
	ps = append(ps, panel{title: "Schedule lag",
		note: "how late the client itself was, 99 % of the time, log scale", unit: "ms", log: true,
		height: 110, series: []series{
			{name: "lag p99", style: "c3", values: t.line(most,
				func(s weighted) float64 { return positive(s.LagP99) })}}})
	return ps
}

// metrics are plots of the server's own metrics.
func metrics(r *result.Run, t *timeAxis) (ps []panel) {
	names := map[string]bool{}
	for _, s := range r.Samples {
		for n := range s.Metrics {
			names[n] = true
		}
	}
	for _, n := range sorted(names) {
		ps = append(ps, panel{title: n, height: 80,
			series: []series{{name: "value", style: "c4", values: t.line(mean, func(s weighted) float64 {
				v, ok := s.Metrics[n]
				if !ok {
					return math.NaN()
				}
				return v
			})}}})
	}
	return ps
}

func sorted(m map[string]bool) []string {
	var s []string
	for n := range m {
		s = append(s, n)
	}
	slices.Sort(s)
	return s
}

// stepNames are the names of all steps, in the order of the run; those in samples only come last.
func stepNames(r *result.Run) (names []string) {
	for _, s := range r.Steps {
		if !slices.Contains(names, s.Name) {
			names = append(names, s.Name)
		}
	}
	more := map[string]bool{}
	for _, s := range r.Samples {
		for n := range s.Steps {
			if !slices.Contains(names, n) {
				more[n] = true
			}
		}
	}
	return append(names, sorted(more)...)
}
