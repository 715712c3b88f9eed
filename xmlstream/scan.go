package xmlstream

import "unicode/utf8"

// This file is the tokenizer. It reads one top-level element (a stanza, or the start tag of the root) and
// fills a tree: nodes, attributes and namespace declarations, as offsets into t.buf. It may stop at any
// byte, because a read may end anywhere, and continues there with the next read.
//
// Parser.Next calls it for a stream, tree.parseWhole for one element alone. Both set t.buf and then call
// tree.scan. A tree belongs to one goroutine, that of its parser, so nothing here takes a lock.
//
// # States
//
// tree.step is a state machine. Its labels tag, text, cdata and endTag are positions in the grammar. The
// scan of an element begins at tag and ends when the element is complete:
//
//	at       reads                                             goes to
//	tag      < and a name, attributes, up to > or />           text, or complete: see below
//	         </                                                endTag
//	         <![CDATA[                                         cdata
//	         anything else                                     error
//	text     character data, up to the next <                  tag
//	cdata    a CDATA section, up to ]]>                        text
//	endTag   the name of the open element, up to >             text, or complete if no element is open
//
// From a start tag the scan goes to text, with two exceptions that complete the element: the header of a
// stream has no more than its start tag, and /> ends a stanza without content.
//
// If t.buf ends too early, step stores where it is in t.state and t.pos, and returns statusMore. The next
// call of step, with a longer t.buf, continues from there:
//
//	t.state   where t.buf ended                     t.pos is            continues
//	atTag     after <, or in <![CDATA[              at the <            at tag
//	inTag     in a start tag or an end tag          at the <            at tag, as tagEndCame decides
//	inText    in character data                     after the data      at text
//	inRef     in a reference in character data      at the &            at text, as referenceEndCame decides
//	inCDATA   in the content of a CDATA section     after the data      at cdata
//	complete  (statusDone)                          after the element   never
//
// "After the data" is the end of t.buf, or the first byte of a UTF-8 sequence whose other bytes have not
// arrived. For a header, complete may have the bit selfClose added: the tag ended in />. The states inProlog
// and inDecl are those of prolog.go, which scans the input before a header.
//
// # Linear work
//
// Every byte of character data is scanned once, but for a few bytes of a sequence that a read has cut (UTF-8,
// "<![CDATA["). A tag that has not arrived completely is parsed again from its start, because only its bytes
// are kept. If a peer sends single bytes, parsing it with each of them would be quadratic. So in state inTag,
// step only searches for the end of the tag (tagEnd), from where the last search stopped (t.searched,
// t.quote). It parses the tag when the end is there, or when one read has brought as many bytes as were there
// before. References in character data are treated in the same way. TestWorkAnySplit counts the bytes that
// are looked at (t.bytesScanned): there are at most four for each byte of input. The search for equal
// attributes in a tag is not counted there; Limits bounds it.
//
// # Why step is one function
//
// Go does not inline a function of this size, and a call for each start tag makes small elements 8 to 13 %
// slower (BenchmarkStanza/tiny). So names of elements, their nodes and end tags are scanned in step. Anything
// that a small element lacks lives in separate functions: attributes, CDATA sections, prefixes, and all that
// happens when bytes are missing. Change one of them freely; if you move code out of step, measure.
//
// Words: scope is the number of the last namespace declaration in force, counted from 1 in t.nsDecls; 0 means
// that none of this element is. nsOuter stands for the default namespace of the stream header. Copying an
// element verbatim means sending its bytes as they came; the flags NotVerbatim mark bytes that have to be
// written again, as CDATA sections.

// scan continues with the element in t.buf and fills t. It is the only caller of step. It returns
//
//   - statusDone: the element is complete, and t.pos is the offset after it (for the header of a stream:
//     after its start tag);
//   - statusMore: t.buf ends inside the element. The caller calls scan again when t.buf is longer. It may
//     move the bytes, but the first one stays the same, as t holds offsets from there;
//   - statusBad: t.err is a *SyntaxError. t has to be reset before it is used again.
//
// If final is set, no more bytes will come: the limit of bytes is reached, or the input is complete. The
// caller then turns statusMore into the error of that.
//
// If final is not set, scan holds back an error inside a tag until the end of the tag has arrived.
// Otherwise the error that a peer gets would depend on how its bytes were cut into reads: a tag that
// arrives in single bytes is not parsed before its end. An error after "<!" or "<?" is reported at once;
// these have no end to wait for.
func (t *tree) scan(lim *Limits, final bool) status {
	st := t.step(lim, final)
	// t.state is atTag in a tag, and still in the text after it. In the second case the end of the tag is there,
	// tagEnd finds it, and the error is reported.
	if st == statusBad && t.state == atTag && !final && t.buf[t.pos+1] != '!' && t.buf[t.pos+1] != '?' {
		if j, q := tagEnd(t.buf, t.pos+1, 0); j == len(t.buf) {
			t.err = nil
			return t.suspendTag(j, q)
		}
	}
	return st
}

// step is one run of the state machine above, from t.pos to the end of the element, to an error, or to the
// end of t.buf. Its results are those of scan, but it reports an error in a tag at once. Its parts:
//
//  1. Continue at the label that belongs to t.state.
//  2. text: skip plain character data, and check references, UTF-8 and "]]>".
//  3. cdata: a CDATA section (scanCDATA).
//  4. tag: store the position; find the kind of the tag.
//  5. A start tag: its name, its limits, its attributes. When it is complete: resolve its prefixes, append
//     its node, link the node to its parent.
//  6. endTag: compare the name with that of the open element, and close that.
//
// A node is appended when its tag is complete. Attributes and declarations are appended before that;
// suspendTag removes them if the tag turns out to be incomplete. So at each label, all nodes, attributes and
// declarations in t are of complete tags.
func (t *tree) step(lim *Limits, final bool) status {
	// These four variables are used at all labels. The others belong to one block each, as a goto must not
	// jump over a declaration.
	var (
		buf = t.buf    // it does not change during a step
		n   = len(buf) // where the bytes end; the element may end before or after
		i   = t.pos    // at text and cdata: the next byte; at tag and endTag: the <, which is also t.pos
		st  status     // what the function called last returned
	)
	switch t.state {
	case inTag:
		if !t.tagEndCame(final) {
			return statusMore
		}
	case inRef:
		if !t.referenceEndCame(final) {
			return statusMore
		}
		goto text
	case inCDATA:
		goto cdata
	case inText:
		goto text
	}
	goto tag

text:
	// Here i is in the content of the element t.openNode, and t.depth is at least 1. A start tag is before
	// i, so buf[i-2] exists. Often the next tag follows at once.
	if uint(i) < uint(len(buf)) && buf[i] == '<' {
		goto tag
	}
	for start := i; ; {
		i = plainText(buf, i)
		if i >= n {
			t.pos, t.state = i, inText
			t.bytesScanned += i - start
			return statusMore
		}
		c := buf[i]
		if c == '<' {
			t.bytesScanned += i - start
			goto tag
		}
		switch {
		case c == '&':
			_, end, cond, st := scanReference(buf, i)
			if st == statusBad {
				return t.fail(i, cond, "bad reference")
			}
			if st == statusMore {
				t.pos, t.state, t.searched = i, inRef, n
				t.bytesScanned += n - start
				return statusMore
			}
			t.nodes[t.openNode].nflags |= nNeedsDecode
			i = end
		case c == '>':
			if buf[i-1] == ']' && buf[i-2] == ']' { // XML 1.0 section 2.4
				return t.fail(i-2, NotWellFormed, "]]> in character data")
			}
			i++
		case c == '\r':
			t.nodes[t.openNode].nflags |= nNeedsDecode | nNotVerbatim
			t.flags |= fNotVerbatim
			i++
		case c >= 0x80:
			i, st = checkRunes(buf, i, cText)
			if st == statusMore {
				t.pos, t.state = i, inText
				t.bytesScanned += i - start
				return statusMore
			}
			if st != statusDone {
				return t.failByte(i, st, "illegal character")
			}
		default:
			return t.fail(i, NotWellFormed, "illegal character")
		}
	}

cdata:
	// Here i is in a CDATA section in the content of t.openNode. The section's own content begins at
	// t.searched.
	if i, st = t.scanCDATA(i); st != statusDone {
		return st
	}
	goto text

tag:
	// Here buf[i] is a <. If anything is missing from here on, the scan continues at this offset.
	t.state = atTag
	t.pos = i
	if i+1 >= n {
		return statusMore
	}
	switch buf[i+1] {
	case '/':
		goto endTag
	case '?':
		return t.fail(i, RestrictedXML, "processing instruction")
	case '!':
		if i, st = t.openCDATA(i); st != statusDone {
			return st
		}
		goto cdata
	}

	{ // A start tag.
		var (
			id      = uint32(len(t.nodes)) // the index that its node will have
			attr0   = len(t.attrs)         // its first attribute
			name    = i + 1                // its name begins here, with the prefix
			plen    = 0                    // length of the name's prefix, without the colon
			scope   uint16                 // the last namespace declaration in force, as in node.scope
			ns      uint16                 // its namespace, as in node.ns
			nflags  uint8                  // its node.nflags
			resolve bool                   // the prefixes of its attributes have to be resolved
		)
		j := skipASCIIName(buf, name) // the next byte
		if j == n {
			return t.suspendTag(n, 0)
		}
		if c := buf[j]; j == name || c == ':' || c >= 0x80 {
			j, plen, st = scanQName(buf, name)
			if st == statusMore {
				return t.suspendTag(n, 0)
			}
			if st != statusDone {
				return t.failByte(j, st, "illegal name of an element")
			}
		}
		nameEnd := j
		if nameEnd-name > lim.NameBytes {
			return t.fail(name, PolicyViolation, "name too long")
		}
		if t.depth >= lim.Depth {
			return t.fail(i, PolicyViolation, "elements nested too deep")
		}
		if len(t.nodes) >= lim.Nodes {
			return t.fail(i, PolicyViolation, "too many elements")
		}
		if t.depth > 0 {
			scope = t.nodes[t.openNode].scope
		}
		// A tag without attributes ends here and needs no call, which keeps small elements fast.
		switch {
		case buf[j] == '>':
			j++
		case buf[j] == '/' && j+1 < n && buf[j+1] == '>':
			j += 2
		default:
			if j, scope, nflags, resolve, st = t.attributes(j, scope, lim); st != statusDone {
				return st
			}
		}
		empty := buf[j-2] == '/' // before the >, a slash stands only in />
		t.bytesScanned += j - i

		// The start tag is complete, and j is after it. Prefixes can be resolved now, and not before: a
		// declaration may come after the prefix, in the same tag.
		switch {
		case plen != 0:
			if ns, st = t.resolveElement(name, plen, scope); st != statusDone {
				return st
			}
		case scope != 0:
			ns = t.nsDecls[scope-1].def
		default:
			ns = nsOuter
		}
		if resolve {
			if st = t.resolvePrefixes(attr0, scope); st != statusDone {
				return st
			}
		}
		if !t.header && t.isStreams(ns) {
			if st = t.checkStreamElement(name+plen+min(plen, 1), nameEnd); st != statusDone {
				return st
			}
		}

		// Append the node, link it to its parent, and open it if content follows.
		t.nodes = append(t.nodes, node{})
		nd := &t.nodes[id]
		nd.start, nd.body, nd.attr0 = uint32(i), uint32(j), uint32(attr0)
		nd.qnameLen, nd.prefixLen, nd.ns, nd.scope = uint16(nameEnd-name), uint16(plen), ns, scope
		nd.nattr, nd.nflags = uint8(len(t.attrs)-attr0), nflags
		if t.depth > 0 {
			// The parent is open: its endTag is its last child so far, if it has one.
			p := &t.nodes[t.openNode]
			if p.nflags&nChildren != 0 {
				t.nodes[p.endTag].next = id
			}
			p.nflags |= nChildren
			p.endTag = id
		}
		i = j
		if t.header {
			nd.endTag = nd.body
			t.pos, t.state = i, complete
			if empty {
				t.state |= selfClose
			}
			return statusDone
		}
		if !empty {
			nd.next = t.openNode // while it is open: its parent
			t.openNode = id
			t.depth++
			goto text
		}
		nd.endTag = nd.body
		nd.nflags |= nEmpty
		if t.depth == 0 {
			t.pos, t.state = i, complete
			return statusDone
		}
		goto text
	}

endTag:
	{ // Here buf[i:] begins with </. The name must be that of the element t.openNode, byte for byte.
		if t.depth == 0 {
			return t.fail(i, NotWellFormed, "end tag without a start tag")
		}
		nd := &t.nodes[t.openNode]
		j := i + 2 + int(nd.qnameLen) // after the name
		if j >= n {                   // compare what has come
			if string(buf[i+2:n]) != string(buf[nd.start+1:int(nd.start)+1+n-i-2]) {
				return t.fail(i, NotWellFormed, "end tag of another element")
			}
			return t.suspendTag(n, 0)
		}
		if string(buf[i+2:j]) != string(buf[nd.start+1:nd.start+1+uint32(nd.qnameLen)]) {
			return t.fail(i, NotWellFormed, "end tag of another element")
		}
		if buf[j] != '>' {
			if j = skipSpace(buf, j); j >= n {
				return t.suspendTag(n, 0)
			}
			if buf[j] != '>' {
				return t.fail(i, NotWellFormed, "end tag of another element")
			}
		}
		t.bytesScanned += j + 1 - i
		nd.endTag = uint32(i)
		i = j + 1
		t.openNode, nd.next = nd.next, 0 // back to the parent; a later sibling sets next
		if t.depth--; t.depth == 0 {
			t.pos, t.state = i, complete
			return statusDone
		}
		goto text
	}
}

// attributes scans the attributes of the start tag at t.pos, from j on, which is right after the name of the
// element, and appends them to t.attrs. scope is the last namespace declaration in force around the element.
// For statusDone it returns
//
//   - end: the offset after > or />;
//   - inside: the last declaration in force inside the element;
//   - nflags: the bits nDecls, nPrefix and nNotVerbatim of its node;
//   - resolve: the caller must call resolvePrefixes, which finds undeclared prefixes, and names that are
//     equal because two prefixes stand for one namespace. An element with a single prefixed attribute, of
//     the prefix xml, such as xml:lang, does not need it.
//
// For other statuses these have no meaning. The steps for each attribute:
//
//  1. Skip white space, and return at the end of the tag.
//  2. Scan the name, check the limits, and append the attribute.
//  3. Scan the equals sign and the value in quotation marks.
//  4. Put it in force if it is a namespace declaration (declare); otherwise note its prefix.
//  5. Refuse it if an attribute with the same name is there (isDuplicate). Two names that are equal only
//     after their prefixes are resolved are found by resolvePrefixes.
func (t *tree) attributes(j int, scope uint16, lim *Limits) (
	end int, inside uint16, nflags uint8, resolve bool, st status,
) {
	var (
		buf      = t.buf
		n        = len(buf)
		attr0    = len(t.attrs)         // the first attribute of the element
		id       = uint32(len(t.nodes)) // the index that its node will have
		prefixed = 0                    // attributes with a prefix, declarations not counted
	)
	for {
		// Here j is after the name of the element, or after the closing quotation mark of an attribute.
		before := j
		j = skipSpace(buf, j)
		if j >= n {
			return j, 0, 0, false, t.suspendTag(n, 0)
		}
		c := buf[j]
		if c == '>' {
			return j + 1, scope, nflags, nflags&nPrefix != 0 || prefixed > 1, statusDone
		}
		if c == '/' {
			if j+1 >= n {
				return j, 0, 0, false, t.suspendTag(n, 0)
			}
			if buf[j+1] != '>' {
				return j, 0, 0, false, t.fail(j, NotWellFormed, "broken tag")
			}
			return j + 2, scope, nflags, nflags&nPrefix != 0 || prefixed > 1, statusDone
		}
		if j == before {
			return j, 0, 0, false, t.failByteAt(j, "broken tag")
		}

		// The name, from offset name on.
		var (
			name = j
			kind uint16 // its attr.kind: the length of the prefix, and flags
		)
		j = skipASCIIName(buf, name)
		if j == n {
			return j, 0, 0, false, t.suspendTag(n, 0)
		}
		if c = buf[j]; j == name || c == ':' || c >= 0x80 {
			var plen int
			j, plen, st = scanQName(buf, name)
			if st == statusMore {
				return j, 0, 0, false, t.suspendTag(n, 0)
			}
			if st != statusDone {
				return j, 0, 0, false, t.failByte(j, st, "illegal name of an attribute")
			}
			kind = uint16(plen)
			c = buf[j]
		}
		if j-name > lim.NameBytes {
			return j, 0, 0, false, t.fail(name, PolicyViolation, "name too long")
		}
		if len(t.attrs)-attr0 >= lim.Attrs || len(t.attrs) >= lim.StanzaAttrs {
			return j, 0, 0, false, t.fail(name, PolicyViolation, "too many attributes")
		}
		t.attrs = append(t.attrs, attr{})
		a := &t.attrs[len(t.attrs)-1]
		a.name, a.qnameLen = uint32(name), uint16(j-name)

		// The equals sign and the opening quote q. White space around the sign is allowed, but rare.
		if c != '=' {
			if j = skipSpace(buf, j); j >= n {
				return j, 0, 0, false, t.suspendTag(n, 0)
			}
			if buf[j] != '=' {
				return j, 0, 0, false, t.failByteAt(j, "attribute without a value")
			}
		}
		if j++; uint(j) >= uint(len(buf)) {
			return j, 0, 0, false, t.suspendTag(n, 0)
		}
		q := buf[j]
		if q != '\'' && q != '"' {
			if j = skipSpace(buf, j); j >= n {
				return j, 0, 0, false, t.suspendTag(n, 0)
			}
			if q = buf[j]; q != '"' && q != '\'' {
				return j, 0, 0, false, t.failByteAt(j, "attribute value without quotes")
			}
		}

		// The value, up to the closing quote. Most values are plain, so that plainAttr finds the quote.
		j++
		a.val = uint32(j)
		j = plainAttr(buf, j, q)
		if j < n && buf[j] != q {
			var coded, blank bool
			j, coded, blank, st = t.scanValue(j, q)
			if st == statusMore {
				return j, 0, 0, false, t.suspendTag(n, q)
			}
			if st != statusDone {
				return j, 0, 0, false, st
			}
			if coded {
				kind |= aNeedsDecode
			}
			if blank {
				nflags |= nNotVerbatim
			}
		}
		if j >= n {
			return j, 0, 0, false, t.suspendTag(n, q)
		}
		a.valLen = uint32(j) - a.val
		j++

		// Its kind. The first test lets most names pass without a comparison: they have no prefix, and do
		// not begin as xmlns does.
		if plen := kind & aPrefixLenMask; plen == 0 && buf[name] != 'x' {
			a.kind = kind
		} else if a.qnameLen >= 5 && string(buf[name:name+5]) == "xmlns" && (a.qnameLen == 5 || plen == 5) {
			nflags |= nDecls
			a.kind = kind | aDecl
			if scope, st = t.declare(a, id, scope, lim); st != statusDone {
				return j, 0, 0, false, st
			}
		} else {
			a.kind = kind
			if plen != 0 {
				prefixed++
				if plen != 3 || string(buf[name:name+3]) != "xml" {
					nflags |= nPrefix
				}
			}
		}
		if len(t.attrs)-attr0 > 1 && t.isDuplicate(attr0, buf[name:name+int(a.qnameLen)]) {
			return j, 0, 0, false, t.fail(name, NotWellFormed, "attribute given twice")
		}
	}
}

// suspendTag stops the scan in the tag at t.pos, and returns statusMore. The tag does not end before the
// offset searched; quote is the quotation mark that is open there, or 0. It removes the attributes and
// declarations of the tag, which no node owns yet: the tag will be parsed again from its start.
func (t *tree) suspendTag(searched int, quote byte) status {
	nattr := 0
	if n := len(t.nodes); n > 0 {
		nattr = int(t.nodes[n-1].attr0) + int(t.nodes[n-1].nattr)
	}
	t.attrs = t.attrs[:nattr]
	for n := len(t.nsDecls); n > 0 && int(t.nsDecls[n-1].owner) >= len(t.nodes); n-- {
		t.nsDecls = t.nsDecls[:n-1]
	}
	t.bytesScanned += searched - t.pos
	t.state, t.searched, t.quote = inTag, searched, quote
	return statusMore
}

// tagEndCame is for the state inTag. It reports whether step should parse the tag at t.pos again. It should
//
//   - if at least as many bytes are new as were searched before: the end is likely among them. If it is not,
//     the work is still linear, as the tag is now at least twice as long as at the last search;
//   - if the end of the tag, or a byte that can't be in a tag, is among the new bytes;
//   - if no more bytes will come (final): then the tag is parsed for the error in it.
//
// Otherwise it stores how far it has searched, and the next call continues there.
func (t *tree) tagEndCame(final bool) bool {
	n := len(t.buf)
	if n-t.searched >= t.searched-t.pos {
		return true
	}
	j, q := tagEnd(t.buf, t.searched, t.quote)
	t.bytesScanned += j - t.searched
	if j == n && !final {
		t.searched, t.quote = j, q
		return false
	}
	return true
}

// referenceEndCame is for the state inRef. It reports whether step shall scan the reference at t.pos again,
// because a byte has arrived that does not continue it, or no more bytes will come. While only its first
// three bytes are known, each try scans it again: that is cheap, and inReference needs these three.
// Otherwise it stores how far it has searched, and the next call continues there.
func (t *tree) referenceEndCame(final bool) bool {
	i, j, n := t.pos, t.searched, len(t.buf)
	if j-i <= len("&#x") {
		return true
	}
	for j < n && inReference(t.buf[i+1:i+3], t.buf[j]) {
		j++
	}
	t.bytesScanned += j - t.searched
	if j == n && !final {
		t.searched = j
		return false
	}
	return true
}

// openCDATA scans the "<!" at i, where t.pos is, too. Only a CDATA section inside a stanza is allowed there.
// For statusDone it returns the offset where the section's content begins, and stores it in t.searched.
// For statusMore the state is still atTag: the next step begins at the < again.
func (t *tree) openCDATA(i int) (int, status) {
	const open = "<![CDATA["
	b := t.buf[i:]
	if len(b) < 3 {
		return i, statusMore
	}
	if c := b[2]; c == '-' || c|0x20 >= 'a' && c|0x20 <= 'z' {
		return i, t.fail(i, RestrictedXML, "comment or document type declaration")
	}
	k := min(len(b), len(open))
	if string(b[:k]) != open[:k] || t.header {
		return i, t.fail(i, NotWellFormed, "neither a tag nor a CDATA section")
	}
	if k < len(open) {
		return i, statusMore
	}
	if t.depth == 0 { // well-formed XML, but only white space is allowed between stanzas
		return i, t.fail(i, BadFormat, "CDATA section between stanzas")
	}
	t.nodes[t.openNode].nflags |= nNeedsDecode | nNotVerbatim
	t.flags |= fNotVerbatim
	t.bytesScanned += k
	t.searched = i + k
	return i + k, statusDone
}

// scanCDATA scans the content of a CDATA section from i on, up to "]]>", and returns the offset after that.
// For statusMore it has stored where to continue. t.searched is the offset where the content begins: the ]
// must not be before it, so "<![CDATA[]>" does not end a section.
func (t *tree) scanCDATA(i int) (int, status) {
	buf, start, st := t.buf, i, statusMore
	for i < len(buf) {
		c := buf[i]
		switch {
		case charClass[c]&cText != 0 || c == '<' || c == '&' || c == '\r':
			i++ // Element.Text turns a carriage return into a line feed
			continue
		case c == '>':
			i++
			if buf[i-2] == ']' && buf[i-3] == ']' && i-3 >= t.searched {
				t.bytesScanned += i - start
				return i, statusDone
			}
			continue
		case c < 0x80:
			return i, t.fail(i, NotWellFormed, "illegal character")
		}
		if i, st = checkRunes(buf, i, 0); st == statusMore {
			break
		} else if st != statusDone {
			return i, t.failByte(i, st, "illegal character")
		}
	}
	t.pos, t.state = i, inCDATA
	t.bytesScanned += i - start
	return i, statusMore
}

// scanValue scans the value of an attribute from j on, the first byte of it that is not plain, up to the
// closing quotation mark q. For statusDone it returns
//
//   - end: the offset of the closing quotation mark;
//   - coded: the value has references, or white space that becomes spaces, and has to be decoded;
//   - blank: it has white space other than spaces, which the parser of a recipient would turn into spaces.
//
// For statusMore t.buf ends in the value. Bits that were set in t.flags stay; the next scan of the tag sets
// them again.
func (t *tree) scanValue(j int, q byte) (end int, coded, blank bool, st status) {
	buf := t.buf
	for ; j < len(buf); j = plainAttr(buf, j, q) {
		switch c := buf[j]; {
		case c == q:
			return j, coded, blank, statusDone
		case c == '"' || c == '\'': // the other kind of quotation mark
			j++
		case c == '&':
			_, after, cond, st := scanReference(buf, j)
			if st == statusBad {
				return j, false, false, t.fail(j, cond, "bad reference")
			}
			if st == statusMore {
				return j, false, false, statusMore
			}
			coded = true
			j = after
		case c >= 0x80:
			j, st = checkRunes(buf, j, cAttr)
			if st == statusMore {
				return j, false, false, statusMore
			}
			if st != statusDone {
				return j, false, false, t.failByte(j, st, "illegal character")
			}
		case c == '\n' || c == '\t' || c == '\r':
			coded, blank = true, true
			t.flags |= fNotVerbatim
			j++
		default:
			return j, false, false, t.fail(j, NotWellFormed, "illegal character in an attribute value")
		}
	}
	return j, false, false, statusMore
}

// resolveElement returns the namespace, as in node.ns, of an element with a prefix. Its name begins at offset
// name, with a prefix of plen bytes. scope is the last declaration in force inside the element.
func (t *tree) resolveElement(name, plen int, scope uint16) (uint16, status) {
	prefix := t.buf[name : name+plen]
	ns, ok := t.lookupPrefix(prefix, scope)
	if !ok || string(prefix) == "xmlns" {
		return 0, t.fail(name, BadNamespacePrefix, "undeclared prefix of an element")
	}
	t.flags |= fElemPrefix
	if ns >= nsRoot && ns != nsXMLPrefix {
		t.flags |= fOuterPrefix
	}
	return ns, statusDone
}

// checkStreamElement checks an element of the streams namespace whose start tag is at t.pos and whose local
// name is t.buf[local:end]. Inside a stanza it is refused (attack X06), and stream:stream is a second header
// (attack K09; tests have the ids of attacks in their names). stream:error and stream:features are allowed
// where a stanza is.
func (t *tree) checkStreamElement(local, end int) status {
	if t.depth > 0 {
		return t.fail(t.pos, PolicyViolation, "stream-level element inside a stanza")
	}
	if string(t.buf[local:end]) == "stream" {
		return t.fail(t.pos, InvalidXML, "second stream header")
	}
	return statusDone
}

// failByteAt fails because the grammar does not allow the byte at i there. The condition is not-well-formed,
// with msg, or unsupported-encoding if no UTF-8 sequence begins at i.
func (t *tree) failByteAt(i int, msg string) status {
	if t.buf[i] >= 0x80 {
		if r, n := utf8.DecodeRune(t.buf[i:]); r == utf8.RuneError && n <= 1 {
			return t.fail(i, UnsupportedEncoding, "bytes that are not UTF-8")
		}
	}
	return t.fail(i, NotWellFormed, msg)
}

// skipASCIIName returns the offset after the name that begins at i; b[i] must exist. It knows ASCII
// without the colon. If it stops at i, at a colon or at a byte outside ASCII, scanQName has to scan the
// name. Go inlines this function, even into step; if it grew, each name would cost a call.
func skipASCIIName(b []byte, i int) int {
	if charClass[b[i]]&cStart != 0 {
		for i++; uint(i) < uint(len(b)) && charClass[b[i]]&cName != 0; i++ {
		}
	}
	return i
}

// skipSpace returns the offset of the first byte from i on that is not white space, or len(b). Go inlines it.
func skipSpace(b []byte, i int) int {
	for uint(i) < uint(len(b)) && charClass[b[i]]&cSpace != 0 {
		i++
	}
	return i
}

// tagEnd searches for the end of a tag without parsing it. The search begins at i, after the <, where the
// quotation mark q is open, or none if q is 0. It returns the offset of the >, or of a byte that can't be in
// a tag at that place: the parse of the tag will fail there or before. If there is neither, it returns
// len(b) and the quotation mark that is open at the end of b.
//
// From a quotation mark it looks back over white space for an equals sign and a name. That ends at the <
// at the latest, which is neither.
func tagEnd(b []byte, i int, q byte) (int, byte) {
	for i < len(b) {
		if q != 0 {
			for i = plainAttr(b, i, q); i < len(b) && b[i] != q; i = plainAttr(b, i+1, q) {
				if b[i] == '<' {
					return i, q
				}
			}
			if i == len(b) {
				return i, q
			}
			i, q = i+1, 0
			continue
		}
		switch c := b[i]; {
		case charClass[c]&(cName|cSpace) != 0 || c >= 0x80 || c == '=' || c == ':' || c == '/':
		default: // >, or a byte that can't be here
			return i, 0
		case c == '"' || c == '\'':
			// A value follows a name and an equals sign. Usually they are right before it.
			if b[i-1] != '=' || charClass[b[i-2]]&cName == 0 {
				k := unblank(b, i-1)
				if b[k] != '=' {
					return i, 0
				}
				if k = unblank(b, k-1); charClass[b[k]]&cName == 0 && b[k] < 0x80 {
					return i, 0
				}
			}
			q = c
		}
		i++
	}
	return i, q
}

// unblank returns the offset of the last byte up to i that is not white space, or 0.
func unblank(b []byte, i int) int {
	for i > 0 && charClass[b[i]]&cSpace != 0 {
		i--
	}
	return i
}

// inReference reports whether c can continue a reference. start is the two bytes after its ampersand. They
// tell the kind: "#x" begins hexadecimal digits, "#" and another byte decimal digits, anything else a name.
func inReference(start []byte, c byte) bool {
	switch {
	case start[0] != '#':
		return charClass[c]&cRef != 0 && c != '#'
	case start[1] != 'x':
		return c >= '0' && c <= '9'
	}
	return c >= '0' && c <= '9' || c|0x20 >= 'a' && c|0x20 <= 'f'
}
