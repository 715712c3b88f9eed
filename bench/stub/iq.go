package stub

import (
	"maps"
	"slices"
	"strings"

	"canto/bench/xmpp"
	"canto/session/jid"
	"canto/session/stanza"
	"canto/xmlstream"
)

var (
	rosterItem = xmlstream.N(xmpp.NSRoster, "item")
	bodyName   = xmlstream.N(stanza.NSClient, "body")
)

// iq answers a request, or passes an IQ on to the session it is for.
func (s *Server) iq(c *client, to jid.JID, e xmlstream.Element) {
	kind := attr(e, stanza.AttrType)
	request := kind == "get" || kind == "set"
	if request {
		s.stats.IQs++
		if s.faults.iqErrors.hit() {
			s.stats.FailedIQs++
			s.bounce(c, e, s.faults.condition)
			return
		}
	}
	if to.Domain() == s.cfg.Domain && !to.IsBare() && to.Local() != "" {
		if r := s.users[to.Bare().String()][to.Resource()]; r != nil {
			r.send(e.Append(nil, xmlstream.Streamed, xmlstream.Attr{Name: stanza.AttrFrom, Value: c.full}))
		} else {
			s.bounce(c, e, "service-unavailable")
		}
		return
	}
	if kind == "result" && strings.HasPrefix(attr(e, stanza.AttrID), "app") {
		s.stats.AnsweredPushes++
	}
	child, ok := e.First()
	if !request || !ok {
		if request {
			s.bounce(c, e, "bad-request")
		}
		return
	}
	body, condition := s.answer(c, to, kind, child)
	if condition != "" {
		s.bounce(c, e, condition)
		return
	}
	from := ""
	if v := attr(e, stanza.AttrTo); v != "" {
		from = " from='" + escaped(v) + "'"
	}
	c.sendf("<iq type='result' id='%s'%s to='%s'>%s</iq>", escaped(attr(e, stanza.AttrID)), from,
		escaped(c.full), body)
}

// answer is the payload of the result, or the condition of the error.
func (s *Server) answer(c *client, to jid.JID, kind string, e xmlstream.Element) (body, condition string) {
	get := kind == "get"
	switch space := string(e.Space()); space {
	case xmpp.NSPing:
		return "", ""
	case xmpp.NSSession, xmpp.NSMUCOwner, xmpp.NSMUCAdmin:
		return "", ""
	case xmpp.NSVersion:
		return "<query xmlns='" + xmpp.NSVersion +
			"'><name>stub</name><version>1</version><os>none</os></query>", ""
	case xmpp.NSDiscoInfo:
		return s.info(to), ""
	case xmpp.NSDiscoItems:
		if to.Local() != "" || s.isRoom(to) {
			return "<query xmlns='" + xmpp.NSDiscoItems + "'/>", ""
		}
		return "<query xmlns='" + xmpp.NSDiscoItems + "'><item jid='" + escaped("conference."+s.cfg.Domain) +
			"'/></query>", ""
	case xmpp.NSRoster:
		if get {
			return s.rosterOf(c), ""
		}
		return "", s.setRoster(c, e)
	case xmpp.NSRegister:
		if _, ok := e.Child(removeName); ok && !get {
			delete(s.accounts, c.user)
			return "", ""
		}
	case xmpp.NSPush:
		if !get {
			return "", s.setPush(c, e)
		}
	case xmpp.NSCarbons:
		if !get {
			return "", s.setCarbons(c, e)
		}
	case xmpp.NSMAM:
		if !get {
			return s.archive(c, e)
		}
	}
	return "", "service-unavailable"
}

// info is the answer to disco#info of the server, the rooms or an account.
func (s *Server) info(to jid.JID) string {
	category, kind, features := "server", "im", []string{xmpp.NSDiscoInfo, xmpp.NSDiscoItems, xmpp.NSPing,
		xmpp.NSVersion, xmpp.NSRegister, xmpp.NSCarbons}
	switch {
	case s.isRoom(to):
		category, kind, features = "conference", "text",
			[]string{xmpp.NSMUC, xmpp.NSDiscoInfo, "muc_open", "muc_temporary"}
	case to.Local() != "":
		category, kind, features = "account", "registered", []string{xmpp.NSDiscoInfo, xmpp.NSMAM}
		if s.cfg.Offline {
			features = append(features, xmpp.NSPush)
		}
	}
	var b strings.Builder
	b.WriteString("<query xmlns='" + xmpp.NSDiscoInfo + "'><identity category='" + category + "' type='" +
		kind + "' name='stub'/>")
	for _, f := range features {
		b.WriteString("<feature var='" + f + "'/>")
	}
	b.WriteString("</query>")
	return b.String()
}

func item(j string, k *contact) string {
	sub := [...]string{"none", "to", "from", "both"}[k.sub]
	ask := ""
	if k.ask {
		ask = " ask='subscribe'"
	}
	if k.name != "" {
		ask += " name='" + escaped(k.name) + "'"
	}
	return "<item jid='" + escaped(j) + "' subscription='" + sub + "'" + ask + "/>"
}

func (s *Server) rosterOf(c *client) string {
	var b strings.Builder
	b.WriteString("<query xmlns='" + xmpp.NSRoster + "'>")
	r := s.roster[c.bare]
	for _, j := range slices.Sorted(maps.Keys(r)) {
		if r[j].listed {
			b.WriteString(item(j, r[j]))
		}
	}
	b.WriteString("</query>")
	return b.String()
}

// setRoster handles a roster set: it stores or removes the item, and pushes it.
func (s *Server) setRoster(c *client, e xmlstream.Element) (condition string) {
	i, ok := e.Child(rosterItem)
	if !ok {
		return "bad-request"
	}
	j, err := jid.Parse(attr(i, stanza.AttrJID))
	if err != nil {
		return "jid-malformed"
	}
	other := j.Bare().String()
	if attr(i, stanza.AttrSubscription) == "remove" {
		if k := s.roster[c.bare][other]; k == nil || !k.listed {
			return "item-not-found"
		}
		delete(s.roster[c.bare], other)
		if theirs := s.roster[other][c.bare]; theirs != nil {
			theirs.sub, theirs.ask = 0, false
		}
		s.push(c.bare, "<item jid='"+escaped(other)+"' subscription='remove'/>")
		return ""
	}
	k := s.contact(c.bare, other)
	k.listed, k.name = true, attr(i, stanza.AttrName)
	s.pushItem(c.bare, other)
	return ""
}

func (s *Server) pushItem(account, other string) {
	s.push(account, item(other, s.contact(account, other)))
}

// push sends a roster push to all sessions of an account, also to those that have not requested the roster.
func (s *Server) push(account, item string) {
	for _, c := range s.users[account] {
		c.sendf("<iq type='set' id='push' to='%s'><query xmlns='%s'>%s</query></iq>", escaped(c.full),
			xmpp.NSRoster, item)
	}
}
