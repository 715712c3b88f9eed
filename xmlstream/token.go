package xmlstream

// A Token is what stands outside of stanzas: the stream header, as an Element without children, its end
// tag, or whitespace (a keepalive, RFC 6120 §4.6.1). [Parser.Next] also returns complete elements as
// Tokens.
type Token struct {
	Element
	End, Whitespace bool
}
