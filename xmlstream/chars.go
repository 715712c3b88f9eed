package xmlstream

import (
	"encoding/binary"
	"math/bits"
	"unicode/utf8"
)

// The classes of a byte, for the inner loops of the scanner. A byte may be in several. Bytes from 0x80 on
// have no class but cRef: checkRunes and scanQName decode them.
const (
	cName  = 1 << iota // it may be in a name; the colon is left out
	cStart             // it may begin a name; the colon is left out
	cSpace             // white space (production S): space, tab, line feed, carriage return
	cText              // it stands for itself in character data; > may be the end of ]]>, and is not in it
	cAttr              // it stands for itself in an attribute value between any quotation marks
	cRef               // it may be in a reference, after the ampersand
)

// charClass holds the classes of each byte.
var charClass = func() (t [256]uint8) {
	for c := range t {
		b := byte(c)
		letter := b|0x20 >= 'a' && b|0x20 <= 'z'
		digit := b >= '0' && b <= '9'
		if letter || b == '_' {
			t[c] |= cName | cStart
		}
		if digit || b == '-' || b == '.' {
			t[c] |= cName
		}
		if letter || digit || b == '#' || b == '_' || b == '-' || b == '.' || b == ':' || b >= 0x80 {
			t[c] |= cRef
		}
		if b == ' ' || b == '\t' || b == '\n' || b == '\r' {
			t[c] |= cSpace
		}
		if b < 0x80 && (b >= 0x20 || b == '\t' || b == '\n') && b != '<' && b != '&' && b != '>' {
			t[c] |= cText
		}
		if b < 0x80 && b >= 0x20 && b != '<' && b != '&' && b != '"' && b != '\'' {
			t[c] |= cAttr
		}
	}
	return t
}()

// Eight bytes in a word are compared at once: v^lowBytes*c is 0 in each byte of v that is c. Subtracting
// 1 from each byte then sets the high bit there, and in bytes from 0x81 on, which end a run anyway.
const (
	lowBytes = 0x0101010101010101 // 1 in each byte
	highBits = 0x8080808080808080 // the high bit of each byte
)

// The masks below set the high bit of each byte that ends a run. Only the lowest marked byte is right,
// and only that is used: the subtraction may borrow from the bytes above it. The first byte of the input
// is the lowest, as words are read in little-endian order.

// maskText marks the bytes that end a run of plain character data: <, &, >, controls, and all outside ASCII.
func maskText(v uint64) uint64 {
	lt, am, gt := v^lowBytes*'<', v^lowBytes*'&', v^lowBytes*'>'
	return ((lt - lowBytes) | (am - lowBytes) | (gt - lowBytes) | (v - lowBytes*0x20) | v) & highBits
}

// maskAttr marks the bytes that end a run in an attribute value: <, &, controls, all outside ASCII, and the
// closing quotation mark, which quote has in each byte.
func maskAttr(v, quote uint64) uint64 {
	lt, am, q := v^lowBytes*'<', v^lowBytes*'&', v^quote
	return ((lt - lowBytes) | (am - lowBytes) | (q - lowBytes) | (v - lowBytes*0x20) | v) & highBits
}

// maskEscape marks the bytes that have to be escaped in what is written, and all outside ASCII. It finds
// & and ' with one comparison (they are 0x26 and 0x27), and < and > with another (0x3C and 0x3E), as
// setting the bit in which they differ makes them equal.
func maskEscape(v uint64) uint64 {
	am, lt, qu := (v|lowBytes)^lowBytes*'\'', (v|lowBytes*2)^lowBytes*'>', v^lowBytes*'"'
	return ((am - lowBytes) | (lt - lowBytes) | (qu - lowBytes) | (v - lowBytes*0x20) | v) & highBits
}

// plainText returns the offset of the first byte from i on that is not plain character data (cText), or
// len(b). It looks at eight bytes at a time. After 256 bytes it lets skipText continue, if the machine
// has that.
func plainText(b []byte, i int) int {
	for long := i + 256; i+8 <= len(b); {
		if m := maskText(binary.LittleEndian.Uint64(b[i:])); m != 0 {
			i += bits.TrailingZeros64(m) >> 3
			break
		}
		if i += 8; longText && i == long {
			i = skipText(b, i)
		}
	}
	for i < len(b) && charClass[b[i]]&cText != 0 {
		i++
	}
	return i
}

// plainAttr returns the offset of the first byte from i on that is not plain in an attribute value
// between the quotation marks q, or len(b). For the last bytes of b, fewer than eight, it also stops at
// the other kind of quotation mark, which the caller has to skip.
func plainAttr(b []byte, i int, q byte) int {
	qq := uint64(q) * lowBytes
	for i+8 <= len(b) {
		if m := maskAttr(binary.LittleEndian.Uint64(b[i:]), qq); m != 0 {
			return i + bits.TrailingZeros64(m)>>3
		}
		i += 8
	}
	for i < len(b) && charClass[b[i]]&cAttr != 0 {
		i++
	}
	return i
}

// A status is the result of a scan.
type status uint8

const (
	statusMore    status = iota // the bytes end too early
	statusDone                  // it is complete
	statusBad                   // it is wrong
	statusBadUTF8               // it has bytes that are not UTF-8
)

// checkRunes checks the UTF-8 from i on, where a character outside ASCII begins. It also passes the ASCII
// characters of the classes plain, so a text in another script takes one call. It returns where it stopped:
//
//   - statusDone: at an ASCII byte that is not plain, or at the end of b;
//   - statusMore: at a sequence whose last bytes have not come;
//   - statusBad: at a character that XML does not allow, U+FFFE or U+FFFF;
//   - statusBadUTF8: at bytes that are not UTF-8.
func checkRunes(b []byte, i int, plain uint8) (int, status) {
	for i < len(b) {
		c := b[i]
		if c < 0x80 {
			if charClass[c]&plain == 0 {
				return i, statusDone
			}
			i++
			continue
		}
		if c >= 0xC2 && c < 0xE0 && i+1 < len(b) && b[i+1]&0xC0 == 0x80 {
			i += 2
			continue
		}
		if c > 0xE0 && c < 0xED && i+2 < len(b) && b[i+1]&0xC0 == 0x80 && b[i+2]&0xC0 == 0x80 {
			i += 3 // U+1000 to U+CFFF: CJK, Hangul; no surrogates, no overlong forms
			continue
		}
		r, n := utf8.DecodeRune(b[i:])
		if r == utf8.RuneError && n <= 1 {
			if !utf8.FullRune(b[i:]) {
				return i, statusMore
			}
			return i, statusBadUTF8
		}
		if r == 0xFFFE || r == 0xFFFF {
			return i, statusBad
		}
		i += n
	}
	return i, statusDone
}

// isChar reports whether XML 1.0 allows the character r (production Char).
func isChar(r rune) bool {
	return r >= 0x20 && r < 0xD800 || r == '\t' || r == '\n' || r == '\r' || r >= 0xE000 && r < 0xFFFE ||
		r >= 0x10000 && r <= 0x10FFFF
}

// isNameStart reports whether r may begin a name: production NameStartChar of XML 1.0 (5th edition)
// without the colon, which Namespaces in XML gives a meaning of its own.
func isNameStart(r rune) bool {
	switch {
	case r < 0x80:
		return r >= 0 && charClass[r]&cStart != 0
	case r < 0x300:
		return r >= 0xC0 && r != 0xD7 && r != 0xF7
	}
	return r >= 0x370 && r != 0x37E && r < 0x2000 || r == 0x200C || r == 0x200D || r >= 0x2070 && r < 0x2190 ||
		r >= 0x2C00 && r < 0x2FF0 || r >= 0x3001 && r < 0xD800 || r >= 0xF900 && r < 0xFDD0 || r >= 0xFDF0 &&
		r < 0xFFFE || r >= 0x10000 && r < 0xF0000
}

// isNameChar reports whether r may be in a name (production NameChar), the colon left out.
func isNameChar(r rune) bool {
	if r < 0x80 {
		return r >= 0 && charClass[r]&cName != 0
	}
	return isNameStart(r) || r == 0xB7 || r >= 0x300 && r < 0x370 || r == 0x203F || r == 0x2040
}

// isNCName reports whether s is a name without a colon, as a local name or a prefix is.
func isNCName(s string) bool {
	for i, r := range s {
		if i == 0 && !isNameStart(r) || !isNameChar(r) {
			return false
		}
	}
	return s != "" && utf8.ValidString(s)
}

// scanQName scans a name with an optional prefix (production QName) from i on. For statusDone, end is the
// offset after it and prefix the length of the prefix, 0 if there is none. For statusBad and
// statusBadUTF8, end is the offset of the byte that is wrong. statusMore: b ends in the name, or right
// after it.
func scanQName(b []byte, i int) (end, prefix int, st status) {
	start, part := i, i
	for i < len(b) {
		c := b[i]
		switch {
		case c == ':':
			if prefix != 0 || i == part {
				return i, 0, statusBad
			}
			prefix = i - start
			i++
			part = i
			continue
		case c < 0x80:
			if charClass[c]&cName == 0 {
				if i == part {
					return i, 0, statusBad
				}
				return i, prefix, statusDone
			}
			if i == part && charClass[c]&cStart == 0 {
				return i, 0, statusBad
			}
			i++
			continue
		}
		r, n := utf8.DecodeRune(b[i:])
		if r == utf8.RuneError && n <= 1 {
			if !utf8.FullRune(b[i:]) {
				return i, 0, statusMore
			}
			return i, 0, statusBadUTF8
		}
		if i == part && !isNameStart(r) || !isNameChar(r) {
			return i, 0, statusBad
		}
		i += n
	}
	return i, 0, statusMore
}

// predefinedEntity recognises the five entities that XML predefines (section 4.6). b begins after the
// ampersand. It returns the character and the length with the semicolon; 0 if b is none of them, or
// shorter than five bytes: then scanReference compares the whole name.
func predefinedEntity(b []byte) (r rune, n int) {
	if len(b) < 5 {
		return 0, 0
	}
	switch b[0] {
	case 'l':
		if b[1] == 't' && b[2] == ';' {
			return '<', 3
		}
	case 'g':
		if b[1] == 't' && b[2] == ';' {
			return '>', 3
		}
	case 'a':
		if b[1] == 'm' && b[2] == 'p' && b[3] == ';' {
			return '&', 4
		}
		if b[1] == 'p' && b[2] == 'o' && b[3] == 's' && b[4] == ';' {
			return '\'', 5
		}
	case 'q':
		if b[1] == 'u' && b[2] == 'o' && b[3] == 't' && b[4] == ';' {
			return '"', 5
		}
	}
	return 0, 0
}

// scanReference scans the character or entity reference whose ampersand is at i. For statusDone, r is the
// character and end the offset after the semicolon. For statusBad, cond is the stream error:
// not-well-formed for what is no reference or names no character of XML, restricted-xml for another
// entity. statusMore: b ends in it.
func scanReference(b []byte, i int) (r rune, end int, cond string, st status) {
	j := i + 1
	if j >= len(b) {
		return 0, 0, "", statusMore
	}
	if b[j] != '#' {
		if r, n := predefinedEntity(b[j:]); n > 0 {
			return r, j + n, "", statusDone
		}
		if charClass[b[j]]&(cStart) == 0 && b[j] != ':' && b[j] < 0x80 {
			return 0, 0, NotWellFormed, statusBad
		}
		for j < len(b) && charClass[b[j]]&cRef != 0 && b[j] != '#' {
			j++
		}
		if j == len(b) {
			return 0, 0, "", statusMore
		}
		if b[j] != ';' {
			return 0, 0, NotWellFormed, statusBad
		}
		switch string(b[i+1 : j]) {
		case "lt":
			r = '<'
		case "gt":
			r = '>'
		case "amp":
			r = '&'
		case "apos":
			r = '\''
		case "quot":
			r = '"'
		default:
			return 0, 0, RestrictedXML, statusBad // a stream can't declare entities (RFC 6120 section 11.1)
		}
		return r, j + 1, "", statusDone
	}
	j++
	base := rune(10)
	if j < len(b) && b[j] == 'x' {
		base = 16
		j++
	}
	digits := j
	for ; j < len(b); j++ {
		c := b[j]
		var d rune
		switch {
		case c >= '0' && c <= '9':
			d = rune(c - '0')
		case base == 16 && c|0x20 >= 'a' && c|0x20 <= 'f':
			d = rune(c|0x20-'a') + 10
		case c == ';' && j > digits && isChar(r):
			return r, j + 1, "", statusDone
		default:
			return 0, 0, NotWellFormed, statusBad
		}
		if r = r*base + d; r > utf8.MaxRune {
			r = utf8.MaxRune + 1 // it stays over, and does not overflow
		}
	}
	return 0, 0, "", statusMore
}
