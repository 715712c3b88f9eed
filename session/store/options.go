package store

import (
	"crypto/rand"
	"io"
	"log/slog"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// FS is the file system that a store is in: Pebble's interface.
type FS = vfs.FS

// NewMemFS returns a file system in memory, for tests. It outlives the store: a second Open on it
// finds what the first has written.
func NewMemFS() *vfs.MemFS { return vfs.NewMem() }

// Options say where a store is, how large its caches are, and how it batches writes. The zero value
// of a field means its default, which its comment gives.
type Options struct {
	// Dir is the data folder. Open makes it if it is missing, unless ReadOnly is set.
	Dir string
	// FS is the file system; the operating system's.
	FS FS
	// ReadOnly opens an existing store for reading. Nothing is created or written: ErrMissing if there is none.
	ReadOnly bool

	CacheBytes    int64 // size of Pebble's block cache; 64 MiB
	MemTableBytes int   // size of one memtable; there are up to four; 32 MiB
	MaxOpenFiles  int   // descriptors that Pebble may keep open; 500

	// MinFree is the free space in bytes below which writes are refused; 512 MiB, negative: no bound.
	// Ballast is the size of a file that is deleted when the disk is full all the same; 64 MiB,
	// negative: no such file.
	MinFree, Ballast int64
	// CheckEvery is the interval between checks of the free space; 5 s, negative: never.
	CheckEvery time.Duration

	// FailAfter is how long flushes and compactions may keep failing, while Pebble tries them again,
	// before the store goes out of service; 1 minute. Open waits for a flush, so it may take as long.
	FailAfter time.Duration

	// BatchDelay is the longest time that a busy committer gathers batches for one sync; 2 ms. An idle
	// committer syncs at once. BatchOps and BatchBytes end the gathering early, and bound a group;
	// 4,096 writes and 4 MiB.
	BatchDelay time.Duration
	BatchOps   int
	BatchBytes int
	// QueueBytes bounds the batches that wait for the disk; 64 MiB. Beyond it batches are refused with
	// ErrFull, until half of it is written.
	QueueBytes int

	Now    func() time.Time // wall clock, for times that are stored; time.Now
	Rand   io.Reader        // where secrets come from; crypto/rand.Reader
	Logger *slog.Logger     // where the store logs; slog.Default()
	// Fatal is called once, on a goroutine of its own, when the store goes out of service for good.
	// The process should end its sessions and exit with status 1.
	Fatal func(err error)

	// Fault, if not nil, is called before each read and each group of writes. It may take its time. If
	// it returns an error, the read or the group fails with it. For tests against a slow or failing
	// store.
	Fault Fault
}

// A Fault makes a store slow or makes it fail. write is true for a group of writes, false for a read. It is
// called on the goroutine that reads or commits, by several at once.
type Fault func(write bool) error

// withDefaults returns o with the default of each field that is zero: first the file system, then the sizes
// and counts, then the durations, the clock, the random source, the logger and the callback. A negative
// CacheBytes, MinFree or Ballast, which switches the function off, becomes 0. Other fields stay as they are.
func (o Options) withDefaults() Options {
	def := func(v *int, d int) {
		if *v == 0 {
			*v = d
		}
	}
	def64 := func(v *int64, d int64) {
		if *v == 0 {
			*v = d
		} else if *v < 0 {
			*v = 0
		}
	}
	if o.FS == nil {
		o.FS = vfs.Default
	}
	def64(&o.CacheBytes, 64<<20)
	def64(&o.MinFree, 512<<20)
	def64(&o.Ballast, 64<<20)
	def(&o.MemTableBytes, 32<<20)
	def(&o.MaxOpenFiles, 500)
	def(&o.BatchOps, 4096)
	def(&o.BatchBytes, 4<<20)
	def(&o.QueueBytes, 64<<20)
	if o.CheckEvery == 0 {
		o.CheckEvery = 5 * time.Second
	}
	if o.FailAfter == 0 {
		o.FailAfter = time.Minute
	}
	if o.BatchDelay == 0 {
		o.BatchDelay = 2 * time.Millisecond
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Rand == nil {
		o.Rand = rand.Reader
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.Fatal == nil {
		o.Fatal = func(error) {}
	}
	return o
}
