package xmlstream

import (
	"errors"
	"fmt"
)

// ErrNeedMore reports that the fed bytes end inside a token. Nothing is lost: the unfinished bytes
// are kept in the Stream, and the same call made after the next [Parser.Feed] goes on where this one
// stopped, without a second scan.
var ErrNeedMore = errors.New("xmlstream: need more input")

// Conditions of a SyntaxError: stream errors of RFC 6120 §4.9.3.
const (
	NotWellFormed       = "not-well-formed"
	RestrictedXML       = "restricted-xml"
	UnsupportedEncoding = "unsupported-encoding"
	BadNamespacePrefix  = "bad-namespace-prefix"
	PolicyViolation     = "policy-violation"
)

// A SyntaxError says where the input stopped being an XMPP stream and which stream error (RFC 6120
// §4.9.3) the peer is owed for it. After one the stream takes nothing more.
type SyntaxError struct {
	Offset    int64  // bytes since the stream began
	Condition string // one of the conditions above
	Msg       string
	TooBig    bool // a limit on bytes was passed (XEP-0205: stanza-too-big)
}

func (e *SyntaxError) Error() string {
	return fmt.Sprintf("xmlstream: %s at byte %d: %s", e.Condition, e.Offset, e.Msg)
}

// fault is an error inside a buffer; the Parser makes a SyntaxError of it. Faults are static, so
// that the scanners allocate nothing.
type fault struct {
	condition, msg string
	tooBig         bool
}

var (
	errMore        = &fault{} // not an error: the buffer ends here
	errChar        = &fault{NotWellFormed, "character that XML does not allow", false}
	errUTF8        = &fault{UnsupportedEncoding, "bytes that are not UTF-8", false}
	errBOM         = &fault{UnsupportedEncoding, "not UTF-8", false}
	errName        = &fault{NotWellFormed, "malformed name", false}
	errTag         = &fault{NotWellFormed, "malformed tag", false}
	errEndTag      = &fault{NotWellFormed, "end tag that does not match", false}
	errLess        = &fault{NotWellFormed, "'<' in an attribute value", false}
	errDuplicate   = &fault{NotWellFormed, "attribute given twice", false}
	errRef         = &fault{NotWellFormed, "malformed reference", false}
	errCDEnd       = &fault{NotWellFormed, "']]>' in character data", false}
	errText        = &fault{NotWellFormed, "text outside of an element", false}
	errXmlns       = &fault{NotWellFormed, "reserved namespace name or prefix", false}
	errEmptyPrefix = &fault{NotWellFormed, "prefix bound to no namespace", false}
	errDecl        = &fault{NotWellFormed, "malformed XML declaration", false}
	errEntity      = &fault{RestrictedXML, "entity that is not predefined", false}
	errDTD         = &fault{RestrictedXML, "document type declaration", false}
	errComment     = &fault{RestrictedXML, "comment", false}
	errPI          = &fault{RestrictedXML, "processing instruction", false}
	errEncoding    = &fault{UnsupportedEncoding, "encoding other than UTF-8", false}
	errPrefix      = &fault{BadNamespacePrefix, "undeclared prefix", false}
	errBig         = &fault{PolicyViolation, "stanza too big", true}
	errDepth       = &fault{PolicyViolation, "nested too deep", false}
	errNodes       = &fault{PolicyViolation, "too many elements", false}
	errAttrs       = &fault{PolicyViolation, "too many attributes", false}
	errPrefixes    = &fault{PolicyViolation, "too many namespace declarations", false}
	errLongName    = &fault{PolicyViolation, "name too long", false}
)
