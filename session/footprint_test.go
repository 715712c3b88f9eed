package session

import (
	"fmt"
	"runtime"
	"testing"
	"unsafe"

	"canto/session/jid"
)

// grown is how many bytes of the heap what make returns holds.
func grown(build func() any) int {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	v := build()
	runtime.GC()
	runtime.ReadMemStats(&after)
	runtime.KeepAlive(v)
	return int(after.HeapAlloc - before.HeapAlloc)
}

// Maps and values are taken for as much as they hold.
func TestWeigh(t *testing.T) {
	for _, n := range []int{800, 5000, 100_000, 300_000} {
		keys := make([]jid.JID, n)
		for i := range keys {
			keys[i], _ = jid.New(fmt.Sprint(i), "x", "")
		}
		runtime.GC() // what made them
		is := grown(func() any {
			m := make(map[jid.JID]*Account)
			for _, j := range keys {
				m[j] = nil
			}
			return m
		})
		runtime.KeepAlive(keys)
		if w := MapBytes(n, 32); w < is*80/100 || w > is*125/100 {
			t.Errorf("a map of %d: %d bytes, and %d were measured", n, w, is)
		}
	}
	type leaf struct {
		name string
		list []uint32
	}
	type value struct {
		one     *leaf
		many    []leaf
		fixed   [2]*leaf
		nothing *leaf
		not     *Account // another's
		dynamic any      // not followed
		call    func()
		by      map[uint64]uint64
	}
	text := func() string { return string(make([]byte, 1000)) }
	build := func() *value {
		m := make(map[uint64]uint64)
		for i := range uint64(500) {
			m[i] = i
		}
		return &value{one: &leaf{name: text()}, many: make([]leaf, 3, 100),
			fixed: [2]*leaf{{list: make([]uint32, 0, 700)}, {text(), nil}}, by: m, not: &Account{}, dynamic: 1}
	}
	v := build()
	v.many[2].name = text()
	is := grown(func() any {
		all := make([]*value, 100)
		for i := range all {
			all[i] = build()
			all[i].many[2].name = text()
		}
		return all
	}) / 100
	if w := heapSize(v) + Allocated(int(unsafe.Sizeof(Account{}))); w < is*95/100 || w > is*105/100 {
		t.Errorf("%d bytes, and %d were measured", w, is)
	}
	if heapSize(nil) != 0 || heapSize(3) != 0 {
		t.Error("what is no pointer has a weight")
	}
}

// A list that leads to itself has an end.
func TestWeighRecursive(t *testing.T) {
	type ring struct {
		next *ring
		name string
	}
	r := &ring{name: "a name of some length"}
	r.next = r
	if n := heapSize(r); n < 64 {
		t.Errorf("%d bytes", n)
	}
}
