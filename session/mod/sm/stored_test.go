package sm_test

import (
	"strings"
	"testing"
	"time"
)

// What was stored for an account, and was sent to a client that has not acknowledged it, is sent to the
// next one: with its id if it is archived, and with one delay.
func TestStoredMessagesAgain(t *testing.T) {
	s, romeo, juliet := enabled(t)
	juliet.Send("</stream:stream>")
	s.Settle()
	romeo.Send("<message to='juliet@localhost' type='chat'><body>archived</body></message>" +
		"<message to='juliet@localhost' type='chat'><body>alone</body>" +
		"<no-permanent-store xmlns='urn:xmpp:hints'/></message>")
	s.Settle()
	var first string
	for _, name := range []string{"one", "two", "three"} {
		c := s.Login(name, "juliet@localhost/"+name)
		c.Send("<enable xmlns='urn:xmpp:sm:3' resume='true'/>")
		c.Send("<presence/>")
		s.Settle()
		got := strings.Join(messages(c.Stanzas()), "\n")
		if first == "" {
			first = got
		}
		if strings.Count(got, "<body>") != 2 || strings.Count(got, "<stanza-id") != 1 || got != first {
			t.Fatalf("%s gets\n%s\nthe first one got\n%s", name, got, first)
		}
		c.DropConn()
		s.Settle()
		s.AdvanceSettled(11 * time.Minute)
	}
}

// messages returns the messages of a list of elements.
func messages(list []string) (found []string) {
	for _, el := range list {
		if strings.HasPrefix(el, "<message") {
			found = append(found, el)
		}
	}
	return found
}

// A session that hibernates gets copies of what another device sends and gets. After a crash it still has
// them.
func TestCopiesOutliveACrash(t *testing.T) {
	s, romeo, juliet := enabled(t)
	juliet.Send("<iq type='set' id='c'><enable xmlns='urn:xmpp:carbons:2'/></iq>")
	s.Settle()
	juliet.DropConn()
	s.Settle()
	other := s.Login("other", "juliet@localhost/other")
	other.Send("<message to='romeo@localhost' type='chat'><body>sent</body></message>")
	s.Settle()
	romeo.Send("<message to='juliet@localhost/other' type='chat'><body>received</body></message>")
	s.Settle()
	s.Crash()
	got := resume(s, "again", "session-1", 1).Received()
	if !strings.Contains(got, "<resumed ") || strings.Count(got, "<body>sent<") != 1 ||
		strings.Count(got, "<body>received<") != 1 {
		t.Errorf("the session gets %q", got)
	}
}

// A session that hibernates, with a negative priority, has a copy of a message that waits. After a crash it
// does not get the message again when its priority is not negative any more.
func TestCopiesOfStoredMessagesOutliveACrash(t *testing.T) {
	s, romeo, juliet := enabled(t)
	juliet.Send("<iq type='set' id='c'><enable xmlns='urn:xmpp:carbons:2'/></iq>" +
		"<presence><priority>-1</priority></presence>")
	s.Settle()
	juliet.DropConn()
	s.Settle()
	for _, body := range []string{"one", "two"} {
		romeo.Send("<message to='juliet@localhost' type='chat'><body>" + body + "</body></message>")
		s.Settle()
	}
	s.Crash()
	again := resume(s, "again", "session-1", 1)
	again.Send("<presence/>")
	s.Settle()
	got := again.Received()
	if strings.Count(got, "<body>one<") != 1 || strings.Count(got, "<body>two<") != 1 {
		t.Errorf("the session gets %q", got)
	}
}
