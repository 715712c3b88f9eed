package store

import (
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// A walGuardFS is a file system that keeps errors of the write-ahead log's files from Pebble.
//
// Where Pebble rotates the log, it panics on any error of the new file with its mutex released, and
// the deferred Unlock then ends the process: a recover sees nothing of that. So when a file of the
// log returns an error, the goroutine that gets it takes the store out of service, and blocks until
// the process ends. While the store opens or closes (disk.guardWAL is false) errors pass: nothing
// rotates then, and Pebble handles them.
//
// Pebble names its log files *.log. If a version of Pebble named them otherwise, errors would pass
// again.
type walGuardFS struct {
	vfs.FS
	disk *disk
}

// blockOnError returns nil for nil. An error is returned while guardWAL is false; otherwise the
// store fails with it, and blockOnError does not return.
func (d *disk) blockOnError(err error) error {
	if err == nil || !d.guardWAL.Load() {
		return err
	}
	d.db.fail(withRemedy(d.db.opts.Dir, err))
	select {}
}

// isWAL reports whether name is a file of the write-ahead log.
func isWAL(name string) bool { return strings.HasSuffix(name, ".log") }

// guardFile returns f, guarded if name is a file of the log. err is the error with which it was
// opened.
func (fs walGuardFS) guardFile(name string, f vfs.File, err error) (vfs.File, error) {
	if !isWAL(name) {
		return f, err
	}
	if err := fs.disk.blockOnError(err); err != nil {
		return nil, err
	}
	return walGuardFile{f, fs.disk}, nil
}

// Create makes a file. It implements [vfs.FS].
func (fs walGuardFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := fs.FS.Create(name, c)
	return fs.guardFile(name, f, err)
}

// ReuseForWrite renames an old log file, to be written again. It implements [vfs.FS].
func (fs walGuardFS) ReuseForWrite(from, to string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := fs.FS.ReuseForWrite(from, to, c)
	return fs.guardFile(to, f, err)
}

// OpenDir opens a folder. Pebble syncs it after it has made a log file, so it is guarded, too. It
// implements [vfs.FS].
func (fs walGuardFS) OpenDir(name string) (vfs.File, error) {
	f, err := fs.FS.OpenDir(name)
	if err != nil {
		return nil, err
	}
	return walGuardFile{f, fs.disk}, nil
}

// Unwrap returns the file system below. It implements [vfs.FS].
func (fs walGuardFS) Unwrap() vfs.FS { return fs.FS }

// A walGuardFile is a file of the log, or its folder. Its methods are those of [vfs.File], and
// block for ever on an error, see walGuardFS.
type walGuardFile struct {
	vfs.File
	disk *disk
}

// Write writes b.
func (f walGuardFile) Write(b []byte) (int, error) {
	n, err := f.File.Write(b)
	return n, f.disk.blockOnError(err)
}

// Stat describes the file.
func (f walGuardFile) Stat() (vfs.FileInfo, error) {
	fi, err := f.File.Stat()
	return fi, f.disk.blockOnError(err)
}

// Sync makes the file durable: contents and metadata.
func (f walGuardFile) Sync() error { return f.disk.blockOnError(f.File.Sync()) }

// SyncData makes the file's contents durable.
func (f walGuardFile) SyncData() error { return f.disk.blockOnError(f.File.SyncData()) }

// SyncTo makes the first n bytes durable; full says that all of the file is.
func (f walGuardFile) SyncTo(n int64) (bool, error) {
	full, err := f.File.SyncTo(n)
	return full, f.disk.blockOnError(err)
}

// Close closes the file.
func (f walGuardFile) Close() error { return f.disk.blockOnError(f.File.Close()) }
