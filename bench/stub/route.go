package stub

import (
	"time"

	"canto/session/jid"
	"canto/session/stanza"
	"canto/xmlstream"
)

// A pair is a sender and a receiver.
type pair struct{ from, to *client }

// A reordered message waits for the next one of its pair.
type reordered struct {
	b     [][]byte // itself, and its duplicate
	timer *time.Timer
}

// stanza handles an element of a bound client.
func (s *Server) stanza(c *client, e xmlstream.Element) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.full == "" {
		return // another client has the address now
	}
	if s.nonza(c, e) {
		return
	}
	var to jid.JID
	if v, ok := e.Attr(stanza.AttrTo); ok && len(v) > 0 {
		var err error
		if to, err = jid.ParseBytes(v); err != nil {
			s.bounce(c, e, "jid-malformed")
			return
		}
	}
	switch {
	case e.Is(stanza.MessageName):
		s.message(c, to, e)
	case e.Is(stanza.PresenceName):
		s.presence(c, to, e)
	case e.Is(stanza.IQName):
		s.iq(c, to, e)
	}
}

// message routes a message, with the faults that are set.
func (s *Server) message(c *client, to jid.JID, e xmlstream.Element) {
	if attr(e, stanza.AttrType) != "error" && s.faults.messageErrors.hit() {
		s.stats.Bounced++
		s.bounce(c, e, s.faults.condition)
		return
	}
	if s.isRoom(to) {
		s.groupchat(c, to, e)
		return
	}
	b := e.Append(nil, xmlstream.Streamed, xmlstream.Attr{Name: stanza.AttrFrom, Value: c.full})
	b = s.store(c, to, e, b)
	reached := s.receivers(c, to)
	for _, r := range reached {
		s.route(c, r, b)
	}
	if len(reached) > 0 {
		s.copyMessage(c, to, e, b, reached)
	} else if !s.keep(to, e, b) {
		s.stats.Returned++
		s.bounce(c, e, "service-unavailable")
	}
}

// receivers are the clients that get a message or a presence to an address.
func (s *Server) receivers(c *client, to jid.JID) (all []*client) {
	if to.IsZero() {
		to = jidOf(c.bare)
	}
	u := s.users[to.Bare().String()]
	if !to.IsBare() {
		if r := u[to.Resource()]; r != nil {
			all = append(all, r)
		}
		return all
	}
	for _, r := range u {
		if !r.available.IsZero() {
			all = append(all, r)
		}
	}
	return all
}

func jidOf(s string) jid.JID {
	j, _ := jid.Parse(s) // it was one before
	return j
}

// route delivers a message, with the faults that are set.
func (s *Server) route(from, to *client, b []byte) {
	s.stats.Routed++
	late := s.faults.reorder.hit()
	if s.faults.drop.hit() {
		s.stats.Dropped++
		return
	}
	all := [][]byte{b}
	if s.faults.duplicate.hit() {
		s.stats.Duplicated++
		all = append(all, b)
	}
	k := pair{from, to}
	if h := s.reordered[k]; h != nil {
		to.sendAll(all)
		s.stats.Reordered++
		s.releaseReordered(k)
		return
	}
	if !late {
		to.sendAll(all)
		return
	}
	h := &reordered{b: all}
	h.timer = time.AfterFunc(s.cfg.ReorderTimeout, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.reordered[k] == h {
			s.releaseReordered(k)
		}
	})
	s.reordered[k] = h
}

// releaseReordered delivers a message that is held back.
func (s *Server) releaseReordered(k pair) {
	h := s.reordered[k]
	delete(s.reordered, k)
	h.timer.Stop()
	k.to.sendAll(h.b)
}

// bounce answers a stanza with an error, unless it is an error itself.
func (s *Server) bounce(c *client, e xmlstream.Element, condition string) {
	switch t := attr(e, stanza.AttrType); {
	case t == "error" || t == "result":
		return
	case e.Is(stanza.IQName):
		c.sendf("%s", iqError(attr(e, stanza.AttrID), attr(e, stanza.AttrTo), condition))
		return
	}
	c.sendf("<%s type='error' id='%s' from='%s' to='%s'>%s</%[1]s>", e.Local(),
		escaped(attr(e, stanza.AttrID)), escaped(attr(e, stanza.AttrTo)), escaped(c.full), stanzaError(condition))
}

func iqError(id, from, condition string) string {
	if from != "" {
		from = " from='" + escaped(from) + "'"
	}
	return "<iq type='error' id='" + escaped(id) + "'" + from + ">" + stanzaError(condition) + "</iq>"
}

func stanzaError(condition string) string {
	kind := "cancel"
	switch condition {
	case "bad-request", "jid-malformed", "not-acceptable", "policy-violation", "redirect":
		kind = "modify"
	case "forbidden", "not-authorized", "registration-required", "subscription-required":
		kind = "auth"
	case "internal-server-error", "recipient-unavailable", "remote-server-timeout", "resource-constraint",
		"unexpected-request":
		kind = "wait"
	}
	return "<error type='" + kind + "'><" + condition + " xmlns='" + stanza.NSStanzas + "'/></error>"
}
