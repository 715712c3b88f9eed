package xmlstream

import "bytes"

// An Appender writes XML at the end of a byte slice, as strconv.AppendInt does, and allocates nothing
// once the slice is large enough. It escapes values and text and declares a namespace where it changes,
// so what it writes is well-formed:
//
//	a.Reset(xmlstream.Streamed)
//	a.Open(iq).Attr(typ, "result").AttrBytes(id, v).Close()
//	conn.Append(a.B)
//
// A call that can't be right panics, as it is a fault of the program and not of the data: text, an
// attribute or an end tag outside of an element, a name that XML does not allow, more than 16 open
// elements. If an attribute is written twice, the first one is kept.
//
// The zero Appender is ready, in Streamed form. It keeps no argument. It is not safe for concurrent use.
type Appender struct {
	// B is what was written. While no element is open, the caller may take it, replace it or shorten it.
	B []byte
	// Form is the form in which top-level elements are written. Set it with Reset, or while none is open.
	Form Form

	tagOpen  bool  // the start tag of the innermost element has no > yet
	depth    uint8 // how many elements are open
	tagStart int   // the offset in B of the last start tag
	stack    [maxOpenElements]struct {
		local    Atom         // its local name, for the end tag
		space    Atom         // the default namespace inside of it
		prefix   streamPrefix // of its own name
		declared bool         // space was declared by an open element: it is not that of the stream
	}
}

// maxOpenElements is how many elements can be open at once. No stanza that Canto writes itself is deeper.
const maxOpenElements = 16

// A streamPrefix is an index of streamPrefixes: which fixed prefix an element has, 0 for none.
type streamPrefix uint8

// streamPrefixes are the prefixes of elements in the streams namespace and, between servers, of dialback.
// They are declared by the stream header, so they are written without a declaration; Framed streams have
// no header.
var streamPrefixes = [...]string{"", "stream:", "db:"}

// Reset empties B, but keeps its memory, forgets open elements, and sets the form. It returns a.
func (a *Appender) Reset(f Form) *Appender {
	a.B, a.Form, a.tagOpen, a.depth = a.B[:0], f, false, 0
	return a
}

// Depth returns how many elements are open. B is complete XML if it is 0.
func (a *Appender) Depth() int { return int(a.depth) }

// defaultNS returns the default namespace in force. In ServerStreamed form it is jabber:client on the stream,
// although that stands for jabber:server there: so a stanza is written with the same names in every form.
func (a *Appender) defaultNS() Atom {
	if a.depth > 0 {
		return a.stack[a.depth-1].space
	}
	if a.Form == Framed {
		return None
	}
	return atomClient
}

// content reports whether the default namespace in force is that of the stream, not one that an open element
// has declared.
func (a *Appender) content() bool { return a.depth == 0 || !a.stack[a.depth-1].declared }

// Open begins an element. It writes xmlns only where the namespace of n is not the default in force.
// n.Space may be [None]. Elements of the streams namespace get the prefix stream, and those of dialback
// (XEP-0220) the prefix db in ServerStreamed form. The steps:
//
//  1. Check the name and the depth, and end the start tag of the parent.
//  2. Push the element; find its prefix and the default namespace inside of it. An element with a prefix
//     changes no default. In ServerStreamed form, jabber:server on the stream is the default.
//  3. Write < and the name, then the declaration of the prefix (Framed only) and of the namespace.
func (a *Appender) Open(n Name) *Appender {
	if !n.Local.ncname() || n.Space == Unknown {
		panic("xmlstream: no name of an element: " + n.String())
	}
	if a.depth == maxOpenElements {
		panic("xmlstream: too many open elements")
	}
	def, content := a.defaultNS(), a.content()
	a.endStartTag()
	a.tagStart = len(a.B)
	lv := &a.stack[a.depth]
	a.depth++
	a.tagOpen = true
	lv.local, lv.space, lv.prefix = n.Local, n.Space, 0
	switch {
	case n.Space == atomStream:
		lv.prefix, lv.space = 1, def
	case n.Space == atomDialback && a.Form == ServerStreamed:
		lv.prefix, lv.space = 2, def
	case n.Space == atomServer && a.Form == ServerStreamed && content:
		lv.space = def
	}
	lv.declared = !content || lv.space != def
	a.B = append(a.B, '<')
	a.B = append(a.B, streamPrefixes[lv.prefix]...)
	a.B = append(a.B, n.Local.String()...)
	if lv.prefix == 1 && a.Form == Framed {
		a.B = append(a.B, " xmlns:stream='"+NSStream+"'"...)
	}
	if lv.space != def {
		a.B = append(a.B, " xmlns='"...)
		a.B = AppendValue(a.B, lv.space.String())
		a.B = append(a.B, '\'')
	}
	return a
}

// endStartTag writes the > of the start tag that is open, if there is one.
func (a *Appender) endStartTag() {
	if a.tagOpen {
		a.B = append(a.B, '>')
		a.tagOpen = false
	}
}

// Attr writes an attribute of the element that was opened last, before its content. v is escaped. An
// empty v is written as an empty value. If n has a namespace other than xml's, a prefix is declared for
// it.
func (a *Appender) Attr(n Name, v string) *Appender {
	if a.attr(n) {
		a.B = AppendValue(a.B, v)
		a.B = append(a.B, '\'')
	}
	return a
}

// AttrBytes is Attr for a value in bytes, which are copied.
func (a *Appender) AttrBytes(n Name, v []byte) *Appender {
	if a.attr(n) {
		a.B = AppendValue(a.B, v)
		a.B = append(a.B, '\'')
	}
	return a
}

// attr writes an attribute up to the opening quotation mark and returns true. If the element already has the
// attribute, it writes nothing and returns false.
func (a *Appender) attr(n Name) bool {
	if !a.tagOpen {
		panic("xmlstream: attribute without a start tag")
	}
	if !n.Local.ncname() || n.Space == Unknown || n.Space == None && n.Local.String() == "xmlns" {
		panic("xmlstream: no name of an attribute: " + n.String())
	}
	local := n.Local.String()
	lead := " "
	switch n.Space {
	case None:
	case atomXML:
		lead = " xml:"
	default:
		return a.prefixedAttr(n)
	}
	if a.has(lead, local) {
		return false
	}
	a.B = append(a.B, lead...)
	a.B = append(a.B, local...)
	a.B = append(a.B, "='"...)
	return true
}

// prefixedAttr is attr for a namespace other than xml's. It looks in the start tag for an attribute that
// declared a prefix for the namespace, and uses that. Otherwise it declares a new one, n1, n2 and so on
// by the number of such declarations in the tag. It allocates only for a namespace of more than 250
// bytes.
func (a *Appender) prefixedAttr(name Name) bool {
	tag := a.B[a.tagStart:]
	var esc [256]byte
	decl := append(AppendValue(append(esc[:0], "='"...), name.Space.String()), '\'')
	num := 1 + bytes.Count(tag, []byte(" xmlns:n"))
	for k := 0; ; {
		at := bytes.Index(tag[k:], decl)
		if at < 0 {
			break
		}
		k += at
		p := tag[bytes.LastIndexByte(tag[:k], ' ')+1 : k]
		k++
		if !bytes.HasPrefix(p, []byte("xmlns:")) {
			continue
		}
		p = p[len("xmlns:"):] // the prefix was declared for an earlier attribute
		if a.has(" "+string(p)+":", name.Local.String()) {
			return false
		}
		a.B = append(a.B, ' ')
		a.B = append(a.B, p...)
		a.B = append(a.B, ':')
		a.B = append(a.B, name.Local.String()...)
		a.B = append(a.B, "='"...)
		return true
	}
	var d [20]byte
	digits := appendInt(d[:0], num)
	a.B = append(a.B, " xmlns:n"...)
	a.B = append(a.B, digits...)
	a.B = append(a.B, decl...)
	a.B = append(a.B, " n"...)
	a.B = append(a.B, digits...)
	a.B = append(a.B, ':')
	a.B = append(a.B, name.Local.String()...)
	a.B = append(a.B, "='"...)
	return true
}

// appendInt appends n, which is over 0, in decimal.
func appendInt(b []byte, n int) []byte {
	if n >= 10 {
		b = appendInt(b, n/10)
	}
	return append(b, byte('0'+n%10))
}

// has reports whether the open start tag has the attribute whose name is lead and local; lead is a space
// with a prefix, if there is one. In the tag, =' stands only between name and value, as values have '
// escaped.
func (a *Appender) has(lead, local string) bool {
	tag := a.B[a.tagStart:]
	for i := 0; ; {
		k := bytes.IndexByte(tag[i:], '=')
		if k < 0 {
			return false
		}
		i += k
		if i+1 < len(tag) && tag[i+1] == '\'' {
			if s := i - len(local); s >= len(lead) && string(tag[s:i]) == local && string(tag[s-len(lead):s]) == lead {
				return true
			}
		}
		i++
	}
}

// Text writes v as character data, escaped, and ends the start tag that is open.
func (a *Appender) Text(v string) *Appender {
	a.inElement()
	a.B = AppendText(a.B, v)
	return a
}

// TextBytes is Text for bytes, which are copied.
func (a *Appender) TextBytes(v []byte) *Appender {
	a.inElement()
	a.B = AppendText(a.B, v)
	return a
}

// inElement makes a ready for content: it ends the start tag, and panics outside of an element.
func (a *Appender) inElement() {
	if a.depth == 0 {
		panic("xmlstream: text outside of an element")
	}
	a.endStartTag()
}

// Raw writes e, an element that was parsed, as the next child, or on the stream if no element is open. set
// replaces or removes attributes of e, as in [Element.Append]. e gets an xmlns where its namespace came from
// the elements around it.
func (a *Appender) Raw(e Element, set ...Attr) *Appender {
	a.endStartTag()
	f := a.Form
	if f == ServerStreamed && !a.content() {
		f = Streamed // inside another namespace, jabber:client does not stand for that of the stream
	}
	a.B = e.splice(a.B, f, a.defaultNS(), a.depth == 0, set)
	return a
}

// Close ends the element that was opened last: with /> if it has no content.
func (a *Appender) Close() *Appender {
	if a.depth == 0 {
		panic("xmlstream: Close without Open")
	}
	a.depth--
	if a.tagOpen {
		a.tagOpen = false
		a.B = append(a.B, "/>"...)
		return a
	}
	lv := &a.stack[a.depth]
	a.B = append(a.B, "</"...)
	a.B = append(a.B, streamPrefixes[lv.prefix]...)
	a.B = append(a.B, lv.local.String()...)
	a.B = append(a.B, '>')
	return a
}
