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

// marshalVersion is the first byte of the form that marshalLive writes. Raise it when the form changes.
const marshalVersion = 1

// A marshaledRoom is what a room has in memory only, in JSON.
type marshaledRoom struct {
	Last        uint64            // the number of the last message
	Occupants   map[string]string // full JIDs by nick
	Affiliation map[string]string `json:",omitempty"` // of a room of which nothing is stored, by bare JID
	// Expired are the inviters that must be notified that their invitation has expired, by the bare JID of the
	// invited user.
	Expired map[string]string `json:",omitempty"`
}

// marshalLive implements [session.EntityHandler] MarshalLive.
func (m *module) marshalLive(e *session.Entity, dst []byte) []byte {
	r := session.Live[room](e)
	c := marshaledRoom{Last: r.last, Occupants: make(map[string]string)}
	for nick, occupant := range r.occupantOf {
		c.Occupants[nick] = occupant.String()
	}
	for _, u := range r.untracked {
		if m.router.Committer.Err(u.ticket) != nil {
			continue // the batch has failed, so the invitations are still stored
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
		panic(err) // can't fail: strings and a number
	}
	return append(append(dst, marshalVersion), b...)
}

// restoreLive implements [session.EntityHandler] RestoreLive. It restores all of b or nothing.
func (m *module) restoreLive(l *session.LoopRouter, e *session.Entity, b []byte) error {
	err := m.restore(l, e, b)
	if r := session.Live[room](e); err != nil && e.ID() == 0 && !r.temporary {
		storage.Delete(l, m.db, e) // the room was created for b, which can't be read
	}
	return err
}

// restore is restoreLive without the removal of the room after an error. Its steps: unmarshal b; check
// every address in it; only then change the room: its last number, its occupants, the expired invitations,
// and, if nothing of it is stored, its affiliations. An occupant that has joined again meanwhile stays as
// it is.
func (m *module) restore(l *session.LoopRouter, e *session.Entity, b []byte) error {
	if len(b) == 0 {
		return errors.New("room: there is no marshaled state")
	}
	if b[0] != marshalVersion {
		return fmt.Errorf("room: the marshaled state has version %d, and %d is the one known here", b[0],
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
			continue // it has joined again, or another occupant has its nick
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
