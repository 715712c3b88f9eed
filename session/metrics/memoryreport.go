package metrics

import (
	"runtime"
	runtimemetrics "runtime/metrics"
	"slices"
	"strings"

	"canto/reactor"
	"canto/reactor/buf"
	"canto/session"
)

// A MemoryPart is how much one part of the server holds.
type MemoryPart struct {
	Name  string // label of the metric canto_bytes
	Count int    // how many objects it has; 0 where that means nothing
	Bytes int    // what they take
	Heap  bool   // they are in Go's heap
}

// A MemoryReport says how much memory each part of the server holds, and how much the runtime has
// for all of them. It does not change once it was made.
type MemoryReport struct {
	Parts    []MemoryPart // of connections, kernel and store
	Sessions int          // sessions that are bound

	// What the runtime says, in bytes; its parts are those of package runtime/metrics.
	Live     int // objects of the heap that the last collection found alive
	Garbage  int // objects that were made or have died since
	Unused   int // space of the heap without objects
	Stacks   int // stacks of goroutines and threads
	Runtime  int // the runtime's own data
	Released int // given back to the operating system
	System   int // everything that the runtime has mapped
}

// HeapBytes returns how many bytes of the heap the parts hold.
func (a *MemoryReport) HeapBytes() (n int) {
	for _, p := range a.Parts {
		if p.Heap {
			n += p.Bytes
		}
	}
	return n
}

// Unaccounted returns the bytes of the heap that are alive and belong to no part. It is negative
// while much has been made since the last collection.
func (a *MemoryReport) Unaccounted() int { return a.Live - a.HeapBytes() }

// How long a report is fresh, for scrapes.
const (
	reportTicks = 100 // the least age, in ticks of 100 ms
	reportShare = 100 // making reports takes at most a hundredth of the time
)

// MemoryReport makes a report, or returns the last one if it is fresh. With collect it runs the
// garbage collector first, and makes a new report. It waits for the loops and looks at every entity
// in memory. Any goroutine but a loop's.
func (c *Collector) MemoryReport(collect bool) *MemoryReport {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.Reactor.Tick()
	if c.report != nil && now < c.freshUntil && !collect {
		return c.report
	}
	if collect {
		runtime.GC()
	}
	a := new(MemoryReport)
	c.addConnections(a)
	c.addKernel(a)
	sizes := c.DB.Sizes()
	a.add("store_cache", 0, int(sizes.Cache), storeInHeap)
	a.add("store_tables", 0, int(sizes.Tables), storeInHeap)
	a.add("store_writes", 0, int(sizes.MemTables), storeInHeap)
	a.add("store_queue", 0, int(sizes.Queue), true)
	a.readRuntime()
	c.report = a
	c.freshUntil = c.Reactor.Tick()
	c.freshUntil += max(reportTicks, reportShare*(c.freshUntil-now))
	return a
}

// add appends a part.
func (a *MemoryReport) add(name string, count, bytes int, heap bool) {
	a.Parts = append(a.Parts, MemoryPart{name, count, bytes, heap})
}

// objectBytes returns the bytes of n times the objects of these sizes, as the allocator rounds
// them.
func objectBytes(n int, sizes []int) (bytes int) {
	for _, s := range sizes {
		bytes += n * session.Allocated(s)
	}
	return bytes
}

// addConnections adds the parts of reactor and streams: connections, TLS, buffers, loops.
func (c *Collector) addConnections(a *MemoryReport) {
	s := c.Reactor.ObjectSizes()
	var sum reactor.Meter
	conns, tls, loops := 0, 0, 0
	for _, l := range c.Reactor.Loops() {
		m := l.Meter()
		n := objectBytes(m.Connected, s.Conn)
		for _, e := range s.MapEntries {
			n += session.MapBytes(m.Connected, e)
		}
		conns += n
		tls += objectBytes(m.TLS, s.TLS) + objectBytes(m.StdTLS, s.StdTLS) + m.StdTLSGrowth +
			objectBytes(m.WarmTLS, s.WarmTLS)
		loops += objectBytes(1, s.Loop) + m.ScratchBytes
		sum.Connected += m.Connected
		sum.TLS += m.TLS
		sum.OutboxBytes += m.OutboxBytes
		sum.ParkedBytes += m.ParkedBytes
	}
	onEachLoop(c.Router, (*session.LoopRouter).HeapBytes, func(n int) { loops += n })
	a.add("connections", sum.Connected, conns, true)
	a.add("tls", sum.TLS, tls, true)
	a.add("streams", sum.Connected, sum.Connected*session.StreamBytes(), true)
	a.add("outboxes", int(buf.Outbox.InUse()), sum.OutboxBytes, true)
	a.add("parked", int(buf.Input.InUse()), sum.ParkedBytes, true)
	a.add("loops", len(c.Reactor.Loops()), loops, true)
}

// addKernel adds the parts of the kernel and its modules.
func (c *Collector) addKernel(a *MemoryReport) {
	h := c.Router.Table.Footprint()
	a.Sessions = h["sessions"].Count
	// these parts are always present, so that their metrics are
	for _, name := range []string{"sessions", "presences", "held", "accounts", "inboxes", "tables"} {
		a.add(name, h[name].Count, h[name].Bytes, true)
		delete(h, name)
	}
	from := len(a.Parts)
	for name, x := range h {
		a.add(name, x.Count, x.Bytes, true)
	}
	slices.SortFunc(a.Parts[from:], func(a, b MemoryPart) int { return strings.Compare(a.Name, b.Name) })
}

// readRuntime fills in what the runtime says. Ranges of s are added up to one field each.
func (a *MemoryReport) readRuntime() {
	s := []runtimemetrics.Sample{
		{Name: "/gc/heap/live:bytes"}, {Name: "/memory/classes/heap/objects:bytes"},
		{Name: "/memory/classes/heap/unused:bytes"}, {Name: "/memory/classes/heap/free:bytes"},
		{Name: "/memory/classes/heap/stacks:bytes"}, {Name: "/memory/classes/os-stacks:bytes"},
		{Name: "/memory/classes/metadata/mcache/free:bytes"},
		{Name: "/memory/classes/metadata/mcache/inuse:bytes"}, {Name: "/memory/classes/metadata/mspan/free:bytes"},
		{Name: "/memory/classes/metadata/mspan/inuse:bytes"}, {Name: "/memory/classes/metadata/other:bytes"},
		{Name: "/memory/classes/other:bytes"}, {Name: "/memory/classes/profiling/buckets:bytes"},
		{Name: "/memory/classes/heap/released:bytes"}, {Name: "/memory/classes/total:bytes"},
	}
	runtimemetrics.Read(s)
	n := func(from, to int) (sum int) {
		for i := from; i < to; i++ {
			if s[i].Value.Kind() == runtimemetrics.KindUint64 { // else this version of Go does not have it
				sum += int(s[i].Value.Uint64())
			}
		}
		return sum
	}
	a.Live, a.Garbage, a.Unused, a.Stacks, a.Runtime, a.Released, a.System = n(0, 1), n(1, 2)-n(0, 1), n(2, 4),
		n(4, 6), n(6, 13), n(13, 14), n(14, 15)
}
