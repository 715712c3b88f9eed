package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

// A LogDef defines a log for each owner: values under numbers that grow with time. Archives of
// messages are logs.
type LogDef[V any] struct {
	table
	value Codec[V]
}

// NewLog defines a log. Its arguments are those of [NewMap].
func NewLog[V any](name string, prefix byte, version uint8) *LogDef[V] {
	d := &LogDef[V]{table: newTable(name, prefix, version)}
	d.value, _ = valueCodec[V]()
	return d
}

// Codec sets how values are encoded and decoded, and returns d.
func (d *LogDef[V]) Codec(c Codec[V]) *LogDef[V] {
	d.value = c
	return d
}

// Oldest sets the oldest version of values that the codec decodes: see [MapDef.Oldest].
func (d *LogDef[V]) Oldest(version uint8) *LogDef[V] {
	d.oldest = version
	return d
}

// Convert sets how older values are rewritten: see [MapDef.Convert].
func (d *LogDef[V]) Convert(f func(version uint8, value []byte) ([]byte, error)) *LogDef[V] {
	d.convert = f
	return d
}

// A Log is a log of one open store. An entry is one row: a store key of 17 bytes (prefix, owner,
// id) and the value. There is no index besides. Any goroutine.
type Log[V any] struct{ def *LogDef[V] }

// LogOf opens d's log in s, as [MapOf] does a map.
func LogOf[V any](s *TableRegistry, d *LogDef[V]) (*Log[V], error) {
	if d.value.Append == nil || d.value.Decode == nil {
		return nil, fmt.Errorf("store: log %q needs a codec for %T", d.name, *new(V))
	}
	if err := s.register(&d.table); err != nil {
		return nil, err
	}
	return &Log[V]{d}, nil
}

// Append adds a write to b: the entry id of owner is v. An entry of that id is overwritten. Ids
// need not grow. Loops may call it.
func (l *Log[V]) Append(b *Batch, owner, id uint64, v V) {
	if l.def.beginRow(b, owner) {
		b.key = binary.BigEndian.AppendUint64(b.key, id)
		b.val = l.def.value.Append(b.val, v)
		l.def.endRow(b)
	}
}

// Delete adds the deletion of owner's entry id to b. There need be no such entry.
func (l *Log[V]) Delete(b *Batch, owner, id uint64) {
	if b.checkOwner(owner) {
		b.del(l.key(owner, id))
	}
}

// Trim adds the deletion of owner's entries before id to b. With math.MaxUint64 only an entry of
// that id stays.
func (l *Log[V]) Trim(b *Batch, owner, id uint64) {
	if b.checkOwner(owner) {
		b.delRange(l.key(owner, 0), l.key(owner, id))
	}
}

// Clear adds the deletion of all entries of owner to b.
func (l *Log[V]) Clear(b *Batch, owner uint64) {
	if b.checkOwner(owner) {
		b.delRange(l.def.ownerKey(nil, owner), l.def.ownerEnd(nil, owner))
	}
}

// Get reads owner's entry id; false if there is none. The value is the caller's. It may wait for
// the disk.
func (l *Log[V]) Get(r Reader, owner, id uint64) (v V, ok bool, err error) {
	raw, ok, err := r.get(l.key(owner, id))
	if err != nil || !ok {
		return v, false, err
	}
	if v, err = l.decode(raw); err != nil {
		return v, false, err
	}
	return v, true, nil
}

// Scan calls fn for owner's entries from from to to, both included, at most limit of them (0: all),
// until fn returns false. reverse is from the last to the first. A value of type []byte is valid
// until fn returns. An entry that can't be decoded ends the scan with an error.
func (l *Log[V]) Scan(r Reader, owner, from, to uint64, limit int, reverse bool,
	fn func(id uint64, v V) bool) error {
	if from > to {
		return nil
	}
	hi := l.def.ownerEnd(nil, owner)
	if to < math.MaxUint64 {
		hi = l.key(owner, to+1)
	}
	n := 0
	return r.scan(l.key(owner, from), hi, reverse, func(key, value []byte) (bool, error) {
		if len(key) != ownerLen+8 {
			return false, corruptError("a key of log "+l.def.name, errors.New("wrong length"))
		}
		v, err := l.decode(value)
		if err != nil {
			return false, err
		}
		n++
		return fn(binary.BigEndian.Uint64(key[ownerLen:]), v) && n != limit, nil
	})
}

// Last returns the largest id of owner's entries; false if there are none.
func (l *Log[V]) Last(r Reader, owner uint64) (id uint64, ok bool, err error) {
	err = r.scan(l.def.ownerKey(nil, owner), l.def.ownerEnd(nil, owner), true,
		func(key, _ []byte) (bool, error) {
			if len(key) != ownerLen+8 {
				return false, corruptError("a key of log "+l.def.name, errors.New("wrong length"))
			}
			id, ok = binary.BigEndian.Uint64(key[ownerLen:]), true
			return false, nil
		})
	return id, ok, err
}

// key returns the store key of an entry.
func (l *Log[V]) key(owner, id uint64) []byte {
	return binary.BigEndian.AppendUint64(l.def.ownerKey(make([]byte, 0, ownerLen+8), owner), id)
}

// decode decodes a stored value.
func (l *Log[V]) decode(raw []byte) (v V, err error) {
	version, raw, err := l.def.splitVersion(raw)
	if err != nil {
		return v, err
	}
	if v, err = l.def.value.Decode(version, raw); err != nil {
		return v, corruptError("an entry of log "+l.def.name, err)
	}
	return v, nil
}
