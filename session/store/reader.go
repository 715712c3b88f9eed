package store

import (
	"errors"
	"fmt"
	"os"

	"github.com/cockroachdb/pebble/v2"
)

// A Reader is what tables read from: a [Snapshot], or a [DB] for its latest state. Reading may wait for
// the disk: never on a loop.
type Reader interface {
	// get returns the value of a store key; it is the caller's.
	get(key []byte) (value []byte, ok bool, err error)
	// scan calls fn for the rows from lo up to hi, which is excluded, in order or in reverse, until it returns
	// false. What it is given is good until it returns.
	scan(lo, hi []byte, reverse bool, fn func(key, value []byte) (more bool, err error)) error
}

type pebbleReader interface {
	pebble.Reader
}

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

func readError(err error) error {
	switch {
	case errors.Is(err, os.ErrPermission): // Pebble calls what it may not read damaged
		return fmt.Errorf("store: reading: %w: the data folder and its files must be user %d's (chown -R)", err,
			os.Geteuid())
	case pebble.IsCorruptionError(err):
		return corruptError("reading", err)
	case errors.Is(err, pebble.ErrClosed):
		return fmt.Errorf("%w: closed", ErrUnavailable)
	}
	return fmt.Errorf("store: reading: %w", err)
}

// recoverClosed makes an error of the panic with which Pebble answers a use after Close.
func recoverClosed(err *error) {
	if r := recover(); r != nil {
		if e, ok := r.(error); ok && errors.Is(e, pebble.ErrClosed) {
			*err = fmt.Errorf("%w: closed", ErrUnavailable)
			return
		}
		panic(r)
	}
}

// injectFault asks Options.Fault. What it returns is ErrUnavailable too.
func (db *DB) injectFault(write bool) error {
	if db.opts.Fault == nil {
		return nil
	}
	if err := db.opts.Fault(write); err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return nil
}

func (db *DB) get(key []byte) (v []byte, ok bool, err error) {
	defer recoverClosed(&err)
	if err := db.injectFault(false); err != nil {
		return nil, false, err
	}
	return get(db.pebble, key)
}

func (db *DB) scan(lo, hi []byte, reverse bool, fn func(key, value []byte) (bool, error)) (err error) {
	defer recoverClosed(&err)
	if err := db.injectFault(false); err != nil {
		return err
	}
	return scan(db.pebble, lo, hi, reverse, fn)
}

// A Snapshot is the store as it was when it was taken, with every batch whose ticket had been given by
// then. It holds back the disk's cleaning up, so it is to be closed soon. For one goroutine at a time.
type Snapshot struct {
	db       *DB
	snap     *pebble.Snapshot
	it       *pebble.Iterator // of all scans, one after the other: making one costs more than most scans
	scanning bool             // a scan goes on
	err      error
}

// Snapshot takes a snapshot. It waits until the batches given before have been written: for workers, commands
// and tests, never a loop. A store that is closed gives one whose reads fail with ErrUnavailable.
func (db *DB) Snapshot() *Snapshot {
	db.committer.waitApplied()
	s := &Snapshot{db: db}
	func() {
		defer recoverClosed(&s.err)
		s.snap = db.pebble.NewSnapshot()
	}()
	return s
}

// Close gives the snapshot back. A second Close does nothing.
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

func (s *Snapshot) get(key []byte) ([]byte, bool, error) {
	if s.err != nil {
		return nil, false, s.err
	}
	if err := s.db.injectFault(false); err != nil {
		return nil, false, err
	}
	return get(s.snap, key)
}

func (s *Snapshot) scan(lo, hi []byte, reverse bool, fn func(key, value []byte) (bool, error)) error {
	if s.err != nil {
		return s.err
	}
	if err := s.db.injectFault(false); err != nil {
		return err
	}
	if s.scanning {
		return scan(s.snap, lo, hi, reverse, fn) // fn of another scan asks
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
