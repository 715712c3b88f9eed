// Package limits tells a client what it may send (XEP-0478).
//
//	S: <stream:features><limits xmlns='urn:xmpp:stream-limits:0'><max-bytes>262144</max-bytes></limits></stream:features>
//
// State: none. Stored: nothing.
package limits

import (
	"strconv"

	"canto/session"
	"canto/xmlstream"
)

// Manifest is how the loader knows this module.
var Manifest = session.Manifest{
	Name:     "limits",
	Spec:     "XEP-0478 0.2.0",
	Summary:  "tells clients how large a stanza may be",
	Cases:    "max-bytes; idle-seconds is left out, as silent clients are not closed",
	Requires: []session.Feature{"accounts", "stream-features"},
	New:      func() session.Module { return module{} },
}

const ns = "urn:xmpp:stream-limits:0"

var (
	limits   = xmlstream.N(ns, "limits")
	maxBytes = xmlstream.N(ns, "max-bytes")
)

type module struct{}

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
