package stub

import (
	"canto/session/jid"
	"canto/session/stanza"
	"canto/xmlstream"
)

// Subscription bits of one side of a pair.
const (
	toward = 1 << iota // it gets the other's presence
	back               // the other gets its presence
	both   = toward | back
)

// A contact is an item of a roster.
type contact struct {
	sub    int
	name   string
	ask    bool
	listed bool // it was set, or subscribed to, by the client: it is in the roster
	// asked: the other has asked for this account's presence
	asked bool
}

// contact is account's roster entry for other, which is made if there is none.
func (s *Server) contact(account, other string) *contact {
	r := s.roster[account]
	if r == nil {
		r = map[string]*contact{}
		s.roster[account] = r
	}
	k := r[other]
	if k == nil {
		k = new(contact)
		r[other] = k
	}
	return k
}

// presence handles a presence stanza: directed, to a room, a broadcast, or a subscription.
func (s *Server) presence(c *client, to jid.JID, e xmlstream.Element) {
	kind := attr(e, stanza.AttrType)
	switch {
	case s.isRoom(to):
		s.roomPresence(c, to, kind, e)
	case kind == "subscribed" && s.faults.approvals.hit():
		s.bounce(c, e, "resource-constraint")
	case kind == "subscribe" || kind == "subscribed" || kind == "unsubscribe" || kind == "unsubscribed":
		s.subscription(c, to, kind, e)
	case kind == "error" || kind == "probe":
	case !to.IsZero():
		if kind == "unavailable" {
			delete(c.directed, to.String())
		} else {
			c.directed[to.String()] = true
		}
		s.sendTo(s.receivers(c, to), e.Append(nil, xmlstream.Streamed,
			xmlstream.Attr{Name: stanza.AttrFrom, Value: c.full}))
	case kind == "unavailable":
		s.markUnavailable(c)
	default:
		s.broadcast(c, e)
	}
}

// broadcast makes a client available: its audience gets its presence, and the first time it gets theirs.
func (s *Server) broadcast(c *client, e xmlstream.Element) {
	first := c.available.IsZero()
	c.available = e.Clone()
	s.sendTo(s.audience(c, back), e.Append(nil, xmlstream.Streamed,
		xmlstream.Attr{Name: stanza.AttrFrom, Value: c.full}))
	if !first {
		return
	}
	s.deliverKept(c)
	for _, o := range s.audience(c, toward) {
		if o != c {
			s.sendTo([]*client{c}, o.available.Append(nil, xmlstream.Streamed,
				xmlstream.Attr{Name: stanza.AttrFrom, Value: o.full}))
		}
	}
}

// markUnavailable sends unavailable presence wherever the client has sent presence.
func (s *Server) markUnavailable(c *client) {
	gone := []byte("<presence type='unavailable' from='" + escaped(c.full) + "'/>")
	if !c.available.IsZero() {
		audience := s.audience(c, back)
		c.available = xmlstream.Element{}
		s.sendTo(audience, gone)
	}
	for to := range c.directed {
		s.sendTo(s.receivers(c, jidOf(to)), gone)
	}
	clear(c.directed)
	for r := range c.joined {
		s.leaveRoom(c, r)
	}
}

// audience is all available clients that get a client's presence (back), or whose presence it gets (toward),
// those of its own account included.
func (s *Server) audience(c *client, which int) (all []*client) {
	add := func(bare string) {
		for _, o := range s.users[bare] {
			if !o.available.IsZero() {
				all = append(all, o)
			}
		}
	}
	if s.cfg.BroadcastToAll {
		for bare := range s.users {
			add(bare)
		}
		return all
	}
	add(c.bare)
	for other, k := range s.roster[c.bare] {
		if k.sub&which != 0 && other != c.bare {
			add(other)
		}
	}
	return all
}

func (s *Server) sendTo(to []*client, presence []byte) {
	for _, r := range to {
		s.stats.Presences++
		s.sendPresence(r, presence)
	}
}

// subscription handles a subscription stanza between two accounts of this server (RFC 6121 section 3): it
// changes the state on both sides, forwards the stanza to the other account, pushes the roster items that
// have changed, and after an approval sends the presence of all resources. Under the server's lock.
func (s *Server) subscription(c *client, to jid.JID, kind string, e xmlstream.Element) {
	other := to.Bare().String()
	if to.IsZero() || other == c.bare {
		return
	}
	mine, theirs := s.contact(c.bare, other), s.contact(other, c.bare)
	before, beforeTheirs := *mine, *theirs
	mine.listed = mine.listed || kind == "subscribe" || kind == "subscribed"
	switch kind {
	case "subscribe":
		mine.ask = mine.sub&toward == 0
		theirs.asked = mine.ask
	case "unsubscribe":
		mine.ask, theirs.asked = false, false
		mine.sub, theirs.sub = mine.sub&^toward, theirs.sub&^back
	case "subscribed":
		if !mine.asked {
			return
		}
		mine.asked, theirs.ask = false, false
		mine.sub, theirs.sub = mine.sub|back, theirs.sub|toward
	case "unsubscribed":
		mine.asked, theirs.ask = false, false
		mine.sub, theirs.sub = mine.sub&^back, theirs.sub&^toward
	}
	s.sendTo(s.receivers(c, to.Bare()), e.Append(nil, xmlstream.Streamed,
		xmlstream.Attr{Name: stanza.AttrFrom, Value: c.bare}, xmlstream.Attr{Name: stanza.AttrTo, Value: other}))
	if *mine != before {
		s.pushItem(c.bare, other)
	}
	if *theirs != beforeTheirs && theirs.listed {
		s.pushItem(other, c.bare)
	}
	if kind == "subscribed" {
		for _, o := range s.users[c.bare] {
			if !o.available.IsZero() {
				s.sendTo(s.receivers(c, to.Bare()), o.available.Append(nil, xmlstream.Streamed,
					xmlstream.Attr{Name: stanza.AttrFrom, Value: o.full}))
			}
		}
	}
}
