package room

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"canto/session"
	"canto/session/jid"
	"canto/session/storage"
)

// marshalVersion is the first byte of what carry writes; it grows when that changes.
const marshalVersion = 1

// marshaledRoom is what a room has in memory only, as it is written down for another kernel.
type marshaledRoom struct {
	Last        uint64
	Occupants   map[string]string // full JIDs by nick
	Affiliation map[string]string `json:",omitempty"` // of a room of which nothing is stored, by bare JID
	// inviters that are to be told, by the bare JID of the invited
	Expired map[string]string `json:",omitempty"`
}

// marshalLive is [session.EntityHandler.MarshalLive].
func (m *module) marshalLive(e *session.Entity, dst []byte) []byte {
	r := session.Live[room](e)
	c := marshaledRoom{Last: r.last, Occupants: make(map[string]string)}
	for nick, who := range r.occupantOf {
		c.Occupants[nick] = who.String()
	}
	for _, u := range r.untracked {
		if m.router.Committer.Err(u.ticket) != nil {
			continue // they are stored still
		}
		for _, i := range u.due {
			if c.Expired == nil {
				c.Expired = make(map[string]string)
			}
			c.Expired[i.jid.String()] = i.inviter.String()
		}
	}
	if p := part.Get(e); p != nil && e.ID() == 0 {
		c.Affiliation = make(map[string]string)
		for _, a := range p.affiliated {
			c.Affiliation[a.jid.String()] = a.is
		}
	}
	b, err := json.Marshal(c)
	if err != nil {
		panic(err) // strings and a number
	}
	return append(append(dst, marshalVersion), b...)
}

// restoreLive is [session.EntityHandler.RestoreLive]. It takes all of b over or nothing.
func (m *module) restoreLive(l *session.LoopRouter, e *session.Entity, b []byte) error {
	err := m.restore(l, e, b)
	if r := session.Live[room](e); err != nil && e.ID() == 0 && !r.temporary {
		storage.Delete(l, m.db, e) // it was made for what could not be read
	}
	return err
}

func (m *module) restore(l *session.LoopRouter, e *session.Entity, b []byte) error {
	if len(b) == 0 {
		return errors.New("room: nothing was written down")
	}
	if b[0] != marshalVersion {
		return fmt.Errorf("room: what was written down has version %d, and %d is the one known here", b[0],
			marshalVersion)
	}
	var c marshaledRoom
	if err := json.Unmarshal(b[1:], &c); err != nil {
		return err
	}
	var occupants, affiliated []jid.JID
	nicks, bares := slices.Sorted(maps.Keys(c.Occupants)), slices.Sorted(maps.Keys(c.Affiliation))
	for _, nick := range nicks {
		who, err := jid.Parse(c.Occupants[nick])
		if err == nil {
			_, err = e.JID().WithResource(nick)
		}
		if err != nil {
			return err
		}
		if slices.Contains(occupants, who) {
			return fmt.Errorf("room: %s has two nicks", who)
		}
		occupants = append(occupants, who)
	}
	for _, bare := range bares {
		who, err := jid.Parse(bare)
		if err != nil {
			return err
		}
		affiliated = append(affiliated, who)
	}
	var due []invitation
	for _, invited := range slices.Sorted(maps.Keys(c.Expired)) {
		who, err := jid.Parse(invited)
		by, err2 := jid.Parse(c.Expired[invited])
		if err := errors.Join(err, err2); err != nil {
			return err
		}
		due = append(due, invitation{jid: who, inviter: by})
	}
	r := session.Live[room](e)
	r.last = max(r.last, c.Last)
	for i, nick := range nicks {
		_, taken := r.occupantOf[nick]
		if _, in := r.nickOf[occupants[i]]; in || taken {
			continue // it has come back already, or its nick is another's
		}
		r.recipients.Add(occupants[i])
		r.enter(nick, occupants[i])
	}
	if len(due) > 0 {
		r.untracked = append(r.untracked, untrackedBatch{0, due})
		m.arm(l, e, r, part.Mutable(e))
	}
	if e.ID() != 0 || r.temporary {
		return nil
	}
	r.temporary = true
	temporary.Get(r.host).Add(1)
	for i, bare := range bares {
		part.Mutable(e).set(affiliated[i], c.Affiliation[bare])
	}
	return nil
}
