package main

import (
	"cmp"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
)

// A number of sessions: "2500", "100k", "1M".
type sessionCount int

// UnmarshalText reads a number.
func (n *sessionCount) UnmarshalText(b []byte) error {
	t, unit := string(b), 1
	for suffix, u := range map[string]int{"k": 1e3, "M": 1e6} {
		if rest, ok := strings.CutSuffix(t, suffix); ok {
			t, unit = rest, u
		}
	}
	v, err := strconv.Atoi(t)
	if err != nil || v < 1 || v > 50_000_000/unit {
		return fmt.Errorf("%q is no number of sessions: write it like 2500, 100k or 1M, up to 50M", b)
	}
	*n = sessionCount(v * unit)
	return nil
}

func (n sessionCount) String() string {
	switch {
	case n >= 1e6 && n%1e6 == 0:
		return strconv.Itoa(int(n/1e6)) + "M"
	case n >= 1e3 && n%1e3 == 0:
		return strconv.Itoa(int(n/1e3)) + "k"
	}
	return strconv.Itoa(int(n))
}

// A machine is what limits how many sessions there may be.
type machine struct {
	root        fs.FS  // "/"
	descriptors uint64 // what this process is granted
	page        int    // bytes
	memoryLimit int    // bytes: memory in the configuration; 0: all there is
}

// What a session costs, with room to spare: the server's own memory for an idle one under TLS with a roster
// (docs/performance.md), and the kernel's for its socket (socket, inode, file, dentry, poller's item, tracked
// connection), which a cgroup is charged for as well.
const (
	sessionMemory = 8 << 10
	socketMemory  = 4 << 10
	baseMemory    = storeMemory + 128<<20
)

// A knob is one limit: what it is now, and the least (or, where most is set, the most) for n sessions.
type knob struct {
	name    string
	current []int // none: this machine has no such limit
	// want is what it is to be for n sessions, as many values as now has; a 0 stands for any.
	want       func(n int) []int
	isMax      bool
	inUnitFile bool // it stands in the unit file, not among the sysctls
	note       string
}

func (k *knob) ok(n int) bool {
	for i, w := range k.want(n) {
		if i < len(k.current) && w > 0 && (k.current[i] < w && !k.isMax || k.current[i] > w && k.isMax) {
			return false
		}
	}
	return true
}

// value is what is written for n sessions: what is better than it must be stays.
func (k *knob) value(n int) string {
	var s []string
	for i, w := range k.want(n) {
		if w == 0 || (k.current[i] > w) != k.isMax {
			w = k.current[i]
		}
		s = append(s, strconv.Itoa(w))
	}
	return strings.Join(s, " ")
}

// bySessions is a for up to 10,000 sessions, b for up to 100,000, c for more.
func bySessions(n, a, b, c int) []int {
	switch {
	case n <= 10_000:
		return []int{a}
	case n <= 100_000:
		return []int{b}
	}
	return []int{c}
}

func (m *machine) knobs() []knob {
	descriptors := func(n int) []int { return []int{n + fdStore + fdOutgoing + fdHTTP + fdRest} }
	backlog := func(n int) []int { return bySessions(n, 4096, 16384, 65536) }
	// Pages of buffers for all sockets together. An idle one has none, one that something has just come to or
	// gone from holds one or two until the kernel wants them back: under the first value it never does, over the
	// second it does, over the third it lets connections wait.
	pages := func(n int) []int {
		p := n * 4096 / m.page
		return []int{p * 3 / 4, p, 2 * p}
	}
	// The most that one socket may buffer: a peer that reads nothing holds it beside limits.outbox.
	buffer := func(n int) []int { return append([]int{0, 0}, bySessions(n, 32<<20, 6<<20, 1<<20)...) }
	file := m.readInts("proc/sys/fs/file-nr") // in use, unused, most
	if len(file) == 3 {
		file = file[2:]
	}
	return []knob{
		{name: "LimitNOFILE", current: []int{int(min(m.descriptors, 1<<40))}, want: descriptors, inUnitFile: true,
			note: "a descriptor for each connection, and those of the store"},
		{name: "fs.nr_open", want: descriptors, note: "LimitNOFILE can't be set higher"},
		{name: "fs.file-max", current: file, want: func(n int) []int {
			return []int{n + n/10 + 65536}
		}, note: "files of all processes"},
		{name: "net.core.somaxconn", want: backlog, note: "connections that wait to be accepted when all " +
			"come back at once"},
		{name: "net.ipv4.tcp_max_syn_backlog", want: backlog, note: "the same, in their handshake"},
		{name: "net.core.netdev_max_backlog", want: func(n int) []int {
			return bySessions(n, 1000, 5000, 16384)
		}, note: "packets that wait for a CPU"},
		{name: "net.ipv4.tcp_mem", want: pages, note: "pages of buffers for all sockets"},
		{name: "net.ipv4.tcp_rmem", want: buffer, isMax: true, note: "what one peer may have the kernel keep"},
		{name: "net.ipv4.tcp_wmem", want: buffer, isMax: true,
			note: "what one peer that reads nothing may have the kernel keep"},
		{name: "net.netfilter.nf_conntrack_max", want: func(n int) []int {
			return []int{n + n/4 + 8192}
		}, note: "connections that a firewall on this machine tracks; others are dropped"},
		{name: "vm.overcommit_memory", want: func(int) []int {
			return []int{1}
		}, isMax: true, note: "2 refuses memory that is there: 0 or 1"},
	}
}

// check says for each target what is enough and what is to be written where. say is asked about target,
// or else the configured number of connections, or else 10,000.
func (m *machine) check(out io.Writer, configured, target int, say func(bool, string, ...any)) {
	switch {
	case target == 0:
		sayConnections(m.descriptors, configured, say)
	case configured > 0 && configured < target:
		say(false, "limits: limits.connections = %d in the configuration is less than %s", configured,
			sessionCount(target))
	default:
		room := connectionCap(m.descriptors, 0)
		say(room >= target, "limits: %d descriptors are %d connections; %s sessions want LimitNOFILE=%d",
			m.descriptors, room, sessionCount(target), target+fdStore+fdOutgoing+fdHTTP+fdRest)
	}
	goal := cmp.Or(target, configured, 10_000)
	targets := []int{10_000, 100_000, 1_000_000}
	if !slices.Contains(targets, goal) {
		targets = append(targets, goal)
		slices.Sort(targets)
	}
	var knobs []knob
	for _, k := range m.knobs() {
		if k.current == nil {
			k.current = m.readInts(path.Join("proc/sys", strings.ReplaceAll(k.name, ".", "/")))
		}
		if len(k.current) > 0 && len(k.current) == len(k.want(goal)) {
			knobs = append(knobs, k)
		}
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprint(w, "\n\tnow")
	for _, n := range targets {
		fmt.Fprintf(w, "\tfor %s", sessionCount(n))
	}
	mark := func(ok bool, need string) {
		if ok {
			need = "ok"
		}
		fmt.Fprintf(w, "\t%s", need)
	}
	memory, where := m.memory()
	for _, k := range knobs {
		fmt.Fprintf(w, "\n%s\t%s", k.name, strings.Trim(fmt.Sprint(k.current), "[]"))
		for _, n := range targets {
			mark(k.ok(n), k.value(n))
		}
	}
	if memory > 0 {
		fmt.Fprintf(w, "\nmemory (%s)\t%s", where, mebibytes(memory))
		for _, n := range targets {
			mark(memory >= memoryFor(n), mebibytes(memoryFor(n)))
		}
	}
	fmt.Fprintln(w)
	w.Flush()
	for _, n := range targets {
		m.printLines(out, knobs, n)
	}
	if ports := m.readInts("proc/sys/net/ipv4/ip_local_port_range"); len(ports) == 2 {
		n := ports[1] - ports[0] + 1
		fmt.Fprintf(out, "\nA load client here opens %d connections from one address to one port "+
			"(net.ipv4.ip_local_port_range = %d %d); 1024 65535 makes it 64512.\n", n, ports[0], ports[1])
	}
	fmt.Fprintln(out)
	for _, k := range knobs {
		if !k.inUnitFile { // that one is said already
			say(k.ok(goal), "limits: %s for %s sessions: %s", k.name, sessionCount(goal), k.note)
		}
	}
	if memory > 0 {
		say(memory >= memoryFor(goal), "limits: %s sessions want %s of memory, some %d KiB each with the "+
			"kernel's share; %s (%s)", sessionCount(goal), mebibytes(memoryFor(goal)),
			(sessionMemory+socketMemory)>>10,
			mebibytes(memory), where)
	}
}

// printLines prints what is to be written for n sessions, each line as it stands in its file.
func (m *machine) printLines(out io.Writer, knobs []knob, n int) {
	for _, unit := range []bool{true, false} {
		head := "in /etc/sysctl.d/90-canto.conf, and then sysctl --system"
		if unit {
			head = "in [Service] of the unit file"
		}
		for _, k := range knobs {
			if k.inUnitFile != unit || k.ok(n) {
				continue
			}
			if head != "" {
				fmt.Fprintf(out, "\nFor %s sessions, %s:\n", sessionCount(n), head)
				head = ""
			}
			sep := " = "
			if unit {
				sep = "="
			}
			fmt.Fprintf(out, "    %s%s%s\n", k.name, sep, k.value(n))
		}
	}
}

func memoryFor(n int) int { return baseMemory + n*(sessionMemory+socketMemory) }

func mebibytes(n int) string { return fmt.Sprintf("%d MiB", n>>20) }

// memory is how much there is to be had, and what says so: the machine, a cgroup around this process, or the
// configuration.
func (m *machine) memory() (bytes int, where string) {
	text := m.readText("proc/meminfo")
	if _, rest, ok := strings.Cut(text, "MemAvailable:"); ok {
		fmt.Sscan(rest, &bytes)
		bytes, where = bytes<<10, "available"
	}
	// 0::/system.slice/canto.service, or 4:memory:/...
	for _, line := range strings.Split(m.readText("proc/self/cgroup"), "\n") {
		f := strings.SplitN(line, ":", 3)
		dir, file := "sys/fs/cgroup", "memory.max"
		switch {
		case len(f) < 3:
			continue
		case slices.Contains(strings.Split(f[1], ","), "memory"):
			dir, file = "sys/fs/cgroup/memory", "memory.limit_in_bytes"
		case f[1] != "":
			continue
		}
		for at := path.Join("/", f[2]); ; at = path.Dir(at) {
			if v := m.readInts(path.Join(dir, at, file)); len(v) == 1 && (v[0] < bytes || bytes == 0) {
				bytes, where = v[0], file
			}
			if at == "/" {
				break
			}
		}
	}
	if m.memoryLimit > 0 && (m.memoryLimit < bytes || bytes == 0) {
		return m.memoryLimit, "memory in the configuration"
	}
	return bytes, where
}

func (m *machine) readText(name string) string {
	b, _ := fs.ReadFile(m.root, name)
	return string(b)
}

// readInts are the numbers in a file; nil: it isn't there, or is not of numbers ("max").
func (m *machine) readInts(name string) (v []int) {
	for _, f := range strings.Fields(m.readText(name)) {
		n, err := strconv.ParseUint(f, 10, 64)
		if err != nil {
			return nil
		}
		v = append(v, int(min(n, 1<<62)))
	}
	return v
}

// sayConnections shows how the number of connections comes about.
func sayConnections(limit uint64, configured int, say func(bool, string, ...any)) {
	n := connectionCap(limit, configured)
	sum := fmt.Sprintf("%d descriptors - %d store - %d outgoing - %d http - %d = %d connections",
		limit, fdStore, fdOutgoing, fdHTTP, fdRest, int64(limit)-fdStore-fdOutgoing-fdHTTP-fdRest)
	switch {
	case configured > 0 && n == configured:
		say(true, "limits: %s, of which limits.connections allows %d", sum, n)
	case configured > 0:
		say(false, "limits: %s, not the %d of limits.connections: set LimitNOFILE=%d", sum, configured,
			configured+fdStore+fdOutgoing+fdHTTP+fdRest)
	default:
		say(n >= 10000, "limits: %s; for 100,000 set LimitNOFILE=110000", sum)
	}
}
