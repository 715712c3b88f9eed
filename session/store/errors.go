package store

import (
	"errors"
	"fmt"
)

// The errors of a store, for errors.Is. The texts of the errors that wrap them say what to do.
var (
	// ErrLocked: another process has the store open.
	ErrLocked = errors.New("store is locked")
	// ErrFormat: the store, or a table in it, was written by a version that is newer or too old (exit
	// status 3).
	ErrFormat = errors.New("store format is not supported")
	// ErrFull: too little disk space is left, the queue for the disk is full, or entities are made
	// faster than ids can be reserved. A client gets resource-constraint (RFC 6120 section
	// 8.3.3.18). Reads go on.
	ErrFull = errors.New("store is full")
	// ErrUnavailable: the store is out of service, closed, or read-only. Tests' injected errors are of
	// this kind, too.
	ErrUnavailable = errors.New("store is unavailable")
	// ErrMissing: there is no store at this place, and it was opened read-only.
	ErrMissing = errors.New("no store there")
	// ErrCorrupt: a row or a file can't be decoded.
	ErrCorrupt = errors.New("stored data is damaged")
	// ErrExists: there is an entity of that name, or such a host, already.
	ErrExists = errors.New("exists already")
	// ErrNotFound: there is no such account, entity or host.
	ErrNotFound = errors.New("not found")
	// ErrOwner: a batch was given a row of another owner than its own.
	ErrOwner = errors.New("row does not belong to the batch's owner")
	// ErrKey: a key, a row or a batch breaks a limit: too long, or a name with a NUL byte.
	ErrKey = errors.New("not allowed as a key")
)

// lockedError is the ErrLocked of Open.
func lockedError(dir string, cause error) error {
	return fmt.Errorf("%w: %s is in use by another process (%v): stop it, or use its admin socket, or "+
		"give another --data folder", ErrLocked, dir, cause)
}

// formatError is the ErrFormat for a version that this program can't read: it knows versions up to
// want.
func formatError(what string, have, want uint64) error {
	if have > want {
		return fmt.Errorf("%w: %s has version %d, this program knows %d: use the newer program that wrote "+
			"it, or restore a backup", ErrFormat, what, have, want)
	}
	return fmt.Errorf("%w: %s has version %d, this program needs %d and can't convert it: use a version "+
		"in between", ErrFormat, what, have, want)
}

// corruptError is an ErrCorrupt that names what can't be decoded.
func corruptError(what string, cause error) error {
	return fmt.Errorf("%w: %s: %v", ErrCorrupt, what, cause)
}
