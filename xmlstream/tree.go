package xmlstream

import "hash/maphash"

// A tree is one top-level element, or the start tag of the root: flat arrays of offsets into the bytes it
// was parsed from. Elements stand in document order, so that the descendants of one follow it. It also
// holds how far the scan of an unfinished element came.
type tree struct {
	buf     []byte // from the element's first byte on; offsets are relative to it
	nodes   []node
	attrs   []attr
	nsDecls []nsDecl
	arena   []byte // namespaces that were written with references
	root    *Root  // what holds outside
	dup     *dupTable

	pos      int // where to go on; once done, the length of the element
	searched int // inTag, inRef: how far its end was searched
	openNode uint32
	depth    int
	state    uint8
	quote    byte // inTag: the open quote
	flags    uint8
	gen      uint32

	header, decl bool // for the start tag of the root, and its XML declaration was there
	owned        bool // nothing of it is ever reused: any goroutine may read it
	released     bool // Parser.Element: released

	scratch []byte // values with references, as they were asked for
	memoKey uint64 // the last such value: its place in buf, and in scratch
	memo    []byte

	outgrown [][]byte // invariants: what scratch was, as views may be left in it

	tail         []byte // the unfinished bytes, for a Stream's tree; buf is a window on them
	p            *Parser
	err          error // a Stream that has ended
	bytesScanned int   // bytes looked at, for the test of linear work
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
	fNotVerbatim = 1 << iota // CDATA, a carriage return, or a line break or tab in a value
	fOuterPrefix             // a prefix from the stream header
	fContentDecl             // a content namespace was declared, other than as default by the top element
	fElemPrefix              // an element has a prefix
)

// A node is one element. While it is open, next is its parent and shut its last child.
type node struct {
	start     uint32 // of <
	body      uint32 // behind the start tag's >
	endTag    uint32 // of the end tag's <; body for an empty-element tag
	next      uint32 // the next sibling, 0 if none
	attr0     uint32 // its first attribute
	qnameLen  uint16 // length of the name with prefix and colon
	prefixLen uint16 // length of the prefix
	ns        uint16 // its namespace: see nsOuter
	scope     uint16 // the last declaration in force inside it, counted from 1; 0 if none
	nattr     uint8
	nflags    uint8
	_         [2]uint8
}

// node.nflags
const (
	nChildren    = 1 << iota // the node behind it is its first child
	nNeedsDecode             // its own text holds references, CDATA or carriage returns
	nEmpty                   // an empty-element tag
	nPrefix                  // has attributes with a prefix other than xml and xmlns
	nDecls                   // declares namespaces
	nNotVerbatim             // see fNotVerbatim, for this element alone
)

// node.ns: 0 is the default namespace outside of the element; from 1 on, a bind of the tree; from nsRoot
// on, one of the stream header.
const (
	nsOuter     = 0
	nsRoot      = 1 << 15
	nsXMLPrefix = 1<<16 - 1
)

type attr struct {
	name     uint32 // offset of the name with its prefix
	val      uint32 // offset of the value
	valLen   uint32
	qnameLen uint16
	kind     uint16 // length of the prefix, and the bits below
}

const (
	aNeedsDecode   = 1 << 15 // the value holds references or white space to be replaced
	aDecl          = 1 << 14 // a namespace declaration
	aPrefixLenMask = 1<<13 - 1
)

// A bind is a namespace declaration inside the element.
type nsDecl struct {
	prefixOff, uriOff uint32
	owner             uint32 // the node that declares it
	prefixLen, uriLen uint16
	prev              uint16 // the declaration before it that is in force, counted from 1
	def               uint16 // the default namespace in force, as in node.ns
	count             uint16 // prefixes in force
	arena             bool   // uoff is in the arena
	streams           bool   // it is the streams namespace
}

// reset makes t ready for a new element in the context of r.
func (t *tree) reset(r *Root) {
	t.nodes, t.attrs, t.nsDecls, t.arena = t.nodes[:0], t.attrs[:0], t.nsDecls[:0], t.arena[:0]
	t.buf, t.root = nil, r
	t.pos, t.searched, t.openNode, t.depth, t.state, t.quote, t.flags = 0, 0, 0, 0, atTag, 0, 0
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
	t.scratch, t.memo, t.memoKey = t.scratch[:0], nil, 0
}

// The sizes of a tree's parts, in bytes.
const nodeSize, attrSize, nsDeclSize = 32, 16, 24

// size returns how many bytes t's arrays take.
func (t *tree) size() int {
	return cap(t.nodes)*nodeSize + cap(t.attrs)*attrSize + cap(t.nsDecls)*nsDeclSize + cap(t.arena) +
		cap(t.scratch)
}

// tooBig reports whether a tree of a Parser's own, of which there are few, grew so large that it is not
// kept: to 4,096 of anything.
func (t *tree) tooBig() bool {
	return cap(t.nodes) > 4096 || cap(t.attrs) > 4096 || cap(t.nsDecls) > 4096 || cap(t.arena) > maxKept
}

// fail records that the input is wrong at offset off.
func (t *tree) fail(off int, cond, msg string) status {
	t.err = &SyntaxError{Offset: int64(off), Condition: cond, Msg: msg}
	return statusBad
}

func (t *tree) failByte(off int, st status, msg string) status {
	if st == statusBadUTF8 {
		return t.fail(off, UnsupportedEncoding, "bytes that are not UTF-8")
	}
	return t.fail(off, NotWellFormed, msg)
}

// lookupPrefix returns the namespace that prefix p has in scope, in the sense of node.ns.
func (t *tree) lookupPrefix(p []byte, scope uint16) (uint16, bool) {
	for scope != 0 {
		b := &t.nsDecls[scope-1]
		if int(b.prefixLen) == len(p) && string(t.buf[b.prefixOff:int(b.prefixOff)+len(p)]) == string(p) {
			return scope, true
		}
		scope = b.prev
	}
	if string(p) == "xml" {
		return nsXMLPrefix, true
	}
	for i := range t.root.nsDecls {
		if string(t.root.nsDecls[i].prefix) == string(p) {
			return nsRoot + uint16(i), true
		}
	}
	return 0, false
}

// nsURI returns the namespace that ns stands for.
func (t *tree) nsURI(ns uint16) []byte {
	switch {
	case ns == nsOuter:
		return t.root.contentNS
	case ns < nsRoot:
		b := &t.nsDecls[ns-1]
		if b.arena {
			return t.arena[b.uriOff : b.uriOff+uint32(b.uriLen) : b.uriOff+uint32(b.uriLen)]
		}
		return t.buf[b.uriOff : b.uriOff+uint32(b.uriLen) : b.uriOff+uint32(b.uriLen)]
	case ns == nsXMLPrefix:
		return xmlSpace
	}
	return t.root.nsDecls[ns-nsRoot].uri
}

func (t *tree) isStreams(ns uint16) bool {
	switch {
	case ns == nsOuter:
		return t.root.streams
	case ns < nsRoot:
		return t.nsDecls[ns-1].streams
	case ns == nsXMLPrefix:
		return false
	}
	return t.root.nsDecls[ns-nsRoot].streams
}

// declare puts the declaration a, made by node id, in force.
func (t *tree) declare(a *attr, id uint32, scope uint16, lim *Limits) (uint16, status) {
	raw := t.buf[a.val : a.val+a.valLen]
	b := nsDecl{uriOff: a.val, owner: id, prev: scope}
	if scope != 0 {
		b.def, b.count = t.nsDecls[scope-1].def, t.nsDecls[scope-1].count
	} else {
		b.count = uint16(len(t.root.nsDecls))
	}
	uri := raw
	if a.kind&aNeedsDecode != 0 {
		b.uriOff, b.arena = uint32(len(t.arena)), true
		t.arena = decode(t.arena, raw, true)
		uri = t.arena[b.uriOff:]
	}
	if len(uri) > lim.NameBytes {
		return 0, t.fail(int(a.val), PolicyViolation, "namespace too long")
	}
	b.uriLen = uint16(len(uri))
	at := int(a.name)
	var prefix []byte
	if plen := int(a.kind & aPrefixLenMask); plen != 0 {
		b.prefixOff, b.prefixLen = a.name+uint32(plen)+1, a.qnameLen-uint16(plen)-1
		prefix = t.buf[b.prefixOff : b.prefixOff+uint32(b.prefixLen)]
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
		t.flags |= fContentDecl
	}
	if len(t.nsDecls) >= maxNSDecls {
		return 0, t.fail(at, PolicyViolation, "too many namespace declarations")
	}
	if prefix == nil {
		b.def = uint16(len(t.nsDecls) + 1)
	}
	t.nsDecls = append(t.nsDecls, b)
	return uint16(len(t.nsDecls)), statusDone
}

// A dupTable finds equal names among many attributes of one element without comparing each with each. Its
// hash is seeded, as the names are the peer's.
type dupTable struct {
	generation uint32
	compares   int // for the test of linear work
	buckets    [1024]struct{ stamp, hash, attr uint32 }
}

var dupSeed = maphash.MakeSeed()

func (d *dupTable) begin() {
	if d.generation++; d.generation == 0 {
		*d = dupTable{generation: 1}
	}
}

// dupLinearMax is how many attributes are compared with each other before the table is worth it.
const dupLinearMax = 8

// isDuplicate reports whether the newest attribute, whose name is name, has the name of an earlier one of
// those from attr0 on.
func (t *tree) isDuplicate(attr0 int, name []byte) bool {
	last := len(t.attrs) - 1
	if last-attr0 < dupLinearMax {
		for k := attr0; k < last; k++ {
			a := &t.attrs[k]
			if int(a.qnameLen) == len(name) && string(t.buf[a.name:int(a.name)+len(name)]) == string(name) {
				return true
			}
		}
		return false
	}
	if t.dup == nil {
		t.dup = new(dupTable)
	}
	k := last
	if last-attr0 == dupLinearMax {
		t.dup.begin()
		k = attr0
	}
	for ; k <= last; k++ {
		a := &t.attrs[k]
		name := t.buf[a.name : a.name+uint32(a.qnameLen)]
		if t.dupInsert(uint32(maphash.Bytes(dupSeed, name)), k, func(o *attr) bool {
			return string(t.buf[o.name:o.name+uint32(o.qnameLen)]) == string(name)
		}) {
			return true
		}
	}
	return false
}

func (t *tree) dupInsert(h uint32, k int, same func(*attr) bool) bool {
	d := t.dup
	for s := h & 1023; ; s = (s + 1) & 1023 {
		e := &d.buckets[s]
		if e.stamp != d.generation {
			e.stamp, e.hash, e.attr = d.generation, h, uint32(k)
			return false
		}
		if e.hash == h {
			if d.compares++; same(&t.attrs[e.attr]) {
				return true
			}
		}
	}
}

// resolvePrefixes resolves the prefixes of the attributes from attr0 on and looks for two that come to
// the same expanded name (Namespaces in XML 1.0 §6.3).
func (t *tree) resolvePrefixes(attr0 int, scope uint16) status {
	if t.dup == nil {
		t.dup = new(dupTable)
	}
	t.dup.begin()
	for k := attr0; k < len(t.attrs); k++ {
		a := &t.attrs[k]
		plen := int(a.kind & aPrefixLenMask)
		if plen == 0 || a.kind&aDecl != 0 {
			continue
		}
		ns, ok := t.lookupPrefix(t.buf[a.name:int(a.name)+plen], scope)
		if !ok {
			return t.fail(int(a.name), BadNamespacePrefix, "undeclared prefix of an attribute")
		}
		if ns >= nsRoot && ns != nsXMLPrefix {
			t.flags |= fOuterPrefix
		}
		local := t.buf[int(a.name)+plen+1 : int(a.name)+int(a.qnameLen)]
		uri := t.nsURI(ns)
		h := uint32(maphash.Bytes(dupSeed, local)) ^ uint32(maphash.Bytes(dupSeed, uri))*31
		if t.dupInsert(h, k, func(o *attr) bool {
			op := uint32(o.kind & aPrefixLenMask)
			if string(t.buf[o.name+op+1:o.name+uint32(o.qnameLen)]) != string(local) {
				return false
			}
			ons, _ := t.lookupPrefix(t.buf[o.name:o.name+op], scope)
			return string(t.nsURI(ons)) == string(uri)
		}) {
			return t.fail(int(a.name), NotWellFormed, "attribute given twice")
		}
	}
	return statusDone
}
