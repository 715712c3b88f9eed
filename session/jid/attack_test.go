package jid

import (
	"errors"
	"hash/fnv"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"pgregory.net/rapid"
)

// CVE-2004-0953, CVE-2015-2058: long parts, and parts cut inside a character.
func TestAttackS13(t *testing.T) {
	rep := strings.Repeat
	for _, c := range []struct {
		name string
		in   string
		ok   bool
	}{
		{"local 1", "a@b", true},
		{"local 1023", rep("a", 1023) + "@b", true},
		{"local 1024", rep("a", 1024) + "@b", false},
		{"local 10^6", rep("a", 1e6) + "@b", false},
		{"resource 1023", "a@b/" + rep("r", 1023), true},
		{"resource 1024", "a@b/" + rep("r", 1024), false},
		{"resource 10^6", "a@b/" + rep("r", 1e6), false},
		{"domain 1023", rep("d.", 511) + "d", true},
		{"domain 1023 and a dot", rep("d.", 511) + "d.", true},
		{"domain 1024", rep("d.", 511) + "dd", false},
		{"domain 1024 and a dot", rep("d.", 511) + "dd.", false},
		{"domain 10^6", rep("d.", 5e5) + "d", false},
		{"domain 1023 wide", rep("\u00fc.", 341), true}, // 1023 bytes raw
		{"all parts full", rep("a", 1023) + "@" + rep("d.", 511) + "d/" + rep("r", 1023), true},
		{"label 63", rep("d", 63), true},
		{"label 64", rep("d", 64), false},
		{"only separators", rep("@", 1e6), false},
		{"only slashes", rep("/", 1e6), false},
		// One character of three bytes that NFC makes six of.
		{"grows to 1023", "a@b/xyz" + rep("\ufb2c", 170), true},
		{"grows to 1024", "a@b/wxyz" + rep("\ufb2c", 170), false},
		{"local grows past 1023", rep("\u0958", 171) + "@b", false},
		{"FDFA", rep("\ufdfa", 57) + "@b", false},
		{"FDFA resource is text", "a@b/" + rep("\ufdfa", 341), true},
	} {
		j, err := Parse(c.in)
		if (err == nil) != c.ok || err != nil && !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v, want ok %v", c.name, err, c.ok)
		}
		l, d, r := j.Parts()
		if len(l) > MaxPart || len(d) > MaxPart || len(r) > MaxPart {
			t.Errorf("%s: parts of %d, %d, %d bytes", c.name, len(l), len(d), len(r))
		}
	}
	whole := "\U00010400\U0001d7d8\U0001f600@\U0001f600.example/\U0001f600\U0001f600"
	whole += "x"
	for i := 1; i < len(whole); i++ {
		for _, in := range []string{whole[:i], whole[i:], "a@b/" + whole[:i], whole[:i] + "@b", "a@" + whole[:i]} {
			j, err := Parse(in)
			if !utf8.ValidString(in) && err == nil {
				t.Errorf("%q was taken as %q", in, j)
			}
			if !utf8.ValidString(j.String()) {
				t.Errorf("%q became invalid UTF-8", in)
			}
		}
	}
	if _, err := New(rep("a", 1024), "b", ""); !errors.Is(err, ErrMalformed) {
		t.Error("New took 1,024 bytes")
	}
	if _, err := mustParse(t, "a@b").WithResource(rep("a", 1024)); !errors.Is(err, ErrMalformed) {
		t.Error("WithResource took 1,024 bytes")
	}
}

// CVE-2026-56852, CVE-2026-56851: x/text loops or panics on invalid UTF-8, which must not get there.
func TestAttackS14(t *testing.T) {
	bad := []string{"\xff", "\xc3", "\xc3(", "\xe2\x82", "\xf0\x9f\x98", "\xed\xa0\x80", "\xf4\x90\x80\x80",
		"\xc0\xaf", "\x80", "\u00fc\xcc", "\u1100\xe1\x85"}
	for _, b := range bad {
		for _, in := range []string{b + "@d", "a" + b + "@d", "a@" + b, "a@x" + b + ".d", "a@d/" + b, "a@d/x" + b,
			"a@xn--" + b} {
			watch(t, in, func() {
				if j, err := Parse(in); err == nil {
					t.Errorf("%q was taken as %q", in, j)
				}
				if j, err := ParseBytes([]byte(in)); err == nil {
					t.Errorf("%q was taken as %q", in, j)
				}
			})
		}
	}
}

// CVE-2026-39821: a domain that became another one after the check.
func TestAttackS15(t *testing.T) {
	for _, in := range []string{
		"xn--example-.com", "xn--a", "xn--", "XN--", "XN--A", "xn--.com", "xn--ls8h=.com", "xn---", "xn--a-",
		"xn--0", "xn--\u00fc",
		"\uff38\uff2e--example-.com", "xn--99999999", "xn--a-ecp.ru", "xn--bcher-KVA-", "xn--A-1ga-",
		"xn---tda", "xn--bcher-kv", "xn--strae-oqa\u3002xn--",
		"ab--cd.example", "a..b", "\u3002", "a\u3002\u3002b", "a\uff0e\uff0e", ".",
		"[::1", "::1", "[::1]x", "[::1%lo]", "[1.2.3.4]", "1.2.3", "1.2.3.4.5", "0x7f.1", "127.1", "010.0.0.1",
		"\uff11.2.3.4",
		strings.Repeat("a", 64) + ".com", "a\u05d0.com", "\u05d0a.com", "1\u05d0.com", "1a.\u05d0", "\u05d01a.com",
		"a\u200d.com", "\u200d.com", "a\u00ad.com", "a\u2044b.com", "a\u2100b", "\u2488com", "a\u037eb",
		"a\u3164.com", "\u0660\u06f0.com", "ex\u0000.com", "a%62.com", "a\\b", "a?b", "a#b", "a:80",
	} {
		if j, err := New("", in, ""); err == nil {
			t.Errorf("%q was taken as %q", in, j)
		}
	}
	for want, forms := range map[string][]string{
		"example.com": {"EXAMPLE.com", "example.com.", "example\u3002com",
			"example\uff0ecom\uff61", "\uff45xample.com", "exam\u212able.com"[:4] + "ple.com"},
		"b\u00fccher.example": {"xn--bcher-kva.example", "Xn--BCHER-kva.EXAMPLE.",
			"B\u00dcCHER.example", "bu\u0308cher.example", "\uff58\uff4e--bcher-kva.example"},
		"fa\u00df.de":      {"xn--fa-hia.de", "Fa\u00df.de", "FA\u1e9e.de"},
		"\u03c3\u03c2.gr":  {"xn--3xab.gr", "\u03a3\u03c2.gr"},
		"1.2.3.4":          {"1.2.3.4."},
		"[::1]":            {"[0:0:0:0:0:0:0:1]", "[::0001]"},
		"[2001:db8::a]":    {"[2001:DB8:0:0:0:0:0:A]"},
		"[::ffff:1.2.3.4]": {"[::ffff:102:304]", "[::FFFF:1.2.3.4]"},
		"\u4f8b\u3048.\u30c6\u30b9\u30c8": {"xn--r8jz45g.xn--zckzah", "\u4f8b\u3048\u3002\u30c6\u30b9\u30c8",
			"\u4f8b\u3048.\uff83\uff7d\uff84"},
		"\u05d0\u05d1.example": {"xn--4dbc.example"},
		"\u043f\u0440\u0438\u043c\u0435\u0440.\u0440\u0444": {"xn--e1afmkfd.xn--p1ai",
			"\u041f\u0420\u0418\u041c\u0415\u0420.\u0420\u0424"},
	} {
		for _, in := range append(forms, want) {
			j, err := New("", in, "")
			if err != nil || j.String() != want {
				t.Errorf("%q is %q, %v, want %q", in, j, err, want)
			}
		}
	}
}

// Addresses that collide in one cache, or have one partition, are spread in another cache.
func TestAttackK50(t *testing.T) {
	first, second := NewCache(), NewCache()
	target, met := -1, 0
	var raws [][]byte
	for i := 0; met < 64; i++ {
		raw := []byte("mallory" + itoa(i) + "@example.org")
		if s := entryOf(first, raw); target < 0 || s == target {
			target = s
			raws, met = append(raws, raw), met+1
		}
	}
	places := map[int]bool{}
	for _, raw := range raws {
		places[entryOf(second, raw)] = true
	}
	if len(places) < 48 {
		t.Errorf("64 addresses that meet in one cache have %d places in another", len(places))
	}
	// The cache spreads addresses of one partition too.
	places, met = map[int]bool{}, 0
	for i := 0; met < 64; i++ {
		raw := []byte("mallory" + itoa(i) + "@example.org")
		if mustParse(t, string(raw)).Partition() == 77 {
			places[entryOf(first, raw)] = true
			met++
		}
	}
	if len(places) < 48 {
		t.Errorf("64 addresses of one partition have %d places in a cache", len(places))
	}
}

// entryOf returns the index of the entry in which c keeps raw.
func entryOf(c *Cache, raw []byte) int {
	for i := range c.entries {
		c.entries[i] = cacheEntry{}
	}
	c.Parse(raw)
	for i := range c.entries {
		if c.entries[i].raw != "" {
			return i
		}
	}
	return -1
}

// PRECIS and stringprep differ here; each address has one canonical form, or none.
func TestAttackK51(t *testing.T) {
	for _, c := range []struct{ in, want string }{ // want empty: refused
		{"stra\u00dfe", "stra\u00dfe"},
		{"STRA\u1e9eE", "stra\u00dfe"},
		{"strasse", "strasse"},
		{"\u017f", ""},                               // long s: compatibility
		{"\ufb00", ""},                               // ligature ff
		{"\u03a3\u0391\u03a3", "\u03c3\u03b1\u03c3"}, // lower case without context
		{"\u03c3\u03b1\u03c3", "\u03c3\u03b1\u03c3"},
		{"\u03c3\u03b1\u03c2", "\u03c3\u03b1\u03c2"}, // RFC 7622 section 3.5: not mapped
		{"\u0130x", "i\u0307x"},
		{"i\u0307x", "i\u0307x"},
		{"\u13a0", "\uab70"}, // Cherokee
		{"\uab70", "\uab70"},
		{"a\u200db", ""}, // joiner out of context
		{"\u0915\u094d\u200d\u0937", "\u0915\u094d\u200d\u0937"},
		{"q\u0307\u0323", "q\u0323\u0307"}, // order of marks
		{"q\u0323\u0307", "q\u0323\u0307"},
		{"\u1100\u1161", "\uac00"}, // conjoining jamo compose,
		{"\u1100", ""},             // and are refused alone
		{"\uac00", "\uac00"},
		{"\uff21\uff22", "ab"},
		{"\u2126", "\u03c9"}, // ohm: lower case is omega
		{"\u03a9", "\u03c9"},
		{"\u212b", "\u00e5"},
		{"A\u030a", "\u00e5"},
		{"\u00c5", "\u00e5"},
		{"\u0378", ""},      // unassigned
		{"\ue000", ""},      // private use
		{"\u00ad", ""},      // soft hyphen, which stringprep dropped
		{"ad\u200bmin", ""}, // zero width space
		{"admin\ufe0f", ""}, // variation selector
		{"\u202eadmin", ""}, // bidi control
		{"a\u00a0b", ""},
		{"\ufeffa", ""},
	} {
		j, err := New(c.in, "example.org", "")
		if got := j.Local(); got != c.want || (err == nil) != (c.want != "") {
			t.Errorf("%+q is %+q, %v, want %+q", c.in, got, err, c.want)
		}
	}
}

// Preparation is idempotent. The tables have a version, which stores keep.
func TestAttackK53(t *testing.T) {
	if UnicodeVersion < "15" {
		t.Errorf("Unicode %s", UnicodeVersion)
	}
	// Every character, in each part, alone and after a letter.
	for r := rune(0); r < 0x30000; r++ {
		if r >= 0x3400 && r < 0xa000 || r >= 0xac20 && r < 0xf900 || r >= 0x12000 && r < 0x1d000 || r >= 0x1f800 {
			continue // long runs of one kind, and surrogates
		}
		for _, in := range []string{string(r) + "@d", "a" + string(r) + "@d", string(r), "a" + string(r) + ".d",
			"d/" + string(r)} {
			j, err := Parse(in)
			if err != nil {
				continue
			}
			checkJID(t, in, j)
		}
	}
}

// Escapes have no meaning here, and separators count in the order of RFC 7622 section 3.1.
func TestAttackK54(t *testing.T) {
	for _, c := range []struct{ in, local, domain, resource string }{
		{`a\20b@h`, `a\20b`, "h", ""},
		{`\5c@h`, `\5c`, "h", ""},
		{`\40@h/\2f`, `\40`, "h", `\2f`},
		{"a@h/x@y/z", "a", "h", "x@y/z"},
		{"h/a@b", "", "h", "a@b"},
		{"a@b/c@d", "a", "b", "c@d"},
	} {
		if l, d, r := mustParse(t, c.in).Parts(); l != c.local || d != c.domain || r != c.resource {
			t.Errorf("%q splits into %q, %q, %q", c.in, l, d, r)
		}
	}
	for _, in := range []string{"user@host@evil", "user@host@evil/r", "user@@host", "a\uff20b@host",
		"user@host\uff0fr", "a%40b@h@h"} {
		if j, err := Parse(in); err == nil {
			t.Errorf("%q was taken as %q", in, j)
		}
	}
	// New takes parts, and no separator gets in through one.
	for _, p := range [][3]string{{"a@b", "c", ""}, {"a/b", "c", ""}, {"a", "b@c", ""}, {"a", "b/c", ""},
		{"", "a@b", ""}, {"", "b/c", "d"}} {
		if j, err := New(p[0], p[1], p[2]); err == nil {
			t.Errorf("%q was taken as %q", p, j)
		}
	}
}

// Partition is FNV-1a of the standard library, finished as documented.
func TestPartitionFormula(t *testing.T) {
	for _, in := range []string{"a@b", "juliet@example.com/x", "b\u00fccher.example"} {
		j := mustParse(t, in)
		f := fnv.New64a()
		f.Write([]byte(j.Bare().String()))
		h := f.Sum64()
		h ^= h >> 32
		h *= 0xd6e8feb86659fd93
		h ^= h >> 32
		if j.Partition() != uint16(h%4096) {
			t.Errorf("%q: %d", in, j.Partition())
		}
	}
}

// The profiles of x/text are shared by all loops.
func TestConcurrent(t *testing.T) {
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 200 {
				if j, err := Parse("\u03a3\u0130\u05d0"[:4] + "x@B\u00dcCHER.example/\u00a0\u1e9e"); err != nil ||
					j.Domain() != "b\u00fccher.example" {
					t.Errorf("%q, %v", j, err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func TestCacheAgrees(t *testing.T) {
	c := NewCache()
	rapid.Check(t, func(t *rapid.T) {
		raw := rapid.OneOf(
			rapid.SampledFrom([]string{"a@b", "A@b", "a@B", "a@b/c", "", "@", "a@b\x00"}),
			rapid.StringMatching(`[a-cA-C\x{fc}]{0,2}@?[a-c.]{0,3}(/[a-c]{0,2})?`),
		).Draw(t, "raw")
		want, wantErr := Parse(raw)
		b := []byte(raw)
		got, err := c.Parse(b)
		for i := range b {
			b[i] = 'x' // the cache keeps nothing of the caller's
		}
		if got != want || (err == nil) != (wantErr == nil) {
			t.Fatalf("%q: %q, %v from the cache, %q, %v without", raw, got, err, want, wantErr)
		}
	})
}

func TestCacheBounded(t *testing.T) {
	c := NewCache()
	for i := range 10000 {
		c.Parse([]byte("u" + itoa(i) + "@example.org/" + strings.Repeat("x", i%1000)))
	}
	for _, s := range c.entries {
		if len(s.raw) > maxCachedLen {
			t.Fatalf("keeps %d bytes", len(s.raw))
		}
	}
}

func TestProperties(t *testing.T) {
	part := rapid.StringOfN(rapid.OneOf(rapid.Rune(),
		rapid.RuneFrom([]rune("abcXYZ01.-@/[]:\u3002\uff0e\u00fc\u05d0\u0660\u0308\u200d"))), 0, 12, -1)
	rapid.Check(t, func(t *rapid.T) {
		in := part.Draw(t, "a") + rapid.SampledFrom([]string{"", "@"}).Draw(t, "at") + part.Draw(t, "b") +
			rapid.SampledFrom([]string{"", "/"}).Draw(t, "slash") + part.Draw(t, "c")
		if j, err := Parse(in); err == nil {
			checkJID(t, in, j)
		} else if !errors.Is(err, ErrMalformed) {
			t.Fatalf("%q: %v", in, err)
		}
	})
}

// checkJID checks what holds for every JID.
func checkJID(t interface {
	Helper()
	Errorf(string, ...any)
}, in string, j JID) {
	t.Helper()
	again, err := Parse(j.String())
	if err != nil || again != j {
		t.Errorf("%+q prepares to %+q, and that to %+q, %v", in, j.String(), again.String(), err)
	}
	l, d, r := j.Parts()
	if d == "" || len(l) > MaxPart || len(d) > MaxPart || len(r) > MaxPart || !utf8.ValidString(j.String()) {
		t.Errorf("%+q has parts %+q, %+q, %+q", in, l, d, r)
	}
	if strings.ContainsAny(l, "\"&'/:<>@ \x00") || strings.ContainsAny(d, "@/\x00 ") ||
		strings.ContainsRune(r, 0) {
		t.Errorf("%+q has parts %+q, %+q, %+q", in, l, d, r)
	}
	if built, err := New(l, d, r); err != nil || built != j {
		t.Errorf("%+q: New of its parts is %+q, %v", in, built.String(), err)
	}
	if j.Partition() >= Partitions || j.Bare().Partition() != j.Partition() {
		t.Errorf("%+q: partition %d", in, j.Partition())
	}
}

// watch fails if f runs for more than a second: x/text had loops without end.
func watch(t testing.TB, in string, f func()) {
	t.Helper()
	timer := time.AfterFunc(time.Second, func() { panic("preparing ran for a second: " + in) })
	defer timer.Stop()
	f()
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"a@b/c", "J\u00fcliet@B\u00dcCHER.example./\u00a0", "xn--bcher-kva", "a@[::1]",
		"1.2.3.4", "\u03a3@x", "\xff@\xc3", "\u1100\u1161@x", "a@xn--99999999", "\u05d0.1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		watch(t, in, func() {
			j, err := Parse(in)
			k, errB := ParseBytes([]byte(in))
			if j != k || (err == nil) != (errB == nil) {
				t.Errorf("%q: Parse and ParseBytes differ", in)
			}
			if err != nil {
				if !errors.Is(err, ErrMalformed) || !j.IsZero() {
					t.Errorf("%q: %q, %v", in, j, err)
				}
				return
			}
			checkJID(t, in, j)
		})
	})
}

func BenchmarkParse(b *testing.B) {
	for _, in := range []string{"user12345@example.org/Conversations.x7Kp",
		"j\u00fcrgen@b\u00fccher.example/\u00fc"} {
		raw := []byte(in)
		b.Run("prepare", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				ParseBytes(raw)
			}
		})
		b.Run("cached", func(b *testing.B) {
			b.ReportAllocs()
			c := NewCache()
			for b.Loop() {
				c.Parse(raw)
			}
		})
	}
}
