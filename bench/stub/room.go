package stub

import (
	"slices"

	"canto/bench/xmpp"
	"canto/session/jid"
	"canto/session/stanza"
	"canto/xmlstream"
)

// A room exists while it has occupants.
type room struct {
	name      string // its address
	occupants []occupant
}

// An occupant is a client in a room.
type occupant struct {
	nick string
	c    *client
}

func (s *Server) isRoom(to jid.JID) bool { return to.Domain() == "conference."+s.cfg.Domain }

func (r *room) find(nick string) *client {
	for _, o := range r.occupants {
		if o.nick == nick {
			return o.c
		}
	}
	return nil
}

// roomPresence joins a room or leaves it.
func (s *Server) roomPresence(c *client, to jid.JID, kind string, e xmlstream.Element) {
	name, nick := to.Bare().String(), to.Resource()
	r := s.rooms[name]
	if kind == "unavailable" {
		if _, in := c.joined[r]; r != nil && in {
			s.leaveRoom(c, r)
		}
		return
	}
	if kind != "" {
		return
	}
	if nick == "" || to.Local() == "" {
		s.bounce(c, e, "jid-malformed")
		return
	}
	if r == nil {
		r = &room{name: name}
		s.rooms[name] = r
	}
	if old, in := c.joined[r]; in { // again, or a new status: all occupants get it; the nickname stays
		for _, o := range r.occupants {
			s.sendTo([]*client{o.c}, occupantPresence(r, old, o.c, c, ""))
		}
		return
	}
	if r.find(nick) != nil {
		s.bounce(c, e, "conflict")
		return
	}
	for _, o := range r.occupants {
		s.sendTo([]*client{c}, occupantPresence(r, o.nick, c, o.c, ""))
		s.sendTo([]*client{o.c}, occupantPresence(r, nick, o.c, c, ""))
	}
	r.occupants = append(r.occupants, occupant{nick, c})
	c.joined[r] = nick
	s.sendTo([]*client{c}, occupantPresence(r, nick, c, c, ""))
	c.sendf("<message type='groupchat' from='%s' to='%s'><subject/></message>", escaped(name), escaped(c.full))
}

// occupantPresence is the presence of an occupant with a nickname that the client to gets. kind is
// its type; "": available.
func occupantPresence(r *room, nick string, to, occupant *client, kind string) []byte {
	role, self := "participant", ""
	if kind != "" {
		role, kind = "none", " type='"+kind+"'"
	}
	if to == occupant {
		self = "<status code='110'/>"
	}
	return []byte("<presence from='" + escaped(r.name+"/"+nick) + "' to='" + escaped(to.full) + "'" +
		kind + "><x xmlns='" + xmpp.NSMUCUser +
		"'><item affiliation='none' role='" + role + "'/>" + self + "</x></presence>")
}

func (s *Server) leaveRoom(c *client, r *room) {
	nick := c.joined[r]
	for _, o := range r.occupants {
		s.sendTo([]*client{o.c}, occupantPresence(r, nick, o.c, c, "unavailable"))
	}
	delete(c.joined, r)
	r.occupants = slices.DeleteFunc(r.occupants, func(o occupant) bool { return o.c == c })
	if len(r.occupants) == 0 {
		delete(s.rooms, r.name)
	}
}

// groupchat sends a message of an occupant to all, itself included, or to the occupant with the
// nickname in its address.
func (s *Server) groupchat(c *client, to jid.JID, e xmlstream.Element) {
	r := s.rooms[to.Bare().String()]
	nick, in := c.joined[r]
	if r == nil || !in {
		s.stats.Returned++
		s.bounce(c, e, "not-acceptable")
		return
	}
	from := xmlstream.Attr{Name: stanza.AttrFrom, Value: r.name + "/" + nick}
	if !to.IsBare() {
		o := r.find(to.Resource())
		if o == nil {
			s.stats.Returned++
			s.bounce(c, e, "item-not-found")
			return
		}
		s.route(c, o, e.Append(nil, xmlstream.Streamed, from, xmlstream.Attr{Name: stanza.AttrTo, Value: o.full}))
		return
	}
	for _, o := range r.occupants {
		s.route(c, o.c, e.Append(nil, xmlstream.Streamed, from,
			xmlstream.Attr{Name: stanza.AttrTo, Value: o.c.full}))
	}
}
