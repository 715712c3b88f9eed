package capacity

import (
	"os"
	"strconv"
	"strings"
)

// kernelMemory is the kernel's memory for its own structures on the whole machine, sockets among
// them, in bytes (SUnreclaim). Memory that it can reclaim is left out, as it comes and goes with
// files. ok is false if the kernel does not tell.
func kernelMemory() (bytes float64, ok bool) {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, false
	}
	_, rest, found := strings.Cut(string(b), "\nSUnreclaim:")
	f := strings.Fields(rest)
	if !found || len(f) == 0 {
		return 0, false
	}
	kB, err := strconv.ParseFloat(f[0], 64)
	if err != nil {
		return 0, false
	}
	return kB * 1024, true
}

// openFiles is the limit of a process's file descriptors; 0: unknown, or none.
func openFiles(pid int) int {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/limits")
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(b), "\nMax open files")
	f := strings.Fields(rest)
	if len(f) == 0 {
		return 0
	}
	n, _ := strconv.Atoi(f[0])
	return n
}

// socketLimit is the most that all TCP sockets may buffer, in bytes (tcp_mem); 0: unknown.
func socketLimit() float64 {
	b, err := os.ReadFile("/proc/sys/net/ipv4/tcp_mem")
	if err != nil {
		return 0
	}
	f := strings.Fields(string(b))
	if len(f) < 3 {
		return 0
	}
	n, _ := strconv.ParseFloat(f[2], 64)
	return n * float64(os.Getpagesize())
}
