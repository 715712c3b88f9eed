package presence_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"canto/session/sessiontest"
)

// K58: a session may have sent directed presence to 1,000 addresses. One more is answered with
// resource-constraint and changes nothing. Each address gets unavailable presence exactly once (RFC 6121
// section 4.6.3).
func TestAttackK58Directed(t *testing.T) {
	s := sessiontest.New(t, sessiontest.Options{})
	romeo, juliet := s.Login("romeo", "romeo@localhost/orchard"), s.Login("juliet", "juliet@localhost/balcony")
	romeo.Send("<presence/>")
	juliet.Send("<presence/>")
	s.Settle()
	romeo.Send("<presence to='juliet@localhost/balcony'/>")
	for i := range 999 {
		romeo.Send(fmt.Sprintf("<presence to='user%d@localhost/x'/>", i))
	}
	s.Settle()
	if got := romeo.Received(); strings.Contains(got, "error") {
		t.Fatalf("of 1,000 addresses: %.300s", got)
	}
	romeo.Send("<presence to='onemore@localhost/x'/>")
	romeo.Send("<presence to='juliet@localhost/balcony'><status>again</status></presence>") // no new address
	s.Settle()
	if got := romeo.Received(); strings.Count(got, "<error") != 1 ||
		!strings.Contains(got, "<resource-constraint") || !strings.Contains(got, "from='onemore@localhost/x'") {
		t.Errorf("the 1,001st address: %q", got)
	}
	juliet.Received()
	romeo.Send("<presence type='unavailable'/>")
	romeo.Send("<presence type='unavailable'/>")
	s.Advance(time.Second)
	romeo.Send("</stream:stream>")
	s.Settle()
	if got := juliet.Received(); strings.Count(got, "type='unavailable'") != 1 {
		t.Errorf("juliet gets %q, not one unavailable", got)
	}
}
