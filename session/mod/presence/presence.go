// Package presence is RFC 6121 §3 and §4: subscriptions, presence broadcast, probes and directed
// presence.
//
//	romeo:  <presence><show>away</show></presence>
//	juliet: <presence from='romeo@localhost/orchard' to='juliet@localhost'><show>away</show></presence>
//
// State in a session: its last presence and priority (the kernel's fields), and the addresses that
// got directed presence, in a slot. Resident: nothing of its own; it moves the states in the roster.
// Stored: nothing of its own.
//
// Hooks: PrePresence in phase Deliver, under the sender's lock, where what the user sends changes
// the user's own state; Presence in phase Deliver, under the recipient's lock, for what arrives.
// Both come after Guard, so that a blocked contact changes nothing. Unbound, for who vanishes.
package presence

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"

	"canto/session"
	"canto/session/jid"
	"canto/session/mod/roster"
	"canto/session/stanza"
)

// Manifest is how the loader knows this module.
var Manifest = session.Manifest{
	Name:     "presence",
	Spec:     "RFC 6121 sections 3 and 4",
	Summary:  "presence and subscriptions",
	Cases:    "broadcast, probes, directed presence, every state of Appendix A, pre-approval",
	Provides: []session.Feature{"presence-delivery"},
	Requires: []session.Feature{"accounts", "presence", "roster", "fanout"},
	New:      func() session.Module { return new(Service) },
}

var (
	directed = session.NewSessionVar("directed-presence",
		&session.Codec[directedSet]{Version: directedVersion, AppendMarshal: appendDirected,
			Unmarshal: readDirected})
)

// What one session may have sent directed presence to: addresses (attack K58), and bytes of all of them.
const (
	maxDirected      = 1000
	maxDirectedBytes = 128 << 10
)

// maxPresence is the longest presence stanza that a user may send, in bytes as it was sent: it is kept
// while its resource is available, and copied to each contact.
const maxPresence = 16 << 10

// directedSet is who got directed presence, and is owed an unavailable one.
type directedSet struct {
	to    []jid.JID
	bytes int // of to
}

// directedVersion is that of what appendDirected writes.
const directedVersion = 1

// appendDirected writes d down: the addresses, a NUL after each, which no address has.
func appendDirected(dst []byte, d *directedSet) []byte {
	for _, to := range d.to {
		dst = append(append(dst, to.String()...), 0)
	}
	return dst
}

func readDirected(version uint8, b []byte) (*directedSet, error) {
	if version != directedVersion {
		return nil, fmt.Errorf("presence: version %d, and %d is the one known here", version, directedVersion)
	}
	d := new(directedSet)
	for len(b) > 0 {
		s, rest, _ := bytes.Cut(b, []byte{0})
		to, err := jid.Parse(string(s))
		if err != nil {
			return nil, err
		}
		d.to, d.bytes, b = append(d.to, to), d.bytes+len(s), rest
	}
	return d, nil
}

func (d *directedSet) has(j jid.JID) bool {
	if d != nil {
		for _, o := range d.to {
			if o == j {
				return true
			}
		}
	}
	return false
}

// A Service is the module of one profile; a module that hides presence from some finds it.
type Service struct {
	rosters *roster.Service
	// Hidden reports whether the account hides from who. Set while modules load; under the lock.
	Hidden func(a *session.Account, who jid.JID) bool
}

func (m *Service) isHidden(a *session.Account, who jid.JID) bool {
	return m.Hidden != nil && m.Hidden(a, who)
}

// Load adds the hooks and offers the Service.
func (m *Service) Load(api *session.API) error {
	var ok bool
	if m.rosters, ok = session.Lookup[*roster.Service](api); !ok {
		return errors.New("nobody keeps rosters")
	}
	for _, t := range session.Targets {
		api.Hooks.PrePresence[t].Add(api.Module, session.Deliver, m.handleOutbound)
	}
	for _, t := range []session.Target{session.ToSelf, session.ToBare, session.ToFull} {
		api.Hooks.Presence[t].Add(api.Module, session.Deliver, m.handleInbound)
	}
	api.Hooks.Unbound.Add(api.Module, session.Deliver, m.unbound)
	api.Hooks.Deleted.Add(api.Module, session.Deliver, deleted)
	session.Provide(api, m)
	return nil
}

// WasDirected reports whether s has sent who directed presence. Under the account's lock.
func WasDirected(s *session.Session, who jid.JID) bool {
	d := directed.Get(s)
	return d.has(who) || d.has(who.Bare())
}

// handleOutbound handles what the user's own client sends.
func (m *Service) handleOutbound(ev *session.Stanza) session.Verdict {
	if len(ev.Element.Raw()) > maxPresence {
		return ev.Fail(stanza.PolicyViolation)
	}
	if !ev.Directed() {
		switch ev.Type {
		case stanza.TypeNone:
			return m.available(ev)
		case stanza.TypeUnavailable:
			return m.unavailable(ev)
		}
		return ev.Fail(stanza.BadRequest) // a subscription without an address
	}
	switch ev.Type {
	case stanza.TypeSubscribe:
		return m.outboundSubscription(ev, roster.Subscribe)
	case stanza.TypeSubscribed:
		return m.outboundSubscription(ev, roster.Subscribed)
	case stanza.TypeUnsubscribe:
		return m.outboundSubscription(ev, roster.Unsubscribe)
	case stanza.TypeUnsubscribed:
		return m.outboundSubscription(ev, roster.Unsubscribed)
	case stanza.TypeNone:
		return rememberDirected(ev)
	case stanza.TypeUnavailable:
		if d := directed.Get(ev.Session); d != nil {
			for i := range d.to {
				if d.to[i] == ev.To {
					d.bytes -= len(ev.To.String())
					d.to = append(d.to[:i], d.to[i+1:]...)
					break
				}
			}
		}
	}
	return session.Pass
}

// rememberDirected keeps who got directed presence (RFC 6121 §4.6.3).
func rememberDirected(ev *session.Stanza) session.Verdict {
	d := directed.Get(ev.Session)
	if d.has(ev.To) {
		return session.Pass
	}
	if d == nil {
		d = new(directedSet)
		directed.Set(ev.Session, d)
	}
	if len(d.to) >= maxDirected || d.bytes+len(ev.To.String()) > maxDirectedBytes {
		return ev.Fail(stanza.ResourceConstraint)
	}
	d.to = append(d.to, ev.To)
	d.bytes += len(ev.To.String())
	return session.Pass
}

// available broadcasts presence; the first of a session is its initial presence (RFC 6121 §4.2,
// §4.4).
func (m *Service) available(ev *session.Stanza) session.Verdict {
	prio := int8(0)
	if p, ok := ev.Element.Child(stanza.PriorityName); ok {
		// RFC 6121 §4.7.2.3: an integer between -128 and +127, in the schema an xs:byte, which may have white
		// space around it (XML Schema Part 2, §4.3.6).
		n, err := strconv.ParseInt(string(bytes.Trim(p.Text(), " \t\r\n")), 10, 8)
		if err != nil {
			return ev.Fail(stanza.BadRequest)
		}
		prio = int8(n)
	}
	s, a, l := ev.Session, ev.Account(), ev.LoopRouter()
	first := !s.Available()
	_, old := s.Presence()
	begins := prio >= 0 && (first || old < 0)
	s.SetPresence(l.Intern(ev), prio)
	p, _ := s.Presence()
	m.broadcast(l, a, s.JID(), p)
	for _, o := range a.Resources() { // to oneself too (§4.2.2)
		if o.Available() {
			l.Deliver(o, ev)
		}
	}
	if first {
		m.sendInitial(ev, s, a)
	}
	if begins {
		l.BecameAvailable(s)
	}
	return session.Done
}

// sendInitial is what only initial presence sets off: probes to those whose presence the user gets, the
// presence of the user's other resources, and requests that wait for an answer (§4.2.2, §3.1.3).
func (m *Service) sendInitial(ev *session.Stanza, s *session.Session, a *session.Account) {
	l := ev.LoopRouter()
	ap := l.Appender()
	ap.Open(stanza.PresenceName).Attr(stanza.AttrType, "probe").Close()
	seats := l.TempRecipients()
	r := roster.Of(a)
	for it := range r.All() {
		if it.To && !m.isHidden(a, it.JID) {
			seats.Add(it.JID)
		}
	}
	l.Fanout(a, s.JID(), ap.B, seats)
	for _, o := range a.Resources() {
		if o != s && o.Available() {
			p, _ := o.Presence()
			l.DeliverStored(s, stanza.Presence, o.JID(), s.JID(), p)
		}
	}
	pullRequests(l, s)
}

// broadcast sends el, presence of from without 'to', to everybody who has a subscription (§4.2.2).
func (m *Service) broadcast(l *session.LoopRouter, a *session.Account, from jid.JID, el []byte) {
	seats := l.TempRecipients()
	for it := range roster.Of(a).All() {
		if it.From && !m.isHidden(a, it.JID) {
			seats.Add(it.JID)
		}
	}
	l.Fanout(a, from, el, seats)
}

// unavailable is §4.5: the same to all of them, and to those who got directed presence.
func (m *Service) unavailable(ev *session.Stanza) session.Verdict {
	m.sendUnavailable(ev.LoopRouter(), ev.Account(), ev.Session, ev.AppendForStorage(nil))
	return session.Done
}

// unbound is unavailable for a session that ends without having said so (§4.5.3).
func (m *Service) unbound(l *session.LoopRouter, s *session.Session) {
	ap := l.Appender()
	ap.Open(stanza.PresenceName).Attr(stanza.AttrType, "unavailable").Close()
	m.sendUnavailable(l, s.Account(), s, append([]byte(nil), ap.B...))
}

// deleted ends every subscription of an account that is no more (XEP-0077 §3.2), so that the next account
// of its name gets no presence that was meant for this one.
func deleted(l *session.LoopRouter, a *session.Account, tell func(to jid.JID, el []byte)) {
	for it := range roster.Of(a).All() {
		for typ, on := range [...]bool{it.To || it.PendingOut, it.From || it.PendingIn} {
			if on {
				ap := l.Appender()
				ap.Open(stanza.PresenceName).Attr(stanza.AttrType,
					[...]string{"unsubscribe", "unsubscribed"}[typ]).Close()
				tell(it.JID, ap.B)
			}
		}
	}
}

func (m *Service) sendUnavailable(l *session.LoopRouter, a *session.Account, s *session.Session, el []byte) {
	if d := directed.Get(s); d != nil {
		seats := l.TempRecipients()
		for _, to := range d.to {
			if !s.Available() || !roster.Of(a).State(to.Bare()).From {
				seats.Add(to)
			}
		}
		l.Fanout(a, s.JID(), el, seats) // one copy for all of them
		directed.Set(s, nil)
	}
	if !s.Available() {
		return
	}
	m.broadcast(l, a, s.JID(), el)
	for _, o := range a.Resources() {
		if o.Available() {
			l.DeliverStored(o, stanza.Presence, s.JID(), a.JID(), el)
		}
	}
	s.SetPresence(nil, 0)
}

// outboundSubscription takes the user's own subscription stanza through Appendix A.2. It goes on from the
// bare JID (§3.1.2), and only after the change was given to the store.
func (m *Service) outboundSubscription(ev *session.Stanza, kind int) session.Verdict {
	a, l := ev.Account(), ev.LoopRouter()
	who := ev.To.Bare()
	if who == a.JID() {
		return session.Done // to oneself there is nothing to subscribe to
	}
	it, _ := roster.Of(a).Get(who)
	it.JID = who
	mv := roster.Outbound(it.State, kind)
	var t session.Ticket
	if mv.State != it.State || !it.Listed && kind == roster.Subscribe {
		it.State = mv.State
		if !it.PendingIn {
			it.Request = ""
		}
		if it.PendingOut || it.To || it.From || it.Approved {
			it.Listed = true
		}
		if m.rosters.Full() || !m.rosters.Fits(a, &it) {
			return ev.Fail(stanza.ResourceConstraint)
		}
		t = m.rosters.Put(l, a, it)
	}
	if mv.Forward {
		ap := ev.Appender()
		ap.B = ev.AppendForStorage(ap.B)
		ev.Send(a.JID(), who, ap.B)
	}
	if mv.SendPresence || mv.SendUnavailable {
		m.SendPresence(l, a, mv.SendPresence, who)
	}
	return ev.Stored(t)
}

// SendPresence sends each of who the presence of every available resource, or that it is unavailable: one
// copy of each presence, however many they are. Under a's lock.
func (m *Service) SendPresence(l *session.LoopRouter, a *session.Account, on bool, who ...jid.JID) {
	if len(who) == 0 {
		return
	}
	for _, s := range a.Resources() {
		if !s.Available() {
			continue
		}
		p, _ := s.Presence()
		if !on {
			ap := l.Appender()
			p = ap.Open(stanza.PresenceName).Attr(stanza.AttrType, "unavailable").Close().B
		}
		seats := l.TempRecipients()
		for _, w := range who {
			seats.Add(w)
		}
		l.Fanout(a, s.JID(), p, seats)
	}
}

// handleInbound handles presence from others.
func (m *Service) handleInbound(ev *session.Stanza) session.Verdict {
	switch ev.Type {
	case stanza.TypeSubscribe:
		return m.inboundSubscription(ev, roster.Subscribe)
	case stanza.TypeSubscribed:
		return m.inboundSubscription(ev, roster.Subscribed)
	case stanza.TypeUnsubscribe:
		return m.inboundSubscription(ev, roster.Unsubscribe)
	case stanza.TypeUnsubscribed:
		return m.inboundSubscription(ev, roster.Unsubscribed)
	case stanza.TypeProbe:
		return m.probed(ev)
	case stanza.TypeUnknown:
		return session.Done
	}
	a, l := ev.Account(), ev.LoopRouter()
	if ev.Target == session.ToFull {
		if s := a.Resource(ev.To); s != nil { // connected is enough (RFC 6121 §8.5.3.1)
			l.Deliver(s, ev)
		}
		return session.Done
	}
	// A request left from the bare JID (RFC 6121 §3.1.2), and its refusal comes back there; no other error
	// is waited for.
	if ev.Type == stanza.TypeError && !roster.Of(a).State(ev.From.Bare()).PendingOut {
		return session.Done
	}
	for _, s := range a.Resources() {
		if s.Available() {
			l.Deliver(s, ev)
		}
	}
	return session.Done
}

// probed answers a probe with the presence of each available resource, to those only who may have
// it; nobody else learns anything (§4.3.2, attack K60).
func (m *Service) probed(ev *session.Stanza) session.Verdict {
	a, l := ev.Account(), ev.LoopRouter()
	if ev.From.Bare() != a.JID() && !roster.Of(a).State(ev.From.Bare()).From {
		return session.Done
	}
	for _, s := range a.Resources() {
		if s.Available() && s.JID() != ev.From {
			p, _ := s.Presence()
			l.Send(s.JID(), ev.From, p)
		}
	}
	return session.Done
}

// inboundSubscription takes a contact's subscription stanza through Appendix A.3.
func (m *Service) inboundSubscription(ev *session.Stanza, kind int) session.Verdict {
	a, l := ev.Account(), ev.LoopRouter()
	who := ev.From.Bare()
	it, _ := roster.Of(a).Get(who)
	it.JID = who
	mv := roster.Inbound(it.State, kind)
	var t session.Ticket
	if mv.State != it.State && m.rosters.Full() {
		return ev.Fail(stanza.ResourceConstraint)
	}
	if kind == roster.Subscribe && mv.Forward {
		// It is kept whole until it is answered, or refused (RFC 6121 §3.1.3).
		kept := it
		kept.State, kept.Request = mv.State, string(ev.AppendForStorage(nil))
		if len(kept.Request) > roster.MaxRequest || !m.rosters.Fits(a, &kept) {
			return ev.Fail(stanza.ResourceConstraint)
		}
		it.Request = kept.Request
	}
	if mv.Forward { // before the roster push (§3.1.6, §3.2.3, §3.3.3)
		ev.From, ev.To = who, a.JID()
		for _, s := range a.Resources() {
			if kind == roster.Subscribe && s.Available() || kind != roster.Subscribe && s.Interested() {
				l.Deliver(s, ev)
			}
		}
	}
	if mv.State != it.State {
		if it.State = mv.State; !it.PendingIn {
			it.Request = ""
		}
		if it.From {
			it.Listed = true
		}
		t = m.rosters.Put(l, a, it)
	}
	if mv.AutoApprove {
		ap := ev.Appender()
		ap.Open(stanza.PresenceName).Attr(stanza.AttrType, "subscribed").Close()
		ev.Send(a.JID(), who, ap.B)
	}
	if mv.SendPresence || mv.SendUnavailable {
		m.SendPresence(l, a, mv.SendPresence, who)
	}
	return ev.Stored(t)
}
