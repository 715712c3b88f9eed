// Package mod is the shelf: all modules that come with Canto, in the order in which candidates of one
// name are looked at, and in which features are offered.
package mod

import (
	"slices"

	"canto/session"
	"canto/session/mod/bind"
	"canto/session/mod/blocklist"
	"canto/session/mod/contact"
	"canto/session/mod/disco"
	"canto/session/mod/entitytime"
	"canto/session/mod/iq"
	"canto/session/mod/lastactivity"
	"canto/session/mod/legacysession"
	"canto/session/mod/limits"
	"canto/session/mod/message"
	"canto/session/mod/offline"
	"canto/session/mod/ping"
	"canto/session/mod/presence"
	"canto/session/mod/private"
	"canto/session/mod/register"
	"canto/session/mod/roster"
	"canto/session/mod/saslauth"
	"canto/session/mod/stanzaids"
	"canto/session/mod/starttls"
	"canto/session/mod/store"
	"canto/session/mod/vcard"
	"canto/session/mod/version"
)

// All is every module. A stranger's program appends its own.
var All = []session.Manifest{
	store.Manifest,
	starttls.Manifest,
	saslauth.Manifest,
	bind.Manifest,
	legacysession.Manifest,
	roster.Manifest,
	presence.Manifest,
	message.Manifest,
	iq.Manifest,
	offline.Manifest,
	stanzaids.Manifest,
	blocklist.Manifest,
	disco.Manifest,
	contact.Manifest,
	limits.Manifest,
	ping.Manifest,
	version.Manifest,
	entitytime.Manifest,
	lastactivity.Manifest,
	private.Manifest,
	vcard.Manifest,
	register.Manifest,
}

// DefaultNames are the names of those that run without being asked for, at hosts where users log in.
func DefaultNames() []string { return defaultNames(false) }

// DefaultServiceNames are the names of those that run at service hosts without being asked for: of Default,
// those that need no accounts.
func DefaultServiceNames() []string { return defaultNames(true) }

func defaultNames(service bool) (names []string) {
	for i := range All {
		if m := &All[i]; !m.Off && (!service || RunsAtService(m)) {
			names = append(names, m.Name)
		}
	}
	return names
}

// RunsAtService reports whether m can run at a service host: what it requires is there without users who log
// in, or another module provides it that can run there.
func RunsAtService(m *session.Manifest) bool { return runsAtService(m, nil) }

// runsAtService is RunsAtService; above are the modules that are being looked at.
func runsAtService(m *session.Manifest, above []string) bool {
	core := session.CoreOf(true)
	above = append(above, m.Name)
	for _, f := range m.Requires {
		if !slices.Contains(core, f) && !slices.ContainsFunc(All, func(p session.Manifest) bool {
			provides := session.Feature(p.Name) == f || slices.Contains(p.Provides, f)
			return provides && !slices.Contains(above, p.Name) && runsAtService(&p, above)
		}) {
			return false
		}
	}
	return true
}
