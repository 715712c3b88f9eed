package register_test

import (
	"strings"
	"testing"

	"canto/session/mod"
	"canto/session/mod/register"
	"canto/session/sessiontest"
)

func options(o register.Options) sessiontest.Options {
	return sessiontest.Options{
		Hosts:   []string{"localhost", "example.net"},
		Modules: append(mod.DefaultNames(), "register"),
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

// Without TLS registration is not offered and requests are refused; no password is changed.
func TestConversationsInTheClear(t *testing.T) {
	sessiontest.Run(t, "testdata/clear", options(register.Options{}))
}

// Reserved names are compared in their prepared form (RFC 7622 section 3.3), however the configuration
// spells them.
func TestReservedInAnySpelling(t *testing.T) {
	o := options(register.Options{PlainText: true})
	o.Module = func(_ string, v any) error {
		if r, ok := v.(*register.Options); ok {
			r.PlainText, r.Reserved = true, []string{"Chef", "\uff22oss"}
		}
		return nil
	}
	s := sessiontest.New(t, o)
	c := s.Dial("c", 0)
	c.Open("localhost")
	s.Settle()
	c.Received()
	for name, want := range map[string]string{"chef": "not-allowed", "CHEF": "not-allowed",
		"boss": "not-allowed", "cook": "type='result'"} {
		c.Send("<iq type='set' id='r'><query xmlns='jabber:iq:register'><username>" + name +
			"</username><password>secret</password></query></iq>")
		s.Settle()
		if got := c.Received(); !strings.Contains(got, want) {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}
