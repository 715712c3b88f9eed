package reactor

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"net"
	"testing"
)

// A Sealer makes records of any kind, as the client of a connection on which crypto/tls has done the
// handshake.
type Sealer struct {
	net.Conn
	Version uint16
	layer   *tls13Layer // TLS 1.3
	aead    cipher.AEAD
	salt    []byte
	seq     uint64
	heard   bytes.Buffer // what the server has sent in the handshake
}

// Read keeps what it reads.
func (s *Sealer) Read(p []byte) (int, error) {
	n, err := s.Conn.Read(p)
	s.heard.Write(p[:n])
	return n, err
}

// NewSealer does the handshake over c, with AES-128-GCM.
func NewSealer(t testing.TB, c net.Conn, version uint16) *Sealer {
	s := &Sealer{Conn: c, Version: version}
	k, log := new(keyCapture), new(bytes.Buffer)
	tc := tls.Client(s, &tls.Config{InsecureSkipVerify: true, MaxVersion: version,
		NextProtos:   []string{"xmpp-client"},
		CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256}, KeyLogWriter: teeKeyLog{log, k}})
	if err := tc.Handshake(); err != nil {
		t.Fatal(err)
	}
	if version == tls.VersionTLS13 {
		var err error
		if s.layer, err = newTLS13Layer(true, tc.ConnectionState().CipherSuite, k.server[:k.serverLen],
			k.client[:k.clientLen],
			nil); err != nil {
			t.Fatal(err)
		}
		return s
	}
	line := bytes.Fields(log.Bytes()) // CLIENT_RANDOM, the random, the master secret: RFC 5246 section 6.3
	client, _ := hex.DecodeString(string(line[1]))
	master, _ := hex.DecodeString(string(line[2]))
	seed := append(append([]byte("key expansion"), s.heard.Bytes()[recordHead+4+2:][:32]...), client...)
	sum := func(p ...[]byte) []byte {
		h := hmac.New(sha256.New, master)
		h.Write(bytes.Join(p, nil))
		return h.Sum(nil)
	}
	var block []byte
	for a := sum(seed); len(block) < 40; a = sum(a) {
		block = append(block, sum(a, seed)...)
	}
	b, err := aes.NewCipher(block[:16])
	if err != nil {
		t.Fatal(err)
	}
	s.aead, _ = cipher.NewGCM(b)
	s.salt, s.seq = block[32:36], 1 // after Finished
	return s
}

// Record is one; TLS 1.2 has no padding.
func (s *Sealer) Record(kind byte, content []byte, padding int) []byte {
	if s.layer != nil {
		return s.layer.appendRecord(nil, kind, content, padding)
	}
	n := 8 + len(content) + s.aead.Overhead() // RFC 5288 section 3
	number := binary.BigEndian.AppendUint64(nil, s.seq)
	s.seq++
	data := append(bytes.Clone(number), kind, 3, 3, byte(len(content)>>8), byte(len(content)))
	return s.aead.Seal(append([]byte{kind, 3, 3, byte(n >> 8), byte(n)}, number...),
		append(bytes.Clone(s.salt), number...), content, data)
}

// Update is a KeyUpdate.
func (s *Sealer) Update() []byte { return s.layer.appendKeyUpdate(nil, 0) }
