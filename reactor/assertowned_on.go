//go:build invariants || race

package reactor

import (
	"bytes"
	"fmt"
	"runtime"
)

// loopGoroutine identifies the goroutine of a loop; the id is empty until bindGoroutine.
type loopGoroutine struct{ id string }

// goroutineID returns the number of the calling goroutine, from the first line of its stack trace
// ("goroutine 18 [running]:"), as Go has no other way to it. That is slow, and one reason for the
// build tag.
func goroutineID() string {
	var b [64]byte
	return string(bytes.Fields(b[:runtime.Stack(b[:], false)])[1])
}

// bindGoroutine notes the calling goroutine as that of l. The engine calls it on l, at start.
func (l *Loop) bindGoroutine() { l.goroutine.id = goroutineID() }

// AssertOwned panics if it is called elsewhere than on l. Functions that use state of a loop call
// it first. The race detector finds a wrong goroutine only if nothing orders the two accesses, and
// damage shows much later. In a Memory all loops share a goroutine; there it panics inside the turn
// of another loop. Any goroutine.
func (l *Loop) AssertOwned() {
	if m, ok := l.r.backend.(*Memory); ok {
		if m.running != nil && m.running != l {
			panic(fmt.Sprintf("reactor: what loop %d owns is used on loop %d", l.index, m.running.index))
		}
		return
	}
	if own := l.goroutine.id; own != "" {
		if g := goroutineID(); g != own {
			panic(fmt.Sprintf("reactor: what loop %d owns is used on goroutine %s", l.index, g))
		}
	}
}
