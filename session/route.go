package session

import (
	"canto/session/stanza"
	"canto/xmlstream"
)

// deliver routes the mail of the loop in order, until none is left; what is mailed in the
// meantime comes after it. Before each envelope it pulls from the sources that schedulePull has
// noted. When the queue is empty it notifies the entities that have sent directly (directDelivered),
// which may add more. No lock is held; a nested call does nothing.
func (m *mailQueue) deliver() {
	if m.delivering || m.next == len(m.envelopes) && len(m.directSenders) == 0 && len(m.pulls) == 0 {
		return
	}
	m.delivering = true
	defer func() { m.delivering = false }()
	for {
		for m.next < len(m.envelopes) || len(m.pulls) > 0 {
			if n := len(m.pulls); n > 0 {
				s := m.pulls[n-1]
				m.pulls = m.pulls[:n-1]
				pull(m.l, s)
				continue
			}
			env := &m.envelopes[m.next]
			m.next++
			m.route(env)
		}
		clear(m.envelopes)
		m.envelopes, m.next = m.envelopes[:0], 0
		if len(m.directSenders) == 0 {
			break
		}
		e := m.directSenders[len(m.directSenders)-1]
		m.directSenders = m.directSenders[:len(m.directSenders)-1]
		e.sender().directDelivered(m.l)
	}
	if m.buf = m.buf[:0]; cap(m.buf) > 64<<10 {
		m.buf = nil
	}
	if cap(m.envelopes) > 1024 {
		m.envelopes = nil
	}
}

// route parses one envelope and routes its stanza. A panic ends only this stanza. A reply to an
// address that cannot be a session of ours is routed like any stanza.
func (m *mailQueue) route(env *envelope) {
	l := m.l
	if env.form == formReply && !mayBeSession(l, env.to) {
		env.form = formStanza
	}
	if env.form != formStanza {
		ev := l.stanzas.push(l)
		defer l.stanzas.pop()
		env.fillStanza(l, ev, xmlstream.Element{})
		ev.raw = env.bytes
		routeStanza(l, ev)
		return
	}
	e, err := l.Parser.Element(env.bytes)
	if err != nil {
		l.Log.Error("mail that does not parse", "from", env.from.String(), "to", env.to.String(), "err", err)
		return
	}
	defer l.Parser.Release(e)
	m.routeElement(env, e)
}

// routeElement routes the stanza of an envelope with the parsed element e: a broadcast parses it
// once for all its recipients.
func (m *mailQueue) routeElement(env *envelope, e xmlstream.Element) {
	l := m.l
	ev := l.stanzas.push(l)
	defer l.stanzas.pop()
	env.fillStanza(l, ev, e)
	routeStanza(l, ev)
}

// deliverReply sends ev, a reply, to the session that it is for. It is dropped if the session has
// ended. Under the lock.
func (a *Account) deliverReply(l *LoopRouter, ev *Stanza) {
	if s := a.Resource(ev.To); s != nil {
		l.stats.Out[ev.Kind]++
		s.Send(OutboundStanza{Bytes: ev.raw, Kind: ev.Kind})
	}
}

// routeStanza takes ev on its way. A stanza straight from a client (PrePending) is processed by
// its sender's account first, and then forwarded to its recipient; any other is forwarded at
// once. A stanza of a stream that has lost its session is dropped. No lock is held when it is
// called or when it returns. A panic ends only ev.
func routeStanza(l *LoopRouter, ev *Stanza) {
	l.origin, l.originLoopNumber = ev.origin, ev.originLoopNumber
	defer finishRoute(l, ev, l.stanzas.depth)
	if !ev.PrePending {
		forward(l, ev)
		return
	}
	e := &ev.Session.account.Entity
	e.lock(l)
	switch {
	case ev.Session.stream != ev.origin.Stream || ev.Session.account.sessionIndex(ev.Session) < 0:
		l.stats.Superseded++
		ev.settlesOrigin = false // a dropped stanza must not be acknowledged as handled
		e.unlock(l)
		ev.origin.drop(l, ev.originLoopNumber)
	case e.mailbox().mustQueue():
		e.mailbox().enqueue(l, ev)
		e.unlock(l)
	default:
		if process(l, e, ev) {
			forward(l, ev)
		}
	}
}

// finishRoute is deferred in routeStanza: it is the panic boundary of ev, and ends its way
// (Stanza.finish). depth is that of the stack of stanzas to go back to.
func finishRoute(l *LoopRouter, ev *Stanza, depth int) {
	if r := recover(); r != nil {
		l.handlePanic(r, panicFrame{addr: ev.From, ev: ev, depth: depth})
	}
	ev.finish(l)
}

// process makes e process ev: the Pre chain if ev comes straight from a client of the account,
// else the chain of e's kind. The lock of e is held when it is called, and released when it
// returns. It returns true if ev is to be forwarded to its recipient. Its steps:
//
//   - Envelopes that are no stanza go to their own functions: requests and offers of more,
//     replies.
//   - In the Pre chain's case the batch that hooks have filled is given to the store before ev
//     is forwarded, as ev's delivery must not come first. If the account has jobs in flight,
//     ev becomes a job after them.
//   - At an address without an entity: handleAbsent.
//   - Else runEntityChain.
//   - The batch of ev, if there is one, is given to the store.
func process(l *LoopRouter, e *Entity, ev *Stanza) (onward bool) {
	e.lastUsed = l.Loop.Tick()
	ev.entity = e
	switch {
	case ev.form == formMoreRequest:
		runMore(e, l, ev)
	case ev.form == formReply:
		e.account().deliverReply(l, ev)
	case ev.form != formStanza:
		addMoreSource(e, l, ev)
	case ev.PrePending && !e.resident.exists:
		ev.Fail(stanza.InternalServerError) // the account was deleted
	case ev.PrePending:
		onward = runPreChain(l, e.host.Profile().Hooks, ev)
		if onward && ev.batch != nil {
			onward = writeSenderBatch(ev)
		}
		if onward && e.sender().inFlightElsewhere(l) {
			ev.PrePending, ev.Number, ev.Archived = false, 0, false
			e.sender().enqueueEnvelope(l, seal(ev))
			onward, ev.settlesOrigin, ev.senderTicket = false, false, 0
		}
	case !e.resident.exists:
		handleAbsent(e, ev)
	default:
		runEntityChain(l, e.host.Profile().Hooks, e.kind, ev)
	}
	writeBatch(ev)
	e.unlock(l)
	return onward
}

// runPreChain runs the Pre chain of ev, which comes straight from a client. It returns true if ev
// is to be forwarded. A stanza for the sender's own account meets the account's chain here too,
// under the same lock.
func runPreChain(l *LoopRouter, h *Hooks, ev *Stanza) (onward bool) {
	var c *Chain[StanzaFunc]
	switch ev.Kind {
	case stanza.Message:
		c = &h.PreMessage[ev.Target]
	case stanza.Presence:
		c = &h.PrePresence[ev.Target]
	default:
		c = &h.PreIQ[ev.Target]
	}
	if Run(c, ev) == Done {
		return false
	}
	if ev.Target != ToSelf {
		return true
	}
	ev.PrePending, ev.Number, ev.Archived = false, 0, false
	runEntityChain(l, h, KindAccount, ev)
	return false
}

// forward takes ev to its recipient. Its steps:
//
//   - A stanza that was sent on maxHops times is dropped.
//   - A reply or an offer of more goes to the account with the session, if that is in memory;
//     after what waits in its inbox.
//   - A stanza for a domain that is not ours goes to forwardRemote, one for the domain of a
//     host with logins to the host's chain, under no lock.
//   - Else the entity at the address is locked. It processes ev, or ev waits in its inbox. An
//     address in the negative cache gets FailAbsent.
//
// No lock is held when it is called or when it returns.
func forward(l *LoopRouter, ev *Stanza) {
	if ev.PrePending {
		ev.Number, ev.Archived = 0, false // that was the sender's archive
	}
	ev.PrePending, ev.Session, ev.stream, ev.entity = false, nil, nil, nil
	if ev.Hops >= maxHops && ev.form != formReply {
		l.stats.Limits["hops"]++
		return
	}
	host, ours := l.router.Table.Host(domainOf(ev.To))
	switch {
	case ev.form == formMoreAvailable || ev.form == formReply:
		a, ok := l.router.Table.LookupAccount(ev.To.Bare())
		if !ok && ours && !host.service && ev.form == formReply {
			break // the store may have the session that has asked
		}
		if ok && a.host == host {
			a.lock(l)
			if w := a.pending; !ev.unprocessed && w != nil && (w.draining || !w.inbox.empty()) {
				a.mailbox().push(seal(ev))
				a.unlock(l)
				return
			}
			process(l, &a.Entity, ev)
		}
		return
	case !ours && ev.form != formStanza:
		return
	case !ours:
		forwardRemote(l, ev)
		return
	}
	ev.Host = host
	if answersHost(l, host, ev) {
		return
	}
	if ev.form == formMoreRequest {
		ev.Target = ToBare
	} else if ev.Target = targetOf(l, ev); ev.Target == ToSelf {
		ev.Target = ToBare
	}
	if ev.Target == ToHost && !host.service {
		runEntityChain(l, host.Profile().Hooks, 0, ev)
		return
	}
	e, ok := l.router.Table.lockEntity(l, host, ev.To.Bare())
	switch {
	case !ok && ev.form != formStanza:
	case !ok:
		ev.FailAbsent()
	case e.mailbox().mustQueue():
		e.mailbox().enqueue(l, ev)
		e.unlock(l)
	default:
		process(l, e, ev)
	}
}

// forwardRemote runs the Remote hooks of the sender's host for ev, which is for another domain.
// Without a hook that takes it the answer is remote-server-not-found. A stanza of another
// server's is dropped: this server does not relay.
func forwardRemote(l *LoopRouter, ev *Stanza) {
	if ev.Host == nil {
		h, ok := l.router.Table.Host(domainOf(ev.From))
		if !ok {
			return
		}
		ev.Host = h
	}
	if Run(&ev.Host.Profile().Hooks.Remote, ev) == Pass {
		ev.Fail(stanza.RemoteServerNotFound)
	}
}

// runEntityChain runs the chain of ev at an entity of kind k, under its lock; k 0 is a host, under no lock.
// An answer to a request of the entity itself goes to that (ask.go). If no module of the host serves the
// kind any more, or if users logged in at what is a service host now, ev is answered with an error.
func runEntityChain(l *LoopRouter, h *Hooks, k KindID, ev *Stanza) {
	if answersEntity(l, ev) {
		return
	}
	c := &h.Chains
	if k == KindAccount && ev.Host.service {
		ev.FailAbsent()
		return
	}
	if k != 0 && k != KindAccount {
		if c = h.chains(k); c == nil {
			ev.Fail(stanza.ServiceUnavailable)
			return
		}
	}
	at := c.chainFor(ev)
	if len(at.recordHooks) > 0 && k != 0 {
		runRecorded(c, at, ev)
	} else {
		runChain(c, at, ev)
	}
}

// chainFor returns the chain for the kind and the target of ev.
func (c *Chains) chainFor(ev *Stanza) *Chain[StanzaFunc] {
	switch ev.Kind {
	case stanza.Message:
		return &c.Message[ev.Target]
	case stanza.IQ:
		return &c.IQ[ev.Target]
	}
	return &c.Presence[ev.Target]
}

// runChain runs the chain at, which belongs to c. A message or an iq that no hook takes is
// answered with service-unavailable.
func runChain(c *Chains, at *Chain[StanzaFunc], ev *Stanza) {
	switch ev.Kind {
	case stanza.Message:
		if Run(at, ev) == Pass {
			ev.Fail(stanza.ServiceUnavailable)
		}
	case stanza.IQ:
		runIQ(c, at, ev)
	default:
		Run(at, ev)
	}
}

// runIQ runs the chain of an iq: the phases before Deliver, then the one handler that is
// registered for its payload, then the other phases.
func runIQ(all *Chains, c *Chain[StanzaFunc], ev *Stanza) {
	if runPhases(c, ev, Guard, Deliver) == Done {
		return
	}
	if ev.Type == stanza.TypeGet || ev.Type == stanza.TypeSet {
		if f := all.handler(ev); f != nil && f(ev) == Done {
			return
		}
	}
	if runPhases(c, ev, Deliver, Fallback+1) == Pass {
		ev.Fail(stanza.ServiceUnavailable)
	}
}

// handler returns the handler that is registered for the payload of ev: in c, or for every kind;
// nil if there is none.
func (c *Chains) handler(ev *Stanza) StanzaFunc {
	key := iqKey{ev.Target, ev.Type == stanza.TypeSet, ev.Payload().Name()}
	f, ok := c.iq[key]
	if h := ev.Host.Profile().Hooks; !ok && c != &h.Chains {
		f = h.everyKind.iq[key]
	}
	return f.f
}

// targetOf returns the Target of ev.To, an address of ours.
func targetOf(l *LoopRouter, ev *Stanza) Target {
	local, _, resource := ev.To.Parts()
	switch {
	case local == "":
		return ToHost
	case resource != "":
		return ToFull
	case ev.To == ev.From.Bare():
		return ToSelf
	}
	return ToBare
}

// directDelivered is called when l has routed all the mail that e has sent directly. It
// dispatches the jobs that have waited for that. Under no lock.
func (e sender) directDelivered(l *LoopRouter) {
	e.lock(l)
	e.directLoop = 0
	if w := e.pending; w != nil {
		for _, j := range w.outgoing.deferred {
			e.dispatch(l, j)
		}
		w.outgoing.deferred = nil
		e.resumeReceiving(l)
	}
	e.unlock(l)
}

// resumeReceiving continues with e after something that it sent was delivered: recipients move to
// their loops if no job is in flight, and the inbox is drained if it has waited for that. Under
// the lock.
func (e sender) resumeReceiving(l *LoopRouter) {
	w := e.pending
	if !w.outgoing.jobsInFlight() {
		if v, ok := e.live.(*liveState); ok {
			v.applyMoves()
		}
	}
	e.mailbox().resumeDrain(l)
	e.releasePending()
}

// handleAbsent answers a stanza to an address without an entity. On a host with logins it calls
// FailAbsent. On a service host a Make hook may handle the stanza, or create an entity that processes
// it then; an iq to the domain itself goes to the handler that every kind has. Under the lock of the
// Entity at the address.
func handleAbsent(e *Entity, ev *Stanza) {
	if e.host.service {
		h := e.host.Profile().Hooks
		if Run(&h.Make, ev) == Done {
			return
		}
		if e.exists() { // a hook has called Create
			runEntityChain(ev.loopRouter, h, e.kind, ev)
			return
		}
		if ev.Kind == stanza.IQ && ev.Target == ToHost && (ev.Type == stanza.TypeGet || ev.Type == stanza.TypeSet) {
			if f := h.everyKind.handler(ev); f != nil && f(ev) == Done {
				return
			}
		}
	}
	ev.FailAbsent()
}

// processItem takes a stanza out of e's inbox on its way. Its steps:
//
//   - It parses the bytes, and fills a Stanza of the loop's stack. A recipient's target is found again.
//   - A client's stanza gets its session and stream back. It is dropped if the session has ended, or has
//     another stream.
//   - If err, the error of the load that the item has waited for, is not nil the stanza is answered with
//     an error.
//   - Else e processes it, and it is forwarded if it is a client's.
//
// The lock of e is held when processItem is called, and released when it returns. A panic ends only the
// stanza.
func (e mailbox) processItem(l *LoopRouter, env *envelope, err error) {
	var el xmlstream.Element
	if env.form == formStanza {
		var perr error
		if el, perr = l.Parser.Element(env.bytes); perr != nil {
			e.unlock(l)
			return
		}
		defer l.Parser.Release(el)
	}
	ev := l.stanzas.push(l)
	defer l.stanzas.pop()
	env.fillStanza(l, ev, el)
	ev.raw = env.bytes
	l.origin, l.originLoopNumber = ev.origin, ev.originLoopNumber
	defer ev.finish(l)
	ev.Host = e.host
	if !env.prePending && env.form == formStanza {
		if ev.Target = targetOf(l, ev); ev.Target == ToSelf {
			ev.Target = ToBare
		}
	}
	defer l.recoverPanic(newPanicFrame(l, e.addr, ev))
	if env.prePending && !restoreSender(ev, e.Entity) {
		ev.settlesOrigin = false // a dropped stanza must not be acknowledged as handled
		l.stats.Superseded++
		e.unlock(l)
		ev.origin.drop(l, ev.originLoopNumber)
		return
	}
	if err != nil && ev.form == formStanza {
		if err == ErrBusy {
			ev.Fail(stanza.ResourceConstraint)
		} else {
			ev.Fail(stanza.InternalServerError)
		}
		e.unlock(l)
		return
	}
	if process(l, e.Entity, ev) {
		forward(l, ev)
	}
}

// runRecorded runs the chain at, and then its hooks of phase Record, whatever the verdict was. A module that
// has to record a stanza refuses it in an earlier phase if it knows that it can't, before anything is
// delivered.
func runRecorded(c *Chains, at *Chain[StanzaFunc], ev *Stanza) {
	ev.recorded = true
	runChain(c, at, ev)
	for i := range at.recordHooks {
		at.recordHooks[i].f(ev)
	}
}

// Deliver sends ev to one session of the locked account. It returns true if the
// session took it, or queues it; if not, the caller handles ev as if the resource did not exist
// (RFC 6121 section 8.5.3.2). If the session's client is congested the sender is charged for it.
func (l *LoopRouter) Deliver(to *Session, ev *Stanza) bool {
	l.scratch = ev.Append(l.scratch[:0])
	ok, congested, refused := to.deliverOutbound(OutboundStanza{Bytes: l.scratch, Kind: ev.Kind,
		From: ev.From, To: ev.To, Number: ev.Number, Archived: ev.Archived,
		Unimportant: ev.Kind == stanza.Message && ev.Handling().Wait, deliveries: &ev.deliveries})
	switch {
	case ok:
		l.stats.Out[ev.Kind]++
		if ev.deliveredCount++; ev.deliveries != nil {
			ev.deliveries.n = int(ev.deliveredCount)
		}
		if ev.recorded {
			ev.deliveredTo = append(ev.deliveredTo, to)
		}
	case refused:
		l.stats.Limits["held"]++
	}
	if congested {
		l.congestedBytes += len(l.scratch)
	}
	if cap(l.scratch) > 64<<10 {
		l.scratch = nil
	}
	return ok
}

// DeliverCopy sends s el, a message around the content of ev. s is a session of the locked account that has
// not got ev itself: a carbon copy (XEP-0280). The bytes el[from:to] are that content, as one element. If the
// session ends before its client has the copy, and no other session has ev, the content is routed again. But
// if ev is stored for later delivery it waits already, and the copy ends with the session. It returns true if
// the session took el. el is copied. In phase [Record].
func DeliverCopy(s *Session, ev *Stanza, el []byte, from, to int) bool {
	l := ev.loopRouter
	p := OutboundStanza{Bytes: el, Kind: ev.Kind, From: ev.From, To: ev.To, Number: ev.Number,
		Archived: ev.Archived, Unimportant: ev.Handling().Wait, kept: ev.stored, copyFrom: int32(from),
		copyTo: int32(to)}
	if !p.kept {
		p.deliveries = &ev.deliveries
	}
	ok, congested, _ := s.deliverOutbound(p)
	if ok {
		l.stats.Out[ev.Kind]++
		if ev.deliveredCount++; ev.deliveries != nil {
			ev.deliveries.n = int(ev.deliveredCount)
		}
		ev.deliveredTo = append(ev.deliveredTo, s)
	}
	if congested {
		l.congestedBytes += len(el)
	}
	return ok
}

// deliverOutbound is [Session.Send] with two more results: congested reports whether the client
// is, refused whether p was refused because the session has queued as many messages as it may.
func (s *Session) deliverOutbound(p OutboundStanza) (ok, congested, refused bool) {
	out := s.lockOutbox()
	defer out.unlock()
	ok = out.send(p)
	return ok, s.wire != nil && s.wire.Congested(), !ok && out.refusesMessages()
}

// maxHops is how often hooks may send a stanza on: it ends a loop of hooks that answer each
// other.
const maxHops = 8

// serveTurn delivers the loop's share of a turn, fanoutBudget recipients: those of the first
// entity, then of the next ones. An entity with more parts goes to the end of the queue (round
// robin). It is posted again while anything is left, also after a panic. On the loop, under no
// lock.
func (q *fanoutQueue) serveTurn() {
	l := q.l
	l.enter()
	defer l.leave()
	defer func() {
		if q.posted = len(q.queues) > 0; q.posted {
			l.Loop.Post(q.serveFunc)
		}
	}()
	for left := fanoutBudget; left > 0 && len(q.queues) > 0; {
		s := q.queues[0]
		copy(q.queues, q.queues[1:])
		q.queues[len(q.queues)-1] = nil
		q.queues = q.queues[:len(q.queues)-1]
		for left > 0 && len(s.parts) > 0 {
			p := &s.parts[0]
			left -= p.deliver(l, left)
			if len(p.chunks) > 0 {
				continue
			}
			l.mail.deliver() // what the recipients have answered
			s.entity.sender().partDone(l, p)
			s.parts[0] = loopPart{}
			s.parts = s.parts[1:]
		}
		if len(s.parts) > 0 {
			q.queues = append(q.queues, s)
		}
	}
}

// deliver serves at most n recipients of p, and returns how many it served. A recipient that
// fails does not keep the others from their delivery. Under no lock.
func (p *loopPart) deliver(l *LoopRouter, n int) (served int) {
	before := l.congestedBytes
	defer func() { p.congested = p.congested || l.congestedBytes > before }()
	if p.chunks == nil {
		l.mail.route(&p.env)
		return 1
	}
	el, err := l.Parser.Element(p.env.bytes)
	if err != nil {
		l.Log.Error("a broadcast that does not parse", "from", p.env.from.String(), "err", err)
		p.chunks = nil
		return 1
	}
	defer l.Parser.Release(el)
	for ; served < n && len(p.chunks) > 0; served++ {
		c := p.chunks[0]
		env := p.env
		env.to = c.addrs[p.offset]
		l.mail.routeElement(&env, el)
		if p.offset++; p.offset == len(c.addrs) {
			p.chunks, p.offset = p.chunks[1:], 0
		}
	}
	return served
}

// partDone counts p off, which its loop has delivered. Under no lock.
func (e sender) partDone(l *LoopRouter, p *loopPart) {
	e.lock(l)
	d := &e.pending.outgoing
	d.partsLeft--
	p.dispatchedJob.congested = p.dispatchedJob.congested || p.congested
	if p.dispatchedJob.partsLeft--; p.dispatchedJob.partsLeft == 0 {
		e.jobDone(p.dispatchedJob)
	}
	e.resumeReceiving(l)
	e.unlock(l)
}
