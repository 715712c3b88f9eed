package session

import "canto/session/jid"

// Offer has [Behaviour.More] called, under the lock of e, when the client of the session to has taken most of what
// e, and others, have said to it: for more than may be on its way at a time, like the occupants of a room that is
// joined. what says where to go on; it is copied. If the session ends, or rests, before, More is not called. What e
// has said before comes first. Under the lock of e.
func (l *Local) Offer(e *Entity, to jid.JID, what []byte) {
	if mayBeSession(l, to) {
		l.say(envelope{from: e.addr, to: to, form: anOffer}, what)
		return
	}
	// What another server has room for is for the queue to that server to say: a share each turn.
	next := envelope{from: to, to: e.addr, form: aPull, bytes: append([]byte(nil), what...)}
	l.Loop.Post(func() { l.Enter(func() { l.mail.add(next, next.bytes) }) })
}

// offered is the [Source] of an Offer: it has nothing itself, but asks the entity to go on.
type offered struct {
	by   jid.JID
	what []byte
}

func (o *offered) Next(l *Local, s *Session) (Parcel, Supply) {
	l.mail.add(envelope{from: s.jid, to: o.by, form: aPull}, o.what)
	return Parcel{}, Exhausted
}

func (*offered) Wanted(*Session) bool            { return true }
func (*offered) Taken(*Local, *Session, int)     {}
func (*offered) End(*Local, *Session, SourceEnd) {}

// pulled goes on with what e has offered to the session that ev is from. Under the lock.
func pulledFrom(e *Entity, l *Local, ev *Stanza) {
	if b := e.behaviour(); e.exists() && b != nil && b.More != nil {
		b.More(l, e, ev.From, ev.raw)
	}
}

// offered has the session that ev is for take what another entity has offered to it, if it is here. Under the lock.
func offerTo(e *Entity, l *Local, ev *Stanza) {
	if a := e.account(); a != nil {
		if s := a.Resource(ev.To); s != nil {
			s.Pull(l, &offered{ev.From, append([]byte(nil), ev.raw...)}, false)
		}
	}
}
