// Package starttls implements the upgrade of a client's connection to TLS (RFC 6120 section 5).
//
//	S: <stream:features><starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'>
//	     <required/></starttls></stream:features>
//	C: <starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>
//	S: <proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>
//
// The kernel does the upgrade ([session.Negotiation.Upgrade]). Bytes after the starttls element, except
// white space, end the stream, so no plain text is taken for encrypted input. Nothing that was learned on
// the plain stream survives the handshake (RFC 6120 sections 5.3.5 and 5.4.3.3).
//
// In memory: nothing. Stored: nothing. Hooks: none; a stream feature.
package starttls

import (
	"canto/session"
	"canto/xmlstream"
)

// Manifest describes this module to the loader.
var Manifest = session.Manifest{
	Name:     "starttls",
	Spec:     "RFC 6120 section 5",
	Summary:  "upgrades connections to TLS",
	Cases:    "all, as the receiving entity",
	Provides: []session.Feature{"starttls"},
	Requires: []session.Feature{"accounts", "stream-features"},
	New:      func() session.Module { return module{} },
}

// ns is the namespace of STARTTLS.
const ns = "urn:ietf:params:xml:ns:xmpp-tls"

// The names of the elements of STARTTLS.
var (
	starttls = xmlstream.N(ns, "starttls")
	required = xmlstream.N(ns, "required")
)

// A Policy has what the process decides about TLS on client streams. The process gives it to the module as
// a [session.Dependency].
type Policy struct {
	Available bool // there is a certificate; otherwise the feature is not offered
	Required  bool // the feature is marked as required
}

type module struct{}

// Load implements [session.Module].
func (module) Load(api *session.API) error {
	p, _ := session.Lookup[Policy](api)
	if !p.Available {
		return nil
	}
	api.Hooks.Features = append(api.Hooks.Features, session.StreamFeature{
		Name:    starttls,
		Forbids: session.Secure | session.HasUser | session.S2S,
		Offer: func(st session.Negotiation, a *xmlstream.Appender) {
			a.Open(starttls)
			if p.Required {
				a.Open(required).Close()
			}
			a.Close()
		},
		Handle: func(st session.Negotiation, _ xmlstream.Element) { st.Upgrade() },
	})
	return nil
}
