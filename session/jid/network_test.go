package jid

import (
	"errors"
	"strings"
	"testing"
)

// A domain has one name among addresses (RFC 7622 section 3.2) and one on the network (RFC 5890 section
// 2.3.2.1, RFC 5952), whatever spelling it is given in.
func TestNetworkName(t *testing.T) {
	for _, c := range []struct{ in, domain, network string }{
		{"example.org", "example.org", "example.org"},
		{"EXAMPLE.Org.", "example.org", "example.org"},
		{"b\u00fccher.example", "b\u00fccher.example", "xn--bcher-kva.example"},
		{"B\u00dcCHER.Example", "b\u00fccher.example", "xn--bcher-kva.example"},
		{"XN--BCHER-KVA.example.", "b\u00fccher.example", "xn--bcher-kva.example"},
		{"bu\u0308cher.example", "b\u00fccher.example", "xn--bcher-kva.example"},
		{"\u4f8b\u3048\u3002\u30c6\u30b9\u30c8", "\u4f8b\u3048.\u30c6\u30b9\u30c8", "xn--r8jz45g.xn--zckzah"},
		{"a.fa\u00df.example", "a.fa\u00df.example", "a.xn--fa-hia.example"},
		{"192.0.2.1", "192.0.2.1", "192.0.2.1"},
		{"[2001:DB8::1]", "[2001:db8::1]", "2001:db8::1"},
		{"localhost", "localhost", "localhost"},
	} {
		d, err := PrepareDomain(c.in)
		if err != nil || d != c.domain {
			t.Errorf("Domain(%q) is %q, %v", c.in, d, err)
		}
		n, err := NetworkName(c.in)
		if err != nil || n != c.network {
			t.Errorf("NetworkName(%q) is %q, %v", c.in, n, err)
		}
	}
	long := strings.Repeat("a23456789.", 26) + "example"
	if _, err := PrepareDomain(long); err != nil {
		t.Error(err)
	}
	for _, bad := range []string{"", ".", "a@example.org", "example.org/r", "a b", "xn--\u00fc",
		"xn--0.example", "-a.example", "_sip.example", "[::1", "\xff"} {
		if d, err := PrepareDomain(bad); !errors.Is(err, ErrMalformed) || d != "" {
			t.Errorf("Domain(%q) is %q, %v", bad, d, err)
		}
	}
	for _, bad := range []string{long, "", "a@example.org", "a b"} {
		if n, err := NetworkName(bad); !errors.Is(err, ErrMalformed) || n != "" {
			t.Errorf("NetworkName(%q) is %q, %v", bad, n, err)
		}
	}
}

// Both names of a domain are spellings of it.
func FuzzNetworkName(f *testing.F) {
	for _, s := range []string{"example.org", "b\u00fccher.example", "XN--BCHER-KVA.example.", "[::1]",
		"192.0.2.1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		d, err := PrepareDomain(s)
		if err != nil {
			return
		}
		n, err := NetworkName(s)
		if err != nil {
			if len(d) <= 63 {
				t.Fatalf("%q has no name on the network: %v", d, err)
			}
			return
		}
		for _, c := range []byte(n) {
			if c >= 0x80 || c >= 'A' && c <= 'Z' {
				t.Fatalf("%q is %q", d, n)
			}
		}
		if strings.Contains(n, ":") {
			n = "[" + n + "]"
		}
		if again, err := PrepareDomain(n); err != nil || again != d {
			t.Fatalf("%q is %q on the network, and that is %q, %v", d, n, again, err)
		}
		if x, err := NetworkName(strings.ToUpper(n)); err != nil || strings.Trim(n, "[]") != x {
			t.Fatalf("%q in upper case is %q, %v", n, x, err)
		}
	})
}
