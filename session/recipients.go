package session

import (
	"slices"

	"canto/session/jid"
)

// Recipients are the addresses that get a broadcast of an entity, grouped by the loop that serves each.
// There are two sorts. A kept set, made by [NewRecipients], belongs to an entity for long: the occupants
// of a room. A temporary set, lent by [LoopRouter.TempRecipients], is filled for one broadcast: the contacts
// of a roster. Some methods are for kept sets only.
//
// A broadcast shares the memory of a kept set with it. Each broadcast advances the epoch; groups and chunks
// of an older epoch are copied before they are changed (copy-on-write). Under the entity's lock.
type Recipients struct {
	owner  *Entity           // nil: a temporary set
	byLoop [][]*chunk        // by index of the loop; shared with broadcasts
	index  map[jid.JID]int32 // of each address, its position in its group
	// tempByLoop has the addresses of a temporary set, by index of the loop.
	tempByLoop  [][]jid.JID
	n           int
	epoch       uint32 // number of broadcasts that share byLoop
	copiedEpoch uint32 // the epoch in which byLoop was copied
	groupEnds   []groupEnd
}

// A groupEnd belongs to one group of a kept set.
type groupEnd struct {
	n           int    // addresses in the group
	copiedEpoch uint32 // the epoch in which the group's list of chunks was copied
}

// A chunk has up to chunkSize addresses of a group: the unit of copy-on-write.
type chunk struct {
	addrs       []jid.JID
	copiedEpoch uint32 // the epoch in which it was copied
}

// A placement says which loop serves a recipient, for all that an entity sends to it. It changes only while
// the entity has no job in flight, so that the recipient gets everything in order.
type placement struct {
	loop       uint16 // index of the loop that serves it now
	wantedLoop uint16 // index of the loop of its connection, as far as that is known
	sets       uint16 // number of kept sets that it is in
	// movePending is set while the address is in liveState.pendingMoves.
	movePending bool
}

// chunkSize is how many addresses a chunk has. A change after a broadcast copies one chunk and
// the list of the group's chunks, not the whole set.
const chunkSize = 64

// NewRecipients makes a kept set of e, which must not be an account. Under e's lock.
func NewRecipients(e *Entity, l *LoopRouter) *Recipients {
	n := len(l.router.loopRouters)
	s := &Recipients{owner: e, index: make(map[jid.JID]int32), byLoop: make([][]*chunk, n),
		groupEnds: make([]groupEnd, n)}
	v := e.liveState()
	v.recipients = append(v.recipients, s)
	return s
}

// TempRecipients lends the loop's empty temporary set, until the hook returns. The next call
// empties it.
func (l *LoopRouter) TempRecipients() *Recipients {
	l.recipients.Reset(len(l.router.loopRouters))
	return &l.recipients
}

// Reset empties a temporary set for n loops, and keeps its memory.
func (s *Recipients) Reset(n int) {
	for len(s.tempByLoop) < n {
		s.tempByLoop = append(s.tempByLoop, nil)
	}
	for i := range s.tempByLoop {
		s.tempByLoop[i] = s.tempByLoop[i][:0]
	}
	s.n = 0
}

// Add puts an address in. It is served by the loop that its hash gives, unless the entity knows a
// better one.
func (s *Recipients) Add(to jid.JID) {
	if s.owner == nil {
		i := partitionLoop(to, len(s.tempByLoop))
		s.tempByLoop[i] = append(s.tempByLoop[i], to)
		s.n++
		return
	}
	s.addAtLoop(to, partitionLoop(to, len(s.byLoop)))
}

// AddSender puts the sender of ev into a kept set. The loop of its connection serves it, if that
// is known: then a delivery takes no other loop.
func (s *Recipients) AddSender(ev *Stanza) {
	loop := partitionLoop(ev.From, len(s.byLoop))
	if ev.originLoopNumber > 0 {
		loop = int(ev.originLoopNumber) - 1
	}
	s.addAtLoop(ev.From, loop)
}

// Has reports whether the address is in a kept set.
func (s *Recipients) Has(to jid.JID) bool {
	_, ok := s.index[to]
	return ok
}

// Remove takes an address out of a kept set. Broadcasts that are in flight still reach it.
func (s *Recipients) Remove(to jid.JID) {
	if _, ok := s.index[to]; !ok {
		return
	}
	v := s.owner.liveState()
	p := v.placements[to]
	s.removeFrom(int(p.loop), to)
	if p.sets--; p.sets == 0 && !s.ownerDispatching() {
		delete(v.placements, to)
		return
	}
	v.scheduleMove(to, &p, p.sets == 0)
	v.placements[to] = p
}

// Len returns the number of addresses.
func (s *Recipients) Len() int { return s.n }

// ownerDispatching reports whether jobs of the owner are in flight, so that placements must not
// change.
func (s *Recipients) ownerDispatching() bool {
	w := s.owner.pending
	return w != nil && w.outgoing.jobsInFlight()
}

// addAtLoop puts an address into a kept set. It is served by the loop with that index at once if
// the owner has no job in flight, else when the jobs are done: until then by the loop that it
// had, because earlier jobs for it may be there.
func (s *Recipients) addAtLoop(to jid.JID, loop int) {
	v := s.owner.liveState()
	if v.placements == nil {
		v.placements = make(map[jid.JID]placement)
	}
	p, known := v.placements[to]
	if !known {
		p = placement{loop: uint16(loop), wantedLoop: uint16(loop)}
		if s.ownerDispatching() { // jobs in flight may have it at this loop
			p.loop = uint16(partitionLoop(to, len(s.byLoop)))
		}
	}
	p.wantedLoop = uint16(loop)
	if _, in := s.index[to]; !in {
		p.sets++
		s.appendTo(int(p.loop), to)
	}
	v.scheduleMove(to, &p, p.loop != p.wantedLoop)
	v.placements[to] = p
	if p.movePending && !s.ownerDispatching() {
		v.applyMoves()
	}
}

// partitionLoop returns the index of the loop that serves an address of which nothing else is
// known.
func partitionLoop(to jid.JID, loops int) int { return int(to.Partition()) % loops }

// scheduleMove notes that the placement p of a recipient has to change when no job is in flight,
// if changes is true.
func (v *liveState) scheduleMove(to jid.JID, p *placement, changes bool) {
	if changes && !p.movePending {
		v.pendingMoves = append(v.pendingMoves, to)
		p.movePending = true
	}
}

// applyMoves applies the scheduled changes: recipients move to the loops that they are wanted on,
// placements without a set are dropped. No job of the entity may be in flight. Under the lock.
func (v *liveState) applyMoves() {
	for _, to := range v.pendingMoves {
		p, ok := v.placements[to]
		switch {
		case !ok:
			continue
		case p.sets == 0:
			delete(v.placements, to)
			continue
		}
		for _, s := range v.recipients {
			if s.Has(to) && p.loop != p.wantedLoop {
				s.removeFrom(int(p.loop), to)
				s.appendTo(int(p.wantedLoop), to)
			}
		}
		p.loop, p.movePending = p.wantedLoop, false
		v.placements[to] = p
	}
	v.pendingMoves = nil
}

// mutableGroup returns the list of chunks of group i, to be changed: it is copied first if a
// broadcast shares it.
func (s *Recipients) mutableGroup(i int) []*chunk {
	if s.copiedEpoch != s.epoch {
		s.byLoop, s.copiedEpoch = slices.Clone(s.byLoop), s.epoch
	}
	if s.groupEnds[i].copiedEpoch != s.epoch {
		s.byLoop[i], s.groupEnds[i].copiedEpoch = slices.Clone(s.byLoop[i]), s.epoch
	}
	return s.byLoop[i]
}

// mutableChunk returns the chunk with index at of group i, to be changed: it is copied first if a
// broadcast shares it.
func (s *Recipients) mutableChunk(i, at int) *chunk {
	g := s.mutableGroup(i)
	if c := g[at]; c.copiedEpoch != s.epoch {
		n := &chunk{addrs: make([]jid.JID, len(c.addrs), chunkSize), copiedEpoch: s.epoch}
		copy(n.addrs, c.addrs)
		g[at] = n
	}
	return g[at]
}

// appendTo puts an address at the end of group i.
func (s *Recipients) appendTo(i int, to jid.JID) {
	at := s.groupEnds[i].n
	g := s.mutableGroup(i)
	if at/chunkSize == len(g) {
		g = append(g, &chunk{addrs: make([]jid.JID, 0, chunkSize), copiedEpoch: s.epoch})
		s.byLoop[i] = g
	}
	c := s.mutableChunk(i, at/chunkSize)
	c.addrs = append(c.addrs, to)
	s.index[to] = int32(at)
	s.groupEnds[i].n++
	s.n++
}

// removeFrom takes an address out of group i: the last one of the group takes its place.
func (s *Recipients) removeFrom(i int, to jid.JID) {
	at := int(s.index[to])
	last := s.groupEnds[i].n - 1
	end := s.mutableChunk(i, last/chunkSize)
	moved := end.addrs[last%chunkSize]
	c := s.mutableChunk(i, at/chunkSize)
	c.addrs[at%chunkSize] = moved
	s.index[moved] = int32(at)
	end.addrs = end.addrs[:last%chunkSize]
	if len(end.addrs) == 0 {
		s.byLoop[i] = s.byLoop[i][:last/chunkSize]
	}
	delete(s.index, to)
	s.groupEnds[i].n--
	s.n--
}

// snapshot returns the recipients by loop, for a broadcast. The result never changes: of a kept
// set it is shared, and later changes copy.
func (s *Recipients) snapshot() [][]*chunk {
	if s.owner != nil {
		s.epoch++
		return s.byLoop
	}
	groups, all := make([][]*chunk, len(s.tempByLoop)), make([]chunk, len(s.tempByLoop))
	list := make([]*chunk, len(s.tempByLoop))
	for i, g := range s.tempByLoop {
		if len(g) > 0 {
			all[i].addrs = slices.Clone(g)
			list[i] = &all[i]
			groups[i] = list[i : i+1 : i+1]
		}
	}
	return groups
}

// each calls f with every recipient.
func (s *Recipients) each(f func(to jid.JID)) {
	for _, g := range s.tempByLoop {
		for _, to := range g {
			f(to)
		}
	}
	for _, g := range s.byLoop {
		for _, c := range g {
			for _, to := range c.addrs {
				f(to)
			}
		}
	}
}
