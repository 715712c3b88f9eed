package store

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"canto/session/jid"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// formatVersion is the version of this package's layout: key prefixes and rows of the system.
// oldestFormat is the oldest that Open accepts. A change of the layout needs a new formatVersion:
// older programs then refuse the store instead of misreading it.
const (
	// 2: messages are archived, and offline messages are a cursor into the archive; 3: sessions without a
	// connection have rows
	formatVersion = 3
	oldestFormat  = 1
)

// pebbleVersion is the format of Pebble's files. Raising it needs no new formatVersion: Pebble
// converts older files when it opens them, and refuses newer ones. After that, older programs can't
// open the store.
const pebbleVersion = pebble.FormatFlushableIngestExcises

// A DB is an open store. Any goroutine may use it, unless a method says otherwise. Close it once
// nothing uses it.
type DB struct {
	opts   Options
	pebble *pebble.DB
	lock   *pebble.Lock
	cache  *pebble.Cache
	tables *TableRegistry
	committer
	disk
	entities  *Entities
	accounts  *Accounts
	hosts     *Hosts
	secrets   *Secrets
	deadlines *Deadlines

	leasesMu sync.Mutex // guards leases; held while a lease is read from disk
	leases   map[string]*Lease

	incarnation       uint32
	failed            atomic.Pointer[failure] // not nil: out of service, or closed; nothing is written any more
	failedCh          chan struct{}           // closed when fail sets failed
	backgroundRetries backgroundRetries
	closeOnce         sync.Once
	closeErr          error
	stop              chan struct{}  // closed by Close: the goroutines end
	running           sync.WaitGroup // the goroutines of the store
}

// A failure boxes an error for an atomic.Pointer.
type failure struct{ err error }

// Open opens the store in o.Dir. If there is none, it makes one, unless o is read-only. It waits
// for the disk: a store that was not closed replays its write-ahead log. The errors are
// [ErrLocked], [ErrFormat], [ErrMissing], [ErrCorrupt], or the file system's with a remedy for the
// operator. After an error nothing is left open, but for a Pebble that does not return: see
// openPebble.
func Open(o Options) (*DB, error) {
	o = o.withDefaults()
	db := &DB{opts: o, stop: make(chan struct{}), failedCh: make(chan struct{})}
	if err := db.open(); err != nil {
		return nil, err
	}
	return db, nil
}

// open does what Open says:
//
//  1. Make the folder, or find out that there is nothing to read.
//  2. Take the folder's lock, so that no other process writes to it.
//  3. Write a probe file: Pebble would wait for ever in a folder that it may not write to.
//  4. Open Pebble. Its files go through disk.fs, which watches for a full disk; from then on
//     walGuardFS guards the write-ahead log.
//  5. Check the version of the layout, and load the records of the tables.
//  6. Start the committer, record this start durably, and start watching the free space.
//
// An error takes back the steps before it.
func (db *DB) open() (err error) {
	o := &db.opts
	fs := o.FS
	if o.ReadOnly {
		if _, err := fs.Stat(o.Dir); err != nil {
			return fmt.Errorf("%w: %s: %v", ErrMissing, o.Dir, err)
		}
	} else if err := fs.MkdirAll(o.Dir, 0o700); errors.Is(err, os.ErrPermission) {
		return fmt.Errorf("store: making the folder: %w: user %d must have the right to write where it is to "+
			"be made; or give another "+
			"folder with --data", err, os.Geteuid())
	} else if err != nil {
		return fmt.Errorf("store: making the folder: %w", withRemedy(o.Dir, err))
	}
	desc, err := pebble.Peek(o.Dir, fs)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return openError(o.Dir, err)
	}
	if o.ReadOnly && (desc == nil || !desc.Exists) {
		return fmt.Errorf("%w: %s", ErrMissing, o.Dir)
	}
	if db.lock, err = pebble.LockDirectory(o.Dir, fs); err != nil {
		if errors.Is(err, syscall.EAGAIN) || errors.Is(err, syscall.EWOULDBLOCK) ||
			err.Error() == "lock held by current process" {
			return lockedError(o.Dir, err)
		}
		return fmt.Errorf("store: locking %s: %w", o.Dir, withRemedy(o.Dir, err))
	}
	if !o.ReadOnly {
		if err = checkWritable(fs, o.Dir); err != nil {
			db.lock.Close()
			return err
		}
	}
	db.cache = pebble.NewCache(o.CacheBytes)
	defer func() {
		if err != nil {
			if db.pebble != nil && db.failed.Load() == nil {
				db.disk.guardWAL.Store(false)
				db.pebble.Close()
			}
			db.cache.Unref()
			db.lock.Close()
		}
	}()
	db.disk.init(db)
	po := &pebble.Options{
		Cache: db.cache, FS: db.disk.fs, Lock: db.lock, ReadOnly: o.ReadOnly,
		FormatMajorVersion: pebbleVersion,
		MemTableSize:       uint64(o.MemTableBytes), MemTableStopWritesThreshold: 4,
		L0CompactionThreshold: 4, MaxOpenFiles: o.MaxOpenFiles,
		BytesPerSync: 1 << 20, WALBytesPerSync: 0,
		Logger:                     logger{db},
		CompactionConcurrencyRange: func() (int, int) { return 1, 2 },
		FlushDelayDeleteRange:      10 * time.Second,
		DisableWAL:                 false,
		EventListener: &pebble.EventListener{BackgroundError: db.onBackgroundError,
			DataCorruption: db.onDataCorruption, DiskSlow: db.onDiskSlow, FlushEnd: db.onFlushEnd,
			CompactionEnd: db.onCompactionEnd},
	}
	for i := range po.Levels {
		po.Levels[i].FilterPolicy = bloom.FilterPolicy(10)
	}
	if db.pebble, err = db.openPebble(po); err != nil {
		return openError(o.Dir, err)
	}
	db.disk.guardWAL.Store(!o.ReadOnly)
	db.committer.init(db)
	db.tables = newTableRegistry(db)
	if err = db.checkFormat(); err != nil {
		return err
	}
	if err = db.tables.loadRecords(); err != nil {
		return err
	}
	db.entities, db.accounts = &Entities{db: db}, &Accounts{db: db}
	db.hosts, db.secrets = newHosts(db), newSecrets(db)
	db.deadlines = &Deadlines{db: db}
	if err = db.deadlines.open(); err != nil {
		return err
	}
	if !o.ReadOnly {
		db.running.Add(2)
		go db.committer.run()
		go db.committer.applyAll()
		if err = db.recordStart(); err != nil {
			close(db.stop)
			db.waitGoroutines()
			return err
		}
		db.disk.start()
	}
	return nil
}

// openPebble opens Pebble, and makes an error of a panic, as of a damaged file. Pebble's Open waits
// for flushes, and does not return while they fail. If the store goes out of service meanwhile (see
// onBackgroundError), openPebble returns without it; the goroutine is left until the process ends.
func (db *DB) openPebble(o *pebble.Options) (*pebble.DB, error) {
	type opened struct {
		p   *pebble.DB
		err error
	}
	done := make(chan opened, 1)
	go func() {
		var r opened
		defer func() {
			if v := recover(); v != nil {
				r = opened{nil, corruptError(db.opts.Dir, fmt.Errorf("%v", v))}
			}
			done <- r
		}()
		r.p, r.err = pebble.Open(db.opts.Dir, o)
	}()
	select {
	case r := <-done:
		return r.p, r.err
	case <-db.failedCh:
		return nil, db.Err()
	}
}

// openError is an error of Pebble's Open as a store's error, with a remedy.
func openError(dir string, err error) error {
	switch text := err.Error(); {
	case errors.Is(err, os.ErrPermission): // Pebble says "corruption" for a file that it may not read
	case pebble.IsCorruptionError(err):
		return fmt.Errorf("%w: restore a backup, or give another folder with --data", corruptError(dir, err))
	case strings.Contains(text, "format major version"), strings.Contains(text, "legacy"),
		errors.Is(err, pebble.ErrDBNotPristine):
		return fmt.Errorf("%w: %s: %v", ErrFormat, dir, err)
	}
	return fmt.Errorf("store: opening %s: %w", dir, withRemedy(dir, err))
}

// Keys of the system's own table, whose prefix byte is 0. They are stored and never change.
var (
	keyFormat      = []byte("\x00format")      // formatVersion of the last program that has written
	keyIncarnation = []byte("\x00incarnation") // how often the store was opened for writing
	keyIDBlock     = []byte("\x00number")      // the end of the block of numbers that is reserved for ids
	keyUnicode     = []byte("\x00unicode")     // the Unicode version by which names were prepared
	keyAlive       = []byte("\x00alive")       // the server's time when a process was last seen: see Deadlines
	prefixTable    = "\x00table\x00"           // then the table's name
	prefixLease    = "\x00lease\x00"           // then the lease's name
	prefixDeleted  = "\x00gone\x00"            // then the id of a deleted entity: its tombstone
)

// prefixDeadline begins the keys of [Deadlines].
const prefixDeadline = "\x00due\x00"

// checkFormat reads the version of the layout. A store without a version is new, or was made by
// another program: if it has rows, it is refused.
func (db *DB) checkFormat() error {
	v, ok, err := db.systemNumber(keyFormat)
	if err != nil {
		return err
	}
	if ok {
		if v > formatVersion || v < oldestFormat {
			return formatError(db.opts.Dir, v, formatVersion)
		}
		return nil
	}
	it, err := db.pebble.NewIter(nil)
	if err != nil {
		return err
	}
	rows := it.First()
	if err := it.Close(); err != nil {
		return err
	}
	if rows {
		return fmt.Errorf("%w: %s holds rows without a version: it is not a store of this program", ErrFormat,
			db.opts.Dir)
	}
	if db.opts.ReadOnly {
		return fmt.Errorf("%w: %s is empty", ErrMissing, db.opts.Dir)
	}
	return nil
}

// recordStart writes one batch and waits for it: the version of the layout, the new incarnation,
// the Unicode version of a new store, and the first block of numbers for ids. Called by open;
// nothing else is committed before it is durable.
func (db *DB) recordStart() error {
	n, _, err := db.systemNumber(keyIncarnation)
	if err != nil {
		return err
	}
	db.incarnation = uint32(n) + 1
	b := db.systemBatch()
	b.setNumber(keyFormat, formatVersion)
	b.setNumber(keyIncarnation, n+1)
	if _, ok, err := db.get(keyUnicode); err != nil {
		return err
	} else if !ok {
		b.set(keyUnicode, []byte(jid.UnicodeVersion))
	}
	reserved, err := db.reserveIDs(b)
	if err != nil {
		return err
	}
	if err := db.Wait(context.Background(), db.Commit(b)); err != nil {
		return err
	}
	reserved()
	return nil
}

// systemNumber reads a row of the system that holds one number; ok is false if there is none. For
// use before the goroutines run, too.
func (db *DB) systemNumber(key []byte) (n uint64, ok bool, err error) {
	v, closer, err := db.pebble.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return 0, false, nil
	}
	if err != nil {
		if errors.Is(err, os.ErrPermission) {
			return 0, false, fmt.Errorf("store: reading: %w", withRemedy(db.opts.Dir, err))
		}
		return 0, false, corruptError("a row of the system", err)
	}
	defer closer.Close()
	if len(v) != 8 {
		return 0, false, corruptError("a row of the system", errors.New("not a number"))
	}
	return binary.BigEndian.Uint64(v), true, nil
}

// UnicodeVersion returns the version of the Unicode tables by which the names in the store were
// prepared. If it is not [jid.UnicodeVersion], names may prepare differently now:
// [Accounts.NotNormalized] lists these accounts, and [DB.SetUnicodeVersion] records that the
// operator has dealt with them.
func (db *DB) UnicodeVersion() (string, error) {
	v, _, err := db.get(keyUnicode)
	return string(v), err
}

// SetUnicodeVersion records [jid.UnicodeVersion] and waits until that is durable.
func (db *DB) SetUnicodeVersion(ctx context.Context) error {
	b := db.systemBatch()
	b.set(keyUnicode, []byte(jid.UnicodeVersion))
	return db.Wait(ctx, db.Commit(b))
}

// Tables returns the registry in which modules open their tables.
func (db *DB) Tables() *TableRegistry { return db.tables }

// Entities returns the directory of everything that has an address: accounts, and entities of any
// other kind.
func (db *DB) Entities() *Entities { return db.entities }

// Accounts returns the accounts of all hosts.
func (db *DB) Accounts() *Accounts { return db.accounts }

// Hosts returns the hosts that are kept in the store, besides those of the configuration.
func (db *DB) Hosts() *Hosts { return db.hosts }

// Secrets returns the random keys that outlive the process.
func (db *DB) Secrets() *Secrets { return db.secrets }

// Incarnation returns how often this store was opened for writing, this time included; 0 if it is
// read-only.
func (db *DB) Incarnation() uint32 { return db.incarnation }

// Err returns why the store is out of service; nil while it can write. A full disk does not count,
// see [DB.Full]. Any goroutine.
func (db *DB) Err() error {
	if f := db.failed.Load(); f != nil {
		return f.err
	}
	return nil
}

// fail takes the store out of service for good: it logs the cause, wakes every goroutine that waits
// for a write, and calls Options.Fatal. Only the first call does anything. Any goroutine, also one
// of Pebble's that holds its locks: fail must not call Pebble.
func (db *DB) fail(cause error) {
	f := &failure{fmt.Errorf("%w: %w", ErrUnavailable, cause)}
	if db.failed.CompareAndSwap(nil, f) {
		db.opts.Logger.Error("the store can't go on", "err", cause)
		close(db.failedCh)
		go db.opts.Fatal(f.err)
	}
}

// Close writes what was committed, ends the goroutines, and closes Pebble and the lock. Snapshots
// must be closed before. It returns the first error; a second call returns the same. If the store
// is out of service (see [DB.Err]), the files and the lock stay as they are until the process ends,
// as Pebble may be stuck in a write.
func (db *DB) Close() error {
	db.closeOnce.Do(func() {
		if !db.opts.ReadOnly {
			db.deadlines.NoteAlive()
			db.committer.close()
			close(db.stop)
			db.waitGoroutines()
		}
		if db.closeErr = db.Err(); db.closeErr != nil {
			return
		}
		db.failed.Store(&failure{fmt.Errorf("%w: closed", ErrUnavailable)})
		db.disk.guardWAL.Store(false)
		db.closeErr = db.pebble.Close()
		db.cache.Unref()
		if err := db.lock.Close(); db.closeErr == nil {
			db.closeErr = err
		}
	})
	return db.closeErr
}

// waitGoroutines waits until the store's goroutines have ended, or until the store goes out of
// service: then one of them may be in a write that Pebble never returns from.
func (db *DB) waitGoroutines() {
	done := make(chan struct{})
	go func() {
		db.running.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-db.failedCh:
	}
}

// logger takes Pebble's log. Pebble's own logger ends the process on Fatalf. This one takes the
// store out of service, so that the server can end its sessions before the process exits. It drops
// what is informational.
type logger struct{ db *DB }

// Infof drops the line.
func (l logger) Infof(string, ...any) {}

// Errorf logs the line as a warning.
func (l logger) Errorf(f string, args ...any) {
	l.db.opts.Logger.Warn("store: Pebble", "err", fmt.Sprintf(f, args...))
}

// Fatalf takes the store out of service, and returns: Pebble's goroutine goes on, with a store that has
// failed.
func (l logger) Fatalf(f string, args ...any) { l.db.fail(fmt.Errorf(f, args...)) }

// onDataCorruption counts and logs a damaged block that Pebble has found. The reader of the block
// gets the error; the store stays in service. Called on Pebble's goroutines.
func (db *DB) onDataCorruption(info pebble.DataCorruptionInfo) {
	db.metrics.Corruptions.Add(1)
	db.opts.Logger.Error("store: damaged file", "path", info.Path, "err", info.Details)
}

// onDiskSlow counts an operation on a file that takes longer than Pebble's threshold.
func (db *DB) onDiskSlow(info vfs.DiskSlowInfo) {
	db.metrics.SlowWrites.Add(1)
}
