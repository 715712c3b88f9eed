// Package version implements software version (XEP-0092): the server's name and version.
//
//	C: <iq type='get' id='1' to='localhost'><query xmlns='jabber:iq:version'/></iq>
//	S: <iq type='result' id='1' from='localhost' to='romeo@localhost/orchard'>
//	     <query xmlns='jabber:iq:version'><name>Canto</name><version>0.1.0</version></query></iq>
//
// The answer has an operating system only if the configuration names one. In memory: nothing. Stored:
// nothing. Hooks: iq handlers for hosts with logins and for service hosts.
package version

import (
	"canto/session"
	"canto/xmlstream"
)

// Manifest describes this module to the loader.
var Manifest = session.Manifest{
	Name:     "version",
	Spec:     "XEP-0092 1.1",
	Summary:  "says which software the server is",
	Cases:    "name and version; the operating system by configuration only",
	Requires: []session.Feature{"iq"},
	Options:  func() any { return new(Options) },
	New:      func() session.Module { return new(module) },
}

// ns is the namespace of software version.
const ns = "jabber:iq:version"

// The names of the elements of software version.
var (
	query   = xmlstream.N(ns, "query")
	name    = xmlstream.N(ns, "name")
	version = xmlstream.N(ns, "version")
	system  = xmlstream.N(ns, "os")
)

// Options is the module's section of the configuration.
type Options struct {
	OS string `toml:"os"` // the operating system in the answer; empty: none
}

// A module is the module of one profile. It does not change after Load.
type module struct {
	opt   Options
	about session.About
}

// Load implements [session.Module].
func (m *module) Load(api *session.API) error {
	if err := api.Decode(&m.opt); err != nil {
		return err
	}
	m.about, _ = session.Lookup[session.About](api)
	api.Advertise(ns)
	answer := func(ev *session.Stanza) session.Verdict {
		return ev.Reply(func(_ *session.Stanza, a *xmlstream.Appender) {
			a.Open(query)
			a.Open(name).Text(m.about.Name).Close().Open(version).Text(m.about.Version).Close()
			if m.opt.OS != "" {
				a.Open(system).Text(m.opt.OS).Close()
			}
			a.Close()
		})
	}
	api.Hooks.OnIQ(api.Module, false, query, answer, session.ToHost)
	api.Hooks.OnEveryIQ(api.Module, false, query, answer, session.ToHost)
	return nil
}
