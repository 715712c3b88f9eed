package session

import (
	"sync"

	"canto/reactor"
	"canto/session/jid"
)

// An Entity is a monitor: one lock and everything behind it. An account is one, and so is what a module
// brings: a room, a service at a domain. Its chains run under its lock, on whatever loop the stanza
// arrived on, and only while it is warm. A stanza for a cold entity waits in its inbox; one worker job
// reads what is stored, and the inbox is worked off in order.
//
// What an entity has in memory is of two kinds. The resident set, the parts that modules declare, is what
// is stored: it is dropped after a failure and read again. Its live state, see [EntityHandler], is what is
// not stored: an account's sessions, a room's occupants.
type Entity struct {
	mu         sync.Mutex
	host       *Host
	addr       jid.JID       // a bare JID, or a domain; never changes
	id         uint64        // in the store, from the first load on; 0: nothing is stored
	live       any           // of its kind: a *lived; an account's is the *Account, from the start
	resident   *residentSet  // nil: cold
	pending    *pendingState // nil: nothing waits for it, and nothing of it is under way
	ticket     Ticket        // the last one taken: what is in memory may be newer than the store until then
	lastUsed   reactor.Tick  // when it was last asked for: dropped by clock
	pins       int32         // commits, and work on workers, for which e stays in memory
	directLoop uint16        // the loop, and one, whose mail has letters of it: see outgoing.go; 0: none
	// its last broadcast to more than inlineRecipients met clients that do not take what they are sent
	congestedFanout bool
	kind            KindID // of what is at addr; 0: not known, or nothing
}

// pendingState is what waits for an entity and what is under way from it.
type pendingState struct {
	inbox    inbox
	outgoing outgoingState
	requests []*awaitedRequest // requests of entities elsewhere, one of each under way at a time
	timerAt  reactor.Tick      // when Behaviour.Timer is due; 0: never
	wakeAt   reactor.Tick      // the first tick at which a loop looks; 0: none
	draining bool              // the inbox is being worked off, or will be: a load is under way
}

// outgoingState is what is under way from one entity. Under its lock.
type outgoingState struct {
	deferred  []job // that wait until what was said straight is delivered
	partsLeft int   // parts that loops have not delivered
	jobs      int   // broadcasts in queue, or with parts left
	bytes     int   // of all that is in queue, or with parts left
}

// dispatching reports whether receivers belong to their loops now.
func (d *outgoingState) dispatching() bool { return d.partsLeft > 0 || len(d.deferred) > 0 }

// An awaitedRequest is one [Stanza.Await].
type awaitedRequest struct {
	timer       reactor.Timer
	l           *LoopRouter
	e           *Entity
	ev          *Stanza // kept
	st          *Stream // that takes nothing meanwhile; nil: the request is from elsewhere
	class       reactor.Class
	work        func() error
	then        func(ev *Stanza, err error) Verdict
	kind        KindID // e's; 0: there is no entity at the address
	id          uint64 // e's; 0: nothing was stored of it
	liveAtStart any    // what e had live
	started     bool
	timedOut    bool // its time is over

	rejected bool     // there was no room for its work
	profile  *Profile // whose module has called: it is not unloaded before the end
}

// A job is something that an entity said: one letter, or a broadcast.
type job struct {
	env        envelope
	recipients [][]*chunk // by loop, never changed; nil: the letter's own address
}

// residentSet is what is in memory of an entity that is warm. It never changes, only what its parts point to:
// entities of which nothing is stored share one.
type residentSet struct {
	profile *Profile // whose loaders read parts
	parts   []any    // by part id; what [Part.Get] gives
	exists  bool
}

// evictedMark is the resident set of an entity that left the Table: what still has a pointer to it looks it
// up again.
var evictedMark = new(residentSet)

// An AnyEntity is an *Entity or an *Account.
type AnyEntity interface{ entity() *Entity }

// An EntityRef names an entity to the loaders of its resident set.
type EntityRef struct {
	JID jid.JID // bare, or a domain
	ID  uint64  // in the store
}

// JID is the bare JID or domain. Any goroutine.
func (e *Entity) JID() jid.JID { return e.addr }

// ID is the id in the store, never given to another; zero where nothing is stored. Under the lock.
func (e *Entity) ID() uint64 { return e.id }

// Ticket is the last one that was taken for e: what is in memory is stored when it is settled. Under the
// lock.
func (e *Entity) Ticket() Ticket { return e.ticket }

// Host is the domain that e belongs to. Any goroutine.
func (e *Entity) Host() *Host { return e.host }

// Kind is what e is; 0 at an address of a service host where there is nothing. Under the lock.
func (e *Entity) Kind() KindID { return e.kind }

// entity makes an Account and an Entity alike for [Part].
func (e *Entity) entity() *Entity { return e }

// account is e as an account; nil if it is of another kind. Any goroutine.
func (e *Entity) account() *Account {
	if e.host.service {
		return nil
	}
	return e.live.(*Account) // from the start, and for good
}

// mailbox is e as what takes stanzas in.
func (e *Entity) mailbox() mailbox { return mailbox{e} }

// sender is e as what says something.
func (e *Entity) sender() sender { return sender{e} }

// lock takes the lock of e for l. Never two on one loop: what an entity tells another is mail.
func (e *Entity) lock(l *LoopRouter) {
	if l.lockedEntity != nil {
		panic("session: a second entity lock on one loop")
	}
	lockCheck()
	e.mu.Lock()
	l.lockedEntity = e
}

func (e *Entity) unlock(l *LoopRouter) {
	l.lockedEntity = nil
	e.mu.Unlock()
	unlockCheck()
}

// warm reports whether the chains of e may run now.
func (e *Entity) warm() bool { return e.resident != nil && e.resident.profile == e.host.Profile() }

// exists reports whether there is something at e's address. Under the lock, while e is warm.
func (e *Entity) exists() bool { return e.resident != nil && e.resident.exists }

// handler is that of e's kind on its host; nil if there is nothing there, or no module for it.
func (e *Entity) handler() *EntityHandler { return e.host.Profile().Hooks.entityHandler(e.kind) }

// ensurePending makes e.waits, if it is nil.
func (e *Entity) ensurePending() *pendingState {
	if e.pending == nil {
		e.pending = new(pendingState)
	}
	return e.pending
}

// releasePending gives e.waits back if nothing is in it.
func (e *Entity) releasePending() {
	if w := e.pending; w != nil && w.timerAt == 0 && w.empty() {
		e.pending = nil
	}
}

// liveState is where e's live state is, made if there is none.
func (e *Entity) liveState() *liveState {
	v, ok := e.live.(*liveState)
	if !ok {
		v = new(liveState)
		e.live = v
	}
	return v
}

// invalidate makes e cold, as what is in memory is not what is stored.
func (e *Entity) invalidate() {
	if e.resident != nil && e.resident != evictedMark && (e.id != 0 || e.kind == KindAccount) {
		e.resident = &residentSet{exists: e.resident.exists}
	}
}

// empty reports whether nothing waits, and nothing is spread.
func (w *pendingState) empty() bool {
	return w.inbox.empty() && !w.outgoing.dispatching() && len(w.requests) == 0 && !w.draining
}

// liveState is the live state of an entity that is no account.
type liveState struct {
	value          any
	creationTicket Ticket // of the batch that made the entity, until that is durable
	placements     map[jid.JID]placement
	recipients     []*Recipients
	pendingMoves   []jid.JID // whose place is to change once nothing of the entity is spread
}

// Live is the live state of e, as New made it; nil if e has none of this type. Under the lock.
func Live[T any](e *Entity) *T {
	if x, ok := e.live.(*liveState); ok {
		v, _ := x.value.(*T)
		return v
	}
	return nil
}

// creationTicketOf is the ticket of the batch that made e, until that is durable; then 0.
func creationTicketOf(e *Entity) Ticket {
	if v, ok := e.live.(*liveState); ok {
		return v.creationTicket
	}
	return 0
}

// An Account is the entity behind a bare JID of ours. It is in the Table while it has a session, an
// inbox or a warm resident set. All methods: under the lock.
type Account struct {
	Entity
	sessions []*Session // connected and resting
}

// Resources are the account's sessions, in the order they were bound. Good while the lock is held;
// not to be changed.
func (a *Account) Resources() []*Session { return a.sessions }

// Resource is the session with this full JID, nil if there is none.
func (a *Account) Resource(full jid.JID) *Session {
	for _, s := range a.sessions {
		if s.jid == full {
			return s
		}
	}
	return nil
}

func (a *Account) sessionIndex(s *Session) int {
	for i := range a.sessions {
		if a.sessions[i] == s {
			return i
		}
	}
	return -1
}

// A sender is an Entity as what says something: what is under way from it. Under the lock, unless a line
// says otherwise.
type sender struct{ *Entity }
