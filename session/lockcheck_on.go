//go:build invariants

package session

import (
	"bytes"
	"fmt"
	"runtime"
	"sync"
)

// Checked says whether this build checks the order of locks. Checking allocates.
const Checked = true

// lockOrder has which locks each goroutine holds. The order is: one entity, then one session's outbox. A
// goroutine that takes them in another order panics, also where no other goroutine happens to make it a
// deadlock.
var lockOrder struct {
	sync.Mutex
	by map[string]locks // by goroutine
}

// locks are the locks that one goroutine holds.
type locks struct{ entity, outbox bool }

// goroutine is the number of the goroutine that calls it, from the first line of its stack.
func goroutine() string {
	var b [64]byte
	n := runtime.Stack(b[:], false)
	f := bytes.Fields(b[:n])
	return string(f[1])
}

// check calls f with the locks of the calling goroutine, to check and change them.
func check(f func(l *locks)) {
	g := goroutine()
	lockOrder.Lock()
	defer lockOrder.Unlock()
	if lockOrder.by == nil {
		lockOrder.by = make(map[string]locks)
	}
	l := lockOrder.by[g]
	f(&l)
	if l == (locks{}) {
		delete(lockOrder.by, g)
	} else {
		lockOrder.by[g] = l
	}
}

// lockCheck is called before the lock of an entity is taken.
func lockCheck() {
	check(func(l *locks) {
		if l.entity || l.outbox {
			panic(fmt.Sprintf("session: an entity's lock is taken with %+v held", *l))
		}
		l.entity = true
	})
}

// unlockCheck is called when the lock of an entity was given back.
func unlockCheck() { check(func(l *locks) { l.entity = false }) }

// outboxCheck is called before the outbox lock of a session is taken.
func outboxCheck() {
	check(func(l *locks) {
		if l.outbox {
			panic("session: the outbox lock of a session is taken twice")
		}
		l.outbox = true
	})
}

// outboxUncheck is called when the outbox lock was given back.
func outboxUncheck() { check(func(l *locks) { l.outbox = false }) }
