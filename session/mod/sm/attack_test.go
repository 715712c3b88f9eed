package sm_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"canto/session"
	"canto/session/sessiontest"
)

// enabled logs juliet in, who has stream management and is available.
func enabled(t *testing.T) (s *sessiontest.Server, romeo, juliet *sessiontest.Client) {
	s = sessiontest.New(t, sessiontest.Options{})
	romeo, juliet = s.Login("romeo", "romeo@localhost/orchard"), s.Login("juliet", "juliet@localhost/balcony")
	juliet.Send("<presence/><enable xmlns='urn:xmpp:sm:3' resume='true'/>")
	s.Settle()
	juliet.Received()
	return s, romeo, juliet
}

// resume logs juliet in again and resumes the session id, of which she has handled h stanzas.
func resume(s *sessiontest.Server, name, id string, h int) *sessiontest.Client {
	c := s.Authenticate(name, "juliet@localhost", 1)
	s.Settle()
	c.Received()
	c.Send(fmt.Sprintf("<resume xmlns='urn:xmpp:sm:3' previd='%s' h='%d'/>", id, h))
	s.Settle()
	return c
}

// Attack W08: a client that acknowledges nothing. What is kept for it is bounded: its session goes on, but
// can't be resumed until it has acknowledged everything.
func TestAttackW08(t *testing.T) {
	for _, all := range []bool{false, true} {
		s, romeo, juliet := enabled(t)
		n := 0
		for ; n < 1100; n++ {
			romeo.Send(fmt.Sprintf("<message to='juliet@localhost/balcony'><body>%d</body></message>", n))
			if n%50 == 0 {
				s.Settle()
			}
		}
		s.Settle()
		if got := juliet.Received(); !strings.Contains(got, ">1099<") {
			t.Fatalf("the session does not go on: %.300q", got)
		}
		if all {
			juliet.Send(fmt.Sprintf("<a xmlns='urn:xmpp:sm:3' h='%d'/>", n))
			s.Settle()
		}
		juliet.DropConn()
		s.Settle()
		if got := resume(s, "again", "session-1", n).Received(); strings.Contains(got, "<resumed") != all {
			t.Errorf("everything acknowledged: %v; resumed: %.300q", all, got)
		}
	}
}

// M-1, M-2 (complaints of the field): what comes between the cut and the end of the session is neither lost
// nor doubled, and the pages of an archive that a client had asked for are not routed again.
func TestFieldM1(t *testing.T) {
	s, romeo, juliet := enabled(t)
	romeo.Send("<message to='juliet@localhost' type='chat'><body>one</body></message>")
	s.Settle()
	juliet.Send("<iq type='set' id='q'><query xmlns='urn:xmpp:mam:2'/></iq>")
	s.Settle()
	if got := juliet.Received(); strings.Count(got, "<body>one") != 2 {
		t.Fatalf("juliet got %q", got)
	}
	romeo.Send("<message to='juliet@localhost' type='chat'><body>two</body></message>")
	juliet.DropConn()
	s.Settle()
	romeo.Send("<message to='juliet@localhost' type='chat'><body>three</body></message>")
	s.Settle()
	s.AdvanceSettled(11 * time.Minute)
	next := s.Login("next", "juliet@localhost/next")
	next.Send("<presence/>")
	s.Settle()
	s.AdvanceSettled(time.Second)
	got := next.Received()
	for _, body := range []string{"one", "two", "three"} { // the first one was not acknowledged
		if strings.Count(got, "<body>"+body) != 1 {
			t.Errorf("message %s comes %d times: %q", body, strings.Count(got, "<body>"+body), got)
		}
	}
	if strings.Contains(got, "<result") || strings.Contains(romeo.Received(), "error") {
		t.Errorf("a page is routed again, or a message refused: %q", got)
	}
	next.Send("<iq type='set' id='q'><query xmlns='urn:xmpp:mam:2'/></iq>")
	s.Settle()
	if got := next.Received(); strings.Count(got, "<result") != 3 {
		t.Errorf("the archive has %d rows", strings.Count(got, "<result"))
	}
}

// M-4: a login with a big roster, or a big room, does not end the session, and asks for one acknowledgement
// at a time.
func TestFieldM4(t *testing.T) {
	s, romeo, juliet := enabled(t)
	for range 3000 {
		romeo.Send("<presence to='juliet@localhost/balcony'/>")
	}
	s.Settle()
	got := juliet.Received()
	if n := strings.Count(got, "<presence"); n != 3000 || strings.Count(got, "<r ") != 1 {
		t.Fatalf("%d presences, %d requests", n, strings.Count(got, "<r "))
	}
	juliet.Send("<a xmlns='urn:xmpp:sm:3' h='3000'/>")
	s.Settle()
	juliet.DropConn()
	s.Settle()
	if got := resume(s, "again", "session-1", 3000).Received(); !strings.Contains(got, "<resumed") {
		t.Errorf("it can't be resumed: %.300q", got)
	}
}

// M-5: a client that resumes while its old connection still stands gets the session; of two that do, one has
// it in the end. The end of an old connection does not end the session.
func TestFieldM5(t *testing.T) {
	s, romeo, juliet := enabled(t)
	juliet.Send("<message to='romeo@localhost/orchard' id='last'><body>last</body></message>")
	first := s.Authenticate("first", "juliet@localhost", 0)
	second := s.Authenticate("second", "juliet@localhost", 1)
	s.Settle()
	first.Received()
	second.Received()
	for _, c := range []*sessiontest.Client{first, second} {
		c.Send("<resume xmlns='urn:xmpp:sm:3' previd='session-1' h='0'/>")
	}
	s.Settle()
	if got := juliet.Received(); !strings.Contains(got, "<conflict") {
		t.Errorf("the old connection gets %q", got)
	}
	a, b := first.Received(), second.Received()
	// The one that comes while the other resumes finds nothing; one that comes later takes the session over.
	has := func(got string) bool {
		return strings.Contains(got, "<resumed") && !strings.Contains(got, "<conflict")
	}
	if has(a) == has(b) || strings.Count(a+b, "<item-not-found")+strings.Count(a+b, "<conflict") != 1 {
		t.Fatalf("the two get %q and %q", a, b)
	}
	winner, loser := first, second
	if has(b) {
		winner, loser = second, first
	}
	loser.DropConn()
	juliet.DropConn()
	s.Settle()
	romeo.Received()
	romeo.Send("<message to='juliet@localhost/balcony' type='chat'><body>still there</body></message>")
	winner.Send("<message to='romeo@localhost/orchard' id='on'><body>on</body></message>" +
		"<r xmlns='urn:xmpp:sm:3'/>")
	s.Settle()
	if got := winner.Received(); !strings.Contains(got, "still there") || !strings.Contains(got, "h='2'") {
		t.Errorf("the session gets %q", got)
	}
	if got := romeo.Received(); !strings.Contains(got, "<body>on") || strings.Contains(got, "unavailable") {
		t.Errorf("romeo gets %q", got)
	}
}

// Attack W09: the session of another account, one that has logged out, and one whose account has another
// password or was deleted can't be resumed, by any name.
func TestAttackW09(t *testing.T) {
	refused := func(t *testing.T, s *sessiontest.Server, got string) {
		t.Helper()
		if !strings.Contains(got, "<item-not-found") || strings.Contains(got, "<resumed") {
			t.Errorf("it gets %q", got)
		}
	}
	t.Run("another account", func(t *testing.T) {
		s, _, juliet := enabled(t)
		mallory := s.Login("den", "mallory@localhost/den")
		c := s.Authenticate("mallory", "mallory@localhost", 0)
		c.Received()
		c.Send("<resume xmlns='urn:xmpp:sm:3' previd='session-1' h='0'/>")
		s.Settle()
		refused(t, s, c.Received())
		if juliet.Ended() || mallory.Ended() {
			t.Error("a session ended")
		}
	})
	t.Run("logged out", func(t *testing.T) {
		s, _, juliet := enabled(t)
		juliet.Send("</stream:stream>")
		s.Settle()
		refused(t, s, resume(s, "again", "session-1", 0).Received())
	})
	t.Run("guessed", func(t *testing.T) {
		s, _, _ := enabled(t)
		for i, id := range []string{"session-2", "session-", "", "SESSION-1", strings.Repeat("s", 4000)} {
			if got := resume(s, fmt.Sprint("again", i), id, 0).Received(); strings.Contains(got, "<resumed") {
				t.Errorf("%q is resumed: %q", id, got)
			}
		}
	})
	t.Run("kicked", func(t *testing.T) {
		s, _, juliet := enabled(t)
		juliet.DropConn()
		s.Settle()
		s.Router.Kick(juliet.Bare(), session.ErrPolicyViolation)
		s.Settle()
		s.AdvanceSettled(time.Second)
		refused(t, s, resume(s, "again", "session-1", 0).Received())
	})
	t.Run("replayed", func(t *testing.T) {
		s, romeo, juliet := enabled(t)
		romeo.Send("<message to='juliet@localhost/balcony'><body>1</body></message>" +
			"<message to='juliet@localhost/balcony'><body>2</body></message>")
		s.Settle()
		juliet.DropConn()
		s.Settle()
		first := resume(s, "first", "session-1", 2)
		first.Received()
		// The client has acknowledged two already: it can't have handled fewer.
		if got := resume(s, "second", "session-1", 1).Received(); !strings.Contains(got, "handled-count-too-high") {
			t.Errorf("a replayed resumption gets %q", got)
		}
	})
}

// Attack W10: counts that are too high, go backwards, or are no numbers.
func TestAttackW10(t *testing.T) {
	for _, x := range []struct{ h, want string }{
		{"h='2'", ""}, {"h='3'", "handled-count-too-high"}, {"h='4294967295'", "handled-count-too-high"},
		{"h='4294967296'", "bad-format"}, {"h='-1'", "bad-format"}, {"h='1e3'", "bad-format"},
		{"h=''", "bad-format"}, {"", "bad-format"}, {"h='+2'", "bad-format"}, {"h=' 2'", "bad-format"},
		{"h='2'/><a xmlns='urn:xmpp:sm:3' h='1'", "handled-count-too-high"},
	} {
		s, romeo, juliet := enabled(t)
		romeo.Send("<message to='juliet@localhost/balcony'><body>1</body></message>" +
			"<message to='juliet@localhost/balcony'><body>2</body></message>")
		s.Settle()
		juliet.Received()
		juliet.Send("<a xmlns='urn:xmpp:sm:3' " + x.h + "/>")
		s.Settle()
		if got := juliet.Received(); (x.want == "") != (got == "") || !strings.Contains(got, x.want) {
			t.Errorf("%s: %q, want %q", x.h, got, x.want)
		}
	}
}
