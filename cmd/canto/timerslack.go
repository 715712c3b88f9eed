package main

import (
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// While anything runs, a thread of Go's runtime (sysmon) sleeps 20 µs at a time, to take processors
// back from goroutines that are in system calls. The kernel may fire its timer later by the
// thread's timer slack, by default 50 µs. In a virtual machine each such wakeup is expensive: the
// thread took a tenth to a quarter of the server's CPU. With a slack of 1 ms it wakes rarely; no
// timer of Canto needs to be more exact. docs/decisions.md has the measurements.
const (
	coarseTimerSlack  = 1_000_000 // ns
	defaultTimerSlack = 50_000
)

// setTimerSlack sets a coarse timer slack for all threads of the process. A thread inherits the
// slack of the thread that creates it, and Go has created some before main runs. So the process
// executes itself once more, with the slack set; an environment variable marks the second time. A
// slack that is not the default was set on purpose, as by TimerSlackNSec= of systemd, and stays. If
// the system refuses anything, the process goes on as it is. It must be called before the process
// opens anything.
func setTimerSlack() {
	const mark = "CANTO_LATE_TIMERS"
	if os.Getenv(mark) != "" {
		os.Unsetenv(mark)
		return
	}
	path, err := os.Executable()
	if err != nil {
		return
	}
	if slack, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0); err != nil ||
		slack != defaultTimerSlack {
		return
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if unix.Prctl(unix.PR_SET_TIMERSLACK, coarseTimerSlack, 0, 0, 0) != nil {
		return
	}
	unix.Exec(path, os.Args, append(os.Environ(), mark+"=1"))
	unix.Prctl(unix.PR_SET_TIMERSLACK, defaultTimerSlack, 0, 0, 0)
}
