package main

import (
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// Go's runtime has a thread that sleeps 20 µs at a time while anything runs, to take processors from
// those who wait in the kernel. The system wakes it up to its timer slack later, 50 µs; where a timer is
// dear, as in a virtual machine, that thread took a tenth to a quarter of the server's CPU. No timer of
// ours minds to be a millisecond late.
const (
	coarseTimerSlack  = 1_000_000 // ns
	defaultTimerSlack = 50_000
)

// setTimerSlack has the timers of all threads be late by up to coarseTimerSlack. A thread inherits that
// from the one that makes it, and Go has made some before it runs anything of ours: so the process begins
// anew, once. Whoever has started it with another slack, as systemd's TimerSlackNSec does, has decided.
// Where the system refuses, all stays as it was.
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
