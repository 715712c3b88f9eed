package bench

import (
	"fmt"
	"testing"
)

// A loop tells 50 kinds of failure apart. However many kinds there are, no failure is left out of the sum.
func TestFailureKinds(t *testing.T) {
	var ls loopState
	const kinds = 3 * maxFailureKinds
	for range 2 {
		for i := range kinds {
			ls.countFailure(Failure{What: fmt.Sprint("kind ", i)})
		}
	}
	sum := uint64(0)
	for _, r := range ls.failures {
		sum += r.Count
	}
	if len(ls.failures) != maxFailureKinds || sum != 2*kinds {
		t.Errorf("%d kinds with %d failures, not %d with %d", len(ls.failures), sum, maxFailureKinds, 2*kinds)
	}
	if last := ls.failures[maxFailureKinds-1]; last.What != "other failures" {
		t.Errorf("the last kind is %+v", last)
	}
}
