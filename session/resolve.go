package session

import (
	"fmt"
	"slices"
	"strings"
)

// Resolve chooses the modules of a profile. shelf has all manifests, several of one name perhaps; want
// are the names to run; core are the features of the kernel. For each name Resolve takes the first
// manifest that can run, and returns the chosen ones in load order: a module after those that provide
// what it requires, and otherwise in the order of the shelf. skipped are the manifests that were passed
// over, with reasons. err names the wanted modules of which no manifest can run.
//
// It repeats two steps until every name is settled. settleOne goes through the names and settles the
// first one it can: it takes the manifest if all that it requires is there; it skips the manifest if
// there is a conflict, or a requirement that no other wanted module can provide. Where every name waits
// for a feature of another, giveUp skips one manifest, so that the next of its name is tried. It has no
// side effects. Any goroutine.
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
		// Every name waits for a feature of another one.
		if !r.giveUp() {
			break
		}
	}
	if len(r.failed) > 0 {
		return r.chosen, r.skipped, fmt.Errorf("%s", strings.Join(r.failed, "; "))
	}
	return r.chosen, r.skipped, nil
}

// A resolution is the state of one call of [Resolve].
type resolution struct {
	shelf          []Manifest
	unresolved     []string           // names that are not settled, in the order of the shelf
	candidateIndex map[string]int     // by name: which of the manifests of that name is tried
	providers      map[Feature]string // the chosen module that provides the feature
	conflicts      map[Feature]string // the chosen module that conflicts with the feature
	chosen         []Manifest
	skipped        []Skip
	failed         []string // for each name of which no manifest can run: why
}

// shelfIndex is the place of the first manifest called name; after the last one if there is none.
func (r *resolution) shelfIndex(name string) int {
	for i := range r.shelf {
		if r.shelf[i].Name == name {
			return i
		}
	}
	return len(r.shelf)
}

// candidate is the n-th manifest called name, from 0; nil if there are fewer.
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

// settleOne settles one name, or skips one manifest, and returns true; false: every name waits for another.
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

// skip passes over m, so that the next manifest of its name is tried.
func (r *resolution) skip(m *Manifest, why string) {
	r.skipped = append(r.skipped, Skip{m.Name, m.Spec, why})
	r.candidateIndex[m.Name]++
}

// fits checks m against what is chosen. bad is a conflict, in words. missing is a feature that m requires and
// that no chosen module provides; wait: all such features may still come from names that are not settled.
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

// mayBeProvided reports whether a manifest of a name that is not settled, other than asker, provides f.
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

// take chooses m.
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

// giveUp skips the manifest of the first name that has another manifest to try, or else of the first name.
// False: all names are settled.
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
