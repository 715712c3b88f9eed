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
	if st == bad && t.mode == atTag && !final && t.buf[t.i+1] != '!' && t.buf[t.i+1] != '?' {
		j, q := tagEnd(t.buf, t.i+1, 0)
		if j < len(t.buf) {
			return bad
		}
		nattr := 0
		if n := len(t.nodes); n > 0 {
			nattr = int(t.nodes[n-1].attr0) + int(t.nodes[n-1].nattr)
		}
		t.attrs = t.attrs[:nattr]
		for n := len(t.binds); n > 0 && int(t.binds[n-1].owner) >= len(t.nodes); n-- {
			t.binds = t.binds[:n-1]
		}
		t.err, t.mode, t.seen, t.quote = nil, inTag, j, q
		return more
	}
	return st
}

func (t *tree) step(lim *Limits, final bool) status {
	var (
		buf        = t.buf
		n          = len(buf)
		i          = t.i
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
	switch t.mode {
	case inTag:
		if n-t.seen >= t.seen-i {
			goto tag // as much is new as was there: likely its end is, too, and if not the work stays linear
		}
		j, q = tagEnd(buf, t.seen, t.quote)
		t.work += j - t.seen
		if j == n && !final {
			t.seen, t.quote = j, q
			return more
		}
	case inRef:
		j = t.seen
		if j-i > len("&#x") {
			for j < n && inReference(buf[i+1:i+3], buf[j]) {
				j++
			}
			t.work += j - t.seen
			if j == n && !final {
				t.seen = j
				return more
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
			t.i, t.mode = i, inText
			t.work += i - s
			return more
		}
		c = buf[i]
		if c == '<' {
			t.work += i - s
			goto tag
		}
		switch {
		case c == '&':
			_, j, cond, st = reference(buf, i)
			if st == bad {
				return t.fail(i, cond, "bad reference")
			}
			if st == more {
				t.i, t.mode, t.seen = i, inRef, n
				t.work += n - s
				return more
			}
			t.nodes[t.cur].nflags |= nCoded
			i = j
		case c == '>':
			if buf[i-1] == ']' && buf[i-2] == ']' {
				return t.fail(i-2, NotWellFormed, "]]> in character data")
			}
			i++
		case c == '\r':
			t.nodes[t.cur].nflags |= nCoded | nOdd
			t.flags |= fOdd
			i++
		case c >= 0x80:
			i, st = runes(buf, i, cText)
			if st == more {
				t.i, t.mode = i, inText
				t.work += i - s
				return more
			}
			if st != done {
				return t.failByte(i, st, "illegal character")
			}
		default:
			return t.fail(i, NotWellFormed, "illegal character")
		}
	}

cdata:
	s = i
	for {
		for i < n && (class[buf[i]]&cText != 0 || buf[i] == '<' || buf[i] == '&' || buf[i] == '\r') {
			i++ // a carriage return is dealt with by the decoder
		}
		if i < n && buf[i] == '>' {
			i++
			if buf[i-2] == ']' && buf[i-3] == ']' && i-3 >= t.seen {
				t.work += i - s
				goto text
			}
			continue
		}
		if i < n && buf[i] >= 0x80 {
			if i, st = runes(buf, i, 0); st == done {
				continue
			}
			if st != more {
				return t.failByte(i, st, "illegal character")
			}
		} else if i < n {
			return t.fail(i, NotWellFormed, "illegal character")
		}
		t.i, t.mode = i, inCDATA
		t.work += i - s
		return more
	}

tag: // buf[i] is a <
	t.mode = atTag
	t.i = i
	if i+1 >= n {
		return more
	}
	switch c = buf[i+1]; c {
	case '/':
		goto endTag
	case '?':
		return t.fail(i, RestrictedXML, "processing instruction")
	case '!':
		const open = "<![CDATA["
		if i+2 >= n {
			return more
		}
		if c = buf[i+2]; c == '-' || c|0x20 >= 'a' && c|0x20 <= 'z' {
			return t.fail(i, RestrictedXML, "comment or document type declaration")
		}
		j = min(n-i, len(open))
		if string(buf[i:i+j]) != open[:j] || t.header {
			return t.fail(i, NotWellFormed, "neither a tag nor a CDATA section")
		}
		if j < len(open) {
			return more
		}
		if t.depth == 0 { // well-formed, but text
			return t.fail(i, BadFormat, "CDATA section between stanzas")
		}
		t.nodes[t.cur].nflags |= nCoded | nOdd
		t.flags |= fOdd
		i += j
		t.work += j
		t.seen = i
		goto cdata
	}

	// A start tag.
	attr0, bind0 = len(t.attrs), len(t.binds)
	s = i + 1
	j = s
	plen = 0
	if class[c]&cStart != 0 {
		for j++; uint(j) < uint(len(buf)) && class[buf[j]]&cName != 0; j++ {
		}
	}
	if j == n {
		goto tagMore
	}
	if c = buf[j]; j == s || c == ':' || c >= 0x80 {
		j, plen, st = qname(buf, s)
		if st == more {
			goto tagMore
		}
		if st != done {
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
		scope = t.nodes[t.cur].scope
	}
	nf, npfx, empty = 0, 0, false
	for {
		blank = false
		for {
			if uint(j) >= uint(len(buf)) {
				goto tagMore
			}
			if c = buf[j]; class[c]&cBlank == 0 {
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
		if class[c]&cStart != 0 {
			for j++; uint(j) < uint(len(buf)) && class[buf[j]]&cName != 0; j++ {
			}
		}
		if j == n {
			goto tagMore
		}
		if c = buf[j]; j == s || c == ':' || c >= 0x80 {
			var p int
			j, p, st = qname(buf, s)
			if st == more {
				goto tagMore
			}
			if st != done {
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
		a.name, a.qlen = uint32(s), uint16(j-s)
		if c != '=' {
			for j < n && class[buf[j]]&cBlank != 0 {
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
			for j < n && class[buf[j]]&cBlank != 0 {
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
				_, e2, cond, st := reference(buf, j)
				if st == bad {
					return t.fail(j, cond, "bad reference")
				}
				if st == more {
					goto valueMore
				}
				kind |= aCoded
				j = e2
			case c >= 0x80:
				j, st = runes(buf, j, cAttr)
				if st == more {
					goto valueMore
				}
				if st != done {
					return t.failByte(j, st, "illegal character")
				}
			case c == '\n' || c == '\t' || c == '\r':
				kind |= aCoded
				nf |= nOdd
				t.flags |= fOdd
				j++
			default:
				return t.fail(j, NotWellFormed, "illegal character in an attribute value")
			}
		}
		a.vlen = uint32(j) - a.val
		j++
		if plen := kind & aPlen; plen == 0 && buf[s] != 'x' {
			// neither a declaration nor a prefix
		} else if a.qlen >= 5 && string(buf[s:s+5]) == "xmlns" && (a.qlen == 5 || plen == 5) {
			kind |= aDecl
			nf |= nDecls
			a.kind = kind
			if scope, st = t.declare(a, id, scope, lim); st != done {
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
		if len(t.attrs)-attr0 > 1 && t.repeated(attr0, buf[s:s+int(a.qlen)]) {
			return t.fail(s, NotWellFormed, "attribute given twice")
		}
	}
	t.work += j - i

	// The tag is complete.
	switch {
	case plen != 0:
		if ns, ok = t.find(buf[i+1:i+1+plen], scope); !ok || string(buf[i+1:i+1+plen]) == "xmlns" {
			return t.fail(i+1, BadNamespacePrefix, "undeclared prefix of an element")
		}
		t.flags |= fPref
		if ns >= nsRoot && ns != nsXMLID {
			t.flags |= fOuter
		}
	case scope != 0:
		ns = t.binds[scope-1].def
	default:
		ns = nsOuter
	}
	if nf&nPrefix != 0 || npfx > 1 {
		if st = t.prefixed(attr0, scope); st != done {
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
	nd.qlen, nd.plen, nd.ns, nd.scope = uint16(e-i-1), uint16(plen), ns, scope
	nd.nattr, nd.nflags = uint8(len(t.attrs)-attr0), nf
	if t.depth > 0 {
		p := &t.nodes[t.cur]
		if p.nflags&nKids != 0 {
			t.nodes[p.shut].next = id
		}
		p.nflags |= nKids
		p.shut = id
	}
	i = j
	if t.header {
		nd.shut = nd.body
		t.i, t.mode = i, complete
		if empty {
			t.mode |= selfClose
		}
		return done
	}
	if !empty {
		nd.next = t.cur
		t.cur = id
		t.depth++
		goto text
	}
	nd.shut = nd.body
	nd.nflags |= nEmpty
	if t.depth == 0 {
		t.i, t.mode = i, complete
		return done
	}
	goto text

endTag:
	if t.depth == 0 {
		return t.fail(i, NotWellFormed, "end tag without a start tag")
	}
	nd = &t.nodes[t.cur]
	j = i + 2 + int(nd.qlen)
	if j >= n {
		if string(buf[i+2:n]) != string(buf[nd.start+1:int(nd.start)+1+n-i-2]) {
			return t.fail(i, NotWellFormed, "end tag of another element")
		}
		t.work += n - i
		t.mode, t.seen, t.quote = inTag, n, 0
		return more
	}
	if string(buf[i+2:j]) != string(buf[nd.start+1:nd.start+1+uint32(nd.qlen)]) {
		return t.fail(i, NotWellFormed, "end tag of another element")
	}
	if buf[j] != '>' {
		for j < n && class[buf[j]]&cBlank != 0 {
			j++
		}
		if j >= n {
			t.work += n - i
			t.mode, t.seen, t.quote = inTag, n, 0
			return more
		}
		if buf[j] != '>' {
			return t.fail(i, NotWellFormed, "end tag of another element")
		}
	}
	t.work += j + 1 - i
	nd.shut = uint32(i)
	i = j + 1
	t.cur, nd.next = nd.next, 0
	if t.depth--; t.depth == 0 {
		t.i, t.mode = i, complete
		return done
	}
	goto text

tagMore:
	q = 0
valueMore: // inside the quotes q
	t.attrs, t.binds = t.attrs[:attr0], t.binds[:bind0]
	t.work += n - i
	t.mode, t.seen, t.quote = inTag, n, q // up to here there is no end
	return more
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
		case class[c]&(cName|cBlank) != 0 || c >= 0x80 || c == '=' || c == ':' || c == '/':
		default: // > among them
			return i, 0
		case c == '"' || c == '\'':
			if b[i-1] != '=' || class[b[i-2]]&cName == 0 { // not the usual way to write it
				k := unblank(b, i-1)
				if b[k] != '=' {
					return i, 0
				}
				if k = unblank(b, k-1); class[b[k]]&cName == 0 && b[k] < 0x80 {
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
	for i > 0 && class[b[i]]&cBlank != 0 {
		i--
	}
	return i
}

// inReference reports whether c may go on a reference that begins with start, behind the ampersand.
func inReference(start []byte, c byte) bool {
	switch {
	case start[0] != '#':
		return class[c]&cRef != 0 && c != '#'
	case start[1] != 'x':
		return c >= '0' && c <= '9'
	}
	return c >= '0' && c <= '9' || c|0x20 >= 'a' && c|0x20 <= 'f'
}
