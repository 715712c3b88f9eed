// Package private keeps XML for a client that only its own account may read (XEP-0049).
//
//	C: <iq type='set' id='1'><query xmlns='jabber:iq:private'><exodus xmlns='exodus:prefs'><nick>Hamlet</nick></exodus></query></iq>
//	S: <iq type='result' id='1'/>
//
// Stored: one row for each name of an element, read when it is asked for. State in an account: how much
// its rows are, read on a worker by its first set, so that the limits hold for all that it keeps. An
// element with nothing in it takes its row away: to read it is the same, and it makes room.
package private

import (
	"errors"

	"canto/reactor"
	"canto/session"
	"canto/session/stanza"
	"canto/session/storage"
	"canto/session/store"
	"canto/xmlstream"
)

// Manifest is how the loader knows this module.
var Manifest = session.Manifest{
	Name:     "private",
	Spec:     "XEP-0049 1.2",
	Summary:  "keeps private XML",
	Cases:    "store, retrieve, several elements, another's data, missing namespace, limits",
	Requires: []session.Feature{"accounts", "iq", "commit", "store"},
	Options:  func() any { o := defaultOptions(); return &o },
	New:      func() session.Module { return new(module) },
}

const ns = "jabber:iq:private"

var (
	rows  = store.NewMap[string, []byte]("private", 'p', 1)
	query = xmlstream.N(ns, "query")
)

// Options are the module's section of the configuration. An element that is too long is policy-violation;
// one that an account has no room for is resource-constraint.
type Options struct {
	MaxBytes int `toml:"max_bytes"`       // of one element
	MaxRows  int `toml:"max_elements"`    // of one account
	MaxTotal int `toml:"max_total_bytes"` // of one account, names included
}

// maxKey is the longest name of an element, with its namespace: names are kept in memory.
const maxKey = 1024

var part = session.NewPart[usage]("private")

// usage is what the rows of an account take.
type usage struct {
	loaded bool           // the rest has been read
	rows   map[string]int // bytes of each, its key included
	bytes  int            // of all
}

// A row is one element of a set; no xml: it is to go.
type row struct {
	key string
	xml []byte
}

// Check is [session.OptionChecker].
func (o *Options) Check() (key, why string) {
	return session.CheckRanges(
		session.OptionRange{Key: "max_bytes", Value: o.MaxBytes, Min: 1024, Max: session.MaxStanza,
			Note: `; to keep nothing, modules = ["-private"]`},
		session.OptionRange{Key: "max_elements", Value: o.MaxRows, Min: 1, Max: 100_000,
			Note: `; to keep nothing, modules = ["-private"]`},
		session.OptionRange{Key: "max_total_bytes", Value: o.MaxTotal, Min: 1024, Max: 1 << 30})
}

type module struct {
	opt  Options
	db   *store.DB
	rows *store.Map[string, []byte]
}

func defaultOptions() Options { return Options{MaxBytes: 64 << 10, MaxRows: 256, MaxTotal: 1 << 20} }

func (m *module) Load(api *session.API) error {
	m.opt = defaultOptions()
	if err := api.Decode(&m.opt); err != nil {
		return err
	}
	if m.db = storage.DB(api); m.db == nil {
		return errors.New("there is no store")
	}
	var err error
	if m.rows, err = storage.OpenMap(api, rows); err != nil {
		return err
	}
	api.Advertise(ns)
	api.Hooks.OnIQ(api.Module, false, query, m.get, session.ToSelf)
	api.Hooks.OnIQ(api.Module, true, query, m.set, session.ToSelf)
	refuse := func(ev *session.Stanza) session.Verdict { return ev.Fail(stanza.ServiceUnavailable) }
	api.Hooks.OnIQ(api.Module, false, query, refuse, session.ToBare)
	api.Hooks.OnIQ(api.Module, true, query, refuse, session.ToBare)
	return nil
}

// rowKey is a row's: namespace and name can't run into each other, as a local name has no space.
func rowKey(e xmlstream.Element) (string, bool) {
	space := e.Space()
	return string(space) + " " + string(e.Local()), len(space) > 0 && string(space) != ns &&
		string(space) != stanza.NSClient
}

func (m *module) get(ev *session.Stanza) session.Verdict {
	e, ok := ev.Payload().First()
	if !ok {
		return ev.Fail(stanza.NotAcceptable) // XEP-0049 §2: at least one child with a namespace of its own
	}
	if _, more := e.Next(); more {
		return ev.Fail(stanza.BadRequest)
	}
	k, ok := rowKey(e)
	if !ok {
		return ev.Fail(stanza.NotAcceptable)
	}
	id := ev.Account().ID()
	asked := e.Clone()
	var v []byte
	return ev.Await(reactor.Disk, func() (err error) {
		s := m.db.Snapshot()
		defer s.Close()
		v, _, err = m.rows.Get(s, id, k)
		return err
	}, func(ev *session.Stanza, err error) session.Verdict {
		if err != nil {
			return ev.Fail(stanza.InternalServerError)
		}
		if v != nil {
			if kept, err := xmlstream.Parse(v); err == nil {
				asked = kept
			}
		}
		return ev.Reply(func(_ *session.Stanza, a *xmlstream.Appender) { a.Open(query).Raw(asked).Close() })
	})
}

func (m *module) set(ev *session.Stanza) session.Verdict {
	var set []row
	for e, ok := ev.Payload().First(); ok; e, ok = e.Next() {
		k, ok := rowKey(e)
		if !ok {
			return ev.Fail(stanza.NotAcceptable)
		}
		var a xmlstream.Appender
		a.Raw(e)
		if len(set) == m.opt.MaxRows || len(a.B) > m.opt.MaxBytes || len(k) > maxKey {
			return ev.Fail(stanza.PolicyViolation)
		}
		if _, some := e.First(); !some && e.NumAttr() == 0 && len(e.Text()) == 0 {
			a.B = nil
		}
		set = append(set, row{k, a.B})
	}
	if len(set) == 0 {
		return ev.Fail(stanza.NotAcceptable)
	}
	a := ev.Account()
	u := part.Mutable(a)
	if u.loaded {
		return m.put(ev, u, set)
	}
	rows := map[string]int{}
	return ev.Await(reactor.Disk, func() error {
		s := m.db.Snapshot()
		defer s.Close()
		return m.rows.Scan(s, a.ID(), "", func(k string, v []byte) bool {
			rows[k] = len(k) + len(v)
			return true
		})
	}, func(ev *session.Stanza, err error) session.Verdict {
		if err != nil {
			return ev.Fail(stanza.InternalServerError)
		}
		if part.Get(a) != u {
			return ev.Fail(stanza.ResourceConstraint) // the account left memory meanwhile; a second try reads again
		}
		if !u.loaded { // no other resource was faster
			u.loaded, u.rows = true, rows
			for _, n := range rows {
				u.bytes += n
			}
		}
		return m.put(ev, u, set)
	})
}

// put replaces rows where the limits of the account allow it. What takes no more than before is always
// allowed: what is kept may be older than the limits.
func (m *module) put(ev *session.Stanza, u *usage, set []row) session.Verdict {
	next := make(map[string]int, len(set)) // of the rows of set; the last of a name is the one that stays
	for _, r := range set {
		if next[r.key] = 0; r.xml != nil {
			next[r.key] = len(r.key) + len(r.xml)
		}
	}
	rows, bytes := len(u.rows), u.bytes
	for k, n := range next {
		old, had := u.rows[k]
		bytes += n - old
		switch {
		case n > 0 && !had:
			rows++
		case n == 0 && had:
			rows--
		}
	}
	if rows > max(m.opt.MaxRows, len(u.rows)) || bytes > max(m.opt.MaxTotal, u.bytes) {
		return ev.Fail(stanza.ResourceConstraint)
	}
	id := ev.Account().ID()
	b := m.db.NewBatch(id)
	for _, r := range set {
		if r.xml == nil {
			m.rows.Delete(b, id, r.key)
		} else {
			m.rows.Put(b, id, r.key, r.xml)
		}
	}
	for k, n := range next {
		if u.rows[k] = n; n == 0 {
			delete(u.rows, k)
		}
	}
	u.bytes = bytes
	return ev.Commit(session.Ticket(m.db.Commit(b)), func(ev *session.Stanza, err error) session.Verdict {
		if err != nil {
			return ev.FailCommit(err)
		}
		return ev.Reply(nil)
	})
}
