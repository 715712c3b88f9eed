package sasl

import (
	"encoding/base64"
	"io"
	"strings"
)

// nonceBytes is how many random bytes make a nonce. 18 bytes are 24 characters of base64, without
// padding.
const nonceBytes = 18

// maxNonce is the longest nonce of a peer that is accepted, in bytes.
const maxNonce = 256

// newNonce returns a nonce of random bytes. The error is rand's.
func newNonce(rand io.Reader) (string, error) {
	var b [nonceBytes]byte
	if _, err := io.ReadFull(rand, b[:]); err != nil {
		return "", err
	}
	return base64.StdEncoding.EncodeToString(b[:]), nil
}

// validNonce reports whether s is a nonce, 1*(%x21-2B / %x2D-7E) (RFC 5802 section 7), of at most
// maxNonce bytes.
func validNonce(s string) bool {
	if s == "" || len(s) > maxNonce {
		return false
	}
	for i := 0; i < len(s); i++ {
		if s[i] < 0x21 || s[i] > 0x7e || s[i] == ',' {
			return false
		}
	}
	return true
}

// bindingName reports whether s is a cb-name, the name of a channel binding type (RFC 5802 section
// 7).
func bindingName(s string) bool {
	for i := 0; i < len(s); i++ {
		c := s[i]
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '.' || c == '-') {
			return false
		}
	}
	return s != ""
}

// saslName removes the escapes of a saslname: =2C and =3D; any other is an error (RFC 5802 section
// 5.1).
func saslName(s string) (string, bool) {
	if s == "" || strings.ContainsAny(s, "\x00,") {
		return "", false
	}
	if !strings.Contains(s, "=") {
		return s, true
	}
	var b strings.Builder
	for {
		before, after, found := strings.Cut(s, "=")
		b.WriteString(before)
		if !found {
			return b.String(), true
		}
		switch {
		case strings.HasPrefix(after, "2C"):
			b.WriteByte(',')
		case strings.HasPrefix(after, "3D"):
			b.WriteByte('=')
		default:
			return "", false
		}
		s = after[2:]
	}
}

// areOptional reports whether attrs, which are UTF-8, are extensions that a peer may ignore (RFC
// 5802 section 7). Each must be an attr-val, ALPHA "=" 1*value-char, and must not have the name of
// an attribute with a place of its own (section 5.1). One of those is m, a mandatory extension;
// this package knows none.
func areOptional(attrs []string) bool {
	for _, a := range attrs {
		if len(a) < 3 || a[1] != '=' || strings.Contains(a, "\x00") {
			return false
		}
		letter := a[0] >= 'a' && a[0] <= 'z' || a[0] >= 'A' && a[0] <= 'Z'
		if !letter || strings.IndexByte("anmrcsipve", a[0]) >= 0 {
			return false
		}
	}
	return true
}

// escapeName escapes a name as a saslname (RFC 5802 section 5.1).
var escapeName = strings.NewReplacer("=", "=3D", ",", "=2C")

// decodeText decodes the base64 of an element's text. No text and "=" are the empty message (RFC
// 6120 section 6.4.2).
func decodeText(text []byte) ([]byte, bool) {
	if len(text) == 0 || len(text) == 1 && text[0] == '=' {
		return nil, true
	}
	return strictBase64(text)
}

// strictBase64 decodes base64 with padding, with no other character, and with zero bits after the
// last byte (RFC 4648 sections 3.3 and 3.5). encoding/base64 alone would skip line ends.
func strictBase64(text []byte) ([]byte, bool) {
	for _, c := range text {
		if c == '\r' || c == '\n' {
			return nil, false
		}
	}
	b := make([]byte, base64.StdEncoding.DecodedLen(len(text)))
	n, err := base64.StdEncoding.Strict().Decode(b, text)
	if err != nil {
		return nil, false
	}
	return b[:n], true
}

// encodeText returns msg as the text of an element.
func encodeText(msg string) []byte {
	return base64.StdEncoding.AppendEncode(nil, []byte(msg))
}
