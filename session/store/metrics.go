package store

import (
	"math/bits"
	"sync/atomic"
	"time"
)

// Metrics are the counters of a store since it was opened. Any goroutine reads them with Load. The
// committer writes most of them.
type Metrics struct {
	Groups  atomic.Uint64 // groups that were written, each with one sync
	Batches atomic.Uint64 // batches in these groups
	Ops     atomic.Uint64 // writes in these batches
	Failed  atomic.Uint64 // entries of the queue that failed, but for Conflicts; refused neighbours count once
	// Conflicts are batches that were refused because the directory was not as their rule said: of two
	// batches that make one name, the second. They are not among Failed.
	Conflicts atomic.Uint64
	Latency   Histogram // from Commit to durable, of the oldest batch of each group

	BackgroundErrors atomic.Uint64 // failed flushes and compactions of Pebble, which tries them again
	Corruptions      atomic.Uint64 // damaged blocks that Pebble has found
	SlowWrites       atomic.Uint64 // operations on files that took longer than Pebble's threshold
	FullEvents       atomic.Uint64 // times that writes began to be refused for lack of space or a full queue
}

// HistogramBuckets is the number of buckets of a Histogram.
const HistogramBuckets = 20

// A Histogram counts durations in buckets whose bounds double: bucket i counts those below
// [HistogramBound] of i and not below that of i-1. The last bucket counts all longer ones as well.
// Any goroutine.
type Histogram struct {
	Counts [HistogramBuckets]atomic.Uint64 // durations in each bucket
	Sum    atomic.Uint64                   // of all durations, in nanoseconds
}

// HistogramBound returns the upper bound of bucket i: 32 µs for 0, 64 µs for 1, … 8.4 s for 18. The
// last bucket has no bound.
func HistogramBound(i int) time.Duration { return 32 * time.Microsecond << i }

// observe counts d. A negative d counts as 0.
func (h *Histogram) observe(d time.Duration) {
	i := min(bits.Len64(uint64(max(d, 0)/(32*time.Microsecond))), HistogramBuckets-1)
	h.Counts[i].Add(1)
	h.Sum.Add(uint64(max(d, 0)))
}

// Metrics returns the store's counters.
func (db *DB) Metrics() *Metrics { return &db.committer.metrics }

// Sizes are the bytes that a store takes in memory and on disk.
type Sizes struct {
	Cache     int64 // Pebble's block cache
	MemTables int64 // memtables
	Tables    int64 // metadata of open files, in memory
	Disk      int64 // all files
	Queue     int64 // batches that wait for the disk
}

// Sizes returns how many bytes the store takes now; zeros once it is out of service or closed. It
// takes a lock of Pebble: for scrapes of metrics, not for loops.
func (db *DB) Sizes() (s Sizes) {
	if db.failed.Load() != nil {
		return s
	}
	m := db.pebble.Metrics()
	db.committer.mu.Lock()
	defer db.committer.mu.Unlock()
	return Sizes{Cache: m.BlockCache.Size, MemTables: int64(m.MemTable.Size), Tables: m.FileCache.Size,
		Disk: int64(m.DiskSpaceUsage()), Queue: int64(db.committer.bytes)}
}
