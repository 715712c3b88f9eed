package sasl

import (
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/bidi"
	"golang.org/x/text/unicode/norm"
)

// A codeRange is a range of code points, both ends included.
type codeRange struct{ from, to rune }

// inTable reports whether r is in one of the ranges.
func inTable(table []codeRange, r rune) bool {
	for _, c := range table {
		if r >= c.from && r <= c.to {
			return true
		}
	}
	return false
}

var (
	// mappedToNothing is RFC 3454, table B.1. U+200B is in table C.1.2, too, but it has no width, and has been
	// no space since Unicode 4.0.1.
	mappedToNothing = []codeRange{{0xAD, 0xAD}, {0x34F, 0x34F}, {0x1806, 0x1806}, {0x180B, 0x180D},
		{0x200B, 0x200D},
		{0x2060, 0x2060}, {0xFE00, 0xFE0F}, {0xFEFF, 0xFEFF}}

	// mappedToSpace is RFC 3454, table C.1.2: spaces that are not ASCII.
	mappedToSpace = []codeRange{{0xA0, 0xA0}, {0x1680, 0x1680}, {0x2000, 0x200A}, {0x202F, 0x202F},
		{0x205F, 0x205F},
		{0x3000, 0x3000}}

	// prohibited are the characters that RFC 4013 section 2.3 prohibits and that are not mapped: RFC 3454,
	// tables C.2.1, C.2.2, C.3 to C.9. saslPrep itself checks the last two code points of each plane.
	prohibited = []codeRange{{0x00, 0x1F}, {0x7F, 0x9F}, {0x340, 0x341}, {0x6DD, 0x6DD}, {0x70F, 0x70F},
		{0x180E, 0x180E}, {0x200C, 0x200F}, {0x2028, 0x202E}, {0x2060, 0x2063}, {0x206A, 0x206F}, {0x2FF0, 0x2FFB},
		{0xD800, 0xF8FF}, {0xFDD0, 0xFDEF}, {0xFEFF, 0xFEFF}, {0xFFF9, 0xFFFF}, {0x1D173, 0x1D17A},
		{0xE0001, 0xE0001}, {0xE0020, 0xE007F}, {0xF0000, 0x10FFFF}}
)

// saslPrep returns the SASLprep form (RFC 4013) of password, which is UTF-8; ok is false if
// SASLprep refuses it.
//
//  1. Map some characters to nothing, and non-ASCII spaces to a space.
//  2. Normalize (NFKC).
//  3. Refuse prohibited and unassigned characters.
//  4. Check the rule for right-to-left text (RFC 3454 section 6).
//
// Normalization and the unassigned code points are those of today's Unicode rather than of version
// 3.2 (RFC 4013 section 2.5), as clients do it so.
func saslPrep(password []byte) ([]byte, bool) {
	mapped := make([]byte, 0, len(password))
	for _, r := range string(password) {
		switch {
		case inTable(mappedToNothing, r):
		case inTable(mappedToSpace, r):
			mapped = append(mapped, ' ')
		default:
			mapped = utf8.AppendRune(mapped, r)
		}
	}
	b := norm.NFKC.Bytes(mapped)
	if len(b) == 0 {
		return nil, false
	}
	var left, right, firstRight, lastRight bool
	for i, r := range string(b) {
		if inTable(prohibited, r) || r&0xFFFE == 0xFFFE || unicode.Is(unicode.Cn, r) {
			return nil, false
		}
		p, _ := bidi.LookupRune(r)
		c := p.Class()
		lastRight = c == bidi.R || c == bidi.AL
		left, right = left || c == bidi.L, right || lastRight
		if i == 0 {
			firstRight = lastRight
		}
	}
	if right && (left || !firstRight || !lastRight) { // RFC 3454 section 6
		return nil, false
	}
	return b, true
}
