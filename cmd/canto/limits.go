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

// A sessionCount is a number of sessions: "2500", "100k", "1M".
type sessionCount int

// UnmarshalText implements encoding.TextUnmarshaler.
func (n *sessionCount) UnmarshalText(b []byte) error {
	t, unit := string(b), 1
	for suffix, u := range map[string]int{"k": 1e3, "M": 1e6} {
		if rest, ok := strings.CutSuffix(t, suffix); ok {
			t, unit = rest, u
		}
	}
	v, err := strconv.Atoi(t)
	if err != nil || v < 1 || v > 50_000_000/unit {
		return fmt.Errorf("%q is not a number of sessions: write it like 2500, 100k or 1M, up to 50M", b)
	}
	*n = sessionCount(v * unit)
	return nil
}

// String returns the number as UnmarshalText reads it.
func (n sessionCount) String() string {
	switch {
	case n >= 1e6 && n%1e6 == 0:
		return strconv.Itoa(int(n/1e6)) + "M"
	case n >= 1e3 && n%1e3 == 0:
		return strconv.Itoa(int(n/1e3)) + "k"
	}
	return strconv.Itoa(int(n))
}

// A machine is what bounds the number of sessions on this machine.
type machine struct {
	root        fs.FS  // the file system at "/"; tests have their own
	descriptors uint64 // how many this process may open
	page        int    // size of a memory page in bytes
	memoryLimit int    // memory in the configuration, in bytes; 0: no limit
}

// What a session costs in bytes, with a margin. sessionMemory is the server's own memory for an
// idle session with TLS and a roster (docs/performance.md). socketMemory is the operating system's
// for its socket (socket, inode, file, dentry, epoll item, tracked connection); a cgroup is charged
// for it. baseMemory is the rest of the process.
const (
	sessionMemory = 8 << 10
	socketMemory  = 4 << 10
	baseMemory    = storeMemory + 128<<20
)

// A knob is one limit of the operating system: its present values, and those that n sessions need.
type knob struct {
	name    string // of the sysctl, or of the key in the unit file
	current []int  // the present values; none: this machine has no such limit
	// want returns the values for n sessions, as many as current has; 0: any value will do.
	want       func(n int) []int
	isMax      bool   // the values of want are upper bounds, not lower ones
	inUnitFile bool   // it is set in the unit file, not by sysctl
	note       string // what it bounds
}

// ok reports whether the present values suffice for n sessions.
func (k *knob) ok(n int) bool {
	for i, w := range k.want(n) {
		if i < len(k.current) && w > 0 && (k.current[i] < w && !k.isMax || k.current[i] > w && k.isMax) {
			return false
		}
	}
	return true
}

// value returns what to write for n sessions. Present values that are better than necessary stay.
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

// bySessions returns a for up to 10,000 sessions, b for up to 100,000, and c for more.
func bySessions(n, a, b, c int) []int {
	switch {
	case n <= 10_000:
		return []int{a}
	case n <= 100_000:
		return []int{b}
	}
	return []int{c}
}

// knobs returns the limits of the process and the kernel that matter for many connections, in the
// order of the report. It first defines how several of them grow with the number of sessions,
// then reads the files in use, and then lists the limits with the values they need. A limit
// without a current value has it in /proc/sys.
func (m *machine) knobs() []knob {
	descriptors := func(n int) []int { return []int{n + fdStore + fdOutgoing + fdHTTP + fdRest} }
	backlog := func(n int) []int { return bySessions(n, 4096, 16384, 65536) }
	// Pages of buffers for all sockets together. An idle socket has none; one that has just sent or received
	// holds one or two until the system reclaims them. Below the first value it never reclaims, above the
	// second it does, above the third it refuses to allocate.
	pages := func(n int) []int {
		p := n * 4096 / m.page
		return []int{p * 3 / 4, p, 2 * p}
	}
	// The largest buffer of one socket. A peer that reads nothing holds as much, besides limits.outbox.
	buffer := func(n int) []int { return append([]int{0, 0}, bySessions(n, 32<<20, 6<<20, 1<<20)...) }
	file := m.readInts("proc/sys/fs/file-nr") // files in use, unused, and the maximum
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

// check prints which limits suffice for how many sessions, and what to write in which file. It
// calls say for each limit: target is the number of sessions, or else the configured number of
// connections, or else 10,000.
//
//  1. Descriptors.
//  2. A table of all knobs and of memory for 10,000, 100,000, 1,000,000 and the target.
//  3. The lines to write, for each number of sessions.
//  4. The limits of a load client on this machine.
//  5. A call of say for each knob, and for memory.
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
		if !k.inUnitFile { // LimitNOFILE was reported with the descriptors
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

// printLines prints the lines to write for n sessions, each as it stands in its file.
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

// memoryFor returns the memory that n sessions need, in bytes.
func memoryFor(n int) int { return baseMemory + n*(sessionMemory+socketMemory) }

// mebibytes returns n bytes as text.
func mebibytes(n int) string { return fmt.Sprintf("%d MiB", n>>20) }

// memory returns how much memory the server can have, and what bounds it: the memory of the machine
// that is available, a cgroup around this process (version 1 or 2), or the configuration. 0: not
// known.
func (m *machine) memory() (bytes int, where string) {
	text := m.readText("proc/meminfo")
	if _, rest, ok := strings.Cut(text, "MemAvailable:"); ok {
		fmt.Sscan(rest, &bytes)
		bytes, where = bytes<<10, "available"
	}
	// A line is 0::/system.slice/canto.service (version 2) or 4:memory:/... (version 1).
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

// readText returns the text of a file; empty if it can't be read.
func (m *machine) readText(name string) string {
	b, _ := fs.ReadFile(m.root, name)
	return string(b)
}

// readInts returns the numbers in a file; nil if there is no such file, or if it has something else
// ("max").
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

// sayConnections reports how the number of connections results from the number of descriptors.
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
