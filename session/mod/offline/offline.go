// Package offline keeps messages for accounts that have no resource to take them (XEP-0160), and
// hands them over, each with the time it came (XEP-0203), before anything live.
//
//	romeo:  <message to='juliet@localhost' type='chat'><body>Later</body></message>
//	juliet: <presence/>
//	juliet gets: <message from='romeo@localhost/orchard' to='juliet@localhost' type='chat'><body>Later</body>
//	             <delay xmlns='urn:xmpp:delay' from='localhost' stamp='2026-01-01T00:00:00Z'/></message>
//
// State in a session: none; the kernel's Catch holds live messages back while the stored ones are read.
// Resident in an account: how many there are. Stored: one row a message, in order. Phase Fallback:
// only what nobody took is kept. Kept are messages of type normal and chat with a body, unless a hint
// (XEP-0334) says no-store; a headline, groupchat message, error or bare chat state is not.
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

var (
	rows     = store.NewLog[[]byte]("offline", 'o', 1)
	part     = session.NewPart[kept]("offline")
	body     = xmlstream.N(session.NSClient, "body")
	noStore  = xmlstream.N("urn:xmpp:hints", "no-store")
	delay    = xmlstream.N("urn:xmpp:delay", "delay")
	fromAttr = xmlstream.N("", "from")
	stamp    = xmlstream.N("", "stamp")
)

// kept is what is resident.
type kept struct {
	count, bytes int
	next         uint64 // number of the next row
	ticket       session.Ticket
	reading      bool
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

// keep stores what nobody took.
func (m *module) keep(ev *session.Stanza) session.Verdict {
	if ev.Type != session.TypeNone && ev.Type != session.TypeChat {
		return session.Pass
	}
	if _, ok := ev.Element.Child(body); !ok {
		return session.Done // a chat state for nobody
	}
	if _, ok := ev.Element.Child(noStore); ok {
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
	ev.Wrote(k.ticket)
	return session.Done
}

// handOver reads what is stored on a worker and sends it in front of everything live.
func (m *module) handOver(l *session.Local, s *session.Session) {
	a := s.Account()
	k := part.Of(a)
	if k == nil || k.count == 0 || k.reading {
		return
	}
	k.reading = true
	s.Catch()
	who, host, id, after, end := s.JID(), a.Host(), a.ID(), k.ticket, k.next
	var list [][]byte
	done := func(err error) { m.deliver(l, host, who, list, end, err) }
	if !l.Router().Workers.Do(reactor.Disk, l.Loop, func() error {
		m.db.Wait(context.Background(), store.Ticket(after))
		snap := m.db.Snapshot()
		defer snap.Close()
		return m.rows.Scan(snap, id, 0, end-1, 0, false, func(_ uint64, v []byte) bool {
			list = append(list, append([]byte(nil), v...))
			return true
		})
	}, func(err error) { l.Enter(func() { done(err) }) }) {
		k.reading = false
		s.Caught()
	}
}

func (m *module) deliver(l *session.Local, host *session.Host, who jid.JID, list [][]byte, end uint64, err error) {
	l.Account(host, who.Bare(), func(l *session.Local, a *session.Account, exists bool, bad error) {
		if a == nil {
			return
		}
		k := part.Of(a)
		if k != nil {
			k.reading = false
		}
		s := a.Resource(who)
		if s == nil {
			return
		}
		if err = errors.Join(err, bad); err != nil || !exists || k == nil {
			l.Log.Error("stored messages could not be read", "jid", who.String(), "err", err)
			s.Caught() // they stay stored
			return
		}
		for _, el := range list {
			if !s.Send(session.Parcel{Bytes: el, Kind: session.Message, First: true}) {
				return // the client does not read: they stay
			}
		}
		b := m.db.NewBatch(a.ID())
		m.rows.Trim(b, a.ID(), end)
		k.ticket = session.Ticket(m.db.Commit(b))
		a.Wrote(l, k.ticket)
		k.count, k.bytes = 0, 0
		s.Caught()
	})
}
