package session_test

import (
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"canto/session/sessiontest"
)

// endingTable has the ways in which a client's stream ends.
var endingTable = map[string]struct {
	end func(c *sessiontest.Client)
	// first: the stanza is sent after the end. What was sent before may be in a buffer of the network when the
	// connection is lost; only stream management (XEP-0198) could tell.
	first bool
}{
	"end tag": {func(c *sessiontest.Client) { c.Conn().Write([]byte("</stream:stream>")) }, false},
	"lost":    {func(c *sessiontest.Client) { c.Conn().Hangup(io.ErrUnexpectedEOF) }, true},
	"FIN":     {func(c *sessiontest.Client) { c.Conn().Hangup(nil) }, true},
	"closed by the server": {func(c *sessiontest.Client) {
		conn := c.Conn().Conn()
		conn.Loop().Post(func() { conn.Close(nil) })
	}, false},
	"end tag of a client that does not read": {func(c *sessiontest.Client) {
		c.Conn().SetWindow(0)
		c.Send("<iq type='get' id='p'><ping xmlns='urn:xmpp:ping'/></iq>") // so that the end tag waits, for seconds
		c.Conn().Write([]byte("</stream:stream>"))
	}, true},
	"stream error": {func(c *sessiontest.Client) {
		c.Conn().Write([]byte("<unknown xmlns='jabber:client'/>"))
	}, false},
}

// points is the number of turns of both loops in which a stanza is sent, routed, delivered and
// answered.
const points = 6

// eachPoint runs f with a new server for each ending of a recipient's stream, and for each number
// of turns between the stanza and the end. f gives the recipient, and a function that sends the
// stanza, to at, which returns when nothing moves any more.
func eachPoint(t *testing.T, f func(t *testing.T, s *sessiontest.Server,
	at func(c *sessiontest.Client, send func()))) {
	for name, e := range endingTable {
		t.Run(name, func(t *testing.T) {
			for k := range points {
				s := sessiontest.New(t, sessiontest.Options{})
				f(t, s, func(c *sessiontest.Client, send func()) {
					if e.first {
						e.end(c)
						for range k + 1 {
							s.Net.RunTurn()
						}
						send()
					} else {
						send()
						for range k {
							s.Net.RunTurn()
						}
						e.end(c)
					}
					s.Settle()
					s.Advance(3 * time.Second)
				})
				if t.Failed() {
					t.Fatalf("with %d turns between", k)
				}
			}
		})
	}
}

// A message to a resource with a stream that is ending is read by its client, stored, or refused.
// It is never lost silently (RFC 6121 section 8.5.3.2, XEP-0160).
func TestMessageToAClosingStream(t *testing.T) {
	for name, c := range map[string]struct {
		stanza string
		stored bool // else it is refused
	}{
		"chat to a bare JID": {"<message to='juliet@localhost' type='chat' id='m'><body>Hi</body></message>",
			true},
		"chat to a full JID": {"<message to='juliet@localhost/balcony' type='chat' " +
			"id='m'><body>Hi</body></message>", true},
		"normal to a bare JID": {"<message to='juliet@localhost' id='m'><body>Hi</body></message>", true},
		"not to be stored": {"<message to='juliet@localhost/balcony' type='chat' " +
			"id='m'><body>Hi</body><no-store xmlns='urn:xmpp:hints'/></message>", false},
		"groupchat": {"<message to='juliet@localhost/balcony' type='groupchat' " +
			"id='m'><body>Hi</body></message>", false},
	} {
		t.Run(name, func(t *testing.T) {
			eachPoint(t, func(t *testing.T, s *sessiontest.Server, at func(*sessiontest.Client, func())) {
				romeo, juliet := s.Login("romeo", "romeo@localhost/orchard"),
					s.Login("juliet", "juliet@localhost/balcony")
				juliet.Send("<presence/>")
				juliet.Received()
				at(juliet, func() { romeo.Conn().Write([]byte(c.stanza)) })
				read := strings.Contains(juliet.Received(), "<body>Hi</body>")
				refused := strings.Contains(romeo.Received(), "<message type='error' id='m'")
				again := s.Login("again", "juliet@localhost/balcony")
				again.Send("<presence/>")
				stored := strings.Contains(again.Received(), "<body>Hi</body>")
				switch {
				case !read && !refused && !stored:
					t.Error("the message is lost")
				case refused && c.stored, stored && !c.stored:
					t.Errorf("read %v, refused %v, stored %v", read, refused, stored)
				}
			})
		})
	}
}

// A message goes to the next best resource if the stream of the best one is closing (RFC 6121
// Section 8.5.2.1.1).
func TestMessageGoesOnToTheNextResource(t *testing.T) {
	s := sessiontest.New(t, sessiontest.Options{})
	romeo := s.Login("romeo", "romeo@localhost/orchard")
	best, next := s.Login("best", "juliet@localhost/best"), s.Login("next", "juliet@localhost/next")
	best.Send("<presence><priority>5</priority></presence>")
	next.Send("<presence><priority>1</priority></presence>")
	next.Received()
	best.Conn().SetWindow(0)
	best.Send("<iq type='get' id='p'><ping xmlns='urn:xmpp:ping'/></iq>")
	best.Send("</stream:stream>")
	romeo.Send("<message to='juliet@localhost' type='chat'><body>Hi</body></message>")
	if got := next.Received(); !strings.Contains(got, "<body>Hi</body>") {
		t.Errorf("the next resource got %q", got)
	}
}

// A message for several resources (RFC 6121 section 8.5.2.1.1) is neither lost nor doubled if some of
// them, or all, queue it and end.
func TestMessageForTiedResources(t *testing.T) {
	for _, both := range []bool{false, true} {
		s := sessiontest.New(t, sessiontest.Options{})
		romeo := s.Login("romeo", "romeo@localhost/orchard")
		one, two := s.Login("one", "juliet@localhost/one"), s.Login("two", "juliet@localhost/two")
		one.Send("<presence/>")
		two.Send("<presence/>")
		clients := []*sessiontest.Client{one}
		if both {
			clients = append(clients, two)
		}
		for _, c := range clients { // its socket is full, and its outbox too
			c.Conn().SetWindow(0)
			for range 5 {
				romeo.Send("<message to='" + c.JID + "' type='chat'><body>" + strings.Repeat("x", 250_000) +
					"</body></message>")
				s.Advance(10 * time.Second)
			}
		}
		romeo.Send("<message to='juliet@localhost' type='chat'><body>once</body></message>")
		s.Settle()
		for _, c := range clients {
			c.DropConn()
		}
		s.Settle()
		got := two.Received()
		if both {
			again := s.Login("again", "juliet@localhost/three")
			again.Send("<presence/>")
			s.Settle()
			got = again.Received()
		}
		if n := strings.Count(got, "<body>once</body>"); n != 1 {
			t.Errorf("both end: %v: juliet gets it %d times", both, n)
		}
	}
}

// Each request has one answer, unless the recipient's client has read it, even if the stream of
// the recipient ends (RFC 6120 section 8.2.3).
func TestRequestToAClosingStream(t *testing.T) {
	eachPoint(t, func(t *testing.T, s *sessiontest.Server, at func(*sessiontest.Client, func())) {
		romeo, juliet := s.Login("romeo", "romeo@localhost/orchard"), s.Login("juliet", "juliet@localhost/balcony")
		juliet.Send("<presence/>")
		juliet.Received()
		at(juliet, func() {
			romeo.Conn().Write([]byte("<iq type='get' id='q' to='juliet@localhost/balcony'><ping " +
				"xmlns='urn:xmpp:ping'/></iq>"))
		})
		read := strings.Contains(juliet.Received(), "urn:xmpp:ping")
		if got := romeo.Received(); !read && !strings.Contains(got, "id='q'") || strings.Count(got, "id='q'") > 1 {
			t.Errorf("the request was read: %v; answers: %q", read, got)
		}
	})
}

// A subscription request is there at the next login, whenever the stream ends (RFC 6121 section 3.1.3).
func TestSubscriptionRequestToAClosingStream(t *testing.T) {
	eachPoint(t, func(t *testing.T, s *sessiontest.Server, at func(*sessiontest.Client, func())) {
		romeo, juliet := s.Login("romeo", "romeo@localhost/orchard"), s.Login("juliet", "juliet@localhost/balcony")
		juliet.Send("<presence/>")
		juliet.Received()
		at(juliet, func() { romeo.Conn().Write([]byte("<presence to='juliet@localhost' type='subscribe'/>")) })
		again := s.Login("again", "juliet@localhost/balcony")
		again.Send("<presence/>")
		if got := again.Received(); !strings.Contains(got, "type='subscribe'") {
			t.Errorf("juliet gets %q", got)
		}
	})
}

// A stored message is erased when a client has it, and not before: whenever the client's stream
// ends, each message is read in the end, in order, and no message that was sent in the meantime
// is lost.
func TestStoredMessagesToAClosingStream(t *testing.T) {
	eachPoint(t, func(t *testing.T, s *sessiontest.Server, at func(*sessiontest.Client, func())) {
		romeo := s.Login("romeo", "romeo@localhost/orchard")
		s.AddAccount("juliet@localhost")
		for i := range 3 {
			romeo.Send(fmt.Sprintf("<message to='juliet@localhost' type='chat'><body>stored %d</body></message>", i))
		}
		juliet := s.Login("juliet", "juliet@localhost/balcony")
		at(juliet, func() {
			juliet.Conn().Write([]byte("<presence/>"))
			s.Net.RunTurn()
			romeo.Conn().Write([]byte("<message to='juliet@localhost' type='chat'><body>live</body></message>"))
		})
		got := juliet.Received()
		again := s.Login("again", "juliet@localhost/balcony")
		again.Send("<presence/>")
		s.Settle()
		got += again.Received()
		at0 := -1
		for _, body := range []string{"stored 0", "stored 1", "stored 2"} {
			i := strings.Index(got, "<body>"+body+"</body>")
			if i <= at0 {
				t.Errorf("%s is at %d, after %d: %q", body, i, at0, got)
			}
			at0 = i
		}
		if !strings.Contains(got, "<body>live</body>") {
			t.Errorf("the live message is lost: %q", got)
		}
	})
}

// Roster and block list pushes, answers and presence to a closing session neither panic nor reach
// another session. The change is there at the next login.
func TestPushesToAClosingStream(t *testing.T) {
	eachPoint(t, func(t *testing.T, s *sessiontest.Server, at func(*sessiontest.Client, func())) {
		one, two := s.Login("one", "juliet@localhost/one"), s.Login("two", "juliet@localhost/two")
		for _, c := range []*sessiontest.Client{one, two} {
			c.Send("<iq type='get' id='r'><query xmlns='jabber:iq:roster'/></iq><iq type='get' " +
				"id='b'><blocklist xmlns='urn:xmpp:blocking'/></iq><presence/>")
			c.Received()
		}
		at(two, func() {
			one.Conn().Write([]byte("<iq type='set' id='s'><query xmlns='jabber:iq:roster'><item " +
				"jid='romeo@localhost'/></query></iq>" +
				"<iq type='set' id='t'><block xmlns='urn:xmpp:blocking'><item " +
				"jid='paris@localhost'/></block></iq><presence><show>away</show></presence>"))
		})
		if got := one.Received(); !strings.Contains(got, "<iq type='result' id='s'") ||
			!strings.Contains(got, "<iq type='result' id='t'") {
			t.Errorf("no answer: %q", got)
		}
	})
}
