package hostile

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
)

// Types of records and messages of TLS 1.3 (RFC 8446 §5.1, §4).
const (
	typeAlert       = 21
	typeHandshake   = 22
	typeApplication = 23

	messageTicket    = 4
	messageKeyUpdate = 24
)

// A recordLog follows the TLS records that crypto/tls writes, and its key log, until the attack
// takes the connection over (transport.captureKeys).
type recordLog struct {
	head   []byte // of the record that is being written, as far as it has come
	left   int    // bytes that are left of the record
	sealed uint64 // application records since the handshake: the sequence number of the next
	secret []byte // client_application_traffic_secret_0
}

// pass follows bytes that are written.
func (r *recordLog) pass(p []byte) {
	for len(p) > 0 {
		if r.left > 0 {
			n := min(r.left, len(p))
			r.left, p = r.left-n, p[n:]
			continue
		}
		n := min(5-len(r.head), len(p))
		r.head, p = append(r.head, p[:n]...), p[n:]
		if len(r.head) == 5 {
			if r.head[0] == typeApplication {
				r.sealed++
			}
			r.left, r.head = int(binary.BigEndian.Uint16(r.head[3:])), r.head[:0]
		}
	}
}

// Write takes a line of the NSS key log: a label, the client's random, and the secret.
func (r *recordLog) Write(line []byte) (int, error) {
	if f := bytes.Fields(line); len(f) == 3 && string(f[0]) == "CLIENT_TRAFFIC_SECRET_0" {
		b, err := hex.DecodeString(string(f[2]))
		if err != nil {
			return 0, err
		}
		r.secret = b
	}
	return len(line), nil
}

// captureKeys takes the connection away from crypto/tls, with the keys of the client's direction
// (key capture). From here on the attack makes records itself.
func (w *transport) captureKeys() (*sealer, error) {
	t, ok := w.top.(*tls.Conn)
	if !ok || w.written == nil {
		return nil, clientFault{errors.New("hostile: there is no TLS to take over")}
	}
	st := t.ConnectionState()
	if st.Version != tls.VersionTLS13 {
		return nil, clientFault{fmt.Errorf("the server speaks %s, and the attack is on TLS 1.3",
			tls.VersionName(st.Version))}
	}
	s, err := newSealer(st.CipherSuite, w.written.secret, w.written.sealed)
	if err != nil {
		return nil, clientFault{err}
	}
	w.written = nil
	w.top = w
	return s, nil
}

// A sealer makes records of TLS 1.3 (RFC 8446 §5.2) for one direction, right or wrong ones.
type sealer struct {
	hash   func() hash.Hash
	keyLen int
	secret []byte
	aead   cipher.AEAD
	iv     []byte
	seq    uint64
}

// newSealer begins at the record number seq under a traffic secret.
func newSealer(suite uint16, secret []byte, seq uint64) (*sealer, error) {
	s := &sealer{secret: secret, seq: seq}
	switch suite {
	case tls.TLS_AES_128_GCM_SHA256:
		s.hash, s.keyLen = sha256.New, 16
	case tls.TLS_AES_256_GCM_SHA384:
		s.hash, s.keyLen = sha512.New384, 32
	default:
		return nil, fmt.Errorf("the server chose %s, which this attack does not know: have it prefer AES-GCM",
			tls.CipherSuiteName(suite))
	}
	if len(secret) != s.hash().Size() {
		return nil, fmt.Errorf("hostile: a secret of %d bytes is none of %s", len(secret),
			tls.CipherSuiteName(suite))
	}
	return s, s.keys()
}

// expand is HKDF-Expand-Label without a context (RFC 8446 §7.1).
func (s *sealer) expand(label string, n int) ([]byte, error) {
	label = "tls13 " + label
	info := binary.BigEndian.AppendUint16(nil, uint16(n))
	info = append(append(append(info, byte(len(label))), label...), 0)
	return hkdf.Expand(s.hash, s.secret, string(info), n)
}

// keys derives the key and the nonce of records from the secret.
func (s *sealer) keys() error {
	key, err := s.expand("key", s.keyLen)
	if err != nil {
		return err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return err
	}
	if s.aead, err = cipher.NewGCM(block); err != nil {
		return err
	}
	s.iv, err = s.expand("iv", s.aead.NonceSize())
	return err
}

// update goes on to the next secret (RFC 8446 §7.2).
func (s *sealer) update() (err error) {
	if s.secret, err = s.expand("traffic upd", s.hash().Size()); err != nil {
		return err
	}
	s.seq = 0
	return s.keys()
}

// record appends a record with content of a type, and padding zeros after it. With type 0 it has zeros only.
func (s *sealer) record(dst []byte, kind byte, content []byte, padding int) []byte {
	plain := make([]byte, 0, len(content)+1+padding)
	plain = append(append(plain, content...), kind)
	plain = plain[:cap(plain)]
	head := len(dst)
	dst = append(dst, typeApplication, 3, 3)
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(plain)+s.aead.Overhead()))
	nonce := bytes.Clone(s.iv)
	for i := range 8 {
		nonce[len(nonce)-1-i] ^= byte(s.seq >> (8 * i))
	}
	s.seq++
	return s.aead.Seal(dst, nonce, plain, dst[head:len(dst):len(dst)])
}

// keyUpdate appends a KeyUpdate (RFC 8446 §4.6.3), and goes on to the next key. Of request 0 and 1
// are legal: 1 asks the other side to do the same.
func (s *sealer) keyUpdate(dst []byte, request byte) ([]byte, error) {
	dst = s.record(dst, typeHandshake, []byte{messageKeyUpdate, 0, 0, 1, request}, 0)
	return dst, s.update()
}
