package room

import (
	"encoding/json"
	"maps"
	"slices"

	"canto/session"
	"canto/session/jid"
)

// carried is what a room has in memory only, as it is written down for another kernel.
type carried struct {
	Last        uint64
	Occupants   map[string]string // full JIDs by nick
	Affiliation map[string]string `json:",omitempty"` // of a room of which nothing is stored, by bare JID
}

// carry is [session.Behaviour.Carry].
func carry(e *session.Entity, dst []byte) []byte {
	r := session.Live[room](e)
	c := carried{Last: r.last, Occupants: make(map[string]string)}
	for nick, who := range r.nicks {
		c.Occupants[nick] = who.String()
	}
	if p := part.Of(e); p != nil && e.ID() == 0 {
		c.Affiliation = make(map[string]string)
		for _, a := range p.affiliated {
			c.Affiliation[a.jid.String()] = a.is
		}
	}
	b, err := json.Marshal(c)
	if err != nil {
		panic(err) // strings and a number
	}
	return append(dst, b...)
}

// adopt is [session.Behaviour.Adopt].
func adopt(_ *session.Local, e *session.Entity, b []byte) error {
	var c carried
	if err := json.Unmarshal(b, &c); err != nil {
		return err
	}
	r := session.Live[room](e)
	r.last = max(r.last, c.Last)
	for _, nick := range slices.Sorted(maps.Keys(c.Occupants)) {
		who, err := jid.Parse(c.Occupants[nick])
		if err != nil {
			return err
		}
		r.seats.Add(who)
		r.nicks[nick], r.names[who] = who, nick
	}
	if e.ID() != 0 {
		return nil
	}
	r.temporary = true
	temporary.Get(r.host).Add(1)
	for _, bare := range slices.Sorted(maps.Keys(c.Affiliation)) {
		who, err := jid.Parse(bare)
		if err != nil {
			return err
		}
		part.Own(e).set(who, c.Affiliation[bare])
	}
	return nil
}
