package roster

import (
	"testing"

	"canto/session/stanza"
)

// The nine states of RFC 6121 section A.1.
var (
	none    = State{}
	noneOut = State{PendingOut: true}
	noneIn  = State{PendingIn: true}
	noneOI  = State{PendingOut: true, PendingIn: true}
	to      = State{To: true}
	toIn    = State{To: true, PendingIn: true}
	from    = State{From: true}
	fromOut = State{From: true, PendingOut: true}
	both    = State{To: true, From: true}
)

type row struct {
	s    State
	pass bool
	next State
}

// The tables of RFC 6121 sections A.2 and A.3, row by row. K59.
func TestAttackK59Tables(t *testing.T) {
	for name, c := range map[string]struct {
		move func(State, stanza.Type) Transition
		typ  stanza.Type
		rows []row
	}{
		"A.2.1 outbound subscribe": {Outbound, stanza.TypeSubscribe, []row{
			{none, true, noneOut}, {noneOut, true, noneOut}, {noneIn, true, noneOI}, {noneOI, true, noneOI},
			{to, true, to}, {toIn, true, toIn}, {from, true, fromOut}, {fromOut, true, fromOut}, {both, true, both}}},
		"A.2.2 outbound unsubscribe": {Outbound, stanza.TypeUnsubscribe, []row{
			{none, true, none}, {noneOut, true, none}, {noneIn, true, noneIn}, {noneOI, true, noneIn},
			{to, true, none}, {toIn, true, noneIn}, {from, true, from}, {fromOut, true, from}, {both, true, from}}},
		"A.2.3 outbound subscribed": {Outbound, stanza.TypeSubscribed, []row{
			{none, false, State{Approved: true}}, {noneOut, false, State{PendingOut: true, Approved: true}},
			{noneIn, true, from}, {noneOI, true, fromOut},
			{to, false, State{To: true, Approved: true}}, {toIn, true, both},
			{from, false, from}, {fromOut, false, fromOut}, {both, false, both}}},
		"A.2.4 outbound unsubscribed": {Outbound, stanza.TypeUnsubscribed, []row{
			{none, false, none}, {noneOut, false, noneOut}, {noneIn, true, none}, {noneOI, true, noneOut},
			{to, false, to}, {toIn, true, to}, {from, true, none}, {fromOut, true, noneOut}, {both, true, to},
			{State{Approved: true}, false, none}}},
		"A.3.1 inbound subscribe": {Inbound, stanza.TypeSubscribe, []row{
			{none, true, noneIn}, {noneOut, true, noneOI}, {noneIn, false, noneIn}, {noneOI, false, noneOI},
			{to, true, toIn}, {toIn, false, toIn}, {from, false, from}, {fromOut, false, fromOut}, {both, false, both},
			{State{Approved: true}, false, from}, {State{To: true, Approved: true}, false, both}}},
		"A.3.2 inbound unsubscribe": {Inbound, stanza.TypeUnsubscribe, []row{
			{none, false, none}, {noneOut, false, noneOut}, {noneIn, true, none}, {noneOI, true, noneOut},
			{to, false, to}, {toIn, true, to}, {from, true, none}, {fromOut, true, noneOut}, {both, true, to}}},
		"A.3.3 inbound subscribed": {Inbound, stanza.TypeSubscribed, []row{
			{none, false, none}, {noneOut, true, to}, {noneIn, false, noneIn}, {noneOI, true, toIn},
			{to, false, to}, {toIn, false, toIn}, {from, false, from}, {fromOut, true, both}, {both, false, both}}},
		"A.3.4 inbound unsubscribed": {Inbound, stanza.TypeUnsubscribed, []row{
			{none, false, none}, {noneOut, true, none}, {noneIn, false, noneIn}, {noneOI, true, noneIn},
			{to, true, none}, {toIn, true, noneIn}, {from, false, from}, {fromOut, true, from}, {both, true, from}}},
	} {
		for _, r := range c.rows {
			m := c.move(r.s, c.typ)
			if m.Forward != r.pass || m.State != r.next {
				t.Errorf("%s from %+v: pass %v, next %+v; the RFC has %v, %+v", name, r.s, m.Forward, m.State, r.pass,
					r.next)
			}
		}
	}
}

// After any sequence of stanzas the state is one of the nine, with or without pre-approval, and the
// contact gets presence exactly while From is true. K59.
func TestAttackK59Closed(t *testing.T) {
	seen := map[State]bool{}
	var visit func(State)
	visit = func(s State) {
		if seen[s] {
			return
		}
		seen[s] = true
		if s.To && s.PendingOut || s.From && s.PendingIn || s.From && s.Approved || s.PendingIn && s.Approved {
			t.Fatalf("%+v is no state of RFC 6121 §A.1", s)
		}
		if unpackState(s.bits()) != s {
			t.Fatalf("%+v does not survive being stored", s)
		}
		for k := stanza.TypeSubscribe; k <= stanza.TypeUnsubscribed; k++ {
			for _, m := range []Transition{Outbound(s, k), Inbound(s, k)} {
				if m.SendPresence != (m.From && !s.From) {
					t.Errorf("%+v, %d: Show is %v and From goes from %v to %v", s, k, m.SendPresence, s.From, m.From)
				}
				if m.SendUnavailable != (s.From && !m.From) {
					t.Errorf("%+v, %d: Hide is %v and From goes from %v to %v", s, k, m.SendUnavailable, s.From, m.From)
				}
				visit(m.State)
			}
		}
	}
	visit(State{})
	if len(seen) < 9 {
		t.Errorf("only %d states can be reached", len(seen))
	}
}
