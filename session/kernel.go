package session

import (
	"hash/maphash"
	"log/slog"
	"maps"
	"sync"
	"sync/atomic"

	"canto/reactor"
	"canto/session/jid"
	"canto/session/stanza"
	"canto/xmlstream"
)

// A Router takes a stanza from where it came from to where it goes, by the rules of RFC 6121,
// section 8; stanza_routing.txt, beside this file, is its table. Its fields are set before Start.
type Router struct {
	Table       *Table
	Durable     Durable
	Directory   Directory
	Workers     reactor.Workers
	Log         *slog.Logger
	Node        uint16 // of this process, in ids
	Incarnation uint32 // its starts are counted

	Clock func() reactor.Tick // any goroutine

	// StreamID makes the id of a stream header: unpredictable, 128 bits (RFC 6120 §4.7.3).
	StreamID func() string

	locals  []*Local
	lim     atomic.Pointer[limitSet]
	streams atomic.Uint64
	refused sync.Map // limit name -> *atomic.Uint64, of connections refused before they had a loop; a fixed set
}

// Tick is the time on the reactor's scale. Any goroutine.
func (r *Router) Tick() reactor.Tick { return r.Clock() }

// Local is the kernel's part of loop. Any goroutine, after Start.
func (r *Router) Local(loop *reactor.Loop) *Local { return r.locals[loop.Index()] }

// Locals are all of them. Any goroutine, after Start.
func (r *Router) Locals() []*Local { return r.locals }

// home is the loop that does what is to be done for an address, where no other has begun.
func (r *Router) home(bare jid.JID) *Local { return r.locals[int(bare.Slot())%len(r.locals)] }

// Limits are those in force. Any goroutine.
func (r *Router) Limits() Limits { return r.lim.Load().Limits }

func (r *Router) limits() *limitSet { return r.lim.Load() }

// HostLimits are the limits that hold for h. Any goroutine.
func (r *Router) HostLimits(h *Host) Limits { return *r.hostLimits(h) }

// hostLimits are the limits of one host: its own, or those of the process.
func (r *Router) hostLimits(h *Host) *Limits {
	if p := h.Profile(); p != nil && p.Limits != nil {
		return p.Limits
	}
	return &r.lim.Load().Limits
}

// Depth and node limits of a peer that has not logged in: enough for a header and SASL, no more
// (attack X13).
var unauthedLimits = xmlstream.Limits{Depth: 8, NameBytes: 256, Prefixes: 8, Attrs: 16, StanzaAttrs: 64,
	Nodes: 32}

// SetLimits puts new limits in force, for streams that are open too. Any goroutine.
func (r *Router) SetLimits(lim Limits) error {
	b := unauthedLimits
	b.StanzaBytes = lim.StanzaBefore
	before, err := b.ID()
	if err != nil {
		return err
	}
	after, err := xmlstream.Limits{StanzaBytes: lim.Stanza}.ID()
	if err != nil {
		return err
	}
	r.lim.Store(&limitSet{lim, before, after})
	return nil
}

// CountRefused counts a connection that was refused by the limit of that name. Any goroutine.
func (r *Router) CountRefused(limit string) {
	n, _ := r.refused.LoadOrStore(limit, new(atomic.Uint64))
	n.(*atomic.Uint64).Add(1)
}

// Refused calls f with each of these counters. Any goroutine.
func (r *Router) Refused(f func(limit string, n uint64)) {
	r.refused.Range(func(limit, n any) bool {
		f(limit.(string), n.(*atomic.Uint64).Load())
		return true
	})
}

// A Local is the kernel's part of one loop: its parser, its mail, a stack of Stanzas that chains run
// on, a cache of JIDs by raw bytes. Loop only.
type Local struct {
	Loop   *reactor.Loop
	Parser *xmlstream.Parser
	Log    *slog.Logger

	router  *Router
	jids    *jid.Cache
	seed    maphash.Seed
	held    *Entity // whose lock this loop holds
	nest    int     // depth of enter
	mark    uint16  // the loop's number, and one
	crowded int     // bytes delivered to wires that are crowded, since the present element was taken
	copied  int     // bytes of broadcasts, a copy for each receiver, since the present element was taken

	mail  mail
	stack stack

	shared     [sharedElements][]byte
	seats      Seats
	app        xmlstream.Appender
	scratch    []byte
	origin     Origin // of the stanza whose hooks run
	originLoop uint16

	ledgers map[uint64]*ledger // of tracked streams, by stream id
	commits commits
	shares  shares
	stats   Stats
	sweepAt int
	swept   []*Entity
	sweeper reactor.Timer
}

// Elements that many sessions keep alike: presence is mostly the client's name and what it can do.
const (
	sharedElements = 512
	sharedBytes    = 1024 // the longest: what is longer is mostly one user's own
)

// Router is the process's. Any goroutine.
func (l *Local) Router() *Router { return l.router }

// JID is the canonical form of an address as it was sent (RFC 7622). It allocates on a miss only.
func (l *Local) JID(raw []byte) (jid.JID, error) { return l.jids.Parse(raw) }

// CountLimit counts a limit that was hit, by a name of a fixed set.
func (l *Local) CountLimit(name string) { l.stats.Limits[name]++ }

// Stats are a loop's counters: plain numbers that only the loop writes.
type Stats struct {
	In, Out             [stanza.NumKinds]uint64 // stanzas from clients; delivered to sessions
	Bound, Unbound      uint64                  // sessions
	Ended               [numEndings]uint64      // sessions, by what has ended them
	Superseded          uint64                  // stanzas dropped, as their streams had lost their sessions
	Streams, StreamsEnd uint64
	Bounced             [stanza.NumConditions]uint64
	StreamErrors        map[string]uint64 // by condition; a fixed set
	Mailed, Inboxed     uint64
	InboxFull           uint64
	Loads               uint64 // resident sets read
	Panics              uint64
	Limits              map[string]uint64 // limits hit, by name; a fixed set
}

// Add adds o to s.
func (s *Stats) Add(o *Stats) {
	for k := range s.In {
		s.In[k] += o.In[k]
		s.Out[k] += o.Out[k]
	}
	for c := range s.Bounced {
		s.Bounced[c] += o.Bounced[c]
	}
	s.Bound, s.Unbound = s.Bound+o.Bound, s.Unbound+o.Unbound
	for e := range s.Ended {
		s.Ended[e] += o.Ended[e]
	}
	s.Superseded += o.Superseded
	s.Streams, s.StreamsEnd = s.Streams+o.Streams, s.StreamsEnd+o.StreamsEnd
	s.Mailed, s.Inboxed, s.InboxFull = s.Mailed+o.Mailed, s.Inboxed+o.Inboxed, s.InboxFull+o.InboxFull
	s.Loads, s.Panics = s.Loads+o.Loads, s.Panics+o.Panics
	for k, n := range o.StreamErrors {
		s.StreamErrors[k] += n
	}
	for k, n := range o.Limits {
		s.Limits[k] += n
	}
}

// Stats is a copy of the counters. The loop.
func (l *Local) Stats() Stats {
	s := l.stats
	s.StreamErrors, s.Limits = maps.Clone(s.StreamErrors), maps.Clone(s.Limits)
	return s
}

// A stack has the Stanzas that chains run on. The loop's.
type stack struct {
	list  [8]Stanza
	depth int
}

// mail is what a loop has still to route: what entities said under their locks, in order. It is empty
// whenever nothing runs on the loop.
type mail struct {
	l        *Local
	list     []envelope
	next     int
	buf      []byte
	moving   bool
	pulls    []*Session // whose sources are to be asked before the next letter
	speakers []*Entity  // that have letters in list, and are to be told when those are routed
}

// shares are what a loop has to deliver for entities that have something spread, in turn. The loop's.
type shares struct {
	l       *Local
	senders []*sender
	posted  bool   // serve is
	serve   func() // turn: made once, posted often
}

// A sender is what one loop has to deliver for one entity, first in, first out.
type sender struct {
	of    *Entity
	parts []part
}

// A part is one loop's of a job.
type part struct {
	*dispatch
	to      []*chunk // what is not served yet; nil: the letter's own address
	at      int      // how far the first chunk was served
	crowded bool     // a receiver's client does not take what it is sent
}

// A dispatch is a job whose parts are with their loops. Left and crowded are under its entity's lock.
type dispatch struct {
	job
	of      *Entity
	left    int
	crowded bool
}

// commits are what waits on a loop for commits that are not settled. The loop's.
type commits struct {
	l      *Local
	list   []wait // in the order in which they were added; mostly that of their tickets
	settle func() // settleAll: made once, posted often
}

// A wait is what depends on a commit: a stanza's answer, or with f something else.
type wait struct {
	ticket Ticket
	born   Ticket // of the batch that made at: what was committed behind it fails with it
	ev     *Stanza
	at     *Entity
	st     *Stream
	then   func(ev *Stanza, err error) Verdict
	f      func(err error)
}

// A ledger is what is open of a tracked stream. Its loop's.
type ledger struct {
	st      *Stream
	settled uint32  // the longest settled prefix
	last    uint32  // the number of the last stanza that was taken
	ring    []entry // of settled+1 to last
}

// An entry is one stanza of a ledger.
type entry struct {
	open   bool
	failed bool // something of it could not be stored: its sender was told
}

// A Ticket numbers what was given to the store; tickets grow and become durable in order. Zero is
// durable already.
type Ticket uint64

// Durable is the committer as the kernel sees it; tests have one that is durable at once. Any
// goroutine.
type Durable interface {
	// Durable is the last ticket that is settled: it and all before it are durable or have failed.
	Durable() Ticket
	// Err is why a settled ticket failed; nil: it is durable.
	Err(t Ticket) error
	// Notify has f called after each batch was settled, on the committer's goroutine.
	Notify(f func())
	// Await blocks until t is settled, and returns its Err. For workers.
	Await(t Ticket) error
	// Full reports whether the store is known to refuse writes for want of room.
	Full() bool
	// NewBatch is a batch of the entity with that id, and Commit gives it to the store: see [Stanza.Batch].
	NewBatch(id uint64) any
	Commit(batch any) Ticket
	// Snapshot is what the loaders of one resident set read from. One that has a Close is closed.
	Snapshot() any
}

// A Directory knows what there is at an address: a bare JID, or a domain. On a worker.
type Directory interface {
	// Entity is the id and the kind of what is at addr; false: nothing.
	Entity(snap any, addr jid.JID) (id uint64, kind string, ok bool, err error)
}

// An Entity is a monitor: one lock and everything behind it. An account is one, and so is what a module
// brings: a room, a service at a domain. Its chains run under its lock, on whatever loop the stanza
// arrived on, and only while it is warm. A stanza for a cold entity waits in its inbox; one worker job
// reads what is stored, and the inbox is worked off in order.
//
// What an entity has in memory is of two kinds. The resident set, the parts that modules declare, is what
// is stored: it is dropped after a failure and read again. Its live state, see [Behaviour], is what is
// not stored: an account's sessions, a room's occupants.
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
	// its last broadcast to more than sayInline met clients that do not take what they are sent
	crowds bool
	kind   KindID // of what is at addr; 0: not known, or nothing
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

// goneMark is the resident set of an entity that left the Table: what still has a pointer to it looks it
// up again.
var goneMark = new(resident)

// A Member is an *Entity or an *Account.
type Member interface{ entity() *Entity }

// A Who names an entity to the loaders of its resident set.
type Who struct {
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

// speaker is e as what says something.
func (e *Entity) speaker() speaker { return speaker{e} }

// A mailbox is an Entity as what takes stanzas in: those that can't be looked at yet wait in its inbox.
// Under the lock, unless a line says otherwise.
type mailbox struct{ *Entity }

// A speaker is an Entity as what says something: what is under way from it. Under the lock, unless a line
// says otherwise.
type speaker struct{ *Entity }

// lock takes the lock of e for l. Never two on one loop: what an entity tells another is mail.
func (e *Entity) lock(l *Local) {
	if l.held != nil {
		panic("session: a second entity lock on one loop")
	}
	lockCheck()
	e.mu.Lock()
	l.held = e
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

// quiet reports whether nothing waits, and nothing is spread.
func (w *waits) quiet() bool {
	return w.inbox.empty() && !w.out.spread() && len(w.asked) == 0 && !w.running
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

func (a *Account) index(s *Session) int {
	for i := range a.sessions {
		if a.sessions[i] == s {
			return i
		}
	}
	return -1
}

// lived is the live state of an entity that is no account.
type lived struct {
	v      any
	born   Ticket // of the batch that made the entity, until that is durable
	places map[jid.JID]place
	seats  []*Seats
	moves  []jid.JID // whose place is to change once nothing of the entity is spread
}

// A place says which loop serves a receiver of an entity, whatever the entity says to it.
type place struct {
	loop, want uint16
	seats      uint16 // how many Seats it is in
	moves      bool   // it is in lived.moves
}

// Live is the live state of e, as New made it; nil if e has none of this type. Under the lock.
func Live[T any](e *Entity) *T {
	if x, ok := e.live.(*lived); ok {
		v, _ := x.v.(*T)
		return v
	}
	return nil
}

// lived is where e's live state is, made if there is none.
func (e *Entity) lived() *lived {
	v, ok := e.live.(*lived)
	if !ok {
		v = new(lived)
		e.live = v
	}
	return v
}

// Seats are receivers: those that an entity keeps (a room's occupants), made by [NewSeats], or gathers
// for once (the contacts of a roster), lent by [Local.Seats]. They are grouped by the loop that serves
// each. A broadcast shares them: what it shares is copied when they change, not when they are used. Under
// the entity's lock.
type Seats struct {
	of     *Entity           // nil: gathered for once
	groups [][]*chunk        // by loop
	index  map[jid.JID]int32 // the position in the group
	once   [][]jid.JID       // by loop, of receivers that are gathered for once: nothing else is used of those
	n      int
	epoch  uint32 // counts broadcasts
	own    uint32 // the epoch in which groups was copied
	ends   []end
}

// An end is where one group ends.
type end struct {
	n   int    // receivers in it
	own uint32 // the epoch in which its list of chunks was copied
}

// A chunk is a few receivers.
type chunk struct {
	to  []jid.JID
	own uint32 // the epoch in which it was copied
}

// An envelope is a stanza between two entities: addresses, bytes and numbers, never a pointer, a function
// or an interface. It means the same on another loop and later.
type envelope struct {
	from, to jid.JID
	bytes    []byte // in the loop's mail buffer, or an inbox's or a job's own copy
	lang     string // of the sender's stream
	origin   Origin // of a stanza that a client sent, and of what it sets off
	pledged  Ticket // what a carrier has made entities store so far
	born     Ticket // see Stanza
	kind     stanza.Kind
	target   Target
	hops     uint8
	loop     uint16 // of the connection that the stanza came from, and one; 0: not known
	form     form
	carrier  bool // origin is settled where the stanza ends
	fresh    bool // the sender's Pre chain is yet to run
	bare     bool // it had no 'to'
	unseen   bool // it answers a stanza that no entity has looked at: it waits for nothing
}

// A form says what the bytes of an envelope are.
type form uint8

const (
	aStanza  form = iota // one element, that chains look at
	anAnswer             // one, made by this server for one session: no chain looks at it
	anOffer              // of an entity to a session: it has more for it; the bytes say what. See [Local.Offer]
	aPull                // of a session to an entity: it has room for that
)

// An inbox is what waits for one entity, in order: stanzas, and calls of this process.
type inbox struct {
	items []item
	calls []call // one for each item that is a call
	bytes int
}

// An item is a stanza, or the next of the calls.
type item struct {
	envelope
	call bool
}

// A call wants the entity warm and its lock.
type call struct {
	f    func(l *Local, e *Entity, err error)
	home *Local // where f runs
}

func (b *inbox) empty() bool { return len(b.items) == 0 }

// An await is one [Stanza.Await].
type await struct {
	timer reactor.Timer
	l     *Local
	e     *Entity
	ev    *Stanza // kept
	st    *Stream // that takes nothing meanwhile; nil: the request is from elsewhere
	class reactor.Class
	work  func() error
	then  func(ev *Stanza, err error) Verdict
	kind  KindID // e's; 0: there is no entity at the address
	id    uint64 // e's; 0: nothing was stored of it
	life  any    // what e had live
	begun bool
	late  bool // its time is over

	refused bool     // there was no room for its work
	profile *Profile // whose module has called: it is not unloaded before the end
}

// departures is what is under way from one entity. Under its lock.
type departures struct {
	queue []job // that wait until what was said straight is delivered
	left  int   // parts that loops have not delivered
	jobs  int   // broadcasts in queue, or with parts left
	bytes int   // of all that is in queue, or with parts left
}

// A job is something that an entity said: one letter, or a broadcast.
type job struct {
	letter envelope
	to     [][]*chunk // by loop, never changed; nil: the letter's own address
}

// spread reports whether receivers belong to their loops now.
func (d *departures) spread() bool { return d.left > 0 || len(d.queue) > 0 }

func domainOf(j jid.JID) string {
	_, d, _ := j.Parts()
	return d
}

// bornOf is the ticket of the batch that made e, until that is durable; then 0.
func bornOf(e *Entity) Ticket {
	if v, ok := e.live.(*lived); ok {
		return v.born
	}
	return 0
}

// unlike makes e cold, as what is in memory is not what is stored.
func (e *Entity) unlike() {
	if e.resident != nil && e.resident != goneMark && (e.id != 0 || e.kind == Accounts) {
		e.resident = &resident{exists: e.resident.exists}
	}
}
