package reactor

import (
	"testing"

	"pgregory.net/rapid"
)

// Jobs come out in the order they went in, however the ring grows and wraps; none is taken beyond the
// limit, and an empty queue holds on to little.
func TestQueue(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var q queue
		q.notEmpty.L = &q.mu
		in, out := 0, 0
		got := -1
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			for range rapid.IntRange(0, 400).Draw(t, "put") {
				i := in
				in++
				if !q.put(job{done: func(error) { got = i }}) {
					t.Fatal("there is room")
				}
			}
			for range min(rapid.IntRange(0, 500).Draw(t, "taken"), in-out) {
				j, _ := q.take()
				if j.done(nil); got != out {
					t.Fatalf("job %d came, and %d was next", got, out)
				}
				out++
			}
			if q.n != in-out || q.n == 0 && len(q.ring) > maxIdleRing {
				t.Fatalf("%d of %d are left, in a ring of %d", q.n, in-out, len(q.ring))
			}
		}
	})
	var q queue
	q.notEmpty.L = &q.mu
	n := 0
	for q.put(job{}) {
		n++
	}
	if n != maxJobs {
		t.Errorf("it takes %d jobs", n)
	}
	q.closed = true
	for range n {
		if _, ok := q.take(); !ok {
			t.Fatal("a job that was taken is not done")
		}
	}
	if _, ok := q.take(); ok || q.put(job{}) {
		t.Error("a closed queue goes on")
	}
}
