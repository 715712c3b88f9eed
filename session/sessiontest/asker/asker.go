// Package asker makes an account ask what its client names, and reports what came of it. It shows how the
// server's own requests are made ([session.LoopRouter.Ask]). It is for tests.
//
//	C: <iq type='set' id='1'><ask xmlns='urn:canto:test:asker' to='juliet@localhost/balcony'/></iq>
//	S: <iq type='result' id='1'/>
//	   (juliet gets <iq type='get' id='ask-1' from='romeo@localhost'><version xmlns='jabber:iq:version'/></iq>,
//	   and answers)
//	S: <message type='headline' from='romeo@localhost'>
//	     <outcome xmlns='urn:canto:test:asker'>result</outcome></message>
//
// If the account has too many requests without an answer, the iq is answered with resource-constraint.
//
// In memory: nothing. Stored: nothing. Hooks: one iq handler, under the account's lock.
package asker

import (
	"canto/session"
	"canto/session/stanza"
	"canto/xmlstream"
)

// Manifest describes this module to the loader.
var Manifest = session.Manifest{
	Name:     "test-asker",
	Spec:     "RFC 6120 section 8.2.3",
	Summary:  "asks what a client names",
	Cases:    "result, error, timeout",
	Requires: []session.Feature{"accounts", "iq"},
	New:      func() session.Module { return module{} },
}

// ns is the namespace of the module.
const ns = "urn:canto:test:asker"

var (
	askName = xmlstream.N(ns, "ask")
	outcome = xmlstream.N(ns, "outcome")
	version = xmlstream.N("jabber:iq:version", "query")
)

type module struct{}

// Load implements [session.Module].
func (module) Load(api *session.API) error {
	api.Hooks.OnIQ(api.Module, true, askName, ask, session.ToSelf)
	return nil
}

// ask sends the request. Under the account's lock.
func ask(ev *session.Stanza) session.Verdict {
	v, _ := ev.Payload().Attr(stanza.AttrTo)
	to, err := ev.LoopRouter().JID(v)
	if err != nil {
		return ev.Fail(stanza.JIDMalformed)
	}
	who, client := ev.Account().JID(), ev.From
	if err := ev.LoopRouter().Ask(session.Question{From: ev.Account(), To: to,
		Payload: func(a *xmlstream.Appender) { a.Open(version).Close() },
		Then: func(l *session.LoopRouter, _ *session.Entity, answer *session.Stanza, err error) {
			text := "error"
			switch {
			case err == session.ErrAskEnded:
				return
			case err == session.ErrAskTimeout:
				text = "timeout"
			case answer.Type == stanza.TypeResult:
				text = "result"
			}
			a := l.Appender()
			a.Open(stanza.MessageName).Attr(stanza.AttrType, "headline").Open(outcome).Text(text).Close().Close()
			l.Send(who, client, a.B)
		}}); err != nil {
		return ev.Fail(stanza.ResourceConstraint)
	}
	return ev.Reply(nil)
}
