// Package presence implements presence for accounts: subscriptions (RFC 6121 section 3), broadcast, probes
// and directed presence (RFC 6121 section 4).
//
//	romeo:  <presence><show>away</show></presence>
//	juliet: <presence from='romeo@localhost/orchard' to='juliet@localhost'><show>away</show></presence>
//
// How it works. A presence stanza is handled twice: at the account of its sender, and at the account of
// its recipient. Each side changes its own roster only, and never holds the lock of both. The states of
// subscriptions are in the roster; [roster.Outbound] and [roster.Inbound] are the tables of RFC 6121
// Appendix A. This package applies them: it changes the roster, forwards the stanza, and sends the
// presence that the new state calls for.
//
// In memory, in a session: its last presence and priority, which are fields of [session.Session], and a
// [directedSet], the addresses that got directed presence. In memory, while an account is warm (package
// session, the kernel, has its stored state in memory): only the roster. Stored: nothing of its own; a
// pending subscription request is part of the roster.
//
// Hooks: PrePresence in phase Deliver, under the sender's lock, for presence that a client of the account
// sends; Presence in phase Deliver, under the recipient's lock, for presence that arrives. Both run after
// phase Guard, where the module blocklist stops stanzas to and from blocked contacts. Unbound notifies
// contacts that a session has ended; Resumed tells a client what it has missed (retell.go); Deleted ends the
// subscriptions of a deleted account. (K58 and the like are attacks with a test each:
// cmd/internal/house/attacks.txt.)
//
// The bytes that an Appender builds are valid until its next use: functions that keep them copy them. All
// that an account sends, by Send or Fanout, reaches each recipient in the order of the calls.
package presence

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"canto/session"
	"canto/session/jid"
	"canto/session/mod/roster"
	"canto/session/stanza"
)

// Manifest describes this module to the loader.
var Manifest = session.Manifest{
	Name:     "presence",
	Spec:     "RFC 6121 sections 3 and 4",
	Summary:  "presence and subscriptions",
	Cases:    "broadcast, probes, directed presence, every state of Appendix A, pre-approval",
	Provides: []session.Feature{"presence-delivery"},
	Requires: []session.Feature{"accounts", "presence", "roster", "fanout"},
	New:      func() session.Module { return new(Service) },
}

// directed holds the addresses to which a session has sent directed presence. It has a codec, so a
// hibernating session keeps the set when a new process takes over.
var (
	directed = session.NewSessionVar("directed-presence",
		&session.Codec[directedSet]{Version: directedVersion, AppendMarshal: appendDirected,
			Unmarshal: readDirected})
)

// The limits of one session's directed presence. A stanza beyond them is answered with resource-constraint
// (attack K58).
const (
	maxDirected      = 1000      // addresses
	maxDirectedBytes = 128 << 10 // bytes of all these addresses
)

// maxPresence is the maximum size in bytes of a presence stanza of a user, as it was sent. The server
// keeps the stanza while the session is available, and copies it to each contact, so it is smaller than
// the limit of other stanzas. A longer one is answered with policy-violation.
const maxPresence = 16 << 10

// A directedSet holds the addresses that got directed presence from a session, and that must get its
// unavailable presence (RFC 6121 section 4.6). The account's lock guards it.
type directedSet struct {
	to    []jid.JID // each address once
	bytes int       // the length of these addresses together
}

// directedVersion is the version of the form that appendDirected writes.
const directedVersion = 1

// appendDirected appends the marshaled form of d to dst: each address, followed by a NUL. No JID contains
// a NUL.
func appendDirected(dst []byte, d *directedSet) []byte {
	for _, to := range d.to {
		dst = append(append(dst, to.String()...), 0)
	}
	return dst
}

// readDirected unmarshals what appendDirected has written. It fails for another version and for an address
// that is not a valid JID. It does not check the limits: the writer did.
func readDirected(version uint8, b []byte) (*directedSet, error) {
	if version != directedVersion {
		return nil, fmt.Errorf("presence: unsupported version %d (want %d)", version, directedVersion)
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

// has reports whether d contains j. d may be nil.
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

// A Service is the module as one [session.Profile] has it: hosts with the same modules and options share a
// profile. [session.Lookup] gives it to other modules, which can use it to send presence
// ([Service.SendPresence]) and to hide an account from contacts ([Service.Hidden]).
type Service struct {
	rosters *roster.Service
	// Hidden reports whether the account a sends no presence to contact, because a has blocked contact. One
	// other module may set it, in its own Load; nil: the account hides from no contact. It is called under the
	// lock of a.
	Hidden func(a *session.Account, contact jid.JID) bool
}

// isHidden reports whether a hides its presence from contact. Under the lock of a.
func (m *Service) isHidden(a *session.Account, contact jid.JID) bool {
	return m.Hidden != nil && m.Hidden(a, contact)
}

// Load implements [session.Module]: it adds the hooks and provides the Service. It fails if no module
// provides rosters.
func (m *Service) Load(api *session.API) error {
	var ok bool
	if m.rosters, ok = session.Lookup[*roster.Service](api); !ok {
		return errors.New("no module keeps rosters")
	}
	for _, t := range session.Targets {
		api.Hooks.PrePresence[t].Add(api.Module, session.Deliver, m.handleOutbound)
	}
	for _, t := range []session.Target{session.ToSelf, session.ToBare, session.ToFull} {
		api.Hooks.Presence[t].Add(api.Module, session.Deliver, m.handleInbound)
	}
	api.Hooks.Unbound.Add(api.Module, session.Deliver, m.unbound)
	api.Hooks.Resumed.Add(api.Module, session.Deliver, m.retell)
	api.Hooks.Deleted.Add(api.Module, session.Deliver, deleted)
	session.Provide(api, m)
	return nil
}

// WasDirected reports whether s has sent directed presence to the address to, or to its bare JID. Under
// the account's lock.
func WasDirected(s *session.Session, to jid.JID) bool {
	d := directed.Get(s)
	return d.has(to) || d.has(to.Bare())
}

// WasDirectedInto reports whether s has sent directed presence to an address with the bare JID bare: whether
// it is in the room there. Under the account's lock.
func WasDirectedInto(s *session.Session, bare jid.JID) bool {
	d := directed.Get(s)
	return d != nil && slices.ContainsFunc(d.to, func(o jid.JID) bool { return o.Bare() == bare })
}

// handleOutbound is the PrePresence hook: it handles each presence stanza that a client of the account
// sends. Under the sender's lock. Its steps:
//
//  1. Refuse a stanza over maxPresence. Without an address, refuse any type but available and unavailable
//     ([session.Stanza.Fail] sends no answer to an error).
//  2. Presence without an address is a broadcast: see available and unavailable. Presence to the user's own
//     bare JID is directed.
//  3. A subscription stanza goes to outboundSubscription.
//  4. Directed presence is remembered, and directed unavailable presence forgotten. These stanzas, and
//     probes and errors, pass on to the recipient.
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
		return ev.Fail(stanza.BadRequest)
	}
	if ev.Type.IsSubscription() {
		return m.outboundSubscription(ev, ev.Type)
	}
	switch ev.Type {
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

// rememberDirected adds the recipient of ev to the directed set of its session (RFC 6121 section 4.6.3),
// or answers resource-constraint if the set is full. Under the sender's lock.
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

// available handles a presence broadcast; the first one of a session is its initial presence (RFC 6121
// sections 4.2 and 4.4). Under the account's lock. Its steps:
//
//  1. Read the priority. An invalid one is answered with bad-request.
//  2. Keep the stanza as the session's presence; sessions with the same bytes share them (Intern).
//  3. Send it to the contacts with a subscription, and to all available sessions of the account.
//  4. For initial presence: see sendInitial.
//  5. If the session had no presence, or a negative priority, and has a priority of 0 or more now, it can
//     get messages from now on: run the Available hooks.
func (m *Service) available(ev *session.Stanza) session.Verdict {
	prio := int8(0)
	if p, ok := ev.Element.Child(stanza.PriorityName); ok {
		// RFC 6121 section 4.7.2.3: an integer between -128 and +127, in the schema an xs:byte, which may have
		// white space around it (XML Schema Part 2, section 4.3.6).
		n, err := strconv.ParseInt(string(bytes.Trim(p.Text(), " \t\r\n")), 10, 8)
		if err != nil {
			return ev.Fail(stanza.BadRequest)
		}
		prio = int8(n)
	}
	s, a, l := ev.Session, ev.Account(), ev.LoopRouter()
	first := !s.Available()
	_, old := s.Presence()
	becomesAvailable := prio >= 0 && (first || old < 0)
	s.SetPresence(l.Intern(ev), prio)
	p, _ := s.Presence()
	m.broadcast(l, a, s.JID(), p)
	for _, o := range a.Resources() { // s gets its own presence too (section 4.2.2)
		if o.Available() {
			l.Deliver(o, ev)
		}
	}
	if first {
		m.sendInitial(ev, s, a)
	}
	if becomesAvailable {
		l.BecameAvailable(s)
	}
	return session.Done
}

// sendInitial takes the steps that follow initial presence only. It sends probes to the contacts whose
// presence the user is subscribed to, but to none that a hides from; it sends s the presence of the other
// sessions of a (RFC 6121 section 4.2.2); and it sends s the subscription requests that wait for the user's
// answer (section 3.1.3; requests.go). Under the lock of a.
func (m *Service) sendInitial(ev *session.Stanza, s *session.Session, a *session.Account) {
	l := ev.LoopRouter()
	ap := l.Appender()
	ap.Open(stanza.PresenceName).Attr(stanza.AttrType, "probe").Close()
	recipients := l.TempRecipients()
	r := roster.Of(a)
	for it := range r.All() {
		if it.To && !m.isHidden(a, it.JID) {
			recipients.Add(it.JID)
		}
	}
	l.Fanout(a, s.JID(), ap.B, recipients)
	for _, o := range a.Resources() {
		if o != s && o.Available() {
			p, _ := o.Presence()
			l.DeliverStored(s, stanza.Presence, o.JID(), s.JID(), p)
		}
	}
	pullRequests(l, s)
}

// broadcast sends el, a presence stanza without a 'to', from the full JID from to each contact that is
// subscribed to a (RFC 6121 section 4.2.2). A contact that a hides from gets none. Under the lock of a.
func (m *Service) broadcast(l *session.LoopRouter, a *session.Account, from jid.JID, el []byte) {
	recipients := l.TempRecipients()
	for it := range roster.Of(a).All() {
		if it.From && !m.isHidden(a, it.JID) {
			recipients.Add(it.JID)
		}
	}
	l.Fanout(a, from, el, recipients)
}

// unavailable handles unavailable presence that a client has sent (RFC 6121 section 4.5). Under the
// account's lock.
func (m *Service) unavailable(ev *session.Stanza) session.Verdict {
	m.sendUnavailable(ev.LoopRouter(), ev.Account(), ev.Session, ev.AppendForStorage(nil))
	return session.Done
}

// unbound is the Unbound hook: it sends unavailable presence for a session that has ended without sending
// it (RFC 6121 section 4.5.3). Under the account's lock.
func (m *Service) unbound(l *session.LoopRouter, s *session.Session) {
	ap := l.Appender()
	ap.Open(stanza.PresenceName).Attr(stanza.AttrType, "unavailable").Close()
	m.sendUnavailable(l, s.Account(), s, append([]byte(nil), ap.B...))
}

// deleted is the Deleted hook: it ends every subscription of a deleted account (XEP-0077 section 3.2).
// Otherwise a later account of the same name would get presence that was meant for this one. It calls notify
// to send a stanza to a bare JID. Under the account's lock; after a crash it may run again.
func deleted(l *session.LoopRouter, a *session.Account, notify func(to jid.JID, el []byte)) {
	for it := range roster.Of(a).All() {
		for i, on := range [...]bool{it.To || it.PendingOut, it.From || it.PendingIn} {
			if on {
				ap := l.Appender()
				ap.Open(stanza.PresenceName).Attr(stanza.AttrType,
					[...]string{"unsubscribe", "unsubscribed"}[i]).Close()
				notify(it.JID, ap.B)
			}
		}
	}
}

// sendUnavailable sends el, the unavailable presence of s, to the directed set, to the contacts with a
// subscription, and to the available sessions of a, with s itself. Then s has no presence. If s was not
// available, only the directed set gets el. A directed address of a contact with a subscription is
// skipped: the broadcast goes to the contact. A session of a in the directed set gets el twice. A contact
// with a subscription that a hides from gets nothing by the broadcast: it got unavailable presence when
// it was blocked. Under the lock of a.
func (m *Service) sendUnavailable(l *session.LoopRouter, a *session.Account, s *session.Session, el []byte) {
	if d := directed.Get(s); d != nil {
		recipients := l.TempRecipients()
		for _, to := range d.to {
			if !s.Available() || !roster.Of(a).State(to.Bare()).From { // the broadcast below has the others
				recipients.Add(to)
			}
		}
		l.Fanout(a, s.JID(), el, recipients) // el is copied once for all of them
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

// outboundSubscription handles a subscription stanza of type typ that the user's client has sent (RFC 6121
// Appendix A.2). Under the sender's lock. Its steps:
//
//  1. Look up the contact and its new state. A stanza to the user's own account ends here.
//  2. If the state changes, or a request makes an unlisted contact a roster item, give the change to the
//     store. If the store is full (Full), or the roster has no space (Fits), answer resource-constraint. A
//     pending request that is answered now is dropped.
//  3. Forward the stanza from the user's bare JID (section 3.1.2).
//  4. Send the contact the user's presence, or unavailable presence.
//
// The stanza is forwarded before the commit is durable. If the commit fails, the account is reloaded and
// the user gets an error, but the contact has the stanza; the states of the two rosters then differ until
// the user tries again. Without a change the ticket is 0, and Stored returns at
// once.
func (m *Service) outboundSubscription(ev *session.Stanza, typ stanza.Type) session.Verdict {
	a, l := ev.Account(), ev.LoopRouter()
	contact := ev.To.Bare()
	if contact == a.JID() {
		return session.Done
	}
	it, _ := roster.Of(a).Get(contact)
	it.JID = contact
	tr := roster.Outbound(it.State, typ)
	var t session.Ticket
	if tr.State != it.State || !it.Listed && typ == stanza.TypeSubscribe {
		it.State = tr.State
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
	if tr.Forward {
		ap := ev.Appender()
		ap.B = ev.AppendForStorage(ap.B)
		ev.Send(a.JID(), contact, ap.B)
	}
	if tr.SendPresence || tr.SendUnavailable {
		m.SendPresence(l, a, tr.SendPresence, contact)
	}
	return ev.Stored(t)
}

// SendPresence sends to each address of to the presence of every available session of a if available is true,
// else unavailable presence of each. It does not ask Hidden: the block list itself uses it. Each stanza is
// copied once, however many addresses there are. Under the lock of a, on the loop of l.
func (m *Service) SendPresence(l *session.LoopRouter, a *session.Account, available bool, to ...jid.JID) {
	if len(to) == 0 {
		return
	}
	for _, s := range a.Resources() {
		if !s.Available() {
			continue
		}
		p, _ := s.Presence()
		if !available {
			ap := l.Appender()
			p = ap.Open(stanza.PresenceName).Attr(stanza.AttrType, "unavailable").Close().B
		}
		recipients := l.TempRecipients()
		for _, j := range to {
			recipients.Add(j)
		}
		l.Fanout(a, s.JID(), p, recipients)
	}
}

// handleInbound is the Presence hook: it handles each presence stanza that arrives for the account. Under
// the recipient's lock. Subscription stanzas and probes have functions of their own; a stanza of an
// unknown type is dropped. Presence to a full JID goes to that session, presence to the bare JID to all
// available sessions.
func (m *Service) handleInbound(ev *session.Stanza) session.Verdict {
	if ev.Type.IsSubscription() {
		return m.inboundSubscription(ev, ev.Type)
	}
	switch ev.Type {
	case stanza.TypeProbe:
		return m.probed(ev)
	case stanza.TypeUnknown:
		return session.Done
	}
	a, l := ev.Account(), ev.LoopRouter()
	if ev.Target == session.ToFull {
		if s := a.Resource(ev.To); s != nil { // it need not be available (RFC 6121 section 8.5.3.1)
			l.Deliver(s, ev)
		}
		return session.Done
	}
	// A subscription request is sent from the bare JID (RFC 6121 section 3.1.2), so an error to it comes back
	// to the bare JID. The user is not expecting any other error.
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

// probed answers a presence probe, to the bare JID or to a full JID, with the presence of each available
// session, if the prober is the user or a contact with a subscription. Any other prober gets no answer,
// so that it does not learn whether the account exists (RFC 6121 section 4.3.2, attack K60). Under the
// recipient's lock.
func (m *Service) probed(ev *session.Stanza) session.Verdict {
	m.answerProbe(ev.LoopRouter(), ev.Account(), ev.From)
	return session.Done
}

// inboundSubscription handles a subscription stanza of type typ from a contact (RFC 6121 Appendix A.3).
// Under the recipient's lock. Its steps:
//
//  1. Look up the contact and its new state. If the state changes and the store is full (Full), answer
//     resource-constraint.
//  2. Keep a new request whole in the roster until the user answers (section 3.1.3), or refuse it with
//     resource-constraint if the roster has no space for it (Fits).
//  3. Deliver the stanza to the user's clients, before the roster push (sections 3.1.6, 3.2.3, 3.3.3).
//     A request goes to available sessions, any other stanza to sessions that have asked for the roster.
//  4. If the state changes, give the change to the store; this sends the roster push.
//  5. Answer "subscribed" for the user if the state says so, and send the contact presence, or
//     unavailable presence.
//
// If the commit fails, the account is reloaded and the contact gets an error. A contact becomes a
// roster item (Listed) here only if it is subscribed now; the user's own stanzas list it in other states too.
func (m *Service) inboundSubscription(ev *session.Stanza, typ stanza.Type) session.Verdict {
	a, l := ev.Account(), ev.LoopRouter()
	contact := ev.From.Bare()
	it, _ := roster.Of(a).Get(contact)
	it.JID = contact
	tr := roster.Inbound(it.State, typ)
	var t session.Ticket
	if tr.State != it.State && m.rosters.Full() {
		return ev.Fail(stanza.ResourceConstraint)
	}
	if typ == stanza.TypeSubscribe && tr.Forward {
		pending := it
		pending.State, pending.Request = tr.State, string(ev.AppendForStorage(nil))
		if len(pending.Request) > roster.MaxRequest || !m.rosters.Fits(a, &pending) {
			return ev.Fail(stanza.ResourceConstraint)
		}
		it.Request = pending.Request
	}
	if tr.Forward {
		ev.From, ev.To = contact, a.JID()
		for _, s := range a.Resources() {
			if typ == stanza.TypeSubscribe && s.Available() || typ != stanza.TypeSubscribe && s.Interested() {
				l.Deliver(s, ev)
			}
		}
	}
	if tr.State != it.State {
		if it.State = tr.State; !it.PendingIn {
			it.Request = ""
		}
		if it.From {
			it.Listed = true
		}
		t = m.rosters.Put(l, a, it)
	}
	if tr.AutoApprove {
		ap := ev.Appender()
		ap.Open(stanza.PresenceName).Attr(stanza.AttrType, "subscribed").Close()
		ev.Send(a.JID(), contact, ap.B)
	}
	if tr.SendPresence || tr.SendUnavailable {
		m.SendPresence(l, a, tr.SendPresence, contact)
	}
	return ev.Stored(t)
}
