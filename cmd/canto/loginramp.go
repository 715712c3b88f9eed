package main

import (
	"context"
	"runtime/debug"
	"time"

	"canto/session/metrics"
)

// A ramp tells when many logins are over. What each of them needed for a moment is garbage by then, and
// without a collection and a return of memory to the system an idle process would keep it for minutes.
type loginRamp struct {
	lastBusy    time.Time // when logins were last many
	lastFreed   time.Time // when memory was last given back
	bound       uint64    // sessions bound so far, a step ago
	boundAtFree uint64    // the same when memory was last given back
}

const (
	rampQuietTime = 10 * time.Second
	rampInterval  = time.Minute
	rampMinLogins = 1000 // logins that are worth it
)

// step takes the sessions bound since the start and those online now, about once a second, and reports
// whether memory is to be given back.
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

// freeMemory collects and returns memory to the system after each ramp of logins, until ctx ends.
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
