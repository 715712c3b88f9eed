// Package lastactivity says how long the server has run, and since when an account is away, with the
// status it left behind (XEP-0012). Last activity in presence (XEP-0256) is the clients' own and
// passes.
//
//	C: <iq type='get' id='1' to='juliet@localhost'><query xmlns='jabber:iq:last'/></iq>
//	S: <iq type='result' id='1' from='juliet@localhost' to='romeo@localhost/orchard'><query xmlns='jabber:iq:last' seconds='903'>Heading Home</query></iq>
//
// Resident in an account: when its last resource left. Stored: the same, one row. Hooks: PrePresence
// and Unbound, for the moment of leaving. Told to those who get the account's presence; to others the
// account does not exist.
package lastactivity

import (
	"encoding/binary"
	"errors"
	"strconv"
	"strings"
	"time"

	"canto/session"
	"canto/session/mod/presence"
	"canto/session/mod/roster"
	"canto/session/stanza"
	"canto/session/storage"
	"canto/session/store"
	"canto/session/wallclock"
	"canto/xmlstream"
)

// Manifest is how the loader knows this module.
var Manifest = session.Manifest{
	Name:     "lastactivity",
	Spec:     "XEP-0012 2.0, XEP-0256 1.1",
	Summary:  "says since when somebody is away",
	Cases:    "server uptime, offline user with status, online user, unauthorized asker",
	Requires: []session.Feature{"accounts", "iq", "presence", "resident", "store", "roster"},
	New:      func() session.Module { return new(module) },
}

const ns = "jabber:iq:last"

// maxStatus bounds the status that is kept, in bytes.
const maxStatus = 256

var (
	rows    = store.NewMap[string, []byte]("last", 'l', 1)
	part    = session.NewPart[lastActivity]("last")
	query   = xmlstream.N(ns, "query")
	seconds = xmlstream.N("", "seconds")
)

type lastActivity struct {
	at     int64 // seconds since 1970; 0: never
	status string
}

type module struct {
	db    *store.DB
	rows  *store.Map[string, []byte]
	now   wallclock.Clock
	start time.Time
}

func (m *module) Load(api *session.API) error {
	if m.db = storage.DB(api); m.db == nil {
		return errors.New("there is no store")
	}
	var err error
	if m.rows, err = storage.OpenMap(api, rows); err != nil {
		return err
	}
	m.now = wallclock.Of(api)
	m.start = m.now()
	session.Resident(api, part, func(snap *store.Snapshot, who session.EntityRef) (*lastActivity, error) {
		v, ok, err := m.rows.Get(snap, who.ID, "")
		if err != nil || !ok || len(v) < 8 {
			return nil, err
		}
		return &lastActivity{int64(binary.BigEndian.Uint64(v)), string(v[8:])}, nil
	})
	api.Advertise(ns)
	api.Hooks.OnIQ(api.Module, false, query, m.host, session.ToHost)
	api.Hooks.OnIQ(api.Module, false, query, m.account, session.ToSelf, session.ToBare)
	// A resource is not asked by who may not see its presence (§4).
	api.Hooks.IQ[session.ToFull].Add(api.Module, session.Guard, func(ev *session.Stanza) session.Verdict {
		if ev.Type != stanza.TypeGet || !ev.Payload().Is(query) {
			return session.Pass
		}
		a := ev.Account()
		s := a.Resource(ev.To)
		if ev.From.Bare() == a.JID() || roster.Of(a).State(ev.From.Bare()).From || s != nil &&
			presence.WasDirected(s, ev.From) {
			return session.Pass
		}
		return ev.Fail(stanza.ServiceUnavailable)
	})
	api.Hooks.PrePresence[session.ToSelf].Add(api.Module, session.Rewrite,
		func(ev *session.Stanza) session.Verdict {
			if ev.Type == stanza.TypeUnavailable && !ev.Directed() && ev.Session.Available() {
				text := ""
				if e, ok := ev.Element.Child(stanza.StatusName); ok {
					text = strings.ToValidUTF8(string(e.Text()[:min(len(e.Text()), maxStatus)]), "")
				}
				m.recordLeft(ev.LoopRouter(), ev.Account(), ev.Session, text)
			}
			return session.Pass
		})
	// Before presence forgets that the session was available.
	api.Hooks.Unbound.Add(api.Module, session.Guard, func(l *session.LoopRouter, s *session.Session) {
		if s.Available() {
			m.recordLeft(l, s.Account(), s, "")
		}
	})
	return nil
}

// recordLeft notes that s goes, if it is the last available resource.
func (m *module) recordLeft(l *session.LoopRouter, a *session.Account, s *session.Session, text string) {
	for _, o := range a.Resources() {
		if o != s && o.Available() {
			return
		}
	}
	if m.db.Full() != nil {
		return // it would be taken back, and the account read again
	}
	p := part.Mutable(a)
	p.at, p.status = m.now().Unix(), text
	b := m.db.NewBatch(a.ID())
	m.rows.Put(b, a.ID(), "", append(binary.BigEndian.AppendUint64(nil, uint64(p.at)), p.status...))
	a.MarkUncommitted(l, session.Ticket(m.db.Commit(b)))
}

func reply(ev *session.Stanza, n int64, text string) session.Verdict {
	return ev.Reply(func(_ *session.Stanza, a *xmlstream.Appender) {
		a.Open(query).Attr(seconds, strconv.FormatInt(max(n, 0), 10))
		if text != "" {
			a.Text(text)
		}
		a.Close()
	})
}

func (m *module) host(ev *session.Stanza) session.Verdict {
	return reply(ev, int64(m.now().Sub(m.start)/time.Second), "")
}

func (m *module) account(ev *session.Stanza) session.Verdict {
	a := ev.Account()
	if ev.Target != session.ToSelf && !roster.Of(a).State(ev.From.Bare()).From {
		return ev.Fail(stanza.ServiceUnavailable)
	}
	for _, s := range a.Resources() {
		if s.Available() {
			return reply(ev, 0, "")
		}
	}
	p := part.Get(a)
	if p == nil || p.at == 0 {
		return ev.Fail(stanza.ServiceUnavailable)
	}
	return reply(ev, m.now().Unix()-p.at, p.status)
}
