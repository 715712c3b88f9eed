package session

import (
	"sync"

	"canto/reactor"
	"canto/session/jid"
)

// An Entity is the object for one of our addresses: an account at a bare JID, or an object that a module
// serves, such as a room, or a service at a domain. It is a monitor: its mutex guards all its state,
// except for the host and the address, which never change. The hooks of a stanza run under that mutex, on
// the loop that routes the stanza. A loop holds one entity lock at most.
//
// A hook sends an envelope to another entity: a stanza as values. It is mail, which the same loop
// routes after the unlock, or it waits as a job while earlier output is in flight. outgoing.go explains both.
//
// An entity has two kinds of state in memory. The resident set has the stored state, in parts that modules
// declare ([Part]): it is invalidated after a failure, and loaded again. The live state is in memory
// only: the sessions of an account, the occupants of a room (see [EntityHandler.New]).
//
// An entity is warm while it has a resident set that the present [Profile] (the modules) of its host has
// loaded, else it is cold. Stanzas for a cold entity wait in its inbox until a worker has loaded the set; the
// loop that started the load installs it, under the lock (mailbox.go). An idle entity is evicted (evict.go).
type Entity struct {
	mu   sync.Mutex
	host *Host
	addr jid.JID // a bare JID or a domain
	// id in the store. It is set by the first load, which reads it from the directory, or by Stored; 0:
	// nothing is stored of the entity.
	id uint64
	// live is a *liveState or nil; for an account it is the *Account itself, from its creation on.
	live any
	// resident is nil before the first load. evictedMark: the entity is no longer in the Table. A set that was
	// invalidated, or that another profile has loaded, is cold: see warm.
	resident *residentSet
	pending  *pendingState // nil while nothing is pending or in flight
	// ticket is the last one that was taken for the entity. Until it is settled (durable, or failed) the
	// resident set may be newer than the store: the entity is not evicted, and a load waits for the ticket.
	ticket   Ticket
	lastUsed reactor.Tick // last access, for idle eviction
	// pins counts the functions that hold a pointer to the entity and will lock it: the callbacks of commits,
	// and awaited requests. It outlasts ticket: a callback runs after its ticket is settled.
	pins int32
	// directLoop is the loop number (index + 1) of the one loop that has envelopes of the entity in its
	// mail queue; 0: none. See outgoing.go.
	directLoop uint16
	// congestedFanout is set if the last broadcast job met a client with output above its high-water mark. The
	// sender of the next one is charged for that ([LoopRouter.Fanout]).
	congestedFanout bool
	// kind is KindAccount at each bare JID of a host with logins, loaded or not. At a service host 0 says that
	// the entity is not loaded yet, or that there is nothing at the address.
	kind KindID
}

// A pendingState is the part of an [Entity] that exists only while something waits for it or is in flight
// from it, which is rare: so an idle entity is small. The entity's lock guards it.
type pendingState struct {
	inbox    inbox         // stanzas and calls that wait for the entity
	outgoing outgoingState // counts what the entity has in flight
	// requests are the calls of Stanza.Await for senders that are not a client of this account, so that no
	// stream can be parked. One request of each sender runs at a time; the sender's others wait here.
	requests []*awaitedRequest
	asks     []*pendingAsk // requests of the entity itself that have no answer yet: see ask.go
	timerAt  reactor.Tick  // when EntityHandler.Timer is due; 0: the timer is not armed
	// wakeAt is when the loop's timer for it fires; 0: none is set. It is before timerAt if the entity was
	// armed again for a later tick: the loop's timer is not moved, and arms itself again when it fires. One
	// that fires after pendingState was released finds nothing to do.
	wakeAt   reactor.Tick
	draining bool // a load is in flight, or a loop drains the inbox or is about to
}

// An outgoingState counts the jobs of an entity that loops have not delivered yet: see outgoing.go.
// The entity's lock guards it.
type outgoingState struct {
	deferred   []job // jobs that wait until the mail that directLoop has of the entity is delivered
	partsLeft  int   // of dispatched jobs: how many loops have still to deliver their share (loopPart)
	broadcasts int   // the jobs, deferred or dispatched, that are broadcasts
	bytes      int   // memory of all jobs that are deferred or dispatched
}

// jobsInFlight reports whether jobs are deferred or dispatched. While it is true, all that the
// entity sends is a job.
func (d *outgoingState) jobsInFlight() bool { return d.partsLeft > 0 || len(d.deferred) > 0 }

// An awaitedRequest is one [Stanza.Await] in flight: an iq whose handler waits for a worker. await.go has
// its methods. The entity's lock guards it.
type awaitedRequest struct {
	timer reactor.Timer // fires when the work takes too long
	l     *LoopRouter   // the loop that ran the handler; the timer and the field then run on it
	e     *Entity
	ev    *Stanza // a copy of the request
	st    *Stream // the client's stream, which is parked; nil: see pendingState.requests
	class reactor.Class
	work  func() error                        // runs on a worker, under no lock
	then  func(ev *Stanza, err error) Verdict // runs after work, under the entity's lock
	// kind, id and liveAtStart identify the entity that was asked: its address may have another at the end.
	kind        KindID // 0: there was no entity at the address
	id          uint64 // 0: nothing was stored of it
	liveAtStart any
	started     bool // the work was given to a worker
	timedOut    bool // the sender has its error; the answer of the field then is dropped

	rejected bool     // startQueued found the queue of the workers full, and has answered with an error
	profile  *Profile // of the module: it counts this as pending work, and is not unloaded before it ends
}

// A pendingAsk is one request of an entity or of a host that has no answer yet. ask.go has its methods. The
// entity's lock guards the fields below e; for a host hostAsks does.
type pendingAsk struct {
	timer reactor.Timer // fires when there is no answer; it runs on the loop of l
	l     *LoopRouter   // the loop on which Ask was called
	host  *Host         // of the asking entity, or the asking host
	e     *Entity       // nil: a host asks
	id    string        // of the iq
	to    jid.JID       // the address that was asked

	profile *Profile // of the module: it counts this as pending work, and is not unloaded before it ends
	ended   bool     // then was called, or is called now
	orphan  bool     // the entity was deleted: q is no longer on its list
	then    func(l *LoopRouter, e *Entity, answer *Stanza, err error)
}

// orphanAsks takes the requests off e, which was deleted: they no longer keep it in memory, and each ends
// at its timeout. Under the lock.
func orphanAsks(e *Entity) {
	if e.pending != nil {
		for _, q := range e.pending.asks {
			q.orphan = true
		}
		e.pending.asks = nil
	}
}

// A job is one thing that an entity sends while something of it is in flight already: one envelope, or a
// broadcast to recipients. recipients[i] has those that the loop with index i serves, in chunks of addresses;
// it never changes. With nil recipients env.to is the one recipient.
type job struct {
	env        envelope
	recipients [][]*chunk
}

// A residentSet is the stored state of a warm entity. The set itself is immutable, so that all accounts
// that have nothing stored share one. A part that is not nil belongs to one entity, and modules change it
// in place; for a part that is nil [Part.Mutable] makes a value, in a copy of the set.
type residentSet struct {
	profile *Profile // it has loaded the parts; the entity is cold if it is nil or no longer the host's
	parts   []any    // by part id: what Part.Get returns
	exists  bool     // there is an entity at the address
}

// evictedMark is the resident set of an entity that was removed from the [Table]. Code that finds
// it, under the entity's lock, must look the address up again.
var evictedMark = new(residentSet)

// An AnyEntity is an [*Entity] or an [*Account]. The methods of [Part] and [LoopRouter.Fanout] take either.
type AnyEntity interface{ entity() *Entity }

// An EntityRef names the entity that the loaders of a resident set read.
type EntityRef struct {
	JID jid.JID // a bare JID or a domain
	ID  uint64  // in the store
}

// JID returns the bare JID or the domain of e. Any goroutine.
func (e *Entity) JID() jid.JID { return e.addr }

// ID returns the id of e in the store, which is never used for another entity; 0 if nothing is
// stored. Under the lock.
func (e *Entity) ID() uint64 { return e.id }

// Ticket returns the last ticket that was taken for e. When it is settled without an error, the store
// has all changes of e; when it has failed, e is invalidated. Under the lock.
func (e *Entity) Ticket() Ticket { return e.ticket }

// Host returns the domain that e belongs to. Any goroutine.
func (e *Entity) Host() *Host { return e.host }

// Kind returns what e is; 0 if e is at a service host, and is not loaded or has nothing at its address. Under
// the lock.
func (e *Entity) Kind() KindID { return e.kind }

// entity implements [AnyEntity].
func (e *Entity) entity() *Entity { return e }

// account returns e as an [Account]; nil if it is of another kind. Entities of a host with logins are
// accounts, those of a service host never. Any goroutine: live of an account is set before other goroutines
// see it, and never changes.
func (e *Entity) account() *Account {
	if e.host.service {
		return nil
	}
	return e.live.(*Account)
}

// AccountOf returns e as an [Account]; nil if it is of another kind. Any goroutine.
func AccountOf(e *Entity) *Account { return e.account() }

// mailbox returns e in its role as a receiver of stanzas.
func (e *Entity) mailbox() mailbox { return mailbox{e} }

// sender returns e in its role as a sender of stanzas.
func (e *Entity) sender() sender { return sender{e} }

// lock takes the lock of e on the loop of l. It panics if the loop holds an entity lock already: two
// loops that each waited for the other's entity would deadlock. Only loops lock entities: a worker's
// result goes back to a loop. lockCheck and unlockCheck check the order of locks in builds with the tag
// invariants.
func (e *Entity) lock(l *LoopRouter) {
	if l.lockedEntity != nil {
		panic("session: a second entity lock on one loop")
	}
	lockCheck()
	e.mu.Lock()
	l.lockedEntity = e
}

// unlock releases the lock of e, which the loop of l holds.
func (e *Entity) unlock(l *LoopRouter) {
	l.lockedEntity = nil
	e.mu.Unlock()
	unlockCheck()
}

// warm reports whether the hooks of e may run: its resident set is in memory and was loaded by
// the profile that its host has now. A host always has a profile, so a set without one is cold. Under the
// lock.
func (e *Entity) warm() bool { return e.resident != nil && e.resident.profile == e.host.Profile() }

// exists reports whether there is an entity at e's address. It is valid while e is warm, and until the
// lock is released after invalidate. Under the lock.
func (e *Entity) exists() bool { return e.resident != nil && e.resident.exists }

// handler returns the [EntityHandler] of e's kind; nil if there is nothing at the address, or if
// no module of the host serves the kind. The host's profile may have changed since warm was asked; the
// handler is that of the new one, which reads the parts that it knows. Under the lock.
func (e *Entity) handler() *EntityHandler { return e.host.Profile().Hooks.entityHandler(e.kind) }

// ensurePending returns e.pending, and makes it if it is nil. Under the lock.
func (e *Entity) ensurePending() *pendingState {
	if e.pending == nil {
		e.pending = new(pendingState)
	}
	return e.pending
}

// releasePending sets e.pending to nil if nothing is pending, no timer is armed, and no request of the
// entity itself waits for its answer; pointers to it from before must not be used then. Under the lock.
func (e *Entity) releasePending() {
	if w := e.pending; w != nil && w.timerAt == 0 && len(w.asks) == 0 && w.empty() {
		e.pending = nil
	}
}

// liveState returns the live state of e, and makes an empty one if there is none. Not for
// accounts. Under the lock.
func (e *Entity) liveState() *liveState {
	v, ok := e.live.(*liveState)
	if !ok {
		v = new(liveState)
		e.live = v
	}
	return v
}

// invalidate drops the resident set of e, because memory and store differ: after a failed commit, or a panic
// halfway through a change. The next stanza loads it again. Only exists is kept, for code that runs under
// the lock before that. An entity that was never stored, and is not an account, keeps its set, as there is
// nothing to load: its kind has [EntityHandler.Failed] to repair it after a panic. Under the lock.
func (e *Entity) invalidate() {
	if e.resident != nil && e.resident != evictedMark && (e.id != 0 || e.kind == KindAccount) {
		e.resident = &residentSet{exists: e.resident.exists}
	}
}

// empty reports whether nothing waits for the entity and none of its jobs is in flight. The timer and the
// entity's own requests do not count.
func (w *pendingState) empty() bool {
	return w.inbox.empty() && !w.outgoing.jobsInFlight() && len(w.requests) == 0 && !w.draining
}

// A liveState is the state, in memory only, of an entity that is not an account. The entity's lock guards it.
type liveState struct {
	value any // what EntityHandler.New returned: see Live
	// creationTicket is the ticket of the batch that creates the entity, until that is durable; then 0. If that
	// batch fails, all batches that were given to the store for the entity after it count as failed too, even if
	// they were written.
	creationTicket Ticket
	placements     map[jid.JID]placement // of all addresses in recipients
	recipients     []*Recipients         // made by NewRecipients
	// recipients with a new loop, which takes effect when no job is in flight
	pendingMoves []jid.JID
}

// Live returns the live state of e as [EntityHandler.New] made it; nil if e has none, or one of
// another type. Under the lock.
func Live[T any](e *Entity) *T {
	if x, ok := e.live.(*liveState); ok {
		v, _ := x.value.(*T)
		return v
	}
	return nil
}

// creationTicketOf returns the ticket of the batch that creates e, until the batch is durable;
// then 0. Under the lock.
func creationTicketOf(e *Entity) Ticket {
	if v, ok := e.live.(*liveState); ok {
		return v.creationTicket
	}
	return 0
}

// An Account is the [Entity] at a bare JID of a host with logins. It is in the Table while it has a session,
// something pending, or a warm resident set. Methods need its lock and run on any loop, unless their comment
// says otherwise.
type Account struct {
	Entity
	sessions []*Session // connected and hibernating, in the order in which they were bound
}

// Resources returns the sessions of the account, in the order in which they were bound. The slice
// is the account's own: it is valid while the lock is held, and must not be changed.
func (a *Account) Resources() []*Session { return a.sessions }

// Resource returns the session with the full JID, nil if there is none.
func (a *Account) Resource(full jid.JID) *Session {
	for _, s := range a.sessions {
		if s.jid == full {
			return s
		}
	}
	return nil
}

// sessionIndex returns the index of s in the list, -1 if it was removed.
func (a *Account) sessionIndex(s *Session) int {
	for i := range a.sessions {
		if a.sessions[i] == s {
			return i
		}
	}
	return -1
}

// A sender is an [Entity] in its role as a sender: the methods in outgoing.go and route.go that keep what
// it sends in order. They need the entity's lock, unless their comment says otherwise.
type sender struct{ *Entity }
