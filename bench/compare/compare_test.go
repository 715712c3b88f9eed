package compare

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"canto/bench/result"
)

// run is one with figures p99 (lower is better) and rate (higher is), NaN for those it does not have.
func run(p99, rate float64) *result.Run {
	r := &result.Run{Scenario: result.Scenario{Name: "chat"}}
	if !math.IsNaN(p99) {
		r.Figures = append(r.Figures, result.Figure{Name: "talk.chat.p99_ms", Value: p99, Unit: "ms",
			Better: "lower", About: "latency"})
	}
	if !math.IsNaN(rate) {
		r.Figures = append(r.Figures, result.Figure{Name: "talk.chat.done_per_s", Value: rate, Unit: "1/s",
			Better: "higher", About: "throughput"})
	}
	return r
}

func judge(t *testing.T, c Input) *Table {
	t.Helper()
	table, err := Judge(c)
	if err != nil {
		t.Fatal(err)
	}
	return table
}

func near(a, b float64) bool { return math.Abs(a-b) <= 1e-3*math.Abs(b) }

func contest() Input {
	nan := math.NaN()
	return Input{Baseline: "canto", Targets: []Target{
		{"other", []*result.Run{run(20, 90), run(44, 100), run(80, 120)}},
		{"canto", []*result.Run{run(10, 100), run(20, 100), run(40, 100)}},
		{"quiet", []*result.Run{run(5, nan), run(10, nan), run(20, nan)}},
	}}
}

func TestJudge(t *testing.T) {
	table := judge(t, contest())
	if !reflect.DeepEqual(table.Targets, []string{"canto", "other", "quiet"}) ||
		!reflect.DeepEqual(table.Rounds, []int{3, 3, 3}) || len(table.Notes) != 0 {
		t.Fatalf("%+v", table)
	}
	p99, rate := table.Rows[0], table.Rows[1]
	// Ratios 2, 2.2, 2: the mean of their logarithms is 0.72492, its standard error 0.031770, t 4.3027.
	if c := p99.Cells[1]; c.Median != 44 || !near(c.Ratio.Value, 2.06456) || !near(c.Ratio.Low, 1.80075) ||
		!near(c.Ratio.High, 2.36703) || c.Ratio.Level != .95 || c.Verdict != "worse" {
		t.Errorf("%+v %+v", c, c.Ratio)
	}
	// The same ratio in each round, though the rounds differ: pairing leaves no doubt.
	if c := p99.Cells[2]; !near(c.Ratio.Value, .5) || !near(c.Ratio.High, .5) || c.Verdict != "better" {
		t.Errorf("%+v %+v", c, c.Ratio)
	}
	if c := rate.Cells[1]; c.Ratio.Low > 1 || c.Ratio.High < 1 || c.Verdict != "" {
		t.Errorf("%+v %+v", c, c.Ratio)
	}
	if c := rate.Cells[2]; len(c.Values) != 0 || c.Ratio != nil || c.Verdict != "" {
		t.Errorf("%+v", c)
	}
	if c := p99.Cells[0]; c.Median != 20 || c.Ratio != nil {
		t.Errorf("%+v", c)
	}
}

func TestFloor(t *testing.T) {
	c := contest()
	for floor, want := range map[float64]string{0: "worse", 2: "worse", 2.1: ""} {
		c.Floor = floor
		if got := judge(t, c).Rows[0].Cells[1].Verdict; got != want {
			t.Errorf("floor %v: %q", floor, got)
		}
	}
	c.Floor = 2.1
	if got := judge(t, c).Rows[0].Cells[2].Verdict; got != "" {
		t.Errorf("half as much, with a floor of 2.1: %q", got)
	}
	c.Floor = .9
	if _, err := Judge(c); err == nil {
		t.Error("a floor below 1 passed")
	}
}

func TestHigherIsBetter(t *testing.T) {
	nan := math.NaN()
	c := Input{Baseline: "a", Targets: []Target{
		{"a", []*result.Run{run(nan, 100), run(nan, 101), run(nan, 99)}},
		{"b", []*result.Run{run(nan, 150), run(nan, 151), run(nan, 149)}},
		{"c", []*result.Run{run(nan, 50), run(nan, 51), run(nan, 49)}}}}
	row := judge(t, c).Rows[0]
	if row.Cells[1].Verdict != "better" || row.Cells[2].Verdict != "worse" {
		t.Errorf("%+v", row)
	}
}

func TestFewRounds(t *testing.T) {
	c := contest()
	for i := range c.Targets {
		c.Targets[i].Runs = c.Targets[i].Runs[:2]
	}
	table := judge(t, c)
	// 2 and 2.2, in logarithms 0.0953 apart: from 1.5 times that below the middle to as much above.
	if r := table.Rows[0].Cells[1].Ratio; r.Level != .8 || !near(r.Low, 2/1.1) || !near(r.High, 2.2*1.1) ||
		len(table.Notes) != 1 || !strings.Contains(table.Notes[0], "two rounds") {
		t.Errorf("%+v %q", r, table.Notes)
	}
	for i := range c.Targets {
		c.Targets[i].Runs = c.Targets[i].Runs[:1]
	}
	table = judge(t, c)
	if c := table.Rows[0].Cells[1]; c.Ratio.Level != 0 || !near(c.Ratio.Value, 2) || c.Verdict != "" ||
		!strings.Contains(strings.Join(table.Notes, ";"), "one round has no interval") {
		t.Errorf("%+v %+v %q", c, c.Ratio, table.Notes)
	}
}

// A round without one of its runs must not shift the others against each other.
func TestLostRounds(t *testing.T) {
	c := contest()
	lost := run(1e9, 1)
	lost.Partial = "the server went away"
	c.Targets[0].Runs = []*result.Run{run(20, 90), lost, run(80, 120), nil}
	c.Targets[1].Runs[2].Warnings = []string{"the client was the bottleneck"}
	table := judge(t, c)
	if r := table.Rows[0].Cells[1].Ratio; !near(r.Value, 2) || r.Pairs != 2 {
		t.Errorf("%+v", r)
	}
	notes := strings.Join(table.Notes, "\n")
	for _, want := range []string{"round 2 of other is left out: it is partial: the server went away",
		"round 4 of other is left out: it failed", "round 3 of canto: the client was the bottleneck"} {
		if !strings.Contains(notes, want) {
			t.Errorf("the notes lack %q:\n%s", want, notes)
		}
	}
}

// A ratio to nothing is none.
func TestZeros(t *testing.T) {
	table := judge(t, Input{Baseline: "a", Targets: []Target{
		{"a", []*result.Run{run(0, 0), run(0, 1), run(0, 1)}},
		{"b", []*result.Run{run(0, 1), run(3, 1), run(4, 1)}}}})
	for _, r := range table.Rows {
		if c := r.Cells[1]; c.Ratio != nil || c.Verdict != "" || len(c.Values) != 3 {
			t.Errorf("%+v", c)
		}
	}
}

func TestMistakes(t *testing.T) {
	good := []*result.Run{run(1, 1)}
	other := run(1, 1)
	other.Scenario.Name = "rooms"
	unit := run(1, 1)
	unit.Figures[0].Unit = "us"
	partial := run(1, 1)
	partial.Partial = "stopped"
	for want, c := range map[string]Input{
		"nothing to compare":       {Baseline: "a"},
		"none of":                  {Baseline: "b", Targets: []Target{{"a", good}}},
		"two targets":              {Baseline: "a", Targets: []Target{{"a", good}, {"a", good}}},
		"has no run that ended":    {Baseline: "a", Targets: []Target{{"a", good}, {"b", []*result.Run{partial}}}},
		`ran the scenario "rooms"`: {Baseline: "a", Targets: []Target{{"a", good}, {"b", []*result.Run{other}}}},
		"in ms for one run":        {Baseline: "a", Targets: []Target{{"a", good}, {"b", []*result.Run{unit}}}},
	} {
		if _, err := Judge(c); err == nil || !strings.Contains(err.Error(), want) ||
			strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: %v", want, err)
		}
	}
}

func TestStudent(t *testing.T) {
	for df, want := range map[int]float64{1: 12.7062, 2: 4.3027, 5: 2.5706, 10: 2.2281, 11: 2.2010,
		15: 2.1314, 30: 2.0423, 120: 1.9799, 100000: 1.96} {
		if got := studentT(df); math.Abs(got-want) > 2e-4 {
			t.Errorf("%d degrees of freedom: %v, not %v", df, got, want)
		}
	}
}

// How often the interval has the true ratio in it: rounds differ widely, as the speed of a machine
// does, runs of a round a little.
func TestCoverage(t *testing.T) {
	rnd := rand.New(rand.NewPCG(7, 11))
	const truth, trials = 1.3, 4000
	for rounds, want := range map[int]float64{2: .795, 3: .95, 5: .95, 10: .95} {
		held := 0
		for range trials {
			var a, b []*result.Run
			for range rounds {
				speed := math.Exp(rnd.NormFloat64())
				a = append(a, run(10*speed*math.Exp(.05*rnd.NormFloat64()), 1))
				b = append(b, run(10*truth*speed*math.Exp(.05*rnd.NormFloat64()), 1))
			}
			r := judge(t, Input{Baseline: "a", Targets: []Target{{"a", a}, {"b", b}}}).Rows[0].Cells[1].Ratio
			if r.Low <= truth && truth <= r.High {
				held++
			}
		}
		// Three standard errors of a share of 4000 are 0.01, or 0.02 near 0.8.
		if got := float64(held) / trials; math.Abs(got-want) > .02 || rounds > 2 && math.Abs(got-want) > .0105 {
			t.Errorf("%d rounds: the interval held the truth in %.1f %% of %d contests", rounds, 100*got, trials)
		}
	}
}

func TestAgree(t *testing.T) {
	a, b := judge(t, contest()), judge(t, contest())
	if d := Agree(a, b); len(d) != 0 {
		t.Errorf("a table disagrees with itself: %v", d)
	}
	c := contest()
	c.Targets[0].Runs = []*result.Run{run(30, 90), run(60, 100), run(120, 120)}
	d := Agree(a, judge(t, c))
	if len(d) != 1 || d[0].Figure != "talk.chat.p99_ms" || d[0].Target != "other" || !near(d[0].B.Value, 3) {
		t.Fatalf("%v", d)
	}
	if s := d[0].String(); s != "talk.chat.p99_ms of other: ×2.06 [1.80, 2.37] in one, ×3.00 [3.00, "+
		"3.00] in the other" {
		t.Error(s)
	}
	if len(Agree(judge(t, c), a)) != 1 {
		t.Error("Agree depends on the order")
	}
	c.Baseline = "other"
	if d := Agree(a, judge(t, c)); len(d) != 0 {
		t.Errorf("with different baselines: %v", d)
	}
}

func TestJSON(t *testing.T) {
	a := judge(t, contest())
	var b bytes.Buffer
	if err := a.JSON(&b); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "table.json")
	if err := os.WriteFile(name, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := Load(name)
	if err != nil || !reflect.DeepEqual(a, c) {
		t.Errorf("%v: %+v", err, c)
	}
	for _, bad := range []string{"{", `{"format":2}`, `{"format":1,"entrants":["a"],"rows":[{"cells":[]}]}`} {
		if !json.Valid([]byte(bad)) && bad != "{" {
			t.Fatal(bad)
		}
		if err := os.WriteFile(name, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Load(name); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

func TestText(t *testing.T) {
	var b bytes.Buffer
	if err := judge(t, contest()).Text(&b); err != nil {
		t.Fatal(err)
	}
	want := `figure                 canto (3 rounds)   other (3 rounds)                  quiet (3 rounds)
talk.chat.p99_ms       20 ms              44 ms  ×2.06 [1.80, 2.37] worse   10 ms  ×0.500 ` +
		`[0.500, 0.500] better
talk.chat.done_per_s   100/s              100/s  ×1.03 [0.715, 1.47]        –
`
	if got := b.String(); !strings.HasPrefix(got, want) {
		t.Errorf("\n%s", got)
	}
}

func TestMarkdown(t *testing.T) {
	c := contest()
	c.Targets[0].Name = "a|b<script>"
	var b bytes.Buffer
	if err := judge(t, c).Markdown(&b); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(b.String(), "\n")
	if lines[0] != `| figure | canto (3 rounds) | a\|b&lt;script&gt; (3 rounds) | quiet (3 rounds) |` ||
		lines[1] != "|---|---:|---:|---:|" ||
		lines[2] != `| talk.chat.p99\_ms | 20 ms | **44 ms  ×2.06 \[1.80, 2.37\] worse** | **10 ms  `+
			`×0.500 \[0.500, 0.500\] better** |` {
		t.Errorf("%s", b.String())
	}
}

func TestHTML(t *testing.T) {
	const evil = `</script><script>alert("1")</script><img src="http://elsewhere.example/x">&'`
	c := contest()
	c.Targets[0].Name = evil
	for _, e := range c.Targets {
		for _, r := range e.Runs {
			r.Scenario.Name = evil
			r.Warnings = []string{evil}
			if len(r.Figures) == 2 {
				r.Figures = append(r.Figures, result.Figure{Name: evil, Value: 1, Unit: evil, Better: evil, About: evil})
			}
		}
	}
	// An interval without bounds to speak of.
	c.Targets[0].Runs[0].Figures[1].Value = 1e-9
	var b bytes.Buffer
	if err := judge(t, c).HTML(&b); err != nil {
		t.Fatal(err)
	}
	bad := regexp.MustCompile(`(?i)\b(NaN|[+-]?Inf)\b|%!|ZgotmplZ|url\(|@import`)
	if m := bad.FindString(b.String()); m != "" {
		t.Errorf("the page has %q", m)
	}
	if !strings.Contains(b.String(), ">×2</text>") {
		t.Error("the wide interval squeezes the axis")
	}
	plots, lines := 0, 0
	for d := xml.NewDecoder(&b); ; {
		d.Entity = xml.HTMLEntity
		k, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		e, ok := k.(xml.StartElement)
		if !ok {
			continue
		}
		if e.Name.Local == "script" || e.Name.Local == "img" {
			t.Errorf("<%s> came through", e.Name.Local)
		}
		for _, a := range e.Attr {
			switch {
			case a.Name.Local == "src", a.Name.Local == "href":
				t.Errorf("<%s> refers to %s", e.Name.Local, a.Value)
			case a.Name.Local == "class" && a.Value == "time":
				plots++
			case a.Name.Local == "class" && strings.HasPrefix(a.Value, "line ") && e.Name.Local == "path":
				lines++
			}
		}
	}
	// Plots of what is better low, high, and neither; four intervals and two keys.
	if plots != 3 || lines != 6 {
		t.Errorf("%d plots and %d lines", plots, lines)
	}
}
