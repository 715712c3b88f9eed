package xmlstream

import (
	"encoding/binary"
	"math/bits"
	"unicode/utf8"
)

// What a byte may do, for the scanner's inner loops. Bytes from 0x80 on have no class: they go through
// the UTF-8 check.
const (
	cName  = 1 << iota // in a name; the colon is not
	cStart             // first in a name
	cSpace             // space, tab, line feed, carriage return
	cText              // stands for itself in character data
	cAttr              // stands for itself in an attribute value, between quotes of both kinds
	cRef               // in a reference, after the ampersand
)

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

const (
	lowBytes = 0x0101010101010101
	highBits = 0x8080808080808080
)

// The masks below have the high bit of each byte set that ends a run: exact for the lowest such byte,
// which is the only one that is used (a borrow may set bits above it).

func maskText(v uint64) uint64 {
	lt, am, gt := v^lowBytes*'<', v^lowBytes*'&', v^lowBytes*'>'
	return ((lt - lowBytes) | (am - lowBytes) | (gt - lowBytes) | (v - lowBytes*0x20) | v) & highBits
}

func maskAttr(v, quote uint64) uint64 {
	lt, am, q := v^lowBytes*'<', v^lowBytes*'&', v^quote
	return ((lt - lowBytes) | (am - lowBytes) | (q - lowBytes) | (v - lowBytes*0x20) | v) & highBits
}

// maskEscape is for what is written: both quotes, and both of < and >, each pair in one comparison.
func maskEscape(v uint64) uint64 {
	am, lt, qu := (v|lowBytes)^lowBytes*'\'', (v|lowBytes*2)^lowBytes*'>', v^lowBytes*'"'
	return ((am - lowBytes) | (lt - lowBytes) | (qu - lowBytes) | (v - lowBytes*0x20) | v) & highBits
}

// plainText returns the index of the first byte from i on that is not plain character data, or len(b).
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

// plainAttr is plainText for a value between the quotes q.
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

// A status is what a scan of bytes came to.
type status uint8

const (
	statusMore status = iota // the bytes end too early
	statusDone
	statusBad
	statusBadUTF8
)

// checkRunes checks characters outside ASCII from i on, and passes plain ones between them whose class is in
// plain. It returns where it stopped: done at a byte for the caller to look at.
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

// isChar reports whether XML 1.0 knows r (production Char).
func isChar(r rune) bool {
	return r >= 0x20 && r < 0xD800 || r == '\t' || r == '\n' || r == '\r' || r >= 0xE000 && r < 0xFFFE ||
		r >= 0x10000 && r <= 0x10FFFF
}

// isNameStart and isNameChar are the productions of XML 1.0 (5th edition) without the colon (Namespaces
// in XML 1.0 §3).
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

func isNameChar(r rune) bool {
	if r < 0x80 {
		return r >= 0 && charClass[r]&cName != 0
	}
	return isNameStart(r) || r == 0xB7 || r >= 0x300 && r < 0x370 || r == 0x203F || r == 0x2040
}

func isNCName(s string) bool {
	for i, r := range s {
		if i == 0 && !isNameStart(r) || !isNameChar(r) {
			return false
		}
	}
	return s != "" && utf8.ValidString(s)
}

// scanQName scans a name with an optional prefix from i on. It returns its end, the length of the prefix,
// and, unless it is done, the offset that is wrong.
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

// predefinedEntity recognises the five entities that XML itself has (production 4.6), b behind the
// ampersand; n is the length with the semicolon, 0 if b is none of them or too short.
func predefinedEntity(b []byte) (r rune, n int) {
	if len(b) < 5 {
		return 0, 0 // the long way
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

// scanReference scans what begins with the ampersand at i. For done, end is behind the semicolon and r what
// it stands for. cond is the stream error that something bad is worth.
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
			return 0, 0, RestrictedXML, statusBad // nobody may declare one (RFC 6120 §11.1)
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
			r = utf8.MaxRune + 1 // and stays over it
		}
	}
	return 0, 0, "", statusMore
}
