package server

import (
	"crypto/tls"
	"errors"
	"fmt"
	"slices"

	"canto/session"
	"canto/session/mod"
	"canto/session/mod/bind"
	"canto/session/mod/register"
	"canto/session/mod/saslauth"
	"canto/session/mod/starttls"
	"canto/session/sasl"
	"canto/session/store"
	"canto/session/wallclock"
)

// Mechanisms are what a host offers that names none; -PLUS forms come with them.
var Mechanisms = []string{"SCRAM-SHA-1", "SCRAM-SHA-256", "SCRAM-SHA-512", "PLAIN"}

// A Host says how a domain is served.
type Host struct {
	Service    bool     // without logins: see [session.NewService]. It does not change while the process runs.
	Modules    []string // mod.DefaultNames(), or mod.DefaultServiceNames()
	Mechanisms []string // Mechanisms
	// Module decodes the options of a module over its defaults; nil: there are none. Key stands for all that
	// Module says: hosts whose Key and other fields are the same share a profile.
	Module     func(module string, v any) error
	OptionsKey string
	Limits     *session.Limits // nil: those of the whole server
	TLS        starttls.Policy
	// Certificate reads the host's own certificate when it is first needed; nil: it has none. Renewed: one
	// that was read before is to be read again.
	Certificate func() (*tls.Certificate, error)
	Renewed     bool
}

func (h Host) withDefaults() Host {
	if h.Modules == nil {
		if h.Modules = mod.DefaultNames(); h.Service {
			h.Modules = mod.DefaultServiceNames()
		}
	}
	if h.Mechanisms == nil {
		h.Mechanisms = Mechanisms
	}
	return h
}

// A Config is what a reload may change.
type Config struct {
	Limits session.Limits
	Hosts  []string // besides those that the store names
	// Host describes one of Hosts or of the store's. Its errors are returned as they are.
	Host func(name string) (Host, error)
}

// A LimitsError says which limits can't be meant.
type LimitsError struct{ Err error }

func (e *LimitsError) Error() string { return e.Err.Error() }
func (e *LimitsError) Unwrap() error { return e.Err }

// A HostError is why a host can't be served.
type HostError struct {
	Host string
	Part Part
	Err  error
}

func (e *HostError) Error() string { return fmt.Sprintf("host %s: %v", e.Host, e.Err) }
func (e *HostError) Unwrap() error { return e.Err }

// A Part is what of a host is wrong.
type Part string

// The parts.
const (
	PartName       Part = "name"
	PartMechanisms Part = "mechanisms"
	PartModules    Part = "modules" // or an option of one: see [session.OptionError]
	PartStored     Part = "stored"  // the store names it, too
	PartRole       Part = "role"    // it was a service host, and is to have users, or the other way round
)

var (
	errDuplicateHost = errors.New("it is in the configuration and in the store")
	errRoleChange    = errors.New("whether users log in at a host changes with a restart only")
)

// Apply has the server run with c from now on: the limits, the hosts of c and of the store, their modules.
// Hosts of which nothing has changed keep their profile, so that accounts stay in memory; sessions at hosts
// that are served no more are ended. On an error nothing is changed; it is a *LimitsError, a *HostError,
// one of c.Host, or the store's. Any goroutine but a loop's: modules are loaded, the store is read.
func (s *Server) Apply(c Config) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.Router.Limits()
	if err := s.Router.SetLimits(c.Limits); err != nil {
		return &LimitsError{err}
	}
	err := s.apply(c)
	if err != nil {
		if undo := s.Router.SetLimits(before); undo != nil {
			return errors.Join(err, undo)
		}
	}
	return err
}

// hostNames are the hosts of c and of the store, sorted.
func (s *Server) hostNames(c Config) ([]string, error) {
	own := slices.Sorted(slices.Values(c.Hosts))
	names := slices.Clone(own)
	snap := s.DB.Snapshot()
	defer snap.Close()
	var twice error
	if err := s.DB.Hosts().List(snap, func(h store.HostRecord) bool {
		if _, ok := slices.BinarySearch(own, h.Domain); ok {
			twice = &HostError{h.Domain, PartStored, errDuplicateHost}
			return false
		}
		names = append(names, h.Domain)
		return true
	}); err != nil {
		return nil, err
	}
	slices.Sort(names)
	return names, twice
}

func (s *Server) apply(c Config) error {
	names, err := s.hostNames(c)
	if err != nil {
		return err
	}
	hosts := make([]Host, len(names)) // by names
	for i, n := range names {
		if hosts[i], err = c.Host(n); err != nil {
			return err
		}
		if was, known := s.isService[n]; known && was != hosts[i].Service {
			return &HostError{n, PartRole, errRoleChange}
		}
	}
	fresh := make(map[string]*session.Profile) // those that are used from now on
	var add []*session.Host
	type change struct {
		host    *session.Host
		profile *session.Profile
		renewed bool
	}
	var changes []change
	refuse := func(err error) error { // what was loaded for nothing is unloaded
		for key, p := range fresh {
			if s.profiles[key] != p {
				s.Retire(p)
			}
		}
		return err
	}
	for i, n := range names {
		as := hosts[i]
		p, err := s.profile(n, as, fresh)
		if err != nil {
			return refuse(err)
		}
		if h, ok := s.Router.Table.Host(n); ok {
			changes = append(changes, change{h, p, as.Renewed})
			continue
		}
		h, err := newHost(n, p, as)
		if err != nil {
			return refuse(&HostError{n, PartName, err})
		}
		add = append(add, h)
	}
	// From here on nothing fails.
	old := s.profiles
	s.profiles = fresh
	for _, ch := range changes {
		ch.host.SwapProfile(ch.profile)
		if ch.renewed {
			ch.host.InvalidateCertificate()
		}
	}
	for _, h := range add {
		s.isService[h.Name] = h.Service()
	}
	s.Router.Table.AddHost(add...)
	for n := range s.Router.Table.Hosts() {
		if _, ok := slices.BinarySearch(names, n); !ok {
			if h, ok := s.Router.Table.RemoveHost(n); ok {
				s.closeHost(h)
			}
		}
	}
	for key, p := range old {
		if fresh[key] != p {
			s.Retire(p)
		}
	}
	return nil
}

// Role reports whether domain is a service host, or was one when it was last served since the server
// began: a host that is served keeps its role until the server is started again. known: it was served.
// Any goroutine.
func (s *Server) Role(domain string) (service, known bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	service, known = s.isService[domain]
	return service, known
}

func newHost(name string, p *session.Profile, as Host) (*session.Host, error) {
	if as.Service {
		return session.NewService(name, p)
	}
	return session.NewHost(name, p, as.Certificate)
}

// Retire unloads the modules of p, which no host runs any more, when nothing is under way in them. Any
// goroutine.
func (s *Server) Retire(p *session.Profile) {
	s.Router.RetireProfile(p, func(err error) {
		if err != nil {
			s.options.Log.Warn("unloading modules", "err", err)
		}
	})
}

// closeHost ends the sessions of a host that is not served any more, or what else is in memory of it.
func (s *Server) closeHost(h *session.Host) {
	if h.Service() {
		s.Router.EndEntities(h)
		return
	}
	for i := range 256 {
		for _, a := range s.Router.Table.Accounts(i, nil) {
			if a.Host() == h {
				s.Router.Kick(a.JID(), session.ErrHostGone)
			}
		}
	}
}

// profile loads the profile of a host, or gives the one that an equal host has.
func (s *Server) profile(name string, h Host, fresh map[string]*session.Profile) (*session.Profile, error) {
	h = h.withDefaults()
	key := fmt.Sprintf("%q %q %q %v %v", h.Modules, h.Mechanisms, h.OptionsKey, h.TLS, h.Service)
	if h.Limits != nil {
		key += fmt.Sprintf("%+v", *h.Limits)
	}
	if p := fresh[key]; p != nil {
		return p, nil
	}
	if p := s.profiles[key]; p != nil {
		// What has not changed goes on as it is: accounts stay in memory, modules keep their counts.
		fresh[key] = p
		return p, nil
	}
	p, err := s.Load(name, h)
	if err == nil {
		fresh[key] = p
	}
	return p, err
}

// Load loads the modules of a host anew, as a reload with other options does; the error is a *HostError.
// What it makes is for [session.Host.SwapProfile], and for Retire when another has taken its place. Any
// goroutine but a loop's.
func (s *Server) Load(name string, h Host) (*session.Profile, error) {
	h = h.withDefaults()
	offer, err := sasl.NewMechanismSet(h.Mechanisms...)
	if err != nil {
		return nil, &HostError{name, PartMechanisms, err}
	}
	shelf := s.options.Manifests
	if shelf == nil {
		shelf = mod.All
	}
	p, err := session.LoadProfile(s.Router, session.CoreOf(h.Service), shelf, h.Modules, h.Module,
		s.moduleGivens(h, offer)...)
	if err != nil {
		return nil, &HostError{name, PartModules, err}
	}
	p.Limits = h.Limits
	return p, nil
}

// moduleGivens is what the modules of a host find.
func (s *Server) moduleGivens(h Host, offer sasl.MechanismSet) []session.Dependency {
	return append([]session.Dependency{
		session.NewDependency(s.DB),
		session.NewDependency(h.TLS),
		session.NewDependency(saslauth.Policy{
			Mechanisms: offer,
			PlainText:  !h.TLS.Required,
			Rand:       s.options.Random,
			FakeKey:    s.fakeKey,
			Failures:   s.failures,
			EndPoint:   tlsServerEndPoint,
		}),
		session.NewDependency(bind.ResourceGenerator(s.options.Resource)),
		session.NewDependency(wallclock.Clock(s.options.Now)),
		session.NewDependency(register.Random{Reader: s.options.Random}),
		session.NewDependency(s.options.About),
	}, s.options.Given...)
}
