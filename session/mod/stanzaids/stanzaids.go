// Package stanzaids gives each message that an account gets an id of the account's own (XEP-0359), and
// takes out ids that somebody else wrote in its name.
//
//	juliet gets: <message from='romeo@localhost/orchard' to='juliet@localhost' type='chat'><body>Hi</body>
//	             <stanza-id xmlns='urn:xmpp:sid:0' id='...' by='juliet@localhost'/></message>
//
// Resident in an account: the kernel's archive clock. Stored: nothing. Phase Rewrite, in front of
// whatever keeps or copies the message. Ids are 64 bits of time, node and counter, so that they are in
// the order of the account's messages.
package stanzaids

import (
	"canto/session"
	"canto/session/mod/clock"
	"canto/session/stanzaid"
	"canto/xmlstream"
)

// Manifest is how the loader knows this module.
var Manifest = session.Manifest{
	Name:     "stanzaids",
	Spec:     "XEP-0359 0.7.0",
	Summary:  "numbers messages",
	Cases:    "stanza-id by the account, forged ones removed; origin-id passes",
	Provides: []session.Feature{"stanza-id"},
	Requires: []session.Feature{"message"},
	New:      func() session.Module { return new(module) },
}

const ns = "urn:xmpp:sid:0"

var (
	sid    = xmlstream.N(ns, "stanza-id")
	idAttr = xmlstream.N("", "id")
	byAttr = xmlstream.N("", "by")
	attrs  = []xmlstream.Name{xmlstream.N("", "type"), idAttr, xmlstream.N("", "from"), xmlstream.N("", "to"),
		xmlstream.N("http://www.w3.org/XML/1998/namespace", "lang")}
)

type module struct {
	now  clock.Clock
	node uint64
}

func (m *module) Load(api *session.API) error {
	m.now, m.node = clock.Of(api), uint64(api.Router.Node)
	for _, t := range []session.Target{session.ToSelf, session.ToBare, session.ToFull} {
		api.Hooks.Message[t].Add(api.Module, session.Rewrite, m.number)
	}
	api.Advertise(ns)
	api.AdvertiseAccount(ns)
	return nil
}

func (m *module) number(ev *session.Stanza) session.Verdict {
	if ev.Type == session.TypeError {
		return session.Pass
	}
	a := ev.Account()
	for c, ok := ev.Element.First(); ok; c, ok = c.Next() {
		if c.Is(sid) && m.forged(ev, c) {
			if err := m.strip(ev); err != nil {
				return ev.Fail(session.BadRequest)
			}
			break
		}
	}
	id := max(a.Clock()+1, uint64(m.now().UnixMilli())<<22|m.node<<12)
	a.SetClock(id)
	var text [stanzaid.TextLen]byte
	ap := ev.Appender()
	ap.Open(sid).AttrBytes(idAttr, stanzaid.ID(id).Append(text[:0])).Attr(byAttr, a.JID().String()).Close()
	ev.Add(ap.B)
	return session.Pass
}

// forged reports whether c claims to be by this account; one that names nobody does.
func (m *module) forged(ev *session.Stanza, c xmlstream.Element) bool {
	by, _ := c.Attr(byAttr)
	j, err := ev.Local().JID(by)
	return err != nil || j == ev.Account().JID()
}

// strip writes the message again without them.
func (m *module) strip(ev *session.Stanza) error {
	a := ev.Appender()
	a.Open(session.MessageName)
	e := ev.Element
	for _, n := range attrs { // those that RFC 6120 §8.1 gives a stanza
		if v, ok := e.Attr(n); ok {
			a.AttrBytes(n, v)
		}
	}
	for c, ok := e.First(); ok; c, ok = c.Next() {
		if !c.Is(sid) || !m.forged(ev, c) {
			a.Raw(c)
		}
	}
	a.Close()
	return ev.Replace(a.B)
}
