//go:build !invariants && !race

package reactor

// loopGoroutine is empty: this build does not check which goroutine uses a loop.
type loopGoroutine struct{}

// bindGoroutine does nothing in this build.
func (l *Loop) bindGoroutine() {}

// AssertOwned does nothing in this build. With the tag invariants or with -race it panics if it is
// called elsewhere than on l. Any goroutine.
func (l *Loop) AssertOwned() {}
