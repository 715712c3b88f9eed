package store

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"time"

	"canto/session/jid"
)

// An Account is what the store knows of an account itself.
type Account struct {
	ID          uint64 // slot<<52 | number: never 0, and never given twice
	Domain      string
	Local       string
	Created     time.Time // to the second
	Banned      time.Time // zero: it is not
	BanReason   string
	Flags       uint32 // for whoever administers accounts
	Credentials []byte // sasl.Keys, encoded; empty: it can't log in
}

// JID returns the account's address.
func (a Account) JID() (jid.JID, error) { return jid.New(a.Local, a.Domain, "") }

// IDSlot returns the slot that an account id is in.
func IDSlot(id uint64) uint16 { return uint16(id >> numberBits) }

// numberBits of an id are a number that is counted up for the whole store; the slot is above.
const numberBits = 52

// Accounts are the accounts of all hosts. Methods that write wait until it is durable: for workers and commands.
// Any goroutine.
type Accounts struct {
	db *DB
	mu sync.Mutex // one writer at a time
	n  uint64     // the last number given
	ok bool       // n has been read
}

func newAccounts(db *DB) *Accounts { return &Accounts{db: db} }

// A NewAccount is one account to be made. Domain and Local are prepared by Create.
type NewAccount struct {
	Domain, Local string
	Credentials   []byte
}

// accountVersion is the first byte of an account's row.
const accountVersion = 1

// accountKey is u|domain|NUL|local. Prepared names have no NUL; what has is refused, so that no two accounts share a
// key, and no host's range has another's rows.
func accountKey(domain, local string) ([]byte, error) {
	if domain == "" || local == "" || strings.IndexByte(domain, 0) >= 0 || strings.IndexByte(local, 0) >= 0 || len(domain)+len(local) > maxKey-2 {
		return nil, fmt.Errorf("%w: the name of an account", ErrKey)
	}
	k := append(make([]byte, 0, 2+len(domain)+len(local)), prefixAccounts)
	k = append(append(k, domain...), 0)
	return append(k, local...), nil
}

func (a *Account) encode() []byte {
	b := []byte{accountVersion}
	b = binary.BigEndian.AppendUint64(b, a.ID)
	b = binary.BigEndian.AppendUint64(b, uint64(a.Created.Unix()))
	banned := int64(0)
	if !a.Banned.IsZero() {
		banned = a.Banned.Unix()
	}
	b = binary.BigEndian.AppendUint64(b, uint64(banned))
	b = binary.BigEndian.AppendUint32(b, a.Flags)
	b = binary.AppendUvarint(b, uint64(len(a.BanReason)))
	b = append(b, a.BanReason...)
	return append(b, a.Credentials...)
}

// decodeAccount keeps b.
func decodeAccount(domain, local string, b []byte) (a Account, err error) {
	if len(b) == 0 {
		return a, badAccount()
	}
	if b[0] != accountVersion {
		return a, format("the row of an account", uint64(b[0]), accountVersion)
	}
	if b = b[1:]; len(b) < 28 {
		return a, badAccount()
	}
	a = Account{ID: binary.BigEndian.Uint64(b), Domain: domain, Local: local, Created: time.Unix(int64(binary.BigEndian.Uint64(b[8:])), 0).UTC()}
	if t := int64(binary.BigEndian.Uint64(b[16:])); t != 0 {
		a.Banned = time.Unix(t, 0).UTC()
	}
	a.Flags = binary.BigEndian.Uint32(b[24:])
	n, k := binary.Uvarint(b[28:])
	if k <= 0 || n > uint64(len(b)-28-k) {
		return a, badAccount()
	}
	b = b[28+k:]
	a.BanReason, a.Credentials = string(b[:n]), b[n:]
	return a, nil
}

func badAccount() error { return corrupt("the row of an account", errors.New("wrong length")) }

// Create makes an account with an id of its own. The error is [ErrExists] if there is one, whatever spelling of the
// name was given.
func (s *Accounts) Create(ctx context.Context, domain, local string, credentials []byte) (id uint64, err error) {
	made, err := s.CreateMany(ctx, []NewAccount{{domain, local, credentials}}, nil)
	if err != nil {
		return 0, err
	}
	return made[0], nil
}

// CreateMany makes many accounts, a thousand in each write. What fails is told to failed, if it is not nil, and the
// rest is made; otherwise the first failure ends it. It returns the ids, 0 for what failed.
func (s *Accounts) CreateMany(ctx context.Context, accounts []NewAccount, failed func(i int, err error)) (ids []uint64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.readNumber(); err != nil {
		return nil, err
	}
	ids = make([]uint64, len(accounts))
	now := s.db.opts.Now()
	const chunk = 1000
	for from := 0; from < len(accounts); from += chunk {
		b := s.db.systemBatch()
		seen := map[string]bool{}
		for i := from; i < min(from+chunk, len(accounts)); i++ {
			id, err := s.create(b, accounts[i], now, seen)
			if err != nil {
				if failed == nil {
					return ids, err
				}
				failed(i, err)
			}
			ids[i] = id
		}
		b.setNumber(keyNumber, s.n)
		if err := s.db.Wait(ctx, s.db.Commit(b)); err != nil {
			return ids, err
		}
	}
	return ids, nil
}

func (s *Accounts) create(b *Batch, n NewAccount, now time.Time, seen map[string]bool) (uint64, error) {
	if n.Local == "" {
		return 0, fmt.Errorf("%w: an account without a name", ErrKey)
	}
	j, err := jid.New(n.Local, n.Domain, "")
	if err != nil {
		return 0, err
	}
	key, err := accountKey(j.Domain(), j.Local())
	if err != nil {
		return 0, err
	}
	_, there, err := s.db.get(key)
	if err != nil {
		return 0, err
	}
	if there || seen[string(key)] {
		return 0, fmt.Errorf("account %s %w", j, ErrExists)
	}
	seen[string(key)] = true
	s.n++
	a := Account{ID: uint64(j.Slot())<<numberBits | s.n, Created: now, Credentials: n.Credentials}
	b.set(key, a.encode())
	return a.ID, b.err
}

// readNumber reads the last number given. The counter is written with each account, so numbers grow with the
// accounts that are durable.
func (s *Accounts) readNumber() error {
	if s.ok {
		return nil
	}
	n, _, err := s.db.number(keyNumber)
	if err != nil {
		return err
	}
	if n >= 1<<numberBits-math.MaxUint32 {
		return fmt.Errorf("%w: no account numbers left", ErrUnavailable)
	}
	s.n, s.ok = n, true
	return nil
}

// Get reads an account by its prepared names. The error is [ErrNotFound] if there is none.
func (s *Accounts) Get(r Reader, domain, local string) (Account, error) {
	key, err := accountKey(domain, local)
	if err != nil {
		return Account{}, fmt.Errorf("account %w", ErrNotFound)
	}
	v, ok, err := r.get(key)
	if err != nil {
		return Account{}, err
	}
	if !ok {
		return Account{}, fmt.Errorf("account %w", ErrNotFound)
	}
	return decodeAccount(domain, local, v)
}

// List calls fn for the accounts of a domain (empty: of all) behind the name after, in order, until it returns
// false.
func (s *Accounts) List(r Reader, domain, after string, fn func(a Account) bool) error {
	lo, hi := []byte{prefixAccounts}, []byte{prefixAccounts + 1}
	if domain != "" {
		lo, hi = prefixRange(append(append(lo, domain...), 0))
		if after != "" {
			lo = append(append(lo[:len(lo):len(lo)], after...), 0)
		}
	}
	return r.scan(lo, hi, false, func(key, value []byte) (bool, error) {
		domain, local, ok := strings.Cut(string(key[1:]), "\x00")
		if !ok {
			return false, badAccount()
		}
		a, err := decodeAccount(domain, local, append([]byte(nil), value...))
		if err != nil {
			return false, err
		}
		return fn(a), nil
	})
}

// Unstable calls fn for the accounts whose names are not what preparing them gives today: after a change of the
// Unicode tables nobody could log in to them. It reads all accounts: for commands.
func (s *Accounts) Unstable(r Reader, fn func(a Account) bool) error {
	return s.List(r, "", "", func(a Account) bool {
		if j, err := a.JID(); err == nil && j.Local() == a.Local && j.Domain() == a.Domain {
			return true
		}
		return fn(a)
	})
}

// A DeletedAccount is what is left of an account that was deleted: its rows, until [Accounts.Erase].
type DeletedAccount struct {
	ID            uint64
	Domain, Local string
}

// JID returns the address that it had.
func (a DeletedAccount) JID() (jid.JID, error) { return jid.New(a.Local, a.Domain, "") }

// Delete removes an account from the directory: there can be no login to it, and its name may be given to another. Its rows
// stay under its id, which is never given again, so that its contacts can be told by what is in its roster, and
// are listed by [Accounts.Deleted] until Erase: after a crash or a stop of the server too.
func (s *Accounts) Delete(ctx context.Context, domain, local string) (d DeletedAccount, err error) {
	err = s.change(ctx, domain, local, func(b *Batch, a *Account, key []byte) (keep bool) {
		d = DeletedAccount{a.ID, a.Domain, a.Local}
		b.set(deletedKey(a.ID), append(append([]byte(a.Domain), 0), a.Local...))
		return false
	})
	return d, err
}

func deletedKey(id uint64) []byte { return binary.BigEndian.AppendUint64([]byte(prefixDeleted), id) }

// Deleted calls fn for the accounts that were deleted and not erased, in the order of their ids, until it returns false.
func (s *Accounts) Deleted(r Reader, fn func(d DeletedAccount) bool) error {
	lo, hi := prefixRange([]byte(prefixDeleted))
	return r.scan(lo, hi, false, func(key, value []byte) (bool, error) {
		domain, local, ok := strings.Cut(string(value), "\x00")
		if !ok || len(key) != len(prefixDeleted)+8 {
			return false, corrupt("the row of a deleted account", errors.New("wrong length"))
		}
		return fn(DeletedAccount{binary.BigEndian.Uint64(key[len(prefixDeleted):]), domain, local}), nil
	})
}

// Erase removes all rows of a deleted account, in all tables, of modules that are not loaded too, without waiting.
// What is written for its id later belongs to no account.
func (s *Accounts) Erase(id uint64) Ticket {
	b := s.db.systemBatch()
	for _, p := range s.db.space.ownedPrefixes() {
		t := table{prefix: p}
		b.delRange(t.ownerKey(nil, id), t.ownerEnd(nil, id))
	}
	b.del(deletedKey(id))
	return s.db.Commit(b)
}

// SetKeys replaces an account's credentials.
func (s *Accounts) SetKeys(ctx context.Context, domain, local string, credentials []byte) error {
	return s.change(ctx, domain, local, func(_ *Batch, a *Account, _ []byte) bool {
		a.Credentials = credentials
		return true
	})
}

// ReplaceKeys replaces an account's credentials if it is still the account id and has still the credentials old, and
// reports whether it did: keys that were derived from what was read before must not undo a change of the password.
func (s *Accounts) ReplaceKeys(ctx context.Context, domain, local string, id uint64, old, credentials []byte) (done bool, err error) {
	err = s.change(ctx, domain, local, func(_ *Batch, a *Account, _ []byte) bool {
		if done = a.ID == id && bytes.Equal(a.Credentials, old); done {
			a.Credentials = credentials
		}
		return true
	})
	return done && err == nil, err
}

// Ban keeps an account from logging in, with a reason for the administrator. Banned again, the first time stays.
func (s *Accounts) Ban(ctx context.Context, domain, local, reason string) error {
	now := s.db.opts.Now()
	return s.change(ctx, domain, local, func(_ *Batch, a *Account, _ []byte) bool {
		if a.Banned.IsZero() {
			a.Banned = now
		}
		a.BanReason = reason[:min(len(reason), 1024)]
		return true
	})
}

// Unban ends a ban, if there is one.
func (s *Accounts) Unban(ctx context.Context, domain, local string) error {
	return s.change(ctx, domain, local, func(_ *Batch, a *Account, _ []byte) bool {
		a.Banned, a.BanReason = time.Time{}, ""
		return true
	})
}

// SetFlags replaces an account's flags.
func (s *Accounts) SetFlags(ctx context.Context, domain, local string, flags uint32) error {
	return s.change(ctx, domain, local, func(_ *Batch, a *Account, _ []byte) bool {
		a.Flags = flags
		return true
	})
}

// change reads an account, has f change it, writes it back or deletes it, and waits. Writers come one after the
// other, and each is durable before the next reads.
func (s *Accounts) change(ctx context.Context, domain, local string, f func(b *Batch, a *Account, key []byte) (keep bool)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	j, err := jid.New(local, domain, "")
	if err != nil || local == "" {
		return fmt.Errorf("account %w", ErrNotFound)
	}
	a, err := s.Get(s.db, j.Domain(), j.Local())
	if err != nil {
		return err
	}
	key, err := accountKey(j.Domain(), j.Local())
	if err != nil {
		return err
	}
	b := s.db.systemBatch()
	if f(b, &a, key) {
		b.set(key, a.encode())
	} else {
		b.del(key)
	}
	// Not to be given up half way: the next writer reads what is visible.
	return s.db.Wait(context.WithoutCancel(ctx), s.db.Commit(b))
}
