package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// Pebble repeats a failed flush or compaction at once, thousands of times a second, without end.
// onBackgroundError slows it down with a backoff, logs it once in a while, and ends it after
// Options.FailAfter.
const (
	// minBackoff and maxBackoff bound the time before the next try, which doubles. Pebble's mutex may be held
	// during the wait, so it is short enough for readers.
	minBackoff = time.Millisecond
	maxBackoff = 50 * time.Millisecond
	// logInterval is the time between two lines of the log about failures that go on.
	logInterval = time.Minute
)

// backgroundRetries counts failures of Pebble's background work, for backoff and logging. Any
// goroutine.
type backgroundRetries struct {
	mu         sync.Mutex // guards all fields
	failures   int        // failures in a row
	since      time.Time  // when the first of them was
	lastLogged time.Time  // when the last line was logged
}

// failed counts a failure at now. It returns the backoff before the next try, for how long the
// tries have failed in a row, and, if a line of the log is due, the number of failures in a row for
// it, else 0.
func (r *backgroundRetries) failed(now time.Time) (pause, failing time.Duration, line int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.failures == 0 {
		r.since = now
	}
	pause = min(minBackoff<<min(r.failures, 16), maxBackoff)
	r.failures++
	if r.lastLogged.IsZero() || now.Sub(r.lastLogged) >= logInterval {
		r.lastLogged, line = now, r.failures
	}
	return pause, now.Sub(r.since), line
}

// succeeded ends a series of failures. It leaves lastLogged, so that work that fails and succeeds
// in turn does not log a line each time.
func (r *backgroundRetries) succeeded() {
	r.mu.Lock()
	r.failures = 0
	r.mu.Unlock()
}

// onBackgroundError handles a failed flush, compaction or collection of statistics, which Pebble
// will try again. Called on Pebble's goroutines. It logs, waits for the backoff so that the next
// try is not at once, and takes the store out of service when all tries have failed for
// Options.FailAfter. Two causes do not end the store: a full disk, as space may come back (see
// [DB.Full]), and a damaged file, as all others can be read and written.
func (db *DB) onBackgroundError(err error) {
	db.metrics.BackgroundErrors.Add(1)
	pause, failing, tries := db.backgroundRetries.failed(monotonicNow())
	if tries > 0 {
		db.opts.Logger.Warn("store: work in the background fails and is tried again", "tries", tries, "err", err)
	}
	if failing >= db.opts.FailAfter && !errors.Is(err, syscall.ENOSPC) && !errors.Is(err, syscall.EDQUOT) &&
		!pebble.IsCorruptionError(err) {
		db.fail(withRemedy(db.opts.Dir, err))
	}
	time.Sleep(pause) // also when the store is out of service: Pebble tries until the process ends
}

// onFlushEnd ends a series of failures after a successful flush.
func (db *DB) onFlushEnd(info pebble.FlushInfo) {
	if info.Err == nil {
		db.backgroundRetries.succeeded()
	}
}

// onCompactionEnd ends a series of failures after a successful compaction.
func (db *DB) onCompactionEnd(info pebble.CompactionInfo) {
	if info.Err == nil {
		db.backgroundRetries.succeeded()
	}
}

// probeName is the file that checkWritable writes.
const probeName = "PROBE"

// checkWritable makes a file in the folder, writes to it and removes it: Open reports what is wrong
// with the folder, where Pebble would wait for it. A full disk is no error here: the store opens,
// and refuses writes.
func checkWritable(fs vfs.FS, dir string) error {
	name := fs.PathJoin(dir, probeName)
	f, err := fs.Create(name, vfs.WriteCategoryUnspecified)
	if err == nil {
		_, err = f.Write([]byte{0})
		err = errors.Join(err, f.Close(), fs.Remove(name))
	}
	if err == nil || errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return nil
	}
	return fmt.Errorf("store: the folder can't be written to: %w", withRemedy(dir, err))
}

// ownerOf returns the uid of dir's owner; -1 if it is not known.
func ownerOf(dir string) int {
	if fi, err := os.Stat(dir); err == nil {
		if st, ok := fi.Sys().(*syscall.Stat_t); ok {
			return int(st.Uid)
		}
	}
	return -1
}

// withRemedy returns err, a file system's error about the store in dir, with what the operator can
// do about it.
func withRemedy(dir string, err error) error {
	remedy := "give another folder with --data, or see to the disk"
	switch {
	case errors.Is(err, fs.ErrPermission) && ownerOf(dir) >= 0 && ownerOf(dir) != os.Geteuid():
		remedy = fmt.Sprintf("%s is user %d's: run this as that user or as root; only if no server of that "+
			"user is to use it, "+
			"chown -R it to user %d", dir, ownerOf(dir), os.Geteuid())
	case errors.Is(err, fs.ErrPermission):
		remedy = fmt.Sprintf("%s and its files must be user %d's (chown -R), or give another folder with --data",
			dir, os.Geteuid())
	case errors.Is(err, syscall.EROFS):
		remedy = "its file system is mounted read-only: mount it for writing, or give another folder with --data"
	case errors.Is(err, syscall.ENOTDIR), errors.Is(err, syscall.EEXIST), errors.Is(err, syscall.EISDIR):
		remedy = "a file stands where a folder must be, or a folder where a file must be: move it away, or " +
			"give another folder with --data"
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE):
		remedy = "there are no descriptors left: raise LimitNOFILE (canto check limits)"
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		remedy = "make space"
	}
	return fmt.Errorf("%w: %s", err, remedy)
}
