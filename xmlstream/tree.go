package xmlstream

import "hash/maphash"

// A tree is one parsed top-level element, or the start tag of the root: flat arrays of nodes, attributes and
// namespace declarations that hold offsets into the bytes. Nodes are in document order, so an element's
// descendants follow it. While the element is unfinished, the tree also holds the state of the scan.
//
// A Parser has one tree for elements that come in one read, one for each Stream with an unfinished
// element, and a few for Parser.Element. Parse and Clone make trees of their own. A tree is used on the
// goroutine of its parser; an owned one is read-only, so any goroutine may read it.
type tree struct {
	buf     []byte // begins with the element; all offsets count from there. A view of fed bytes, or of tail
	nodes   []node
	attrs   []attr
	nsDecls []nsDecl
	arena   []byte    // URIs of namespaces that were written with references, decoded
	root    *Root     // the context: what the stream header declared
	dup     *dupTable // the parser's, or nil until it is needed

	// The state of the scan: see scan.go.
	pos      int    // where to continue; once complete, the length of the element
	searched int    // inTag, inRef, inDecl: up to where its end was searched; inCDATA: where its content begins
	openNode uint32 // the innermost open element, valid if depth is over 0
	depth    int    // how many elements are open
	state    uint8  // inProlog and so on
	quote    byte   // inTag: the quotation mark that is open at searched, 0 for none
	flags    uint8  // fNotVerbatim and so on
	gen      uint32 // counts expire: an Element of an earlier generation is stale

	header   bool // it is the start tag of the root
	decl     bool // an XML declaration was before it
	owned    bool // nothing of it is ever reused, so any goroutine may read it
	released bool // by Parser.Release

	scratch []byte // decoded values and texts, while the Elements live
	memoKey uint64 // which value was decoded last: its offset in buf, with a bit for attributes
	memo    []byte // that value, in scratch: asking twice decodes once

	outgrown [][]byte // invariants: earlier arrays of scratch, as views may be in them

	tail         []byte  // the bytes of a Stream's unfinished element, lent by Buffers; the tree owns them
	p            *Parser // where the tree and its tail go back; nil if owned
	err          error   // of the scan; for a Stream's tree, the error that the stream ended with
	bytesScanned int     // how many bytes were looked at, for tests of linear work
}

// tree.state: where in the input the scan stopped. scan.go has the diagram.
const (
	inProlog  = iota // before the stream header
	atTag            // at a <
	inText           // in character data
	inTag            // in a tag whose end has not come
	inRef            // in a reference in character data whose end has not come
	inCDATA          // in a CDATA section
	inDecl           // in the XML declaration
	complete         // the element ends at pos
	selfClose = 0x80 // a flag, for a header: it was an empty-element tag, so the stream ends with it
)

// tree.flags: reasons why the bytes of the element can't be passed on as they are.
const (
	fNotVerbatim = 1 << iota // a CDATA section, a carriage return, or a line feed or tab in a value
	fOuterPrefix             // it uses a prefix from the stream header
	fContentDecl             // a content namespace is declared, other than as default by the top element
	fElemPrefix              // an element has a prefix
)

// A node is one element, in 32 bytes. While the element is open, next is its parent and endTag its last
// child, if it has one: no other memory is needed for the stack of open elements.
type node struct {
	start     uint32 // the offset of its <
	body      uint32 // the offset after its start tag
	endTag    uint32 // the offset of the < of its end tag; body for an empty-element tag
	next      uint32 // the index of its next sibling, 0 if there is none
	attr0     uint32 // the index of its first attribute
	qnameLen  uint16 // length of its name, with prefix and colon
	prefixLen uint16 // length of the prefix, 0 if it has none
	ns        uint16 // its namespace: nsOuter, an nsDecl, or from nsRoot on: see there
	scope     uint16 // the last nsDecl in force inside of it, counted from 1; 0 if there is none
	nattr     uint8  // how many attributes it has, declarations included
	nflags    uint8  // nChildren and so on
	_         [2]uint8
}

// node.nflags
const (
	nChildren    = 1 << iota // it has children; the node after it is the first one
	nNeedsDecode             // its own text holds references, CDATA sections or carriage returns
	nEmpty                   // it is an empty-element tag
	nPrefix                  // it has attributes with a prefix other than xml and xmlns
	nDecls                   // it declares namespaces
	nNotVerbatim             // as fNotVerbatim, for its own tag and text
)

// The values of node.ns. From 1 to nsRoot-1 it is the index of an nsDecl plus 1; from nsRoot on, an index of
// Root.nsDecls plus nsRoot.
const (
	nsOuter     = 0         // the default namespace outside of the element, that of the stream header
	nsRoot      = 1 << 15   // the first prefix that the stream header declares
	nsXMLPrefix = 1<<16 - 1 // the namespace of the prefix xml
)

// An attr is an attribute or a namespace declaration, in 16 bytes.
type attr struct {
	name     uint32 // the offset of the name, with its prefix
	val      uint32 // the offset of the value, after the opening quotation mark
	valLen   uint32 // length of the value as it was written
	qnameLen uint16 // length of the name, with prefix and colon
	kind     uint16 // length of the prefix, and the bits below
}

// attr.kind
const (
	aNeedsDecode   = 1 << 15   // the value holds references, or white space that becomes spaces
	aDecl          = 1 << 14   // it is a namespace declaration; its prefix, if any, is xmlns
	aPrefixLenMask = 1<<13 - 1 // the length of the prefix
)

// An nsDecl is a namespace declaration inside the element, in 24 bytes. The declarations in force at a
// node are a list: node.scope is the last one, and prev leads to the one before.
type nsDecl struct {
	prefixOff uint32 // the offset of the prefix that is declared
	uriOff    uint32 // the offset of the URI, in buf or in arena
	owner     uint32 // the index of the node that declares it
	prefixLen uint16 // 0 for the default namespace
	uriLen    uint16
	prev      uint16 // the declaration before it that is in force, counted from 1; 0 if there is none
	def       uint16 // the default namespace in force with it, as in node.ns
	count     uint16 // how many prefixes are in force with it, those of the stream header included
	arena     bool   // the URI is in tree.arena
	streams   bool   // the URI is the streams namespace
}

// reset makes t ready for a new element in the context of r, and expires each Element of t. It keeps the
// memory of the arrays.
func (t *tree) reset(r *Root) {
	t.nodes, t.attrs, t.nsDecls, t.arena = t.nodes[:0], t.attrs[:0], t.nsDecls[:0], t.arena[:0]
	t.buf, t.root = nil, r
	t.pos, t.searched, t.openNode, t.depth, t.state, t.quote, t.flags = 0, 0, 0, 0, atTag, 0, 0
	t.header, t.decl = false, false
	t.expire()
}

// expire ends the life of every Element of t: it makes the scratch memory free for reuse and, with
// invariants, makes older Elements panic and overwrites the values that were decoded for them.
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

// The sizes in bytes of a node, an attr and an nsDecl; TestSizes compares them with the types.
const nodeSize, attrSize, nsDeclSize = 32, 16, 24

// size returns how many bytes the arrays of t take.
func (t *tree) size() int {
	return cap(t.nodes)*nodeSize + cap(t.attrs)*attrSize + cap(t.nsDecls)*nsDeclSize + cap(t.arena) +
		cap(t.scratch)
}

// tooBig reports whether a tree that belongs to a Parser has grown so large that it is to be replaced:
// one of its arrays has room for more than 4,096 entries (128 KiB of nodes). There are few such trees, so
// the bound is higher than that for the trees of Streams (maxKept).
func (t *tree) tooBig() bool {
	return cap(t.nodes) > 4096 || cap(t.attrs) > 4096 || cap(t.nsDecls) > 4096 || cap(t.arena) > maxKept
}

// fail stores the error that the input is wrong at offset off of t.buf, and returns statusBad. cond is the
// stream error condition, msg the text for logs.
func (t *tree) fail(off int, cond, msg string) status {
	t.err = &SyntaxError{Offset: int64(off), Condition: cond, Msg: msg}
	return statusBad
}

// failByte is fail for a status of checkRunes or scanQName: unsupported-encoding for statusBadUTF8, otherwise
// not-well-formed with msg.
func (t *tree) failByte(off int, st status, msg string) status {
	if st == statusBadUTF8 {
		return t.fail(off, UnsupportedEncoding, "bytes that are not UTF-8")
	}
	return t.fail(off, NotWellFormed, msg)
}

// lookupPrefix returns the namespace, as in node.ns, of the prefix p. scope, as in node.scope, is the last
// declaration in force there. The order is that of XML: declarations inside the element, the prefix xml, the
// stream header. It returns false for an undeclared prefix.
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

// nsURI returns the URI of the namespace ns, which is as in node.ns; empty for no namespace. It must not be
// changed, and is valid as long as the Element.
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

// isStreams reports whether ns, as in node.ns, is the streams namespace. It compares no bytes, as each start
// tag asks.
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

// declare puts the namespace declaration a in force. a stands on the element that will be node id, where
// scope was the last declaration in force; declare returns the new one. It fails if the declaration is
// forbidden or over a limit. The steps:
//
//  1. Decode the URI into the arena if it has references, and check its length.
//  2. Find the prefix that is declared, if it is not the default namespace, and count the prefixes in force.
//  3. Refuse what Namespaces in XML forbids. Note the streams namespace, and a content namespace that is
//     declared where bytes of a stanza can't be passed on as they are.
//  4. Append the declaration. A default namespace is in force from here on, also for this element.
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
	// Namespaces in XML 1.0 section 3: xml is bound to one namespace and no other prefix to that one, xmlns
	// and its namespace can't be declared, a prefix can't be undeclared.
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

// A dupTable finds equal names among many attributes of one element in linear time. It is a hash table with
// open addressing, for at most 255 attributes in 1,024 buckets. The hash is seeded, as a peer chooses the
// names (attack row X11).
type dupTable struct {
	generation uint32 // counts the elements that used the table
	compares   int    // how many names were compared, for tests of linear work
	// buckets hold the index of an attribute and the hash of its name. A bucket is empty unless stamp is the
	// current generation.
	buckets [1024]struct{ stamp, hash, attr uint32 }
}

// dupSeed is the seed of the hashes of a dupTable, random for each process.
var dupSeed = maphash.MakeSeed()

// begin empties the table, which costs nothing: buckets of another generation count as empty. When the number
// of the generation comes round to 0, all buckets are cleared.
func (d *dupTable) begin() {
	if d.generation++; d.generation == 0 {
		*d = dupTable{generation: 1}
	}
}

// dupLinearMax is how many attributes of an element are compared with each other. Above that the table is
// faster.
const dupLinearMax = 8

// isDuplicate reports whether the last attribute of t.attrs, which is called name, has the same name as
// one from attr0 on, prefix included. The first dupLinearMax are compared one by one; the next one begins
// the table and inserts all, and each later one is inserted alone.
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

// dupInsert inserts the attribute at index k, with the hash h, into the table. It returns true, and does not
// insert, if same reports that an attribute with an equal hash is the same name.
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

// resolvePrefixes checks the prefixes of the attributes from attr0 on, whose element has the declarations
// of scope in force. Each must be declared, and no two attributes may have the same local name and
// namespace, even with different prefixes (Namespaces in XML 1.0 section 6.3). The results are not
// stored: lookupPrefix finds them again when an attribute is asked for.
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
