package xmlstream

import "bytes"

// An Element is a complete element: an index into a flat tree over the bytes it was parsed from. It
// is two words, and passing it allocates nothing. It is good for as long as whoever returned it says.
type Element struct {
	t   *tree
	i   uint32
	gen uint32
}

func (e Element) node() *node {
	if checked && e.gen != e.t.gen {
		panic("xmlstream: an Element was used after its end")
	}
	return &e.t.nodes[e.i]
}

// IsZero reports whether e is no element.
func (e Element) IsZero() bool { return e.t == nil }

// Is reports whether e has the name n. Unknown is never equal to anything.
func (e Element) Is(n Name) bool {
	d := e.node()
	return d.local == n.Local && d.space == n.Space && n.Known()
}

// Name is e's name for a switch or a map; it may be half or wholly Unknown.
func (e Element) Name() Name {
	d := e.node()
	return Name{d.space, d.local}
}

// Local is the local name as written.
func (e Element) Local() []byte {
	d := e.node()
	n := e.t.buf[d.name : d.name+uint32(d.nameLen)]
	if d.prefixLen > 0 {
		return n[d.prefixLen+1:]
	}
	return n
}

// Space is the namespace in force, for names that nobody interned.
func (e Element) Space() []byte { return e.t.uri(e.node().ns) }

// Attr is the value of the attribute n, with what its references mean.
func (e Element) Attr(n Name) (value []byte, ok bool) {
	d := e.node()
	attrs := e.t.attrs[d.attr : d.attr+uint32(d.nattr)]
	for i := range attrs {
		if a := &attrs[i]; a.local == n.Local && a.space == n.Space && n.Local != Unknown {
			return e.t.value(a), true
		}
	}
	return nil, false
}

func (t *tree) value(a *attr) []byte {
	v := t.buf[a.value : a.value+a.valueLen : a.value+a.valueLen]
	if !a.refs {
		return v
	}
	n := len(t.dec)
	t.dec = decodeValue(t.dec, v)
	return t.dec[n:len(t.dec):len(t.dec)]
}

// NumAttr is how many attributes e has; namespace declarations are none.
func (e Element) NumAttr() int { return int(e.node().nattr) }

// AttrAt goes through the attributes in document order. The parts of a name are as for Local and
// Space.
func (e Element) AttrAt(i int) (space, local, value []byte) {
	a := &e.t.attrs[e.node().attr+uint32(i)]
	return e.t.uri(a.ns), e.t.attrLocal(a), e.t.value(a)
}

// Child is the first child element with the name n.
func (e Element) Child(n Name) (Element, bool) {
	for c, ok := e.First(); ok; c, ok = c.Next() {
		if c.Is(n) {
			return c, true
		}
	}
	return Element{}, false
}

// First and Next find children without an iterator's closure:
//
//	for c, ok := e.First(); ok; c, ok = c.Next() {
func (e Element) First() (Element, bool) {
	if e.node().flags&nodeChildren == 0 {
		return Element{}, false
	}
	return Element{e.t, e.i + 1, e.gen}, true
}

// Next is the element behind e, under the same parent.
func (e Element) Next() (Element, bool) {
	n := e.node().next
	return Element{e.t, n, e.gen}, n != 0
}

// Text is e's own character data, references resolved, line ends normalised; that of children is not
// in it.
func (e Element) Text() []byte {
	d := e.node()
	if d.flags&(nodeText|nodeMixed) == 0 {
		return nil
	}
	b := e.t.buf[d.inner:d.innerEnd:d.innerEnd]
	if d.flags&nodeText != 0 && bytes.IndexByte(b, '\r') < 0 {
		return b
	}
	start := len(e.t.dec)
	at := d.inner
	for c, ok := e.First(); ok; c, ok = c.Next() {
		n := c.node()
		e.t.appendText(at, n.start)
		at = n.end
	}
	e.t.appendText(at, d.innerEnd)
	return e.t.dec[start:len(e.t.dec):len(e.t.dec)]
}

// appendText appends the meaning of character data and CDATA sections to t.dec.
func (t *tree) appendText(from, to uint32) {
	b := t.buf[from:to]
	for len(b) > 0 {
		i := bytes.IndexByte(b, '<')
		if i < 0 {
			t.dec = decodeText(t.dec, b)
			return
		}
		t.dec = decodeText(t.dec, b[:i])
		b = b[i+len("<![CDATA["):]
		i = bytes.Index(b, []byte("]]>"))
		for j := 0; j < i; j++ {
			switch c := b[j]; {
			case c == '\r' && j+1 < i && b[j+1] == '\n':
			case c == '\r':
				t.dec = append(t.dec, '\n')
			default:
				t.dec = append(t.dec, c)
			}
		}
		b = b[i+3:]
	}
}

// Raw is the bytes e was parsed from. They may depend on declarations outside of e: what is passed
// on goes through [Element.Append] or [Appender.Raw].
func (e Element) Raw() []byte {
	d := e.node()
	return e.t.buf[d.start:d.end:d.end]
}

// Clone is a copy of e that outlives the parser's memory. Cold path.
func (e Element) Clone() Element {
	a := Appender{space: [maxOpen]Atom{}}
	b := a.Raw(e).B
	c, err := Parse(b)
	if err != nil {
		panic("xmlstream: a parsed element does not parse: " + err.Error())
	}
	return c
}
