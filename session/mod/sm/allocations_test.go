package sm_test

import (
	"fmt"
	"strings"
	"testing"

	"canto/session"
	"canto/session/sessiontest"
)

// A message between clients with stream management, carbons and client state, archived for both sides,
// allocates nothing, and neither do its acknowledgements.
func TestAllocations(t *testing.T) {
	lim := session.DefaultLimits()
	lim.Rate = 0
	s := sessiontest.New(t, sessiontest.Options{Limits: &lim})
	var all []*sessiontest.Client
	for _, full := range []string{"romeo@localhost/orchard", "juliet@localhost/balcony",
		"juliet@localhost/phone"} {
		c := s.Login(full, full)
		c.Send("<presence/><iq type='set' id='c'><enable xmlns='urn:xmpp:carbons:2'/></iq>" +
			"<enable xmlns='urn:xmpp:sm:3' resume='true'/><inactive xmlns='urn:xmpp:csi:0'/>")
		all = append(all, c)
	}
	s.Settle()
	const messages = 256
	many := []byte(strings.Repeat("<message to='juliet@localhost/balcony' type='chat' id='m1'><body>"+
		strings.Repeat("x", 100)+"</body></message>", messages) + "<r xmlns='urn:xmpp:sm:3'/>")
	var acks [][]byte // made before, as the measurement counts the whole process
	for i := range 40 {
		acks = append(acks, fmt.Appendf(nil, "<a xmlns='urn:xmpp:sm:3' h='%d'/>", (i+1)*messages))
	}
	n := 0
	once := func() {
		all[0].Conn().Feed(many)
		s.Settle()
		for i, c := range all {
			c.Conn().Discard()
			if i > 0 {
				c.Conn().Feed(acks[n])
			}
		}
		s.Settle()
		n++
	}
	if a := sessiontest.Allocations(messages, once); a >= 0.5 && !session.Checked && !raced {
		t.Errorf("%v allocations a message", a)
	}
	for _, c := range all {
		if c.Ended() {
			t.Errorf("the stream of %s has ended: %s", c.Name, c.Received())
		}
	}
}
