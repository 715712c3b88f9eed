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

	holds atomic.Bool // an error of the write-ahead log is held back from Pebble: see heldFS

	mu      sync.Mutex
	ballast bool      // it is there
	told    string    // the trouble that was logged last, so that it is logged once; "" while there is none
	tries   int       // of making the ballast, failed in a row
	again   time.Time // when it is tried again
}

// longestBallastPause is how long a ballast file that can't be made is left alone at most: a try writes
// all of it.
const longestBallastPause = 5 * time.Minute

const ballastName = "BALLAST"

func (d *disk) init(db *DB) {
	d.db, d.inner = db, db.opts.FS
	d.path = d.inner.PathJoin(db.opts.Dir, ballastName)
	d.fs = heldFS{vfs.OnDiskFull(d.inner, d.onDiskFull), d}
}

func (d *disk) start() {
	d.db.CheckSpace()
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
				d.db.CheckSpace()
			case <-d.db.stop:
				return
			}
		}
	}()
}

// Full returns why writes are refused (ErrFull), for lack of space or because too much waits for the
// disk; nil if they are not.
func (db *DB) Full() error {
	if f := db.commit.full.Load(); f != nil {
		return f.err
	}
	if f := db.commit.slow.Load(); f != nil {
		return f.err
	}
	return nil
}

// onDiskFull is called by the file system on ENOSPC, while all writes wait; then they are tried once more.
func (d *disk) onDiskFull() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.setFull(fmt.Errorf("%w: no space left in %s", ErrFull, d.db.opts.Dir))
	if d.ballast {
		d.ballast = false
		if err := d.inner.Remove(d.path); err != nil {
			d.db.opts.Logger.Error("store: deleting the ballast", "err", err)
		}
	}
}

func (d *disk) setFull(err error) {
	if d.db.commit.full.Swap(&failure{err}) == nil {
		d.db.commit.metrics.FullEvents.Add(1)
		d.db.opts.Logger.Error("store: writes are refused", "err", err)
	}
}

// CheckSpace looks at the free space now, as is done every [Options.CheckEvery], and begins or ends to refuse
// writes.
func (db *DB) CheckSpace() {
	d := &db.disk
	d.mu.Lock()
	defer d.mu.Unlock()
	need := uint64(db.opts.MinFree)
	full := db.commit.full.Load() != nil
	usage, err := d.inner.GetDiskUsage(db.opts.Dir)
	switch {
	case err != nil && !errors.Is(err, vfs.ErrUnsupported):
		d.tell("store: free space is not known", err)
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
	d.told = ""
	if full && db.commit.full.Swap(nil) != nil {
		db.opts.Logger.Info("store: there is space again, writes are taken")
	}
}

// tell logs a trouble of the disk, but not again while it is the same one. The caller holds mu.
func (d *disk) tell(message string, err error) {
	if text := message + err.Error(); text != d.told {
		d.told = text
		d.db.opts.Logger.Warn(message, "err", err)
	}
}

// makeBallast makes the ballast file, if there is to be one and it is not there, and reports whether all
// is well.
func (d *disk) makeBallast() bool {
	if d.ballast || d.db.opts.Ballast == 0 {
		return true
	}
	if st, err := d.inner.Stat(d.path); err == nil && st.Size() >= d.db.opts.Ballast {
		d.ballast = true
		return true
	}
	if monotonic().Before(d.again) {
		return false
	}
	if err := d.writeBallast(); err != nil {
		if e := d.inner.Remove(d.path); e != nil && !errors.Is(e, os.ErrNotExist) && e.Error() != err.Error() {
			err = fmt.Errorf("%w; and removing what there is of it: %w", err, e)
		}
		d.again = monotonic().Add(min(d.db.opts.CheckEvery<<min(d.tries, 10), longestBallastPause))
		d.tries++
		d.tell("store: the ballast can't be made", withRemedy(d.path, err))
		return false
	}
	d.ballast, d.tries = true, 0
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
