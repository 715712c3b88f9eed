package room_test

import (
	"slices"
	"testing"

	"canto/session"
	"canto/session/jid"
	"canto/session/mod"
	"canto/session/sessiontest"
	"canto/session/sessiontest/room"
	"canto/session/sessiontest/service"
)

// with adds a service host with rooms to opt.
func with(opt sessiontest.Options, more ...session.Manifest) sessiontest.Options {
	opt.Services = []string{"rooms.localhost"}
	opt.ServiceModules = []string{"store", "disco", "test-room", "test-service"}
	for _, m := range more {
		opt.ServiceModules = append(opt.ServiceModules, m.Name)
	}
	opt.Shelf = slices.Concat(mod.All, []session.Manifest{room.Manifest, service.Manifest}, more)
	return opt
}

func TestConversations(t *testing.T) { sessiontest.Run(t, "testdata", with(sessiontest.Options{})) }

func parse(t *testing.T, s string) jid.JID {
	t.Helper()
	j, err := jid.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return j
}
