// Package mod lists the modules that come with Canto. The order of the list matters in two ways: the
// loader tries manifests of the same name in this order, and a stream is offered features in the order in
// which their modules are loaded.
//
// A module is a folder here with a package of its own. docs/modules.md says how to write one.
package mod

import (
	"slices"

	"canto/session"
	"canto/session/mod/archive"
	"canto/session/mod/bind"
	"canto/session/mod/bind2"
	"canto/session/mod/blocklist"
	"canto/session/mod/carbons"
	"canto/session/mod/contact"
	"canto/session/mod/csi"
	"canto/session/mod/disco"
	"canto/session/mod/entitytime"
	"canto/session/mod/fast"
	"canto/session/mod/iq"
	"canto/session/mod/lastactivity"
	"canto/session/mod/legacysession"
	"canto/session/mod/limits"
	"canto/session/mod/message"
	"canto/session/mod/offline"
	"canto/session/mod/ping"
	"canto/session/mod/presence"
	"canto/session/mod/private"
	"canto/session/mod/push"
	"canto/session/mod/register"
	"canto/session/mod/roster"
	"canto/session/mod/sasl2"
	"canto/session/mod/saslauth"
	"canto/session/mod/sm"
	"canto/session/mod/stanzaids"
	"canto/session/mod/starttls"
	"canto/session/mod/store"
	"canto/session/mod/vcard"
	"canto/session/mod/version"
)

// All has the manifest of every module. It is read when a server starts or reloads; a program with modules
// of its own appends to it before that.
var All = []session.Manifest{
	store.Manifest,
	starttls.Manifest,
	saslauth.Manifest,
	sm.Manifest, // offered before binding, as a session is resumed before one is bound
	sasl2.Manifest,
	bind.Manifest,
	legacysession.Manifest,
	roster.Manifest,
	presence.Manifest,
	message.Manifest,
	iq.Manifest,
	stanzaids.Manifest,
	blocklist.Manifest,
	disco.Manifest,
	carbons.Manifest,
	push.Manifest,
	archive.Manifest, // it records what the modules before it have done
	offline.Manifest, // it keeps in the archive, if there is one
	csi.Manifest,
	bind2.Manifest, // it reads the archive
	fast.Manifest,
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

// DefaultNames returns the names of the modules that run at hosts where users log in unless the
// configuration says otherwise: all that are not Off.
func DefaultNames() []string { return defaultNames(false) }

// DefaultServiceNames returns the names of the modules that run at service hosts unless the configuration
// says otherwise: those of DefaultNames that need no accounts.
func DefaultServiceNames() []string { return defaultNames(true) }

// defaultNames returns the names of the modules that are not Off; for a service host, of those that can
// run there.
func defaultNames(service bool) (names []string) {
	for i := range All {
		if m := &All[i]; !m.Off && (!service || RunsAtService(m)) {
			names = append(names, m.Name)
		}
	}
	return names
}

// RunsAtService reports whether m can run at a service host, which has no logins: each feature that it
// requires is in the kernel there, or is provided by another module that can run there.
func RunsAtService(m *session.Manifest) bool { return runsAtService(m, nil) }

// runsAtService is RunsAtService. above has the modules that are being checked, so that modules which
// require each other do not recurse forever.
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
