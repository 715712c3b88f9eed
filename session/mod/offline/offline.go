// Package offline keeps messages for accounts that have no resource to take them (XEP-0160), and
// hands them over, each with the time it came (XEP-0203), before anything live.
//
//	romeo:  <message to='juliet@localhost' type='chat'><body>Later</body></message>
//	juliet: <presence/>
//	juliet gets: <message from='romeo@localhost/orchard' to='juliet@localhost' type='chat'><body>Later</body>
//	             <delay xmlns='urn:xmpp:delay' from='localhost' stamp='2026-01-01T00:00:00Z'/></message>
//
// State in a session: the kernel's Catch holds live messages back while stored ones are handed over, a slice
// at a time as the client takes it; and how far that is. What was held back follows, and then messages that came when
// there was no room to hold more, which are stored behind the others. Rows are erased once the socket has taken them,
// on a connection that was not closing by then. If the session ends before, what it held back is stored in its place,
// and another available resource goes on. If the store or a worker fails, it is tried again with growing pauses.
// Resident in an account: how many there are. Stored: one row a message, in order. Phase Fallback: only what
// no resource took is kept. Kept are messages of type normal and chat, unless a chat state is all there is
// (XEP-0160 §3) or a hint says no-store; with the hint store (XEP-0334 §4.4) a chat state is kept too. What is not
// kept is answered with service-unavailable (RFC 6121 §8.5.2.2.1).
package offline

import (
	"context"
	"errors"
	"math"

	"canto/reactor"
	"canto/session"
	"canto/session/jid"
	"canto/session/mod/clock"
	"canto/session/mod/storage"
	"canto/session/stanza"
	"canto/session/store"
	"canto/xmlstream"
)

// Manifest is how the loader knows this module.
var Manifest = session.Manifest{
	Name:     "offline",
	Spec:     "XEP-0160 1.0.1, XEP-0203 2.0",
	Summary:  "keeps messages for those who are away",
	Cases:    "storage by type, delivery at presence, order, limits, no-store",
	Provides: []session.Feature{"offline"},
	Requires: []session.Feature{"message", "resident", "store", "message-delivery"},
	Options:  func() any { o := defaultOptions(); return &o },
	New:      func() session.Module { return new(module) },
}

const (
	nsChatStates = "http://jabber.org/protocol/chatstates"
	nsHints      = "urn:xmpp:hints"
	nsStanzaID   = "urn:xmpp:sid:0"
)

var (
	rows    = store.NewLog[[]byte]("offline", 'o', 1)
	part    = session.NewPart[kept]("offline")
	noStore = xmlstream.N(nsHints, "no-store")
	storeIt = xmlstream.N(nsHints, "store")
	delay   = xmlstream.N("urn:xmpp:delay", "delay")
)

// kept is what is resident.
type kept struct {
	count, bytes int
	next         uint64 // number of the next row
	ticket       session.Ticket
	to           jid.JID // the resource that the rows are being handed to; zero: there is none
	// Numbers for what the resource holds back, before those of messages for which it had no room.
	gap, gapEnd uint64
}

// gapRows are as many as a session holds back at most.
const gapRows = 1000

// progress is how far a session has come with what is stored.
type progress struct {
	run   int    // of which handing over; an older one ends
	next  uint64 // the number of the first row that its socket has not taken
	tries int    // that failed in a row
}

var progressOf = session.NewSlot[progress]("offline", nil, nil)

// A run hands what is stored to one session.
type run struct {
	h   *session.Host
	who jid.JID
	k   *kept
	n   int    // as in progress
	end uint64 // the number after the last row of this pass: what the session holds back comes after it
}

// Options are the module's section of the configuration.
type Options struct {
	MaxMessages int `toml:"max_messages"` // of one account
	MaxBytes    int `toml:"max_bytes"`
}

// Check is [session.OptionChecker].
func (o *Options) Check() (key, why string) {
	return session.InRange(
		session.OptionRange{Key: "max_messages", Value: o.MaxMessages, Least: 1, Most: 1_000_000, Note: `; to keep none, modules = ["-offline"]`},
		session.OptionRange{Key: "max_bytes", Value: o.MaxBytes, Least: 1024, Most: 1 << 30, Note: `; to keep none, modules = ["-offline"]`})
}

func defaultOptions() Options { return Options{MaxMessages: 1000, MaxBytes: 4 << 20} }

type module struct {
	opt  Options
	db   *store.DB
	rows *store.Log[[]byte]
	now  clock.Clock
}

func (m *module) Load(api *session.API) error {
	m.opt = defaultOptions()
	if err := api.Decode(&m.opt); err != nil {
		return err
	}
	if m.db = storage.Of(api); m.db == nil {
		return errors.New("there is no store")
	}
	var err error
	if m.rows, err = storage.Log(api, rows); err != nil {
		return err
	}
	m.now = clock.Of(api)
	session.Resident(api, part, m.load)
	for _, t := range []session.Target{session.ToSelf, session.ToBare, session.ToFull} {
		api.Hooks.Message[t].Add(api.Module, session.Fallback, m.keep)
	}
	api.Hooks.Available.Add(api.Module, session.Deliver, m.handOver)
	api.Hooks.Unbound.Add(api.Module, session.Deliver, m.unbound)
	api.Advertise("msgoffline")
	return nil
}

func (m *module) load(snap *store.Snapshot, who session.Who) (k *kept, err error) {
	err = m.rows.Scan(snap, who.ID, 0, math.MaxUint64, 0, false, func(id uint64, v []byte) bool {
		if k == nil {
			k = new(kept)
		}
		k.count++
		k.bytes += len(v)
		k.next = id + 1
		return true
	})
	return k, err
}

// keep stores what no resource took.
func (m *module) keep(ev *session.Stanza) session.Verdict {
	if ev.Type != stanza.TypeNone && ev.Type != stanza.TypeChat {
		return session.Pass
	}
	if !worthKeeping(ev.Element) {
		return session.Pass
	}
	a := ev.Account()
	k := own(a)
	ev.Add(m.delay(ev.Local(), ev.Host))
	el := ev.Append(nil)
	if !m.room(k, el) {
		ev.Local().CountLimit("offline")
		return ev.Fail(stanza.ResourceConstraint)
	}
	if m.db.Full() != nil { // what is not kept is said to the sender, not lost
		return ev.Fail(stanza.ResourceConstraint)
	}
	if k.gapEnd == 0 && a.Resource(k.to) != nil { // it had no room for ev, and what it holds back is older
		k.gap, k.gapEnd = k.next, k.next+gapRows
		k.next = k.gapEnd
	}
	b := m.db.NewBatch(a.ID())
	m.add(b, a, k, k.next, el)
	k.next++
	k.ticket = session.Ticket(m.db.Commit(b))
	return ev.Kept(k.ticket) // a message that could not be written is answered, not lost
}

// own is what is kept of a, to be changed. Where it is new, numbers go on after those that sessions have taken.
func own(a *session.Account) *kept {
	k := part.Own(a)
	for _, s := range a.Resources() {
		if p := progressOf.Get(s); p != nil {
			k.next = max(k.next, p.next)
		}
	}
	return k
}

// delay is when a message came (XEP-0203). It is the loop's Appender's.
func (m *module) delay(l *session.Local, h *session.Host) []byte {
	return l.Appender().Open(delay).Attr(stanza.AttrFrom, h.Name).Attr(stanza.AttrStamp, clock.Stamp(m.now())).Close().B
}

// room reports whether el may be stored beside what is.
func (m *module) room(k *kept, el []byte) bool {
	return k.count < m.opt.MaxMessages && k.bytes+len(el) <= m.opt.MaxBytes
}

func (m *module) add(b *store.Batch, a *session.Account, k *kept, id uint64, el []byte) {
	m.rows.Append(b, a.ID(), id, el)
	k.count++
	k.bytes += len(el)
}

// worthKeeping reports whether a message of type normal or chat is stored (XEP-0160 §3, XEP-0334 §4).
func worthKeeping(e xmlstream.Element) bool {
	state, hint, other := false, false, false
	for c, ok := e.First(); ok; c, ok = c.Next() {
		switch space := string(c.Space()); {
		case c.Is(noStore):
			return false
		case c.Is(storeIt):
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

// handOver begins to give s what is stored, unless another resource is being given it.
func (m *module) handOver(l *session.Local, s *session.Session) {
	k := part.Of(s.Account())
	if k == nil || k.count == 0 || s.Catching() {
		return
	}
	if other := s.Account().Resource(k.to); other != nil && other.Catching() {
		return
	}
	p := progressOf.Get(s)
	if p == nil {
		p = new(progress)
		progressOf.Set(s, p)
	}
	p.run++
	k.to, k.gap, k.gapEnd = s.JID(), 0, 0
	s.Catch()
	m.read(l, s, &run{s.Host(), s.JID(), k, p.run, k.next}, p.next)
}

// A row is one stored message.
type row struct {
	id uint64
	el []byte
}

// read reads the next slice of the rows from from on, on a worker.
func (m *module) read(l *session.Local, s *session.Session, r *run, from uint64) {
	a := s.Account()
	var list []row
	id, after, end := a.ID(), r.k.ticket, r.end
	if !l.Work(a.Host(), reactor.Disk, func() error {
		m.db.Wait(context.Background(), store.Ticket(after))
		snap := m.db.Snapshot()
		defer snap.Close()
		size := 0
		return m.rows.Scan(snap, id, from, end-1, 0, false, func(id uint64, v []byte) bool {
			list = append(list, row{id, append([]byte(nil), v...)})
			size += len(v)
			return size < session.SliceBytes
		})
	}, func(l *session.Local, err error) {
		m.goOn(l, r, func(l *session.Local, s *session.Session) {
			if err != nil {
				m.fail(l, s, r, err)
				return
			}
			if m.still(l, s) {
				m.deliver(l, s, r, from, list)
			}
		})
	}) {
		m.fail(l, s, r, session.ErrBusy)
	}
}

// goOn runs f under the account's lock if r is under way.
func (m *module) goOn(l *session.Local, r *run, f func(l *session.Local, s *session.Session)) {
	l.Account(r.h, r.who.Bare(), func(l *session.Local, a *session.Account, exists bool, err error) {
		s := current(a, r.who, r.n)
		switch {
		case s == nil: // it has ended, or begun anew
		case err != nil:
			m.fail(l, s, r, err)
		case !exists:
		case part.Of(a) != r.k:
			m.fail(l, s, r, errors.New("the account was read again")) // as a write failed
		default:
			f(l, s)
		}
	})
}

// current is the resource who of a, if its last run is n; else nil.
func current(a *session.Account, who jid.JID, n int) *session.Session {
	if a == nil {
		return nil
	}
	s := a.Resource(who)
	if s == nil {
		return nil
	}
	if p := progressOf.Get(s); p == nil || p.run != n {
		return nil
	}
	return s
}

// fail ends r: what is stored stays, what s holds back leaves, and after a pause it is tried again from where s is,
// eight times at most.
func (m *module) fail(l *session.Local, s *session.Session, r *run, err error) {
	p := progressOf.Get(s)
	p.tries++
	l.Log.Warn("stored messages could not be handed over", "jid", s.JID().String(), "try", p.tries, "err", err)
	m.stop(l, s, false)
	m.later(l, s.Host(), s.JID(), r.n, p.tries)
}

// later begins again after a pause with what is stored for a resource whose run n has failed that often.
func (m *module) later(l *session.Local, h *session.Host, who jid.JID, n, tries int) {
	if tries > 8 {
		return
	}
	l.After(reactor.Tick(10<<tries), func() {
		l.Account(h, who.Bare(), func(l *session.Local, a *session.Account, exists bool, err error) {
			s := current(a, who, n)
			switch {
			case s == nil: // it has ended, or begun by itself
			case err != nil:
				p := progressOf.Get(s)
				p.tries++
				m.later(l, h, who, n, p.tries)
			case s.Catching(): // what it holds back is still leaving
				m.later(l, h, who, n, tries)
			case exists:
				m.begin(l, a)
			}
		})
	})
}

// still reports whether s may have more, and gives it to the next resource otherwise.
func (m *module) still(l *session.Local, s *session.Session) bool {
	_, prio := s.Presence()
	if s.Available() && prio >= 0 {
		return true
	}
	m.stop(l, s, true)
	return false
}

// stop ends the run of s. What s holds back leaves; then what is stored by that time is for the first resource that
// may have it, unless it is tried again later.
func (m *module) stop(l *session.Local, s *session.Session, begin bool) {
	s.Caught(l, func(l *session.Local, refused bool) {
		a := s.Account()
		if k := part.Of(a); k != nil && k.to == s.JID() {
			k.to = jid.JID{}
		}
		if begin || refused {
			m.begin(l, a)
		}
	})
}

// begin gives what is stored to the first resource that may have it.
func (m *module) begin(l *session.Local, a *session.Account) {
	for _, s := range a.Resources() {
		if _, prio := s.Presence(); s.Available() && prio >= 0 && !s.Ended() {
			m.handOver(l, s)
			return
		}
	}
}

// unbound stores what s holds back, in its place, and gives what s has not taken to the next resource.
func (m *module) unbound(l *session.Local, s *session.Session) {
	stored := m.keepHeld(l, s)
	a := s.Account()
	k := part.Of(a)
	if k == nil || k.to != s.JID() && !stored {
		return
	}
	if k.to == s.JID() {
		k.to = jid.JID{}
	}
	for _, o := range a.Resources() {
		if _, prio := o.Presence(); o != s && o.Available() && prio >= 0 && !o.Ended() {
			m.handOver(l, o)
			return
		}
	}
}

// keepHeld stores the messages that s holds back and that are worth it: they are older than any that was stored
// because s had no room, and newer than the rest. It reports whether there were any.
func (m *module) keepHeld(l *session.Local, s *session.Session) bool {
	a := s.Account()
	var b *store.Batch
	var k *kept
	s.TakeHeld(func(el []byte) bool {
		e, err := l.Parser.Element(el)
		if err != nil {
			return true
		}
		typ, _ := e.Attr(stanza.AttrType)
		worth := (len(typ) == 0 || string(typ) == "normal" || string(typ) == "chat") && worthKeeping(e)
		l.Parser.Release(e)
		if k == nil {
			k = own(a)
		}
		el = session.AppendChildren(nil, el, m.delay(l, s.Host()))
		if !worth || !m.room(k, el) || m.db.Full() != nil {
			return false
		}
		if b == nil {
			b = m.db.NewBatch(a.ID())
		}
		id := k.next
		if k.to == s.JID() && k.gap < k.gapEnd {
			id = k.gap
			k.gap++
		} else {
			k.next++
		}
		m.add(b, a, k, id, el)
		return true
	})
	if b != nil {
		k.ticket = session.Ticket(m.db.Commit(b))
		a.Wrote(l, k.ticket)
	}
	return b != nil
}

// deliver sends a slice that was read from from on, as far as s has room, and erases it once the socket has it.
func (m *module) deliver(l *session.Local, s *session.Session, r *run, from uint64, list []row) {
	n, size := 0, 0
	for n < len(list) && l.HandOver(s, stanza.Message, jid.JID{}, jid.JID{}, list[n].el) {
		size += len(list[n].el)
		n++
	}
	if s.Ended() {
		return // unbound goes on
	}
	all := n == len(list)
	next := from // what is read next
	if n > 0 {
		next = list[n-1].id + 1
	}
	if all && size < session.SliceBytes {
		next = r.end // there was no more
	}
	if len(list) == 0 {
		m.erase(l, s, r, 0, 0)
		m.after(l, s, r)
		return
	}
	last := uint64(0)
	if n > 0 {
		last = list[n-1].id
	}
	s.AfterFlush(l, func(l *session.Local, taken bool) {
		if !taken {
			return // s is about to be unbound
		}
		m.goOn(l, r, func(l *session.Local, s *session.Session) {
			if n > 0 {
				p := progressOf.Get(s)
				p.next, p.tries = last+1, 0
				m.erase(l, s, r, n, size)
			}
			switch {
			case !m.still(l, s):
			case next < r.end:
				m.read(l, s, r, next)
			default:
				m.after(l, s, r)
			}
		})
	})
}

// erase erases what the socket of s has taken, n rows of so many bytes.
func (m *module) erase(l *session.Local, s *session.Session, r *run, n, size int) {
	a, k := s.Account(), r.k
	next := progressOf.Get(s).next
	if next == 0 {
		return
	}
	b := m.db.NewBatch(a.ID())
	m.rows.Trim(b, a.ID(), next)
	k.ticket = session.Ticket(m.db.Commit(b))
	a.Wrote(l, k.ticket)
	k.count, k.bytes = max(k.count-n, 0), max(k.bytes-size, 0)
	if n == 0 && k.next == r.end { // all that is stored had been taken, and was not erased
		k.count, k.bytes = 0, 0
	}
}

// after follows the stored messages with those that s holds back, and those with what was stored when s had no
// room to hold more.
func (m *module) after(l *session.Local, s *session.Session, r *run) {
	s.Release(l, func(l *session.Local) {
		p, k := progressOf.Get(s), r.k
		switch {
		case p.run != r.n:
		case part.Of(s.Account()) != k:
			m.fail(l, s, r, errors.New("the account was read again"))
		case !m.still(l, s):
		case k.next > r.end:
			s.Reopen()
			from := r.end
			r.end, k.gap, k.gapEnd = k.next, 0, 0
			m.read(l, s, r, from)
		default:
			m.stop(l, s, true)
		}
	})
}
