package bench

import (
	"context"
	"hash/fnv"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Times in tokens are nanoseconds of the system's monotonic clock: the processes of one machine share it,
// those of others do not, so a token says whose clock it was.
var (
	monotonicBase = time.Now()
	monotonicZero = monotonic()
	bootID        = hashBootID()
)

func monotonic() int64 {
	var ts unix.Timespec
	unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts)
	return ts.Nano()
}

// nanos is a time on the machine's monotonic clock.
func nanos(t time.Time) int64 { return monotonicZero + int64(t.Sub(monotonicBase)) }

func now() int64 { return monotonicZero + int64(time.Since(monotonicBase)) }

// hashBootID stands for this machine since it was started.
func hashBootID() uint16 {
	b, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	h := fnv.New32a()
	h.Write([]byte(strings.TrimSpace(string(b))))
	return uint16(h.Sum32())
}

// sleepUntil waits until t on the monotonic clock, to some 60 µs, or until ctx ends; the runtime's timers may be a
// millisecond late when a process is idle.
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
