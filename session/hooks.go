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

// This file declares where modules take part in the kernel: chains of hooks ([Hooks]), kinds of entities
// ([EntityHandler]), stream features, and the manifest and interface of a module. docs/modules.md shows how
// they are used.

// A Phase orders the hooks of one [Chain]. Phases have names, so that modules need no numeric priorities
// that depend on those of other modules.
type Phase uint8

// The phases, in the order in which they run.
const (
	Guard    Phase = iota // decides whether the stanza may pass: block lists, limits, permissions
	Rewrite               // changes the stanza: stanza ids, payloads that are taken out
	Archive               // stores the stanza in an archive (XEP-0313); its id is drawn under the entity's lock
	Copy                  // sends copies: carbons (XEP-0280), push (XEP-0357)
	Deliver               // gives the stanza to sessions
	Fallback              // runs if no session took the stanza: offline storage, errors
	// Record runs last and always: it stores what became of the stanza, see [Stanza.Outcome] and
	// [Stanza.Batch].
	Record
	// AfterRecord runs behind Record, as it does: it stores what hooks of Record have given to sessions.
	AfterRecord
)

// A hook is a module's function in a chain.
type hook[F any] struct {
	f      F
	phase  Phase
	module string
}

// A Chain is an ordered list of hooks of one type. Modules add hooks in [Module.Load] only. The chain
// does not change after that, so it is read without a lock. A hook must not block: no disk, no network,
// no sleep.
type Chain[F any] struct{ hooks, recordHooks []hook[F] }

// Add appends f to the hooks of phase ph. Hooks of one phase run in the order in which their modules were
// loaded. Hooks of the phases [Record] and [AfterRecord] run whatever the other hooks returned, and their own
// result is ignored. Call it in Load only.
func (c *Chain[F]) Add(module string, ph Phase, f F) {
	if ph >= Record {
		c.recordHooks = append(c.recordHooks, hook[F]{f, ph, module})
		list := c.recordHooks
		sort.SliceStable(list, func(i, j int) bool { return list[i].phase < list[j].phase })
		return
	}
	c.hooks = append(c.hooks, hook[F]{f, ph, module})
	sort.SliceStable(c.hooks, func(i, j int) bool { return c.hooks[i].phase < c.hooks[j].phase })
}

// A StanzaFunc handles a stanza: the type of most hooks. It runs on the loop of ev, under the lock of the
// entity that the chain belongs to, where the field of [Hooks] does not say otherwise. [Done] ends the chain.
// ev and its bytes are valid until it returns: keep a [Stanza.Clone].
type StanzaFunc func(ev *Stanza) Verdict

// A SessionFunc is called when something happens to session s. It runs on the loop of l, under the account's
// lock.
type SessionFunc func(l *LoopRouter, s *Session)

// An OutgoingFunc sees each element that a session is sent, also each element of a [Source]. With [Done]
// the element is not sent: the hook has dropped it, or has kept it by [Outbox.Defer]. With [Pass] it is
// sent, after everything that the hook has written to o. It runs under the outbox lock, on any loop: it
// must not route, must not send by another way than o, and must not lock. p is valid until it returns.
// The call itself allocates nothing.
type OutgoingFunc func(o Outbox, p OutboundStanza) Verdict

// An UnsentFunc takes over elements that a session had not sent when it ended. list has them in order, with
// those that hooks had deferred, but without elements that another session of the account has as well. It
// returns the elements that it does not take: the kernel routes these again, except presence. It runs under
// the account's lock, with the resident set in memory, before the Unbound hooks.
type UnsentFunc func(l *LoopRouter, s *Session, list []OutboundStanza) (left []OutboundStanza)

// Run calls the hooks of c in order until one returns [Done], which it returns. Under the lock that the hooks
// of c expect.
func Run(c *Chain[StanzaFunc], ev *Stanza) Verdict {
	for i := range c.hooks {
		if c.hooks[i].f(ev) == Done {
			return Done
		}
	}
	return Pass
}

// runPhases calls the hooks of c whose phase is in [from, to), in order, until one returns Done.
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

// runSessions calls all hooks of c for s. Under the account's lock.
func runSessions(c *Chain[SessionFunc], l *LoopRouter, s *Session) {
	for i := range c.hooks {
		c.hooks[i].f(l, s)
	}
}

// Hooks has all the places where a module can take part, a field for each. Modules fill it in
// [Module.Load]. One Hooks serves all hosts of a [Profile].
type Hooks struct {
	// Features are the stream features (RFC 6120 section 4.3.2), in the order in which they are offered.
	Features []StreamFeature
	// Inline are the requests that a client may make within its login by SASL2. Those of one
	// [InlinePlace] are handled in the order of this list.
	Inline []InlineFeature
	// BoundInline runs for a session that Bind 2 (XEP-0386) has made, before Bound and before its client is
	// told. The client catches up by the archive.
	BoundInline Chain[SessionFunc]
	// The Pre chains run for a stanza that a client of this server sent, before it is routed, under the
	// lock of the sender's account. The index is the [Target] of the stanza. Done drops it.
	PreMessage, PrePresence, PreIQ [numTargets]Chain[StanzaFunc]
	// Chains are the chains of accounts. Those with the target ToHost are of the domain itself: they run
	// under no lock.
	Chains
	// Absent runs for an iq to a local address without an account, and for an iq to an account that hides
	// from the sender (Stanza.FailAbsent), so that both look the same: for payloads whose answer is not
	// service-unavailable. In the first case there is no entity and no lock; in the second the hook runs
	// under the account's lock. So it must not lock, and must not look at the account.
	Absent Chain[StanzaFunc]
	// Blocked reports whether account a refuses stanzas of from (XEP-0191). It is asked before something
	// stored is delivered to a client of the account, as the block may be newer. The Guard phase of its
	// chain asks for live stanzas. Under the account's lock.
	Blocked []func(a *Account, from jid.JID) bool
	// Outgoing sees each element that is sent to a session, under the outbox lock.
	Outgoing Chain[OutgoingFunc]
	// Bound runs when a session has got its resource, Unbound when it has ended. Available runs at its first
	// presence with a non-negative priority. Hibernated runs when the session has lost its stream and is
	// kept, Resumed when another stream has it.
	Bound, Unbound, Available, Hibernated, Resumed Chain[SessionFunc]
	// Unsent takes over what a session had not sent when it ended.
	Unsent Chain[UnsentFunc]
	// Hibernate is asked when a session has lost its stream and its client has not logged out. With Done
	// the session is kept without a stream, until the module ends it ([Account.ExpireSession]) or another
	// stream resumes it. session.txt says after which endings it is asked.
	Hibernate Chain[func(l *LoopRouter, s *Session) Verdict]
	// Persist makes what a session has that hibernates durable: before the process stops, and before its
	// account is evicted. Done: the store has it, or will have it with the last ticket of the account, and a
	// hook of Loaded restores it when the account is loaded again. Under the account's lock.
	Persist Chain[func(l *LoopRouter, s *Session) Verdict]
	// Loaded runs when the resident set of an account was read, before the stanzas that have waited for it.
	// After a panic the account counts as one that could not be read. Under the account's lock.
	Loaded Chain[func(l *LoopRouter, a *Account)]
	// Remote runs for a stanza to a domain that this process does not serve. Done: a module has taken it.
	// Under no lock.
	Remote Chain[StanzaFunc]
	// Settled is called on the loop of a tracked stream when more of its stanzas are settled: all up to
	// number are. failed counts the stanzas among the new ones that could not be stored; each was answered
	// with an error. Under no lock.
	Settled Chain[func(st *Stream, number uint32, failed int)]
	// Make runs for a stanza to an address of a service host at which there is no entity, under the lock of
	// the entity that a hook may make there, by [Stanza.Create].
	Make Chain[StanzaFunc]
	// Deleted sends the last stanzas of a deleted account, as to the contacts of its roster: it calls tell
	// with a bare JID and a stanza, which is sent from the account's address. a is in no table, and its
	// resident set is what the store still has; whether the account was in memory does not matter. After a
	// crash it may run a second time. Under a's lock.
	Deleted Chain[func(l *LoopRouter, a *Account, tell func(to jid.JID, el []byte))]

	handlers  []*EntityHandler // the index is a KindID
	everyKind Chains           // the iqs that every kind answers: see [Hooks.OnEveryIQ]
}

// BecameAvailable runs the Available hooks: s has sent its first presence with a non-negative priority.
// On the loop of l, under the account's lock.
func (l *LoopRouter) BecameAvailable(s *Session) {
	runSessions(&s.account.host.Profile().Hooks.Available, l, s)
}

// A KindID is a kind of entity: account, room. It is a number of this process; the directory stores the name.
// What entities of a kind do on the hosts of a profile is an [EntityHandler].
type KindID uint8

// KindAccount is the kind of accounts, the only one on hosts where users log in.
var KindAccount = NewKind("account")

// NewKind returns the kind called name, and registers it if it is new. It is meant for package variables; any
// goroutine may call it. It panics if there are 255 kinds already, as a KindID is one byte.
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

// String is the name of k, or "nothing" for 0.
func (k KindID) String() string {
	registry.Lock()
	defer registry.Unlock()
	if k == 0 || int(k) > len(registry.kinds) {
		return "nothing"
	}
	return registry.kinds[k-1]
}

// kindByName is the kind called name, or 0 if no module of this process has registered it.
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

// Chains run for a stanza that has arrived at an entity of one kind, under the entity's lock.
type Chains struct {
	// A chain for each kind of stanza; the index is its [Target]. Done: the stanza was delivered or answered.
	Message, Presence, IQ [numTargets]Chain[StanzaFunc]

	iq map[iqKey]iqHandler // handlers of single payloads; they run where the chain of IQ has returned Pass
}

// An iqKey is the payload of an iq, with the address and the type (set or get) that it came with.
type iqKey struct {
	target Target
	set    bool
	name   xmlstream.Name
}

// An iqHandler is the one function that answers a payload.
type iqHandler struct {
	f      StanzaFunc
	module string
}

// OnIQ registers f as the handler of iqs whose payload is name, of type set or get, for each of targets.
// Call it in Load only. It panics if name is not interned ([xmlstream.Name.Known]), and if the payload
// has a handler already: two modules that answer the same payload must name each other in
// [Manifest.Conflicts]. For the target ToSelf ev.Session is set.
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

// OnEveryIQ registers f as the handler of a payload for entities of every kind except accounts. A handler of
// the kind itself comes before it. With the target ToHost f also answers for the domain of a service host at
// which there is no entity; the kind is 0 then. f runs under the entity's lock. In Load only.
func (h *Hooks) OnEveryIQ(module string, set bool, name xmlstream.Name, f StanzaFunc, targets ...Target) {
	h.everyKind.OnIQ(module, set, name, f, targets...)
}

// An EntityHandler has the functions and chains of the entities of one kind, on the hosts of a profile. The
// module of the kind fills it in Load, see [Hooks.Serve]; other modules may add to its chains. All functions
// run under the entity's lock, on a loop, and may be nil.
type EntityHandler struct {
	Chains
	// New returns the live state of an entity that has become warm or was created: see [Live]. It may call
	// [Entity.Arm], for something stored that is due later.
	New func(l *LoopRouter, e *Entity) any
	// Cold reports whether the live state may be dropped. Idle eviction asks it a minute after the last
	// stanza of the entity, if nothing waits for it. Nil: the state may be dropped.
	Cold func(e *Entity) bool
	// Failed is called after a panic in a chain of e or in its Timer. The kernel reads the stored parts of e
	// again. It does not touch the live state: Failed has to repair that.
	Failed func(l *LoopRouter, e *Entity)
	// Ended is called when e ends: it was deleted, see [Entity.Delete], or its host is not served any more.
	Ended func(l *LoopRouter, e *Entity)
	// More sends the next elements to a client that has room again: see [LoopRouter.MoreWhenDrained].
	More func(l *LoopRouter, e *Entity, to jid.JID, what []byte)
	// MarshalLive appends the live state of e to dst, and RestoreLive reads it in another kernel: see
	// [LoopRouter.MarshalEntities]. The form needs a version of its own. Without the two functions live
	// state is lost when another kernel takes over.
	MarshalLive func(e *Entity, dst []byte) []byte
	RestoreLive func(l *LoopRouter, e *Entity, b []byte) error
	// Timer is called when the timer of e is due: see [Entity.Arm].
	Timer func(l *LoopRouter, e *Entity)
	// Footprint is the approximate size of the live state in bytes, for the metrics.
	Footprint func(e *Entity) int
	// Inbox is how much may wait for one entity. Zero: 64 stanzas and 256 KiB.
	Inbox Bounds

	loaders []loader
}

// Bounds limit an inbox.
type Bounds struct {
	Count, Bytes int // stanzas, and bytes of all their elements
}

// A loader reads one part of the resident set of entities.
type loader struct {
	part   uint16 // the number of a [Part]
	module string
	// load reads the part of who from a snapshot of the store, on a worker. none: v is a nil pointer.
	load func(from any, who EntityRef) (v any, none bool, err error)
}

// A rowMover rewrites rows of an older version of a table, for one account: see [MoveRows].
type rowMover struct {
	module string
	move   func(from any, who EntityRef) (batch any, err error)
}

// Serve returns the handler of the entities of kind k, to be filled in: the same one for all modules of the
// profile. The directory's entities of kind k are served from then on. In Load only. It panics for
// [KindAccount].
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

// entityHandler is the handler of kind k; nil if no module of the profile serves it.
func (h *Hooks) entityHandler(k KindID) *EntityHandler {
	if int(k) < len(h.handlers) {
		return h.handlers[k]
	}
	return nil
}

// chains are the chains of kind k; nil if no module of the profile serves it.
func (h *Hooks) chains(k KindID) *Chains {
	if k == KindAccount {
		return &h.Chains
	}
	if b := h.entityHandler(k); b != nil {
		return &b.Chains
	}
	return nil
}

// A StreamFeature is one child of <stream:features/> (RFC 6120 section 4.3.2). Its functions run on the
// stream's loop, under no lock.
type StreamFeature struct {
	Name          xmlstream.Name   // the element by which a client begins the negotiation
	Continuations []xmlstream.Name // further elements of the same negotiation, as <response/> of SASL
	// Name is the payload of an iq of type set that comes before there is a session
	IQ      bool
	Needs   Traits // it is offered on streams that have all of these
	Forbids Traits // and none of these
	// Available reports whether a stream with the right traits is offered the feature now, and may use it.
	// Nil: always.
	Available func(st Negotiation) bool
	// Offer writes the child of <stream:features/>.
	Offer func(st Negotiation, a *xmlstream.Appender)
	// Handle handles an element called Name or one of Continuations. e is valid until it returns.
	Handle func(st Negotiation, e xmlstream.Element)
}

// A Feature is a capability that the kernel or a loaded module provides. A module that requires one is loaded
// after the module that provides it.
type Feature string

// A Manifest describes a module as a plain value. The loader decides by manifests which modules run and in
// which order, before any module is made. If a module can't run, the loader tries the next manifest of the
// same name.
type Manifest struct {
	Name    string // the name in the configuration: "ping"
	Spec    string // what it implements: "XEP-0199 2.0.1", "RFC 6121 section 2"
	Summary string // one line for `canto modules`
	Cases   string // which cases of the specification are covered, and which are left out

	Provides  []Feature // features that the module has once it is loaded
	Requires  []Feature // features without which it can't run
	Conflicts []Feature // features beside which it can't run

	// Options returns a pointer to a new struct with the default options, which [API.Decode] fills from the
	// configuration. Nil: the module has no options.
	Options func() any
	// Off keeps the module out of the default list: it runs only where the configuration names it.
	Off bool
	// New makes the module, for one profile.
	New func() Module
}

// A Module is one feature, loaded for one [Profile], which many hosts may share. State of a host therefore
// lives in a [HostVar], not in the module.
//
// The life of a module: the loader resolves the manifests of a profile; it calls New and then Load of each
// module, in the order of the resolution, on the goroutine that starts or reloads the server; the hooks that
// Load has added run on the loops; a reload makes new modules for a profile that has changed, and none for
// one that has not; once no host uses a profile and nothing of it is pending, Unload of its modules runs. If
// Load fails, the start or the reload fails.
type Module interface {
	// Load reads the options of the module and adds its hooks. Hooks can be added nowhere else.
	Load(api *API) error
}

// An Unloader is a Module that has resources to release.
type Unloader interface {
	// Unload releases what Load has acquired. It runs once, when no host uses the profile any more and no
	// work of it is pending. An error is logged.
	Unload() error
}

// A Profile is what hosts with the same modules and options share: manifests, modules and hooks. It does not
// change once it is loaded.
type Profile struct {
	Modules []Manifest // those that run, in load order
	Skipped []Skip     // those that do not
	Hooks   *Hooks     // what the modules have added
	Limits  *Limits    // nil: those of the process

	HostFeatures    []string // the features that service discovery lists for the host (XEP-0030), sorted
	AccountFeatures []string // and for its accounts

	loaded       []Module
	loaders      []loader
	movers       []rowMover
	absentSet    residentSet                 // the resident set of an address without an entity
	emptySet     atomic.Pointer[residentSet] // the resident set of an account of which nothing is stored
	dependencies map[reflect.Type]any        // see [Provide]
	retired      atomic.Bool                 // no host uses it any more
	pendingWork  atomic.Int64                // jobs of its modules that are on workers, or on their way back
}

// A Skip says why a module of the configuration, or of the default list, does not run.
type Skip struct {
	Module, Spec string // of its manifest
	Reason       string // in words, for the operator
}

// advertise adds the features ns to one of the two sorted lists of p, each once.
func (p *Profile) advertise(list *[]string, ns []string) {
	for _, n := range ns {
		if !slices.Contains(*list, n) {
			*list = append(*list, n)
		}
	}
	sort.Strings(*list)
}

// An API is what a module is given in [Module.Load]. It must not be used after Load has returned; what its
// fields point to may be kept.
type API struct {
	Module string       // the name of the module that is loaded
	Hooks  *Hooks       // where it adds its hooks
	Router *Router      // of the process
	Log    *slog.Logger // has the name of the module

	profile *Profile
	decode  func(module string, v any) error
}

// A Dependency is a value that the process gives to the modules of every profile, found by its type: the
// store, the certificates, the wall clock.
type Dependency struct {
	t reflect.Type
	v any
}

// Provide makes v the value of type T of the profile: modules that are loaded later find it by [Lookup]. They
// require a feature of the module that provides it. A later call with the same T replaces the value. In Load
// only.
func Provide[T any](a *API, v T) {
	a.profile.dependencies[reflect.TypeFor[T]()] = v
}

// Lookup returns the value of type T that a module loaded earlier has provided, or that the process gives to
// all profiles. In Load only.
func Lookup[T any](a *API) (v T, ok bool) {
	x, ok := a.profile.dependencies[reflect.TypeFor[T]()]
	if !ok {
		return v, false
	}
	return x.(T), true
}

// Provided returns the value of type T that a module of p has provided, or that the process gives to all
// profiles. It is for what is outside of the modules, as a command of the operator. Any goroutine, once p is
// loaded.
func Provided[T any](p *Profile) (v T, ok bool) {
	x, ok := p.dependencies[reflect.TypeFor[T]()]
	if !ok {
		return v, false
	}
	return x.(T), true
}

// NewDependency makes v a Dependency that modules look up as a T.
func NewDependency[T any](v T) Dependency { return Dependency{reflect.TypeFor[T](), v} }
