package limits_test

import (
	"regexp"
	"strconv"
	"strings"
	"testing"

	"canto/session/sessiontest"
)

func TestConversations(t *testing.T) { sessiontest.Run(t, "testdata", sessiontest.Options{}) }

// The advertised limit is the true one: a stanza of that many bytes passes, a longer one ends the stream
// (XEP-0478 section 3, RFC 6120 section 4.9.3.14).
func TestToldIsHeld(t *testing.T) {
	told := func(features string) int {
		m := regexp.MustCompile(`<max-bytes>(\d+)</max-bytes>`).FindStringSubmatch(features)
		if m == nil {
			t.Fatalf("no limit is told: %s", features)
		}
		n, _ := strconv.Atoi(m[1])
		return n
	}
	fill := func(n int, head, tail string) string {
		return head + strings.Repeat("x", n-len(head)-len(tail)) + tail
	}
	for _, more := range []int{0, 1} {
		s := sessiontest.New(t, sessiontest.Options{})
		c := s.Dial("a", 0)
		c.Open("localhost")
		s.Settle()
		n := told(c.Received())
		c.Send(fill(n+more, "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='NONE'>", "</auth>"))
		s.Settle()
		if got := c.Received(); strings.Contains(got, "stanza-too-big") != (more == 1) ||
			strings.Contains(got, "<failure") != (more == 0) {
			t.Errorf("before login, %d bytes of %d: %s", n+more, n, got)
		}
		s.AddAccount("romeo@localhost")
		b := s.Dial("b", 0)
		b.Open("localhost")
		b.Send("<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>AHJvbWVvAHIwbTMw</auth>")
		s.Settle()
		b.Received()
		b.Open("localhost")
		s.Settle()
		n = told(b.Received())
		b.Send("<iq type='set' id='b'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>")
		s.Settle()
		b.Received()
		b.Send(fill(n+more, "<iq type='get' id='big'><ping xmlns='urn:xmpp:ping'>", "</ping></iq>"))
		s.Settle()
		if got := b.Received(); strings.Contains(got, "stanza-too-big") != (more == 1) ||
			strings.Contains(got, "id='big'") != (more == 0) {
			t.Errorf("after login, %d bytes of %d: %s", n+more, n, got)
		}
	}
}
