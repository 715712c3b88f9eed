// Package lastactivity implements last activity (XEP-0012): how long the server has run, and for how long
// an account has had no available resource, with the last status. Last activity in presence (XEP-0256) is
// between clients and passes unchanged.
//
//	C: <iq type='get' id='1' to='juliet@localhost'><query xmlns='jabber:iq:last'/></iq>
//	S: <iq type='result' id='1' from='juliet@localhost' to='romeo@localhost/orchard'>
//	     <query xmlns='jabber:iq:last' seconds='903'>Heading Home</query></iq>
//
// An account answers its owner and the contacts with a subscription to its presence. To any other client
// it does not exist.
//
// In memory, in a warm account: when its last resource left, and the status. Stored: the same, one row.
//
// Hooks: PrePresence in phase Rewrite and Unbound in phase Guard record when the last resource leaves;
// both run before module presence forgets the presence. IQ to full JIDs in phase Guard. All run under the
// account's lock.
package lastactivity

import (
	"encoding/binary"
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

// Manifest describes this module to the loader.
var Manifest = session.Manifest{
	Name:     "lastactivity",
	Spec:     "XEP-0012 2.0, XEP-0256 1.1",
	Summary:  "says how long a user has been away",
	Cases:    "server uptime, offline user with status, online user, unauthorized asker",
	Requires: []session.Feature{"accounts", "iq", "presence", "resident", "store", "roster"},
	New:      func() session.Module { return new(module) },
}

// ns is the namespace of last activity.
const ns = "jabber:iq:last"

// maxStatus is how many bytes of the status are kept; the rest is cut off.
const maxStatus = 256

var (
	// rows has one row for each account, with an empty key: seconds since 1970 in 8 bytes, and the status.
	// The prefix 'l' is part of the store's format and does not change.
	rows    = store.NewMap[string, []byte]("last", 'l', 1)
	part    = session.NewPart[lastActivity]("last")
	query   = xmlstream.N(ns, "query")
	seconds = xmlstream.N("", "seconds")
)

// A lastActivity says when the last resource of an account left. The account's lock guards it.
type lastActivity struct {
	at     int64  // seconds since 1970; 0: never
	status string // of the unavailable presence
}

// A module is the module of one profile. It does not change after Load.
type module struct {
	db    *store.DB
	rows  *store.Map[string, []byte]
	now   wallclock.Clock
	start time.Time // when the profile was loaded
}

// Load implements [session.Module]. Its steps: open the rows, register the loader of the resident part and
// the handlers of queries to the host, to an account and to a resource, and the hooks that record when
// the last resource leaves: by unavailable presence, or by the end of its session. It fails if there is no
// store, or if the rows have a newer format.
func (m *module) Load(api *session.API) error {
	var err error
	if m.db, err = storage.Open(api); err != nil {
		return err
	}
	if m.rows, err = storage.OpenMap(api, rows); err != nil {
		return err
	}
	m.now = wallclock.Of(api)
	m.start = m.now()
	session.Resident(api, part, func(snap *store.Snapshot, acc session.EntityRef) (*lastActivity, error) {
		v, ok, err := m.rows.Get(snap, acc.ID, "")
		if err != nil || !ok || len(v) < 8 {
			return nil, err
		}
		return &lastActivity{int64(binary.BigEndian.Uint64(v)), string(v[8:])}, nil
	})
	api.Advertise(ns)
	api.Hooks.OnIQ(api.Module, false, query, m.host, session.ToHost)
	api.Hooks.OnIQ(api.Module, false, query, m.account, session.ToSelf, session.ToBare)
	// A request to a resource passes only from a client that may see its presence (section 4).
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
	// In phase Guard, so before module presence removes the session's presence.
	api.Hooks.Unbound.Add(api.Module, session.Guard, func(l *session.LoopRouter, s *session.Session) {
		if s.Available() {
			m.recordLeft(l, s.Account(), s, "")
		}
	})
	return nil
}

// recordLeft records that s leaves now with a status, if no other resource of a is available. It does not
// wait for the commit. If the store is full it does nothing: the commit would fail and the kernel would
// reload the account. Under the lock of a.
func (m *module) recordLeft(l *session.LoopRouter, a *session.Account, s *session.Session, status string) {
	for _, o := range a.Resources() {
		if o != s && o.Available() {
			return
		}
	}
	if m.db.Full() != nil {
		return
	}
	p := part.Mutable(a)
	p.at, p.status = m.now().Unix(), status
	b := m.db.NewBatch(a.ID())
	m.rows.Put(b, a.ID(), "", append(binary.BigEndian.AppendUint64(nil, uint64(p.at)), p.status...))
	a.MarkUncommitted(l, session.Ticket(m.db.Commit(b)))
}

// reply answers ev with n seconds and a text, which may be empty.
func reply(ev *session.Stanza, n int64, text string) session.Verdict {
	return ev.Reply(func(_ *session.Stanza, a *xmlstream.Appender) {
		a.Open(query).Attr(seconds, strconv.FormatInt(max(n, 0), 10))
		if text != "" {
			a.Text(text)
		}
		a.Close()
	})
}

// host answers with the time since the profile was loaded: the start of the server, or a reload that
// changed the modules. Under no lock.
func (m *module) host(ev *session.Stanza) session.Verdict {
	return reply(ev, int64(m.now().Sub(m.start)/time.Second), "")
}

// account answers for an account: 0 seconds if a resource is available. Under the account's lock.
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
