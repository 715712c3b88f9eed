package starttls_test

import (
	"testing"

	"canto/session"
	"canto/session/mod/saslauth"
	"canto/session/mod/starttls"
	"canto/session/sasl"
	"canto/session/sessiontest"
)

// Conversations up to where the handshake begins: a server that asks for TLS and offers nothing else.
func TestConversations(t *testing.T) {
	offer, err := sasl.NewOffer("SCRAM-SHA-256", "PLAIN")
	if err != nil {
		t.Fatal(err)
	}
	sessiontest.Run(t, "testdata", sessiontest.Options{Given: []session.Given{
		session.Give(starttls.Policy{Available: true, Required: true}),
		session.Give(saslauth.Policy{Offer: offer}),
	}})
}
