package session

import (
	"fmt"
	"slices"
	"strings"
)

// Resolve picks, for each wanted name, the first candidate on the shelf that can run here, and puts
// the chosen in load order: a provider before those that require it, else the shelf's order. A candidate
// with a conflict, or a requirement that nothing here can bring, is skipped with its reason, and the
// search goes on to the next of that name. One that lacks a feature which another wanted module may
// still bring is waited for; only when nothing else moves is the next candidate taken. An error
// names what is wanted and can't be had.
func Resolve(core []Feature, shelf []Manifest, want []string) (chosen []Manifest, skipped []Skip, err error) {
	r := resolution{shelf: shelf, providers: make(map[Feature]string), conflicts: make(map[Feature]string)}
	for _, f := range core {
		r.providers[f] = "the kernel"
	}
	for i, name := range want {
		if !slices.Contains(want[:i], name) {
			r.unresolved = append(r.unresolved, name)
		}
	}
	slices.SortStableFunc(r.unresolved, func(a, b string) int { return r.shelfIndex(a) - r.shelfIndex(b) })
	r.candidateIndex = make(map[string]int)
	for len(r.unresolved) > 0 {
		if r.settleOne() {
			continue
		}
		// Nothing can be taken as things stand: the first that waits gives its candidate up.
		if !r.giveUp() {
			break
		}
	}
	if len(r.failed) > 0 {
		return r.chosen, r.skipped, fmt.Errorf("%s", strings.Join(r.failed, "; "))
	}
	return r.chosen, r.skipped, nil
}

type resolution struct {
	shelf          []Manifest
	unresolved     []string           // wanted and not settled, in the shelf's order
	candidateIndex map[string]int     // which candidate of a name is looked at
	providers      map[Feature]string // the module that provides it
	conflicts      map[Feature]string // which chosen module conflicts with it
	chosen         []Manifest
	skipped        []Skip
	failed         []string
}

func (r *resolution) shelfIndex(name string) int {
	for i := range r.shelf {
		if r.shelf[i].Name == name {
			return i
		}
	}
	return len(r.shelf)
}

// candidate is the n-th module of that name.
func (r *resolution) candidate(name string, n int) *Manifest {
	for i := range r.shelf {
		if r.shelf[i].Name == name {
			if n == 0 {
				return &r.shelf[i]
			}
			n--
		}
	}
	return nil
}

// settleOne goes through the open names once and settles the first that can be settled.
func (r *resolution) settleOne() bool {
	for i, name := range r.unresolved {
		m := r.candidate(name, r.candidateIndex[name])
		if m == nil {
			why := "no such module"
			if r.candidateIndex[name] > 0 {
				why = "no candidate can run here"
				var reasons []string
				for _, s := range r.skipped {
					if s.Module == name {
						reasons = append(reasons, s.Reason)
					}
				}
				why += " (" + strings.Join(reasons, "; ") + ")"
			}
			r.failed = append(r.failed, fmt.Sprintf("module %q: %s", name, why))
			r.unresolved = slices.Delete(r.unresolved, i, i+1)
			return true
		}
		missing, wait, bad := r.fits(m)
		switch {
		case bad != "":
			r.skip(m, bad)
			return true
		case missing == "":
			r.take(m)
			r.unresolved = slices.Delete(r.unresolved, i, i+1)
			return true
		case !wait:
			r.skip(m, fmt.Sprintf("requires %q, which nothing here provides", missing))
			return true
		}
	}
	return false
}

func (r *resolution) skip(m *Manifest, why string) {
	r.skipped = append(r.skipped, Skip{m.Name, m.Spec, why})
	r.candidateIndex[m.Name]++
}

// fits says what m lacks, whether an open name may still bring it, and what stands against m.
func (r *resolution) fits(m *Manifest) (missing Feature, wait bool, bad string) {
	for _, f := range m.Conflicts {
		if who, ok := r.providers[f]; ok {
			return "", false, fmt.Sprintf("conflicts with %q, which %s provides", f, who)
		}
	}
	for _, f := range append(slices.Clone(m.Provides), Feature(m.Name)) {
		if who, ok := r.conflicts[f]; ok {
			return "", false, fmt.Sprintf("provides %q, with which %s conflicts", f, who)
		}
	}
	for _, f := range m.Requires {
		if _, ok := r.providers[f]; ok {
			continue
		}
		missing = f
		if !r.mayBeProvided(f, m.Name) {
			return f, false, ""
		}
		wait = true
	}
	return missing, wait, ""
}

// mayBeProvided reports whether some candidate of another open name would bring f.
func (r *resolution) mayBeProvided(f Feature, asker string) bool {
	for _, name := range r.unresolved {
		if name == asker {
			continue
		}
		for n := r.candidateIndex[name]; ; n++ {
			m := r.candidate(name, n)
			if m == nil {
				break
			}
			if Feature(m.Name) == f || slices.Contains(m.Provides, f) {
				return true
			}
		}
	}
	return false
}

func (r *resolution) take(m *Manifest) {
	r.chosen = append(r.chosen, *m)
	r.providers[Feature(m.Name)] = m.Name
	for _, f := range m.Provides {
		r.providers[f] = m.Name
	}
	for _, f := range m.Conflicts {
		r.conflicts[f] = m.Name
	}
}

// giveUp skips the first waiting candidate that has another behind it, else the first.
func (r *resolution) giveUp() bool {
	if len(r.unresolved) == 0 {
		return false
	}
	pick := r.unresolved[0]
	for _, name := range r.unresolved {
		if r.candidate(name, r.candidateIndex[name]+1) != nil {
			pick = name
			break
		}
	}
	m := r.candidate(pick, r.candidateIndex[pick])
	missing, _, _ := r.fits(m)
	r.skip(m, fmt.Sprintf("requires %q, and the module that provides it can't run either", missing))
	return true
}
