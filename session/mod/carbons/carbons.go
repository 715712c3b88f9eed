// Package carbons copies messages to the other devices of an account (XEP-0280): what one device sends, and
// what one device gets.
//
//	romeo/phone: <iq type='set' id='1'><enable xmlns='urn:xmpp:carbons:2'/></iq>
//	juliet:      <message to='romeo@localhost/orchard' type='chat'><body>Hi</body></message>
//	romeo/phone gets: <message from='romeo@localhost' to='romeo@localhost/phone' type='chat'>
//	             <received xmlns='urn:xmpp:carbons:2'><forwarded xmlns='urn:xmpp:forward:0'>
//	               <message xmlns='jabber:client' …><body>Hi</body></message></forwarded></received></message>
//
// Which messages are copied is two columns of the table in package handling. A copy has the stanza-id of the
// account's archive (XEP-0313 section 3.4). A copy comes in the order of the archive, with the messages that
// the device gets itself: both are appended to its outbox under the account's lock.
//
// A message that a client has sent is copied in phase Copy of the Pre chain, before it goes on. A message
// that has arrived is copied in phase Record, when it is known which devices have got it: all others with the
// flag get a copy. If nothing was delivered and the message was refused, there is no copy. A message that is
// routed again, as its session has ended before the client had it, is not copied again.
//
// A private message of a room is copied when it is sent, to those devices that are in the room: they have
// sent the room presence. What arrives from a room is not copied, because the room sends it to each device
// itself.
//
// In memory, in a session: a flag. Stored: nothing.
package carbons

import (
	"canto/session"
	"canto/session/handling"
	"canto/session/mod/presence"
	"canto/session/mod/stanzaids"
	"canto/session/stanza"
	"canto/xmlstream"
)

// Manifest describes this module to the loader.
var Manifest = session.Manifest{
	Name:    "carbons",
	Spec:    "XEP-0280 1.0.1",
	Summary: "copies messages to the other devices of an account",
	Cases: "sent and received, private and no-copy; no groupchat, no errors, no private messages from a room; " +
		"errors are not copied, so rules:0 is not advertised",
	Provides: []session.Feature{"carbons"},
	Requires: []session.Feature{"accounts", "message", "presence", "stanza-id"},
	New:      func() session.Module { return new(module) },
}

// ns is the namespace of carbons.
const ns = "urn:xmpp:carbons:2"

var (
	// enabled marks the sessions that get copies.
	enabled       = session.NewFlag("carbons")
	enableName    = xmlstream.N(ns, "enable")
	disableName   = xmlstream.N(ns, "disable")
	sentName      = xmlstream.N(ns, "sent")
	receivedName  = xmlstream.N(ns, "received")
	forwardedName = xmlstream.N("urn:xmpp:forward:0", "forwarded")
)

// A module is the module of one profile. It does not change after Load.
type module struct {
	ids    *stanzaids.IDs
	copies *session.Counter
}

// Load implements [session.Module].
func (m *module) Load(api *session.API) error {
	m.ids, _ = session.Lookup[*stanzaids.IDs](api)
	m.copies = api.Router.Counter(session.CounterName{Name: "carbons_total", Help: "Carbon copies of messages."})
	h := api.Hooks
	for _, t := range []session.Target{session.ToBare, session.ToFull, session.ToHost} {
		h.PreMessage[t].Add(api.Module, session.Copy, m.copySent)
	}
	for _, t := range []session.Target{session.ToSelf, session.ToBare, session.ToFull} {
		h.Message[t].Add(api.Module, session.Record, m.copyReceived)
	}
	h.OnIQ(api.Module, true, enableName, func(ev *session.Stanza) session.Verdict { return set(ev, true) },
		session.ToSelf)
	h.OnIQ(api.Module, true, disableName, func(ev *session.Stanza) session.Verdict { return set(ev, false) },
		session.ToSelf)
	for _, name := range []xmlstream.Name{enableName, disableName} {
		h.OnIQ(api.Module, true, name, refuse, session.ToBare)
	}
	h.Absent.Add(api.Module, session.Deliver, refuseAbsent)
	h.Inline = append(h.Inline, session.InlineFeature{Module: api.Module, Name: enableName,
		Place: session.InlineSession, Begin: begin})
	api.Advertise(ns)
	return nil
}

// refuseAbsent answers a request for the carbons of an address without an account as one for another account,
// so that both look the same. It is an Absent hook: it looks at no account.
func refuseAbsent(ev *session.Stanza) session.Verdict {
	if p := ev.Payload(); ev.Target == session.ToBare && ev.Type == stanza.TypeSet &&
		(p.Is(enableName) || p.Is(disableName)) {
		return refuse(ev)
	}
	return session.Pass
}

// set answers a client that wants copies, or no copies any more. Both may come again (XEP-0280 section 10.1).
func set(ev *session.Stanza, on bool) session.Verdict {
	enabled.Set(ev.Session, on)
	return ev.Reply(nil)
}

// begin makes a new session get copies from its start (XEP-0386 section 3.2); there is no answer.
func begin(_ *session.InlineLogin, s *session.Session, _ xmlstream.Element, _ *xmlstream.Appender) {
	enabled.Set(s, true)
}

// refuse answers a request for another account (XEP-0280 section 4.1).
func refuse(ev *session.Stanza) session.Verdict { return ev.Fail(stanza.NotAllowed) }

// copySent copies a message that a client has sent to the other devices of its account. A message to the
// account itself is copied as one that arrives. Under the sender's lock.
func (m *module) copySent(ev *session.Stanza) session.Verdict {
	h, a := ev.Handling(), ev.Account()
	if !h.CopySent || ev.To.Bare() == a.JID() {
		return session.Pass
	}
	for _, s := range a.Resources() {
		if s == ev.Session || !enabled.Is(s) ||
			h.Kind == handling.RoomPrivate && !presence.WasDirectedInto(s, ev.To.Bare()) {
			continue
		}
		el, _, _ := m.wrap(ev, a, s, sentName)
		if s.Send(session.OutboundStanza{Bytes: el, Kind: stanza.Message, Ordered: true}) {
			m.copies.Add(1)
		}
	}
	return session.Pass
}

// copyReceived copies a message that has arrived to the devices that have not got it. It does not go back to
// the device that has sent it. Under the recipient's lock.
func (m *module) copyReceived(ev *session.Stanza) session.Verdict {
	out := ev.Outcome()
	if ev.Again || out.Refused || !out.Stored && out.Delivered == 0 || !ev.Handling().CopyReceived {
		return session.Pass
	}
	a := ev.Account()
	for _, s := range a.Resources() {
		if !enabled.Is(s) || ev.DeliveredTo(s) || s.JID() == ev.From {
			continue
		}
		el, from, to := m.wrap(ev, a, s, receivedName)
		if session.DeliverCopy(s, ev, el, from, to) {
			m.copies.Add(1)
		}
	}
	return session.Pass
}

// wrap returns a copy of ev for s, of the kind called name. el[from:to] is the message that is copied. The
// bytes are the loop's appender's.
func (m *module) wrap(ev *session.Stanza, a *session.Account, s *session.Session, name xmlstream.Name) (
	el []byte, from, to int) {
	ap := ev.Appender()
	if ev.Archived {
		m.ids.AppendElement(ap, a.ID(), a.JID().String(), ev.Number)
	}
	id := len(ap.B)
	ap.Open(stanza.MessageName)
	if v, ok := ev.Element.Attr(stanza.AttrType); ok {
		ap.AttrBytes(stanza.AttrType, v)
	}
	ap.Attr(stanza.AttrFrom, a.JID().String()).Attr(stanza.AttrTo, s.JID().String())
	ap.Open(name).Open(forwardedName).Text("") // the start tag is complete
	from = len(ap.B)
	ap.B = session.AppendForwarded(ap.B, ev)
	if id > 0 {
		ap.B = session.AddChildren(ap.B, from, ap.B[:id])
	}
	to = len(ap.B)
	ap.Close().Close().Close()
	return ap.B[id:], from - id, to - id
}
