package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"canto/session/store"
)

// Every connection there may be has a descriptor, and the store, outgoing streams and HTTP keep theirs.
func TestDescriptors(t *testing.T) {
	for _, x := range []struct {
		limit      uint64
		configured int
		want       int
		ok         bool
		says       string
	}{
		{110_000, 0, 108_972, true, "110000 descriptors - 600 store - 200 outgoing - 100 http - 128 = 108972 " +
			"connections"},
		{1 << 20, 5000, 5000, true, "of which limits.connections allows 5000"},
		{4096, 5000, 3068, false, "= 3068 connections, not the 5000 of limits.connections: set LimitNOFILE=6028"},
		{6028, 5000, 5000, true, "= 5000 connections"},
		{4096, 0, 3068, false, "= 3068 connections"},
		{1024, 0, 16, false, "= -4 connections"},
		{1 << 63, 0, 1<<30 - 1028, true, ""},
	} {
		if n := connectionCap(x.limit, x.configured); n != x.want {
			t.Errorf("%d descriptors, %d configured: %d connections, not %d", x.limit, x.configured, n, x.want)
		}
		sayConnections(x.limit, x.configured, func(ok bool, format string, a ...any) {
			if s := fmt.Sprintf(format, a...); ok != x.ok || !strings.Contains(s, x.says) {
				t.Errorf("%d descriptors, %d configured: %v %s", x.limit, x.configured, ok, s)
			}
		})
	}
}

// The descriptors for the store are enough for its open tables.
func TestStoreDescriptors(t *testing.T) {
	dir := t.TempDir()
	before := openFiles(t)
	db, err := store.Open(store.Options{Dir: filepath.Join(dir, "data"), MinFree: -1, Ballast: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if own := openFiles(t) - before; own+500 > fdStore {
		t.Errorf("an empty store has %d files open, and up to 500 tables more: %d is too little", own, fdStore)
	}
}

func openFiles(t *testing.T) int {
	t.Helper()
	d, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(d)
}

// canto check limits prints the arithmetic.
func TestCheckLimits(t *testing.T) {
	var out, errOut bytes.Buffer
	execute(&run{ctx: t.Context(), args: []string{"check", "limits", "--data", t.TempDir()},
		stdin: strings.NewReader(""), out: &out, errOut: &errOut})
	want := fmt.Sprintf("%d descriptors - %d store - %d outgoing - %d http - %d = ", descriptorLimit(),
		fdStore, fdOutgoing, fdHTTP, fdRest)
	if !strings.Contains(out.String(), want) {
		t.Errorf("no %q in %q", want, out.String())
	}
}

// roomy is a machine for a million sessions; tests take something away.
func roomy() (machine, fstest.MapFS) {
	root := fstest.MapFS{}
	for name, text := range map[string]string{
		"proc/sys/fs/nr_open":                         "1100000",
		"proc/sys/fs/file-nr":                         "1223\t0\t9223372036854775807",
		"proc/sys/net/core/somaxconn":                 "65536",
		"proc/sys/net/ipv4/tcp_max_syn_backlog":       "70000",
		"proc/sys/net/core/netdev_max_backlog":        "16384",
		"proc/sys/net/ipv4/tcp_mem":                   "800000\t1000000\t2000000",
		"proc/sys/net/ipv4/tcp_rmem":                  "4096\t131072\t1048576",
		"proc/sys/net/ipv4/tcp_wmem":                  "4096\t16384\t1048576",
		"proc/sys/net/ipv4/ip_local_port_range":       "32768\t60999",
		"proc/sys/vm/overcommit_memory":               "0",
		"proc/meminfo":                                "MemTotal: 66000000 kB\nMemAvailable:   64000000 kB\n",
		"proc/self/cgroup":                            "0::/system.slice/canto.service\n",
		"sys/fs/cgroup/system.slice/memory.max":       "max\n",
		"sys/fs/cgroup/memory/canto/memory.usage":     "1\n",
		"proc/sys/net/netfilter/nf_conntrack_buckets": "65536", // and no nf_conntrack_max
	} {
		root[name] = &fstest.MapFile{Data: []byte(text)}
	}
	return machine{root: root, descriptors: 1_010_000, page: 4096}, root
}

// Each limit that is too low is reported with the line to write for each target, and makes the check fail.
func TestLimitsOfMachine(t *testing.T) {
	for _, x := range []struct {
		name   string
		change func(m *machine, write func(name, text string))
		target int
		bad    []string // beginnings of what is said to be bad
		lines  []string // that are printed
		never  []string // and that are not
	}{
		{"enough", nil, 1_000_000, nil, []string{"for 1M\n", "opens 28232 connections"},
			[]string{"sysctl.d", "[Service]"}},
		{"descriptors", func(m *machine, _ func(string, string)) { m.descriptors = 20_000 }, 100_000,
			[]string{"limits: 20000 descriptors are 18972 connections; 100k sessions want LimitNOFILE=101028"},
			[]string{"For 100k sessions, in [Service] of the unit file:\n    LimitNOFILE=101028\n",
				"    LimitNOFILE=1001028\n"}, []string{"sysctl.d"}},
		{"descriptors, and few sessions", func(m *machine, _ func(string, string)) {
			m.descriptors = 20_000
		}, 0, nil, []string{"    LimitNOFILE=101028\n"}, nil},
		{"nr_open", func(_ *machine, write func(string, string)) {
			write("proc/sys/fs/nr_open", "1000000")
		}, 1_000_000,
			[]string{"limits: fs.nr_open"}, []string{"    fs.nr_open = 1001028\n"}, []string{"For 100k"}},
		{"file-max", func(_ *machine, write func(string, string)) {
			write("proc/sys/fs/file-nr", "10 0 100000")
		}, 100_000,
			[]string{"limits: fs.file-max"}, []string{"    fs.file-max = 175536\n", "    fs.file-max = 1165536\n"},
			nil},
		{"a target between", func(_ *machine, write func(string, string)) {
			write("proc/sys/fs/file-nr", "10 0 100000")
		}, 50_000,
			[]string{"limits: fs.file-max for 50k"}, []string{"for 50k", "For 50k sessions, in " +
				"/etc/sysctl.d/90-canto.conf, and then sysctl --system:\n    fs.file-max = 120536\n"}, nil},
		{"backlogs", func(_ *machine, write func(string, string)) {
			write("proc/sys/net/core/somaxconn", "128")
			write("proc/sys/net/ipv4/tcp_max_syn_backlog", "128")
			write("proc/sys/net/core/netdev_max_backlog", "100")
		}, 10_000, []string{"limits: net.core.somaxconn", "limits: net.ipv4.tcp_max_syn_backlog",
			"limits: net.core.netdev_max_backlog"},
			[]string{"    net.core.somaxconn = 4096\n", "    net.core.somaxconn = 65536\n",
				"    net.ipv4.tcp_max_syn_backlog = 16384\n", "    net.core.netdev_max_backlog = 5000\n"}, nil},
		{"buffers of all sockets; what is better stays", func(_ *machine, write func(string, string)) {
			write("proc/sys/net/ipv4/tcp_mem", "50000 66000 900000")
		}, 100_000, []string{"limits: net.ipv4.tcp_mem"}, []string{"    net.ipv4.tcp_mem = 75000 100000 900000\n",
			"    net.ipv4.tcp_mem = 750000 1000000 2000000\n"}, nil},
		{"larger pages are fewer", func(m *machine, write func(string, string)) {
			m.page = 65536
			write("proc/sys/net/ipv4/tcp_mem", "46875 62500 125000")
		}, 1_000_000, nil, nil, []string{"sysctl.d"}},
		{"buffers of one socket", func(_ *machine, write func(string, string)) {
			write("proc/sys/net/ipv4/tcp_wmem", "4096 16384 4194304")
		}, 1_000_000, []string{"limits: net.ipv4.tcp_wmem"},
			[]string{"    net.ipv4.tcp_wmem = 4096 16384 1048576\n"}, []string{"For 100k", "tcp_rmem ="}},
		{"tracked connections", func(_ *machine, write func(string, string)) {
			write("proc/sys/net/netfilter/nf_conntrack_max", "65536")
		}, 100_000, []string{"limits: net.netfilter.nf_conntrack_max"},
			[]string{"    net.netfilter.nf_conntrack_max = 133192\n"}, nil},
		{"strict overcommit", func(_ *machine, write func(string, string)) {
			write("proc/sys/vm/overcommit_memory", "2")
		}, 10_000,
			[]string{"limits: vm.overcommit_memory"}, []string{"    vm.overcommit_memory = 1\n"}, nil},
		{"little memory", func(_ *machine, write func(string, string)) {
			write("proc/meminfo", "MemAvailable: 1048576 kB\n")
		}, 100_000,
			[]string{"limits: 100k sessions want 1555 MiB of memory, some 12 KiB each with the kernel's share; " +
				"1024 MiB (available)"}, []string{"memory (available)"}, nil},
		{"a cgroup around the unit", func(_ *machine, write func(string, string)) {
			write("sys/fs/cgroup/system.slice/memory.max", "1073741824\n")
		}, 100_000, []string{"limits: 100k sessions want 1555 MiB of memory, some 12 KiB each with the " +
			"kernel's share; 1024 MiB (memory.max)"}, nil, nil},
		{"a cgroup of version 1", func(_ *machine, write func(string, string)) {
			write("proc/self/cgroup", "5:devices:/\n4:cpu,memory:/canto\n0::/\n")
			write("sys/fs/cgroup/memory/canto/memory.limit_in_bytes", "536870912\n")
		}, 100_000, []string{"limits: 100k sessions want 1555 MiB of memory, some 12 KiB each with the " +
			"kernel's share; 512 MiB (memory.limit_in_bytes)"}, nil, nil},
		{"memory in the configuration", func(m *machine, _ func(string, string)) {
			m.memoryLimit = 512 << 20
		}, 100_000,
			[]string{"limits: 100k sessions want 1555 MiB of memory, some 12 KiB each with the kernel's share; " +
				"512 MiB (memory in the configuration)"}, nil, nil},
		{"no /proc", func(m *machine, _ func(string, string)) {
			m.root = fstest.MapFS{}
		}, 1_000_000, nil, []string{"LimitNOFILE"}, []string{"somaxconn", "memory"}},
	} {
		m, root := roomy()
		if x.change != nil {
			x.change(&m, func(name, text string) { root[name] = &fstest.MapFile{Data: []byte(text)} })
		}
		var out strings.Builder
		var bad []string
		m.check(&out, 0, x.target, func(ok bool, format string, a ...any) {
			if s := fmt.Sprintf(format, a...); !ok {
				bad = append(bad, s)
			}
		})
		for i, b := range bad {
			if i >= len(x.bad) || !strings.HasPrefix(b, x.bad[i]) {
				t.Errorf("%s: %q is bad", x.name, b)
			}
		}
		if len(bad) < len(x.bad) {
			t.Errorf("%s: only %q are bad", x.name, bad)
		}
		for _, l := range x.lines {
			if !strings.Contains(out.String(), l) {
				t.Errorf("%s: no %q in\n%s", x.name, l, out.String())
			}
		}
		for _, l := range x.never {
			if strings.Contains(out.String(), l) {
				t.Errorf("%s: %q in\n%s", x.name, l, out.String())
			}
		}
	}
}

func TestNumber(t *testing.T) {
	for text, want := range map[string]int{"1": 1, "2500": 2500, "100k": 100_000, "1M": 1_000_000, "": 0,
		"0": 0, "-1": 0, "1G": 0, "1.5M": 0, "51M": 0, "9999999999999999999": 0} {
		var n sessionCount
		if err := n.UnmarshalText([]byte(text)); (err == nil) != (want > 0) || err == nil && int(n) != want {
			t.Errorf("%q: %d, %v", text, n, err)
		}
	}
	for n, want := range map[sessionCount]string{1: "1", 2500: "2500", 3000: "3k", 1_000_000: "1M",
		1_500_000: "1500k"} {
		if n.String() != want {
			t.Errorf("%d: %q, not %q", int(n), n.String(), want)
		}
	}
}
