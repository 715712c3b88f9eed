package room

import (
	"canto/session"
	"canto/session/jid"
	"canto/session/stanza"
	"canto/xmlstream"
)

// listName is in a presence that joins and wants to know who is there.
var listName = xmlstream.N(ns, "occupants")

// share is how many occupants are said at a time to one that joins: more follow when its client has room.
const share = 50

// more says the occupants behind the nick after to one that has joined.
func (m *module) more(l *session.Local, e *session.Entity, to jid.JID, after []byte) {
	r := session.Live[room](e)
	if _, in := r.names[to]; !in {
		return // it has left
	}
	nicks := r.following(string(after), share)
	for _, nick := range nicks {
		from, err := e.JID().WithResource(nick)
		if err != nil || r.nicks[nick] == to {
			continue
		}
		a := l.Appender()
		a.Open(stanza.PresenceName).Attr(stanza.AttrFrom, from.String()).Attr(stanza.AttrTo, to.String())
		a.Open(listName).Close().Close()
		l.Post(from, to, a.B)
	}
	if len(nicks) == share {
		l.Offer(e, to, []byte(nicks[share-1]))
	}
}
