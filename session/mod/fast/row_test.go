package fast

import (
	"bytes"
	"testing"

	"canto/session/sasl"
)

// A row is read as it was written, and other bytes are refused without a panic.
func FuzzRow(f *testing.F) {
	full := client{seen: 1767225600, software: "Test", device: "a phone",
		current: token{mechanism: sasl.TokenExporter, issued: 1, expires: 2, count: 3, password: [16]byte{4},
			secret: sasl.NewSecret(bytes.Repeat([]byte{5}, tokenLen))},
		next: token{mechanism: sasl.TokenNone, issued: -1, expires: 1 << 40,
			secret: sasl.NewSecret(make([]byte, tokenLen))}}
	f.Add(appendClient(nil, full))
	f.Add(appendClient(nil, client{}))
	f.Add([]byte{})
	f.Add([]byte{0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := decodeClient(1, b)
		if err != nil {
			return
		}
		again, err := decodeClient(1, appendClient(nil, c))
		if err != nil || !bytes.Equal(appendClient(nil, again), appendClient(nil, c)) {
			t.Errorf("%x: %v", b, err)
		}
	})
}

// A row keeps each field.
func TestRow(t *testing.T) {
	c := client{seen: 7, software: "s", device: "d", current: token{mechanism: sasl.TokenUnique, issued: 1,
		expires: 2, count: 3, password: [16]byte{15: 9}, secret: sasl.NewSecret(bytes.Repeat([]byte{5}, tokenLen))}}
	got, err := decodeClient(1, appendClient(nil, c))
	k := got.current
	if err != nil || got.seen != 7 || got.software != "s" || got.device != "d" || got.next.mechanism != 0 ||
		k.mechanism != sasl.TokenUnique || k.issued != 1 || k.expires != 2 || k.count != 3 || k.password[15] != 9 ||
		!k.secret.Equal(c.current.secret) {
		t.Errorf("%+v, %v", got, err)
	}
	b := appendClient(nil, c)
	for n := range b {
		if _, err := decodeClient(1, b[:n]); err == nil {
			t.Errorf("the first %d of %d bytes are a row", n, len(b))
		}
	}
}
