package slo

import (
	"bytes"
	"errors"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"canto/bench/result"
)

func write(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "slo.toml")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func read(t *testing.T, text string) *File {
	t.Helper()
	f, err := Read(write(t, text))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func run() *result.Run {
	return &result.Run{Scenario: result.Scenario{Name: "chat"}, Figures: []result.Figure{
		{Name: "talk.chat.p99_ms", Value: 3.9, Unit: "ms", Better: "lower"},
		{Name: "talk.chat.lost", Value: 0, Unit: "count", Better: "lower"},
		{Name: "storm.login.lost", Value: 2, Unit: "count", Better: "lower"},
		{Name: "talk.chat.done_per_s", Value: 4000, Unit: "1/s", Better: "higher"},
		{Name: "talk.session_bytes", Value: 29312, Unit: "bytes", Better: "lower"},
		{Name: "talk.chat.late", Value: .02, Unit: "ratio", Better: "lower"},
		{Name: "talk.cpu_us", Value: 231, Unit: "us", Better: "lower"},
		{Name: "talk.broken", Value: math.NaN(), Unit: "ms", Better: "lower"},
	}}
}

const require = "[[require]]\nfigure = "

func TestLimits(t *testing.T) {
	for text, want := range map[string]bool{
		`"talk.chat.p99_ms"` + "\nat_most = 3.9":                 true,
		`"talk.chat.p99_ms"` + "\nat_most = 3.8":                 false,
		`"talk.chat.p99_ms"` + "\nat_most = 4":                   true,
		`"talk.chat.p99_ms"` + "\nat_most = '4ms'":               true,
		`"talk.chat.p99_ms"` + "\nat_most = '3800us'":            false,
		`"talk.chat.p99_ms"` + "\nat_most = '3900 µs'":           true,
		`"talk.chat.p99_ms"` + "\nat_most = '0.004s'":            true,
		`"talk.cpu_us"` + "\nat_most = '0.23 ms'":                false,
		`"talk.cpu_us"` + "\nat_most = '0.232 ms'":               true,
		`"talk.session_bytes"` + "\nat_most = '29kB'":            false,
		`"talk.session_bytes"` + "\nat_most = '29KiB'":           true,
		`"talk.session_bytes"` + "\nat_most = '1MiB'":            true,
		`"talk.chat.late"` + "\nat_most = '2%'":                  true,
		`"talk.chat.late"` + "\nat_most = '1.9 percent'":         false,
		`"talk.chat.done_per_s"` + "\nat_least = '4_000/s'":      true,
		`"talk.chat.done_per_s"` + "\nat_least = 4001":           false,
		`"talk.chat.done_per_s"` + "\nat_least = 1\nat_most = 2": false,
		`"talk.broken"` + "\nat_most = 1":                        false,
		`"talk.broken"` + "\nat_least = 1":                       false,
		`"talk.chat.p99_ms"` + "\nat_most = '40GiB'":             false, // no time
		`"talk.chat.lost"` + "\nat_most = '1s'":                  false,
		// no such figure
		`"talk.chat.los"` + "\nat_most = 0":                     false,
		`"talk.chat.los"` + "\nat_most = 0\nmissing = 'fail'":   false,
		`"talk.chat.los"` + "\nat_most = 0\nmissing = 'ignore'": true,
		`"talk.*.lost"` + "\nat_most = 0":                       true,
		`"*.lost"` + "\nat_most = 0":                            false,
		`"*.lost"` + "\nat_most = 2":                            true,
		// for the one that is no number
		`"talk.*"` + "\nat_most = 1e9": false,
		// a dot is a dot
		`"talk.chat.p99.ms"` + "\nat_most = 9":                                                 false,
		`"*.lost"` + "\nat_most = 0\nscenario = 'rooms'\n" + require + "'*.late'\nat_most = 1": true,
	} {
		v := read(t, require+text).Judge(run(), nil)
		if v.Pass != want {
			t.Errorf("%s\npass: %v: %+v", text, v.Pass, v.Lines)
		}
	}
}

// A limit that is written in the figure's unit is the same number.
func TestLimitsAreExact(t *testing.T) {
	for i := 1; i < 2000; i++ {
		v := float64(i) / 10
		for written, unit := range map[string]string{"ms": "ms", "us": "us", "s": "s", "B": "bytes", "/s": "1/s"} {
			l, err := readLimit(strconv.FormatFloat(v, 'f', -1, 64) + written)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := l.in(unit); err != nil || got != v {
				t.Fatalf("%v%s is %v %s, %v", v, written, got, unit, err)
			}
		}
	}
}

func TestRatios(t *testing.T) {
	base := run()
	base.Figures[6].Value = 200 // of 231: 1.155
	base.Figures[2].Value = 0
	base.Figures[5].Unit = "%"
	base.Figures = append(base.Figures[:3], base.Figures[4:]...) // no done_per_s
	for text, want := range map[string]bool{
		`"talk.cpu_us"` + "\nratio_to_baseline_at_most = 1.16":                              true,
		`"talk.cpu_us"` + "\nratio_to_baseline_at_most = 1.15":                              false,
		`"talk.cpu_us"` + "\nratio_to_baseline_at_least = 1":                                true,
		`"talk.cpu_us"` + "\nratio_to_baseline_at_least = 1.2":                              false,
		`"talk.cpu_us"` + "\nratio_to_baseline_at_most = 2\nat_most = 1":                    false,
		`"talk.chat.lost"` + "\nratio_to_baseline_at_most = 1":                              true,  // none and none
		`"storm.login.lost"` + "\nratio_to_baseline_at_most = 9":                            false, // some and none
		`"talk.broken"` + "\nratio_to_baseline_at_most = 9":                                 false,
		`"talk.chat.late"` + "\nratio_to_baseline_at_most = 9":                              false, // other units
		`"talk.chat.done_per_s"` + "\nratio_to_baseline_at_least = 0.5":                     false,
		`"talk.chat.done_per_s"` + "\nratio_to_baseline_at_least = 0.5\nmissing = 'ignore'": true,
	} {
		if v := read(t, require+text).Judge(run(), base); v.Pass != want {
			t.Errorf("%s\npass: %v: %+v", text, v.Pass, v.Lines)
		}
	}
	f := read(t, require+"'talk.cpu_us'\nratio_to_baseline_at_most = 2")
	if v := f.Judge(run(), nil); v.Pass || !strings.Contains(v.Lines[0].Why, "no baseline") {
		t.Errorf("without a baseline: %+v", v)
	}
	base.Partial = "stopped"
	if v := f.Judge(run(), base); v.Pass {
		t.Errorf("with a partial baseline: %+v", v)
	}
	base.Partial, base.Scenario.Name = "", "rooms"
	if v := f.Judge(run(), base); v.Pass {
		t.Errorf("with a baseline of another scenario: %+v", v)
	}
	base.Scenario.Name, base.Warnings = "chat", []string{"busy"}
	if v := f.Judge(run(), base); !v.Pass || len(v.Warnings) != 1 {
		t.Errorf("with a doubtful baseline: %+v", v)
	}
}

func TestDoubtfulRuns(t *testing.T) {
	const good = require + "'talk.chat.lost'\nat_most = 0\n"
	r := run()
	r.Warnings = []string{"the client was the bottleneck"}
	if v := read(t, good).Judge(r, nil); !v.Pass || len(v.Warnings) != 1 {
		t.Errorf("warnings: %+v", v)
	}
	if v := read(t, "strict = true\n"+good).Judge(r, nil); v.Pass {
		t.Errorf("warnings, strictly: %+v", v)
	}
	if v := read(t, "strict = true\n"+good).Judge(run(), nil); !v.Pass {
		t.Errorf("strictly: %+v", v)
	}
	r = run()
	r.Partial = "the server went away"
	if v := read(t, good).Judge(r, nil); v.Pass {
		t.Errorf("a partial run: %+v", v)
	}
	// A gate that looks at nothing must not open.
	for _, f := range []string{"scenario = 'rooms'\n" + good, good + "scenario = 'rooms'\n"} {
		if v := read(t, f).Judge(run(), nil); v.Pass {
			t.Errorf("nothing was judged: %+v", v)
		}
	}
	if v := read(t, "scenario = 'rooms'\n"+good+"scenario = 'chat'\n").Judge(run(), nil); !v.Pass ||
		len(v.Lines) != 1 {
		t.Errorf("a requirement's own scenario: %+v", v)
	}
}

func TestText(t *testing.T) {
	f := read(t, `
[[require]]
figure = "talk.chat.p99_ms"
at_most = "3899us"
[[require]]
figure = "*.lost"
at_most = 0
[[require]]
figure = "talk.chat.p99"
at_most = "250ms"
[[require]]
figure = "talk.cpu_us"
ratio_to_baseline_at_most = 1.4
`)
	r := run()
	r.Warnings = []string{"busy\x1b[2J"}
	var b bytes.Buffer
	if err := f.Judge(r, run()).Text(&b); err != nil {
		t.Fatal(err)
	}
	const want = `FAIL  talk.chat.p99_ms  3.9 ms  at most 3.9 ms (3.9, not at most 3.899)
pass  talk.chat.lost         0  at most 0
FAIL  storm.login.lost       2  at most 0
FAIL  talk.chat.p99          –  at most 250ms (the run has no such figure; did you mean talk.chat.p99_ms?)
pass  talk.cpu_us       231 µs  at most ×1.4 of the baseline (×1 of 231 µs)
warning: busy?[2J
FAIL: 3 of 5
`
	if b.String() != want {
		t.Errorf("\n%s", b.String())
	}
	b.Reset()
	if err := read(t, require+"'*.lost'\nat_most = 2").Judge(run(), nil).Text(&b); err != nil ||
		!strings.HasSuffix(b.String(), "\npass: all of 2\n") {
		t.Errorf("%v\n%s", err, b.String())
	}
}

func TestMistakes(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"", ": nothing is required"},
		{"baselin = 'x'\n", `:1: there is no key "baselin": did you mean "baseline"?`},
		{"\n[[require]]\nfigur = 'a'\n", `:3: there is no key "figur": did you mean "figure"?`},
		{require + "'a'\nat_mots = 1\n", `:3: there is no key "at_mots": did you mean "at_most"?`},
		{require + "'a'\nat_most = \n", ":3: this is no TOML: "},
		{require + "'a'\nratio_to_baseline_at_most = 'x'\n",
			":3: ratio_to_baseline_at_most is a TOML string, and must be a number"},
		{"strict = 1\n", ":1: strict is a TOML integer, and must be true or false"},
		{require + "3\n", ":2: figure is a TOML integer, and must be text in quotes"},
		{require + "'a'\n", ":2: a has no limit"},
		{require + "'a'\nat_most = 1\n" + require + "'b'\n", ":5: b has no limit"},
		{"[[require]]\nat_most = 1\n", ":1: a requirement without a figure"},
		{require + "'a'\nat_most = '5 parsecs'\n", `:3: at_most of a: "5 parsecs" has the unit "parsecs": ` +
			`use one of ns us`},
		{require + "'a'\nat_least = true\n", ":3: at_least of a: true is not an amount"},
		{require + "'a'\nat_most = 'ms'\n", ":3: at_most of a: ms is not an amount"},
		{require + "'a'\nat_most = nan\n", ":3: at_most of a: NaN is not an amount"},
		{require + "'a'\nat_most = 1\nmissing = 'maybe'\n", `:4: missing = "maybe"`},
		{require + "'a'\nratio_to_baseline_at_most = -1\n", ":3: ratio_to_baseline_at_most of a is -1"},
		{"\nrequire = [{figure = 'a'}]\n", ":2: a has no limit"},
	} {
		text, want := c.text, c.want
		name := write(t, text)
		_, err := Read(name)
		if err == nil || !strings.HasPrefix(err.Error(), name+want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: %v", text, err)
		}
	}
	if _, err := Read(filepath.Join(t.TempDir(), "none.toml")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
}

func TestBaseline(t *testing.T) {
	name := write(t, "baseline = 'base.json'\n"+require+"'a'\nat_most = 1\n")
	f, err := Read(name)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.LoadBaseline(); err == nil ||
		!strings.Contains(err.Error(), "does not exist: run the scenario once") {
		t.Errorf("%v", err)
	}
	r := run()
	r.Figures = r.Figures[:7] // JSON has no NaN
	if err := r.Save(filepath.Join(filepath.Dir(name), "base.json")); err != nil {
		t.Fatal(err)
	}
	if b, err := f.LoadBaseline(); err != nil || b.Scenario.Name != "chat" {
		t.Errorf("%v", err)
	}
	if b, err := read(t, require+"'a'\nat_most = 1\n").LoadBaseline(); b != nil || err != nil {
		t.Errorf("%v, %v", b, err)
	}
}
