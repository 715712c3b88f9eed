package hostile

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"io"
	"math/big"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"
)

// A peer is a server of crypto/tls. It notes what it reads, and why reading ended.
type peer struct {
	addr  netip.AddrPort
	mu    sync.Mutex
	read  strings.Builder
	ends  []error
	ended chan error
}

func listen(t *testing.T, version uint16) *peer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &peer{addr: ln.Addr().(*net.TCPAddr).AddrPort(), ended: make(chan error, 10000)}
	cfg := &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
		MaxVersion: version}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer nc.Close()
				p.serve(tls.Server(nc, cfg))
			})
		}
	})
	t.Cleanup(func() { ln.Close(); wg.Wait() })
	return p
}

// serve sends back what it reads.
func (p *peer) serve(c *tls.Conn) {
	buf := make([]byte, 16<<10)
	for {
		n, err := c.Read(buf)
		p.mu.Lock()
		p.read.Write(buf[:n])
		if err != nil {
			p.ends = append(p.ends, err)
		}
		p.mu.Unlock()
		if err != nil {
			p.ended <- err
			return
		}
		c.Write(buf[:n])
	}
}

// connect makes a connection whose handshake is done.
func connect(t *testing.T, to netip.AddrPort) (*transport, *tls.Conn) {
	t.Helper()
	a, err := Start(t.Context(), "keyupdate", Config{Direct: to, Domain: "localhost"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Stop() })
	w, err := (&attacker{a: a}).dial(to)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	if err := w.secure(); err != nil {
		t.Fatal(err)
	}
	return w, w.top.(*tls.Conn)
}

func say(t *testing.T, w *transport, b []byte) {
	t.Helper()
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
}

func echo(t *testing.T, c *tls.Conn, want string) {
	t.Helper()
	c.SetReadDeadline(time.Now().Add(5 * time.Second))
	b := make([]byte, len(want))
	if _, err := io.ReadFull(c, b); err != nil || string(b) != want {
		t.Fatalf("the server sent back %q, %v; want %q", b, err, want)
	}
}

// crypto/tls accepts the records of a sealer: after some that it wrote itself, under new
// keys again and again, padded, empty; and its answers to KeyUpdates are what it can read.
func TestRecordsAreValid(t *testing.T) {
	p := listen(t, tls.VersionTLS13)
	w, c := connect(t, p.addr)
	for _, text := range []string{"written ", "by crypto/tls, ", strings.Repeat("long", 10000)} {
		if _, err := io.WriteString(c, text); err != nil {
			t.Fatal(err)
		}
		echo(t, c, text)
	}
	s, err := w.captureKeys()
	if err != nil {
		t.Fatal(err)
	}
	say(t, w, s.record(nil, typeApplication, []byte("ours"), 0))
	echo(t, c, "ours")
	for n := range 40 {
		b, err := s.keyUpdate(nil, byte(n%2))
		if err != nil {
			t.Fatal(err)
		}
		b = s.record(b, typeApplication, nil, n)
		b = s.record(b, typeApplication, []byte("new keys"), 7*n)
		say(t, w, b)
		echo(t, c, "new keys")
	}
	say(t, w, s.record(nil, typeApplication, []byte{'x'}, 16<<10-1))
	echo(t, c, "x")
	say(t, w, s.record(nil, typeAlert, []byte{1, 0}, 0))
	if err := <-p.ended; err != io.EOF {
		t.Errorf("the server did not take our close_notify: %v", err)
	}
}

// What Go's server bears, and what not: it counts records that bring nothing.
func TestUselessRecords(t *testing.T) {
	for _, c := range []struct {
		name string
		n    int
		add  func(s *sealer, b []byte) []byte
		want string // in the server's error; empty: it bears them
	}{
		{"16 updates", 16, func(s *sealer, b []byte) []byte { b, _ = s.keyUpdate(b, 1); return b }, ""},
		{"17 updates", 17, func(s *sealer, b []byte) []byte { b, _ = s.keyUpdate(b, 1); return b },
			"too many non-advancing records"},
		{"17 updates that ask for none", 17, func(s *sealer, b []byte) []byte {
			b,
				_ = s.keyUpdate(b, 0)
			return b
		}, "too many non-advancing records"},
		{"16 empty records", 16, func(s *sealer, b []byte) []byte {
			return s.record(b, typeApplication, nil,
				0)
		}, ""},
		{"17 empty records", 17, func(s *sealer, b []byte) []byte {
			return s.record(b, typeApplication, nil,
				5)
		}, "too many ignored records"},
		{"an update of a third kind", 1, func(s *sealer, b []byte) []byte {
			b,
				_ = s.keyUpdate(b, 2)
			return b
		}, "error decoding message"},
		{"zeros", 1, func(s *sealer, b []byte) []byte { return s.record(b, 0, nil, 50) }, "unexpected message"},
		{"a record number too far", 1, func(s *sealer,
			b []byte) []byte {
			s.seq++
			return s.record(b, typeApplication, []byte("x"), 0)
		}, "bad record MAC"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := listen(t, tls.VersionTLS13)
			w, tc := connect(t, p.addr)
			s, err := w.captureKeys()
			if err != nil {
				t.Fatal(err)
			}
			var b []byte
			for range c.n {
				b = c.add(s, b)
			}
			b = s.record(b, typeApplication, []byte("after"), 0)
			say(t, w, b)
			if c.want == "" {
				echo(t, tc, "after")
				return
			}
			if err := <-p.ended; err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("the server ended it by %v; want %q", err, c.want)
			}
		})
	}
}

// Nothing that the attack sends is merely broken: a record that can't be opened costs a server next
// to nothing.
func TestKeyUpdatesAreOpened(t *testing.T) {
	p := listen(t, tls.VersionTLS13)
	a, err := Start(t.Context(), "keyupdate", Config{Direct: p.addr, Domain: "localhost", Connections: 18})
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	blanks := 0
	await(t, "all that it does was seen", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, err := range p.ends {
			switch {
			case strings.Contains(err.Error(), "bad record MAC"):
				t.Fatalf("a record could not be opened: %v", err)
			case strings.Contains(err.Error(), "too many"),
				strings.Contains(err.Error(), "error decoding message"),
				strings.Contains(err.Error(), "unexpected message"):
				seen[err.Error()] = true
			}
		}
		blanks = strings.Count(p.read.String(), " ")
		return len(seen) >= 4 && blanks > 200
	})
	if st := a.Stop(); st.Refused == 0 || st.Failed > 0 {
		t.Errorf("%+v", st)
	}
}

func TestOldTLS(t *testing.T) {
	p := listen(t, tls.VersionTLS12)
	w, _ := connect(t, p.addr)
	if _, err := w.captureKeys(); err == nil || !strings.Contains(err.Error(), "TLS 1.2") {
		t.Errorf("TLS 1.2: %v", err)
	}
	if _, err := newSealer(tls.TLS_CHACHA20_POLY1305_SHA256, make([]byte, 32), 0); err == nil ||
		!strings.Contains(err.Error(), "CHACHA20") {
		t.Errorf("a suite that is not known: %v", err)
	}
}

// RFC 8448 §3 has the client's application keys of a handshake.
func TestTrafficKeys(t *testing.T) {
	secret, _ := hex.DecodeString("9e40646ce79a7f9dc05af8889bce6552875afa0b06df0087f792ebb7c17504a5")
	s, err := newSealer(tls.TLS_AES_128_GCM_SHA256, secret, 0)
	if err != nil {
		t.Fatal(err)
	}
	if got := hex.EncodeToString(s.iv); got != "5b78923dee08579033e523d9" {
		t.Errorf("the iv is %s", got)
	}
	if key, err := s.expand("key", 16); err != nil ||
		hex.EncodeToString(key) != "17422dda596ed5d9acd890e3c63f5051" {
		t.Errorf("the key is %x, %v", key, err)
	}
}

// The longer suite differs in its hash and the length of its key.
func TestLongKeys(t *testing.T) {
	secret := []byte(strings.Repeat("secret", 8))
	s, err := newSealer(tls.TLS_AES_256_GCM_SHA384, secret, 0)
	if err != nil {
		t.Fatal(err)
	}
	derive := func(info string, n int) []byte {
		b, err := hkdf.Expand(sha512.New384, secret, info, n)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	block, err := aes.NewCipher(derive("\x00\x20\x09tls13 key\x00", 32))
	if err != nil {
		t.Fatal(err)
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		t.Fatal(err)
	}
	rec := s.record(nil, typeApplication, []byte("x"), 2)
	plain, err := gcm.Open(nil, derive("\x00\x0c\x08tls13 iv\x00", 12), rec[5:], rec[:5])
	if err != nil || string(plain) != "x\x17\x00\x00" {
		t.Errorf("opened: %q, %v", plain, err)
	}
	if _, err := newSealer(tls.TLS_AES_256_GCM_SHA384, make([]byte, sha256.Size), 0); err == nil {
		t.Error("a secret that is too short was taken")
	}
}

// Records are counted however they are cut.
func TestCount(t *testing.T) {
	stream := []byte{22, 3, 1, 0, 2, 9, 9, 20, 3, 3, 0, 1, 1, 23, 3, 3, 0, 3, 1, 2, 3, 23, 3, 3, 0, 0, 23,
		3, 3, 1, 0}
	stream = append(stream, make([]byte, 256)...)
	for size := 1; size <= len(stream); size++ {
		var r recordLog
		for b := stream; len(b) > 0; {
			n := min(size, len(b))
			r.pass(b[:n])
			b = b[n:]
		}
		if r.sealed != 3 || r.left != 0 || len(r.head) != 0 {
			t.Fatalf("in pieces of %d: %d records, %d bytes left", size, r.sealed, r.left)
		}
	}
}
