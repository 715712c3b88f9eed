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

// Bounds of SCRAM's parameters.
const (
	// DefaultIterations is the iteration count of new keys.
	DefaultIterations = 10000
	// MinIterations is the smallest iteration count that RFC 7677 section 4 allows.
	MinIterations = 4096
	// MaxIterations is the largest iteration count of keys: 10 million are 2 s of CPU.
	MaxIterations = 10_000_000
	// SaltLen is the length of new salts in bytes.
	SaltLen = 16

	maxSalt     = 255  // in bytes; Encode has one byte for the length
	maxPassword = 1023 // in bytes, as a resourcepart; PBKDF2 hashes a password once, so its length costs little
)

// A Key is what a server keeps of a password for one SCRAM hash (RFC 5802 section 3). An attacker
// who has it can't log in with it at another server, but can pretend to be this server: it is as
// secret as the store.
type Key struct {
	Hash       Hash   // the hash function
	Iterations int    // of PBKDF2
	Salt       []byte // of PBKDF2
	StoredKey  Secret // RFC 5802: the hash of the ClientKey; it checks the client's proof
	ServerKey  Secret // RFC 5802: it makes the server's signature
}

// Keys are an account's credentials: at most one Key for each hash.
type Keys []Key

// ErrPassword is returned for a password that is not allowed: empty, longer than 1,023 bytes, not
// UTF-8, with ASCII control characters, or refused by both SASLprep (RFC 4013) and OpaqueString
// (RFC 8265 section 4.2).
var ErrPassword = errors.New("sasl: not allowed as a password")

// PreparePassword returns the form of a password from which keys are derived: its SASLprep form,
// which SCRAM asks of clients (RFC 5802 section 2.2), or, if SASLprep refuses it, its OpaqueString
// form. A password of ASCII stays as it is. The error is [ErrPassword].
func PreparePassword(password []byte) (Secret, error) {
	now, _, err := passwordForms(password)
	return now, err
}

// passwordForms returns the form that PreparePassword returns and, in before, the OpaqueString
// form, from which older keys may be derived. before is empty if the two are the same. The forms
// differ where a password has compatibility characters, as ligatures or full-width letters.
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

// DeriveKeys derives the keys of a password for the given hashes, or for all [Hashes], with salts
// from rand. 0 iterations are [DefaultIterations]. It takes about 1 ms of CPU for each 5,000
// iterations and hash: for workers and commands, never on a loop. The error is [ErrPassword], one
// for the iterations, or rand's.
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

// newKey derives a key from a prepared password, with a new salt.
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

// A Renewal is work for a worker: it derives an account's keys again, from the form of the password
// that keys are derived from today, for the hashes and iterations that the account has, with new
// salts. After it clients can log in with SCRAM.
type Renewal struct {
	password Secret // the prepared form
	old      Keys   // the account's keys
	rand     io.Reader
}

// Iterations returns the cost of Run, in iterations.
func (r *Renewal) Iterations() (n int) {
	for _, k := range r.old {
		n += max(k.Iterations, MinIterations)
	}
	return n
}

// Run derives the keys and wipes the password. It is called once, on any goroutine but a loop's.
// The error is that of the source of randomness.
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

// For returns the key for h; false if there is none.
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

// ErrKeys is returned for bytes that are not encoded keys, or that a newer version has written.
var ErrKeys = errors.New("sasl: unreadable credentials")

// Encode returns k as bytes for a store. After the version, each key has its hash (1 byte),
// iterations (4 bytes, big-endian), length of the salt (1 byte), salt, StoredKey and ServerKey.
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

// DecodeKeys decodes what [Keys.Encode] has written. If only is not 0 it returns the key of that
// hash alone. The result shares no memory with b. The error is [ErrKeys].
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

// A SaltedPassword is a password after PBKDF2 (RFC 5802 section 3, SaltedPassword). With it a
// client can log in again, without deriving, as long as the server's salt and iterations stay. It
// is as secret as the password.
type SaltedPassword struct {
	Hash       Hash   // the hash function
	Iterations int    // of PBKDF2
	Salt       []byte // of PBKDF2
	Password   Secret // the result
}

// saltPassword runs PBKDF2 on a prepared password.
func saltPassword(h Hash, password Secret, salt []byte, iterations int) (SaltedPassword, error) {
	p, err := pbkdf2.Key(h.New, string(password.Reveal()), salt, iterations, h.Size())
	if err != nil {
		return SaltedPassword{}, fmt.Errorf("sasl: deriving a key: %w", err)
	}
	return SaltedPassword{Hash: h, Iterations: iterations, Salt: salt, Password: NewSecret(p)}, nil
}

// key returns the Key that a server keeps of s. If count is not nil, it counts HMACs.
func (s SaltedPassword) key(count *int) Key {
	client := mac(count, s.Hash, s.Password.Reveal(), []byte("Client Key"))
	return Key{
		Hash: s.Hash, Iterations: s.Iterations, Salt: s.Salt,
		StoredKey: NewSecret(hashSum(s.Hash, client)),
		ServerKey: NewSecret(mac(count, s.Hash, s.Password.Reveal(), []byte("Server Key"))),
	}
}

// mac returns the HMAC of text. If count is not nil, it is increased.
func mac(count *int, h Hash, key, text []byte) []byte {
	if count != nil {
		*count++
	}
	m := hmac.New(h.New, key)
	m.Write(text)
	return m.Sum(nil)
}

// hashSum returns the hash of b.
func hashSum(h Hash, b []byte) []byte {
	d := h.New()
	d.Write(b)
	return d.Sum(nil)
}
