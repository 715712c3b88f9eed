package session

import (
	"fmt"
	"log/slog"
	"reflect"
)

// A Manifest is all that can be known of a module without making one. The loader reads manifests
// first; a module that can't run here is never made, and the next candidate of the same name is
// looked at instead.
type Manifest struct {
	Name    string // what the configuration calls it: "ping"
	Spec    string // "XEP-0199 2.0.1", "RFC 6121 section 2"
	Summary string // one line for `canto modules`
	Cases   string // which of the specification's cases are covered, and what is left out

	Provides, Requires, Conflicts []Feature

	// Options returns a new pointer to the defaults of the options that Load decodes; nil: the module has none.
	Options func() any
	// Off keeps it out of the default list: it runs where the configuration names it.
	Off bool
	New func() Module
}

// A Module is one feature of one Profile. It keeps nothing of a host in itself: it takes ev.Host and
// has a HostSlot.
type Module interface {
	Load(api *API) error // reads its configuration and adds its hooks, which can be added nowhere else
}

// An Unloader is a Module with something to give back when no host runs its profile any more.
type Unloader interface{ Unload() error }

// An API is what a module is given, for the time of its Load.
type API struct {
	Module string
	Hooks  *Hooks
	Router *Router
	Log    *slog.Logger

	profile *Profile
	decode  func(module string, v any) error
}

// Decode reads the module's own options, strictly, over the defaults in v, and asks them whether they make sense: see
// [OptionChecker].
func (a *API) Decode(v any) error {
	if a.decode != nil {
		if err := a.decode(a.Module, v); err != nil {
			return err
		}
	}
	if c, ok := v.(OptionChecker); ok {
		if key, why := c.Check(); why != "" {
			return &OptionError{a.Module, key, why}
		}
	}
	return nil
}

// An OptionChecker is options of a module that can be wrong though they decode. Check returns the key of the first
// that is, and why, with what may stand there; two empty strings if all is well.
type OptionChecker interface{ Check() (key, why string) }

// An OptionError is an option of a module that can't be meant.
type OptionError struct{ Module, Key, Why string }

func (e *OptionError) Error() string { return e.Key + ": " + e.Why }

// InRange is what Check of a module's options returns for numbers that have a least and a most: the key of the first
// that is out of its range, and why.
func InRange(ranges ...OptionRange) (key, why string) {
	for _, r := range ranges {
		if r.Value < r.Least || r.Value > r.Most {
			return r.Key, fmt.Sprintf("%d: write %d to %d%s", r.Value, r.Least, r.Most, r.Note)
		}
	}
	return "", ""
}

// An OptionRange is one number of a module's options. Note, if there is one, is a remedy that follows the range.
type OptionRange struct {
	Key                string
	Value, Least, Most int
	Note               string
}

// Advertise adds entries to the service discovery (XEP-0030) of the profile's hosts.
func (a *API) Advertise(ns ...string) { a.profile.advertise(&a.profile.HostFeatures, ns) }

// AdvertiseAccount adds entries to the service discovery of the profile's accounts.
func (a *API) AdvertiseAccount(ns ...string) { a.profile.advertise(&a.profile.AccountFeatures, ns) }

// Offer makes v the profile's T, for modules that require the feature it belongs to.
func Offer[T any](a *API, v T) {
	a.profile.offers[reflect.TypeFor[T]()] = v
}

// Find returns the T that whoever loaded before offered, or that the process gave to all profiles.
func Find[T any](a *API) (v T, ok bool) {
	x, ok := a.profile.offers[reflect.TypeFor[T]()]
	if !ok {
		return v, false
	}
	return x.(T), true
}

// A Given is something that the process offers to the modules of every profile: the store, the
// certificates, the clock.
type Given struct {
	t reflect.Type
	v any
}

// Give makes a Given of v, to be found as a T.
func Give[T any](v T) Given { return Given{reflect.TypeFor[T](), v} }

// A Part gets one module's part of the resident set of an account, or of an entity of another kind.
type Part[T any] struct{ id uint16 }

// NewPart makes a Part, for a package variable.
func NewPart[T any](name string) Part[T] { return Part[T]{register(&names.parts, name)} }

// Of is the part of m, to be read: under the entity's lock. It is nil where load found nothing, and
// where the module is not loaded on the entity's host.
func (p Part[T]) Of(m Member) *T {
	r := m.entity().resident
	if r == nil || int(p.id) >= len(r.parts) || r.parts[p.id] == nil {
		return nil
	}
	return r.parts[p.id].(*T)
}

// Own is Of for who changes what it points to, in place: a new T where there was none. Under the
// entity's lock, while the resident set is in memory.
func (p Part[T]) Own(m Member) *T {
	v := p.Of(m)
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

type loader struct {
	part   uint16
	module string
	load   func(from any, who Who) (v any, none bool, err error) // none: v is a nil pointer
}

// Resident adds p to the resident set of each account of the profile. load reads it on a worker, from the snapshot
// that all parts of one account share, and returns nil if nothing is stored; S is the store's type for it, and Load
// fails at run time with a snapshot of another type. The set is dropped by clock when the account has no session.
func Resident[T, S any](a *API, p Part[T], load func(from S, who Who) (*T, error)) {
	ResidentOf(a, Accounts, p, load)
}

// ResidentOf is Resident for entities of kind k.
func ResidentOf[T, S any](a *API, k KindID, p Part[T], load func(from S, who Who) (*T, error)) {
	list := &a.profile.loaders
	if k != Accounts {
		list = &a.Hooks.Serve(k).loaders
	}
	*list = append(*list, loader{p.id, a.Module, func(from any, who Who) (any, bool, error) {
		s, ok := from.(S)
		if !ok {
			return nil, false, fmt.Errorf("session: the module %s reads from a %s, and the store gives a %T", a.Module, reflect.TypeFor[S](), from)
		}
		v, err := load(s, who)
		return v, v == nil, err
	}})
}
