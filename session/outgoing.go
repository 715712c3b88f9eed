package session

import (
	"canto/session/jid"
	"canto/session/stanza"
)

// What an entity sends reaches each recipient in one order, whichever loops its hooks run on.
// There are two ways.
//
// Direct: while nothing of the entity is in flight elsewhere, what its hooks send is mail of the
// loop that runs them. That loop routes its mail as soon as the lock is released; until then
// Entity.directLoop names it.
//
// By jobs: what the entity sends on another loop in the meantime, and each broadcast to more than
// inlineRecipients, is a job. Jobs wait until the direct mail is delivered
// (outgoingState.deferred), and are then dispatched: each recipient is served by one loop, that
// of its connection if a [Recipients] knows it, else one by its hash, and that loop's fanoutQueue
// gets its part under the entity's lock, first in, first out. While jobs are in flight everything
// that the entity sends is a job. When all are delivered the entity sends directly again.
//
// A client's stanza that its account only passes on is not sent by the account: of two stanzas
// that two clients of one account send at the same time on two loops, either may arrive first.
// But a copy that a hook has made of one is sent by the account, and stays before what is sent to
// the same recipient later.

// Numbers of a broadcast. Up to inlineRecipients recipients are served at once, as mail. Of dispatched jobs
// a loop serves fanoutBudget recipients a turn, which takes less than a millisecond with their writes.
const (
	inlineRecipients = 64
	fanoutBudget     = 64
)

// If an entity has more than this in flight, stanzas for it wait in its inbox: so it causes no more.
const (
	maxBroadcastsInFlight = 64      // broadcasts
	maxJobBytesInFlight   = 1 << 20 // bytes of all jobs
	jobOverhead           = 256     // bytes that are counted for a job besides its element
)

// full reports whether the entity has so much in flight that its next stanza waits.
func (d *outgoingState) full() bool {
	return d.broadcasts >= maxBroadcastsInFlight || d.bytes >= maxJobBytesInFlight
}

// inFlightElsewhere reports whether the entity has something in flight that is not in the mail
// queue of l: then what it sends now must be a job.
func (e sender) inFlightElsewhere(l *LoopRouter) bool {
	return e.directLoop != 0 && e.directLoop != l.loopNumber || e.pending != nil &&
		e.pending.outgoing.jobsInFlight()
}

// sendEnvelope sends el, with the addresses of env, for the entity that l has locked: as direct
// mail or as a job. Without a locked entity it is mail. A reply to the entity's own session waits
// for nothing, as no other recipient gets it. el is copied.
func (l *LoopRouter) sendEnvelope(env envelope, el []byte) {
	e := l.lockedEntity
	env.origin, env.originLoopNumber = l.origin, l.originLoopNumber
	// a reply to an own session
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

// markDirect notes that the mail queue of l has envelopes of e. Under the lock.
func (e sender) markDirect(l *LoopRouter) {
	if e.directLoop == 0 {
		e.directLoop = l.loopNumber
		l.mail.directSenders = append(l.mail.directSenders, e.Entity)
	}
}

// enqueueEnvelope makes a job of env, which must own its bytes, after the jobs that e has. Under
// the lock.
func (e sender) enqueueEnvelope(l *LoopRouter, env envelope) {
	l.stats.Mailed++
	e.enqueueJob(l, job{env: env})
}

// enqueueJob counts j, and dispatches it or, while direct mail is in flight, defers it. Under the
// lock.
func (e sender) enqueueJob(l *LoopRouter, j job) {
	d := &e.ensurePending().outgoing
	if j.recipients != nil {
		d.broadcasts++
	}
	d.bytes += len(j.env.bytes) + jobOverhead
	if e.directLoop != 0 {
		d.deferred = append(d.deferred, j)
		return
	}
	e.dispatch(l, j)
}

// dispatch gives each loop its part of j. Parts for loops that have ended are dropped. Under the
// lock.
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

// loopOf returns the index of the loop that serves a recipient while jobs of e are in flight.
// Under the lock.
func (e sender) loopOf(l *LoopRouter, to jid.JID) int {
	if v, ok := e.live.(*liveState); ok {
		if p, ok := v.placements[to]; ok {
			return int(p.loop)
		}
	}
	return partitionLoop(to, len(l.router.loopRouters))
}

// jobDone counts p off, of which all parts are delivered. Under the lock.
func (e sender) jobDone(p *dispatchedJob) {
	d := &e.pending.outgoing
	if p.recipients != nil {
		d.broadcasts--
		e.congestedFanout = p.congested
	}
	d.bytes -= len(p.env.bytes) + jobOverhead
}

// mayBeSession reports whether j may be a session of ours: a full JID of a host with logins.
func mayBeSession(l *LoopRouter, j jid.JID) bool {
	h, ours := l.router.Table.Host(domainOf(j))
	return ours && !h.service && j.Resource() != ""
}

// Send mails el, a stanza of the entity from: under its lock, or under none. el is copied. On the
// loop.
func (l *LoopRouter) Send(from, to jid.JID, el []byte) {
	l.sendEnvelope(envelope{from: from, to: to, hops: 1}, el)
}

// requeue mails h, an unsent element of a session, once more, as its sender's. Presence and what
// the server itself said are dropped.
func (m *mailQueue) requeue(h queuedElement) {
	l := m.l
	if !h.to.IsZero() && h.kind != stanza.Presence {
		l.mail.add(envelope{from: h.from, to: h.to, hops: 1}, h.bytes)
	}
}

// add appends p to what this loop has to deliver for p's entity, and makes sure that serveTurn
// runs. On the loop.
func (q *fanoutQueue) add(p loopPart) {
	var s *entityQueue
	for _, x := range q.queues {
		if x.entity == p.entity {
			s = x
			break
		}
	}
	if s == nil {
		s = &entityQueue{entity: p.entity}
		q.queues = append(q.queues, s)
	}
	s.parts = append(s.parts, p)
	if !q.posted {
		q.posted = true
		q.l.Loop.Post(q.serveFunc)
	}
}

// Fanout sends el, one element without a 'to', from the address from to each of recipients, for the
// entity m, which is locked. Up to 64 recipients are served as mail when the lock is released;
// more are a job of which each loop serves 64 recipients a turn. What m sends later reaches each
// of them later. The sender of the stanza that is processed pays for the bytes (fanoutDiscount).
// el is copied; recipients may be changed or reused when Fanout returns.
func (l *LoopRouter) Fanout(m AnyEntity, from jid.JID, el []byte, recipients *Recipients) {
	if recipients.n == 0 {
		return
	}
	e := m.entity()
	l.fanoutBytes += len(el) * recipients.n
	if e.congestedFanout && recipients.n > inlineRecipients {
		l.congestedBytes += len(el) // assume that their clients are still congested
	}
	if recipients.n <= inlineRecipients && !e.sender().inFlightElsewhere(l) {
		e.sender().markDirect(l)
		b := l.mail.copyBytes(el)
		env := envelope{from: from, hops: 1, bytes: b, origin: l.origin, originLoopNumber: l.originLoopNumber}
		l.stats.Mailed += uint64(recipients.n)
		recipients.each(func(to jid.JID) {
			env.to = to
			l.mail.envelopes = append(l.mail.envelopes, env)
		})
		return
	}
	env := envelope{from: from, hops: 1, bytes: append([]byte(nil), el...), origin: l.origin,
		originLoopNumber: l.originLoopNumber}
	e.sender().enqueueJob(l, job{env, e.sender().recipientsByLoop(l, recipients)})
}

// recipientsByLoop returns the recipients in recipients, grouped by the loop that serves each. If e
// has kept sets their placements hold for a temporary set too, so that a recipient in both gets
// everything in order. Under the lock.
func (e sender) recipientsByLoop(l *LoopRouter, recipients *Recipients) [][]*chunk {
	v, ok := e.live.(*liveState)
	if recipients.owner != nil || !ok || len(v.placements) == 0 {
		return recipients.snapshot()
	}
	groups := make([][]*chunk, len(l.router.loopRouters))
	recipients.each(func(to jid.JID) {
		i := e.loopOf(l, to)
		if groups[i] == nil {
			groups[i] = []*chunk{new(chunk)}
		}
		groups[i][0].addrs = append(groups[i][0].addrs, to)
	})
	return groups
}

// Send mails el, one complete element with the addresses from and to, for the locked entity,
// or for the host if none is. el is copied. It counts one hop more than ev.
func (ev *Stanza) Send(from, to jid.JID, el []byte) {
	ev.loopRouter.sendEnvelope(envelope{from: from, to: to, hops: ev.Hops + 1}, el)
}
