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

// Bury has r tell those who knew a deleted account, and then erases its rows: see [session.Router.Bury]. done may be
// nil, and is called on a loop. Any goroutine.
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

func (d durable) Err(t session.Ticket) error { return asFull(d.db.Failed(store.Ticket(t))) }

func (d durable) Notify(f func()) { d.db.Notify(func(store.Ticket, error) { f() }) }

func (d durable) Await(t session.Ticket) error {
	return asFull(d.db.Wait(context.Background(), store.Ticket(t)))
}

func (d durable) Snapshot() any { return d.db.Snapshot() }

// full is a refusal for want of space, as the kernel asks for it.
type full struct{ error }

func (full) Full() bool      { return true }
func (f full) Unwrap() error { return f.error }

func asFull(err error) error {
	if errors.Is(err, store.ErrFull) {
		return full{err}
	}
	return err
}

// Directory says which accounts db has. A banned one is there: its messages are kept.
func Directory(db *store.DB) session.Directory { return directory{db} }

type directory struct{ db *store.DB }

func (d directory) Entity(snap any, addr jid.JID) (uint64, string, bool, error) {
	a, err := d.db.Accounts().Get(snap.(*store.Snapshot), addr.Domain(), addr.Local())
	if errors.Is(err, store.ErrNotFound) {
		return 0, "", false, nil
	}
	return a.ID, "account", err == nil, err
}
