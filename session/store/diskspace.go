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

// disk watches the space that is left. Two lines are held: below MinFree writes are refused, with
// everything still in order; and where the disk is full all the same, the ballast file is deleted, so
// that what Pebble is writing just then can be written. Only when that is used up too does a write fail,
// and the store with it.
type disk struct {
	db    *DB
	inner vfs.FS
	fs    vfs.FS // inner, with an eye on ENOSPC and on the write-ahead log
	path  string // of the ballast

	guardWAL atomic.Bool // an error of the write-ahead log is held back from Pebble: see walGuardFS

	mu            sync.Mutex
	ballastExists bool // it is there
	// the trouble that was logged last, so that it is logged once; "" while there is none
	lastLogged      string
	ballastFailures int       // of making the ballast, failed in a row
	ballastRetryAt  time.Time // when it is tried again
}

// maxBallastBackoff is how long a ballast file that can't be made is left alone at most: a try writes
// all of it.
const maxBallastBackoff = 5 * time.Minute

const ballastName = "BALLAST"

func (d *disk) init(db *DB) {
	d.db, d.inner = db, db.opts.FS
	d.path = d.inner.PathJoin(db.opts.Dir, ballastName)
	d.fs = walGuardFS{vfs.OnDiskFull(d.inner, d.onDiskFull), d}
}

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

// Full returns why writes are refused (ErrFull), for lack of space or because too much waits for the
// disk; nil if they are not.
func (db *DB) Full() error {
	if f := db.committer.diskFull.Load(); f != nil {
		return f.err
	}
	if f := db.committer.queueFull.Load(); f != nil {
		return f.err
	}
	return nil
}

// onDiskFull is called by the file system on ENOSPC, while all writes wait; then they are tried once more.
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

func (d *disk) setFull(err error) {
	if d.db.committer.diskFull.Swap(&failure{err}) == nil {
		d.db.committer.metrics.FullEvents.Add(1)
		d.db.opts.Logger.Error("store: writes are refused", "err", err)
	}
}

// CheckDiskSpace looks at the free space now, as is done every [Options.CheckEvery], and begins or ends
// to refuse writes.
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
		return // not to go back and forth
	}
	if !d.makeBallast() {
		return
	}
	d.lastLogged = ""
	if full && db.committer.diskFull.Swap(nil) != nil {
		db.opts.Logger.Info("store: there is space again, writes are taken")
	}
}

// logOnce logs a trouble of the disk, but not again while it is the same one. The caller holds mu.
func (d *disk) logOnce(message string, err error) {
	if text := message + err.Error(); text != d.lastLogged {
		d.lastLogged = text
		d.db.opts.Logger.Warn(message, "err", err)
	}
}

// makeBallast makes the ballast file, if there is to be one and it is not there, and reports whether all
// is well.
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

// writeBallast writes every byte: a file with holes takes no space.
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
		block[i] = byte(i ^ i>>8 ^ i>>13) // nothing to compress away
	}
	for left := d.db.opts.Ballast; left > 0; left -= int64(len(block)) {
		if _, err := f.Write(block[:min(left, int64(len(block)))]); err != nil {
			return err
		}
	}
	return f.Sync()
}
