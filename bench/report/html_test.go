package report

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"math"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"canto/bench/result"
)

func render(t *testing.T, r *result.Run) string {
	t.Helper()
	var b bytes.Buffer
	if err := HTML(&b, r); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// An element of a page, as check has found it.
type element struct {
	name  string
	attrs map[string]string
}

// check parses a page and looks at what holds for each: tags that match, nothing from elsewhere, no number
// that is none, plots inside of their boxes. It returns the elements.
func check(t *testing.T, page string) (all []element) {
	t.Helper()
	d := xml.NewDecoder(strings.NewReader(page))
	d.Entity = xml.HTMLEntity
	var box []float64
	for {
		k, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("not well-formed: %v", err)
		}
		switch k := k.(type) {
		case xml.CharData:
			if m := regexp.MustCompile(`\b(NaN|[+-]?Inf)\b|%!`).Find(k); m != nil {
				t.Errorf("text has %q: %.200s", m, k)
			}
		case xml.StartElement:
			e := element{k.Name.Local, map[string]string{}}
			for _, a := range k.Attr {
				e.attrs[a.Name.Local] = a.Value
				if regexp.MustCompile(`NaN|Inf|%!|ZgotmplZ`).MatchString(a.Value) {
					t.Errorf("<%s %s=%.100q>", e.name, a.Name.Local, a.Value)
				}
				if (a.Name.Local == "src" || a.Name.Local == "href") && !strings.HasPrefix(a.Value, "./") {
					t.Errorf("<%s> refers to %q, which is elsewhere", e.name, a.Value)
				}
			}
			switch e.name {
			case "svg":
				box = numbers(e.attrs["viewBox"])
				if len(box) != 4 {
					t.Errorf("<svg> without a viewBox")
				}
			case "path":
				if e.attrs["class"] == "cross" {
					break
				}
				for _, p := range points(t, e.attrs["d"]) {
					if p[0] < 0 || p[0] > box[2] || p[1] < 0 || p[1] > box[3] {
						t.Errorf("<path class=%q> has the point %v outside of %v", e.attrs["class"], p, box)
						break
					}
				}
			}
			all = append(all, e)
		}
	}
	for _, m := range regexp.MustCompile(`(?i)(url\(|@import)[^\s<]{0,40}`).FindAllString(page, -1) {
		t.Errorf("the page refers to %q", m)
	}
	return all
}

func numbers(s string) (n []float64) {
	for _, f := range regexp.MustCompile(`-?[0-9.]+(e-?[0-9]+)?`).FindAllString(s, -1) {
		v, _ := strconv.ParseFloat(f, 64)
		n = append(n, v)
	}
	return n
}

// points are those of a path that is made of M, L, H, V, v and Z.
func points(t *testing.T, d string) (all [][2]float64) {
	t.Helper()
	x, y := 0.0, 0.0
	for _, c := range regexp.MustCompile(`[A-Za-z][^A-Za-z]*`).FindAllString(d, -1) {
		n := numbers(c)
		switch {
		case (c[0] == 'M' || c[0] == 'L') && len(n) == 2:
			x, y = n[0], n[1]
		case c[0] == 'H' && len(n) == 1:
			x = n[0]
		case c[0] == 'V' && len(n) == 1:
			y = n[0]
		case c[0] == 'v' && len(n) == 1:
			y += n[0]
		case c[0] == 'Z':
		default:
			t.Fatalf("path command %q in %.80q", c, d)
		}
		all = append(all, [2]float64{x, y})
	}
	return all
}

func having(all []element, name, class string) (found []element) {
	for _, e := range all {
		if e.name == name && strings.HasPrefix(e.attrs["class"], class) {
			found = append(found, e)
		}
	}
	return found
}

func TestPage(t *testing.T) {
	r := testRun(300)
	page := render(t, r)
	all := check(t, page)
	// Sessions, CPU, memory, lag, two for each of three steps, and two metrics.
	if n := len(having(all, "svg", "time")); n != 12 {
		t.Errorf("%d plots over time", n)
	}
	if n := len(having(all, "svg", "curve")); n != 3 {
		t.Errorf("%d percentile plots", n)
	}
	for _, want := range []string{"SCRAM-SHA-256-PLUS", "TLS 1.3", "0.9.0", "AMD EPYC",
		"canto-bench run chat --target canto --sessions 10000 --seed 1", "the client used 3.9 of 4 cores",
		"231 µs", "28.6 KiB", "login storm", "raise logins.rate", `href="./profiles/cpu-talk.pprof"`,
		"[[phase]]", "talk.chat.p99_ms", "10,000"} {
		if !strings.Contains(page, want) {
			t.Errorf("the page lacks %q", want)
		}
	}
	if strings.Contains(page, "Each point stands for") {
		t.Error("300 samples were put together")
	}
}

func TestPageEscapes(t *testing.T) {
	const evil = `</script><script>alert("1")</script><img src="http://elsewhere.example/x">&'`
	r := testRun(20)
	r.Scenario.Name, r.Scenario.About, r.Scenario.Source = evil, evil, evil
	r.Target = result.Target{Name: evil, Software: evil, Version: evil, Commit: evil, Addr: evil,
		Domain: evil, TLS: evil, Mechanism: evil, Config: evil}
	r.Tool.Command, r.Partial, r.Warnings = evil, evil, []string{evil}
	r.Refusals = []result.Failure{{What: evil, Remedy: evil, Count: 1}}
	r.Phases[1].Name, r.Phases[1].Kind = evil, evil
	r.Steps[1].Name, r.Steps[1].Phase = evil, evil
	r.Samples[5].Steps[evil] = result.Interval{Sent: 1, Done: 1, P50: 1}
	r.Samples[5].Metrics[evil] = 1
	r.Figures[0] = result.Figure{Name: evil, Unit: evil, Better: evil, About: evil}
	r.Files = []result.File{{Name: "javascript:alert(1)", Kind: evil, Phase: evil},
		{Name: "//elsewhere.example/x"}, {Name: `http://elsewhere.example/"`}}
	page := render(t, r)
	all := check(t, page)
	if n := len(having(all, "script", "")); n != 1 {
		t.Errorf("%d scripts", n)
	}
	if n := len(having(all, "img", "")); n != 0 {
		t.Errorf("%d images", n)
	}
}

func TestPageOfLittle(t *testing.T) {
	bare := &result.Run{}
	one := testRun(20)
	one.Samples, one.Phases = one.Samples[:1], nil
	partial := testRun(40)
	partial.Partial, partial.Phases, partial.Samples,
		partial.Seconds = "the server closed all connections", partial.Phases[:2], partial.Samples[:17], 17
	blind := testRun(20)
	for i := range blind.Samples {
		blind.Samples[i].Server = nil
	}
	for i := range blind.Phases {
		blind.Phases[i].Server = nil
	}
	broken := testRun(20)
	nan := math.NaN()
	broken.Seconds, broken.Samples[3].At, broken.Samples[4].LagP99, broken.Samples[5].Server.CPU,
		broken.Phases[0].To = nan, nan, nan, math.Inf(1), nan
	broken.Samples[6].Steps["login"] = result.Interval{Done: 1, P50: nan, P90: math.Inf(1), Max: -1}
	broken.Steps[0].Latency, broken.Steps[1].Lag, broken.Steps[2].Latency = nil, nil, result.NewHistogram()
	broken.Steps[3].Latency = result.NewHistogram()
	broken.Steps[3].Latency.Record(time.Second)
	broken.Figures[0].Value = nan
	instant := testRun(20)
	for i := range instant.Samples {
		instant.Samples[i].At = 0
	}
	for name, c := range map[string]struct {
		r    *result.Run
		want string
		time int // plots
	}{
		"bare":    {bare, "There are no samples", 0},
		"one":     {one, "Sessions", 8},
		"partial": {partial, "This run is partial", 12},
		"blind":   {blind, "could not be sampled", 11},
		"broken":  {broken, "Sessions", 12},
		"instant": {instant, "Sessions", 12},
	} {
		t.Run(name, func(t *testing.T) {
			page := render(t, c.r)
			all := check(t, page)
			if !strings.Contains(page, c.want) {
				t.Errorf("the page lacks %q", c.want)
			}
			if n := len(having(all, "svg", "time")); n != c.time {
				t.Errorf("%d plots over time, not %d", n, c.time)
			}
			if strings.Contains(page, "could not be sampled") != (name == "blind") && name != "bare" {
				t.Error("the page is wrong about whether the server was seen")
			}
			if name == "one" && !strings.Contains(page, "Latency p99") {
				t.Error("without phases there is no latency in the headline")
			}
			if name == "one" && len(having(all, "circle", "dot")) == 0 {
				t.Error("one sample is not drawn as a dot")
			}
			if err := Text(io.Discard, c.r); err != nil {
				t.Error(err)
			}
		})
	}
}

// An hour has more seconds than a plot has pixels, and one slow second must be seen all the same.
func TestPageOfAnHour(t *testing.T) {
	r := testRun(3600)
	r.Samples[1500].Steps["chat"] = result.Interval{Sent: 1, Done: 1, P50: 1, P90: 2, P99: 3, Max: 123456}
	page := render(t, r)
	all := check(t, page)
	if !strings.Contains(page, "Each point stands for up to 4 samples") {
		t.Error("the page does not say that it puts samples together")
	}
	for _, e := range having(all, "path", "line") {
		if n := len(points(t, e.attrs["d"])); n > columns {
			t.Errorf("a line of %d points", n)
		}
	}
	// What is no number does not spoil what it shares a pixel with.
	r.Samples[1500].Server.CPU, r.Samples[1501].Server.CPU = math.Inf(1), math.NaN()
	a := newTimeAxis(r)
	if m := maximum(a.line(mean, func(s weighted) float64 { return s.Server.CPU })); m > 3 {
		t.Errorf("the most CPU is %v", m)
	}
	top := a.line(most, func(s weighted) float64 { return s.Steps["chat"].Max })
	sum := 0.0
	for i, v := range a.line(mean, func(s weighted) float64 { return float64(s.Sessions) }) {
		sum += v * float64(len(a.of[i]))
	}
	var want float64
	for _, s := range r.Samples {
		want += float64(s.Sessions)
	}
	if m := maximum(top); m != 123456 {
		t.Errorf("the slowest second shows as %v ms", m)
	}
	if math.Abs(sum-want) > 1e-6*want {
		t.Errorf("sessions add up to %v, not %v", sum, want)
	}
	if len(page) > 2<<20 {
		t.Errorf("%d bytes", len(page))
	}
}

func maximum(v []float64) (m float64) {
	for _, x := range v {
		if x > m {
			m = x
		}
	}
	return m
}

func TestAmount(t *testing.T) {
	for _, c := range []struct {
		v          float64
		unit, want string
	}{
		{0, "ms", "0 ms"}, {.25, "ms", "250 µs"}, {999.6, "ms", "1 s"}, {1234, "us", "1.23 ms"},
		{90, "s", "90 s"}, {3600, "s", "60 min"},
		{1536, "bytes", "1.5 KiB"}, {0, "bytes", "0 B"}, {1 << 40, "bytes", "1 TiB"},
		{1234567, "1/s", "1,234,567/s"}, {999.9, "count", "1,000"},
		{.001234, "ratio", "0.00123"}, {1.234e-7, "ratio", "1.23e-07"}, {-1234, "count", "-1,234"},
		{math.NaN(), "ms", "–"}, {math.Inf(-1), "bytes", "–"}, {3, "cores", "3 cores"},
	} {
		if got := Amount(c.v, c.unit); got != c.want {
			t.Errorf("%v %s is %q, not %q", c.v, c.unit, got, c.want)
		}
	}
}

func TestAxes(t *testing.T) {
	for _, top := range []float64{0, .001, .7, 1, 3, 99, 12345, 1 << 30, math.NaN(), math.Inf(1)} {
		for _, unit := range []string{"count", "cores", "bytes", "1/s"} {
			a := linear(top, unit, 4)
			if n := len(a.Ticks); n < 2 || n > 7 || (a.High < top && !math.IsInf(top, 0)) {
				t.Errorf("an axis for %v %s ends at %v with %d ticks", top, unit, a.High, n)
			}
		}
		if a := logarithmic(top/1000, top, 150); !(a.High > a.Low) || !(a.Low > 0) || len(a.Ticks) < 2 {
			t.Errorf("a log axis for %v is from %v to %v", top, a.Low, a.High)
		}
		if a := timeline(top); len(a.Ticks) < 1 || len(a.Ticks) > 14 {
			t.Errorf("an axis of %v s has %d ticks", top, len(a.Ticks))
		}
	}
}
