package store

import (
	"errors"
	"fmt"
	"os"

	"github.com/cockroachdb/pebble/v2"
)

// A Reader is what tables read from: a [Snapshot], or a [DB] for its latest state. Reading may wait
// for the disk: never on a loop. Only this package implements it.
type Reader interface {
	// get returns the value under a store key; false if there is none. The value is the caller's.
	get(key []byte) (value []byte, ok bool, err error)
	// scan calls fn for the rows from lo up to hi, which is excluded, in the order of keys or in
	// reverse, until fn returns false or an error, which scan returns. key and value are valid until
	// fn returns.
	scan(lo, hi []byte, reverse bool, fn func(key, value []byte) (more bool, err error)) error
}

// pebbleReader is Pebble's DB or its Snapshot.
type pebbleReader interface {
	pebble.Reader
}

// get implements Reader.get on Pebble.
func get(r pebbleReader, key []byte) ([]byte, bool, error) {
	v, closer, err := r.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, readError(err)
	}
	out := append([]byte(nil), v...)
	if err := closer.Close(); err != nil {
		return nil, false, readError(err)
	}
	return out, true, nil
}

// scan implements Reader.scan on Pebble, with an iterator of its own.
func scan(r pebbleReader, lo, hi []byte, reverse bool, fn func(key, value []byte) (bool, error)) (err error) {
	it, err := r.NewIter(&pebble.IterOptions{LowerBound: lo, UpperBound: hi})
	if err != nil {
		return readError(err)
	}
	defer func() {
		if e := it.Close(); e != nil && err == nil {
			err = readError(e)
		}
	}()
	return iterate(it, reverse, fn)
}

// iterate calls fn for each row of it. The caller closes it.
func iterate(it *pebble.Iterator, reverse bool, fn func(key, value []byte) (bool, error)) error {
	ok := false
	if reverse {
		ok = it.Last()
	} else {
		ok = it.First()
	}
	for ok {
		v, err := it.ValueAndErr()
		if err != nil {
			return readError(err)
		}
		more, err := fn(it.Key(), v)
		if err != nil || !more {
			return err
		}
		if reverse {
			ok = it.Prev()
		} else {
			ok = it.Next()
		}
	}
	if err := it.Error(); err != nil {
		return readError(err)
	}
	return nil
}

// readError is an error of Pebble's reads as a store's error.
func readError(err error) error {
	switch {
	case errors.Is(err, os.ErrPermission): // Pebble says "corruption" for a file that it may not read
		return fmt.Errorf("store: reading: %w: the data folder and its files must be user %d's (chown -R)", err,
			os.Geteuid())
	case pebble.IsCorruptionError(err):
		return corruptError("reading", err)
	case errors.Is(err, pebble.ErrClosed):
		return fmt.Errorf("%w: closed", ErrUnavailable)
	}
	return fmt.Errorf("store: reading: %w", err)
}

// recoverClosed makes an ErrUnavailable of the panic with which Pebble answers a use after Close.
// Other panics go on. It is deferred.
func recoverClosed(err *error) {
	if r := recover(); r != nil {
		if e, ok := r.(error); ok && errors.Is(e, pebble.ErrClosed) {
			*err = fmt.Errorf("%w: closed", ErrUnavailable)
			return
		}
		panic(r)
	}
}

// injectFault calls Options.Fault, if there is one. Its error becomes an ErrUnavailable.
func (db *DB) injectFault(write bool) error {
	if db.opts.Fault == nil {
		return nil
	}
	if err := db.opts.Fault(write); err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return nil
}

// get implements Reader for the latest state.
func (db *DB) get(key []byte) (v []byte, ok bool, err error) {
	defer recoverClosed(&err)
	if err := db.injectFault(false); err != nil {
		return nil, false, err
	}
	return get(db.pebble, key)
}

// scan implements Reader for the latest state, as of the begin of the scan.
func (db *DB) scan(lo, hi []byte, reverse bool, fn func(key, value []byte) (bool, error)) (err error) {
	defer recoverClosed(&err)
	if err := db.injectFault(false); err != nil {
		return err
	}
	return scan(db.pebble, lo, hi, reverse, fn)
}

// A Snapshot is the store at the time when the snapshot was taken: it has every batch whose ticket
// had been given by then. It keeps Pebble from deleting old versions of rows, so it should be
// closed soon. One goroutine at a time.
type Snapshot struct {
	db       *DB
	snap     *pebble.Snapshot
	it       *pebble.Iterator // for all scans, one after another: making one costs more than most scans
	scanning bool             // a scan runs: fn of it may start another one
	err      error            // what reads return: closed, or could not be taken
}

// Snapshot takes a snapshot. It waits until all batches given before are settled: for workers,
// commands and tests, never for a loop or a commit callback. If the store is closed, the reads of
// the snapshot fail with ErrUnavailable. The caller must close it before the store.
func (db *DB) Snapshot() *Snapshot {
	db.committer.waitApplied()
	s := &Snapshot{db: db}
	func() {
		defer recoverClosed(&s.err)
		s.snap = db.pebble.NewSnapshot()
	}()
	return s
}

// Close releases the snapshot. A second Close does nothing. Reads after it fail with
// ErrUnavailable.
func (s *Snapshot) Close() error {
	if s.snap == nil {
		return nil
	}
	var bad error
	if s.it != nil {
		bad = s.it.Close()
	}
	err := errors.Join(bad, s.snap.Close())
	s.snap, s.it, s.err = nil, nil, fmt.Errorf("%w: snapshot is closed", ErrUnavailable)
	return err
}

// get implements Reader.
func (s *Snapshot) get(key []byte) ([]byte, bool, error) {
	if s.err != nil {
		return nil, false, s.err
	}
	if err := s.db.injectFault(false); err != nil {
		return nil, false, err
	}
	return get(s.snap, key)
}

// scan implements Reader. It uses the snapshot's one iterator, unless fn of another scan has called
// it.
func (s *Snapshot) scan(lo, hi []byte, reverse bool, fn func(key, value []byte) (bool, error)) error {
	if s.err != nil {
		return s.err
	}
	if err := s.db.injectFault(false); err != nil {
		return err
	}
	if s.scanning {
		return scan(s.snap, lo, hi, reverse, fn) // nested: s.it is in use
	}
	s.scanning = true
	defer func() { s.scanning = false }()
	if s.it == nil {
		it, err := s.snap.NewIter(&pebble.IterOptions{LowerBound: lo, UpperBound: hi})
		if err != nil {
			return readError(err)
		}
		s.it = it
	} else {
		s.it.SetBounds(lo, hi)
	}
	return iterate(s.it, reverse, fn)
}
