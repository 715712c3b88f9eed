// Package legacysession answers the session request of RFC 3921 §3, which old clients still send
// after binding; it does nothing.
//
//	C: <iq type='set' id='s'><session xmlns='urn:ietf:params:xml:ns:xmpp-session'/></iq>
//	S: <iq type='result' id='s'/>
package legacysession

import (
	"canto/session"
	"canto/xmlstream"
)

// Manifest is how the loader knows this module.
var Manifest = session.Manifest{
	Name:     "session",
	Spec:     "RFC 3921 section 3",
	Summary:  "answers the session request of old clients",
	Cases:    "all; offered as optional",
	Requires: []session.Feature{"accounts", "stream-features", "iq"},
	New:      func() session.Module { return module{} },
}

const ns = "urn:ietf:params:xml:ns:xmpp-session"

var (
	sessionName = xmlstream.N(ns, "session")
	optional    = xmlstream.N(ns, "optional")
)

type module struct{}

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
