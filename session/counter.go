package session

import (
	"sync"
	"sync/atomic"
)

// This file has the counters of modules. Each is one value of a label of a metric.

// A Counter counts something that a module does, for the metrics. All its methods may be called by any
// goroutine.
type Counter struct {
	// Name is that of the metric without the prefix of the program, as pushes_total; Help is its text. Label and
	// Value name one of the counters of the metric.
	Name, Help, Label, Value string

	n atomic.Uint64
}

// counters are the counters of the process.
var counters struct {
	sync.Mutex // guards list
	list       []*Counter
}

// NewCounter registers a counter of the process, for a package variable. Counters of one metric have the same
// name, help and label. The values of a label are a fixed set: nothing that a peer sends belongs there. Any
// goroutine.
func NewCounter(name, help, label, value string) *Counter {
	c := &Counter{Name: name, Help: help, Label: label, Value: value}
	counters.Lock()
	defer counters.Unlock()
	counters.list = append(counters.list, c)
	return c
}

// Add adds one.
func (c *Counter) Add() { c.n.Add(1) }

// Load returns how often Add was called.
func (c *Counter) Load() uint64 { return c.n.Load() }

// EachCounter calls f with each counter of the process, in the order in which they were registered. Any
// goroutine.
func EachCounter(f func(c *Counter)) {
	counters.Lock()
	list := counters.list
	counters.Unlock()
	for _, c := range list {
		f(c)
	}
}
