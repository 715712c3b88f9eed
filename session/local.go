package session

import (
	"bytes"
	"hash/maphash"
	"log/slog"
	"maps"

	"canto/reactor"
	"canto/reactor/buf"
	"canto/session/jid"
	"canto/session/stanza"
	"canto/xmlstream"
)

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
	crowded int     // bytes delivered to wires that are crowded, since Receive began
	copied  int     // bytes of broadcasts, a copy for each receiver, since Receive began

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

func newLocal(r *Router, loop *reactor.Loop) *Local {
	l := &Local{Loop: loop, router: r, Parser: xmlstream.NewParser(&buf.Tail), Log: r.Log, jids: jid.NewCache()}
	l.stats.StreamErrors = make(map[string]uint64)
	l.stats.Limits = make(map[string]uint64)
	l.seed, l.mark = maphash.MakeSeed(), uint16(loop.Index())+1
	l.mail.l, l.commits.l, l.shares.l = l, l, l
	l.commits.settle, l.shares.serve = l.commits.settleAll, l.shares.turn
	return l
}

// Router is the process's. Any goroutine.
func (l *Local) Router() *Router { return l.router }

// JID is the canonical form of an address as it was sent (RFC 7622). It allocates on a miss only.
func (l *Local) JID(raw []byte) (jid.JID, error) { return l.jids.Parse(raw) }

// Elements that many sessions keep alike: presence is mostly the client's name and what it can do.
const (
	sharedElements = 512
	sharedBytes    = 1024 // the longest: more is mostly somebody's own
)

// Shared is a copy of ev as it is to be kept, see [Stanza.AppendKept], never to be changed: one for all who ask
// for the same bytes, as far as the loop remembers them.
func (l *Local) Shared(ev *Stanza) []byte {
	l.scratch = ev.AppendKept(l.scratch[:0])
	b := l.scratch
	if len(b) > sharedBytes {
		return bytes.Clone(b)
	}
	at := &l.shared[maphash.Bytes(l.seed, b)%sharedElements]
	if !bytes.Equal(*at, b) {
		*at = bytes.Clone(b)
	}
	return *at
}

// Account runs f under the lock of the account behind bare, once its resident set is in memory: at
// once, or when it has been read; on l's loop, whichever has read it. exists is false for an address without an
// account; err says why the set could not be read. With an entity lock held it panics.
func (l *Local) Account(h *Host, bare jid.JID, f func(l *Local, a *Account, exists bool, err error)) {
	l.Entity(h, bare, func(l *Local, e *Entity, err error) {
		if e == nil {
			f(l, nil, false, nil)
			return
		}
		f(l, e.account(), e.exists(), err)
	})
}

// sweepEvery is between two looks at one shard each: all of them within a minute and a half.
const sweepEvery = 3 // ticks

// coldAfter is how long an entity without live state is kept after its last stanza, in ticks of 100 ms.
const coldAfter = 600

// OnTimer sweeps the next of this loop's shards: entities that no stanza has asked for leave memory.
func (l *Local) OnTimer(*reactor.Loop) {
	l.enter()
	defer l.leave()
	l.Loop.Arm(&l.sweeper, l.Loop.Tick()+sweepEvery, l)
	n := len(l.router.locals)
	l.sweepAt = (l.sweepAt + n) % shards
	l.sweep(l.sweepAt + l.Loop.Index()%n)
}

func (l *Local) sweep(i int) {
	now := l.Loop.Tick()
	l.swept = l.router.Table.Entities(i, l.swept[:0])
	for _, e := range l.swept {
		e.lock(l)
		if e.idle(l.router) && (e.resident == nil || !e.exists() || now-e.used > coldAfter) && e.cold(l) {
			l.router.Table.drop(e, false, 0)
		}
		e.unlock(l)
	}
	clear(l.swept)
}

// CountLimit counts a limit that was hit, by a name of a fixed set.
func (l *Local) CountLimit(name string) { l.stats.Limits[name]++ }

// Stats is a copy of the counters. The loop.
func (l *Local) Stats() Stats {
	s := l.stats
	s.StreamErrors, s.Limits = maps.Clone(s.StreamErrors), maps.Clone(s.Limits)
	return s
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

// Kick ends all sessions of an account with a stream error, from any goroutine. A stream that has logged in and
// not bound is closed when it binds.
func (r *Router) Kick(bare jid.JID, reason error) {
	r.Table.kicked(bare)
	a, ok := r.Table.Loaded(bare)
	if !ok {
		return // it has no session: an account with one is in memory
	}
	l := r.home(bare)
	l.Loop.Post(func() {
		l.Enter(func() {
			l.Account(a.host, bare, func(l *Local, a *Account, exists bool, err error) {
				if a != nil {
					a.endAll(l, reason, kicked, err == nil)
				}
			})
		})
	})
}

// home is the loop that does what is to be done for an address, where no other has begun.
func (r *Router) home(bare jid.JID) *Local { return r.locals[int(bare.Slot())%len(r.locals)] }
