package store

import (
	"errors"
	"fmt"
)

// What a store's errors are, by errors.Is. Their texts say what to do.
var (
	// ErrLocked: another process has the store open.
	ErrLocked = errors.New("store is locked")
	// ErrFormat: the store, or a table in it, was written by a newer or too old version (exit status 3).
	ErrFormat = errors.New("store format is not supported")
	// ErrFull: too little space is left, too much waits for the disk, or too many entities are being made; in
	// XMPP resource-constraint. Reads go on.
	ErrFull = errors.New("store is full")
	// ErrUnavailable: the store can't write, or is closed.
	ErrUnavailable = errors.New("store is unavailable")
	// ErrMissing: there is no store at this place, and it was to be read only.
	ErrMissing = errors.New("no store there")
	// ErrCorrupt: a row can't be read.
	ErrCorrupt = errors.New("stored data is damaged")
	// ErrExists: an entity of that name, or such a host, is there already.
	ErrExists = errors.New("exists already")
	// ErrNotFound: there is no such account, entity or host.
	ErrNotFound = errors.New("not found")
	// ErrOwner: a batch was given a row of another owner than its own, or a table of the system.
	ErrOwner = errors.New("row does not belong to the batch's owner")
	// ErrKey: a key that can't be one: too long, or a name with a NUL byte.
	ErrKey = errors.New("not allowed as a key")
)

func lockedError(dir string, cause error) error {
	return fmt.Errorf("%w: %s is in use by another process (%v): stop it, or use its admin socket, or "+
		"give another --data folder", ErrLocked, dir, cause)
}

func formatError(what string, have, want uint64) error {
	if have > want {
		return fmt.Errorf("%w: %s has version %d, this program knows %d: use the newer program that wrote "+
			"it, or restore a backup", ErrFormat, what, have, want)
	}
	return fmt.Errorf("%w: %s has version %d, this program needs %d and can't convert it: use a version "+
		"in between", ErrFormat, what, have, want)
}

func corruptError(what string, cause error) error {
	return fmt.Errorf("%w: %s: %v", ErrCorrupt, what, cause)
}
