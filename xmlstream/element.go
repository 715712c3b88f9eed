package xmlstream

// An Element is a complete element: an index into a flat tree over the bytes it was parsed from. It is
// two words, and passing it allocates nothing. It is good for as long as what returned it says; byte
// slices that its methods return are good for as long and must not be changed. In a build with -tags
// invariants or -race a stale Element panics.
//
// Methods of an Element from [Parse] or [Element.Clone] may be called on any goroutine; otherwise they
// belong to the parser's.
type Element struct {
	t   *tree
	i   uint32
	gen uint32
}

// IsZero reports whether e is the zero Element, which stands for none and has no other method.
func (e Element) IsZero() bool { return e.t == nil }

func (e Element) node() *node {
	if invariants && e.gen != e.t.gen {
		panic("xmlstream: Element used after its life")
	}
	return &e.t.nodes[e.i]
}

func (t *tree) local(n *node) []byte {
	off := n.start + 1
	end := off + uint32(n.qnameLen)
	if n.prefixLen != 0 {
		off += uint32(n.prefixLen) + 1
	}
	return t.buf[off:end:end]
}

// end returns the offset behind the element.
func (t *tree) end(n *node) uint32 {
	if n.nflags&nEmpty != 0 || t.header {
		return n.body
	}
	i := n.endTag + 2 + uint32(n.qnameLen)
	for t.buf[i] != '>' {
		i++
	}
	return i + 1
}

// Is reports whether e has the name n. Unknown is never equal to anything.
func (e Element) Is(n Name) bool {
	nd := e.node()
	return e.t.named(nd, n)
}

func (t *tree) named(nd *node, n Name) bool {
	if !n.Known() {
		return false
	}
	entries := atoms.table.Load().entries
	return string(t.local(nd)) == entries[n.Local].s && string(t.nsURI(nd.ns)) == entries[n.Space].s
}

// Name returns e's name for a switch or a map; it may be half or wholly Unknown.
func (e Element) Name() Name {
	nd := e.node()
	return Name{lookup(e.t.nsURI(nd.ns)), lookup(e.t.local(nd))}
}

// Local returns the local name as written.
func (e Element) Local() []byte { return e.t.local(e.node()) }

// Space returns the namespace in force for e, empty if there is none.
func (e Element) Space() []byte { return e.t.nsURI(e.node().ns) }

// Attr returns the value of the attribute n, references resolved and white space normalised, and whether
// there is one. Namespace declarations are no attributes.
func (e Element) Attr(n Name) (value []byte, ok bool) {
	nd := e.node()
	if !n.Known() {
		return nil, false
	}
	t := e.t
	local := atoms.table.Load().entries[n.Local].s
	for k := nd.attr0; k < nd.attr0+uint32(nd.nattr); k++ {
		a := &t.attrs[k]
		if a.kind&aDecl != 0 {
			continue
		}
		plen := uint32(a.kind & aPrefixLenMask)
		off := a.name
		if plen != 0 {
			off += plen + 1
		}
		if string(t.buf[off:a.name+uint32(a.qnameLen)]) != local || (plen == 0) != (n.Space == None) {
			continue
		}
		if plen != 0 {
			ns, _ := t.lookupPrefix(t.buf[a.name:a.name+plen], nd.scope)
			if string(t.nsURI(ns)) != n.Space.String() {
				continue
			}
		}
		return t.value(a), true
	}
	return nil, false
}

func (t *tree) value(a *attr) []byte {
	raw := t.buf[a.val : a.val+a.valLen : a.val+a.valLen]
	if a.kind&aNeedsDecode == 0 {
		return raw
	}
	if t.owned {
		return decode(make([]byte, 0, len(raw)), raw, true)
	}
	if of := uint64(a.val)<<1 | 1; t.memoKey != of {
		n := len(t.scratch)
		t.keepScratch()
		t.scratch = decode(t.scratch, raw, true)
		t.memo, t.memoKey = t.scratch[n:len(t.scratch):len(t.scratch)], of
	}
	return t.memo
}

// NumAttr returns how many attributes e has, and AttrAt the i-th of them, in document order.
func (e Element) NumAttr() int {
	nd := e.node()
	n := int(nd.nattr)
	if nd.nflags&nDecls != 0 {
		for k := nd.attr0; k < nd.attr0+uint32(nd.nattr); k++ {
			if e.t.attrs[k].kind&aDecl != 0 {
				n--
			}
		}
	}
	return n
}

// AttrAt returns the i-th attribute; the parts of its name are as for [Element.Local] and [Element.Space].
func (e Element) AttrAt(i int) (space, local, value []byte) {
	nd, t := e.node(), e.t
	for k := nd.attr0; k < nd.attr0+uint32(nd.nattr); k++ {
		a := &t.attrs[k]
		if a.kind&aDecl != 0 {
			continue
		}
		if i--; i < 0 {
			space, local = t.attrName(a, nd.scope)
			return space, local, t.value(a)
		}
	}
	panic("xmlstream: AttrAt out of range")
}

func (t *tree) attrName(a *attr, scope uint16) (space, local []byte) {
	end := a.name + uint32(a.qnameLen)
	plen := uint32(a.kind & aPrefixLenMask)
	if plen == 0 {
		return nil, t.buf[a.name:end:end]
	}
	ns, _ := t.lookupPrefix(t.buf[a.name:a.name+plen], scope)
	return t.nsURI(ns), t.buf[a.name+plen+1 : end : end]
}

// Child returns the first child element with the name n.
func (e Element) Child(n Name) (Element, bool) {
	for c, ok := e.First(); ok; c, ok = c.Next() {
		if c.t.named(&c.t.nodes[c.i], n) {
			return c, true
		}
	}
	return Element{}, false
}

// First and Next find child elements without an iterator's closure:
//
//	for c, ok := e.First(); ok; c, ok = c.Next() {
func (e Element) First() (Element, bool) {
	if e.node().nflags&nChildren == 0 {
		return Element{}, false
	}
	return Element{e.t, e.i + 1, e.gen}, true
}

// Next returns the next sibling element.
func (e Element) Next() (Element, bool) {
	n := e.node().next
	if n == 0 {
		return Element{}, false
	}
	return Element{e.t, n, e.gen}, true
}

// Text returns e's own character data, that of children left out, references resolved, CDATA unwrapped
// and line ends normalised.
func (e Element) Text() []byte {
	nd, t := e.node(), e.t
	if t.header {
		return nil
	}
	if nd.nflags&(nChildren|nNeedsDecode) == 0 {
		return t.buf[nd.body:nd.endTag:nd.endTag]
	}
	of := uint64(nd.body) << 1
	if !t.owned && t.memoKey == of {
		return t.memo
	}
	dst := t.scratch
	if t.owned {
		dst = nil
	} else {
		t.keepScratch()
	}
	n := len(dst)
	from := nd.body
	for c, ok := e.First(); ; c, ok = c.Next() {
		to := nd.endTag
		var cn *node
		if ok {
			cn = c.node()
			to = cn.start
		}
		if from < to {
			if nd.nflags&nNeedsDecode != 0 {
				dst = decode(dst, t.buf[from:to], false)
			} else {
				dst = append(dst, t.buf[from:to]...)
			}
		}
		if !ok {
			break
		}
		from = t.end(cn)
	}
	text := dst[n:len(dst):len(dst)]
	if !t.owned {
		t.scratch, t.memo, t.memoKey = dst, text, of
	}
	return text
}

// keepScratch is called before scratch may be moved.
func (t *tree) keepScratch() {
	if invariants {
		t.outgrown = append(t.outgrown, t.scratch)
	}
}

// Raw returns the bytes e was parsed from. They may lean on declarations outside of them: to pass e on, use
// [Element.Append] or [Appender.Raw].
func (e Element) Raw() []byte {
	nd := e.node()
	end := e.t.end(nd)
	return e.t.buf[nd.start:end:end]
}

// Clone returns a copy of e that outlives the parser's memory and may be read on any goroutine. Cold path.
func (e Element) Clone() Element {
	e.node()
	t := e.t
	c := &tree{
		nodes: append([]node(nil), t.nodes...), attrs: append([]attr(nil), t.attrs...),
		nsDecls: append([]nsDecl(nil), t.nsDecls...), arena: append([]byte(nil), t.arena...),
		root: t.root, pos: t.pos, state: t.state, flags: t.flags, header: t.header, owned: true,
	}
	c.buf = append([]byte(nil), t.buf[:t.pos]...)
	return Element{c, e.i, c.gen}
}
