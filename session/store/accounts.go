package store

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"canto/session/jid"
)

// An Account is the row of an account in the directory.
type Account struct {
	ID          uint64    // never 0 and never given twice: see [Entry.ID]
	Domain      string    // the prepared domainpart
	Local       string    // the prepared localpart
	Created     time.Time // to the second
	Banned      time.Time // since when it can't log in, to the second; zero: it can
	BanReason   string    // for the administrator, up to 1,024 bytes
	Flags       uint32    // for the tools of administrators; the server does not read them
	Credentials []byte    // encoded sasl.Keys; empty: it can't log in
}

// JID returns the account's address.
func (a Account) JID() (jid.JID, error) { return jid.New(a.Local, a.Domain, "") }

// Accounts are the accounts of all hosts: the entities of kind [KindAccount], whose rows have more
// fields. The methods that write wait until the write is durable; many of them share one sync. They
// are for workers and commands, never for loops. Any goroutine.
type Accounts struct{ db *DB }

// A NewAccount is an account to be made. Create prepares the names.
type NewAccount struct {
	Domain, Local string // parts of the address, not prepared
	Credentials   []byte // see [Account]
}

// encode returns the row of a as it is stored: version 1, id, times, flags, reason, credentials.
func (a *Account) encode() []byte {
	b := []byte{rowAccount}
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

// decodeAccount decodes the row of an account. The credentials share b.
func decodeAccount(domain, local string, b []byte) (a Account, err error) {
	if len(b) == 0 {
		return a, corruptAccount()
	}
	if b[0] != rowAccount {
		return a, formatError("the row of an account", uint64(b[0]), rowAccount)
	}
	if b = b[1:]; len(b) < 28 {
		return a, corruptAccount()
	}
	a = Account{ID: binary.BigEndian.Uint64(b), Domain: domain, Local: local,
		Created: time.Unix(int64(binary.BigEndian.Uint64(b[8:])), 0).UTC()}
	if t := int64(binary.BigEndian.Uint64(b[16:])); t != 0 {
		a.Banned = time.Unix(t, 0).UTC()
	}
	a.Flags = binary.BigEndian.Uint32(b[24:])
	n, k := binary.Uvarint(b[28:])
	if k <= 0 || n > uint64(len(b)-28-k) {
		return a, corruptAccount()
	}
	b = b[28+k:]
	a.BanReason, a.Credentials = string(b[:n]), b[n:]
	return a, nil
}

// corruptAccount is an ErrCorrupt for the row of an account.
func corruptAccount() error { return corruptError("the row of an account", errors.New("wrong length")) }

// Create makes an account and returns its id. The error is [ErrExists] if an entity has the name,
// in whatever spelling it was given. Of two goroutines that make one name at once, one gets the
// error; if the commit of the first fails, the second makes the account.
func (s *Accounts) Create(ctx context.Context, domain, local string, credentials []byte) (id uint64,
	err error) {
	n := NewAccount{domain, local, credentials}
	b, j, err := s.newAccountBatch(ctx, n)
	if err != nil {
		return 0, err
	}
	id = b.Owner()
	if err := s.db.Wait(ctx, s.db.Commit(b)); err != nil {
		return 0, withAccountName(j, err)
	}
	return id, nil
}

// CreateMany makes many accounts, 1,000 in flight at a time. It returns the ids, 0 for those that
// failed.
//
// With failed set, it is called for each account that can't be made, and the others are made; an
// error of the store other than ErrExists still ends CreateMany. Without it the first failure does.
// Accounts that were made by then stay.
func (s *Accounts) CreateMany(ctx context.Context, accounts []NewAccount, failed func(i int, err error)) (
	ids []uint64, err error) {
	ids = make([]uint64, len(accounts))
	const chunk = 1000
	type making struct {
		i  int
		id uint64
		j  jid.JID
	}
	for from := 0; from < len(accounts); from += chunk {
		var batches []*Batch
		var list []making
		for i := from; i < min(from+chunk, len(accounts)); i++ {
			b, j, err := s.newAccountBatch(ctx, accounts[i])
			switch {
			case err == nil:
				batches, list = append(batches, b), append(list, making{i, b.Owner(), j})
			case failed == nil || ctx.Err() != nil:
				return ids, err
			default:
				failed(i, err)
			}
		}
		first := s.db.commitAll(batches...)
		for k, m := range list {
			err := s.db.Wait(ctx, first+Ticket(k))
			switch {
			case err == nil:
				ids[m.i] = m.id
			case failed == nil || !errors.Is(err, ErrExists):
				return ids, withAccountName(m.j, err)
			default:
				failed(m.i, withAccountName(m.j, err))
			}
		}
	}
	return ids, nil
}

// withAccountName adds the account's name to err if err is ErrExists.
func withAccountName(j jid.JID, err error) error {
	if errors.Is(err, ErrExists) {
		return fmt.Errorf("account %s %w", j, ErrExists)
	}
	return err
}

// newAccountBatch returns a batch that makes an account, and its prepared address. If the name is
// taken, it usually finds that by a read and makes no batch; the committer checks again.
func (s *Accounts) newAccountBatch(ctx context.Context, n NewAccount) (*Batch, jid.JID, error) {
	if n.Local == "" {
		return nil, jid.JID{}, fmt.Errorf("%w: an account without a name", ErrKey)
	}
	j, err := jid.New(n.Local, n.Domain, "")
	if err != nil {
		return nil, jid.JID{}, err
	}
	key, err := entityKey(j.Domain(), j.Local())
	if err != nil {
		return nil, jid.JID{}, err
	}
	if _, there, err := s.db.get(key); err != nil {
		return nil, jid.JID{}, err
	} else if there {
		return nil, jid.JID{}, withAccountName(j, ErrExists)
	}
	a := Account{Created: s.db.opts.Now(), Credentials: n.Credentials}
	b, err := s.db.entities.addWaiting(ctx, j, func(id uint64) []byte {
		a.ID = id
		return a.encode()
	})
	return b, j, err
}

// Get reads an account by its prepared names. The error is [ErrNotFound] if there is none, also if
// an entity of another kind has the name.
func (s *Accounts) Get(r Reader, domain, local string) (Account, error) {
	a, _, err := s.read(r, domain, local)
	return a, err
}

// read is Get, and returns the stored row, too.
func (s *Accounts) read(r Reader, domain, local string) (a Account, row []byte, err error) {
	key, err := entityKey(domain, local)
	if err != nil {
		return Account{}, nil, fmt.Errorf("account %w", ErrNotFound)
	}
	row, ok, err := r.get(key)
	if err != nil {
		return Account{}, nil, err
	}
	if !ok || isOtherKind(row) {
		return Account{}, nil, fmt.Errorf("account %w", ErrNotFound)
	}
	a, err = decodeAccount(domain, local, row)
	return a, row, err
}

// isOtherKind reports whether a row is that of an entity that is no account.
func isOtherKind(row []byte) bool { return len(row) > 0 && row[0] == rowEntity }

// List calls fn for the accounts of a domain in the order of their names, until fn returns false.
// An empty domain means all domains. after is the localpart after which the list begins; empty:
// with the first account. Entities of other kinds are left out.
func (s *Accounts) List(r Reader, domain, after string, fn func(a Account) bool) error {
	if after != "" {
		after += "\x00"
	}
	return s.db.entities.list(r, domain, after, func(domain, local string, row []byte) (bool, error) {
		if isOtherKind(row) {
			return true, nil
		}
		a, err := decodeAccount(domain, local, append([]byte(nil), row...))
		if err != nil {
			return false, err
		}
		return fn(a), nil
	})
}

// NotNormalized calls fn for the accounts whose names are prepared differently by this program than
// when they were made. After a change of the Unicode tables there can be some; clients can't log in
// to them. It reads all accounts: for commands.
func (s *Accounts) NotNormalized(r Reader, fn func(a Account) bool) error {
	return s.List(r, "", "", func(a Account) bool {
		if j, err := a.JID(); err == nil && j.Local() == a.Local && j.Domain() == a.Domain {
			return true
		}
		return fn(a)
	})
}

// A DeletedAccount is an account that was deleted and has rows left, until [Accounts.Erase].
type DeletedAccount struct {
	ID            uint64 // the id that it had
	Domain, Local string // its prepared names
}

// JID returns the address that it had.
func (a DeletedAccount) JID() (jid.JID, error) { return jid.New(a.Local, a.Domain, "") }

// Delete removes an account from the directory. It can't be logged in to any more, and its name may
// be given to another account. Its rows stay under its id, which is never given again, as its
// roster says which contacts must be notified. [Accounts.Deleted] lists it until [Accounts.Erase], also
// after a restart. Delete waits until that is durable, also if ctx ends before: the caller could
// not know what has happened.
func (s *Accounts) Delete(ctx context.Context, domain, local string) (d DeletedAccount, err error) {
	j, err := prepareAccountName(domain, local)
	if err != nil {
		return d, err
	}
	a, err := s.Get(s.db, j.Domain(), j.Local())
	if err != nil {
		return d, err
	}
	b := s.db.systemBatch() // is not refused while the queue is full
	b.owner = a.ID
	s.db.entities.Remove(b, Entry{ID: a.ID, Domain: a.Domain, Local: a.Local, Kind: KindAccount})
	if err := s.db.Wait(context.WithoutCancel(ctx), s.db.Commit(b)); errors.Is(err, ErrNotFound) {
		return d, fmt.Errorf("account %w", ErrNotFound)
	} else if err != nil {
		return d, err
	}
	return DeletedAccount{a.ID, a.Domain, a.Local}, nil
}

// Deleted calls fn for the accounts that were deleted and not erased yet, in the order of their
// ids, until fn returns false. [Entities.Deleted] lists entities of other kinds, too.
func (s *Accounts) Deleted(r Reader, fn func(d DeletedAccount) bool) error {
	return s.db.entities.Deleted(r, func(e Entry) bool {
		return e.Kind != KindAccount || fn(DeletedAccount{e.ID, e.Domain, e.Local})
	})
}

// Erase is [Entities.Erase] for a deleted account.
func (s *Accounts) Erase(id uint64) Ticket { return s.db.entities.Erase(id) }

// SetKeys replaces an account's credentials. The error is [ErrNotFound] if there is no such
// account; so it is for the methods below.
func (s *Accounts) SetKeys(ctx context.Context, domain, local string, credentials []byte) error {
	return s.update(ctx, domain, local, func(a *Account) bool {
		a.Credentials = credentials
		return true
	})
}

// ReplaceKeys replaces an account's credentials if the account still has the id and the credentials
// old, and reports whether it did. Keys that were derived at a login, from a row that was read
// before, must not undo a change of the password in between.
func (s *Accounts) ReplaceKeys(ctx context.Context, domain, local string, id uint64, old,
	credentials []byte) (done bool, err error) {
	err = s.update(ctx, domain, local, func(a *Account) bool {
		if done = a.ID == id && bytes.Equal(a.Credentials, old); done {
			a.Credentials = credentials
		}
		return done
	})
	return done && err == nil, err
}

// Ban keeps an account from logging in, with a reason for the administrator. A second Ban changes
// the reason; the time stays.
func (s *Accounts) Ban(ctx context.Context, domain, local, reason string) error {
	now := s.db.opts.Now()
	return s.update(ctx, domain, local, func(a *Account) bool {
		if a.Banned.IsZero() {
			a.Banned = now
		}
		a.BanReason = reason[:min(len(reason), 1024)]
		return true
	})
}

// Unban ends a ban, if there is one.
func (s *Accounts) Unban(ctx context.Context, domain, local string) error {
	return s.update(ctx, domain, local, func(a *Account) bool {
		a.Banned, a.BanReason = time.Time{}, ""
		return true
	})
}

// SetFlags replaces an account's flags.
func (s *Accounts) SetFlags(ctx context.Context, domain, local string, flags uint32) error {
	return s.update(ctx, domain, local, func(a *Account) bool {
		a.Flags = flags
		return true
	})
}

// update reads an account, calls f to change it, writes it back and waits until that is durable. It
// writes nothing if f returns false. If the row was changed meanwhile, it starts again and calls f
// again (optimistic concurrency control): of several goroutines that change one account at once,
// one always succeeds. It does not end with ctx once the batch is committed: the caller could not
// know what has happened.
func (s *Accounts) update(ctx context.Context, domain, local string, f func(a *Account) (write bool)) error {
	j, err := prepareAccountName(domain, local)
	if err != nil {
		return err
	}
	key, err := entityKey(j.Domain(), j.Local())
	if err != nil {
		return err
	}
	for {
		a, row, err := s.read(s.db, j.Domain(), j.Local())
		if err != nil {
			return err
		}
		if !f(&a) {
			return nil
		}
		b := s.db.systemBatch()
		b.addNameChange(nameChange{key: key, newRow: a.encode(), rule: ruleUnchanged, oldRow: row})
		switch err := s.db.Wait(context.WithoutCancel(ctx), s.db.Commit(b)); {
		case errors.Is(err, ErrNotFound):
			return fmt.Errorf("account %w", ErrNotFound)
		case !errors.Is(err, errRowChanged):
			return err
		}
	}
}

// prepareAccountName prepares the name of an account that should exist: for a name that can't be
// one the error is ErrNotFound.
func prepareAccountName(domain, local string) (jid.JID, error) {
	j, err := jid.New(local, domain, "")
	if err != nil || local == "" {
		return jid.JID{}, fmt.Errorf("account %w", ErrNotFound)
	}
	return j, nil
}
