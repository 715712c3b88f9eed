// Package csi implements client state indication (XEP-0352): a client that says that its user does not look
// at it gets only what is important.
//
//	C: <inactive xmlns='urn:xmpp:csi:0'/>
//	   (presence of contacts waits, the last one of each resource; so do chat states, receipts and markers)
//	C: <active xmlns='urn:xmpp:csi:0'/>
//	S: <presence from='romeo@localhost/orchard' to='juliet@localhost'><show>away</show></presence>
//
// What waits is sent before anything that is important, in its order: so a client never sees a message
// before the presence that came before it. What is important is a column of the table in package handling. If
// too much waits (1,000 elements, or 1 MiB) it is sent. The client of a resumed stream is active (section
// 5.2).
//
// A session that hibernates (XEP-0198) is treated as inactive, but what waits is sent when it is resumed,
// after the queue: so the presence of a contact that comes and goes fills no queue.
//
// In memory, in an outbox, under its lock: whether the client is inactive; what waits is the kernel's.
// Stored: nothing.
//
// Hooks: Outgoing, under the outbox lock; Resumed under the account's lock; a stream feature.
package csi

import (
	"canto/session"
	"canto/session/stanza"
	"canto/xmlstream"
)

// Manifest describes this module to the loader.
var Manifest = session.Manifest{
	Name:     "csi",
	Spec:     "XEP-0352 1.0.0",
	Summary:  "holds back from inactive clients what is not important",
	Cases:    "presence, chat states, receipts and markers wait; everything else is sent at once, in order",
	Provides: []session.Feature{"csi"},
	Requires: []session.Feature{"stream-features", "outgoing"},
	New:      func() session.Module { return module{} },
}

// ns is the namespace of client state indication.
const ns = "urn:xmpp:csi:0"

var (
	featureName  = xmlstream.N(ns, "csi")
	activeName   = xmlstream.N(ns, "active")
	inactiveName = xmlstream.N(ns, "inactive")
	state        = session.NewOutboxVar[inactiveState]("csi")
)

// An inactiveState is in the outbox of a session whose client is inactive.
type inactiveState struct{}

// inactive is the value of all of them.
var inactive inactiveState

type module struct{}

// Load implements [session.Module].
func (module) Load(api *session.API) error {
	api.Hooks.Features = append(api.Hooks.Features,
		session.StreamFeature{
			Name:    featureName,
			Needs:   session.HasUser,
			Forbids: session.HasResource | session.S2S,
			Offer:   func(_ session.Negotiation, a *xmlstream.Appender) { a.Open(featureName).Close() },
		},
		session.StreamFeature{
			Name:          activeName,
			Continuations: []xmlstream.Name{inactiveName},
			Needs:         session.HasResource,
			Handle: func(st session.Negotiation, e xmlstream.Element) {
				st.Session().Outbox(func(o session.Outbox) { set(o, e.Is(activeName)) })
			},
		})
	for _, name := range []xmlstream.Name{activeName, inactiveName} {
		api.Hooks.Inline = append(api.Hooks.Inline, session.InlineFeature{Module: api.Module, Name: name,
			Place: session.InlineSession, Begin: begin})
	}
	api.Hooks.Outgoing.Add(api.Module, session.Deliver, hold)
	api.Hooks.Resumed.Add(api.Module, session.Deliver, func(_ *session.LoopRouter, s *session.Session) {
		s.Outbox(func(o session.Outbox) { set(o, true) })
	})
	return nil
}

// begin records the state with which a session begins (XEP-0386 section 3.2).
func begin(_ *session.InlineLogin, s *session.Session, e xmlstream.Element, _ *xmlstream.Appender) {
	s.Outbox(func(o session.Outbox) { set(o, e.Is(activeName)) })
}

// set records whether the client is active. An active client gets what was held back (XEP-0352 section 5.1).
// Under the outbox lock.
func set(o session.Outbox, isActive bool) {
	if !isActive {
		state.Set(o, &inactive)
		return
	}
	state.Set(o, nil)
	o.Flush()
}

// hold is the Outgoing hook: it holds back what is not important for an inactive client, and keeps only the
// last presence of each resource. Before anything else it sends what was held back. Under the outbox lock.
func hold(o session.Outbox, p session.OutboundStanza) session.Verdict {
	hibernates := o.Hibernating()
	if !hibernates && state.Get(o) == nil {
		return session.Pass
	}
	switch {
	case p.Kind == stanza.Presence && p.From.Resource() != "": // from a bare JID it is about a subscription
		if o.DeferPresence(p) {
			return session.Done
		}
	case p.Unimportant && !hibernates:
		if o.Defer(p) {
			return session.Done
		}
	case hibernates:
		return session.Pass
	}
	o.Flush()
	return session.Pass
}
