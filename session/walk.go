package session

import (
	"canto/session/jid"
	"canto/session/stanza"
)

// walk takes ev on its way: a fresh stanza through its sender's account and on to its recipient, any other straight
// to its recipient. No lock is held at the call or at the return; a panic ends ev alone.
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
	case ev.form != aStanza:
		offerTo(e, l, ev)
	case ev.Fresh && !e.resident.exists:
		ev.Fail(stanza.InternalServerError) // the account was deleted
	case ev.Fresh:
		onward = depart(l, e.host.Profile().Hooks, ev)
		writeBatch(ev)
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
	if ev.Hops >= maxHops {
		l.stats.Limits["hops"]++
		return
	}
	host, ours := l.router.Table.Host(domainOf(ev.To))
	switch {
	case ev.form == anOffer:
		if a, ok := l.router.Table.Loaded(ev.To.Bare()); ok && a.host == host { // else the one that asked is gone
			a.lock(l)
			if w := a.waits; w != nil && (w.running || !w.inbox.empty()) {
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
		remote(l, ev)
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

// remote takes ev, which is for a domain that is not ours, through the hooks of the host that it comes from.
func remote(l *Local, ev *Stanza) {
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
	if k != 0 && k != Accounts {
		if c = h.chains(k); c == nil {
			ev.Fail(stanza.ServiceUnavailable) // stored by a module that is not loaded here
			return
		}
	}
	at, run := &c.Presence[ev.Target], runPresence
	switch ev.Kind {
	case stanza.Message:
		at, run = &c.Message[ev.Target], runMessage
	case stanza.IQ:
		at = &c.IQ[ev.Target]
		ev.iqs, run = c, runIQ
	}
	if len(at.records) > 0 && k != 0 {
		records(l, at, ev, run)
	} else {
		run(l, at, ev)
	}
}

func runMessage(_ *Local, c *Chain[StanzaFunc], ev *Stanza) {
	if Run(c, ev) == Pass {
		ev.Fail(stanza.ServiceUnavailable)
	}
}

func runPresence(_ *Local, c *Chain[StanzaFunc], ev *Stanza) { Run(c, ev) }

func runIQ(_ *Local, c *Chain[StanzaFunc], ev *Stanza) {
	if runPhases(c, ev, Guard, Deliver) == Done {
		return
	}
	if ev.Type == stanza.TypeGet || ev.Type == stanza.TypeSet {
		if f := ev.iqs.handler(ev); f != nil && f(ev) == Done {
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

// target is what ev.To is, seen from its sender.
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

// A stack has the Stanzas that chains run on. The loop's.
type stack struct {
	list  [8]Stanza
	depth int
}

// push is a Stanza of l, to be filled in.
func (s *stack) push(l *Local) *Stanza {
	if s.depth == len(s.list) {
		panic("session: stanzas nested too deep")
	}
	s.depth++
	ev := &s.list[s.depth-1]
	ev.on = l
	return ev
}

// pop gives back what push gave last.
func (s *stack) pop() {
	s.depth--
	ev := &s.list[s.depth]
	if ev.other {
		ev.on.Parser.Release(ev.Element)
	}
	extra, takers := ev.extra[:0], ev.takers[:0]
	*ev = Stanza{}
	if cap(extra) <= 4096 {
		ev.extra = extra
	}
	clear(takers[:cap(takers)])
	ev.takers = takers
}

func domainOf(j jid.JID) string {
	_, d, _ := j.Parts()
	return d
}
