package session

import (
	"hash/maphash"
	"io"
	"log/slog"
	"maps"
	"sync"
	"sync/atomic"

	"canto/reactor"
	"canto/session/jid"
	"canto/session/stanza"
	"canto/xmlstream"
)

// A Router is the kernel of one process: it takes each stanza from where it came from to where it goes, by
// the rules of RFC 6121 section 8 (stanza_routing.txt, beside this file, is their table). The exported
// fields are set before Start and never change. Its methods may be called by any goroutine.
type Router struct {
	Table       *Table          // hosts, and the entities in memory
	Committer   Committer       // the store's group committer
	Directory   Directory       // which entity is at an address
	Workers     reactor.Workers // for work that blocks
	Log         *slog.Logger    // of the process
	Node        uint16          // number of this process, in ids
	Incarnation uint32          // number of this start of the process, in ids

	CurrentTick func() reactor.Tick // the reactor's clock; any goroutine

	// StreamID makes the id of a stream header: unpredictable, 128 bits (RFC 6120 section 4.7.3).
	StreamID func() string
	// Random gives the bytes of the ids of the server's own requests ([LoopRouter.Ask]). Loops read it at the
	// same time, and it must not block.
	Random io.Reader
	// AskID makes the id of a request of the server itself ([LoopRouter.Ask]). Nil: 96 random bits. A test
	// sets it, so that its requests have the same ids every time; they begin with ask- as well. Any goroutine
	// calls it.
	AskID func() string

	loopRouters   []*LoopRouter // by index of the loop; set by Start
	stopping      atomic.Bool   // Stop was called: only a session that persists may hibernate
	limitsInForce atomic.Pointer[limitSet]
	streams       atomic.Uint64 // the id of the newest stream
	asks          atomic.Int64  // requests of entities and hosts that have no answer yet: see ask.go
	hostAsks      hostAsks
	// refused has a *atomic.Uint64 for each limit name: connections that were refused before they had a
	// loop. The names are a fixed set.
	refused sync.Map

	Counters // of the modules
}

// Tick returns the time on the reactor's clock, in ticks of 100 ms.
func (r *Router) Tick() reactor.Tick { return r.CurrentTick() }

// LoopRouter returns the kernel's part of loop. After Start.
func (r *Router) LoopRouter(loop *reactor.Loop) *LoopRouter { return r.loopRouters[loop.Index()] }

// LoopRouters returns the kernel's parts of all loops, by their index. The slice must not be
// changed. After Start.
func (r *Router) LoopRouters() []*LoopRouter { return r.loopRouters }

// homeLoop returns the loop that works for an address when no stanza has chosen one, as for a
// kick.
func (r *Router) homeLoop(bare jid.JID) *LoopRouter {
	return r.loopRouters[int(bare.Partition())%len(r.loopRouters)]
}

// Limits returns the limits in force for the process.
func (r *Router) Limits() Limits { return r.limitsInForce.Load().Limits }

// limits returns the limits in force, with those of the parser.
func (r *Router) limits() *limitSet { return r.limitsInForce.Load() }

// HostLimits returns the limits in force for h: its own, or those of the process.
func (r *Router) HostLimits(h *Host) Limits { return *r.hostLimits(h) }

// hostLimits is HostLimits without the copy.
func (r *Router) hostLimits(h *Host) *Limits {
	if p := h.Profile(); p != nil && p.Limits != nil {
		return p.Limits
	}
	return &r.limitsInForce.Load().Limits
}

// unauthedLimits are the parser's limits for a peer that has not logged in: enough for a stream header and
// SASL, and no more (attack X13).
var unauthedLimits = xmlstream.Limits{Depth: 8, NameBytes: 256, Prefixes: 8, Attrs: 16, StanzaAttrs: 64,
	Nodes: 32}

// SetLimits puts new limits in force, for open streams too. It returns an error, and changes
// nothing, if the parser cannot keep them.
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

// CountRefused counts a connection that was refused by the limit of that name.
func (r *Router) CountRefused(limit string) {
	n, _ := r.refused.LoadOrStore(limit, new(atomic.Uint64))
	n.(*atomic.Uint64).Add(1)
}

// EachRefused calls f with the counter of each limit that has refused a connection.
func (r *Router) EachRefused(f func(limit string, n uint64)) {
	r.refused.Range(func(limit, n any) bool {
		f(limit.(string), n.(*atomic.Uint64).Load())
		return true
	})
}

// A LoopRouter is the kernel's part of one loop: the parser, the queues of the loop, its counters and
// caches. Only its loop may use it, unless a method's comment says otherwise.
type LoopRouter struct {
	Loop   *reactor.Loop     // never changes
	Parser *xmlstream.Parser // of all streams of the loop; what is a stream's is in Stream.in
	Log    *slog.Logger      // the process's

	router         *Router
	jids           *jid.Cache   // canonical addresses by their raw bytes
	seed           maphash.Seed // of interned
	lockedEntity   *Entity      // the entity that this loop has locked; nil: none
	enterDepth     int          // calls of enter without leave
	loopNumber     uint16       // the loop's index + 1
	congestedBytes int          // bytes delivered to congested wires while the present element is handled
	fanoutBytes    int          // bytes of broadcasts, times recipients, while the present element is handled

	mail    mailQueue
	stanzas stanzaStack

	interned   [internedElements][]byte // see Intern
	recipients Recipients               // see TempRecipients
	appender   xmlstream.Appender       // see Appender
	forwarder  xmlstream.Appender       // for [Stanza.AppendForwarded], which is called while appender is in use
	scratch    []byte                   // the bytes of a delivery; the next one overwrites it
	// origin and originLoopNumber are those of the stanza that is processed. What its hooks send has them too.
	origin           Origin
	originLoopNumber uint16

	ackWindows    map[uint64]*ackWindow // of tracked streams, by Stream.ID
	commitWaiters commitWaiterList
	loads         int  // loads of entities that are under way: stanzas wait for them
	persisted     bool // the sessions of the loop's accounts were made durable, after their streams: see Busy
	fanout        fanoutQueue
	stats         Stats
	sweepAt       int       // the shard that was swept last
	swept         []*Entity // scratch memory of a sweep
	sweepTimer    reactor.Timer
	askBytes      []byte // random bytes for the ids of requests, read ahead: see newAskID
}

// A hostAsks has the requests of hosts that have no answer yet, by id. Any goroutine uses it.
type hostAsks struct {
	mu     sync.Mutex // guards the fields below
	byID   map[string]*pendingAsk
	byHost map[*Host]int // how many each host has
	n      atomic.Int32  // how many there are, so that most answers need no lock
}

// Bounds of the elements that sessions share in memory (LoopRouter.Intern): much presence is the same, as
// it is mostly the client's name and capabilities.
const (
	internedElements = 512  // entries of the cache of a loop
	maxInternedBytes = 1024 // a longer element is most likely one user's own
)

// Router returns the process's router. Any goroutine.
func (l *LoopRouter) Router() *Router { return l.router }

// JID returns the canonical form of an address as it was sent (RFC 7622), or an error if it is
// malformed. It allocates only if the loop's cache does not have the address.
func (l *LoopRouter) JID(raw []byte) (jid.JID, error) { return l.jids.Parse(raw) }

// CountLimit counts that a limit was hit. Names are a fixed set, because each is a label of a
// metric.
func (l *LoopRouter) CountLimit(name string) { l.stats.Limits[name]++ }

// domainOf returns the domain of j.
func domainOf(j jid.JID) string {
	_, d, _ := j.Parts()
	return d
}

// Stats are the counters of a loop. Only the loop writes them; LoopRouter.Stats copies them.
type Stats struct {
	In, Out             [stanza.NumKinds]uint64      // stanzas from clients; stanzas delivered to sessions
	Bound, Unbound      uint64                       // sessions that began and that were removed
	Ended               [numEndings]uint64           // sessions that were removed, by Ending
	Superseded          uint64                       // stanzas dropped because their stream had lost its session
	Streams, StreamsEnd uint64                       // streams that began and that ended
	Bounced             [stanza.NumConditions]uint64 // stanza errors sent, by condition
	StreamErrors        map[string]uint64            // stream errors sent, by condition; a fixed set
	Mailed, Inboxed     uint64                       // envelopes; stanzas that had to wait in an inbox
	InboxFull           uint64                       // stanzas refused because an inbox was full
	Loads               uint64                       // loads of resident sets
	Panics              uint64                       // panics that a boundary has handled
	Asked               uint64                       // requests that the server itself has sent (Ask)
	Answered            uint64                       // of those, how many got their answer
	AskTimeouts         uint64                       // of those, how many did not
	StrayAnswers        uint64                       // answers that no request waits for: see ask.go
	Limits              map[string]uint64            // limits hit, by name; a fixed set
}

// Add adds the counters of o to s. s must have its maps.
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
	s.Asked, s.Answered = s.Asked+o.Asked, s.Answered+o.Answered
	s.AskTimeouts, s.StrayAnswers = s.AskTimeouts+o.AskTimeouts, s.StrayAnswers+o.StrayAnswers
	for k, n := range o.StreamErrors {
		s.StreamErrors[k] += n
	}
	for k, n := range o.Limits {
		s.Limits[k] += n
	}
}

// Stats returns a copy of the counters. On the loop.
func (l *LoopRouter) Stats() Stats {
	s := l.stats
	s.StreamErrors, s.Limits = maps.Clone(s.StreamErrors), maps.Clone(s.Limits)
	return s
}

// A mailQueue has the envelopes that a loop has still to route: what entities have sent under their locks,
// oldest first. It is routed when no lock is held (deliver in route.go), and empty whenever the loop runs
// nothing of the kernel.
type mailQueue struct {
	l             *LoopRouter
	envelopes     []envelope
	next          int        // index of the next envelope to route
	buf           []byte     // holds the bytes of the envelopes
	delivering    bool       // deliver runs
	pulls         []*Session // sessions with a source to pull from before the next envelope
	directSenders []*Entity  // entities with envelopes here: see Entity.directLoop
}

// add appends an envelope with the bytes el, which are copied.
func (m *mailQueue) add(env envelope, el []byte) {
	m.l.stats.Mailed++
	env.bytes = m.copyBytes(el)
	m.envelopes = append(m.envelopes, env)
}

// copyBytes copies el into the queue's buffer and returns the copy, valid until the queue is
// delivered. When the buffer grows, older envelopes keep the old array.
func (m *mailQueue) copyBytes(el []byte) []byte {
	b := m.buf
	if len(b)+len(el) > cap(b) {
		b = make([]byte, 0, max(4096, 2*cap(b), len(el)))
	}
	n := len(b)
	b = append(b, el...)
	m.buf = b
	return b[n:len(b):len(b)]
}

// A fanoutQueue is the run queue of a loop's deliveries for entities that fan out: round robin by entity,
// a share each turn (serveTurn in route.go).
type fanoutQueue struct {
	l         *LoopRouter
	queues    []*entityQueue // the next one to serve is the first
	posted    bool           // serveFunc was posted to the loop and has not run
	serveFunc func()         // serveTurn, made once because it is posted often
}

// An entityQueue has what one loop has to deliver for one entity, first in, first out.
type entityQueue struct {
	entity *Entity
	parts  []loopPart
}

// A loopPart is one loop's part of a dispatched job.
type loopPart struct {
	*dispatchedJob
	chunks    []*chunk // recipients that are not served yet; nil from the start: env.to alone
	offset    int      // how many recipients of the first chunk were served
	congested bool     // a recipient's client was congested
}

// A dispatchedJob is a job whose parts were given to their loops. Its entity's lock guards partsLeft and
// congested.
type dispatchedJob struct {
	job
	entity    *Entity
	partsLeft int
	congested bool
}

// A commitWaiterList has the callbacks of a loop for commits that are not settled: see commit.go.
type commitWaiterList struct {
	l          *LoopRouter
	waiters    []commitWaiter // in the order of add, which is nearly that of their tickets
	settleFunc func()         // settleAll, made once because it is posted often
	buffers    [][]byte       // buffers for stored stanzas that are not in use
}

// A commitWaiter is a callback for the ticket of a batch: the answer to a stanza (ev and then), or callback
// alone. With entity and neither of them it only invalidates the entity after a failure, and with the bytes
// of stored it answers that stanza with an error.
type commitWaiter struct {
	ticket         Ticket
	creationTicket Ticket  // of the batch that creates entity: if it fails, so does this commit
	senderTicket   Ticket  // of stored: see Stanza.senderTicket
	ev             *Stanza // a copy
	entity         *Entity
	st             *Stream // parked until the ticket is settled; nil: none
	then           func(ev *Stanza, err error) Verdict
	callback       func(err error)
	stored         envelope // the stanza that a failure is answered to; its bytes are of the list's buffers
}

// An ackWindow has the stanzas of one tracked stream that are not settled: see Stream.Track.
type ackWindow struct {
	st            *Stream
	settledNumber uint32     // all stanzas up to this number are settled
	lastNumber    uint32     // number of the newest stanza
	entries       []ackEntry // of the stanzas from settledNumber+1 to lastNumber
	sess          *Session   // of st
	// closed: st reads no more. cut: its session has another stream, so later stanzas of st are dropped, and
	// not counted. waiters are called when all entries of a closed window are settled.
	closed, cut bool
	waiters     []func()
	// answer waits for the settling of all entries, until the tick answerBy: see WhenSettled. armed: a
	// timer runs.
	answer   func(st *Stream, n uint32)
	answerBy reactor.Tick
	armed    bool
}

// An ackEntry is one stanza of an ackWindow.
type ackEntry struct {
	open   bool // it is not settled
	failed bool // something of it could not be stored; its sender was notified
}
