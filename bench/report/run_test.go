package report

import (
	"fmt"
	"math"
	"math/rand/v2"
	"time"

	"canto/bench/result"
)

// testRun is a made-up run of so many seconds (20 at least) that looks like a real one: a ramp, a talk, a
// storm of logins and a rest. It is the same each time.
func testRun(seconds int) *result.Run {
	rnd := rand.New(rand.NewPCG(1, 2))
	s := float64(seconds)
	r := &result.Run{
		Format: result.Format,
		Scenario: result.Scenario{Name: "chat", About: "Pairs of users that write to each other, and rooms",
			Source: "name = \"chat\"\n\n[[phase]]\nname = \"ramp\"\nkind = \"ramp\"\nsessions = 10_000\nrate = " +
				"\"200/s\"\n"},
		Target: result.Target{Name: "canto", Software: "Canto", Version: "0.9.0", Commit: "16cf6f6",
			Addr: "127.0.0.1:5222", Domain: "bench.example", TLS: "starttls (TLS 1.3)",
			Mechanism: "SCRAM-SHA-256-PLUS", Config: "domain = \"bench.example\"\nlisten = \"127.0.0.1:5222\"\n",
			PIDs: []int{4711}},
		Machine: result.Machine{CPU: "AMD EPYC 7B13", Cores: 8, Memory: 32 << 30, OS: "Debian GNU/Linux 13",
			Kernel: "6.12.0", Descriptors: 1 << 20, Load: "0.04 0.10 0.08"},
		Tool: result.Tool{Version: "0.9.0", Commit: "16cf6f6", Go: "go1.26.8",
			Command: "canto-bench run chat --target canto --sessions 10000 --seed 1"},
		Began:    time.Date(2026, 11, 25, 20, 15, 0, 0, time.UTC),
		Seconds:  s,
		Workers:  2,
		Sessions: 10000,
		Warnings: []string{"the client used 3.9 of 4 cores in the phase storm: its latencies are the " +
			"client's as much as the server's; run it with more workers"},
		Refusals: []result.Failure{{What: "policy-violation: too many logins from one address",
			Remedy: "raise logins.rate in the server's configuration", Count: 12}},
		Files: []result.File{{Name: "profiles/cpu-talk.pprof", Kind: "cpu", Phase: "talk", At: s * .5}},
	}
	ends := []struct {
		name, kind string
		to         float64
	}{{"ramp", "ramp", .25}, {"talk", "hold", .65}, {"login storm", "storm", .85},
		{"settle", "settle", .9}, {"drain", "drain", 1}}
	from := 0.0
	for _, e := range ends {
		p := result.Phase{Name: e.name, Kind: e.kind, From: from, To: math.Round(e.to * s), Sessions: 10000}
		if e.kind == "drain" {
			p.Sessions = 0
		}
		l := p.To - p.From
		p.Server = &result.Usage{CPU: .9 * l, User: .6 * l, RSS: 310 << 20, PSS: 300 << 20, FDs: 10031,
			Threads: 14, Voluntary: int64(8123 * l), Involuntary: int64(311 * l), Sockets: 41 << 20}
		p.Client = result.Usage{CPU: 1.4 * l, User: l, RSS: 540 << 20, FDs: 10011}
		r.Phases, from = append(r.Phases, p), p.To
	}
	step := func(phase, name string, rate, receivers, ms float64, open bool) {
		var p result.Phase
		for _, q := range r.Phases {
			if q.Name == phase {
				p = q
			}
		}
		n := rate * (p.To - p.From)
		st := result.Step{Phase: phase, Name: name, Open: open, Receivers: receivers, Intended: uint64(n),
			Sent: uint64(n), Expected: uint64(n * receivers), Done: uint64(n * receivers),
			LateAfter: 250, Latency: result.NewHistogram(), Lag: result.NewHistogram()}
		for range 20000 {
			v := ms * math.Exp(rnd.NormFloat64()*.6)
			if rnd.Float64() < .002 {
				v *= 20
			}
			st.Latency.RecordN(time.Duration(v*1e6), int64(n*receivers)/20000+1)
			st.Lag.Record(time.Duration(50e3 * math.Exp(rnd.NormFloat64())))
		}
		st.Late = uint64(st.Latency.Over(250 * time.Millisecond))
		r.Steps = append(r.Steps, st)
	}
	step("ramp", "login", 160, 1, 45, true)
	step("talk", "chat", 4000, 1, .9, true)
	step("talk", "groupchat", 40, 50, 2.4, true)
	step("login storm", "login", 900, 1, 400, false)
	step("login storm", "chat", 4000, 1, 9, true)
	r.Steps[4].Lost, r.Steps[4].Failed = 3, 17
	in := func(at float64, name string) bool {
		for _, p := range r.Phases {
			if p.Name == name {
				return at > p.From && at <= p.To
			}
		}
		return false
	}
	for i := 1; i <= seconds; i++ {
		at := float64(i)
		wobble := func(v float64) float64 { return v * (1 + .08*rnd.NormFloat64()) }
		latency := func(rate, p50 float64) result.Interval {
			p50 = math.Abs(wobble(p50)) + .001
			return result.Interval{Sent: uint64(math.Abs(wobble(rate))), Done: uint64(math.Abs(wobble(rate))),
				P50: p50, P90: p50 * 2.1, P99: p50 * 4.2, P999: p50 * 9, Max: p50 * (6 + 20*rnd.Float64())}
		}
		sm := result.Sample{At: at, Sessions: 10000, Steps: map[string]result.Interval{},
			LagP99: .3 * math.Exp(rnd.NormFloat64()*.4),
			Server: &result.Usage{CPU: wobble(.15), RSS: 300<<20 + int64(at*2e4),
				Sockets: int64(wobble(30 << 20))}, Client: result.Usage{CPU: wobble(.2), RSS: 500 << 20},
			Metrics: map[string]float64{"go_goroutines": wobble(40), "canto_stanzas_total": 4000 * at}}
		switch {
		case in(at, "ramp"):
			sm.Phase, sm.Sessions = "ramp", int(10000*at/r.Phases[0].To)
			sm.Steps["login"], sm.Server.CPU, sm.Server.RSS = latency(160, 45), wobble(.8),
				int64(18<<20+282e6*at/r.Phases[0].To)
		case in(at, "talk"):
			sm.Phase, sm.Steps["chat"], sm.Steps["groupchat"], sm.Server.CPU, sm.Client.CPU = "talk",
				latency(4000, .9), latency(40, 2.4), wobble(1.1), wobble(1.6)
			g := sm.Steps["groupchat"]
			g.Done *= 50
			sm.Steps["groupchat"] = g
		case in(at, "login storm"):
			sm.Phase, sm.Steps["login"], sm.Steps["chat"], sm.Server.CPU, sm.Client.CPU = "login storm",
				latency(900, 400), latency(4000, 9), wobble(1.9), wobble(2.4)
			c := sm.Steps["chat"]
			c.Failed = uint64(rnd.IntN(3) * rnd.IntN(2))
			sm.Steps["chat"] = c
		case in(at, "settle"):
			sm.Phase = "settle"
		default:
			sm.Phase, sm.Sessions = "drain", int(10000*(s-at)/(s*.1))
		}
		r.Samples = append(r.Samples, sm)
	}
	for _, st := range r.Steps {
		for _, f := range []struct {
			what  string
			value float64
		}{{"p50_ms", result.Millis(st.Latency.Quantile(.5))}, {"p99_ms", result.Millis(st.Latency.Quantile(.99))}} {
			r.Figures = append(r.Figures, result.Figure{Name: fmt.Sprintf("%s.%s.%s", st.Phase, st.Name, f.what),
				Value: f.value, Unit: "ms", Better: "lower", About: "latency of " + st.Name})
		}
	}
	r.Figures = append(r.Figures, result.Figure{Name: "talk.cpu_us", Value: 231.4, Unit: "us",
		Better: "lower", About: "server CPU per operation"},
		result.Figure{Name: "talk.session_bytes", Value: 29312, Unit: "bytes", Better: "lower",
			About: "server memory per bound session"})
	return r
}
