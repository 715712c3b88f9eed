package bind2_test

import (
	"strings"
	"testing"

	"canto/session/sessiontest"
)

// Attack K78: tags and ids of user agents that are too long, or no text, or that are another device's. Tags
// are cut, ids that are none are refused, and no id grants anything or is shown to another entity.
func TestAttackK78(t *testing.T) {
	const id = "d4565fa7-4d72-4749-b3d3-740edbf87770"
	login := func(s *sessiontest.Server, name, account, agent, tag string) *sessiontest.Client {
		c := s.Dial(name, 0)
		c.Open("localhost")
		s.Settle()
		c.Received()
		c.Send("<authenticate xmlns='urn:xmpp:sasl:2' mechanism='PLAIN'><initial-response>" + account +
			"</initial-response><user-agent id='" + agent + "'/><bind xmlns='urn:xmpp:bind:0'><tag>" + tag +
			"</tag></bind></authenticate>")
		s.Settle()
		return c
	}
	const juliet, romeo = "AGp1bGlldAByMG0zMA==", "AHJvbWVvAHIwbTMw"
	s := sessiontest.New(t, sessiontest.Options{})
	s.AddAccount("juliet@localhost")
	s.AddAccount("romeo@localhost")
	first := login(s, "first", juliet, id, "Phone")
	if got := first.Received(); !strings.Contains(got, "juliet@localhost/Phone/") {
		t.Fatalf("the first login gets %q", got)
	}
	// The same id at another account ends nothing there, and makes another resource.
	other := login(s, "other", romeo, id, "Phone")
	if got := other.Received(); !strings.Contains(got, "romeo@localhost/Phone/") || first.Ended() {
		t.Errorf("the other account gets %q; the first session has ended: %v", got, first.Ended())
	}
	for i, tag := range []string{strings.Repeat("x", 5000), "a&#9;b", "\u202ex", "a/b/c", ""} {
		c := login(s, string(rune('a'+i)), juliet, "11111111-4d72-4749-b3d3-74000000000"+string(rune('0'+i)), tag)
		got := c.Received()
		_, resource, ok := strings.Cut(got, "<authorization-identifier>juliet@localhost/")
		resource, _, _ = strings.Cut(resource, "<")
		if !ok || len(resource) > 1023 {
			t.Errorf("the tag %.20q gives %.300q", tag, got)
		}
	}
	for i, agent := range []string{strings.Repeat("d", 5000), "none", strings.ToUpper(id[:35])} {
		c := login(s, string(rune('k'+i)), juliet, agent, "Phone")
		if got := c.Received(); !strings.Contains(got, "<malformed-request") || first.Ended() {
			t.Errorf("the user agent %.20q gives %.300q", agent, got)
		}
	}
	other.Send("<presence to='juliet@localhost'/><iq type='get' id='d' to='juliet@localhost'>" +
		"<query xmlns='http://jabber.org/protocol/disco#info'/></iq>")
	s.Settle()
	if got := other.Received(); strings.Contains(got, id) {
		t.Errorf("the id is shown: %q", got)
	}
}
