package xmlstream

import (
	"bytes"
	"unicode/utf8"
)

// prolog scans what may stand in front of the root element's start tag: a byte order mark, blanks and one
// XML declaration (RFC 6120 §11.5, §11.6). Blanks in front of the declaration are let pass, as after a
// restart they still belong to the stream before.
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
			// one character: the next may not have come
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

// declaration checks the XML declaration d (XML 1.0 §2.8): version 1.0, encoding UTF-8 if it is named.
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

// closeRoot scans the end tag of the root element.
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
