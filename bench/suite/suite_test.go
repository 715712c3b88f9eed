package suite

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"canto/bench"
	"canto/bench/stub"
	"canto/bench/target"
)

// The suites that come along can be run.
func TestSuites(t *testing.T) {
	if len(Suites()) < 3 {
		t.Fatalf("suites: %v", Suites())
	}
	for _, n := range Suites() {
		if s, err := Find(n); err != nil || s.Name != n || s.About == "" {
			t.Errorf("%s: %v", n, err)
		}
	}
}

func suite(t *testing.T, text string) *Suite {
	t.Helper()
	dir := t.TempDir()
	scenario := filepath.Join(dir, "s.toml")
	if err := os.WriteFile(scenario, []byte(`
name = "s"
[clients]
count = 10
[[phase]]
kind = "ramp"
[[phase]]
name = "talk"
kind = "hold"
length = "300ms"
grace = "300ms"
[[phase.do]]
kind = "chat"
rate = "100/s"
[[phase]]
kind = "drain"
`), 0o600); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(dir, "suite.toml")
	if err := os.WriteFile(name, []byte(strings.ReplaceAll(text, "SCENARIO", scenario)), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := Find(name)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func external(t *testing.T, name string, cfg stub.Config) (*target.Spec, *stub.Server) {
	t.Helper()
	s, err := stub.Start(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return &target.Spec{Name: name, Server: s.Addr().String(), Password: "bench"}, s
}

const both = `
about = "a test"
[[case]]
name = "plain"
scenario = "SCENARIO"
  [[case.row]]
  label = "lost"
  figure = "talk.chat.lost"
  at_most = 0
  [[case.row]]
  label = "median"
  figure = "talk.chat.p50_ms"
  goal = 1.5
[[case]]
name = "mobile"
scenario = "SCENARIO"
sm = true
  [[case.row]]
  label = "mobile"
  figure = "talk.chat.p50_ms"
`

// A contest alternates, has a table, and says what is not offered and not kept to.
func TestContest(t *testing.T) {
	good, _ := external(t, "good", stub.Config{})
	bad, lossy := external(t, "bad", stub.Config{})
	lossy.Faults.Drop(5)
	dir := t.TempDir()
	var notes []string
	o, err := Run(t.Context(), Config{Suite: suite(t, both), Targets: []*target.Spec{good, bad}, Rounds: 2,
		Out: dir, Note: func(s string) { notes = append(notes, s) }})
	if err != nil {
		t.Fatal(err)
	}
	var order []string
	for _, n := range notes {
		if strings.HasPrefix(n, "round") && strings.Contains(n, "plain") {
			order = append(order, n[len("round 1 of 2: plain, "):])
		}
	}
	if got := strings.Join(order, " "); got != "good bad bad good" {
		t.Errorf("the order was %s", got)
	}
	if r := o.Tables[0].Rows; r[0].Figure != "talk.chat.lost" || r[1].Figure != "talk.chat.p50_ms" {
		t.Errorf("the case's table begins with %s and %s", r[0].Figure, r[1].Figure)
	}
	var text bytes.Buffer
	if err := o.Text(&text); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"median", "not offered", "1.5 ms", "(×"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("the table has no %q:\n%s", want, text.String())
		}
	}
	if u := o.Unmet(); len(u) != 2 || !strings.Contains(u[0], "talk.chat.lost of bad is 6, and at most 0") {
		t.Errorf("unmet: %q", u)
	}
	if list, _ := filepath.Glob(filepath.Join(dir, "plain-*.json")); len(list) != 4 {
		t.Errorf("%d results were kept", len(list))
	}
	var md bytes.Buffer
	if err := o.Markdown(&md); err != nil || !strings.Contains(md.String(), "| lost | 0") {
		t.Errorf("%v: %s", err, md.String())
	}
}

// One scenario, all figures.
func TestOne(t *testing.T) {
	e, _ := external(t, "one", stub.Config{})
	s := suite(t, both)
	o, err := Run(t.Context(), Config{Suite: Single(s.Cases[0].Scenario, bench.Overrides{Clients: 6}),
		Targets: []*target.Spec{e}, Rounds: 1, Out: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	var text bytes.Buffer
	if err := o.Text(&text); err != nil || !strings.Contains(text.String(), "talk.chat.p99_ms") {
		t.Errorf("%v\n%s", err, text.String())
	}
}

func TestRefusals(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"[[case]]\nscenario = 'none'\n", `there is no scenario "none"`},
		{"about = 'x'\n", "has no [[case]]"},
		{"[[case]]\nscenario = 'chat'\n[[case]]\nscenario = 'chat'\n", "two cases chat"},
		{"[[case]]\nscenario = 'chat'\nclinets = 3\n", `:3: there is no key "clinets": did you mean "clients"?`},
	} {
		text, want := c.text, c.want
		name := filepath.Join(t.TempDir(), "s.toml")
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Find(name); err == nil || !strings.Contains(err.Error(), want) ||
			strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: %v", text, err)
		}
	}
	a, _ := external(t, "same", stub.Config{})
	b, _ := external(t, "same", stub.Config{})
	if _, err := Run(t.Context(), Config{Suite: suite(t, both), Targets: []*target.Spec{a, b}, Rounds: 1,
		Out: t.TempDir()}); err == nil {
		t.Error("two servers have one name")
	}
}
