// Package private keeps XML for a client that only its own account may read (XEP-0049).
//
//	C: <iq type='set' id='1'><query xmlns='jabber:iq:private'><exodus xmlns='exodus:prefs'><nick>Hamlet</nick></exodus></query></iq>
//	S: <iq type='result' id='1'/>
//
// State: none. Stored: one row for each name of an element, read when it is asked for.
package private

import (
	"errors"

	"canto/reactor"
	"canto/session"
	"canto/session/mod/storage"
	"canto/session/store"
	"canto/xmlstream"
)

// Manifest is how the loader knows this module.
var Manifest = session.Manifest{
	Name:     "private",
	Spec:     "XEP-0049 1.2",
	Summary:  "keeps private XML",
	Cases:    "store, retrieve, several elements, another's data, missing namespace, limits",
	Requires: []session.Feature{"iq", "commit", "store"},
	New:      func() session.Module { return new(module) },
}

const ns = "jabber:iq:private"

var (
	rows  = store.NewMap[string, []byte]("private", 'p', 1)
	query = xmlstream.N(ns, "query")
)

// Options are the module's section of the configuration.
type Options struct {
	MaxBytes int `toml:"max_bytes"` // of one element
	MaxRows  int `toml:"max_elements"`
}

// Check is [session.OptionChecker].
func (o *Options) Check() (key, why string) {
	return session.InRange(
		session.OptionRange{Key: "max_bytes", Value: o.MaxBytes, Least: 1024, Most: session.MostStanza, Note: `; to keep nothing, modules = ["-private"]`},
		session.OptionRange{Key: "max_elements", Value: o.MaxRows, Least: 1, Most: 100_000, Note: `; to keep nothing, modules = ["-private"]`})
}

type module struct {
	opt  Options
	db   *store.DB
	rows *store.Map[string, []byte]
}

func (m *module) Load(api *session.API) error {
	m.opt = Options{64 << 10, 256}
	if err := api.Decode(&m.opt); err != nil {
		return err
	}
	if m.db = storage.Of(api); m.db == nil {
		return errors.New("there is no store")
	}
	var err error
	if m.rows, err = storage.Map(api, rows); err != nil {
		return err
	}
	api.Advertise(ns)
	api.Hooks.OnIQ(api.Module, false, query, m.get, session.ToSelf)
	api.Hooks.OnIQ(api.Module, true, query, m.set, session.ToSelf)
	refuse := func(ev *session.Stanza) session.Verdict { return ev.Fail(session.ServiceUnavailable) }
	api.Hooks.OnIQ(api.Module, false, query, refuse, session.ToBare)
	api.Hooks.OnIQ(api.Module, true, query, refuse, session.ToBare)
	return nil
}

// key is a row's: namespace and name can't run into each other, as a local name has no space.
func key(e xmlstream.Element) (string, bool) {
	space := e.Space()
	return string(space) + " " + string(e.Local()), len(space) > 0 && string(space) != ns && string(space) != session.NSClient
}

func (m *module) get(ev *session.Stanza) session.Verdict {
	e, ok := ev.Payload().First()
	if !ok {
		return ev.Fail(session.NotAcceptable) // XEP-0049 §2: at least one child with a namespace of its own
	}
	if _, more := e.Next(); more {
		return ev.Fail(session.BadRequest)
	}
	k, ok := key(e)
	if !ok {
		return ev.Fail(session.NotAcceptable)
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
			return ev.Fail(session.InternalServerError)
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
	b := m.db.NewBatch(ev.Account().ID())
	n := 0
	for e, ok := ev.Payload().First(); ok; e, ok = e.Next() {
		k, ok := key(e)
		if !ok {
			return ev.Fail(session.NotAcceptable)
		}
		var a xmlstream.Appender
		a.Raw(e)
		if n++; len(a.B) > m.opt.MaxBytes || n > m.opt.MaxRows {
			return ev.Fail(session.PolicyViolation)
		}
		m.rows.Put(b, ev.Account().ID(), k, a.B)
	}
	if n == 0 {
		return ev.Fail(session.NotAcceptable)
	}
	return ev.Commit(session.Ticket(m.db.Commit(b)), func(ev *session.Stanza, err error) session.Verdict {
		if err != nil {
			return ev.FailCommit(err)
		}
		return ev.Reply(nil)
	})
}
