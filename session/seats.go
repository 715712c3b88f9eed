package session

import (
	"slices"

	"canto/session/jid"
)

// Seats are receivers: those that an entity keeps (a room's occupants), made by [NewSeats], or gathers for once (the
// contacts of a roster), lent by [Local.Seats]. They are grouped by the loop that serves each. A broadcast shares
// them: what it shares is copied when they change, not when they are used. Under the entity's lock.
type Seats struct {
	of     *Entity           // nil: gathered for once
	groups [][]*chunk        // by loop
	index  map[jid.JID]int32 // the position in the group
	once   [][]jid.JID       // by loop, of receivers that are gathered for once: nothing else is used of those
	n      int
	epoch  uint32 // counts broadcasts
	own    uint32 // the epoch in which groups was copied
	ends   []end
}

// An end is where one group ends.
type end struct {
	n   int    // receivers in it
	own uint32 // the epoch in which its list of chunks was copied
}

// A chunk is a few receivers.
type chunk struct {
	to  []jid.JID
	own uint32 // the epoch in which it was copied
}

const chunkSize = 64

// lived is the live state of an entity that is no account.
type lived struct {
	v      any
	born   Ticket // of the batch that made the entity, if that was in this life
	places map[jid.JID]place
	seats  []*Seats
	moves  []jid.JID // whose place is to change once nothing of the entity is spread
}

// A place says which loop serves a receiver of an entity, whatever the entity says to it.
type place struct {
	loop, want uint16
	seats      uint16 // how many Seats it is in
	moves      bool   // it is in lived.moves
}

// NewSeats makes Seats of e that are kept. Under e's lock.
func NewSeats(e *Entity, l *Local) *Seats {
	n := len(l.router.locals)
	s := &Seats{of: e, index: make(map[jid.JID]int32), groups: make([][]*chunk, n), ends: make([]end, n)}
	v := e.lived()
	v.seats = append(v.seats, s)
	return s
}

// lived is where e's live state is, made if there is none.
func (e *Entity) lived() *lived {
	v, ok := e.live.(*lived)
	if !ok {
		v = new(lived)
		e.live = v
	}
	return v
}

// Reset empties s, which was lent, for n loops, and keeps its memory.
func (s *Seats) Reset(n int) {
	for len(s.once) < n {
		s.once = append(s.once, nil)
	}
	for i := range s.once {
		s.once[i] = s.once[i][:0]
	}
	s.n = 0
}

// Add puts to in; it is served by the loop that its address has.
func (s *Seats) Add(to jid.JID) {
	if s.of == nil {
		i := slotLoop(to, len(s.once))
		s.once[i] = append(s.once[i], to)
		s.n++
		return
	}
	s.seat(to, slotLoop(to, len(s.groups)))
}

// AddSender puts the sender of ev into Seats that are kept. It is served by the loop of its connection, as far as
// that is known.
func (s *Seats) AddSender(ev *Stanza) {
	loop := slotLoop(ev.From, len(s.groups))
	if ev.loop > 0 {
		loop = int(ev.loop) - 1
	}
	s.seat(ev.From, loop)
}

// Has reports whether to is in, of Seats that are kept.
func (s *Seats) Has(to jid.JID) bool {
	_, ok := s.index[to]
	return ok
}

// Remove takes to out, of Seats that are kept.
func (s *Seats) Remove(to jid.JID) {
	if _, ok := s.index[to]; !ok {
		return
	}
	v := s.of.lived()
	p := v.places[to]
	s.cut(int(p.loop), to)
	if p.seats--; p.seats == 0 && !s.spread() {
		delete(v.places, to)
		return
	}
	v.move(to, &p, p.seats == 0)
	v.places[to] = p
}

// Len is how many there are.
func (s *Seats) Len() int { return s.n }

func (s *Seats) spread() bool { w := s.of.waits; return w != nil && w.out.spread() }

func (s *Seats) seat(to jid.JID, loop int) {
	v := s.of.lived()
	if v.places == nil {
		v.places = make(map[jid.JID]place)
	}
	p, known := v.places[to]
	if !known {
		p = place{loop: uint16(loop), want: uint16(loop)}
		if s.spread() { // what was said to it so far went by its address
			p.loop = uint16(slotLoop(to, len(s.groups)))
		}
	}
	p.want = uint16(loop)
	if _, in := s.index[to]; !in {
		p.seats++
		s.put(int(p.loop), to)
	}
	v.move(to, &p, p.loop != p.want)
	v.places[to] = p
	if p.moves && !s.spread() {
		v.resettle()
	}
}

// move notes that the place p of a receiver is to change, once nothing is spread.
func (v *lived) move(to jid.JID, p *place, changes bool) {
	if changes && !p.moves {
		v.moves = append(v.moves, to)
		p.moves = true
	}
}

// resettle moves receivers to the loops that they are wanted on. Nothing of the entity is spread. Under the lock.
func (v *lived) resettle() {
	for _, to := range v.moves {
		p, ok := v.places[to]
		switch {
		case !ok:
			continue
		case p.seats == 0:
			delete(v.places, to)
			continue
		}
		for _, s := range v.seats {
			if s.Has(to) && p.loop != p.want {
				s.cut(int(p.loop), to)
				s.put(int(p.want), to)
			}
		}
		p.loop, p.moves = p.want, false
		v.places[to] = p
	}
	v.moves = nil
}

// group is the list of chunks of loop i, to be changed.
func (s *Seats) group(i int) []*chunk {
	if s.own != s.epoch {
		s.groups, s.own = slices.Clone(s.groups), s.epoch
	}
	if s.ends[i].own != s.epoch {
		s.groups[i], s.ends[i].own = slices.Clone(s.groups[i]), s.epoch
	}
	return s.groups[i]
}

// change is the chunk at, of group i, to be changed.
func (s *Seats) change(i, at int) *chunk {
	g := s.group(i)
	if c := g[at]; c.own != s.epoch {
		n := &chunk{to: make([]jid.JID, len(c.to), chunkSize), own: s.epoch}
		copy(n.to, c.to)
		g[at] = n
	}
	return g[at]
}

// put puts to at the end of group i.
func (s *Seats) put(i int, to jid.JID) {
	at := s.ends[i].n
	g := s.group(i)
	if at/chunkSize == len(g) {
		g = append(g, &chunk{to: make([]jid.JID, 0, chunkSize), own: s.epoch})
		s.groups[i] = g
	}
	c := s.change(i, at/chunkSize)
	c.to = append(c.to, to)
	s.index[to] = int32(at)
	s.ends[i].n++
	s.n++
}

// cut takes to out of group i: the last takes its place.
func (s *Seats) cut(i int, to jid.JID) {
	at := int(s.index[to])
	last := s.ends[i].n - 1
	end := s.change(i, last/chunkSize)
	moved := end.to[last%chunkSize]
	c := s.change(i, at/chunkSize)
	c.to[at%chunkSize] = moved
	s.index[moved] = int32(at)
	end.to = end.to[:last%chunkSize]
	if len(end.to) == 0 {
		s.groups[i] = s.groups[i][:last/chunkSize]
	}
	delete(s.index, to)
	s.ends[i].n--
	s.n--
}

// share is the receivers as they are now, by loop, for a broadcast: they are not changed after it.
func (s *Seats) share() [][]*chunk {
	if s.of != nil {
		s.epoch++
		return s.groups
	}
	groups, all := make([][]*chunk, len(s.once)), make([]chunk, len(s.once))
	list := make([]*chunk, len(s.once))
	for i, g := range s.once {
		if len(g) > 0 {
			all[i].to = slices.Clone(g)
			list[i] = &all[i]
			groups[i] = list[i : i+1 : i+1]
		}
	}
	return groups
}

// each calls f with every receiver.
func (s *Seats) each(f func(to jid.JID)) {
	for _, g := range s.once {
		for _, to := range g {
			f(to)
		}
	}
	for _, g := range s.groups {
		for _, c := range g {
			for _, to := range c.to {
				f(to)
			}
		}
	}
}

// Fanout sends el, one element of from without a 'to', to each of seats, as mail of e, whose lock is held. Up to 64
// receivers are served as soon as the lock is released; more are one job for each loop, 64 receivers of all its
// jobs a turn, entities taken in turn. What e says next to any of them comes after it. el is copied.
func (l *Local) Fanout(m Member, from jid.JID, el []byte, seats *Seats) {
	if seats.n == 0 {
		return
	}
	e := m.entity()
	l.copied += len(el) * seats.n
	if e.crowds && seats.n > sayInline {
		l.crowded += len(el) // as if their clients were looked at now
	}
	if seats.n <= sayInline && !e.speaker().elsewhere(l) {
		e.speaker().speaks(l)
		b := l.mail.bytes(el)
		env := envelope{from: from, hops: 1, bytes: b, origin: l.origin, loop: l.originLoop}
		l.stats.Mailed += uint64(seats.n)
		seats.each(func(to jid.JID) {
			env.to = to
			l.mail.list = append(l.mail.list, env)
		})
		return
	}
	j := job{letter: envelope{from: from, hops: 1, bytes: append([]byte(nil), el...), origin: l.origin, loop: l.originLoop}, to: seats.share()}
	e.speaker().job(l, j)
}

// Seats lends an empty set of receivers, until the hook returns.
func (l *Local) Seats() *Seats {
	l.seats.Reset(len(l.router.locals))
	return &l.seats
}
