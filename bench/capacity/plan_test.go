package capacity

import (
	"encoding/json"
	"math"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"canto/bench"
	"canto/bench/result"
	"canto/bench/stub"
)

func TestProfile(t *testing.T) {
	p, err := ParseProfile("office.toml", []byte("messages = 20\ntls = 'direct'\n"))
	want := Mobile()
	want.Name, want.Messages, want.TLS = "office", 20, "direct"
	if err != nil || p != want {
		t.Errorf("%+v, %v", p, err)
	}
	for _, c := range []struct{ text, cause string }{{"mesages = 1\n",
		`x.toml:1: there is no key "mesages": did you mean "messages"?`}, {"body = -1", "from 0 to 60,000"},
		{"tls = 'ssl'", "none, starttls or direct"},
		{"messages = nan", "from 0 to 1,000,000"}, {"contacts = 1000", "from 0 to 500"}, {"tls", "x.toml:1: "}} {
		text, cause := c.text, c.cause
		if _, err := ParseProfile("x.toml", []byte(text)); err == nil ||
			!strings.Contains(err.Error(), cause) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: %v", text, err)
		}
	}
	p = Profile{Messages: 3600, Presence: 1800, Contacts: 10, Reconnects: 360}
	if w := p.work(); w != (work{1, 1, 5, 0, .1}) {
		t.Errorf("%+v", w)
	}
}

// The runs are as large as time and descriptors allow, and the check has sessions that the fit has not.
func TestShape(t *testing.T) {
	s := probeResult{logins: 1000, subscriptions: 2000, message: 50e-6, room: 20000}
	h, err := plan(s, Mobile(), mostSessions, 5*time.Minute, 2)
	if err != nil || !reflect.DeepEqual(h.steps, []int{1050, 2100, 3150, 4200, 5600, 7000}) || h.check != 9800 {
		t.Fatalf("%+v, %v", h, err)
	}
	near(t, "the rate", h.rate, 10000, 1e-9)
	total := 7000*h.session + 6*350/300. + 29*h.slice.Seconds() + 9800*h.session + h.settle.Seconds() +
		h.hold.Seconds()
	if total > 270 || total < 150 {
		t.Errorf("5 minutes are planned as %.0f s and what the storm takes", total)
	}
	s.room = 7000
	if h, err = plan(s, Mobile(), mostSessions, 5*time.Minute, 2); err != nil || h.check != 7000 ||
		h.steps[5] != 5000 {
		t.Errorf("with 7,000 descriptors: %+v, %v", h, err)
	}
	if h, err = plan(s, Mobile(), mostSessions, 10*time.Second, 2); err != nil || h.check >= 7000 ||
		h.slice > 300*time.Millisecond {
		t.Errorf("in 10 s: %+v, %v", h, err)
	}
	if h, err = plan(probeResult{logins: 1, subscriptions: 1, message: 1e-3, room: 20000}, Mobile(),
		mostSessions, 10*time.Second, 2); err != nil || h.check != 42 || h.slice <= 0 || h.hold <= 0 ||
		h.settle <= 0 {
		t.Errorf("with a server that takes a second for a login: %+v, %v", h, err)
	}
	s.room = 20
	if _, err = plan(s, Mobile(), mostSessions, time.Minute, 2); err == nil ||
		!strings.Contains(err.Error(), "ulimit") {
		t.Errorf("with 20 descriptors: %v", err)
	}
}

// Scenarios of all profiles can be run, and never ask for accounts that there are not.
func TestScenarios(t *testing.T) {
	for _, p := range []Profile{Mobile(), {TLS: "none"}, {TLS: "none", Messages: 100},
		{TLS: "direct", Presence: 5, Contacts: 2}, {TLS: "none", Messages: 1, Presence: 5, Reconnects: 1e6}} {
		h, err := plan(probeResult{logins: 1000, subscriptions: 2000, message: 50e-6, room: 20000}, p, 7000,
			5*time.Minute, 2)
		if err != nil {
			t.Fatal(err)
		}
		check, speed := checkScenario(p, h)
		most := Accounts(Config{Profile: p})
		for _, sc := range []*bench.Scenario{probeScenario(p, 300, time.Second), fitScenario(p, h), check} {
			if err := sc.Check(); err != nil {
				t.Errorf("%s of %+v: %v", sc.Name, p, err)
			}
			most -= sc.Accounts()
		}
		if most < 0 || speed < 1 || math.IsInf(speed, 0) {
			t.Errorf("%+v: %d accounts are left, %v times as fast", p, most, speed)
		}
		for _, ph := range check.Phases {
			sum := bench.Rate(0)
			for _, a := range ph.Do {
				sum += a.Rate
			}
			if float64(sum) > h.rate*1.001 {
				t.Errorf("%+v: %v operations a second in %s, over the %v that the fit saw", p, sum, ph.Name, h.rate)
			}
		}
	}
}

// madeUp is a plan whose fits are exact.
func madeUp() *runner {
	exact := func(beta ...float64) *Fit {
		return &Fit{Beta: beta, Cov: square(len(beta)), DOF: 4, N: 6}
	}
	return &runner{Config: Config{Target: bench.Target{PIDs: []int{os.Getpid()}}}, plan: &Plan{
		Profile: Profile{Name: "x", Messages: 36, Presence: 3.6, Contacts: 10, TLS: "none"}, Cores: 2,
		Utilisation: .5, Memory: 1_050_000_000,
		RSS: exact(50e6, 5976), Kernel: exact(0, 6000), CPU: exact(0, 0, 50e-6, 25e-6, 1e-3, 2e-3),
		Files: exact(10, 0), Steps: []int{1, 2},
		Check: &Check{Sessions: 1000, Speed: 10, Memory: Prediction{100e6, 90e6, 110e6, 105e6},
			CPU: Prediction{1, .9, 1.1, 1}},
	}}
}

func limitOf(t *testing.T, pl *Plan, name string) Limit {
	t.Helper()
	for _, l := range pl.Limits {
		if l.Name == name {
			return l
		}
	}
	t.Fatalf("there is no limit %q in %+v", name, pl.Limits)
	return Limit{}
}

func TestAnswer(t *testing.T) {
	r := madeUp()
	r.answer()
	// Of memory 1 GB above the base, for 5,976 + 6,000/2 + 1,024 bytes each; of CPU one core for 0.01
	// messages and 0.01 deliveries a second: 0.75 µs.
	if l := limitOf(t, r.plan, "memory"); l.Sessions != 100000 || l.Low != 100000 || l.High != 100000 ||
		l.Widened {
		t.Errorf("memory: %+v", l)
	}
	if l := limitOf(t, r.plan, "cpu"); l.Sessions < 1333332 || l.Sessions > 1333334 {
		t.Errorf("CPU: %+v", l)
	}
	if pl := r.plan; pl.Sessions != 100000 || pl.Binds != "memory" {
		t.Errorf("%d sessions, by %s", pl.Sessions, pl.Binds)
	}
	f := r.plan.Predict(Profile{Messages: 36, Presence: 3.6, Contacts: 10, TLS: "direct"}, 20000)
	near(t, "CPU of 20,000", f.CPU.Predicted, .015, 1e-9)
	near(t, "memory of 20,000", f.RSS.Predicted, 50e6+20000*5976, 1e-9)
	near(t, "kernel's memory of 20,000", f.Kernel, 20000*4024, 1e-9)
	if len(f.Doubts) != 2 {
		t.Errorf("another kind of TLS and 20 times the sessions: doubts %q", f.Doubts)
	}

	// Of 50 MB that were predicted for sessions, 10 more were seen, and that is more than was promised.
	r = madeUp()
	r.plan.Check.Memory = Prediction{100e6, 95e6, 105e6, 110e6}
	r.answer()
	if l := limitOf(t, r.plan, "memory"); l.Sessions != 100000 || l.Low != 83333 || l.High != 120000 ||
		!l.Widened {
		t.Errorf("memory after a check that failed: %+v", l)
	}

	// What is below zero by noise gives nothing back.
	r = madeUp()
	r.plan.CPU.Beta[perSession], r.plan.CPU.Beta[atRest] = -1e-7, -.1
	r.answer()
	if l := limitOf(t, r.plan, "cpu"); l.Sessions < 1333332 || l.Sessions > 1333334 {
		t.Errorf("CPU with noise below zero: %+v", l)
	}

	// What is not known well has a margin, and nothing is negative.
	r = madeUp()
	r.plan.RSS.Cov[1][1] = 500 * 500
	r.plan.CPU.Cov[perSession][perSession] = 1e-4
	r.answer()
	if l := limitOf(t, r.plan, "memory"); l.Low < 82000 || l.Low > 92000 || l.High < 111000 || l.High > 123000 {
		t.Errorf("memory with ± 1,388 bytes of 10,000: %+v", l)
	}
	if l := limitOf(t, r.plan, "cpu"); l.Low < 1 || l.Low > 100 || l.High < l.Sessions {
		t.Errorf("CPU with a cost that is not known: %+v", l)
	}
	if pl := r.plan; pl.Low != limitOf(t, pl, "cpu").Low {
		t.Errorf("the low end is %d, and not the lowest of all limits", pl.Low)
	}
}

func TestText(t *testing.T) {
	r := madeUp()
	r.plan.Check.Memory.Seen = 120e6
	r.plan.Target.Name = "a server"
	r.plan.Warnings = []string{"look\x1b[2Jout"}
	r.answer()
	var b strings.Builder
	if err := r.plan.Text(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"a server on this machine holds 100,000 sessions",
		"What binds is memory", "outside of the margin", "(widened: see the check)", "+20.0 %", "1,333,333",
		"drawn out", "Doubtful: look?[2Jout"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("the text does not have %q:\n%s", want, b.String())
		}
	}
}

// A whole plan, as small as can be: that it has all its parts, and not what it says. The server is in this
// process.
func TestWhole(t *testing.T) {
	s, err := stub.Start(stub.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var notes []string
	seen := map[string]bool{}
	p := Mobile()
	p.TLS = "none"
	c := Config{Target: bench.Target{Name: "stub", Addr: s.Addr(), Password: "bench",
		PIDs: []int{os.Getpid()}}, Profile: p, Budget: 2 * time.Second, Sessions: 60,
		Note:  func(s string) { notes = append(notes, s) },
		Watch: func(p result.Progress) { seen[p.Scenario] = true }}
	pl, err := Run(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	if len(notes) != 3 || len(seen) != 3 {
		t.Errorf("notes %q, scenarios %v", notes, seen)
	}
	if pl.Sessions <= 0 || pl.Low > pl.Sessions || pl.High < pl.Sessions || pl.Binds == "" ||
		len(pl.Limits) < 3 {
		t.Errorf("%d sessions, %d to %d, by %s of %+v", pl.Sessions, pl.Low, pl.High, pl.Binds, pl.Limits)
	}
	if len(pl.Steps) != len(shares) || pl.CPU.N != 1+6*len(shares) || pl.RSS.N != len(shares) ||
		pl.Check.Sessions <= pl.Steps[len(pl.Steps)-1] || pl.Check.Memory.Seen <= 0 || pl.Check.CPU.Seen < 0 {
		t.Errorf("steps %v, fits of %d and %d, check %+v", pl.Steps, pl.CPU.N, pl.RSS.N, pl.Check)
	}
	if st := s.Stats(); st.Routed == 0 || st.Presences == 0 ||
		st.Logins < uint64(pl.Steps[len(pl.Steps)-1]+pl.Check.Sessions) {
		t.Errorf("the server saw %+v", st)
	}
	// JSON keeps all that predictions need.
	b, err := json.Marshal(pl)
	if err != nil {
		t.Fatal(err)
	}
	var again Plan
	if err := json.Unmarshal(b, &again); err != nil ||
		!reflect.DeepEqual(again.Predict(p, 1000), pl.Predict(p, 1000)) {
		t.Errorf("JSON: %v", err)
	}
}

func TestRunRefuses(t *testing.T) {
	if _, err := Run(t.Context(), Config{Profile: Profile{TLS: "ssl"}}); err == nil {
		t.Error("a profile that can't be has a plan")
	}
	if _, err := Run(t.Context(), Config{}); err == nil || !strings.Contains(err.Error(), "pid") {
		t.Errorf("without a process: %v", err)
	}
}
