package roster

// A State is one contact's subscription state with everything RFC 6121 Appendix A.1 tells apart:
// nine states, and pre-approval (§3.4) beside them.
type State struct {
	To         bool // the user gets the contact's presence
	From       bool // the contact gets the user's
	PendingOut bool // the user has asked: "Pending Out"
	PendingIn  bool // the contact has asked: "Pending In"
	Approved   bool // the user has approved a request that is still to come
}

// Subscription is the value of the 'subscription' attribute (RFC 6121 §2.1.2.5).
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

// A Move is what a subscription stanza does to a State: the one after it, whether the stanza goes
// on (is routed to the contact, or delivered to the user), whether the server answers "subscribed"
// by itself, and whether presence begins or ends to flow to the contact.
type Transition struct {
	State
	Forward         bool
	AutoApprove     bool // answer the contact's request with "subscribed"
	SendPresence    bool // send the contact the user's presence
	SendUnavailable bool // send the contact unavailable presence
}

// The four subscription stanzas.
const (
	Subscribe = iota
	Subscribed
	Unsubscribe
	Unsubscribed
)

// Outbound is what the user's own stanza of kind k does (RFC 6121 §A.2).
func Outbound(s State, k int) Transition {
	m := Transition{State: s}
	switch k {
	case Subscribe: // A.2.1
		m.Forward = true
		m.PendingOut = s.PendingOut || !s.To
	case Unsubscribe: // A.2.2
		m.Forward = true
		m.To, m.PendingOut = false, false
	case Subscribed: // A.2.3; without a request it is a pre-approval (§3.4.2)
		switch {
		case s.PendingIn:
			m.From, m.PendingIn, m.Forward, m.SendPresence = true, false, true, true
			m.Approved = false
		case !s.From:
			m.Approved = true
		}
	case Unsubscribed: // A.2.4; it takes a pre-approval back too
		m.Forward, m.SendUnavailable = s.From || s.PendingIn, s.From
		m.From, m.PendingIn, m.Approved = false, false, false
	}
	return m
}

// Inbound is what a stanza of kind k from the contact does (RFC 6121 §A.3).
func Inbound(s State, k int) Transition {
	m := Transition{State: s}
	switch k {
	case Subscribe: // A.3.1
		switch {
		case s.From:
			m.AutoApprove = true
		case s.Approved: // §3.4.3
			m.From, m.Approved, m.PendingIn = true, false, false
			m.AutoApprove, m.SendPresence = true, true
		case !s.PendingIn:
			m.PendingIn, m.Forward = true, true
		}
	case Unsubscribe: // A.3.2
		m.Forward, m.SendUnavailable = s.From || s.PendingIn, s.From
		m.From, m.PendingIn = false, false
	case Subscribed: // A.3.3
		if s.PendingOut {
			m.To, m.PendingOut, m.Forward = true, false, true
		}
	case Unsubscribed: // A.3.4
		m.Forward = s.To || s.PendingOut
		m.To, m.PendingOut = false, false
	}
	return m
}

// bits is s as it is stored.
func (s State) bits() (b byte) {
	for i, on := range [...]bool{s.To, s.From, s.PendingOut, s.PendingIn, s.Approved} {
		if on {
			b |= 1 << i
		}
	}
	return b
}

func unpackState(b byte) State {
	return State{b&1 != 0, b&2 != 0, b&4 != 0, b&8 != 0, b&16 != 0}
}
