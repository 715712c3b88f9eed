// Package storage gives the store to the modules of a profile, and to the kernel what it wants of one.
//
// State: none. Stored: nothing of its own.
package storage

import (
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

// Durable is db as the kernel sees it.
func Durable(db *store.DB) session.Durable { return durable{db} }

type durable struct{ db *store.DB }

func (d durable) Durable() session.Ticket      { return session.Ticket(d.db.Durable()) }
func (d durable) Err(t session.Ticket) error   { return d.db.Err(uint64(t)) }
func (d durable) Notify(f func())              { d.db.Notify(f) }
func (d durable) Await(t session.Ticket) error { return d.db.Await(uint64(t)) }
func (d durable) Snapshot() any                { return d.db.Snapshot() }

// Directory says which accounts db has. A banned one is there: its messages are kept.
func Directory(db *store.DB) session.Directory { return directory{} }

type directory struct{}

func (directory) Account(snap any, bare jid.JID) (uint64, bool, error) {
	a, ok, err := snap.(*store.Snapshot).Lookup(bare)
	return a.ID, ok, err
}
