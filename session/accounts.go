package session

import (
	"hash/maphash"

	"canto/session/jid"
)

// accounts is a set of Accounts by bare JID: open addressing over pointers, as the key is in what they point to.
// A map with the JID as its key costs four times as much. Under the shard's lock.
type accounts struct {
	slots []*Account // of a power of two; at most three quarters are taken
	tags  []uint16   // of the hashes, so that few others are looked at
	n     int
}

// seed keeps who chooses names from choosing where they go.
var seed = maphash.MakeSeed()

const minAccounts = 8

func hashOf(bare jid.JID) uint64 { return maphash.String(seed, bare.String()) }

// find is where bare is, or would go.
func (s *accounts) find(bare jid.JID) (i int, tag uint16, ok bool) {
	h := hashOf(bare)
	tag = uint16(h >> 48)
	mask := len(s.slots) - 1
	for i = int(h) & mask; s.slots[i] != nil; i = (i + 1) & mask {
		if s.tags[i] == tag && s.slots[i].bare == bare {
			return i, tag, true
		}
	}
	return i, tag, false
}

// get is the account of bare; nil if there is none.
func (s *accounts) get(bare jid.JID) *Account {
	if s.n == 0 {
		return nil
	}
	if i, _, ok := s.find(bare); ok {
		return s.slots[i]
	}
	return nil
}

// add takes a in, which is not there.
func (s *accounts) add(a *Account) {
	if 4*(s.n+1) > 3*len(s.slots) {
		s.resize(max(2*len(s.slots), minAccounts))
	}
	s.place(a)
	s.n++
}

func (s *accounts) place(a *Account) {
	i, tag, _ := s.find(a.bare)
	s.slots[i], s.tags[i] = a, tag
}

func (s *accounts) resize(size int) {
	old := s.slots
	s.slots, s.tags = make([]*Account, size), make([]uint16, size)
	for _, a := range old {
		if a != nil {
			s.place(a)
		}
	}
}

// remove takes a out, if it is there.
func (s *accounts) remove(a *Account) bool {
	if s.get(a.bare) != a {
		return false
	}
	i, _, _ := s.find(a.bare)
	mask := len(s.slots) - 1
	// Those behind it move up, as far as they may, so that no look-up ends too early.
	for j := (i + 1) & mask; s.slots[j] != nil; j = (j + 1) & mask {
		home := int(hashOf(s.slots[j].bare)) & mask
		if (j-home)&mask >= (j-i)&mask {
			s.slots[i], s.tags[i] = s.slots[j], s.tags[j]
			i = j
		}
	}
	s.slots[i], s.tags[i] = nil, 0
	if s.n--; len(s.slots) > minAccounts && 8*s.n < len(s.slots) {
		s.resize(len(s.slots) / 2)
	}
	return true
}
