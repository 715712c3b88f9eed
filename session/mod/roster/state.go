package roster

import "canto/session/stanza"

// A State is the subscription state of one contact. The first four fields give the nine states of RFC 6121
// Appendix A.1; pre-approval (section 3.4) is independent of them.
type State struct {
	To         bool // the user gets the contact's presence
	From       bool // the contact gets the user's presence
	PendingOut bool // the user has asked for the contact's presence: "Pending Out"
	PendingIn  bool // the contact has asked for the user's presence: "Pending In"
	Approved   bool // the user has approved a request before the contact has sent it
}

// Subscription returns the value of the 'subscription' attribute (RFC 6121 section 2.1.2.5).
func (s State) Subscription() string {
	switch {
	case s.To && s.From:
		return "both"
	case s.To:
		return "to"
	case s.From:
		return "from"
	}
	return "none"
}

// A Transition is what a subscription stanza does to a State: the new state, and what the server has to
// send.
type Transition struct {
	State                // the new state
	Forward         bool // route the stanza to the contact (outbound), or deliver it to the user (inbound)
	AutoApprove     bool // answer the contact's request with "subscribed"
	SendPresence    bool // send the contact the user's presence
	SendUnavailable bool // send the contact unavailable presence
}

// Outbound returns what a subscription stanza of type typ does that the user sends to a contact with state
// s (RFC 6121 section A.2). It does not change anything. Any goroutine may call it.
func Outbound(s State, typ stanza.Type) Transition {
	t := Transition{State: s}
	switch typ {
	case stanza.TypeSubscribe: // A.2.1
		t.Forward = true
		t.PendingOut = s.PendingOut || !s.To
	case stanza.TypeUnsubscribe: // A.2.2
		t.Forward = true
		t.To, t.PendingOut = false, false
	case stanza.TypeSubscribed: // A.2.3; without a request it is a pre-approval (section 3.4.2)
		switch {
		case s.PendingIn:
			t.From, t.PendingIn, t.Forward, t.SendPresence = true, false, true, true
			t.Approved = false
		case !s.From:
			t.Approved = true
		}
	case stanza.TypeUnsubscribed: // A.2.4; it also cancels a pre-approval
		t.Forward, t.SendUnavailable = s.From || s.PendingIn, s.From
		t.From, t.PendingIn, t.Approved = false, false, false
	}
	return t
}

// Inbound returns what a subscription stanza of type typ does that a contact with state s sends to the
// user (RFC 6121 section A.3). It does not change anything. Any goroutine may call it.
func Inbound(s State, typ stanza.Type) Transition {
	t := Transition{State: s}
	switch typ {
	case stanza.TypeSubscribe: // A.3.1
		switch {
		case s.From:
			t.AutoApprove = true
		case s.Approved: // section 3.4.3
			t.From, t.Approved, t.PendingIn = true, false, false
			t.AutoApprove, t.SendPresence = true, true
		case !s.PendingIn:
			t.PendingIn, t.Forward = true, true
		}
	case stanza.TypeUnsubscribe: // A.3.2
		t.Forward, t.SendUnavailable = s.From || s.PendingIn, s.From
		t.From, t.PendingIn = false, false
	case stanza.TypeSubscribed: // A.3.3
		if s.PendingOut {
			t.To, t.PendingOut, t.Forward = true, false, true
		}
	case stanza.TypeUnsubscribed: // A.3.4
		t.Forward = s.To || s.PendingOut
		t.To, t.PendingOut = false, false
	}
	return t
}

// bits packs s into the flags byte of a stored row. The order of the bits is part of the store's format.
func (s State) bits() (b byte) {
	for i, on := range [...]bool{s.To, s.From, s.PendingOut, s.PendingIn, s.Approved} {
		if on {
			b |= 1 << i
		}
	}
	return b
}

// unpackState is the inverse of State.bits.
func unpackState(b byte) State {
	return State{b&1 != 0, b&2 != 0, b&4 != 0, b&8 != 0, b&16 != 0}
}
