package contact_test

import (
	"strings"
	"testing"

	"canto/reactor"
	"canto/reactor/reactortest"
	"canto/session"
	"canto/session/mod/contact"
	"canto/session/mod/disco"
	"canto/session/sessiontest"
)

func configured(o contact.Options) func(string, any) error {
	return func(_ string, v any) error {
		if c, ok := v.(*contact.Options); ok {
			*c = o
		}
		return nil
	}
}

func TestConversations(t *testing.T) {
	sessiontest.Run(t, "testdata", sessiontest.Options{Module: configured(contact.Options{
		Abuse:    []string{"mailto:abuse@localhost", "xmpp:abuse@localhost"},
		Admin:    []string{"xmpp:admin@localhost"},
		Feedback: []string{"https://localhost/feedback?a=1&b='2'"},
		Sales:    []string{"mailto:sales@localhost"},
		Security: []string{"mailto:security@localhost"},
		Status:   []string{"https://status.localhost/"},
		Support:  []string{"xmpp:support@localhost"},
	})})
}

// An address that is no URI is refused with its field's name when the configuration is read.
func TestNoURI(t *testing.T) {
	for _, bad := range []string{"abuse@example.org", "", "://x", "mail to:x"} {
		net := reactortest.New(1, reactor.Config{})
		r := &session.Router{Table: session.NewTable(), Workers: net}
		_, err := session.LoadProfile(r, session.CoreOf(false), []session.Manifest{fake, contact.Manifest},
			[]string{"disco", "contact"},
			configured(contact.Options{Security: []string{"mailto:fine@localhost", bad}}))
		if err == nil || !strings.Contains(err.Error(), "security") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// fake provides module disco without the modules that it requires.
var fake = session.Manifest{Name: "disco", Provides: []session.Feature{"disco"}, New: func() session.Module {
	return fakeDisco{}
}}

type fakeDisco struct{}

func (fakeDisco) Load(api *session.API) error {
	session.Provide(api, new(disco.Service))
	return nil
}
