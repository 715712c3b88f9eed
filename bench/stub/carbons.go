package stub

import (
	"canto/bench/xmpp"
	"canto/session/jid"
	"canto/session/stanza"
	"canto/xmlstream"
)

// setCarbons turns carbons of a session on or off (XEP-0280 section 4). The condition is that of the error.
func (s *Server) setCarbons(c *client, e xmlstream.Element) (condition string) {
	switch string(e.Local()) {
	case "enable":
		if s.faults.refuseCarbons.hit() {
			return "resource-constraint"
		}
		c.carbons = true
	case "disable":
		c.carbons = false
	default:
		return "bad-request"
	}
	return ""
}

// copyMessage sends carbons of a message that was routed: b is its text with the sender's address, and
// reached are the sessions that have got it. Only messages of type chat are copied, or those with a body
// (XEP-0280 section 6.1). The faults of carbons are here.
func (s *Server) copyMessage(c *client, to jid.JID, e xmlstream.Element, b []byte, reached []*client) {
	kind := attr(e, stanza.AttrType)
	if _, body := e.Child(bodyName); kind != "chat" && !(body && (kind == "" || kind == "normal")) {
		return
	}
	if s.faults.echoCarbons.hit() {
		s.stats.EchoedCarbons++
		s.sendCarbon(c, "sent", c.bare, b)
	}
	for _, r := range s.users[c.bare] {
		if r != c && r.carbons {
			s.carbon(r, "sent", b)
		}
	}
	if to.Bare().String() == c.bare {
		return // the sessions of the account have it as sent
	}
	for _, r := range s.users[to.Bare().String()] {
		if r.carbons && !contains(reached, r) {
			s.carbon(r, "received", b)
		}
	}
}

func contains(list []*client, c *client) bool {
	for _, x := range list {
		if x == c {
			return true
		}
	}
	return false
}

// carbon sends a carbon, with the faults that are set.
func (s *Server) carbon(r *client, way string, b []byte) {
	s.stats.Carbons++
	if s.faults.dropCarbons.hit() {
		s.stats.DroppedCarbons++
		return
	}
	from := r.bare
	if s.faults.forgeCarbons.hit() {
		s.stats.ForgedCarbons++
		from = "mallory@" + s.cfg.Domain
	}
	s.sendCarbon(r, way, from, b)
	if s.faults.duplicateCarbons.hit() {
		s.stats.DuplicatedCarbons++
		s.sendCarbon(r, way, from, b)
	}
}

func (s *Server) sendCarbon(r *client, way, from string, b []byte) {
	r.sendf("<message from='%s' to='%s' type='chat'><%s xmlns='%s'>%s</%[3]s></message>", escaped(from),
		escaped(r.full), way, xmpp.NSCarbons, forwarded(b, ""))
}

// forwarded is a message as XEP-0297 forwards it, behind the element before; b is its text in a stream.
func forwarded(b []byte, before string) string {
	return "<forwarded xmlns='" + xmpp.NSForward + "'>" + before + "<message xmlns='" + stanza.NSClient + "'" +
		string(b[len("<message"):]) + "</forwarded>"
}
