package stanzaid

import (
	"errors"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var t0 = time.Date(2026, 11, 24, 12, 0, 0, 123e6, time.UTC)

func TestParts(t *testing.T) {
	l := NewLease(0)
	l.Extend(l.Next(t0, time.Hour))
	g := NewGenerator(l, 0)
	id, err := g.Next(t0.UnixMilli(), 1023)
	if err != nil || !id.Time().Equal(t0) || id.Node() != 1023 || id < FirstAt(t0) ||
		id >= FirstAt(t0.Add(time.Millisecond)) {
		t.Errorf("%v %v %v %d", id, err, id.Time(), id.Node())
	}
	if FirstAt(time.Unix(0, 0)) != 0 || FirstAt(time.Date(3000, 1, 1, 0, 0, 0, 0, time.UTC)) != ^ID(0) {
		t.Error("moments outside")
	}
}

// A burst fills the millisecond and runs ahead of the clock. Ids grow although the clock goes back.
func TestGrows(t *testing.T) {
	l := NewLease(0)
	l.Extend(l.Next(t0, time.Hour))
	g := NewGenerator(l, 0)
	var last ID
	for i := range 3 * PerMilli {
		now := t0
		if i > 100 {
			now = t0.Add(-time.Minute)
		}
		id, err := g.Next(now.UnixMilli(), 3)
		if err != nil || id <= last || id.Node() != 3 {
			t.Fatalf("%d: %v after %v, %v", i, id, last, err)
		}
		last = id
	}
	if got := last.Time().Sub(t0); got != 2*time.Millisecond {
		t.Errorf("ran %v ahead", got)
	}
}

// Ids that a run may have given are below the floor of the next run.
func TestLease(t *testing.T) {
	l := NewLease(0)
	g := NewGenerator(l, 0)
	if _, err := g.Next(t0.UnixMilli(), 0); !errors.Is(err, ErrLease) {
		t.Fatal("an id without a lease", err)
	}
	if !l.Low(t0, 5*time.Second) {
		t.Error("a lease of nothing is not low")
	}
	end := l.Next(t0, 10*time.Second)
	l.Extend(end)
	l.Extend(end - 1)
	if l.Until() != ID(end) || l.Low(t0, 5*time.Second) || !l.Low(t0.Add(6*time.Second), 5*time.Second) {
		t.Error("the end is", l.Until())
	}
	var last ID
	drawn := 0
	for now := t0; ; now = now.Add(time.Second) {
		id, err := g.Next(now.UnixMilli(), 0)
		if err != nil {
			break
		}
		if id <= last || id >= l.Until() {
			t.Fatalf("%d after %d, and the lease ends at %d", id, last, l.Until())
		}
		last = id
		drawn++
	}
	// Ten at the seconds of the lease, and then, behind the clock, those of its last second.
	if want := 10 + 999*PerMilli + PerMilli - 1; drawn < 10+900*PerMilli || drawn > want {
		t.Errorf("%d ids, and the last is of %v", drawn, last.Time())
	}
	// Crash, and a clock that is an hour late.
	l2 := NewLease(end)
	g2 := NewGenerator(l2, 0)
	now := t0.Add(-time.Hour)
	if _, err := g2.Next(now.UnixMilli(), 0); !errors.Is(err, ErrLease) {
		t.Fatal("an id without a lease", err)
	}
	l2.Extend(l2.Next(now, 10*time.Second))
	id, err := g2.Next(now.UnixMilli(), 0)
	if err != nil || id <= last || uint64(id) < end {
		t.Errorf("%v after %v, %v", id, last, err)
	}
}

// Any clock, any nodes, any restarts: ids grow, and stay below what is durable.
func TestGeneratorProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := NewLease(rapid.Uint64Range(0, uint64(FirstAt(t0))).Draw(t, "floor"))
		g := NewGenerator(l, 0)
		var last ID
		for range rapid.IntRange(1, 50).Draw(t, "steps") {
			now := t0.Add(time.Duration(rapid.Int64Range(-5000, 5000).Draw(t, "ms")) * time.Millisecond)
			node := uint16(rapid.IntRange(0, MaxNode).Draw(t, "node"))
			switch rapid.IntRange(0, 9).Draw(t, "do") {
			case 0:
				l.Extend(l.Next(now, time.Second))
			case 1: // restart: the entity's archive may hold less than was drawn
				l = NewLease(uint64(l.Until()))
				g = NewGenerator(l, ID(rapid.Uint64Range(0, uint64(last)).Draw(t, "seen")))
			default:
				id, err := g.Next(now.UnixMilli(), node)
				if err != nil {
					continue
				}
				if id <= last || id >= l.Until() || id < l.Floor() || id.Node() != node {
					t.Fatalf("%v after %v, lease %v to %v", id, last, l.Floor(), l.Until())
				}
				last = id
			}
		}
	})
}

func TestAllocs(t *testing.T) {
	l := NewLease(0)
	l.Extend(l.Next(t0, time.Hour))
	g := NewGenerator(l, 0)
	if n := testing.AllocsPerRun(100, func() { g.Next(t0.UnixMilli(), 1) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
