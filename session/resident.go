package session

import (
	"fmt"
	"reflect"
	"slices"
)

// A Part gets one module's part of the resident set of an account, or of an entity of another kind.
type Part[T any] struct{ id uint16 }

// NewPart makes a Part, for a package variable.
func NewPart[T any](name string) Part[T] { return Part[T]{registerName(&registry.parts, name)} }

// Get is the part of m, to be read: under the entity's lock. It is nil where load found nothing, and
// where the module is not loaded on the entity's host.
func (p Part[T]) Get(m AnyEntity) *T {
	r := m.entity().resident
	if r == nil || int(p.id) >= len(r.parts) || r.parts[p.id] == nil {
		return nil
	}
	return r.parts[p.id].(*T)
}

// Mutable is Of for a module that changes what it points to, in place: a new T where there was none.
// Under the entity's lock, while the resident set is in memory.
func (p Part[T]) Mutable(m AnyEntity) *T {
	v := p.Get(m)
	if v == nil {
		v = new(T)
		e := m.entity()
		r := *e.resident
		r.parts = make([]any, max(len(r.parts), int(p.id)+1))
		copy(r.parts, e.resident.parts)
		r.parts[p.id] = v
		e.resident = &r
	}
	return v
}

// Resident adds p to the resident set of each account of the profile. load reads it on a worker, from the
// snapshot that all parts of one account share, and returns nil if nothing is stored; S is the store's
// type for it, and Load fails at run time with a snapshot of another type. The set is dropped by clock
// when the account has no session.
func Resident[T, S any](a *API, p Part[T], load func(from S, who EntityRef) (*T, error)) {
	ResidentOf(a, KindAccount, p, load)
}

// ResidentOf is Resident for entities of kind k.
func ResidentOf[T, S any](a *API, k KindID, p Part[T], load func(from S, who EntityRef) (*T, error)) {
	list := &a.profile.loaders
	if k != KindAccount {
		list = &a.Hooks.Serve(k).loaders
	}
	*list = append(*list, loader{p.id, a.Module, func(from any, who EntityRef) (any, bool, error) {
		s, ok := from.(S)
		if !ok {
			return nil, false, fmt.Errorf("session: the module %s reads from a %s, and the store gives a %T",
				a.Module, reflect.TypeFor[S](), from)
		}
		v, err := load(s, who)
		return v, v == nil, err
	}})
}

// loadParts loads the parts of an entity of kind k that are not in old. A worker.
func (p *Profile) loadParts(snap any, k KindID, who EntityRef, old []any) (*residentSet, error) {
	nothing, loaders := p.emptySet.Load(), p.loaders
	if k != KindAccount {
		nothing, loaders = nil, nil
		if b := p.Hooks.entityHandler(k); b != nil {
			loaders = b.loaders
		}
	}
	r := nothing
	if r == nil || len(old) > 0 {
		r = &residentSet{profile: p, exists: true, parts: slices.Clone(old)}
	}
	empty := len(old) == 0 && k == KindAccount
	for i := range loaders {
		ld := &loaders[i]
		if int(ld.part) < len(old) && old[ld.part] != nil {
			continue
		}
		v, none, err := ld.load(snap, who)
		if err != nil {
			return nil, err
		}
		empty = empty && none
		if r == nothing {
			if none {
				continue
			}
			r = &residentSet{profile: p, exists: true, parts: slices.Clone(nothing.parts)}
		}
		if n := int(ld.part) + 1 - len(r.parts); n > 0 {
			r.parts = append(r.parts, make([]any, n)...)
		}
		r.parts[ld.part] = v
	}
	if empty {
		p.emptySet.CompareAndSwap(nil, r) // from now on all of which nothing is stored share it
	}
	return r, nil
}
