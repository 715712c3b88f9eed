package store

import (
	"math/bits"
	"sync/atomic"
	"time"
)

// Metrics are the counters of a store since it was opened. Any goroutine reads them with Load.
type Metrics struct {
	// synced groups; batches and operations in them; batches that failed
	Groups, Batches, Ops, Failed atomic.Uint64
	// Conflicts are batches that were not written because the directory was not as they took it to be: of two
	// that give one name to an entity, the second. They are not among Failed.
	Conflicts atomic.Uint64
	Latency   Histogram // from Commit to durable, of the oldest batch of each group

	BackgroundErrors, Corruptions, SlowWrites atomic.Uint64
	FullEvents                                atomic.Uint64 // times that writes began to be refused
}

// HistogramBuckets is how many buckets a Histogram has.
const HistogramBuckets = 20

// A Histogram counts durations in buckets that double: bucket i has those below [HistogramBound] of i,
// the last has the rest.
type Histogram struct {
	Counts [HistogramBuckets]atomic.Uint64
	Sum    atomic.Uint64 // nanoseconds
}

// HistogramBound returns the upper bound of bucket i: 32 µs, 64 µs, … 8.4 s.
func HistogramBound(i int) time.Duration { return 32 * time.Microsecond << i }

func (h *Histogram) observe(d time.Duration) {
	i := min(bits.Len64(uint64(max(d, 0)/(32*time.Microsecond))), HistogramBuckets-1)
	h.Counts[i].Add(1)
	h.Sum.Add(uint64(max(d, 0)))
}

// Metrics returns the store's counters.
func (db *DB) Metrics() *Metrics { return &db.committer.metrics }

// Sizes are the bytes that a store takes, in memory and on disk.
type Sizes struct {
	Cache, MemTables, Tables int64 // memory; Tables is what was allocated for metadata of open files
	Disk                     int64
	Queue                    int64 // given and not yet written
}

// Sizes returns how many bytes the store takes now. It takes Pebble's lock briefly: for scrapes.
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
