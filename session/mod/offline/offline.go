// Package offline keeps messages for an account that no session takes (XEP-0160). It delivers them when a
// client of the account becomes available, before any live message. Each has the time of its arrival as a
// delay element (XEP-0203).
//
//	romeo:  <message to='juliet@localhost' type='chat'><body>Later</body></message>
//	juliet: <presence/>
//	juliet gets: <message from='romeo@localhost/orchard' to='juliet@localhost' type='chat'><body>Later</body>
//	             <stanza-id …/><delay xmlns='urn:xmpp:delay' from='localhost' stamp='2026-01-01T00:00:00Z'/>
//	             </message>
//
// Which messages are kept is a column of the table in package handling. The kernel answers a message that is
// not kept with service-unavailable (RFC 6121 section 8.5.2.2.1). A message for which the limits or the disk
// have no space is answered with resource-constraint.
//
// Where they are. What is kept and archived is in the archive: its row is flagged as waiting, and a cursor
// says from where on rows wait ([backlog]). So a message is stored once. What must not be archived waits in a
// table of this module. What a session had in its queue when it ended is archived as delivered: the table has
// a reference to its row. All have numbers of one order, that in which they came. This module reads the
// archive itself: what waits there is delivered also if module archive was switched off since.
//
// Replay. When a session becomes available, it gets a [replay]: a [session.Source] that reads the messages in
// slices on a worker. An account has at most one replay at a time. The kernel queues live messages to that
// session until the replay has ended. If the session's queue is full, the live message is kept after the
// others, and a second replay follows the first. The cursor is moved, and rows are erased, once the client's
// socket has taken their messages. If the session ends before that, the queued live messages are stored under
// the numbers that they have, and the replay starts again with the next available session. If the store or a
// worker fails, the replay is tried again after a pause, which doubles. What is stored with a smaller number
// while a replay runs, as another session has ended, is delivered by the replay after it.
//
// A session with a negative priority gets no stored messages, but it may get copies of them (XEP-0280). If it
// becomes available later, the replay leaves out what it has as copies; they count as delivered then.
//
// A row counts as delivered when the kernel of the operating system has taken its last byte for the client's
// connection. If the client is lost then, these bytes are too, but for what is in the archive; stream
// management (XEP-0198) is for that.
//
// An account is warm while package session has its stored state, the resident set, in memory. In memory, in a
// session: a [progress], which says which rows its client has, and the running replay. In memory, in a warm
// account for which messages wait: a [backlog]. Stored: the same as a cursor, rows of the archive, and rows
// of the table.
//
// Hooks: message in phase Fallback, so that only messages that no session took are kept, and in phase Record,
// which notes the sessions that have copies of them; Available and Resumed start a replay. When a session
// ends, Unsent stores the messages that it had queued, and then Unbound lets another session replay.
package offline

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"math"
	"slices"
	"time"

	"canto/reactor"
	"canto/session"
	"canto/session/archive"
	"canto/session/handling"
	"canto/session/jid"
	archivemod "canto/session/mod/archive"
	"canto/session/mod/stanzaids"
	"canto/session/stanza"
	"canto/session/stanzaid"
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
	Requires: []session.Feature{"accounts", "message", "resident", "store", "message-delivery", "stanza-id"},
	Options:  func() any { o := defaultOptions(); return &o },
	New:      func() session.Module { return new(module) },
}

// part is the module's part of the resident set. It is nil in an account for which nothing waits.
var part = session.NewPart[backlog]("offline")

// A progress says which of the stored messages of its account one session has got. It is kept until
// the session ends, so that a later replay does not send a message twice. The account's lock guards it.
type progress struct {
	// next is a number before which the session needs no row: its client's socket has taken those that are
	// stored with smaller numbers.
	next stanzaid.ID
	// behind is the smallest number of a row that was stored while the replay ran; 0: there is none. The
	// replay may have passed it already, so next is not above it when the replay has ended.
	behind       stanzaid.ID
	copies       copies  // the rows that the session has as copies
	tries        int     // the number of replays that failed since a row was last taken
	replay       *replay // the running replay, or nil
	retryPending bool    // a timer will start the next replay
}

// progressVar is the progress of a session. A session that outlives the process keeps it, but for the replay.
var progressVar = session.NewSessionVar("offline", &session.Codec[progress]{Version: 1,
	AppendMarshal: appendProgress, Unmarshal: readProgress})

// appendProgress appends the marshaled form of p: numbers as uvarints.
func appendProgress(dst []byte, p *progress) []byte {
	open := uint64(0)
	if p.copies.open {
		open = 1
	}
	for _, v := range []uint64{uint64(p.next), uint64(p.behind), open, uint64(len(p.copies.spans))} {
		dst = binary.AppendUvarint(dst, v)
	}
	for _, s := range p.copies.spans {
		dst = binary.AppendUvarint(binary.AppendUvarint(dst, uint64(s.from)), uint64(s.to))
	}
	return dst
}

// readProgress reads what appendProgress has written.
func readProgress(_ uint8, b []byte) (*progress, error) {
	damaged := false
	next := func() uint64 {
		v, n := binary.Uvarint(b)
		if n <= 0 {
			damaged = true
			return 0
		}
		b = b[n:]
		return v
	}
	p := &progress{next: stanzaid.ID(next()), behind: stanzaid.ID(next())}
	p.copies.open = next() == 1
	for n := next(); n > 0 && !damaged; n-- {
		p.copies.spans = append(p.copies.spans, span{stanzaid.ID(next()), stanzaid.ID(next())})
	}
	if damaged || len(p.copies.spans) > maxSpans {
		return nil, errRow
	}
	return p, nil
}

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
	end      stanzaid.ID   // the number after the last row; live messages that the session queues are newer
	from     stanzaid.ID   // the account's cursor at the start
	backlog  *backlog      // the account's backlog at the start; another one means that the account was reloaded
	changes  int           // its changes at the start
	copies   copies        // rows that the client has as copies: they are left out

	// The loop of the session's stream uses these. A worker uses unsent and nextRead while reading is set;
	// the kernel calls Next again only when the worker's result has woken the source.
	nextRead stanzaid.ID // rows before it were read
	unsent   []row       // rows that were read and not yet passed to the kernel
	reading  bool        // a worker reads the next slice
	inFlight []row       // rows that were passed to the kernel and are not known to be taken
	handed   stanzaid.ID // the first row of the archive that was taken; 0: none was. Under the account's lock
	err      error       // why the replay ends before the last row; End reads it, when the loop has done with it
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
	opt     Options
	db      *store.DB
	rows    *store.Log[waitingRow]
	cursors *store.Map[string, backlog]
	archive *archive.Archive    // the rows of archives, also if the hosts of the profile archive nothing
	service *archivemod.Service // nil: the hosts of the profile archive nothing
	ids     *stanzaids.IDs
	now     wallclock.Clock

	counters *counters
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
	if m.rows, err = storage.OpenLog(api, rowsDef); err != nil {
		return err
	}
	if m.cursors, err = storage.OpenMap(api, cursorDef); err != nil {
		return err
	}
	if m.archive, err = archive.Open(m.db.Tables()); err != nil {
		return err
	}
	var ok bool
	if m.ids, ok = session.Lookup[*stanzaids.IDs](api); !ok {
		return errors.New("no module draws ids")
	}
	if m.service, ok = session.Lookup[*archivemod.Service](api); ok {
		m.service.Oldest = oldest
		m.joinArchive(m.service)
	}
	m.now = wallclock.Of(api)
	m.counters = countersOf(api)
	session.Resident(api, part, m.load)
	if m.db.Tables().Oldest(tableName) < 2 {
		session.MoveRows(api, m.moveRows)
	}
	for _, t := range []session.Target{session.ToSelf, session.ToBare, session.ToFull} {
		api.Hooks.Message[t].Add(api.Module, session.Fallback, m.store)
		api.Hooks.Message[t].Add(api.Module, session.Record, m.recordCopies)
	}
	api.Hooks.Available.Add(api.Module, session.Deliver, m.startReplay)
	api.Hooks.BoundInline.Add(api.Module, session.Deliver, m.leaveToArchive)
	api.Hooks.Unsent.Add(api.Module, session.Deliver, m.storeUnsent)
	api.Hooks.Unbound.Add(api.Module, session.Deliver, m.unbound)
	api.Hooks.Resumed.Add(api.Module, session.Deliver, m.resumed)
	api.Hooks.Deleted.Add(api.Module, session.Deliver, m.deleted)
	api.Advertise("msgoffline")
	return nil
}

// load reads the cursor of the account acc from a snapshot, on a worker, when the account becomes warm. It
// returns nil if nothing waits.
func (m *module) load(snap *store.Snapshot, acc session.EntityRef) (*backlog, error) {
	k, ok, err := m.cursors.Get(snap, acc.ID, "")
	if err != nil || !ok {
		return nil, err
	}
	return &k, nil
}

// leaveToArchive moves the cursor behind what waits in the archive: the client of a session that Bind 2 has
// made gets it from there (XEP-0386 section 3.2). What waits in the table alone is delivered as ever. It is
// the BoundInline hook. Under the account's lock.
func (m *module) leaveToArchive(l *session.LoopRouter, s *session.Session) {
	a := s.Account()
	if k := part.Get(a); m.archive == nil || k == nil || k.count == 0 || k.from == 0 || m.db.Full() != nil {
		return
	}
	k := part.Mutable(a)
	b := m.db.NewBatch(a.ID())
	m.archive.HandOver(b, a.ID(), k.from, archive.Handover{Last: k.last, At: m.now(),
		Device: s.JID().Resource(), Reads: true})
	k.from = 0
	m.writeCursor(b, a, k)
	a.MarkUncommitted(l, session.Ticket(m.db.Commit(b)))
	m.recount(l, a, k)
}

// recount counts on a worker what waits in the table, after the rows of the archive were left out. A replay
// that begins meanwhile does the same at its end, so then, and if messages were stored meanwhile, recount
// changes nothing. Under the lock of a.
func (m *module) recount(l *session.LoopRouter, a *session.Account, k *backlog) {
	h, bare, id, changes, after := a.Host(), a.JID(), a.ID(), k.changes, store.Ticket(a.Ticket())
	count, bytes := 0, 0
	l.RunOnWorker(h, reactor.Disk, func() error {
		m.db.Wait(context.Background(), after)
		snap := m.db.Snapshot()
		defer snap.Close()
		return m.rows.Scan(snap, id, firstVersionEnd, math.MaxUint64, 0, false, func(_ uint64, w waitingRow) bool {
			count, bytes = count+1, bytes+len(w.el)
			return true
		})
	}, func(l *session.LoopRouter, err error) {
		if err != nil {
			return
		}
		l.WithAccount(h, bare, func(l *session.LoopRouter, a *session.Account, exists bool, err error) {
			if err != nil || !exists || part.Get(a) != k || k.changes != changes || k.from != 0 ||
				activeReplay(a) != nil {
				return
			}
			m.counters.read.Add(uint64(max(k.count-count, 0)))
			k.count, k.bytes = count, bytes
			b := m.db.NewBatch(a.ID())
			m.finishErase(l, a, k, b)
		})
	})
}

// oldest returns the oldest row of the archive of a that waits; 0 if there is none. Under the lock of a.
func oldest(a *session.Account) stanzaid.ID {
	if k := part.Get(a); k != nil && k.count > 0 {
		return k.oldest()
	}
	return 0
}

// store keeps a message that no session took. It is the Fallback hook, so it runs under the lock of the
// recipient's account. A message that is not to be kept passes on to the next hook. Without space it answers
// with resource-constraint. What it stores goes into the batch of the stanza, so it becomes durable together
// with what other modules store of it; if the batch fails, the sender gets an error.
func (m *module) store(ev *session.Stanza) session.Verdict {
	if !ev.Handling().Keep {
		return session.Pass
	}
	if ev.Number == 0 { // the lease of ids is used up
		return ev.Fail(stanza.ResourceConstraint)
	}
	a := ev.Account()
	k := part.Mutable(a)
	ap := ev.Appender()
	ap.B = ev.Append(ap.B[:0])
	if !m.fits(k, len(ap.B)) {
		ev.LoopRouter().CountLimit("offline")
		return ev.Fail(stanza.ResourceConstraint)
	}
	if m.db.Full() != nil { // the sender gets an error now, rather than after the commit has failed
		return ev.Fail(stanza.ResourceConstraint)
	}
	b := storage.BatchOf(ev)
	if ev.Archived && !ev.Again { // module archive flags its row
		if k.from == 0 {
			k.from = ev.Number
		}
		m.count(a, k, ev.Number, len(ap.B))
	} else {
		m.append(b, a, k, ev.Number, ev.Archived, ap.B)
	}
	m.writeCursor(b, a, k)
	return ev.StoredInBatch() // if the commit fails the sender gets an error
}

// append adds a row of the table for the message el, and counts it: a reference, if the message is archived.
// Under the lock of a.
func (m *module) append(b *store.Batch, a *session.Account, k *backlog, number stanzaid.ID, archived bool,
	el []byte) {
	// A number may be ahead of the clock.
	row := waitingRow{at: min(m.now().UnixMilli(), number.Time().UnixMilli())}
	if archived {
		row.size = len(el)
		k.queued = lower(k.queued, number)
	} else {
		row.el = el
	}
	m.rows.Append(b, a.ID(), uint64(number), row)
	m.count(a, k, number, len(el))
}

// count counts a message of size bytes that waits under a number. A replay reads it, also on a session that
// has rows with larger numbers. Under the lock of a.
func (m *module) count(a *session.Account, k *backlog, number stanzaid.ID, size int) {
	if k.count == 0 {
		k.first = number
	}
	k.first = min(k.first, number)
	k.count++
	k.bytes += size
	k.changes++
	k.last = max(k.last, number)
	m.counters.stored.Add(1)
	for _, s := range a.Resources() {
		if p := progressVar.Get(s); p != nil {
			p.stored(number)
		}
	}
}

// stored notes that the row number was stored. The session has not got it. Under the account's lock.
func (p *progress) stored(number stanzaid.ID) {
	if p.replay != nil {
		p.behind = lower(p.behind, number)
	} else {
		p.next = min(p.next, number)
	}
}

// lower returns the smaller one of two numbers; a is 0 if there is none.
func lower(a, b stanzaid.ID) stanzaid.ID {
	if a == 0 {
		return b
	}
	return min(a, b)
}

// recordCopies notes which sessions have a copy of a message that waits. It is a Record hook, after that of
// module carbons: under the account's lock.
func (m *module) recordCopies(ev *session.Stanza) session.Verdict {
	out := ev.Outcome()
	if !out.Stored || out.Refused {
		return session.Pass
	}
	for _, s := range ev.Account().Resources() {
		p := progressVar.Get(s)
		switch has := out.Delivered > 0 && ev.DeliveredTo(s); {
		case ev.Again && p != nil: // it has no copies, and its number is not the newest
			p.copies.remove(ev.Number)
		case ev.Again:
		case has && p == nil:
			p = new(progress)
			progressVar.Set(s, p)
			p.copies.add(ev.Number)
		case has:
			p.copies.add(ev.Number)
		case p != nil:
			p.copies.close()
		}
	}
	return session.Pass
}

// removeCopies notes that no session of a has the row number as a copy. Under the lock of a.
func removeCopies(a *session.Account, number stanzaid.ID) {
	for _, s := range a.Resources() {
		if p := progressVar.Get(s); p != nil {
			p.copies.remove(number)
		}
	}
}

// fits reports whether the limits leave space for a message of size bytes. Under the account's lock.
func (m *module) fits(k *backlog, size int) bool {
	return k.count < m.opt.MaxMessages && k.bytes+size <= m.opt.MaxBytes
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
	if s.Connected() && !s.Ended() { // copies that wait for the client end: it gets the messages
		s.Outbox(func(o session.Outbox) { o.DropKeptCopies(p.copies.remove) })
	}
	p.replay = &replay{m: m, progress: p, host: s.Host(), jid: s.JID(), id: a.ID(),
		after: store.Ticket(a.Ticket()), nextRead: p.next, from: k.from, end: k.last + 1, backlog: k,
		changes: k.changes, copies: p.copies.clone()}
	// Live messages wait in the session's queue until the replay ends, but for those that are older.
	session.PullFrom(l, s, p.replay, max(k.first, p.next))
}

// A row is one stored message: with el while it waits in replay.unsent.
type row struct {
	id      stanzaid.ID // its number
	el      []byte      // the element; nil if the client has it as a copy, or if its row is gone
	size    int         // the length of the element when it was stored
	inTable bool        // it is in the table, and is erased; else it is in the archive
	alone   bool        // the table has the element itself: the archive does not have it
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
		taken := r.unsent[0]
		el := session.OutboundStanza{Bytes: taken.el, Kind: stanza.Message, Number: taken.id,
			Archived: !taken.alone} // a client that does not acknowledge it gets it again: see storeUnsent
		taken.el = nil
		r.inFlight = append(r.inFlight, taken)
		r.unsent = r.unsent[1:]
		return el, session.NextElement
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

// maxExamined is how many rows of the archive a slice looks at. Rows that do not wait lie between those that
// do if the user has sent messages while nothing was delivered.
const maxExamined = 5000

// readSlice reads up to sliceBytes of rows of the table, and of the archive, into r.unsent, in their order,
// on a worker. It first waits until the rows are durable, because a snapshot has durable rows only. An error
// of that wait says that a write of the account has failed: the kernel then reloads the account, and erase
// and End find that. Rows that were read before an error are still sent.
func (r *replay) readSlice() error {
	r.m.db.Wait(context.Background(), r.after)
	snap := r.m.db.Snapshot()
	defer snap.Close()
	r.unsent = nil
	end, err := r.readTable(snap)
	if err == nil && r.from != 0 {
		end, err = r.readArchive(snap, end)
	}
	slices.SortStableFunc(r.unsent, func(a, b row) int { return cmp.Compare(a.id, b.id) })
	n, _ := slices.BinarySearchFunc(r.unsent, end, func(a row, end stanzaid.ID) int {
		return cmp.Compare(a.id, end)
	})
	r.unsent, r.nextRead = r.unsent[:n], end
	return err
}

// readTable reads rows of the table. It returns the number before which all were read.
func (r *replay) readTable(snap *store.Snapshot) (end stanzaid.ID, err error) {
	end = r.end
	size := 0
	var inner error
	err = r.m.rows.Scan(snap, r.id, max(uint64(r.nextRead), firstVersionEnd), uint64(r.end)-1, 0, false,
		func(n uint64, w waitingRow) bool {
			id := stanzaid.ID(n)
			next := row{id: id, size: max(len(w.el), w.size), inTable: true}
			switch {
			case r.copies.has(id):
			case w.el != nil:
				next.alone = true
				var a xmlstream.Appender
				a.Reset(xmlstream.Streamed)
				appendDelay(&a, r.host.Name, time.UnixMilli(w.at))
				next.el = session.AppendChildren(nil, w.el, a.B)
			default:
				if next.el, inner = r.readReference(snap, id); inner != nil {
					end = id
					return false
				}
			}
			r.unsent = append(r.unsent, next)
			if size += len(next.el); size >= sliceBytes {
				end = id + 1
			}
			return size < sliceBytes
		})
	return end, errors.Join(err, inner)
}

// readReference reads the row of the archive that a row of the table refers to, as a client gets it. It
// returns nil if the row is gone: it was too old.
func (r *replay) readReference(snap *store.Snapshot, id stanzaid.ID) ([]byte, error) {
	w, ok, err := r.m.archive.Get(snap, r.id, id)
	if err != nil || !ok {
		return nil, err
	}
	el, _ := r.m.fromArchive(r.id, r.jid.Bare().String(), r.host.Name, id, w) // nil if it does not parse
	return el, nil
}

// readArchive reads rows of the archive that wait, up to end. It returns the number before which all were
// read.
func (r *replay) readArchive(snap *store.Snapshot, end stanzaid.ID) (stanzaid.ID, error) {
	size, examined, bare := 0, 0, r.jid.Bare().String()
	to := end - 1
	err := r.m.archive.Scan(snap, r.id, max(r.nextRead, r.from), to, false,
		func(id stanzaid.ID, w archive.Row) bool {
			examined++
			if w.Flags&archive.Waiting != 0 {
				next := row{id: id, size: len(w.Element)}
				if !r.copies.has(id) {
					next.el, _ = r.m.fromArchive(r.id, bare, r.host.Name, id, w) // nil if it does not parse
				}
				r.unsent = append(r.unsent, next)
				size += len(next.el)
			}
			if size >= sliceBytes || examined == maxExamined {
				end = id + 1
				return false
			}
			return true
		})
	return end, err
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
	taken := r.inFlight[:n]
	r.inFlight = r.inFlight[n:]
	r.progress.next, r.progress.tries = taken[n-1].id+1, 0
	r.m.counters.delivered.Add(uint64(n))
	r.erase(l, s.Account(), taken)
}

// erase moves the cursor behind the rows that were taken, and deletes those of the table. It does not wait
// for the commit. If the account was reloaded since the replay began, the counts are no longer accurate:
// erase then sets r.err, which ends the replay, and changes nothing. Under the account's lock.
func (r *replay) erase(l *session.LoopRouter, a *session.Account, taken []row) {
	k := part.Get(a)
	if k != r.backlog { // a write has failed, and the account was reloaded
		r.err = errors.Join(r.err, errReloaded)
		return
	}
	b := r.m.db.NewBatch(a.ID())
	r.m.counters.taken.Add(uint64(min(k.count, len(taken))))
	for _, t := range taken {
		k.count, k.bytes = max(k.count-1, 0), max(k.bytes-t.size, 0)
		if t.inTable {
			r.m.rows.Delete(b, a.ID(), uint64(t.id))
		}
	}
	r.handOver(b, taken)
	next := taken[len(taken)-1].id + 1
	k.from, k.first = max(k.from, next), max(k.first, next)
	if k.queued != 0 {
		k.queued = max(k.queued, next)
	}
	if p := r.progress.behind; p != 0 { // it may be a reference
		k.first, k.queued = min(k.first, p), lower(k.queued, p)
	}
	r.m.finishErase(l, a, k, b)
}

// handOver adds to b that the session has the rows of the archive among those that were taken, and those from
// r.handed on. Under the account's lock.
func (r *replay) handOver(b *store.Batch, taken []row) {
	last := stanzaid.ID(0)
	for _, t := range taken {
		if t.inTable {
			continue
		}
		last = t.id
		if r.handed == 0 {
			r.handed = t.id
		}
	}
	if last != 0 {
		r.m.archive.HandOver(b, r.id, r.handed, archive.Handover{Last: last, At: r.m.now(),
			Device: r.jid.Resource()})
	}
}

// errReloaded: a write has failed during the replay.
var errReloaded = errors.New("the account was reloaded after a failed write")

// eraseAll erases all that waits for the account: r has read to the end, its session has all rows from the
// start of r on from r, and those before it from earlier replays, which could not erase them. Nothing was
// stored since. Under the account's lock.
func (r *replay) eraseAll(l *session.LoopRouter, a *session.Account, k *backlog) {
	b := r.m.db.NewBatch(a.ID())
	r.m.rows.Trim(b, a.ID(), uint64(r.end))
	r.m.counters.taken.Add(uint64(k.count))
	k.count, k.bytes = 0, 0
	r.m.finishErase(l, a, k, b)
}

// finishErase adds the cursor to b, and commits b.
func (m *module) finishErase(l *session.LoopRouter, a *session.Account, k *backlog, b *store.Batch) {
	if k.count == 0 {
		k.from, k.first, k.queued, k.bytes = 0, 0, 0, 0
	}
	m.writeCursor(b, a, k)
	a.MarkUncommitted(l, session.Ticket(m.db.Commit(b)))
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
	if p.behind != 0 {
		p.next, p.behind = min(p.next, p.behind), 0
	}
	k := part.Get(a)
	switch {
	case why == session.SessionEnded:
	case why == session.StreamEnded:
		r.m.startNext(l, a, s)
	case why == session.SourceFailed || r.err != nil || k != r.backlog:
		r.m.fail(l, r)
	case why == session.SourceDone:
		if k.count > 0 && k.changes == r.changes {
			r.eraseAll(l, a, k)
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

// storeUnsent is the Unsent hook: s has ended, and list has the elements in its queue. It stores the messages
// among them that are to be kept, under the numbers that they got when they came: of what is archived it
// stores a reference. It returns the others, which the kernel routes again. Messages without space under the
// limits or on the disk are returned too: routed again, they are delivered to another session, or refused by
// store. Elements without an address (the server itself originated them) are returned. If a replay ran on s,
// startNext does nothing yet: unbound, the next hook, ends that replay. Under the account's lock; it does not
// wait for the commit.
func (m *module) storeUnsent(l *session.LoopRouter, s *session.Session, list []session.OutboundStanza) (
	left []session.OutboundStanza) {
	a := s.Account()
	var b *store.Batch
	var k *backlog
	for _, unsent := range list {
		if unsent.Kind != stanza.Message || unsent.To.IsZero() || unsent.Number == 0 || m.db.Full() != nil ||
			!keeps(l, unsent.Bytes) {
			left = append(left, unsent)
			continue
		}
		if k == nil {
			k = part.Mutable(a)
		}
		if !m.fits(k, len(unsent.Bytes)) {
			left = append(left, unsent)
			continue
		}
		if b == nil {
			b = m.db.NewBatch(a.ID())
		}
		m.append(b, a, k, unsent.Number, unsent.Archived, withoutDelay(l, s.Host().Name, unsent.Bytes))
		removeCopies(a, unsent.Number) // a session with a copy has the message: it would not be in list
	}
	if b != nil {
		m.writeCursor(b, a, k)
		a.MarkUncommitted(l, session.Ticket(m.db.Commit(b)))
		m.startNext(l, a, s)
	}
	return left
}

// withoutDelay returns el without the delay that the host has added last: a replay has sent the message, and
// the next one adds it again. It uses the parser of l.
func withoutDelay(l *session.LoopRouter, host string, el []byte) []byte {
	e, err := l.Parser.Element(el)
	if err != nil {
		return el
	}
	defer l.Parser.Release(e)
	var last xmlstream.Element
	for c, ok := e.First(); ok; c, ok = c.Next() {
		last = c
	}
	if last.IsZero() || !last.Is(delayName) {
		return el
	}
	raw := last.Raw()
	i := bytes.LastIndex(el, raw)
	if from, _ := last.Attr(stanza.AttrFrom); i < 0 || string(from) != host {
		return el
	}
	return slices.Concat(el[:i], el[i+len(raw):])
}

// keeps reports whether el is a message that is kept if no session takes it. It uses the parser of l. An
// element that can't be parsed is not kept.
func keeps(l *session.LoopRouter, el []byte) bool {
	e, err := l.Parser.Element(el)
	if err != nil {
		return false
	}
	defer l.Parser.Release(e)
	typ, _ := e.Attr(stanza.AttrType)
	return handling.Of(stanza.ParseType(stanza.Message, typ), e).Keep
}
