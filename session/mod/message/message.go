// Package message delivers messages to the resources of an account (RFC 6121 sections 5 and 8.5; rows 1.1,
// 2.3 to 2.4, 3.1 to 3.4, 4.1 to 4.3, 5.1, 6.1 to 6.3 of stanza_routing.txt).
//
//	romeo: <message to='juliet@localhost' type='chat'><body>Hi</body></message>
//	juliet: <message from='romeo@localhost/orchard' to='juliet@localhost' type='chat'><body>Hi</body></message>
//
// In phase Deliver a message goes to the resources that RFC 6121 section 8.5 names. If no resource takes
// it, phase Fallback follows, in which module offline may store it. After that the kernel answers the
// sender with service-unavailable. A message to a resource that does not exist goes to the bare JID only
// if its type is chat; other types are refused (RFC 6121 section 8.5.3.2.1).
//
// In memory: nothing. Stored: nothing. Hooks: Message in the phases Deliver and Fallback, under the
// recipient's lock.
package message

import (
	"canto/session"
	"canto/session/stanza"
)

// Manifest describes this module to the loader.
var Manifest = session.Manifest{
	Name:     "message",
	Spec:     "RFC 6121 sections 5 and 8",
	Summary:  "delivers messages",
	Cases:    "every row of the routing table; ties of priority go to all",
	Provides: []session.Feature{"message-delivery"},
	Requires: []session.Feature{"accounts", "message"},
	New:      func() session.Module { return module{} },
}

type module struct{}

// Load implements [session.Module].
func (module) Load(api *session.API) error {
	for _, t := range []session.Target{session.ToSelf, session.ToBare, session.ToFull} {
		api.Hooks.Message[t].Add(api.Module, session.Deliver, deliver)
	}
	for _, t := range session.Targets {
		api.Hooks.Message[t].Add(api.Module, session.Fallback, dropUnanswerable)
	}
	return nil
}

// deliver delivers ev to the resources that it is for. A resource that takes nothing, because its stream
// is closing, is like one that does not exist (RFC 6121 section 8.5.3.2). Under the recipient's lock. Its
// steps:
//
//  1. To a full JID: deliver to that resource. If it does not take the message, a chat goes on as if it
//     were to the bare JID; a normal message passes to module offline if only the session's queue is full;
//     any other type is refused.
//  2. To the bare JID, by type: groupchat is refused by the kernel, a headline goes to all available
//     resources, an error is dropped, the other types go to deliverHighest.
func deliver(ev *session.Stanza) session.Verdict {
	l, a := ev.LoopRouter(), ev.Account()
	if ev.Target == session.ToFull {
		s := a.Resource(ev.To)
		switch {
		case s != nil && l.Deliver(s, ev):
			return session.Done
		case ev.Type == stanza.TypeChat: // row 6.1: as to the bare JID
		case ev.Type == stanza.TypeNone && s != nil && s.Backlogged():
			return session.Pass // it is stored after the messages that the session gets
		default:
			return ev.Fail(stanza.ServiceUnavailable) // rows 6.2 and 6.3; Fail does not answer an error
		}
	}
	switch ev.Type {
	case stanza.TypeGroupchat:
		return session.Pass // refused: rows 3.2, 4.2
	case stanza.TypeHeadline:
		for _, s := range a.Resources() {
			if _, prio := s.Presence(); s.Available() && prio >= 0 {
				l.Deliver(s, ev)
			}
		}
		return session.Done
	case stanza.TypeError:
		return session.Done
	}
	return deliverHighest(ev)
}

// deliverHighest delivers ev to all available resources of the highest priority at which one takes it (row
// 3.1). If a resource of that priority did not take it only because its queue is full during a replay of
// stored messages, ev passes: module offline stores it after those. Under the recipient's lock.
func deliverHighest(ev *session.Stanza) session.Verdict {
	l, a := ev.LoopRouter(), ev.Account()
	for below := 128; ; {
		top := -1
		for _, s := range a.Resources() {
			if _, prio := s.Presence(); s.Available() && int(prio) > top && int(prio) < below {
				top = int(prio)
			}
		}
		if top < 0 {
			return session.Pass
		}
		taken, backlogged := false, false
		for _, s := range a.Resources() {
			if _, prio := s.Presence(); s.Available() && int(prio) == top {
				if l.Deliver(s, ev) {
					taken = true
				} else {
					backlogged = backlogged || s.Backlogged()
				}
			}
		}
		switch {
		case taken:
			return session.Done
		case backlogged:
			return session.Pass
		}
		below = top
	}
}

// dropUnanswerable drops errors and headlines that no resource took: they must not be answered.
func dropUnanswerable(ev *session.Stanza) session.Verdict {
	if ev.Type == stanza.TypeError || ev.Type == stanza.TypeHeadline {
		return session.Done
	}
	return session.Pass
}
