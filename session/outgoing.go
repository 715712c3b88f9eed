package session

import (
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

// jobDone is called when all parts of p are delivered. Under the lock.
func (e sender) jobDone(p *dispatchedJob) {
	d := &e.pending.outgoing
	if p.recipients != nil {
		d.jobs--
		e.congestedFanout = p.congested
	}
	d.bytes -= len(p.env.bytes) + jobOverhead
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

// Send mails a stanza of the entity whose lock is held, or of the host: el is one complete element
// whose from and to these are.
func (ev *Stanza) Send(from, to jid.JID, el []byte) {
	ev.loopRouter.sendEnvelope(envelope{from: from, to: to, hops: ev.Hops + 1}, el)
}
