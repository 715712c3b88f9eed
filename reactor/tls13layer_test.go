package reactor

import (
	"bytes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	mrand "math/rand/v2"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"unsafe"

	"canto/reactor/buf"
)

// Every AEAD that seals in a test of this package notes its nonces, and panics at a nonce that was
// used under the same key before (attack K31).
func TestMain(m *testing.M) {
	wrapSealAEAD = func(a cipher.AEAD, key []byte) cipher.AEAD { return &nonces{a, string(key)} }
	os.Exit(m.Run())
}

type nonces struct {
	cipher.AEAD
	key string
}

var (
	seenNonces sync.Map
	unchecked  atomic.Bool // while allocations are counted
)

func (a *nonces) Seal(dst, nonce, plain, data []byte) []byte {
	if !unchecked.Load() {
		if _, again := seenNonces.LoadOrStore(a.key+string(nonce), true); again {
			panic("a nonce was used twice under one key")
		}
	}
	return a.AEAD.Seal(dst, nonce, plain, data)
}

// twins are two ends of one connection.
func twins(t testing.TB, id uint16) (server, client *tls13Layer) {
	t.Helper()
	n := 32
	if id == tls.TLS_AES_256_GCM_SHA384 {
		n = 48
	}
	secrets := make([]byte, 2*n)
	rand.Read(secrets)
	server, err := newTLS13Layer(false, id, secrets[:n], secrets[n:], nil)
	if err != nil {
		t.Fatal(err)
	}
	client, err = newTLS13Layer(true, id, secrets[n:], secrets[:n], nil)
	if err != nil {
		t.Fatal(err)
	}
	return server, client
}

// open gives in to y in pieces of cut bytes, from a buffer that is used again. It returns the data, what y
// says by itself, and why it stopped.
func open(y *tls13Layer, in []byte, cut int) (data, said []byte, err error) {
	room := make([]byte, maxCiphertext)
	piece := make([]byte, 0, cut)
	for err == nil && len(in) > 0 {
		piece = append(piece[:0], in[:min(cut, len(in))]...)
		in = in[len(piece):]
		y.feed(piece)
		for err == nil {
			var n int
			n, err = y.Read(room)
			data = append(data, room[:n]...)
		}
		if errors.Is(err, errWouldBlock) {
			err = nil
		}
		y.parkUnread()
		for i := range piece {
			piece[i] = 0xDD
		}
		said = y.takePending(said)
	}
	return data, said, err
}

func sealed(t testing.TB, y *tls13Layer, text string) []byte {
	t.Helper()
	b, err := y.seal(nil, []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// verdict is the alert in an error, with the end that sent it.
func verdict(err error) string {
	var op *net.OpError
	var a tls.AlertError
	if errors.As(err, &op) && errors.As(err, &a) {
		return fmt.Sprint(op.Op, " ", uint8(a))
	}
	return fmt.Sprint(err)
}

func local(a tls.AlertError) string  { return fmt.Sprint("local error ", uint8(a)) }
func remote(a tls.AlertError) string { return fmt.Sprint("remote error ", uint8(a)) }

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The connection of RFC 8448 section 3, from its application traffic secrets on.
func TestRFC8448(t *testing.T) {
	clientSecret := unhex(t, "9e40646ce79a7f9dc05af8889bce6552875afa0b06df0087f792ebb7c17504a5")
	serverSecret := unhex(t, "a11af9f05531f856ad47116b45a950328204b4f44bfb6b3a4b4f1f3fcb631643")
	for _, v := range []struct {
		name, secret, key, iv string
	}{
		{"server", string(serverSecret), "9f02283b6c9c07efc26bb9f2ac92e356", "cf782b88dd83549aadf1e984"},
		{"client", string(clientSecret), "17422dda596ed5d9acd890e3c63f5051", "5b78923dee08579033e523d9"},
	} {
		key, iv := make([]byte, 16), make([]byte, 12)
		suites[0].expandLabel(key, []byte(v.secret), "key")
		suites[0].expandLabel(iv, []byte(v.secret), "iv")
		if hex.EncodeToString(key) != v.key || hex.EncodeToString(iv) != v.iv {
			t.Errorf("%s: key %x, iv %x", v.name, key, iv)
		}
	}
	text := make([]byte, 50)
	for i := range text {
		text[i] = byte(i)
	}
	clientData := unhex(t, `17 03 03 00 43 a2 3f 70 54 b6 2c 94 d0 af fa fe 82 28 ba 55 cb ef ac ea 42 f9
		14 aa 66 bc ab 3f 2b 98 19
		a8 a5 b4 6b 39 5b d5 4a 9a 20 44 1e 2b 62 97 4e 1f 5a 62 92 a2 97 70 14 bd 1e 3d ea e6 3a ee bb 21 69
		49 15 e4`)
	serverData := unhex(t, `17 03 03 00 43 2e 93 7e 11 ef 4a c7 40 e5 38 ad 36 00 5f c4 a4 69 32 fc 32 25
		d0 5f 82 aa 1b 36 e3 0e fa
		f9 7d 90 e6 df fc 60 2d cb 50 1a 59 a8 fc c4 9c 4b f2 e5 f0 a2 1c 00 47 c2 ab f3 32 54 0d d0 32 e1 67
		c2 95 5d`)
	clientBye := unhex(t, "17 03 03 00 13 c9 87 27 60 65 56 66 b7 4d 7f f1 15 3e fd 6d b6 d0 b0 e3")
	serverBye := unhex(t, "17 03 03 00 13 b5 8f d6 71 66 eb f5 99 d2 47 20 cf be 7e fa 7a 88 64 a9")

	server, err := newTLS13Layer(false, tls.TLS_AES_128_GCM_SHA256, clientSecret, serverSecret, nil)
	if err != nil {
		t.Fatal(err)
	}
	server.out.seq = 1 // its NewSessionTicket
	if data, _, err := open(server, append(clientData, clientBye...), 7); err != io.EOF ||
		!bytes.Equal(data, text) {
		t.Errorf("the server reads %x, %v", data, err)
	}
	if b := sealed(t, server, string(text)); !bytes.Equal(b, serverData) {
		t.Errorf("the server writes %x", b)
	}
	if b := server.appendCloseNotify(nil); !bytes.Equal(b, serverBye) {
		t.Errorf("the server ends with %x", b)
	}
	client, err := newTLS13Layer(true, tls.TLS_AES_128_GCM_SHA256, serverSecret, clientSecret, nil)
	if err != nil {
		t.Fatal(err)
	}
	client.in.seq = 1
	if data, _, err := open(client, append(serverData, serverBye...), 1000); err != io.EOF ||
		!bytes.Equal(data, text) {
		t.Errorf("the client reads %x, %v", data, err)
	}
	if b := client.appendCloseNotify(sealed(t, client, string(text))); !bytes.Equal(b,
		append(clientData[:72:72], clientBye...)) {
		t.Errorf("the client writes %x", b)
	}
}

// A quiet record layer takes no memory but its own struct.
func TestLayerSize(t *testing.T) {
	if n := unsafe.Sizeof(tls13Layer{}); n > 136 {
		t.Errorf("a layer is %d bytes", n)
	}
	server, client := twins(t, tls.TLS_AES_128_GCM_SHA256)
	if w := server.warm; w == nil || w.in != nil || w.out == nil || server.unopened != nil {
		t.Error("a new layer is not ready to write, which it will do next, or for more")
	}
	open(server, sealed(t, client, "x"), 100)
	if server.warm == nil || server.unopened != nil {
		t.Error("an used layer is not warm, or keeps input")
	}
	server.cool()
	if data, _, err := open(server, sealed(t, client, "y"), 3); string(data) != "y" || err != nil {
		t.Errorf("after cooling: %q, %v", data, err)
	}
}

// Nothing is allocated for a record, once warm.
func TestLayerAllocations(t *testing.T) {
	unchecked.Store(true)
	defer unchecked.Store(false)
	server, client := twins(t, tls.TLS_AES_256_GCM_SHA384)
	text, wire, room := bytes.Repeat([]byte("m"), 374), make([]byte, 0, 1000), make([]byte, maxCiphertext)
	once := func() {
		wire, _ = client.seal(wire[:0], text)
		server.feed(wire)
		n, err := server.Read(room)
		if n != len(text) || err != nil {
			t.Fatal(n, err)
		}
		server.Read(room)
		server.parkUnread()
	}
	once()
	if a := testing.AllocsPerRun(1000, once); a > 0 {
		t.Errorf("%v allocations for a record sealed and opened", a)
	}
}

// What a peer may do wrong, and the alert that ends it. The alert is sent once, can be read, and
// nothing is sent after it (attacks T05, K33 to K37, K39, K40).
func TestAttackT05K33K34K35K36K37K39K40Verdicts(t *testing.T) {
	update := func(v byte) []byte { return []byte{messageKeyUpdate, 0, 0, 1, v} }
	join := func(p ...[]byte) []byte { return bytes.Join(p, nil) }
	head := func(kind byte, version, n int) []byte {
		return []byte{kind, byte(version >> 8), byte(version), byte(n >> 8), byte(n)}
	}
	rec := func(kind byte, content []byte, padding int) func(p *tls13Layer) []byte {
		return func(p *tls13Layer) []byte { return p.appendRecord(nil, kind, content, padding) }
	}
	raw := func(b []byte) func(p *tls13Layer) []byte { return func(*tls13Layer) []byte { return b } }
	flip := func(at int) func(p *tls13Layer) []byte {
		return func(p *tls13Layer) []byte {
			b := sealed(t, p, "secret text")
			b[(at+len(b))%len(b)] ^= 4
			return b
		}
	}
	ticket := append([]byte{messageTicket, 0, 0, 100}, make([]byte, 100)...)
	const fine = "<nil>"
	for _, c := range []struct {
		name string
		bad  func(p *tls13Layer) []byte
		want string // of a server, and of a client if that is another
		then string
	}{
		{"two KeyUpdates in a record", rec(typeHandshake, join(update(0), update(0)), 0),
			local(alertUnexpectedMessage), ""},
		{"three KeyUpdates in a record", rec(typeHandshake, bytes.Repeat(update(1), 3), 0),
			local(alertUnexpectedMessage), ""},
		{"100 KeyUpdates in a record", rec(typeHandshake, bytes.Repeat(update(1), 100), 0),
			local(alertUnexpectedMessage), ""},
		{"a KeyUpdate and half of another", rec(typeHandshake, join(update(0), []byte{messageKeyUpdate, 0}), 0),
			local(alertUnexpectedMessage), ""},
		{"a KeyUpdate of value 2", rec(typeHandshake, update(2), 0), local(alertIllegalParameter), ""},
		{"a KeyUpdate without a value", rec(typeHandshake, []byte{messageKeyUpdate, 0, 0, 0}, 0),
			local(alertDecodeError), ""},
		{"a KeyUpdate of two bytes", rec(typeHandshake, []byte{messageKeyUpdate, 0, 0, 2, 0, 0}, 0),
			local(alertDecodeError), ""},
		{"a KeyUpdate of 64 KiB", rec(typeHandshake, []byte{messageKeyUpdate, 1, 0, 0}, 0),
			local(alertDecodeError), ""},
		{"data inside a KeyUpdate", func(p *tls13Layer) []byte {
			return join(p.appendRecord(nil, typeHandshake, update(0)[:3], 0),
				p.appendRecord(nil, typeApplication, []byte("x"), 0))
		}, local(alertUnexpectedMessage), ""},
		{"an empty record inside a KeyUpdate", func(p *tls13Layer) []byte {
			return join(p.appendRecord(nil, typeHandshake, update(0)[:3], 0),
				p.appendRecord(nil, typeApplication, nil, 0))
		}, local(alertUnexpectedMessage), ""},
		{"an alert inside a KeyUpdate", func(p *tls13Layer) []byte {
			return join(p.appendRecord(nil, typeHandshake, update(0)[:3], 0),
				p.appendRecord(nil, typeAlert, []byte{1, 0}, 0))
		}, local(alertUnexpectedMessage), ""},

		{"a NewSessionTicket", rec(typeHandshake, ticket, 0), local(alertUnexpectedMessage), fine},
		{"two tickets", rec(typeHandshake, join(ticket, ticket), 0), local(alertUnexpectedMessage), fine},
		{"an empty ticket", rec(typeHandshake, ticket[:1:1], 0), local(alertUnexpectedMessage), fine},
		{"a ticket of 0 bytes", rec(typeHandshake, []byte{messageTicket, 0, 0, 0}, 0),
			local(alertUnexpectedMessage), local(alertDecodeError)},
		{"a ticket of 16 MiB", rec(typeHandshake, []byte{messageTicket, 255, 255, 255}, 0),
			local(alertUnexpectedMessage), local(alertDecodeError)},
		{"64 KiB of ticket in records of a byte", func(p *tls13Layer) (b []byte) {
			for _, c := range append([]byte{messageTicket, 0, 255, 255}, make([]byte, 1000)...) {
				b = p.appendRecord(b, typeHandshake, []byte{c}, 0)
			}
			return b
		}, local(alertUnexpectedMessage), local(alertUnexpectedMessage)},
		{"a ticket and a KeyUpdate", rec(typeHandshake, join(ticket, update(0)), 0),
			local(alertUnexpectedMessage), fine},
		{"a ClientHello", rec(typeHandshake, []byte{1, 0, 0, 2, 3, 3}, 0), local(alertUnexpectedMessage), ""},
		{"a HelloRequest", rec(typeHandshake, []byte{0, 0, 0, 0}, 0), local(alertUnexpectedMessage), ""},
		{"a CertificateRequest", rec(typeHandshake, []byte{13, 0, 0, 3, 0, 0, 0}, 0),
			local(alertUnexpectedMessage), ""},
		{"a Certificate", rec(typeHandshake, []byte{11, 0, 0, 1, 0}, 0), local(alertUnexpectedMessage), ""},
		{"a Finished", rec(typeHandshake, append([]byte{20, 0, 0, 32}, make([]byte, 32)...), 0),
			local(alertUnexpectedMessage), ""},
		{"an unknown message", rec(typeHandshake, []byte{99}, 0), local(alertUnexpectedMessage), ""},
		{"an empty handshake record", rec(typeHandshake, nil, 0), local(alertUnexpectedMessage), ""},
		{"a handshake record of padding", rec(typeHandshake, nil, 100), local(alertUnexpectedMessage), ""},

		{"33 empty records", func(p *tls13Layer) (b []byte) {
			for range maxNoDataRun + 1 {
				b = p.appendRecord(b, typeApplication, nil, 0)
			}
			return b
		}, local(alertUnexpectedMessage), ""},
		{"33 records of padding", func(p *tls13Layer) (b []byte) {
			for range maxNoDataRun + 1 {
				b = p.appendRecord(b, typeApplication, nil, 16000)
			}
			return b
		}, local(alertUnexpectedMessage), ""},
		{"32 empty records", func(p *tls13Layer) (b []byte) {
			for range maxNoDataRun {
				b = p.appendRecord(b, typeApplication, nil, 0)
			}
			return b
		}, fine, ""},
		{"a byte in 16 KiB of padding", rec(typeApplication, []byte("x"), maxContent-1), fine, ""},
		{"padding and no type", rec(0, nil, 100), local(alertUnexpectedMessage), ""},
		{"nothing at all", rec(0, nil, 0), local(alertUnexpectedMessage), ""},

		{"the largest record", rec(typeApplication, make([]byte, maxContent), 0), fine, ""},
		{"a byte too much", rec(typeApplication, make([]byte, maxContent+1), 0), local(alertRecordOverflow), ""},
		{"a byte of padding too much", rec(typeApplication, make([]byte, maxContent), 1),
			local(alertRecordOverflow), ""},
		{"as much as fits", rec(typeApplication, make([]byte, maxContent+239), 0), local(alertRecordOverflow), ""},
		{"a header of 2^14+257", raw(head(typeApplication, 0x303, maxCiphertext+1)), local(alertRecordOverflow),
			""},
		{"a header of 65,535", raw(head(typeApplication, 0x303, 65535)), local(alertRecordOverflow), ""},
		{"a header of 0", raw(head(typeApplication, 0x303, 0)), local(alertBadRecordMAC), ""},
		{"a header of 15", raw(head(typeApplication, 0x303, 15)), local(alertBadRecordMAC), ""},
		{"a tag of zeros", raw(append(head(typeApplication, 0x303, 16), make([]byte, 16)...)),
			local(alertBadRecordMAC), ""},

		{"a ChangeCipherSpec", raw([]byte{20, 3, 3, 0, 1, 1}), local(alertUnexpectedMessage), ""},
		{"close_notify in plain", raw([]byte{typeAlert, 3, 3, 0, 2, 1, 0}), local(alertUnexpectedMessage), ""},
		{"a handshake in plain", raw([]byte{typeHandshake, 3, 3, 0, 5, 24, 0, 0, 1, 0}),
			local(alertUnexpectedMessage), ""},
		{"text in plain", raw([]byte("<presence/>")), local(alertUnexpectedMessage), ""},
		{"a version of TLS 1.0", raw(head(typeApplication, 0x301, 100)), local(alertUnexpectedMessage), ""},
		{"a version of TLS 1.3", raw(head(typeApplication, 0x304, 100)), local(alertUnexpectedMessage), ""},
		{"an inner ChangeCipherSpec", rec(20, []byte{1}, 0), local(alertUnexpectedMessage), ""},
		{"an inner type of 24", rec(24, []byte("heartbeat"), 0), local(alertUnexpectedMessage), ""},
		{"an inner type of 255", rec(255, []byte("x"), 0), local(alertUnexpectedMessage), ""},

		{"an empty alert", rec(typeAlert, nil, 0), local(alertUnexpectedMessage), ""},
		{"half an alert", rec(typeAlert, []byte{1}, 0), local(alertDecodeError), ""},
		{"two alerts", rec(typeAlert, []byte{1, 0, 1, 0}, 0), local(alertDecodeError), ""},
		{"user_canceled", rec(typeAlert, []byte{1, 90}, 0), fine, ""},
		{"33 times user_canceled", func(p *tls13Layer) (b []byte) {
			for range maxNoDataRun + 1 {
				b = p.appendRecord(b, typeAlert, []byte{1, 90}, 0)
			}
			return b
		}, local(alertUnexpectedMessage), ""},
		{"a fatal alert", rec(typeAlert, []byte{2, 40}, 0), remote(40), ""},
		{"a fatal alert that says it is a warning", rec(typeAlert, []byte{1, 40}, 0), remote(40), ""},
		{"an unknown alert", rec(typeAlert, []byte{1, 200}, 0), remote(200), ""},
		{"close_notify that says it is fatal", rec(typeAlert, []byte{2, 0}, 0), "EOF", ""},
		{"data after close_notify", func(p *tls13Layer) []byte {
			return join(p.appendRecord(nil, typeAlert, []byte{1, 0}, 0), p.appendRecord(nil, typeApplication,
				[]byte("late"), 0),
				[]byte("garbage"))
		}, "EOF", ""},

		{"a bit of the type", flip(0), local(alertUnexpectedMessage), ""},
		{"a bit of the version", flip(2), local(alertUnexpectedMessage), ""},
		{"a bit of the first byte", flip(5), local(alertBadRecordMAC), ""},
		{"a bit of the inner type", flip(-17), local(alertBadRecordMAC), ""},
		{"a bit of the tag", flip(-1), local(alertBadRecordMAC), ""},
		{"a record twice", func(p *tls13Layer) []byte {
			b := sealed(t, p, " ")
			return join(b, b)
		}, local(alertBadRecordMAC), ""},
		{"two records swapped", func(p *tls13Layer) []byte {
			a, b := sealed(t, p, "one"), sealed(t, p, "two")
			return join(b, a)
		}, local(alertBadRecordMAC), ""},
		{"a record left out", func(p *tls13Layer) []byte {
			sealed(t, p, "one")
			return sealed(t, p, "two")
		}, local(alertBadRecordMAC), ""},
		{"a record of another connection", func(p *tls13Layer) []byte {
			_, other := twins(t, tls.TLS_AES_128_GCM_SHA256)
			other.out.seq = p.out.seq
			return sealed(t, other, "x")
		}, local(alertBadRecordMAC), ""},
		{"our own record", nil, local(alertBadRecordMAC), ""},
		{"the old key after a KeyUpdate", func(p *tls13Layer) []byte {
			return join(p.appendRecord(nil, typeHandshake, update(0), 0),
				p.appendRecord(nil, typeApplication, []byte("x"), 0))
		}, local(alertBadRecordMAC), ""},
	} {
		for _, role := range []string{"server", "client"} {
			for _, cut := range []int{1, 100, 1 << 20} {
				name := fmt.Sprintf("%s to a %s, by %d", c.name, role, cut)
				y, p := twins(t, tls.TLS_AES_128_GCM_SHA256)
				want := c.want
				if role == "client" {
					y, p = p, y
					if c.then != "" {
						want = c.then
					}
				}
				var wire []byte
				first := sealed(t, p, "before")
				if c.bad != nil {
					wire = c.bad(p)
				} else {
					wire = sealed(t, y, "mine")
					open(p, wire, 1000)
				}
				wire = append(first, wire...)
				if bytes.HasPrefix([]byte(c.name), []byte("a KeyUpdate of 64")) {
					wire = append(wire, sealed(t, p, "and on")...)
				}
				data, said, err := open(y, wire, cut)
				if verdict(err) != want || !bytes.HasPrefix(data, []byte("before")) ||
					bytes.Contains(data, []byte("late")) {
					t.Errorf("%s: %s, want %s; data %.20q", name, verdict(err), want, data)
					continue
				}
				heard, _, err := open(p, said, 1000)
				switch {
				case strings.HasPrefix(want, "local"):
					if "remote"+strings.TrimPrefix(want, "local") != verdict(err) || len(heard) != 0 {
						t.Errorf("%s: the peer hears %q, %v", name, heard, err)
					}
				case len(said) != 0:
					t.Errorf("%s: %d bytes were said", name, len(said))
				}
				if want == fine {
					if data, _, err := open(p, sealed(t, y, "on"), 1000); string(data) != "on" || err != nil {
						t.Errorf("%s: afterwards %q, %v", name, data, err)
					}
					continue
				}
				if again, more, err := open(y, wire, 1000); len(again)+len(more) != 0 || err == nil {
					t.Errorf("%s: it goes on with %q and %x, %v", name, again, more, err)
				}
				if y.buffered() != 0 {
					t.Errorf("%s: %d bytes are kept", name, y.buffered())
				}
				b := y.appendCloseNotify(nil)
				if _, err := y.seal(nil, []byte("x")); err == nil || (want == "EOF") != (len(b) > 0) ||
					len(y.appendCloseNotify(nil)) > 0 {
					t.Errorf("%s: sealing afterwards %v, close_notify of %d bytes", name, err, len(b))
				}
				y.wipeAll()
				p.wipeAll()
				if y.in != (halfConn{seq: y.in.seq}) || y.out != (halfConn{seq: y.out.seq}) {
					t.Errorf("%s: a secret is left", name)
				}
			}
		}
	}
}

// A KeyUpdate that is cut over records or bytes works, in both directions, with an answer where one is asked
// for, and any number of times as long as there is data between (attack T05).
func TestAttackT05Updates(t *testing.T) {
	for _, id := range []uint16{tls.TLS_AES_128_GCM_SHA256, tls.TLS_AES_256_GCM_SHA384,
		tls.TLS_CHACHA20_POLY1305_SHA256} {
		for cut := 1; cut < 5; cut++ {
			y, p := twins(t, id)
			for i := range 100 {
				u := []byte{messageKeyUpdate, 0, 0, 1, byte(i % 2)}
				wire := p.appendRecord(p.appendRecord(nil, typeHandshake, u[:cut], 0), typeHandshake, u[cut:], 10)
				p.out.updateSecret(p.cipherSuite())
				p.warm.out = nil
				if i%3 == 0 {
					p.cool()
				}
				wire = append(wire, sealed(t, p, strings.Repeat("text ", 40))...)
				data, said, err := open(y, wire, 1+i)
				if len(data) != 200 || err != nil || (len(said) > 0) != (i%2 == 1) {
					t.Fatalf("round %d: %q, %d bytes said, %v", i, data, len(said), err)
				}
				if i%5 == 0 {
					y.cool()
				}
				back, more, err := open(p, append(said, sealed(t, y, "back")...), 1+i)
				if string(back) != "back" || err != nil || len(more) > 0 {
					t.Fatalf("round %d: %q, %d bytes said, %v", i, back, len(more), err)
				}
			}
		}
	}
}

// KeyUpdates without end, or with a byte of data now and then, end the connection, and get one
// answer at a time (attack T06).
func TestAttackT06Flood(t *testing.T) {
	for _, every := range []int{0, 1, 5, 32} { // a byte of data after so many
		y, p := twins(t, tls.TLS_AES_128_GCM_SHA256)
		room := make([]byte, maxCiphertext)
		done, data := 0, 0
		var err error
		for ; done < 10_000 && (err == nil || errors.Is(err, errWouldBlock)); done++ {
			wire := p.appendKeyUpdate(nil, 1)
			if every > 0 && done%every == every-1 {
				wire = append(wire, sealed(t, p, " ")...)
			}
			y.feed(wire)
			for err = nil; err == nil; {
				var n int
				n, err = y.Read(room)
				data += n
			}
			y.parkUnread()
			if done == 10 {
				if said := y.takePending(nil); len(said) != recordHead+5+1+tagSize {
					t.Fatalf("%d bytes answer ten KeyUpdates", len(said))
				}
			}
		}
		limit := maxNoDataRun + 1
		if every > 0 {
			limit = maxNoDataDebt + 1 // a byte is no excuse
		}
		if verdict(err) != local(alertUnexpectedMessage) || done != limit {
			t.Errorf("a byte after %d: %d KeyUpdates went through, %d bytes of data, then %v", every, done, data, err)
		}
		if over := y.warm.overhead; over < (done-1)*keyUpdateOverhead {
			t.Errorf("%d KeyUpdates count as %d bytes", done, over)
		}
	}
}

// Padding and records without data are reported by TakeTLSOverhead (attacks K33, K34).
func TestAttackK33K34Overhead(t *testing.T) {
	y, p := twins(t, tls.TLS_AES_128_GCM_SHA256)
	c := &Conn{tls: &tlsConn{flags: tlsSecure}}
	c.tls.layer = *y
	y = &c.tls.layer
	open(y, p.appendRecord(nil, typeApplication, []byte("x"), 16000), 1000)
	if n := c.TakeTLSOverhead(); n != 16000 {
		t.Errorf("padding counts as %d", n)
	}
	open(y, p.appendRecord(nil, typeApplication, nil, 100), 1000)
	if n := c.TakeTLSOverhead(); n != recordHead+1+100+tagSize {
		t.Errorf("an empty record counts as %d", n)
	}
	open(y, sealed(t, p, "x"), 1000)
	if n := c.TakeTLSOverhead(); n != 0 {
		t.Errorf("data count as %d", n)
	}
	if new(Conn).TakeTLSOverhead() != 0 {
		t.Error("a plain connection has overhead")
	}
}

// Our own key changes long before AES-GCM's limit (attack K32), and the peer follows.
func TestAttackK32Rekey(t *testing.T) {
	defer func(n uint64) { rekeyAfter = n }(rekeyAfter)
	if rekeyAfter*maxContent > 1<<36 || rekeyAfter > 1<<23 {
		t.Errorf("%d records under one key", rekeyAfter)
	}
	rekeyAfter = 10
	y, p := twins(t, tls.TLS_AES_256_GCM_SHA384)
	old := y.out.secret
	for i := range 100 {
		text := fmt.Sprint("text ", i)
		if data, said, err := open(p, sealed(t, y, text), 9); string(data) != text || err != nil || len(said) > 0 {
			t.Fatalf("record %d: %q, %v", i, data, err)
		}
		if y.out.seq > 10 {
			t.Fatalf("%d records under one key", y.out.seq)
		}
	}
	if y.out.secret == old {
		t.Error("the secret has not changed")
	}
	p.out.seq = 1<<64 - 2
	y.in.seq = 1<<64 - 2
	wire := p.appendRecord(nil, typeApplication, []byte("last"), 0)
	if data, _, err := open(y, wire, 1000); len(data) != 0 || verdict(err) != local(alertInternalError) {
		t.Errorf("the last sequence number: %q, %v", data, err)
	}
}

// Whatever both ends do, in any order, no nonce is used twice under a key, and every byte arrives
// once and in order (attacks K31, K43). The AEADs of TestMain check it.
func TestAttackK31K43Schedules(t *testing.T) {
	defer func(n uint64) { rekeyAfter = n }(rekeyAfter)
	rekeyAfter = 7
	for seed := range uint64(400) {
		rnd := mrand.New(mrand.NewPCG(seed, 31))
		id := []uint16{tls.TLS_AES_128_GCM_SHA256, tls.TLS_AES_256_GCM_SHA384,
			tls.TLS_CHACHA20_POLY1305_SHA256}[seed%3]
		ends := [2]*tls13Layer{}
		ends[0], ends[1] = twins(t, id)
		var wires, sent, got [2][]byte // by the end that wrote
		room := make([]byte, maxCiphertext)
		for step := range 200 {
			i := rnd.IntN(2)
			y := ends[i]
			switch rnd.IntN(6) {
			case 0, 1:
				text := bytes.Repeat([]byte{byte(step)}, 1+rnd.IntN(500))
				if rnd.IntN(20) == 0 {
					text = bytes.Repeat([]byte{byte(step)}, 40_000)
				}
				sent[i] = append(sent[i], text...)
				wires[i], _ = y.seal(wires[i], text)
			case 2:
				if step%8 == 0 {
					wires[i] = y.appendKeyUpdate(wires[i], byte(rnd.IntN(2)))
				}
			case 3:
				y.cool()
			case 4:
				wires[i] = y.takePending(wires[i])
			case 5:
				from := 1 - i
				n := rnd.IntN(len(wires[from]) + 1)
				piece := append([]byte(nil), wires[from][:n]...)
				wires[from] = wires[from][n:]
				y.feed(piece)
				for max := rnd.IntN(10); max >= 0; max-- { // or it is paused
					n, err := y.Read(room)
					got[from] = append(got[from], room[:n]...)
					if err == errWouldBlock {
						break
					} else if err != nil {
						t.Fatalf("seed %d, step %d: %v", seed, step, err)
					}
				}
				y.parkUnread()
				clear(piece)
			}
		}
		for i, y := range ends {
			data, said, err := open(ends[1-i], y.appendCloseNotify(wires[i]), 3000)
			wires[1-i] = append(wires[1-i], said...)
			if got[i] = append(got[i], data...); !bytes.Equal(got[i], sent[i]) || err != io.EOF {
				t.Fatalf("seed %d: %d of %d bytes arrived, %v", seed, len(got[i]), len(sent[i]), err)
			}
		}
	}
}

// The records that crypto/tls has sealed under the new key are counted, or the connection stays on
// crypto/tls.
func TestAttackK31Count(t *testing.T) {
	secrets := make([]byte, 64)
	rand.Read(secrets)
	plain := []byte{typeHandshake, 3, 3, 0, 3, 1, 2, 3, 20, 3, 3, 0, 1, 1}
	foreign := append([]byte{typeApplication, 3, 3, 0, 40}, make([]byte, 40)...)
	for n := range 4 {
		start := func(sent []byte) (*tls13Layer, error) {
			y, err := newTLS13Layer(false, tls.TLS_AES_128_GCM_SHA256, secrets[:32], secrets[32:], sent)
			if len(bytes.Trim(sent, "\x00")) > 0 {
				t.Error("what was opened was not wiped")
			}
			return y, err
		}
		y, err := start(nil)
		if err != nil {
			t.Fatal(err)
		}
		var own []byte
		unchecked.Store(true) // the same secrets in each round
		for i := range n {
			own = y.appendRecord(own, typeHandshake, make([]byte, 10*i), 0)
		}
		unchecked.Store(false)
		if y, err := start(bytes.Join([][]byte{plain, foreign, foreign, own}, nil)); err != nil ||
			y.out.seq != uint64(n) || y.warm.out == nil {
			t.Errorf("%d records: %+v, %v", n, y, err)
		}
		if n > 0 {
			for i, tail := range [][]byte{foreign, plain, own[:3], {typeApplication, 3, 3, 0, 50},
				{23, 3, 3, 255, 255}} {
				if _, err := start(append(append([]byte(nil), own...), tail...)); err == nil {
					t.Errorf("%d records, tail %d: it was taken", n, i)
				}
			}
		}
	}
	// TLS_AES_128_CCM_SHA256
	if _, err := newTLS13Layer(false, 0x1304, secrets[:32], secrets[32:], nil); err == nil {
		t.Error("a suite without an AEAD was taken")
	}
	if _, err := newTLS13Layer(false, tls.TLS_AES_256_GCM_SHA384, secrets[:32], secrets[32:], nil); err == nil {
		t.Error("secrets of another length were taken")
	}
}

// Whatever comes, however it is cut: no panic, the same verdict and the same data, and no more is kept than
// what has come (attacks K35, K36, K40).
func FuzzRecordInput(f *testing.F) {
	f.Add([]byte{typeApplication, 5, 0, 0, typeHandshake, 5, 0, 3, typeApplication, 9, 3, 0}, []byte{3, 200, 1})
	f.Add([]byte{typeAlert, 2, 0, 0, typeApplication, 1, 0, 0}, []byte{1})
	f.Add([]byte{typeHandshake, 2, 0, 2, typeHandshake, 3, 0, 3, typeApplication, 7, 200, 0}, []byte{7, 1})
	f.Add([]byte{typeApplication, 0, 0, 0, typeApplication, 0, 9, 4, 99, 1, 0, 5, typeApplication, 0, 0, 6},
		[]byte{50})
	unchecked.Store(true) // two layers have the same secrets
	defer unchecked.Store(false)
	f.Fuzz(func(t *testing.T, input, cuts []byte) {
		if len(input) > 400 || len(cuts) > 100 {
			return
		}
		lent := buf.Input.InUse()
		for _, client := range []bool{false, true} {
			y, p := twins(t, tls.TLS_AES_128_GCM_SHA256)
			if client {
				y, p = p, y
			}
			again, err := newTLS13Layer(client, tls.TLS_AES_128_GCM_SHA256, y.in.secret[:32], y.out.secret[:32], nil)
			if err != nil {
				t.Fatal(err)
			}
			var wire []byte
			ops := input // each a record: its type, lengths of content and padding, and what is wrong
			for ; len(ops) >= 4; ops = ops[4:] {
				kind, n, pad, how := ops[0], int(ops[1]), int(ops[2])*64, ops[3]
				content := bytes.Repeat([]byte{messageKeyUpdate, 0, 0, 1, how & 1, 4, 0, 0}, n/8+1)[:n]
				from := len(wire)
				wire = p.appendRecord(wire, kind, content, pad)
				switch how >> 1 & 7 {
				case 1:
					p.out.updateSecret(p.cipherSuite())
					p.warm.out = nil
				case 2:
					wire[from+int(how>>4)] ^= 1 << (how & 7)
				case 3:
					wire = append(wire, typeApplication, 3, 3, 0, how)
				}
			}
			wire = append(wire, ops...)
			one, said1, err1 := open(y, wire, max(1, len(wire)))
			var two, said2 []byte
			var err2 error
			rest := wire
			for i := 0; len(rest) > 0 && err2 == nil; i++ {
				n := 1
				if len(cuts) > 0 {
					n = 1 + int(cuts[i%len(cuts)])
				}
				n = min(n, len(rest))
				var d, s []byte
				d, s, err2 = open(again, rest[:n], n)
				two, said2, rest = append(two, d...), append(said2, s...), rest[n:]
				if held := again.buffered(); held > len(wire) || held > recordHead+maxCiphertext {
					t.Fatalf("%d bytes are kept of %d", held, len(wire))
				}
				if i%7 == 3 {
					again.cool()
				}
			}
			if !bytes.Equal(one, two) || verdict(err1) != verdict(err2) {
				t.Fatalf("%d bytes and %v in one piece, %d and %v in many", len(one), err1, len(two), err2)
			}
			if len(said1) > 2000 || len(said2) > 20*len(wire)+100 {
				t.Fatalf("%d and %d bytes were said", len(said1), len(said2))
			}
			y.wipeAll()
			p.wipeAll()
			again.wipeAll()
		}
		if n := buf.Input.InUse(); n != lent {
			t.Fatalf("%d buffers are not given back", n-lent)
		}
	})
}

// A line of the key log is wiped when it was read, and only the two secrets of a size that fits are kept
// (attack K42).
func TestAttackK42Line(t *testing.T) {
	secret := strings.Repeat("5a", 48)
	random := " " + strings.Repeat("01", 32) + " "
	for _, c := range []struct {
		label, secret string
		nc, ns        int
	}{
		{"CLIENT_TRAFFIC_SECRET_0", secret, 48, 0},
		{"SERVER_TRAFFIC_SECRET_0", secret[:64], 0, 32},
		{"CLIENT_TRAFFIC_SECRET_0", secret + "5a", 0, 0},
		{"CLIENT_TRAFFIC_SECRET_1", secret, 0, 0},
		{"CLIENT_HANDSHAKE_TRAFFIC_SECRET", secret, 0, 0},
		{"CLIENT_RANDOM", secret, 0, 0},
	} {
		k := new(keyCapture)
		line := []byte(c.label + random + c.secret + "\n")
		n, err := k.Write(line)
		if n != len(line) || err != nil || k.clientLen != c.nc || k.serverLen != c.ns {
			t.Errorf("%s: %d, %v; secrets of %d and %d bytes", c.label, n, err, k.clientLen, k.serverLen)
		}
		if !bytes.Equal(line, make([]byte, len(line))) {
			t.Errorf("%s: the line is left", c.label)
		}
		if k.wipe(); k.client != [48]byte{} || k.server != [48]byte{} {
			t.Errorf("%s: a secret is left", c.label)
		}
	}
}
