// Package storage connects the kernel and its modules with the store. The kernel does not import the
// store: it asks for the interfaces [session.Committer] and [session.Directory], which this package
// implements. For modules it has functions that open their tables, make and commit batches, and delete
// entities.
//
// Modules call [OpenMap], [OpenLog] or [OpenValues] in Load. In hooks, under the lock of an entity, they
// use [BatchOf] for what they store of a stanza, and [Batch] with [Commit] for what an entity stores. The
// process calls [NewCommitter] and [NewDirectory] when it starts.
package storage

import (
	"context"
	"errors"

	"canto/reactor"
	"canto/session"
	"canto/session/jid"
	"canto/session/stanza"
	"canto/session/store"
)

// DB returns the store of the process, or nil if it has none. In Load only.
func DB(api *session.API) *store.DB {
	db, _ := session.Lookup[*store.DB](api)
	return db
}

// Open returns the store of the process, or an error for Load if it has none. In Load only.
func Open(api *session.API) (*store.DB, error) {
	if db := DB(api); db != nil {
		return db, nil
	}
	return nil, errors.New("the process has no store")
}

// OpenMap opens the table that def describes. It fails if the rows were written by a newer version. The
// process must have a store. In Load only.
func OpenMap[K, V any](api *session.API, def *store.MapDef[K, V]) (*store.Map[K, V], error) {
	return store.MapOf(DB(api).Tables(), def)
}

// OpenLog opens the log that def describes, as OpenMap does a table. In Load only.
func OpenLog[V any](api *session.API, def *store.LogDef[V]) (*store.Log[V], error) {
	return store.LogOf(DB(api).Tables(), def)
}

// FinishDeletion sends the last stanzas of the deleted account d to its contacts, and then erases its
// rows: see [session.Router.FinishDeletion]. It does not wait. done, if not nil, is called on a loop at
// the end. It returns an error if the address of d is no valid JID. Any goroutine.
func FinishDeletion(r *session.Router, db *store.DB, d store.DeletedAccount, done func()) error {
	addr, err := d.JID()
	if err != nil {
		return err
	}
	r.FinishDeletion(session.EntityRef{JID: addr, ID: d.ID}, func() { db.Accounts().Erase(d.ID) }, done)
	return nil
}

// NewCommitter returns db as the kernel uses it. Its methods may be called by any goroutine.
func NewCommitter(db *store.DB) session.Committer { return committer{db} }

// A committer implements [session.Committer] on a store.
type committer struct{ db *store.DB }

// LastSettled implements [session.Committer]: all tickets up to it are durable or have failed.
func (d committer) LastSettled() session.Ticket { return session.Ticket(d.db.Durable()) }

// Err implements [session.Committer]: the error of the settled ticket t, nil if it is durable.
func (d committer) Err(t session.Ticket) error { return kernelError(d.db.Failed(store.Ticket(t))) }

// Notify implements [session.Committer]: the store's committer calls f after each group of batches.
func (d committer) Notify(f func()) { d.db.OnCommit(func(store.Ticket, error) { f() }) }

// Await implements [session.Committer]: it blocks until t is settled, so only workers may call it.
func (d committer) Await(t session.Ticket) error {
	return kernelError(d.db.Wait(context.Background(), store.Ticket(t)))
}

// Full implements [session.Committer]: it reports whether the store refuses writes now.
func (d committer) Full() bool { return d.db.Full() != nil }

// NewBatch implements [session.Committer]: it returns a *store.Batch for the entity id.
func (d committer) NewBatch(id uint64) any { return d.db.NewBatch(id) }

// Commit implements [session.Committer]: b is what NewBatch has returned.
func (d committer) Commit(b any) session.Ticket { return session.Ticket(d.db.Commit(b.(*store.Batch))) }

// BatchOf returns the batch of what all modules store of ev: see [session.Stanza.Batch]. Under the lock of
// an entity that is stored; elsewhere it panics.
func BatchOf(ev *session.Stanza) *store.Batch { return ev.Batch().(*store.Batch) }

// Snapshot implements [session.Committer]: it returns a *store.Snapshot.
func (d committer) Snapshot() any { return d.db.Snapshot() }

// A fullError is the refusal of a write because there is no space. The kernel recognizes it by the method
// Full.
type fullError struct{ error }

// Full tells the kernel that the error is a lack of space.
func (fullError) Full() bool { return true }

// Unwrap returns the store's error.
func (f fullError) Unwrap() error { return f.error }

// An existsError is the failure of a batch that creates an entity at an address that another entity has
// got meanwhile. The kernel recognizes it by the method Exists, and reloads the entity.
type existsError struct{ error }

// Exists tells the kernel that the address is taken.
func (existsError) Exists() bool { return true }

// Unwrap returns the store's error.
func (e existsError) Unwrap() error { return e.error }

// kernelError translates an error of the store for the kernel, which does not know the store's errors.
func kernelError(err error) error {
	switch {
	case errors.Is(err, store.ErrFull):
		return fullError{err}
	case errors.Is(err, store.ErrExists):
		return existsError{err}
	}
	return err
}

// NewEntity returns a batch that creates an entity of a kind at addr, a bare JID or a bare domain: see
// [store.Entities.New]. Further rows of the entity go into the same batch, under [store.Batch.Owner], the
// new id. It does not wait. The error is one for [session.Stanza.FailCommit]. Whether the address is taken
// is known when the batch is written: then the commit fails with an error that has a method Exists.
func NewEntity(db *store.DB, addr jid.JID, kind string) (*store.Batch, error) {
	b, err := db.Entities().New(addr.Domain(), addr.Local(), kind)
	return b, kernelError(err)
}

// Batch returns a batch for rows of e. If e is not stored yet, the batch also creates it: see [NewEntity].
// It does not wait. If the store is full it returns an error for [session.Stanza.FailCommit]. Therefore
// call it before you change memory, and before you send anything that a failed commit could not take back
// (RFC 6120 section 8.3.3.18). Take one batch at a time for an entity that is not stored: two would create
// it twice. Under the lock of e.
func Batch(db *store.DB, e *session.Entity) (*store.Batch, error) {
	if err := db.Full(); err != nil {
		return nil, kernelError(err)
	}
	if e.ID() == 0 {
		return NewEntity(db, e.JID(), e.Kind().String())
	}
	return db.NewBatch(e.ID()), nil
}

// Commit gives b, which [Batch] has returned for e, to the store, and returns its ticket. If b creates e,
// Commit tells the kernel: if that fails, the rows of later batches are erased. It does not wait. Under
// the lock of e, on the loop of l.
func Commit(l *session.LoopRouter, db *store.DB, e *session.Entity, b *store.Batch) session.Ticket {
	id := b.Owner()
	t := session.Ticket(db.Commit(b))
	if e.ID() == 0 {
		e.Stored(l, id, t, func() { db.Entities().Erase(id) })
	}
	return t
}

// Delete ends e: its address is free at once. It returns the ticket of the batch that removes e from the
// directory, or zero if nothing of e is stored. Once that is durable the rows of e are erased; if the
// server stops before, the next start erases them. Under the lock of e, on the loop of l.
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

// NewDirectory returns the directory of db: which accounts, and which entities of any kind, there are. A
// banned account is there, because its messages are stored.
func NewDirectory(db *store.DB) session.Directory { return directory{db} }

// A directory implements [session.Directory] on a store.
type directory struct{ db *store.DB }

// Lookup implements [session.Directory]: it returns the id and the kind of the entity at addr, a bare JID
// or a bare domain. ok is false if there is none. The id is valid while the entity has that address. snap
// is what the Committer's Snapshot has returned. On a worker.
func (d directory) Lookup(snap any, addr jid.JID) (id uint64, kind string, ok bool, err error) {
	e, ok, err := d.db.Entities().Lookup(snap.(store.Reader), addr.Domain(), addr.Local())
	return e.ID, e.Kind, ok, err
}

// Values is a module's table with single values of accounts, which are read for each request and not kept
// in memory: a vCard, private XML. In memory, each warm account would pay for them.
type Values struct {
	DB   *store.DB                  // the store of the table
	Rows *store.Map[string, []byte] // the values, by account and key
}

// OpenValues opens the table that def describes. It fails if the process has no store, or if the rows were
// written by a newer version. In Load only.
func OpenValues(api *session.API, def *store.MapDef[string, []byte]) (v Values, err error) {
	if v.DB, err = Open(api); err == nil {
		v.Rows, err = OpenMap(api, def)
	}
	return v, err
}

// Await reads the value under key of the account of ev on a worker. Then it calls f with it, on the loop,
// under the account's lock; value is nil if there is none. If the value can't be read, ev is answered with
// internal-server-error and f is not called. For handlers of iqs: it returns what [session.Stanza.Await]
// does.
func (v Values) Await(ev *session.Stanza, key string,
	f func(ev *session.Stanza, value []byte) session.Verdict) session.Verdict {
	id := ev.Account().ID()
	var value []byte
	return ev.Await(reactor.Disk, func() (err error) {
		s := v.DB.Snapshot()
		defer s.Close()
		value, _, err = v.Rows.Get(s, id, key)
		return err
	}, func(ev *session.Stanza, err error) session.Verdict {
		if err != nil {
			return ev.Fail(stanza.InternalServerError)
		}
		return f(ev, value)
	})
}

// CommitAndReply gives b to the store. Once b is durable it answers ev with an empty result, or with an
// error if the commit fails. For handlers of iqs, under the lock of the entity that owns b.
func CommitAndReply(ev *session.Stanza, db *store.DB, b *store.Batch) session.Verdict {
	return ev.Commit(session.Ticket(db.Commit(b)), Reply)
}

// Reply answers ev after a commit: with an empty result if err is nil, else with the error that err calls
// for. It is an argument for [session.Stanza.Commit] if there is nothing else to do.
func Reply(ev *session.Stanza, err error) session.Verdict {
	if err != nil {
		return ev.FailCommit(err)
	}
	return ev.Reply(nil)
}
