package xmlstream

import "bytes"

// An Appender writes XML onto the end of a byte slice, as strconv.AppendInt does. It escapes, declares a
// namespace where it changes, and can't be made to write what is not well-formed: a call that makes no
// sense (text or an end tag outside of an element, a name that is none, elements nested deeper than 16)
// panics, as it is a fault of the program and not of the data. Of two attributes with one name the first
// is kept.
//
// Between elements B may be taken, replaced and emptied. The zero value is ready, in Streamed form; its
// methods make no closure and keep no argument. Not safe for two goroutines.
type Appender struct {
	B    []byte
	Form Form

	tagOpen  bool // the start tag has no > yet
	depth    uint8
	tagStart int // offset in B of the last start tag
	stack    [maxOpenElements]struct {
		local, space Atom // space: the default namespace inside
		prefix       streamPrefix
		declared     bool // space was declared on the way, and is not the stream's
	}
}

// maxOpenElements is how many elements can be open at once: we write no deeper ones.
const maxOpenElements = 16

type streamPrefix uint8

var streamPrefixes = [...]string{"", "stream:", "db:"}

// Reset empties the Appender, whatever is open: B keeps its memory.
func (a *Appender) Reset(f Form) *Appender {
	a.B, a.Form, a.tagOpen, a.depth = a.B[:0], f, false, 0
	return a
}

// Depth returns how many elements are open.
func (a *Appender) Depth() int { return int(a.depth) }

// defaultNS returns the default namespace in force. In Server form jabber:client stands for jabber:server on
// the stream, so that who writes a stanza writes the same for all.
func (a *Appender) defaultNS() Atom {
	if a.depth > 0 {
		return a.stack[a.depth-1].space
	}
	if a.Form == Framed {
		return None
	}
	return atomClient
}

// content reports whether the default namespace in force is the stream's.
func (a *Appender) content() bool { return a.depth == 0 || !a.stack[a.depth-1].declared }

// Open begins an element. Without xmlns where its namespace is that of the element around it; on the
// stream, of the stream. Elements of the streams namespace get the prefix stream, in Server form those of
// dialback (XEP-0220) db.
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

// endStartTag ends the start tag, if it is still open.
func (a *Appender) endStartTag() {
	if a.tagOpen {
		a.B = append(a.B, '>')
		a.tagOpen = false
	}
}

// Attr writes an attribute of the element just opened. An empty value is written.
func (a *Appender) Attr(n Name, v string) *Appender {
	if a.attr(n) {
		a.B = AppendValue(a.B, v)
		a.B = append(a.B, '\'')
	}
	return a
}

// AttrBytes is Attr for bytes.
func (a *Appender) AttrBytes(n Name, v []byte) *Appender {
	if a.attr(n) {
		a.B = AppendValue(a.B, v)
		a.B = append(a.B, '\'')
	}
	return a
}

// attr writes the name of an attribute up to the quote and reports true, or false if the element has it.
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

// prefixedAttr is attr for a namespace other than xml: it gets a prefix, which its place in the tag makes the
// only one.
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
		p = p[len("xmlns:"):] // declared for an attribute before
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

func appendInt(b []byte, n int) []byte {
	if n >= 10 {
		b = appendInt(b, n/10)
	}
	return append(b, byte('0'+n%10))
}

// has reports whether the open tag has an attribute: a value holds no quote, so ' after = begins one.
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

// Text writes character data.
func (a *Appender) Text(v string) *Appender {
	a.inElement()
	a.B = AppendText(a.B, v)
	return a
}

// TextBytes is Text for bytes.
func (a *Appender) TextBytes(v []byte) *Appender {
	a.inElement()
	a.B = AppendText(a.B, v)
	return a
}

func (a *Appender) inElement() {
	if a.depth == 0 {
		panic("xmlstream: text outside of an element")
	}
	a.endStartTag()
}

// Raw writes e as it was parsed, with set as in [Element.Append] and xmlns where e took it from its
// surroundings.
func (a *Appender) Raw(e Element, set ...Attr) *Appender {
	a.endStartTag()
	f := a.Form
	if f == ServerStreamed && !a.content() {
		f = Streamed // jabber:client is itself there
	}
	a.B = e.splice(a.B, f, a.defaultNS(), a.depth == 0, set)
	return a
}

// Close ends the element opened last.
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
