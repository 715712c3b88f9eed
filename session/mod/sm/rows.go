package sm

import (
	"cmp"
	"encoding/binary"
	"errors"
	"hash/maphash"
	"math"
	"slices"
	"strings"
	"time"

	"canto/reactor"
	"canto/session"
	"canto/session/mod/presence"
	"canto/session/storage"
	"canto/session/store"
)

// This file keeps sessions without a connection in the store, so that they outlive the process, and the time
// of their account in memory.
//
//   - A session that begins to hibernate gets a row with its state, once everything that its stream had
//     accepted is settled, and an entry in the index of deadlines.
//   - A message that is queued for it gets a row in the batch in which its archive has it.
//   - Before the process stops, and before the account is evicted, what has come without a batch is added.
//   - Before <resumed/> is sent the rows are deleted, durably. After a crash the client is refused then.
//   - An <a/> that the client gets is a row first, and so is the h of <resumed/>: a client that can't resume
//     is told in <failed/> what is handled, never less than it was told before.
//   - If the session ends its rows are deleted after what it had not sent is stored.
//   - When an account is loaded its rows become sessions again. expireOld loads those of an earlier
//     process when they are due.

// rowsDef has the rows of sessions that hibernate. The key of a session's own row is its id. Behind the id
// and NUL, a row of its queue has the index, 4 bytes; what its client has not acknowledged has "s"; what is
// handled of it has "h".
var rowsDef = store.NewMap[string, []byte]("sm", 'q', 1)

// maxQueue is more than the elements of a queue. It is below the letters of the other rows, as a key.
const maxQueue = 1 << 24

// maxRows bounds the sessions that are read of one account: it is more than an account may have.
const maxRows = 1000

// A resting says what the store has of a session that hibernates. The account's lock guards it.
type resting struct {
	deadline int64 // when the session expires, in milliseconds of the server's time
	// stored: it may have rows, and an entry in the index of deadlines. current: they are what the session
	// is, but for the elements of its queue from queued on, and for what the sums do not tell.
	stored, current bool
	queued          int    // so many elements of its queue have rows; negative: it is not known
	state           uint64 // of its state in the row: see sumOf
	shared          uint64 // see session.SharedCounts
	sent            uint64 // of what its client has not acknowledged
	deleted         bool   // forget has deleted its rows: the session is about to be resumed
}

// unknown notes that what the store has is not known: a batch may have failed.
func (r *resting) unknown() { *r = resting{deadline: r.deadline, stored: true, queued: -1} }

// restingVar is set in sessions that hibernate.
var restingVar = session.NewSessionVar[resting]("sm-resting", nil)

// errRow: a stored row is damaged.
var errRow = errors.New("sm: a row is cut short")

// A storedRow is the row of a session.
type storedRow struct {
	incarnation uint32 // of the process that has written it
	deadline    int64
	state       []byte
}

// append appends the stored form of r.
func (r storedRow) append(dst []byte) []byte {
	dst = binary.AppendVarint(binary.AppendUvarint(dst, uint64(r.incarnation)), r.deadline)
	return append(dst, r.state...)
}

// parseRow reads what append has written.
func parseRow(b []byte) (r storedRow, err error) {
	v, n := binary.Uvarint(b)
	if n <= 0 {
		return r, errRow
	}
	at, m := binary.Varint(b[n:])
	if m <= 0 {
		return r, errRow
	}
	return storedRow{uint32(v), at, b[n+m:]}, nil
}

// queueKey is the key of the row of an element of the queue of the session id.
func queueKey(id string, i int) string {
	return string(binary.BigEndian.AppendUint32(append([]byte(id), 0), uint32(i)))
}

// handledKey is the key of the row that says what is handled of the session id.
func handledKey(id string) string { return id + "\x00h" }

// putHandled notes that n stanzas of a client with the terms t are handled.
func (m *module) putHandled(b *store.Batch, t *session.Terms, n uint32) {
	m.rows.Put(b, t.Owner, handledKey(t.ID), handled{n, m.db.Deadlines().Now()}.append(nil))
}

// handledOf returns how many stanzas of the client of a session are handled, as far as the store knows; nil:
// it knows nothing of the session. On a worker.
func (m *module) handledOf(owner uint64, id string) (*uint32, error) {
	v, ok, err := m.rows.Get(m.db, owner, handledKey(id))
	if err != nil || !ok {
		return nil, err
	}
	h, err := parseHandled([]byte(v))
	return &h.n, err
}

// A handled is the row that says how many stanzas of a client are handled. It outlives the session: a client
// that can't resume it is told.
type handled struct {
	n  uint32
	at int64 // when it was written, in milliseconds of the server's time
}

// append appends the stored form of h.
func (h handled) append(dst []byte) []byte {
	return binary.AppendVarint(binary.AppendUvarint(dst, uint64(h.n)), h.at)
}

// parseHandled reads what append has written.
func parseHandled(b []byte) (h handled, err error) {
	v, n := binary.Uvarint(b)
	if n <= 0 || v > math.MaxUint32 {
		return h, errRow
	}
	at, m := binary.Varint(b[n:])
	if m <= 0 {
		return h, errRow
	}
	return handled{uint32(v), at}, nil
}

// What is kept of an account's sessions that have ended: so many rows, for so long.
const (
	maxHandled     = 10
	maxHandledTime = 24 * int64(time.Hour/1e6)
)

// sentKey is the key of the row of what the client of the session id has not acknowledged.
func sentKey(id string) string { return id + "\x00s" }

// afterKeys is after all keys of the session id.
func afterKeys(id string) string { return id + "\x01" }

// A restored is one session as the store has it, under its id.
type restored struct {
	id string
	storedRow
	sent  []byte
	queue [][]byte
}

// stored is the module's part of the resident set: the sessions that were read with the account, until they
// are restored, and what is handled of others.
type stored struct {
	list    []restored
	handled map[string]handled
	ended   []string // the ids of sessions that have ended, oldest first, of which rows say what is handled
}

// part is the module's part of the resident set.
var part = session.NewPart[stored]("sm")

// read reads the sessions of an account. A row that is damaged ends what is read of its session. On a worker.
func (m *module) read(from *store.Snapshot, who session.EntityRef) (p *stored, err error) {
	err = m.rows.ScanRange(from, who.ID, "", "\xff", false, func(key string, v []byte) bool {
		id, queued, isQueued := strings.Cut(key, "\x00")
		if p == nil {
			p = new(stored)
		}
		switch n := len(p.list); {
		case !isQueued && n < maxRows:
			row, err := parseRow(v)
			row.state = slices.Clone(row.state)
			if err != nil {
				row.state = nil // it is not restored, and its rows are deleted
			}
			p.list = append(p.list, restored{id: id, storedRow: row})
		case isQueued && queued == "h":
			if p.handled == nil {
				p.handled = make(map[string]handled)
			}
			if len(p.handled) < maxRows {
				p.handled[id], _ = parseHandled(v) // one that is damaged is the oldest
			}
		case !isQueued || n == 0 || p.list[n-1].id != id:
		case queued == "s":
			p.list[n-1].sent = slices.Clone(v)
		case len(queued) == 4 && int(binary.BigEndian.Uint32([]byte(queued))) == len(p.list[n-1].queue):
			p.list[n-1].queue = append(p.list[n-1].queue, slices.Clone(v)) // up to the first gap
		}
		return true
	})
	return p, err
}

// loaded is the Loaded hook: it restores the sessions that were read with the account, but those that are in
// memory. The account may be read again because a batch has failed. Under the account's lock.
func (m *module) loaded(l *session.LoopRouter, a *session.Account) {
	for _, s := range a.Resources() {
		if r := restingVar.Get(s); r != nil && !r.deleted {
			r.unknown() // and they must not stay behind what comes for it
			if t, _ := hibernation(s); t != nil {
				m.keepWhenHandled(l, s, t)
			}
		}
	}
	p := part.Get(a)
	if p == nil {
		return
	}
	m.forgetHandled(l, a, p)
	list := slices.DeleteFunc(p.list, func(r restored) bool { return find(a, r.id) != nil })
	p.list, p.handled = nil, nil
	sessions := make([]session.StoredSession, 0, len(list))
	list = slices.DeleteFunc(list, func(r restored) bool {
		if _, ended := m.dead.Load(r.id); ended { // its rows could not be deleted
			m.deleteEnded(l, a, r.id, &resting{deadline: r.deadline, queued: -1})
			return true
		}
		sessions = append(sessions, session.StoredSession{State: r.state, Sent: r.sent, Queue: r.queue})
		return false
	})
	a.RestoreSessions(l, sessions, func(i int, s *session.Session, err error) {
		r := &list[i]
		if err != nil {
			m.log.Error("a stored session can't be restored", "jid", a.JID().String(), "err", err)
			m.deleteEnded(l, a, r.id, &resting{deadline: r.deadline, queued: -1})
			return
		}
		restingVar.Set(s, &resting{deadline: r.deadline, stored: true, current: true, queued: len(r.queue),
			state: sumOf(r.state), sent: sumOf(r.sent)})
		if r.incarnation != m.db.Incarnation() {
			presence.MustTell.Set(s, true)
		}
	})
}

// deleteEnded deletes the rows of the session id, which has ended. Until that is durable the session is not
// restored. Under the account's lock.
func (m *module) deleteEnded(l *session.LoopRouter, a *session.Account, id string, r *resting) {
	m.dead.Store(id, true)
	b := m.db.NewBatch(a.ID())
	m.deleteRows(b, a, id, r)
	t := session.Ticket(m.db.Commit(b))
	a.MarkUncommitted(l, t)
	session.WhenDurable(l, t, func(err error) {
		if err == nil {
			m.dead.Delete(id)
		}
	})
}

// forgetHandled deletes what p has of sessions that have ended, but the newest of it, which it lists. Under
// the account's lock.
func (m *module) forgetHandled(l *session.LoopRouter, a *session.Account, p *stored) {
	if p.handled == nil {
		return
	}
	p.ended = nil
	for id := range p.handled {
		if find(a, id) == nil && !slices.ContainsFunc(p.list, func(r restored) bool { return r.id == id }) {
			p.ended = append(p.ended, id)
		}
	}
	slices.SortFunc(p.ended, func(a, b string) int { return cmp.Compare(p.handled[a].at, p.handled[b].at) })
	now, old := m.db.Deadlines().Now(), max(0, len(p.ended)-maxHandled)
	for old < len(p.ended) && now-p.handled[p.ended[old]].at >= maxHandledTime {
		old++
	}
	m.forgetOldest(l, a, p, old)
}

// forgetOldest deletes what is handled of the n sessions that have ended first. Under the account's lock.
func (m *module) forgetOldest(l *session.LoopRouter, a *session.Account, p *stored, n int) {
	if n <= 0 {
		return
	}
	b := m.db.NewBatch(a.ID())
	for _, id := range p.ended[:n] {
		m.rows.Delete(b, a.ID(), handledKey(id))
	}
	p.ended = slices.Delete(p.ended, 0, n)
	a.MarkUncommitted(l, session.Ticket(m.db.Commit(b)))
}

// deleteRows deletes what the store has of a session, as r says; with a negative number of rows of the queue
// all that there are, but for what is handled.
func (m *module) deleteRows(b *store.Batch, a *session.Account, id string, r *resting) {
	if r.queued < 0 {
		m.rows.DeleteRange(b, a.ID(), queueKey(id, 0), queueKey(id, maxQueue)) // no row but those of a queue
	}
	m.rows.Delete(b, a.ID(), id)
	m.rows.Delete(b, a.ID(), sentKey(id))
	for i := range r.queued {
		m.rows.Delete(b, a.ID(), queueKey(id, i))
	}
	b.DeleteDeadline(store.Deadline{At: r.deadline, Owner: a.ID(), Name: id})
}

// keepRows writes all rows of s, which hibernates. Under the account's lock.
func (m *module) keepRows(l *session.LoopRouter, a *session.Account, s *session.Session, r *resting,
	id string) {
	b := m.db.NewBatch(a.ID())
	if r.queued < 0 {
		m.deleteRows(b, a, id, r)
	}
	state, sent := session.MarshalSession(s)
	m.rows.Put(b, a.ID(), id, storedRow{m.db.Incarnation(), r.deadline, state}.append(nil))
	m.rows.Put(b, a.ID(), sentKey(id), sent)
	b.PutDeadline(store.Deadline{At: r.deadline, Owner: a.ID(), Name: id, JID: a.JID().String()})
	r.queued = session.MarshalQueue(s, 0, func(i int, el []byte) {
		m.rows.Put(b, a.ID(), queueKey(id, i), el)
	})
	r.state, r.sent, r.shared = sumOf(state), sumOf(sent), session.SharedCounts(s)
	r.stored, r.current = true, true
	a.MarkUncommitted(l, session.Ticket(m.db.Commit(b)))
}

// sumOf tells two states of a session apart.
func sumOf(state []byte) uint64 { return maphash.Bytes(seed, state) }

// seed is that of all sums of the process.
var seed = maphash.MakeSeed()

// record is the AfterRecord hook, and a hook of what clients send: what ev has added to the queues of
// sessions that hibernate is stored with it. If ev waits for the account, what they know of that is stored
// too. Under the account's lock.
func (m *module) record(ev *session.Stanza) session.Verdict {
	a := ev.Account()
	if a == nil || ev.Entity().ID() == 0 {
		return session.Pass
	}
	for _, s := range a.Resources() {
		if s.Connected() {
			continue
		}
		r := restingVar.Get(s)
		if r == nil || !r.current {
			continue
		}
		t, _ := hibernation(s)
		m.addQueued(ev, a, s, r, t.ID)
		if ev.Outcome().Stored {
			m.putState(ev, a, s, r, t.ID)
		}
	}
	return session.Pass
}

// addQueued adds rows for the elements that were queued for s since the last row. It need not have got ev
// itself: it gets copies of what another session sends.
func (m *module) addQueued(ev *session.Stanza, a *session.Account, s *session.Session, r *resting,
	id string) {
	r.queued = session.MarshalQueue(s, r.queued, func(i int, el []byte) {
		m.rows.Put(storage.BatchOf(ev), a.ID(), queueKey(id, i), el)
	})
}

// putState writes the row of s again if it has changed: s knows which messages that wait it has copies of.
func (m *module) putState(ev *session.Stanza, a *session.Account, s *session.Session, r *resting, id string) {
	state := session.MarshalState(s)
	sum := sumOf(state)
	if sum == r.state {
		return
	}
	r.state = sum
	m.rows.Put(storage.BatchOf(ev), a.ID(), id, storedRow{m.db.Incarnation(), r.deadline, state}.append(nil))
}

// persist is the Persist hook: the store has all of s, or gets it now. Under the account's lock.
func (m *module) persist(l *session.LoopRouter, s *session.Session) session.Verdict {
	r := restingVar.Get(s)
	t, _ := hibernation(s)
	if r == nil || t == nil || r.deleted || m.db.Full() != nil {
		return session.Pass
	}
	if r.current {
		more := false
		session.MarshalQueue(s, r.queued, func(int, []byte) { more = true })
		state, sent := session.MarshalSession(s)
		if !more && r.state == sumOf(state) && r.sent == sumOf(sent) {
			return session.Done
		}
	}
	m.keepRows(l, s.Account(), s, r, t.ID)
	return session.Done
}

// keepWhenHandled stores s, which hibernates, when everything that its streams have accepted is settled.
// Under the account's lock.
func (m *module) keepWhenHandled(l *session.LoopRouter, s *session.Session, t *session.Terms) {
	session.WhenHandled(l, s, func(l *session.LoopRouter, a *session.Account) {
		if r := restingVar.Get(s); r != nil && !r.current && !r.deleted && m.db.Full() == nil {
			m.keepRows(l, a, s, r, t.ID)
		}
	})
}

// unbound is the Unbound hook: s has ended, so its rows are deleted, but for what is handled of it. The rows
// of the other sessions that hibernate are written again if they say how many sessions have a message that s
// had. Under the account's lock.
func (m *module) unbound(l *session.LoopRouter, s *session.Session) {
	a := s.Account()
	if t, _ := hibernation(s); t != nil && t.ID != "" {
		if r := restingVar.Get(s); r != nil && r.stored {
			m.deleteEnded(l, a, t.ID, r)
		}
		restingVar.Set(s, nil)
		if session.LoggedOut(s) {
			b := m.db.NewBatch(a.ID())
			m.rows.Delete(b, a.ID(), handledKey(t.ID))
			a.MarkUncommitted(l, session.Ticket(m.db.Commit(b)))
		} else {
			m.keepHandled(s, t)
			p := part.Mutable(a)
			p.ended = append(p.ended, t.ID)
			m.forgetOldest(l, a, p, len(p.ended)-maxHandled)
		}
	}
	for _, o := range a.Resources() {
		r := restingVar.Get(o)
		if o == s || r == nil || !r.current || o.Connected() || r.shared == session.SharedCounts(o) {
			continue
		}
		t, _ := hibernation(o)
		m.keepRows(l, a, o, r, t.ID)
	}
}

// keepHandled notes what is handled of s, which ends. While its stream still has stanzas that are not
// settled, the row stays as it is: it says no less than the client was told. Under the account's lock.
func (m *module) keepHandled(s *session.Session, t *session.Terms) {
	session.AfterHandled(s, func(handled uint32) {
		b := m.db.NewBatch(t.Owner)
		m.putHandled(b, t, handled)
		m.db.Commit(b)
	})
}

// forget deletes the rows of s, which is about to be resumed, and notes that handled stanzas of its client
// are handled: that is durable with the ticket. Under the account's lock.
func (m *module) forget(l *session.LoopRouter, s *session.Session, handled uint32) session.Ticket {
	a, r := s.Account(), restingVar.Get(s)
	t, _ := hibernation(s)
	b := m.db.NewBatch(a.ID())
	if r != nil {
		if r.stored {
			m.deleteRows(b, a, t.ID, r)
		}
		r.unknown() // until another stream has the session
		r.deleted = true
	}
	m.putHandled(b, t, handled)
	ticket := session.Ticket(m.db.Commit(b))
	a.MarkUncommitted(l, ticket)
	return ticket
}

// notResumed stores s again, which hibernates still although its rows were deleted: its client has gone, or
// the store has failed. Under the account's lock.
func (m *module) notResumed(l *session.LoopRouter, s *session.Session) {
	if r := restingVar.Get(s); r != nil && r.deleted && !s.Connected() {
		r.deleted = false
		if t, _ := hibernation(s); t != nil {
			m.keepWhenHandled(l, s, t)
		}
	}
}

// resumedHook is the Resumed hook. If the rows of the session are not deleted, its stream was not given by
// <resume/>: they are no longer what the session is. Under the account's lock.
func (m *module) resumedHook(l *session.LoopRouter, s *session.Session) {
	if r := restingVar.Get(s); r != nil && !r.deleted {
		m.forget(l, s, session.Handled(s))
	}
	restingVar.Set(s, nil)
}

// untilDeadline is how long a session may hibernate still, in ticks.
func (m *module) untilDeadline(r *resting) reactor.Tick {
	left := r.deadline - m.db.Deadlines().Now()
	return reactor.Tick(max(0, (left+tickMillis-1)/tickMillis))
}

// tickMillis is the length of a tick.
const tickMillis = 100
