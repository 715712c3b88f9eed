package xmlstream

// An Element is a complete element that was parsed. It is a handle of 16 bytes on a tree, and passing it
// allocates nothing. It is valid for as long as the function that returned it says; so are the byte
// slices that its methods return, which must not be changed. In a build with -tags invariants or -race, a
// method of an Element that is no longer valid panics.
//
// Its methods belong to the goroutine of the parser. An Element from [Parse] or [Element.Clone] is never
// reused: its methods may be called on any goroutine.
type Element struct {
	t   *tree
	i   uint32 // the index of its node
	gen uint32 // the generation of t that it belongs to
}

// IsZero reports whether e is the zero Element, which stands for no element. Its other methods panic.
func (e Element) IsZero() bool { return e.t == nil }

// node returns the node of e. With invariants it panics if e is no longer valid.
func (e Element) node() *node {
	if invariants && e.gen != e.t.gen {
		panic("xmlstream: Element used after its life")
	}
	return &e.t.nodes[e.i]
}

// local returns the local name of n.
func (t *tree) local(n *node) []byte {
	off := n.start + 1
	end := off + uint32(n.qnameLen)
	if n.prefixLen != 0 {
		off += uint32(n.prefixLen) + 1
	}
	return t.buf[off:end:end]
}

// end returns the offset after the element n. The end tag may have white space after the name.
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

// Is reports whether e has the name n. A name with [Unknown] is equal to no element's.
func (e Element) Is(n Name) bool {
	nd := e.node()
	return e.t.named(nd, n)
}

// named is Is for a node. It compares strings and not Atoms: that is faster than looking two names up.
func (t *tree) named(nd *node, n Name) bool {
	if !n.Known() {
		return false
	}
	entries := atoms.table.Load().entries
	return string(t.local(nd)) == entries[n.Local].s && string(t.nsURI(nd.ns)) == entries[n.Space].s
}

// Name returns the name of e, for a switch or a map. A half of it that was never interned is [Unknown].
// Compare with one name by [Element.Is], which is faster.
func (e Element) Name() Name {
	nd := e.node()
	return Name{lookup(e.t.nsURI(nd.ns)), lookup(e.t.local(nd))}
}

// Local returns the local name of e, as it was written.
func (e Element) Local() []byte { return e.t.local(e.node()) }

// Space returns the namespace of e, empty if it has none.
func (e Element) Space() []byte { return e.t.nsURI(e.node().ns) }

// Attr returns the value of the attribute n, and whether e has it. References are resolved and white
// space is normalised (XML 1.0 section 3.3.3). Namespace declarations are no attributes. The value is
// valid as long as e.
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

// value returns the value of a, decoded if it has to be. It is a view of the bytes if not; otherwise it is in
// t.scratch, or allocated if t is owned, as goroutines may share that. The value decoded last is remembered.
func (t *tree) value(a *attr) []byte {
	raw := t.buf[a.val : a.val+a.valLen : a.val+a.valLen]
	if a.kind&aNeedsDecode == 0 {
		return raw
	}
	if t.owned {
		return decode(make([]byte, 0, len(raw)), raw, true)
	}
	if key := uint64(a.val)<<1 | 1; t.memoKey != key {
		n := len(t.scratch)
		t.keepScratch()
		t.scratch = decode(t.scratch, raw, true)
		t.memo, t.memoKey = t.scratch[n:len(t.scratch):len(t.scratch)], key
	}
	return t.memo
}

// NumAttr returns how many attributes e has. Namespace declarations do not count.
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

// AttrAt returns the i-th attribute in document order, from 0 on: its namespace (empty for a name without a
// prefix), local name and value, as Space, Local and Attr do. It panics if i is not less than NumAttr.
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

// attrName returns the namespace and the local name of a, on an element with the given node.scope.
func (t *tree) attrName(a *attr, scope uint16) (space, local []byte) {
	end := a.name + uint32(a.qnameLen)
	plen := uint32(a.kind & aPrefixLenMask)
	if plen == 0 {
		return nil, t.buf[a.name:end:end]
	}
	ns, _ := t.lookupPrefix(t.buf[a.name:a.name+plen], scope)
	return t.nsURI(ns), t.buf[a.name+plen+1 : end : end]
}

// Child returns the first child element with the name n, and whether there is one.
func (e Element) Child(n Name) (Element, bool) {
	for c, ok := e.First(); ok; c, ok = c.Next() {
		if c.t.named(&c.t.nodes[c.i], n) {
			return c, true
		}
	}
	return Element{}, false
}

// First returns the first child element, and whether there is one. First and Next need no closure:
//
//	for c, ok := e.First(); ok; c, ok = c.Next() {
func (e Element) First() (Element, bool) {
	if e.node().nflags&nChildren == 0 {
		return Element{}, false
	}
	return Element{e.t, e.i + 1, e.gen}, true
}

// Next returns the next sibling of e that is an element, and whether there is one.
func (e Element) Next() (Element, bool) {
	n := e.node().next
	if n == 0 {
		return Element{}, false
	}
	return Element{e.t, n, e.gen}, true
}

// Text returns the character data that is directly in e: without that of its children, with references
// resolved, CDATA sections unwrapped and line ends normalised. It is a view of the bytes if e has no
// children and nothing to decode. Otherwise the pieces between the children are decoded one after the
// other into t.scratch, or into memory of its own if the tree is owned. The text is valid as long as e.
func (e Element) Text() []byte {
	nd, t := e.node(), e.t
	if t.header {
		return nil
	}
	if nd.nflags&(nChildren|nNeedsDecode) == 0 {
		return t.buf[nd.body:nd.endTag:nd.endTag]
	}
	key := uint64(nd.body) << 1
	if !t.owned && t.memoKey == key {
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
		t.scratch, t.memo, t.memoKey = dst, text, key
	}
	return text
}

// keepScratch is called before scratch may be moved by append. With invariants it keeps the old array, so
// that expire can overwrite the views that are in it.
func (t *tree) keepScratch() {
	if invariants {
		t.outgrown = append(t.outgrown, t.scratch)
	}
}

// Raw returns the bytes that e was parsed from. Their namespaces may be declared outside of them, so they
// mean something else elsewhere: to pass e on, use [Element.Append] or [Appender.Raw].
func (e Element) Raw() []byte {
	nd := e.node()
	end := e.t.end(nd)
	return e.t.buf[nd.start:end:end]
}

// Clone returns a copy of e with the whole top-level element that it is in. The copy is valid for ever,
// and any goroutine may read it. It allocates five times.
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
