package bench

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// A server loses, duplicates and reorders messages at random. The sequences of a receiver find the
// same duplicates and reorderings as a model that stores every message.
func TestSequencesMatchModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		type sent struct {
			step      uint16
			from, seq uint32
		}
		var fl sequences
		seen := map[sent]bool{}
		most := map[[2]uint32]uint32{} // by step and sender: the highest number so far, and one
		steps := rapid.IntRange(1, 3).Draw(t, "steps")
		senders := rapid.IntRange(1, 4).Draw(t, "senders")
		for range rapid.IntRange(1, 200).Draw(t, "arrivals") {
			s := sent{uint16(rapid.IntRange(0, steps-1).Draw(t, "step")),
				uint32(rapid.IntRange(0, senders-1).Draw(t, "from")), uint32(rapid.IntRange(0, 30).Draw(t, "seq"))}
			k := [2]uint32{uint32(s.step), s.from}
			want := inOrder
			switch {
			case seen[s]:
				want = duplicate
			case s.seq < most[k]:
				want = outOfOrder
			}
			seen[s] = true
			most[k] = max(most[k], s.seq+1)
			if got := fl.arrive(s.step, s.from, s.seq); got != want {
				t.Fatalf("%+v is %d, and should be %d", s, got, want)
			}
		}
	})
}

// Numbers of what is sent count from 0 for each step and receiver, however many there are.
func TestCounters(t *testing.T) {
	var c counters
	for round := range uint32(3) {
		for to := range uint32(40) {
			if n := c.next(1, to); n != round {
				t.Fatalf("number %d in round %d to %d", n, round, to)
			}
		}
	}
	if c.next(2, 0) != 0 {
		t.Error("another step does not begin at 0")
	}
	if c.reset(); c.next(1, 0) != 0 {
		t.Error("it did not forget")
	}
}

// What is remembered of gaps is bounded, whatever comes.
func TestGapsAreBounded(t *testing.T) {
	var f sequence
	f.arrive(10 * maxMissing)
	if len(f.missing) != maxMissing {
		t.Errorf("%d missing numbers are remembered", len(f.missing))
	}
}

// Ids are read as they were written, and others are not taken for ours.
func FuzzToken(f *testing.F) {
	f.Add(uint32(1), uint16(2), uint16(3), uint32(4), uint32(5), int64(6), "c1-2-3-4-5-6")
	f.Add(uint32(math.MaxUint32), uint16(math.MaxUint16), uint16(math.MaxUint16), uint32(math.MaxUint32),
		uint32(math.MaxUint32), int64(math.MaxInt64), "c--------------")
	f.Add(uint32(0), uint16(0), uint16(0), uint32(0), uint32(0), int64(0),
		"c1z141z3-1ekf-1ekf-1z141z3-1z141z3-1y2p0ij32e8e7")
	f.Fuzz(func(t *testing.T, run uint32, clock, step uint16, from, seq uint32, at int64, id string) {
		k := traceID{run, clock, step, from, seq, max(at, 0)}
		b := k.append(nil)
		if got, ok := parseTraceID(b); !ok && len(b) >= 12 || ok && got != k {
			t.Errorf("%s is read as %+v, %v", b, got, ok)
		}
		if got, ok := parseTraceID([]byte(id)); ok {
			again, ok := parseTraceID(got.append(nil))
			if !ok || again != got {
				t.Errorf("%q is read as %+v, and that written as %+v", id, got, again)
			}
		}
	})
}

// Times are laid down in advance: as many as the rate says, evenly or by chance.
func TestPace(t *testing.T) {
	count := func(p *schedule) (n int, last float64) {
		for {
			at, ok := p.next()
			if !ok {
				return n, last
			}
			if at < last {
				t.Fatalf("%v comes after %v", at, last)
			}
			n, last = n+1, at
		}
	}
	for _, c := range []struct {
		name     string
		p        schedule
		min, max int
	}{
		{"even", schedule{from: 1000, length: 3}, 3000, 3000},
		{"a fraction", schedule{from: 0.5, length: 10}, 5, 5},
		{"rising", schedule{from: 100, to: 300, length: 10}, 1990, 2010},
		{"falling", schedule{from: 300, to: 100, length: 10}, 1990, 2010},
		{"by chance", schedule{from: 1000, length: 10, poisson: true, rng: rand.New(rand.NewPCG(1, 2))}, 9700,
			10300},
		{"a turn later", schedule{from: 10, length: 1, offset: 0.05}, 10, 10},
		{"never", schedule{length: 1}, 0, 0},
	} {
		if n, _ := count(&c.p); n < c.min || n > c.max {
			t.Errorf("%s: %d operations, and it should be %d to %d", c.name, n, c.min, c.max)
		}
	}
}

// Each number comes once before any comes again.
func TestOrder(t *testing.T) {
	for _, n := range []int{1, 2, 3, 10, 997, 1000, 10000} {
		o := newPermutation(n, 7)
		seen := make([]bool, n)
		for i := range n {
			if seen[o.at(i)] {
				t.Fatalf("of %d, %d comes twice", n, o.at(i))
			}
			seen[o.at(i)] = true
		}
	}
}

// Shares are disjoint and whole, and pairs stay together.
func TestShare(t *testing.T) {
	for _, n := range []int{1, 2, 7, 100, 1001} {
		for workers := 1; workers < 6; workers++ {
			next := 0
			for w := range workers {
				from, to := Assignment{Worker: w, Workers: workers}.rangeOf(n)
				if from != next || to < from || from%2 != 0 {
					t.Errorf("%d clients, worker %d of %d: %d to %d", n, w, workers, from, to)
				}
				next = to
			}
			if next != n {
				t.Errorf("%d clients, %d workers: %d are given out", n, workers, next)
			}
		}
	}
}

// Firing a message allocates nothing once warm.
func TestMessageAllocatesNothing(t *testing.T) {
	ls := &loopState{}
	b := make([]byte, 0, 1024)
	k := traceID{run: 7, boot: 1, step: 2, from: 3, seq: 4, at: int64(time.Hour)}
	n := testing.AllocsPerRun(100, func() {
		b = ls.message(b[:0], k, "chat", "bench7@localhost/bench", 100)
		if _, ok := parseTraceID(b[len("<message type='chat' id='") : len(b)-len("' to='bench7@localhost/"+
			"bench'><body></body></message>")-100]); !ok {
			t.Fatalf("%s", b)
		}
	})
	if n != 0 {
		t.Errorf("%v allocations", n)
	}
}
