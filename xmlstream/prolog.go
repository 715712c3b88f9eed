package xmlstream

import (
	"bytes"
	"unicode/utf8"
)

// prolog scans what may be before the root element's start tag: a byte order mark, white space and one
// XML declaration (RFC 6120 sections 11.5 and 11.6). It returns statusDone with t.pos at the < of the
// start tag, and statusMore or statusBad as scan does. White space is allowed before the declaration:
// after a restart of the stream, it may still belong to the stream before. The steps:
//
//  1. At the first byte: refuse UTF-16, skip the byte order mark of UTF-8.
//  2. In state inDecl, search the > of the XML declaration, from where the last search stopped; check it.
//  3. Skip white space, and refuse text.
//  4. At a <: it begins an XML declaration (go to 2), another processing instruction (an error), or the start
//     tag.
func (t *tree) prolog(final bool) status {
	const bom = "\xEF\xBB\xBF"
	b := t.buf
	if t.pos == 0 && !t.decl {
		if len(b) > 0 && b[0] >= 0xFE { // never in UTF-8
			return t.fail(0, UnsupportedEncoding, "byte order mark of UTF-16")
		}
		if k := min(len(b), len(bom)); string(b[:k]) == bom[:k] {
			if k < len(bom) {
				return statusMore
			}
			t.pos = k
		}
	}
	for {
		if t.state == inDecl {
			k := bytes.IndexByte(b[t.searched:], '>')
			if k < 0 {
				t.bytesScanned += len(b) - t.searched
				t.searched = len(b)
				return statusMore
			}
			t.bytesScanned += k
			if st := t.declaration(b[t.pos : t.searched+k+1]); st != statusDone {
				return st
			}
			t.pos, t.state, t.decl = t.searched+k+1, inProlog, true
		}
		i := t.pos
		for i < len(b) && charClass[b[i]]&cSpace != 0 {
			i++
		}
		t.bytesScanned += i - t.pos
		t.pos = i
		if i == len(b) {
			return statusMore
		}
		if b[i] != '<' {
			// Only this character decides: the bytes after it may not have come.
			if r, n := utf8.DecodeRune(b[i:]); r == utf8.RuneError && n <= 1 {
				if !utf8.FullRune(b[i:]) && !final {
					return statusMore
				}
				return t.fail(i, UnsupportedEncoding, "bytes that are not UTF-8")
			}
			return t.fail(i, NotWellFormed, "text in front of the stream header")
		}
		const open = "<?xml"
		k := min(len(b)-i, len(open))
		if string(b[i:i+k]) != open[:k] {
			t.state = atTag
			return statusDone
		}
		if k < len(open) || i+k == len(b) {
			return statusMore
		}
		if charClass[b[i+k]]&cSpace == 0 || t.decl {
			return t.fail(i, RestrictedXML, "processing instruction or second XML declaration")
		}
		t.state, t.searched = inDecl, i+k
	}
}

// declaration checks the XML declaration d (XML 1.0 section 2.8), from "<?" to ">". Its steps: check the
// closing "?>", then read one pseudo-attribute after the other: version 1.0, then an encoding, which must be
// UTF-8, then standalone; the last two may be missing. step is the number of the last one that it has read.
// It returns statusDone, or the status of the error: UnsupportedEncoding for another encoding, else
// NotWellFormed.
func (t *tree) declaration(d []byte) status {
	if len(d) < 2 || d[len(d)-2] != '?' {
		return t.fail(t.pos, NotWellFormed, "broken XML declaration")
	}
	d = d[len("<?xml") : len(d)-2]
	for step := 0; ; {
		n := 0
		for n < len(d) && charClass[d[n]]&cSpace != 0 {
			n++
		}
		d = d[n:]
		if len(d) == 0 {
			if step == 0 {
				break
			}
			return statusDone
		}
		eq := bytes.IndexByte(d, '=')
		if n == 0 || eq < 0 {
			break
		}
		name := bytes.TrimRight(d[:eq], " \t\r\n")
		d = bytes.TrimLeft(d[eq+1:], " \t\r\n")
		if len(d) == 0 || d[0] != '\'' && d[0] != '"' {
			break
		}
		end := bytes.IndexByte(d[1:], d[0])
		if end < 0 {
			break
		}
		val := d[1 : 1+end]
		d = d[end+2:]
		switch {
		case string(name) == "version" && step == 0:
			if string(val) != "1.0" {
				return t.fail(t.pos, NotWellFormed, "XML version other than 1.0")
			}
			step = 1
			continue
		case string(name) == "encoding" && step == 1:
			if !bytes.EqualFold(val, []byte("UTF-8")) {
				return t.fail(t.pos, UnsupportedEncoding, "encoding other than UTF-8")
			}
			step = 2
			continue
		case string(name) == "standalone" && step >= 1 && step < 3 && (string(val) == "yes" || string(val) == "no"):
			step = 3
			continue
		}
		break
	}
	return t.fail(t.pos, NotWellFormed, "broken XML declaration")
}

// closeRoot scans the end tag of the root element, whose name is t.root.rootName. Its results are those
// of scan. As scan does, it holds an error back until the end of the tag has come, unless final is set.
// The steps: in state inTag, search the end of the tag first; compare the name; if it is another, search
// the end and fail.
func (t *tree) closeRoot(final bool) status {
	b := t.buf
	if t.state == inTag {
		j, q := tagEnd(b, t.searched, t.quote)
		t.bytesScanned += j - t.searched
		if j == len(b) && !final {
			t.searched, t.quote = j, q
			return statusMore
		}
	}
	t.pos = 0
	name := t.root.rootName
	k := min(len(b)-2, len(name))
	i := 2 + k
	if string(b[2:i]) == string(name[:k]) {
		for i < len(b) && charClass[b[i]]&cSpace != 0 {
			i++
		}
		t.bytesScanned += i
		if i == len(b) {
			t.state, t.searched, t.quote = inTag, i, 0
			return statusMore
		}
		if k == len(name) && k > 0 && b[i] == '>' {
			t.pos, t.state = i+1, complete
			return statusDone
		}
	}
	if j, q := tagEnd(b, 1, 0); j == len(b) && !final {
		t.state, t.searched, t.quote = inTag, j, q
		return statusMore
	}
	return t.fail(0, NotWellFormed, "end tag without a start tag")
}
