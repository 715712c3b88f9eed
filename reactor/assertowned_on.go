//go:build invariants || race

package reactor

import (
	"bytes"
	"fmt"
	"runtime"
)

// loopGoroutine is the goroutine that runs a loop, once it is known.
type loopGoroutine struct{ id string }

func goroutineID() string {
	var b [64]byte
	return string(bytes.Fields(b[:runtime.Stack(b[:], false)])[1])
}

// bindGoroutine is called on l's goroutine.
func (l *Loop) bindGoroutine() { l.goroutine.id = goroutineID() }

// AssertOwned panics if it is called elsewhere than on l: where what is the loop's own is used. The race
// detector finds that only if two goroutines have nothing at all between them that orders them, and what
// it breaks shows much later. Any goroutine.
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
