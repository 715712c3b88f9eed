package vm

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"canto/bench"
	"canto/bench/report"
	"canto/bench/result"
)

// took is a histogram of one latency.
func took(ms int, n int) *result.Histogram {
	h := result.NewHistogram()
	for range n {
		h.Record(time.Duration(ms) * time.Millisecond)
	}
	return h
}

// seen is what canto-bench might have seen in a guest.
func seen() *result.Run {
	use := func(cpu float64, rss, slab int64) *result.Usage {
		return &result.Usage{CPU: cpu, RSS: rss, Slab: slab, Sockets: 4096}
	}
	gc := func(cycles float64) map[string]float64 {
		return map[string]float64{"go_gc_heap_live_bytes": 1e6 * cycles,
			"go_gc_cycles_total_gc_cycles_total": cycles, "go_gc_pauses_seconds_count": 2 * cycles,
			"go_gc_pauses_seconds_sum": cycles / 1000}
	}
	empty := result.NewHistogram()
	return &result.Run{
		Sessions: 1000, Target: result.Target{TLS: "direct, TLS 1.3", Mechanism: "SCRAM-SHA-1"},
		Machine: result.Machine{Kernel: "6.1"},
		Base:    &result.Sample{Server: use(1, 10e6, 1e6), Client: *use(0, 5e6, 1e6), Metrics: gc(0)},
		Phases: []result.Phase{
			{Name: "login1", Kind: bench.Ramp, From: 0, To: 10, Sessions: 100, Server: use(5, 11e6, 2e6),
				Client: *use(4, 6e6, 2e6)},
			{Name: "idle1", Kind: bench.Settle, From: 10, To: 20, Sessions: 100, Server: use(1, 12e6, 2e6),
				Client: *use(1, 6e6, 2e6)},
			{Name: "talk1", Kind: bench.Hold, From: 20, To: 30, Sessions: 100, Server: use(2, 12e6, 2e6),
				Client: *use(1, 6e6, 2e6)},
			{Name: "login2", Kind: bench.Ramp, From: 30, To: 100, Sessions: 1000, Server: use(50, 15e6, 10e6),
				Client: *use(40, 6e6, 2e6)},
			{Name: "idle2", Kind: bench.Settle, From: 100, To: 120, Sessions: 1000, Server: use(1, 21e6, 11e6),
				Client: *use(1, 7.8e6, 2e6), Slabs: map[string]int64{"TCP": 5e6, "filp": 1e6}},
			{Name: "talk2", Kind: bench.Hold, From: 120, To: 130, Sessions: 1000, Server: use(3, 21e6, 11e6),
				Client: *use(1, 8e6, 2e6)},
		},
		Steps: []result.Step{
			{Phase: "login1", Name: "login", Done: 100, Latency: took(9, 1), Lag: empty},
			{Phase: "login1", Name: "tls", Done: 100, Latency: empty, Lag: empty},
			{Phase: "talk1", Name: "chat", Sent: 1000, Done: 1000, Latency: took(5, 1000), Lag: empty},
			{Phase: "login2", Name: "login", Done: 900, Latency: took(9, 1), Lag: empty},
			{Phase: "talk2", Name: "chat", Sent: 1001, Done: 1000, Lost: 1, Latency: took(50, 1000), Lag: empty},
		},
		Samples: []result.Sample{
			{At: 9, Phase: "login1", Metrics: gc(2)}, {At: 19, Phase: "idle1", Metrics: gc(3)},
			{At: 20, Phase: "idle1"}, {At: 29, Phase: "talk1", Metrics: gc(3)},
			{At: 99, Phase: "login2", Metrics: gc(8)}, {At: 119, Phase: "idle2", Metrics: gc(9)},
			{At: 129, Phase: "talk2", Metrics: gc(9)},
		},
		Figures: []result.Figure{{Name: "login2.gc_share", Value: .1},
			{Name: "login2.gc_assist_share", Value: .02}, {Name: "login2.gc_pause_max_ms", Value: 3}},
		Refusals: []result.Failure{{What: "a login took over 1m0s", Remedy: "log in slower", Count: 3}},
	}
}

func near(a, b float64) bool { return a-b < 1e-9 && b-a < 1e-9 }

// Memory is the growth since before any client was connected, and since the level before; messages
// are compared with the first ones; the collector's work belongs to the phase that it was done in.
func TestSummary(t *testing.T) {
	s := &Result{Wanted: 1000, Host: result.Machine{CPU: "x", Cores: 2}}
	s.summarize(seen())
	if s.Bound != 1000 || s.Guest.Kernel != "6.1" || s.Failed[0].Count != 3 || len(s.Phases) != 6 ||
		len(s.Levels) != 2 || len(s.Talks) != 2 {
		t.Fatalf("%+v", s)
	}
	l := s.Levels[1]
	if l.Sessions != 1000 || !near(l.RSS, 11e3) || !near(l.Heap, 9e3) || !near(l.Kernel, 10e3) ||
		!near(l.KernelEnd(), 5e3) || !near(l.Client, 2.8e3) || !near(l.Slabs["TCP"], 5e3) {
		t.Errorf("%+v", l)
	}
	if m := l.More; m == nil || m.Sessions != 900 || !near(m.RSS, 1e4) || !near(m.Kernel, 1e4) ||
		!near(m.Client, 2e3) || !near(m.Heap, 6e6/900) {
		t.Errorf("each more: %+v", m)
	}
	if s.Levels[0].More != nil {
		t.Error("the first level has none before it")
	}
	if a, b := s.Talks[0], s.Talks[1]; !near(a.CPU, 2000) || a.Ratio != 1 || !near(b.CPU, 3000) ||
		!near(b.Ratio, 1.5) || b.Lost != 1 || b.P50 < 49 || b.P50 > 51 {
		t.Errorf("%+v, %+v", a, b)
	}
	g := s.Phases[3].GC
	if g == nil || *g.Cycles != 5 || !near(*g.Share, .1) || !near(*g.Assists, .02) ||
		!near(*g.Longest, 3) || *g.Pauses != 10 || !near(*g.Paused, .005) {
		t.Errorf("%+v", g)
	}
	if s.Phases[0].Done != 100 || s.Phases[2].Done != 1000 {
		t.Errorf("%+v", s.Phases)
	}
	var text, again bytes.Buffer
	if err := s.Text(&text); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"1,000 of 1,000 sessions bound", "3 × a login took over 1m0s",
		"TCP 5000 B, filp 1000 B", "10.00 %"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("no %q in\n%s", want, text.String())
		}
	}
	name := filepath.Join(t.TempDir(), "vm.json")
	if err := s.Save(name); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(name)
	back := new(Result)
	if err != nil || json.Unmarshal(b, back) != nil || back.Text(&again) != nil ||
		again.String() != text.String() {
		t.Errorf("what was written is not what is read: %v\n%s", err, again.String())
	}
}

// A server that tells nothing of its collector, or only a part, is measured all the same.
func TestNoMetrics(t *testing.T) {
	r := seen()
	r.Base.Metrics, r.Figures = nil, nil
	for i := range r.Samples {
		r.Samples[i].Metrics = map[string]float64{"other": 1}
	}
	delete(r.Samples[4].Metrics, "other")
	r.Samples[4].Metrics["go_gc_cycles_total_gc_cycles_total"] = 4
	s := &Result{}
	s.summarize(r)
	if s.Phases[0].GC != nil || s.Levels[1].Heap != 0 || !near(s.Levels[1].RSS, 11e3) {
		t.Errorf("%+v", s)
	}
	if g := s.Phases[3].GC; g == nil || *g.Cycles != 4 || g.Share != nil || g.Paused != nil {
		t.Errorf("%+v", g)
	}
	r = seen()
	r.Base, r.Samples, r.Phases = nil, nil, r.Phases[:2] // of a server elsewhere, and a run that ended early
	r.Phases[1].Server = nil
	r.Partial = "interrupted"
	s = &Result{}
	if s.summarize(r); s.Partial != "interrupted" || len(s.Levels) != 0 {
		t.Errorf("%+v", s)
	}
}

// What phases cost the host, and a clock that is off.
func TestHost(t *testing.T) {
	s := &Result{}
	s.summarize(seen())
	tr := &trace{CPU: 300, Boot: 2, Phases: []spent{{"login1", 5, 10}, {"idle1", 15, 40},
		{"talk1", 25, 50}, {"login2", 35, 60}, {"idle2", 105, 200}, {"talk2", 125, 250}}}
	s.host(tr)
	if s.Phases[0].HostCPU != 30 || s.Phases[3].HostCPU != 140 || s.Phases[5].HostCPU != 50 ||
		len(s.Warnings) != 0 {
		t.Errorf("%+v, %q", s.Phases, s.Warnings)
	}
	tr.Phases[5].From = 45 // 120 s inside are 40 here
	s.host(tr)
	if len(s.Warnings) != 1 || !strings.Contains(s.Warnings[0], "3.00 times") {
		t.Errorf("%q", s.Warnings)
	}
}

// The lines of a live view tell which phase it is, and how many sessions there are.
func TestProgress(t *testing.T) {
	var b strings.Builder
	live := report.NewLive(&b, false, 0)
	live.Note("starting canto with 10 accounts")
	live.Update(result.Progress{Scenario: "growth", Target: "canto", Phase: "login1", Kind: bench.Ramp,
		Phases: 10, Now: 7, Goal: 10, Waiting: "sessions bound", Sample: result.Sample{Sessions: 7}})
	live.Update(result.Progress{Scenario: "growth", Target: "canto", Phase: "idle1", Kind: bench.Settle,
		Index: 1, Phases: 10, Length: time.Minute, Sample: result.Sample{At: 3700, Sessions: 12345,
			Steps: map[string]result.Interval{"login": {Sent: 1, Done: 1}}, Server: &result.Usage{}}})
	var got []string
	for line := range strings.Lines(b.String()) {
		phase, bound := progressOf(strings.TrimSuffix(line, "\n"))
		got = append(got, fmt.Sprint(phase, " ", bound))
	}
	if strings.Join(got, ",") != " 0,login1 7,idle1 12345" {
		t.Errorf("%q of\n%s", got, b.String())
	}
}

// What the guest sends is unpacked beside the console, and nowhere else.
func TestUnpack(t *testing.T) {
	dir := t.TempDir()
	pack := func(text string) string {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		w := tar.NewWriter(z)
		for _, h := range []tar.Header{{Name: "./", Typeflag: tar.TypeDir, Mode: 0o755},
			{Name: "../../out/result.json", Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(text))}} {
			if err := w.WriteHeader(&h); err != nil {
				t.Fatal(err)
			}
		}
		w.Write([]byte(text))
		w.Close()
		z.Close()
		name := filepath.Join(dir, "results")
		if err := os.WriteFile(name, b.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	name := pack("{}")
	to := t.TempDir()
	if err := unpack(name, to); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(to, "result.json")); err != nil || string(b) != "{}" {
		t.Errorf("%q, %v", b, err)
	}
	name = pack(strings.Repeat("x", 100000))
	if err := os.Truncate(name, 100); err != nil {
		t.Fatal(err)
	}
	if err := unpack(name, t.TempDir()); err == nil {
		t.Error("half of an archive is no error")
	}
	os.Truncate(name, 0)
	if err := unpack(name, t.TempDir()); err == nil {
		t.Error("an empty archive is no error")
	}
}

// The ramp of all clients gets what the limit leaves.
func TestFit(t *testing.T) {
	sc, err := bench.Find("growth")
	if err != nil {
		t.Fatal(err)
	}
	if err := fit(sc, 20*time.Minute); err != nil {
		t.Fatal(err)
	}
	again, err := bench.Parse("again", []byte(sc.Source()))
	if err != nil {
		t.Fatal(err)
	}
	var ramp, others time.Duration
	for _, p := range again.Phases {
		switch {
		case p.Name == "login3":
			ramp = time.Duration(p.Length)
		case p.Kind != bench.Ramp:
			others += time.Duration(p.Length)
		}
	}
	if ramp < 10*time.Minute || ramp+others > 19*time.Minute {
		t.Errorf("%v for the ramp, and %v for the others", ramp, others)
	}
	if err := fit(sc, time.Minute); err == nil {
		t.Error("a minute is enough")
	}
}

// The counter's speed is told by machines that know it only.
func TestTSCSpeed(t *testing.T) {
	info := "processor\t: 0\ncpu MHz\t\t: 2596.118\nflags\t\t: fpu tsc constant_tsc tsc_known_freq sse\n" +
		"\nprocessor\t: 1\n"
	if n := tscSpeed(info); n != 2596118 {
		t.Errorf("%d", n)
	}
	for _, other := range []string{"", strings.Replace(info, "tsc_known_freq", "", 1),
		strings.Replace(info, " constant_tsc", "", 1)} {
		if n := tscSpeed(other); n != 0 {
			t.Errorf("%q: %d", other, n)
		}
	}
}

// What is missing is one line that says what to install.
func TestTools(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	_, err := tools(filepath.Join(t.TempDir(), "none"))
	if err == nil || !strings.Contains(err.Error(),
		"apt install qemu-system-x86 busybox-static cpio linux-image-cloud-amd64") {
		t.Error(err)
	}
	dir := t.TempDir()
	for _, v := range []string{"6.1.0-9", "6.10.0-1", "6.1.0-56"} {
		if err := os.WriteFile(filepath.Join(dir, "vmlinuz-"+v+"-cloud-amd64"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if n := filepath.Base(newest(dir)); n != "vmlinuz-6.10.0-1-cloud-amd64" {
		t.Error(n)
	}
}
