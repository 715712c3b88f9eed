package jid

import (
	"unicode"
	"unicode/utf8"
)

// The parameters of Punycode for IDNA (RFC 3492 section 5).
const (
	punyBase  = 36
	punyTMin  = 1
	punyTMax  = 26
	punySkew  = 38
	punyDamp  = 700
	punyBias  = 72
	punyFirst = 128
)

// punyDecode decodes the part of an A-label after "xn--" (RFC 3492 section 6.2). in is lower-case
// ASCII of at most 59 bytes. The result has at least one character that is not ASCII. ok is false
// if in is not valid Punycode: it ends early, a sum overflows, or a code point is none.
//
//  1. The characters before the last hyphen are the ASCII characters of the label.
//  2. Each variable-length number after it says how far to advance: the code point n and the
//     position i.
//  3. n is inserted at i, and the bias adapts to the size of the number.
func punyDecode(in []byte) (utf []byte, ok bool) {
	var out []rune
	if i := lastHyphen(in); i >= 0 {
		for _, c := range in[:i] {
			out = append(out, rune(c))
		}
		in = in[i+1:]
	}
	if len(in) == 0 {
		return nil, false
	}
	n, i, bias := int32(punyFirst), int32(0), int32(punyBias)
	for p := 0; p < len(in); {
		old, w := i, int32(1)
		for k := int32(punyBase); ; k += punyBase {
			if p == len(in) {
				return nil, false
			}
			d, ok := punyDigit(in[p])
			p++
			if !ok || d > (maxDelta-i)/w {
				return nil, false
			}
			i += d * w
			t := punyThreshold(k, bias)
			if d < t {
				break
			}
			if w > maxDelta/(punyBase-t) {
				return nil, false
			}
			w *= punyBase - t
		}
		size := int32(len(out) + 1)
		bias = punyAdapt(i-old, size, old == 0)
		n += i / size
		i %= size
		if n > unicode.MaxRune || n >= 0xd800 && n < 0xe000 {
			return nil, false
		}
		out = append(out, 0)
		copy(out[i+1:], out[i:])
		out[i] = n
		i++
	}
	for _, r := range out {
		utf = utf8.AppendRune(utf, r)
	}
	return utf, true
}

// maxDelta bounds the decoder's sums, far below an overflow of int32: a label of 63 characters
// needs no more.
const maxDelta = 64 * (unicode.MaxRune + 1)

// punyEncode appends the part of u's A-label after "xn--" to dst (RFC 3492 section 6.3). u is valid
// UTF-8. ok is false if u has more characters than a label.
//
//  1. The ASCII characters of u come first, then a hyphen.
//  2. For each other code point, in ascending order, and each of its places, the distance to the
//     last place is written as a variable-length number.
func punyEncode(dst, u []byte) ([]byte, bool) {
	runes := []rune(string(u))
	if len(runes) > maxLabel {
		return dst, false
	}
	basic := int32(0)
	for _, r := range runes {
		if r < utf8.RuneSelf {
			dst = append(dst, byte(r))
			basic++
		}
	}
	if basic > 0 {
		dst = append(dst, '-')
	}
	n, delta, bias := int64(punyFirst), int64(0), int32(punyBias)
	for h := basic; int(h) < len(runes); {
		m := int64(unicode.MaxRune + 1)
		for _, r := range runes {
			if int64(r) >= n && int64(r) < m {
				m = int64(r)
			}
		}
		delta += (m - n) * int64(h+1)
		n = m
		for _, r := range runes {
			if int64(r) < n {
				delta++
			}
			if int64(r) != n {
				continue
			}
			q := delta
			for k := int32(punyBase); ; k += punyBase {
				t := int64(punyThreshold(k, bias))
				if q < t {
					break
				}
				dst = append(dst, punyChar(t+(q-t)%(punyBase-t)))
				q = (q - t) / (punyBase - t)
			}
			dst = append(dst, punyChar(q))
			bias = punyAdapt(int32(delta), h+1, h == basic)
			delta = 0
			h++
		}
		delta++
		n++
	}
	return dst, true
}

// punyThreshold returns the threshold t of a digit (RFC 3492 section 6.2).
func punyThreshold(k, bias int32) int32 {
	return min(max(k-bias, punyTMin), punyTMax)
}

// punyAdapt returns the bias after a number delta (RFC 3492 section 6.1).
func punyAdapt(delta, size int32, first bool) int32 {
	if first {
		delta /= punyDamp
	} else {
		delta /= 2
	}
	delta += delta / size
	k := int32(0)
	for delta > (punyBase-punyTMin)*punyTMax/2 {
		delta /= punyBase - punyTMin
		k += punyBase
	}
	return k + (punyBase-punyTMin+1)*delta/(delta+punySkew)
}

// punyDigit returns the value of a digit: a to z are 0 to 25, 0 to 9 are 26 to 35.
func punyDigit(c byte) (int32, bool) {
	switch {
	case c >= 'a' && c <= 'z':
		return int32(c - 'a'), true
	case c >= '0' && c <= '9':
		return int32(c-'0') + 26, true
	}
	return 0, false
}

// punyChar returns the digit with value d.
func punyChar(d int64) byte {
	if d < 26 {
		return byte('a' + d)
	}
	return byte('0' + d - 26)
}

func lastHyphen(b []byte) int {
	for i := len(b) - 1; i >= 0; i-- {
		if b[i] == '-' {
			return i
		}
	}
	return -1
}

// startsWithMark reports whether u begins with a combining mark.
func startsWithMark(u []byte) bool {
	r, _ := utf8.DecodeRune(u)
	return unicode.Is(unicode.M, r)
}
