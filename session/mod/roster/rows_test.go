package roster

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"canto/session/jid"
)

// A packed roster behaves as a map from address to contact in the order of addresses, whatever is added
// and removed. The stored rows make the same roster again.
func TestRoster(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var r Roster
		want := map[string]Item{}
		for range rapid.IntRange(0, 300).Draw(t, "changes") {
			text := rapid.SampledFrom([]string{"", "Romeo", "Juliet Capulet", string(make([]byte, 900))})
			it := Item{
				JID:    jid.FromPrepared(fmt.Sprintf("c%d@example.org", rapid.IntRange(0, 120).Draw(t, "who"))),
				Listed: rapid.Bool().Draw(t, "listed"),
			}
			if it.Listed {
				it.Name = text.Draw(t, "name")
				it.State = unpackState(byte(rapid.IntRange(0, 31).Draw(t, "state")))
				it.Groups = packGroups(rapid.SliceOfN(
					rapid.SampledFrom([]string{"Friends", "Family", "", string(make([]byte, 300))}), 0, 3).Draw(t, "groups"))
				it.Request = text.Draw(t, "request")
			}
			if r.put(it); it.empty() {
				delete(want, it.JID.String())
			} else {
				want[it.JID.String()] = it
			}
		}
		var b builder
		keys := slices.Sorted(maps.Keys(want))
		i := 0
		for it := range r.All() {
			if i >= len(keys) || it.JID.String() != keys[i] || it != want[keys[i]] {
				t.Fatalf("contact %d is %+v", i, it)
			}
			i++
			if got, ok := r.Get(it.JID); !ok || got != it {
				t.Fatalf("Get(%s) is %+v, %v", it.JID, got, ok)
			}
			if err := b.add(it.JID.String(), it.encode(nil)); err != nil {
				t.Fatal(err)
			}
		}
		if i != len(keys) || r.Len() != i {
			t.Fatalf("%d contacts, Len is %d; want %d", i, r.Len(), len(keys))
		}
		for _, who := range []string{"a@example.org", "c5@example.orga", "c60", "z"} {
			if it, ok := r.Get(jid.FromPrepared(who)); ok {
				t.Fatalf("%s is there: %+v", who, it)
			}
		}
		if again := b.roster(); !slices.Equal(slices.Collect(again.All()), slices.Collect(r.All())) ||
			again.Len() != r.Len() {
			t.Fatal("what is stored makes another roster")
		}
		var sum Roster
		for _, it := range want {
			sum.addUsage(&it, 1)
		}
		if again := b.roster(); sum.listed != r.listed || sum.requests != r.requests ||
			sum.listed != again.listed ||
			sum.requests != again.requests {
			t.Fatalf("shares are %+v, %+v; of the stored rows %+v, %+v; want %+v, %+v", r.listed, r.requests,
				again.listed, again.requests, sum.listed, sum.requests)
		}
		for _, b := range r.blocks {
			if n := countRows(b); n == 0 || n > blockRows || n > 1 && len(b) > 2*blockBytes {
				t.Fatalf("a block has %d rows and %d bytes", n, len(b))
			}
		}
	})
}

// A look-up allocates nothing, because a message to a contact may need several; a contact costs its text
// and some bytes.
func TestRosterCosts(t *testing.T) {
	var r Roster
	text := 0
	for i := range 50 {
		it := Item{JID: jid.FromPrepared(fmt.Sprintf("contact%d@example.org", i)),
			Name:   fmt.Sprintf("Friend %d", i),
			Groups: packGroups([]string{"Friends"}), Listed: true}
		text += len(it.JID.String()) + len(it.Name) + len("Friends")
		r.put(it)
	}
	size := 0
	for _, b := range r.blocks {
		size += len(b)
	}
	if size > text+6*50 {
		t.Errorf("50 contacts of %d bytes take %d", text, size)
	}
	who := jid.FromPrepared("contact37@example.org")
	if n := testing.AllocsPerRun(100, func() { r.State(who) }); n != 0 {
		t.Errorf("a look-up allocates %v times", n)
	}
}

// Stored rows are checked when they are loaded, so that nothing read later can be damaged.
func FuzzRow(f *testing.F) {
	it := Item{Name: "Juliet", Groups: packGroups([]string{"Friends", "Family"}), Listed: true,
		Request: "<presence type='subscribe'/>"}
	f.Add("juliet@example.org", it.encode(nil))
	f.Add("a", []byte{0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, key string, row []byte) {
		var b builder
		if b.add(key, row) != nil {
			return
		}
		for it := range b.roster().All() {
			if it.JID.String() != key {
				t.Fatalf("%q became %q", key, it.JID)
			}
			for range it.Groups.All() {
			}
			var c builder
			if err := c.add(key, it.encode(nil)); err != nil {
				t.Fatal(err)
			}
		}
	})
}
