// Package private implements private XML storage (XEP-0049): XML elements that a client stores on the
// server, and that only the same account can read.
//
//	C: <iq type='set' id='1'><query xmlns='jabber:iq:private'>
//	     <exodus xmlns='exodus:prefs'><nick>Hamlet</nick></exodus></query></iq>
//	S: <iq type='result' id='1'/>
//
// An empty element deletes its row: a client reads the same from both, and the row takes no space.
//
// In memory, in a warm account: the [usage] of its rows, once the first set has read it. It makes the
// limits hold for all that the account stores. Stored: one row for each name of an element, read by a
// worker for each request.
//
// Hooks: iq handlers, under the lock of the account.
package private

import (
	"canto/reactor"
	"canto/session"
	"canto/session/stanza"
	"canto/session/storage"
	"canto/session/store"
	"canto/xmlstream"
)

// Manifest describes this module to the loader.
var Manifest = session.Manifest{
	Name:     "private",
	Spec:     "XEP-0049 1.2",
	Summary:  "keeps private XML",
	Cases:    "store, retrieve, several elements, another's data, missing namespace, limits",
	Requires: []session.Feature{"accounts", "iq", "commit", "store"},
	Options:  func() any { o := defaultOptions(); return &o },
	New:      func() session.Module { return new(module) },
}

// ns is the namespace of private XML storage.
const ns = "jabber:iq:private"

var (
	// rows has the elements, keyed by account and rowKey. The prefix 'p' is part of the store's format and
	// does not change.
	rows  = store.NewMap[string, []byte]("private", 'p', 1)
	query = xmlstream.N(ns, "query")
)

// Options is the module's section of the configuration. An element that is too long is answered with
// policy-violation, an element for which the account has no space with resource-constraint.
type Options struct {
	MaxBytes int `toml:"max_bytes"`       // the most bytes of one element
	MaxRows  int `toml:"max_elements"`    // the most elements of one account
	MaxTotal int `toml:"max_total_bytes"` // the most bytes of one account, with the names of the elements
}

// maxKey is the longest key, which is an element's name with its namespace, in bytes. Keys of warm
// accounts are in memory.
const maxKey = 1024

// part is the usage of a warm account. No loader fills it: it is read by the first set.
var part = session.NewPart[usage]("private")

// A usage is what the rows of an account take. The account's lock guards it.
type usage struct {
	loaded bool           // the other fields have been read from the store
	rows   map[string]int // the bytes of each row with its key, by key
	bytes  int            // the bytes of all rows
}

// A row is one element of a set request.
type row struct {
	key string
	xml []byte // nil: the row is deleted
}

// Check implements [session.OptionChecker].
func (o *Options) Check() (key, why string) {
	return session.CheckRanges(
		session.OptionRange{Key: "max_bytes", Value: o.MaxBytes, Min: 1024, Max: session.MaxStanza,
			Note: `; to keep nothing, modules = ["-private"]`},
		session.OptionRange{Key: "max_elements", Value: o.MaxRows, Min: 1, Max: 100_000,
			Note: `; to keep nothing, modules = ["-private"]`},
		session.OptionRange{Key: "max_total_bytes", Value: o.MaxTotal, Min: 1024, Max: 1 << 30})
}

// A module is the module of one profile. It does not change after Load.
type module struct {
	opt    Options
	values storage.Values
}

// defaultOptions returns the options of a configuration that does not mention the module.
func defaultOptions() Options { return Options{MaxBytes: 64 << 10, MaxRows: 256, MaxTotal: 1 << 20} }

// Load implements [session.Module]. It fails if an option is out of range, if there is no store, or if the
// rows have a newer format.
func (m *module) Load(api *session.API) error {
	m.opt = defaultOptions()
	if err := api.Decode(&m.opt); err != nil {
		return err
	}
	var err error
	if m.values, err = storage.OpenValues(api, rows); err != nil {
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

// rowKey returns the key of the row of e: namespace, a space, local name. No local name has a space, so
// two names never have the same key. The result is false for an element without a namespace of its own.
func rowKey(e xmlstream.Element) (string, bool) {
	space := e.Space()
	return string(space) + " " + string(e.Local()), len(space) > 0 && string(space) != ns &&
		string(space) != stanza.NSClient
}

// get answers with the stored element of the requested name, or with the empty element of the request.
func (m *module) get(ev *session.Stanza) session.Verdict {
	e, ok := ev.Payload().First()
	if !ok {
		return ev.Fail(stanza.NotAcceptable) // XEP-0049 section 2: at least one child with its own namespace
	}
	if _, more := e.Next(); more {
		return ev.Fail(stanza.BadRequest)
	}
	k, ok := rowKey(e)
	if !ok {
		return ev.Fail(stanza.NotAcceptable)
	}
	answer := e.Clone()
	return m.values.Await(ev, k, func(ev *session.Stanza, v []byte) session.Verdict {
		if v != nil {
			if stored, err := xmlstream.Parse(v); err == nil {
				answer = stored
			}
		}
		return ev.Reply(func(_ *session.Stanza, a *xmlstream.Appender) { a.Open(query).Raw(answer).Close() })
	})
}

// set stores the elements of the request, all or none. Under the account's lock. Its steps:
//
//  1. Read the elements into rows, and check the limits of one request.
//  2. If the usage of the account is not known, read it on a worker. If the account was reloaded or left
//     memory meanwhile, answer resource-constraint; the next try reads it again.
//  3. Store the rows: see put.
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
		if _, child := e.First(); !child && e.NumAttr() == 0 && len(e.Text()) == 0 {
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
		s := m.values.DB.Snapshot()
		defer s.Close()
		return m.values.Rows.Scan(s, a.ID(), "", func(k string, v []byte) bool {
			rows[k] = len(k) + len(v)
			return true
		})
	}, func(ev *session.Stanza, err error) session.Verdict {
		if err != nil {
			return ev.Fail(stanza.InternalServerError)
		}
		if part.Get(a) != u {
			return ev.Fail(stanza.ResourceConstraint)
		}
		if !u.loaded { // another session's request may have loaded it
			u.loaded, u.rows = true, rows
			for _, n := range rows {
				u.bytes += n
			}
		}
		return m.put(ev, u, set)
	})
}

// put stores set if the limits of the account allow it, and answers once it is durable. A change that
// takes no more than before is always allowed, because the stored rows may be older than the limits. If
// one name is in set twice, the last element stays. Under the account's lock.
func (m *module) put(ev *session.Stanza, u *usage, set []row) session.Verdict {
	next := make(map[string]int, len(set)) // the bytes of each row of set, 0 for a deleted one
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
	b := m.values.DB.NewBatch(id)
	for _, r := range set {
		if r.xml == nil {
			m.values.Rows.Delete(b, id, r.key)
		} else {
			m.values.Rows.Put(b, id, r.key, r.xml)
		}
	}
	for k, n := range next {
		if u.rows[k] = n; n == 0 {
			delete(u.rows, k)
		}
	}
	u.bytes = bytes
	return storage.CommitAndReply(ev, m.values.DB, b)
}
