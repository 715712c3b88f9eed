package store

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

// noTables is a file system that makes no table once on is true, as a folder whose owner has lost the
// right to write.
func noTables(inner vfs.FS, on *atomic.Bool) vfs.FS {
	return errorfs.Wrap(inner, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if on.Load() && op.Kind == errorfs.OpCreate && strings.HasSuffix(op.Path, ".sst") {
			return syscall.EACCES
		}
		return nil
	}))
}

// A flush that fails for ever is tried again with pauses, said in few lines, and ends: Open returns an
// error, an open store is taken out of service, and Close returns.
func TestFlushFailsForEver(t *testing.T) {
	for _, phase := range []string{"opening", "running"} {
		t.Run(phase, func(t *testing.T) {
			mem := NewMemFS()
			var on atomic.Bool
			var log bytes.Buffer
			o := quiet(noTables(mem, &on))
			o.Logger = slog.New(slog.NewTextHandler(&log, nil)) // read after Close only
			o.FailAfter = 300 * time.Millisecond
			fatal := make(chan error, 10)
			o.Fatal = func(err error) { fatal <- err }
			if phase == "opening" {
				open(t, quiet(mem)).Close()
				on.Store(true)
			}
			db, err := Open(o)
			if phase == "running" {
				if err != nil {
					t.Fatal(err)
				}
				m := must(LogOf(db.Tables(), archives))(t)
				on.Store(true)
				for id := uint64(1); err == nil; id++ { // until the memory tables are full, and nothing moves
					b := db.NewBatch(1)
					m.Append(b, 1, id, randomText(100_000, int64(id)))
					err = db.Wait(ctx, db.Commit(b))
				}
				if n := db.Metrics().BackgroundErrors.Load(); n < 2 || n > 60 {
					t.Errorf("%d tries in %v", n, o.FailAfter)
				}
				if e := db.Close(); !errors.Is(e, ErrUnavailable) {
					t.Errorf("Close: %v", e)
				}
			}
			if !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "permission denied") ||
				!strings.Contains(err.Error(), "chown") {
				t.Errorf("%v", err)
			}
			if e := <-fatal; !errors.Is(e, ErrUnavailable) {
				t.Error(e)
			}
			if n := strings.Count(log.String(), "\n"); n == 0 || n > 3 {
				t.Errorf("%d lines:\n%.2000s", n, log.String())
			}
		})
	}
}

// A full disk is no end: when there is space again, the flush that was tried meanwhile succeeds.
func TestFlushWaitsForSpace(t *testing.T) {
	var on atomic.Bool
	fs := errorfs.Wrap(NewMemFS(), errorfs.InjectorFunc(func(op errorfs.Op) error {
		if on.Load() && op.Kind == errorfs.OpCreate && strings.HasSuffix(op.Path, ".sst") {
			return syscall.ENOSPC
		}
		return nil
	}))
	o := quiet(fs)
	o.FailAfter = time.Millisecond
	db := open(t, o)
	m := must(LogOf(db.Tables(), archives))(t)
	b := db.NewBatch(1)
	m.Append(b, 1, 1, "x")
	if err := db.Wait(ctx, db.Commit(b)); err != nil {
		t.Fatal(err)
	}
	on.Store(true)
	done, err := db.pebble.AsyncFlush()
	if err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool { return db.Metrics().BackgroundErrors.Load() > 8 })
	on.Store(false)
	<-done
	if db.Err() != nil {
		t.Error(db.Err())
	}
}

// What an operator can mend in the folder is an error of Open at once, in one line with the remedy; the
// store is not called locked where it is not.
func TestFolderNotWritable(t *testing.T) {
	for _, c := range []struct {
		file string
		err  error
		want string
	}{
		{probeName, syscall.EACCES, "chown"},
		{probeName, syscall.EROFS, "mounted read-only"},
		{"LOCK", syscall.EACCES, "chown"},
		{"LOCK", syscall.EROFS, "mounted read-only"},
		{"LOCK", syscall.EMFILE, "LimitNOFILE"},
		{"MANIFEST-000001", syscall.EACCES, "chown"},
	} {
		fs := errorfs.Wrap(NewMemFS(), errorfs.InjectorFunc(func(op errorfs.Op) error {
			if strings.HasSuffix(op.Path, c.file) {
				return c.err
			}
			return nil
		}))
		var fatal atomic.Bool
		o := quiet(fs)
		o.Fatal = func(error) { fatal.Store(true) }
		_, err := Open(o)
		if err == nil || errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), c.want) ||
			strings.Contains(err.Error(), "\n") {
			t.Errorf("%s %v: %v", c.file, c.err, err)
		}
	}
}

// A ballast file that can't be made is logged once, not with every check of the disk, and again when the
// cause changes.
func TestBallastLines(t *testing.T) {
	cause := syscall.EACCES
	fs := errorfs.Wrap(NewMemFS(), errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind == errorfs.OpCreate && strings.HasSuffix(op.Path, ballastName) {
			return cause
		}
		return nil
	}))
	var log bytes.Buffer
	o := quiet(fs)
	o.Ballast = 1 << 20
	o.Logger = slog.New(slog.NewTextHandler(&log, nil))
	db := open(t, o)
	for range 5 {
		db.CheckDiskSpace()
	}
	if n := strings.Count(log.String(), "\n"); n != 1 {
		t.Errorf("%d lines:\n%s", n, &log)
	}
	cause = syscall.EROFS
	db.CheckDiskSpace()
	if n := strings.Count(log.String(), "\n"); n != 2 {
		t.Errorf("%d lines:\n%s", n, &log)
	}
}

// A table that may not be read is not called damaged: the remedy is another than a backup.
func TestTableOfAnotherUser(t *testing.T) {
	var on atomic.Bool
	mem := NewMemFS()
	o := quiet(errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if on.Load() && op.Kind == errorfs.OpOpen && strings.HasSuffix(op.Path, ".sst") {
			return syscall.EACCES
		}
		return nil
	})))
	db := open(t, o)
	if err := db.pebble.Flush(); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	on.Store(true)
	if _, err := Open(o); err == nil || errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), "chown") {
		t.Errorf("Open: %v", err)
	}
	on.Store(false)
	db = open(t, o)
	on.Store(true)
	if _, _, err := db.get([]byte("z")); err != nil &&
		(errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), "chown")) {
		t.Errorf("reading: %v", err)
	}
}
