// Package xmlstream reads and writes the XML of XMPP streams (RFC 6120 section 11). It reads one buffer at a
// time, never blocks, and allocates nothing once its memory has grown to size. It uses the standard library
// only.
//
// # How its parts work together
//
// Reading: each event loop has one [Parser], which is the working memory. Each connection has one [Stream],
// the state between two reads. [Parser.Feed] gives the parser the bytes of one read, [Parser.Next] returns
// the stream header as a [Token], and [Parser.Stanza] returns one complete child of the root after the other,
// until it returns [ErrNeedMore]. [Limits] bound what a peer can cost. An error is a [SyntaxError], which has
// the stream error to send.
//
// A stanza is an [Element]. Its name is compared with a [Name], a pair of Atoms that the program has made
// with [N]. A peer's names are never interned.
//
// Writing: [Element.Append] passes an element on to another stream, with other values for some attributes. It
// copies the bytes if that means the same there, and else writes the element again. An [Appender] writes new
// elements.
//
// Elements that are not on a stream are parsed with [Parser.Element] on a loop, or [Parse] elsewhere.
//
// Inside, tree.go has the flat arrays that an element is parsed into, scan.go the tokenizer that fills them,
// prolog.go what is before and after the elements, and parser.go who owns which memory. docs/xmlstream.md
// has the figures.
//
// # What is accepted
//
// A stream is the start tag of a root element (the header), complete child elements (stanzas) with white
// space between them, and the end tag of the root. One XML declaration (version 1.0, UTF-8) may be before it,
// and a byte order mark before that. CDATA sections, character references and the five predefined entities
// are read. These are refused, with the stream error that RFC 6120 section 4.9.3 has for each:
//
//   - document types, processing instructions, comments and other entities: restricted-xml;
//   - XML that is not well-formed: not-well-formed;
//   - undeclared prefixes: bad-namespace-prefix;
//   - other encodings than UTF-8: unsupported-encoding;
//   - character data between stanzas: bad-format;
//   - a second header: invalid-xml;
//   - elements of the stream itself inside a stanza, and all that exceeds [Limits]: policy-violation.
//
// XML 1.0 (5th edition) and Namespaces in XML 1.0 define what is well-formed. Tests compare the package with
// the conformance suite of the W3C (tag conformance), expat (tag expat) and encoding/xml.
//
// # Who owns bytes
//
// A stanza that comes complete in one read is not copied: an [Element] is a view of the fed bytes. It is
// valid until the next call of Feed, Next or Stanza on its parser. The bytes of an unfinished stanza are
// copied to memory from [Buffers], which is given back when the stanza is complete and no longer used, or
// by [Stream.Reset]. To keep an element, use [Element.Append] or [Element.Clone].
//
// A Parser, its Streams and its Elements belong to one goroutine. Functions of the package, Atoms, Roots,
// LimitIDs and cloned Elements may be used by any.
//
// # An exchange
//
// A client's ping (XEP-0199), as the reads of a server bring it:
//
//	C: <?xml version='1.0'?><stream:stream to='example.org' version='1.0' xmlns='jabber:client' …>
//	     Feed, Next: a Token with the header; Root().Default is jabber:client.
//	C: <iq type='get' id='1'><ping xmln
//	     Feed, Stanza: ErrNeedMore; the Stream keeps 32 bytes and one node.
//	C: s='urn:xmpp:ping'/></iq>
//	     Feed, Stanza: the iq. Its child Is(N("urn:xmpp:ping", "ping")).
//	     Stanza: ErrNeedMore; the Stream keeps nothing.
//	S: <iq type='result' id='1'/>
//	     Open(iq).Attr(typ, "result").AttrBytes(id, …).Close()
//	C: </stream:stream>
//	     Feed, Stanza: io.EOF.
package xmlstream
