//go:build !invariants && !race

package reactor

type loopGoroutine struct{}

func (l *Loop) bindGoroutine() {}

// AssertOwned panics, in builds with -tags invariants or -race, if it is called elsewhere than on l. Any
// goroutine.
func (l *Loop) AssertOwned() {}
