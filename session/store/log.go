package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

// A LogDef defines a log for each owner: values under numbers that grow with time, an archive.
type LogDef[V any] struct {
	table
	value Codec[V]
}

// NewLog defines a log, as [NewMap] does a map.
func NewLog[V any](name string, prefix byte, version uint8) *LogDef[V] {
	d := &LogDef[V]{table: newTable(name, prefix, version)}
	d.value, _ = valueCodec[V]()
	return d
}

// Codec, Oldest and Convert are as for [MapDef].
func (d *LogDef[V]) Codec(c Codec[V]) *LogDef[V] {
	d.value = c
	return d
}

// Oldest is as for [MapDef.Oldest].
func (d *LogDef[V]) Oldest(version uint8) *LogDef[V] {
	d.oldest = version
	return d
}

// Convert is as for [MapDef.Convert].
func (d *LogDef[V]) Convert(f func(version uint8, value []byte) ([]byte, error)) *LogDef[V] {
	d.convert = f
	return d
}

// A Log is a log of one open store. One row is one store key of 17 bytes, the log's prefix, the owner and
// the id, and nothing else is written for it. Any goroutine.
type Log[V any] struct{ def *LogDef[V] }

// LogOf returns d's log in s, as [MapOf] does a map.
func LogOf[V any](s *TableRegistry, d *LogDef[V]) (*Log[V], error) {
	if d.value.Append == nil || d.value.Decode == nil {
		return nil, fmt.Errorf("store: log %q needs a codec for %T", d.name, *new(V))
	}
	if err := s.register(&d.table); err != nil {
		return nil, err
	}
	return &Log[V]{d}, nil
}

// Append adds to b: owner's entry id is v. The same id twice is one entry, the later.
func (l *Log[V]) Append(b *Batch, owner, id uint64, v V) {
	if l.def.beginRow(b, owner) {
		b.key = binary.BigEndian.AppendUint64(b.key, id)
		b.val = l.def.value.Append(b.val, v)
		l.def.endRow(b)
	}
}

// Delete adds to b: owner has no entry id.
func (l *Log[V]) Delete(b *Batch, owner, id uint64) {
	if b.checkOwner(owner) {
		b.del(l.key(owner, id))
	}
}

// Trim adds to b: owner has no entries before id. math.MaxUint64 leaves none but one of that id.
func (l *Log[V]) Trim(b *Batch, owner, id uint64) {
	if b.checkOwner(owner) {
		b.delRange(l.key(owner, 0), l.key(owner, id))
	}
}

// Clear adds to b: owner has no entries.
func (l *Log[V]) Clear(b *Batch, owner uint64) {
	if b.checkOwner(owner) {
		b.delRange(l.def.ownerKey(nil, owner), l.def.ownerEnd(nil, owner))
	}
}

// Get reads owner's entry id. The value is the caller's.
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

// Scan calls fn for owner's entries from from to to, both included, at most limit of them (0: all), in
// order or from the last to the first, until it returns false. A value of []byte is good until fn
// returns.
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

func (l *Log[V]) key(owner, id uint64) []byte {
	return binary.BigEndian.AppendUint64(l.def.ownerKey(make([]byte, 0, ownerLen+8), owner), id)
}

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
