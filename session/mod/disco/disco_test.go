package disco_test

import (
	"regexp"
	"slices"
	"testing"

	"canto/session"
	"canto/session/mod"
	"canto/session/sessiontest"
	"canto/session/sessiontest/service"
)

func TestConversations(t *testing.T) { sessiontest.Run(t, "testdata", sessiontest.Options{}) }

// A service host answers service discovery, pings and requests for version and time with its default
// modules, although no module has created an entity of its domain.
func TestServiceHost(t *testing.T) {
	sessiontest.Run(t, "testdata/service", sessiontest.Options{Services: []string{"rooms.localhost"}})
}

// The same, if a module has created an entity of the domain.
func TestServiceHostWithEntity(t *testing.T) {
	sessiontest.Run(t, "testdata/entity", sessiontest.Options{
		Services:       []string{"rooms.localhost"},
		ServiceModules: append(mod.DefaultServiceNames(), service.Manifest.Name),
		Shelf:          slices.Concat(mod.All, []session.Manifest{service.Manifest}),
	})
}

// The items of a host are the service hosts below it at the time of the request (XEP-0030 section 4.1):
// not those of other hosts, nor hosts where users log in.
func TestItemsOfAHost(t *testing.T) {
	s := sessiontest.New(t, sessiontest.Options{Hosts: []string{"example.org", "b.example.org", "example.net",
		"x.example"},
		Services: []string{"rooms.example.org", "files.b.example.org", "rooms.example.net", "notexample.org"}})
	items := func(host string) (list []string) {
		t.Helper()
		c := s.Login(host, "romeo@"+host+"/a")
		c.Send("<iq type='get' id='1' to='" + host +
			"'><query xmlns='http://jabber.org/protocol/disco#items'/></iq>")
		s.Settle()
		for _, m := range regexp.MustCompile(`<item jid='([^']*)'/>`).FindAllStringSubmatch(c.Received(), -1) {
			list = append(list, m[1])
		}
		return list
	}
	for host, want := range map[string][]string{
		"example.org":   {"files.b.example.org", "rooms.example.org"},
		"b.example.org": {"files.b.example.org"},
		"example.net":   {"rooms.example.net"},
		"x.example":     nil,
	} {
		if got := items(host); !slices.Equal(got, want) {
			t.Errorf("%s has the items %q, want %q", host, got, want)
		}
	}
	s.Router.Table.RemoveHost("rooms.example.org")
	if got := items("example.org"); !slices.Equal(got, []string{"files.b.example.org"}) {
		t.Errorf("with one taken away: %q", got)
	}
}
