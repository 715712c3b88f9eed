package main

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// A server's timers may be late by a millisecond, in all of its threads, unless it is started with a slack of
// its own.
func TestLateTimers(t *testing.T) {
	runtime.LockOSThread() // a child's slack is that of the thread that makes it
	defer runtime.UnlockOSThread()
	for _, c := range []struct {
		given, want int
		again       bool
	}{{defaultTimerSlack, coarseTimerSlack, true}, {70_000, 70_000, false}} {
		if err := unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(c.given), 0, 0, 0); err != nil {
			t.Fatal(err)
		}
		s := newSite(t, "example.org")
		p := s.serve()
		pid := p.cmd.Process.Pid
		env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
		if err != nil {
			t.Fatal(err)
		}
		if again := strings.Contains(string(env), "CANTO_LATE_TIMERS=1"); again != c.again {
			t.Errorf("started with %d ns: executed itself again: %v", c.given, again)
		}
		threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
		if err != nil {
			t.Fatal(err)
		}
		for _, th := range threads {
			b, err := os.ReadFile("/proc/" + th.Name() + "/timerslack_ns")
			if err != nil {
				t.Logf("thread %s: %v", th.Name(), err) // another's is shown to root
				continue
			}
			if ns, _ := strconv.Atoi(strings.TrimSpace(string(b))); ns != c.want {
				t.Errorf("started with %d ns: thread %s has %d, not %d", c.given, th.Name(), ns, c.want)
			}
		}
		if comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)); !strings.HasPrefix(string(comm), "canto") {
			t.Errorf("it is called %q", comm)
		}
	}
	unix.Prctl(unix.PR_SET_TIMERSLACK, defaultTimerSlack, 0, 0, 0)
}
