package bind2_test

import (
	"strings"
	"testing"

	"canto/session/mod/offline"
	"canto/session/sessiontest"
)

// What waits in the archive is left to it, and counts no more, also if the client of Bind 2 never becomes
// available: or the limit of stored messages would refuse later ones.
func TestCountAfterBind(t *testing.T) {
	s := sessiontest.New(t, sessiontest.Options{Module: func(_ string, v any) error {
		if o, ok := v.(*offline.Options); ok {
			o.MaxMessages = 3
		}
		return nil
	}})
	s.AddAccount("romeo@localhost")
	juliet := s.Login("juliet", "juliet@localhost/balcony")
	write := func() string {
		juliet.Send("<message to='romeo@localhost' type='chat'><body>Hi</body></message>")
		s.Settle()
		return juliet.Received()
	}
	for range 3 {
		write()
	}
	if got := write(); !strings.Contains(got, "resource-constraint") {
		t.Fatalf("a message above the limit: %q", got)
	}
	c := s.Dial("c", 0)
	c.Open("localhost")
	s.Settle()
	c.Send("<authenticate xmlns='urn:xmpp:sasl:2' mechanism='PLAIN'><initial-response>AHJvbWVvAHIwbTMw" +
		"</initial-response><bind xmlns='urn:xmpp:bind:0'/></authenticate>")
	s.Settle()
	if got := c.Received(); !strings.Contains(got, "<bound ") {
		t.Fatalf("the login: %q", got)
	}
	for range 3 {
		if got := write(); got != "" {
			t.Errorf("after the bind: %q", got)
		}
	}
}
