// Package store keeps what must last: one Pebble database behind tables keyed by account, and one
// committer that makes batches durable in the order of their tickets.
//
// A key is a table's prefix byte, the owner's id in eight bytes, and the row's own key: an owner's rows
// of one table are one contiguous range, and no key of one owner is ever one of another. Account ids
// are the 12 bits of [jid.JID.Slot] and a number that is never used twice, so that a slot is one
// contiguous range too. Each value begins with its table's version.
//
// Writing is asynchronous: [DB.Commit] returns a ticket, a growing number; batches become durable, or
// fail, in ticket order. Reading is from a [Snapshot]; it sees what was durable when it was made.
package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/bits"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// Errors of Open and of tickets.
var (
	ErrLocked = errors.New("the data folder is in use by another process: stop it, or give another folder with --data")
	ErrFormat = errors.New("the data folder has another format")
	ErrExists = errors.New("the account exists")
	ErrNone   = errors.New("no such account")
	ErrClosed = errors.New("the store is closed")
	ErrFull   = error(full{})
)

type full struct{}

func (full) Error() string { return "the disk is full: free some space; reading and live chat go on" }
func (full) Full() bool    { return true }

// format is that of keys and values as a whole; tables have versions of their own.
const format = 1

// Ballast is how much disk is kept aside, so that there is room to end cleanly on a full disk; below
// MinFree bytes writes are refused.
const (
	Ballast = 64 << 20
	MinFree = 512 << 20
)

// Options say where and how. The zero value of a field means its default.
type Options struct {
	FS         vfs.FS // the machine's
	Dir        string
	CacheBytes int64 // 64 MiB
	Log        *slog.Logger
	// Fatal is called when the database can't go on, once; default: the process ends with status 1.
	Fatal    func(err error)
	ReadOnly bool
	// Free is how many bytes the disk has; tests replace it.
	Free func() (uint64, error)
}

// A DB is one open database. Any goroutine.
type DB struct {
	p   *pebble.DB
	opt Options

	mu      sync.Mutex
	queue   []*Batch
	next    uint64 // the last ticket given
	failed  map[uint64]error
	notify  []func()
	closed  bool
	wake    chan struct{}
	settled chan struct{} // closed and made anew after each batch
	told    uint64        // the last ticket whose settling everybody was told of
	last    atomic.Uint64
	done    chan struct{}

	accounts    sync.Mutex
	idNext      uint64
	idLease     uint64
	Incarnation uint32

	low       atomic.Bool
	lastLook  time.Time
	fatal     sync.Once
	latencies [24]atomic.Uint64
	batches   atomic.Uint64
	ops       atomic.Uint64
}

// Open opens the database in opt.Dir, and makes it if there is none.
func Open(opt Options) (*DB, error) {
	if opt.FS == nil {
		opt.FS = vfs.Default
	}
	if opt.CacheBytes == 0 {
		opt.CacheBytes = 64 << 20
	}
	if opt.Log == nil {
		opt.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	db := &DB{opt: opt, failed: make(map[uint64]error), wake: make(chan struct{}, 1), settled: make(chan struct{}), done: make(chan struct{})}
	if opt.Fatal == nil {
		db.opt.Fatal = func(err error) {
			opt.Log.Error("the store can't go on", "err", err)
			os.Exit(1)
		}
	}
	if opt.ReadOnly {
		if _, err := opt.FS.Stat(opt.Dir); err != nil {
			return nil, fmt.Errorf("%s: there is no data folder", opt.Dir)
		}
	} else if err := opt.FS.MkdirAll(opt.Dir, 0o700); err != nil {
		return nil, err
	}
	fs := vfs.OnDiskFull(opt.FS, db.diskFull)
	cache := pebble.NewCache(opt.CacheBytes)
	defer cache.Unref()
	po := &pebble.Options{
		FS:                          fs,
		Cache:                       cache,
		MemTableSize:                32 << 20,
		MemTableStopWritesThreshold: 4,
		BytesPerSync:                1 << 20,
		MaxOpenFiles:                900,
		FormatMajorVersion:          pebble.FormatNewest,
		Logger:                      logger{db},
		ReadOnly:                    opt.ReadOnly,
	}
	for i := range po.Levels {
		po.Levels[i].FilterPolicy = bloom.FilterPolicy(10)
	}
	p, err := pebble.Open(filepath.Join(opt.Dir, "db"), po)
	if err != nil {
		if strings.Contains(err.Error(), "lock") || strings.Contains(err.Error(), "temporarily unavailable") {
			return nil, fmt.Errorf("%s: %w", opt.Dir, ErrLocked)
		}
		return nil, fmt.Errorf("%s: %w", opt.Dir, err)
	}
	db.p = p
	if err := db.begin(); err != nil {
		p.Close()
		return nil, err
	}
	if !opt.ReadOnly {
		db.ballast()
	}
	go db.commitLoop()
	return db, nil
}

func (db *DB) ballastPath() string { return filepath.Join(db.opt.Dir, "ballast") }

// ballast makes the file that is given up on a full disk.
func (db *DB) ballast() {
	if _, err := db.opt.FS.Stat(db.ballastPath()); err == nil {
		return
	}
	if n, err := db.free(); err != nil || n < MinFree+2*Ballast {
		return // no disk to speak of, or none to spare
	}
	f, err := db.opt.FS.Create(db.ballastPath(), vfs.WriteCategoryUnspecified)
	if err != nil {
		return
	}
	defer f.Close()
	block := make([]byte, 1<<20)
	for range Ballast >> 20 {
		if _, err := f.Write(block); err != nil {
			db.opt.FS.Remove(db.ballastPath())
			return
		}
	}
}

func (db *DB) free() (uint64, error) {
	if db.opt.Free != nil {
		return db.opt.Free()
	}
	u, err := db.opt.FS.GetDiskUsage(db.opt.Dir)
	return u.AvailBytes, err
}

// diskFull is called by the file system when a write found no room, before it is tried once more.
func (db *DB) diskFull() {
	db.low.Store(true)
	db.opt.Log.Error("the disk is full; writes are refused until there is space again")
	db.opt.FS.Remove(db.ballastPath())
}

// logger takes Pebble's words; its last ones end the process in order.
type logger struct{ db *DB }

func (l logger) Infof(string, ...any)      {}
func (l logger) Errorf(f string, a ...any) { l.db.opt.Log.Warn("store: " + fmt.Sprintf(f, a...)) }
func (l logger) Fatalf(f string, a ...any) {
	l.db.fatal.Do(func() { l.db.opt.Fatal(fmt.Errorf("store: "+f, a...)) })
	select {} // Pebble relies on not coming back
}

// begin reads or writes what describes the database itself.
func (db *DB) begin() error {
	get := func(key string) (uint64, bool, error) {
		v, c, err := db.p.Get(metaKey(key))
		if errors.Is(err, pebble.ErrNotFound) {
			return 0, false, nil
		}
		if err != nil {
			return 0, false, err
		}
		defer c.Close()
		if len(v) != 8 {
			return 0, false, fmt.Errorf("%w: %s", ErrFormat, key)
		}
		return binary.BigEndian.Uint64(v), true, nil
	}
	b := db.p.NewBatch()
	put := func(key string, n uint64) { b.Set(metaKey(key), binary.BigEndian.AppendUint64(nil, n), nil) }
	f, ok, err := get("format")
	if err != nil {
		return err
	}
	if ok && f != format {
		return fmt.Errorf("%w: %d, and this program knows %d; use the program that wrote it, or export and import", ErrFormat, f, format)
	}
	put("format", format)
	for _, t := range tables() {
		v, ok, err := get("table/" + t.name)
		if err != nil {
			return err
		}
		if ok && v > uint64(t.version) {
			return fmt.Errorf("%w: table %s has version %d, and this program knows %d; use a newer program", ErrFormat, t.name, v, t.version)
		}
		put("table/"+t.name, uint64(t.version))
	}
	inc, _, err := get("incarnation")
	if err != nil {
		return err
	}
	db.Incarnation = uint32(inc + 1)
	put("incarnation", inc+1)
	if db.idLease, _, err = get("ids"); err != nil {
		return err
	}
	db.idNext = db.idLease
	if db.opt.ReadOnly {
		return b.Close()
	}
	return b.Commit(pebble.Sync)
}

func metaKey(k string) []byte { return append([]byte{0}, k...) }

// Close makes what was committed durable and closes the database.
func (db *DB) Close() error {
	db.mu.Lock()
	if db.closed {
		db.mu.Unlock()
		return nil
	}
	db.closed = true
	db.mu.Unlock()
	db.poke()
	<-db.done
	return db.p.Close()
}

func (db *DB) poke() {
	select {
	case db.wake <- struct{}{}:
	default:
	}
}

// Metrics are counters for the outside.
type Metrics struct {
	Batches, Ops uint64
	Latency      [24]uint64 // of a synced batch: below 1 µs, 2 µs, 4 µs, ...
	CacheBytes   int64
	DiskBytes    uint64
	Low          bool // writes are refused for want of space
}

// Metrics copies them.
func (db *DB) Metrics() Metrics {
	m := Metrics{Batches: db.batches.Load(), Ops: db.ops.Load(), Low: db.low.Load()}
	for i := range m.Latency {
		m.Latency[i] = db.latencies[i].Load()
	}
	pm := db.p.Metrics()
	m.CacheBytes, m.DiskBytes = pm.BlockCache.Size, pm.DiskSpaceUsage()
	return m
}

func (db *DB) measure(d time.Duration) {
	db.latencies[min(bits.Len64(uint64(d/time.Microsecond)), len(db.latencies)-1)].Add(1)
}
