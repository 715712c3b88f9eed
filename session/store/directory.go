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

// Entities is the directory of a store. Every entity has one row in it, under its address, with its
// id and its kind. An address is a bare JID or, for the entity that is a service itself, a bare
// domain. It belongs to one entity, of whatever kind: with a directory for each kind, a room and an
// account could have one address, and a stanza to an address that is not in memory would need a
// read for each kind.
//
// Nothing of the directory is kept in memory. Batches say what must be true of a row, and the
// committer checks it when it writes them (nameChange). Any goroutine.
type Entities struct {
	db  *DB
	ids idAllocator
}

// An Entry is the row of one entity.
type Entry struct {
	// ID is the partition of the address in the upper 12 bits, and below a number. It is never 0 and
	// never given twice, also not to an entity of another kind or after a deletion.
	ID      uint64    // partition<<52 | number: never 0, and never given twice, also to another kind
	Domain  string    // the prepared domainpart of the address
	Local   string    // the prepared localpart; empty: the entity is the service at the domain itself
	Kind    string    // the kind: KindAccount, or a kind of a module, as "room"
	Created time.Time // to the second; zero in what [Entities.Deleted] lists
}

// JID returns the address of e: a bare JID, or a bare domain. It fails for names that can't be
// prepared.
func (e Entry) JID() (jid.JID, error) { return jid.New(e.Local, e.Domain, "") }

// KindAccount is the kind of the entities that [Accounts] manages.
const KindAccount = "account"

// maxKind is the longest name of a kind, in bytes.
const maxKind = 32

// checkKind returns an ErrKey if kind can't be the name of a kind; nil if it can.
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

// IDPartition returns the partition of the address for which an id was given: see
// [jid.JID.Partition].
func IDPartition(id uint64) uint16 { return uint16(id >> idNumberBits) }

// idNumberBits is how many bits of an id are the number. The upper 12 are the partition. Ids are
// stored, so this never changes.
const idNumberBits = 52

// entityKey returns the key of a row: u|domain|NUL|local. Prepared names have no NUL byte, and
// names with one are refused. So no two entities share a key, and the range of a domain's rows has
// no row of another domain.
func entityKey(domain, local string) ([]byte, error) {
	if domain == "" || len(domain)+len(local) > maxKey-2 ||
		strings.IndexByte(domain, 0) >= 0 || strings.IndexByte(local, 0) >= 0 {
		return nil, fmt.Errorf("%w: the name of an entity", ErrKey)
	}
	k := append(make([]byte, 0, 2+len(domain)+len(local)), prefixEntities)
	k = append(append(k, domain...), 0)
	return append(k, local...), nil
}

// splitEntityKey returns the names in the key of a row.
func splitEntityKey(key []byte) (domain, local string, err error) {
	domain, local, ok := strings.Cut(string(key[1:]), "\x00")
	if !ok || domain == "" || strings.IndexByte(local, 0) >= 0 {
		return "", "", corruptError("the key of an entity", errors.New("not a name"))
	}
	return domain, local, nil
}

// The versions of a row, its first byte. The row of an account has version 1, which names no kind:
// see [Account]; programs from before there were other kinds read it. A row of any other kind has
// version 2: the id and the time of creation in 8 bytes each, then the kind up to the end.
const (
	rowAccount = 1
	rowEntity  = 2
)

// encode returns the row of e as it is stored.
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

// decodeEntry decodes a row of any kind. The result shares no memory with b.
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

// corruptEntry is an ErrCorrupt for a row of the directory.
func corruptEntry(cause error) error { return corruptError("the row of an entity", cause) }

// Lookup reads the row of an address by its prepared names; false if there is none. It may wait for
// the disk.
func (s *Entities) Lookup(r Reader, domain, local string) (Entry, bool, error) {
	key, err := entityKey(domain, local)
	if err != nil {
		return Entry{}, false, nil // no entity has a name that can't be one
	}
	v, ok, err := r.get(key)
	if err != nil || !ok {
		return Entry{}, false, err
	}
	e, err := decodeEntry(domain, local, v)
	return e, err == nil, err
}

// List calls fn for the entities of a domain in the order of their localparts, until fn returns
// false. An empty domain means all domains. The first entity is the one whose localpart is from, or
// the next after it; with an empty from it is the domain's own entity, if there is one. The page
// after the localpart l begins at l + "\x00". It may wait for the disk.
func (s *Entities) List(r Reader, domain, from string, fn func(e Entry) bool) error {
	return s.list(r, domain, from, func(domain, local string, row []byte) (bool, error) {
		e, err := decodeEntry(domain, local, row)
		if err != nil {
			return false, err
		}
		return fn(e), nil
	})
}

// list is List with the rows as they are stored. A row is valid until fn returns.
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

// New returns a batch that makes an entity of a kind. The batch is owned by the new id
// ([Batch.Owner]) and has the row of the directory. The caller adds the entity's first rows to it,
// and commits all of it or nothing. New prepares the names; an empty local is the domain itself. It
// neither waits nor reads: loops may call it. The id is never given again, also if the batch is not
// committed.
//
// The committer decides whether the name is free when it writes the batch. The ticket fails with
// [ErrExists] if an entity has the name by then, also one that an earlier batch of the same group
// makes. If that earlier batch fails, this one succeeds.
//
// New's own errors: [ErrFull], if entities are being made faster than numbers can be reserved;
// [ErrKey], or an error of package jid, for names that can't be; [ErrUnavailable], if the store is
// read-only or has no numbers left.
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

// add is New for a prepared address and a row that the caller encodes.
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

// addWaiting is add for a goroutine that may wait. If no number is reserved, it waits until the
// next block is durable.
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

// Remove adds the removal of e to b, which must be a batch of e.ID. Its address becomes free. Its
// id is listed by [Entities.Deleted] until [Entities.Erase], also after a restart (the tombstone).
// Its rows in the tables of modules stay until then, as they say which contacts must be notified.
// Remove neither reads nor waits. The ticket of b fails with [ErrNotFound] if the address belongs
// to another id or kind when b is written. All fields of e but Created are used.
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

// tombstone returns the value of the row of a deleted entity: domain|NUL|local, and |NUL|kind for
// all but accounts.
func (e *Entry) tombstone() []byte {
	b := append(append([]byte(e.Domain), 0), e.Local...)
	if e.Kind == KindAccount {
		return b
	}
	return append(append(b, 0), e.Kind...)
}

// decodeTombstone decodes the row of a deleted entity.
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

// deletedKey returns the key of an id's tombstone.
func deletedKey(id uint64) []byte { return binary.BigEndian.AppendUint64([]byte(prefixDeleted), id) }

// Deleted calls fn for the entities of any kind that were removed and not erased yet, in the order
// of their ids, until fn returns false. The server finishes these deletions when it starts.
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

// Erase removes all rows of a removed entity, and its tombstone. It covers all tables that this
// store ever had, those of modules that are not loaded now, too. It does not wait. Rows that are
// written under the id later belong to no entity, and stay.
func (s *Entities) Erase(id uint64) Ticket {
	b := s.db.systemBatch()
	for _, p := range s.db.tables.ownedPrefixes() {
		t := table{prefix: p}
		b.delRange(t.ownerKey(nil, id), t.ownerEnd(nil, id))
	}
	b.del(deletedKey(id))
	return s.db.Commit(b)
}

// A nameChange is a change of one row of the directory, and a rule that must hold for the row
// before it.
//
// The caller that makes a batch can't know how the batches queued before it end, and a loop may not
// wait for a read. So the committer, which has all batches in their order, checks the rule when it
// writes the batch, and refuses the whole batch if it does not hold. A lock around read and write
// would cost one sync for each change.
type nameChange struct {
	key    []byte   // of the row, as entityKey returns it
	newRow []byte   // the row after the change; nil: the row is deleted
	rule   nameRule // what must be true before
	id     uint64   // for ruleEntity
	kind   string   // for ruleEntity
	oldRow []byte   // for ruleUnchanged
}

// A nameRule is what must be true of a row for a nameChange.
type nameRule uint8

const (
	ruleAbsent    nameRule = iota // there is no row
	ruleEntity                    // the row has this id and kind
	ruleUnchanged                 // the row is oldRow, byte for byte
)

// Why the committer refuses a batch by its rules. Each is a single value, so that neighbouring
// failures are one failedRange.
var (
	errNameTaken = fmt.Errorf("the name of an entity %w", ErrExists)
	errNameGone  = fmt.Errorf("the entity with that name %w", ErrNotFound)
	// errRowChanged: Accounts.update tries again. No caller outside of this package sees it.
	errRowChanged = errors.New("store: the row has changed meanwhile")
)

// addNameChange adds a change of the directory to b: the rule and the write.
func (b *Batch) addNameChange(c nameChange) {
	b.changes = append(b.changes, c)
	if c.newRow == nil {
		b.del(c.key)
	} else {
		b.set(c.key, c.newRow)
	}
}

// check returns nil if the rule of c holds for row; otherwise the error with which the batch fails.
// there says that the row exists.
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

// A groupDirectory is the directory as the group sees it that is being written: the store before
// the group, and over it the changes of the group's batches so far. Only the committer's run
// goroutine uses it; it lives for one group.
type groupDirectory struct {
	rows map[string][]byte // changed rows by key; nil: deleted
	it   *pebble.Iterator  // over the directory before the group; nil until the first read
	err  error             // why there is no iterator: every further check of the group fails with it
}

// checkBatch returns nil if all rules of b hold after the batches that applyBatch has taken in;
// otherwise the error with which b fails. It may read from the disk. A store that can't be read
// can't say that a name is free, so b is refused then. A panic of Pebble, as of a damaged file,
// becomes an ErrCorrupt.
func (g *groupDirectory) checkBatch(db *DB, b *Batch) (err error) {
	if len(b.changes) == 0 {
		return nil
	}
	defer func() {
		if r := recover(); r != nil {
			err = corruptError("reading", fmt.Errorf("%v", r))
			g.it, g.err = nil, err // after a panic the iterator may be in any state: not even Close is safe
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

// read returns a row as it was before the group; it is valid until the next read. It asks the Bloom
// filters of all levels first, also of the last level, which Pebble's Get does not. Most names that
// are checked are free, so no block of rows is read for them (TestFreeNamesReadNoRows).
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

// applyBatch takes in the changes of b, which is part of the group.
func (g *groupDirectory) applyBatch(b *Batch) {
	for i := range b.changes {
		if g.rows == nil {
			g.rows = map[string][]byte{}
		}
		g.rows[string(b.changes[i].key)] = b.changes[i].newRow
	}
}

// directoryIter returns an iterator over the rows of the directory.
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

// reset ends the group: all of its batches were checked.
func (g *groupDirectory) reset() {
	if g.it != nil {
		g.it.Close() // returns only errors that the reads have returned before
	}
	*g = groupDirectory{}
}

// idAllocator gives numbers for ids, without waiting. The numbers come from a block that was
// durably reserved before its first number is given (a [Lease]), so after a crash the allocator
// continues after the block. It reserves the next block when half of the present one is left. Any
// goroutine.
type idAllocator struct {
	lease     *Lease        // numbers up to its end may be given
	lastGiven atomic.Uint64 // the last number that was given
}

const (
	// idBlock is how many numbers are reserved at a time. Each start wastes at most as many, of 2^52. If
	// entities are made so fast that half a block is used before the next is durable, New fails.
	idBlock = 1 << 16
	// maxIDNumber is the largest number of an id.
	maxIDNumber = 1<<idNumberBits - 1
)

// errIDsExhausted: all reserved numbers are given, and the next block is not durable yet.
var errIDsExhausted = fmt.Errorf(
	"%w: the numbers reserved for new entities are used up, and the next are not durable yet", ErrFull)

// reserveIDs adds the first block of this start to b. The caller calls done once b is durable;
// until then no id can be given.
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

// next returns a number that was never given before, without waiting. If half of the block is left
// it asks for the next block. The error is errIDsExhausted until that is durable.
func (n *idAllocator) next() (uint64, error) {
	for {
		last := n.lastGiven.Load()
		end := n.lease.Until() // read after last: ends only grow, so end is not below last
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
