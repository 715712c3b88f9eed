// Package sampler samples servers and processes from outside: what the kernel says about a process
// (process.go, slabs.go) and the machine (machine.go), and what a server shows in its Prometheus
// metrics and profiles (metrics.go). It keeps no history; the package bench does.
package sampler

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"canto/bench/result"
)

// ErrGone is in the errors about a process that has ended. Another process may have its pid now.
var ErrGone = errors.New("the process has ended: start it again, or name the pid that it has now")

// clockTicks is how many ticks /proc counts a second as: USER_HZ, which is 100 on all Linux.
const clockTicks = 100

// A Process samples one process, or several that are one server. It is for one goroutine at a time.
type Process struct {
	root  string // /proc
	pids  []int
	tree  bool
	began map[int]string // when a pid's process was started, so that a pid that is used again is noticed
	// Usage of ended processes of the tree, and of ended threads, when they were sampled last, so that sums
	// never shrink.
	last    map[int]cpuTicks
	ended   cpuTicks
	threads map[int]switches
	endedSw switches
	many    bool // descriptors, and the kernel does not tell how many
}

// cpuTicks is the CPU time of a process, in ticks.
type cpuTicks struct{ user, system int64 }

// switches are the context switches of a thread.
type switches struct{ voluntary, involuntary int64 }

// Open returns a sampler of the processes with these pids, which must exist.
func Open(pids ...int) (*Process, error) { return open("/proc", false, pids) }

// OpenTree is Open with all descendants of the processes, as there are at each sample.
func OpenTree(pids ...int) (*Process, error) { return open("/proc", true, pids) }

// Self is Open of this process.
func Self() (*Process, error) { return Open(os.Getpid()) }

func open(root string, tree bool, pids []int) (*Process, error) {
	if len(pids) == 0 {
		return nil, errors.New("no process to sample: name a pid")
	}
	p := &Process{root: root, pids: slices.Clone(pids), tree: tree, began: map[int]string{},
		last: map[int]cpuTicks{}, threads: map[int]switches{}}
	for _, pid := range pids {
		st, err := p.stat(pid)
		if err != nil {
			return nil, err
		}
		p.began[pid] = st.began
	}
	return p, nil
}

// PIDs are the processes that are sampled; those of a tree as of the last call of Usage.
func (p *Process) PIDs() []int {
	if len(p.last) == 0 {
		return slices.Clone(p.pids)
	}
	var all []int
	for pid := range p.last {
		all = append(all, pid)
	}
	slices.Sort(all)
	return all
}

// A stat has the fields of /proc/PID/stat that are used.
type stat struct {
	parent  int
	used    cpuTicks
	threads int
	began   string
}

func (p *Process) path(pid int, name string) string {
	return filepath.Join(p.root, strconv.Itoa(pid), name)
}

func (p *Process) stat(pid int) (s stat, err error) {
	b, err := os.ReadFile(p.path(pid, "stat"))
	if err != nil {
		return s, p.exited(pid, err)
	}
	// The name in parentheses may hold blanks and parentheses.
	i := bytes.LastIndexByte(b, ')')
	f := strings.Fields(string(b[i+1:]))
	if i < 0 || len(f) < 20 {
		return s, fmt.Errorf("%s has a form that is not known: is this Linux?", p.path(pid, "stat"))
	}
	if f[0] == "Z" || f[0] == "X" {
		return s, p.exited(pid, nil)
	}
	n := func(i int) int64 {
		v, e := strconv.ParseInt(f[i], 10, 64)
		if e != nil && err == nil {
			err = fmt.Errorf("%s has a form that is not known: is this Linux?", p.path(pid, "stat"))
		}
		return v
	}
	s = stat{parent: int(n(1)), used: cpuTicks{n(11), n(12)}, threads: int(n(17)), began: f[19]}
	if was, ok := p.began[pid]; ok && was != s.began {
		return s, p.exited(pid, nil)
	}
	return s, err
}

// exited is err, or ErrGone with the pid if the process has ended.
func (p *Process) exited(pid int, err error) error {
	// A process that ends while it is read gives ESRCH, which is not ErrNotExist.
	if err == nil || errors.Is(err, fs.ErrNotExist) || strings.Contains(err.Error(), "no such process") {
		return fmt.Errorf("process %d: %w", pid, ErrGone)
	}
	return fmt.Errorf("process %d can't be sampled: %w: run this as the same user", pid, err)
}

// Usage returns what the processes have used since they began. It samples each live process and its
// threads; it then adds what processes and threads had used that have ended since the last call, so that
// sums do not fall. A pid or thread id with less than before belongs to another process. The number of
// descriptors is 0 if one process can't be asked. The error says that a process that was named has ended.
// It must not be called by several goroutines at once.
func (p *Process) Usage() (u result.Usage, err error) {
	now := map[int]cpuTicks{}
	seen := map[int]switches{}
	fds := true
	for _, pid := range p.livePIDs() {
		s, err := p.stat(pid)
		if err != nil {
			if slices.Contains(p.pids, pid) {
				return u, err
			}
			continue // a process of the tree that has just ended
		}
		now[pid] = s.used
		u.RSS += p.rss(pid)
		u.Threads += s.threads
		n, ok := p.fds(pid)
		fds = fds && ok
		u.FDs += n
		p.switches(pid, seen)
	}
	if !fds {
		u.FDs = 0 // a part of the sum would mislead
	}
	for pid, was := range p.last {
		// A process that has used less than before is another one with the same pid.
		if is, ok := now[pid]; !ok || is.user < was.user || is.system < was.system {
			p.ended.user += was.user
			p.ended.system += was.system
		}
	}
	for tid, was := range p.threads {
		if is, ok := seen[tid]; !ok || is.voluntary < was.voluntary || is.involuntary < was.involuntary {
			p.endedSw.voluntary += was.voluntary
			p.endedSw.involuntary += was.involuntary
		}
	}
	p.last, p.threads = now, seen
	sum, sw := p.ended, p.endedSw
	for _, s := range now {
		sum.user += s.user
		sum.system += s.system
	}
	for _, s := range seen {
		sw.voluntary += s.voluntary
		sw.involuntary += s.involuntary
	}
	u.User = float64(sum.user) / clockTicks
	u.CPU = float64(sum.user+sum.system) / clockTicks
	u.Voluntary, u.Involuntary = sw.voluntary, sw.involuntary
	u.Sockets = sockets(p.root)
	u.Slab = slab(p.root)
	return u, nil
}

// livePIDs are the pids to sample.
func (p *Process) livePIDs() []int {
	if !p.tree {
		return p.pids
	}
	dir, err := os.ReadDir(p.root)
	if err != nil {
		return p.pids
	}
	children := map[int][]int{}
	for _, d := range dir {
		pid, err := strconv.Atoi(d.Name())
		if err != nil {
			continue
		}
		if s, err := p.stat(pid); err == nil {
			children[s.parent] = append(children[s.parent], pid)
		}
	}
	all := slices.Clone(p.pids)
	for i := 0; i < len(all); i++ {
		for _, c := range children[all[i]] {
			if !slices.Contains(all, c) {
				all = append(all, c)
			}
		}
	}
	return all
}

// rss is from statm: the number in stat may be off by some hundred pages for each core.
func (p *Process) rss(pid int) int64 {
	b, err := os.ReadFile(p.path(pid, "statm"))
	if f := strings.Fields(string(b)); err == nil && len(f) > 1 {
		pages, _ := strconv.ParseInt(f[1], 10, 64)
		return pages * int64(os.Getpagesize())
	}
	return 0
}

// fds counts open descriptors; not ok: it is not permitted.
func (p *Process) fds(pid int) (n int, ok bool) {
	if p.many {
		return 0, false
	}
	d, err := os.Open(p.path(pid, "fd"))
	if err != nil {
		return 0, false
	}
	defer d.Close()
	if pid == os.Getpid() {
		n-- // d itself
	}
	// From Linux 6.2 on the folder's size is the number, which spares reading 50,000 entries a second.
	if st, err := d.Stat(); err == nil && st.Size() > 0 && p.root == "/proc" {
		return n + int(st.Size()), true
	}
	names, err := d.Readdirnames(maxEntries)
	if err == io.EOF {
		err = nil
	}
	p.many = p.many || len(names) == maxEntries
	return n + len(names), err == nil && !p.many
}

// maxEntries is how many descriptors are counted one by one: each leaves an inode and a name in the kernel's
// memory, and takes its time, once a second.
const maxEntries = 1000

// switches adds the context switches of each thread.
func (p *Process) switches(pid int, seen map[int]switches) {
	d, err := os.Open(p.path(pid, "task"))
	if err != nil {
		return
	}
	defer d.Close()
	names, _ := d.Readdirnames(-1)
	for _, name := range names {
		b, err := os.ReadFile(p.path(pid, "task/"+name+"/status"))
		tid, err2 := strconv.Atoi(name)
		if err != nil || err2 != nil {
			continue // it has ended just now
		}
		seen[tid] = switches{field(b, "\nvoluntary_ctxt_switches:"), field(b, "\nnonvoluntary_ctxt_switches:")}
	}
}

// field is the number after a name, 0 if there is none.
func field(b []byte, name string) int64 {
	_, rest, _ := bytes.Cut(b, []byte(name))
	f := bytes.Fields(rest[:min(len(rest), 64)])
	if len(f) == 0 {
		return 0
	}
	n, _ := strconv.ParseInt(string(f[0]), 10, 64)
	return n
}

// PSS is the processes' proportional set size in bytes: their memory, with what they share with others shared
// out. The kernel walks all pages for it (about 10 ms a GiB): not for each sample.
func (p *Process) PSS() (sum int64, err error) {
	for _, pid := range p.livePIDs() {
		b, err := os.ReadFile(p.path(pid, "smaps_rollup"))
		if err != nil {
			err = p.exited(pid, err)
			if errors.Is(err, ErrGone) && !slices.Contains(p.pids, pid) {
				continue
			}
			return 0, err
		}
		sum += field(b, "\nPss:") << 10
	}
	return sum, nil
}

// sockets is the memory of all TCP sockets of the machine in bytes. The kernel counts it in batches, so it is
// off by up to 1 MiB a core.
func sockets(root string) int64 {
	b, err := os.ReadFile(filepath.Join(root, "net/sockstat"))
	if err != nil {
		return 0
	}
	_, tcp, _ := bytes.Cut(b, []byte("\nTCP:"))
	tcp, _, _ = bytes.Cut(tcp, []byte("\n"))
	return field(tcp, " mem ") * int64(os.Getpagesize())
}
