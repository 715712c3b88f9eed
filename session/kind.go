package session

import (
	"canto/session/jid"
	"canto/xmlstream"
)

// A KindID is a sort of entity, by a name that the directory stores: "account", "room". It is the process's; what a
// kind does on the hosts of a profile is its [Behaviour].
type KindID uint8

// Accounts are the first kind, and the only one on hosts where users log in.
var Accounts = NewKind("account")

// NewKind makes a KindID, for a package variable. The name of one that exists gives that one. It panics beyond 255.
func NewKind(name string) KindID {
	names.Lock()
	defer names.Unlock()
	for i, n := range names.kinds {
		if n == name {
			return KindID(i + 1)
		}
	}
	if len(names.kinds) == 255 {
		panic("session: no kind left for " + name)
	}
	names.kinds = append(names.kinds, name)
	return KindID(len(names.kinds))
}

func (k KindID) String() string {
	names.Lock()
	defer names.Unlock()
	if k == 0 || int(k) > len(names.kinds) {
		return "nothing"
	}
	return names.kinds[k-1]
}

// kindNamed is the kind of that name; 0 if no module of this process has it.
func kindNamed(name string) KindID {
	names.Lock()
	defer names.Unlock()
	for i, n := range names.kinds {
		if n == name {
			return KindID(i + 1)
		}
	}
	return 0
}

// Chains are what runs for a stanza that has arrived at an entity of one kind, under its lock, by the target it
// has. Done means delivered.
type Chains struct {
	Message, Presence, IQ [numTargets]Chain[StanzaFunc]

	iq map[iqKey]iqHandler
}

type iqKey struct {
	target Target
	set    bool
	name   xmlstream.Name
}

type iqHandler struct {
	f      StanzaFunc
	module string
}

// OnIQ gives one payload to one handler. It panics on a name that is not Known and on a second handler for the
// same payload: two modules that both want it conflict, and must say so in their manifests. For an account's own
// session, ToSelf, ev.Session is set.
func (c *Chains) OnIQ(module string, set bool, name xmlstream.Name, f StanzaFunc, targets ...Target) {
	if !name.Known() {
		panic("session: OnIQ with a name that is not interned, by module " + module)
	}
	if c.iq == nil {
		c.iq = make(map[iqKey]iqHandler)
	}
	for _, t := range targets {
		k := iqKey{t, set, name}
		if other, taken := c.iq[k]; taken {
			panic("session: modules " + other.module + " and " + module + " both answer iq payload " +
				name.Local.String() + " " + name.Space.String())
		}
		c.iq[k] = iqHandler{f, module}
	}
}

// A Behaviour is what entities of one kind do on the hosts of a profile. A module fills it in Load, see
// [Hooks.Serve]; other modules add to its chains. All functions run under the entity's lock; those that are nil do
// nothing.
type Behaviour struct {
	Chains
	// New makes the live state of an entity that has become warm, or was created: see [Live]. It may call
	// [Entity.Arm] for what is stored and due later.
	New func(l *Local, e *Entity) any
	// Cold reports whether the live state may be dropped. An entity leaves memory a minute after its last stanza,
	// with its live state, if nothing waits for it.
	Cold func(e *Entity) bool
	// Failed is called after a panic in a chain of e, or in its Timer: what is stored is read again, and the live
	// state stays as it is unless Failed changes it.
	Failed func(l *Local, e *Entity)
	// Ended is called when e was deleted: see [Entity.Delete].
	Ended func(l *Local, e *Entity)
	// More says the next of what was offered to a session: see [Local.Offer].
	More func(l *Local, e *Entity, to jid.JID, what []byte)
	// Carry appends the live state of e, and Adopt reads it back in another kernel, with a version of its own: see
	// [Local.Carry]. Without them it is lost then.
	Carry func(e *Entity, dst []byte) []byte
	Adopt func(l *Local, e *Entity, b []byte) error
	// Timer is what [Entity.Arm] calls.
	Timer func(l *Local, e *Entity)
	// Weigh is about how many bytes the live state takes, for the metrics.
	Weigh func(e *Entity) int
	// Inbox is how much may wait for one entity; zero: 64 stanzas and 256 KiB.
	Inbox Bounds

	loaders []loader
}

// Bounds are how many stanzas may wait, and how many bytes.
type Bounds struct{ Count, Bytes int }

// Serve says what entities of kind k do on the hosts of the profile, and returns the Behaviour to be filled in,
// the same for all modules of the profile. In Load.
func (h *Hooks) Serve(k KindID) *Behaviour {
	if k == Accounts {
		panic("session: accounts are served by the kernel: their chains are Hooks.Chains")
	}
	for len(h.kinds) <= int(k) {
		h.kinds = append(h.kinds, nil)
	}
	if h.kinds[k] == nil {
		h.kinds[k] = new(Behaviour)
	}
	return h.kinds[k]
}

// behaviour is that of k; nil: no module of the profile has it.
func (h *Hooks) behaviour(k KindID) *Behaviour {
	if int(k) < len(h.kinds) {
		return h.kinds[k]
	}
	return nil
}

// chains are those of k; nil: no module of the profile has it.
func (h *Hooks) chains(k KindID) *Chains {
	if k == Accounts {
		return &h.Chains
	}
	if b := h.behaviour(k); b != nil {
		return &b.Chains
	}
	return nil
}

// Live is the live state of e, as New made it; nil if e has none of this type. Under the lock.
func Live[T any](e *Entity) *T {
	if x, ok := e.live.(*lived); ok {
		v, _ := x.v.(*T)
		return v
	}
	return nil
}

// Create makes an entity of kind k at the address of the Stanza, where there is nothing: in memory, until
// [Entity.Stored] says that it has an id in the store. In a hook of [Hooks.Make]; the stanza goes on through the
// new entity's chain.
func (ev *Stanza) Create(k KindID) *Entity {
	e := ev.at
	if e == nil || e.exists() {
		panic("session: Create where there is something, or outside of Hooks.Make")
	}
	e.become(ev.on, k)
	return e
}

// become makes e an entity of kind k, of which nothing is stored.
func (e *Entity) become(l *Local, k KindID) {
	e.resident = &resident{profile: e.host.Profile(), exists: true}
	e.kind, e.id = k, 0
	made := false
	defer func() {
		if !made { // a panic in Behaviour.New
			e.vanish()
		}
	}()
	e.renew(l)
	made = true
	l.router.Table.Born(e.addr)
}

// renew makes the live state of e, if it has none.
func (e *Entity) renew(l *Local) {
	if b := e.behaviour(); e.live == nil && e.kind != Accounts && b != nil && b.New != nil {
		v := e.lived()
		v.v = b.New(l, e)
	}
}

// Stored says that e, which was created in memory, is stored under id as soon as t is durable: t is the ticket of the
// batch that has its row in the directory. If t fails, what was committed for e behind t has failed too, e is read
// again, and there is nothing; undo, which may be nil, is then called on the loop of l under no lock, to erase what was
// written under id behind t. Under the lock, on the loop of l.
func (e *Entity) Stored(l *Local, id uint64, t Ticket, undo func()) {
	e.id = id
	e.lived().born = t
	e.Wrote(l, t)
	if undo == nil {
		return
	}
	l.commits.await(t, func(err error) {
		if err != nil {
			undo()
		}
	})
}

// born is the ticket of the batch that made e, for as long as e has been in memory since; else 0.
func bornOf(e *Entity) Ticket {
	if v, ok := e.live.(*lived); ok {
		return v.born
	}
	return 0
}

// Delete ends e: what comes from now on finds nothing at its address. The caller has taken its row out of the
// directory with t; erased, which may be nil, is called on the loop of l once t is durable, to erase its rows; if t
// fails e is read again. Under the lock, on the loop of l.
func (e *Entity) Delete(l *Local, t Ticket, erased func()) {
	e.ended(l)
	e.vanish()
	e.ticket = max(e.ticket, t)
	e.pins++
	l.commits.await(t, func(err error) {
		e.lock(l)
		e.pins--
		if err != nil && e.resident != goneMark && e.kind == 0 {
			e.resident = nil // it is there still: read it again
		}
		e.unlock(l)
		if err == nil && erased != nil {
			erased()
		}
	})
}

// ended calls Behaviour.Ended. A panic there keeps nothing from ending.
func (e *Entity) ended(l *Local) {
	if b := e.behaviour(); b != nil && b.Ended != nil {
		defer l.within(e)
		b.Ended(l, e)
	}
}

// vanish makes e an address where there is nothing.
func (e *Entity) vanish() {
	e.resident = &e.host.Profile().absent
	e.live, e.kind, e.id = nil, 0, 0
	if e.waits != nil {
		e.waits.timer = 0 // another entity at the address has its own
		e.calm()
	}
}

// absent answers a stanza to an address where there is nothing: an account that gives nothing away, or on a service
// host whatever the modules say.
func nothingAt(e *Entity, ev *Stanza) {
	if e.host.service {
		h := e.host.Profile().Hooks
		if Run(&h.Make, ev) == Done {
			return
		}
		if e.exists() { // a hook has created it
			arrive(ev.on, h, e.kind, ev)
			return
		}
	}
	ev.Absent()
}
