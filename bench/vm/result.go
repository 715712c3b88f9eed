package vm

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"canto/bench"
	"canto/bench/report"
	"canto/bench/result"
)

// A Result is the outcome of a run in the virtual machine: how many sessions, what each costs, and
// whether that grows. result.json beside it has all that canto-bench measured inside. Seconds and
// latencies inside the guest are emulated: they can be compared with those of other runs in a guest
// only.
type Result struct {
	Date    time.Time      `json:"date"`    // Date of the run.
	Commit  string         `json:"commit"`  // Commit that was run.
	Command string         `json:"command"` // Command runs the same again.
	Host    result.Machine `json:"host"`    // Host that the guest ran on.
	Guest   Guest          `json:"guest"`   // Guest machine.
	// Partial says what was not reached, and why; "": all was done.
	Partial string `json:"partial,omitempty"`

	// Wanted is how many sessions there should be.
	Wanted int              `json:"sessions_wanted"`
	Bound  int              `json:"sessions_bound"`   // Bound is the highest number at a time.
	Failed []result.Failure `json:"failed,omitempty"` // Failed are the kinds of failure.
	TLS    string           `json:"tls"`              // TLS of the clients.
	// Shake is the key exchange of TLS handshakes.
	Shake   string  `json:"key_exchange,omitempty"`
	Login   string  `json:"mechanism"` // Login is the mechanism of SASL.
	Seconds float64 `json:"seconds"`   // Seconds of the whole run, with builds and accounts.
	// Prepared is how many seconds builds and accounts took.
	Prepared float64 `json:"prepare_seconds"`
	// HostCPU is the CPU time of the emulator, in seconds.
	HostCPU float64 `json:"emulator_cpu_seconds"`

	Phases   []Phase  `json:"phases"`             // Phases of the scenario.
	Levels   []Level  `json:"levels"`             // Levels are the memory of sessions at rest.
	Talks    []Talk   `json:"talks"`              // Talks are messages beside sessions.
	Warnings []string `json:"warnings,omitempty"` // Warnings of the run.
}

// A Guest is the machine that the run was in.
type Guest struct {
	Emulator string  `json:"emulator"`     // Emulator and its version.
	Accel    string  `json:"accel"`        // Accel is "tcg" (each instruction is emulated) or "kvm".
	CPU      string  `json:"cpu"`          // CPU is the emulated model.
	Cores    int     `json:"cores"`        // Cores of the guest.
	Procs    int     `json:"gomaxprocs"`   // Procs is GOMAXPROCS of server and client each.
	Memory   int64   `json:"memory_bytes"` // Memory in bytes.
	Kernel   string  `json:"kernel"`       // Kernel of the guest.
	Boot     float64 `json:"boot_seconds"` // Boot is how many seconds it took to boot.
	// Peak is the highest memory of the emulator, in bytes.
	Peak int64 `json:"emulator_rss_bytes"`
}

// A Phase is one of the scenario's.
type Phase struct {
	Name     string  `json:"name"`     // Name of the phase.
	Kind     string  `json:"kind"`     // Kind of the phase.
	Seconds  float64 `json:"seconds"`  // Seconds, emulated.
	Sessions int     `json:"sessions"` // Sessions at its end.
	Done     uint64  `json:"done"`     // Done are logins, or messages that arrived.
	// HostCPU is the CPU time of the emulator, in seconds.
	HostCPU float64 `json:"emulator_cpu_seconds"`
	Server  float64 `json:"server_cpu_seconds"` // Server CPU, in emulated seconds.
	Client  float64 `json:"client_cpu_seconds"` // Client CPU, in emulated seconds.
	GC      *GC     `json:"gc,omitempty"`       // GC of the server.
}

// GC is what the server's garbage collector did in a phase. Values that the server does not report
// are nil.
type GC struct {
	Cycles *float64 `json:"cycles,omitempty"` // Cycles of the collector.
	Share  *float64 `json:"share,omitempty"`  // Share of the server's CPU.
	// Assists is the share by goroutines that allocated.
	Assists *float64 `json:"assist_share,omitempty"`
	Pauses  *float64 `json:"pauses,omitempty"`         // Pauses of the program.
	Paused  *float64 `json:"paused_seconds,omitempty"` // Paused is their sum, in seconds, about.
	// Longest pause of the last 256 collections, in ms.
	Longest *float64 `json:"pause_max_ms,omitempty"`
}

// A Level is the memory of a number of idle sessions, when the server has tidied up. All values are
// bytes for each session, since the time before any client was connected.
type Level struct {
	Sessions int     `json:"sessions"`                    // Sessions that there are.
	RSS      float64 `json:"server_rss_bytes"`            // RSS of the server.
	Heap     float64 `json:"server_heap_bytes,omitempty"` // Heap of the server.
	Kernel   float64 `json:"kernel_bytes"`                // Kernel memory of both ends.
	Client   float64 `json:"client_rss_bytes"`            // Client memory.
	// More is the same for each session beyond the level before.
	More *Level `json:"each_more,omitempty"`
	// Slabs are the kernel's slab caches that have it, of both ends.
	Slabs map[string]float64 `json:"kernel_slabs,omitempty"`
}

// KernelEnd is the kernel's memory for one end of a session: server and client are in one kernel,
// and have the same kind of sockets.
func (l *Level) KernelEnd() float64 { return l.Kernel / 2 }

// A Talk is messages beside a number of sessions.
type Talk struct {
	Phase      string `json:"phase"`      // Phase that it was.
	Sessions   int    `json:"sessions"`   // Sessions that there were.
	Sent       uint64 `json:"sent"`       // Sent messages.
	Done       uint64 `json:"done"`       // Done are those that arrived, each counted once.
	Lost       uint64 `json:"lost"`       // Lost are those that did not arrive.
	Duplicated uint64 `json:"duplicated"` // Duplicated are those that arrived again.
	Reordered  uint64 `json:"reordered"`  // Reordered are those that arrived after a later one.
	Failed     uint64 `json:"failed"`     // Failed are those that were answered by an error.
	// CPU of the server for each that arrived, in emulated µs.
	CPU   float64 `json:"server_cpu_us"`
	P50   float64 `json:"p50_ms"`    // P50 of the latency, in emulated ms.
	P99   float64 `json:"p99_ms"`    // P99 of the latency, in emulated ms.
	Ratio float64 `json:"cpu_ratio"` // Ratio is CPU relative to that of the first talk.
}

// Format of the JSON.
const format = 1

// summarize adds what canto-bench measured in the guest: sessions and failures; for each phase its
// counts, CPU and garbage collections; a Talk for each phase with messages; and a Level for each
// settle, with the growth since the one before.
func (s *Result) summarize(r *result.Run) {
	s.Bound, s.Failed, s.TLS, s.Login = r.Sessions, r.Refusals, r.Target.TLS, r.Target.Mechanism
	s.Guest.Kernel = r.Machine.Kernel
	if r.Partial != "" {
		s.Partial = r.Partial
	}
	s.Warnings = append(s.Warnings, r.Warnings...)
	steps := map[string]result.Step{}
	for _, st := range r.Steps {
		if st.Name == "login" || st.Name == bench.Chat {
			steps[st.Phase] = st
		}
	}
	var last result.Phase
	before := r.Base
	for _, p := range r.Phases {
		ph := Phase{Name: p.Name, Kind: p.Kind, Seconds: p.To - p.From, Sessions: p.Sessions,
			Done: steps[p.Name].Done, Client: p.Client.CPU}
		if p.Server != nil {
			ph.Server = p.Server.CPU
		}
		end := lastIn(r.Samples, p)
		if before != nil && end != nil {
			ph.GC = collected(r, p.Name, before.Metrics, end.Metrics)
		}
		s.Phases = append(s.Phases, ph)
		if st, ok := steps[p.Name]; ok && st.Name == bench.Chat {
			s.talk(p, st)
		}
		if p.Kind == bench.Settle && p.Server != nil && r.Base != nil && r.Base.Server != nil && p.Sessions > 0 {
			l := level(*r.Base.Server, r.Base.Client, r.Base.Metrics, p, end, p.Sessions)
			if n := p.Sessions - last.Sessions; last.Server != nil && n > 0 {
				more := level(*last.Server, last.Client, metricsOf(lastIn(r.Samples, last)), p, end, n)
				l.More = &more
			}
			l.Slabs = map[string]float64{}
			for name, n := range p.Slabs {
				l.Slabs[name] = float64(n) / float64(p.Sessions)
			}
			s.Levels = append(s.Levels, l)
			last = p
		}
		if end != nil {
			before = end
		}
	}
}

// lastIn is the last sample of a phase that has metrics.
func lastIn(all []result.Sample, p result.Phase) *result.Sample {
	for i := range slices.Backward(all) {
		if all[i].Phase == p.Name && all[i].Metrics != nil {
			return &all[i]
		}
	}
	return nil
}

func metricsOf(s *result.Sample) map[string]float64 {
	if s == nil {
		return nil
	}
	return s.Metrics
}

// heapNames are the metrics of a server's heap.
var heapNames = []string{"go_gc_heap_live_bytes", "go_memstats_heap_inuse_bytes"}

// known is an amount that is 0 where the server did not say.
func known(bytes float64) string {
	if bytes == 0 {
		return "–"
	}
	return amount(bytes)
}

// level is the memory of the sessions that were added between two samples.
func level(base, baseClient result.Usage, metrics map[string]float64, p result.Phase,
	end *result.Sample, sessions int) Level {
	each := func(now, before int64) float64 { return float64(now-before) / float64(sessions) }
	l := Level{Sessions: sessions, RSS: each(p.Server.RSS, base.RSS), Client: each(p.Client.RSS, baseClient.RSS),
		Kernel: each(p.Server.Slab+p.Server.Sockets, base.Slab+base.Sockets)}
	for _, name := range heapNames {
		was, ok := metrics[name]
		is, ok2 := metricsOf(end)[name]
		if ok && ok2 {
			l.Heap = (is - was) / float64(sessions)
			break
		}
	}
	return l
}

func (s *Result) talk(p result.Phase, st result.Step) {
	t := Talk{Phase: p.Name, Sessions: p.Sessions, Sent: st.Sent, Done: st.Done, Lost: st.Lost,
		Duplicated: st.Duplicated, Reordered: st.Reordered, Failed: st.Failed,
		P50: result.Millis(st.Latency.Quantile(.5)), P99: result.Millis(st.Latency.Quantile(.99))}
	if p.Server != nil && st.Done > 0 {
		t.CPU = p.Server.CPU * 1e6 / float64(st.Done)
	}
	if len(s.Talks) == 0 {
		t.Ratio = 1
	} else if first := s.Talks[0].CPU; first > 0 {
		t.Ratio = t.CPU / first
	}
	s.Talks = append(s.Talks, t)
}

// collected is the work of the garbage collector in a phase, between two scrapes; nil if there are
// no metrics of it.
func collected(r *result.Run, phase string, before, after map[string]float64) *GC {
	some := false
	is := func(v float64, ok bool) *float64 {
		if !ok {
			return nil
		}
		some = true
		return &v
	}
	diff := func(name string) *float64 {
		v, ok := after[name]
		return is(v-before[name], ok)
	}
	figure := func(name string) *float64 {
		f, ok := r.Figure(phase + "." + name)
		return is(f.Value, ok)
	}
	g := &GC{Cycles: diff("go_gc_cycles_total_gc_cycles_total"), Share: figure("gc_share"),
		Assists: figure("gc_assist_share"),
		Pauses:  diff("go_gc_pauses_seconds_count"), Paused: diff("go_gc_pauses_seconds_sum"),
		Longest: figure("gc_pause_max_ms")}
	if !some {
		return nil
	}
	return g
}

// host adds the phases' costs on the host.
func (s *Result) host(t *trace) {
	s.HostCPU, s.Guest.Boot, s.Guest.Peak = t.CPU, t.Boot, t.Peak
	s.clock(t)
	for i, p := range t.Phases {
		end := t.CPU
		if i+1 < len(t.Phases) {
			end = t.Phases[i+1].CPU
		}
		for j := range s.Phases {
			if s.Phases[j].Name == p.Name {
				s.Phases[j].HostCPU = end - p.CPU
			}
		}
	}
}

// clock warns where the guest's clock ran at another speed than the host's, by the phases that both
// have seen: a guest that measures its own processor on a busy host may be several times off.
func (s *Result) clock(t *trace) {
	n := min(len(t.Phases), len(s.Phases))
	if n < 2 {
		return
	}
	guest := 0.0
	for _, p := range s.Phases[:n-1] {
		guest += p.Seconds
	}
	host := t.Phases[n-1].From - t.Phases[0].From
	if off := guest/host - 1; host > 10 && (off < -.05 || off > .05) {
		s.Warnings = append(s.Warnings, fmt.Sprintf("the guest's clock ran at %.2f times the speed of the "+
			"host's: rates, latencies and CPU inside are off by as much", guest/host))
	}
}

// Save writes s as JSON.
func (s *Result) Save(name string) error {
	b, err := json.MarshalIndent(struct {
		Format int `json:"format"`
		*Result
	}{format, s}, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(name, append(b, '\n'), 0o644)
}

// Text writes s to w for an operator. In order: the sessions, why the run is partial, the
// failures, the commit, host and guest, memory by number of sessions with the kernel's slabs,
// messages by number of sessions, the phases with the garbage collector's figures, and the
// warnings. Tables without rows are left out. It returns the error of the write.
func (s *Result) Text(w io.Writer) error {
	var b strings.Builder
	p := func(f string, a ...any) { fmt.Fprintf(&b, f+"\n", a...) }
	p("%s of %s sessions bound in one process; TLS %s", thousands(s.Bound), thousands(s.Wanted),
		report.Clean(strings.TrimSuffix(s.TLS+", "+s.Login, ", ")))
	if s.Partial != "" {
		p("PARTIAL: %s", report.Clean(s.Partial))
	}
	for _, f := range s.Failed {
		p("%s × %s: %s", thousands(int(f.Count)), report.Clean(f.What), report.Clean(f.Remedy))
	}
	p("")
	p("commit %s, %s, %s", s.Commit, s.Date.Format("2006-01-02 15:04 MST"), s.Command)
	p("host:  %s, %d cores, %s, Linux %s, load before %s", s.Host.CPU, s.Host.Cores,
		amount(float64(s.Host.Memory)), s.Host.Kernel, s.Host.Load)
	p("guest: %s, %s -cpu %s, %d cores (GOMAXPROCS=%d for server and client each), %s, Linux %s, up "+
		"after %.1f s", s.Guest.Emulator, s.Guest.Accel, s.Guest.CPU, s.Guest.Cores, s.Guest.Procs,
		amount(float64(s.Guest.Memory)), s.Guest.Kernel, s.Guest.Boot)
	if s.Shake != "" && s.TLS != "none" {
		p("keys are agreed on by %s alone", s.Shake)
	}
	p("%.0f s in all, %.0f s of them builds and accounts; the emulator used %.0f s of CPU and %s",
		s.Seconds, s.Prepared, s.HostCPU, amount(float64(s.Guest.Peak)))
	if len(s.Levels) > 0 {
		rows := [][]string{{"idle sessions", "RSS", "heap", "kernel, both ends", "one end", "client RSS",
			"each more: RSS", "heap", "kernel", "client RSS"}}
		for i := range s.Levels {
			l := &s.Levels[i]
			row := []string{thousands(l.Sessions), amount(l.RSS), known(l.Heap), amount(l.Kernel),
				amount(l.KernelEnd()), amount(l.Client), "", "", "", ""}
			if m := l.More; m != nil {
				copy(row[6:], []string{amount(m.RSS), known(m.Heap), amount(m.Kernel), amount(m.Client)})
			}
			rows = append(rows, row)
		}
		p("\nMemory of a session\n%s", report.Table(1, rows))
		l := &s.Levels[len(s.Levels)-1]
		names := make([]string, 0, len(l.Slabs))
		for n := range l.Slabs {
			names = append(names, n)
		}
		slices.SortFunc(names, func(a, b string) int {
			if d := l.Slabs[b] - l.Slabs[a]; d != 0 {
				return int(max(min(d, 1), -1))
			}
			return strings.Compare(a, b)
		})
		for i, n := range names {
			names[i] = fmt.Sprintf("%s %.0f B", n, l.Slabs[n])
		}
		p("the kernel's, both ends, at %s: %s", thousands(l.Sessions), strings.Join(names, ", "))
	}
	if len(s.Talks) > 0 {
		rows := [][]string{{"messages in", "sessions", "sent", "arrived", "lost", "twice", "swapped",
			"failed", "server CPU", "ratio", "p50", "p99"}}
		for _, t := range s.Talks {
			rows = append(rows, []string{t.Phase, thousands(t.Sessions), thousands(int(t.Sent)),
				thousands(int(t.Done)), thousands(int(t.Lost)), thousands(int(t.Duplicated)),
				thousands(int(t.Reordered)), thousands(int(t.Failed)), report.Amount(t.CPU, "us"),
				fmt.Sprintf("%.2f", t.Ratio), report.Amount(t.P50, "ms"), report.Amount(t.P99, "ms")})
		}
		p("\nMessages (CPU and latencies are emulated: their ratio tells)\n%s", report.Table(1, rows))
	}
	if len(s.Phases) > 0 {
		rows := [][]string{{"phase", "sessions", "seconds", "done", "emulator CPU", "server", "client",
			"GC of CPU", "assists", "cycles", "pauses", "paused", "longest"}}
		for _, ph := range s.Phases {
			row := []string{ph.Name, thousands(ph.Sessions), fmt.Sprintf("%.0f", ph.Seconds),
				thousands(int(ph.Done)), fmt.Sprintf("%.0f s", ph.HostCPU),
				fmt.Sprintf("%.0f s", ph.Server), fmt.Sprintf("%.0f s", ph.Client), "–", "–", "–", "–",
				"–", "–"}
			if g := ph.GC; g != nil {
				put := func(i int, v *float64, f string, by float64) {
					if v != nil {
						row[i] = fmt.Sprintf(f, *v*by)
					}
				}
				put(7, g.Share, "%.2f %%", 100)
				put(8, g.Assists, "%.2f %%", 100)
				put(9, g.Cycles, "%.0f", 1)
				put(10, g.Pauses, "%.0f", 1)
				put(11, g.Paused, "%.1f ms", 1e3)
				put(12, g.Longest, "%.1f ms", 1)
			}
			rows = append(rows, row)
		}
		p("\nPhases (seconds of server and client are emulated)\n%s", report.Table(1, rows))
	}
	for _, v := range s.Warnings {
		p("WARNING: %s", report.Clean(v))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func amount(bytes float64) string { return report.Amount(bytes, "bytes") }

func thousands(n int) string { return report.Amount(float64(n), "count") }
