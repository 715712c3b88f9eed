package session

import (
	"errors"
	"fmt"
	"hash/maphash"
	"reflect"
	"sync/atomic"

	"canto/reactor"
	"canto/reactor/buf"
	"canto/session/jid"
	"canto/xmlstream"
)

func newLocal(r *Router, loop *reactor.Loop) *Local {
	l := &Local{Loop: loop, router: r, Parser: xmlstream.NewParser(&buf.Tail), Log: r.Log, jids: jid.NewCache()}
	l.stats.StreamErrors = make(map[string]uint64)
	l.stats.Limits = make(map[string]uint64)
	l.seed, l.mark = maphash.MakeSeed(), uint16(loop.Index())+1
	l.mail.l, l.commits.l, l.shares.l = l, l, l
	l.commits.settle, l.shares.serve = l.commits.settleAll, l.shares.turn
	return l
}

// Start makes the kernel's part of each loop. Before it nothing else may be called.
func (r *Router) Start(loops []*reactor.Loop) {
	if r.lim.Load() == nil {
		if err := r.SetLimits(DefaultLimits()); err != nil {
			panic(err) // the defaults are registered by no other path
		}
	}
	r.locals = make([]*Local, len(loops))
	for i, loop := range loops {
		r.locals[i] = newLocal(r, loop)
	}
	r.Durable.Notify(func() {
		for _, l := range r.locals {
			l.Loop.Post(l.commits.settle)
		}
	})
	for _, l := range r.locals {
		l.Loop.Post(func() { l.Loop.Arm(&l.sweeper, l.Loop.Tick()+sweepEvery, l) })
	}
}

// LoadProfile resolves, makes and loads the modules wanted. options decodes a module's own section over
// defaults; nil: there is no configuration. given is what the process offers to all modules. A
// module that fails to load unloads those before it. Any goroutine. Cold path.
func LoadProfile(r *Router, core []Feature, shelf []Manifest, want []string,
	options func(module string, v any) error, given ...Given) (*Profile, error) {
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
