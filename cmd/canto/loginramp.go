package main

import (
	"context"
	"runtime/debug"
	"time"

	"canto/session/metrics"
)

// A loginRamp finds out when many logins are over. Each login has left garbage. Without a
// collection and a return of memory to the operating system, an idle process would keep that memory
// for minutes.
type loginRamp struct {
	lastBusy    time.Time // the last step with many logins
	lastFreed   time.Time // the last time that memory was returned
	bound       uint64    // sessions bound since the start, at the last step
	boundAtFree uint64    // the same at lastFreed
}

const (
	rampQuietTime = 10 * time.Second // logins are over after this time without many
	rampInterval  = time.Minute      // the least time between two returns of memory
	rampMinLogins = 1000             // fewer logins are not worth a collection
)

// step reports whether memory should be returned now. It is called about once a second, with the
// sessions bound since the start and those that are bound now.
func (r *loginRamp) step(at time.Time, bound, online uint64) bool {
	if bound-r.bound > max(10, online/100) {
		r.lastBusy = at
	}
	r.bound = bound
	if bound-r.boundAtFree < max(rampMinLogins, online/10) || at.Sub(r.lastBusy) < rampQuietTime ||
		at.Sub(r.lastFreed) < rampInterval {
		return false
	}
	r.lastFreed, r.boundAtFree = at, bound
	return true
}

// freeMemory is a goroutine. It collects garbage and returns memory to the operating system after
// each ramp of logins, until ctx ends.
func (s *program) freeMemory(ctx context.Context) {
	var r loginRamp
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if st := metrics.Stats(s.Router); r.step(time.Now(), st.Bound, st.Bound-st.Unbound) {
			debug.FreeOSMemory()
		}
	}
}
