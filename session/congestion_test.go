package session_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"canto/session"
	"canto/session/sessiontest"
	"canto/session/stanza"
)

// A stanza to congested clients costs its sender's rate about 16 times its own bytes, however
// many the clients are, and whether they are served at once or by a fan-out of several turns. A
// sender with contacts that read pays for its own bytes, and a little for the copies. (A sender
// has a burst, and what it has earned since it logged in.)
func TestCostOfCongestion(t *testing.T) {
	for _, c := range []struct {
		contacts    int
		congested   bool
		least, most uint64
	}{{10, true, 12, 16}, {100, true, 11, 17}, {100, false, 35, 40}} {
		t.Run(fmt.Sprint(c.contacts, c.congested), func(t *testing.T) {
			lim := session.DefaultLimits()
			lim.Rate, lim.RateBurst = 0, 100_000
			s := sessiontest.New(t, sessiontest.Options{Limits: &lim})
			star, filler := s.Login("star", "star@localhost/x"), s.Login("filler", "filler@localhost/x")
			for i := range c.contacts {
				fan := s.Login(fmt.Sprint("fan", i), fmt.Sprintf("fan%d@localhost/x", i))
				fan.Send("<presence/><presence type='subscribe' to='star@localhost'/>")
				star.Send(fmt.Sprintf("<presence type='subscribed' to='fan%d@localhost'/>", i))
			}
			star.Send("<presence/>")
			s.Settle()
			for i := range c.contacts {
				if fan := s.Client(fmt.Sprint("fan", i)); c.congested {
					fan.Conn().SetWindow(0)
					for range 8 {
						filler.Send("<message to='" + fan.JID + "' type='chat'><body>" + strings.Repeat("x", 60_000) +
							"</body></message>")
					}
				}
			}
			s.Settle()
			lim.Rate = 10_000
			if err := s.Router.SetLimits(lim); err != nil {
				t.Fatal(err)
			}
			s.Advance(15 * time.Second) // as many tokens as there may be
			star.Received()
			taken := func() uint64 { return s.Stream(star).LoopRouter().Stats().In[stanza.Presence] }
			before := taken()
			for range 40 {
				star.Conn().Write([]byte("<presence><status>" + strings.Repeat("y", 960) + "</status></presence>"))
				s.Net.Run()
			}
			if n := taken() - before; n < c.least || n > c.most {
				t.Errorf("%d presences were taken at once, want %d to %d", n, c.least, c.most)
			}
		})
	}
}
