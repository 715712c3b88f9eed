package stanza

import "canto/xmlstream"

// A Condition is a defined condition of a stanza error (RFC 6120 section 8.3.3). Its number is not
// stored or sent.
type Condition uint8

// The conditions, in the order of RFC 6120 section 8.3.3; NumConditions is their number.
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

// conditions has the element name and the usual error type of each condition.
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

// conditionNames has the XML name of each condition.
var conditionNames [NumConditions]xmlstream.Name

func init() {
	for i := range conditions {
		conditionNames[i] = xmlstream.N(NSStanzas, conditions[i].name)
	}
}

// String returns the local name of the condition's element.
func (c Condition) String() string { return conditions[c].name }

// Type returns the error type that the condition usually has (RFC 6120 section 8.3.2).
func (c Condition) Type() string { return conditions[c].typ }

// An Error is the content of a stanza error.
type Error struct {
	Condition Condition      // the defined condition
	Type      string         // the error type; empty: the condition's usual one
	Text      string         // text for people; empty: there is none
	App       xmlstream.Name // an application-specific condition; zero: there is none
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
