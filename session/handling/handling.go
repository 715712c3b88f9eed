// Package handling has the table of what the server does with a message: whether it is archived, copied to
// the other devices of an account, kept for a recipient that is away, and announced by a push. There is one
// decision for each message ([Of]); the modules archive, carbons, offline and push follow it.
// docs/messages.md shows the table with each state of the recipient.
//
// The decision depends on what the message is ([Kind]) and on the hints of its sender (XEP-0334). It does not
// depend on the state of the server, so that both sides of a conversation decide alike.
//
//	h := handling.Of(stanza.TypeChat, element)
//	if h.Archive { … }
package handling

import (
	"canto/session/stanza"
	"canto/xmlstream"
)

// A Kind is what a message is for its recipient: a row of the table. If more than one fits, the last in the
// order of the constants up to Headline counts: a retraction with a text for older clients is a retraction.
type Kind uint8

// The kinds of messages.
const (
	Empty       Kind = iota // no payload at all, or a thread and ids alone
	Other                   // only payloads that this table does not know
	ChatState               // a chat state alone (XEP-0085)
	Receipt                 // a delivery receipt (XEP-0184)
	Marker                  // a displayed marker, or another one (XEP-0333)
	Subject                 // a subject without a body (RFC 6121 section 5.2.4)
	Body                    // a text (RFC 6121 section 5.2.3)
	Encrypted               // an encrypted payload, with or without a body for older clients
	Reaction                // reactions to another message (XEP-0444)
	Retraction              // the retraction of another message (XEP-0424)
	Invitation              // an invitation to a room (XEP-0249, XEP-0045 section 7.8.2)
	Call                    // the proposal of a call (XEP-0353)
	CallState               // another message about a call: proceed, reject, ringing, finish (XEP-0353)
	RoomPrivate             // a private message of a room's occupant (XEP-0045 section 7.5)
	Groupchat               // type groupchat: the room archives it
	Headline                // type headline
	Error                   // type error
	numKinds
)

// kindNames has the name of each Kind, as docs/messages.md and the commands show it.
var kindNames = [numKinds]string{"empty", "other", "chat state", "receipt", "marker", "subject", "body",
	"encrypted", "reaction", "retraction", "invitation", "call", "call state", "room private", "groupchat",
	"headline", "error"}

// String returns the name of k.
func (k Kind) String() string { return kindNames[k] }

// A Handling is the decision about one message.
type Handling struct {
	Kind Kind // what the message is
	// Archive: both sides archive it (XEP-0313 section 6.1), if their preferences do not exclude the other
	// side (XEP-0441).
	Archive bool
	// CopySent and CopyReceived: the other devices of the sender and of the recipient get a carbon copy
	// (XEP-0280 section 6.1).
	CopySent, CopyReceived bool
	// Keep: it waits for a recipient without an available device (XEP-0160 section 3). A message that is kept
	// and not archived is erased once a device has it.
	Keep bool
	// Push: if it waits, the recipient's push services are told (XEP-0357 section 6).
	Push bool
	// Wait: it need not wake an inactive client (XEP-0352 section 5.1).
	Wait bool
}

// table has the decision for each kind of message without hints.
var table = [numKinds]Handling{
	Empty:       {Keep: true, Wait: true},
	Other:       {Keep: true, CopySent: true, CopyReceived: true},
	ChatState:   {CopySent: true, CopyReceived: true, Wait: true},
	Receipt:     {Archive: true, CopySent: true, CopyReceived: true, Keep: true, Wait: true},
	Marker:      {Archive: true, CopySent: true, CopyReceived: true, Keep: true, Wait: true},
	Subject:     {Archive: true, CopySent: true, CopyReceived: true, Keep: true},
	Body:        {Archive: true, CopySent: true, CopyReceived: true, Keep: true, Push: true},
	Encrypted:   {Archive: true, CopySent: true, CopyReceived: true, Keep: true, Push: true},
	Reaction:    {Archive: true, CopySent: true, CopyReceived: true, Keep: true},
	Retraction:  {Archive: true, CopySent: true, CopyReceived: true, Keep: true},
	Invitation:  {Archive: true, CopySent: true, CopyReceived: true, Keep: true, Push: true},
	Call:        {Archive: true, CopySent: true, CopyReceived: true, Keep: true, Push: true},
	CallState:   {Archive: true, CopySent: true, CopyReceived: true, Keep: true},
	RoomPrivate: {Archive: true, CopySent: true, Keep: true, Push: true},
	Groupchat:   {},
	Headline:    {Wait: true},
	Error:       {},
}

// Hints are the wishes of the sender in a message (XEP-0334, XEP-0280 section 9), as a set of bits.
type Hints uint8

// The hints.
const (
	NoStore          Hints = 1 << iota // do not keep it, not even until it is delivered
	NoPermanentStore                   // do not archive it
	NoCopy                             // no carbon copies, also <private/> of XEP-0280
	Store                              // archive it, whatever it is
)

// The namespaces of payloads that decide about the kind of a message.
const (
	nsHints      = "urn:xmpp:hints"
	nsCarbons    = "urn:xmpp:carbons:2"
	nsArchive    = "urn:xmpp:mam:2"
	nsStates     = "http://jabber.org/protocol/chatstates"
	nsReceipts   = "urn:xmpp:receipts"
	nsMarkers    = "urn:xmpp:chat-markers:0"
	nsStanzaID   = "urn:xmpp:sid:0"
	nsReactions  = "urn:xmpp:reactions:0"
	nsRetract0   = "urn:xmpp:message-retract:0"
	nsRetract1   = "urn:xmpp:message-retract:1"
	nsFasten     = "urn:xmpp:fasten:0"
	nsFallback   = "urn:xmpp:fallback:0"
	nsConference = "jabber:x:conference"
	nsRoomUser   = "http://jabber.org/protocol/muc#user"
	nsCalls      = "urn:xmpp:jingle-message:0"
	nsEncryption = "urn:xmpp:eme:0"
	nsOMEMO0     = "eu.siacs.conversations.axolotl"
	nsOMEMO2     = "urn:xmpp:omemo:2"
	nsOpenPGP    = "urn:xmpp:openpgp:0"
	nsOldPGP     = "jabber:x:encrypted"
)

// The names of payloads that decide about the kind of a message.
var (
	hintNoStore     = xmlstream.N(nsHints, "no-store")
	hintNoPermanent = xmlstream.N(nsHints, "no-permanent-store")
	hintNoCopy      = xmlstream.N(nsHints, "no-copy")
	hintStore       = xmlstream.N(nsHints, "store")
	carbonPrivate   = xmlstream.N(nsCarbons, "private")
	receiptName     = xmlstream.N(nsReceipts, "received")
	receiptRequest  = xmlstream.N(nsReceipts, "request")
	markable        = xmlstream.N(nsMarkers, "markable")
	proposeName     = xmlstream.N(nsCalls, "propose")
	inviteName      = xmlstream.N(nsRoomUser, "invite")
	declineName     = xmlstream.N(nsRoomUser, "decline")
	roomUserName    = xmlstream.N(nsRoomUser, "x")
	conferenceName  = xmlstream.N(nsConference, "x")
	applyToName     = xmlstream.N(nsFasten, "apply-to")
	retract0Name    = xmlstream.N(nsRetract0, "retract")
	retract1Name    = xmlstream.N(nsRetract1, "retract")
)

// RetractName is the element of a retraction (XEP-0424 section 4); its attribute id names the message.
var RetractName = retract1Name

// Of decides about a message e of type typ. It looks at the direct children of e only, and allocates nothing.
// Any goroutine that may read e.
func Of(typ stanza.Type, e xmlstream.Element) Handling {
	switch typ {
	case stanza.TypeGroupchat:
		return Decide(Groupchat, 0)
	case stanza.TypeHeadline:
		return Decide(Headline, 0)
	case stanza.TypeError: // hints in an error are ignored (XEP-0334 section 5)
		return Decide(Error, 0)
	}
	kind, hints := Empty, Hints(0)
	for c, ok := e.First(); ok; c, ok = c.Next() {
		k, h := classify(c)
		kind, hints = max(kind, k), hints|h
	}
	h := Decide(kind, hints)
	if kind == Other && typ != stanza.TypeChat { // XEP-0280 section 6.1: a normal message with a body only
		h.CopySent, h.CopyReceived = false, false
	}
	return h
}

// Decide applies hints to the row of kind in the table. Messages of the types groupchat, headline and error
// have no hints. no-store is stronger than no-permanent-store, and both are stronger than store.
func Decide(kind Kind, hints Hints) Handling {
	h := table[kind]
	h.Kind = kind
	if kind >= Groupchat {
		return h
	}
	if hints&Store != 0 {
		h.Archive, h.Keep = true, true
	}
	if hints&NoPermanentStore != 0 {
		h.Archive = false
	}
	if hints&NoStore != 0 {
		h.Archive, h.Keep, h.Push = false, false, false
	}
	if hints&NoCopy != 0 {
		h.CopySent, h.CopyReceived = false, false
	}
	return h
}

// classify returns what the child c of a message says about its kind, and the hint that it is.
func classify(c xmlstream.Element) (Kind, Hints) {
	switch string(c.Space()) {
	case stanza.NSClient:
		switch {
		case c.Is(stanza.BodyName):
			return Body, 0
		case c.Is(stanza.SubjectName):
			return Subject, 0
		case c.Is(stanza.ThreadName):
			return Empty, 0
		}
	case nsHints:
		switch {
		case c.Is(hintNoStore):
			return Empty, NoStore
		case c.Is(hintNoPermanent):
			return Empty, NoPermanentStore
		case c.Is(hintNoCopy):
			return Empty, NoCopy
		case c.Is(hintStore):
			return Empty, Store
		}
		return Empty, 0
	case nsCarbons:
		if c.Is(carbonPrivate) {
			return Empty, NoCopy
		}
		return Other, NoCopy // a copy, or a forged one: there is no copy of a copy (attack R02)
	case nsArchive:
		return Other, NoCopy // a result of an archive, which a client has sent on
	case nsStanzaID, nsFallback, nsEncryption:
		return Empty, 0
	case nsStates:
		return ChatState, 0
	case nsReceipts:
		switch {
		case c.Is(receiptName):
			return Receipt, 0
		case c.Is(receiptRequest):
			return Empty, 0
		}
	case nsMarkers:
		if c.Is(markable) {
			return Empty, 0
		}
		return Marker, 0
	case nsReactions:
		return Reaction, 0
	case nsRetract1:
		if c.Is(retract1Name) {
			return Retraction, 0
		}
	case nsFasten:
		if _, ok := c.Child(retract0Name); ok && c.Is(applyToName) {
			return Retraction, 0
		}
	case nsOMEMO0, nsOMEMO2, nsOpenPGP, nsOldPGP:
		return Encrypted, 0
	case nsCalls:
		if c.Is(proposeName) {
			return Call, 0
		}
		return CallState, 0
	case nsConference:
		if c.Is(conferenceName) {
			return Invitation, 0
		}
	case nsRoomUser:
		if c.Is(roomUserName) {
			return roomElement(c), 0
		}
	}
	return Other, 0
}

// roomElement tells an invitation by a room, or the refusal of one, from the mark of a private message
// (XEP-0045 sections 7.5 and 7.8.2).
func roomElement(x xmlstream.Element) Kind {
	if _, ok := x.Child(inviteName); ok {
		return Invitation
	}
	if _, ok := x.Child(declineName); ok {
		return Invitation
	}
	return RoomPrivate
}
