package asker_test

import (
	"testing"

	"canto/session"
	"canto/session/mod"
	"canto/session/sessiontest"
	"canto/session/sessiontest/asker"
)

func TestConversations(t *testing.T) {
	sessiontest.Run(t, "testdata", sessiontest.Options{
		Shelf:   append([]session.Manifest{asker.Manifest}, mod.All...),
		Modules: append(mod.DefaultNames(), "test-asker"),
	})
}
