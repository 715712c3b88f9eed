package store

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// disk watches the free space. There are two thresholds. Below Options.MinFree writes are refused,
// while everything is still in order. If the disk is full all the same, as another program may fill
// it, the ballast file is deleted, so that Pebble can finish the write that it is in. Only if that
// space is used up, too, a write fails, and the store with it.
type disk struct {
	db    *DB
	inner vfs.FS // the file system of Options
	fs    vfs.FS // inner, with a callback on ENOSPC and a guard of the write-ahead log: what Pebble uses
	path  string // of the ballast file

	// guardWAL is set while the store is open, but not while it opens or closes: errors of the
	// write-ahead log then block Pebble, see walGuardFS.
	guardWAL atomic.Bool // an error of the write-ahead log is held back from Pebble: see walGuardFS

	// mu guards the fields below. It is held during file operations on the ballast.
	mu              sync.Mutex
	ballastExists   bool      // the ballast file is there, in full size
	lastLogged      string    // the last warning, so that it is logged once; "": all is well
	ballastFailures int       // attempts in a row that could not make the ballast file
	ballastRetryAt  time.Time // the next attempt
}

// maxBallastBackoff is the longest time between two attempts to make the ballast file. Each attempt
// writes up to the whole file.
const maxBallastBackoff = 5 * time.Minute

// ballastName is the name of the ballast file in the data folder.
const ballastName = "BALLAST"

// init prepares the file system that Pebble uses. Called by open.
func (d *disk) init(db *DB) {
	d.db, d.inner = db, db.opts.FS
	d.path = d.inner.PathJoin(db.opts.Dir, ballastName)
	d.fs = walGuardFS{vfs.OnDiskFull(d.inner, d.onDiskFull), d}
}

// start checks the free space, and starts the goroutine that does so each Options.CheckEvery. It
// ends when DB.stop is closed.
func (d *disk) start() {
	d.db.CheckDiskSpace()
	if d.db.opts.CheckEvery < 0 {
		return
	}
	d.db.running.Add(1)
	go func() {
		defer d.db.running.Done()
		t := time.NewTicker(d.db.opts.CheckEvery)
		defer t.Stop()
		for {
			select {
			case <-t.C:
				d.db.CheckDiskSpace()
			case <-d.db.stop:
				return
			}
		}
	}()
}

// Full returns why writes are refused at present ([ErrFull]): too little space, or a full queue;
// nil if they are taken. Two atomic loads: any goroutine, loops included. Commit refuses by itself;
// Full is for a caller that wants to know before it changes anything in memory.
func (db *DB) Full() error {
	if f := db.committer.diskFull.Load(); f != nil {
		return f.err
	}
	if f := db.committer.queueFull.Load(); f != nil {
		return f.err
	}
	return nil
}

// onDiskFull refuses further writes, and deletes the ballast file. Pebble's file system wrapper
// calls it on ENOSPC, on the goroutine that writes, while other writers of files wait; the write is
// tried once more when it returns.
func (d *disk) onDiskFull() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.setFull(fmt.Errorf("%w: no space left in %s", ErrFull, d.db.opts.Dir))
	if d.ballastExists {
		d.ballastExists = false
		if err := d.inner.Remove(d.path); err != nil {
			d.db.opts.Logger.Error("store: deleting the ballast", "err", err)
		}
	}
}

// setFull makes the committer refuse writes with err. The caller holds mu.
func (d *disk) setFull(err error) {
	if d.db.committer.diskFull.Swap(&failure{err}) == nil {
		d.db.committer.metrics.FullEvents.Add(1)
		d.db.opts.Logger.Error("store: writes are refused", "err", err)
	}
}

// CheckDiskSpace compares the free space with Options.MinFree, and begins or ends to refuse writes.
// A goroutine of the store calls it every [Options.CheckEvery]; tests and commands may call it at
// any time. It may wait for the disk.
//
// If the free space can't be read, nothing changes but a warning. After a full disk, writes are
// taken again only when an eighth more than MinFree and the ballast are free, so that the state
// does not flap, and when the ballast file is there again.
func (db *DB) CheckDiskSpace() {
	d := &db.disk
	d.mu.Lock()
	defer d.mu.Unlock()
	need := uint64(db.opts.MinFree)
	full := db.committer.diskFull.Load() != nil
	usage, err := d.inner.GetDiskUsage(db.opts.Dir)
	switch {
	case err != nil && !errors.Is(err, vfs.ErrUnsupported):
		d.logOnce("store: free space is not known", err)
		return
	case err == nil && usage.AvailBytes < need:
		d.setFull(fmt.Errorf("%w: %d MiB left in %s, less than %d MiB", ErrFull, usage.AvailBytes>>20,
			db.opts.Dir, need>>20))
		return
	case err == nil && full && usage.AvailBytes < need+need/8+uint64(db.opts.Ballast):
		return // hysteresis
	}
	if !d.makeBallast() {
		return
	}
	d.lastLogged = ""
	if full && db.committer.diskFull.Swap(nil) != nil {
		db.opts.Logger.Info("store: there is space again, writes are taken")
	}
}

// logOnce logs a warning, unless it is the same as the last. The caller holds mu.
func (d *disk) logOnce(message string, err error) {
	if text := message + err.Error(); text != d.lastLogged {
		d.lastLogged = text
		d.db.opts.Logger.Warn(message, "err", err)
	}
}

// makeBallast makes the ballast file unless it exists or is switched off, and reports whether it is
// there. After a failure it removes what it has written, and waits before the next attempt, twice
// as long each time. The caller holds mu.
func (d *disk) makeBallast() bool {
	if d.ballastExists || d.db.opts.Ballast == 0 {
		return true
	}
	if st, err := d.inner.Stat(d.path); err == nil && st.Size() >= d.db.opts.Ballast {
		d.ballastExists = true
		return true
	}
	if monotonicNow().Before(d.ballastRetryAt) {
		return false
	}
	if err := d.writeBallast(); err != nil {
		if e := d.inner.Remove(d.path); e != nil && !errors.Is(e, os.ErrNotExist) && e.Error() != err.Error() {
			err = fmt.Errorf("%w; and removing what there is of it: %w", err, e)
		}
		d.ballastRetryAt = monotonicNow().Add(min(d.db.opts.CheckEvery<<min(d.ballastFailures, 10),
			maxBallastBackoff))
		d.ballastFailures++
		d.logOnce("store: the ballast can't be made", withRemedy(d.path, err))
		return false
	}
	d.ballastExists, d.ballastFailures = true, 0
	return true
}

// writeBallast writes and syncs the ballast file. It writes every byte: a sparse file takes no
// space.
func (d *disk) writeBallast() (err error) {
	f, err := d.inner.Create(d.path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	defer func() {
		if e := f.Close(); err == nil {
			err = e
		}
	}()
	block := make([]byte, 1<<20)
	for i := range block {
		block[i] = byte(i ^ i>>8 ^ i>>13) // a file system that compresses would save the space of zeros
	}
	for left := d.db.opts.Ballast; left > 0; left -= int64(len(block)) {
		if _, err := f.Write(block[:min(left, int64(len(block)))]); err != nil {
			return err
		}
	}
	return f.Sync()
}
