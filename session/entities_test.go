package session

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"canto/session/jid"
)

// An entityMap behaves like a map from address to entity, and it shrinks when entities are
// removed.
func TestEntities(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var s entityMap
		want := map[jid.JID]*Entity{}
		for range rapid.IntRange(0, 2000).Draw(t, "steps") {
			who := jid.FromPrepared(fmt.Sprintf("a%d@example.org", rapid.IntRange(0, 300).Draw(t, "who")))
			switch old := want[who]; {
			case old == nil:
				a := &Entity{addr: who}
				want[who] = a
				s.add(a)
			case rapid.Bool().Draw(t, "removed"):
				if s.remove(&Entity{addr: who}) {
					t.Fatal("another account of that name was taken out")
				}
				if !s.remove(old) || s.remove(old) {
					t.Fatal("an account is not taken out once")
				}
				delete(want, who)
			}
		}
		if s.n != len(want) || 4*s.n > 3*len(s.cells) || len(s.cells) > max(16*s.n, 2*minEntityCells) {
			t.Fatalf("%d of %d accounts in %d slots", s.n, len(want), len(s.cells))
		}
		for i := range 301 {
			who := jid.FromPrepared(fmt.Sprintf("a%d@example.org", i))
			if s.get(who) != want[who] {
				t.Fatalf("%s is %v", who, s.get(who))
			}
		}
	})
}
