package presence_test

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"canto/reactor"
	"canto/session"
	"canto/session/sessiontest"
)

func TestConversations(t *testing.T) { sessiontest.Run(t, "testdata", sessiontest.Options{}) }

// Subscription requests of other users, more than an outbox holds, are delivered as the client reads, each
// once and whole. They do not end the session (RFC 6121 section 3.1.3).
func TestManyRequests(t *testing.T) {
	const n = 70
	lim := session.DefaultLimits()
	lim.Rate = 0
	s := sessiontest.New(t, sessiontest.Options{Limits: &lim, Reactor: func(c *reactor.Config) {
		c.OutboxBytes = 150_000
	}})
	s.AddAccount("juliet@localhost")
	for i := range n {
		c := s.Login(fmt.Sprint("c", i), fmt.Sprintf("c%03d@localhost/x", i))
		c.Send("<presence to='juliet@localhost' type='subscribe'><status>" + strings.Repeat("x", 3000) +
			"</status></presence>")
		c.DropConn()
	}
	s.Settle()
	juliet := s.Login("juliet", "juliet@localhost/balcony")
	juliet.Conn().SetWindow(0)
	juliet.Send("<presence/>")
	s.Settle()
	got := ""
	for range 300 {
		juliet.Conn().SetWindow(5_000)
		s.Advance(reactor.TickLength)
		s.Settle()
		got += juliet.Received()
	}
	whole := regexp.MustCompile(`<presence [^>]*type='subscribe'[^>]*><status>x{1000}x{1000}x{1000}</status></presence>`).FindAllString(got, -1)
	if len(whole) != n || juliet.Conn().Ended() {
		t.Errorf("%d requests of %d came; the session was ended: %v", len(whole), n, juliet.Conn().Ended())
	}
}
