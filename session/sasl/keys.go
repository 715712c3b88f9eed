package sasl

import (
	"crypto/hmac"
	"crypto/pbkdf2"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"

	"golang.org/x/text/secure/precis"
)

const (
	// DefaultIterations is what new keys are derived with.
	DefaultIterations = 10000
	// MinIterations is the fewest that RFC 7677 §4 allows.
	MinIterations = 4096
	// MaxIterations bounds what keys, and what a server makes a [Client] do.
	MaxIterations = 10_000_000
	// SaltLen is the length of new salts in bytes.
	SaltLen = 16

	maxSalt     = 255
	maxPassword = 1023 // as a resourcepart; PBKDF2 hashes it once
)

// A Key is what a server keeps of a password for one SCRAM hash (RFC 5802 §3). Who has it can't log in by it
// at another server, but can pretend to be this server: it is as secret as the store.
type Key struct {
	Hash       Hash
	Iterations int
	Salt       []byte
	StoredKey  Secret
	ServerKey  Secret
}

// Keys are an account's credentials: at most one Key for each hash.
type Keys []Key

// ErrPassword is returned for a password that can't be one: empty, longer than 1,023 bytes, not UTF-8,
// with ASCII control characters, or with what neither SASLprep (RFC 4013) nor OpaqueString (RFC 8265
// §4.2) allows.
var ErrPassword = errors.New("sasl: not allowed as a password")

// PreparePassword returns the form of a password that keys are derived from: what SASLprep makes of it,
// as SCRAM asks of clients (RFC 5802 §2.2), or where that refuses it, what OpaqueString does. For ASCII
// it is the password. The error is [ErrPassword].
func PreparePassword(password []byte) (Secret, error) {
	now, _, err := passwordForms(password)
	return now, err
}

// passwordForms returns the form of [PreparePassword], and the one that older keys may be derived from,
// OpaqueString's, where it is another one; else before is empty.
func passwordForms(password []byte) (now, before Secret, err error) {
	if len(password) == 0 || len(password) > maxPassword || !utf8.Valid(password) {
		return Secret{}, Secret{}, ErrPassword
	}
	ascii := true
	for _, c := range password {
		if c < 0x20 || c == 0x7f {
			return Secret{}, Secret{}, ErrPassword
		}
		ascii = ascii && c < utf8.RuneSelf
	}
	if ascii {
		return NewSecret(append([]byte(nil), password...)), Secret{}, nil
	}
	opaque, err := precis.OpaqueString.Bytes(append([]byte(nil), password...))
	if err != nil || len(opaque) > maxPassword {
		opaque = nil
	}
	prep, ok := saslPrep(password)
	switch {
	case !ok && len(opaque) == 0:
		return Secret{}, Secret{}, ErrPassword
	case !ok:
		return NewSecret(opaque), Secret{}, nil
	case len(opaque) == 0 || string(opaque) == string(prep):
		return NewSecret(prep), Secret{}, nil
	}
	return NewSecret(prep), NewSecret(opaque), nil
}

// DeriveKeys derives the keys of a password for the given hashes, or for all [Hashes], with salts from rand.
// 0 iterations are [DefaultIterations]. About 1 ms of CPU for each 5,000 iterations and hash: workers only.
func DeriveKeys(password []byte, iterations int, rand io.Reader, hashes ...Hash) (Keys, error) {
	if iterations == 0 {
		iterations = DefaultIterations
	}
	if iterations < MinIterations || iterations > MaxIterations {
		return nil, fmt.Errorf("sasl: %d iterations: allowed are %d to %d", iterations, MinIterations,
			MaxIterations)
	}
	if len(hashes) == 0 {
		hashes = Hashes
	}
	prepared, err := PreparePassword(password)
	if err != nil {
		return nil, err
	}
	defer prepared.Wipe()
	var keys Keys
	for _, h := range hashes {
		k, err := newKey(prepared, h, iterations, rand)
		if err != nil {
			return nil, err
		}
		keys = append(keys, k)
	}
	return keys, nil
}

// newKey derives a key of a prepared password, with a salt of its own.
func newKey(prepared Secret, h Hash, iterations int, rand io.Reader) (Key, error) {
	if h.Size() == 0 {
		return Key{}, fmt.Errorf("sasl: unknown hash %d", h)
	}
	salt := make([]byte, SaltLen)
	if _, err := io.ReadFull(rand, salt); err != nil {
		return Key{}, fmt.Errorf("sasl: no random salt: %w", err)
	}
	salted, err := saltPassword(h, prepared, salt, iterations)
	if err != nil {
		return Key{}, err
	}
	return salted.key(nil), nil
}

// A Renewal is the work of deriving an account's keys anew, for a worker: from the form of the password
// that keys are derived from now, for the hashes and iterations that the account has, with salts of its
// own.
type Renewal struct {
	password Secret
	old      Keys
	rand     io.Reader
}

// Iterations returns the work to do, in iterations.
func (r *Renewal) Iterations() (n int) {
	for _, k := range r.old {
		n += max(k.Iterations, MinIterations)
	}
	return n
}

// Run derives the keys, once, on any goroutine. An error is one of the source of randomness.
func (r *Renewal) Run() (Keys, error) {
	defer r.password.Wipe()
	var keys Keys
	for _, old := range r.old {
		k, err := newKey(r.password, old.Hash, max(old.Iterations, MinIterations), r.rand)
		if err != nil {
			return nil, err
		}
		keys = append(keys, k)
	}
	return keys, nil
}

// For returns the key for h.
func (k Keys) For(h Hash) (Key, bool) {
	for _, key := range k {
		if key.Hash == h {
			return key, true
		}
	}
	return Key{}, false
}

// keysVersion is the first byte of encoded keys.
const keysVersion = 1

// ErrKeys is returned for bytes that are no encoded keys, or were written by a newer version.
var ErrKeys = errors.New("sasl: unreadable credentials")

// Encode returns k as bytes for a store: a version, then for each key its hash (1 byte), iterations (4, big
// endian), length of the salt (1), salt, StoredKey, ServerKey.
func (k Keys) Encode() []byte {
	b := []byte{keysVersion}
	for _, key := range k {
		b = append(b, byte(key.Hash))
		b = binary.BigEndian.AppendUint32(b, uint32(key.Iterations))
		b = append(b, byte(len(key.Salt)))
		b = append(b, key.Salt...)
		b = append(b, key.StoredKey.Reveal()...)
		b = append(b, key.ServerKey.Reveal()...)
	}
	return b
}

// DecodeKeys reads what [Keys.Encode] wrote, of it what is for only one hash if that is not 0; it keeps
// nothing of b. The error is [ErrKeys].
func DecodeKeys(b []byte, only Hash) (Keys, error) {
	if len(b) == 0 || b[0] != keysVersion {
		return nil, ErrKeys
	}
	b = append([]byte(nil), b[1:]...)
	var keys Keys
	var seen [SHA512 + 1]bool
	for len(b) > 0 {
		if len(b) < 6 {
			return nil, ErrKeys
		}
		k := Key{Hash: Hash(b[0]), Iterations: int(binary.BigEndian.Uint32(b[1:]))}
		size, salt := k.Hash.Size(), int(b[5])
		b = b[6:]
		if size == 0 || seen[k.Hash] || salt == 0 || k.Iterations < 1 || k.Iterations > MaxIterations ||
			len(b) < salt+2*size {
			return nil, ErrKeys
		}
		seen[k.Hash] = true
		if only != 0 && k.Hash != only {
			b = b[salt+2*size:]
			continue
		}
		k.Salt = b[:salt:salt]
		k.StoredKey = NewSecret(b[salt : salt+size : salt+size])
		k.ServerKey = NewSecret(b[salt+size : salt+2*size : salt+2*size])
		keys, b = append(keys, k), b[salt+2*size:]
	}
	return keys, nil
}

// A Salted is a password after PBKDF2 (RFC 5802 §3, SaltedPassword): all that a client needs to log in again
// while the server's salt and iterations stay, so that a load client derives it once.
type SaltedPassword struct {
	Hash       Hash
	Iterations int
	Salt       []byte
	Password   Secret
}

// saltPassword is PBKDF2, on a prepared password.
func saltPassword(h Hash, password Secret, salt []byte, iterations int) (SaltedPassword, error) {
	p, err := pbkdf2.Key(h.New, string(password.Reveal()), salt, iterations, h.Size())
	if err != nil {
		return SaltedPassword{}, fmt.Errorf("sasl: deriving a key: %w", err)
	}
	return SaltedPassword{Hash: h, Iterations: iterations, Salt: salt, Password: NewSecret(p)}, nil
}

// key returns what the server keeps of s. count, if not nil, counts HMACs.
func (s SaltedPassword) key(count *int) Key {
	client := mac(count, s.Hash, s.Password.Reveal(), []byte("Client Key"))
	return Key{
		Hash: s.Hash, Iterations: s.Iterations, Salt: s.Salt,
		StoredKey: NewSecret(hashSum(s.Hash, client)),
		ServerKey: NewSecret(mac(count, s.Hash, s.Password.Reveal(), []byte("Server Key"))),
	}
}

func mac(count *int, h Hash, key, text []byte) []byte {
	if count != nil {
		*count++
	}
	m := hmac.New(h.New, key)
	m.Write(text)
	return m.Sum(nil)
}

func hashSum(h Hash, b []byte) []byte {
	d := h.New()
	d.Write(b)
	return d.Sum(nil)
}
