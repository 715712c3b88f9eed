package xmlstream

import "hash/maphash"

// A tree is one top-level element, or the start tag of the root: flat arrays of offsets into the bytes it
// was parsed from. Elements stand in document order, so that the descendants of one follow it. It also
// holds how far the scan of an unfinished element came.
type tree struct {
	buf   []byte // from the element's first byte on; offsets are relative to it
	nodes []node
	attrs []attr
	binds []bind
	arena []byte // namespaces that were written with references
	root  *Root  // what holds outside
	dup   *dupTable

	i     int // where to go on; once done, the length of the element
	seen  int // inTag, inRef: how far its end was searched
	cur   uint32
	depth int
	mode  uint8
	quote byte // inTag: the open quote
	flags uint8
	gen   uint32

	header, decl bool // for the start tag of the root, and its XML declaration was there
	owned        bool // nothing of it is ever reused: any goroutine may read it
	free         bool // Parser.Element: released

	scratch []byte // values with references, as they were asked for
	memoOf  uint64 // the last such value: its place in buf, and in scratch
	memo    []byte

	outgrown [][]byte // invariants: what scratch was, as views may be left in it

	tail []byte // the unfinished bytes, for a Stream's tree; buf is a window on them
	p    *Parser
	err  error // a Stream that has ended
	work int   // bytes looked at, for the test of linear work
}

// Where in the input the scan stopped.
const (
	inProlog  = iota // in front of the stream header
	atTag            // at a <
	inText           // in character data
	inTag            // in a tag whose end has not come
	inRef            // in a reference in character data
	inCDATA          // in a CDATA section
	inDecl           // in the XML declaration
	complete         // the element ends at i
	selfClose = 0x80 // header: it was an empty-element tag
)

// tree.flags: what keeps the bytes from being passed on as they are.
const (
	fOdd   = 1 << iota // CDATA, a carriage return, or a line break or tab in a value
	fOuter             // a prefix from the stream header
	fStanz             // a content namespace was declared, other than as default by the top element
	fPref              // an element has a prefix
)

// A node is one element. While it is open, next is its parent and shut its last child.
type node struct {
	start  uint32 // of <
	body   uint32 // behind the start tag's >
	shut   uint32 // of the end tag's <; body for an empty-element tag
	next   uint32 // the next sibling, 0 if none
	attr0  uint32 // its first attribute
	qlen   uint16 // length of the name with prefix and colon
	plen   uint16 // length of the prefix
	ns     uint16 // its namespace: see nsOuter
	scope  uint16 // the last declaration in force inside it, counted from 1; 0 if none
	nattr  uint8
	nflags uint8
	_      [2]uint8
}

// node.nflags
const (
	nKids   = 1 << iota // the node behind it is its first child
	nCoded              // its own text holds references, CDATA or carriage returns
	nEmpty              // an empty-element tag
	nPrefix             // has attributes with a prefix other than xml and xmlns
	nDecls              // declares namespaces
	nOdd                // see fOdd, for this element alone
)

// node.ns: 0 is the default namespace outside of the element; from 1 on, a bind of the tree; from nsRoot
// on, one of the stream header.
const (
	nsOuter = 0
	nsRoot  = 1 << 15
	nsXMLID = 1<<16 - 1
)

type attr struct {
	name uint32 // offset of the name with its prefix
	val  uint32 // offset of the value
	vlen uint32
	qlen uint16
	kind uint16 // length of the prefix, and the bits below
}

const (
	aCoded = 1 << 15 // the value holds references or white space to be replaced
	aDecl  = 1 << 14 // a namespace declaration
	aPlen  = 1<<13 - 1
)

// A bind is a namespace declaration inside the element.
type bind struct {
	poff, uoff uint32
	owner      uint32 // the node that declares it
	plen, ulen uint16
	prev       uint16 // the declaration before it that is in force, counted from 1
	def        uint16 // the default namespace in force, as in node.ns
	count      uint16 // prefixes in force
	arena      bool   // uoff is in the arena
	streams    bool   // it is the streams namespace
}

// reset makes t ready for a new element in the context of r.
func (t *tree) reset(r *Root) {
	t.nodes, t.attrs, t.binds, t.arena = t.nodes[:0], t.attrs[:0], t.binds[:0], t.arena[:0]
	t.buf, t.root = nil, r
	t.i, t.seen, t.cur, t.depth, t.mode, t.quote, t.flags = 0, 0, 0, 0, atTag, 0, 0
	t.header, t.decl = false, false
	t.expire()
}

// expire ends the life of every Element of t.
func (t *tree) expire() {
	t.gen++
	if invariants {
		for _, b := range t.outgrown {
			poison(b)
		}
		t.outgrown = t.outgrown[:0]
		poison(t.scratch)
		poison(t.arena)
	}
	if cap(t.scratch) > maxKept {
		t.scratch = nil
	}
	t.scratch, t.memo, t.memoOf = t.scratch[:0], nil, 0
}

// The sizes of a tree's parts, in bytes.
const nodeSize, attrSize, bindSize = 32, 16, 24

// size returns how many bytes t's arrays take.
func (t *tree) size() int {
	return cap(t.nodes)*nodeSize + cap(t.attrs)*attrSize + cap(t.binds)*bindSize + cap(t.arena) + cap(t.scratch)
}

// big reports whether a tree of a Parser's own, of which there are few, grew so large that it is not
// kept: to 4,096 of anything.
func (t *tree) big() bool {
	return cap(t.nodes) > 4096 || cap(t.attrs) > 4096 || cap(t.binds) > 4096 || cap(t.arena) > maxKept
}

// fail records that the input is wrong at offset off.
func (t *tree) fail(off int, cond, msg string) status {
	t.err = &SyntaxError{Offset: int64(off), Condition: cond, Msg: msg}
	return bad
}

func (t *tree) failByte(off int, st status, msg string) status {
	if st == badUTF8 {
		return t.fail(off, UnsupportedEncoding, "bytes that are not UTF-8")
	}
	return t.fail(off, NotWellFormed, msg)
}

// find returns the namespace that prefix p has in scope, in the sense of node.ns.
func (t *tree) find(p []byte, scope uint16) (uint16, bool) {
	for scope != 0 {
		b := &t.binds[scope-1]
		if int(b.plen) == len(p) && string(t.buf[b.poff:int(b.poff)+len(p)]) == string(p) {
			return scope, true
		}
		scope = b.prev
	}
	if string(p) == "xml" {
		return nsXMLID, true
	}
	for i := range t.root.binds {
		if string(t.root.binds[i].prefix) == string(p) {
			return nsRoot + uint16(i), true
		}
	}
	return 0, false
}

// uri returns the namespace that ns stands for.
func (t *tree) uri(ns uint16) []byte {
	switch {
	case ns == nsOuter:
		return t.root.space
	case ns < nsRoot:
		b := &t.binds[ns-1]
		if b.arena {
			return t.arena[b.uoff : b.uoff+uint32(b.ulen) : b.uoff+uint32(b.ulen)]
		}
		return t.buf[b.uoff : b.uoff+uint32(b.ulen) : b.uoff+uint32(b.ulen)]
	case ns == nsXMLID:
		return xmlSpace
	}
	return t.root.binds[ns-nsRoot].uri
}

func (t *tree) isStreams(ns uint16) bool {
	switch {
	case ns == nsOuter:
		return t.root.streams
	case ns < nsRoot:
		return t.binds[ns-1].streams
	case ns == nsXMLID:
		return false
	}
	return t.root.binds[ns-nsRoot].streams
}

// declare puts the declaration a, made by node id, in force.
func (t *tree) declare(a *attr, id uint32, scope uint16, lim *Limits) (uint16, status) {
	raw := t.buf[a.val : a.val+a.vlen]
	b := bind{uoff: a.val, owner: id, prev: scope}
	if scope != 0 {
		b.def, b.count = t.binds[scope-1].def, t.binds[scope-1].count
	} else {
		b.count = uint16(len(t.root.binds))
	}
	uri := raw
	if a.kind&aCoded != 0 {
		b.uoff, b.arena = uint32(len(t.arena)), true
		t.arena = decode(t.arena, raw, true)
		uri = t.arena[b.uoff:]
	}
	if len(uri) > lim.NameBytes {
		return 0, t.fail(int(a.val), PolicyViolation, "namespace too long")
	}
	b.ulen = uint16(len(uri))
	at := int(a.name)
	var prefix []byte
	if plen := int(a.kind & aPlen); plen != 0 {
		b.poff, b.plen = a.name+uint32(plen)+1, a.qlen-uint16(plen)-1
		prefix = t.buf[b.poff : b.poff+uint32(b.plen)]
		if b.count++; int(b.count) > lim.Prefixes {
			return 0, t.fail(at, PolicyViolation, "too many namespace prefixes")
		}
	}
	// Namespaces in XML 1.0 §3: xml is bound for ever and to one namespace, xmlns to none, a prefix can't be
	// unbound.
	switch {
	case string(prefix) == "xmlns" || string(uri) == nsXMLNS,
		(string(prefix) == "xml") != (string(uri) == NSXML),
		prefix != nil && len(uri) == 0:
		return 0, t.fail(at, BadNamespacePrefix, "forbidden namespace declaration")
	case string(uri) == NSStream:
		b.streams = true
	case (id != 0 || prefix != nil) && (string(uri) == NSClient || string(uri) == NSServer ||
		string(uri) == NSComponent):
		t.flags |= fStanz
	}
	if len(t.binds) >= maxBinds {
		return 0, t.fail(at, PolicyViolation, "too many namespace declarations")
	}
	if prefix == nil {
		b.def = uint16(len(t.binds) + 1)
	}
	t.binds = append(t.binds, b)
	return uint16(len(t.binds)), done
}

// A dupTable finds equal names among many attributes of one element without comparing each with each. Its
// hash is seeded, as the names are the peer's.
type dupTable struct {
	stamp    uint32
	compares int // for the test of linear work
	slots    [1024]struct{ stamp, hash, attr uint32 }
}

var dupSeed = maphash.MakeSeed()

func (d *dupTable) begin() {
	if d.stamp++; d.stamp == 0 {
		*d = dupTable{stamp: 1}
	}
}

// few is how many attributes are compared with each other before the table is worth it.
const few = 8

// repeated reports whether the newest attribute, whose name is name, has the name of an earlier one of
// those from attr0 on.
func (t *tree) repeated(attr0 int, name []byte) bool {
	last := len(t.attrs) - 1
	if last-attr0 < few {
		for k := attr0; k < last; k++ {
			a := &t.attrs[k]
			if int(a.qlen) == len(name) && string(t.buf[a.name:int(a.name)+len(name)]) == string(name) {
				return true
			}
		}
		return false
	}
	if t.dup == nil {
		t.dup = new(dupTable)
	}
	k := last
	if last-attr0 == few {
		t.dup.begin()
		k = attr0
	}
	for ; k <= last; k++ {
		a := &t.attrs[k]
		name := t.buf[a.name : a.name+uint32(a.qlen)]
		if t.insert(uint32(maphash.Bytes(dupSeed, name)), k, func(o *attr) bool {
			return string(t.buf[o.name:o.name+uint32(o.qlen)]) == string(name)
		}) {
			return true
		}
	}
	return false
}

func (t *tree) insert(h uint32, k int, same func(*attr) bool) bool {
	d := t.dup
	for s := h & 1023; ; s = (s + 1) & 1023 {
		e := &d.slots[s]
		if e.stamp != d.stamp {
			e.stamp, e.hash, e.attr = d.stamp, h, uint32(k)
			return false
		}
		if e.hash == h {
			if d.compares++; same(&t.attrs[e.attr]) {
				return true
			}
		}
	}
}

// prefixed resolves the prefixes of the attributes from attr0 on and looks for two that come to the same
// expanded name (Namespaces in XML 1.0 §6.3).
func (t *tree) prefixed(attr0 int, scope uint16) status {
	if t.dup == nil {
		t.dup = new(dupTable)
	}
	t.dup.begin()
	for k := attr0; k < len(t.attrs); k++ {
		a := &t.attrs[k]
		plen := int(a.kind & aPlen)
		if plen == 0 || a.kind&aDecl != 0 {
			continue
		}
		ns, ok := t.find(t.buf[a.name:int(a.name)+plen], scope)
		if !ok {
			return t.fail(int(a.name), BadNamespacePrefix, "undeclared prefix of an attribute")
		}
		if ns >= nsRoot && ns != nsXMLID {
			t.flags |= fOuter
		}
		local := t.buf[int(a.name)+plen+1 : int(a.name)+int(a.qlen)]
		uri := t.uri(ns)
		h := uint32(maphash.Bytes(dupSeed, local)) ^ uint32(maphash.Bytes(dupSeed, uri))*31
		if t.insert(h, k, func(o *attr) bool {
			op := uint32(o.kind & aPlen)
			if string(t.buf[o.name+op+1:o.name+uint32(o.qlen)]) != string(local) {
				return false
			}
			ons, _ := t.find(t.buf[o.name:o.name+op], scope)
			return string(t.uri(ons)) == string(uri)
		}) {
			return t.fail(int(a.name), NotWellFormed, "attribute given twice")
		}
	}
	return done
}
