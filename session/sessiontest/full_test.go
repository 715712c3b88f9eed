package sessiontest

import (
	"strings"
	"testing"
)

// A change for which the store is known to have no space is refused before any other entity or session is
// notified of it: the sender gets resource-constraint of type wait (RFC 6120 section 8.3.3.18), and no other
// client gets anything. When there is space again, all is as before.
func TestFullStoreTellsNoOther(t *testing.T) {
	const refused = "<error type='wait'><resource-constraint " +
		"xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error>"
	roster := func(item string) string {
		return "<iq type='set' id='q'><query xmlns='jabber:iq:roster'>" + item + "</query></iq>"
	}
	room := func(payload string) string {
		return "<iq type='set' id='q' to='orchard@rooms.localhost'>" + payload + "</iq>"
	}
	cases := map[string]string{
		"a message to a room": "<message type='groupchat' id='q' " +
			"to='orchard@rooms.localhost'><body>Hi</body></message>",
		"the end of a room": room("<destroy xmlns='urn:canto:test:room'/>"),
		"an invitation":     room("<invite xmlns='urn:canto:test:room' jid='juliet@localhost'/>"),
		"an affiliation": room("<affiliation xmlns='urn:canto:test:room' jid='juliet@localhost' " +
			"is='member'/>"),
		"a roster item":       roster("<item jid='nurse@localhost'/>"),
		"a contact that goes": roster("<item jid='juliet@localhost' subscription='remove'/>"),
		"a block": "<iq type='set' id='q'><block xmlns='urn:xmpp:blocking'>" +
			"<item jid='juliet@localhost'/></block></iq>",
		"an end of all blocks":   "<iq type='set' id='q'><unblock xmlns='urn:xmpp:blocking'/></iq>",
		"a subscription request": "<presence type='subscribe' id='q' to='nurse@localhost'/>",
	}
	for name, text := range cases {
		t.Run(name, func(t *testing.T) {
			s := New(t, withKinds(Options{}))
			romeo, juliet := s.Login("romeo", "romeo@localhost/orchard"), s.Login("juliet", "juliet@localhost/balcony")
			befriend(s, romeo, juliet)
			other := s.Login("other", "romeo@localhost/other")
			lists := "<iq type='get' id='l'><query xmlns='jabber:iq:roster'/></iq>" +
				"<iq type='get' id='m'><blocklist xmlns='urn:xmpp:blocking'/></iq>"
			other.Send(lists + "<presence/>")
			s.Login("nurse", "nurse@localhost/x").Send("<presence/>")
			romeo.Send(lists + "<presence to='orchard@rooms.localhost/Romeo'/>")
			juliet.Send("<presence to='orchard@rooms.localhost/Juliet'/>")
			romeo.Send("<message type='groupchat' to='orchard@rooms.localhost'><body>stored</body></message>")
			s.Settle()
			s.got()
			s.SetFull(true)
			romeo.Send(text)
			s.Settle()
			for client, got := range s.got() {
				switch all := strings.Join(got, "\n"); {
				case client != "romeo" && all != "":
					t.Errorf("%s gets %s", client, all)
				case client == "romeo" && (len(got) != 1 || !strings.Contains(all, refused) ||
					!strings.Contains(all, "id='q'")):
					t.Errorf("romeo gets %s", all)
				}
			}
			s.SetFull(false)
			ask := func() string {
				romeo.Send(lists + "<iq type='get' id='n' to='orchard@rooms.localhost'>" +
					"<affiliations xmlns='urn:canto:test:room'/></iq>")
				s.Settle()
				return strings.Join(romeo.Stanzas(), "\n")
			}
			had := ask()
			if strings.Contains(had, "nurse") || strings.Contains(had, "is='member'") ||
				strings.Count(had, "type='result'") != 3 {
				t.Errorf("afterwards romeo has %s", had)
			}
			romeo.Send(text)
			s.Settle()
			if got := s.got(); len(got["romeo"]) == 0 && len(got["nurse"]) == 0 {
				t.Error("with room again it does nothing")
			}
		})
	}
}
