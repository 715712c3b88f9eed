package sasl

import (
	"encoding/base64"
	"io"
	"strings"
)

// nonceBytes is how many random bytes make a nonce: 18 are 24 characters without padding.
const nonceBytes = 18

// maxNonce is the longest nonce taken from a peer.
const maxNonce = 256

func newNonce(rand io.Reader) (string, error) {
	var b [nonceBytes]byte
	if _, err := io.ReadFull(rand, b[:]); err != nil {
		return "", err
	}
	return base64.StdEncoding.EncodeToString(b[:]), nil
}

// validNonce reports whether s is 1*(%x21-2B / %x2D-7E) (RFC 5802 §7) of a sane length.
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

// bindingName reports whether s is a cb-name (RFC 5802 §7).
func bindingName(s string) bool {
	for i := 0; i < len(s); i++ {
		c := s[i]
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '.' || c == '-') {
			return false
		}
	}
	return s != ""
}

// saslName undoes the escapes of a saslname: =2C and =3D, and no other (RFC 5802 §5.1).
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

// areOptional reports whether attrs are extensions that a peer may ignore (RFC 5802 §7): each an attr-val,
// ALPHA "=" 1*value-char, and none of them with the name of an attribute that has its own place (§5.1).
// To these belongs m, the mark of a mandatory extension, of which there are none. attrs are UTF-8.
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

var escapeName = strings.NewReplacer("=", "=3D", ",", "=2C")

// decodeText undoes the base64 of an element's text: nothing and "=" are the empty message (RFC 6120 §6.4.2).
func decodeText(text []byte) ([]byte, bool) {
	if len(text) == 0 || len(text) == 1 && text[0] == '=' {
		return nil, true
	}
	return strictBase64(text)
}

// strictBase64 decodes base64 with padding, without any other character, and with zero bits behind the last
// byte (RFC 4648 §3.3, §3.5). encoding/base64 alone would skip line ends.
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

func encodeText(msg string) []byte {
	return base64.StdEncoding.AppendEncode(nil, []byte(msg))
}
