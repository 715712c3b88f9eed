//go:build invariants

package session

import (
	"bytes"
	"fmt"
	"runtime"
	"sync"
)

// Checked reports whether this build checks the order of locks, which allocates.
const Checked = true

// The lock order is entity, session's outbox; what is below has no way up. A goroutine that takes them
// in another order panics here, whether or not another goroutine makes it a deadlock.
var held struct {
	sync.Mutex
	by map[string]level
}

type level struct{ entity, box bool }

func goroutine() string {
	var b [64]byte
	n := runtime.Stack(b[:], false)
	f := bytes.Fields(b[:n])
	return string(f[1])
}

func check(f func(l *level)) {
	g := goroutine()
	held.Lock()
	defer held.Unlock()
	if held.by == nil {
		held.by = make(map[string]level)
	}
	l := held.by[g]
	f(&l)
	if l == (level{}) {
		delete(held.by, g)
	} else {
		held.by[g] = l
	}
}

func lockCheck() {
	check(func(l *level) {
		if l.entity || l.box {
			panic(fmt.Sprintf("session: an entity's lock is taken with %+v held", *l))
		}
		l.entity = true
	})
}

func unlockCheck() { check(func(l *level) { l.entity = false }) }

func outboxCheck() {
	check(func(l *level) {
		if l.box {
			panic("session: the leaf lock of a session is taken twice")
		}
		l.box = true
	})
}

func outboxUncheck() { check(func(l *level) { l.box = false }) }
