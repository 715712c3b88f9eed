package main

import (
	"testing"
	"time"
)

// Memory is given back once logins have been quiet for 10 s, at most once a minute, and not for a few.
func TestRamp(t *testing.T) {
	var r loginRamp
	at := time.Unix(1e9, 0)
	var bound uint64
	run := func(seconds int, logins uint64) (given []int) {
		for i := range seconds {
			at = at.Add(time.Second)
			bound += logins
			if r.step(at, bound, bound) {
				given = append(given, i)
			}
		}
		return given
	}
	if g := run(30, 500); g != nil {
		t.Errorf("during the ramp: %v", g)
	}
	if g := run(200, 1); len(g) != 1 || g[0] != 9 {
		t.Errorf("after the ramp: %v", g)
	}
	run(10, 400)
	if g := run(20, 0); len(g) != 1 {
		t.Errorf("after the second: %v", g)
	}
	run(10, 4000)
	if g := run(100, 0); len(g) != 1 || g[0] < 25 {
		t.Errorf("after the third, within a minute: %v", g)
	}
	run(3, 200)
	if g := run(100, 0); g != nil {
		t.Errorf("after a few: %v", g)
	}
}
