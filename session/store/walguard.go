package store

import (
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// A walGuardFS keeps errors of the write-ahead log's files from Pebble. Where Pebble begins another log file
// it panics on any error with its mutex released, and its deferred Unlock then ends the process: no
// recover sees that. So a goroutine that gets such an error takes the store out of service, and waits
// until the process ends. Open and Close get their errors as they are: nothing rotates there.
type walGuardFS struct {
	vfs.FS
	disk *disk
}

// blockOnError returns err if there is none, or while the store opens or closes; else it does not return.
func (d *disk) blockOnError(err error) error {
	if err == nil || !d.guardWAL.Load() {
		return err
	}
	d.db.fail(withRemedy(d.db.opts.Dir, err))
	select {}
}

func isWAL(name string) bool { return strings.HasSuffix(name, ".log") }

// guardFile is f with its errors held, if name is that of a log.
func (fs walGuardFS) guardFile(name string, f vfs.File, err error) (vfs.File, error) {
	if !isWAL(name) {
		return f, err
	}
	if err := fs.disk.blockOnError(err); err != nil {
		return nil, err
	}
	return walGuardFile{f, fs.disk}, nil
}

// Create makes a file, of the log or another.
func (fs walGuardFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := fs.FS.Create(name, c)
	return fs.guardFile(name, f, err)
}

// ReuseForWrite makes a log of an old one.
func (fs walGuardFS) ReuseForWrite(from, to string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := fs.FS.ReuseForWrite(from, to, c)
	return fs.guardFile(to, f, err)
}

// OpenDir opens a folder: Pebble syncs it after it has made a log.
func (fs walGuardFS) OpenDir(name string) (vfs.File, error) {
	f, err := fs.FS.OpenDir(name)
	if err != nil {
		return nil, err
	}
	return walGuardFile{f, fs.disk}, nil
}

// Unwrap is of [vfs.FS].
func (fs walGuardFS) Unwrap() vfs.FS { return fs.FS }

// A walGuardFile is a file of the log, or the folder. Each method is that of [vfs.File].
type walGuardFile struct {
	vfs.File
	disk *disk
}

// Write writes.
func (f walGuardFile) Write(b []byte) (int, error) {
	n, err := f.File.Write(b)
	return n, f.disk.blockOnError(err)
}

// Stat describes the file.
func (f walGuardFile) Stat() (vfs.FileInfo, error) {
	fi, err := f.File.Stat()
	return fi, f.disk.blockOnError(err)
}

// Sync makes the file durable.
func (f walGuardFile) Sync() error { return f.disk.blockOnError(f.File.Sync()) }

// SyncData makes what was written durable.
func (f walGuardFile) SyncData() error { return f.disk.blockOnError(f.File.SyncData()) }

// SyncTo makes what was written durable up to n.
func (f walGuardFile) SyncTo(n int64) (bool, error) {
	full, err := f.File.SyncTo(n)
	return full, f.disk.blockOnError(err)
}

// Close closes.
func (f walGuardFile) Close() error { return f.disk.blockOnError(f.File.Close()) }
