package store

import "fmt"

// A MapDef defines a table of keys and values for each owner. It is a package variable of the
// module that owns the table.
type MapDef[K, V any] struct {
	table
	key   KeyCodec[K]
	value Codec[V]
}

// NewMap defines a table: its name and its prefix byte, which are stored and must never change or
// be used for another table, and the version of its values, from 1. Keys of type string, []byte,
// uint64 or uint32, and values of type []byte, string, uint64, struct{} or with methods
// AppendBinary and UnmarshalBinary have a codec; for others call KeyCodec and Codec. NewMap panics
// on a definition that can't be.
func NewMap[K, V any](name string, prefix byte, version uint8) *MapDef[K, V] {
	d := &MapDef[K, V]{table: newTable(name, prefix, version)}
	d.key, _ = keyCodec[K]()
	d.value, _ = valueCodec[V]()
	return d
}

// Codec sets how values are encoded and decoded, and returns d.
func (d *MapDef[K, V]) Codec(c Codec[V]) *MapDef[K, V] {
	d.value = c
	return d
}

// KeyCodec sets how keys are encoded and decoded, and returns d.
func (d *MapDef[K, V]) KeyCodec(c KeyCodec[K]) *MapDef[K, V] {
	d.key = c
	return d
}

// Oldest sets the oldest version of values that the codec decodes, and returns d. The default is
// the version before the present one.
func (d *MapDef[K, V]) Oldest(version uint8) *MapDef[K, V] {
	d.oldest = version
	return d
}

// Convert sets how values older than Oldest are rewritten when the table is opened, and returns d.
// value has no version byte; neither has the result.
func (d *MapDef[K, V]) Convert(f func(version uint8, value []byte) ([]byte, error)) *MapDef[K, V] {
	d.convert = f
	return d
}

// A Map is a table of one open store. Any goroutine.
type Map[K, V any] struct{ def *MapDef[K, V] }

// MapOf opens d's table in s. The first time for a store, it records the table durably: it may wait
// for the disk. The error is [ErrFormat] if the rows were written by a newer version, or by one
// that is too old.
func MapOf[K, V any](s *TableRegistry, d *MapDef[K, V]) (*Map[K, V], error) {
	if d.key.Append == nil || d.key.Decode == nil || d.value.Append == nil || d.value.Decode == nil {
		return nil, fmt.Errorf("store: table %q needs a codec for %T or %T", d.name, *new(K), *new(V))
	}
	if err := s.register(&d.table); err != nil {
		return nil, err
	}
	return &Map[K, V]{d}, nil
}

// Put adds a write to b: the row k of owner is v. A mistake (another owner, a row that is too long)
// makes b's commit fail. Loops may call it.
func (m *Map[K, V]) Put(b *Batch, owner uint64, k K, v V) {
	if m.def.beginRow(b, owner) {
		b.key = m.def.key.Append(b.key, k)
		b.val = m.def.value.Append(b.val, v)
		m.def.endRow(b)
	}
}

// Delete adds the deletion of owner's row k to b. There need be no such row.
func (m *Map[K, V]) Delete(b *Batch, owner uint64, k K) {
	if m.def.beginRow(b, owner) {
		b.key = m.def.key.Append(b.key, k)
		b.del(b.key)
	}
}

// Clear adds the deletion of all rows of owner to b, those that b has written before, too.
func (m *Map[K, V]) Clear(b *Batch, owner uint64) {
	if b.checkOwner(owner) {
		b.delRange(m.def.ownerKey(nil, owner), m.def.ownerEnd(nil, owner))
	}
}

// Get reads owner's row k; false if there is none. The value is the caller's. It may wait for the
// disk.
func (m *Map[K, V]) Get(r Reader, owner uint64, k K) (v V, ok bool, err error) {
	raw, ok, err := r.get(m.def.key.Append(m.def.ownerKey(make([]byte, 0, 64), owner), k))
	if err != nil || !ok {
		return v, false, err
	}
	if v, err = m.decode(raw); err != nil {
		return v, false, err
	}
	return v, true, nil
}

// GetAll reads several rows of owner and calls fn for those that exist, in the order of keys.
func (m *Map[K, V]) GetAll(r Reader, owner uint64, keys []K, fn func(k K, v V)) error {
	for _, k := range keys {
		v, ok, err := m.Get(r, owner, k)
		if err != nil {
			return err
		}
		if ok {
			fn(k, v)
		}
	}
	return nil
}

// Scan calls fn for owner's rows from k on, in the order of their encoded keys, until fn returns
// false. The zero string or number means from the first row. A value of type []byte is valid until
// fn returns. A row that can't be decoded ends the scan with an error.
func (m *Map[K, V]) Scan(r Reader, owner uint64, k K, fn func(k K, v V) bool) error {
	lo := m.def.key.Append(m.def.ownerKey(make([]byte, 0, 64), owner), k)
	return r.scan(lo, m.def.ownerEnd(nil, owner), false, func(key, value []byte) (bool, error) {
		k, err := m.def.key.Decode(key[ownerLen:])
		if err != nil {
			return false, corruptError("a key of table "+m.def.name, err)
		}
		v, err := m.decode(value)
		if err != nil {
			return false, err
		}
		return fn(k, v), nil
	})
}

// ScanRange calls fn for owner's rows from the key from up to but not including the key to, until fn returns
// false. reverse is from the last to the first. Values and errors are as in Scan.
func (m *Map[K, V]) ScanRange(r Reader, owner uint64, from, to K, reverse bool,
	fn func(k K, v V) bool) error {
	lo := m.def.key.Append(m.def.ownerKey(make([]byte, 0, 64), owner), from)
	hi := m.def.key.Append(m.def.ownerKey(make([]byte, 0, 64), owner), to)
	return r.scan(lo, hi, reverse, func(key, value []byte) (bool, error) {
		k, err := m.def.key.Decode(key[ownerLen:])
		if err != nil {
			return false, corruptError("a key of table "+m.def.name, err)
		}
		v, err := m.decode(value)
		if err != nil {
			return false, err
		}
		return fn(k, v), nil
	})
}

// DeleteRange adds the deletion of owner's rows from the key from up to but not including the key to, to b.
func (m *Map[K, V]) DeleteRange(b *Batch, owner uint64, from, to K) {
	if b.checkOwner(owner) {
		b.delRange(m.def.key.Append(m.def.ownerKey(nil, owner), from),
			m.def.key.Append(m.def.ownerKey(nil, owner), to))
	}
}

// decode decodes a stored value.
func (m *Map[K, V]) decode(raw []byte) (v V, err error) {
	version, raw, err := m.def.splitVersion(raw)
	if err != nil {
		return v, err
	}
	if v, err = m.def.value.Decode(version, raw); err != nil {
		return v, corruptError("a row of table "+m.def.name, err)
	}
	return v, nil
}
