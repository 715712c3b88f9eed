package session

import (
	"sync"

	"canto/reactor"
	"canto/session/jid"
)

// An Entity is what is at an address of ours: an account at a bare JID, or what a module serves, such as
// a room or a service at a domain. It is a monitor: its mutex guards all its state, but for the host and
// the address, which never change. The hooks of a stanza run under that mutex, on the loop that routes the
// stanza. A loop holds one entity lock at most; what a hook sends to another entity is mail, which is
// routed after the unlock (outgoing.go).
//
// An entity has two kinds of state in memory. The resident set is what the store has, in parts that modules
// declare ([Part]): it is invalidated after a failure, and loaded again. The live state is what is in memory
// only: the sessions of an account, the occupants of a room (see [EntityHandler.New]).
//
// An entity is warm while it has a current resident set, else it is cold. Stanzas for a cold entity wait in
// its inbox until a worker has loaded the set (mailbox.go). An idle entity is evicted (evict.go).
type Entity struct {
	mu   sync.Mutex
	host *Host
	addr jid.JID // a bare JID or a domain
	// id in the store. It is set by the first load; 0: nothing is stored of the entity.
	id uint64
	// live is a *liveState or nil; of an account it is the *Account itself, from its creation on.
	live     any
	resident *residentSet  // nil: cold; evictedMark: no longer in the Table
	pending  *pendingState // nil while nothing is pending or in flight
	// ticket is the last one that was taken for the entity. Until it is settled the resident set may be newer
	// than the store, so that the entity is not evicted, and a load waits for it.
	ticket   Ticket
	lastUsed reactor.Tick // last access, for idle eviction
	pins     int32        // commits and works in flight that keep the entity in memory
	// directLoop is the loop number (index + 1) of the one loop that has envelopes of the entity in its
	// mail queue; 0: none. See outgoing.go.
	directLoop uint16
	// congestedFanout is set if the last fan-out to more than inlineRecipients met a congested client.
	congestedFanout bool
	kind            KindID // 0: not loaded yet, or there is nothing at the address
}

// A pendingState is the part of an [Entity] that exists only while something waits for it or is in flight
// from it, which is seldom: so an idle entity is small. The entity's lock guards it.
type pendingState struct {
	inbox    inbox             // stanzas and calls that wait for the entity
	outgoing outgoingState     // what the entity has sent and what is not delivered yet
	requests []*awaitedRequest // Stanza.Await of senders elsewhere; one of each sender runs at a time
	timerAt  reactor.Tick      // when EntityHandler.Timer is due; 0: the timer is not armed
	wakeAt   reactor.Tick      // when the loop's timer for it fires: at timerAt or before; 0: none is set
	draining bool              // a load is in flight, or a loop drains the inbox or is about to
}

// An outgoingState counts what an entity has sent and what loops have not delivered yet: see outgoing.go.
// The entity's lock guards it.
type outgoingState struct {
	deferred  []job // jobs that wait until the direct mail of the entity is delivered
	partsLeft int   // parts of dispatched jobs that are with loops
	jobs      int   // broadcasts that are deferred or dispatched
	bytes     int   // memory of all jobs that are deferred or dispatched
}

// dispatching reports whether jobs are deferred or dispatched. While it is true, all that the
// entity sends is a job.
func (d *outgoingState) dispatching() bool { return d.partsLeft > 0 || len(d.deferred) > 0 }

// An awaitedRequest is one [Stanza.Await] in flight: an iq whose handler waits for a worker. await.go has
// its methods. The entity's lock guards it; l runs it.
type awaitedRequest struct {
	timer reactor.Timer // fires when the work takes too long
	l     *LoopRouter   // the loop that ran the handler and runs then
	e     *Entity
	ev    *Stanza // a copy of the request
	st    *Stream // the client's stream, which is parked; nil: the sender is elsewhere
	class reactor.Class
	work  func() error // runs on a worker, under no lock
	then  func(ev *Stanza, err error) Verdict
	// kind, id and liveAtStart identify the entity that was asked: its address may have another at the end.
	kind        KindID // 0: there was no entity at the address
	id          uint64 // 0: nothing was stored of it
	liveAtStart any
	started     bool // the work was given to a worker
	timedOut    bool // the sender has its error; what then answers is dropped

	rejected bool     // the queue of the workers had no room
	profile  *Profile // of the module: counted as pending work, so that it is not unloaded
}

// A job is one thing that an entity sends while something of it is in flight already: one envelope, or a
// broadcast to recipients. The recipients are grouped by loop and never change. With nil recipients env.to
// is the one recipient.
type job struct {
	env        envelope
	recipients [][]*chunk
}

// A residentSet is the state of a warm entity that the store has. It is immutable, so that all entities of
// which nothing is stored share one; modules change what a part points to, after [Part.Mutable].
type residentSet struct {
	profile *Profile // that loaded the parts; if the host has another by now the entity is cold
	parts   []any    // by part id: what Part.Get returns
	exists  bool     // there is an entity at the address
}

// evictedMark is the resident set of an entity that was removed from the [Table]. Code that finds
// it, under the entity's lock, must look the address up again.
var evictedMark = new(residentSet)

// An AnyEntity is an [*Entity] or an [*Account]. The methods of [Part] and [LoopRouter.Fanout] take either.
type AnyEntity interface{ entity() *Entity }

// An EntityRef tells the loaders of a resident set which entity to read.
type EntityRef struct {
	JID jid.JID // a bare JID or a domain
	ID  uint64  // in the store
}

// JID returns the bare JID or the domain of e. Any goroutine.
func (e *Entity) JID() jid.JID { return e.addr }

// ID returns the id of e in the store, which is never used for another entity; 0 if nothing is
// stored. Under the lock.
func (e *Entity) ID() uint64 { return e.id }

// Ticket returns the last ticket that was taken for e. When it is settled the store has what is
// in memory. Under the lock.
func (e *Entity) Ticket() Ticket { return e.ticket }

// Host returns the domain that e belongs to. Any goroutine.
func (e *Entity) Host() *Host { return e.host }

// Kind returns what e is; 0 at an address of a service host with nothing. Under the lock.
func (e *Entity) Kind() KindID { return e.kind }

// entity implements [AnyEntity].
func (e *Entity) entity() *Entity { return e }

// account returns e as an [Account], nil if it is of another kind. Entities of a host with logins
// are accounts, those of a service host never. Any goroutine.
func (e *Entity) account() *Account {
	if e.host.service {
		return nil
	}
	return e.live.(*Account)
}

// mailbox returns e in its role as a receiver of stanzas.
func (e *Entity) mailbox() mailbox { return mailbox{e} }

// sender returns e in its role as a sender of stanzas.
func (e *Entity) sender() sender { return sender{e} }

// lock takes the lock of e on the loop of l. It panics if the loop holds an entity lock already:
// two loops that each waited for the other's entity would deadlock.
func (e *Entity) lock(l *LoopRouter) {
	if l.lockedEntity != nil {
		panic("session: a second entity lock on one loop")
	}
	lockCheck()
	e.mu.Lock()
	l.lockedEntity = e
}

// unlock gives back the lock of e, which the loop of l holds.
func (e *Entity) unlock(l *LoopRouter) {
	l.lockedEntity = nil
	e.mu.Unlock()
	unlockCheck()
}

// warm reports whether the hooks of e may run: its resident set is in memory and was loaded by
// the modules that its host has now. Under the lock.
func (e *Entity) warm() bool { return e.resident != nil && e.resident.profile == e.host.Profile() }

// exists reports whether there is an entity at e's address. Only valid while e is warm. Under the
// lock.
func (e *Entity) exists() bool { return e.resident != nil && e.resident.exists }

// handler returns the [EntityHandler] of e's kind; nil if there is nothing at the address, or if
// no module of the host serves the kind. Under the lock.
func (e *Entity) handler() *EntityHandler { return e.host.Profile().Hooks.entityHandler(e.kind) }

// ensurePending returns e.pending, and makes it if it is nil. Under the lock.
func (e *Entity) ensurePending() *pendingState {
	if e.pending == nil {
		e.pending = new(pendingState)
	}
	return e.pending
}

// releasePending frees e.pending if nothing is pending and no timer is armed. Under the lock.
func (e *Entity) releasePending() {
	if w := e.pending; w != nil && w.timerAt == 0 && w.empty() {
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

// invalidate drops the resident set of e, because memory and store differ: after a failed commit,
// or a panic halfway through a change. The next stanza loads it again. An entity that was never
// stored keeps its set, as there is nothing to load. Under the lock.
func (e *Entity) invalidate() {
	if e.resident != nil && e.resident != evictedMark && (e.id != 0 || e.kind == KindAccount) {
		e.resident = &residentSet{exists: e.resident.exists}
	}
}

// empty reports whether nothing waits for the entity and none of its jobs is in flight. The timer
// does not count.
func (w *pendingState) empty() bool {
	return w.inbox.empty() && !w.outgoing.dispatching() && len(w.requests) == 0 && !w.draining
}

// A liveState is what an entity that is no account has in memory only. The entity's lock guards it.
type liveState struct {
	value any // what EntityHandler.New returned: see Live
	// creationTicket is that of the batch that creates the entity, until the batch is durable; then 0. If it
	// fails, everything that was committed for the entity after it has failed too.
	creationTicket Ticket
	placements     map[jid.JID]placement // of all addresses in recipients
	recipients     []*Recipients         // made by NewRecipients
	pendingMoves   []jid.JID             // recipients that change their loop when no job is in flight
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
// something pending, or a warm resident set. All methods need its lock, and most run on any loop.
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
