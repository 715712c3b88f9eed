package xmlstream

import "bytes"

// An Attr is an attribute to be written, with its value unescaped.
type Attr struct {
	Name  Name
	Value string
}

// A Form is how a top-level element stands on a wire. Frames of the kernel are Streamed: they carry no
// xmlns for jabber:client.
type Form uint8

const (
	Streamed Form = iota // as is: the stream header declares jabber:client
	Framed               // RFC 7395 §3.3.3: default and stream namespaces on the element
	// jabber:server is the default on the stream: content in jabber:client stands there without xmlns
	ServerStreamed
)

// Append appends e to dst as a top-level element in the given form, with other values for some attributes
// of its start tag, which is all that routing changes: from, to, xml:lang. An empty value removes the
// attribute. Everything else is copied as it was received, quotes and blanks inside tags included, where
// that means the same at the receiver. It does if
//
//   - e has no prefix of its own, and neither it nor anything in it uses one that is declared outside of it, as on the
//     sender's stream header;
//   - nothing in it is a CDATA section, a carriage return, or a line break or tab in a value, which would not outlive
//     each parser and proxy: references to them do;
//   - in Server form, and for stanzas that came in another namespace than jabber:client, nothing in it declares a
//     content namespace or has a prefix.
//
// Otherwise e is written anew, for the same infoset. A child that is passed on for itself is copied under
// the same conditions, and if none of its attributes has a prefix but xml.
//
// The content namespace of the stream that e came from becomes that of the form: children of other
// namespaces, and stanzas inside of them, keep theirs. jabber:client written out on e is content, too.
// The xml:lang of the sender's stream is not put on e: who routes says it in set (RFC 6120 §8.1.5). A
// name in set that is not Known, or no name of XML, panics.
func (e Element) Append(dst []byte, f Form, set ...Attr) []byte {
	def := atomClient
	if f == Framed {
		def = None
	}
	return e.splice(dst, f, def, true, set)
}

// splice appends e where the default namespace is def; top says that it stands on a stream. In Server
// form atomClient means the content namespace of the stream.
func (e Element) splice(dst []byte, f Form, def Atom, top bool, set []Attr) []byte {
	nd, t := e.node(), e.t
	if len(set) > 64 {
		panic("xmlstream: more than 64 attributes set")
	}
	content := t.contentAt(e.i, top)
	own := t.declaresDefault(nd, e.i)
	var add []byte // a namespace to declare
	drop := false  // the declaration that is there is not wanted
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
	var seen uint64 // of set: those that e has
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

// appendMissing appends those of set that are not in seen; of two with one name, the first.
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

// indexIn returns the index of a in set, or -1.
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

// spaceBefore returns where the white space in front of a begins.
func (t *tree) spaceBefore(a *attr) uint32 {
	i := a.name
	for charClass[t.buf[i-1]]&cSpace != 0 {
		i--
	}
	return i
}

// declaresDefault reports whether node i declares its default namespace itself.
func (t *tree) declaresDefault(nd *node, i uint32) bool {
	return nd.ns != nsOuter && nd.ns < nsRoot && nd.prefixLen == 0 && t.nsDecls[nd.ns-1].owner == i
}

// contentAt reports whether node i is a stanza or a part of one: it is in the content namespace, and all
// above it in the same. With top, what is above it stays behind. jabber:client, where it is written out,
// is content on each stream.
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

// isContent reports whether nd is in the content namespace: that of the stream, or jabber:client where it
// has none.
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

// copyable reports whether the bytes of e mean the same where the default namespace is that of e and no
// prefix is bound.
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
