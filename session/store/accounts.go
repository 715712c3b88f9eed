package store

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/cockroachdb/pebble/v2"

	"canto/session/jid"
)

// Tables of the store itself. Their rows have no owner: the key is the address.
var (
	accountRows = NewTable("accounts", 'u', 1)
	hostRows    = NewTable("hosts", 'h', 1)
)

// An Account is one row of the account table.
type Account struct {
	ID          uint64
	Banned      bool
	Created     int64  // seconds since 1970
	Credentials []byte // as session/sasl encodes them
}

func (a *Account) encode() []byte {
	b := binary.BigEndian.AppendUint64(nil, a.ID)
	flags := byte(0)
	if a.Banned {
		flags = 1
	}
	b = append(b, flags)
	b = binary.BigEndian.AppendUint64(b, uint64(a.Created))
	return append(b, a.Credentials...)
}

func decodeAccount(v []byte) (a Account, err error) {
	if len(v) < 17 {
		return a, fmt.Errorf("%w: an account row", ErrFormat)
	}
	a.ID, a.Banned = binary.BigEndian.Uint64(v), v[8]&1 != 0
	a.Created, a.Credentials = int64(binary.BigEndian.Uint64(v[9:])), v[17:]
	return a, nil
}

// accountKey orders accounts by domain. A domain has no NUL, so that no two addresses share a key.
func accountKey(bare jid.JID) string {
	local, domain, _ := bare.Parts()
	return domain + "\x00" + local
}

// Lookup is the account of a bare JID; false: there is none.
func (s *Snapshot) Lookup(bare jid.JID) (Account, bool, error) {
	v, ok, err := s.Get(accountRows, 0, accountKey(bare))
	if err != nil || !ok {
		return Account{}, false, err
	}
	a, err := decodeAccount(v)
	return a, err == nil, err
}

// A NewAccount is one to be created.
type NewAccount struct {
	JID         jid.JID // bare
	Credentials []byte
	Created     int64
}

// CreateAccounts makes accounts, all of them or none: ErrExists names the first that exists. It waits
// for the disk: on a worker or in a command.
func (db *DB) CreateAccounts(list []NewAccount) error {
	db.accounts.Lock()
	defer db.accounts.Unlock()
	s := db.Snapshot()
	defer s.Close()
	b := db.NewBatch(0)
	seen := make(map[string]bool, len(list))
	for _, n := range list {
		k := accountKey(n.JID)
		if _, ok, err := s.Get(accountRows, 0, k); err != nil {
			return err
		} else if ok || seen[k] {
			return fmt.Errorf("%s: %w", n.JID, ErrExists)
		}
		seen[k] = true
		id, err := db.newID(n.JID)
		if err != nil {
			return err
		}
		a := Account{ID: id, Created: n.Created, Credentials: n.Credentials}
		b.Put(accountRows, k, a.encode())
	}
	return db.Await(db.Commit(b))
}

// idBlock is how many account numbers are taken from the disk at a time.
const idBlock = 4096

// newID is an account id that was never given before: the slot, then a number.
func (db *DB) newID(bare jid.JID) (uint64, error) {
	if db.idNext == db.idLease {
		db.idLease += idBlock
		if err := db.p.Set(metaKey("ids"), binary.BigEndian.AppendUint64(nil, db.idLease), pebble.Sync); err != nil {
			return 0, err
		}
	}
	db.idNext++
	return uint64(bare.Slot())<<52 | db.idNext, nil
}

// ChangeAccount rewrites one account. As CreateAccounts.
func (db *DB) ChangeAccount(bare jid.JID, change func(a *Account) error) error {
	db.accounts.Lock()
	defer db.accounts.Unlock()
	s := db.Snapshot()
	defer s.Close()
	a, ok, err := s.Lookup(bare)
	if err != nil {
		return err
	}
	if !ok {
		return fmt.Errorf("%s: %w", bare, ErrNone)
	}
	id := a.ID
	if err := change(&a); err != nil {
		return err
	}
	a.ID = id
	b := db.NewBatch(0)
	b.Put(accountRows, accountKey(bare), a.encode())
	return db.Await(db.Commit(b))
}

// DeleteAccount removes an account and every row that it owns. As CreateAccounts.
func (db *DB) DeleteAccount(bare jid.JID) error {
	db.accounts.Lock()
	defer db.accounts.Unlock()
	s := db.Snapshot()
	defer s.Close()
	a, ok, err := s.Lookup(bare)
	if err != nil {
		return err
	}
	if !ok {
		return fmt.Errorf("%s: %w", bare, ErrNone)
	}
	// The rows first, in a batch of their owner; then the account: a crash between the two leaves an
	// account without rows, which can be deleted again.
	rows := db.NewBatch(a.ID)
	for _, t := range tables() {
		if t != accountRows && t != hostRows {
			rows.DeleteAll(t, "", "")
		}
	}
	if err := db.Await(db.Commit(rows)); err != nil {
		return err
	}
	b := db.NewBatch(0)
	b.Delete(accountRows, accountKey(bare))
	return db.Await(db.Commit(b))
}

// Accounts calls f for each account of domain, in the order of names, until f says no more.
func (s *Snapshot) Accounts(domain string, f func(local string, a Account) (more bool)) error {
	var bad error
	err := s.Scan(accountRows, 0, domain+"\x00", func(key string, v []byte) bool {
		d, local, _ := strings.Cut(key, "\x00")
		if d != domain {
			return false
		}
		a, err := decodeAccount(v)
		if err != nil {
			bad = err
			return false
		}
		return f(local, a)
	})
	if err == nil {
		err = bad
	}
	return err
}

// Hosts are the domains kept in the store, sorted.
func (s *Snapshot) Hosts() (names []string, err error) {
	err = s.Scan(hostRows, 0, "", func(key string, _ []byte) bool {
		names = append(names, key)
		return true
	})
	return names, err
}

// Errors of AddHost and DeleteHost.
var (
	ErrHostExists = errors.New("the host exists")
	ErrNoHost     = errors.New("no such host in the store")
)

// AddHost keeps a domain. As CreateAccounts.
func (db *DB) AddHost(name string) error { return db.changeHost(name, true) }

// DeleteHost forgets it; its accounts stay. As CreateAccounts.
func (db *DB) DeleteHost(name string) error { return db.changeHost(name, false) }

func (db *DB) changeHost(name string, add bool) error {
	db.accounts.Lock()
	defer db.accounts.Unlock()
	s := db.Snapshot()
	defer s.Close()
	_, ok, err := s.Get(hostRows, 0, name)
	b := db.NewBatch(0)
	switch {
	case err != nil:
		return err
	case add && ok:
		return fmt.Errorf("%s: %w", name, ErrHostExists)
	case !add && !ok:
		return fmt.Errorf("%s: %w", name, ErrNoHost)
	case add:
		b.Put(hostRows, name, nil)
	default:
		b.Delete(hostRows, name)
	}
	return db.Await(db.Commit(b))
}

// Secret is 32 random bytes of that name, made by the first call and the same ever after.
func (db *DB) Secret(name string) ([]byte, error) {
	db.accounts.Lock()
	defer db.accounts.Unlock()
	k := metaKey("secret/" + name)
	v, c, err := db.p.Get(k)
	if err == nil {
		defer c.Close()
		return append([]byte(nil), v...), nil
	}
	if !errors.Is(err, pebble.ErrNotFound) {
		return nil, err
	}
	fresh := make([]byte, 32)
	rand.Read(fresh)
	if db.opt.ReadOnly {
		return fresh, nil
	}
	return fresh, db.p.Set(k, fresh, pebble.Sync)
}

// AllAccounts is Accounts for one domain, or for all if domain is empty.
func (s *Snapshot) AllAccounts(domain string, f func(domain, local string, a Account) (more bool)) error {
	if domain != "" {
		return s.Accounts(domain, func(local string, a Account) bool { return f(domain, local, a) })
	}
	var bad error
	err := s.Scan(accountRows, 0, "", func(key string, v []byte) bool {
		d, local, _ := strings.Cut(key, "\x00")
		a, err := decodeAccount(v)
		if err != nil {
			bad = err
			return false
		}
		return f(d, local, a)
	})
	return errors.Join(err, bad)
}
