package servers

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// A process is a server's process with its children. Any goroutine may use it.
type process struct {
	pid   int
	log   *outputTail
	ready <-chan struct{} // closed at the line that says so; nil: there is none
	done  chan struct{}   // closed when it has ended
	state *os.ProcessState
}

// raiseLimits is a shell script that runs a program with as many descriptors as the machine allows:
// the Go runtime gives children the soft limit that its own process began with.
const raiseLimits = `ulimit -n 4194304 2>/dev/null || ulimit -n 1048576 2>/dev/null || ulimit -n ` +
	`"$(ulimit -Hn)"; exec "$0" "$@"`

// startProcess starts c in dir, in a process group of its own. The process gets SIGKILL if this
// process ends.
func startProcess(c command, dir string, log *outputTail) (*process, error) {
	program, err := exec.LookPath(c.program)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command("/bin/sh", append([]string{"-c", raiseLimits, program}, c.args...)...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), c.env...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = ownGroup()
	cmd.WaitDelay = time.Second // a grandchild may keep the pipe
	p := &process{log: log, done: make(chan struct{})}
	if c.ready != "" {
		p.ready = log.watch(c.ready)
	}
	started := make(chan error)
	go func() {
		// The signal at our end is sent when the thread that started the process ends: keep it.
		runtime.LockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			cmd.Wait()
			p.state = cmd.ProcessState
			close(p.done)
		}
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	p.pid = cmd.Process.Pid
	return p, nil
}

// exitStatus says how it ended. It may be called after done only.
func (p *process) exitStatus() string {
	if p.state == nil {
		return "with an unknown status"
	}
	return p.state.String()
}

// stop asks the process to end, and kills it when ctx ends. It reports whether asking was enough.
func (p *process) stop(ctx context.Context) bool {
	select {
	case <-p.done:
		p.kill()
		return true
	default:
	}
	all := startTimes(processTree(p.pid)) // before it ends: its children would not be found afterwards
	syscall.Kill(p.pid, syscall.SIGTERM)
	asked := true
	select {
	case <-p.done:
	case <-ctx.Done():
		asked = false
	}
	p.killAll(all)
	return asked
}

// kill ends the process with all its children, and returns when none is left.
func (p *process) kill() { p.killAll(startTimes(processTree(p.pid))) }

// killAll ends the process and the children that all has besides it, and returns when none is left. all has
// the start time of each pid, as another process may have got the pid of a child that has ended. A child that
// has left the group, as Erlang's port helper does, ends by itself when its pipe closes; it gets a second for
// that.
func (p *process) killAll(all map[int]string) {
	syscall.Kill(-p.pid, syscall.SIGKILL)
	<-p.done
	for pid, start := range all {
		if pid == p.pid || startTime(pid) != start {
			continue
		}
		if !awaitExit(pid) && startTime(pid) == start {
			syscall.Kill(pid, syscall.SIGKILL)
			awaitExit(pid)
		}
	}
}

// startTimes returns the start time of each of pids.
func startTimes(pids []int) map[int]string {
	all := make(map[int]string)
	for _, pid := range pids {
		all[pid] = startTime(pid)
	}
	return all
}

// startTime is the time at which pid has started, in ticks since the system has, as in /proc/PID/stat; "" if
// there is no such process.
func startTime(pid int) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(f) < 20 {
		return ""
	}
	return f[19] // field 22; the first two stand before f
}

// awaitExit waits up to a second for pid to end.
func awaitExit(pid int) bool {
	for range 100 {
		if !running(pid) {
			return true
		}
		time.Sleep(10 * time.Millisecond)
	}
	return false
}

// running reports whether pid is a process that has not ended.
func running(pid int) bool {
	_, state, ok := parent(pid)
	return ok && state != "Z" && state != "X"
}

// parent reads the parent of pid, and its state, from /proc.
func parent(pid int) (ppid int, state string, ok bool) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, "", false
	}
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:])) // the name before may hold anything
	if len(f) < 2 {
		return 0, "", false
	}
	ppid, err = strconv.Atoi(f[1])
	return ppid, f[0], err == nil
}

// processTree is pid and all processes below it, as far as /proc shows.
func processTree(pid int) []int {
	all := []int{pid}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return all
	}
	children := map[int][]int{}
	for _, e := range entries {
		if c, err := strconv.Atoi(e.Name()); err == nil {
			if pp, _, ok := parent(c); ok {
				children[pp] = append(children[pp], c)
			}
		}
	}
	for i := 0; i < len(all); i++ {
		all = append(all, children[all[i]]...)
	}
	return all
}

// output runs a tool to its end and returns its standard output. The error has its last line. All
// it prints also goes to log.
func output(ctx context.Context, log io.Writer, stdin io.Reader, env []string, program string,
	args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, program, args...)
	var out, errs bytes.Buffer
	cmd.Stdin = stdin
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	both := out.String() + errs.String()
	if log != nil {
		io.WriteString(log, both)
	}
	if ctx.Err() != nil {
		return "", fmt.Errorf("%s was not done: %w", program, ctx.Err())
	}
	if err != nil {
		lines := strings.Split(strings.TrimSpace(both), "\n")
		return "", fmt.Errorf("%s: %w: %s", program, err, cut(lines[len(lines)-1]))
	}
	return out.String(), nil
}

// lastLines is how many lines an error shows.
const lastLines = 5

// lineMax is how much of a line is kept, in bytes.
const lineMax = 400

// An outputTail passes a server's output on, and keeps its last lines. Any goroutine may use it.
type outputTail struct {
	out io.Writer // may be nil

	mu     sync.Mutex // guards the fields below
	part   []byte     // of an unfinished line
	lines  []string
	inUse  bool   // a line complained about a port
	prefix string // of the line that closes ready
	ready  chan struct{}
}

// watch returns a channel that is closed at the first line with the prefix.
func (t *outputTail) watch(prefix string) <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.prefix, t.ready = prefix, make(chan struct{})
	return t.ready
}

func (t *outputTail) reset() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.part, t.lines, t.inUse, t.prefix, t.ready = nil, nil, false, "", nil
}

// Write takes output of a server. It never fails: a server must not end because its log can't be
// written.
func (t *outputTail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.out != nil {
		t.out.Write(b)
	}
	for rest := b; len(rest) > 0; {
		line, after, whole := bytes.Cut(rest, []byte("\n"))
		rest = after
		if len(t.part) < lineMax {
			t.part = append(t.part, line...)
		}
		if whole {
			t.line(string(t.part))
			t.part = t.part[:0]
		}
	}
	return len(b), nil
}

// line handles a whole line.
func (t *outputTail) line(l string) {
	l = strings.TrimSpace(l)
	if l == "" {
		return
	}
	if t.ready != nil && strings.HasPrefix(l, t.prefix) {
		close(t.ready)
		t.ready = nil
	}
	low := strings.ToLower(l)
	for _, s := range []string{"in use", "eaddrinuse", "is taken"} {
		t.inUse = t.inUse || strings.Contains(low, s)
	}
	t.lines = append(t.lines, cut(l))
	if len(t.lines) > lastLines {
		t.lines = t.lines[1:]
	}
}

// portTaken reports whether the server complained that a port is in use.
func (t *outputTail) portTaken() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.inUse
}

// lastOutput is the end of an error: the last lines, in one.
func (t *outputTail) lastOutput() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.lines) == 0 {
		return ""
	}
	return "; it printed last: " + strings.Join(t.lines, " | ")
}

// cut is l without control characters, and not too long.
func cut(l string) string {
	l = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, l)
	if len(l) > lineMax {
		l = strings.ToValidUTF8(l[:lineMax], "") + "..."
	}
	return l
}
