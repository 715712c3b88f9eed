// Package limits implements stream limits advertisement (XEP-0478): the stream features say how large a
// stanza of the client may be.
//
//	S: <stream:features><limits xmlns='urn:xmpp:stream-limits:0'>
//	     <max-bytes>262144</max-bytes></limits></stream:features>
//
// Before authentication the limit is smaller. In memory: nothing. Stored: nothing. Hooks: none; a stream
// feature.
package limits

import (
	"strconv"

	"canto/session"
	"canto/xmlstream"
)

// Manifest describes this module to the loader.
var Manifest = session.Manifest{
	Name:     "limits",
	Spec:     "XEP-0478 0.2.0",
	Summary:  "tells clients how large a stanza may be",
	Cases:    "max-bytes; idle-seconds is left out, as silent clients are not closed",
	Requires: []session.Feature{"accounts", "stream-features"},
	New:      func() session.Module { return module{} },
}

// ns is the namespace of XEP-0478.
const ns = "urn:xmpp:stream-limits:0"

// The names of the elements of XEP-0478.
var (
	limits   = xmlstream.N(ns, "limits")
	maxBytes = xmlstream.N(ns, "max-bytes")
)

type module struct{}

// Load implements [session.Module].
func (module) Load(api *session.API) error {
	r := api.Router
	api.Hooks.Features = append(api.Hooks.Features, session.StreamFeature{
		Name: limits,
		Offer: func(st session.Negotiation, a *xmlstream.Appender) {
			lim := r.Limits()
			n := lim.StanzaUnauthed
			if st.Traits()&session.HasUser != 0 {
				n = lim.Stanza
			}
			a.Open(limits).Open(maxBytes).Text(strconv.Itoa(n)).Close().Close()
		},
	})
	return nil
}
