package blocklist

import (
	"fmt"
	"math/bits"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"canto/session/jid"
)

// naive matches an address as XEP-0191 section 6 describes it: against each address of the list.
func naive(list []jid.JID, j jid.JID) bool {
	for _, o := range list {
		l, d, r := o.Parts()
		if d != j.Domain() || l != "" && l != j.Local() || r != "" && r != j.Resource() {
			continue
		}
		return true
	}
	return false
}

// Four look-ups give the same result as comparing with the whole list (XEP-0191 section 6: full JID, bare
// JID, domain with resource, domain).
func TestMatch(t *testing.T) {
	part := func(t *rapid.T, name string, of ...string) string { return rapid.SampledFrom(of).Draw(t, name) }
	address := func(t *rapid.T) jid.JID {
		j, err := jid.New(part(t, "local", "", "", "a", "b", "a.example"),
			part(t, "domain", "example", "a.example", "b"), part(t, "resource", "", "", "x", "y/z", "a@example"))
		if err != nil {
			t.Fatal(err)
		}
		return j
	}
	rapid.Check(t, func(t *rapid.T) {
		var b blockList
		b.add(rapid.SliceOfN(rapid.Custom(address), 0, 12).Draw(t, "list"))
		if j := address(t); b.matches(j) != naive(b.jids, j) {
			t.Fatalf("%s in %v: %v", j, b.jids, b.matches(j))
		}
	})
}

// Matching costs four look-ups whatever the length of the list, and allocates nothing: it is done for each
// stanza, and for each contact of a broadcast.
func TestMatchCosts(t *testing.T) {
	var b blockList
	var list []jid.JID
	for i := range maxItems {
		list = append(list, jid.FromPrepared(fmt.Sprintf("example%d.org", i)))
	}
	b.add(list)
	who, err := jid.Parse("juliet@example.org/balcony")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	if b.matchesBy(who, func(a, b string) int { n++; return strings.Compare(a, b) }) {
		t.Fatal("it matches")
	}
	if most := 4 * (bits.Len(maxItems) + 1); n > most {
		t.Errorf("%d comparisons in a list of %d; four look-ups take %d", n, maxItems, most)
	}
	if n := testing.AllocsPerRun(100, func() { b.matches(who) }); n != 0 {
		t.Errorf("a look-up allocates %v times", n)
	}
}
