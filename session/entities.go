package session

import (
	"hash/maphash"

	"canto/session/jid"
)

// entities is a set of Entities by address: open addressing over pointers, as the key is in what they point to.
// A map with the JID as its key costs four times as much. Under the shard's lock.
type entities struct {
	slots []*Entity // of a power of two; at most three quarters are taken
	tags  []uint16  // of the hashes, so that few others are looked at
	n     int
}

// seed keeps who chooses names from choosing where they go.
var seed = maphash.MakeSeed()

const minEntities = 8

func hashOf(addr jid.JID) uint64 { return maphash.String(seed, addr.String()) }

// find is where addr is, or would go.
func (s *entities) find(addr jid.JID) (i int, tag uint16, ok bool) {
	h := hashOf(addr)
	tag = uint16(h >> 48)
	mask := len(s.slots) - 1
	for i = int(h) & mask; s.slots[i] != nil; i = (i + 1) & mask {
		if s.tags[i] == tag && s.slots[i].addr == addr {
			return i, tag, true
		}
	}
	return i, tag, false
}

// get is the entity at addr; nil if there is none.
func (s *entities) get(addr jid.JID) *Entity {
	if s.n == 0 {
		return nil
	}
	if i, _, ok := s.find(addr); ok {
		return s.slots[i]
	}
	return nil
}

// add takes e in, which is not there.
func (s *entities) add(e *Entity) {
	if 4*(s.n+1) > 3*len(s.slots) {
		s.resize(max(2*len(s.slots), minEntities))
	}
	s.place(e)
	s.n++
}

func (s *entities) place(e *Entity) {
	i, tag, _ := s.find(e.addr)
	s.slots[i], s.tags[i] = e, tag
}

func (s *entities) resize(size int) {
	old := s.slots
	s.slots, s.tags = make([]*Entity, size), make([]uint16, size)
	for _, e := range old {
		if e != nil {
			s.place(e)
		}
	}
}

// remove takes e out, if it is there.
func (s *entities) remove(e *Entity) bool {
	if s.get(e.addr) != e {
		return false
	}
	i, _, _ := s.find(e.addr)
	mask := len(s.slots) - 1
	// Those behind it move up, as far as they may, so that no look-up ends too early.
	for j := (i + 1) & mask; s.slots[j] != nil; j = (j + 1) & mask {
		home := int(hashOf(s.slots[j].addr)) & mask
		if (j-home)&mask >= (j-i)&mask {
			s.slots[i], s.tags[i] = s.slots[j], s.tags[j]
			i = j
		}
	}
	s.slots[i], s.tags[i] = nil, 0
	if s.n--; len(s.slots) > minEntities && 8*s.n < len(s.slots) {
		s.resize(len(s.slots) / 2)
	}
	return true
}
