package sasl

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"strings"
	"unicode/utf8"
)

// A TokenMechanism is a mechanism by which a client logs in with a token in one round trip
// (draft-schmaus-kitten-sasl-ht-09), with HMAC and SHA-256. A larger one binds the login better. Its numbers
// are stored and never change.
type TokenMechanism uint8

// The mechanisms of tokens. NoToken is none.
const (
	NoToken TokenMechanism = iota
	TokenNone
	TokenEndPoint
	TokenUnique
	TokenExporter
)

// tokenNames are the registered names.
var tokenNames = [...]string{"", "HT-SHA-256-NONE", "HT-SHA-256-ENDP", "HT-SHA-256-UNIQ", "HT-SHA-256-EXPR"}

// tokenBindings are the types of channel binding of the mechanisms.
var tokenBindings = [...]string{"", "", "tls-server-end-point", "tls-unique", "tls-exporter"}

// ParseTokenMechanism returns the mechanism of a registered name; false if it is unknown.
func ParseTokenMechanism(name string) (TokenMechanism, bool) {
	for m := TokenNone; m <= TokenExporter; m++ {
		if tokenNames[m] == name {
			return m, true
		}
	}
	return NoToken, false
}

// String returns the registered name.
func (m TokenMechanism) String() string {
	if int(m) < len(tokenNames) {
		return tokenNames[m]
	}
	return fmt.Sprintf("TokenMechanism(%d)", uint8(m))
}

// OfferedBy reports whether a connection with the binding b has what m binds to.
func (m TokenMechanism) OfferedBy(b ChannelBinding) bool {
	return m == TokenNone || m > TokenNone && m <= TokenExporter && len(b.Data(tokenBindings[m])) > 0
}

// TokenMechanisms returns the mechanisms of a connection with the binding b, the best first.
func TokenMechanisms(b ChannelBinding) (list []TokenMechanism) {
	for m := TokenExporter; m >= TokenNone; m-- {
		if m.OfferedBy(b) {
			list = append(list, m)
		}
	}
	return list
}

// InitiatorMAC returns what a client proves by that it has the token, on a connection with the binding b.
func (m TokenMechanism) InitiatorMAC(token Secret, b ChannelBinding) Secret {
	return NewSecret(m.mac(token, "Initiator", b))
}

// ResponderMAC returns what the server proves by that it has the token.
func (m TokenMechanism) ResponderMAC(token Secret, b ChannelBinding) []byte {
	return m.mac(token, "Responder", b)
}

// mac returns the keyed hash of a role and the binding data.
func (m TokenMechanism) mac(token Secret, role string, b ChannelBinding) []byte {
	h := hmac.New(sha256.New, token.Reveal())
	h.Write([]byte(role))
	if int(m) < len(tokenBindings) {
		h.Write(b.Data(tokenBindings[m]))
	}
	return h.Sum(nil)
}

// A TokenMessage is what a client sends to log in with a token.
type TokenMessage struct {
	User  string // the localpart, as the client has written it
	Proof Secret // its InitiatorMAC
}

// ParseTokenMessage reads the text of an initial response: the name, NUL, and the proof, in base64. The
// condition is NoCondition, IncorrectEncoding or MalformedRequest. text is not kept.
func ParseTokenMessage(text []byte) (m TokenMessage, c Condition) {
	if len(text) > MaxText {
		return m, MalformedRequest
	}
	msg, ok := decodeText(text)
	if !ok {
		return m, IncorrectEncoding
	}
	user, proof, ok := strings.Cut(string(msg), "\x00")
	if !ok || user == "" || !utf8.ValidString(user) || len(proof) != sha256.Size {
		return m, MalformedRequest
	}
	return TokenMessage{user, SecretString(proof)}, NoCondition
}

// AppendTokenMessage returns the text of the initial response of a client: see [ParseTokenMessage].
func AppendTokenMessage(user string, proof Secret) []byte {
	return base64.StdEncoding.AppendEncode(nil, append([]byte(user+"\x00"), proof.Reveal()...))
}

// Print returns a short hash that names k: another password, and the same password set again, have another
// one. The hash says nothing about the password. It is stored, and never changes.
func (k *Key) Print() (p [16]byte) {
	h := sha256.New()
	h.Write([]byte("canto key print 1\x00"))
	h.Write([]byte{byte(k.Hash), byte(len(k.Salt))})
	h.Write(k.Salt)
	h.Write(k.StoredKey.Reveal())
	copy(p[:], h.Sum(nil))
	return p
}
