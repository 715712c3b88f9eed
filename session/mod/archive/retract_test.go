package archive_test

import (
	"strings"
	"testing"

	"canto/session/sessiontest"
)

// retraction returns a message that retracts another one.
func retraction(to, own, id string) string {
	return "<message to='" + to + "' type='chat' id='" + own +
		"'><retract xmlns='urn:xmpp:message-retract:1' id='" + id + "'/></message>"
}

// A message that is retracted at once, before it is durable, is a tombstone in both archives.
func TestRetractedAtOnce(t *testing.T) {
	s := free(t, sessiontest.Options{})
	hasten(s)
	romeo := s.Login("romeo", "romeo@localhost/orchard")
	juliet := s.Login("juliet", "juliet@localhost/balcony")
	romeo.Send(chat("juliet@localhost", "m1", "secret") + retraction("juliet@localhost", "r1", "m1"))
	s.Settle()
	for _, c := range []*sessiontest.Client{romeo, juliet} {
		c.Send("<iq type='set' id='q'><query xmlns='urn:xmpp:mam:2'/></iq>")
		s.Settle()
		if got := c.Received(); strings.Contains(got, "secret") || !strings.Contains(got, "<retracted ") {
			t.Errorf("%s: %s", c.Name, got)
		}
	}
}

// A message and the query that follows it: the page has the message.
func TestQueryBehindMessage(t *testing.T) {
	const last = "<iq type='set' id='q'><query xmlns='urn:xmpp:mam:2'>" +
		"<set xmlns='http://jabber.org/protocol/rsm'><max>1</max><before/></set></query></iq>"
	s := free(t, sessiontest.Options{})
	romeo := s.Login("romeo", "romeo@localhost/orchard")
	for i := range 20 {
		romeo.Send(chat("juliet@localhost", "m1", numbered(i, i)[0]) + last)
		s.Settle()
		var answer []string
		for _, el := range romeo.Stanzas() {
			if !strings.Contains(el, "service-unavailable") {
				answer = append(answer, el)
			}
		}
		p, _ := readPage(t, "q", answer)
		equal(t, "the last page", p.bodies, numbered(i, i))
		romeo.Send(chat("romeo@localhost", "m1", "note") + last)
		s.Settle()
		p, _ = readPage(t, "q", romeo.Stanzas())
		equal(t, "the last page", p.bodies, []string{"note"})
	}
}
