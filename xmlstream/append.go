package xmlstream

import "bytes"

// An Attr is an attribute to be written, or to be removed: see [Element.Append].
type Attr struct {
	Name  Name   // of no namespace, or of xml's, where the function does not allow others
	Value string // not escaped yet
}

// A Form says for which kind of stream a top-level element is written: which namespaces the stream has
// declared and the element need not. The frames of the kernel, which may go to any client, are Streamed.
type Form uint8

const (
	// Streamed is for the streams of clients and components, whose header declares jabber:client, or the
	// namespace that stands for it, and the prefix stream.
	Streamed Form = iota
	// Framed is for WebSocket, where no header declares anything (RFC 7395 section 3.3.3): the default
	// namespace and the prefix stream are declared on the element.
	Framed
	// ServerStreamed is for streams between servers, whose header declares jabber:server. Stanzas in
	// jabber:client are written without xmlns, and so become stanzas in jabber:server.
	ServerStreamed
)

// Append appends e to dst as a top-level element in the form f, and returns the longer slice. set
// replaces attributes of its start tag, or adds them; one with an empty value is removed. That is all
// that routing changes: from, to, xml:lang. At most 64 can be set; if a name is there twice, the first
// counts. Names must be [Name.Known], of no namespace or of xml's; others panic.
//
// All else is copied as it was received, with its quotation marks and the white space inside tags, if
// that means the same to the receiver. It does if
//
//   - e has no prefix itself, and nothing in it uses a prefix that is declared outside of it, as in the
//     stream header of the sender;
//   - nothing in it is a CDATA section, a carriage return, or a line feed or tab in a value: not all
//     parsers and proxies preserve these. References to them are preserved;
//   - for ServerStreamed, and for stanzas from a content namespace other than jabber:client: nothing in
//     it declares a content namespace or has a prefix.
//
// Otherwise e is written again from its tree, with the same infoset. For an e that is inside a stanza the
// conditions are the same, and none of its attributes may have a prefix but xml.
//
// The content namespace of the stream that e came from becomes that of the receiver's. jabber:client that
// is declared on e itself is content, too. Elements in other namespaces, and stanzas inside of them, keep
// theirs. The xml:lang of the sender's stream is not added: the router sets it (RFC 6120 section 8.1.5).
func (e Element) Append(dst []byte, f Form, set ...Attr) []byte {
	def := atomClient
	if f == Framed {
		def = None
	}
	return e.splice(dst, f, def, true, set)
}

// splice is Append where def is the default namespace around e. top says that e is written on a stream
// and not inside an element; then, in ServerStreamed form, def is atomClient and means jabber:server. The
// steps:
//
//  1. Find out whether e is content, and whether its bytes can be copied. If not, call rewrite.
//  2. Find out which default namespace to add to the start tag, or whether the one there is to be left out.
//  3. Copy the start tag up to each attribute that is set, and write its new value, or skip it with the white
//     space before it. cur is where the bytes that are not yet copied begin.
//  4. Add the attributes that are set and that e does not have; copy the rest of e.
func (e Element) splice(dst []byte, f Form, def Atom, top bool, set []Attr) []byte {
	nd, t := e.node(), e.t
	if len(set) > 64 {
		panic("xmlstream: more than 64 attributes set")
	}
	content := t.contentAt(e.i, top)
	own := t.declaresDefault(nd, e.i)
	var add []byte // the default namespace to declare; nil for none
	drop := false  // the declaration on e is left out
	switch {
	case !e.copyable(nd), content && t.flags&(fContentDecl|fElemPrefix) != 0 &&
		(f == ServerStreamed || string(t.nsURI(nd.ns)) != NSClient):
		return e.rewrite(dst, f, def, top, set)
	case content && def == atomClient:
		drop = own
	case content && own:
		if string(t.nsURI(nd.ns)) != NSClient {
			return e.rewrite(dst, f, def, top, set)
		}
	case content:
		add = rootClient.contentNS
	case !own:
		add = t.nsURI(nd.ns)
		if string(add) == def.String() {
			add = nil
		} else if len(add) == 0 {
			return e.rewrite(dst, f, def, top, set)
		}
	}
	b := t.buf
	cur := nd.start + 1 + uint32(nd.qnameLen)
	dst = append(dst, b[nd.start:cur]...)
	if add != nil {
		dst = append(dst, " xmlns='"...)
		dst = AppendValue(dst, add)
		dst = append(dst, '\'')
	}
	var seen uint64 // a bit for each of set that e has
	for k := nd.attr0; k < nd.attr0+uint32(nd.nattr); k++ {
		a := &t.attrs[k]
		if a.kind&aDecl != 0 {
			if drop && a.qnameLen == 5 {
				dst = append(dst, b[cur:t.spaceBefore(a)]...)
				cur = a.val + a.valLen + 1
			}
			continue
		}
		j := t.indexIn(set, a, nd.scope)
		if j < 0 {
			continue
		}
		seen |= 1 << j
		if v := set[j].Value; v != "" {
			dst = append(dst, b[cur:a.val]...)
			dst = AppendValue(dst, v)
			cur = a.val + a.valLen
		} else {
			dst = append(dst, b[cur:t.spaceBefore(a)]...)
			cur = a.val + a.valLen + 1
		}
	}
	tag := nd.body - 1
	if nd.nflags&nEmpty != 0 {
		tag--
	}
	dst = append(dst, bytes.TrimRight(b[cur:tag], " \t\r\n")...)
	dst = appendMissing(dst, set, seen)
	return append(dst, b[tag:t.end(nd)]...)
}

// appendMissing appends the attributes of set whose bit in seen is 0, as e does not have them. An empty
// value is left out, and so is a name that is earlier in set.
func appendMissing(dst []byte, set []Attr, seen uint64) []byte {
	for j := range set {
		if seen>>j&1 != 0 || set[j].Value == "" {
			continue
		}
		again := false
		for i := range j {
			again = again || set[i].Name == set[j].Name
		}
		if again {
			continue
		}
		if n := set[j].Name; n.Space == atomXML && n.Local.ncname() {
			dst = append(dst, " xml:"...)
		} else if n.Space == None && n.Local.ncname() {
			dst = append(dst, ' ')
		} else {
			panic("xmlstream: attribute " + n.String() + " can't be set")
		}
		dst = append(dst, set[j].Name.Local.String()...)
		dst = append(dst, "='"...)
		dst = AppendValue(dst, set[j].Value)
		dst = append(dst, '\'')
	}
	return dst
}

// indexIn returns the index of the attribute a in set, or -1. scope is that of its element.
func (t *tree) indexIn(set []Attr, a *attr, scope uint16) int {
	plen := uint32(a.kind & aPrefixLenMask)
	off := a.name
	if plen != 0 {
		off += plen + 1
	}
	for j := range set {
		n := &set[j].Name
		if (plen == 0) != (n.Space == None) || string(t.buf[off:a.name+uint32(a.qnameLen)]) != n.Local.String() {
			continue
		}
		if plen != 0 {
			if ns, _ := t.lookupPrefix(t.buf[a.name:a.name+plen], scope); string(t.nsURI(ns)) != n.Space.String() {
				continue
			}
		}
		return j
	}
	return -1
}

// spaceBefore returns the offset where the white space before the attribute a begins.
func (t *tree) spaceBefore(a *attr) uint32 {
	i := a.name
	for charClass[t.buf[i-1]]&cSpace != 0 {
		i--
	}
	return i
}

// declaresDefault reports whether the element, node i, is in a default namespace that it declares itself.
func (t *tree) declaresDefault(nd *node, i uint32) bool {
	return nd.ns != nsOuter && nd.ns < nsRoot && nd.prefixLen == 0 && t.nsDecls[nd.ns-1].owner == i
}

// contentAt reports whether node i is a stanza or a part of one: it is in the content namespace, and so
// are all elements around it. With top only node i counts, as it is written without the elements around
// it. jabber:client that is declared is content on each stream.
func (t *tree) contentAt(i uint32, top bool) bool {
	nd := &t.nodes[i]
	if top || i == 0 {
		return t.isContent(nd) || nd.ns != nsOuter && string(t.nsURI(nd.ns)) == NSClient
	}
	space := t.nsURI(nd.ns)
	if !t.contentAt(0, true) || string(t.nsURI(t.nodes[0].ns)) != string(space) {
		return false
	}
	for j := uint32(0); j != i; { // from the root down
		j++
		for t.nodes[j].next != 0 && t.nodes[j].next <= i {
			j = t.nodes[j].next
		}
		if string(t.nsURI(t.nodes[j].ns)) != string(space) {
			return false
		}
	}
	return true
}

// isContent reports whether nd is in the content namespace: that of the stream, or jabber:client if the
// stream has none that XMPP knows.
func (t *tree) isContent(nd *node) bool {
	if nd.ns == nsOuter {
		return t.root.content()
	}
	u := t.nsURI(nd.ns)
	if t.root.content() {
		return string(u) == string(t.root.contentNS)
	}
	return string(u) == NSClient
}

// copyable reports whether the bytes of e mean the same where its default namespace is in force and no
// prefix is declared. For the top element the flags of the tree tell; for others their nodes are visited.
func (e Element) copyable(nd *node) bool {
	t := e.t
	if nd.prefixLen != 0 || t.header {
		return false
	}
	if e.i == 0 {
		return t.flags&(fNotVerbatim|fOuterPrefix) == 0
	}
	end := t.end(nd)
	for j := int(e.i); j < len(t.nodes) && t.nodes[j].start < end; j++ {
		n := &t.nodes[j]
		if n.nflags&(nNotVerbatim|nPrefix) != 0 {
			return false
		}
		if n.prefixLen != 0 && n.ns != nsXMLPrefix && (n.ns >= nsRoot || t.nsDecls[n.ns-1].owner < e.i) {
			return false
		}
	}
	return true
}
