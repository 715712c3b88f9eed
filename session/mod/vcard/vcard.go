// Package vcard keeps each account's vCard (XEP-0054) and shows it to whoever asks.
//
//	C: <iq type='set' id='1'><vCard xmlns='vcard-temp'><NICKNAME>Montague</NICKNAME></vCard></iq>
//	S: <iq type='result' id='1'/>
//
// State: none. Stored: one row, read when it is asked for. An account without a card answers others
// like an address without an account.
package vcard

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
	Name:     "vcard",
	Spec:     "XEP-0054 1.2",
	Summary:  "keeps vCards",
	Cases:    "one's own, another's, update, none, another's update, size limit",
	Provides: []session.Feature{"vcard"},
	Requires: []session.Feature{"accounts", "iq", "commit", "store"},
	Options:  func() any { o := defaultOptions(); return &o },
	New:      func() session.Module { return new(module) },
}

const ns = "vcard-temp"

var (
	rows = store.NewMap[string, []byte]("vcard", 'v', 1)
	card = xmlstream.N(ns, "vCard")
)

// Options are the module's section of the configuration.
type Options struct {
	MaxBytes int `toml:"max_bytes"`
}

// Check is [session.OptionChecker].
func (o *Options) Check() (key, why string) {
	return session.CheckRanges(session.OptionRange{Key: "max_bytes", Value: o.MaxBytes, Min: 1024,
		Max: session.MaxStanza, Note: `; to keep none, modules = ["-vcard"]`})
}

type module struct {
	opt  Options
	db   *store.DB
	rows *store.Map[string, []byte]
}

func defaultOptions() Options { return Options{MaxBytes: 128 << 10} }

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
	api.AdvertiseAccount(ns)
	api.Hooks.OnIQ(api.Module, false, card, m.get, session.ToSelf, session.ToBare)
	api.Hooks.OnIQ(api.Module, true, card, m.set, session.ToSelf)
	api.Hooks.OnIQ(api.Module, true, card, func(ev *session.Stanza) session.Verdict {
		return ev.Fail(stanza.ServiceUnavailable)
	}, session.ToBare)
	return nil
}

func (m *module) get(ev *session.Stanza) session.Verdict {
	id := ev.Account().ID()
	var v []byte
	return ev.Await(reactor.Disk, func() (err error) {
		s := m.db.Snapshot()
		defer s.Close()
		v, _, err = m.rows.Get(s, id, "")
		return err
	}, func(ev *session.Stanza, err error) session.Verdict {
		if err != nil {
			return ev.Fail(stanza.InternalServerError)
		}
		if v == nil && ev.Target != session.ToSelf {
			return ev.Fail(stanza.ServiceUnavailable)
		}
		return ev.Reply(func(_ *session.Stanza, a *xmlstream.Appender) {
			if kept, err := xmlstream.Parse(v); v != nil && err == nil {
				a.Raw(kept)
				return
			}
			a.Open(card).Close()
		})
	})
}

func (m *module) set(ev *session.Stanza) session.Verdict {
	var a xmlstream.Appender
	a.Raw(ev.Payload())
	if len(a.B) > m.opt.MaxBytes {
		return ev.Fail(stanza.PolicyViolation)
	}
	b := m.db.NewBatch(ev.Account().ID())
	if _, any := ev.Payload().First(); any {
		m.rows.Put(b, ev.Account().ID(), "", a.B)
	} else {
		m.rows.Delete(b, ev.Account().ID(), "") // an empty one tells strangers no more than none
	}
	return ev.Commit(session.Ticket(m.db.Commit(b)), func(ev *session.Stanza, err error) session.Verdict {
		if err != nil {
			return ev.FailCommit(err)
		}
		return ev.Reply(nil)
	})
}
