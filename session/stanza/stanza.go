// Package stanza is the vocabulary of stanzas (RFC 6120 section 8, RFC 6121): kinds, types, the
// conditions of stanza errors, and the XML names that many packages write and look for. It has no
// behaviour of a server: the kernel, its modules and the load suite use the same words. Any
// goroutine may call everything.
package stanza

import "canto/xmlstream"

// A Kind is the kind of a top-level element of a stream.
type Kind uint8

// The kinds of stanza (RFC 6120 section 8.2), and Nonza for every other element.
const (
	Nonza    Kind = iota // no stanza, as elements of stream negotiation and of XEP-0198 are (XEP-0360)
	Message              // <message/>
	Presence             // <presence/>
	IQ                   // <iq/>
	NumKinds             // the number of kinds, for arrays
)

// kinds has the text and the element name of each kind.
var kinds = [NumKinds]struct {
	text string
	name xmlstream.Name
}{
	Nonza:    {text: "nonza"},
	Message:  {"message", MessageName},
	Presence: {"presence", PresenceName},
	IQ:       {"iq", IQName},
}

// String returns the local name of k's element, or "nonza".
func (k Kind) String() string { return kinds[k].text }

// Name returns the name of an element of kind k in the namespace of clients; the zero Name for
// Nonza.
func (k Kind) Name() xmlstream.Name { return kinds[k].name }

// KindOf returns the kind of a top-level element. The caller's goroutine must be allowed to read e.
func KindOf(e xmlstream.Element) Kind {
	switch e.Name() {
	case MessageName:
		return Message
	case PresenceName:
		return Presence
	case IQName:
		return IQ
	}
	return Nonza
}

// A Type is the 'type' attribute of a stanza, parsed once. One type belongs to several kinds, as
// TypeError does.
type Type uint8

// The types of messages (RFC 6121 section 5.2.2), presence (RFC 6121 section 4.7.1) and iqs (RFC 6120
// section 8.2.3).
const (
	// TypeNone is available presence, which has no attribute, and a message of type normal, with or without
	// the attribute.
	TypeNone Type = iota
	TypeError
	TypeChat
	TypeGroupchat
	TypeHeadline
	TypeUnavailable
	TypeSubscribe
	TypeSubscribed
	TypeUnsubscribe
	TypeUnsubscribed
	TypeProbe
	TypeGet
	TypeSet
	TypeResult
	// TypeUnknown is a type that a presence or an iq may not have, and an iq without a type.
	TypeUnknown
)

// IsSubscription reports whether t is a type of presence that asks for a subscription, grants,
// cancels or refuses one (RFC 6121 section 3).
func (t Type) IsSubscription() bool { return t >= TypeSubscribe && t <= TypeUnsubscribed }

// ParseType parses the type attribute v of a stanza of kind k; v is empty if there is none. An
// unknown type of a message is TypeNone: RFC 6121 section 5.2.2 says that it is "normal". For a
// Nonza it is TypeUnknown.
func ParseType(k Kind, v []byte) Type {
	switch k {
	case Message:
		switch string(v) {
		case "chat":
			return TypeChat
		case "groupchat":
			return TypeGroupchat
		case "headline":
			return TypeHeadline
		case "error":
			return TypeError
		}
		return TypeNone // RFC 6121 section 5.2.2: an unknown type is "normal"
	case Presence:
		switch string(v) {
		case "":
			return TypeNone
		case "unavailable":
			return TypeUnavailable
		case "subscribe":
			return TypeSubscribe
		case "subscribed":
			return TypeSubscribed
		case "unsubscribe":
			return TypeUnsubscribe
		case "unsubscribed":
			return TypeUnsubscribed
		case "probe":
			return TypeProbe
		case "error":
			return TypeError
		}
	case IQ:
		switch string(v) {
		case "get":
			return TypeGet
		case "set":
			return TypeSet
		case "result":
			return TypeResult
		case "error":
			return TypeError
		}
	}
	return TypeUnknown
}
