// Package clientstate has what client state indication (XEP-0352) asks of the kernel, and no more. It
// shows how stanzas to a client are deferred. It is for tests.
//
//	C: <inactive xmlns='urn:xmpp:csi:0'/>
//	   (presence of contacts is deferred, the last one of each resource)
//	C: <active xmlns='urn:xmpp:csi:0'/>
//	S: <presence from='romeo@localhost/orchard' to='juliet@localhost'><show>away</show></presence>
//
// In memory, in an outbox, under its lock: whether the client is inactive; the deferred presence is the
// kernel's. Stored: nothing.
//
// Hooks: Outgoing, under the outbox lock, which defers presence and sends it before anything else;
// Resumed, since the client of a resumed stream is active.
package clientstate

import (
	"canto/session"
	"canto/session/jid"
	"canto/session/stanza"
	"canto/xmlstream"
)

// Manifest describes this module to the loader.
var Manifest = session.Manifest{
	Name:     "test-client-state",
	Spec:     "XEP-0352 1.0.0",
	Summary:  "holds presence back while a client is inactive",
	Cases:    "order of what is held back; no privacy of its own",
	Requires: []session.Feature{"stream-features", "outgoing"},
	New:      func() session.Module { return module{} },
}

// ns is the namespace of client state indication.
const ns = "urn:xmpp:csi:0"

var (
	active   = xmlstream.N(ns, "active")
	inactive = xmlstream.N(ns, "inactive")
	state    = session.NewOutboxVar[inactiveState]("test-client-state")
)

// An inactiveState is in the outbox of a session whose client is inactive.
type inactiveState struct{}

type module struct{}

// Load implements [session.Module].
func (module) Load(api *session.API) error {
	api.Hooks.Features = append(api.Hooks.Features, session.StreamFeature{
		Name:          active,
		Continuations: []xmlstream.Name{inactive},
		Needs:         session.HasResource,
		Handle: func(st session.Negotiation, e xmlstream.Element) {
			st.Session().Outbox(func(o session.Outbox) { set(o, e.Is(active)) })
		},
	})
	api.Hooks.Outgoing.Add(api.Module, session.Deliver, deferPresence)
	api.Hooks.Resumed.Add(api.Module, session.Deliver, func(_ *session.LoopRouter, s *session.Session) {
		s.Outbox(func(o session.Outbox) { set(o, true) })
	})
	return nil
}

// set records whether the client is active. An active client gets what was deferred (XEP-0352 section
// 5.1). Under the outbox lock.
func set(o session.Outbox, isActive bool) {
	if !isActive {
		state.Set(o, &inactiveState{})
		return
	}
	state.Set(o, nil)
	o.Flush()
}

// deferPresence is the Outgoing hook: it defers presence of resources to an inactive client, and keeps
// only the last one of each resource. Before any other element it sends what was deferred, in order. Under
// the outbox lock.
func deferPresence(o session.Outbox, p session.OutboundStanza) session.Verdict {
	if state.Get(o) == nil {
		return session.Pass
	}
	if p.Kind == stanza.Presence && p.From.Resource() != "" { // from a bare JID it is about a subscription
		o.DropDeferred(func(kind stanza.Kind, from jid.JID) bool {
			return kind == stanza.Presence && from == p.From
		})
		if o.Defer(p) {
			return session.Done
		}
	}
	o.Flush()
	return session.Pass
}
