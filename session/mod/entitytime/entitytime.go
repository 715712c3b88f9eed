// Package entitytime implements entity time for the server (XEP-0202).
//
//	C: <iq type='get' id='1' to='localhost'><time xmlns='urn:xmpp:time'/></iq>
//	S: <iq type='result' id='1' from='localhost' to='romeo@localhost/orchard'>
//	     <time xmlns='urn:xmpp:time'><tzo>Z</tzo><utc>2026-01-01T00:00:00Z</utc></time></iq>
//
// The time zone is always UTC, so the answer does not say where the machine is.
//
// In memory: nothing. Stored: nothing. Hooks: iq handlers for hosts with logins and for service hosts.
package entitytime

import (
	"canto/session"
	"canto/session/wallclock"
	"canto/xmlstream"
)

// Manifest describes this module to the loader.
var Manifest = session.Manifest{
	Name:     "entitytime",
	Spec:     "XEP-0202 2.0",
	Summary:  "tells the server's time",
	Cases:    "all",
	Requires: []session.Feature{"iq"},
	New:      func() session.Module { return module{} },
}

// ns is the namespace of XEP-0202.
const ns = "urn:xmpp:time"

// The names of the elements of XEP-0202.
var (
	timeName = xmlstream.N(ns, "time")
	tzo      = xmlstream.N(ns, "tzo")
	utc      = xmlstream.N(ns, "utc")
)

type module struct{}

// Load implements [session.Module].
func (module) Load(api *session.API) error {
	now := wallclock.Of(api)
	api.Advertise(ns)
	answer := func(ev *session.Stanza) session.Verdict {
		return ev.Reply(func(_ *session.Stanza, a *xmlstream.Appender) {
			a.Open(timeName).Open(tzo).Text("Z").Close().Open(utc).Text(wallclock.Timestamp(now())).Close().Close()
		})
	}
	api.Hooks.OnIQ(api.Module, false, timeName, answer, session.ToHost)
	api.Hooks.OnEveryIQ(api.Module, false, timeName, answer, session.ToHost)
	return nil
}
