package live

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
)

// An unextended is a client of TLS 1.2 that does not know the extended master secret (RFC 7627), which
// crypto/tls always asks for. It has one cipher suite, TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256 (RFC
// 5289), and does not check the server's certificate.
type unextended struct {
	net.Conn
	toServer, toClient gcm
	rest               []byte // of the record that Read has begun
	cert               []byte // the server's, DER
	unique             []byte // tls-unique (RFC 5929 §3): the client's Finished
}

// A gcm is one direction of AES-128-GCM in TLS 1.2 (RFC 5288 §3).
type gcm struct {
	aead cipher.AEAD // nil until ChangeCipherSpec
	iv   []byte
	seq  uint64
}

func newGCM(key, iv []byte) gcm {
	b, err := aes.NewCipher(key)
	if err != nil {
		panic(err) // the key has 16 bytes
	}
	a, err := cipher.NewGCM(b)
	if err != nil {
		panic(err) // the block has 16 bytes
	}
	return gcm{aead: a, iv: iv}
}

// additional is the data that a record is authenticated with (RFC 5246 §6.2.3.3).
func (g *gcm) additional(kind byte, n int) []byte {
	return append(binary.BigEndian.AppendUint64(nil, g.seq), kind, 3, 3, byte(n>>8), byte(n))
}

// The kinds of records (RFC 5246 §6.2.1).
const (
	changeCipherSpec = 20
	handshake        = 22
	applicationData  = 23
)

func (u *unextended) writeRecord(kind byte, b []byte) error {
	if g := &u.toServer; g.aead != nil {
		explicit := binary.BigEndian.AppendUint64(nil, g.seq)
		b = append(explicit, g.aead.Seal(nil, slices.Concat(g.iv, explicit), b, g.additional(kind, len(b)))...)
		g.seq++
	}
	_, err := u.Conn.Write(append([]byte{kind, 3, 3, byte(len(b) >> 8), byte(len(b))}, b...))
	return err
}

func (u *unextended) readRecord(kind byte) ([]byte, error) {
	var head [5]byte
	if _, err := io.ReadFull(u.Conn, head[:]); err != nil {
		return nil, err
	}
	b := make([]byte, binary.BigEndian.Uint16(head[3:]))
	if _, err := io.ReadFull(u.Conn, b); err != nil {
		return nil, err
	}
	if head[0] != kind {
		return nil, fmt.Errorf("a record of kind %d, not %d: %x", head[0], kind, b)
	}
	if g := &u.toClient; g.aead != nil {
		if len(b) < 24 {
			return nil, errors.New("a record that is too short")
		}
		b2, err := g.aead.Open(nil, slices.Concat(g.iv, b[:8]), b[8:], g.additional(kind, len(b)-24))
		g.seq++
		return b2, err
	}
	return b, nil
}

func (u *unextended) Write(b []byte) (int, error) {
	return len(b), u.writeRecord(applicationData, b)
}

func (u *unextended) Read(b []byte) (int, error) {
	for len(u.rest) == 0 {
		var err error
		if u.rest, err = u.readRecord(applicationData); err != nil {
			return 0, err
		}
	}
	n := copy(b, u.rest)
	u.rest = u.rest[n:]
	return n, nil
}

// prf is the pseudorandom function of TLS 1.2 (RFC 5246 §5).
func prf(secret []byte, label string, seed []byte, n int) (out []byte) {
	mac := func(b ...[]byte) []byte {
		h := hmac.New(sha256.New, secret)
		h.Write(slices.Concat(b...))
		return h.Sum(nil)
	}
	seed = append([]byte(label), seed...)
	for a := mac(seed); len(out) < n; a = mac(a) {
		out = append(out, mac(a, seed)...)
	}
	return out[:n]
}

// message is one of a handshake.
func message(kind byte, b []byte) []byte {
	return append([]byte{kind, byte(len(b) >> 16), byte(len(b) >> 8), byte(len(b))}, b...)
}

// unextendedTLS makes a full handshake on nc, without the extension.
func unextendedTLS(nc net.Conn) (*unextended, error) {
	u := &unextended{Conn: nc}
	mine, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	random := make([]byte, 32)
	rand.Read(random)
	extensions := []byte("\x00\x00\x00\x0e\x00\x0c\x00\x00\x09localhost" + // server_name
		"\x00\x0a\x00\x04\x00\x02\x00\x1d" + // supported_groups: x25519
		"\x00\x0b\x00\x02\x01\x00" + // ec_point_formats
		"\x00\x0d\x00\x04\x00\x02\x04\x03") // signature_algorithms: ecdsa_secp256r1_sha256
	hello := slices.Concat([]byte{3, 3}, random, []byte{0, 0, 2, 0xc0, 0x2b, 1, 0, 0, byte(len(extensions))},
		extensions)
	all := message(1, hello) // what Finished is a hash of
	if err := u.writeRecord(handshake, all); err != nil {
		return nil, err
	}
	var theirs *ecdh.PublicKey
	var randomOfServer, pending []byte
	for done := false; !done; {
		b, err := u.readRecord(handshake)
		if err != nil {
			return nil, err
		}
		pending = append(pending, b...)
		for len(pending) >= 4 {
			n := int(pending[1])<<16 | int(pending[2])<<8 | int(pending[3])
			if len(pending) < 4+n {
				break
			}
			kind, body := pending[0], pending[4:4+n]
			all, pending = append(all, pending[:4+n]...), pending[4+n:]
			switch kind {
			case 2: // ServerHello
				randomOfServer = slices.Clone(body[2:34])
			case 11: // Certificate
				n := int(body[3])<<16 | int(body[4])<<8 | int(body[5])
				u.cert = slices.Clone(body[6 : 6+n])
			case 12: // ServerKeyExchange
				if theirs, err = ecdh.X25519().NewPublicKey(body[4 : 4+int(body[3])]); err != nil {
					return nil, err
				}
			case 14: // ServerHelloDone
				done = true
			}
		}
	}
	pre, err := mine.ECDH(theirs)
	if err != nil {
		return nil, err
	}
	public := mine.PublicKey().Bytes()
	key := message(16, append([]byte{byte(len(public))}, public...)) // ClientKeyExchange
	all = append(all, key...)
	master := prf(pre, "master secret", append(random, randomOfServer...), 48)
	keys := prf(master, "key expansion", append(randomOfServer, random[:32]...), 40)
	if err := errors.Join(u.writeRecord(handshake, key),
		u.writeRecord(changeCipherSpec, []byte{1})); err != nil {
		return nil, err
	}
	sum := sha256.Sum256(all)
	u.toServer = newGCM(keys[:16], keys[32:36])
	u.unique = prf(master, "client finished", sum[:], 12)
	if err := u.writeRecord(handshake, message(20, u.unique)); err != nil {
		return nil, err
	}
	if _, err := u.readRecord(changeCipherSpec); err != nil {
		return nil, err
	}
	u.toClient = newGCM(keys[16:32], keys[36:40])
	_, err = u.readRecord(handshake)
	return u, err
}
