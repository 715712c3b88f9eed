package session

import (
	"canto/session/stanza"
	"canto/xmlstream"
)

// deliver routes the mail in order, with no lock held; what is mailed meanwhile goes behind.
func (m *mailQueue) deliver() {
	if m.delivering || m.next == len(m.envelopes) && len(m.directSenders) == 0 && len(m.pulls) == 0 {
		return
	}
	m.delivering = true
	defer func() { m.delivering = false }() // whatever a letter meets
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

// route takes one letter on its way. A panic ends it alone.
func (m *mailQueue) route(env *envelope) {
	l := m.l
	if env.form == formReply && !mayBeSession(l, env.to) {
		env.form = formStanza // to another domain, or an entity that has asked: as any stanza
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

// routeElement takes a letter on its way whose element is e.
func (m *mailQueue) routeElement(env *envelope, e xmlstream.Element) {
	l := m.l
	ev := l.stanzas.push(l)
	defer l.stanzas.pop()
	env.fillStanza(l, ev, e)
	routeStanza(l, ev)
}

// deliverReply gives an answer to the session that asked, if it is here. Under the lock.
func (a *Account) deliverReply(l *LoopRouter, ev *Stanza) {
	if s := a.Resource(ev.To); s != nil {
		l.stats.Out[ev.Kind]++
		s.Send(OutboundStanza{Bytes: ev.raw, Kind: ev.Kind})
	}
}

// routeStanza takes ev on its way: a fresh stanza through its sender's account and on to its recipient, any
// other straight to its recipient. No lock is held at the call or at the return; a panic ends ev alone.
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
		ev.settlesOrigin = false // what is dropped is not handled
		e.unlock(l)              // a superseded stream, or a session that was ended: there is nothing to answer
	case e.mailbox().mustQueue():
		e.mailbox().enqueue(l, ev)
		e.unlock(l)
	default:
		if process(l, e, ev) {
			forward(l, ev)
		}
	}
}

// finishRoute is deferred around the way of ev: the boundary of its panics, and its end.
func finishRoute(l *LoopRouter, ev *Stanza, depth int) {
	if r := recover(); r != nil {
		l.handlePanic(r, panicFrame{addr: ev.From, ev: ev, depth: depth})
	}
	ev.finish(l)
}

// process takes ev through what e has for it: the Pre chain of a fresh stanza, else the chain of one that has
// arrived. The lock of e is held at the call and given back. It reports whether ev goes on to its recipient.
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
		failed := ev.failed
		writeBatch(ev)
		onward = onward && ev.failed == failed         // else it is answered
		if onward && e.sender().inFlightElsewhere(l) { // what e has said before is still under way: it comes first
			ev.PrePending = false
			e.sender().enqueueEnvelope(l, seal(ev))
			onward, ev.settlesOrigin = false, false
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

// runPreChain runs the Pre chain of a fresh stanza, and for ToSelf all there is. true: it goes on.
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
	ev.PrePending = false
	runEntityChain(l, h, KindAccount, ev)
	return false
}

// forward takes ev to what it is addressed to, with no lock held.
func forward(l *LoopRouter, ev *Stanza) {
	ev.PrePending, ev.Session, ev.stream, ev.entity = false, nil, nil, nil
	if ev.Hops >= maxHops && ev.form != formReply {
		l.stats.Limits["hops"]++
		return
	}
	host, ours := l.router.Table.Host(domainOf(ev.To))
	switch {
	case ev.form == formMoreAvailable || ev.form == formReply:
		// else the one that asked is gone
		if a, ok := l.router.Table.LookupAccount(ev.To.Bare()); ok && a.host == host {
			a.lock(l)
			if w := a.pending; !ev.unprocessed && w != nil && (w.draining || !w.inbox.empty()) {
				a.mailbox().push(seal(ev)) // behind what was said before
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

// forwardRemote takes ev, which is for a domain that is not ours, through the hooks of the host that it
// comes from.
func forwardRemote(l *LoopRouter, ev *Stanza) {
	if ev.Host == nil {
		h, ok := l.router.Table.Host(domainOf(ev.From))
		if !ok {
			return // neither from nor to ours: nothing here relays
		}
		ev.Host = h
	}
	if Run(&ev.Host.Profile().Hooks.Remote, ev) == Pass {
		ev.Fail(stanza.RemoteServerNotFound)
	}
}

// runEntityChain runs the chain of a stanza at an entity of kind k, whose lock is held; 0: at a host,
// under no lock.
func runEntityChain(l *LoopRouter, h *Hooks, k KindID, ev *Stanza) {
	c := &h.Chains
	if k == KindAccount && ev.Host.service { // users logged in here once: there is nothing that has its chains
		ev.FailAbsent()
		return
	}
	if k != 0 && k != KindAccount {
		if c = h.chains(k); c == nil {
			ev.Fail(stanza.ServiceUnavailable) // stored by a module that is not loaded here
			return
		}
	}
	at := c.chainFor(ev)
	if len(at.recordHooks) > 0 && k != 0 {
		runRecorded(l, c, at, ev)
	} else {
		runChain(c, at, ev)
	}
}

// chainFor is the chain of ev's kind and target.
func (c *Chains) chainFor(ev *Stanza) *Chain[StanzaFunc] {
	switch ev.Kind {
	case stanza.Message:
		return &c.Message[ev.Target]
	case stanza.IQ:
		return &c.IQ[ev.Target]
	}
	return &c.Presence[ev.Target]
}

// runChain runs at, which is of c, and says what is owed where no hook has taken ev.
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

// handler is the one of ev's payload, of c or of every kind; nil: there is none.
func (c *Chains) handler(ev *Stanza) StanzaFunc {
	key := iqKey{ev.Target, ev.Type == stanza.TypeSet, ev.Payload().Name()}
	f, ok := c.iq[key]
	if h := ev.Host.Profile().Hooks; !ok && c != &h.Chains {
		f = h.everyKind.iq[key]
	}
	return f.f
}

// targetOf is what ev.To is, seen from its sender.
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

// directDelivered is called when l has routed its mail, with what e said straight. What waited for that
// is spread.
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

// resumeReceiving goes on with e when something of it has been: with its inbox, if that waited. Under the
// lock.
func (e sender) resumeReceiving(l *LoopRouter) {
	w := e.pending
	if !w.outgoing.dispatching() {
		if v, ok := e.live.(*liveState); ok {
			v.applyMoves()
		}
	}
	e.mailbox().resumeDrain(l)
	e.releasePending()
}

// handleAbsent answers a stanza to an address where there is nothing: as an account that gives nothing away
// would, or on a service host whatever the modules say. The domain of a service host answers what
// entities of every kind do.
func handleAbsent(e *Entity, ev *Stanza) {
	if e.host.service {
		h := e.host.Profile().Hooks
		if Run(&h.Make, ev) == Done {
			return
		}
		if e.exists() { // a hook has created it
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

// processItem takes a stanza out of e's inbox on its way, under e's lock, which is held at the call and
// not at the return. A panic ends it alone.
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
		ev.settlesOrigin = false // what is dropped is not handled: its stream has ended, or its session has another
		l.stats.Superseded++
		e.unlock(l)
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

// runRecorded is run, and then phase Record of at, whatever was said before. A store that is known to be
// full refuses a message before anything of it is delivered.
func runRecorded(l *LoopRouter, c *Chains, at *Chain[StanzaFunc], ev *Stanza) {
	if ev.Kind == stanza.Message && ev.Type != stanza.TypeError && l.router.Committer.Full() {
		ev.Fail(stanza.ResourceConstraint)
		return
	}
	ev.recorded = true
	runChain(c, at, ev)
	for i := range at.recordHooks {
		at.recordHooks[i].f(ev)
	}
}

// Deliver sends ev to one session of the account whose lock is held: its bytes, with the sender's true
// address. It reports whether the session took it; if not, ev is handled as if there were no such resource
// (RFC 6121 §8.5.3.2).
func (l *LoopRouter) Deliver(to *Session, ev *Stanza) bool {
	l.scratch = ev.Append(l.scratch[:0])
	ok, crowded, full := to.deliverOutbound(OutboundStanza{Bytes: l.scratch, Kind: ev.Kind, From: ev.From,
		To:         ev.To,
		deliveries: &ev.deliveries})
	switch {
	case ok:
		l.stats.Out[ev.Kind]++
		if ev.deliveredCount++; ev.deliveries != nil {
			ev.deliveries.n = int(ev.deliveredCount)
		}
		if ev.recorded {
			ev.deliveredTo = append(ev.deliveredTo, to)
		}
	case full:
		l.stats.Limits["held"]++
	}
	if crowded {
		l.congestedBytes += len(l.scratch)
	}
	if cap(l.scratch) > 64<<10 {
		l.scratch = nil
	}
	return ok
}

// deliverOutbound is Send, and reports besides whether more waits for the client than it takes at a time;
// full: p was refused, as there are as many messages held back as may be.
func (s *Session) deliverOutbound(p OutboundStanza) (ok, crowded, full bool) {
	out := s.lockOutbox()
	defer out.unlock()
	ok = out.send(p)
	return ok, s.wire != nil && s.wire.Congested(), !ok && out.refusesMessages()
}

// maxHops ends what mail keeps causing: a stanza is sent on this often.
const maxHops = 8

// serveTurn delivers a share: of the first entity, of those after it where that leaves room. An entity that
// has more goes behind the others.
func (sh *fanoutQueue) serveTurn() {
	l := sh.l
	l.enter()
	defer l.leave()
	defer func() { // whatever happens to one broadcast
		if sh.posted = len(sh.queues) > 0; sh.posted {
			l.Loop.Post(sh.serveFunc)
		}
	}()
	for left := fanoutBudget; left > 0 && len(sh.queues) > 0; {
		s := sh.queues[0]
		copy(sh.queues, sh.queues[1:])
		sh.queues[len(sh.queues)-1] = nil
		sh.queues = sh.queues[:len(sh.queues)-1]
		for left > 0 && len(s.parts) > 0 {
			p := &s.parts[0]
			left -= p.deliver(l, left)
			if len(p.chunks) > 0 {
				continue
			}
			l.mail.deliver() // what receivers say of it
			s.entity.sender().partDone(l, p)
			s.parts[0] = loopPart{}
			s.parts = s.parts[1:]
		}
		if len(s.parts) > 0 {
			sh.queues = append(sh.queues, s)
		}
	}
}

// deliver serves at most n receivers of p, and returns how many.
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

// partDone is called when a loop has delivered p.
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
