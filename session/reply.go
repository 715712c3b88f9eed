package session

import (
	"canto/session/stanza"
	"canto/xmlstream"
)

// replyHeader opens the element of an answer to ev in a: its type, the id of ev, and the
// addresses of ev swapped.
func replyHeader(ev *Stanza, a *xmlstream.Appender, typ string) {
	a.Open(ev.Kind.Name())
	a.Attr(stanza.AttrType, typ)
	if id, ok := ev.Element.Attr(stanza.AttrID); ok {
		a.AttrBytes(stanza.AttrID, id)
	}
	if !ev.noTo && !ev.To.IsZero() {
		a.Attr(stanza.AttrFrom, ev.To.String())
	}
	a.Attr(stanza.AttrTo, ev.From.String())
}

// Reply answers an iq with a result, by mail to ev.From. The addresses and the id are set; build,
// which may be nil, appends the payload. It returns Done.
func (ev *Stanza) Reply(build func(ev *Stanza, a *xmlstream.Appender)) Verdict {
	a := ev.Appender()
	replyHeader(ev, a, "result")
	if build != nil {
		build(ev, a)
	}
	a.Close()
	sendReply(ev, a.B)
	return Done
}

// Fail answers ev with a stanza error of the condition and its usual type, by mail to ev.From. It
// sends nothing if ev is an error or an iq result itself (RFC 6120 section 8.3.1). It returns
// Done.
func (ev *Stanza) Fail(c stanza.Condition) Verdict { return ev.FailWith(stanza.Error{Condition: c}) }

// FailWith is Fail with the fields of e: a type, a text, an application condition.
func (ev *Stanza) FailWith(e stanza.Error) Verdict {
	if ev.Type == stanza.TypeError || ev.Type == stanza.TypeResult && ev.Kind == stanza.IQ ||
		ev.form != formStanza {
		return Done
	}
	ev.failed = true
	ev.loopRouter.stats.Bounced[e.Condition]++
	a := ev.Appender()
	replyHeader(ev, a, "error")
	e.Append(a)
	a.Close()
	sendReply(ev, a.B)
	return Done
}

// sendReply mails el, the answer to ev, to ev.From. It is dropped if ev has an answer already. If
// no entity has processed ev (its inbox is full), the answer is no mail of the entity: it waits
// neither for what the entity has in flight nor in the inbox of the sender. So refusals, of which
// there may be any number, never pile up.
func sendReply(ev *Stanza, el []byte) {
	ev.replied = true
	if ev.noReply {
		return
	}
	env := envelope{from: ev.To, to: ev.From, kind: ev.Kind, hops: ev.Hops + 1}
	if !ev.From.IsBare() {
		env.form = formReply // no chain needs to process it, if To is a session of ours
	}
	if l := ev.loopRouter; ev.unprocessed {
		env.unprocessed, env.origin, env.originLoopNumber = true, l.origin, l.originLoopNumber
		l.mail.add(env, el)
		return
	}
	ev.loopRouter.sendEnvelope(env, el)
}

// FailAbsent answers ev like a stanza to an address of ours without an account (RFC 6121 section
// 8.5.1): presence and most headlines are dropped, an iq may be answered by a hook
// (Hooks.Absent), all else gets service-unavailable. A module that hides an account from the
// sender answers with it, so that the sender cannot tell the two cases apart.
func (ev *Stanza) FailAbsent() Verdict {
	switch ev.Kind {
	case stanza.Presence:
		return Done
	case stanza.Message:
		if ev.Type == stanza.TypeHeadline && ev.Target != ToFull {
			return Done // section 8.5.2.2.1; to a resource that is not there section 8.5.3.2.1 has an error
		}
	case stanza.IQ:
		if Run(&ev.Host.Profile().Hooks.Absent, ev) == Done {
			return Done
		}
	}
	return ev.Fail(stanza.ServiceUnavailable)
}

// failDeleted answers ev, if its entity was deleted while a worker or a commit was under way, like
// a stanza to an absent entity. What the account's own sessions have sent gets no answer: their
// streams have ended.
func failDeleted(ev *Stanza) {
	if ev.From.Bare() != ev.entity.addr {
		ev.FailAbsent()
	}
}
