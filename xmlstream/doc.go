// Package xmlstream reads and writes the XML of an XMPP stream (RFC 6120 §11) one buffer at a time,
// without blocking and, once warm, without allocating. One [Parser] serves all the streams of a loop; a
// [Stream] is what one of them needs between two reads.
//
// # What is in, what is refused
//
// A stream is a root element's start tag (the header), complete child elements (stanzas) with blanks
// between them, and the root's end tag. One XML declaration (version 1.0, UTF-8) may stand in front, and
// a byte order mark in front of that. CDATA sections, character references and the five predefined
// entities are read. Refused, with the stream error that RFC 6120 §4.9.3 has for it, are document types,
// processing instructions, comments and other entities (restricted-xml), what is not well-formed,
// undeclared prefixes (bad-namespace-prefix), anything but UTF-8 (unsupported-encoding), character data
// between stanzas (bad-format), a second header (invalid-xml), elements of the stream itself inside a
// stanza, and what is over [Limits] (policy-violation).
//
// What is well-formed is what XML 1.0 (5th edition) and Namespaces in XML 1.0 say. The tests hold it
// against the W3C's conformance suite (tag conformance), expat (tag expat) and encoding/xml.
//
// # Who owns bytes
//
// Nothing is copied that comes complete in one read: an [Element] is a view on the fed bytes, and good
// until the next call of Feed, Next or Stanza on its parser. An unfinished stanza is kept in memory from
// [Buffers] and given back when it is done, or by [Stream.Reset]. To keep an element, [Element.Append] it
// or [Element.Clone] it. The names of a peer are never interned: [Atom] is for our own.
//
// # An exchange
//
// A client's ping (XEP-0199), and the bytes that the reads of the server end in:
//
//	C: <?xml version='1.0'?><stream:stream to='example.org' version='1.0' xmlns='jabber:client' …>
//	     Feed, Next: a Token with the header; Root().Default is jabber:client.
//	C: <iq type='get' id='1'><ping xmln
//	     Feed, Stanza: ErrNeedMore; the Stream keeps 32 bytes and the one node so far.
//	C: s='urn:xmpp:ping'/></iq>
//	     Feed, Stanza: the iq. Its child Is(N("urn:xmpp:ping", "ping")).
//	     Stanza: ErrNeedMore; the Stream keeps nothing.
//	S: <iq type='result' id='1'/>
//	     Open(iq).Attr(typ, "result").AttrBytes(id, …).Close()
//	C: </stream:stream>
//	     Feed, Stanza: io.EOF.
package xmlstream
