// Package storage gives the store to the modules of a profile, and to the kernel what it wants of one.
//
// State: none. Stored: nothing of its own.
package storage

import (
	"context"
	"errors"

	"canto/session"
	"canto/session/jid"
	"canto/session/store"
)

// Manifest is how the loader knows this module.
var Manifest = session.Manifest{
	Name:     "store",
	Spec:     "session/store",
	Summary:  "keeps what must last",
	Cases:    "Pebble, one database for all hosts",
	Provides: []session.Feature{"store"},
	New:      func() session.Module { return module{} },
}

type module struct{}

func (module) Load(api *session.API) error {
	if _, ok := session.Find[*store.DB](api); !ok {
		return errors.New("the process has no store")
	}
	return nil
}

// Of is the store; for modules that require the feature "store".
func Of(api *session.API) *store.DB {
	db, _ := session.Find[*store.DB](api)
	return db
}

// Map is a module's table in the store of its process.
func Map[K, V any](api *session.API, def *store.MapDef[K, V]) (*store.Map[K, V], error) {
	return store.MapOf(Of(api).Space(), def)
}

// Log is a module's log in the store of its process.
func Log[V any](api *session.API, def *store.LogDef[V]) (*store.Log[V], error) {
	return store.LogOf(Of(api).Space(), def)
}

// Bury has r tell those who knew a deleted account, and then erases its rows: see [session.Router.Bury].
// done may be nil, and is called on a loop. Any goroutine.
func Bury(r *session.Router, db *store.DB, d store.DeletedAccount, done func()) error {
	who, err := d.JID()
	if err != nil {
		return err
	}
	r.Bury(session.Who{JID: who, ID: d.ID}, func() { db.Accounts().Erase(d.ID) }, done)
	return nil
}

// Durable is db as the kernel sees it.
func Durable(db *store.DB) session.Durable { return durable{db} }

type durable struct{ db *store.DB }

func (d durable) Durable() session.Ticket { return session.Ticket(d.db.Durable()) }

func (d durable) Err(t session.Ticket) error { return asAsked(d.db.Failed(store.Ticket(t))) }

func (d durable) Notify(f func()) { d.db.Notify(func(store.Ticket, error) { f() }) }

func (d durable) Await(t session.Ticket) error {
	return asAsked(d.db.Wait(context.Background(), store.Ticket(t)))
}

func (d durable) Full() bool { return d.db.Full() != nil }

func (d durable) NewBatch(id uint64) any { return d.db.NewBatch(id) }

func (d durable) Commit(b any) session.Ticket { return session.Ticket(d.db.Commit(b.(*store.Batch))) }

// Rows is the batch of what all modules store of ev: see [session.Stanza.Batch].
func Rows(ev *session.Stanza) *store.Batch { return ev.Batch().(*store.Batch) }

func (d durable) Snapshot() any { return d.db.Snapshot() }

// full is a refusal for want of space, as the kernel asks for it.
type full struct{ error }

func (full) Full() bool      { return true }
func (f full) Unwrap() error { return f.error }

// exists is the failure of a batch that makes an entity under a name that another has by then, as the kernel
// asks for it: what is in memory under that name is to be read again.
type exists struct{ error }

func (exists) Exists() bool    { return true }
func (e exists) Unwrap() error { return e.error }

// asAsked is err as the kernel asks for it: it does not know the store's errors.
func asAsked(err error) error {
	switch {
	case errors.Is(err, store.ErrFull):
		return full{err}
	case errors.Is(err, store.ErrExists):
		return exists{err}
	}
	return err
}

// NewEntity returns a batch that makes an entity of a kind under addr, a bare JID or a bare domain: see
// [store.Entities.New]. What the entity begins with is put into it under [store.Batch.Owner], the new id, and
// committed with it. It does not wait. An error is one for [session.Stanza.FailCommit]; that the name is
// taken is known when the batch is written, and [session.Durable] says so with an error whose method Exists
// returns true.
func NewEntity(db *store.DB, addr jid.JID, kind string) (*store.Batch, error) {
	b, err := db.Entities().New(addr.Domain(), addr.Local(), kind)
	return b, asAsked(err)
}

// Batch returns a batch for what e is to have stored: the first one makes e, see [NewEntity]. It does not
// wait. A store that is known to be full refuses, with an error for [session.Stanza.FailCommit]: ask
// before anything is changed in memory, and before anything is sent that a failed commit could not take
// back (RFC 6120 §8.3.3.18). Under e's lock.
func Batch(db *store.DB, e *session.Entity) (*store.Batch, error) {
	if err := db.Full(); err != nil {
		return nil, asAsked(err)
	}
	if e.ID() == 0 {
		return NewEntity(db, e.JID(), e.Kind().String())
	}
	return db.NewBatch(e.ID()), nil
}

// Commit gives b, which [Batch] made for e, to the store, and says so to the kernel if it makes e: if
// that fails, what was written behind it is erased. Under e's lock, on the loop of l.
func Commit(l *session.Local, db *store.DB, e *session.Entity, b *store.Batch) session.Ticket {
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
func Delete(l *session.Local, db *store.DB, e *session.Entity) session.Ticket {
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

// Directory says which accounts, and which entities of any kind, db has. A banned account is there: its
// messages are kept.
func Directory(db *store.DB) session.Directory { return directory{db} }

type directory struct{ db *store.DB }

// Entity looks up an entity of any kind by its address, a bare JID or a bare domain: its id, which holds for
// as long as it has that address, and its kind. snap is what [session.Durable] gave as a snapshot. On a
// worker.
func (d directory) Entity(snap any, addr jid.JID) (id uint64, kind string, ok bool, err error) {
	e, ok, err := d.db.Entities().Lookup(snap.(store.Reader), addr.Domain(), addr.Local())
	return e.ID, e.Kind, ok, err
}
