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
// each receiver belongs to one loop, that of its connection as far as a [Recipients] knows it, else one
// by its slot, and what is for it is queued there under the entity's lock, first in, first out. A loop
// takes turns among entities, a share each. While anything is spread, whatever the entity says goes the
// same way; when all has been delivered it is straight again.
//
// A stanza of a client that its account passes on is no saying of the account: of two that clients of one
// account send at the same time on two loops either may come first. What a hook has said of one, a copy
// for instance, is said: what comes after it for the same receiver stays after it.

// Numbers of a broadcast: up to inlineRecipients receivers are served at once; of what is spread a loop
// serves fanoutBudget receivers in a turn, which with their writes is less than a millisecond.
const (
	inlineRecipients = 64
	fanoutBudget     = 64
)

// More than this under way has an entity's stanzas wait in its inbox: broadcasts, and bytes of all that
// it says.
const (
	maxJobsInFlight     = 64
	maxJobBytesInFlight = 1 << 20
	jobOverhead         = 256 // what one takes besides its element
)

// full reports whether e's next stanza waits.
func (d *outgoingState) full() bool {
	return d.jobs >= maxJobsInFlight || d.bytes >= maxJobBytesInFlight
}

// inFlightElsewhere reports whether something of e is under way that is not in the mail of l.
func (e sender) inFlightElsewhere(l *LoopRouter) bool {
	return e.directLoop != 0 && e.directLoop != l.loopNumber || e.pending != nil &&
		e.pending.outgoing.dispatching()
}

// sendEnvelope mails el under env's addresses, for the entity whose lock l holds, if it holds one. el is
// copied.
func (l *LoopRouter) sendEnvelope(env envelope, el []byte) {
	e := l.lockedEntity
	env.origin, env.originLoopNumber = l.origin, l.originLoopNumber
	// the own session waits for nothing that others get
	if e == nil || env.form == formReply && env.to.Bare() == e.addr {
		l.mail.add(env, el)
		return
	}
	if e.sender().inFlightElsewhere(l) {
		env.bytes = append([]byte(nil), el...)
		e.sender().enqueueEnvelope(l, env)
		return
	}
	e.sender().markDirect(l)
	l.mail.add(env, el)
}

// markDirect notes that l's mail has letters of e. Under the lock.
func (e sender) markDirect(l *LoopRouter) {
	if e.directLoop == 0 {
		e.directLoop = l.loopNumber
		l.mail.directSenders = append(l.mail.directSenders, e.Entity)
	}
}

// enqueueEnvelope puts env behind what is under way from e; its bytes are its own. Under the lock.
func (e sender) enqueueEnvelope(l *LoopRouter, env envelope) {
	l.stats.Mailed++
	e.enqueueJob(l, job{env: env})
}

// enqueueJob puts j behind what is under way from e. Under the lock.
func (e sender) enqueueJob(l *LoopRouter, j job) {
	d := &e.ensurePending().outgoing
	if j.recipients != nil {
		d.jobs++
	}
	d.bytes += len(j.env.bytes) + jobOverhead
	if e.directLoop != 0 {
		d.deferred = append(d.deferred, j)
		return
	}
	e.dispatch(l, j)
}

// dispatch gives j's receivers to their loops. Under the lock.
func (e sender) dispatch(l *LoopRouter, j job) {
	d := &e.pending.outgoing
	locals := l.router.loopRouters
	p := &dispatchedJob{job: j, entity: e.Entity}
	give := func(loop int, to []*chunk) {
		p.partsLeft++
		d.partsLeft++
		target := locals[loop]
		pt := loopPart{dispatchedJob: p, chunks: to}
		if !target.Loop.Post(func() { target.fanout.add(pt) }) {
			p.partsLeft-- // the loop has ended, and its receivers with it
			d.partsLeft--
		}
	}
	if j.recipients == nil {
		give(e.loopOf(l, j.env.to), nil)
	}
	for i, chunks := range j.recipients {
		if len(chunks) > 0 {
			give(i, chunks)
		}
	}
	if p.partsLeft == 0 {
		e.jobDone(p)
	}
}

// loopOf is the loop that serves to while anything of e is spread.
func (e sender) loopOf(l *LoopRouter, to jid.JID) int {
	if v, ok := e.live.(*liveState); ok {
		if p, ok := v.placements[to]; ok {
			return int(p.loop)
		}
	}
	return partitionLoop(to, len(l.router.loopRouters))
}

// partitionLoop is the loop of a receiver of which nothing else is known.
func partitionLoop(to jid.JID, loops int) int { return int(to.Partition()) % loops }

// jobDone is called when all parts of p are delivered. Under the lock.
func (e sender) jobDone(p *dispatchedJob) {
	d := &e.pending.outgoing
	if p.recipients != nil {
		d.jobs--
		e.congestedFanout = p.congested
	}
	d.bytes -= len(p.env.bytes) + jobOverhead
}

// add puts p behind what this loop has to deliver for its entity.
func (sh *fanoutQueue) add(p loopPart) {
	var s *entityQueue
	for _, x := range sh.queues {
		if x.entity == p.entity {
			s = x
			break
		}
	}
	if s == nil {
		s = &entityQueue{entity: p.entity}
		sh.queues = append(sh.queues, s)
	}
	s.parts = append(s.parts, p)
	if !sh.posted {
		sh.posted = true
		sh.l.Loop.Post(sh.serveFunc) // its turn is one, whatever else was posted in this
	}
}

// add puts el, under env's addresses, behind what is there. el is copied.
func (m *mailQueue) add(env envelope, el []byte) {
	m.l.stats.Mailed++
	env.bytes = m.copyBytes(el)
	m.envelopes = append(m.envelopes, env)
}

// copyBytes copies el into the mail's buffer. Old letters keep the array they were put into when it grows.
func (m *mailQueue) copyBytes(el []byte) []byte {
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
func mayBeSession(l *LoopRouter, j jid.JID) bool {
	h, ours := l.router.Table.Host(domainOf(j))
	return ours && !h.service && j.Resource() != ""
}

// Send mails el, a stanza of the entity from, under its lock or under none; el is copied.
func (l *LoopRouter) Send(from, to jid.JID, el []byte) {
	l.sendEnvelope(envelope{from: from, to: to, hops: 1}, el)
}

// requeue mails a stanza once more that was held back for a session: its sender's, not what this entity says.
func (m *mailQueue) requeue(h queuedElement) {
	l := m.l
	if !h.to.IsZero() && h.kind != stanza.Presence {
		l.mail.add(envelope{from: h.from, to: h.to, hops: 1}, h.bytes)
	}
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

// Fanout sends el, one element of from without a 'to', to each of seats, as mail of e, whose lock is
// held. Up to 64 receivers are served as soon as the lock is released; more are one job for each loop, 64
// receivers of all its jobs a turn, entities taken in turn. What e says next to any of them comes after
// it. el is copied.
func (l *LoopRouter) Fanout(m AnyEntity, from jid.JID, el []byte, seats *Recipients) {
	if seats.n == 0 {
		return
	}
	e := m.entity()
	l.fanoutBytes += len(el) * seats.n
	if e.congestedFanout && seats.n > inlineRecipients {
		l.congestedBytes += len(el) // as if their clients were looked at now
	}
	if seats.n <= inlineRecipients && !e.sender().inFlightElsewhere(l) {
		e.sender().markDirect(l)
		b := l.mail.copyBytes(el)
		env := envelope{from: from, hops: 1, bytes: b, origin: l.origin, originLoopNumber: l.originLoopNumber}
		l.stats.Mailed += uint64(seats.n)
		seats.each(func(to jid.JID) {
			env.to = to
			l.mail.envelopes = append(l.mail.envelopes, env)
		})
		return
	}
	letter := envelope{from: from, hops: 1, bytes: append([]byte(nil), el...), origin: l.origin,
		originLoopNumber: l.originLoopNumber}
	e.sender().enqueueJob(l, job{letter, e.sender().recipientsByLoop(l, seats)})
}

// recipientsByLoop is the receivers in seats as they are now, each with the loop that serves it while
// anything of e is spread: where e keeps Seats, those know it also of receivers that are gathered for
// once.
func (e sender) recipientsByLoop(l *LoopRouter, seats *Recipients) [][]*chunk {
	v, ok := e.live.(*liveState)
	if seats.owner != nil || !ok || len(v.placements) == 0 {
		return seats.snapshot()
	}
	groups := make([][]*chunk, len(l.router.loopRouters))
	seats.each(func(to jid.JID) {
		i := e.loopOf(l, to)
		if groups[i] == nil {
			groups[i] = []*chunk{new(chunk)}
		}
		groups[i][0].addrs = append(groups[i][0].addrs, to)
	})
	return groups
}

// TempRecipients lends an empty set of receivers, until the hook returns.
func (l *LoopRouter) TempRecipients() *Recipients {
	l.recipients.Reset(len(l.router.loopRouters))
	return &l.recipients
}
