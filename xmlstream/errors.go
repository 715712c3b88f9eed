package xmlstream

import (
	"errors"
	"strconv"
)

// ErrNeedMore reports that the fed bytes end inside a token. Nothing is lost: the unfinished bytes are
// kept in the [Stream], and the same call made after the next [Parser.Feed] goes on where this one
// stopped, without a second scan.
var ErrNeedMore = errors.New("xmlstream: need more input")

// The stream error conditions (RFC 6120 §4.9.3) that a [SyntaxError] may carry.
const (
	BadFormat           = "bad-format"           // text where only stanzas may stand
	BadNamespacePrefix  = "bad-namespace-prefix" // a prefix without a declaration, or a forbidden declaration
	InvalidXML          = "invalid-xml"          // a second stream header without a restart
	NotWellFormed       = "not-well-formed"      // broken tags, illegal characters
	PolicyViolation     = "policy-violation"     // over a limit, or a stream-level element inside a stanza
	RestrictedXML       = "restricted-xml"       // DTD, processing instruction, comment, undeclared entity
	UnsupportedEncoding = "unsupported-encoding" // not UTF-8
)

// A SyntaxError says where the input stopped being an XMPP stream and which stream error (RFC 6120
// §4.9.3) the peer is owed for it. It is final: the stream returns it again until [Stream.Reset].
// Condition and Offset do not depend on how the input was cut into reads.
type SyntaxError struct {
	Offset    int64  // bytes since the stream began
	Condition string // one of the constants of this package
	Msg       string // for a log; holds no byte of the peer's
	// the stanza is over Limits.StanzaBytes: the peer is owed stanza-too-big as well (XEP-0205 §3)
	TooBig bool
}

func (e *SyntaxError) Error() string {
	return "xmlstream: " + e.Msg + " at byte " + strconv.FormatInt(e.Offset, 10) + " (" + e.Condition + ")"
}

var (
	errNoHeader = errors.New("xmlstream: Stanza called before the stream header was read")
	errTrailing = &SyntaxError{Condition: NotWellFormed, Msg: "bytes after the element"}
	errShort    = &SyntaxError{Condition: NotWellFormed, Msg: "input ends inside the element"}
)
