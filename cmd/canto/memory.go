package main

import (
	"context"
	"runtime/debug"
	"time"

	"canto/session/metrics"
)

// A ramp tells when many logins are over. What each of them needed for a moment is garbage by then, and
// without a collection and a return of memory to the system an idle process would keep it for minutes.
type ramp struct {
	busy   time.Time // when logins were last many
	last   time.Time // when memory was last given back
	bound  uint64    // sessions bound so far, a step ago
	before uint64    // the same when memory was last given back
}

const (
	rampQuiet = 10 * time.Second
	rampEvery = time.Minute
	rampLeast = 1000 // logins that are worth it
)

// step takes the sessions bound since the start and those online now, about once a second, and reports
// whether memory is to be given back.
func (r *ramp) step(at time.Time, bound, online uint64) bool {
	if bound-r.bound > max(10, online/100) {
		r.busy = at
	}
	r.bound = bound
	if bound-r.before < max(rampLeast, online/10) || at.Sub(r.busy) < rampQuiet || at.Sub(r.last) < rampEvery {
		return false
	}
	r.last, r.before = at, bound
	return true
}

// giveBack collects and returns memory to the system after each ramp of logins, until ctx ends.
func (s *program) giveBack(ctx context.Context) {
	var r ramp
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
