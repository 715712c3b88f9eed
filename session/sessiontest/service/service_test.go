package service_test

import (
	"slices"
	"testing"

	"canto/session"
	"canto/session/mod"
	"canto/session/sessiontest"
	"canto/session/sessiontest/service"
)

func TestConversations(t *testing.T) {
	sessiontest.Run(t, "testdata", sessiontest.Options{
		Services:       []string{"rooms.localhost"},
		ServiceModules: []string{"store", "disco", "test-service"},
		Shelf:          slices.Concat(mod.All, []session.Manifest{service.Manifest}),
	})
}
