// Package mod is the shelf: all modules that come with Canto, in the order in which candidates of one
// name are looked at, and in which features are offered.
package mod

import (
	"canto/session"
	"canto/session/mod/bind"
	"canto/session/mod/blocklist"
	"canto/session/mod/contact"
	"canto/session/mod/disco"
	"canto/session/mod/entitytime"
	"canto/session/mod/iq"
	"canto/session/mod/lastactivity"
	"canto/session/mod/legacysession"
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
	"canto/session/mod/storage"
	"canto/session/mod/streamlimits"
	"canto/session/mod/vcard"
	"canto/session/mod/version"
)

// All is every module. A stranger's program appends its own.
var All = []session.Manifest{
	storage.Manifest,
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
	streamlimits.Manifest,
	ping.Manifest,
	version.Manifest,
	entitytime.Manifest,
	lastactivity.Manifest,
	private.Manifest,
	vcard.Manifest,
	register.Manifest,
}

// Default are the names of those that run without being asked for.
func Default() (names []string) {
	for _, m := range All {
		if !m.Off {
			names = append(names, m.Name)
		}
	}
	return names
}
