package xmlstream

import (
	"bytes"
	"encoding/binary"
	"math/bits"
	"unicode/utf8"
)

// Classes of bytes.
const (
	cName  = 1 << iota // may go on a name
	cStart             // may begin a name
	cSpace             // white space
	cText              // plain in character data
	cValue             // plain in an attribute value
)

var class [256]uint8

func init() {
	for c := range 256 {
		b := byte(c)
		switch {
		case b >= 'a' && b <= 'z', b >= 'A' && b <= 'Z', b == '_', b == ':':
			class[c] |= cName | cStart
		case b >= '0' && b <= '9', b == '-', b == '.':
			class[c] |= cName
		case b == ' ', b == '\t', b == '\r', b == '\n':
			class[c] |= cSpace
		}
		if (b >= 0x20 || b == '\t' || b == '\n' || b == '\r') && b < 0x80 {
			if b != '<' && b != '&' && b != ']' {
				class[c] |= cText
			}
			if b != '<' && b != '&' {
				class[c] |= cValue
			}
		}
	}
}

const (
	lows  = 0x0101010101010101
	highs = 0x8080808080808080
)

// has reports, in the high bits, which bytes of w are less than n (n <= 128) or, xored, equal to
// something. The lowest bit set is exact.
func less(w uint64, n uint64) uint64 { return (w - lows*n) & ^w & highs }

// plain is how many bytes of b, from the first on, stand for themselves in character data: SWAR from
// eight on.
func plain(b []byte) int {
	i := 0
	for ; i+8 <= len(b); i += 8 {
		w := binary.LittleEndian.Uint64(b[i:])
		m := w&highs | less(w, 0x20) | less(w^lows*'<', 1) | less(w^lows*'&', 1) | less(w^lows*']', 1)
		if m != 0 {
			n := i + bits.TrailingZeros64(m)/8
			if class[b[n]]&cText != 0 { // a tab or line end
				for n < len(b) && class[b[n]]&cText != 0 {
					n++
				}
				if n-i < 8 {
					return n
				}
				i = n - 8
				continue
			}
			return n
		}
	}
	for i < len(b) && class[b[i]]&cText != 0 {
		i++
	}
	return i
}

// char checks the multi-byte character at b: its length, or a fault. A character that the buffer
// ends in is errMore.
func char(b []byte) (int, *fault) {
	if len(b) >= 2 && b[0] >= 0xC2 && b[0] < 0xE0 && b[1]&0xC0 == 0x80 {
		return 2, nil
	}
	r, n := utf8.DecodeRune(b)
	if r == utf8.RuneError && n <= 1 {
		if !utf8.FullRune(b) {
			return 0, errMore
		}
		return 0, errUTF8
	}
	if r == 0xFFFE || r == 0xFFFF {
		return 0, errChar
	}
	return n, nil
}

// text scans character data from b[i:] to the next '<' or the end of b: where it stopped, and whether
// there were references. It stops early, with errMore, in front of what the buffer cuts.
func text(b []byte, i int) (end int, refs bool, f *fault) {
	for {
		i += plain(b[i:])
		if i >= len(b) {
			return i, refs, errMore
		}
		switch c := b[i]; {
		case c == '<':
			return i, refs, nil
		case c == '&':
			n, f := reference(b[i:])
			if f != nil {
				return i, refs, f
			}
			refs = true
			i += n
		case c == ']':
			if len(b)-i < 3 {
				if len(b)-i == 1 || b[i+1] == ']' {
					return i, refs, errMore
				}
			} else if b[i+1] == ']' && b[i+2] == '>' {
				return i, refs, errCDEnd
			}
			i++
		case c < 0x20:
			return i, refs, errChar
		default:
			n, f := char(b[i:])
			if f != nil {
				return i, refs, f
			}
			i += n
		}
	}
}

// maxRef is the longest reference that is looked at: leading zeros are nobody's need.
const maxRef = 12

// reference checks the reference at b, which begins with '&': its length.
func reference(b []byte) (int, *fault) {
	end := bytes.IndexByte(b[:min(len(b), maxRef)], ';')
	if end < 0 {
		if len(b) >= maxRef {
			return 0, errRef
		}
		for _, c := range b[1:] {
			if class[c]&cName == 0 && c != '#' && c < 0x80 {
				return 0, errRef
			}
		}
		return 0, errMore
	}
	name := b[1:end]
	if len(name) > 0 && name[0] == '#' {
		if r := charRef(name[1:]); r < 0 {
			return 0, errRef
		}
		return end + 1, nil
	}
	if entity(name) != 0 {
		return end + 1, nil
	}
	if len(name) == 0 || class[name[0]]&cStart == 0 && name[0] < 0x80 {
		return 0, errRef
	}
	for _, c := range name {
		if class[c]&cName == 0 && c < 0x80 {
			return 0, errRef
		}
	}
	return 0, errEntity
}

// charRef is the character that "38" or "x26" stand for, -1 if that is none that XML allows.
func charRef(d []byte) rune {
	base, r := rune(10), rune(0)
	if len(d) > 0 && d[0] == 'x' {
		base, d = 16, d[1:]
	}
	if len(d) == 0 {
		return -1
	}
	for _, c := range d {
		v := rune(-1)
		switch {
		case c >= '0' && c <= '9':
			v = rune(c - '0')
		case base == 16 && c >= 'a' && c <= 'f':
			v = rune(c-'a') + 10
		case base == 16 && c >= 'A' && c <= 'F':
			v = rune(c-'A') + 10
		}
		if v < 0 {
			return -1
		}
		if r = r*base + v; r > utf8.MaxRune {
			return -1
		}
	}
	if r < 0x20 && r != '\t' && r != '\n' && r != '\r' || r >= 0xD800 && r < 0xE000 || r == 0xFFFE || r == 0xFFFF {
		return -1
	}
	return r
}

// entity is what a predefined entity stands for, 0 for any other name.
func entity(name []byte) byte {
	switch string(name) {
	case "amp":
		return '&'
	case "lt":
		return '<'
	case "gt":
		return '>'
	case "quot":
		return '"'
	case "apos":
		return '\''
	}
	return 0
}

// name scans a qualified name: its end, and the length of its prefix (0: none).
func name(b []byte, i int) (end, prefix int, f *fault) {
	start := i
	for i < len(b) {
		c := b[i]
		if class[c]&cName != 0 {
			if c == ':' {
				if prefix != 0 || i == start {
					return i, 0, errName
				}
				prefix = i - start
				if i+1 < len(b) && class[b[i+1]]&cStart == 0 && b[i+1] < 0x80 {
					return i, 0, errName
				}
			} else if i == start && class[c]&cStart == 0 {
				return i, 0, errName
			}
			i++
			continue
		}
		if c < 0x80 {
			break
		}
		r, n := utf8.DecodeRune(b[i:])
		if r == utf8.RuneError && n <= 1 {
			return i, 0, errUTF8
		}
		if !nameRune(r, i == start || prefix != 0 && i == start+prefix+1) {
			return i, 0, errName
		}
		i += n
	}
	if i == start || prefix != 0 && i == start+prefix+1 {
		return i, 0, errName
	}
	return i, prefix, nil
}

// nameRune holds the productions NameStartChar and NameChar of XML 1.0, fifth edition, above ASCII.
func nameRune(r rune, first bool) bool {
	switch {
	case r >= 0xC0 && r <= 0xD6, r >= 0xD8 && r <= 0xF6, r >= 0xF8 && r <= 0x2FF, r >= 0x370 && r <= 0x37D,
		r >= 0x37F && r <= 0x1FFF, r == 0x200C, r == 0x200D, r >= 0x2070 && r <= 0x218F, r >= 0x2C00 && r <= 0x2FEF,
		r >= 0x3001 && r <= 0xD7FF, r >= 0xF900 && r <= 0xFDCF, r >= 0xFDF0 && r <= 0xFFFD, r >= 0x10000 && r <= 0xEFFFF:
		return true
	}
	return !first && (r == 0xB7 || r >= 0x300 && r <= 0x36F || r == 0x203F || r == 0x2040)
}

// value checks an attribute value, and reports whether it holds references or white space that XML
// normalises: then what it means is not what is written.
func value(b []byte) (refs bool, at int, f *fault) {
	for i := 0; i < len(b); {
		c := b[i]
		switch {
		case class[c]&cValue != 0:
			if c < 0x20 {
				refs = true
			}
			i++
		case c == '&':
			n, f := reference(b[i:])
			if f == errMore {
				f = errRef
			}
			if f != nil {
				return refs, i, f
			}
			refs = true
			i += n
		case c == '<':
			return refs, i, errLess
		case c < 0x20:
			return refs, i, errChar
		default:
			n, f := char(b[i:])
			if f == errMore {
				f = errUTF8
			}
			if f != nil {
				return refs, i, f
			}
			i += n
		}
	}
	return refs, len(b), nil
}

// decodeText appends what character data b, already checked, means: references resolved, line ends
// normalised (XML 1.0 §2.11).
func decodeText(dst, b []byte) []byte {
	for i := 0; i < len(b); {
		j := bytes.IndexAny(b[i:], "&\r")
		if j < 0 {
			return append(dst, b[i:]...)
		}
		dst = append(dst, b[i:i+j]...)
		i += j
		if b[i] == '\r' {
			dst = append(dst, '\n')
			if i++; i < len(b) && b[i] == '\n' {
				i++
			}
			continue
		}
		dst, i = appendRef(dst, b, i)
	}
	return dst
}

// decodeValue appends what an attribute value means (XML 1.0 §3.3.3).
func decodeValue(dst, b []byte) []byte {
	for i := 0; i < len(b); {
		switch c := b[i]; c {
		case '&':
			dst, i = appendRef(dst, b, i)
		case '\r':
			dst = append(dst, ' ')
			if i++; i < len(b) && b[i] == '\n' {
				i++
			}
		case '\n', '\t':
			dst = append(dst, ' ')
			i++
		default:
			dst = append(dst, c)
			i++
		}
	}
	return dst
}

func appendRef(dst, b []byte, i int) ([]byte, int) {
	end := i + bytes.IndexByte(b[i:], ';')
	n := b[i+1 : end]
	if n[0] == '#' {
		return utf8.AppendRune(dst, charRef(n[1:])), end + 1
	}
	return append(dst, entity(n)), end + 1
}

// tagEnd looks for the '>' that ends the tag at b[0], from b[i] on, where the quote q is open (0:
// none). It returns the position behind it, or where to go on with which quote.
func tagEnd(b []byte, i int, q byte) (end int, quote byte, ok bool) {
	for i < len(b) {
		if q != 0 {
			j := bytes.IndexByte(b[i:], q)
			if j < 0 {
				return len(b), q, false
			}
			i += j + 1
			q = 0
			continue
		}
		switch c := b[i]; c {
		case '>':
			return i + 1, 0, true
		case '\'', '"':
			q = c
		}
		i++
	}
	return i, q, false
}
