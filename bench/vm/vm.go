// Package vm runs Canto and its clients in a virtual machine that is made for one run, so that it
// holds as many sessions as its memory does, also on hosts that limit a process to few open files.
// Without KVM the machine is emulated, and ten times slower. Its results are how many sessions one
// process holds, what memory each takes in the process and in the kernel, whether all stanzas
// arrive, and how costs grow with sessions. Its times say nothing about real machines.
//
// vm.go prepares the run, guest.go boots the machine and reads its console, result.go has the
// result.
package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"canto/bench"
	"canto/bench/result"
	"canto/bench/sampler"
	"canto/bench/servers"
	"canto/bench/target"
)

// A Config says what to run. The zero value of a field is its default.
type Config struct {
	Clients   int    // Clients; 0: 100,000.
	TLS       string // TLS is "none", "starttls" or "direct"; "": the scenario's.
	Mechanism string // Mechanism of SASL; "": the scenario's.
	Scenario  string // Scenario; "": growth.
	Memory    int64  // Memory of the guest in bytes; 0: 2 GiB, and 40 KiB for each client.
	Cores     int    // Cores of the guest; 0: 2.
	// CPU is the emulator's model; "": one that is fast to emulate and has instructions for AES.
	CPU     string
	Accel   string        // Accel is "tcg" (the default: emulation) or "kvm".
	Kernel  string        // Kernel is a file; "": the newest in /boot.
	Limit   time.Duration // Limit of the whole run; 0: 28 minutes.
	Out     string        // Out is the folder for the results.
	Command string        // Command runs the same again; for the result.
	Note    func(string)  // Note takes a line for each event; may be nil.
}

// model is the CPU that QEMU emulates fastest, with AES, since TLS chooses a cipher by it.
const model = "qemu64,+ssse3,+sse4.1,+sse4.2,+popcnt,+aes,+pclmulqdq"

// defaults fills in defaults.
func (c *Config) defaults() {
	setDefault(&c.Clients, 100_000)
	setDefault(&c.Scenario, "growth")
	setDefault(&c.Memory, 2<<30+int64(c.Clients)*40<<10)
	setDefault(&c.Cores, 2)
	setDefault(&c.Accel, "tcg")
	setDefault(&c.Limit, 28*time.Minute)
	if c.Accel == "kvm" {
		setDefault(&c.CPU, "host")
	}
	setDefault(&c.CPU, model)
	if c.Note == nil {
		c.Note = func(string) {}
	}
}

func setDefault[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

// rest is the time that a guest needs besides its phases: to boot, to start and stop the server,
// and to send the results.
const rest = 2 * time.Minute

// Run prepares the accounts, boots the guest, and returns what it showed. It ends within the Limit.
// result.json, report.html, the console and the server's log are in cfg.Out then. With an error
// there may be a result nevertheless.
//
// Its steps: it finds the tools; it applies the overrides and checks the memory; it builds canto
// and canto-bench for the guest; it makes the accounts on the host; it fits the scenario into the
// time that is left; it boots the guest with all these files; it reads the result that the guest
// has sent.
func Run(ctx context.Context, cfg Config) (*Result, error) {
	cfg.defaults()
	began := time.Now()
	at, err := tools(cfg.Kernel)
	if err != nil {
		return nil, err
	}
	sc, err := bench.Find(cfg.Scenario)
	if err != nil {
		return nil, err
	}
	if err := sc.Override(bench.Overrides{Clients: cfg.Clients, TLS: cfg.TLS,
		Mechanism: cfg.Mechanism}); err != nil {
		return nil, err
	}
	s := &Result{Date: began.UTC().Truncate(time.Second), Command: cfg.Command, Host: sampler.Machine(),
		Wanted: sc.Clients.Count, TLS: sc.Clients.TLS, Shake: sc.Clients.KeyExchange,
		Guest: Guest{Accel: cfg.Accel, CPU: cfg.CPU, Cores: cfg.Cores, Procs: max(1, cfg.Cores/2),
			Memory: cfg.Memory, Emulator: version(ctx, at["qemu-system-x86_64"])}}
	if free := available(); free > 0 && cfg.Memory > free {
		return nil, fmt.Errorf("the guest would have %d MiB, and %d MiB are free here: end what uses them, "+
			"or log in fewer clients", cfg.Memory>>20, free>>20)
	}
	if err := os.MkdirAll(cfg.Out, 0o755); err != nil {
		return nil, fmt.Errorf("the results can't be written: %w", err)
	}
	dir, err := os.MkdirTemp("", "canto-bench-vm")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)

	cfg.Note("building the server and the load client for the guest")
	static := []string{"CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64", "GOAMD64=v1"}
	canto, load := filepath.Join(dir, "canto"), filepath.Join(dir, "canto-bench")
	for program, pkg := range map[string]string{canto: "canto/cmd/canto", load: "canto/cmd/canto-bench"} {
		if err := target.Compile(ctx, "", program, pkg, static...); err != nil {
			return nil, err
		}
	}
	s.Commit = target.Head(ctx, "")
	cfg.Note(fmt.Sprintf("making %d accounts", sc.Accounts()))
	home := filepath.Join(dir, "home")
	pctx, cancel := context.WithTimeout(ctx, cfg.Limit/2)
	defer cancel()
	if err := servers.Prepare(pctx, servers.Config{Kind: "canto", Program: canto,
		Dir: filepath.Join(home, "server"), Accounts: servers.Accounts{N: sc.Accounts()}}); err != nil {
		return nil, err
	}
	s.Prepared = time.Since(began).Seconds()

	left := cfg.Limit - time.Since(began)
	if err := fit(sc, left-rest); err != nil {
		return nil, err
	}
	scenario := filepath.Join(dir, sc.Name+".toml")
	if err := os.WriteFile(scenario, []byte(sc.Source()), 0o644); err != nil {
		return nil, err
	}
	g := &guest{at: at, dir: dir, memory: cfg.Memory, cores: cfg.Cores, cpu: cfg.CPU, accel: cfg.Accel,
		limit: left, note: cfg.Note,
		files: map[string]string{canto: "bin/canto", load: "bin/canto-bench", home: "bench/home",
			scenario: "bench/scenario.toml"},
		run: script(left-rest/2, s.Guest.Procs)}
	cpuinfo, _ := os.ReadFile("/proc/cpuinfo")
	g.tsc = tscSpeed(string(cpuinfo))
	for _, old := range []string{"result.json", "report.html"} { // of an earlier run
		os.Remove(filepath.Join(cfg.Out, old))
	}
	cfg.Note("starting the guest; its times are emulated")
	t, err := g.boot(ctx, cfg.Out)
	s.Seconds = time.Since(began).Seconds()
	if t == nil {
		return nil, err
	}
	r, e := result.Load(filepath.Join(cfg.Out, "result.json"))
	if err == nil && e != nil {
		err = fmt.Errorf("the guest's run failed: its last line: %q; console.log has the others", t.Last)
	}
	if err != nil {
		s.Partial, s.Bound = err.Error(), t.Bound
	} else {
		s.summarize(r)
	}
	s.host(t)
	if s.Partial == "" && s.Bound < s.Wanted {
		s.Partial = fmt.Sprintf("%d sessions were never bound", s.Wanted-s.Bound)
	}
	return s, err
}

// fit gives the first ramp of all clients the time that the phases with a length leave, less a part
// for the smaller ramps.
func fit(sc *bench.Scenario, left time.Duration) error {
	var main *bench.Phase
	for i := range sc.Phases {
		p := &sc.Phases[i]
		if p.Kind != bench.Ramp {
			left -= time.Duration(p.Length)
		} else if main == nil && len(p.Group) == len(sc.Groups) {
			main = p
		}
	}
	if main == nil {
		return nil
	}
	if left < 10*time.Second {
		return errors.New("the limit leaves no time to log in: give it more")
	}
	main.Length = bench.Span(left * 22 / 25)
	return sc.Override(bench.Overrides{Rates: 1}) // so that its source says so
}

// script is what the guest runs. Server and client get half of the cores each: in emulation,
// threads that spin for each other cost as much again.
func script(limit time.Duration, procs int) string {
	return fmt.Sprintf(`export GOMAXPROCS=%d
echo "guest: Linux $(uname -r), $(nproc) cores, $(ulimit -n) open files, \
$(awk '/^MemAvailable/ {print int($2/1024)}' /proc/meminfo) MiB free, \
clock $(cat /sys/devices/system/clocksource/clocksource0/current_clocksource)"
canto check limits --config /bench/home/server/canto.toml --data /bench/home/server/data >limits.txt 2>&1
canto-bench run /bench/scenario.toml --peer canto --program /bin/canto --dir /bench/home \
	--every 5s --limit %ds --out /results 2>&1
status=$?
cp /bench/home/server.log server.log
exit $status
`, procs, int(limit.Seconds()))
}

// version is the first line that an emulator prints about itself.
func version(ctx context.Context, program string) string {
	out, _ := exec.CommandContext(ctx, program, "--version").Output()
	line, _, _ := strings.Cut(string(out), "\n")
	return strings.TrimSpace(strings.Replace(line, "emulator version ", "", 1))
}

// available is the memory that is available on this host, in bytes; 0: unknown.
func available() int64 {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(b), "\nMemAvailable:")
	f := strings.Fields(rest)
	if len(f) == 0 {
		return 0
	}
	n, _ := strconv.ParseInt(f[0], 10, 64)
	return n << 10
}
