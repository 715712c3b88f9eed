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
	Committer   Committer
	Directory   Directory
	Workers     reactor.Workers
	Log         *slog.Logger
	Node        uint16 // of this process, in ids
	Incarnation uint32 // its starts are counted

	CurrentTick func() reactor.Tick // any goroutine

	// StreamID makes the id of a stream header: unpredictable, 128 bits (RFC 6120 §4.7.3).
	StreamID func() string

	loopRouters   []*LoopRouter
	limitsInForce atomic.Pointer[limitSet]
	streams       atomic.Uint64
	// limit name -> *atomic.Uint64, of connections refused before they had a loop; a fixed set
	refused sync.Map
}

// Tick is the time on the reactor's scale. Any goroutine.
func (r *Router) Tick() reactor.Tick { return r.CurrentTick() }

// LoopRouter is the kernel's part of loop. Any goroutine, after Start.
func (r *Router) LoopRouter(loop *reactor.Loop) *LoopRouter { return r.loopRouters[loop.Index()] }

// LoopRouters are all of them. Any goroutine, after Start.
func (r *Router) LoopRouters() []*LoopRouter { return r.loopRouters }

// homeLoop is the loop that does what is to be done for an address, where no other has begun.
func (r *Router) homeLoop(bare jid.JID) *LoopRouter {
	return r.loopRouters[int(bare.Partition())%len(r.loopRouters)]
}

// Limits are those in force. Any goroutine.
func (r *Router) Limits() Limits { return r.limitsInForce.Load().Limits }

func (r *Router) limits() *limitSet { return r.limitsInForce.Load() }

// HostLimits are the limits that hold for h. Any goroutine.
func (r *Router) HostLimits(h *Host) Limits { return *r.hostLimits(h) }

// hostLimits are the limits of one host: its own, or those of the process.
func (r *Router) hostLimits(h *Host) *Limits {
	if p := h.Profile(); p != nil && p.Limits != nil {
		return p.Limits
	}
	return &r.limitsInForce.Load().Limits
}

// Depth and node limits of a peer that has not logged in: enough for a header and SASL, no more
// (attack X13).
var unauthedLimits = xmlstream.Limits{Depth: 8, NameBytes: 256, Prefixes: 8, Attrs: 16, StanzaAttrs: 64,
	Nodes: 32}

// SetLimits puts new limits in force, for streams that are open too. Any goroutine.
func (r *Router) SetLimits(lim Limits) error {
	b := unauthedLimits
	b.StanzaBytes = lim.StanzaUnauthed
	before, err := b.ID()
	if err != nil {
		return err
	}
	after, err := xmlstream.Limits{StanzaBytes: lim.Stanza}.ID()
	if err != nil {
		return err
	}
	r.limitsInForce.Store(&limitSet{lim, before, after})
	return nil
}

// CountRefused counts a connection that was refused by the limit of that name. Any goroutine.
func (r *Router) CountRefused(limit string) {
	n, _ := r.refused.LoadOrStore(limit, new(atomic.Uint64))
	n.(*atomic.Uint64).Add(1)
}

// EachRefused calls f with each of these counters. Any goroutine.
func (r *Router) EachRefused(f func(limit string, n uint64)) {
	r.refused.Range(func(limit, n any) bool {
		f(limit.(string), n.(*atomic.Uint64).Load())
		return true
	})
}

// A LoopRouter is the kernel's part of one loop: its parser, its mail, a stack of Stanzas that chains run
// on, a cache of JIDs by raw bytes. Loop only.
type LoopRouter struct {
	Loop   *reactor.Loop
	Parser *xmlstream.Parser
	Log    *slog.Logger

	router         *Router
	jids           *jid.Cache
	seed           maphash.Seed
	lockedEntity   *Entity // whose lock this loop holds
	enterDepth     int     // depth of enter
	loopNumber     uint16  // the loop's number, and one
	congestedBytes int     // bytes delivered to wires that are crowded, since the present element was taken
	fanoutBytes    int     // bytes of broadcasts, a copy for each receiver, since the present element was taken

	mail    mailQueue
	stanzas stanzaStack

	interned         [internedElements][]byte
	recipients       Recipients
	appender         xmlstream.Appender
	scratch          []byte
	origin           Origin // of the stanza whose hooks run
	originLoopNumber uint16

	ackWindows    map[uint64]*ackWindow // of tracked streams, by stream id
	commitWaiters commitWaiterList
	fanout        fanoutQueue
	stats         Stats
	sweepAt       int
	swept         []*Entity
	sweepTimer    reactor.Timer
}

// Elements that many sessions keep alike: presence is mostly the client's name and what it can do.
const (
	internedElements = 512
	maxInternedBytes = 1024 // the longest: what is longer is mostly one user's own
)

// Router is the process's. Any goroutine.
func (l *LoopRouter) Router() *Router { return l.router }

// JID is the canonical form of an address as it was sent (RFC 7622). It allocates on a miss only.
func (l *LoopRouter) JID(raw []byte) (jid.JID, error) { return l.jids.Parse(raw) }

// CountLimit counts a limit that was hit, by a name of a fixed set.
func (l *LoopRouter) CountLimit(name string) { l.stats.Limits[name]++ }

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
func (l *LoopRouter) Stats() Stats {
	s := l.stats
	s.StreamErrors, s.Limits = maps.Clone(s.StreamErrors), maps.Clone(s.Limits)
	return s
}

// A stanzaStack has the Stanzas that chains run on. The loop's.
type stanzaStack struct {
	stanzas [8]Stanza
	depth   int
}

// mailQueue is what a loop has still to route: what entities said under their locks, in order. It is empty
// whenever nothing runs on the loop.
type mailQueue struct {
	l             *LoopRouter
	envelopes     []envelope
	next          int
	buf           []byte
	delivering    bool
	pulls         []*Session // whose sources are to be asked before the next letter
	directSenders []*Entity  // that have letters in list, and are to be told when those are routed
}

// fanoutQueue are what a loop has to deliver for entities that have something spread, in turn. The loop's.
type fanoutQueue struct {
	l         *LoopRouter
	queues    []*entityQueue
	posted    bool   // serve is
	serveFunc func() // turn: made once, posted often
}

// An entityQueue is what one loop has to deliver for one entity, first in, first out.
type entityQueue struct {
	entity *Entity
	parts  []loopPart
}

// A loopPart is one loop's of a job.
type loopPart struct {
	*dispatchedJob
	chunks    []*chunk // what is not served yet; nil: the letter's own address
	offset    int      // how far the first chunk was served
	congested bool     // a receiver's client does not take what it is sent
}

// A dispatchedJob is a job whose parts are with their loops. Left and crowded are under its entity's lock.
type dispatchedJob struct {
	job
	entity    *Entity
	partsLeft int
	congested bool
}

// commitWaiterList are what waits on a loop for commits that are not settled. The loop's.
type commitWaiterList struct {
	l          *LoopRouter
	waiters    []commitWaiter // in the order in which they were added; mostly that of their tickets
	settleFunc func()         // settleAll: made once, posted often
}

// A commitWaiter is what depends on a commit: a stanza's answer, or with f something else.
type commitWaiter struct {
	ticket         Ticket
	creationTicket Ticket // of the batch that made at: what was committed behind it fails with it
	ev             *Stanza
	entity         *Entity
	st             *Stream
	then           func(ev *Stanza, err error) Verdict
	callback       func(err error)
}

// An ackWindow is what is open of a tracked stream. Its loop's.
type ackWindow struct {
	st            *Stream
	settledNumber uint32     // the longest settled prefix
	lastNumber    uint32     // the number of the last stanza that was taken
	entries       []ackEntry // of settled+1 to last
}

// An ackEntry is one stanza of a ledger.
type ackEntry struct {
	open   bool
	failed bool // something of it could not be stored: its sender was told
}

// A Ticket numbers what was given to the store; tickets grow and become durable in order. Zero is
// durable already.
type Ticket uint64

// Committer is the committer as the kernel sees it; tests have one that is durable at once. Any
// goroutine.
type Committer interface {
	// LastSettled is the last ticket that is settled: it and all before it are durable or have failed.
	LastSettled() Ticket
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
	// Lookup is the id and the kind of what is at addr; false: nothing.
	Lookup(snap any, addr jid.JID) (id uint64, kind string, ok bool, err error)
}

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

// A mailbox is an Entity as what takes stanzas in: those that can't be looked at yet wait in its inbox.
// Under the lock, unless a line says otherwise.
type mailbox struct{ *Entity }

// A sender is an Entity as what says something: what is under way from it. Under the lock, unless a line
// says otherwise.
type sender struct{ *Entity }

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

// empty reports whether nothing waits, and nothing is spread.
func (w *pendingState) empty() bool {
	return w.inbox.empty() && !w.outgoing.dispatching() && len(w.requests) == 0 && !w.draining
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

// liveState is the live state of an entity that is no account.
type liveState struct {
	value          any
	creationTicket Ticket // of the batch that made the entity, until that is durable
	placements     map[jid.JID]placement
	recipients     []*Recipients
	pendingMoves   []jid.JID // whose place is to change once nothing of the entity is spread
}

// A placement says which loop serves a receiver of an entity, whatever the entity says to it.
type placement struct {
	loop, wantedLoop uint16
	sets             uint16 // how many Seats it is in
	movePending      bool   // it is in lived.pendingMoves
}

// Live is the live state of e, as New made it; nil if e has none of this type. Under the lock.
func Live[T any](e *Entity) *T {
	if x, ok := e.live.(*liveState); ok {
		v, _ := x.value.(*T)
		return v
	}
	return nil
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

// Recipients are receivers: those that an entity keeps (a room's occupants), made by [NewRecipients], or
// gathers for once (the contacts of a roster), lent by [LoopRouter.TempRecipients]. They are grouped by
// the loop that serves each. A broadcast shares them: what it shares is copied when they change, not when
// they are used. Under the entity's lock.
type Recipients struct {
	owner  *Entity           // nil: gathered for once
	byLoop [][]*chunk        // by loop
	index  map[jid.JID]int32 // the position in the group
	// by loop, of receivers that are gathered for once: nothing else is used of those
	tempByLoop  [][]jid.JID
	n           int
	epoch       uint32 // counts broadcasts
	copiedEpoch uint32 // the epoch in which groups was copied
	groupEnds   []groupEnd
}

// A groupEnd is where one group ends.
type groupEnd struct {
	n           int    // receivers in it
	copiedEpoch uint32 // the epoch in which its list of chunks was copied
}

// A chunk is a few receivers.
type chunk struct {
	addrs       []jid.JID
	copiedEpoch uint32 // the epoch in which it was copied
}

// An envelope is a stanza between two entities: addresses, bytes and numbers, never a pointer, a function
// or an interface. It means the same on another loop and later.
type envelope struct {
	from, to         jid.JID
	bytes            []byte // in the loop's mail buffer, or an inbox's or a job's own copy
	lang             string // of the sender's stream
	origin           Origin // of a stanza that a client sent, and of what it sets off
	lastWrite        Ticket // what a carrier has made entities store so far
	creationTicket   Ticket // see Stanza
	kind             stanza.Kind
	target           Target
	hops             uint8
	originLoopNumber uint16 // of the connection that the stanza came from, and one; 0: not known
	form             envelopeForm
	settlesOrigin    bool // origin is settled where the stanza ends
	prePending       bool // the sender's Pre chain is yet to run
	noTo             bool // it had no 'to'
	unprocessed      bool // it answers a stanza that no entity has looked at: it waits for nothing
}

// An envelopeForm says what the bytes of an envelope are.
type envelopeForm uint8

const (
	formStanza envelopeForm = iota // one element, that chains look at
	formReply                      // one, made by this server for one session: no chain looks at it
	// of an entity to a session: it has more for it; the bytes say what. See [LoopRouter.MoreWhenDrained]
	formMoreAvailable
	formMoreRequest // of a session to an entity: it has room for that
)

// An inbox is what waits for one entity, in order: stanzas, and calls of this process.
type inbox struct {
	items []inboxItem
	calls []inboxCall // one for each item that is a call
	bytes int
}

// An inboxItem is a stanza, or the next of the calls.
type inboxItem struct {
	envelope
	isCall bool
}

// An inboxCall wants the entity warm and its lock.
type inboxCall struct {
	f    func(l *LoopRouter, e *Entity, err error)
	loop *LoopRouter // where f runs
}

func (b *inbox) empty() bool { return len(b.items) == 0 }

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

// outgoingState is what is under way from one entity. Under its lock.
type outgoingState struct {
	deferred  []job // that wait until what was said straight is delivered
	partsLeft int   // parts that loops have not delivered
	jobs      int   // broadcasts in queue, or with parts left
	bytes     int   // of all that is in queue, or with parts left
}

// A job is something that an entity said: one letter, or a broadcast.
type job struct {
	env        envelope
	recipients [][]*chunk // by loop, never changed; nil: the letter's own address
}

// dispatching reports whether receivers belong to their loops now.
func (d *outgoingState) dispatching() bool { return d.partsLeft > 0 || len(d.deferred) > 0 }

func domainOf(j jid.JID) string {
	_, d, _ := j.Parts()
	return d
}

// creationTicketOf is the ticket of the batch that made e, until that is durable; then 0.
func creationTicketOf(e *Entity) Ticket {
	if v, ok := e.live.(*liveState); ok {
		return v.creationTicket
	}
	return 0
}

// invalidate makes e cold, as what is in memory is not what is stored.
func (e *Entity) invalidate() {
	if e.resident != nil && e.resident != evictedMark && (e.id != 0 || e.kind == KindAccount) {
		e.resident = &residentSet{exists: e.resident.exists}
	}
}
