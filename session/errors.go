package session

import (
	"canto/xmlstream"
)

// Namespaces of RFC 6120.
const (
	NSClient  = "jabber:client"
	NSServer  = "jabber:server"
	NSStream  = "http://etherx.jabber.org/streams"
	nsStanzas = "urn:ietf:params:xml:ns:xmpp-stanzas"
	nsStreams = "urn:ietf:params:xml:ns:xmpp-streams"
)

// A Condition is a defined condition of a stanza error (RFC 6120 §8.3.3).
type Condition uint8

// The conditions, in the RFC's order.
const (
	BadRequest Condition = iota
	Conflict
	FeatureNotImplemented
	Forbidden
	Gone
	InternalServerError
	ItemNotFound
	JIDMalformed
	NotAcceptable
	NotAllowed
	NotAuthorized
	PolicyViolation
	RecipientUnavailable
	Redirect
	RegistrationRequired
	RemoteServerNotFound
	RemoteServerTimeout
	ResourceConstraint
	ServiceUnavailable
	SubscriptionRequired
	UndefinedCondition
	UnexpectedRequest
	numConditions
)

var conditions = [numConditions]struct{ name, typ string }{
	BadRequest:            {"bad-request", "modify"},
	Conflict:              {"conflict", "cancel"},
	FeatureNotImplemented: {"feature-not-implemented", "cancel"},
	Forbidden:             {"forbidden", "auth"},
	Gone:                  {"gone", "cancel"},
	InternalServerError:   {"internal-server-error", "cancel"},
	ItemNotFound:          {"item-not-found", "cancel"},
	JIDMalformed:          {"jid-malformed", "modify"},
	NotAcceptable:         {"not-acceptable", "modify"},
	NotAllowed:            {"not-allowed", "cancel"},
	NotAuthorized:         {"not-authorized", "auth"},
	PolicyViolation:       {"policy-violation", "modify"},
	RecipientUnavailable:  {"recipient-unavailable", "wait"},
	Redirect:              {"redirect", "modify"},
	RegistrationRequired:  {"registration-required", "auth"},
	RemoteServerNotFound:  {"remote-server-not-found", "cancel"},
	RemoteServerTimeout:   {"remote-server-timeout", "wait"},
	ResourceConstraint:    {"resource-constraint", "wait"},
	ServiceUnavailable:    {"service-unavailable", "cancel"},
	SubscriptionRequired:  {"subscription-required", "auth"},
	UndefinedCondition:    {"undefined-condition", "cancel"},
	UnexpectedRequest:     {"unexpected-request", "wait"},
}

var conditionNames [numConditions]xmlstream.Name

func init() {
	for i := range conditions {
		conditionNames[i] = xmlstream.N(nsStanzas, conditions[i].name)
	}
}

// String is the condition's element name.
func (c Condition) String() string { return conditions[c].name }

// Type is the error type that the condition usually has (RFC 6120 §8.3.2).
func (c Condition) Type() string { return conditions[c].typ }

// A StanzaError is a condition with what may go with it. The zero Type is the condition's usual one,
// the zero App no application-specific condition.
type StanzaError struct {
	Condition Condition
	Type      string
	Text      string
	App       xmlstream.Name
}

var (
	nameError = xmlstream.N(NSClient, "error")
	nameText  = xmlstream.N(nsStanzas, "text")
	attrType  = xmlstream.N("", "type")
	attrTo    = xmlstream.N("", "to")
	attrFrom  = xmlstream.N("", "from")
	attrID    = xmlstream.N("", "id")
	attrVer   = xmlstream.N("", "version")
	attrLang  = xmlstream.N("http://www.w3.org/XML/1998/namespace", "lang")
)

// append writes e as the <error/> child of a stanza.
func (e StanzaError) append(a *xmlstream.Appender) {
	typ := e.Type
	if typ == "" {
		typ = e.Condition.Type()
	}
	a.Open(nameError).Attr(attrType, typ)
	a.Open(conditionNames[e.Condition]).Close()
	if e.Text != "" {
		a.Open(nameText).Text(e.Text).Close()
	}
	if e.App != (xmlstream.Name{}) {
		a.Open(e.App).Close()
	}
	a.Close()
}

// A StreamError ends a stream (RFC 6120 §4.9). Condition is one of the defined conditions of
// §4.9.3; App is an application-specific condition beside it, and may be zero.
type StreamError struct {
	Condition string
	Text      string
	App       xmlstream.Name
}

func (e *StreamError) Error() string {
	if e.Text == "" {
		return "stream error: " + e.Condition
	}
	return "stream error: " + e.Condition + ": " + e.Text
}

// Stream errors that carry no more than their condition.
var (
	ErrBadFormat           = &StreamError{Condition: "bad-format"}
	ErrConflict            = &StreamError{Condition: "conflict", Text: "replaced by a new session with the same resource"}
	ErrConnectionTimeout   = &StreamError{Condition: "connection-timeout"}
	ErrHostGone            = &StreamError{Condition: "host-gone"}
	ErrHostUnknown         = &StreamError{Condition: "host-unknown"}
	ErrInternal            = &StreamError{Condition: "internal-server-error"}
	ErrInvalidFrom         = &StreamError{Condition: "invalid-from"}
	ErrInvalidNamespace    = &StreamError{Condition: "invalid-namespace"}
	ErrInvalidXML          = &StreamError{Condition: "invalid-xml"}
	ErrNotAuthorized       = &StreamError{Condition: "not-authorized"}
	ErrPolicyViolation     = &StreamError{Condition: "policy-violation"}
	ErrReset               = &StreamError{Condition: "reset"}
	ErrResourceConstraint  = &StreamError{Condition: "resource-constraint"}
	ErrSystemShutdown      = &StreamError{Condition: "system-shutdown"}
	ErrUnsupportedStanza   = &StreamError{Condition: "unsupported-stanza-type"}
	ErrUnsupportedVersion  = &StreamError{Condition: "unsupported-version"}
	errStanzaTooBig        = &StreamError{Condition: "policy-violation", App: xmlstream.N("urn:xmpp:errors", "stanza-too-big")}
	errSlowReader          = &StreamError{Condition: "policy-violation", Text: "outbox limit reached: the client does not read"}
	nameStreamErr          = xmlstream.N(NSStream, "error")
	nameStreamErrText      = xmlstream.N(nsStreams, "text")
	streamErrorConditions  = map[string]xmlstream.Name{}
	definedStreamCondition = []string{
		"bad-format", "bad-namespace-prefix", "conflict", "connection-timeout", "host-gone", "host-unknown",
		"improper-addressing", "internal-server-error", "invalid-from", "invalid-namespace", "invalid-xml",
		"not-authorized", "not-well-formed", "policy-violation", "remote-connection-failed", "reset",
		"resource-constraint", "restricted-xml", "see-other-host", "system-shutdown", "undefined-condition",
		"unsupported-encoding", "unsupported-feature", "unsupported-stanza-type", "unsupported-version",
	}
)

func init() {
	for _, c := range definedStreamCondition {
		streamErrorConditions[c] = xmlstream.N(nsStreams, c)
	}
}

// AppendTo writes e as <stream:error/> and its children; the caller ends the stream after it.
func (e *StreamError) AppendTo(dst []byte) []byte {
	dst = append(dst, "<stream:error>"...)
	a := xmlstream.Appender{B: dst}
	name, ok := streamErrorConditions[e.Condition]
	if !ok {
		name = streamErrorConditions["undefined-condition"]
	}
	a.Open(name).Close()
	if e.Text != "" {
		a.Open(nameStreamErrText).Attr(attrLang, "en").Text(e.Text).Close()
	}
	if e.App != (xmlstream.Name{}) {
		a.Open(e.App).Close()
	}
	return append(a.B, "</stream:error>"...)
}

// syntaxStreamError is the stream error that a peer is owed for what the parser refused
// (RFC 6120 §4.9.3, §11).
func syntaxStreamError(err error) *StreamError {
	se, ok := err.(*xmlstream.SyntaxError)
	if !ok {
		return ErrInternal
	}
	if se.TooBig {
		return errStanzaTooBig
	}
	return &StreamError{Condition: se.Condition, Text: se.Msg}
}
