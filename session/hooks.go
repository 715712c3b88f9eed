package session

import (
	"log/slog"
	"reflect"
	"slices"
	"sort"
	"sync/atomic"

	"canto/session/jid"
	"canto/xmlstream"
)

// A Phase says when, among the hooks of one Chain, a hook is asked. What must come first has a name
// here instead of a larger number in some module.
type Phase uint8

// The phases, in order.
const (
	Guard    Phase = iota // may it pass? blocking, limits, permissions
	Rewrite               // what should it say? stanza ids, stripped payloads
	Archive               // keep it: MAM. Its id is drawn under the lock that delivery holds
	Copy                  // who else gets it? carbons, push
	Deliver               // hand it over
	Fallback              // it was not taken: offline storage, errors
	// what became of it is known, and is written down: see [Stanza.Outcome] and [Stanza.Batch]
	Record
)

type hook[F any] struct {
	f      F
	phase  Phase
	module string
}

// A Chain is an ordered list of hooks of one type. Modules add to it in Load; it is fixed from then
// on, so running it takes no lock of its own. Hooks never wait.
type Chain[F any] struct{ hooks, recordHooks []hook[F] }

// Add puts f among the hooks of its phase, in load order. Those of phase Record are asked whatever the
// others said, and what they say makes no difference.
func (c *Chain[F]) Add(module string, ph Phase, f F) {
	if ph == Record {
		c.recordHooks = append(c.recordHooks, hook[F]{f, ph, module})
		return
	}
	c.hooks = append(c.hooks, hook[F]{f, ph, module})
	sort.SliceStable(c.hooks, func(i, j int) bool { return c.hooks[i].phase < c.hooks[j].phase })
}

// StanzaFunc is the type of most hooks.
type StanzaFunc func(ev *Stanza) Verdict

// SessionFunc runs under the account's lock.
type SessionFunc func(l *LoopRouter, s *Session)

// An OutgoingFunc is asked about each element that a session is sent, under the outbox lock: Done, and p goes
// no further, as it was dropped, or kept by [Outbox.Defer]; Pass, and it leaves behind what o was given
// meanwhile. It may not route, send or lock, and p is good until it returns. What it is told of, a
// delivery of a [Source] included, allocates nothing.
type OutgoingFunc func(o Outbox, p OutboundStanza) Verdict

// An UnsentFunc is given what a session that ends had not sent, in order, and what hooks had held back,
// without what other sessions of the account have. It returns what it has not taken over: that is routed
// again, presence excepted. The account's resident set is in memory. Under the account's lock, before the
// Unbound hooks.
type UnsentFunc func(l *LoopRouter, s *Session, list []OutboundStanza) (left []OutboundStanza)

// Run asks each of c until one is Done.
func Run(c *Chain[StanzaFunc], ev *Stanza) Verdict {
	for i := range c.hooks {
		if c.hooks[i].f(ev) == Done {
			return Done
		}
	}
	return Pass
}

// runPhases asks the links of c whose phase is in [from, to).
func runPhases(c *Chain[StanzaFunc], ev *Stanza, from, to Phase) Verdict {
	for i := range c.hooks {
		if p := c.hooks[i].phase; p < from || p >= to {
			continue
		}
		if c.hooks[i].f(ev) == Done {
			return Done
		}
	}
	return Pass
}

func runSessions(c *Chain[SessionFunc], l *LoopRouter, s *Session) {
	for i := range c.hooks {
		c.hooks[i].f(l, s)
	}
}

// Hooks are all the places where a module can take part: one field, one place. One Hooks serves all
// hosts of a Profile.
type Hooks struct {
	// Features are what streams may negotiate, in the order offered.
	Features []StreamFeature
	// Pre chains run for a stanza that a local client sent, before it is routed, under the sender's
	// lock, by the target it has. Done drops it.
	PreMessage, PrePresence, PreIQ [numTargets]Chain[StanzaFunc]
	// Chains are those of accounts, and for ToHost those of the host itself, which run under no lock.
	Chains
	// Absent runs for an iq to an address of ours without an account, and for one to an account that hides
	// from the sender: what is answered there with something else than service-unavailable. There is no
	// account to look at.
	Absent Chain[StanzaFunc]
	// Blocked are asked, under the account's lock, before something that was kept is handed to one of its
	// clients: whether the account takes nothing from that address (XEP-0191). A live stanza is refused by the
	// Guard phase of its chain.
	Blocked []func(a *Account, from jid.JID) bool
	// Outgoing is asked about each element that is sent to a session, under the outbox lock.
	Outgoing Chain[OutgoingFunc]
	// Bound and Unbound: a session gets or loses its resource. Available: its first presence with a
	// non-negative priority. Rested and Resumed: it lost its wire, or has another.
	Bound, Unbound, Available, Hibernated, Resumed Chain[SessionFunc]
	// Unsent is given what a session that ends had not sent.
	Unsent Chain[UnsentFunc]
	// Hibernate is asked when a session loses its wire and its client has not logged out: Done keeps it,
	// resting, until the module ends it. session.txt says after which endings it is asked.
	Hibernate Chain[func(l *LoopRouter, s *Session) Verdict]
	// Remote runs from the mail, under no lock, for a stanza to a domain that is not ours: Done if
	// a module takes it there.
	Remote Chain[StanzaFunc]
	// Settled is called on the loop of a tracked stream when more of its stanzas are settled: all up to that
	// number; of those that are new, so many could not be stored, and were answered with an error. Under no
	// lock.
	Settled Chain[func(st *Stream, number uint32, failed int)]
	// Make runs for a stanza to an address of a service host where there is nothing, under the lock of what may
	// come to be there: a hook may call [Stanza.Create].
	Make Chain[StanzaFunc]
	// Deleted says who is to be told that an account was deleted, and what: tell is called with a bare JID
	// and a stanza from the account's. It runs under the lock of an account that is in no table and has what
	// is stored: whether or not the account was in memory, and again after a crash.
	Deleted Chain[func(l *LoopRouter, a *Account, tell func(to jid.JID, el []byte))]

	handlers  []*EntityHandler // by KindID
	everyKind Chains           // of iqs that every kind answers
}

// BecameAvailable runs the Available hooks: s has its first presence with a non-negative priority.
// Under the lock.
func (l *LoopRouter) BecameAvailable(s *Session) {
	runSessions(&s.account.host.Profile().Hooks.Available, l, s)
}

// A KindID is a sort of entity, by a name that the directory stores: "account", "room". It is the
// process's; what a kind does on the hosts of a profile is its [EntityHandler].
type KindID uint8

// KindAccount are the first kind, and the only one on hosts where users log in.
var KindAccount = NewKind("account")

// NewKind makes a KindID, for a package variable. The name of one that exists gives that one. It panics
// beyond 255.
func NewKind(name string) KindID {
	registry.Lock()
	defer registry.Unlock()
	for i, n := range registry.kinds {
		if n == name {
			return KindID(i + 1)
		}
	}
	if len(registry.kinds) == 255 {
		panic("session: no kind left for " + name)
	}
	registry.kinds = append(registry.kinds, name)
	return KindID(len(registry.kinds))
}

func (k KindID) String() string {
	registry.Lock()
	defer registry.Unlock()
	if k == 0 || int(k) > len(registry.kinds) {
		return "nothing"
	}
	return registry.kinds[k-1]
}

// kindByName is the kind of that name; 0 if no module of this process has it.
func kindByName(name string) KindID {
	registry.Lock()
	defer registry.Unlock()
	for i, n := range registry.kinds {
		if n == name {
			return KindID(i + 1)
		}
	}
	return 0
}

// Chains are what runs for a stanza that has arrived at an entity of one kind, under its lock, by the
// target it has. Done means delivered.
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

// OnIQ gives one payload to one handler. It panics on a name that is not Known and on a second handler
// for the same payload: two modules that both want it conflict, and must say so in their manifests. For
// an account's own session, ToSelf, ev.Session is set.
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

// OnEveryIQ gives one payload to one handler for entities of every kind but accounts, where the kind
// itself has none. For ToHost it answers at the domain of a service host also where no module has made an
// entity: Kind is 0 then. Under the entity's lock.
func (h *Hooks) OnEveryIQ(module string, set bool, name xmlstream.Name, f StanzaFunc, targets ...Target) {
	h.everyKind.OnIQ(module, set, name, f, targets...)
}

// An EntityHandler is what entities of one kind do on the hosts of a profile. A module fills it in Load, see
// [Hooks.Serve]; other modules add to its chains. All functions run under the entity's lock; those that
// are nil do nothing.
type EntityHandler struct {
	Chains
	// New makes the live state of an entity that has become warm, or was created: see [Live]. It may call
	// [Entity.Arm] for what is stored and due later.
	New func(l *LoopRouter, e *Entity) any
	// Cold reports whether the live state may be dropped. An entity leaves memory a minute after its last
	// stanza, with its live state, if nothing waits for it.
	Cold func(e *Entity) bool
	// Failed is called after a panic in a chain of e, or in its Timer: what is stored is read again, and the
	// live state stays as it is unless Failed changes it.
	Failed func(l *LoopRouter, e *Entity)
	// Ended is called when e ends: it was deleted, see [Entity.Delete], or its host is not served any more.
	Ended func(l *LoopRouter, e *Entity)
	// More says the next of what was offered to a session: see [LoopRouter.MoreWhenDrained].
	More func(l *LoopRouter, e *Entity, to jid.JID, what []byte)
	// MarshalLive appends the live state of e, and Adopt reads it back in another kernel, with a version of its
	// own: see [LoopRouter.MarshalEntities]. Without them it is lost then.
	MarshalLive func(e *Entity, dst []byte) []byte
	RestoreLive func(l *LoopRouter, e *Entity, b []byte) error
	// Timer is what [Entity.Arm] calls.
	Timer func(l *LoopRouter, e *Entity)
	// Footprint is about how many bytes the live state takes, for the metrics.
	Footprint func(e *Entity) int
	// Inbox is how much may wait for one entity; zero: 64 stanzas and 256 KiB.
	Inbox Bounds

	loaders []loader
}

// Bounds are how many stanzas may wait, and how many bytes.
type Bounds struct{ Count, Bytes int }

type loader struct {
	part   uint16
	module string
	load   func(from any, who EntityRef) (v any, none bool, err error) // none: v is a nil pointer
}

// Serve says what entities of kind k do on the hosts of the profile, and returns the Behaviour to be
// filled in, the same for all modules of the profile. In Load.
func (h *Hooks) Serve(k KindID) *EntityHandler {
	if k == KindAccount {
		panic("session: accounts are served by the kernel: their chains are Hooks.Chains")
	}
	for len(h.handlers) <= int(k) {
		h.handlers = append(h.handlers, nil)
	}
	if h.handlers[k] == nil {
		h.handlers[k] = new(EntityHandler)
	}
	return h.handlers[k]
}

// entityHandler is that of k; nil: no module of the profile has it.
func (h *Hooks) entityHandler(k KindID) *EntityHandler {
	if int(k) < len(h.handlers) {
		return h.handlers[k]
	}
	return nil
}

// chains are those of k; nil: no module of the profile has it.
func (h *Hooks) chains(k KindID) *Chains {
	if k == KindAccount {
		return &h.Chains
	}
	if b := h.entityHandler(k); b != nil {
		return &b.Chains
	}
	return nil
}

// A StreamFeature is one child of <stream:features/> (RFC 6120 §4.3.2): on which streams it is
// offered, how it is written there, and what the peer's answer does. On the stream's loop, under no
// lock.
type StreamFeature struct {
	Name           xmlstream.Name   // of the element that begins it
	Continuations  []xmlstream.Name // of elements that go on with it
	IQ             bool             // Name is the payload of an iq of type set, sent before there is a session
	Needs, Forbids Traits
	// beside the traits: whether it is offered now, and so accepted. nil: yes
	Available func(st Negotiation) bool
	Offer     func(st Negotiation, a *xmlstream.Appender)
	Handle    func(st Negotiation, e xmlstream.Element)
}

// A Feature is a capability that the kernel or a loaded module has. Modules name features in their
// manifests: a module that requires one loads after the module that provides it.
type Feature string

// A Manifest is all that can be known of a module without making one. The loader reads manifests
// first; a module that can't run here is never made, and the next candidate of the same name is
// looked at instead.
type Manifest struct {
	Name    string // what the configuration calls it: "ping"
	Spec    string // "XEP-0199 2.0.1", "RFC 6121 section 2"
	Summary string // one line for `canto modules`
	Cases   string // which of the specification's cases are covered, and what is left out

	Provides, Requires, Conflicts []Feature

	// Options returns a new pointer to the defaults of the options that Load decodes; nil: the module has none.
	Options func() any
	// Off keeps it out of the default list: it runs where the configuration names it.
	Off bool
	New func() Module
}

// A Module is one feature of one Profile. It keeps nothing of a host in itself: it takes ev.Host and
// has a HostVar.
type Module interface {
	Load(api *API) error // reads its configuration and adds its hooks, which can be added nowhere else
}

// An Unloader is a Module with something to give back when no host runs its profile any more.
type Unloader interface{ Unload() error }

// A Profile is what hosts with the same module list and options share: resolved manifests, module
// instances, hooks.
type Profile struct {
	Modules []Manifest // as resolved, in load order
	Skipped []Skip
	Hooks   *Hooks
	Limits  *Limits // nil: those of the process

	HostFeatures    []string // of XEP-0030, sorted
	AccountFeatures []string

	loaded       []Module
	loaders      []loader
	absentSet    residentSet                 // of an address where there is nothing
	emptySet     atomic.Pointer[residentSet] // of an account of which nothing is stored
	dependencies map[reflect.Type]any
	retired      atomic.Bool
	pendingWork  atomic.Int64 // of its modules, on workers or on their way back
}

// A Skip says why a candidate was not taken.
type Skip struct{ Module, Spec, Reason string }

func (p *Profile) advertise(list *[]string, ns []string) {
	for _, n := range ns {
		if !slices.Contains(*list, n) {
			*list = append(*list, n)
		}
	}
	sort.Strings(*list)
}

// An API is what a module is given, for the time of its Load.
type API struct {
	Module string
	Hooks  *Hooks
	Router *Router
	Log    *slog.Logger

	profile *Profile
	decode  func(module string, v any) error
}

// A Dependency is something that the process offers to the modules of every profile: the store, the
// certificates, the clock.
type Dependency struct {
	t reflect.Type
	v any
}

// Provide makes v the profile's T, for modules that require the feature it belongs to.
func Provide[T any](a *API, v T) {
	a.profile.dependencies[reflect.TypeFor[T]()] = v
}

// Lookup returns the T that a module that was loaded before has offered, or that the process gave to all
// profiles.
func Lookup[T any](a *API) (v T, ok bool) {
	x, ok := a.profile.dependencies[reflect.TypeFor[T]()]
	if !ok {
		return v, false
	}
	return x.(T), true
}

// NewDependency makes a Given of v, to be found as a T.
func NewDependency[T any](v T) Dependency { return Dependency{reflect.TypeFor[T](), v} }
