// Package legacysession is module "session": it answers the session request of RFC 3921 section 3, which
// old clients still send after binding. The request has no effect. The folder is not called session,
// because that is the kernel's package.
//
//	C: <iq type='set' id='s'><session xmlns='urn:ietf:params:xml:ns:xmpp-session'/></iq>
//	S: <iq type='result' id='s'/>
//
// In memory: nothing. Stored: nothing. Hooks: an iq handler, and a stream feature that is marked optional.
package legacysession

import (
	"canto/session"
	"canto/xmlstream"
)

// Manifest describes this module to the loader.
var Manifest = session.Manifest{
	Name:     "session",
	Spec:     "RFC 3921 section 3",
	Summary:  "answers the session request of old clients",
	Cases:    "all; offered as optional",
	Requires: []session.Feature{"accounts", "stream-features", "iq"},
	New:      func() session.Module { return module{} },
}

// ns is the namespace of the session request.
const ns = "urn:ietf:params:xml:ns:xmpp-session"

// The names of the elements of the session request.
var (
	sessionName = xmlstream.N(ns, "session")
	optional    = xmlstream.N(ns, "optional")
)

type module struct{}

// Load implements [session.Module].
func (module) Load(api *session.API) error {
	api.Hooks.Features = append(api.Hooks.Features, session.StreamFeature{
		Name:    sessionName,
		IQ:      true,
		Needs:   session.HasUser,
		Forbids: session.HasResource | session.S2S,
		Offer: func(_ session.Negotiation, a *xmlstream.Appender) {
			a.Open(sessionName).Open(optional).Close().Close()
		},
	})
	api.Hooks.OnIQ(api.Module, true, sessionName, func(ev *session.Stanza) session.Verdict {
		return ev.Reply(nil)
	}, session.ToSelf, session.ToHost)
	return nil
}
