package room

import (
	"canto/session"
	"canto/session/jid"
	"canto/session/stanza"
	"canto/xmlstream"
)

// listName is the child of a joining presence that asks for the occupants.
var listName = xmlstream.N(ns, "occupants")

// occupantBatch is how many occupants are sent at a time to a client that joins. More follow when the
// client has read most of these.
const occupantBatch = 50

// sendOccupants sends the occupants after the nick after to the occupant to. It is also
// EntityHandler.More. If there are more it asks the kernel to call it again. Under the room's lock.
func (m *module) sendOccupants(l *session.LoopRouter, e *session.Entity, to jid.JID, after []byte) {
	r := session.Live[room](e)
	if _, in := r.nickOf[to]; !in {
		return // the client has left the room
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
