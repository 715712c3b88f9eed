package xmlstream

import "bytes"

// A node is one element: offsets into the tree's bytes.
type node struct {
	start, end         uint32 // the element, its tags included
	inner, innerEnd    uint32 // what is between its tags
	name               uint32 // of the qualified name
	nameLen, prefixLen uint16
	local, space       Atom
	ns                 int32  // the declaration that space comes from: index of tree.binds, or below zero
	attr               uint32 // the first of tree.attrs
	nattr              uint16
	flags              uint8
	next               uint32 // next sibling, 0: none
	last               uint32 // last child while open
}

const (
	nodeChildren = 1 << iota // there are child elements
	nodeText                 // there is one run of plain text and nothing else
	nodeMixed                // text has to be put together
	nodeDeclares             // it declares namespaces
	nodeDefault              // it declares the default namespace
	nodeEmpty                // written as <a/>
)

// Values of node.ns and attr.ns other than a declaration in the stanza.
const (
	nsNone  = -1 // no namespace
	nsRoot  = -2 // the stream header's default
	nsXMLID = -3 // the prefix xml
	nsOuter = -4 // minus an index of Root.binds: a prefix that the stream header declares
)

type attr struct {
	name               uint32
	value, valueLen    uint32
	nameLen, prefixLen uint16
	local, space       Atom
	ns                 int32
	refs               bool // what the value means is not what is written
}

// A bind is one namespace declaration.
type bind struct {
	prefix, uri       uint32
	prefixLen, uriLen uint32
	atom              Atom
	refs              bool
	was               int32 // the declaration of the same prefix that this one hides, or what it hides outside
	node              uint32
	declared          uint32 // offset of the attribute, for errors
}

// A tree is one element with all below it, flat.
type tree struct {
	buf   []byte
	root  *Root
	nodes []node
	attrs []attr
	binds []bind
	stack []uint32 // open elements
	inUse []int32  // declarations in force, by index of binds
	dec   []byte   // what references meant, as it was asked for
	gen   uint32
	outer bool // a prefix of the stream header is used
	frame bool // the header itself: its attributes only
}

func (t *tree) reset() {
	t.gen++
	t.nodes, t.attrs, t.binds = t.nodes[:0], t.attrs[:0], t.binds[:0]
	t.stack, t.inUse = t.stack[:0], t.inUse[:0]
	t.outer = false
	if cap(t.dec) > 64<<10 {
		t.dec = nil
	}
	t.dec = t.dec[:0]
}

// shrink drops memory that one large stanza left behind.
func (t *tree) shrink() {
	if cap(t.nodes) > 1024 {
		t.nodes = nil
	}
	if cap(t.attrs) > 1024 {
		t.attrs = nil
	}
}

// lookup is the declaration of prefix in force; len 0 is the default namespace.
func (t *tree) lookup(prefix []byte) (ns int32, a Atom, ok bool) {
	for i := len(t.inUse) - 1; i >= 0; i-- {
		b := &t.binds[t.inUse[i]]
		if int(b.prefixLen) == len(prefix) && string(t.buf[b.prefix:b.prefix+b.prefixLen]) == string(prefix) {
			if b.uriLen == 0 {
				return nsNone, None, len(prefix) == 0
			}
			return t.inUse[i], b.atom, true
		}
	}
	if len(prefix) == 0 {
		if t.root == nil || t.root.Default == None && t.root.uri == "" {
			return nsNone, None, true
		}
		return nsRoot, t.root.Default, true
	}
	if string(prefix) == "xml" {
		return nsXMLID, atomXML, true
	}
	if t.root != nil {
		for i := range t.root.binds {
			if t.root.binds[i].prefix == string(prefix) {
				return nsOuter - int32(i), t.root.binds[i].atom, true
			}
		}
	}
	return nsNone, None, false
}

// uri is the namespace behind ns, as it was meant.
func (t *tree) uri(ns int32) []byte {
	switch {
	case ns >= 0:
		b := &t.binds[ns]
		u := t.buf[b.uri : b.uri+b.uriLen]
		if b.refs {
			n := len(t.dec)
			t.dec = decodeValue(t.dec, u)
			return t.dec[n:len(t.dec):len(t.dec)]
		}
		return u
	case ns == nsRoot:
		return t.root.uriBytes
	case ns == nsXMLID:
		return xmlURI
	case ns <= nsOuter:
		return t.root.binds[nsOuter-ns].uri
	}
	return nil
}

var xmlURI = []byte(nsXML)

// sameURI compares two namespaces.
func (t *tree) sameURI(a, b int32, aa, ba Atom) bool {
	if aa != Unknown || ba != Unknown {
		return aa == ba
	}
	return a == b || bytes.Equal(t.uri(a), t.uri(b))
}

// open parses the start tag that t.buf[from:to] is, and makes its node.
func (t *tree) open(from, to int, lim *Limits, at *atomTable) (*node, int, *fault) {
	b := t.buf[:to]
	if len(t.nodes) >= lim.Nodes {
		return nil, from, errNodes
	}
	if len(t.stack) >= lim.Depth {
		return nil, from, errDepth
	}
	i, prefix, f := name(b, from+1)
	if f != nil {
		return nil, i, f
	}
	if i-from-1 > lim.NameBytes {
		return nil, from, errLongName
	}
	self := uint32(len(t.nodes))
	t.nodes = append(t.nodes, node{})
	n := &t.nodes[self]
	n.start, n.name = uint32(from), uint32(from+1)
	n.nameLen, n.prefixLen = uint16(i-from-1), uint16(prefix)
	n.attr = uint32(len(t.attrs))
	first := len(t.binds)
	empty := false
	for {
		spaced := false
		for class[b[i]]&cSpace != 0 {
			i++
			spaced = true
		}
		if b[i] == '>' {
			i++
			break
		}
		if b[i] == '/' {
			if b[i+1] != '>' {
				return nil, i, errTag
			}
			empty = true
			i += 2
			break
		}
		if !spaced {
			return nil, i, errTag
		}
		if i, f = t.attribute(b, i, self, lim, at); f != nil {
			return nil, i, f
		}
	}
	if i != to {
		return nil, i, errTag
	}
	n = &t.nodes[self]
	n.nattr = uint16(uint32(len(t.attrs)) - n.attr)
	if len(t.binds) > first {
		n.flags |= nodeDeclares
	}
	if f, at := t.resolve(n, first, at); f != nil {
		return nil, at, f
	}
	n.inner = uint32(i)
	if empty {
		n.flags |= nodeEmpty
		n.innerEnd, n.end = uint32(i), uint32(i)
	}
	if len(t.stack) > 0 {
		p := &t.nodes[t.stack[len(t.stack)-1]]
		if p.last != 0 {
			t.nodes[p.last].next = self
		}
		if p.flags&nodeText != 0 {
			p.flags = p.flags&^nodeText | nodeMixed
		}
		p.last = self
		p.flags |= nodeChildren
	}
	if empty {
		t.leave(self)
	} else {
		t.stack = append(t.stack, self)
	}
	return n, i, nil
}

// attribute parses one attribute or declaration at b[i].
func (t *tree) attribute(b []byte, i int, self uint32, lim *Limits, at *atomTable) (int, *fault) {
	start := i
	i, prefix, f := name(b, i)
	if f != nil {
		return i, f
	}
	if i-start > lim.NameBytes {
		return start, errLongName
	}
	nameEnd := i
	for class[b[i]]&cSpace != 0 {
		i++
	}
	if b[i] != '=' {
		return i, errTag
	}
	i++
	for class[b[i]]&cSpace != 0 {
		i++
	}
	q := b[i]
	if q != '\'' && q != '"' {
		return i, errTag
	}
	i++
	end := bytes.IndexByte(b[i:], q)
	if end < 0 {
		return i, errTag
	}
	v := b[i : i+end]
	refs, bad, f := value(v)
	if f != nil {
		return i + bad, f
	}
	qn := b[start:nameEnd]
	switch {
	case prefix == 5 && string(qn[:5]) == "xmlns", len(qn) == 5 && string(qn) == "xmlns":
		if f := t.declare(qn, prefix, start, i, len(v), refs, self, lim, at); f != nil {
			return start, f
		}
	default:
		if len(t.attrs)-int(t.nodes[self].attr) >= lim.Attrs || len(t.attrs) >= lim.StanzaAttrs {
			return start, errAttrs
		}
		t.attrs = append(t.attrs, attr{})
		a := &t.attrs[len(t.attrs)-1]
		a.name, a.nameLen, a.prefixLen = uint32(start), uint16(len(qn)), uint16(prefix)
		a.value, a.valueLen, a.refs = uint32(i), uint32(len(v)), refs
		if prefix > 0 {
			a.local = at.of(qn[prefix+1:])
		} else {
			a.local = at.of(qn)
		}
	}
	return i + end + 1, nil
}

// declare takes xmlns='...' or xmlns:p='...' (Namespaces in XML §3).
func (t *tree) declare(qn []byte, prefix, start, v, n int, refs bool, self uint32, lim *Limits, at *atomTable) *fault {
	if len(t.inUse) >= lim.Prefixes {
		return errPrefixes
	}
	d := bind{uri: uint32(v), uriLen: uint32(n), refs: refs, node: self, declared: uint32(start)}
	if prefix > 0 {
		d.prefix, d.prefixLen = uint32(start+6), uint32(len(qn)-6)
	} else {
		t.nodes[self].flags |= nodeDefault
	}
	p := t.buf[d.prefix : d.prefix+d.prefixLen]
	u := t.buf[v : v+n]
	if refs {
		k := len(t.dec)
		t.dec = decodeValue(t.dec, u)
		u = t.dec[k:]
	}
	switch {
	case prefix > 0 && len(u) == 0:
		return errEmptyPrefix
	case string(p) == "xmlns", string(u) == nsXMLNS:
		return errXmlns
	case (string(p) == "xml") != (string(u) == nsXML):
		return errXmlns
	}
	for i := len(t.inUse) - 1; i >= 0; i-- { // the same twice on one element
		o := &t.binds[t.inUse[i]]
		if o.node != self {
			break
		}
		if string(t.buf[o.prefix:o.prefix+o.prefixLen]) == string(p) {
			return errDuplicate
		}
	}
	d.atom = at.of(u)
	t.inUse = append(t.inUse, int32(len(t.binds)))
	t.binds = append(t.binds, d)
	return nil
}

// resolve gives the element and its attributes their namespaces, and finds attributes given twice.
func (t *tree) resolve(n *node, firstBind int, at *atomTable) (*fault, int) {
	qn := t.buf[n.name : n.name+uint32(n.nameLen)]
	p := qn[:n.prefixLen]
	var ok bool
	if n.ns, n.space, ok = t.lookup(p); !ok {
		return errPrefix, int(n.name)
	}
	if n.ns <= nsOuter {
		t.outer = true
	}
	if len(p) == 5 && string(p) == "xmlns" {
		return errXmlns, int(n.name)
	}
	if n.prefixLen > 0 {
		n.local = at.of(qn[n.prefixLen+1:])
	} else {
		n.local = at.of(qn)
	}
	var seen uint64
	attrs := t.attrs[n.attr:]
	for i := range attrs {
		a := &attrs[i]
		a.ns = nsNone
		if a.prefixLen > 0 {
			if a.ns, a.space, ok = t.lookup(t.buf[a.name : a.name+uint32(a.prefixLen)]); !ok {
				return errPrefix, int(a.name)
			}
			if a.ns <= nsOuter {
				t.outer = true
			}
		}
		l := t.attrLocal(a)
		h := uint64(1) << ((uint(len(l)) ^ uint(l[0])*5 ^ uint(l[len(l)-1])*11) & 63)
		if seen&h == 0 {
			seen |= h
			continue
		}
		for j := range attrs[:i] {
			o := &attrs[j]
			if o.local == a.local && t.sameURI(o.ns, a.ns, o.space, a.space) && (a.local != Unknown || bytes.Equal(t.attrLocal(o), l)) {
				return errDuplicate, int(a.name)
			}
		}
	}
	return nil, 0
}

func (t *tree) attrLocal(a *attr) []byte {
	l := t.buf[a.name : a.name+uint32(a.nameLen)]
	if a.prefixLen > 0 {
		return l[a.prefixLen+1:]
	}
	return l
}

// leave takes the declarations of node i out of force.
func (t *tree) leave(i uint32) {
	if t.nodes[i].flags&nodeDeclares == 0 {
		return
	}
	for len(t.inUse) > 0 && t.binds[t.inUse[len(t.inUse)-1]].node == i {
		t.inUse = t.inUse[:len(t.inUse)-1]
	}
}

// close takes the end tag that t.buf[from:to] is.
func (t *tree) close(from, to int) *fault {
	self := t.stack[len(t.stack)-1]
	n := &t.nodes[self]
	if f := endTag(t.buf[from:to], t.buf[n.name:n.name+uint32(n.nameLen)]); f != nil {
		return f
	}
	n.innerEnd, n.end = uint32(from), uint32(to)
	t.stack = t.stack[:len(t.stack)-1]
	t.leave(self)
	return nil
}

// endTag compares "</name >" with the name of the element it ends.
func endTag(tag, name []byte) *fault {
	b := tag[2 : len(tag)-1]
	if len(b) < len(name) || string(b[:len(name)]) != string(name) {
		return errEndTag
	}
	for _, c := range b[len(name):] {
		if class[c]&cSpace == 0 {
			return errEndTag
		}
	}
	return nil
}

// characters notes a run of character data in the open element.
func (t *tree) characters(refs bool) {
	n := &t.nodes[t.stack[len(t.stack)-1]]
	switch {
	case n.flags&(nodeText|nodeMixed|nodeChildren) == 0 && !refs:
		n.flags |= nodeText
	default:
		n.flags = n.flags&^nodeText | nodeMixed
	}
}
