package session

import (
	"sync"
	"sync/atomic"
)

// A Counter is a number that a module counts for the metrics: what has happened since the start of the
// process. Any goroutine.
type Counter struct{ n atomic.Uint64 }

// Add adds n to c.
func (c *Counter) Add(n uint64) { c.n.Add(n) }

// A CounterName says what a [Counter] counts. Its values come from a fixed set: a peer must not be able to
// make more of them (attack K65).
type CounterName struct {
	Name  string // of the metric, without the prefix canto_: "archive_rows_total"
	Help  string // one sentence for the operator
	Label string // the one label of the metric; empty: it has none
	Value string // the value of the label
}

// Counters are the counters of the modules of a process.
type Counters struct {
	mu   sync.Mutex
	list []registeredCounter // in the order in which they were made
}

// A registeredCounter is one counter with its name.
type registeredCounter struct {
	name    CounterName
	counter *Counter
}

// Counter returns the counter called name, the same one for the modules of all profiles, and makes it if
// there is none. Any goroutine; meant for [Module.Load].
func (r *Counters) Counter(name CounterName) *Counter {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.list {
		if c.name == name {
			return c.counter
		}
	}
	c := new(Counter)
	r.list = append(r.list, registeredCounter{name, c})
	return c
}

// EachCounter calls f with each counter. Any goroutine.
func (r *Counters) EachCounter(f func(name CounterName, n uint64)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.list {
		f(c.name, c.counter.n.Load())
	}
}
