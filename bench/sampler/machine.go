package sampler

import (
	"bytes"
	"os"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"canto/bench/result"
)

// Machine describes this machine. Unknown fields are empty.
func Machine() result.Machine {
	m := result.Machine{CPU: runtime.GOARCH, Cores: runtime.NumCPU(), OS: runtime.GOOS}
	if b, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		if v := value(b, "model name", ":"); v != "" { // ARM has none
			m.CPU = v
		}
	}
	if b, err := os.ReadFile("/proc/meminfo"); err == nil {
		kib, _ := strconv.ParseInt(strings.TrimSuffix(value(b, "MemTotal", ":"), " kB"), 10, 64)
		m.Memory = kib << 10
	}
	if b, err := os.ReadFile("/etc/os-release"); err == nil {
		if v := strings.Trim(value(b, "PRETTY_NAME", "="), `"`); v != "" {
			m.OS = v
		}
	}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		m.Kernel = unix.ByteSliceToString(u.Release[:])
	}
	var l unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &l) == nil {
		m.Descriptors = l.Cur
	}
	if b, err := os.ReadFile("/proc/loadavg"); err == nil {
		if f := strings.Fields(string(b)); len(f) >= 3 {
			m.Load = strings.Join(f[:3], " ")
		}
	}
	return m
}

// value is the text after a name and a separator, on a line of its own.
func value(b []byte, name, sep string) string {
	for line := range bytes.Lines(b) {
		if k, v, ok := strings.Cut(string(line), sep); ok && strings.TrimSpace(k) == name {
			return strings.TrimSpace(v)
		}
	}
	return ""
}
