package store

import (
	"errors"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

// Pebble can't begin another file of its write-ahead log, or can't end the one before: the store is out
// of service with a remedy, the batch fails, the commit callbacks run, and Close returns. It never ends the
// process.
func TestLogFileFails(t *testing.T) {
	for _, c := range []struct {
		name string
		op   errorfs.OpKind
		path string
		errs []syscall.Errno
	}{
		{"create", errorfs.OpCreate, ".log", []syscall.Errno{syscall.EACCES, syscall.EROFS, syscall.EIO,
			syscall.EMFILE, syscall.ENOSPC}},
		{"reuse", errorfs.OpReuseForWrite, ".log", []syscall.Errno{syscall.EACCES, syscall.ENOSPC}},
		{"close", errorfs.OpFileClose, ".log", []syscall.Errno{syscall.EIO}},
		{"write", errorfs.OpFileWrite, ".log", []syscall.Errno{syscall.EIO, syscall.ENOSPC}},
		{"sync of the folder", errorfs.OpFileSync, "db", []syscall.Errno{syscall.EIO}},
	} {
		for _, cause := range c.errs {
			t.Run(c.name+" "+cause.Error(), func(t *testing.T) {
				var on atomic.Bool
				o := quiet(errorfs.Wrap(closeFS{NewMemFS(), &on, c.op, cause},
					errorfs.InjectorFunc(func(op errorfs.Op) error {
						if on.Load() && op.Kind == c.op && strings.HasSuffix(op.Path, c.path) {
							return cause
						}
						return nil
					})))
				fatal := make(chan error, 10)
				o.Fatal = func(err error) { fatal <- err }
				db := open(t, o)
				m := must(LogOf(db.Tables(), archives))(t)
				told := make(chan error, 1)
				db.OnCommit(func(_ Ticket, err error) {
					if err != nil {
						select {
						case told <- err:
						default:
						}
					}
				})
				var err error
				for id := uint64(1); err == nil && id < 400; id++ {
					if id == 40 || c.op != errorfs.OpReuseForWrite { // by 40, old logs are used again, and none is made
						on.Store(true)
					}
					b := db.NewBatch(1)
					m.Append(b, 1, id, randomText(100_000, int64(id)))
					err = db.Wait(ctx, db.Commit(b))
				}
				if err == nil {
					t.Fatal("nothing failed")
				}
				for _, e := range []error{err, <-told, <-fatal, db.Err()} {
					if !errors.Is(e, ErrUnavailable) || !errors.Is(e, cause) || strings.Contains(e.Error(), "\n") {
						t.Errorf("%v", e)
					}
				}
				if !strings.Contains(err.Error(), withRemedy("db", cause).Error()[len(cause.Error()):]) {
					t.Errorf("without a remedy: %v", err)
				}
				if e := db.Close(); !errors.Is(e, ErrUnavailable) {
					t.Errorf("Close: %v", e)
				}
			})
		}
	}
}

// A closeFS makes the Close of log files fail, if op says so. Package errorfs can't inject that error.
type closeFS struct {
	vfs.FS
	on    *atomic.Bool
	op    errorfs.OpKind
	cause error
}

func (fs closeFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := fs.FS.Create(name, c)
	if err == nil && fs.op == errorfs.OpFileClose && strings.HasSuffix(name, ".log") {
		return closeFile{f, fs}, nil
	}
	return f, err
}

type closeFile struct {
	vfs.File
	fs closeFS
}

func (f closeFile) Close() error {
	if err := f.File.Close(); err != nil || !f.fs.on.Load() {
		return err
	}
	return f.fs.cause
}
