package vm

import (
	"archive/tar"
	"bufio"
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"canto/bench/sampler"
)

//go:embed init.sh
var initScript []byte

// A need is a program or file that a guest is made of, and its package in Debian.
type need struct{ program, pkg string }

var needs = []need{{"qemu-system-x86_64", "qemu-system-x86"}, {"busybox", "busybox-static"}, {"cpio", "cpio"}}

// tools finds the programs and the kernel. The error says what to install.
func tools(kernel string) (at map[string]string, err error) {
	at = map[string]string{}
	var missing []string
	for _, n := range needs {
		if at[n.program], err = exec.LookPath(n.program); err != nil {
			missing = append(missing, n.pkg)
		}
	}
	if kernel == "" {
		kernel = newest("/boot")
	}
	if _, err := os.Stat(kernel); err != nil {
		missing = append(missing, "linux-image-cloud-amd64")
	}
	at["kernel"] = kernel
	if len(missing) > 0 {
		return nil, fmt.Errorf("the virtual machine needs packages: apt install %s", strings.Join(missing, " "))
	}
	return at, nil
}

// newest is the newest of the kernels for virtual machines in a folder; "": there is none.
func newest(dir string) string {
	all, _ := filepath.Glob(filepath.Join(dir, "vmlinuz-*-cloud-amd64"))
	if len(all) == 0 {
		return ""
	}
	return slices.MaxFunc(all, func(a, b string) int { return slices.Compare(numbers(a), numbers(b)) })
}

// numbers are those in a name: 6.1.0-56 is before 6.10.0-1.
func numbers(s string) (n []int) {
	for _, f := range strings.FieldsFunc(s, func(r rune) bool { return r < '0' || r > '9' }) {
		v, _ := strconv.Atoi(f)
		n = append(n, v)
	}
	return n
}

// A guest is a machine that boots from memory, runs one command, and sends back the folder that the
// command ran in.
type guest struct {
	at     map[string]string // tools
	dir    string            // to work in
	memory int64             // bytes
	cores  int
	cpu    string
	accel  string
	tsc    int // kHz of the host's, which is the guest's too; 0: not known
	limit  time.Duration
	run    string            // a shell script
	files  map[string]string // file or folder of ours -> path in the guest
	note   func(line string) // each line of the console; may be nil
}

// A trace is what a guest has shown while it ran.
type trace struct {
	Seconds float64
	Boot    float64 // seconds until its first line
	CPU     float64 // that the emulator used
	Peak    int64   // bytes, of the emulator
	Phases  []spent // of the scenario
	Last    string  // line of the console
	Bound   int     // most sessions that a line told of
}

// spent is what a phase cost the host.
type spent struct {
	Name string
	From float64 // seconds since the guest was started
	CPU  float64 // of the emulator since then, when it began
}

// initrd packs the guest's files into an initial RAM disk.
func (g *guest) initrd(ctx context.Context) (string, error) {
	root := filepath.Join(g.dir, "root")
	for _, d := range []string{"bin", "bench"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			return "", err
		}
	}
	put := func(name string, b []byte) error { return os.WriteFile(filepath.Join(root, name), b, 0o755) }
	if err := errors.Join(put("init", initScript), put("bench/run", []byte(g.run))); err != nil {
		return "", err
	}
	files := map[string]string{g.at["busybox"]: "bin/busybox"}
	for from, to := range g.files {
		files[from] = to
	}
	for from, to := range files {
		to = filepath.Join(root, to)
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return "", err
		}
		if out, err := exec.CommandContext(ctx, "cp", "-a", "-L", from, to).CombinedOutput(); err != nil {
			return "", fmt.Errorf("%s can't be copied: %s", from, bytes.TrimSpace(out))
		}
	}
	name := filepath.Join(g.dir, "initrd")
	pack := exec.CommandContext(ctx, "sh", "-c",
		`find . -print0 | "$0" --null -o -H newc -R 0:0 --quiet >"$1"`, g.at["cpio"], name)
	pack.Dir = root
	if out, err := pack.CombinedOutput(); err != nil {
		return "", fmt.Errorf("the guest's files can't be packed: %v %s", err, bytes.TrimSpace(out))
	}
	return name, os.RemoveAll(root)
}

// args are the emulator's arguments.
func (g *guest) args(initrd, results string) []string {
	line := "console=ttyS0 quiet panic=-1 mitigations=off"
	accel := "tcg,thread=multi,tb-size=512"
	switch {
	case g.accel == "kvm":
		accel = "kvm"
	case g.tsc > 0:
		line += fmt.Sprintf(" clocksource=tsc tsc=reliable tsc_early_khz=%d", g.tsc)
	default:
		// Measured at boot on a busy host, the TSC's speed is wrong, and with it all times. Each look at the HPET
		// is an exit to the emulator, and a lock.
		line += " clocksource=hpet"
	}
	return []string{"-M", "pc", "-accel", accel, "-cpu", g.cpu, "-smp", strconv.Itoa(g.cores), "-m",
		strconv.FormatInt(g.memory>>20, 10),
		"-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-monitor", "none", "-nic", "none",
		"-serial", "stdio", "-serial", "file:" + results, "-kernel", g.at["kernel"], "-initrd", initrd,
		"-append", line}
}

// tscSpeed is the speed of the processor's time-stamp counter in kHz, read from the text of
// /proc/cpuinfo; 0: unknown. Only in virtual machines is "cpu MHz" that of the counter.
func tscSpeed(cpuinfo string) int {
	var mhz float64
	known := false
	for line := range strings.Lines(cpuinfo) {
		k, v, _ := strings.Cut(line, ":")
		switch strings.TrimSpace(k) {
		case "cpu MHz":
			mhz, _ = strconv.ParseFloat(strings.TrimSpace(v), 64)
		case "flags":
			f := strings.Fields(v)
			known = slices.Contains(f, "tsc_known_freq") && slices.Contains(f, "constant_tsc")
		}
	}
	if !known {
		return 0
	}
	return int(mhz * 1000)
}

// errLimit is in the error about a guest that was stopped by the limit.
var errLimit = errors.New("the limit was over")

// boot runs the guest to its end, and unpacks its results into out. With an error there may be a
// trace and results nevertheless.
//
// Its steps: it packs the files; it starts the emulator, whose console it reads line by line; it
// notes boot, phases and sessions from the lines, with the CPU that the emulator has used; it stops
// the guest at the limit; it unpacks the results.
func (g *guest) boot(ctx context.Context, out string) (*trace, error) {
	initrd, err := g.initrd(ctx)
	if err != nil {
		return nil, err
	}
	console, err := os.Create(filepath.Join(out, "console.log"))
	if err != nil {
		return nil, err
	}
	defer console.Close()
	results := filepath.Join(g.dir, "results")
	ctx, cancel := context.WithTimeoutCause(ctx, g.limit, errLimit)
	defer cancel()
	began := time.Now()
	t := &trace{}
	cmd := exec.CommandContext(ctx, g.at["qemu-system-x86_64"], g.args(initrd, results)...)
	cmd.SysProcAttr = killWithParent()
	cmd.WaitDelay = 5 * time.Second
	r, w := io.Pipe()
	cmd.Stdout, cmd.Stderr = w, w
	started := make(chan error)
	ended := make(chan error, 1)
	go func() {
		thread() // the emulator ends with the thread that starts it
		err := cmd.Start()
		started <- err
		if err == nil {
			ended <- cmd.Wait()
			w.Close()
		}
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	var mu sync.Mutex
	used := func() float64 { // 0 when it has gone
		mu.Lock()
		defer mu.Unlock()
		p, err := sampler.Open(cmd.Process.Pid)
		if err != nil {
			return t.CPU
		}
		u, err := p.Usage()
		if err == nil {
			t.CPU, t.Peak = u.CPU, max(t.Peak, u.RSS)
		}
		return t.CPU
	}
	watch := time.NewTicker(time.Second)
	defer watch.Stop()
	lines := make(chan string)
	go func() {
		sc := bufio.NewScanner(r)
		for sc.Scan() {
			lines <- strings.TrimRight(sc.Text(), "\r")
		}
		io.Copy(io.Discard, r)
		close(lines)
	}()
	for open := true; open; {
		select {
		case <-watch.C:
			used()
		case line, ok := <-lines:
			if open = ok; !ok {
				break
			}
			fmt.Fprintln(console, line)
			if strings.TrimSpace(line) != "" {
				t.Last = line
			}
			if t.Boot == 0 {
				t.Boot = time.Since(began).Seconds()
			}
			name, bound := progressOf(line)
			t.Bound = max(t.Bound, bound)
			if name != "" && (len(t.Phases) == 0 || t.Phases[len(t.Phases)-1].Name != name) {
				t.Phases = append(t.Phases, spent{name, time.Since(began).Seconds(), used()})
			}
			if g.note != nil {
				g.note(line)
			}
		}
	}
	err = <-ended
	t.Seconds = time.Since(began).Seconds()
	if st := cmd.ProcessState; st != nil {
		t.CPU = (st.UserTime() + st.SystemTime()).Seconds()
	}
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	if e := unpack(results, out); e != nil {
		return t, fmt.Errorf("the guest left no results: %w (its last line: %q; console.log has the others)",
			cmp.Or(err, e), t.Last)
	}
	return t, nil
}

// progress is a line of canto-bench's live view: "1:02 login3 6/10 812 of 90,000 sessions bound
// 1,812 sessions …".
var progress = regexp.MustCompile(`^\S+  (\S+) \d+/\d+  .*?  ([0-9,]+) sessions`)

// progressOf reads the phase and the number of bound sessions off a line of canto-bench's live
// view; "" if the line has none.
func progressOf(line string) (phase string, bound int) {
	m := progress.FindStringSubmatch(line)
	if m == nil {
		return "", 0
	}
	bound, _ = strconv.Atoi(strings.ReplaceAll(m[2], ",", ""))
	return m[1], bound
}

// maxResults bounds the size of the results that a guest may send.
const maxResults = 1 << 30

// unpack unpacks the files of an archive, without folders, into a folder.
func unpack(name, dir string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return fmt.Errorf("they did not arrive: %w", err)
	}
	r := tar.NewReader(io.LimitReader(z, maxResults))
	for {
		h, err := r.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("they did not arrive in full: %w", err)
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		to, err := os.Create(filepath.Join(dir, filepath.Base(h.Name)))
		if err != nil {
			return err
		}
		_, err = io.Copy(to, r)
		if err := errors.Join(err, to.Close()); err != nil {
			return err
		}
	}
}
