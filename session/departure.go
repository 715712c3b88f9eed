package session

import (
	"slices"

	"canto/session/jid"
	"canto/session/stanza"
)

// What an entity says leaves it in one order for each receiver, whichever loops it was said on.
//
// With nothing under way it is the mail of the loop that runs its chain: straight. That loop routes its
// mail as soon as the lock is given back, and tells the entity when it has. What the entity says
// meanwhile on another loop waits here, in order, and so does a broadcast to many. Then it is spread:
// each receiver belongs to one loop, that of its connection as far as a [Seats] knows it, else one by its
// slot, and what is for it is queued there under the entity's lock, first in, first out. A loop takes
// turns among entities, a share each. While anything is spread, whatever the entity says goes the same
// way; when all has been delivered it is straight again.
//
// A stanza of a client that its account passes on is no saying of the account: of two that clients of one
// account send at the same time on two loops either may come first. What a hook has said of one, a copy
// for instance, is said: what comes after it for the same receiver stays after it.

// Numbers of a broadcast: up to sayInline receivers are served at once; of what is spread a loop serves
// sayShare receivers in a turn, which with their writes is less than a millisecond.
const (
	sayInline = 64
	sayShare  = 64
)

// More than this under way has an entity's stanzas wait in its inbox: broadcasts, and bytes of all that
// it says.
const (
	maxJobs     = 64
	maxJobBytes = 1 << 20
	jobBytes    = 256 // what one takes besides its element
)

// full reports whether e's next stanza waits.
func (d *departures) full() bool { return d.jobs >= maxJobs || d.bytes >= maxJobBytes }

// elsewhere reports whether something of e is under way that is not in the mail of l.
func (e speaker) elsewhere(l *Local) bool {
	return e.straight != 0 && e.straight != l.mark || e.waits != nil && e.waits.out.spread()
}

// say mails el under env's addresses, for the entity whose lock l holds, if it holds one. el is copied.
func (l *Local) say(env envelope, el []byte) {
	e := l.held
	env.origin, env.loop = l.origin, l.originLoop
	// the own session waits for nothing that others get
	if e == nil || env.form == anAnswer && env.to.Bare() == e.addr {
		l.mail.add(env, el)
		return
	}
	if e.speaker().elsewhere(l) {
		env.bytes = append([]byte(nil), el...)
		e.speaker().queue(l, env)
		return
	}
	e.speaker().speaks(l)
	l.mail.add(env, el)
}

// speaks notes that l's mail has letters of e. Under the lock.
func (e speaker) speaks(l *Local) {
	if e.straight == 0 {
		e.straight = l.mark
		l.mail.speakers = append(l.mail.speakers, e.Entity)
	}
}

// queue puts env behind what is under way from e; its bytes are its own. Under the lock.
func (e speaker) queue(l *Local, env envelope) {
	l.stats.Mailed++
	e.job(l, job{letter: env})
}

// job puts j behind what is under way from e. Under the lock.
func (e speaker) job(l *Local, j job) {
	d := &e.busy().out
	if j.to != nil {
		d.jobs++
	}
	d.bytes += len(j.letter.bytes) + jobBytes
	if e.straight != 0 {
		d.queue = append(d.queue, j)
		return
	}
	e.spread(l, j)
}

// spread gives j's receivers to their loops. Under the lock.
func (e speaker) spread(l *Local, j job) {
	d := &e.waits.out
	locals := l.router.locals
	p := &dispatch{job: j, of: e.Entity}
	give := func(loop int, to []*chunk) {
		p.left++
		d.left++
		target := locals[loop]
		pt := part{dispatch: p, to: to}
		if !target.Loop.Post(func() { target.shares.take(pt) }) {
			p.left-- // the loop has ended, and its receivers with it
			d.left--
		}
	}
	if j.to == nil {
		give(e.loopOf(l, j.letter.to), nil)
	}
	for i, chunks := range j.to {
		if len(chunks) > 0 {
			give(i, chunks)
		}
	}
	if p.left == 0 {
		e.departed(p)
	}
}

// loopOf is the loop that serves to while anything of e is spread.
func (e speaker) loopOf(l *Local, to jid.JID) int {
	if v, ok := e.live.(*lived); ok {
		if p, ok := v.places[to]; ok {
			return int(p.loop)
		}
	}
	return slotLoop(to, len(l.router.locals))
}

// slotLoop is the loop of a receiver of which nothing else is known.
func slotLoop(to jid.JID, loops int) int { return int(to.Slot()) % loops }

// departed is called when all parts of p are delivered. Under the lock.
func (e speaker) departed(p *dispatch) {
	d := &e.waits.out
	if p.to != nil {
		d.jobs--
		e.crowds = p.crowded
	}
	d.bytes -= len(p.letter.bytes) + jobBytes
}

// take puts p behind what this loop has to deliver for its entity.
func (sh *shares) take(p part) {
	var s *sender
	for _, x := range sh.senders {
		if x.of == p.of {
			s = x
			break
		}
	}
	if s == nil {
		s = &sender{of: p.of}
		sh.senders = append(sh.senders, s)
	}
	s.parts = append(s.parts, p)
	if !sh.posted {
		sh.posted = true
		sh.l.Loop.Post(sh.serve) // its turn is one, whatever else was posted in this
	}
}

// add puts el, under env's addresses, behind what is there. el is copied.
func (m *mail) add(env envelope, el []byte) {
	m.l.stats.Mailed++
	env.bytes = m.bytes(el)
	m.list = append(m.list, env)
}

// bytes copies el into the mail's buffer. Old letters keep the array they were put into when it grows.
func (m *mail) bytes(el []byte) []byte {
	b := m.buf
	if len(b)+len(el) > cap(b) {
		b = make([]byte, 0, max(4096, 2*cap(b), len(el)))
	}
	n := len(b)
	b = append(b, el...)
	m.buf = b
	return b[n:len(b):len(b)]
}

// mayBeSession reports whether j may be a session of ours.
func mayBeSession(l *Local, j jid.JID) bool {
	h, ours := l.router.Table.Host(domainOf(j))
	return ours && !h.service && j.Resource() != ""
}

// Post mails el, a stanza of the entity from, under its lock or under none; el is copied.
func (l *Local) Post(from, to jid.JID, el []byte) { l.say(envelope{from: from, to: to, hops: 1}, el) }

// again mails a stanza once more that was held back for a session: its sender's, not what this entity says.
func (m *mail) again(h heldElement) {
	l := m.l
	if !h.to.IsZero() && h.kind != stanza.Presence {
		l.mail.add(envelope{from: h.from, to: h.to, hops: 1}, h.bytes)
	}
}

const chunkSize = 64

// NewSeats makes Seats of e that are kept. Under e's lock.
func NewSeats(e *Entity, l *Local) *Seats {
	n := len(l.router.locals)
	s := &Seats{of: e, index: make(map[jid.JID]int32), groups: make([][]*chunk, n), ends: make([]end, n)}
	v := e.lived()
	v.seats = append(v.seats, s)
	return s
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

// resettle moves receivers to the loops that they are wanted on. Nothing of the entity is spread. Under
// the lock.
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

// Fanout sends el, one element of from without a 'to', to each of seats, as mail of e, whose lock is
// held. Up to 64 receivers are served as soon as the lock is released; more are one job for each loop, 64
// receivers of all its jobs a turn, entities taken in turn. What e says next to any of them comes after
// it. el is copied.
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
	letter := envelope{from: from, hops: 1, bytes: append([]byte(nil), el...), origin: l.origin,
		loop: l.originLoop}
	e.speaker().job(l, job{letter, e.speaker().share(l, seats)})
}

// share is the receivers in seats as they are now, each with the loop that serves it while anything of e
// is spread: where e keeps Seats, those know it also of receivers that are gathered for once.
func (e speaker) share(l *Local, seats *Seats) [][]*chunk {
	v, ok := e.live.(*lived)
	if seats.of != nil || !ok || len(v.places) == 0 {
		return seats.share()
	}
	groups := make([][]*chunk, len(l.router.locals))
	seats.each(func(to jid.JID) {
		i := e.loopOf(l, to)
		if groups[i] == nil {
			groups[i] = []*chunk{new(chunk)}
		}
		groups[i][0].to = append(groups[i][0].to, to)
	})
	return groups
}

// Seats lends an empty set of receivers, until the hook returns.
func (l *Local) Seats() *Seats {
	l.seats.Reset(len(l.router.locals))
	return &l.seats
}
