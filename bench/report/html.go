package report

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"html/template"
	"io"
	"math"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"canto/bench/result"
)

//go:embed page.html
var pageHTML string

//go:embed page.css
var pageCSS string

//go:embed page.js
var pageJS string

// CSS is the style sheet of a page, for other pages of the same look.
func CSS() template.CSS { return template.CSS(pageCSS) }

// HTML writes r as one page that needs no network and no other file. A small script only shows
// values under the pointer. It reads r only, and any goroutine may call it.
func HTML(w io.Writer, r *result.Run) error {
	t, err := template.New("page").Funcs(template.FuncMap{
		"amount": Amount, "clock": elapsed, "count": count[uint64], "whole": count[int],
	}).Parse(pageHTML)
	if err != nil {
		return err
	}
	return t.Execute(w, newPage(r))
}

// A page is the data of page.html.
type page struct {
	*result.Run
	CSS       template.CSS
	JS        template.JS
	When      string
	Length    string
	Memory    string
	Tiles     []tile
	StepRows  []stepRow
	Time      []figure
	Metrics   []figure
	Curves    []figure
	PhaseRows []phaseRow
	Links     []link
	Hover     hover
	Unseen    bool // the server's processes could not be sampled
	Thinned   int  // samples that one point of a plot stands for; 0 or 1: one
}

// A tile is a headline number.
type tile struct {
	Name, Value, About string
	Bad                bool
}

// A stepRow is a row of the table of steps.
type stepRow struct {
	result.Step
	Rate                                     string
	P50, P90, P99, P999, Max, Lag, LateShare string
}

// A phaseRow is a row of the table of phases.
type phaseRow struct {
	result.Phase
	Length, Server, User, RSS, PSS, FDs, Threads, Switches, Forced, Client, ClientRSS, Sockets string
}

// A link leads to a file beside the report.
type link struct {
	result.File
	URL string
}

// A hover is the data of page.js: where the columns are, and the values of each line there.
type hover struct {
	X     []jsonNumber     `json:"x"`
	At    []string         `json:"at"`
	Lines [][][]jsonNumber `json:"lines"` // of each panel, of each series
}

// A jsonNumber has four digits in JSON, and is null if it is NaN or infinite.
type jsonNumber float64

// MarshalJSON writes four digits, or null.
func (n jsonNumber) MarshalJSON() ([]byte, error) {
	if f := float64(n); !math.IsNaN(f) && !math.IsInf(f, 0) {
		f, _ = strconv.ParseFloat(strconv.FormatFloat(f, 'g', 4, 64), 64)
		return json.Marshal(f)
	}
	return []byte("null"), nil
}

func jsonNumbers(v []float64) []jsonNumber {
	n := make([]jsonNumber, len(v))
	for i := range v {
		n[i] = jsonNumber(v[i])
	}
	return n
}

// newPage makes the data of the page's template from a run. In order: the heading, the tiles, the
// rows of steps, the plots over time with the values that the page shows at the pointer, the
// latency curves, the rows of phases, and the links to files. Plots over time are left out if the
// run has no samples.
func newPage(r *result.Run) page {
	p := page{Run: r, CSS: CSS(), JS: template.JS(pageJS), When: "at a time unknown",
		Length: length(r.Seconds), Memory: size(float64(r.Machine.Memory))}
	if !r.Began.IsZero() {
		p.When = r.Began.UTC().Format("2 January 2006, 15:04 UTC")
	}
	p.Tiles = tiles(r)
	for _, s := range r.Steps {
		p.StepRows = append(p.StepRows, newStepRow(r, s))
	}
	t := newTimeAxis(r)
	p.Thinned = int(math.Ceil(float64(len(t.samples)) / float64(max(len(t.of), 1))))
	for _, at := range t.at {
		p.Hover.X, p.Hover.At = append(p.Hover.X, jsonNumber(t.at2x(at))), append(p.Hover.At, elapsed(at))
	}
	draw := func(ps []panel) (all []figure) {
		for _, q := range ps {
			f, ok := t.draw(q, len(p.Hover.Lines))
			if !ok {
				continue
			}
			all = append(all, f)
			var lines [][]jsonNumber
			for _, s := range q.series {
				lines = append(lines, jsonNumbers(s.values))
			}
			p.Hover.Lines = append(p.Hover.Lines, lines)
		}
		return all
	}
	if len(t.samples) > 0 {
		p.Time, p.Metrics = draw(panels(r, t)), draw(metrics(r, t))
	}
	p.Curves = curves(r)
	for _, ph := range r.Phases {
		p.PhaseRows = append(p.PhaseRows, newPhaseRow(ph))
	}
	p.Unseen = !slices.ContainsFunc(r.Samples, func(s result.Sample) bool { return s.Server != nil })
	for _, f := range r.Files {
		var parts []string
		for _, s := range strings.Split(f.Name, "/") {
			parts = append(parts, url.PathEscape(s))
		}
		// "./" keeps a name with a colon from being taken for a scheme.
		p.Links = append(p.Links, link{f, "./" + strings.TrimLeft(strings.Join(parts, "/"), "/")})
	}
	return p
}

// length is how long something took.
func length(seconds float64) string {
	seconds = finite(seconds)
	if seconds < 60 {
		return digits(seconds) + " s"
	}
	return time.Duration(math.Round(seconds) * float64(time.Second)).String()
}

// newStepRow is the row of a step.
func newStepRow(r *result.Run, s result.Step) stepRow {
	row := stepRow{Step: s, Rate: "–", P50: "–", P90: "–", P99: "–", P999: "–", Max: "–",
		Lag: "–", LateShare: "–"}
	if v, ok := rate(r, s); ok {
		row.Rate = number(v)
	}
	if s.Latency != nil && s.Latency.Count() > 0 {
		l := s.Latency
		row.P50, row.P90, row.P99, row.P999, row.Max = latency(l.Quantile(.5)), latency(l.Quantile(.9)),
			latency(l.Quantile(.99)), latency(l.Quantile(.999)), latency(l.Max())
	}
	if s.Lag != nil && s.Lag.Count() > 0 {
		row.Lag = latency(s.Lag.Quantile(.99))
	}
	if s.Done > 0 && s.Late > 0 {
		row.LateShare = digits(100*float64(s.Late)/float64(s.Done)) + " %"
	}
	return row
}

// rate is how many operations of s were done a second; false if the phase is unknown or has no
// length.
func rate(r *result.Run, s result.Step) (float64, bool) {
	for _, p := range r.Phases {
		if p.Name == s.Phase && p.To > p.From {
			return float64(s.Done) / (p.To - p.From), true
		}
	}
	return 0, false
}

// newPhaseRow returns the table row of a phase. It first fills the client's figures, then the
// server's if the run watched the server. CPU and context switches are divided by the phase's
// duration. A figure that is not known is a dash.
func newPhaseRow(p result.Phase) phaseRow {
	long := p.To - p.From
	cores := func(cpu float64) string {
		if !(long > 0) {
			return "–"
		}
		return digits(finite(cpu / long))
	}
	perSecond := func(n int64) string {
		if !(long > 0) {
			return "–"
		}
		return number(float64(n) / long)
	}
	bytes := func(n int64) string {
		if n <= 0 {
			return "–"
		}
		return size(float64(n))
	}
	things := func(n int) string {
		if n <= 0 {
			return "–"
		}
		return count(n)
	}
	row := phaseRow{Phase: p, Length: length(long), Server: "–", User: "–", RSS: "–", PSS: "–",
		FDs: "–", Threads: "–", Switches: "–", Forced: "–", Sockets: bytes(p.Client.Sockets),
		Client: cores(p.Client.CPU), ClientRSS: bytes(p.Client.RSS)}
	if u := p.Server; u != nil {
		row.Server, row.RSS, row.PSS, row.FDs, row.Threads = cores(u.CPU), bytes(u.RSS), bytes(u.PSS),
			things(u.FDs), things(u.Threads)
		row.Switches, row.Forced = perSecond(u.Voluntary), perSecond(u.Involuntary)
		if u.CPU > 0 {
			row.User = digits(finite(100*u.User/u.CPU)) + " %"
		}
		if u.Sockets > 0 {
			row.Sockets = bytes(u.Sockets)
		}
	}
	return row
}

// mainStep is the step of the headline: the one with the most operations in a hold, otherwise in
// any phase.
func mainStep(r *result.Run) (best result.Step, ok bool) {
	for _, kind := range []string{"hold", "storm", ""} {
		for _, s := range r.Steps {
			in := kind == "" || slices.ContainsFunc(r.Phases,
				func(p result.Phase) bool { return p.Name == s.Phase && p.Kind == kind })
			if in && s.Done > 0 && (!ok || s.Done > best.Done) {
				best, ok = s, true
			}
		}
		if ok {
			break
		}
	}
	return best, ok
}

// tiles returns the headline numbers of a run, in the order of the page: sessions; throughput,
// p99, CPU of the server and CPU per operation of the main step; memory per session; then the
// deliveries lost and late, summed over all steps. A number that the run does not have gets no
// tile.
func tiles(r *result.Run) []tile {
	workers := "by 1 process"
	if r.Workers > 1 {
		workers = fmt.Sprintf("by %d processes", r.Workers)
	}
	t := []tile{{Name: "Sessions", Value: count(r.Sessions), About: "bound at a time, " + workers}}
	var lost, again, swapped, failed, wrong, late, done uint64
	for _, s := range r.Steps {
		lost, again, swapped, failed = lost+s.Lost, again+s.Duplicated, swapped+s.Reordered, failed+s.Failed
		wrong, late, done = wrong+s.Wrong, late+s.Late, done+s.Done
	}
	if s, ok := mainStep(r); ok {
		of := Clean(s.Phase + " · " + s.Name)
		if v, ok := rate(r, s); ok {
			t = append(t, tile{Name: "Throughput", Value: Amount(v, "1/s"), About: of})
		}
		if s.Latency != nil && s.Latency.Count() > 0 {
			t = append(t, tile{Name: "Latency p99", Value: latency(s.Latency.Quantile(.99)),
				About: fmt.Sprintf("p50 %s · p99.9 %s · %s", latency(s.Latency.Quantile(.5)),
					latency(s.Latency.Quantile(.999)), of)})
		}
		for _, p := range r.Phases {
			if row := newPhaseRow(p); p.Name == s.Phase && p.Server != nil {
				t = append(t, tile{Name: "Server", Value: row.Server + " cores", About: row.RSS + " resident · " +
					Clean(p.Name)})
				break
			}
		}
		if v, about, ok := cpuPerOperation(r, s); ok {
			t = append(t, tile{Name: "CPU per operation", Value: v, About: about})
		}
	}
	if v, about, ok := memoryPerSession(r); ok {
		t = append(t, tile{Name: "Memory per session", Value: v, About: about})
	}
	if len(r.Steps) > 0 {
		share := "0 %"
		if done > 0 && late > 0 {
			share = digits(100*float64(late)/float64(done)) + " %"
		}
		t = append(t,
			tile{Name: "Lost", Value: count(lost),
				About: fmt.Sprintf("%s twice · %s out of order · %s failed · %s wrong", count(again), count(swapped),
					count(failed), count(wrong)),
				Bad: lost+again+swapped+failed+wrong > 0},
			tile{Name: "Late", Value: share, About: fmt.Sprintf("%s of %s, all steps", count(late), count(done))})
	}
	return t
}

// cpuPerOperation is the server's CPU for an operation in the phase of s: the run's own figure, or
// computed from the phase.
func cpuPerOperation(r *result.Run, s result.Step) (value, about string, ok bool) {
	for _, name := range []string{s.Phase + "." + s.Name + ".cpu_us", s.Phase + ".cpu_us"} {
		if f, ok := r.Figure(name); ok {
			return Amount(f.Value, f.Unit), "server, " + Clean(name), true
		}
	}
	for _, p := range r.Phases {
		if p.Name != s.Phase || p.Server == nil {
			continue
		}
		var sent uint64
		for _, o := range r.Steps {
			if o.Phase == p.Name {
				sent += o.Sent
			}
		}
		if sent > 0 {
			return duration(finite(p.Server.CPU / float64(sent))), "server, all steps of " + Clean(p.Name), true
		}
	}
	return "", "", false
}

// memoryPerSession is the run's own figure, or the growth of the server since the first sample.
func memoryPerSession(r *result.Run) (value, about string, ok bool) {
	for _, f := range r.Figures {
		if f.Unit == "bytes" && strings.Contains(f.Name, "session") {
			return Amount(f.Value, f.Unit), "server, " + Clean(f.Name), true
		}
	}
	var first *result.Usage
	for _, s := range r.Samples {
		if s.Server != nil {
			first = s.Server
			break
		}
	}
	var top *result.Phase
	for i := range r.Phases {
		if p := &r.Phases[i]; p.Server != nil && p.Sessions > 0 && (top == nil || p.Sessions > top.Sessions) {
			top = p
		}
	}
	if first == nil || top == nil || top.Server.RSS <= first.RSS {
		return "", "", false
	}
	return size(float64(top.Server.RSS-first.RSS) / float64(top.Sessions)), "RSS grown until the end of " +
		Clean(top.Name), true
}
