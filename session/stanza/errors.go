package stanza

import "canto/xmlstream"

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
	NumConditions
)

var conditions = [NumConditions]struct{ name, typ string }{
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

var conditionNames [NumConditions]xmlstream.Name

func init() {
	for i := range conditions {
		conditionNames[i] = xmlstream.N(NSStanzas, conditions[i].name)
	}
}

// String is the condition's element name.
func (c Condition) String() string { return conditions[c].name }

// Type is the error type that the condition usually has (RFC 6120 §8.3.2).
func (c Condition) Type() string { return conditions[c].typ }

// An Error is a condition with what may go with it. The zero Type is the condition's usual one,
// the zero App no application-specific condition.
type Error struct {
	Condition Condition
	Type      string
	Text      string
	App       xmlstream.Name
}

// Append writes e as the <error/> child of a stanza.
func (e Error) Append(a *xmlstream.Appender) {
	typ := e.Type
	if typ == "" {
		typ = e.Condition.Type()
	}
	a.Open(ErrorName).Attr(AttrType, typ)
	a.Open(conditionNames[e.Condition]).Close()
	if e.Text != "" {
		a.Open(textName).Text(e.Text).Close()
	}
	if e.App != (xmlstream.Name{}) {
		a.Open(e.App).Close()
	}
	a.Close()
}
