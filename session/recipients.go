package session

import (
	"slices"

	"canto/session/jid"
)

// Recipients are receivers: those that an entity keeps (a room's occupants), made by [NewRecipients], or
// gathers for once (the contacts of a roster), lent by [LoopRouter.TempRecipients]. They are grouped by
// the loop that serves each. A broadcast shares them: what it shares is copied when they change, not when
// they are used. Under the entity's lock.
type Recipients struct {
	owner  *Entity           // nil: gathered for once
	byLoop [][]*chunk        // by loop
	index  map[jid.JID]int32 // the position in the group
	// by loop, of receivers that are gathered for once: nothing else is used of those
	tempByLoop  [][]jid.JID
	n           int
	epoch       uint32 // counts broadcasts
	copiedEpoch uint32 // the epoch in which groups was copied
	groupEnds   []groupEnd
}

// A groupEnd is where one group ends.
type groupEnd struct {
	n           int    // receivers in it
	copiedEpoch uint32 // the epoch in which its list of chunks was copied
}

// A chunk is a few receivers.
type chunk struct {
	addrs       []jid.JID
	copiedEpoch uint32 // the epoch in which it was copied
}

// A placement says which loop serves a receiver of an entity, whatever the entity says to it.
type placement struct {
	loop, wantedLoop uint16
	sets             uint16 // how many Seats it is in
	movePending      bool   // it is in lived.pendingMoves
}

const chunkSize = 64

// NewRecipients makes Seats of e that are kept. Under e's lock.
func NewRecipients(e *Entity, l *LoopRouter) *Recipients {
	n := len(l.router.loopRouters)
	s := &Recipients{owner: e, index: make(map[jid.JID]int32), byLoop: make([][]*chunk, n),
		groupEnds: make([]groupEnd, n)}
	v := e.liveState()
	v.recipients = append(v.recipients, s)
	return s
}

// TempRecipients lends an empty set of receivers, until the hook returns.
func (l *LoopRouter) TempRecipients() *Recipients {
	l.recipients.Reset(len(l.router.loopRouters))
	return &l.recipients
}

// Reset empties s, which was lent, for n loops, and keeps its memory.
func (s *Recipients) Reset(n int) {
	for len(s.tempByLoop) < n {
		s.tempByLoop = append(s.tempByLoop, nil)
	}
	for i := range s.tempByLoop {
		s.tempByLoop[i] = s.tempByLoop[i][:0]
	}
	s.n = 0
}

// Add puts to in; it is served by the loop that its address has.
func (s *Recipients) Add(to jid.JID) {
	if s.owner == nil {
		i := partitionLoop(to, len(s.tempByLoop))
		s.tempByLoop[i] = append(s.tempByLoop[i], to)
		s.n++
		return
	}
	s.addAtLoop(to, partitionLoop(to, len(s.byLoop)))
}

// AddSender puts the sender of ev into Seats that are kept. It is served by the loop of its connection,
// as far as that is known.
func (s *Recipients) AddSender(ev *Stanza) {
	loop := partitionLoop(ev.From, len(s.byLoop))
	if ev.originLoopNumber > 0 {
		loop = int(ev.originLoopNumber) - 1
	}
	s.addAtLoop(ev.From, loop)
}

// Has reports whether to is in, of Seats that are kept.
func (s *Recipients) Has(to jid.JID) bool {
	_, ok := s.index[to]
	return ok
}

// Remove takes to out, of Seats that are kept.
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

// Len is how many there are.
func (s *Recipients) Len() int { return s.n }

func (s *Recipients) ownerDispatching() bool {
	w := s.owner.pending
	return w != nil && w.outgoing.dispatching()
}

func (s *Recipients) addAtLoop(to jid.JID, loop int) {
	v := s.owner.liveState()
	if v.placements == nil {
		v.placements = make(map[jid.JID]placement)
	}
	p, known := v.placements[to]
	if !known {
		p = placement{loop: uint16(loop), wantedLoop: uint16(loop)}
		if s.ownerDispatching() { // what was said to it so far went by its address
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

// partitionLoop is the loop of a receiver of which nothing else is known.
func partitionLoop(to jid.JID, loops int) int { return int(to.Partition()) % loops }

// scheduleMove notes that the place p of a receiver is to change, once nothing is spread.
func (v *liveState) scheduleMove(to jid.JID, p *placement, changes bool) {
	if changes && !p.movePending {
		v.pendingMoves = append(v.pendingMoves, to)
		p.movePending = true
	}
}

// applyMoves moves receivers to the loops that they are wanted on. Nothing of the entity is spread. Under
// the lock.
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

// mutableGroup is the list of chunks of loop i, to be changed.
func (s *Recipients) mutableGroup(i int) []*chunk {
	if s.copiedEpoch != s.epoch {
		s.byLoop, s.copiedEpoch = slices.Clone(s.byLoop), s.epoch
	}
	if s.groupEnds[i].copiedEpoch != s.epoch {
		s.byLoop[i], s.groupEnds[i].copiedEpoch = slices.Clone(s.byLoop[i]), s.epoch
	}
	return s.byLoop[i]
}

// mutableChunk is the chunk at, of group i, to be changed.
func (s *Recipients) mutableChunk(i, at int) *chunk {
	g := s.mutableGroup(i)
	if c := g[at]; c.copiedEpoch != s.epoch {
		n := &chunk{addrs: make([]jid.JID, len(c.addrs), chunkSize), copiedEpoch: s.epoch}
		copy(n.addrs, c.addrs)
		g[at] = n
	}
	return g[at]
}

// appendTo puts to at the end of group i.
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

// removeFrom takes to out of group i: the last takes its place.
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

// snapshot is the receivers as they are now, by loop, for a broadcast: they are not changed after it.
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

// each calls f with every receiver.
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
