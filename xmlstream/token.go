package xmlstream

// A Token is what [Parser.Next] returns: the stream header, as an Element without children; a complete
// element; white space between elements, as a client sends it to keep a connection alive (RFC 6120 section
// 4.6.1); or the end tag of the root.
// It is valid until the next call of Feed, Next or Stanza.
type Token struct {
	Element         // zero for white space and the end tag
	End        bool // it is the end tag of the root
	Whitespace bool // it is white space; several bytes of it are one Token
}
