package jid

import (
	"errors"
	"strings"
	"testing"
	"unsafe"
)

func TestParse(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"juliet@example.com", "juliet@example.com"},
		{"juliet@example.com/foo", "juliet@example.com/foo"},
		{"juliet@example.com/foo bar", "juliet@example.com/foo bar"},
		{"juliet@example.com/foo@bar", "juliet@example.com/foo@bar"},
		{`foo\20bar@example.com`, `foo\20bar@example.com`},
		{"fussball@example.com", "fussball@example.com"},
		{"fu\u00dfball@example.com", "fu\u00dfball@example.com"},
		{"\u03c0@example.com", "\u03c0@example.com"},
		{"\u03a3@example.com/foo", "\u03c3@example.com/foo"},
		{"\u03c3@example.com/foo", "\u03c3@example.com/foo"},
		{"\u03c2@example.com/foo", "\u03c2@example.com/foo"},
		{"king@example.com/\u265a", "king@example.com/\u265a"},
		{"example.com", "example.com"},
		{"example.com/foobar", "example.com/foobar"},
		{"a.example.com/b@example.net", "a.example.com/b@example.net"},
		{"Juliet@Example.COM/Balcony", "juliet@example.com/Balcony"},
		{"a@EXAMPLE.com.", "a@example.com"},
		{"a@example.com./r", "a@example.com/r"},
		{"localhost", "localhost"},
		{"a@1.2.3.4", "a@1.2.3.4"},
		{"a@[::1]/x", "a@[::1]/x"},
		{"a@[2001:DB8:0:0::1]", "a@[2001:db8::1]"},
		{"a@b\u3002example", "a@b.example"},
		{"a@b\uff0eexample\uff61", "a@b.example"},
		{"a@B\u00dcCHER.example", "a@b\u00fccher.example"},
		{"a@xn--bcher-kva.example", "a@b\u00fccher.example"},
		{"a@XN--BCHER-KVA.example", "a@b\u00fccher.example"},
		{"a@bu\u0308cher.example", "a@b\u00fccher.example"},
		{"\uff2a\uff55@example.com", "ju@example.com"},
		{"a@example.com/\u00a0x", "a@example.com/ x"},
		{"a@\u05d0\u05d1.\u05d2", "a@\u05d0\u05d1.\u05d2"},
	} {
		j, err := Parse(c.in)
		if err != nil || j.String() != c.want {
			t.Errorf("Parse(%q) = %q, %v, want %q", c.in, j, err, c.want)
			continue
		}
		again, err := Parse(j.String())
		if err != nil || again != j {
			t.Errorf("Parse(Parse(%q)) = %q, %v", c.in, again, err)
		}
		l, d, r := j.Parts()
		if built, err := New(l, d, r); err != nil || built != j {
			t.Errorf("New(%q, %q, %q) = %q, %v", l, d, r, built, err)
		}
		if b, err := Parse(j.Bare().String()); err != nil || b != j.Bare() || !b.IsBare() {
			t.Errorf("Bare of %q: %q, %v", c.in, b, err)
		}
		if w, err := j.Bare().WithResource(r); err != nil || w != j {
			t.Errorf("WithResource(%q) = %q, %v", r, w, err)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for _, in := range []string{
		"", "@", "/", "@/", "a@", "a@/r", "@example.com", "@example.com/r", "/r", "a@example.com/",
		`"juliet"@example.com`, "foo bar@example.com", "henryⅣ@example.com", "♚@example.com", "juliet@",
		"a b@example.com", "a&b@example.com", "a'b@example.com", "a:b@example.com", "a<b@example.com",
		"a>b@example.com",
		"a@b@c", "a@b c", "a@b_c", "a@-b", "a@b-", "a@b..c", "a@.b", "a@..", "a@.", "a@b\x00", "a\x00@b",
		"a@b/\x00", "a@b/\x7f", "a@b/\u0085",
		"a@[::1", "a@[]", "a@[1.2.3.4]", "a@[fe80::1%eth0]", "a@::1", "a@1.2.3", "a@1.2.3.4.5", "a@256.1.1.1",
		"a@01.2.3.4", "a@x.1",
		"a\uff20b@c", "a\uff0fb@c", "a@b\uff20c", "a@\uff3b::1\uff3d",
		"\u0301a@b", "a@\u0301b",
		"a@ab--c\u00fc", "a@-\u00fc", "a@\u00fc-", "a@ab--cd", "a@b\u00fc_c",
		"\u05d0a@b", "a@1.\u05d0", "a\u200db@c",
		"\u0378@b", "a@\u0378", "a@b/\u0378", // unassigned
		"a@" + strings.Repeat("a", 64), "a@" + strings.Repeat("\u00fc", 60),
	} {
		j, err := Parse(in)
		if err == nil || !errors.Is(err, ErrMalformed) || j != (JID{}) {
			t.Errorf("Parse(%q) = %q, %v, want ErrMalformed", in, j, err)
		}
	}
	if _, err := (JID{}).WithResource("x"); !errors.Is(err, ErrMalformed) {
		t.Errorf("zero JID with resource: %v", err)
	}
	if _, err := New("a", "", "r"); !errors.Is(err, ErrMalformed) {
		t.Errorf("no domain: %v", err)
	}
	if !(JID{}).IsZero() || !(JID{}).IsBare() || (JID{}).Domain() != "" {
		t.Error("zero JID has parts")
	}
}

// Only the places of the separators distinguish parts with separators.
func TestDistinct(t *testing.T) {
	seen := map[JID]string{}
	for _, in := range []string{"b", "a@b", "a@b/c", "b/c", "b/a@b", "b/a@b/c", "a@b/c/d", "a@b/@", "b/@"} {
		j, err := Parse(in)
		if err != nil {
			t.Fatalf("%q: %v", in, err)
		}
		if was, ok := seen[j]; ok {
			t.Errorf("%q and %q are equal", in, was)
		}
		seen[j] = in
	}
}

func TestSize(t *testing.T) {
	if n := unsafe.Sizeof(JID{}); n != 24 {
		t.Errorf("JID has %d bytes, want 24", n)
	}
}

// Partition is frozen: stored ids contain it. A change here loses every account of every server.
func TestPartitionGolden(t *testing.T) {
	for _, c := range []struct {
		in   string
		want uint16
	}{
		{"localhost", 640},
		{"romeo@localhost", 2583},
		{"juliet@example.com", 2188},
		{"juliet@example.com/balcony", 2188},
		{"a@b", 2487},
		{"user00012345@example.org", 3754},
		{"fu\u00dfball@b\u00fccher.example", 3857},
		{"a@[::1]", 3070},
	} {
		j, err := Parse(c.in)
		if err != nil {
			t.Fatal(err)
		}
		if got := j.Partition(); got != c.want {
			t.Errorf("{%q, %d},", c.in, got)
		}
		if j.Partition() != j.Bare().Partition() {
			t.Errorf("%q: the resource is in the partition", c.in)
		}
	}
}

func TestPartitionSpread(t *testing.T) {
	var counts [Partitions]int
	const n = 1 << 18
	for i := range n {
		counts[mustParse(t, "user"+itoa(i)+"@example.org").Partition()]++
	}
	// 64 a partition; 4,096 partitions stay within 6 standard deviations of it.
	for s, k := range counts {
		if k < 64-48 || k > 64+48 {
			t.Errorf("partition %d has %d of %d", s, k, n)
		}
	}
}

func TestAllocs(t *testing.T) {
	raw := []byte("user1@example.org/phone")
	c := NewCache()
	if _, err := c.Parse(raw); err != nil {
		t.Fatal(err)
	}
	if n := testing.AllocsPerRun(100, func() { c.Parse(raw) }); n != 0 {
		t.Errorf("a hit allocates %v times", n)
	}
	if n := testing.AllocsPerRun(100, func() { ParseBytes(raw) }); n != 1 {
		t.Errorf("an ASCII address allocates %v times, want 1", n)
	}
	bad := []byte("user1@example.org@x/phone")
	if n := testing.AllocsPerRun(100, func() { c.Parse(bad) }); n != 0 {
		t.Errorf("a refusal allocates %v times", n)
	}
	j := mustParse(t, "user1@example.org/phone")
	if n := testing.AllocsPerRun(100, func() { j.Partition(); j.Bare(); j.Parts() }); n != 0 {
		t.Errorf("accessors allocate %v times", n)
	}
}

func mustParse(t testing.TB, s string) JID {
	t.Helper()
	j, err := Parse(s)
	if err != nil {
		t.Fatalf("Parse(%q): %v", s, err)
	}
	return j
}

func itoa(i int) string {
	b := []byte("00000000")
	for p := len(b) - 1; i > 0; p-- {
		b[p] = byte('0' + i%10)
		i /= 10
	}
	return string(b)
}
