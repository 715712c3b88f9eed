package session

import (
	"canto/session/stanza"
	"canto/xmlstream"
)

// A StreamError ends a stream (RFC 6120 section 4.9).
type StreamError struct {
	Condition string           // a defined condition, section 4.9.3; another one is sent as undefined-condition
	Text      string           // for humans, in English; may be empty
	App       xmlstream.Name   // an application-specific condition, section 4.9.4; may be zero
	AppAttrs  []xmlstream.Attr // attributes of the element App
}

// Error is the condition and the text, for logs.
func (e *StreamError) Error() string {
	if e.Text == "" {
		return "stream error: " + e.Condition
	}
	return "stream error: " + e.Condition + ": " + e.Text
}

// The stream errors that the kernel and its modules send, by their condition.
var (
	ErrBadFormat = &StreamError{Condition: "bad-format"}
	ErrConflict  = &StreamError{Condition: "conflict",
		Text: "replaced by a new session with the same resource"}
	ErrConnectionTimeout  = &StreamError{Condition: "connection-timeout"}
	ErrHostGone           = &StreamError{Condition: "host-gone"}
	ErrHostUnknown        = &StreamError{Condition: "host-unknown"}
	ErrInternal           = &StreamError{Condition: "internal-server-error"}
	ErrInvalidFrom        = &StreamError{Condition: "invalid-from"}
	ErrInvalidNamespace   = &StreamError{Condition: "invalid-namespace"}
	ErrInvalidXML         = &StreamError{Condition: "invalid-xml"}
	ErrNotAuthorized      = &StreamError{Condition: "not-authorized"}
	ErrPolicyViolation    = &StreamError{Condition: "policy-violation"}
	ErrReset              = &StreamError{Condition: "reset"}
	ErrResourceConstraint = &StreamError{Condition: "resource-constraint"}
	errSystemShutdown     = &StreamError{Condition: "system-shutdown"}
	ErrUnsupportedStanza  = &StreamError{Condition: "unsupported-stanza-type"}
	ErrUnsupportedVersion = &StreamError{Condition: "unsupported-version"}

	// errStanzaTooBig: policy-violation says that a rule was broken, and the second condition which one.
	errStanzaTooBig = &StreamError{Condition: "policy-violation",
		App: xmlstream.N("urn:xmpp:errors", "stanza-too-big")}
	errSlowReader = &StreamError{Condition: "policy-violation",
		Text: "outbox limit reached: the client does not read"}

	nameStreamErr          = xmlstream.N(stanza.NSStream, "error")
	nameStreamErrText      = xmlstream.N(stanza.NSStreams, "text")
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
		streamErrorConditions[c] = xmlstream.N(stanza.NSStreams, c)
	}
}

// Append appends e to dst as <stream:error/> with its children, and returns the extended slice. The
// caller ends the stream after it. Any goroutine.
func (e *StreamError) Append(dst []byte) []byte {
	dst = append(dst, "<stream:error>"...)
	a := xmlstream.Appender{B: dst}
	name, ok := streamErrorConditions[e.Condition]
	if !ok {
		name = streamErrorConditions["undefined-condition"]
	}
	a.Open(name).Close()
	if e.Text != "" {
		a.Open(nameStreamErrText).Attr(stanza.AttrLang, "en").Text(e.Text).Close()
	}
	if e.App != (xmlstream.Name{}) {
		a.Open(e.App)
		for _, x := range e.AppAttrs {
			a.Attr(x.Name, x.Value)
		}
		a.Close()
	}
	return append(a.B, "</stream:error>"...)
}

// syntaxStreamError is the stream error for input that the parser has refused (RFC 6120 sections 4.9.3
// and 11).
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
