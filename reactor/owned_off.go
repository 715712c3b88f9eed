//go:build !invariants && !race

package reactor

type owner struct{}

func (l *Loop) own() {}

// Owned panics, in builds with -tags invariants or -race, if it is called elsewhere than on l. Any goroutine.
func (l *Loop) Owned() {}
