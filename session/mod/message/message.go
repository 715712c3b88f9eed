// Package message delivers messages to the resources of an account (RFC 6121 §5, §8.5; rows 1.1, 2.3
// to 2.4, 3.1 to 3.4, 4.1 to 4.3, 5.1, 6.1 to 6.3 of stanza_routing.txt).
//
//	romeo: <message to='juliet@localhost' type='chat'><body>Hi</body></message>
//	juliet: <message from='romeo@localhost/orchard' to='juliet@localhost' type='chat'><body>Hi</body></message>
//
// State: none. Stored: nothing. In phase Deliver a message goes to the resources that RFC 6121 §8.5
// names; what none took falls to phase Fallback, where offline storage may take it, and then back to its
// sender as service-unavailable. To a resource that is not there only a chat goes on to the bare JID;
// other types are refused (RFC 6121 §8.5.3.2.1).
package message

import (
	"canto/session"
	"canto/session/stanza"
)

// Manifest is how the loader knows this module.
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

func (module) Load(api *session.API) error {
	for _, t := range []session.Target{session.ToSelf, session.ToBare, session.ToFull} {
		api.Hooks.Message[t].Add(api.Module, session.Deliver, deliver)
	}
	for _, t := range session.Targets {
		api.Hooks.Message[t].Add(api.Module, session.Fallback, dropUnanswerable)
	}
	return nil
}

// deliver hands ev to the resources that it is for. A resource that takes nothing, as its stream is closing,
// is like one that is not there (RFC 6121 §8.5.3.2).
func deliver(ev *session.Stanza) session.Verdict {
	l, a := ev.LoopRouter(), ev.Account()
	if ev.Target == session.ToFull {
		s := a.Resource(ev.To)
		switch {
		case s != nil && l.Deliver(s, ev):
			return session.Done
		case ev.Type == stanza.TypeChat: // row 6.1: as to the bare JID
		case ev.Type == stanza.TypeNone && s != nil && s.Backlogged():
			return session.Pass // it lacks room only: stored behind what it gets
		default:
			return ev.Fail(stanza.ServiceUnavailable) // rows 6.2 and 6.3; an error is not answered
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

// deliverHighest hands ev to all resources of the highest priority of which one takes it (row 3.1). Where
// one of them only lacks room for what it gets after its stored messages, ev is stored behind those.
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
		taken, behind := false, false
		for _, s := range a.Resources() {
			if _, prio := s.Presence(); s.Available() && int(prio) == top {
				if l.Deliver(s, ev) {
					taken = true
				} else {
					behind = behind || s.Backlogged()
				}
			}
		}
		switch {
		case taken:
			return session.Done
		case behind:
			return session.Pass
		}
		below = top
	}
}

// dropUnanswerable ends what must not be answered, with nobody to take it.
func dropUnanswerable(ev *session.Stanza) session.Verdict {
	if ev.Type == stanza.TypeError || ev.Type == stanza.TypeHeadline {
		return session.Done
	}
	return session.Pass
}
