// Package iq delivers iq stanzas between the resources of accounts (RFC 6120 section 10, RFC 6121 section
// 8.5; rows 3.8 to 3.9, 5.4, 6.5 to 6.6 of stanza_routing.txt). Requests to an account or a host are not
// for this module: the kernel calls the handlers of their payloads.
//
//	romeo:  <iq type='get' id='1' to='juliet@localhost/balcony'><ping xmlns='urn:xmpp:ping'/></iq>
//	juliet: <iq type='get' id='1' from='romeo@localhost/orchard' to='juliet@localhost/balcony'>
//	          <ping xmlns='urn:xmpp:ping'/></iq>
//
// A request to a full JID is delivered if one of these holds: the resource is available; it has sent the
// requester directed presence; the requester is of the same account. Otherwise the answer is that of a
// resource that does not exist (attack K60). A roster set from another account is never delivered (attack
// R01); module roster refuses those of this server before they get here.
//
// In memory: nothing. Stored: nothing. Hooks, under the recipient's lock: IQ to full JIDs in phase
// Deliver; IQ to other addresses in phase Fallback, which drops results and errors.
package iq

import (
	"canto/session"
	"canto/session/mod/presence"
	"canto/session/stanza"
	"canto/xmlstream"
)

// Manifest describes this module to the loader.
var Manifest = session.Manifest{
	Name:     "iq",
	Spec:     "RFC 6120 section 10, RFC 6121 section 8",
	Summary:  "delivers iq stanzas between resources",
	Cases:    "every row of the routing table",
	Provides: []session.Feature{"iq-delivery"},
	Requires: []session.Feature{"accounts", "iq", "presence-delivery"},
	New:      func() session.Module { return module{} },
}

// rosterQuery is the payload of roster requests.
var rosterQuery = xmlstream.N("jabber:iq:roster", "query")

type module struct{}

// Load implements [session.Module].
func (m module) Load(api *session.API) error {
	api.Hooks.IQ[session.ToFull].Add(api.Module, session.Deliver, m.deliver)
	for _, t := range []session.Target{session.ToSelf, session.ToBare, session.ToHost} {
		api.Hooks.IQ[t].Add(api.Module, session.Fallback, dropReplies)
	}
	return nil
}

// deliver delivers an iq to the resource that it is addressed to, or passes if the requester may not reach
// it: then the kernel answers service-unavailable. Results and errors are delivered or dropped, never
// answered. A resource whose stream is closing is like one that is gone. Under the recipient's lock.
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
		return session.Pass // a request must have an answer (RFC 6120 section 8.2.3)
	}
	return session.Done
}

// dropReplies drops results and errors to a bare JID or a host, for which no request waits.
func dropReplies(ev *session.Stanza) session.Verdict {
	if ev.Type == stanza.TypeResult || ev.Type == stanza.TypeError {
		return session.Done
	}
	return session.Pass
}
