package session_test

import (
	"fmt"
	"strings"
	"testing"

	"canto/session"
	"canto/session/jid"
	"canto/session/sessiontest"
	"canto/session/stanza"
)

// Broadcasts to ten thousand recipients on two loops never deliver more than a share in a turn,
// whether it is one broadcast or several at once. A request that arrives in the meantime is
// answered between two shares.
func TestFanoutShares(t *testing.T) {
	const share, readers, all = 64, 100, 10_000
	for _, broadcasts := range []int{1, 4, 100} {
		lim := session.DefaultLimits()
		lim.Rate = 0
		s := sessiontest.New(t, sessiontest.Options{Limits: &lim})
		recipients := &session.Recipients{}
		recipients.Reset(len(s.Router.LoopRouters()))
		for i := range readers {
			c := s.Login(fmt.Sprint("c", i), fmt.Sprintf("c%d@localhost/x", i))
			to, err := jid.Parse(c.JID)
			if err != nil {
				t.Fatal(err)
			}
			for range all / broadcasts / readers {
				recipients.Add(to)
			}
		}
		host, _ := s.Router.Table.Host("localhost")
		neighbour := s.Login("neighbour", "neighbour@localhost/x")
		stars := make([]*sessiontest.Client, broadcasts)
		for i := range stars {
			stars[i] = s.Login(fmt.Sprint("star", i), fmt.Sprintf("star%d@localhost/x", i))
		}
		for _, star := range stars {
			me, err := jid.Parse(star.JID)
			if err != nil {
				t.Fatal(err)
			}
			l := s.Stream(star).LoopRouter()
			l.Loop.Post(func() { // all of them in a turn
				l.WithAccount(host, star.Bare(), func(l *session.LoopRouter, a *session.Account, _ bool, err error) {
					if err != nil {
						t.Error(err)
					}
					l.Fanout(a, me, []byte("<message type='headline'><body>news</body></message>"), recipients)
				})
			})
		}
		delivered := func() (n int) {
			for _, l := range s.Router.LoopRouters() {
				st := l.Stats()
				n += int(st.Out[stanza.Message])
			}
			return n
		}
		turns, asked, answered := 0, 0, 0
		for n := 0; s.Net.RunTurn(); n = delivered() {
			turns++
			if d := delivered() - n; d > share {
				t.Fatalf("%d broadcasts: a turn delivered to %d", broadcasts, d)
			}
			switch {
			case asked == 0 && n > all/4:
				asked = n
				neighbour.Conn().Write([]byte("<iq type='get' id='1'><ping xmlns='urn:xmpp:ping'/></iq>"))
			case answered == 0 && strings.Contains(string(neighbour.Conn().Take()), "type='result'"):
				answered = n
			}
		}
		if n := delivered(); n != all {
			t.Fatalf("%d broadcasts: %d deliveries of %d", broadcasts, n, all)
		}
		if answered == 0 || answered-asked > 4*share {
			t.Errorf("%d broadcasts: a request after %d deliveries was answered after %d", broadcasts, asked,
				answered)
		}
		if turns > 3*all/share {
			t.Errorf("%d broadcasts: %d turns", broadcasts, turns)
		}
	}
}
