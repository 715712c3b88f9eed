package register_test

import (
	"testing"

	"canto/session/mod"
	"canto/session/mod/register"
	"canto/session/sessiontest"
)

func options(o register.Options) sessiontest.Options {
	return sessiontest.Options{
		Hosts:   []string{"localhost", "example.net"},
		Modules: append(mod.Default(), "register"),
		Module: func(_ string, v any) error {
			if r, ok := v.(*register.Options); ok {
				r.PlainText = o.PlainText
			}
			return nil
		},
	}
}

func TestConversations(t *testing.T) {
	sessiontest.Run(t, "testdata", options(register.Options{PlainText: true}))
}

// Without TLS there is neither an offer nor an answer, and nobody's password is changed.
func TestConversationsInTheClear(t *testing.T) {
	sessiontest.Run(t, "testdata/clear", options(register.Options{}))
}
