// Package offline keeps messages for accounts that have no resource to take them (XEP-0160), and
// hands them over, each with the time it came (XEP-0203), before anything live.
//
//	romeo:  <message to='juliet@localhost' type='chat'><body>Later</body></message>
//	juliet: <presence/>
//	juliet gets: <message from='romeo@localhost/orchard' to='juliet@localhost' type='chat'><body>Later</body>
//	             <delay xmlns='urn:xmpp:delay' from='localhost' stamp='2026-01-01T00:00:00Z'/></message>
//
// State in a session: the numbers of the rows that its client has; and while it is given some, a
// [session.Source] that reads them a slice at a time. Live messages wait behind it, and leave when it is
// exhausted; those for which there was no room to wait are stored behind the others, and another Source
// follows. Rows are erased once the socket has taken them, on a connection that was not closing by then.
// If the session ends before, what it held back is stored in its place, and another available resource
// goes on. If the store or a worker fails, it is tried again with growing pauses. Resident in an account:
// how many there are. Stored: one row a message, in order. Phase Fallback: only what no resource took is
// kept. Kept are messages of type normal and chat, unless a chat state is all there is (XEP-0160 §3) or a
// hint says no-store; with the hint store (XEP-0334 §4.4) a chat state is kept too. What is not kept is
// answered with service-unavailable (RFC 6121 §8.5.2.2.1).
package offline

import (
	"context"
	"errors"
	"math"

	"canto/reactor"
	"canto/session"
	"canto/session/jid"
	"canto/session/stanza"
	"canto/session/storage"
	"canto/session/store"
	"canto/session/wallclock"
	"canto/xmlstream"
)

// Manifest is how the loader knows this module.
var Manifest = session.Manifest{
	Name:     "offline",
	Spec:     "XEP-0160 1.0.1, XEP-0203 2.0",
	Summary:  "keeps messages for those who are away",
	Cases:    "storage by type, delivery at presence, order, limits, no-store",
	Provides: []session.Feature{"offline"},
	Requires: []session.Feature{"accounts", "message", "resident", "store", "message-delivery"},
	Options:  func() any { o := defaultOptions(); return &o },
	New:      func() session.Module { return new(module) },
}

const (
	nsChatStates = "http://jabber.org/protocol/chatstates"
	nsHints      = "urn:xmpp:hints"
	nsStanzaID   = "urn:xmpp:sid:0"
)

var (
	rows        = store.NewLog[[]byte]("offline", 'o', 1)
	part        = session.NewPart[backlog]("offline")
	noStoreHint = xmlstream.N(nsHints, "no-store")
	storeHint   = xmlstream.N(nsHints, "store")
	delay       = xmlstream.N("urn:xmpp:delay", "delay")
)

// backlog is what is resident.
type backlog struct {
	count, bytes int
	next         uint64 // number of the next row
}

// reservedRows are as many as a session holds back at most.
const reservedRows = 1000

// progress is how far a session has come with what is stored.
type progress struct {
	nextRow      uint64  // the number of the first row that its socket has not taken
	tries        int     // that failed in a row
	replay       *replay // under way; nil: none
	retryPending bool    // it will be tried again by the clock
}

var progressVar = session.NewSessionVar[progress]("offline", nil)

// sliceBytes is how much is read from the store at a time: what may be on its way to a client.
const sliceBytes = session.LowWaterMark

// A run gives what is stored to one session: a [session.Source].
type replay struct {
	m        *module
	progress *progress
	host     *session.Host
	jid      jid.JID
	id       uint64 // of the account
	after    store.Ticket
	nextRead uint64 // the number of the first row that was not read
	end      uint64 // the number after the last row: what the session holds back comes after it
	err      error  // why it ends before that

	// On the loop of the session's stream:
	unsent  []row // read, and not asked for
	reading bool  // a worker reads
	// Under the account's lock:
	backlog  *backlog // as it was resident when the run began
	inFlight []row    // without their bytes, and not known to be taken
	// Numbers for what the session holds back, before those of messages for which it had no room.
	reserved, reservedEnd uint64
}

// Options are the module's section of the configuration.
type Options struct {
	MaxMessages int `toml:"max_messages"` // of one account
	MaxBytes    int `toml:"max_bytes"`
}

// Check is [session.OptionChecker].
func (o *Options) Check() (key, why string) {
	return session.CheckRanges(
		session.OptionRange{Key: "max_messages", Value: o.MaxMessages, Min: 1, Max: 1_000_000,
			Note: `; to keep none, modules = ["-offline"]`},
		session.OptionRange{Key: "max_bytes", Value: o.MaxBytes, Min: 1024, Max: 1 << 30,
			Note: `; to keep none, modules = ["-offline"]`})
}

func defaultOptions() Options { return Options{MaxMessages: 1000, MaxBytes: 4 << 20} }

type module struct {
	opt  Options
	db   *store.DB
	rows *store.Log[[]byte]
	now  wallclock.Clock
}

func (m *module) Load(api *session.API) error {
	m.opt = defaultOptions()
	if err := api.Decode(&m.opt); err != nil {
		return err
	}
	if m.db = storage.DB(api); m.db == nil {
		return errors.New("there is no store")
	}
	var err error
	if m.rows, err = storage.OpenLog(api, rows); err != nil {
		return err
	}
	m.now = wallclock.Of(api)
	session.Resident(api, part, m.load)
	for _, t := range []session.Target{session.ToSelf, session.ToBare, session.ToFull} {
		api.Hooks.Message[t].Add(api.Module, session.Fallback, m.store)
	}
	api.Hooks.Available.Add(api.Module, session.Deliver, m.startReplay)
	api.Hooks.Unsent.Add(api.Module, session.Deliver, m.storeUnsent)
	api.Hooks.Unbound.Add(api.Module, session.Deliver, m.unbound)
	api.Hooks.Resumed.Add(api.Module, session.Deliver, m.resumed)
	api.Advertise("msgoffline")
	return nil
}

func (m *module) load(snap *store.Snapshot, who session.EntityRef) (k *backlog, err error) {
	err = m.rows.Scan(snap, who.ID, 0, math.MaxUint64, 0, false, func(id uint64, v []byte) bool {
		if k == nil {
			k = new(backlog)
		}
		k.count++
		k.bytes += len(v)
		k.next = id + 1
		return true
	})
	return k, err
}

// store stores what no resource took.
func (m *module) store(ev *session.Stanza) session.Verdict {
	if ev.Type != stanza.TypeNone && ev.Type != stanza.TypeChat {
		return session.Pass
	}
	if !shouldStore(ev.Element) {
		return session.Pass
	}
	a := ev.Account()
	k := mutableBacklog(a)
	ev.Add(m.delay(ev.LoopRouter(), ev.Host))
	el := ev.Append(nil)
	if !m.fits(k, el) {
		ev.LoopRouter().CountLimit("offline")
		return ev.Fail(stanza.ResourceConstraint)
	}
	if m.db.Full() != nil { // what is not kept is said to the sender, not lost
		return ev.Fail(stanza.ResourceConstraint)
	}
	// it had no room for ev, and what it holds back is older
	if r := activeReplay(a); r != nil && r.reservedEnd == 0 {
		r.reserved, r.reservedEnd = k.next, k.next+reservedRows
		k.next = r.reservedEnd
	}
	m.add(storage.BatchOf(ev), a, k, k.next, el)
	k.next++
	return ev.StoredInBatch() // a message that could not be written is answered, not lost
}

// mutableBacklog is what is kept of a, to be changed. Where it is new, numbers go on after those that
// sessions have taken.
func mutableBacklog(a *session.Account) *backlog {
	k := part.Mutable(a)
	for _, s := range a.Resources() {
		if p := progressVar.Get(s); p != nil {
			k.next = max(k.next, p.nextRow)
		}
	}
	return k
}

// delay is when a message came (XEP-0203). It is the loop's Appender's.
func (m *module) delay(l *session.LoopRouter, h *session.Host) []byte {
	return l.Appender().Open(delay).Attr(stanza.AttrFrom, h.Name).Attr(stanza.AttrStamp,
		wallclock.Timestamp(m.now())).Close().B
}

// fits reports whether el may be stored beside what is.
func (m *module) fits(k *backlog, el []byte) bool {
	return k.count < m.opt.MaxMessages && k.bytes+len(el) <= m.opt.MaxBytes
}

func (m *module) add(b *store.Batch, a *session.Account, k *backlog, id uint64, el []byte) {
	m.rows.Append(b, a.ID(), id, el)
	k.count++
	k.bytes += len(el)
}

// shouldStore reports whether a message of type normal or chat is stored (XEP-0160 §3, XEP-0334 §4).
func shouldStore(e xmlstream.Element) bool {
	state, hint, other := false, false, false
	for c, ok := e.First(); ok; c, ok = c.Next() {
		switch space := string(c.Space()); {
		case c.Is(noStoreHint):
			return false
		case c.Is(storeHint):
			hint = true
		case space == nsChatStates:
			state = true
		case space == nsHints, space == nsStanzaID, c.Is(stanza.ThreadName):
		default:
			other = true
		}
	}
	return hint || other || !state
}

// activeReplay is the run that gives what is stored of a to one of its resources; nil: there is none.
func activeReplay(a *session.Account) *replay {
	for _, s := range a.Resources() {
		if p := progressVar.Get(s); p != nil && p.replay != nil {
			return p.replay
		}
	}
	return nil
}

// startReplay begins to give s what is stored, unless a resource is being given it.
func (m *module) startReplay(l *session.LoopRouter, s *session.Session) {
	a := s.Account()
	k := part.Get(a)
	if k == nil || k.count == 0 || activeReplay(a) != nil {
		return
	}
	p := progressVar.Get(s)
	if p == nil {
		p = new(progress)
		progressVar.Set(s, p)
	}
	p.replay = &replay{m: m, progress: p, host: s.Host(), jid: s.JID(), id: a.ID(),
		after:    store.Ticket(a.Ticket()),
		nextRead: p.nextRow, end: k.next, backlog: k}
	s.Pull(l, p.replay, true)
}

// A row is one stored message.
type row struct {
	id   uint64
	el   []byte
	size int
}

// Next is [session.Source]: a row, of a slice that a worker has read.
func (r *replay) Next(l *session.LoopRouter, s *session.Session) (session.OutboundStanza,
	session.NextStatus) {
	if len(r.unsent) > 0 {
		el := r.unsent[0].el
		r.inFlight = append(r.inFlight, row{id: r.unsent[0].id, size: len(el)})
		r.unsent = r.unsent[1:]
		return session.OutboundStanza{Bytes: el, Kind: stanza.Message}, session.NextElement
	}
	if r.err != nil || r.nextRead >= r.end {
		return session.OutboundStanza{}, session.NextExhausted
	}
	if r.reading {
		return session.OutboundStanza{}, session.NextWouldBlock
	}
	r.reading = true
	waker := s.Waker(r)
	if !l.RunOnWorker(r.host, reactor.Disk, r.readSlice, func(_ *session.LoopRouter, err error) {
		r.reading, r.err = false, err
		waker.Wake()
	}) {
		r.reading, r.err = false, session.ErrBusy
		return session.OutboundStanza{}, session.NextExhausted
	}
	return session.OutboundStanza{}, session.NextWouldBlock
}

// readSlice reads the next slice, on a worker.
func (r *replay) readSlice() error {
	r.m.db.Wait(context.Background(), r.after)
	snap := r.m.db.Snapshot()
	defer snap.Close()
	size, last := 0, r.end
	r.unsent = nil
	err := r.m.rows.Scan(snap, r.id, r.nextRead, r.end-1, 0, false, func(id uint64, v []byte) bool {
		r.unsent = append(r.unsent, row{id: id, el: append([]byte(nil), v...)})
		if size += len(v); size >= sliceBytes {
			last = id + 1
			return false
		}
		return true
	})
	r.nextRead = last
	return err
}

// Wanted is [session.Source]: an available resource with a negative priority gets nothing that is stored.
func (r *replay) Wanted(s *session.Session) bool {
	_, prio := s.Presence()
	return s.Available() && prio >= 0
}

// Taken is [session.Source]: it erases n rows.
func (r *replay) Taken(l *session.LoopRouter, s *session.Session, n int) {
	size := 0
	for _, g := range r.inFlight[:n] {
		size += g.size
	}
	r.progress.nextRow, r.progress.tries = r.inFlight[n-1].id+1, 0
	r.inFlight = r.inFlight[n:]
	r.erase(l, s.Account(), n, size)
}

// erase erases what the client has, which is n rows of so many bytes more than before.
func (r *replay) erase(l *session.LoopRouter, a *session.Account, n, size int) {
	k := part.Get(a)
	if k != r.backlog { // the account was read again, as a write has failed
		r.err = errors.New("the account was read again")
		return
	}
	b := r.m.db.NewBatch(a.ID())
	r.m.rows.Trim(b, a.ID(), r.progress.nextRow)
	a.MarkUncommitted(l, session.Ticket(r.m.db.Commit(b)))
	k.count, k.bytes = max(k.count-n, 0), max(k.bytes-size, 0)
}

// End is [session.Source]: what is stored by now is for the first resource that may have it.
func (r *replay) End(l *session.LoopRouter, s *session.Session, why session.SourceEndReason) {
	a, p := s.Account(), r.progress
	p.replay = nil
	k := part.Get(a)
	switch {
	case why == session.SessionEnded: // unbound goes on
	case why == session.StreamEnded:
		r.m.startNext(l, a, s)
	case why == session.SourceFailed || r.err != nil || k != r.backlog:
		r.m.fail(l, r)
	case why == session.SourceDone:
		p.nextRow = r.end
		if k.count > 0 && k.next == r.end {
			r.erase(l, a, k.count, k.bytes) // it had been taken by this client, and was not erased
		}
		r.m.startNext(l, a, nil)
	case why == session.SourceUnwanted:
		r.m.startNext(l, a, nil)
	}
}

// fail tries again after a pause what has ended before it was done, from where the session is, eight
// times at most.
func (m *module) fail(l *session.LoopRouter, r *replay) {
	p := r.progress
	p.tries++
	l.Log.Warn("stored messages could not be handed over", "jid", r.jid.String(), "try", p.tries, "err", r.err)
	m.retryLater(l, r.host, r.jid, p)
}

// retryLater begins again after a pause with what is stored for who, whose progress was p.
func (m *module) retryLater(l *session.LoopRouter, h *session.Host, who jid.JID, p *progress) {
	if p.retryPending || p.tries > 8 {
		return
	}
	p.retryPending = true
	l.After(reactor.Tick(10<<p.tries), func() {
		l.WithAccount(h, who.Bare(), func(l *session.LoopRouter, a *session.Account, exists bool, err error) {
			p.retryPending = false
			switch {
			case progressAt(a, who) != p: // the session has ended
			case err != nil:
				p.tries++
				m.retryLater(l, h, who, p)
			case exists:
				m.startNext(l, a, nil)
			}
		})
	})
}

// progressAt is the progress of the resource who of a, nil if there is none.
func progressAt(a *session.Account, who jid.JID) *progress {
	if a == nil {
		return nil
	}
	if s := a.Resource(who); s != nil {
		return progressVar.Get(s)
	}
	return nil
}

// startNext gives what is stored to the first resource that may have it, but not to one.
func (m *module) startNext(l *session.LoopRouter, a *session.Account, but *session.Session) {
	for _, s := range a.Resources() {
		if _, prio := s.Presence(); s != but && s.Available() && prio >= 0 && !s.Ended() && s.Connected() {
			m.startReplay(l, s)
			return
		}
	}
}

// unbound gives what is stored and s has not taken to the next resource.
func (m *module) unbound(l *session.LoopRouter, s *session.Session) {
	if p := progressVar.Get(s); p != nil && p.replay != nil {
		p.replay = nil // another may begin
		m.startNext(l, s.Account(), s)
	}
}

// resumed goes on with s, which has another stream.
func (m *module) resumed(l *session.LoopRouter, s *session.Session) {
	if _, prio := s.Presence(); s.Available() && prio >= 0 {
		m.startReplay(l, s)
	}
}

// storeUnsent stores, in their place, the messages that s had not sent and that are worth it: they are
// older than any that was stored because s had no room, and newer than the rest. It returns the others.
func (m *module) storeUnsent(l *session.LoopRouter, s *session.Session, list []session.OutboundStanza) (
	left []session.OutboundStanza) {
	a := s.Account()
	var b *store.Batch
	var k *backlog
	p := progressVar.Get(s)
	for _, unsent := range list {
		if unsent.Kind != stanza.Message || unsent.To.IsZero() || !m.shouldStoreBytes(l, unsent.Bytes) {
			left = append(left, unsent)
			continue
		}
		if k == nil {
			k = mutableBacklog(a)
		}
		el := session.AppendChildren(nil, unsent.Bytes, m.delay(l, s.Host()))
		if !m.fits(k, el) || m.db.Full() != nil {
			left = append(left, unsent)
			continue
		}
		if b == nil {
			b = m.db.NewBatch(a.ID())
		}
		id := k.next
		if p != nil && p.replay != nil && p.replay.reserved < p.replay.reservedEnd {
			id = p.replay.reserved
			p.replay.reserved++
		} else {
			k.next++
		}
		m.add(b, a, k, id, el)
	}
	if b != nil {
		a.MarkUncommitted(l, session.Ticket(m.db.Commit(b)))
		m.startNext(l, a, s)
	}
	return left
}

// shouldStoreBytes reports whether el is a message that is stored where no resource takes it.
func (m *module) shouldStoreBytes(l *session.LoopRouter, el []byte) bool {
	e, err := l.Parser.Element(el)
	if err != nil {
		return false
	}
	defer l.Parser.Release(e)
	typ, _ := e.Attr(stanza.AttrType)
	return (len(typ) == 0 || string(typ) == "normal" || string(typ) == "chat") && shouldStore(e)
}
