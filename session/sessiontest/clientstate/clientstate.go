// Package clientstate is what a module of client state indication (XEP-0352) needs of the kernel, and no
// more: it is for tests, and shows how what leaves for a client is held back.
//
//	C: <inactive xmlns='urn:xmpp:csi:0'/>
//	   (presence of contacts waits, the last of each resource)
//	C: <active xmlns='urn:xmpp:csi:0'/>
//	S: <presence from='romeo@localhost/orchard' to='juliet@localhost'><show>away</show></presence>
//
// State in an outbox, under its lock: whether the client is inactive, and the presence that waits (the
// kernel's). Stored: nothing. Hooks: Outgoing, which holds presence, and sends it before anything else;
// Resumed, as a resumed stream is active.
package clientstate

import (
	"canto/session"
	"canto/session/jid"
	"canto/session/stanza"
	"canto/xmlstream"
)

// Manifest is how the loader knows this module.
var Manifest = session.Manifest{
	Name:     "test-client-state",
	Spec:     "XEP-0352 1.0.0",
	Summary:  "holds presence back while a client is inactive",
	Cases:    "order of what is held back; no privacy of its own",
	Requires: []session.Feature{"stream-features", "outgoing"},
	New:      func() session.Module { return module{} },
}

const ns = "urn:xmpp:csi:0"

var (
	active   = xmlstream.N(ns, "active")
	inactive = xmlstream.N(ns, "inactive")
	state    = session.NewOutboxVar[inactiveState]("test-client-state")
)

// inactiveState is in the outbox of a session whose client is inactive.
type inactiveState struct{}

type module struct{}

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

// set notes what the client has said of itself. An active one gets what was held back (XEP-0352 §5.1).
func set(o session.Outbox, on bool) {
	if !on {
		state.Set(o, &inactiveState{})
		return
	}
	state.Set(o, nil)
	o.Flush()
}

// deferPresence holds the presence of resources back from an inactive client, the last of each. Anything else
// wakes it: it gets first what came before, in order.
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
