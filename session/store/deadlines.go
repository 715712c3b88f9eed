package store

import (
	"encoding/binary"
	"errors"
	"time"
)

// Deadlines is the ordered index of what owners have that ends at a time: sessions without a connection, say.
// Times are in milliseconds of the server's time, [Deadlines.Now]. That stands still while no process
// has the store open for writing, so a stop of the server does not use up the time that a client has. An
// entry is written with [Batch.PutDeadline], in one batch with the rows that it is about.
type Deadlines struct {
	db *DB
	// offset is what is added to the clock of the store: a constant of this start, in milliseconds.
	offset int64
}

// A Deadline is one entry of the index.
type Deadline struct {
	At    int64  // when it is due, in milliseconds of the server's time; not negative
	Owner uint64 // the id of the entity
	Name  string // of what ends, among those of the owner with the same time
	JID   string // the address of the entity
}

// The keys of the index are prefixDeadline, the time and the owner in 8 bytes each, and the name.
const deadlineKeyLen = len(prefixDeadline) + 8 + 8

// open reads the clock that the process before has left. Called by DB.open.
func (d *Deadlines) open() error {
	now := d.db.opts.Now().UnixMilli()
	n, ok, err := d.db.systemNumber(keyAlive)
	if err != nil {
		return err
	}
	if !ok {
		return nil // a new store: the server's time begins as the clock's
	}
	d.offset = int64(n) - now
	return nil
}

// Now is the server's time in milliseconds. Any goroutine.
func (d *Deadlines) Now() int64 { return d.db.opts.Now().UnixMilli() + d.offset }

// NoteAlive records that the server runs at this time. It does not wait. The time that passes between the
// last call and the end of the process is lost: deadlines are as much later. Any goroutine.
func (d *Deadlines) NoteAlive() Ticket {
	b := d.db.systemBatch()
	b.setNumber(keyAlive, uint64(d.Now()))
	return d.db.Commit(b)
}

// Deadlines returns the index of deadlines.
func (db *DB) Deadlines() *Deadlines { return db.deadlines }

// appendKey appends the store key of e.
func (e *Deadline) appendKey(dst []byte) []byte {
	dst = binary.BigEndian.AppendUint64(append(dst, prefixDeadline...), uint64(e.At))
	return append(binary.BigEndian.AppendUint64(dst, e.Owner), e.Name...)
}

// PutDeadline adds e to the index. e.Owner is the owner of b.
func (b *Batch) PutDeadline(e Deadline) {
	if b.checkOwner(e.Owner) {
		b.set(e.appendKey(nil), []byte(e.JID))
	}
}

// DeleteDeadline takes the entry with the time, the owner and the name of e out of the index. e.Owner is the
// owner of b.
func (b *Batch) DeleteDeadline(e Deadline) {
	if b.checkOwner(e.Owner) {
		b.del(e.appendKey(nil))
	}
}

// Scan calls fn for the entries after the entry after that are due at the time until or before, in the order
// of time, until it returns false. The zero Deadline is before all. For workers.
func (d *Deadlines) Scan(r Reader, after Deadline, until int64, fn func(e Deadline) bool) error {
	from := append(after.appendKey(nil), 0)
	if after == (Deadline{}) {
		from = []byte(prefixDeadline)
	}
	to := (&Deadline{At: until + 1}).appendKey(nil)
	return r.scan(from, to, false, func(key, value []byte) (bool, error) {
		if len(key) < deadlineKeyLen {
			return false, corruptError("a deadline", errors.New("a short key"))
		}
		k := key[len(prefixDeadline):]
		return fn(Deadline{At: int64(binary.BigEndian.Uint64(k)), Owner: binary.BigEndian.Uint64(k[8:]),
			Name: string(k[16:]), JID: string(value)}), nil
	})
}

// AliveEvery is how often a server should call [Deadlines.NoteAlive].
const AliveEvery = time.Minute
