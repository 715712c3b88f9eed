// Package xmlstream reads and writes the XML of an XMPP stream (RFC 6120, section 11) one buffer at a
// time, without blocking and, once warm, without allocating. One [Parser] serves all the streams of a
// loop; a [Stream] is what one of them needs between two reads: 24 bytes.
//
// What is in: elements, attributes, namespaces, character data, CDATA, the five predefined entities,
// character references, one XML declaration at the start. What is refused, each with the stream error
// that the peer is owed for it: comments, processing instructions, document types and undeclared
// entities (restricted-xml); bytes that are not UTF-8, or another declared encoding
// (unsupported-encoding); undeclared prefixes (bad-namespace-prefix); what is over a limit
// (policy-violation); everything else that XML 1.0 or Namespaces in XML do not allow
// (not-well-formed).
//
// Ownership: what a Parser returns are views on the bytes that were fed, good until its next Feed.
// Built with -tags invariants or -race, a view that is used later panics.
//
// A worked exchange. A client connects and sends its header in two reads:
//
//	p := xmlstream.NewParser(nil)
//	var s xmlstream.Stream
//	p.Feed(&s, []byte("<stream:stream to='localhost' xmlns='jabber:client' xmlns:str"))
//	_, err := p.Next(&s) // ErrNeedMore: the bytes are kept
//	p.Feed(&s, []byte("eam='http://etherx.jabber.org/streams' version='1.0'><presence/>"))
//	t, err := p.Next(&s) // the header; t.Attr(xmlstream.N("", "to")) is "localhost"
//	e, err := p.Stanza(&s) // <presence/>
//	_, err = p.Stanza(&s) // ErrNeedMore, and nothing is kept
package xmlstream
