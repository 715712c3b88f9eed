package xmlstream

// rewrite is [Element.splice] for an element whose bytes can't be copied: it writes the element again from
// its nodes, with the same infoset. Elements lose their prefixes and declare their namespace where it differs
// from the parent's. Attributes with a prefix keep it, and their element declares it. Line ends, CDATA
// sections and values are normalised. rewrite does not recurse, so a deep element costs no stack: the open
// elements are in an array. For each node, in document order:
//
//  1. Push it, and find out which namespace it has on the wire and whether to declare it. Content becomes the
//     content namespace of the receiver. An element of the stream itself keeps the prefix stream.
//  2. Write its start tag: name, declarations, attributes; on e itself those of set.
//  3. Write its text up to its first child, and continue with that. Without a child, write its end tag.
//  4. Pop elements, writing the text after each and the end tag of its parent, until one has a sibling.
func (e Element) rewrite(dst []byte, f Form, def Atom, top bool, set []Attr) []byte {
	type level struct {
		node    uint32
		from    uint32 // where its content begins
		space   []byte // the default namespace inside of it, as it is written
		content bool   // space is the content namespace of the receiver
		prefix  string // of its name, with the colon
	}
	var stack [maxDepth + 2]level
	t := e.t
	wire := rootClient.contentNS // the namespace of content on the wire
	if f == ServerStreamed && def == atomClient {
		wire = rootServer.contentNS
	}
	space := t.nsURI(t.nodes[e.i].ns)
	depth := 0
	stack[0] = level{space: def.bytes(), content: def == atomClient}
	for i := e.i; ; {
		nd := &t.nodes[i]
		up := &stack[depth]
		depth++
		lv := &stack[depth]
		*lv = level{node: i, from: nd.body, space: t.nsURI(nd.ns)}
		if depth == 1 {
			lv.content = t.contentAt(i, top)
		} else {
			lv.content = up.content && string(lv.space) == string(space)
		}
		if lv.content {
			lv.space = wire
		}
		declare := string(lv.space) != string(up.space)
		if lv.content && up.content {
			declare = false
		}
		stream := t.isStreams(nd.ns) && depth == 1 && top
		dst = append(dst, '<')
		switch {
		case stream:
			lv.prefix = "stream:"
			if declare = f == Framed; declare {
				dst = append(dst, "stream:"...)
				dst = append(dst, t.local(nd)...)
				dst = append(dst, " xmlns:stream='"+NSStream+"'"...)
				declare = false
			} else {
				dst = append(dst, "stream:"...)
				dst = append(dst, t.local(nd)...)
			}
			if lv.space = up.space; up.content {
				lv.space = wire
			}
			lv.content = false
		default:
			dst = append(dst, t.local(nd)...)
		}
		if declare {
			dst = append(dst, " xmlns='"...)
			dst = AppendValue(dst, lv.space)
			dst = append(dst, '\'')
		}
		var seen uint64
		for k := nd.attr0; k < nd.attr0+uint32(nd.nattr); k++ {
			a := &t.attrs[k]
			plen := uint32(a.kind & aPrefixLenMask)
			if a.kind&aDecl != 0 {
				// Declarations of prefixes are kept, as values may hold names with a prefix.
				if plen == 0 || string(t.buf[a.name:a.name+uint32(a.qnameLen)]) == "xmlns:xml" || stream &&
					string(t.buf[a.name:a.name+uint32(a.qnameLen)]) == "xmlns:stream" {
					continue
				}
			} else if i == e.i {
				if j := t.indexIn(set, a, nd.scope); j >= 0 {
					seen |= 1 << j
					if set[j].Value == "" {
						continue
					}
					dst = append(dst, ' ')
					dst = append(dst, t.buf[a.name:a.name+uint32(a.qnameLen)]...)
					dst = append(dst, "='"...)
					dst = AppendValue(dst, set[j].Value)
					dst = append(dst, '\'')
					continue
				}
			}
			if plen != 0 && a.kind&aDecl == 0 {
				dst = t.declareFor(dst, a, nd, i)
			}
			dst = append(dst, ' ')
			dst = append(dst, t.buf[a.name:a.name+uint32(a.qnameLen)]...)
			dst = append(dst, "='"...)
			dst = t.appendValue(dst, a)
			dst = append(dst, '\'')
		}
		if i == e.i {
			dst = appendMissing(dst, set, seen)
		}
		if nd.nflags&nEmpty != 0 || nd.body == nd.endTag {
			dst = append(dst, "/>"...)
		} else {
			dst = append(dst, '>')
			if nd.nflags&nChildren != 0 {
				i++
				dst = t.appendText(dst, nd, nd.body, t.nodes[i].start)
				continue
			}
			dst = t.appendText(dst, nd, nd.body, nd.endTag)
			dst = t.appendEnd(dst, nd, lv.prefix)
		}
		// Back to the next element that has a sibling.
		for {
			depth--
			if depth == 0 {
				return dst
			}
			parent := &t.nodes[stack[depth].node]
			from := t.end(nd)
			if nd.next != 0 {
				i = nd.next
				dst = t.appendText(dst, parent, from, t.nodes[i].start)
				break
			}
			dst = t.appendText(dst, parent, from, parent.endTag)
			dst = t.appendEnd(dst, parent, stack[depth].prefix)
			nd = parent
		}
	}
}

// appendEnd appends the end tag of nd, with the given prefix.
func (t *tree) appendEnd(dst []byte, nd *node, prefix string) []byte {
	dst = append(dst, "</"...)
	dst = append(dst, prefix...)
	dst = append(dst, t.local(nd)...)
	return append(dst, '>')
}

// appendText appends the character data of nd from one offset to another. Text of an element without the flag
// nNotVerbatim is copied.
func (t *tree) appendText(dst []byte, nd *node, from, to uint32) []byte {
	if from >= to {
		return dst
	}
	if nd.nflags&nNotVerbatim == 0 {
		return append(dst, t.buf[from:to]...)
	}
	return reencode(dst, t.buf[from:to], false)
}

// appendValue appends the value of a, escaped for quotation marks of either kind.
func (t *tree) appendValue(dst []byte, a *attr) []byte {
	return reencode(dst, t.buf[a.val:a.val+a.valLen], true)
}

// declareFor declares the prefix of the attribute a on the element nd, node i. It does nothing for xml,
// for a prefix that nd declares itself, as that declaration is written, too, and for one that an earlier
// attribute of nd has.
func (t *tree) declareFor(dst []byte, a *attr, nd *node, i uint32) []byte {
	p := t.buf[a.name : a.name+uint32(a.kind&aPrefixLenMask)]
	ns, _ := t.lookupPrefix(p, nd.scope)
	if ns == nsXMLPrefix {
		return dst
	}
	if ns < nsRoot && t.nsDecls[ns-1].owner == i {
		return dst // its declaration is written as an attribute
	}
	for k := nd.attr0; &t.attrs[k] != a; k++ {
		o := &t.attrs[k]
		if o.kind&aDecl == 0 && o.kind&aPrefixLenMask == a.kind&aPrefixLenMask &&
			string(t.buf[o.name:o.name+uint32(o.kind&aPrefixLenMask)]) == string(p) {
			return dst // it was declared for that attribute
		}
	}
	dst = append(dst, " xmlns:"...)
	dst = append(dst, p...)
	dst = append(dst, "='"...)
	dst = AppendValue(dst, t.nsURI(ns))
	return append(dst, '\'')
}
