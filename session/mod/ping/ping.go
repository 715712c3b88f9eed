// Package ping implements XMPP ping (XEP-0199).
//
//	C: <iq type='get' id='1'><ping xmlns='urn:xmpp:ping'/></iq>
//	S: <iq type='result' id='1'/>
//
// In memory: nothing. Stored: nothing. Hooks: iq handlers for accounts, hosts and service hosts.
package ping

import (
	"canto/session"
	"canto/xmlstream"
)

// Manifest describes this module to the loader.
var Manifest = session.Manifest{
	Name:     "ping",
	Spec:     "XEP-0199 2.0.1",
	Summary:  "answers pings",
	Cases:    "client-to-server, to service hosts, client-to-client (routed), server-to-client answers",
	Provides: []session.Feature{"ping"},
	Requires: []session.Feature{"iq"},
	New:      func() session.Module { return module{} },
}

// ns is the namespace of XMPP ping.
const ns = "urn:xmpp:ping"

var ping = xmlstream.N(ns, "ping")

type module struct{}

// Load implements [session.Module].
func (module) Load(api *session.API) error {
	api.Advertise(ns)
	api.AdvertiseAccount(ns)
	api.Hooks.OnIQ(api.Module, false, ping, pong, session.ToSelf, session.ToHost)
	api.Hooks.OnEveryIQ(api.Module, false, ping, pong, session.ToHost)
	return nil
}

func pong(ev *session.Stanza) session.Verdict { return ev.Reply(nil) }
