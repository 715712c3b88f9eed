package sasl

import (
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"fmt"
	"hash"
)

// A Hash is the hash function of a SCRAM mechanism. Its numbers are in stored keys and never
// change.
type Hash uint8

// The hash functions.
const (
	SHA1   Hash = 1
	SHA256 Hash = 2
	SHA512 Hash = 3
)

// Hashes are the hash functions for which accounts have keys, the weakest first. It is not changed.
var Hashes = []Hash{SHA1, SHA256, SHA512}

// New returns a new state of the hash function.
func (h Hash) New() hash.Hash {
	switch h {
	case SHA1:
		return sha1.New()
	case SHA256:
		return sha256.New()
	}
	return sha512.New()
}

// Size returns the length of a hash in bytes; 0 for a Hash that is none of the three.
func (h Hash) Size() int {
	switch h {
	case SHA1:
		return sha1.Size
	case SHA256:
		return sha256.Size
	case SHA512:
		return sha512.Size
	}
	return 0
}

// A Mechanism is a SASL mechanism. A larger one is stronger.
type Mechanism uint8

// The mechanisms: RFC 4616, RFC 5802, RFC 7677. A -PLUS mechanism binds the login to the TLS channel.
const (
	NoMechanism Mechanism = iota
	Plain
	ScramSHA1
	ScramSHA256
	ScramSHA512
	ScramSHA1Plus
	ScramSHA256Plus
	ScramSHA512Plus
)

// mechanismNames are the registered names.
var mechanismNames = [...]string{"", "PLAIN", "SCRAM-SHA-1", "SCRAM-SHA-256", "SCRAM-SHA-512",
	"SCRAM-SHA-1-PLUS", "SCRAM-SHA-256-PLUS", "SCRAM-SHA-512-PLUS"}

// ParseMechanism returns the mechanism of a registered name; false if it is unknown. Names are in
// upper case (RFC 4422 section 3.1).
func ParseMechanism(name string) (Mechanism, bool) {
	for m := Plain; m <= ScramSHA512Plus; m++ {
		if mechanismNames[m] == name {
			return m, true
		}
	}
	return NoMechanism, false
}

// String returns the registered name.
func (m Mechanism) String() string {
	if int(m) < len(mechanismNames) {
		return mechanismNames[m]
	}
	return fmt.Sprintf("Mechanism(%d)", uint8(m))
}

// Plus reports whether m binds the login to the TLS channel.
func (m Mechanism) Plus() bool { return m >= ScramSHA1Plus && m <= ScramSHA512Plus }

// Hash returns the hash function of a SCRAM mechanism; 0 for others.
func (m Mechanism) Hash() Hash {
	switch {
	case m.Plus():
		return Hash(m-ScramSHA1Plus) + SHA1
	case m >= ScramSHA1:
		return Hash(m-ScramSHA1) + SHA1
	}
	return 0
}

// A MechanismSet is a set of mechanisms. One set decides both what a stream is offered and what it
// may use: an Exchange accepts nothing else.
type MechanismSet uint16

// NewMechanismSet returns the set of a list of names, as in a configuration. If the list names no
// -PLUS mechanism, each SCRAM mechanism of it brings its -PLUS form; if it names one, the list is
// complete. [MechanismSet.ForStream] removes the -PLUS forms where nothing can be bound. An unknown
// name or an empty list is an error.
func NewMechanismSet(names ...string) (MechanismSet, error) {
	var o MechanismSet
	for _, name := range names {
		m, ok := ParseMechanism(name)
		if !ok {
			return 0, fmt.Errorf("sasl: unknown mechanism %q", name)
		}
		o = o.With(m)
	}
	if o == 0 {
		return 0, errors.New("sasl: no mechanism")
	}
	if !o.Plus() {
		for i := range Hashes {
			if o.Has(ScramSHA1 + Mechanism(i)) {
				o = o.With(ScramSHA1Plus + Mechanism(i))
			}
		}
	}
	return o, nil
}

// MechanismNames returns the names of all mechanisms, the weakest first, -PLUS forms last. The
// slice is the caller's.
func MechanismNames() []string { return append([]string(nil), mechanismNames[Plain:]...) }

// Has reports whether m is in o.
func (o MechanismSet) Has(m Mechanism) bool { return m != NoMechanism && o&(1<<m) != 0 }

// With returns o with m.
func (o MechanismSet) With(m Mechanism) MechanismSet { return o | 1<<m }

// Without returns o without m.
func (o MechanismSet) Without(m Mechanism) MechanismSet { return o &^ (1 << m) }

// Plus reports whether o has a mechanism with channel binding.
func (o MechanismSet) Plus() bool { return o>>ScramSHA1Plus != 0 }

// ForStream returns the mechanisms of o for one stream: -PLUS only if the stream is secure and
// there is something to bind to, PLAIN only if the stream is secure or plainAnyway is set.
func (o MechanismSet) ForStream(secure bool, b ChannelBinding, plainAnyway bool) MechanismSet {
	if !secure && !plainAnyway {
		o = o.Without(Plain)
	}
	if !secure || !b.Any() {
		o &= 1<<ScramSHA1Plus - 1
	}
	return o
}

// Each calls f for each mechanism of o, the strongest first: the order in which they are offered.
func (o MechanismSet) Each(f func(m Mechanism)) {
	for m := ScramSHA512Plus; m >= Plain; m-- {
		if o.Has(m) {
			f(m)
		}
	}
}

// A ChannelBinding is the data by which a login can be bound to a TLS connection (RFC 5056). The
// zero value is none. The slices are not changed.
type ChannelBinding struct {
	// Exporter is tls-exporter (RFC 9266): 32 bytes of keying material, label "EXPORTER-Channel-Binding".
	Exporter []byte
	// EndPoint is tls-server-end-point (RFC 5929 section 4): the hash of the server's certificate.
	EndPoint []byte
	// Unique is tls-unique (RFC 5929 section 3): the first Finished message of TLS 1.2. It is set only for a
	// connection with an extended master secret (RFC 7627), as it is not unique without. SCRAM clients from
	// before tls-exporter know this type at least (RFC 5802 section 6.1).
	Unique []byte
	// TLS13 says that the connection has TLS 1.3 or later, where Unique is undefined and not used.
	TLS13 bool
}

// Any reports whether there is anything to bind to.
func (b ChannelBinding) Any() bool {
	return len(b.Exporter) > 0 || len(b.EndPoint) > 0 || len(b.Unique) > 0 && !b.TLS13
}

// Data returns the data of a channel binding type by its registered name; nil if there is none.
func (b ChannelBinding) Data(kind string) []byte {
	switch kind {
	case "tls-exporter":
		return b.Exporter
	case "tls-server-end-point":
		return b.EndPoint
	case "tls-unique":
		if !b.TLS13 {
			return b.Unique
		}
	}
	return nil
}

// Types returns the channel binding types for which b has data, the best first: what XEP-0440
// lists.
func (b ChannelBinding) Types() (kinds []string) {
	for _, k := range []string{"tls-exporter", "tls-unique", "tls-server-end-point"} {
		if len(b.Data(k)) > 0 {
			kinds = append(kinds, k)
		}
	}
	return kinds
}
