package session

import (
	"canto/session/stanza"
	"canto/xmlstream"
)

// replyHeader writes the start of an answer to ev: its addresses and id.
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

// Reply answers an iq by mail to ev.From: the result's addresses are in place, and build, which may
// be nil, adds the payload.
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

// Fail answers by mail with a stanza error of this condition and its usual type, unless ev is an
// error or an iq result itself (RFC 6120 §8.3.1).
func (ev *Stanza) Fail(c stanza.Condition) Verdict { return ev.FailWith(stanza.Error{Condition: c}) }

// FailWith is Fail with more to say.
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

// sendReply mails an answer to ev to ev.From. One that refuses ev unseen is nothing that the entity says:
// it waits neither behind that nor in the inbox of the one that asked, so that refusals, of which there
// is no end, never pile up.
func sendReply(ev *Stanza, el []byte) {
	ev.replied = true
	if ev.noReply {
		return
	}
	env := envelope{from: ev.To, to: ev.From, kind: ev.Kind, hops: ev.Hops + 1}
	if !ev.From.IsBare() {
		env.form = formReply // to a session of ours it needs no chain
	}
	if l := ev.loopRouter; ev.unprocessed {
		env.unprocessed, env.origin, env.originLoopNumber = true, l.origin, l.originLoopNumber
		l.mail.add(env, el)
		return
	}
	ev.loopRouter.sendEnvelope(env, el)
}

// FailAbsent answers ev as if its recipient, an address of ours, had no account (RFC 6121 §8.5.1). A
// module whose account hides from the sender answers so.
func (ev *Stanza) FailAbsent() Verdict {
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

// failDeleted answers ev, whose entity was deleted while it was worked on, as if there had been none (RFC
// 6121 §8.5.1). What an account's own sessions asked has ended with their streams.
func failDeleted(ev *Stanza) {
	if ev.From.Bare() != ev.entity.addr {
		ev.FailAbsent()
	}
}
