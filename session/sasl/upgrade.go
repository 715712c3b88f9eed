package sasl

import (
	"encoding/base64"
	"errors"
	"io"
	"strconv"
	"strings"
)

// upgradePrefix is what the names of upgrade tasks begin with (XEP-0480 section 2.1).
const upgradePrefix = "UPGR-"

// Upgrades are the hash functions for which an account can get a key from its client (XEP-0480): all but
// SHA-1, the best first. It is not changed.
var Upgrades = []Hash{SHA512, SHA256}

// Scram returns the SCRAM mechanism of h, without channel binding.
func (h Hash) Scram() Mechanism { return ScramSHA1 + Mechanism(h-SHA1) }

// UpgradeName returns the name of the task by which a client gives the key for h.
func UpgradeName(h Hash) string { return upgradePrefix + h.Scram().String() }

// ParseUpgrade returns the hash function of a task of [Upgrades]; false if there is none.
func ParseUpgrade(name string) (Hash, bool) {
	name, ok := strings.CutPrefix(name, upgradePrefix)
	m, known := ParseMechanism(name)
	if !ok || !known || m.Plus() || m.Hash() != SHA256 && m.Hash() != SHA512 {
		return 0, false
	}
	return m.Hash(), true
}

// An Upgrade is what a client needs to compute a SaltedPassword (RFC 5802 section 3).
type Upgrade struct {
	Hash       Hash   // the hash function of the new key
	Iterations int    // of PBKDF2
	Salt       []byte // of PBKDF2
}

// NewUpgrade returns the parameters for a key of h. The error is that of rand.
func NewUpgrade(h Hash, rand io.Reader) (Upgrade, error) {
	u := Upgrade{Hash: h, Iterations: DefaultIterations, Salt: make([]byte, SaltLen)}
	_, err := io.ReadFull(rand, u.Salt)
	return u, err
}

// ErrUpgrade says that what a client has sent is no SaltedPassword.
var ErrUpgrade = errors.New("sasl: not a salted password in base64")

// Key returns the key that text makes: the SaltedPassword in base64, as the client has computed it. The error
// is [ErrUpgrade].
func (u Upgrade) Key(text []byte) (Key, error) {
	salted, ok := strictBase64(text)
	if !ok || len(salted) != u.Hash.Size() {
		return Key{}, ErrUpgrade
	}
	s := SaltedPassword{Hash: u.Hash, Iterations: u.Iterations, Salt: u.Salt, Password: NewSecret(salted)}
	defer s.Password.Wipe()
	return s.key(nil), nil
}

// Rounds returns the iterations as text.
func (u Upgrade) Rounds() string { return strconv.Itoa(u.Iterations) }

// SaltText returns the salt in base64.
func (u Upgrade) SaltText() []byte { return base64.StdEncoding.AppendEncode(nil, u.Salt) }
