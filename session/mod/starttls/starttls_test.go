package starttls_test

import (
	"testing"

	"canto/session"
	"canto/session/mod/saslauth"
	"canto/session/mod/starttls"
	"canto/session/sasl"
	"canto/session/sessiontest"
)

// Conversations up to the handshake, on a server that requires TLS.
func TestConversations(t *testing.T) {
	offer, err := sasl.NewMechanismSet("SCRAM-SHA-256", "PLAIN")
	if err != nil {
		t.Fatal(err)
	}
	sessiontest.Run(t, "testdata", sessiontest.Options{Dependencies: []session.Dependency{
		session.NewDependency(starttls.Policy{Available: true, Required: true}),
		session.NewDependency(saslauth.Policy{Mechanisms: offer}),
	}})
}
