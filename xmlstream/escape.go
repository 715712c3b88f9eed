package xmlstream

import (
	"math/bits"
	"unicode/utf8"
)

// AppendText appends s to dst as character data, and returns the longer slice. It escapes markup, leaves
// out characters that XML does not allow, and writes U+FFFD for each byte that is not UTF-8. Any
// goroutine may call it.
func AppendText[S []byte | string](dst []byte, s S) []byte { return escape(dst, s, false) }

// AppendValue appends s to dst as an attribute value, which may stand between quotation marks of either
// kind. It does what AppendText does, and writes tabs, line feeds and carriage returns as references,
// which parsers preserve. Any goroutine may call it.
func AppendValue[S []byte | string](dst []byte, s S) []byte { return escape(dst, s, true) }

// EscapedLen returns how many bytes [AppendValue] writes for s. It is exact for valid UTF-8 of characters
// that XML allows. [AppendText] writes no more.
func EscapedLen[S []byte | string](s S) int {
	n := len(s)
	for i := range len(s) {
		switch s[i] {
		case '<', '>':
			n += len("&lt;") - 1
		case '&', '\n', '\t', '\r':
			n += len("&amp;") - 1
		case '\'', '"':
			n += len("&quot;") - 1
		}
	}
	return n
}

// escape is AppendValue if value is set, else AppendText. The steps: skip bytes that stand for
// themselves, eight at a time; at another byte, append the bytes from the last one up to it, and then its
// escape. Characters outside ASCII are checked and copied.
func escape[S []byte | string](dst []byte, s S, value bool) []byte {
	const plain = cAttr // in text, quotation marks are escaped, too: so one class is enough
	from := 0
	for i := 0; i < len(s); {
		for i+8 <= len(s) {
			t := s[i : i+8]
			m := maskEscape(uint64(t[0]) | uint64(t[1])<<8 | uint64(t[2])<<16 | uint64(t[3])<<24 |
				uint64(t[4])<<32 | uint64(t[5])<<40 | uint64(t[6])<<48 | uint64(t[7])<<56)
			if m != 0 {
				i += bits.TrailingZeros64(m) >> 3
				break
			}
			i += 8
		}
		if i == len(s) {
			break
		}
		c := s[i]
		if charClass[c]&plain != 0 && c != '>' {
			i++
			continue
		}
		if c >= 0x80 {
			r, n := decodeRune(s, i)
			if !(r == utf8.RuneError && n == 1) && r != 0xFFFE && r != 0xFFFF {
				i += n
				continue
			}
			dst = append(dst, s[from:i]...)
			dst = append(dst, "\uFFFD"...)
			i += n
			from = i
			continue
		}
		if !value && (c == '\n' || c == '\t') {
			i++
			continue
		}
		dst = append(dst, s[from:i]...)
		switch c {
		case '<':
			dst = append(dst, "&lt;"...)
		case '>':
			dst = append(dst, "&gt;"...)
		case '&':
			dst = append(dst, "&amp;"...)
		case '\'':
			dst = append(dst, "&apos;"...)
		case '"':
			dst = append(dst, "&quot;"...)
		case '\n':
			dst = append(dst, "&#xA;"...)
		case '\t':
			dst = append(dst, "&#x9;"...)
		case '\r':
			dst = append(dst, "&#xD;"...)
		}
		i++
		from = i
	}
	return append(dst, s[from:]...)
}

// decodeRune is utf8.DecodeRune at offset i, for strings and byte slices.
func decodeRune[S []byte | string](s S, i int) (rune, int) {
	var b [utf8.UTFMax]byte
	return utf8.DecodeRune(b[:copy(b[:], s[i:])])
}
