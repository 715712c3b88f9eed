package store

import (
	"crypto/rand"
	"io"
	"log/slog"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// An FS is the file system that a store is in.
type FS = vfs.FS

// NewMemFS returns a file system in memory, for tests: it outlives Close, and a second Open finds what
// was there.
func NewMemFS() *vfs.MemFS { return vfs.NewMem() }

// Options say where a store is and how large its caches are. The zero value of a field means its default.
type Options struct {
	Dir      string
	FS       FS   // the disk
	ReadOnly bool // never create, never write: ErrMissing if there is none

	CacheBytes    int64 // block cache; 64 MiB
	MemTableBytes int   // one of up to four; 32 MiB
	MaxOpenFiles  int   // 500

	// MinFree is how much free space there must be for writes; 512 MiB, negative is none. Ballast is the
	// size of a file that is deleted when the disk is full all the same; 64 MiB, negative is none.
	MinFree, Ballast int64
	// CheckEvery is how often free space is looked at; 5 s, negative is never.
	CheckEvery time.Duration

	// FailAfter is how long flushes and compactions may fail, tried again and again, before the store is taken
	// out of service; 1 minute. While Open waits for one, it is what Open may take.
	FailAfter time.Duration

	// BatchDelay is the longest that a busy committer lets writes gather for one sync; 2 ms. An idle one commits
	// at once. BatchOps and BatchBytes end the gathering: 4,096 and 4 MiB.
	BatchDelay time.Duration
	BatchOps   int
	BatchBytes int
	// QueueBytes is how much may wait for the disk: beyond it writes are refused with ErrFull, until half of
	// it is written. 64 MiB.
	QueueBytes int

	Now    func() time.Time // wall clock, for stamps; time.Now
	Rand   io.Reader        // crypto/rand.Reader
	Logger *slog.Logger     // slog.Default()
	// Fatal is called once, on a goroutine of its own, when the store can't go on. The process should end its
	// sessions and exit with status 1.
	Fatal func(err error)

	// Fault, if not nil, is asked before each read and each group of writes, and may take its time or return an
	// error, which becomes that of the read or the group: for tests against a slow and failing store.
	Fault Fault
}

// A Fault makes a store slow or fail. It is called on the goroutine that reads or commits, by several at
// once.
type Fault func(write bool) error

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
