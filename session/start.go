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

// This file starts the kernel on its loops, and loads and unloads the modules of a profile.

// newLoopRouter makes the part of r for one loop.
func newLoopRouter(r *Router, loop *reactor.Loop) *LoopRouter {
	l := &LoopRouter{Loop: loop, router: r, Parser: xmlstream.NewParser(&buf.Input), Log: r.Log,
		jids: jid.NewCache()}
	l.stats.StreamErrors = make(map[string]uint64)
	l.stats.Limits = make(map[string]uint64)
	l.seed, l.loopNumber = maphash.MakeSeed(), uint16(loop.Index())+1
	l.mail.l, l.commitWaiters.l, l.fanout.l = l, l, l
	l.commitWaiters.settleFunc, l.fanout.serveFunc = l.commitWaiters.settleAll, l.fanout.serveTurn
	return l
}

// Start makes the [LoopRouter] of each loop. It must be called once, before any other method of r, by the
// goroutine that starts the server.
func (r *Router) Start(loops []*reactor.Loop) {
	if r.limitsInForce.Load() == nil {
		if err := r.SetLimits(DefaultLimits()); err != nil {
			panic(err) // a bug: DefaultLimits are out of the ranges of Limits.Check
		}
	}
	r.loopRouters = make([]*LoopRouter, len(loops))
	for i, loop := range loops {
		r.loopRouters[i] = newLoopRouter(r, loop)
	}
	r.Committer.Notify(func() {
		for _, l := range r.loopRouters {
			l.Loop.Post(l.commitWaiters.settleFunc)
		}
	})
	for _, l := range r.loopRouters {
		l.Loop.Post(func() { l.Loop.Arm(&l.sweepTimer, l.Loop.Tick()+sweepEvery, l) })
	}
}

// LoadProfile makes a profile: it resolves the names want by the manifests of shelf, see [Resolve], and
// makes and loads the modules in their order. core are the features of the kernel, see [CoreOf]. options
// decodes the section of a module over its defaults; nil: there is no configuration. given are values for
// all modules. If a module fails to load, those loaded before are unloaded, and its error is returned. It
// may block. Any goroutine that is not a loop.
func LoadProfile(r *Router, core []Feature, shelf []Manifest, want []string,
	options func(module string, v any) error, given ...Dependency) (*Profile, error) {
	p := &Profile{Hooks: new(Hooks), dependencies: make(map[reflect.Type]any)}
	p.absentSet.profile = p
	for _, g := range given {
		p.dependencies[g.t] = g.v
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

// RetireProfile unloads the modules of p, which no host runs any more. It waits until every loop has
// finished its current turn, and until nothing of p is pending: no load of an entity, no job of its
// modules on a worker, no commit. done is then called on a loop with the first error of an Unload. A
// second call for p does nothing. Any goroutine.
func (r *Router) RetireProfile(p *Profile, done func(error)) {
	if !p.retired.CompareAndSwap(false, true) {
		return
	}
	left := new(atomic.Int32)
	left.Store(int32(len(r.loopRouters)))
	for _, l := range r.loopRouters {
		ok := l.Loop.Post(func() {
			// The commits that are pending now may have callbacks of p's modules.
			retire(l, p, l.commitWaiters.lastTicket(), left, done)
		})
		if !ok && left.Add(-1) == 0 {
			done(p.unload())
		}
	}
}

// retire unloads p on the last of the loops (left counts them) once no commit up to until and no job of p is
// pending; until then it asks again each tick. On the loop of l.
func retire(l *LoopRouter, p *Profile, until Ticket, left *atomic.Int32, done func(error)) {
	if l.commitWaiters.waitsUpTo(until) || p.pendingWork.Load() > 0 {
		t := &delayedCall{f: func() { retire(l, p, until, left, done) }}
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

// unload unloads the modules of p, the last one first, and returns the first error.
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

// errPanic says that a module has panicked in Unload.
var errPanic = errors.New("session: a module has panicked")

// unload unloads one module. A panic becomes an error, so that the other modules are unloaded as well.
func unload(u Unloader) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w in Unload: %v", errPanic, r)
		}
	}()
	return u.Unload()
}
