package bench

import (
	"context"
	"hash/fnv"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Times in trace ids are nanoseconds of the system's monotonic clock (CLOCK_MONOTONIC), which the
// processes of a machine share. Machines do not share it, so a trace id also has the boot id of the
// sender's machine. Times are computed from time.Now, which is faster than the system call.
var (
	monotonicBase = time.Now()   // a moment on the clock of time.Now
	monotonicZero = monotonic()  // the same moment on the monotonic clock
	bootID        = hashBootID() // of this machine
)

// monotonic reads the clock.
func monotonic() int64 {
	var ts unix.Timespec
	unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts)
	return ts.Nano()
}

// nanos is t on the monotonic clock.
func nanos(t time.Time) int64 { return monotonicZero + int64(t.Sub(monotonicBase)) }

// now is the present on the monotonic clock.
func now() int64 { return monotonicZero + int64(time.Since(monotonicBase)) }

// hashBootID is a hash of the kernel's boot id: it differs between machines, and changes when a
// machine starts.
func hashBootID() uint16 {
	b, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	h := fnv.New32a()
	h.Write([]byte(strings.TrimSpace(string(b))))
	return uint16(h.Sum32())
}

// sleepUntil waits until t on the monotonic clock, to some 60 µs, or until ctx ends. The last 20 ms
// are slept by the system call, which ignores ctx: the runtime's timers may be a millisecond late
// when a process is idle. It occupies a thread, and is for pacers.
func sleepUntil(ctx context.Context, t int64) {
	for {
		d := t - now()
		if d <= 0 {
			return
		}
		if d > int64(20*time.Millisecond) {
			long := time.NewTimer(time.Duration(d) - 10*time.Millisecond)
			select {
			case <-long.C:
			case <-ctx.Done():
				long.Stop()
				return
			}
			continue
		}
		ts := unix.NsecToTimespec(d)
		unix.Nanosleep(&ts, nil)
	}
}
