package session_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"canto/session"
	"canto/session/sessiontest"
)

// What other entities send in one turn does not end the session of a client that reads: it waits
// until the socket has taken what came before, and all arrives, in order.
func TestBurstToAReader(t *testing.T) {
	s := sessiontest.New(t, sessiontest.Options{})
	juliet := s.Login("juliet", "juliet@localhost/balcony")
	juliet.Send("<presence/>")
	juliet.Received()
	var all []*sessiontest.Client
	for i := range 8 {
		m := s.Login(fmt.Sprint("m", i), fmt.Sprintf("m@localhost/%d", i))
		all = append(all, m)
		m.Send(fmt.Sprintf("<message to='juliet@localhost' type='chat'><body>%d%s</body></messag", i,
			strings.Repeat("x", 250_000)))
	}
	for _, m := range all {
		m.Conn().Write([]byte("e><message to='juliet@localhost' type='chat'><body>after</body></message>"))
	}
	s.Settle()
	got := juliet.Received()
	for range 20 { // the senders have to wait for what it has cost
		s.Advance(time.Second)
		got += juliet.Received()
	}
	if juliet.Conn().Ended() {
		t.Fatal("the session was ended")
	}
	for i := range all {
		big := strings.Index(got, fmt.Sprintf("from='m@localhost/%d'><body>%d", i, i))
		small := strings.Index(got, fmt.Sprintf("from='m@localhost/%d'><body>after", i))
		if big < 0 || small < big {
			t.Errorf("of client %d the messages are at %d and %d of %d", i, big, small, len(got))
		}
	}
	juliet.Send("<iq type='get' id='p'><ping xmlns='urn:xmpp:ping'/></iq>")
	if got := juliet.Received(); !strings.Contains(got, "id='p'") {
		t.Errorf("after it: %q", got)
	}
}

// The presence of all contacts, which is sent at a login, does not end the session.
func TestPresenceAtLogin(t *testing.T) {
	lim := session.DefaultLimits()
	lim.Rate = 0
	s := sessiontest.New(t, sessiontest.Options{Limits: &lim})
	juliet := s.Login("juliet", "juliet@localhost/balcony")
	juliet.Send("<presence/>")
	for i := range 6 {
		m := s.Login(fmt.Sprint("m", i), fmt.Sprintf("m%d@localhost/0", i))
		m.Send("<presence to='juliet@localhost' type='subscribe'/><presence to='juliet@localhost' " +
			"type='subscribed'/>")
		juliet.Send(fmt.Sprintf("<presence to='m%d@localhost' type='subscribed'/><presence "+
			"to='m%d@localhost' type='subscribe'/>", i, i))
		for j := 1; j < 16; j++ {
			c := s.Login(fmt.Sprint("m", i, "-", j), fmt.Sprintf("m%d@localhost/%d", i, j))
			c.Send("<presence><status>" + strings.Repeat("x", 16000) + "</status></presence>")
		}
	}
	juliet.DropConn()
	s.Settle()
	again := s.Login("again", "juliet@localhost/balcony")
	again.Send("<presence/>")
	s.Settle()
	if got := strings.Count(again.Received(), "<status>x"); again.Conn().Ended() || got != 6*15 {
		t.Errorf("the session was ended: %v; %d presences of %d came", again.Conn().Ended(), got, 6*15)
	}
}
