// Package starttls offers the upgrade of a client's connection to TLS (RFC 6120 §5).
//
//	S: <stream:features><starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'><required/></starttls></stream:features>
//	C: <starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>
//	S: <proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>
//
// State: none of its own. Stored: nothing. What was sent behind <starttls/>, but white space, ends the
// stream, and nothing of the plain stream survives the handshake (RFC 6120 §5.3.5, §5.4.3.3).
package starttls

import (
	"canto/session"
	"canto/xmlstream"
)

// Manifest is how the loader knows this module.
var Manifest = session.Manifest{
	Name:     "starttls",
	Spec:     "RFC 6120 section 5",
	Summary:  "upgrades connections to TLS",
	Cases:    "all, as the receiving entity",
	Provides: []session.Feature{"starttls"},
	Requires: []session.Feature{"accounts", "stream-features"},
	New:      func() session.Module { return module{} },
}

const ns = "urn:ietf:params:xml:ns:xmpp-tls"

var (
	starttls = xmlstream.N(ns, "starttls")
	required = xmlstream.N(ns, "required")
)

// A Policy is what the process says about TLS on client streams; see [session.NewDependency].
type Policy struct {
	Available bool // a certificate is there
	Required  bool // nothing but TLS is offered on a plain stream
}

type module struct{}

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
