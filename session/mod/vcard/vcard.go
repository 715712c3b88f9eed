// Package vcard implements vCards (XEP-0054): it stores the card of each account, and any client may read
// it.
//
//	C: <iq type='set' id='1'><vCard xmlns='vcard-temp'><NICKNAME>Montague</NICKNAME></vCard></iq>
//	S: <iq type='result' id='1'/>
//
// An account without a card answers other users like an address without an account.
//
// In memory: nothing. Stored: one row for each account, read by a worker for each request. Hooks: iq
// handlers, under the lock of the account.
package vcard

import (
	"canto/session"
	"canto/session/stanza"
	"canto/session/storage"
	"canto/session/store"
	"canto/xmlstream"
)

// Manifest describes this module to the loader.
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

// ns is the namespace of vCards.
const ns = "vcard-temp"

var (
	// rows has the card of each account, with an empty key. The prefix 'v' is part of the store's format and
	// does not change.
	rows = store.NewMap[string, []byte]("vcard", 'v', 1)
	card = xmlstream.N(ns, "vCard")
)

// Options is the module's section of the configuration.
type Options struct {
	MaxBytes int `toml:"max_bytes"` // the most bytes of a card; more is answered with policy-violation
}

// Check implements [session.OptionChecker].
func (o *Options) Check() (key, why string) {
	return session.CheckRanges(session.OptionRange{Key: "max_bytes", Value: o.MaxBytes, Min: 1024,
		Max: session.MaxStanza, Note: `; to keep none, modules = ["-vcard"]`})
}

// A module is the module of one profile. It does not change after Load.
type module struct {
	opt    Options
	values storage.Values
}

// defaultOptions returns the options of a configuration that does not mention the module.
func defaultOptions() Options { return Options{MaxBytes: 128 << 10} }

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
	api.AdvertiseAccount(ns)
	api.Hooks.OnIQ(api.Module, false, card, m.get, session.ToSelf, session.ToBare)
	api.Hooks.OnIQ(api.Module, true, card, m.set, session.ToSelf)
	api.Hooks.OnIQ(api.Module, true, card, func(ev *session.Stanza) session.Verdict {
		return ev.Fail(stanza.ServiceUnavailable)
	}, session.ToBare)
	return nil
}

// get answers with the card. Without one the owner gets an empty card, and another user
// service-unavailable. A stored card that can't be parsed is answered like an empty one.
func (m *module) get(ev *session.Stanza) session.Verdict {
	return m.values.Await(ev, "", func(ev *session.Stanza, v []byte) session.Verdict {
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

// set stores the card, and answers once it is durable. An empty card deletes the row, so that other users
// get the same answer as for no account.
func (m *module) set(ev *session.Stanza) session.Verdict {
	var a xmlstream.Appender
	a.Raw(ev.Payload())
	if len(a.B) > m.opt.MaxBytes {
		return ev.Fail(stanza.PolicyViolation)
	}
	b := m.values.DB.NewBatch(ev.Account().ID())
	if _, any := ev.Payload().First(); any {
		m.values.Rows.Put(b, ev.Account().ID(), "", a.B)
	} else {
		m.values.Rows.Delete(b, ev.Account().ID(), "")
	}
	return storage.CommitAndReply(ev, m.values.DB, b)
}
