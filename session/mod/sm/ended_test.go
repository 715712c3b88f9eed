package sm_test

import (
	"strings"
	"testing"

	"canto/session"
)

// A session that is ended while it has a connection: the h of <failed/> counts all that the server has
// handled, also on that connection, and on whatever loop it was.
func TestHandledOfAnEndedSession(t *testing.T) {
	for loop := range 2 {
		s, _, juliet := enabled(t)
		juliet.DropConn()
		s.Settle()
		c := s.Authenticate("resumed", "juliet@localhost", loop)
		c.Received()
		c.Send("<resume xmlns='urn:xmpp:sm:3' previd='session-1' h='0'/>" +
			"<message to='romeo@localhost' type='chat'><body>1</body></message>" +
			"<message to='romeo@localhost' type='chat'><body>2</body></message><r xmlns='urn:xmpp:sm:3'/>")
		s.Settle()
		if got := c.Received(); !strings.Contains(got, "<a xmlns='urn:xmpp:sm:3' h='2'") {
			t.Fatalf("juliet gets %q", got)
		}
		c.Send("<message to='romeo@localhost' type='chat'><body>3</body></message>")
		s.Settle()
		s.Router.Kick(juliet.Bare(), session.ErrPolicyViolation)
		s.Settle()
		got := resume(s, "again", "session-1", 0).Received()
		if !strings.Contains(got, "<failed xmlns='urn:xmpp:sm:3' h='3'") {
			t.Errorf("it gets %q", got)
		}
	}
}
