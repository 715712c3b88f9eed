package session

import (
	"canto/session/stanza"
	"canto/xmlstream"
)

// deliver routes the mail in order, with no lock held; what is mailed meanwhile goes behind.
func (m *mail) deliver() {
	if m.moving || m.next == len(m.list) && len(m.speakers) == 0 && len(m.pulls) == 0 {
		return
	}
	m.moving = true
	defer func() { m.moving = false }() // whatever a letter meets
	for {
		for m.next < len(m.list) || len(m.pulls) > 0 {
			if n := len(m.pulls); n > 0 {
				s := m.pulls[n-1]
				m.pulls = m.pulls[:n-1]
				pull(m.l, s)
				continue
			}
			env := &m.list[m.next]
			m.next++
			m.route(env)
		}
		clear(m.list)
		m.list, m.next = m.list[:0], 0
		if len(m.speakers) == 0 {
			break
		}
		e := m.speakers[len(m.speakers)-1]
		m.speakers = m.speakers[:len(m.speakers)-1]
		e.speaker().spoken(m.l)
	}
	if m.buf = m.buf[:0]; cap(m.buf) > 64<<10 {
		m.buf = nil
	}
	if cap(m.list) > 1024 {
		m.list = nil
	}
}

// route takes one letter on its way. A panic ends it alone.
func (m *mail) route(env *envelope) {
	l := m.l
	if env.form == anAnswer && !mayBeSession(l, env.to) {
		env.form = aStanza // to another domain, or an entity that has asked: as any stanza
	}
	if env.form != aStanza {
		ev := l.stack.push(l)
		defer l.stack.pop()
		env.fill(l, ev, xmlstream.Element{})
		ev.raw = env.bytes
		walk(l, ev)
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
func (m *mail) routeElement(env *envelope, e xmlstream.Element) {
	l := m.l
	ev := l.stack.push(l)
	defer l.stack.pop()
	env.fill(l, ev, e)
	walk(l, ev)
}

// answer gives an answer to the session that asked, if it is here. Under the lock.
func (a *Account) answer(l *Local, ev *Stanza) {
	if s := a.Resource(ev.To); s != nil {
		l.stats.Out[ev.Kind]++
		s.Send(Parcel{Bytes: ev.raw, Kind: ev.Kind})
	}
}

// walk takes ev on its way: a fresh stanza through its sender's account and on to its recipient, any
// other straight to its recipient. No lock is held at the call or at the return; a panic ends ev alone.
func walk(l *Local, ev *Stanza) {
	l.origin, l.originLoop = ev.origin, ev.loop
	defer arrived(l, ev, l.stack.depth)
	if !ev.Fresh {
		forward(l, ev)
		return
	}
	e := &ev.Session.account.Entity
	e.lock(l)
	switch {
	case ev.Session.stream != ev.origin.Stream || ev.Session.account.index(ev.Session) < 0:
		l.stats.Superseded++
		ev.carrier = false // what is dropped is not handled
		e.unlock(l)        // a superseded stream, or a session that was ended: there is nothing to answer
	case e.mailbox().blocked():
		e.mailbox().enqueue(l, ev)
		e.unlock(l)
	default:
		if step(l, e, ev) {
			forward(l, ev)
		}
	}
}

// arrived is deferred around the way of ev: the boundary of its panics, and its end.
func arrived(l *Local, ev *Stanza, depth int) {
	if r := recover(); r != nil {
		l.panicked(r, frame{who: ev.From, ev: ev, depth: depth})
	}
	ev.land(l)
}

// step takes ev through what e has for it: the Pre chain of a fresh stanza, else the chain of one that has
// arrived. The lock of e is held at the call and given back. It reports whether ev goes on to its recipient.
func step(l *Local, e *Entity, ev *Stanza) (onward bool) {
	e.used = l.Loop.Tick()
	ev.at = e
	switch {
	case ev.form == aPull:
		pulledFrom(e, l, ev)
	case ev.form == anAnswer:
		e.account().answer(l, ev)
	case ev.form != aStanza:
		offerTo(e, l, ev)
	case ev.Fresh && !e.resident.exists:
		ev.Fail(stanza.InternalServerError) // the account was deleted
	case ev.Fresh:
		onward = depart(l, e.host.Profile().Hooks, ev)
		failed := ev.failed
		writeBatch(ev)
		onward = onward && ev.failed == failed  // else it is answered
		if onward && e.speaker().elsewhere(l) { // what e has said before is still under way: it comes first
			ev.Fresh = false
			e.speaker().queue(l, seal(ev))
			onward, ev.carrier = false, false
		}
	case !e.resident.exists:
		nothingAt(e, ev)
	default:
		arrive(l, e.host.Profile().Hooks, e.kind, ev)
	}
	writeBatch(ev)
	e.unlock(l)
	return onward
}

// depart runs the Pre chain of a fresh stanza, and for ToSelf all there is. true: it goes on.
func depart(l *Local, h *Hooks, ev *Stanza) (onward bool) {
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
	ev.Fresh = false
	arrive(l, h, Accounts, ev)
	return false
}

// forward takes ev to what it is addressed to, with no lock held.
func forward(l *Local, ev *Stanza) {
	ev.Fresh, ev.Session, ev.stream, ev.at = false, nil, nil, nil
	if ev.Hops >= maxHops && ev.form != anAnswer {
		l.stats.Limits["hops"]++
		return
	}
	host, ours := l.router.Table.Host(domainOf(ev.To))
	switch {
	case ev.form == anOffer || ev.form == anAnswer:
		if a, ok := l.router.Table.Loaded(ev.To.Bare()); ok && a.host == host { // else the one that asked is gone
			a.lock(l)
			if w := a.waits; !ev.unseen && w != nil && (w.running || !w.inbox.empty()) {
				a.mailbox().put(seal(ev)) // behind what was said before
				a.unlock(l)
				return
			}
			step(l, &a.Entity, ev)
		}
		return
	case !ours && ev.form != aStanza:
		return
	case !ours:
		forwardRemote(l, ev)
		return
	}
	ev.Host = host
	if ev.form == aPull {
		ev.Target = ToBare
	} else if ev.Target = targetOf(l, ev); ev.Target == ToSelf {
		ev.Target = ToBare
	}
	if ev.Target == ToHost && !host.service {
		arrive(l, host.Profile().Hooks, 0, ev)
		return
	}
	e, ok := l.router.Table.lock(l, host, ev.To.Bare())
	switch {
	case !ok && ev.form != aStanza:
	case !ok:
		ev.Absent()
	case e.mailbox().blocked():
		e.mailbox().enqueue(l, ev)
		e.unlock(l)
	default:
		step(l, e, ev)
	}
}

// forwardRemote takes ev, which is for a domain that is not ours, through the hooks of the host that it
// comes from.
func forwardRemote(l *Local, ev *Stanza) {
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

// arrive runs the chain of a stanza at an entity of kind k, whose lock is held; 0: at a host, under no lock.
func arrive(l *Local, h *Hooks, k KindID, ev *Stanza) {
	c := &h.Chains
	if k == Accounts && ev.Host.service { // users logged in here once: there is nothing that has its chains
		ev.Absent()
		return
	}
	if k != 0 && k != Accounts {
		if c = h.chains(k); c == nil {
			ev.Fail(stanza.ServiceUnavailable) // stored by a module that is not loaded here
			return
		}
	}
	at := c.of(ev)
	if len(at.records) > 0 && k != 0 {
		runRecorded(l, c, at, ev)
	} else {
		run(c, at, ev)
	}
}

// of is the chain of ev's kind and target.
func (c *Chains) of(ev *Stanza) *Chain[StanzaFunc] {
	switch ev.Kind {
	case stanza.Message:
		return &c.Message[ev.Target]
	case stanza.IQ:
		return &c.IQ[ev.Target]
	}
	return &c.Presence[ev.Target]
}

// run runs at, which is of c, and says what is owed where no hook has taken ev.
func run(c *Chains, at *Chain[StanzaFunc], ev *Stanza) {
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
		f = h.every.iq[key]
	}
	return f.f
}

// Absent answers ev as if its recipient, an address of ours, had no account (RFC 6121 §8.5.1). A module whose
// account hides from the sender answers so.
func (ev *Stanza) Absent() Verdict {
	switch ev.Kind {
	case stanza.Presence:
		return Done
	case stanza.Message:
		if ev.Type == stanza.TypeHeadline && ev.Target != ToFull {
			return Done // §8.5.2.2.1; to a resource that is not there §8.5.3.2.1 has an error
		}
	case stanza.IQ:
		if Run(&ev.Host.Profile().Hooks.Absent, ev) == Done {
			return Done
		}
	}
	return ev.Fail(stanza.ServiceUnavailable)
}

// targetOf is what ev.To is, seen from its sender.
func targetOf(l *Local, ev *Stanza) Target {
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

// orphaned answers ev, whose entity was deleted while it was worked on, as if there had been none (RFC 6121
// §8.5.1). What an account's own sessions asked has ended with their streams.
func orphaned(ev *Stanza) {
	if ev.From.Bare() != ev.at.addr {
		ev.Absent()
	}
}

// spoken is called when l has routed its mail, with what e said straight. What waited for that is spread.
func (e speaker) spoken(l *Local) {
	e.lock(l)
	e.straight = 0
	if w := e.waits; w != nil {
		for _, j := range w.out.queue {
			e.spread(l, j)
		}
		w.out.queue = nil
		e.delivered(l)
	}
	e.unlock(l)
}

// delivered goes on with e when something of it has been: with its inbox, if that waited. Under the lock.
func (e speaker) delivered(l *Local) {
	w := e.waits
	if !w.out.spread() {
		if v, ok := e.live.(*lived); ok {
			v.resettle()
		}
	}
	e.mailbox().resume(l)
	e.calm()
}

// turn delivers a share: of the first entity, of those after it where that leaves room. An entity that
// has more goes behind the others.
func (sh *shares) turn() {
	l := sh.l
	l.enter()
	defer l.leave()
	defer func() { // whatever happens to one broadcast
		if sh.posted = len(sh.senders) > 0; sh.posted {
			l.Loop.Post(sh.serve)
		}
	}()
	for left := sayShare; left > 0 && len(sh.senders) > 0; {
		s := sh.senders[0]
		copy(sh.senders, sh.senders[1:])
		sh.senders[len(sh.senders)-1] = nil
		sh.senders = sh.senders[:len(sh.senders)-1]
		for left > 0 && len(s.parts) > 0 {
			p := &s.parts[0]
			left -= p.deliver(l, left)
			if len(p.to) > 0 {
				continue
			}
			l.mail.deliver() // what receivers say of it
			s.of.speaker().partDone(l, p)
			s.parts[0] = part{}
			s.parts = s.parts[1:]
		}
		if len(s.parts) > 0 {
			sh.senders = append(sh.senders, s)
		}
	}
}

// deliver serves at most n receivers of p, and returns how many.
func (p *part) deliver(l *Local, n int) (served int) {
	before := l.crowded
	defer func() { p.crowded = p.crowded || l.crowded > before }()
	if p.to == nil {
		l.mail.route(&p.letter)
		return 1
	}
	el, err := l.Parser.Element(p.letter.bytes)
	if err != nil {
		l.Log.Error("a broadcast that does not parse", "from", p.letter.from.String(), "err", err)
		p.to = nil
		return 1
	}
	defer l.Parser.Release(el)
	for ; served < n && len(p.to) > 0; served++ {
		c := p.to[0]
		env := p.letter
		env.to = c.to[p.at]
		l.mail.routeElement(&env, el)
		if p.at++; p.at == len(c.to) {
			p.to, p.at = p.to[1:], 0
		}
	}
	return served
}

// partDone is called when a loop has delivered p.
func (e speaker) partDone(l *Local, p *part) {
	e.lock(l)
	d := &e.waits.out
	d.left--
	p.dispatch.crowded = p.dispatch.crowded || p.crowded
	if p.dispatch.left--; p.dispatch.left == 0 {
		e.departed(p.dispatch)
	}
	e.delivered(l)
	e.unlock(l)
}

// nothingAt answers a stanza to an address where there is nothing: as an account that gives nothing away
// would, or on a service host whatever the modules say. The domain of a service host answers what
// entities of every kind do.
func nothingAt(e *Entity, ev *Stanza) {
	if e.host.service {
		h := e.host.Profile().Hooks
		if Run(&h.Make, ev) == Done {
			return
		}
		if e.exists() { // a hook has created it
			arrive(ev.on, h, e.kind, ev)
			return
		}
		if ev.Kind == stanza.IQ && ev.Target == ToHost && (ev.Type == stanza.TypeGet || ev.Type == stanza.TypeSet) {
			if f := h.every.handler(ev); f != nil && f(ev) == Done {
				return
			}
		}
	}
	ev.Absent()
}

// open takes a stanza out of e's inbox on its way, under e's lock, which is held at the call and not at
// the return. A panic ends it alone.
func (e mailbox) open(l *Local, env *envelope, err error) {
	var el xmlstream.Element
	if env.form == aStanza {
		var perr error
		if el, perr = l.Parser.Element(env.bytes); perr != nil {
			e.unlock(l)
			return
		}
		defer l.Parser.Release(el)
	}
	ev := l.stack.push(l)
	defer l.stack.pop()
	env.fill(l, ev, el)
	ev.raw = env.bytes
	l.origin, l.originLoop = ev.origin, ev.loop
	defer ev.land(l)
	ev.Host = e.host
	if !env.fresh && env.form == aStanza {
		if ev.Target = targetOf(l, ev); ev.Target == ToSelf {
			ev.Target = ToBare
		}
	}
	defer l.boundary(newFrame(l, e.addr, ev))
	if env.fresh && !findSender(ev, e.Entity) {
		ev.carrier = false // what is dropped is not handled: its stream has ended, or its session has another
		l.stats.Superseded++
		e.unlock(l)
		return
	}
	if err != nil && ev.form == aStanza {
		if err == ErrBusy {
			ev.Fail(stanza.ResourceConstraint)
		} else {
			ev.Fail(stanza.InternalServerError)
		}
		e.unlock(l)
		return
	}
	if step(l, e.Entity, ev) {
		forward(l, ev)
	}
}

// runRecorded is run, and then phase Record of at, whatever was said before. A store that is known to be
// full refuses a message before anything of it is delivered.
func runRecorded(l *Local, c *Chains, at *Chain[StanzaFunc], ev *Stanza) {
	if ev.Kind == stanza.Message && ev.Type != stanza.TypeError && l.router.Durable.Full() {
		ev.Fail(stanza.ResourceConstraint)
		return
	}
	ev.recorded = true
	run(c, at, ev)
	for i := range at.records {
		at.records[i].f(ev)
	}
}

// Deliver sends ev to one session of the account whose lock is held: its bytes, with the sender's true
// address. It reports whether the session took it; if not, ev is handled as if there were no such resource
// (RFC 6121 §8.5.3.2).
func (l *Local) Deliver(to *Session, ev *Stanza) bool {
	l.scratch = ev.Append(l.scratch[:0])
	ok, crowded, full := to.deliver(Parcel{Bytes: l.scratch, Kind: ev.Kind, From: ev.From, To: ev.To,
		copies: &ev.copies})
	switch {
	case ok:
		l.stats.Out[ev.Kind]++
		if ev.taken++; ev.copies != nil {
			ev.copies.n = int(ev.taken)
		}
		if ev.recorded {
			ev.takers = append(ev.takers, to)
		}
	case full:
		l.stats.Limits["held"]++
	}
	if crowded {
		l.crowded += len(l.scratch)
	}
	if cap(l.scratch) > 64<<10 {
		l.scratch = nil
	}
	return ok
}

// deliver is Send, and reports besides whether more waits for the client than it takes at a time; full: p was
// refused, as there are as many messages held back as may be.
func (s *Session) deliver(p Parcel) (ok, crowded, full bool) {
	out := s.lockOut()
	defer out.unlock()
	ok = out.send(p)
	return ok, s.wire != nil && s.wire.Crowded(), !ok && out.refuses()
}

// maxHops ends what mail keeps causing: a stanza is sent on this often.
const maxHops = 8
