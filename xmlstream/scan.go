package xmlstream

import "unicode/utf8"

// scan is the tokenizer: it goes on with the element in t.buf from where it stopped, fills t in place,
// and returns done with t.i behind the element (or, for a header, behind the start tag of the root), bad
// with t.err, or more.
//
// It is a single pass with one exception, which keeps the work linear when bytes come singly: a tag is
// taken as a whole. When its end has not come, only that is searched for, from where the last search
// ended, and then the tag is parsed once more from its start. So that the outcome is the same for every
// cut of the input, what is wrong in a tag is reported when its end is there, or with final, which says
// that no more bytes will be looked at.
func (t *tree) scan(lim *Limits, final bool) status {
	st := t.step(lim, final)
	if st == statusBad && t.state == atTag && !final && t.buf[t.pos+1] != '!' && t.buf[t.pos+1] != '?' {
		j, q := tagEnd(t.buf, t.pos+1, 0)
		if j < len(t.buf) {
			return statusBad
		}
		nattr := 0
		if n := len(t.nodes); n > 0 {
			nattr = int(t.nodes[n-1].attr0) + int(t.nodes[n-1].nattr)
		}
		t.attrs = t.attrs[:nattr]
		for n := len(t.nsDecls); n > 0 && int(t.nsDecls[n-1].owner) >= len(t.nodes); n-- {
			t.nsDecls = t.nsDecls[:n-1]
		}
		t.err, t.state, t.searched, t.quote = nil, inTag, j, q
		return statusMore
	}
	return st
}

func (t *tree) step(lim *Limits, final bool) status {
	var (
		buf        = t.buf
		n          = len(buf)
		i          = t.pos
		j, s, e    int
		attr0      int
		plen, npfx int
		bind0      int
		scope, ns  uint16
		id         uint32
		st         status
		c, q       byte
		cond       string
		blank, ok  bool
		empty      bool
		nf         uint8
		kind       uint16
		nd         *node
		a          *attr
	)
	switch t.state {
	case inTag:
		if n-t.searched >= t.searched-i {
			goto tag // as much is new as was there: likely its end is, too, and if not the work stays linear
		}
		j, q = tagEnd(buf, t.searched, t.quote)
		t.bytesScanned += j - t.searched
		if j == n && !final {
			t.searched, t.quote = j, q
			return statusMore
		}
	case inRef:
		j = t.searched
		if j-i > len("&#x") {
			for j < n && inReference(buf[i+1:i+3], buf[j]) {
				j++
			}
			t.bytesScanned += j - t.searched
			if j == n && !final {
				t.searched = j
				return statusMore
			}
		}
		goto text
	case inCDATA:
		goto cdata
	case inText:
		goto text
	}
	goto tag

text:
	if uint(i) < uint(len(buf)) && buf[i] == '<' {
		goto tag
	}
	s = i
	for {
		i = plainText(buf, i)
		if i >= n {
			t.pos, t.state = i, inText
			t.bytesScanned += i - s
			return statusMore
		}
		c = buf[i]
		if c == '<' {
			t.bytesScanned += i - s
			goto tag
		}
		switch {
		case c == '&':
			_, j, cond, st = scanReference(buf, i)
			if st == statusBad {
				return t.fail(i, cond, "bad reference")
			}
			if st == statusMore {
				t.pos, t.state, t.searched = i, inRef, n
				t.bytesScanned += n - s
				return statusMore
			}
			t.nodes[t.openNode].nflags |= nNeedsDecode
			i = j
		case c == '>':
			if buf[i-1] == ']' && buf[i-2] == ']' {
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
				t.bytesScanned += i - s
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
	s = i
	for {
		for i < n && (charClass[buf[i]]&cText != 0 || buf[i] == '<' || buf[i] == '&' || buf[i] == '\r') {
			i++ // a carriage return is dealt with by the decoder
		}
		if i < n && buf[i] == '>' {
			i++
			if buf[i-2] == ']' && buf[i-3] == ']' && i-3 >= t.searched {
				t.bytesScanned += i - s
				goto text
			}
			continue
		}
		if i < n && buf[i] >= 0x80 {
			if i, st = checkRunes(buf, i, 0); st == statusDone {
				continue
			}
			if st != statusMore {
				return t.failByte(i, st, "illegal character")
			}
		} else if i < n {
			return t.fail(i, NotWellFormed, "illegal character")
		}
		t.pos, t.state = i, inCDATA
		t.bytesScanned += i - s
		return statusMore
	}

tag: // buf[i] is a <
	t.state = atTag
	t.pos = i
	if i+1 >= n {
		return statusMore
	}
	switch c = buf[i+1]; c {
	case '/':
		goto endTag
	case '?':
		return t.fail(i, RestrictedXML, "processing instruction")
	case '!':
		const open = "<![CDATA["
		if i+2 >= n {
			return statusMore
		}
		if c = buf[i+2]; c == '-' || c|0x20 >= 'a' && c|0x20 <= 'z' {
			return t.fail(i, RestrictedXML, "comment or document type declaration")
		}
		j = min(n-i, len(open))
		if string(buf[i:i+j]) != open[:j] || t.header {
			return t.fail(i, NotWellFormed, "neither a tag nor a CDATA section")
		}
		if j < len(open) {
			return statusMore
		}
		if t.depth == 0 { // well-formed, but text
			return t.fail(i, BadFormat, "CDATA section between stanzas")
		}
		t.nodes[t.openNode].nflags |= nNeedsDecode | nNotVerbatim
		t.flags |= fNotVerbatim
		i += j
		t.bytesScanned += j
		t.searched = i
		goto cdata
	}

	// A start tag.
	attr0, bind0 = len(t.attrs), len(t.nsDecls)
	s = i + 1
	j = s
	plen = 0
	if charClass[c]&cStart != 0 {
		for j++; uint(j) < uint(len(buf)) && charClass[buf[j]]&cName != 0; j++ {
		}
	}
	if j == n {
		goto tagMore
	}
	if c = buf[j]; j == s || c == ':' || c >= 0x80 {
		j, plen, st = scanQName(buf, s)
		if st == statusMore {
			goto tagMore
		}
		if st != statusDone {
			return t.failByte(j, st, "illegal name of an element")
		}
	}
	if j-s > lim.NameBytes {
		return t.fail(s, PolicyViolation, "name too long")
	}
	e = j
	if t.depth >= lim.Depth {
		return t.fail(i, PolicyViolation, "elements nested too deep")
	}
	if len(t.nodes) >= lim.Nodes {
		return t.fail(i, PolicyViolation, "too many elements")
	}
	id = uint32(len(t.nodes))
	scope = 0
	if t.depth > 0 {
		scope = t.nodes[t.openNode].scope
	}
	nf, npfx, empty = 0, 0, false
	for {
		blank = false
		for {
			if uint(j) >= uint(len(buf)) {
				goto tagMore
			}
			if c = buf[j]; charClass[c]&cSpace == 0 {
				break
			}
			j++
			blank = true
		}
		if c == '>' {
			j++
			break
		}
		if c == '/' {
			if j+1 >= n {
				goto tagMore
			}
			if buf[j+1] != '>' {
				return t.fail(j, NotWellFormed, "broken tag")
			}
			j += 2
			empty = true
			break
		}
		if !blank {
			return t.failByteAt(j, "broken tag")
		}
		// An attribute.
		s, kind = j, 0
		if charClass[c]&cStart != 0 {
			for j++; uint(j) < uint(len(buf)) && charClass[buf[j]]&cName != 0; j++ {
			}
		}
		if j == n {
			goto tagMore
		}
		if c = buf[j]; j == s || c == ':' || c >= 0x80 {
			var p int
			j, p, st = scanQName(buf, s)
			if st == statusMore {
				goto tagMore
			}
			if st != statusDone {
				return t.failByte(j, st, "illegal name of an attribute")
			}
			kind = uint16(p)
			c = buf[j]
		}
		if j-s > lim.NameBytes {
			return t.fail(s, PolicyViolation, "name too long")
		}
		if len(t.attrs)-attr0 >= lim.Attrs || len(t.attrs) >= lim.StanzaAttrs {
			return t.fail(s, PolicyViolation, "too many attributes")
		}
		t.attrs = append(t.attrs, attr{})
		a = &t.attrs[len(t.attrs)-1]
		a.name, a.qnameLen = uint32(s), uint16(j-s)
		if c != '=' {
			for j < n && charClass[buf[j]]&cSpace != 0 {
				j++
			}
			if j >= n {
				goto tagMore
			}
			if buf[j] != '=' {
				return t.failByteAt(j, "attribute without a value")
			}
		}
		if j++; uint(j) >= uint(len(buf)) {
			goto tagMore
		}
		if q = buf[j]; q != '\'' && q != '"' {
			for j < n && charClass[buf[j]]&cSpace != 0 {
				j++
			}
			if j >= n {
				goto tagMore
			}
			q = buf[j]
			if q != '"' && q != '\'' {
				return t.failByteAt(j, "attribute value without quotes")
			}
		}
		j++
		a.val = uint32(j)
		for {
			j = plainAttr(buf, j, q)
			if j >= n {
				goto valueMore
			}
			c = buf[j]
			if c == q {
				break
			}
			switch {
			case c == '"' || c == '\'':
				j++
			case c == '&':
				_, e2, cond, st := scanReference(buf, j)
				if st == statusBad {
					return t.fail(j, cond, "bad reference")
				}
				if st == statusMore {
					goto valueMore
				}
				kind |= aNeedsDecode
				j = e2
			case c >= 0x80:
				j, st = checkRunes(buf, j, cAttr)
				if st == statusMore {
					goto valueMore
				}
				if st != statusDone {
					return t.failByte(j, st, "illegal character")
				}
			case c == '\n' || c == '\t' || c == '\r':
				kind |= aNeedsDecode
				nf |= nNotVerbatim
				t.flags |= fNotVerbatim
				j++
			default:
				return t.fail(j, NotWellFormed, "illegal character in an attribute value")
			}
		}
		a.valLen = uint32(j) - a.val
		j++
		if plen := kind & aPrefixLenMask; plen == 0 && buf[s] != 'x' {
			// neither a declaration nor a prefix
		} else if a.qnameLen >= 5 && string(buf[s:s+5]) == "xmlns" && (a.qnameLen == 5 || plen == 5) {
			kind |= aDecl
			nf |= nDecls
			a.kind = kind
			if scope, st = t.declare(a, id, scope, lim); st != statusDone {
				return st
			}
		} else if plen != 0 {
			a.kind = kind
			npfx++
			if plen != 3 || string(buf[s:s+3]) != "xml" {
				nf |= nPrefix
			}
		}
		a.kind = kind
		if len(t.attrs)-attr0 > 1 && t.isDuplicate(attr0, buf[s:s+int(a.qnameLen)]) {
			return t.fail(s, NotWellFormed, "attribute given twice")
		}
	}
	t.bytesScanned += j - i

	// The tag is complete.
	switch {
	case plen != 0:
		if ns, ok = t.lookupPrefix(buf[i+1:i+1+plen], scope); !ok || string(buf[i+1:i+1+plen]) == "xmlns" {
			return t.fail(i+1, BadNamespacePrefix, "undeclared prefix of an element")
		}
		t.flags |= fElemPrefix
		if ns >= nsRoot && ns != nsXMLPrefix {
			t.flags |= fOuterPrefix
		}
	case scope != 0:
		ns = t.nsDecls[scope-1].def
	default:
		ns = nsOuter
	}
	if nf&nPrefix != 0 || npfx > 1 {
		if st = t.resolvePrefixes(attr0, scope); st != statusDone {
			return st
		}
	}
	if !t.header && t.isStreams(ns) {
		// What belongs to the stream itself never stands in a stanza (attack row X06), and a stream has one
		// header (K09).
		if t.depth > 0 {
			return t.fail(i, PolicyViolation, "stream-level element inside a stanza")
		}
		if string(buf[i+1+plen+min(plen, 1):e]) == "stream" {
			return t.fail(i, InvalidXML, "second stream header")
		}
	}
	t.nodes = append(t.nodes, node{})
	nd = &t.nodes[id]
	nd.start, nd.body, nd.attr0 = uint32(i), uint32(j), uint32(attr0)
	nd.qnameLen, nd.prefixLen, nd.ns, nd.scope = uint16(e-i-1), uint16(plen), ns, scope
	nd.nattr, nd.nflags = uint8(len(t.attrs)-attr0), nf
	if t.depth > 0 {
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
		nd.next = t.openNode
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

endTag:
	if t.depth == 0 {
		return t.fail(i, NotWellFormed, "end tag without a start tag")
	}
	nd = &t.nodes[t.openNode]
	j = i + 2 + int(nd.qnameLen)
	if j >= n {
		if string(buf[i+2:n]) != string(buf[nd.start+1:int(nd.start)+1+n-i-2]) {
			return t.fail(i, NotWellFormed, "end tag of another element")
		}
		t.bytesScanned += n - i
		t.state, t.searched, t.quote = inTag, n, 0
		return statusMore
	}
	if string(buf[i+2:j]) != string(buf[nd.start+1:nd.start+1+uint32(nd.qnameLen)]) {
		return t.fail(i, NotWellFormed, "end tag of another element")
	}
	if buf[j] != '>' {
		for j < n && charClass[buf[j]]&cSpace != 0 {
			j++
		}
		if j >= n {
			t.bytesScanned += n - i
			t.state, t.searched, t.quote = inTag, n, 0
			return statusMore
		}
		if buf[j] != '>' {
			return t.fail(i, NotWellFormed, "end tag of another element")
		}
	}
	t.bytesScanned += j + 1 - i
	nd.endTag = uint32(i)
	i = j + 1
	t.openNode, nd.next = nd.next, 0
	if t.depth--; t.depth == 0 {
		t.pos, t.state = i, complete
		return statusDone
	}
	goto text

tagMore:
	q = 0
valueMore: // inside the quotes q
	t.attrs, t.nsDecls = t.attrs[:attr0], t.nsDecls[:bind0]
	t.bytesScanned += n - i
	t.state, t.searched, t.quote = inTag, n, q // up to here there is no end
	return statusMore
}

// failByteAt is for a byte that stands where the grammar wants another: bad UTF-8 is said to be that.
func (t *tree) failByteAt(i int, msg string) status {
	if t.buf[i] >= 0x80 {
		if r, n := utf8.DecodeRune(t.buf[i:]); r == utf8.RuneError && n <= 1 {
			return t.fail(i, UnsupportedEncoding, "bytes that are not UTF-8")
		}
	}
	return t.fail(i, NotWellFormed, msg)
}

// tagEnd searches from i on for the > of a tag, in or out of the quotes q, or for what can't be in a tag:
// its index, or len(b) and the quotes that are open there.
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
		default: // > among them
			return i, 0
		case c == '"' || c == '\'':
			if b[i-1] != '=' || charClass[b[i-2]]&cName == 0 { // not the usual way to write it
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

// unblank goes back from i to what is not blank.
func unblank(b []byte, i int) int {
	for i > 0 && charClass[b[i]]&cSpace != 0 {
		i--
	}
	return i
}

// inReference reports whether c may go on a reference that begins with start, behind the ampersand.
func inReference(start []byte, c byte) bool {
	switch {
	case start[0] != '#':
		return charClass[c]&cRef != 0 && c != '#'
	case start[1] != 'x':
		return c >= '0' && c <= '9'
	}
	return c >= '0' && c <= '9' || c|0x20 >= 'a' && c|0x20 <= 'f'
}
