package bench

import (
	"time"

	"canto/bench/result"
)

// A step is one kind of operation in one phase; its number is in every token.
type step struct {
	id        uint16
	phase     int
	name      string
	open      bool
	lateAfter time.Duration
	isPart    bool // of another step (the handshake of a login): not an operation of its own
	flood     bool // what of it is expected is known where it arrives
}

// A tally is what one loop has counted for one step since it was last collected. Loops have one each, so
// that counting takes no lock.
type tally struct {
	Intended, Sent, Expected, Done, Duplicated, Reordered, Failed, Late, Unsent uint64
	Latency, Lag                                                                *result.Histogram `json:",omitempty"`
}

func (t *tally) add(o *tally) {
	t.Intended += o.Intended
	t.Sent += o.Sent
	t.Expected += o.Expected
	t.Done += o.Done
	t.Duplicated += o.Duplicated
	t.Reordered += o.Reordered
	t.Failed += o.Failed
	t.Late += o.Late
	t.Unsent += o.Unsent
	mergeHistogram(&t.Latency, o.Latency)
	mergeHistogram(&t.Lag, o.Lag)
}

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
	return t.Intended|t.Sent|t.Expected|t.Done|t.Duplicated|t.Reordered|t.Failed|t.Late|t.Unsent == 0
}

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

// done counts an operation that has ended well.
func (t *tally) done(took int64, late time.Duration) {
	t.Done++
	t.recordLatency(took, late)
}

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

func (t *tally) recordLag(d int64) {
	if t.Lag == nil {
		t.Lag = result.NewHistogram()
	}
	t.Lag.Record(time.Duration(d))
}

// A Tick is what a worker has counted since its last one.
type Counts struct {
	Steps    map[uint16]*tally
	Lag      *result.Histogram `json:",omitempty"` // of the loops: how late a posted function ran
	Bound    int
	Refusals []result.Failure `json:",omitempty"`
	Usage    result.Usage     // of this worker's process, cumulative
}

// total adds ticks up: of workers, and of seconds.
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

// missing is how much of what was sent in steps from first on has not come.
func (t *total) missing(first uint16) (n uint64) {
	for id, s := range t.steps {
		if id >= first && s.Expected > s.Done+s.Failed {
			n += s.Expected - s.Done - s.Failed
		}
	}
	return n
}
