// Package stanza is the vocabulary of stanzas (RFC 6120 §8, RFC 6121): kinds, types, the conditions of
// stanza errors, and the XML names that many packages write and look for. It has no behaviour of a
// server: the kernel, its modules and the load suite use the same words.
package stanza

import "canto/xmlstream"

// A Kind is what a top-level element of a stream is.
type Kind uint8

// The kinds of stanza (RFC 6120 §8.2), and everything else.
const (
	Nonza Kind = iota
	Message
	Presence
	IQ
	NumKinds
)

var kinds = [NumKinds]struct {
	text string
	name xmlstream.Name
}{
	Nonza:    {text: "nonza"},
	Message:  {"message", MessageName},
	Presence: {"presence", PresenceName},
	IQ:       {"iq", IQName},
}

func (k Kind) String() string { return kinds[k].text }

// Name is the name of an element of this kind in the content namespace of clients; zero for Nonza.
func (k Kind) Name() xmlstream.Name { return kinds[k].name }

// KindOf is the kind of a top-level element. Any goroutine that may read e.
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

// Type is the 'type' attribute of a stanza, read once.
type Type uint8

// The types of RFC 6121 §5.2.2 and §4.7.1 and RFC 6120 §8.2.3. TypeNone is an available presence, which
// has no attribute, and a message of type normal, with or without one. TypeUnknown is what presence and
// iq may not have: a type that is not theirs, and for an iq none at all (RFC 6120 §8.2.3: it must have
// one).
const (
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
	TypeUnknown
)

// ParseType reads a type attribute as a stanza of kind k has it; v is empty where there is none.
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
		return TypeNone // RFC 6121 §5.2.2: an unknown type is "normal"
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
