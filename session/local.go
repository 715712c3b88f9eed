package session

import (
	"bytes"
	"hash/maphash"
	"log/slog"
	"maps"
	"runtime/debug"

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
	moving  bool    // mail is being routed
	crowded int     // bytes delivered to wires that are crowded, since Receive began
	copied  int     // bytes of broadcasts, a copy for each receiver, since Receive began

	mail    []letter
	mailBuf []byte
	next    int
	stack   [8]Stanza
	depth   int

	shared  [sharedElements][]byte
	seats   Seats
	pulls   []*Session // whose sources are to be asked before the next mail
	app     xmlstream.Appender
	scratch []byte
	waits   []wait // commits that are not durable
	jobs    []*fanJob
	fanning bool
	stats   Stats
	sweepAt int
	sweeper reactor.Timer
	settle  func() // made once, posted often
	fan     func()
}

// Stats are a loop's counters: plain numbers that only the loop writes.
type Stats struct {
	In, Out             [stanza.NumKinds]uint64 // stanzas from clients; delivered to sessions
	Bound, Unbound      uint64                  // sessions
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
	l.seed = maphash.MakeSeed()
	l.settle = l.settleWaits
	l.fan = l.fanTurn
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

// enter and leave frame everything that comes from outside: bytes, timers, workers. leave, deferred,
// gives back a lock that a panic left behind, and routes the mail. The panic goes on to whoever
// called.
func (l *Local) enter() {
	l.Loop.Owned()
	l.nest++
}

func (l *Local) leave() {
	if l.held != nil && l.nest == 1 {
		l.letGo() // only a panic leaves with a lock
	}
	if l.nest == 1 && !l.moving && (l.next < len(l.mail) || len(l.pulls) > 0) {
		l.deliverMail()
	}
	l.nest--
}

// letGo gives back the lock that a panic has left behind: what was changed halfway is dropped and read again.
func (l *Local) letGo() {
	e := l.held
	if e.resident != nil && e.resident != goneMark && e.resident.kind == nil {
		e.resident = nil
	}
	l.held, l.depth = nil, 0
	e.mu.Unlock()
	unlockCheck(e)
}

// caught, deferred around what one stream's bytes set off, turns a panic into the end of that
// stream.
func (l *Local) caught(st *Stream) {
	if r := recover(); r != nil {
		l.panicked(r, st.Peer())
		st.Close(ErrInternal)
	}
}

// contain, deferred around one item of many (a piece of mail, a receiver of a broadcast, a commit), keeps a
// panic to that item. No entity lock was held when the item began.
func (l *Local) contain(who jid.JID) {
	if r := recover(); r != nil {
		l.panicked(r, who)
	}
}

// panicked counts and logs a panic, and gives back the lock that it left behind.
func (l *Local) panicked(r any, who jid.JID) {
	l.stats.Panics++
	l.Log.Error("panic in a handler", "jid", who.String(), "panic", r, "stack", string(debug.Stack()))
	if l.held != nil {
		l.letGo()
	}
}

// failed answers an iq request whose handler has panicked (RFC 6120 §8.2.3: each request has one answer).
func (l *Local) failed(ev *Stanza) {
	if ev.Kind == stanza.IQ && (ev.Type == stanza.TypeGet || ev.Type == stanza.TypeSet) {
		ev.on = l
		ev.Fail(stanza.InternalServerError)
	}
}

// Enter runs f as something that came from outside, for timers and posts of modules: mail that f
// causes is routed when it returns.
func (l *Local) Enter(f func()) {
	l.enter()
	defer l.leave()
	f()
}

func (l *Local) lock(e *Entity) {
	if l.held != nil {
		panic("session: a second entity lock on one loop")
	}
	lockCheck(e)
	e.mu.Lock()
	l.held = e
}

func (l *Local) unlock() {
	e := l.held
	l.held = nil
	e.mu.Unlock()
	unlockCheck(e)
}

// lockAccount takes the lock of the account behind bare, in the table from then on; false: there is
// no such account.
func (l *Local) lockAccount(h *Host, bare jid.JID) (*Account, bool) {
	for {
		a, ok := l.router.Table.Account(h, bare)
		if !ok {
			return nil, false
		}
		l.lock(&a.Entity)
		if a.resident != goneMark {
			return a, true
		}
		l.unlock()
	}
}

// Account runs f under the lock of the account behind bare, once its resident set is in memory: at
// once, or when it has been read; on l's loop, whoever has read it. exists is false for an address without an account; err says why
// the set could not be read. With an entity lock held it panics.
func (l *Local) Account(h *Host, bare jid.JID, f func(l *Local, a *Account, exists bool, err error)) {
	a, ok := l.lockAccount(h, bare)
	if !ok {
		f(l, nil, false, nil)
		return
	}
	defer l.unlock()
	if !a.waits() {
		a.used = l.Loop.Tick()
		f(l, a, a.resident.exists, nil)
		return
	}
	a.put(item{home: l, fn: f})
	l.load(a)
}

// load has a worker read the resident set of a, whose lock is held, and then works off its inbox.
func (l *Local) load(a *Account) {
	if a.inbox.taken || a.warm() && a.sending > 0 {
		return
	}
	a.inbox.taken = true
	l.stats.Loads++
	r, host := l.router, a.host
	p := host.Profile()
	var old []any
	after := a.ticket
	if a.resident != nil {
		old = a.resident.parts
	}
	births := r.Table.births(a.bare)
	got := &p.nobody
	var id uint64
	before := a.id
	work := func() (err error) {
		if err = r.Durable.Await(after); err != nil {
			r.Log.Warn("a commit failed; the account is read again", "jid", a.bare.String(), "err", err)
		}
		snap := r.Durable.Snapshot()
		if c, ok := snap.(interface{ Close() error }); ok {
			defer c.Close()
		}
		var exists bool
		id, exists, err = r.Directory.Account(snap, a.bare)
		if err != nil || !exists {
			return err
		}
		if id != before {
			old = nil // they are of an account that was deleted
		}
		got, err = p.read(snap, Who{a.bare, id}, old)
		return err
	}
	if !l.do(p, reactor.Disk, work, func(err error) { l.loaded(a, got, id, births, err) }) {
		// The disk's queue is full: what waits is told so, in its order.
		l.Loop.Post(func() { l.loaded(a, nil, 0, births, ErrBusy) })
	}
}

// loaded takes over what load read and works off the inbox, an item under the lock each, with the
// mail of one routed before the next.
func (l *Local) loaded(a *Account, got *resident, id uint64, births uint32, err error) {
	l.enter()
	defer l.leave()
	l.lock(&a.Entity)
	if err == nil && a.resident != goneMark {
		a.used = l.Loop.Tick()
		if a.id != 0 && (!got.exists || a.id != id) { // it was deleted, and the name may be another's by now
			a.resident = nil // hooks have nothing to look at
			a.forget(l)
		}
		if got.exists {
			a.id = id
		}
		a.resident = got
	} else if err != nil {
		l.Log.Error("an account could not be read", "jid", a.bare.String(), "err", err)
	}
	l.workOff(a, births, err)
	l.unlock()
}

// workOff runs what waits in a's inbox, in order, until it is empty or a has to wait again, and drops an a that
// nobody needs: births is of the load. What is another loop's runs there, and what is behind it follows from there.
// The lock is held at the call and at the return, not in between; the inbox, if there is one, is the caller's to take.
func (l *Local) workOff(a *Account, births uint32, err error) {
	for a.inbox != nil {
		b := a.inbox
		b.taken = true
		if a.resident == goneMark {
			l.rehome(a)
			return
		}
		if err == nil && !a.warm() {
			// A hook's panic or failed commit dropped the set: the rest waits for the next load.
			b.taken = false
			l.load(a)
			return
		}
		if len(b.items) == 0 {
			a.inbox = nil
			break
		}
		if err == nil && a.sending > 0 {
			b.taken = false
			return
		}
		if h := b.items[0].home; h != nil && h != l {
			if h.Loop.Post(func() { h.takeOver(a, births, err) }) {
				return
			}
			b.items[0].fn = func(*Local, *Account, bool, error) {} // its loop has ended, and what it is for
		}
		it := b.items[0]
		b.items[0] = item{}
		b.items = b.items[1:]
		b.bytes -= len(it.letter.bytes)
		l.work(a, it, err)
		l.lock(&a.Entity)
	}
	if a.resident != goneMark && a.inbox == nil && len(a.sessions) == 0 && (err != nil || a.warm() && !a.resident.exists) && a.pins == 0 {
		l.router.Table.drop(a, err == nil, births)
	}
}

// rehome hands what waits for a, which has left the table, to the account that has its address now: a deleted
// account is not brought back. The lock is held at the call and at the return, not in between.
func (l *Local) rehome(a *Account) {
	items := a.inbox.items
	a.inbox = nil
	l.unlock()
	for _, it := range items {
		switch {
		case it.fn != nil:
		case it.letter.fresh != nil: // its session has ended
			continue
		default:
			l.append(it.letter, it.letter.bytes)
			continue
		}
		home := it.home
		if home == nil {
			home = l
		}
		home.Loop.Post(func() { home.Enter(func() { home.Account(a.host, a.bare, it.fn) }) })
	}
	l.deliverMail()
	l.lock(&a.Entity)
}

// takeOver goes on with an inbox that another loop was working off.
func (l *Local) takeOver(a *Account, births uint32, err error) {
	l.enter()
	defer l.leave()
	l.lock(&a.Entity)
	l.workOff(a, births, err)
	l.unlock()
}

// work runs what has waited for a. Then the lock is given back and mail goes out, as behind a stanza. A panic ends
// it alone.
func (l *Local) work(a *Account, it item, err error) {
	defer func() {
		if r := recover(); r != nil {
			l.panicked(r, a.bare)
			if len(it.letter.bytes) > 0 {
				l.failLetter(a, it.letter)
			}
			l.deliverMail()
		}
	}()
	exists := a.resident != nil && a.resident.exists
	switch {
	case it.fn != nil:
		it.fn(l, a, exists, err)
	case it.letter.fresh != nil:
		l.resume(a, it.letter, err)
	default:
		l.arriveLetter(a, it.letter, err)
	}
	if l.held == &a.Entity {
		l.unlock()
	}
	l.deliverMail()
}

// ErrBusy: a worker queue is full.
var ErrBusy = errBusy{}

type errBusy struct{}

func (errBusy) Error() string { return "session: the workers have no room" }

// sweepEvery is between two looks at one shard each: all of them within a minute and a half.
const sweepEvery = 3 // ticks

// coldAfter is how long a resident set without session is kept, in ticks of 100 ms.
const coldAfter = 600

// OnTimer sweeps the next of this loop's shards: resident sets that nobody asked for are dropped.
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
	for _, a := range l.router.Table.Accounts(i, nil) {
		l.lock(&a.Entity)
		if r := a.resident; a.inbox == nil && len(a.sessions) == 0 && r != goneMark &&
			a.pins == 0 && (r == nil || now-a.used > coldAfter) && a.ticket <= l.router.Durable.Durable() {
			l.router.Table.drop(a, false, 0)
		}
		l.unlock()
	}
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
					a.endAll(l, reason, err == nil)
				}
			})
		})
	})
}

// forget ends the sessions of an account that was deleted. What they hold back is for no one else of that name.
func (a *Account) forget(l *Local) {
	for _, s := range a.sessions {
		for _, h := range s.emptied(l, SessionEnded) {
			if h.kind == stanza.IQ {
				l.again(h) // a request has an answer all the same
			}
		}
	}
	a.endAll(l, ErrNotAuthorized, true)
}

// endAll ends a's sessions; unbind: at once, else each is unbound when its connection is closed.
func (a *Account) endAll(l *Local, reason error, unbind bool) {
	for _, s := range append([]*Session(nil), a.sessions...) {
		s.Close(reason)
		if unbind {
			a.Unbind(l, s)
		}
	}
}

// home is the loop that does what is to be done for an address, where no other has begun.
func (r *Router) home(bare jid.JID) *Local { return r.locals[int(bare.Slot())%len(r.locals)] }
