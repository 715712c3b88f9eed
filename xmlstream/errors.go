package xmlstream

import (
	"errors"
	"strconv"
)

// ErrNeedMore reports that the fed bytes end inside a token, or are all consumed. It is no failure: the
// [Stream] keeps the unfinished bytes, and after the next [Parser.Feed] the same call continues where
// this one stopped.
var ErrNeedMore = errors.New("xmlstream: need more input")

// The stream error conditions (RFC 6120 section 4.9.3) that a [SyntaxError] may carry.
const (
	BadFormat           = "bad-format"           // text where only stanzas are allowed
	BadNamespacePrefix  = "bad-namespace-prefix" // a prefix without a declaration, or a forbidden declaration
	InvalidXML          = "invalid-xml"          // a second stream header without a restart
	NotWellFormed       = "not-well-formed"      // broken tags, illegal characters
	PolicyViolation     = "policy-violation"     // over a limit, or a stream-level element inside a stanza
	RestrictedXML       = "restricted-xml"       // DTD, processing instruction, comment, undeclared entity
	UnsupportedEncoding = "unsupported-encoding" // not UTF-8
)

// A SyntaxError says that the input is no XMPP stream or exceeds a limit, and which stream error (RFC
// 6120 section 4.9.3) to send to the peer. It is final: the stream returns it again until [Stream.Reset].
// Condition and Offset do not depend on how the input was cut into reads.
type SyntaxError struct {
	Offset    int64  // where the input is wrong, in bytes from the begin of the stream
	Condition string // the stream error: one of the constants above
	Msg       string // for logs; it holds none of the peer's bytes
	// TooBig says that the stanza is over Limits.StanzaBytes: then the peer also gets stanza-too-big (XEP-0205
	// section 3).
	TooBig bool
}

// Error returns Msg with the offset and the condition, for logs.
func (e *SyntaxError) Error() string {
	return "xmlstream: " + e.Msg + " at byte " + strconv.FormatInt(e.Offset, 10) + " (" + e.Condition + ")"
}

// Errors that are always the same. errTrailing and errShort are for one element alone and have no offset.
var (
	errNoHeader = errors.New("xmlstream: Stanza called before the stream header was read")
	errTrailing = &SyntaxError{Condition: NotWellFormed, Msg: "bytes after the element"}
	errShort    = &SyntaxError{Condition: NotWellFormed, Msg: "input ends inside the element"}
)
