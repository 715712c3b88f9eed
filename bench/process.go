package bench

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// A Sample is what a process has used.
type Sample struct {
	RSS int64         // bytes
	CPU time.Duration // user and system
}

// Process samples a process by its pid, from /proc.
func Process(pid int) (s Sample, err error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return s, err
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	f := strings.Fields(rest)
	if len(f) < 22 {
		return s, fmt.Errorf("/proc/%d/stat is not what it was", pid)
	}
	user, _ := strconv.ParseInt(f[11], 10, 64)
	system, _ := strconv.ParseInt(f[12], 10, 64)
	pages, _ := strconv.ParseInt(f[21], 10, 64)
	return Sample{RSS: pages * int64(os.Getpagesize()), CPU: time.Duration(user+system) * time.Second / 100}, nil
}
