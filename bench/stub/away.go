package stub

import (
	"fmt"
	"time"

	"canto/bench/xmpp"
	"canto/session/jid"
	"canto/session/stanza"
	"canto/xmlstream"
)

// A registration is where an account wants its pushes (XEP-0357 section 5).
type registration struct{ jid, node string }

// setPush adds or removes a registration of an account. The condition is that of the error.
func (s *Server) setPush(c *client, e xmlstream.Element) (condition string) {
	to, err := jid.Parse(attr(e, stanza.AttrJID))
	if err != nil {
		return "bad-request"
	}
	r := registration{to.String(), attr(e, xmpp.AttrNode)}
	switch string(e.Local()) {
	case "enable":
		s.registrations[c.bare] = append(s.registrations[c.bare], r)
	case "disable":
		var kept []registration
		for _, old := range s.registrations[c.bare] {
			if old.jid != r.jid || r.node != "" && old.node != r.node {
				kept = append(kept, old)
			}
		}
		s.registrations[c.bare] = kept
	default:
		return "bad-request"
	}
	return ""
}

// keep stores a message to an account that has no session (XEP-0160), and pushes. It reports false if it is
// not stored: then its sender gets an error. b is its text with the sender's address.
func (s *Server) keep(to jid.JID, e xmlstream.Element, b []byte) bool {
	kind := attr(e, stanza.AttrType)
	if !s.cfg.Offline || to.Domain() != s.cfg.Domain || !s.isNumbered(to.Local()) ||
		kind != "" && kind != "normal" && kind != "chat" {
		return false
	}
	bare := to.Bare().String()
	delay := fmt.Sprintf("<delay xmlns='%s' from='%s' stamp='%s'/></message>", xmpp.NSDelay,
		escaped(s.cfg.Domain), time.Now().UTC().Format(time.RFC3339))
	b = append(b[:len(b)-len("</message>"):len(b)-len("</message>")], delay...)
	s.stats.Kept++
	switch {
	case s.faults.dropKept.hit():
		s.stats.DroppedKept++
	case s.faults.duplicateKept.hit():
		s.stats.DuplicatedKept++
		s.kept[bare] = append(s.kept[bare], b, b)
	default:
		s.kept[bare] = append(s.kept[bare], b)
	}
	for _, r := range s.registrations[bare] {
		s.notifyPush(r)
	}
	return true
}

// notifyPush sends a push (XEP-0357 section 6), with the faults that are set.
func (s *Server) notifyPush(r registration) {
	s.stats.Pushes++
	if s.faults.dropPushes.hit() {
		s.stats.DroppedPushes++
		return
	}
	times := 1
	if s.faults.duplicatePushes.hit() {
		s.stats.DuplicatedPushes++
		times = 2
	}
	if s.faults.misdirectPushes.hit() {
		s.stats.MisdirectedPushes++
		r.node += "x"
	}
	to := jidOf(r.jid)
	app := s.users[to.Bare().String()][to.Resource()]
	for ; app != nil && times > 0; times-- {
		s.pushID++
		app.sendf("<iq type='set' id='app%d' from='%s' to='%s'><pubsub xmlns='%s'><publish node='%s'><item>"+
			"<notification xmlns='%s'/></item></publish></pubsub></iq>", s.pushID, escaped(s.cfg.Domain),
			escaped(r.jid), xmpp.NSPubSub, escaped(r.node), xmpp.NSPush)
	}
}

// deliverKept sends a session that has become available what was kept for its account.
func (s *Server) deliverKept(c *client) {
	for _, b := range s.kept[c.bare] {
		c.send(b)
	}
	delete(s.kept, c.bare)
}
