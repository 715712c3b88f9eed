package jid

import (
	"unicode/utf8"

	"golang.org/x/text/secure/precis"
	"golang.org/x/text/unicode/norm"
)

// UnicodeVersion is the version of the Unicode tables that prepare addresses. A store keeps it: a
// later version may allow characters that were unassigned, and prepare names differently.
const UnicodeVersion = norm.Version

// Classes of ASCII bytes, for asciiClass.
const (
	okLocal = 1 << iota // may stand in a localpart as it is
	okRes               // may stand in a resourcepart
	okLabel             // may stand in a label as it is
	isUpper             // has a lower-case form
)

// asciiClass has the classes of every byte below utf8.RuneSelf. RFC 7622 section 3.3.1 excludes
// "&'/:<>@ and the space from localparts.
var asciiClass = func() (t [256]uint8) {
	for c := 0x20; c < 0x7f; c++ {
		t[c] |= okRes
		switch {
		case c >= 'A' && c <= 'Z':
			t[c] |= isUpper
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '-':
			t[c] |= okLocal | okLabel
		case c == '"', c == '&', c == '\'', c == '/', c == ':', c == '<', c == '>', c == '@', c == ' ':
		default:
			t[c] |= okLocal
		}
	}
	return t
}()

// appendLocal appends the prepared form of the localpart raw to b. raw has at most MaxPart bytes.
// ASCII is prepared byte by byte; anything else goes through PRECIS.
func appendLocal[T string | []byte](b []byte, raw T) ([]byte, error) {
	if len(raw) == 0 {
		return b, errLocalEmpty
	}
	for i := 0; i < len(raw); i++ {
		c := raw[i]
		switch t := asciiClass[c]; {
		case t&okLocal != 0:
			b = append(b, c)
		case t&isUpper != 0:
			b = append(b, c|0x20)
		case c >= utf8.RuneSelf:
			out, err := enforce(string(raw), precis.UsernameCaseMapped, okLocal, errLocalLong, errLocalChar,
				errLocalUnstable)
			return append(b[:len(b)-i], out...), err
		default:
			return b, errLocalChar
		}
	}
	return b, nil
}

// appendResource appends the prepared form of the resourcepart raw to b. raw has at most MaxPart
// bytes.
func appendResource[T string | []byte](b []byte, raw T) ([]byte, error) {
	if len(raw) == 0 {
		return b, errResEmpty
	}
	for i := 0; i < len(raw); i++ {
		c := raw[i]
		switch {
		case asciiClass[c]&okRes != 0:
			b = append(b, c)
		case c >= utf8.RuneSelf:
			out, err := enforce(string(raw), precis.OpaqueString, okRes, errResLong, errResChar, errResUnstable)
			return append(b[:len(b)-i], out...), err
		default:
			return b, errResChar
		}
	}
	return b, nil
}

// enforce prepares raw by the PRECIS profile p (RFC 8264, "enforcement"). raw has characters that
// are not ASCII. The result must be a fixed point of p, and its ASCII bytes of class ok: width
// mapping makes '@' and '/' of other characters. long, char and unstable are the errors of the
// part.
//
// It takes no buffer of the caller: the buffer would escape to the heap, for plain addresses, too.
func enforce(raw string, p *precis.Profile, ok uint8, long, char, unstable error) (string, error) {
	if !utf8.ValidString(raw) { // x/text relies on valid UTF-8
		return "", errUTF8
	}
	out, err := p.String(raw)
	if err != nil || out == "" {
		return "", char
	}
	if len(out) > MaxPart {
		return "", long
	}
	for i := 0; i < len(out); i++ {
		if c := out[i]; c < utf8.RuneSelf && asciiClass[c]&ok == 0 {
			return "", char
		}
	}
	if again, err := p.String(out); err != nil || again != out {
		return "", unstable
	}
	return out, nil
}
