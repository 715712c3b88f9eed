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

func domainOf(j jid.JID) string {
	_, d, _ := j.Parts()
	return d
}

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

// add puts el, under env's addresses, behind what is there. el is copied.
func (m *mailQueue) add(env envelope, el []byte) {
	m.l.stats.Mailed++
	env.bytes = m.copyBytes(el)
	m.envelopes = append(m.envelopes, env)
}

// copyBytes copies el into the mail's buffer. Old letters keep the array they were put into when it grows.
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
