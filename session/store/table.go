package store

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"sort"
	"sync"
)

// maxKey and maxValue bound a stored row, in bytes. The longest JID, 3,071 bytes, fits into a key
// with the table's prefix and some more.
const (
	maxKey   = 4 << 10
	maxValue = 4 << 20
)

// A table is what maps and logs have in common. It is part of a definition, so it is shared by all
// stores of the process, and not changed after its package's initialization.
type table struct {
	name    string // stored: never changes
	prefix  byte   // first byte of every store key: stored, never changes
	version uint8  // of new values
	oldest  uint8  // the oldest version of values that the codec can decode
	// convert rewrites a value of a version before oldest; nil: such a table can't be opened
	convert func(version uint8, value []byte) ([]byte, error)
}

// newTable returns the definition of a table. It panics if it can't be one: definitions are package
// variables, so that shows at start.
func newTable(name string, prefix byte, version uint8) table {
	if name == "" || prefix < '!' || prefix > '~' || version == 0 {
		panic(fmt.Sprintf("store: table %q: a table has a name, a printable prefix and a version from 1", name))
	}
	return table{name: name, prefix: prefix, version: version, oldest: max(1, version-1)}
}

// The prefix bytes of the system's tables, besides 0. Modules can't have them.
const (
	prefixEntities = 'u'
	prefixHosts    = 'h'
	prefixSecrets  = 's'
)

// A TableRegistry is where modules open their tables, with [MapOf] and [LogOf]: an open store, and
// its records of all tables that were ever used in it. Any goroutine.
type TableRegistry struct {
	db *DB
	mu sync.Mutex // guards records; held while register waits for the disk
	// records has every table that was ever used, by name. Erase needs those of modules that are not
	// loaded now, too.
	records map[string]tableRecord
}

// A tableRecord is what the store keeps of a table: its prefix, the version that last wrote it, and
// the oldest version that a row may have.
type tableRecord struct {
	prefix, version, oldest byte
}

// newTableRegistry returns an empty registry.
func newTableRegistry(db *DB) *TableRegistry {
	return &TableRegistry{db: db, records: map[string]tableRecord{}}
}

// Oldest returns the oldest version that a row of the table called name may have; 0 if the table is not open.
func (s *TableRegistry) Oldest(name string) uint8 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.records[name].oldest
}

// DB returns the store, for [DB.NewBatch], [DB.Commit] and [DB.Snapshot].
func (s *TableRegistry) DB() *DB { return s.db }

// loadRecords reads the records of all tables. Called by Open.
func (s *TableRegistry) loadRecords() error {
	lo, hi := prefixRange([]byte(prefixTable))
	return s.db.scan(lo, hi, false, func(key, value []byte) (bool, error) {
		if len(value) != 4 || value[0] != 1 {
			return false, fmt.Errorf("%w: the record of table %q", ErrFormat, key[len(prefixTable):])
		}
		s.records[string(key[len(prefixTable):])] = tableRecord{value[1], value[2], value[3]}
		return true, nil
	})
}

// register opens a table. It may wait for the disk: it is called while modules load, never on a
// loop.
//
//  1. The prefix must be neither one of the system's nor one of another table.
//  2. The version in the record must not be newer than the definition's (ErrFormat). Rows that are
//     too old are converted, if the definition can.
//  3. If the record has changed, or there was none, it is written durably before the table is
//     used, so that Erase finds the rows.
func (s *TableRegistry) register(t *table) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t.prefix == prefixEntities || t.prefix == prefixHosts || t.prefix == prefixSecrets {
		return fmt.Errorf("store: table %q has prefix %q, which is the system's", t.name, t.prefix)
	}
	for name, r := range s.records {
		if r.prefix == t.prefix && name != t.name {
			return fmt.Errorf("store: tables %q and %q both have prefix %q", min(t.name, name), max(t.name, name),
				t.prefix)
		}
	}
	was, ok := s.records[t.name]
	now := tableRecord{t.prefix, t.version, t.version}
	if ok {
		what := fmt.Sprintf("table %q", t.name)
		switch {
		case was.prefix != t.prefix:
			return fmt.Errorf("%w: %s had prefix %q, now it has %q", ErrFormat, what, was.prefix, t.prefix)
		case was.version > t.version:
			return formatError(what, uint64(was.version), uint64(t.version))
		case was.oldest < t.oldest && (t.convert == nil || s.db.opts.ReadOnly):
			return formatError(what, uint64(was.oldest), uint64(t.oldest))
		case was.oldest < t.oldest:
			if err := s.convert(t); err != nil {
				return err
			}
		default:
			now.oldest = was.oldest
		}
		if was == now {
			return nil
		}
	}
	if !s.db.opts.ReadOnly {
		b := s.db.systemBatch()
		b.set([]byte(prefixTable+t.name), []byte{1, now.prefix, now.version, now.oldest})
		if err := s.db.Wait(context.Background(), s.db.Commit(b)); err != nil {
			return fmt.Errorf("store: registering table %q: %w", t.name, err)
		}
	}
	s.records[t.name] = now
	return nil
}

// convert rewrites the rows of t that are of an older version, 1,000 in each batch. It waits for
// each batch. If it is interrupted, the next start continues with the rows that are left. It must
// not run while rows of t are written.
func (s *TableRegistry) convert(t *table) error {
	snap := s.db.Snapshot()
	defer snap.Close()
	b := s.db.systemBatch()
	flush := func() error {
		t := s.db.Commit(b)
		b = s.db.systemBatch()
		return s.db.Wait(context.Background(), t)
	}
	err := snap.scan([]byte{t.prefix}, []byte{t.prefix + 1}, false, func(key, value []byte) (bool, error) {
		if len(value) == 0 {
			return false, corruptError("a row of table "+t.name, errors.New("no version"))
		}
		if value[0] >= t.version {
			return true, nil
		}
		v, err := t.convert(value[0], value[1:])
		if err != nil {
			return false, fmt.Errorf("store: converting table %q: %w", t.name, err)
		}
		b.set(key, append([]byte{t.version}, v...))
		if b.Len() < 1000 {
			return true, nil
		}
		return true, flush()
	})
	if err == nil {
		err = flush()
	}
	return err
}

// ownedPrefixes returns the prefix bytes of all tables whose rows have owners, in order.
func (s *TableRegistry) ownedPrefixes() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	var p []byte
	for _, r := range s.records {
		p = append(p, r.prefix)
	}
	sort.Slice(p, func(i, j int) bool { return p[i] < p[j] })
	return p
}

// ownerKey appends the beginning of the store keys of all rows that an owner has in t.
func (t *table) ownerKey(dst []byte, owner uint64) []byte {
	return binary.BigEndian.AppendUint64(append(dst, t.prefix), owner)
}

// ownerEnd appends the first store key after all rows of an owner in t: the end of the range that
// ownerKey begins.
func (t *table) ownerEnd(dst []byte, owner uint64) []byte {
	if owner == math.MaxUint64 {
		return append(dst, t.prefix+1)
	}
	return t.ownerKey(dst, owner+1)
}

// ownerLen is the length of what ownerKey appends: the prefix byte and the owner.
const ownerLen = 1 + 8

// prefixRange returns the bounds of all keys that begin with prefix, which must not end in 0xff.
func prefixRange(prefix []byte) (lo, hi []byte) {
	hi = append([]byte(nil), prefix...)
	hi[len(hi)-1]++
	return prefix, hi
}

// beginRow begins a row in the scratch buffers of b. If it returns true, the caller appends the
// encoded key to b.key and the value to b.val, and calls endRow. false: the batch has failed, or
// owner is not its owner.
func (t *table) beginRow(b *Batch, owner uint64) bool {
	if !b.checkOwner(owner) {
		return false
	}
	b.key = t.ownerKey(b.key[:0], owner)
	b.val = append(b.val[:0], t.version)
	return true
}

// endRow adds the row that beginRow began to b. A row that is too long makes the batch fail.
func (t *table) endRow(b *Batch) {
	if len(b.key) > maxKey || len(b.val) > maxValue {
		b.fail(fmt.Errorf("%w: table %q: a key of %d or a value of %d bytes", ErrKey, t.name, len(b.key),
			len(b.val)))
		return
	}
	b.set(b.key, b.val)
}

// splitVersion splits a stored value into its version and the rest. The error is ErrFormat for a
// version that t can't read.
func (t *table) splitVersion(value []byte) (version uint8, rest []byte, err error) {
	if len(value) == 0 {
		return 0, nil, corruptError("a row of table "+t.name, errors.New("no version"))
	}
	if v := value[0]; v > t.version || v < t.oldest {
		return 0, nil, formatError("a row of table "+t.name, uint64(v), uint64(t.version))
	}
	return value[0], value[1:], nil
}
