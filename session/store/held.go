package store

import (
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// A heldFS keeps errors of the write-ahead log's files from Pebble. Where Pebble begins another log file
// it panics on any error with its mutex released, and its deferred Unlock then ends the process: no
// recover sees that. So a goroutine that gets such an error takes the store out of service, and waits
// until the process ends. Open and Close get their errors as they are: nothing rotates there.
type heldFS struct {
	vfs.FS
	disk *disk
}

// hold returns err if there is none, or while the store opens or closes; else it does not return.
func (d *disk) hold(err error) error {
	if err == nil || !d.holds.Load() {
		return err
	}
	d.db.fail(withRemedy(d.db.opts.Dir, err))
	select {}
}

func isLog(name string) bool { return strings.HasSuffix(name, ".log") }

// held is f with its errors held, if name is that of a log.
func (fs heldFS) held(name string, f vfs.File, err error) (vfs.File, error) {
	if !isLog(name) {
		return f, err
	}
	if err := fs.disk.hold(err); err != nil {
		return nil, err
	}
	return heldFile{f, fs.disk}, nil
}

// Create makes a file, of the log or another.
func (fs heldFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := fs.FS.Create(name, c)
	return fs.held(name, f, err)
}

// ReuseForWrite makes a log of an old one.
func (fs heldFS) ReuseForWrite(from, to string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := fs.FS.ReuseForWrite(from, to, c)
	return fs.held(to, f, err)
}

// OpenDir opens a folder: Pebble syncs it after it has made a log.
func (fs heldFS) OpenDir(name string) (vfs.File, error) {
	f, err := fs.FS.OpenDir(name)
	if err != nil {
		return nil, err
	}
	return heldFile{f, fs.disk}, nil
}

// Unwrap is of [vfs.FS].
func (fs heldFS) Unwrap() vfs.FS { return fs.FS }

// A heldFile is a file of the log, or the folder. Each method is that of [vfs.File].
type heldFile struct {
	vfs.File
	disk *disk
}

// Write writes.
func (f heldFile) Write(b []byte) (int, error) {
	n, err := f.File.Write(b)
	return n, f.disk.hold(err)
}

// Stat describes the file.
func (f heldFile) Stat() (vfs.FileInfo, error) {
	fi, err := f.File.Stat()
	return fi, f.disk.hold(err)
}

// Sync makes the file durable.
func (f heldFile) Sync() error { return f.disk.hold(f.File.Sync()) }

// SyncData makes what was written durable.
func (f heldFile) SyncData() error { return f.disk.hold(f.File.SyncData()) }

// SyncTo makes what was written durable up to n.
func (f heldFile) SyncTo(n int64) (bool, error) {
	full, err := f.File.SyncTo(n)
	return full, f.disk.hold(err)
}

// Close closes.
func (f heldFile) Close() error { return f.disk.hold(f.File.Close()) }
