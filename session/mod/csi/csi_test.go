package csi_test

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"canto/session"
	"canto/session/sessiontest"
)

// friends starts a server with the module, logs juliet in, and n contacts whose presence she gets.
func friends(t *testing.T, n int) (s *sessiontest.Server, juliet *sessiontest.Client,
	others []*sessiontest.Client) {
	t.Helper()
	lim := session.DefaultLimits()
	lim.Rate = 0
	s = sessiontest.New(t, sessiontest.Options{Limits: &lim})
	juliet = s.Login("juliet", "juliet@localhost/balcony")
	juliet.Send("<presence/>")
	for i := range n {
		c := s.Login(fmt.Sprint("c", i), fmt.Sprintf("c%d@localhost/x", i))
		c.Send("<presence to='juliet@localhost/balcony'/>")
		others = append(others, c)
	}
	s.Settle()
	juliet.Received()
	return s, juliet, others
}

// marks returns the texts of presence and messages in the order in which they came.
func marks(got string) []string { return regexp.MustCompile(`mark\d+`).FindAllString(got, -1) }

func away(c *sessiontest.Client, n int) {
	c.Send(fmt.Sprintf("<presence to='juliet@localhost/balcony'><status>mark%d</status></presence>", n))
}

// XEP-0352 sections 4.2 and 5.1: an inactive client gets no presence. When it becomes active it gets the
// last presence of each resource, before the answer to its next request.
func TestPresenceWaits(t *testing.T) {
	s, juliet, c := friends(t, 2)
	juliet.Send("<inactive xmlns='urn:xmpp:csi:0'/>")
	for i, from := range []int{0, 1, 0, 0} {
		away(c[from], i)
	}
	s.Settle()
	if got := juliet.Received(); got != "" {
		t.Fatalf("an inactive client got %q", got)
	}
	juliet.Send("<active xmlns='urn:xmpp:csi:0'/><iq type='get' id='p'><ping xmlns='urn:xmpp:ping'/></iq>")
	got := juliet.Received()
	if fmt.Sprint(marks(got)) != "[mark1 mark3]" || strings.Index(got, "id='p'") < strings.Index(got, "mark3") {
		t.Errorf("an active client got %q", got)
	}
	away(c[1], 4)
	if got := juliet.Received(); !strings.Contains(got, "mark4") {
		t.Errorf("after it: %q", got)
	}
}

// A message, a subscription request or an answer is sent to an inactive client at once, after what was
// deferred before it.
func TestOrderIsKept(t *testing.T) {
	for name, send := range map[string]func(juliet, c *sessiontest.Client){
		"message": func(_, c *sessiontest.Client) {
			c.Send("<message to='juliet@localhost/balcony' type='chat'><body>mark9</body></message>")
		},
		"subscription": func(_, c *sessiontest.Client) {
			c.Send("<presence to='juliet@localhost' type='subscribe'><status>mark9</status></presence>")
		},
		"answer": func(juliet, _ *sessiontest.Client) {
			juliet.Send("<iq type='set' id='mark9'><query xmlns='jabber:iq:private'><x xmlns='y'/></query></iq>")
		},
	} {
		t.Run(name, func(t *testing.T) {
			s, juliet, c := friends(t, 1)
			juliet.Send("<inactive xmlns='urn:xmpp:csi:0'/>")
			away(c[0], 1)
			send(juliet, c[0])
			s.Settle()
			if got := juliet.Received(); fmt.Sprint(marks(got)) != "[mark1 mark9]" {
				t.Errorf("juliet got %q", got)
			}
		})
	}
}

// Chat states, receipts and markers wait, in their order, and come before what is important (M-10 of the
// complaints of the field).
func TestFieldM10(t *testing.T) {
	s, juliet, c := friends(t, 1)
	juliet.Send("<inactive xmlns='urn:xmpp:csi:0'/>")
	for i, el := range []string{"<composing xmlns='http://jabber.org/protocol/chatstates'/>",
		"<received xmlns='urn:xmpp:receipts' id='1'/>", "<displayed xmlns='urn:xmpp:chat-markers:0' id='1'/>"} {
		c[0].Send(fmt.Sprintf("<message to='juliet@localhost/balcony' id='mark%d' type='chat'>%s</message>", i, el))
		away(c[0], 3)
	}
	s.Settle()
	if got := juliet.Received(); got != "" {
		t.Errorf("an inactive client gets %q", got)
	}
	c[0].Send("<message to='juliet@localhost/balcony' id='mark4' type='chat'><body>x</body></message>")
	s.Settle()
	if got := juliet.Received(); fmt.Sprint(marks(got)) != "[mark0 mark1 mark2 mark3 mark4]" {
		t.Errorf("in the order %v: %q", marks(got), got)
	}
	c[0].Send("<message to='juliet@localhost/balcony' id='mark5' type='chat'><composing " +
		"xmlns='http://jabber.org/protocol/chatstates'/></message>")
	s.Settle()
	if got := juliet.Received(); got != "" {
		t.Errorf("a client that is still inactive gets %q", got)
	}
}

// The client of a resumed stream is active. The presence of a contact that comes and goes meanwhile comes
// once, and fills no queue.
func TestResumedIsActive(t *testing.T) {
	s, juliet, c := friends(t, 1)
	juliet.Send("<enable xmlns='urn:xmpp:sm:3' resume='true'/><inactive xmlns='urn:xmpp:csi:0'/>")
	away(c[0], 0)
	s.Settle()
	juliet.DropConn()
	s.Settle()
	for i := range 3000 {
		away(c[0], 1)
		if i == 100 {
			c[0].Send("<message to='juliet@localhost/balcony' type='chat'><body>mark2</body></message>")
		}
	}
	s.Settle()
	away(c[0], 3)
	s.Settle()
	again := s.Authenticate("again", "juliet@localhost", 1)
	again.Received()
	again.Send("<resume xmlns='urn:xmpp:sm:3' previd='session-1' h='0'/>")
	s.Settle()
	if got := again.Received(); fmt.Sprint(marks(got)) != "[mark2 mark3]" {
		t.Errorf("the resumed client gets %.600q", got)
	}
	away(c[0], 4)
	if got := again.Received(); fmt.Sprint(marks(got)) != "[mark4]" {
		t.Errorf("then %q", got)
	}
}

// Stored messages are not deferred in the outbox, however long the client is inactive.
func TestStoredMessages(t *testing.T) {
	s, juliet, c := friends(t, 1)
	juliet.Send("<presence type='unavailable'/>")
	for i := range 3 {
		c[0].Send(fmt.Sprintf("<message to='juliet@localhost' type='chat'><body>mark%d</body></message>", i))
	}
	s.Settle()
	juliet.Send("<inactive xmlns='urn:xmpp:csi:0'/><presence/>")
	s.Settle()
	if got := juliet.Received(); fmt.Sprint(marks(got)) != "[mark0 mark1 mark2]" {
		t.Errorf("juliet got %q", got)
	}
}

// Attack K94: what waits for an inactive client has a limit: beyond it it is sent, and the session goes on.
func TestAttackK94(t *testing.T) {
	s, juliet, c := friends(t, 80)
	juliet.Send("<inactive xmlns='urn:xmpp:csi:0'/>")
	got := ""
	for i := range c {
		c[i].Send("<presence to='juliet@localhost/balcony'><status>mark" + fmt.Sprint(i) +
			strings.Repeat("x", 15<<10) + "</status></presence>")
		s.Settle()
		got += juliet.Received()
	}
	if n := len(marks(got)); n == 0 || n == len(c) {
		t.Errorf("of %d presences %d came", len(c), n)
	}
	juliet.Send("<active xmlns='urn:xmpp:csi:0'/>")
	s.Advance(time.Second)
	if got += juliet.Received(); len(marks(got)) != len(c) || juliet.Conn().Ended() {
		t.Errorf("in all %d of %d came; ended: %v", len(marks(got)), len(c), juliet.Conn().Ended())
	}
}
