package room

import (
	"canto/session"
	"canto/session/jid"
	"canto/session/stanza"
	"canto/xmlstream"
)

// listName is in a presence that joins and wants to know who is there.
var listName = xmlstream.N(ns, "occupants")

// occupantBatch is how many occupants are said at a time to one that joins: more follow when its client
// has room.
const occupantBatch = 50

// sendOccupants says the occupants behind the nick after to one that has joined.
func (m *module) sendOccupants(l *session.LoopRouter, e *session.Entity, to jid.JID, after []byte) {
	r := session.Live[room](e)
	if _, in := r.nickOf[to]; !in {
		return // it has left
	}
	nicks := r.nicksAfter(string(after), occupantBatch)
	for _, nick := range nicks {
		from, err := e.JID().WithResource(nick)
		if err != nil || r.occupantOf[nick] == to {
			continue
		}
		a := l.Appender()
		a.Open(stanza.PresenceName).Attr(stanza.AttrFrom, from.String()).Attr(stanza.AttrTo, to.String())
		a.Open(listName).Close().Close()
		l.Send(from, to, a.B)
	}
	if len(nicks) == occupantBatch {
		l.MoreWhenDrained(e, to, []byte(nicks[occupantBatch-1]))
	}
}
