// Package offline stores messages that no session of their account accepts (XEP-0160). It delivers them when
// a client of the account becomes available, before any live message. Each stored message has the
// time of its arrival as a delay element (XEP-0203).
//
//	romeo:  <message to='juliet@localhost' type='chat'><body>Later</body></message>
//	juliet: <presence/>
//	juliet gets: <message from='romeo@localhost/orchard' to='juliet@localhost' type='chat'><body>Later</body>
//	             <delay xmlns='urn:xmpp:delay' from='localhost' stamp='2026-01-01T00:00:00Z'/></message>
//
// Which messages are stored. A message is stored if its type is normal or chat. It is not stored if its
// only content is a chat state (XEP-0160 section 3), or if it has the hint no-store. With the hint store
// (XEP-0334 section 4.4) a chat state alone is stored too. The kernel answers a message that is not stored
// with service-unavailable (RFC 6121 section 8.5.2.2.1). A message for which the limits or the disk have no
// space is answered with resource-constraint.
//
// Replay. When a session becomes available, it gets a [replay]: a [session.Source] that reads the stored
// messages in slices on a worker. An account has at most one replay at a time. The kernel queues live
// messages to that session until the replay has ended. If the session's queue is full, the live message is
// stored after the others, and a second replay follows the first. A row is erased once the client's socket
// has taken the message. If the session ends before that, the queued live messages are stored, in their
// order, and the replay starts again with the next available session. If the store or a worker fails, the
// replay is tried again after a pause, which doubles.
//
// A row counts as delivered when the kernel of the operating system has taken its last byte for the client's
// connection. If the client is lost then, these bytes are too; stream management (XEP-0198) is for that.
//
// An account is warm while package session has its stored state, the resident set, in memory. In memory,
// in a session: a [progress], which says which rows its client has, and the running replay. In memory, in
// a warm account, as a part of the resident set: a [backlog], which is the number and size of its rows.
// Stored: one row for each message, in the order of arrival.
//
// Hooks: message in phase Fallback, so that only messages that no session took are stored; Available and
// Resumed start a replay. When a session ends, Unsent stores the messages that it had queued, and then
// Unbound lets another session replay.
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

// Manifest describes this module to the loader.
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

// The namespaces of elements that do not count as content of a message.
const (
	nsChatStates = "http://jabber.org/protocol/chatstates"
	nsHints      = "urn:xmpp:hints"
	nsStanzaID   = "urn:xmpp:sid:0"
)

var (
	// rows has the messages of an account, keyed by the account's id and an increasing number. The prefix 'o'
	// and the version 1 of the rows are part of the store's format.
	rows = store.NewLog[[]byte]("offline", 'o', 1)
	// part is the module's part of the resident set. It is nil in an account of which no message
	// was stored since it was loaded.
	part        = session.NewPart[backlog]("offline")
	noStoreHint = xmlstream.N(nsHints, "no-store")
	storeHint   = xmlstream.N(nsHints, "store")
	delay       = xmlstream.N("urn:xmpp:delay", "delay")
)

// A backlog is the summary of an account's rows that is in memory while the account is warm. It belongs to
// the account's lock.
type backlog struct {
	count, bytes int    // the number of rows, and the size of their messages in bytes
	next         uint64 // the number of the next row
}

// reservedRows is how many row numbers a replay reserves for queued live messages. It is not smaller than
// maxQueuedCount in session/outbox.go, the bound of a session's queue; only an ending session may queue
// more. Messages without a reserved number get one at the end of the log, after newer messages. Numbers
// that are not used leave a gap, which does no harm.
const reservedRows = 1000

// A progress says how many of the stored messages of its account one session has got. It is kept until
// the session ends, so that a later replay does not send a message twice. The account's lock guards it.
type progress struct {
	nextRow      uint64  // the number of the first row that the client's socket has not taken
	tries        int     // the number of replays that failed since a row was last taken
	replay       *replay // the running replay, or nil
	retryPending bool    // a timer will start the next replay
}

// progressVar is the progress of a session. It has no codec, so it is lost when a new process takes over the
// sessions of this one: a new replay then starts from the first row that is still stored.
var progressVar = session.NewSessionVar[progress]("offline", nil)

// sliceBytes is how many bytes a worker reads from the store at a time. The kernel asks a source only
// below the low-water mark of the client's output, so a larger slice would only wait in memory.
const sliceBytes = session.LowWaterMark

// A replay sends the stored messages of an account to one session. It is a [session.Source]: the kernel
// calls Next for one message after another. A replay is used once.
type replay struct {
	// These do not change after startReplay.
	m        *module
	progress *progress     // the progress of the session
	host     *session.Host // the host of the session
	jid      jid.JID       // the full JID of the session
	id       uint64        // the id of the account in the store
	after    store.Ticket  // the account's last ticket: when it is settled, the store has the rows before end
	end      uint64        // the number after the last row; live messages that the session queues are newer
	backlog  *backlog      // the account's backlog at the start; another one means that the account was reloaded

	// The loop of the session's stream uses these. A worker uses unsent and nextRead while reading is set; the
	// kernel calls Next again only when the worker's result has woken the source.
	nextRead uint64 // the number of the first row that was not read
	unsent   []row  // rows that were read and not yet passed to the kernel
	reading  bool   // a worker reads the next slice
	inFlight []row  // rows, without their elements, that were passed to the kernel and are not known to be taken
	err      error  // why the replay ends before the last row; End reads it, when the loop has done with it

	// The account's lock guards these: the row numbers from reserved up to reservedEnd are for the live messages
	// in the session's queue. A message that was stored because the queue had no space has a larger number.
	reserved, reservedEnd uint64
}

// Options is the module's section of the configuration. A message over one of the limits is answered with
// resource-constraint.
type Options struct {
	MaxMessages int `toml:"max_messages"` // the most messages that are stored for one account
	MaxBytes    int `toml:"max_bytes"`    // the most bytes that they may have together
}

// Check implements [session.OptionChecker]: it returns the key of an option that is out of range, and why.
func (o *Options) Check() (key, why string) {
	return session.CheckRanges(
		session.OptionRange{Key: "max_messages", Value: o.MaxMessages, Min: 1, Max: 1_000_000,
			Note: `; to keep none, modules = ["-offline"]`},
		session.OptionRange{Key: "max_bytes", Value: o.MaxBytes, Min: 1024, Max: 1 << 30,
			Note: `; to keep none, modules = ["-offline"]`})
}

// defaultOptions returns the options of a configuration that does not mention the module.
func defaultOptions() Options { return Options{MaxMessages: 1000, MaxBytes: 4 << 20} }

// A module is the module of one profile. It does not change after Load, so any loop reads it.
type module struct {
	opt  Options
	db   *store.DB
	rows *store.Log[[]byte]
	now  wallclock.Clock
}

// Load implements [session.Module]. It fails if an option is out of range, if there is no store, or if the
// rows in the store have a newer format.
func (m *module) Load(api *session.API) error {
	m.opt = defaultOptions()
	if err := api.Decode(&m.opt); err != nil {
		return err
	}
	var err error
	if m.db, err = storage.Open(api); err != nil {
		return err
	}
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

// load reads the backlog of the account acc from a snapshot, on a worker, when the account becomes warm.
// It returns nil if the account has no rows. It scans all rows, because their number is not stored
// separately.
func (m *module) load(snap *store.Snapshot, acc session.EntityRef) (k *backlog, err error) {
	err = m.rows.Scan(snap, acc.ID, 0, math.MaxUint64, 0, false, func(id uint64, v []byte) bool {
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

// store stores a message that no session took. It is the Fallback hook, so it runs under the lock of the
// recipient's account. A message that is not to be stored passes on to the next hook. Without space it
// answers with resource-constraint. The row goes into the batch of the stanza, so it becomes durable
// together with what other modules store of it; if the batch fails, the sender gets an error.
func (m *module) store(ev *session.Stanza) session.Verdict {
	if ev.Type != stanza.TypeNone && ev.Type != stanza.TypeChat { // TypeNone is normal
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
	if m.db.Full() != nil { // the sender gets an error now, rather than after the commit has failed
		return ev.Fail(stanza.ResourceConstraint)
	}
	// If a session is replaying, the live messages in its queue are older than ev, which was not queued,
	// mostly because the queue is full. If the session ends early they are stored, with smaller numbers than
	// that of ev.
	if r := activeReplay(a); r != nil && r.reservedEnd == 0 {
		r.reserved, r.reservedEnd = k.next, k.next+reservedRows
		k.next = r.reservedEnd
	}
	m.add(storage.BatchOf(ev), a, k, k.next, el)
	k.next++
	return ev.StoredInBatch() // if the commit fails the sender gets an error
}

// mutableBacklog returns the backlog of a, to be changed. A new backlog (the account had no rows) starts with
// row 0. Sessions may have got rows with larger numbers before, which are erased; their progress would skip
// the new row. So the next number is raised above the progress of each session. Under the lock of a.
func mutableBacklog(a *session.Account) *backlog {
	k := part.Mutable(a)
	for _, s := range a.Resources() {
		if p := progressVar.Get(s); p != nil {
			k.next = max(k.next, p.nextRow)
		}
	}
	return k
}

// delay returns the delay element of XEP-0203 with the time now. The bytes belong to the Appender of l and
// are valid until its next use.
func (m *module) delay(l *session.LoopRouter, h *session.Host) []byte {
	return l.Appender().Open(delay).Attr(stanza.AttrFrom, h.Name).Attr(stanza.AttrStamp,
		wallclock.Timestamp(m.now())).Close().B
}

// fits reports whether the limits leave space for el in the backlog k. Under the account's lock.
func (m *module) fits(k *backlog, el []byte) bool {
	return k.count < m.opt.MaxMessages && k.bytes+len(el) <= m.opt.MaxBytes
}

// add puts el into the batch b as row id of a, and counts it in k. Under the lock of a.
func (m *module) add(b *store.Batch, a *session.Account, k *backlog, id uint64, el []byte) {
	m.rows.Append(b, a.ID(), id, el)
	k.count++
	k.bytes += len(el)
}

// shouldStore reports whether the content of a message of type normal or chat is stored (XEP-0160 section
// 3, XEP-0334 section 4). It says no to the hint no-store, and to a message that has nothing but chat
// states, unless it has the hint store. Thread, hints and stanza ids do not count as content. A message
// without a chat state is stored even if it has no content.
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

// activeReplay returns the replay that runs on a session of a, or nil. Under the lock of a.
func activeReplay(a *session.Account) *replay {
	for _, s := range a.Resources() {
		if p := progressVar.Get(s); p != nil && p.replay != nil {
			return p.replay
		}
	}
	return nil
}

// startReplay starts a replay on s, unless its account has no stored messages or a replay runs already. It is
// the Available hook, which the kernel calls for a session with a non-negative priority. If s has no stream,
// the kernel ends the replay at once (StreamEnded). Under the account's lock.
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
	s.Pull(l, p.replay, true) // true: live messages wait in the session's queue until the replay ends
}

// A row is one stored message: with el while it waits in replay.unsent, with size in replay.inFlight.
type row struct {
	id   uint64 // its number in the log
	el   []byte // the element
	size int    // the length of the element
}

// Next implements [session.Source]: it returns the next message. It runs on the loop of the session's
// stream, under no lock.
//
// If the last slice is used up, Next starts a worker that reads the next one, and returns NextWouldBlock;
// the worker's result wakes the source. It returns NextExhausted after the last row and after an error. If
// the workers' queue is full, that is an error too. [replay.End] tries again.
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

// readSlice reads up to sliceBytes of rows into r.unsent, on a worker. It first waits until the rows are
// durable, because a snapshot has durable rows only. An error of that wait says that a write of the account
// has failed: the kernel then reloads the account, and erase and End find that. Rows that were read before an
// error are still sent.
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

// Wanted implements [session.Source]. A session that has become unavailable, or has a negative priority,
// gets no stored messages. Under the account's lock.
func (r *replay) Wanted(s *session.Session) bool {
	_, prio := s.Presence()
	return s.Available() && prio >= 0
}

// Taken implements [session.Source]: the client's socket has taken the first n messages in flight; n is 1 or
// more. It erases their rows. On the loop of the stream, under the account's lock.
func (r *replay) Taken(l *session.LoopRouter, s *session.Session, n int) {
	size := 0
	for _, g := range r.inFlight[:n] {
		size += g.size
	}
	r.progress.nextRow, r.progress.tries = r.inFlight[n-1].id+1, 0
	r.inFlight = r.inFlight[n:]
	r.erase(l, s.Account(), n, size)
}

// erase deletes the rows before progress.nextRow from the store. They are n rows of size bytes. It does not
// wait for the commit. If the account was reloaded since the replay began, n and size are no longer accurate:
// erase then sets r.err, which ends the replay, and deletes nothing. Under the account's lock.
func (r *replay) erase(l *session.LoopRouter, a *session.Account, n, size int) {
	k := part.Get(a)
	if k != r.backlog { // a write has failed, and the account was reloaded
		r.err = errors.New("the account was reloaded after a failed write")
		return
	}
	b := r.m.db.NewBatch(a.ID())
	r.m.rows.Trim(b, a.ID(), r.progress.nextRow)
	a.MarkUncommitted(l, session.Ticket(r.m.db.Commit(b)))
	k.count, k.bytes = max(k.count-n, 0), max(k.bytes-size, 0)
}

// End implements [session.Source]. It runs once, under the account's lock, on any loop, and decides how
// delivery goes on:
//
//   - SessionEnded: the Unbound hook starts a replay on another session.
//   - StreamEnded: another session may get the messages; this one starts again when it resumes.
//   - An error, or the account was reloaded: a retry after a pause.
//   - SourceDone: all rows before r.end are delivered. If rows are still counted, and none is newer, they are
//     those that an earlier replay has delivered and failed to erase: they are erased now. Then a new replay
//     starts if messages were stored meanwhile.
//   - SourceUnwanted: the session is unavailable now; another available session gets the rest.
func (r *replay) End(l *session.LoopRouter, s *session.Session, why session.SourceEndReason) {
	a, p := s.Account(), r.progress
	p.replay = nil
	k := part.Get(a)
	switch {
	case why == session.SessionEnded:
	case why == session.StreamEnded:
		r.m.startNext(l, a, s)
	case why == session.SourceFailed || r.err != nil || k != r.backlog:
		r.m.fail(l, r)
	case why == session.SourceDone:
		p.nextRow = r.end
		if k.count > 0 && k.next == r.end {
			r.erase(l, a, k.count, k.bytes)
		}
		r.m.startNext(l, a, nil)
	case why == session.SourceUnwanted:
		r.m.startNext(l, a, nil)
	}
}

// fail logs that a replay has failed and schedules the next one. Under the account's lock.
func (m *module) fail(l *session.LoopRouter, r *replay) {
	p := r.progress
	p.tries++
	l.Log.Warn("stored messages could not be delivered", "jid", r.jid.String(), "try", p.tries, "err", r.err)
	m.retryLater(l, r.host, r.jid, p)
}

// retryLater starts the next replay of an account after a pause, if the session full, whose progress is
// p, has not ended by then; the replay may run on another session (startNext). The pause is 2 s after the
// first failure and doubles to 256 s (a tick is 100 ms). After eight retries that failed it gives up; the
// next session that becomes available starts a replay. If the account can't be loaded (a is not nil then,
// as it has the session), that counts as a failure too. Under the account's lock.
func (m *module) retryLater(l *session.LoopRouter, h *session.Host, full jid.JID, p *progress) {
	if p.retryPending || p.tries > 8 {
		return
	}
	p.retryPending = true
	l.After(reactor.Tick(10<<p.tries), func() {
		l.WithAccount(h, full.Bare(), func(l *session.LoopRouter, a *session.Account, exists bool, err error) {
			p.retryPending = false
			switch {
			case progressAt(a, full) != p: // the session has ended
			case err != nil:
				p.tries++
				m.retryLater(l, h, full, p)
			case exists:
				m.startNext(l, a, nil)
			}
		})
	})
}

// progressAt returns the progress of the session full of a. It returns nil if a is nil, or has no such
// session. Under the lock of a.
func progressAt(a *session.Account, full jid.JID) *progress {
	if a == nil {
		return nil
	}
	if s := a.Resource(full); s != nil {
		return progressVar.Get(s)
	}
	return nil
}

// startNext starts a replay on the first session of a that is connected, available and has a non-negative
// priority. It skips the session except, which may be nil. Under the lock of a.
func (m *module) startNext(l *session.LoopRouter, a *session.Account, except *session.Session) {
	for _, s := range a.Resources() {
		if _, prio := s.Presence(); s != except && s.Available() && prio >= 0 && !s.Ended() && s.Connected() {
			m.startReplay(l, s)
			return
		}
	}
}

// unbound is the Unbound hook: s has ended, and is still in the account's list. If a replay ran on it,
// another session continues. The kernel calls End for the old replay after this hook, with SessionEnded.
// Under the account's lock.
func (m *module) unbound(l *session.LoopRouter, s *session.Session) {
	if p := progressVar.Get(s); p != nil && p.replay != nil {
		p.replay = nil // activeReplay no longer finds it, so startNext may begin another
		m.startNext(l, s.Account(), s)
	}
}

// resumed is the Resumed hook: s has a new stream (XEP-0198), so its replay goes on. Under the account's
// lock.
func (m *module) resumed(l *session.LoopRouter, s *session.Session) {
	if _, prio := s.Presence(); s.Available() && prio >= 0 {
		m.startReplay(l, s)
	}
}

// storeUnsent is the Unsent hook: s has ended, and list has the elements in its queue. It stores the
// messages among them that shouldStoreBytes wants, and returns the others, which the kernel routes again.
// If the replay of s had reserved row numbers, the messages get those: they are older than the messages
// that were stored because the queue was full. Messages without space under the limits or on the disk are
// returned too: routed again, they are delivered to another session, or refused by store. Elements
// without an address (the server itself originated them) are returned. If a replay ran on s, startNext
// does nothing yet: unbound, the next hook, ends that replay. Under the account's lock; it does not wait
// for the commit.
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

// shouldStoreBytes reports whether el is a message that is stored if no session takes it: see shouldStore.
// It uses the parser of l. An element that can't be parsed is not stored.
func (m *module) shouldStoreBytes(l *session.LoopRouter, el []byte) bool {
	e, err := l.Parser.Element(el)
	if err != nil {
		return false
	}
	defer l.Parser.Release(e)
	typ, _ := e.Attr(stanza.AttrType)
	return (len(typ) == 0 || string(typ) == "normal" || string(typ) == "chat") && shouldStore(e)
}
