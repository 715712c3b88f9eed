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

// Limits of one row. A key of a peer's text is long enough with the longest JID.
const (
	maxKey   = 4 << 10
	maxValue = 4 << 20
)

// A table is what Map and Log have in common: a name, a prefix, a version.
type table struct {
	name    string
	prefix  byte
	version uint8
	oldest  uint8 // of the rows that can be read
	convert func(version uint8, value []byte) ([]byte, error)
}

func newTable(name string, prefix byte, version uint8) table {
	if name == "" || prefix < '!' || prefix > '~' || version == 0 {
		panic(fmt.Sprintf("store: table %q: a table has a name, a printable prefix and a version from 1", name))
	}
	return table{name: name, prefix: prefix, version: version, oldest: max(1, version-1)}
}

// Prefixes of the system's tables, besides 0.
const (
	prefixEntities = 'u'
	prefixHosts    = 'h'
	prefixSecrets  = 's'
)

// A Space is where modules get their tables from: one open store, and what it knows of the tables in it. Any
// goroutine.
type TableRegistry struct {
	db *DB
	mu sync.Mutex
	// records has every table that was ever used, by name: a deleted account's rows of a module that is not
	// loaded now go too.
	records map[string]tableRecord
}

// A tableRecord is what the store remembers of a table: what wrote it last, and the oldest rows there may be.
type tableRecord struct {
	prefix, version, oldest byte
}

func newTableRegistry(db *DB) *TableRegistry {
	return &TableRegistry{db: db, records: map[string]tableRecord{}}
}

// DB returns the store, for [DB.NewBatch], [DB.Commit] and [DB.Snapshot].
func (s *TableRegistry) DB() *DB { return s.db }

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

// register makes a table usable: its version is checked, its rows are converted if they must be, and the
// store remembers it.
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

// convert rewrites the rows of t that are of an older version. A row is rewritten once: interrupted, it
// goes on.
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

// ownedPrefixes returns the prefixes of all tables whose rows have owners, in order.
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

// ownerKey appends the part of a store key that all rows of an owner in a table have.
func (t *table) ownerKey(dst []byte, owner uint64) []byte {
	return binary.BigEndian.AppendUint64(append(dst, t.prefix), owner)
}

// ownerEnd appends the first store key behind all rows of an owner in a table.
func (t *table) ownerEnd(dst []byte, owner uint64) []byte {
	if owner == math.MaxUint64 {
		return append(dst, t.prefix+1)
	}
	return t.ownerKey(dst, owner+1)
}

// ownerLen is the length of what ownerKey appends.
const ownerLen = 1 + 8

// prefixRange returns the bounds of all keys with a prefix that does not end in 0xff.
func prefixRange(prefix []byte) (lo, hi []byte) {
	hi = append([]byte(nil), prefix...)
	hi[len(hi)-1]++
	return prefix, hi
}

// beginRow adds a row to a batch. key and value are appended by functions of the table's codec.
func (t *table) beginRow(b *Batch, owner uint64) bool {
	if !b.checkOwner(owner) {
		return false
	}
	b.key = t.ownerKey(b.key[:0], owner)
	b.val = append(b.val[:0], t.version)
	return true
}

func (t *table) endRow(b *Batch) {
	if len(b.key) > maxKey || len(b.val) > maxValue {
		b.fail(fmt.Errorf("%w: table %q: a key of %d or a value of %d bytes", ErrKey, t.name, len(b.key),
			len(b.val)))
		return
	}
	b.set(b.key, b.val)
}

// splitVersion takes the version off a stored value.
func (t *table) splitVersion(value []byte) (version uint8, rest []byte, err error) {
	if len(value) == 0 {
		return 0, nil, corruptError("a row of table "+t.name, errors.New("no version"))
	}
	if v := value[0]; v > t.version || v < t.oldest {
		return 0, nil, formatError("a row of table "+t.name, uint64(v), uint64(t.version))
	}
	return value[0], value[1:], nil
}
