package sasl

import (
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
)

// A Secret is bytes that must not be printed and must not be compared in a time that depends on them: a
// password, a key, a token. == does not compile, and it can be no map key. Every way of printing or
// marshaling one gives *** or an error, or, inside of a struct's unexported field, where fmt asks no
// method, an address.
type Secret struct {
	bytes func() []byte // a func is what fmt and reflection can't look into, and can't be compared
}

// NewSecret takes over b.
func NewSecret(b []byte) Secret { return Secret{func() []byte { return b }} }

// SecretString copies s.
func SecretString(s string) Secret { return NewSecret([]byte(s)) }

// Equal reports whether s and t are the same bytes, in a time that depends on their lengths only.
func (s Secret) Equal(t Secret) bool { return subtle.ConstantTimeCompare(s.Reveal(), t.Reveal()) == 1 }

// Reveal returns the bytes, for a function that needs them (an HMAC, a store); they are s's own.
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

const redacted = "***"

// String returns ***.
func (s Secret) String() string { return redacted }

// GoString returns ***.
func (s Secret) GoString() string { return redacted }

// Format prints *** for every verb.
func (s Secret) Format(f fmt.State, _ rune) { f.Write([]byte(redacted)) }

// LogValue gives *** to log/slog.
func (s Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

var errMarshal = errors.New("sasl: a Secret is not to be marshaled")

// MarshalText refuses.
func (s Secret) MarshalText() ([]byte, error) { return nil, errMarshal }

// MarshalBinary refuses.
func (s Secret) MarshalBinary() ([]byte, error) { return nil, errMarshal }

// GobEncode refuses.
func (s Secret) GobEncode() ([]byte, error) { return nil, errMarshal }
