package sasl

import (
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
)

// A Secret is bytes that must neither be printed nor be compared in a time that depends on them: a
// password, a key, a token. == does not compile on it, and it can't be a map key. Printing it in
// any way gives ***, marshaling it an error. Inside an unexported field of a struct, where fmt
// calls no method, an address is printed. The zero Secret is empty. Copies share the bytes.
type Secret struct {
	bytes func() []byte // a func, as fmt and reflection can't look into it, and == does not compare it
}

// NewSecret returns a Secret of b, which belongs to it from here on.
func NewSecret(b []byte) Secret { return Secret{func() []byte { return b }} }

// SecretString returns a Secret with a copy of s.
func SecretString(s string) Secret { return NewSecret([]byte(s)) }

// Equal reports whether s and t are the same bytes. The time that it takes depends on their lengths
// only.
func (s Secret) Equal(t Secret) bool { return subtle.ConstantTimeCompare(s.Reveal(), t.Reveal()) == 1 }

// Reveal returns the bytes of s itself, for a function that needs them, as an HMAC or a store. The
// caller does not change or log them.
func (s Secret) Reveal() []byte {
	if s.bytes == nil {
		return nil
	}
	return s.bytes()
}

// Len returns the number of bytes.
func (s Secret) Len() int { return len(s.Reveal()) }

// Wipe overwrites the bytes, in all copies of s.
func (s Secret) Wipe() { clear(s.Reveal()) }

// redacted is what is printed of a Secret.
const redacted = "***"

// String returns ***.
func (s Secret) String() string { return redacted }

// GoString returns ***.
func (s Secret) GoString() string { return redacted }

// Format implements [fmt.Formatter]: *** for every verb.
func (s Secret) Format(f fmt.State, _ rune) { f.Write([]byte(redacted)) }

// LogValue implements [slog.LogValuer]: ***.
func (s Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// errMarshal is returned by every way of marshaling.
var errMarshal = errors.New("sasl: a Secret is not to be marshaled")

// MarshalText always fails.
func (s Secret) MarshalText() ([]byte, error) { return nil, errMarshal }

// MarshalBinary always fails.
func (s Secret) MarshalBinary() ([]byte, error) { return nil, errMarshal }

// GobEncode always fails.
func (s Secret) GobEncode() ([]byte, error) { return nil, errMarshal }
