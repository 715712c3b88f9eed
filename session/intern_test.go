package session

import (
	"hash/maphash"
	"strings"
	"testing"

	"canto/xmlstream"
)

// Sessions with the same presence share its bytes, and new presence of one leaves the bytes of
// the others as they are.
func TestShared(t *testing.T) {
	l := &LoopRouter{seed: maphash.MakeSeed(), Parser: xmlstream.NewParser(nil)}
	share := func(text string) []byte {
		t.Helper()
		e, err := l.Parser.Element([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		defer l.Parser.Release(e)
		return l.Intern(&Stanza{Element: e})
	}
	const text = "<presence><c xmlns='http://jabber.org/protocol/caps' hash='sha-1' node='n' " +
		"ver='v'/></presence>"
	a := share(text)
	for i := range 3 * internedElements {
		share("<presence><status>" + strings.Repeat("x", i%700) + "</status></presence>")
	}
	if string(a) != text {
		t.Fatalf("it became %s", a)
	}
	a = share(text)
	if b := share(text); &a[0] != &b[0] {
		t.Error("two that are alike are two")
	}
	if n := testing.AllocsPerRun(100, func() { share(text) }); n > 1 { // the test's own []byte
		t.Errorf("a presence that is known allocates %v times", n)
	}
	long := "<presence><status>" + strings.Repeat("x", maxInternedBytes) + "</status></presence>"
	if a, b := share(long), share(long); &a[0] == &b[0] || string(a) != long {
		t.Error("a long one is kept for others")
	}
}
