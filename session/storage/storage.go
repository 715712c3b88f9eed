// Package storage joins the kernel and its modules with the store: it gives modules their tables, and the
// kernel the [session.Committer] and the [session.Directory] that it asks for. The kernel imports no store.
package storage

import (
	"context"
	"errors"

	"canto/session"
	"canto/session/jid"
	"canto/session/store"
)

// DB is the store; for modules that require the feature "store".
func DB(api *session.API) *store.DB {
	db, _ := session.Lookup[*store.DB](api)
	return db
}

// OpenMap is a module's table in the store of its process.
func OpenMap[K, V any](api *session.API, def *store.MapDef[K, V]) (*store.Map[K, V], error) {
	return store.MapOf(DB(api).Tables(), def)
}

// OpenLog is a module's log in the store of its process.
func OpenLog[V any](api *session.API, def *store.LogDef[V]) (*store.Log[V], error) {
	return store.LogOf(DB(api).Tables(), def)
}

// FinishDeletion has r tell those who knew a deleted account, and then erases its rows: see
// [session.Router.FinishDeletion]. done may be nil, and is called on a loop. Any goroutine.
func FinishDeletion(r *session.Router, db *store.DB, d store.DeletedAccount, done func()) error {
	who, err := d.JID()
	if err != nil {
		return err
	}
	r.FinishDeletion(session.EntityRef{JID: who, ID: d.ID}, func() { db.Accounts().Erase(d.ID) }, done)
	return nil
}

// NewCommitter is db as the kernel sees it.
func NewCommitter(db *store.DB) session.Committer { return committer{db} }

type committer struct{ db *store.DB }

func (d committer) LastSettled() session.Ticket { return session.Ticket(d.db.Durable()) }

func (d committer) Err(t session.Ticket) error { return kernelError(d.db.Failed(store.Ticket(t))) }

func (d committer) Notify(f func()) { d.db.OnCommit(func(store.Ticket, error) { f() }) }

func (d committer) Await(t session.Ticket) error {
	return kernelError(d.db.Wait(context.Background(), store.Ticket(t)))
}

func (d committer) Full() bool { return d.db.Full() != nil }

func (d committer) NewBatch(id uint64) any { return d.db.NewBatch(id) }

func (d committer) Commit(b any) session.Ticket { return session.Ticket(d.db.Commit(b.(*store.Batch))) }

// BatchOf is the batch of what all modules store of ev: see [session.Stanza.Batch].
func BatchOf(ev *session.Stanza) *store.Batch { return ev.Batch().(*store.Batch) }

func (d committer) Snapshot() any { return d.db.Snapshot() }

// fullError is a refusal for want of space, as the kernel asks for it.
type fullError struct{ error }

func (fullError) Full() bool      { return true }
func (f fullError) Unwrap() error { return f.error }

// existsError is the failure of a batch that makes an entity under a name that another has by then, as
// the kernel asks for it: what is in memory under that name is to be read again.
type existsError struct{ error }

func (existsError) Exists() bool    { return true }
func (e existsError) Unwrap() error { return e.error }

// kernelError is err as the kernel asks for it: it does not know the store's errors.
func kernelError(err error) error {
	switch {
	case errors.Is(err, store.ErrFull):
		return fullError{err}
	case errors.Is(err, store.ErrExists):
		return existsError{err}
	}
	return err
}

// NewEntity returns a batch that makes an entity of a kind under addr, a bare JID or a bare domain: see
// [store.Entities.New]. What the entity begins with is put into it under [store.Batch.Owner], the new id, and
// committed with it. It does not wait. An error is one for [session.Stanza.FailCommit]; that the name is
// taken is known when the batch is written, and [session.Committer] says so with an error whose method Exists
// returns true.
func NewEntity(db *store.DB, addr jid.JID, kind string) (*store.Batch, error) {
	b, err := db.Entities().New(addr.Domain(), addr.Local(), kind)
	return b, kernelError(err)
}

// Batch returns a batch for what e is to have stored: the first one makes e, see [NewEntity]. It does not
// wait. A store that is known to be full refuses, with an error for [session.Stanza.FailCommit]: ask
// before anything is changed in memory, and before anything is sent that a failed commit could not take
// back (RFC 6120 §8.3.3.18). Under e's lock.
func Batch(db *store.DB, e *session.Entity) (*store.Batch, error) {
	if err := db.Full(); err != nil {
		return nil, kernelError(err)
	}
	if e.ID() == 0 {
		return NewEntity(db, e.JID(), e.Kind().String())
	}
	return db.NewBatch(e.ID()), nil
}

// Commit gives b, which [Batch] made for e, to the store, and says so to the kernel if it makes e: if
// that fails, what was written behind it is erased. Under e's lock, on the loop of l.
func Commit(l *session.LoopRouter, db *store.DB, e *session.Entity, b *store.Batch) session.Ticket {
	id := b.Owner()
	t := session.Ticket(db.Commit(b))
	if e.ID() == 0 {
		e.Stored(l, id, t, func() { db.Entities().Erase(id) })
	}
	return t
}

// Delete ends e, and erases its rows once it is durable that it has no address any more; if the server
// stops in between, the next start erases them. The ticket is of the former; it is zero for an e of which
// nothing is stored. Under e's lock, on the loop of l.
func Delete(l *session.LoopRouter, db *store.DB, e *session.Entity) session.Ticket {
	id, addr := e.ID(), e.JID()
	if id == 0 {
		e.Delete(l, 0, nil)
		return 0
	}
	b := db.NewBatch(id)
	db.Entities().Remove(b, store.Entry{ID: id, Domain: addr.Domain(), Local: addr.Local(),
		Kind: e.Kind().String()})
	t := session.Ticket(db.Commit(b))
	e.Delete(l, t, func() { db.Entities().Erase(id) })
	return t
}

// NewDirectory says which accounts, and which entities of any kind, db has. A banned account is there: its
// messages are kept.
func NewDirectory(db *store.DB) session.Directory { return directory{db} }

type directory struct{ db *store.DB }

// Lookup looks up an entity of any kind by its address, a bare JID or a bare domain: its id, which holds for
// as long as it has that address, and its kind. snap is what [session.Committer] gave as a snapshot. On a
// worker.
func (d directory) Lookup(snap any, addr jid.JID) (id uint64, kind string, ok bool, err error) {
	e, ok, err := d.db.Entities().Lookup(snap.(store.Reader), addr.Domain(), addr.Local())
	return e.ID, e.Kind, ok, err
}
