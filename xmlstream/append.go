package xmlstream

import (
	"unicode/utf8"
)

// An Attr is an attribute to be written.
type Attr struct {
	Name  Name
	Value string
}

// A Form is how a top-level element stands on a wire.
type Form uint8

const (
	// Streamed: the stream header declares jabber:client.
	Streamed Form = iota
	// Framed: RFC 7395; the element declares its own namespace.
	Framed
	// Server: the stream header declares jabber:server, in which content of jabber:client is written.
	Server
)

// Append appends e, a top-level element, to dst in the given form with other values for some
// attributes of its start tag, which is all that routing changes: from, to, xml:lang. An empty value
// removes the attribute. Where the bytes of e mean the same on any stream they are copied; where they
// depend on the stream they came from, e is written anew with the same meaning. It allocates nothing
// but what dst needs.
func (e Element) Append(dst []byte, f Form, set ...Attr) []byte {
	d := e.node()
	if e.t.outer || f == Server || d.prefixLen > 0 || !e.plainSpace(d) {
		w := writer{dst: dst, e: e, f: f, top: true}
		w.element(e, topSpace(f), set)
		return w.dst
	}
	b := e.t.buf
	nameEnd := d.name + uint32(d.nameLen)
	dst = append(dst, b[d.start:nameEnd]...)
	if f == Framed && d.flags&nodeDefault == 0 {
		dst = append(dst, " xmlns='jabber:client'"...)
	}
	var done uint32 // bits of set that stood in the tag
	at := nameEnd
	attrs := e.t.attrs[d.attr : d.attr+uint32(d.nattr)]
	for i := range attrs {
		a := &attrs[i]
		for j := range set {
			if a.local != set[j].Name.Local || a.space != set[j].Name.Space {
				continue
			}
			if set[j].Value == "" {
				dst = append(dst, b[at:a.name]...)
				for len(dst) > 0 && class[dst[len(dst)-1]]&cSpace != 0 {
					dst = dst[:len(dst)-1]
				}
				at = a.value + a.valueLen + 1
			} else {
				dst = append(dst, b[at:a.value]...)
				dst = appendEscaped(dst, set[j].Value, true)
				at = a.value + a.valueLen
			}
			done |= 1 << j
			break
		}
	}
	// What was not there goes to the end of the start tag.
	tagEnd := d.inner - 1
	if d.flags&nodeEmpty != 0 {
		tagEnd--
	}
	dst = append(dst, b[at:tagEnd]...)
	for j := range set {
		if done&(1<<j) == 0 && set[j].Value != "" {
			dst = append(dst, ' ')
			if set[j].Name.Space == atomXML {
				dst = append(dst, "xml:"...)
			}
			dst = append(append(dst, set[j].Name.Local.String()...), "='"...)
			dst = append(appendEscaped(dst, set[j].Value, true), '\'')
		}
	}
	return append(dst, b[tagEnd:d.end]...)
}

// plainSpace reports whether e, without a prefix, is in jabber:client wherever that is the default,
// or says itself where it is.
func (e Element) plainSpace(d *node) bool {
	return d.flags&nodeDefault != 0 || d.space == atomClient
}

func topSpace(f Form) Atom {
	switch f {
	case Framed:
		return None
	case Server:
		return atomServer
	}
	return atomClient
}

// A writer writes elements anew: default namespaces where they change, prefixes for attributes only.
type writer struct {
	dst []byte
	e   Element
	f   Form
	top bool
}

// element writes e where the default namespace is in. set is for the top.
func (w *writer) element(e Element, in Atom, set []Attr) {
	d := e.node()
	space, uri := d.space, []byte(nil)
	if w.f == Server && space == atomClient {
		space = atomServer
	}
	if space == Unknown {
		uri = e.Space()
	}
	local := e.Local()
	w.dst = append(append(w.dst, '<'), local...)
	if space != in || space == Unknown {
		w.dst = append(w.dst, " xmlns='"...)
		if space == Unknown {
			w.dst = appendEscaped(w.dst, uri, true)
		} else {
			w.dst = appendEscaped(w.dst, space.String(), true)
		}
		w.dst = append(w.dst, '\'')
	}
	var done uint32
	attrs := e.t.attrs[d.attr : d.attr+uint32(d.nattr)]
	foreign := 0
	for i := range attrs {
		a := &attrs[i]
		value, replaced := []byte(nil), false
		for j := range set {
			if a.local == set[j].Name.Local && a.space == set[j].Name.Space {
				replaced = true
				done |= 1 << j
				if set[j].Value != "" {
					w.attrName(e, a, &foreign)
					w.dst = append(appendEscaped(w.dst, set[j].Value, true), '\'')
				}
				break
			}
		}
		if replaced {
			continue
		}
		value = e.t.value(a)
		w.attrName(e, a, &foreign)
		w.dst = append(appendEscaped(w.dst, value, true), '\'')
	}
	for j := range set {
		if done&(1<<j) == 0 && set[j].Value != "" {
			w.dst = append(w.dst, ' ')
			if set[j].Name.Space == atomXML {
				w.dst = append(w.dst, "xml:"...)
			}
			w.dst = append(append(w.dst, set[j].Name.Local.String()...), "='"...)
			w.dst = append(appendEscaped(w.dst, set[j].Value, true), '\'')
		}
	}
	if d.flags&(nodeChildren|nodeText|nodeMixed) == 0 {
		w.dst = append(w.dst, "/>"...)
		return
	}
	w.dst = append(w.dst, '>')
	w.children(e, d, space)
	w.dst = append(append(append(w.dst, "</"...), local...), '>')
}

// children writes text and elements in their order. Depth is bounded by the parser's limit.
func (w *writer) children(e Element, d *node, in Atom) {
	at := d.inner
	for c, ok := e.First(); ok; c, ok = c.Next() {
		n := c.node()
		w.text(e.t, at, n.start)
		w.element(c, in, nil)
		at = n.end
	}
	w.text(e.t, at, d.innerEnd)
}

func (w *writer) text(t *tree, from, to uint32) {
	if from == to {
		return
	}
	n := len(t.dec)
	t.appendText(from, to)
	w.dst = AppendEscapedBytes(w.dst, t.dec[n:])
	t.dec = t.dec[:n]
}

// attrName writes " name='", with a prefix and its declaration where the name has a namespace.
func (w *writer) attrName(e Element, a *attr, foreign *int) {
	w.dst = append(w.dst, ' ')
	switch {
	case a.space == atomXML:
		w.dst = append(w.dst, "xml:"...)
	case a.ns != nsNone:
		p := append([]byte("n"), byte('0'+*foreign/10%10), byte('0'+*foreign%10))
		*foreign++
		w.dst = append(append(append(w.dst, "xmlns:"...), p...), "='"...)
		w.dst = append(appendEscaped(w.dst, e.t.uri(a.ns), true), "' "...)
		w.dst = append(append(w.dst, p...), ':')
	}
	w.dst = append(append(w.dst, e.t.attrLocal(a)...), "='"...)
}

// AppendEscaped appends s so that it stands for itself in character data and in attribute values of
// either quote. What XML does not allow at all becomes U+FFFD.
func AppendEscaped(dst []byte, s string) []byte { return appendEscaped(dst, s, true) }

// AppendEscapedBytes is AppendEscaped.
func AppendEscapedBytes(dst, s []byte) []byte { return appendEscaped(dst, s, false) }

// escape says what stands for a byte that can't stand for itself; empty: it can.
var escape = [128]string{'&': "&amp;", '<': "&lt;", '>': "&gt;", '\'': "&apos;", '"': "&quot;", '\r': "&#13;"}

func appendEscaped[T string | []byte](dst []byte, s T, attr bool) []byte {
	from := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c < 0x80 {
			if c >= '?' || escape[c] == "" && c >= 0x20 {
				i++
				continue
			}
			rep := escape[c]
			switch {
			case rep != "":
			case c == '\n' && attr:
				rep = "&#10;"
			case c == '\t' && attr:
				rep = "&#9;"
			case c == '\n' || c == '\t':
				i++
				continue
			default:
				rep = "\uFFFD"
			}
			dst = append(append(dst, s[from:i]...), rep...)
			i++
			from = i
			continue
		}
		r, n := decodeRune(s[i:])
		if r == utf8.RuneError && n <= 1 || r == 0xFFFE || r == 0xFFFF {
			dst = append(append(dst, s[from:i]...), "\uFFFD"...)
			i += n
			from = i
			continue
		}
		i += n
	}
	return append(dst, s[from:]...)
}

func decodeRune[T string | []byte](s T) (rune, int) {
	var b [utf8.UTFMax]byte
	n := copy(b[:], s)
	return utf8.DecodeRune(b[:n])
}

// maxOpen is how deep an Appender may write.
const maxOpen = 12

// An Appender writes XML onto the end of a byte slice, as strconv.AppendInt does. It checks nesting,
// escapes, and declares a namespace where it changes. The zero value is ready; its methods make no
// closure and keep no argument. A misuse (an attribute behind a child, a Close too many, more than 12
// open elements) is a mistake in the program, and panics.
type Appender struct {
	B     []byte
	Form  Form
	depth uint8
	inTag bool // the start tag is not ended yet
	space [maxOpen]Atom
	names [maxOpen]Atom
}

// Reset has a write onto the end of b, as if it were new.
func (a *Appender) Reset(b []byte) {
	a.B, a.depth, a.inTag = b, 0, false
}

func (a *Appender) endTag() {
	if a.inTag {
		a.B = append(a.B, '>')
		a.inTag = false
	}
}

func (a *Appender) in() Atom {
	if a.depth == 0 {
		return topSpace(a.Form)
	}
	return a.space[a.depth-1]
}

// Open begins an element.
func (a *Appender) Open(n Name) *Appender {
	if a.depth == maxOpen {
		panic("xmlstream: an Appender writes no deeper")
	}
	a.endTag()
	if a.Form == Server && n.Space == atomClient {
		n.Space = atomServer
	}
	a.B = append(append(a.B, '<'), n.Local.String()...)
	if n.Space != a.in() {
		a.B = append(a.B, " xmlns='"...)
		a.B = append(appendEscaped(a.B, n.Space.String(), true), '\'')
	}
	a.space[a.depth], a.names[a.depth] = n.Space, n.Local
	a.depth++
	a.inTag = true
	return a
}

func (a *Appender) attr(n Name) {
	if !a.inTag {
		panic("xmlstream: an attribute outside of a start tag")
	}
	a.B = append(a.B, ' ')
	if n.Space == atomXML {
		a.B = append(a.B, "xml:"...)
	} else if n.Space != None {
		panic("xmlstream: an Appender writes no attribute of the namespace " + n.Space.String())
	}
	a.B = append(append(a.B, n.Local.String()...), "='"...)
}

// Attr gives the element just begun an attribute, without a namespace or in that of xml:lang.
func (a *Appender) Attr(n Name, v string) *Appender {
	a.attr(n)
	a.B = append(appendEscaped(a.B, v, true), '\'')
	return a
}

// AttrBytes is Attr.
func (a *Appender) AttrBytes(n Name, v []byte) *Appender {
	a.attr(n)
	a.B = append(appendEscaped(a.B, v, true), '\'')
	return a
}

// Text writes character data into the open element.
func (a *Appender) Text(v string) *Appender {
	a.needOpen()
	a.endTag()
	a.B = appendEscaped(a.B, v, false)
	return a
}

// TextBytes is Text.
func (a *Appender) TextBytes(v []byte) *Appender {
	a.needOpen()
	a.endTag()
	a.B = appendEscaped(a.B, v, false)
	return a
}

func (a *Appender) needOpen() {
	if a.depth == 0 {
		panic("xmlstream: text outside of an element")
	}
}

// Raw writes e as it was parsed, with set as in [Element.Append], and with a namespace declaration
// where e took its namespace from its surroundings.
func (a *Appender) Raw(e Element, set ...Attr) *Appender {
	a.endTag()
	d := e.node()
	if len(set) == 0 && !e.t.outer && d.prefixLen == 0 && e.i == 0 && a.Form != Server && e.selfContained() {
		switch {
		case d.flags&nodeDefault != 0, d.space == a.in():
			a.B = append(a.B, e.Raw()...)
			return a
		case d.space != Unknown:
			b := e.t.buf
			nameEnd := d.name + uint32(d.nameLen)
			a.B = append(append(a.B, b[d.start:nameEnd]...), " xmlns='"...)
			a.B = append(appendEscaped(a.B, d.space.String(), true), '\'')
			a.B = append(a.B, b[nameEnd:d.end]...)
			return a
		}
	}
	w := writer{dst: a.B, e: e, f: a.Form}
	w.element(e, a.in(), set)
	a.B = w.dst
	return a
}

// selfContained reports whether e is the top of its tree: then no declaration of a parent is needed.
func (e Element) selfContained() bool { return e.i == 0 }

// Inner writes the children and text of e into the open element.
func (a *Appender) Inner(e Element) *Appender {
	a.needOpen()
	a.endTag()
	w := writer{dst: a.B, e: e, f: a.Form}
	w.children(e, e.node(), a.in())
	a.B = w.dst
	return a
}

// Close ends the open element.
func (a *Appender) Close() *Appender {
	if a.depth == 0 {
		panic("xmlstream: a Close too many")
	}
	a.depth--
	if a.inTag {
		a.B = append(a.B, "/>"...)
		a.inTag = false
		return a
	}
	a.B = append(append(append(a.B, "</"...), a.names[a.depth].String()...), '>')
	return a
}

// AttrNamed is AttrBytes with a name that was parsed, as it was written.
func (a *Appender) AttrNamed(name string, v []byte) *Appender {
	if !a.inTag {
		panic("xmlstream: an attribute outside of a start tag")
	}
	a.B = append(append(append(a.B, ' '), name...), "='"...)
	a.B = append(appendEscaped(a.B, v, true), '\'')
	return a
}
