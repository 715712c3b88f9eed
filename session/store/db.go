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

// formatVersion is of the layout of this package: key prefixes, the rows of the system. oldestFormat is the
// oldest that Open converts.
const (
	formatVersion = 1
	oldestFormat  = 1
)

// pebbleVersion is the format of Pebble's files that a new store gets. Raising it needs no formatVersion:
// Pebble converts on open, and refuses what is newer.
const pebbleVersion = pebble.FormatFlushableIngestExcises

// A DB is an open store. Any goroutine, unless a method says otherwise.
type DB struct {
	opts   Options
	pebble *pebble.DB
	lock   *pebble.Lock
	cache  *pebble.Cache
	tables *TableRegistry
	committer
	disk
	entities *Entities
	accounts *Accounts
	hosts    *Hosts
	secrets  *Secrets

	leasesMu sync.Mutex
	leases   map[string]*Lease

	incarnation       uint32
	failed            atomic.Pointer[failure] // not nil: nothing is written any more
	failedCh          chan struct{}           // closed when failed is set by fail
	backgroundRetries backgroundRetries
	closeOnce         sync.Once
	closeErr          error
	stop              chan struct{}
	running           sync.WaitGroup
}

type failure struct{ err error }

// Open opens the store in o.Dir, making one if there is none and o is not read only. Errors: [ErrLocked],
// [ErrFormat], [ErrMissing], or the file system's.
func Open(o Options) (*DB, error) {
	o = o.withDefaults()
	db := &DB{opts: o, stop: make(chan struct{}), failedCh: make(chan struct{})}
	if err := db.open(); err != nil {
		return nil, err
	}
	return db, nil
}

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

// openPebble opens, and makes an error of a panic: of a damaged file, say. Pebble's Open waits for
// flushes and does not end while they fail: once the store is given up, it is left behind.
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

func openError(dir string, err error) error {
	switch text := err.Error(); {
	case errors.Is(err, os.ErrPermission): // Pebble calls what it may not read damaged
	case pebble.IsCorruptionError(err):
		return fmt.Errorf("%w: restore a backup, or give another folder with --data", corruptError(dir, err))
	case strings.Contains(text, "format major version"), strings.Contains(text, "legacy"),
		errors.Is(err, pebble.ErrDBNotPristine):
		return fmt.Errorf("%w: %s: %v", ErrFormat, dir, err)
	}
	return fmt.Errorf("store: opening %s: %w", dir, withRemedy(dir, err))
}

// Rows of the system's own table, whose prefix is 0.
var (
	keyFormat      = []byte("\x00format")
	keyIncarnation = []byte("\x00incarnation")
	keyIDBlock     = []byte("\x00number") // the end of the block of numbers of ids that is reserved
	keyUnicode     = []byte("\x00unicode")
	prefixTable    = "\x00table\x00" // then the table's name
	prefixLease    = "\x00lease\x00" // then the lease's name
	prefixDeleted  = "\x00gone\x00"  // then the id of an entity that was deleted, and whose rows are not
)

// checkFormat reads the version of the layout. A store without one is new: but not if it has rows.
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

// recordStart counts this start, reserves numbers of ids, and writes the version into a new store. It
// waits for the disk.
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

// systemNumber reads a row of the system that is one number.
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

// UnicodeVersion returns the version of the Unicode tables by which the names in the store were prepared.
// If it is not [jid.UnicodeVersion], [Accounts.NotNormalized] lists what changed, and [DB.SetUnicodeVersion]
// says that it is dealt with.
func (db *DB) UnicodeVersion() (string, error) {
	v, _, err := db.get(keyUnicode)
	return string(v), err
}

// SetUnicodeVersion records the present version, and waits until that is durable.
func (db *DB) SetUnicodeVersion(ctx context.Context) error {
	b := db.systemBatch()
	b.set(keyUnicode, []byte(jid.UnicodeVersion))
	return db.Wait(ctx, db.Commit(b))
}

// Tables returns what modules get their tables from.
func (db *DB) Tables() *TableRegistry { return db.tables }

// Entities returns the directory of all that has an address: accounts, and entities of any other kind.
func (db *DB) Entities() *Entities { return db.entities }

// Accounts returns the accounts of all hosts.
func (db *DB) Accounts() *Accounts { return db.accounts }

// Hosts returns the hosts that are kept in the store.
func (db *DB) Hosts() *Hosts { return db.hosts }

// Secrets returns the keys that outlive the process.
func (db *DB) Secrets() *Secrets { return db.secrets }

// Incarnation counts the starts of this store, from 1; 0 if it is read only.
func (db *DB) Incarnation() uint32 { return db.incarnation }

// Err returns why the store can't write any more, nil while it can. A full disk is not among it: see
// [DB.Full].
func (db *DB) Err() error {
	if f := db.failed.Load(); f != nil {
		return f.err
	}
	return nil
}

// fail takes the store out of service for good.
func (db *DB) fail(cause error) {
	f := &failure{fmt.Errorf("%w: %w", ErrUnavailable, cause)}
	if db.failed.CompareAndSwap(nil, f) {
		db.opts.Logger.Error("the store can't go on", "err", cause)
		close(db.failedCh)
		go db.opts.Fatal(f.err)
	}
}

// Close makes durable what was given to Commit, and closes. Snapshots must be closed before. After a failure
// (see [DB.Err]) files and lock stay as they are until the process ends: touching them could only do harm.
func (db *DB) Close() error {
	db.closeOnce.Do(func() {
		if !db.opts.ReadOnly {
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

// waitGoroutines waits for the goroutines of the store, unless it has failed: one of them may be in a
// write that Pebble never returns from.
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

// logger takes Pebble's log. What it calls fatal would end the process in Pebble's own logger; here it
// takes the store out of service, and the process ends in order.
type logger struct{ db *DB }

func (l logger) Infof(string, ...any) {}
func (l logger) Errorf(f string, args ...any) {
	l.db.opts.Logger.Warn("store: Pebble", "err", fmt.Sprintf(f, args...))
}
func (l logger) Fatalf(f string, args ...any) { l.db.fail(fmt.Errorf(f, args...)) }

// onDataCorruption is told of a block that can't be read. Whoever asked for it gets the error; the rest
// goes on.
func (db *DB) onDataCorruption(info pebble.DataCorruptionInfo) {
	db.metrics.Corruptions.Add(1)
	db.opts.Logger.Error("store: damaged file", "path", info.Path, "err", info.Details)
}

func (db *DB) onDiskSlow(info vfs.DiskSlowInfo) {
	db.metrics.SlowWrites.Add(1)
}
