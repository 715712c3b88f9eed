package store

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"canto/session/jid"

	"github.com/cockroachdb/pebble/v2"
)

// Entities is the directory of a store: every entity has one row in it, under its address, which names its id
// and its kind. An address is a bare JID or, for the entity that is a service itself, a bare domain; it
// belongs to one entity, whatever its kind. Nothing of the directory is kept in memory. Any goroutine.
type Entities struct {
	db  *DB
	ids idAllocator
}

// An Entry is the row of one entity.
type Entry struct {
	ID      uint64 // slot<<52 | number: never 0, and never given twice, also to another kind
	Domain  string
	Local   string // empty: the entity is the service that has the domain itself
	Kind    string
	Created time.Time // to the second; zero for what [Entities.Deleted] lists
}

// JID returns the address: bare, or a bare domain.
func (e Entry) JID() (jid.JID, error) { return jid.New(e.Local, e.Domain, "") }

// KindAccount is the kind of those entities that [Accounts] keeps.
const KindAccount = "account"

// maxKind is the longest name of a kind in bytes.
const maxKind = 32

// checkKind returns why kind can't be the name of a kind.
func checkKind(kind string) error {
	for i := range len(kind) {
		if c := kind[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return fmt.Errorf("%w: the kind %q: a to z, 0 to 9 and - are allowed", ErrKey, kind)
		}
	}
	if kind == "" || len(kind) > maxKind {
		return fmt.Errorf("%w: the kind %q: 1 to %d bytes are allowed", ErrKey, kind, maxKind)
	}
	return nil
}

// IDPartition returns the slot that an id is in.
func IDPartition(id uint64) uint16 { return uint16(id >> idNumberBits) }

// idNumberBits of an id are a number that is counted up for the whole store; the slot is above.
const idNumberBits = 52

// entityKey is the key of a row: u|domain|NUL|local. Prepared names have no NUL; what has is refused, so that
// no two entities share a key, and no domain's range has another's rows.
func entityKey(domain, local string) ([]byte, error) {
	if domain == "" || len(domain)+len(local) > maxKey-2 ||
		strings.IndexByte(domain, 0) >= 0 || strings.IndexByte(local, 0) >= 0 {
		return nil, fmt.Errorf("%w: the name of an entity", ErrKey)
	}
	k := append(make([]byte, 0, 2+len(domain)+len(local)), prefixEntities)
	k = append(append(k, domain...), 0)
	return append(k, local...), nil
}

// splitEntityKey returns the names that a row's key has.
func splitEntityKey(key []byte) (domain, local string, err error) {
	domain, local, ok := strings.Cut(string(key[1:]), "\x00")
	if !ok || domain == "" || strings.IndexByte(local, 0) >= 0 {
		return "", "", corruptError("the key of an entity", errors.New("not a name"))
	}
	return domain, local, nil
}

// Versions of a row, its first byte. An account's row is of version 1, which names no kind: see [Account]. A
// row of any other kind is of version 2: the id and the time of creation in 8 bytes each, then the kind,
// which ends the row.
const (
	rowAccount = 1
	rowEntity  = 2
)

func (e *Entry) encode() []byte {
	if e.Kind == KindAccount {
		a := Account{ID: e.ID, Created: e.Created}
		return a.encode()
	}
	b := append(make([]byte, 0, 1+8+8+len(e.Kind)), rowEntity)
	b = binary.BigEndian.AppendUint64(b, e.ID)
	b = binary.BigEndian.AppendUint64(b, uint64(e.Created.Unix()))
	return append(b, e.Kind...)
}

// decodeEntry reads a row of any kind. It keeps nothing of b.
func decodeEntry(domain, local string, b []byte) (e Entry, err error) {
	e = Entry{Domain: domain, Local: local}
	switch {
	case len(b) == 0:
		return Entry{}, corruptEntry(errLength)
	case b[0] == rowAccount:
		a, err := decodeAccount(domain, local, b)
		if err != nil {
			return Entry{}, err
		}
		e.ID, e.Created, e.Kind = a.ID, a.Created, KindAccount
	case b[0] != rowEntity:
		return Entry{}, formatError("the row of an entity", uint64(b[0]), rowEntity)
	case len(b) < 1+8+8:
		return Entry{}, corruptEntry(errLength)
	default:
		e.ID = binary.BigEndian.Uint64(b[1:])
		e.Created = time.Unix(int64(binary.BigEndian.Uint64(b[9:])), 0).UTC()
		e.Kind = string(b[17:])
		if err := checkKind(e.Kind); err != nil {
			return Entry{}, corruptEntry(err)
		}
		if e.Kind == KindAccount {
			return Entry{}, corruptEntry(errors.New("an account in the form of other kinds"))
		}
	}
	return e, nil
}

func corruptEntry(cause error) error { return corruptError("the row of an entity", cause) }

// Lookup reads the row of an address, of prepared names; false if there is none.
func (s *Entities) Lookup(r Reader, domain, local string) (Entry, bool, error) {
	key, err := entityKey(domain, local)
	if err != nil {
		return Entry{}, false, nil // what can't be a name is no entity's
	}
	v, ok, err := r.get(key)
	if err != nil || !ok {
		return Entry{}, false, err
	}
	e, err := decodeEntry(domain, local, v)
	return e, err == nil, err
}

// List calls fn for the entities of a domain (empty: of all domains) in the order of their names, until it
// returns false. The first is the one whose local part is from or the next behind it: with an empty from that
// is the domain's own entity, if there is one. A page that ended with the local part l is followed by that of
// l + "\x00".
func (s *Entities) List(r Reader, domain, from string, fn func(e Entry) bool) error {
	return s.list(r, domain, from, func(domain, local string, row []byte) (bool, error) {
		e, err := decodeEntry(domain, local, row)
		if err != nil {
			return false, err
		}
		return fn(e), nil
	})
}

// list is List with rows as they are stored, which are good until fn returns.
func (s *Entities) list(r Reader, domain, from string,
	fn func(domain, local string, row []byte) (bool, error)) error {
	lo, hi := []byte{prefixEntities}, []byte{prefixEntities + 1}
	if domain != "" {
		lo, hi = prefixRange(append(append(lo, domain...), 0))
		lo = append(lo[:len(lo):len(lo)], from...)
	}
	return r.scan(lo, hi, false, func(key, value []byte) (bool, error) {
		domain, local, err := splitEntityKey(key)
		if err != nil {
			return false, err
		}
		return fn(domain, local, value)
	})
}

// New returns a batch that makes an entity of a kind: it is owned by the new id ([Batch.Owner]) and holds the
// row of the directory, so that whatever else the entity begins with is put into it, and is durable with it
// or not at all. The names are prepared by New; an empty local is the domain itself. New neither waits nor
// reads; the id is never given again, whether the batch is committed or not.
//
// Whether the name is free is decided when the batch is written: its ticket fails with [ErrExists] if an
// entity has it by then, also one that was made by a batch shortly before it and in the same group. If that
// one fails, this one does not. New's own errors: [ErrFull], if so many entities are being made that the
// numbers reserved for ids are used up, and more are not durable yet; [ErrKey] or jid's for names that can't
// be; [ErrUnavailable] for a store that is read only, or has no numbers left.
func (s *Entities) New(domain, local, kind string) (*Batch, error) {
	if err := checkKind(kind); err != nil {
		return nil, err
	}
	j, err := jid.New(local, domain, "")
	if err != nil {
		return nil, err
	}
	e := Entry{Domain: j.Domain(), Local: j.Local(), Kind: kind, Created: s.db.opts.Now()}
	if kind == KindAccount && e.Local == "" {
		return nil, fmt.Errorf("%w: an account without a name", ErrKey)
	}
	return s.add(j, func(id uint64) []byte {
		e.ID = id
		return e.encode()
	})
}

// add is New for a prepared address, and any row.
func (s *Entities) add(j jid.JID, row func(id uint64) []byte) (*Batch, error) {
	key, err := entityKey(j.Domain(), j.Local())
	if err != nil {
		return nil, err
	}
	if s.db.opts.ReadOnly {
		return nil, fmt.Errorf("%w: read only", ErrUnavailable)
	}
	n, err := s.ids.next()
	if err != nil {
		return nil, err
	}
	id := uint64(j.Partition())<<idNumberBits | n
	b := s.db.NewBatch(id)
	b.addNameChange(nameChange{key: key, newRow: row(id), rule: ruleAbsent})
	return b, nil
}

// addWaiting is add for a goroutine that may wait: for numbers to be reserved.
func (s *Entities) addWaiting(ctx context.Context, j jid.JID, row func(id uint64) []byte) (*Batch, error) {
	for {
		b, err := s.add(j, row)
		if !errors.Is(err, errIDsExhausted) {
			return b, err
		}
		if err := s.db.Wait(ctx, s.ids.lease.lastPending()); err != nil {
			return nil, err
		}
	}
}

// Remove adds to b, which must be the entity's: e has no address any more, which may be given to another, and
// its id is listed by [Entities.Deleted] until [Entities.Erase], after a crash or a stop of the server too.
// Its rows in the tables of modules stay until then: what is in them says who is to be told. Nothing is read
// and nothing waits; the ticket of b fails with [ErrNotFound] if the address does not belong to this id and
// kind when b is written. Of e all but Created counts.
func (s *Entities) Remove(b *Batch, e Entry) {
	key, err := entityKey(e.Domain, e.Local)
	if err != nil {
		b.fail(err)
		return
	}
	if b.owner != e.ID {
		b.fail(fmt.Errorf("%w: the name of %#x in a batch of %#x", ErrOwner, e.ID, b.owner))
		return
	}
	b.addNameChange(nameChange{key: key, rule: ruleEntity, id: e.ID, kind: e.Kind})
	b.set(deletedKey(e.ID), e.tombstone())
}

// tombstone is the value of a row of what was deleted: domain|NUL|local, and for all but accounts |NUL|kind.
func (e *Entry) tombstone() []byte {
	b := append(append([]byte(e.Domain), 0), e.Local...)
	if e.Kind == KindAccount {
		return b
	}
	return append(append(b, 0), e.Kind...)
}

func decodeTombstone(key, value []byte) (e Entry, err error) {
	if len(key) != len(prefixDeleted)+8 {
		return e, corruptError("the row of a deleted entity", errLength)
	}
	parts := strings.Split(string(value), "\x00")
	e.Kind = KindAccount
	switch len(parts) {
	case 3:
		if e.Kind = parts[2]; checkKind(e.Kind) != nil {
			return Entry{}, corruptError("the row of a deleted entity", errors.New("not a kind"))
		}
	case 2:
	default:
		return Entry{}, corruptError("the row of a deleted entity", errLength)
	}
	e.ID = binary.BigEndian.Uint64(key[len(prefixDeleted):])
	e.Domain, e.Local = parts[0], parts[1]
	return e, nil
}

func deletedKey(id uint64) []byte { return binary.BigEndian.AppendUint64([]byte(prefixDeleted), id) }

// Deleted calls fn for the entities of any kind that were removed and not erased, in the order of their ids,
// until it returns false: what a start of the server has to finish.
func (s *Entities) Deleted(r Reader, fn func(e Entry) bool) error {
	lo, hi := prefixRange([]byte(prefixDeleted))
	return r.scan(lo, hi, false, func(key, value []byte) (bool, error) {
		e, err := decodeTombstone(key, value)
		if err != nil {
			return false, err
		}
		return fn(e), nil
	})
}

// Erase removes all rows of an entity that was removed: in all tables that this store ever had, of modules
// that are not loaded too, and its mark of deletion. It does not wait. What is written for its id later
// belongs to no entity.
func (s *Entities) Erase(id uint64) Ticket {
	b := s.db.systemBatch()
	for _, p := range s.db.tables.ownedPrefixes() {
		t := table{prefix: p}
		b.delRange(t.ownerKey(nil, id), t.ownerEnd(nil, id))
	}
	b.del(deletedKey(id))
	return s.db.Commit(b)
}

// A nameChange is a change of one row of the directory, and what must be true of the row for it. The
// caller that makes a batch can't know what becomes of those queued before it, and may not wait for the
// disk to read; so the committer looks, when it writes the batch, and refuses the batch as a whole if the
// rule does not hold.
type nameChange struct {
	key    []byte
	newRow []byte // nil: there is no row any more
	rule   nameRule
	id     uint64 // of ruleEntity
	kind   string // of ruleEntity
	oldRow []byte // of ruleUnchanged
}

type nameRule uint8

const (
	ruleAbsent    nameRule = iota // there is no row
	ruleEntity                    // the row is that of id and kind
	ruleUnchanged                 // the row is was, to the byte
)

// Why the committer refuses a batch by its rules. Each is one value, so that failures in a row are one range.
var (
	errNameTaken = fmt.Errorf("the name of an entity %w", ErrExists)
	errNameGone  = fmt.Errorf("the entity with that name %w", ErrNotFound)
	// errRowChanged: the change is to be tried again; no caller sees it.
	errRowChanged = errors.New("store: the row has changed meanwhile")
)

// addNameChange adds a change to b, and what it writes.
func (b *Batch) addNameChange(c nameChange) {
	b.changes = append(b.changes, c)
	if c.newRow == nil {
		b.del(c.key)
	} else {
		b.set(c.key, c.newRow)
	}
}

// check returns why the change may not be made where the row is as given, nil if it may.
func (c *nameChange) check(row []byte, there bool) error {
	switch {
	case c.rule == ruleAbsent && there:
		return errNameTaken
	case c.rule == ruleAbsent:
		return nil
	case !there:
		return errNameGone
	case c.rule == ruleUnchanged:
		if !bytes.Equal(row, c.oldRow) {
			return errRowChanged
		}
		return nil
	}
	e, err := decodeEntry("", "", row)
	if err == nil && (e.ID != c.id || e.Kind != c.kind) {
		err = errNameGone
	}
	return err
}

// groupDirectory is what the batches of one group, which is not visible yet, have changed in the
// directory. The committer's.
type groupDirectory struct {
	rows map[string][]byte // by key; nil: there is none
	it   *pebble.Iterator  // of the directory as it was before the group; nil until it is needed
	err  error             // why there is none
}

// checkBatch returns why b may not be written behind those that were given to changed, nil if it may.
func (g *groupDirectory) checkBatch(db *DB, b *Batch) (err error) {
	if len(b.changes) == 0 {
		return nil
	}
	defer func() {
		if r := recover(); r != nil { // Pebble's, of a damaged file
			err = corruptError("reading", fmt.Errorf("%v", r))
			g.it, g.err = nil, err // it is not to be trusted with anything, its Close included
		}
	}()
	for i := range b.changes {
		c := &b.changes[i]
		row, known := g.rows[string(c.key)]
		there := row != nil
		if !known {
			if row, there, err = g.read(db, c.key); err != nil {
				return err
			}
		}
		if err := c.check(row, there); err != nil {
			return err
		}
	}
	return nil
}

// read returns a row as it was before the group, good until the next read. It asks the filters of all tables
// first, those of the last level too, which Pebble's Get does not: most names that are asked for are free,
// and then no block of rows is read.
func (g *groupDirectory) read(db *DB, key []byte) (row []byte, there bool, err error) {
	if g.it == nil && g.err == nil {
		g.it, g.err = directoryIter(db)
	}
	if g.err != nil {
		return nil, false, g.err
	}
	if !g.it.SeekPrefixGE(key) || !bytes.Equal(g.it.Key(), key) {
		if err := g.it.Error(); err != nil {
			return nil, false, readError(err)
		}
		return nil, false, nil
	}
	if row, err = g.it.ValueAndErr(); err != nil {
		return nil, false, readError(err)
	}
	return row, true, nil
}

// applyBatch takes in what b changes, which is to be written.
func (g *groupDirectory) applyBatch(b *Batch) {
	for i := range b.changes {
		if g.rows == nil {
			g.rows = map[string][]byte{}
		}
		g.rows[string(b.changes[i].key)] = b.changes[i].newRow
	}
}

func directoryIter(db *DB) (*pebble.Iterator, error) {
	if err := db.injectFault(false); err != nil {
		return nil, err
	}
	it, err := db.pebble.NewIter(&pebble.IterOptions{
		LowerBound: []byte{prefixEntities}, UpperBound: []byte{prefixEntities + 1}, UseL6Filters: true,
	})
	if err != nil {
		return nil, readError(err)
	}
	return it, nil
}

// reset ends a group: all of its batches were looked at.
func (g *groupDirectory) reset() {
	if g.it != nil {
		g.it.Close() // its errors are those that the reads returned
	}
	*g = groupDirectory{}
}

// idAllocator gives the numbers of ids, from a block that is reserved durably before the first of it is
// given: after a crash they go on behind the block. The next block is reserved when half of the present
// one is left.
type idAllocator struct {
	lease     *Lease        // numbers up to its end may be given
	lastGiven atomic.Uint64 // the last that was given
}

const (
	// idBlock is how many numbers are reserved at a time. A start wastes as many at most: of 2^52 that is
	// nothing.
	idBlock     = 1 << 16
	maxIDNumber = 1<<idNumberBits - 1
)

// errIDsExhausted is why there is no number: it will be reserved soon.
var errIDsExhausted = fmt.Errorf(
	"%w: the numbers reserved for new entities are used up, and the next are not durable yet", ErrFull)

// reserveIDs adds to b the first block of this start. When b is durable, done is to be called.
func (db *DB) reserveIDs(b *Batch) (done func(), err error) {
	n, _, err := db.systemNumber(keyIDBlock)
	if err != nil {
		return nil, err
	}
	n = min(n, maxIDNumber)
	end := n + min(idBlock, maxIDNumber-n)
	b.setNumber(keyIDBlock, end)
	return func() {
		db.entities.ids.lastGiven.Store(n)
		db.entities.ids.lease = db.newLease(keyIDBlock, n, end)
	}, nil
}

// next gives a number, without waiting.
func (n *idAllocator) next() (uint64, error) {
	for {
		last := n.lastGiven.Load()
		end := n.lease.Until() // read behind last, so it is not below it
		if last >= maxIDNumber {
			return 0, fmt.Errorf("%w: no numbers are left for new entities", ErrUnavailable)
		}
		if end-last <= idBlock/2 {
			n.lease.Extend(end + min(idBlock, maxIDNumber-end))
		}
		if last == end {
			return 0, errIDsExhausted
		}
		if n.lastGiven.CompareAndSwap(last, last+1) {
			return last + 1, nil
		}
	}
}
