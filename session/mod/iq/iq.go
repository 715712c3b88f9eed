// Package iq delivers iq stanzas between resources (RFC 6120 §10, RFC 6121 §8.5; rows 3.8 to 3.9,
// 5.4, 6.5 to 6.6 of stanza_routing.txt). Requests to an account or a host are for the handlers of
// their payloads, which the kernel finds.
//
//	romeo:  <iq type='get' id='1' to='juliet@localhost/balcony'><ping xmlns='urn:xmpp:ping'/></iq>
//	juliet: <iq type='get' id='1' from='romeo@localhost/orchard' to='juliet@localhost/balcony'><ping xmlns='urn:xmpp:ping'/></iq>
//
// State: none. Stored: nothing. A request to a full JID passes if that resource is available, or has sent
// the asker directed presence, or belongs to the asker's own account; otherwise the resource does not
// exist for the asker (attack K60). A roster set from another account never passes (attack R01); one from
// an account of this server does not come this far (module roster).
package iq

import (
	"canto/session"
	"canto/session/mod/presence"
	"canto/session/stanza"
	"canto/xmlstream"
)

// Manifest is how the loader knows this module.
var Manifest = session.Manifest{
	Name:     "iq",
	Spec:     "RFC 6120 section 10, RFC 6121 section 8",
	Summary:  "delivers iq stanzas between resources",
	Cases:    "every row of the routing table",
	Provides: []session.Feature{"iq-delivery"},
	Requires: []session.Feature{"accounts", "iq", "presence-delivery"},
	New:      func() session.Module { return module{} },
}

var rosterQuery = xmlstream.N("jabber:iq:roster", "query")

type module struct{}

func (m module) Load(api *session.API) error {
	api.Hooks.IQ[session.ToFull].Add(api.Module, session.Deliver, m.deliver)
	for _, t := range []session.Target{session.ToSelf, session.ToBare, session.ToHost} {
		api.Hooks.IQ[t].Add(api.Module, session.Fallback, dropReplies)
	}
	return nil
}

func (m module) deliver(ev *session.Stanza) session.Verdict {
	a := ev.Account()
	s := a.Resource(ev.To)
	if ev.Type == stanza.TypeResult || ev.Type == stanza.TypeError {
		if s != nil {
			ev.LoopRouter().Deliver(s, ev)
		}
		return session.Done
	}
	own := ev.From.Bare() == a.JID()
	if s == nil || !own && !s.Available() && !presence.WasDirected(s, ev.From) {
		return session.Pass
	}
	if !own && ev.Type == stanza.TypeSet && ev.Payload().Is(rosterQuery) {
		return session.Pass
	}
	if !ev.LoopRouter().Deliver(s, ev) {
		return session.Pass // its stream is closing: the request is answered as if it were gone (RFC 6120 §8.2.3)
	}
	return session.Done
}

// dropReplies ends results and errors that nobody waits for.
func dropReplies(ev *session.Stanza) session.Verdict {
	if ev.Type == stanza.TypeResult || ev.Type == stanza.TypeError {
		return session.Done
	}
	return session.Pass
}
