package bench

import (
	"time"

	"canto/bench/result"
)

// A step is one kind of operation in one phase. Its id is in every trace id.
type step struct {
	id        uint16
	phase     int // index of the phase
	name      string
	open      bool          // an open loop
	lateAfter time.Duration // longer latencies are counted as late
	// of another step, such as the TLS handshake of a login: not an operation of its own
	isPart bool
	flood  bool // how many deliveries are expected is known on arrival only
	// It counts what the operations of another step cause, such as carbons: it has no operations.
	isEffect bool
	request  bool // its operations hold a place in flight: see Fleet.enable
	// the step that counts the carbons of its messages, and from a receiver's index to that of the device
	// that gets them; 0: it has none (the first step of a scenario is never one)
	carbons  uint16
	deviceAt int
	copies   string // the group of those devices
	// the receivers are offline: a message is done when a later login has brought it
	away   bool
	counts countKind // what it counts, besides operations; 0: nothing
	held   bool      // the receivers are inactive: see Action.Held
	resume uint16    // of logins: the step that counts sessions that are resumed; 0: it has none
	pushes uint16    // the step that counts the pushes of its messages; 0: it has none
}

// A tally is what one loop has counted for one step since the last Collect. Each loop has tallies
// of its own, so counting takes no lock. result.Step says what the counts mean.
type tally struct {
	Intended, Sent, Expected, Done, Duplicated, Reordered, Failed, Wrong, Late, Unsent uint64
	Latency,
	Lag *result.Histogram `json:",omitempty"`
}

// add adds o to t.
func (t *tally) add(o *tally) {
	t.Intended += o.Intended
	t.Sent += o.Sent
	t.Expected += o.Expected
	t.Done += o.Done
	t.Duplicated += o.Duplicated
	t.Reordered += o.Reordered
	t.Failed += o.Failed
	t.Wrong += o.Wrong
	t.Late += o.Late
	t.Unsent += o.Unsent
	mergeHistogram(&t.Latency, o.Latency)
	mergeHistogram(&t.Lag, o.Lag)
}

// mergeHistogram adds h to *to, which it makes if there is none.
func mergeHistogram(to **result.Histogram, h *result.Histogram) {
	if h == nil || h.Count() == 0 {
		return
	}
	if *to == nil {
		*to = result.NewHistogram()
	}
	(*to).Add(h)
}

func (t *tally) empty() bool {
	return t.Intended|t.Sent|t.Expected|t.Done|t.Duplicated|t.Reordered|t.Failed|t.Wrong|t.Late|
		t.Unsent == 0
}

// clear sets all to 0 and keeps the histograms' memory.
func (t *tally) clear() {
	l, g := t.Latency, t.Lag
	if l != nil {
		l.Reset()
	}
	if g != nil {
		g.Reset()
	}
	*t = tally{Latency: l, Lag: g}
}

// done counts a delivery that took so many nanoseconds.
func (t *tally) done(took int64, late time.Duration) {
	t.Done++
	t.recordLatency(took, late)
}

// recordLatency records a latency, and counts it as late if it is longer than lateAfter.
func (t *tally) recordLatency(took int64, late time.Duration) {
	if t.Latency == nil {
		t.Latency = result.NewHistogram()
	}
	d := time.Duration(took)
	t.Latency.Record(d)
	if d > late {
		t.Late++
	}
}

// recordLag records by how many nanoseconds an operation was sent later than due.
func (t *tally) recordLag(d int64) {
	if t.Lag == nil {
		t.Lag = result.NewHistogram()
	}
	t.Lag.Record(time.Duration(d))
}

// Counts are what a worker has counted since the last time.
type Counts struct {
	Steps    map[uint16]*tally // by step
	Lag      *result.Histogram `json:",omitempty"` // of the loops: how late posted functions ran
	Bound    int               // clients that are online now
	Resting  int               `json:",omitempty"` // clients that are not, and can resume their session
	Refusals []result.Failure  `json:",omitempty"` // kinds of failure
	Usage    result.Usage      // of the worker's process, since it began
}

// A total adds Counts up: of workers, and of seconds.
type total struct {
	steps    map[uint16]*tally
	lag      *result.Histogram
	failures []result.Failure
}

func newTotal() *total { return &total{steps: make(map[uint16]*tally)} }

func (t *total) add(k *Counts) {
	for id, s := range k.Steps {
		if t.steps[id] == nil {
			t.steps[id] = new(tally)
		}
		t.steps[id].add(s)
	}
	mergeHistogram(&t.lag, k.Lag)
	for _, r := range k.Refusals {
		t.addFailure(r)
	}
}

func (t *total) addFailure(r result.Failure) {
	for i := range t.failures {
		if t.failures[i].What == r.What {
			t.failures[i].Count += r.Count
			return
		}
	}
	t.failures = append(t.failures, r)
}

// missing is how many expected deliveries have neither come nor failed, of the steps that of picks.
func (t *total) missing(of func(id uint16) bool) (n uint64) {
	for id, s := range t.steps {
		if s.Expected > s.Done+s.Failed && of(id) {
			n += s.Expected - s.Done - s.Failed
		}
	}
	return n
}

// A countKind is something that happens to clients and is no operation: it is counted in each phase, as Done
// of a step of its own.
type countKind uint8

const (
	countObserved        countKind = 1 + iota // presence that came to a group that observes
	countInactiveStanzas                      // stanzas that came to inactive clients
	countInactiveWrites                       // reads of inactive clients: writes of the server, or fewer
)

// countNames are the names of the steps.
var countNames = [...]string{"", "observed", "inactive-stanzas", "inactive-writes"}

// counts reports whether something of a kind is counted in the i-th phase.
func (s *Scenario) counts(kind countKind, i int) bool {
	switch kind {
	case countObserved:
		return s.observes() && s.Phases[i].Kind != Drain // all end there
	case countInactiveStanzas, countInactiveWrites:
		return s.Phases[i].Kind == Hold && s.usesCSI()
	}
	return false
}

// countSteps are the ids of the steps of each phase that count something; 0: none does.
func countSteps(sc *Scenario, steps []step) [][len(countNames)]uint16 {
	all := make([][len(countNames)]uint16, len(sc.Phases))
	for _, s := range steps {
		if s.counts != 0 {
			all[s.phase][s.counts] = s.id
		}
	}
	return all
}

// countEvent counts something that has happened to a client of the loop, in the phase that runs.
func (f *Fleet) countEvent(ls *loopState, kind countKind) {
	if id := f.counting[f.phase.Load()][kind]; id != 0 {
		ls.tally(id).Done++
	}
}
