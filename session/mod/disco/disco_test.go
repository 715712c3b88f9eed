package disco_test

import (
	"slices"
	"testing"

	"canto/session"
	"canto/session/mod"
	"canto/session/sessiontest"
	"canto/session/sessiontest/service"
)

func TestConversations(t *testing.T) { sessiontest.Run(t, "testdata", sessiontest.Options{}) }

// A service host answers service discovery, pings and questions for version and time, with the modules that it has by
// default, though no module has made an entity of its domain.
func TestServiceHost(t *testing.T) {
	sessiontest.Run(t, "testdata/service", sessiontest.Options{Services: []string{"rooms.localhost"}})
}

// It does so where a module has.
func TestServiceHostWithEntity(t *testing.T) {
	sessiontest.Run(t, "testdata/entity", sessiontest.Options{
		Services:       []string{"rooms.localhost"},
		ServiceModules: append(mod.DefaultService(), service.Manifest.Name),
		Shelf:          slices.Concat(mod.All, []session.Manifest{service.Manifest}),
	})
}
