package xmlstream

// A Token is what stands outside of stanzas: the stream header, as an Element without children, its
// end tag, or white space (a keepalive).
type Token struct {
	Element
	End, Blank bool
}
