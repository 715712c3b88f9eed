package carbons_test

import (
	"fmt"
	"strings"
	"testing"

	"canto/session"
	"canto/session/sessiontest"
)

// Attack K81: no loop. Each device gets each message once, as a message or as a copy, however often copies
// are enabled, if copies are sent on, and if devices answer each other. There is no copy of a copy.
func TestAttackK81(t *testing.T) {
	lim := session.DefaultLimits()
	lim.Rate = 0
	s := sessiontest.New(t, sessiontest.Options{Limits: &lim})
	const enable = "<iq type='set' id='c'><enable xmlns='urn:xmpp:carbons:2'/></iq>"
	const disable = "<iq type='set' id='c'><disable xmlns='urn:xmpp:carbons:2'/></iq>"
	var all []*sessiontest.Client
	for _, full := range []string{"romeo@localhost/one", "romeo@localhost/two", "romeo@localhost/three",
		"juliet@localhost/one", "juliet@localhost/two"} {
		c := s.Login(full, full)
		c.Send("<presence/>" + strings.Repeat(enable, 500) + strings.Repeat(disable+enable, 20))
		s.Settle()
		if n := strings.Count(c.Received(), "<iq type='result' id='c'"); n != 540 {
			t.Fatalf("%d answers", n)
		}
		all = append(all, c)
	}
	s.Settle()
	for _, c := range all {
		c.Received()
	}
	// got returns how many messages each client has got, and how many of them are copies.
	got := func() (list []string) {
		s.Settle()
		for _, c := range all {
			messages, copies := 0, 0
			for _, el := range c.Stanzas() {
				if strings.HasPrefix(el, "<message") {
					messages++
				}
				outer, _, _ := strings.Cut(el, "<forwarded")
				if strings.Contains(outer, "urn:xmpp:carbons:2") && strings.Contains(outer, " from='"+
					c.Bare().String()+"'") {
					copies++
				}
				if strings.Count(el, "<forwarded") > 2 {
					t.Errorf("a copy of a copy: %s", el)
				}
			}
			list = append(list, fmt.Sprint(messages, "/", copies))
		}
		return list
	}
	const carbon = "<received xmlns='urn:xmpp:carbons:2'><forwarded xmlns='urn:xmpp:forward:0'>" +
		"<message xmlns='jabber:client' from='juliet@localhost/one' type='chat'><body>x</body></message>" +
		"</forwarded></received>"
	for _, c := range []struct{ what, to, payload, want string }{
		{"a message", "juliet@localhost/one", "<body>x</body>", "[0/0 1/1 1/1 1/0 1/1]"},
		{"a message to all devices", "juliet@localhost", "<body>x</body>", "[0/0 1/1 1/1 1/0 1/0]"},
		{"to the own other device", "romeo@localhost/two", "<body>x</body>", "[0/0 1/0 1/1 0/0 0/0]"},
		{"to the own account", "romeo@localhost", "<body>x</body>", "[1/0 1/0 1/0 0/0 0/0]"},
		{"to itself", "romeo@localhost/one", "<body>x</body>", "[1/0 1/1 1/1 0/0 0/0]"},
		{"a copy sent on", "juliet@localhost/one", carbon, "[0/0 0/0 0/0 1/0 0/0]"},
		{"a copy sent on, with a text", "juliet@localhost/one", "<body>x</body>" + carbon, "[0/0 0/0 0/0 1/0 0/0]"},
		{"a copy to the own device", "romeo@localhost/two", carbon, "[0/0 1/0 0/0 0/0 0/0]"},
		{"a result of an archive", "juliet@localhost/one", "<result xmlns='urn:xmpp:mam:2' id='x'/><body>x</body>",
			"[0/0 0/0 0/0 1/0 0/0]"},
		{"private", "juliet@localhost/one", "<body>x</body><private xmlns='urn:xmpp:carbons:2'/>",
			"[0/0 0/0 0/0 1/0 0/0]"},
	} {
		all[0].Send("<message type='chat' to='" + c.to + "' id='m'>" + c.payload + "</message>")
		if list := fmt.Sprint(got()); list != c.want {
			t.Errorf("%s: messages and copies %s, want %s", c.what, list, c.want)
		}
	}
	// Devices that answer each message as long as they get something new: the copies set off nothing.
	for i := range 50 {
		all[i%2*3].Send(fmt.Sprintf("<message type='chat' to='%s' id='%d'><body>x</body></message>",
			all[3-i%2*3].JID, i))
	}
	if list := fmt.Sprint(got()); list != "[25/0 50/50 50/50 25/0 50/50]" {
		t.Errorf("a conversation of 50: %s", list)
	}
}
