package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sort"
	"sync"

	"github.com/cockroachdb/pebble/v2"
)

// A Table is one kind of row, for a package variable.
type Table struct {
	name    string
	prefix  byte
	version byte
}

var registry struct {
	sync.Mutex
	list []Table
}

// NewTable names a table: its prefix is a byte that no other has, its version that of its values.
func NewTable(name string, prefix, version byte) Table {
	registry.Lock()
	defer registry.Unlock()
	for _, t := range registry.list {
		if t.name == name || t.prefix == prefix {
			panic(fmt.Sprintf("store: the tables %s and %s have one name or prefix", t.name, name))
		}
	}
	if prefix == 0 || prefix == 0xFF {
		panic("store: a reserved prefix")
	}
	t := Table{name, prefix, version}
	registry.list = append(registry.list, t)
	return t
}

func tables() []Table {
	registry.Lock()
	defer registry.Unlock()
	l := append([]Table(nil), registry.list...)
	sort.Slice(l, func(i, j int) bool { return l[i].prefix < l[j].prefix })
	return l
}

func (t Table) key(owner uint64, key string) []byte {
	k := make([]byte, 9, 9+len(key))
	k[0] = t.prefix
	binary.BigEndian.PutUint64(k[1:], owner)
	return append(k, key...)
}

// end is behind the last key of owner.
func (t Table) end(owner uint64) []byte {
	if owner == 1<<64-1 {
		return []byte{t.prefix + 1}
	}
	return t.key(owner+1, "")
}

// A Snapshot is the database at one moment. Any goroutine; it must be closed.
type Snapshot struct{ s *pebble.Snapshot }

// Snapshot is the database now.
func (db *DB) Snapshot() *Snapshot { return &Snapshot{db.p.NewSnapshot()} }

// Close gives it back.
func (s *Snapshot) Close() error { return s.s.Close() }

// Get is a copy of one row's value; nil and false: there is none.
func (s *Snapshot) Get(t Table, owner uint64, key string) ([]byte, bool, error) {
	v, c, err := s.s.Get(t.key(owner, key))
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	defer c.Close()
	val, err := t.value(v)
	return append([]byte(nil), val...), err == nil, err
}

func (t Table) value(v []byte) ([]byte, error) {
	if len(v) == 0 || v[0] > t.version {
		return nil, fmt.Errorf("%w: a row of table %s", ErrFormat, t.name)
	}
	return v[1:], nil
}

// Scan calls f for each row of owner from key from on, in the order of keys, until f says no more.
// key and value are good until f returns.
func (s *Snapshot) Scan(t Table, owner uint64, from string, f func(key string, value []byte) (more bool)) error {
	it, err := s.s.NewIter(&pebble.IterOptions{LowerBound: t.key(owner, from), UpperBound: t.end(owner)})
	if err != nil {
		return err
	}
	defer it.Close()
	for ok := it.First(); ok; ok = it.Next() {
		v, err := t.value(it.Value())
		if err != nil {
			return err
		}
		if !f(string(it.Key()[9:]), v) {
			break
		}
	}
	return it.Error()
}
