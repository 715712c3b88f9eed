package session

import (
	"fmt"
	"reflect"
	"slices"
)

// A Part is the key of one module's part of the resident set of an entity. T is the type of the
// part.
type Part[T any] struct{ id uint16 }

// NewPart registers a Part under a name that must be unique in the process. Call it once, for a
// package variable.
func NewPart[T any](name string) Part[T] { return Part[T]{registerName(&registry.parts, name)} }

// Get returns the part of m for reading. It is nil if the loader has found nothing, or if the
// module is not loaded on the entity's host. Under the entity's lock.
func (p Part[T]) Get(m AnyEntity) *T {
	r := m.entity().resident
	if r == nil || int(p.id) >= len(r.parts) || r.parts[p.id] == nil {
		return nil
	}
	return r.parts[p.id].(*T)
}

// Mutable returns the part of m for a change in place, and makes a new T if there is none. The
// shared resident set is copied first then (copy-on-write). Under the entity's lock, while it is
// warm.
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

// Resident adds p to the resident set of each account on the hosts of the profile. load reads the
// part on a worker, from the snapshot that all parts of one account share; it returns nil if
// nothing is stored. S is the store's type of a snapshot: if the store gives another, each load
// fails. Call it in a module's Load.
func Resident[T, S any](a *API, p Part[T], load func(from S, ref EntityRef) (*T, error)) {
	ResidentOf(a, KindAccount, p, load)
}

// ResidentOf is [Resident] for entities of kind k.
func ResidentOf[T, S any](a *API, k KindID, p Part[T], load func(from S, ref EntityRef) (*T, error)) {
	list := &a.profile.loaders
	if k != KindAccount {
		list = &a.Hooks.Serve(k).loaders
	}
	*list = append(*list, loader{p.id, a.Module, func(from any, ref EntityRef) (any, bool, error) {
		s, ok := from.(S)
		if !ok {
			return nil, false, fmt.Errorf("session: the module %s reads from a %s, and the store gives a %T",
				a.Module, reflect.TypeFor[S](), from)
		}
		v, err := load(s, ref)
		return v, v == nil, err
	}})
}

// MoveRows makes move rewrite the rows of an account that an older version of the server has written, when
// the account is loaded for the first time: so a start costs the same with any number of rows. move reads
// from a snapshot, on a worker, and returns a batch of the store with the rows in their new form and the
// deletion of the old ones, or nil if there are none. The batch is durable before the resident set is read.
// If the server ends before that, the next load begins again. S is the store's type of a snapshot. Call it in
// a module's Load.
func MoveRows[S any](a *API, move func(from S, who EntityRef) (batch any, err error)) {
	a.profile.movers = append(a.profile.movers, rowMover{a.Module, func(from any, who EntityRef) (any, error) {
		s, ok := from.(S)
		if !ok {
			return nil, fmt.Errorf("session: the module %s reads from a %s, and the store gives a %T",
				a.Module, reflect.TypeFor[S](), from)
		}
		return move(s, who)
	}})
}

// moveRows runs the movers of p for the account who, and waits until what they have written is durable. moved
// reports whether there was anything. It runs on a worker.
func (p *Profile) moveRows(r *Router, snap any, who EntityRef) (moved bool, err error) {
	for _, m := range p.movers {
		b, err := m.move(snap, who)
		if err != nil {
			return moved, fmt.Errorf("moving rows of module %s: %w", m.module, err)
		}
		if b == nil {
			continue
		}
		moved = true
		if err := r.Committer.Await(r.Committer.Commit(b)); err != nil {
			return moved, err
		}
	}
	return moved, nil
}

// loadParts loads the parts of an entity of kind k, and returns its resident set. Parts that old
// has are taken from there. The parts of which nothing is stored are taken from the profile's
// emptySet, if it has been made: all accounts without stored parts share that. It runs on a
// worker, and returns the first error of a loader.
func (p *Profile) loadParts(snap any, k KindID, ref EntityRef, old []any) (*residentSet, error) {
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
		v, none, err := ld.load(snap, ref)
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
		p.emptySet.CompareAndSwap(nil, r)
	}
	return r, nil
}
