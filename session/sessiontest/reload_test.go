package sessiontest

import "testing"

// When a host is taken away its sessions end, and their contacts at other hosts hear that they are unavailable
// (RFC 6121 §4.5.2).
func TestContactsOfAHostThatIsTakenAway(t *testing.T) {
	s := New(t, Options{Hosts: []string{"localhost", "example.net"}})
	romeo, juliet := s.Login("romeo", "romeo@localhost/orchard"), s.Login("juliet", "juliet@example.net/balcony")
	befriend(s, romeo, juliet)
	s.opt.Hosts = []string{"localhost"}
	s.Reload()
	s.Settle()
	if got, want := juliet.Received(), "<stream:error><host-gone xmlns='urn:ietf:params:xml:ns:xmpp-streams'/>"+
		"</stream:error></stream:stream>"; got != want {
		t.Errorf("juliet gets %q, not %q", got, want)
	}
	if got, want := romeo.Received(), "<presence type='unavailable' from='juliet@example.net/balcony' "+
		"to='romeo@localhost'/>"; got != want {
		t.Errorf("romeo gets %q, not %q", got, want)
	}
}
