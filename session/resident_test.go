package session

import (
	"errors"
	"testing"
)

// Accounts of which nothing is stored share one resident set, and no others do: neither an
// account with a part of its own, nor one that could not be read, nor one that was read in part.
func TestResidentSetsThatAreShared(t *testing.T) {
	type thing struct{ n int }
	first, second := NewPart[thing]("test-first"), NewPart[thing]("test-second")
	broken := errors.New("broken")
	stored := map[uint64][2]int{1: {}, 2: {}, 3: {7, 0}, 4: {0, 8}, 5: {}}
	load := func(which int) func(any, EntityRef) (any, bool, error) {
		return func(_ any, who EntityRef) (any, bool, error) {
			if who.ID == 9 && which == 1 {
				return nil, false, broken
			}
			if n := stored[who.ID][which]; n > 0 {
				return &thing{n}, false, nil
			}
			return (*thing)(nil), true, nil
		}
	}
	p := &Profile{loaders: []loader{{first.id, "a", load(0)}, {second.id, "b", load(1)}}}
	read := func(id uint64, old []any) *residentSet {
		t.Helper()
		r, err := p.loadParts(nil, KindAccount, EntityRef{ID: id}, old)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	parts := func(what string, r *residentSet, a, b int) {
		t.Helper()
		acc := &Account{}
		acc.resident = r
		x, y := first.Get(acc), second.Get(acc)
		if !r.exists || r.profile != p || a == 0 && x != nil || a > 0 && (x == nil || x.n != a) || b == 0 &&
			y != nil || b > 0 && (y == nil || y.n != b) {
			t.Errorf("%s: %v and %v, want %d and %d", what, x, y, a, b)
		}
	}
	// One that could not be read, or that had parts, is not the one to share.
	if _, err := p.loadParts(nil, KindAccount, EntityRef{ID: 9}, nil); err != broken ||
		p.emptySet.Load() != nil {
		t.Fatalf("%v; shared: %v", err, p.emptySet.Load())
	}
	old := make([]any, max(first.id, second.id)+1)
	old[first.id] = &thing{5}
	if parts("read in part", read(1, old), 5, 0); p.emptySet.Load() != nil {
		t.Fatal("a set with a part is shared")
	}
	one := read(1, nil)
	if p.emptySet.Load() != one || read(2, nil) != one {
		t.Fatal("two of which nothing is stored do not share")
	}
	for _, c := range []struct {
		id   uint64
		a, b int
	}{{3, 7, 0}, {4, 0, 8}} {
		r := read(c.id, nil)
		if r == one {
			t.Errorf("account %d shares, and has something", c.id)
		}
		parts("its own", r, c.a, c.b)
	}
	parts("the shared one", one, 0, 0)
	// What was read in part stays apart although nothing is added.
	clear(old)
	old[second.id] = &thing{6}
	if r := read(5, old); r == one {
		t.Error("a set with a part became the shared one")
	} else {
		parts("read in part", r, 0, 6)
	}
	// An account whose part is changed gets a set of its own.
	a, b := &Account{}, &Account{}
	a.resident, b.resident = one, read(2, nil)
	first.Mutable(a).n = 3
	parts("written", a.resident, 3, 0)
	parts("still shared", b.resident, 0, 0)
	if b.resident != one || p.emptySet.Load() != one {
		t.Error("the shared set was replaced")
	}
	second.Mutable(a).n = 4
	parts("written twice", a.resident, 3, 4)
}
