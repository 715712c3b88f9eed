// Package offline keeps messages for accounts that have no resource to take them (XEP-0160), and
// hands them over, each with the time it came (XEP-0203), before anything live.
//
//	romeo:  <message to='juliet@localhost' type='chat'><body>Later</body></message>
//	juliet: <presence/>
//	juliet gets: <message from='romeo@localhost/orchard' to='juliet@localhost' type='chat'><body>Later</body>
//	             <delay xmlns='urn:xmpp:delay' from='localhost' stamp='2026-01-01T00:00:00Z'/></message>
//
// State in a session: the kernel's Catch holds live messages back while stored ones are handed over, a slice
// at a time as the client takes it. What was held back follows, and then messages that came when there was no
// room to hold more, which are stored behind the others. Rows are erased once the socket has taken them, on a
// connection that was not closing by then. If the client leaves before, another available resource goes on.
// Resident in an account: how many there are. Stored: one row a message, in order. Phase Fallback: only what
// no resource took is kept. Kept are messages of type normal and chat, unless a chat state is all there is
// (XEP-0160 §3) or a hint says no-store; with the hint store (XEP-0334 §3.4) a chat state is kept too. What is not
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
	New:      func() session.Module { return new(module) },
}

const (
	nsChatStates = "http://jabber.org/protocol/chatstates"
	nsHints      = "urn:xmpp:hints"
	nsStanzaID   = "urn:xmpp:sid:0"
)

var (
	rows     = store.NewLog[[]byte]("offline", 'o', 1)
	part     = session.NewPart[kept]("offline")
	thread   = xmlstream.N(session.NSClient, "thread")
	noStore  = xmlstream.N(nsHints, "no-store")
	storeIt  = xmlstream.N(nsHints, "store")
	delay    = xmlstream.N("urn:xmpp:delay", "delay")
	fromAttr = xmlstream.N("", "from")
	stamp    = xmlstream.N("", "stamp")
)

// kept is what is resident.
type kept struct {
	count, bytes int
	next         uint64 // number of the next row
	ticket       session.Ticket
	to           jid.JID // the resource that the rows are being handed to; zero: there is none
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

type module struct {
	opt  Options
	db   *store.DB
	rows *store.Log[[]byte]
	now  clock.Clock
}

func (m *module) Load(api *session.API) error {
	m.opt = Options{MaxMessages: 1000, MaxBytes: 4 << 20}
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
	if ev.Type != session.TypeNone && ev.Type != session.TypeChat {
		return session.Pass
	}
	if !worthKeeping(ev.Element) {
		return session.Pass
	}
	a := ev.Account()
	k := part.Own(a)
	ap := ev.Appender()
	ap.Open(delay).Attr(fromAttr, ev.Host.Name).Attr(stamp, clock.Stamp(m.now())).Close()
	ev.Add(ap.B)
	el := ev.Append(nil)
	if k.count >= m.opt.MaxMessages || k.bytes+len(el) > m.opt.MaxBytes {
		ev.Local().CountLimit("offline")
		return ev.Fail(session.ResourceConstraint)
	}
	if m.db.Full() != nil { // what is not kept is said to the sender, not lost
		return ev.Fail(session.ResourceConstraint)
	}
	b := m.db.NewBatch(a.ID())
	m.rows.Append(b, a.ID(), k.next, el)
	k.next++
	k.count++
	k.bytes += len(el)
	k.ticket = session.Ticket(m.db.Commit(b))
	return ev.Kept(k.ticket) // a message that could not be written is answered, not lost
}

// worthKeeping reports whether a message of type normal or chat is stored (XEP-0160 §3, XEP-0334 §3).
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
		case space == nsHints, space == nsStanzaID, c.Is(thread):
		default:
			other = true
		}
	}
	return hint || other || !state
}

// handOver begins to give s what is stored, unless another resource is being given it.
func (m *module) handOver(l *session.Local, s *session.Session) {
	k := part.Of(s.Account())
	if k == nil || k.count == 0 {
		return
	}
	if other := s.Account().Resource(k.to); other != nil && other.Catching() {
		return
	}
	k.to = s.JID()
	s.Catch()
	m.read(l, s, k, 0, k.next)
}

// read reads the next slice of the rows from from up to end, end itself left out, on a worker.
func (m *module) read(l *session.Local, s *session.Session, k *kept, from, end uint64) {
	a := s.Account()
	var list []row
	id, after := a.ID(), k.ticket
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
		m.continued(l, s, k, func(l *session.Local, bad error) {
			if err = errors.Join(err, bad); err != nil {
				l.Log.Error("stored messages could not be read", "jid", s.JID().String(), "err", err)
				m.stop(l, s, k) // they stay stored
				return
			}
			if m.still(l, s, k) {
				m.deliver(l, s, k, list, end)
			}
		})
	}) {
		m.stop(l, s, k)
	}
}

// A row is one stored message.
type row struct {
	id uint64
	el []byte
}

// continued runs f under the account's lock if s is still there and k what is in memory of its account.
func (m *module) continued(l *session.Local, s *session.Session, k *kept, f func(l *session.Local, err error)) {
	l.Account(s.Host(), s.JID().Bare(), func(l *session.Local, a *session.Account, exists bool, err error) {
		switch {
		case a == nil || a != s.Account() || a.Resource(s.JID()) != s:
		case err != nil:
			f(l, err)
		case !exists:
		case part.Of(a) != k:
			// The account was read again, as a write failed: what could not be erased would be handed over again,
			// and so on. It waits for the next presence.
			m.stop(l, s, k)
		default:
			f(l, nil)
		}
	})
}

// still reports whether s may have more, and gives it to the next resource otherwise.
func (m *module) still(l *session.Local, s *session.Session, k *kept) bool {
	_, prio := s.Presence()
	if part.Of(s.Account()) != k {
		m.stop(l, s, k)
		return false
	}
	if s.Available() && prio >= 0 {
		return true
	}
	m.stop(l, s, k)
	m.begin(l, s.Account())
	return false
}

// unbound gives what s has not taken to the next resource, whose messages are in order as those that s held back
// are routed after this.
func (m *module) unbound(l *session.Local, s *session.Session) {
	k := part.Of(s.Account())
	if k == nil || k.to != s.JID() {
		return
	}
	k.to = jid.JID{}
	for _, o := range s.Account().Resources() {
		if _, prio := o.Presence(); o != s && o.Available() && prio >= 0 {
			m.handOver(l, o)
		}
	}
}

// begin gives what is stored to the first resource that may have it.
func (m *module) begin(l *session.Local, a *session.Account) {
	for _, s := range a.Resources() {
		if _, prio := s.Presence(); s.Available() && prio >= 0 {
			m.handOver(l, s)
		}
	}
}

// stop ends the handing over to s: what is stored stays, and what s holds back leaves.
func (m *module) stop(l *session.Local, s *session.Session, k *kept) {
	k.to = jid.JID{}
	if s.Catching() {
		s.Caught(l)
	}
}

// deliver sends a slice to s, and erases it once the socket has it.
func (m *module) deliver(l *session.Local, s *session.Session, k *kept, list []row, end uint64) {
	if len(list) == 0 {
		m.after(l, s, k)
		return
	}
	size := 0
	for _, r := range list {
		if !l.HandOver(s, session.Message, jid.JID{}, jid.JID{}, r.el) {
			return // its stream is closing: unbound goes on
		}
		size += len(r.el)
	}
	last := list[len(list)-1].id
	s.AfterFlush(l, func(l *session.Local, taken bool) {
		m.continued(l, s, k, func(l *session.Local, err error) {
			if !taken { // s is about to be unbound
				return
			}
			if err != nil {
				m.stop(l, s, k)
				return
			}
			a := s.Account()
			b := m.db.NewBatch(a.ID())
			m.rows.Trim(b, a.ID(), last+1)
			k.ticket = session.Ticket(m.db.Commit(b))
			a.Wrote(l, k.ticket)
			k.count, k.bytes = k.count-len(list), k.bytes-size
			switch {
			case !m.still(l, s, k):
			case last+1 < end:
				m.read(l, s, k, last+1, end)
			default:
				m.after(l, s, k)
			}
		})
	})
}

// after follows the stored messages with those that s holds back, and those with what was stored when s had no
// room to hold more.
func (m *module) after(l *session.Local, s *session.Session, k *kept) {
	s.Release(l, func(l *session.Local) {
		if !m.still(l, s, k) {
			return
		}
		if k.count > 0 {
			s.Reopen()
			m.read(l, s, k, 0, k.next)
			return
		}
		m.stop(l, s, k)
	})
}
