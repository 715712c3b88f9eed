package session

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func named(list []Manifest) (n []string) {
	for _, m := range list {
		n = append(n, m.Name+":"+m.Spec)
	}
	return n
}

func TestResolve(t *testing.T) {
	m := func(name, spec string, f ...func(*Manifest)) Manifest {
		x := Manifest{Name: name, Spec: spec}
		for _, g := range f {
			g(&x)
		}
		return x
	}
	needs := func(f ...Feature) func(*Manifest) { return func(m *Manifest) { m.Requires = f } }
	gives := func(f ...Feature) func(*Manifest) { return func(m *Manifest) { m.Provides = f } }
	against := func(f ...Feature) func(*Manifest) { return func(m *Manifest) { m.Conflicts = f } }
	for _, c := range []struct {
		name          string
		shelf         []Manifest
		want          string
		chosen, skips string
		err           string
	}{
		{"order of the shelf", []Manifest{m("a", "1"), m("b", "1")}, "b a", "a:1 b:1", "", ""},
		{"who provides comes first", []Manifest{m("a", "1", needs("x")), m("b", "1", gives("x"))}, "a b",
			"b:1 a:1", "", ""},
		{"a name is a feature", []Manifest{m("a", "1", needs("b")), m("b", "1")}, "a b", "b:1 a:1", "", ""},
		{"core", []Manifest{m("a", "1", needs("iq"))}, "a", "a:1", "", ""},
		{"the next candidate", []Manifest{m("a", "1", needs("none")), m("a", "2")}, "a", "a:2",
			`a:1 requires "none", which nothing here provides`, ""},
		{"conflict with the kernel", []Manifest{m("a", "1", against("iq")), m("a", "2")}, "a", "a:2",
			`a:1 conflicts with "iq", which the kernel provides`, ""},
		{"conflict with another, either way", []Manifest{m("a", "1", against("b")), m("b", "1"),
			m("b", "2", gives("c"))}, "a b", "a:1",
			`b:1 provides "b", with which a conflicts; b:2 provides "b", with which a conflicts`,
			`module "b": no candidate can run here`},
		{"waiting is better than the next", []Manifest{m("a", "1", needs("x")), m("a", "2"),
			m("b", "1", gives("x"))}, "a b", "b:1 a:1", "", ""},
		{"a circle is broken by who has a next", []Manifest{m("a", "1", needs("b")), m("b", "1", needs("a")),
			m("b", "2")}, "a b", "b:2 a:1", `b:1 requires "a", and the module that provides it can't run either`, ""},
		{"unknown", nil, "a", "", "", `module "a": no such module`},
		{"named twice", []Manifest{m("a", "1")}, "a a", "a:1", "", ""},
	} {
		chosen, skipped, err := Resolve([]Feature{"iq"}, c.shelf, strings.Fields(c.want))
		var skips []string
		for _, s := range skipped {
			skips = append(skips, s.Module+":"+s.Spec+" "+s.Reason)
		}
		if got := strings.Join(named(chosen), " "); got != c.chosen {
			t.Errorf("%s: chosen %q, want %q", c.name, got, c.chosen)
		}
		if got := strings.Join(skips, "; "); got != c.skips {
			t.Errorf("%s: skipped %q, want %q", c.name, got, c.skips)
		}
		if (err != nil) != (c.err != "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: %v, want %q", c.name, err, c.err)
		}
	}
}

// Whatever is on the shelf: what is chosen can run in that order, nothing conflicts, every wanted name
// is chosen or reported, and the answer is the same every time.
func TestResolveProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		features := rapid.SampledFrom([]Feature{"m0", "m1", "m2", "m3", "x", "y", "iq"})
		some := rapid.SliceOfN(features, 0, 2)
		var shelf []Manifest
		for i := range rapid.IntRange(1, 8).Draw(t, "modules") {
			shelf = append(shelf, Manifest{Name: fmt.Sprint("m", rapid.IntRange(0, 3).Draw(t, "name")),
				Spec:     fmt.Sprint(i),
				Provides: some.Draw(t, "provides"), Requires: some.Draw(t, "requires"),
				Conflicts: rapid.SliceOfN(features, 0, 1).Draw(t, "conflicts")})
		}
		want := []string{"m0", "m1", "m2", "m3"}
		core := []Feature{"iq"}
		chosen, _, err := Resolve(core, shelf, want)
		again, _, err2 := Resolve(core, shelf, want)
		if fmt.Sprint(named(chosen), err) != fmt.Sprint(named(again), err2) {
			t.Fatal("two answers to one question")
		}
		have := slices.Clone(core)
		for _, m := range chosen {
			for _, f := range m.Requires {
				if !slices.Contains(have, f) {
					t.Fatalf("%s loads before who provides %s", m.Name, f)
				}
			}
			for _, f := range m.Conflicts {
				if slices.Contains(have, f) {
					t.Fatalf("%s conflicts with %s, which is there", m.Name, f)
				}
			}
			have = append(append(have, Feature(m.Name)), m.Provides...)
		}
		if err == nil && len(chosen) != len(want) {
			t.Fatalf("%d of %d chosen without an error", len(chosen), len(want))
		}
	})
}
