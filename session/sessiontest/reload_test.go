package sessiontest

import (
	"strings"
	"testing"
)

// When a host is removed its sessions end, and their contacts at other hosts get unavailable presence (RFC
// 6121 section 4.5.2).
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

// When a service host is removed, the occupants of its entities are notified, and nothing of it stays in
// memory. What is stored is there when the host comes back.
func TestServiceHostThatIsTakenAway(t *testing.T) {
	const (
		orchard = "orchard@rooms.localhost"
		say     = "<message to='" + orchard + "' type='groupchat' id='m'><body>hi</body></message>"
		page    = "<iq type='get' id='p' to='" + orchard + "'><page xmlns='urn:canto:test:room'/></iq>"
	)
	s := New(t, withKinds(Options{}))
	romeo, juliet := s.Login("romeo", "romeo@localhost/orchard"), s.Login("juliet", "juliet@localhost/balcony")
	romeo.Send("<presence to='" + orchard + "/Romeo'/>" + say)
	juliet.Send("<presence to='" + orchard + "/Juliet'/>")
	juliet.Send("<presence to='tomb@rooms.localhost/Juliet'/>") // a room of which nothing is stored
	s.Settle()
	s.got()
	services := s.opt.Services
	s.opt.Services = nil
	s.Reload()
	s.Settle()
	gone := "<presence type='unavailable' from='" + orchard + "'"
	for _, c := range []*Client{romeo, juliet} {
		if got := c.Received(); !strings.Contains(got, gone) {
			t.Errorf("%s is not told that the room is gone: %q", c.Name, got)
		}
	}
	for i := range 256 {
		for _, e := range s.Router.Table.Entities(i, nil) {
			if e.Host().Service() {
				t.Errorf("%s is in memory", e.JID())
			}
		}
	}
	romeo.Send(say)
	if got := romeo.Received(); !strings.Contains(got, "<remote-server-not-found") {
		t.Errorf("romeo gets %q", got)
	}
	s.opt.Services = services
	s.Reload()
	romeo.Send(say + page)
	s.Settle()
	if got := romeo.Received(); !strings.Contains(got, "<not-acceptable") ||
		!strings.Contains(got, "<body>hi</body>") {
		t.Errorf("of a room that is back, without occupants, romeo gets %q", got)
	}
}
