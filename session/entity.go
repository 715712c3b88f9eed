package session

import (
	"sync"

	"canto/reactor"
	"canto/session/jid"
)

// An Entity is a monitor: one lock and everything behind it. An account is one, and so is what a module brings: a
// room, a service at a domain. Its chains run under its lock, on whatever loop the stanza arrived on, and only
// while it is warm. A stanza for a cold entity waits in its inbox; one worker job reads what is stored, and the
// inbox is worked off in order.
//
// What an entity has in memory is of two kinds. The resident set, the parts that modules declare, is what is
// stored: it is dropped after a failure and read again. Its live state, see [Behaviour], is what is not stored:
// an account's sessions, a room's occupants.
type Entity struct {
	mu       sync.Mutex
	host     *Host
	addr     jid.JID      // a bare JID, or a domain; never changes
	id       uint64       // in the store, from the first load on; 0: nothing is stored
	live     any          // of its kind: a *lived; an account's is the *Account, from the start
	resident *resident    // nil: cold
	waits    *waits       // nil: nothing waits for it, and nothing of it is under way
	ticket   Ticket       // the last one taken: what is in memory may be newer than the store until then
	used     reactor.Tick // when it was last asked for: dropped by clock
	pins     int32        // commits, and work on workers, for which e stays in memory
	straight uint16       // the loop, and one, whose mail has letters of it: see departure.go; 0: none
	crowds   bool         // its last broadcast to more than sayInline met clients that do not take what they are sent
	kind     KindID       // of what is at addr; 0: not known, or nothing
}

// waits is what waits for an entity and what is under way from it.
type waits struct {
	inbox   inbox
	out     departures
	asked   []*await     // requests of entities elsewhere, one of each under way at a time
	timer   reactor.Tick // when Behaviour.Timer is due; 0: never
	wakes   reactor.Tick // the first tick at which a loop looks; 0: none
	running bool         // the inbox is being worked off, or will be: a load is under way
}

// resident is what is in memory of an entity that is warm. It never changes, only what its parts point to:
// entities of which nothing is stored share one.
type resident struct {
	profile *Profile // whose loaders read parts
	parts   []any    // by part id; what [Part.Of] gives
	exists  bool
}

// goneMark is the resident set of an entity that left the Table: what still has a pointer to it looks it up again.
var goneMark = new(resident)

// JID is the bare JID or domain. Any goroutine.
func (e *Entity) JID() jid.JID { return e.addr }

// ID is the id in the store, never given to another; zero where nothing is stored. Under the lock.
func (e *Entity) ID() uint64 { return e.id }

// Ticket is the last one that was taken for e: what is in memory is stored when it is settled. Under the lock.
func (e *Entity) Ticket() Ticket { return e.ticket }

// Host is the domain that e belongs to. Any goroutine.
func (e *Entity) Host() *Host { return e.host }

// Kind is what e is; 0 at an address of a service host where there is nothing. Under the lock.
func (e *Entity) Kind() KindID { return e.kind }

// entity makes an Account and an Entity alike for [Part].
func (e *Entity) entity() *Entity { return e }

// A Member is an *Entity or an *Account.
type Member interface{ entity() *Entity }

// account is e as an account; nil if it is of another kind. Any goroutine.
func (e *Entity) account() *Account {
	if e.host.service {
		return nil
	}
	return e.live.(*Account) // from the start, and for good
}

// lock takes the lock of e for l. Never two on one loop: what an entity tells another is mail.
func (e *Entity) lock(l *Local) {
	if l.held != nil {
		panic("session: a second entity lock on one loop")
	}
	lockCheck()
	e.mu.Lock()
	l.held = e
}

// release, deferred, gives the lock of e back, also after a panic, which goes on to the boundary around it: what is
// stored of e is read again then.
func (e *Entity) release(l *Local) {
	r := recover()
	if r != nil {
		e.spoilt(l)
	}
	e.unlock(l)
	if r != nil {
		panic(r)
	}
}

func (e *Entity) unlock(l *Local) {
	l.held = nil
	e.mu.Unlock()
	unlockCheck()
}

// warm reports whether the chains of e may run now.
func (e *Entity) warm() bool { return e.resident != nil && e.resident.profile == e.host.Profile() }

// exists reports whether there is something at e's address. Under the lock, while e is warm.
func (e *Entity) exists() bool { return e.resident != nil && e.resident.exists }

// behaviour is that of e's kind on its host; nil if there is nothing there, or no module for it.
func (e *Entity) behaviour() *Behaviour { return e.host.Profile().Hooks.behaviour(e.kind) }

// busy makes e.waits, if it is nil.
func (e *Entity) busy() *waits {
	if e.waits == nil {
		e.waits = new(waits)
	}
	return e.waits
}

// calm gives e.waits back if nothing is in it.
func (e *Entity) calm() {
	if w := e.waits; w != nil && w.timer == 0 && w.quiet() {
		e.waits = nil
	}
}

// idle reports whether e may leave memory as far as the kernel knows: nothing waits, nothing is under way, and
// what is in memory is stored.
func (e *Entity) idle(r *Router) bool {
	return e.waits == nil && e.straight == 0 && e.pins == 0 && e.ticket <= r.Durable.Durable() && e.resident != goneMark
}

// cold reports whether the live state of e may be dropped.
func (e *Entity) cold(l *Local) (cold bool) {
	if a := e.account(); a != nil {
		return len(a.sessions) == 0
	}
	b := e.behaviour()
	if b == nil || b.Cold == nil || e.live == nil {
		return true
	}
	defer l.within(e)
	return b.Cold(e)
}

// unlike makes e cold, as what is in memory is not what is stored.
func (e *Entity) unlike() {
	if e.resident != nil && e.resident != goneMark && (e.id != 0 || e.kind == Accounts) {
		e.resident = &resident{exists: e.resident.exists}
	}
}

// Wrote remembers that e's memory is newer than the store until t is settled, for a change that no stanza asked
// for. If t fails e is read again. Under the lock, on the loop of l.
func (e *Entity) Wrote(l *Local, t Ticket) {
	e.ticket = max(e.ticket, t)
	if t <= l.router.Durable.Durable() && l.router.Durable.Err(t) == nil {
		return
	}
	l.commits.add(wait{ticket: t, at: e})
}

// Arm has [Behaviour.Timer] called at that tick, under the lock; 0: never. There is one timer: a second call
// replaces the first. An armed entity stays in memory. Under the lock, on the loop of l.
func (e *Entity) Arm(l *Local, at reactor.Tick) {
	if at == 0 {
		if e.waits != nil {
			e.waits.timer = 0
			e.calm()
		}
		return
	}
	w := e.busy()
	w.timer = at
	if w.wakes != 0 && w.wakes <= at {
		return // it will look again then
	}
	w.wakes = at
	l.After(at-l.Loop.Tick(), func() {
		e.lock(l)
		defer e.release(l)
		due(e, l, at)
	})
}

// due is called at the tick at, for which e was armed once. Under the lock.
func due(e *Entity, l *Local, at reactor.Tick) {
	w := e.waits
	if w == nil || w.wakes != at || e.resident == goneMark {
		return // it was armed for an earlier one, or is gone
	}
	w.wakes = 0
	switch {
	case w.timer == 0:
		e.calm()
		return
	case w.timer > l.Loop.Tick():
		e.Arm(l, w.timer) // it was armed again
		return
	}
	w.timer = 0
	run := func(l *Local, e *Entity, err error) {
		b := e.behaviour()
		switch {
		case err != nil:
			e.Arm(l, l.Loop.Tick()+timerAgain)
		case e.exists() && b != nil && b.Timer != nil:
			b.Timer(l, e)
		}
	}
	if e.warm() && !w.running && w.inbox.empty() {
		run(l, e, nil) // which keeps it in memory no longer
		e.calm()
		return
	}
	e.mailbox().call(l, run)
}

// timerAgain is how much later the timer of an entity is due that could not be read, in ticks.
const timerAgain = 100

// A Who names an entity to the loaders of its resident set.
type Who struct {
	JID jid.JID // bare, or a domain
	ID  uint64  // in the store
}

// mailbox is e as what takes stanzas in.
func (e *Entity) mailbox() mailbox { return mailbox{e} }

// speaker is e as what says something.
func (e *Entity) speaker() speaker { return speaker{e} }
