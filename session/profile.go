package session

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"sort"
	"sync/atomic"

	"canto/reactor"
)

// A Profile is what hosts with the same module list and options share: resolved manifests, module
// instances, hooks.
type Profile struct {
	Modules []Manifest // as resolved, in load order
	Skipped []Skip
	Hooks   *Hooks
	Limits  *Limits // nil: everybody's

	HostFeatures    []string // of XEP-0030, sorted
	AccountFeatures []string

	loaded  []Module
	loaders []loader
	absent  resident                 // of an address where there is nothing
	nothing atomic.Pointer[resident] // of an account of which nothing is stored
	offers  map[reflect.Type]any
	retired atomic.Bool
	works   atomic.Int64 // of its modules, on workers or on their way back
}

func (p *Profile) advertise(list *[]string, ns []string) {
	for _, n := range ns {
		if !slices.Contains(*list, n) {
			*list = append(*list, n)
		}
	}
	sort.Strings(*list)
}

// Load resolves, makes and loads the modules wanted. options decodes a module's own section over
// defaults; nil: there is no configuration. given is what the process offers to all modules. A
// module that fails to load unloads those before it. Any goroutine. Cold path.
func Load(r *Router, core []Feature, shelf []Manifest, want []string, options func(module string, v any) error, given ...Given) (*Profile, error) {
	p := &Profile{Hooks: new(Hooks), offers: make(map[reflect.Type]any)}
	p.absent.profile = p
	for _, g := range given {
		p.offers[g.t] = g.v
	}
	var err error
	p.Modules, p.Skipped, err = Resolve(core, shelf, want)
	if err != nil {
		return nil, err
	}
	for i := range p.Modules {
		m := &p.Modules[i]
		mod := m.New()
		api := &API{Module: m.Name, Hooks: p.Hooks, Router: r, profile: p, decode: options}
		if r.Log != nil {
			api.Log = r.Log.With("module", m.Name)
		}
		if err := mod.Load(api); err != nil {
			p.unload()
			return nil, fmt.Errorf("module %s: %w", m.Name, err)
		}
		p.loaded = append(p.loaded, mod)
	}
	return p, nil
}

// read loads the parts of an entity of kind k that are not in old. A worker.
func (p *Profile) read(snap any, k KindID, who Who, old []any) (*resident, error) {
	nothing, loaders := p.nothing.Load(), p.loaders
	if k != Accounts {
		nothing, loaders = nil, nil
		if b := p.Hooks.behaviour(k); b != nil {
			loaders = b.loaders
		}
	}
	r := nothing
	if r == nil || len(old) > 0 {
		r = &resident{profile: p, exists: true, parts: slices.Clone(old)}
	}
	empty := len(old) == 0 && k == Accounts
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
			r = &resident{profile: p, exists: true, parts: slices.Clone(nothing.parts)}
		}
		if n := int(ld.part) + 1 - len(r.parts); n > 0 {
			r.parts = append(r.parts, make([]any, n)...)
		}
		r.parts[ld.part] = v
	}
	if empty {
		p.nothing.CompareAndSwap(nil, r) // from now on all of which nothing is stored share it
	}
	return r, nil
}

func (p *Profile) unload() (err error) {
	for i := len(p.loaded) - 1; i >= 0; i-- {
		if u, ok := p.loaded[i].(Unloader); ok {
			if e := unload(u); e != nil && err == nil {
				err = e
			}
		}
	}
	p.loaded = nil
	return err
}

var errPanic = errors.New("session: a module has panicked")

// unload unloads one module. A panic is its error: the others give back what they have.
func unload(u Unloader) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w in Unload: %v", errPanic, r)
		}
	}()
	return u.Unload()
}

// Retire unloads p, which no host runs any more, once every loop has finished the turn it was in and
// nothing of p is under way: no load, no work of its modules, no commit. done gets the modules' error. Any
// goroutine.
func (r *Router) Retire(p *Profile, done func(error)) {
	if !p.retired.CompareAndSwap(false, true) {
		return
	}
	left := new(atomic.Int32)
	left.Store(int32(len(r.locals)))
	for _, l := range r.locals {
		ok := l.Loop.Post(func() {
			retire(l, p, l.commits.last(), left, done) // the handlers of commits that are out now may be p's
		})
		if !ok && left.Add(-1) == 0 {
			done(p.unload())
		}
	}
}

// do has a worker run work, and this loop then: for modules of p, which is not unloaded meanwhile. false: the
// queue of c has no room, and nothing is run.
func (l *Local) do(p *Profile, c reactor.Class, work func() error, then func(err error)) bool {
	p.works.Add(1)
	ok := l.router.Workers.Do(c, l.Loop, work, func(err error) {
		defer p.works.Add(-1)
		then(err)
	})
	if !ok {
		p.works.Add(-1)
	}
	return ok
}

// Work has a worker run work, and this loop then, as something that came from outside: for a module of the
// host h, which stays loaded until then has returned. It reports whether the queue of c had room; if not,
// nothing is run. On l's loop, with any lock held. Cold path.
func (l *Local) Work(h *Host, c reactor.Class, work func() error, then func(l *Local, err error)) bool {
	return l.do(h.Profile(), c, work, func(err error) { l.Enter(func() { then(l, err) }) })
}

// retire asks again while a commit up to until, or a work of p, is out.
func retire(l *Local, p *Profile, until Ticket, left *atomic.Int32, done func(error)) {
	if l.commits.waiting(until) || p.works.Load() > 0 {
		t := &later{f: func() { retire(l, p, until, left, done) }}
		l.Loop.Arm(&t.timer, l.Loop.Tick()+1, t)
		return
	}
	if left.Add(-1) == 0 {
		err := p.unload()
		if errors.Is(err, errPanic) {
			l.stats.Panics++
		}
		done(err)
	}
}

// later runs f on a loop after a while.
type later struct {
	timer reactor.Timer
	f     func()
}

func (t *later) OnTimer(*reactor.Loop) { t.f() }

// After runs f on the loop, as something that came from outside, after d. Cold path.
func (l *Local) After(d reactor.Tick, f func()) {
	t := &later{f: func() { l.Enter(f) }}
	l.Loop.Arm(&t.timer, l.Loop.Tick()+max(d, 1), t)
}
