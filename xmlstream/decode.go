package xmlstream

import (
	"bytes"
	"unicode/utf8"
)

// decode appends to dst what the bytes raw mean, and returns the longer slice. raw was scanned and is
// well-formed, so there are no errors. It resolves references, normalises line ends (XML 1.0 section
// 2.11) and unwraps CDATA sections; with value set, raw is an attribute value, and white space becomes
// spaces (section
// 3.3.3).
func decode(dst, raw []byte, value bool) []byte {
	for i := 0; i < len(raw); {
		c := raw[i]
		switch {
		case c == '&':
			r, end, _, _ := scanReference(raw, i)
			dst = utf8.AppendRune(dst, r)
			i = end
			continue
		case c == '\r':
			if i+1 < len(raw) && raw[i+1] == '\n' {
				i++
			}
			c = '\n'
		case c == '<':
			i += len("<![CDATA[")
			for ; raw[i] != ']' || raw[i+1] != ']' || raw[i+2] != '>'; i++ {
				if raw[i] != '\r' {
					dst = append(dst, raw[i])
				} else if raw[i+1] != '\n' {
					dst = append(dst, '\n')
				}
			}
			i += len("]]>")
			continue
		}
		if value && (c == '\n' || c == '\t') {
			c = ' '
		}
		dst = append(dst, c)
		i++
	}
	return dst
}

// reencode appends what the bytes raw mean, escaped again: it is decode and escape in one, without memory
// between them. raw was scanned; value says that it is an attribute value. The steps: copy up to the next
// byte that does not stand for itself, escaped; then resolve that reference, unwrap that CDATA section,
// or normalise that white space.
func reencode(dst, raw []byte, value bool) []byte {
	for i := 0; i < len(raw); {
		j := i
		for j < len(raw) && raw[j] != '&' && raw[j] != '<' && raw[j] != '\r' &&
			!(value && (raw[j] == '\n' || raw[j] == '\t')) {
			j++
		}
		if j > i {
			dst = escape(dst, raw[i:j], value)
			i = j
			continue
		}
		switch raw[i] {
		case '&':
			var b [utf8.UTFMax]byte
			r, end, _, _ := scanReference(raw, i)
			dst = escape(dst, b[:utf8.EncodeRune(b[:], r)], value)
			i = end
		case '<':
			i += len("<![CDATA[")
			for end := i + bytes.Index(raw[i:], []byte("]]>")); ; {
				k := bytes.IndexByte(raw[i:end], '\r')
				if k < 0 {
					dst = escape(dst, raw[i:end], value)
					i = end + len("]]>")
					break
				}
				dst = escape(dst, raw[i:i+k], value)
				if i += k + 1; raw[i] != '\n' {
					dst = append(dst, '\n')
				}
			}
		default:
			if raw[i] == '\r' && i+1 < len(raw) && raw[i+1] == '\n' {
				i++
			}
			c := byte('\n')
			if value {
				c = ' '
			}
			dst = append(dst, c)
			i++
		}
	}
	return dst
}
