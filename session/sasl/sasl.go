// Package sasl is the Simple Authentication and Security Layer as XMPP uses it (RFC 6120 §6): SCRAM
// (RFC 5802, RFC 7677) with and without channel binding, and PLAIN (RFC 4616), both ends of each. No
// network, no goroutine, no store: an [Exchange] is told what the peer said and says what to do next.
//
// A server keeps no password, only [Keys]: what one mechanism's hash makes of it.
package sasl

import (
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"strings"

	"golang.org/x/text/secure/precis"
)

// A Secret is bytes whose only comparison takes the same time wherever they differ, and which print
// as "***" (attacks S05, H12).
type Secret []byte

// Equal compares in constant time.
func (s Secret) Equal(o Secret) bool { return subtle.ConstantTimeCompare(s, o) == 1 }

// String never shows the secret.
func (s Secret) String() string { return "***" }

// GoString never shows the secret.
func (s Secret) GoString() string { return "***" }

// Format never shows the secret.
func (s Secret) Format(f fmt.State, _ rune) { f.Write([]byte("***")) }

// A Condition is a defined condition of a SASL failure (RFC 6120 §6.5); empty: none.
type Condition string

// The conditions.
const (
	Aborted              Condition = "aborted"
	AccountDisabled      Condition = "account-disabled"
	EncryptionRequired   Condition = "encryption-required"
	IncorrectEncoding    Condition = "incorrect-encoding"
	InvalidAuthzid       Condition = "invalid-authzid"
	InvalidMechanism     Condition = "invalid-mechanism"
	MalformedRequest     Condition = "malformed-request"
	NotAuthorized        Condition = "not-authorized"
	TemporaryAuthFailure Condition = "temporary-auth-failure"
)

// A Hash is one that SCRAM is defined with.
type Hash uint8

// The hashes, as they are stored.
const (
	SHA1 Hash = iota + 1
	SHA256
	SHA512
)

// Hashes are all of them.
var Hashes = []Hash{SHA1, SHA256, SHA512}

func (h Hash) new() func() hash.Hash {
	switch h {
	case SHA1:
		return sha1.New
	case SHA256:
		return sha256.New
	}
	return sha512.New
}

func (h Hash) size() int { return h.new()().Size() }

// Mechanism is the name of SCRAM with h.
func (h Hash) Mechanism() string {
	return "SCRAM-SHA-" + map[Hash]string{SHA1: "1", SHA256: "256", SHA512: "512"}[h]
}

// Plain is the mechanism without a hash.
const Plain = "PLAIN"

// hashOf is the hash of a SCRAM mechanism, and whether it binds to a channel.
func hashOf(mechanism string) (h Hash, plus, ok bool) {
	name, plus := strings.CutSuffix(mechanism, "-PLUS")
	for _, h := range Hashes {
		if h.Mechanism() == name {
			return h, plus, true
		}
	}
	return 0, false, false
}

// Iterations of PBKDF2: what new accounts get, and the least that is taken (RFC 7677 §4).
const (
	DefaultIterations = 10000
	MinIterations     = 4096
)

// Keys are what is kept of a password for one hash (RFC 5802 §3).
type Keys struct {
	Hash       Hash
	Salt       []byte
	Iterations int
	Stored     Secret
	Server     Secret
}

// Work counts the steps whose number could tell a known user from an unknown one; tests look at it.
var Work struct{ HMACs, Derived func() }

func mac(h Hash, key, data []byte) []byte {
	if Work.HMACs != nil {
		Work.HMACs()
	}
	m := hmac.New(h.new(), key)
	m.Write(data)
	return m.Sum(nil)
}

// Salted is SaltedPassword: slow, by design.
func Salted(h Hash, password string, salt []byte, iterations int) Secret {
	if Work.Derived != nil {
		Work.Derived()
	}
	k, err := pbkdf2.Key(h.new(), password, salt, iterations, h.size())
	if err != nil {
		panic(err) // only a length that no hash has
	}
	return k
}

// Derive makes the Keys of a prepared password. It takes milliseconds: never on a loop.
func Derive(h Hash, password string, salt []byte, iterations int) Keys {
	return FromSalted(h, Salted(h, password, salt, iterations), salt, iterations)
}

// FromSalted makes Keys of a SaltedPassword.
func FromSalted(h Hash, salted Secret, salt []byte, iterations int) Keys {
	k := Keys{Hash: h, Salt: salt, Iterations: iterations}
	sum := h.new()()
	sum.Write(mac(h, salted, []byte("Client Key")))
	k.Stored = sum.Sum(nil)
	k.Server = mac(h, salted, []byte("Server Key"))
	return k
}

// Errors of passwords.
var ErrPassword = errors.New("sasl: a password is from 1 to 1023 bytes, without control characters")

// Prepare is the password as it is hashed: the OpaqueString profile (RFC 8265 §4).
func Prepare(password string) (string, error) {
	p, err := precis.OpaqueString.String(password)
	if err != nil || len(p) == 0 || len(p) > 1023 {
		return "", ErrPassword
	}
	return p, nil
}

// Credentials are the Keys of one account, one for each hash its host offers.
type Credentials []Keys

// For is those of h.
func (c Credentials) For(h Hash) (Keys, bool) {
	for _, k := range c {
		if k.Hash == h {
			return k, true
		}
	}
	return Keys{}, false
}

const credentialsVersion = 1

// Encode is c as it is stored.
func (c Credentials) Encode() []byte {
	b := []byte{credentialsVersion}
	for _, k := range c {
		b = append(b, byte(k.Hash), byte(len(k.Salt)))
		b = append(b, k.Salt...)
		b = binary.BigEndian.AppendUint32(b, uint32(k.Iterations))
		b = append(append(b, k.Stored...), k.Server...)
	}
	return b
}

var errCredentials = errors.New("sasl: credentials that can't be read")

// DecodeCredentials reads what Encode wrote; it copies.
func DecodeCredentials(b []byte) (c Credentials, err error) {
	if len(b) == 0 || b[0] != credentialsVersion {
		return nil, errCredentials
	}
	b = append([]byte(nil), b[1:]...)
	for len(b) > 0 {
		k := Keys{Hash: Hash(b[0])}
		if len(b) < 2 || k.Hash < SHA1 || k.Hash > SHA512 {
			return nil, errCredentials
		}
		salt, n := int(b[1]), k.Hash.size()
		if len(b) < 2+salt+4+2*n {
			return nil, errCredentials
		}
		k.Salt = b[2 : 2+salt : 2+salt]
		b = b[2+salt:]
		k.Iterations = int(binary.BigEndian.Uint32(b))
		k.Stored, k.Server = Secret(b[4:4+n:4+n]), Secret(b[4+n:4+2*n:4+2*n])
		b = b[4+2*n:]
		c = append(c, k)
	}
	return c, nil
}

// Fake are Keys for a user who does not exist: the same for the same name, and like those of one who
// does, so that an exchange takes the same steps and fails at its end (RFC 5802 §9).
func Fake(h Hash, secret Secret, user string) Keys {
	m := hmac.New(sha256.New, secret)
	m.Write([]byte{byte(h)})
	m.Write([]byte(user))
	salt := m.Sum(nil)[:16]
	return Keys{Hash: h, Salt: salt, Iterations: DefaultIterations, Stored: make(Secret, h.size()), Server: make(Secret, h.size())}
}

// decode64 is strict base64 (RFC 6120 §6.4.2); "=" is the empty string.
func decode64(b []byte) ([]byte, bool) {
	if string(b) == "=" {
		return []byte{}, true
	}
	for _, c := range b {
		if c == '\n' || c == '\r' {
			return nil, false
		}
	}
	out := make([]byte, base64.StdEncoding.DecodedLen(len(b)))
	n, err := base64.StdEncoding.Strict().Decode(out, b)
	return out[:n], err == nil
}

// Decode is what a <auth/> or <response/> carries; false: incorrect-encoding.
func Decode(b []byte) ([]byte, bool) { return decode64(b) }

// Encode is what a <challenge/> or <success/> carries.
func Encode(b []byte) string {
	if len(b) == 0 {
		return "="
	}
	return base64.StdEncoding.EncodeToString(b)
}
