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
	"canto/session/mod/sm"
	"canto/session/mod/starttls"
	"canto/session/sasl"
	"canto/session/store"
	"canto/session/wallclock"
)

// Mechanisms are the SASL mechanisms of a host whose configuration names none. Their -PLUS forms
// come with them.
var Mechanisms = []string{"SCRAM-SHA-1", "SCRAM-SHA-256", "SCRAM-SHA-512", "PLAIN"}

// A Host says how a domain is served.
type Host struct {
	// Service: a host without logins, see [session.NewService]. It can't change while the process runs.
	Service bool
	// Modules are the names of its modules; nil: mod.DefaultNames() or mod.DefaultServiceNames().
	Modules []string
	// Mechanisms are its SASL mechanisms; nil: those of the variable Mechanisms.
	Mechanisms []string
	// Module decodes the options of a module over its defaults; nil: there are none. OptionsKey identifies
	// all that Module decodes: hosts whose OptionsKey and other fields are equal share a profile.
	Module     func(module string, v any) error
	OptionsKey string
	Limits     *session.Limits // nil: those of the whole server
	TLS        starttls.Policy // whether a login needs TLS
	// Certificate reads the host's certificate when it is first needed; nil: it has none. Renewed: a
	// certificate that was read before is read again.
	Certificate func() (*tls.Certificate, error)
	Renewed     bool
}

// withDefaults fills in Modules and Mechanisms.
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

// A Config is the part of the configuration that a reload may change.
type Config struct {
	Limits session.Limits // limits of the whole server
	Hosts  []string       // prepared names of hosts, besides those of the store
	// Host returns how a host of Hosts or of the store is served. Apply returns its errors as they are.
	Host func(name string) (Host, error)
}

// A LimitsError says which limit has a value that it can't have.
type LimitsError struct {
	Err error // names the limit
}

// Error returns the text of Err.
func (e *LimitsError) Error() string { return e.Err.Error() }

// Unwrap returns Err.
func (e *LimitsError) Unwrap() error { return e.Err }

// A HostError says why a host can't be served.
type HostError struct {
	Host string // the host's name
	Part Part   // the part of its configuration that is wrong
	Err  error  // the cause
}

// Error returns the host's name and the cause.
func (e *HostError) Error() string { return fmt.Sprintf("host %s: %v", e.Host, e.Err) }

// Unwrap returns Err.
func (e *HostError) Unwrap() error { return e.Err }

// A Part is the part of a host's configuration that is wrong.
type Part string

// The parts.
const (
	PartName       Part = "name"
	PartMechanisms Part = "mechanisms"
	PartModules    Part = "modules" // or an option of one: see [session.OptionError]
	PartStored     Part = "stored"  // the store has the host, too
	PartRole       Part = "role"    // a service host would become one with logins, or the other way round
)

// The causes of PartStored and PartRole.
var (
	errDuplicateHost = errors.New("it is in the configuration and in the store")
	errRoleChange    = errors.New("whether users log in at a host changes with a restart only")
)

// Apply puts c into effect: the limits, the hosts of c and of the store, their modules. Hosts that
// have not changed keep their profile, so that their accounts stay in memory. The sessions of hosts
// that are no longer served are ended. After an error nothing has changed; it is a *LimitsError, a
// *HostError, one of c.Host, or the store's. Any goroutine but a loop's: modules are loaded and the
// store is read.
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

// hostNames returns the names of the hosts of c and of the store, sorted. A host that is in both is
// an error.
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

// apply is Apply without the limits. The caller holds mu.
//
//  1. Collect the hosts, and refuse a change of role.
//  2. Load the profiles that are new. If one fails, those that were loaded are retired again.
//  3. Swap the profiles of the hosts that exist, add new hosts, and remove those that are gone. Nothing of
//     this can fail.
//  4. Retire the profiles that no host uses any more.
func (s *Server) apply(c Config) error {
	names, err := s.hostNames(c)
	if err != nil {
		return err
	}
	hosts := make([]Host, len(names)) // hosts[i] is the one called names[i]
	for i, n := range names {
		if hosts[i], err = c.Host(n); err != nil {
			return err
		}
		if was, known := s.isService[n]; known && was != hosts[i].Service {
			return &HostError{n, PartRole, errRoleChange}
		}
	}
	fresh := make(map[string]*session.Profile) // the profiles that are used from now on
	var add []*session.Host
	type change struct {
		host    *session.Host
		profile *session.Profile
		renewed bool
	}
	var changes []change
	refuse := func(err error) error { // unloads the profiles that were loaded for this Apply
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
	// Step 3. Nothing fails from here on.
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

// Role reports whether domain is a service host. A host that was served once keeps its role until
// the process ends, so known is also true for a host that was removed. Any goroutine.
func (s *Server) Role(domain string) (service, known bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	service, known = s.isService[domain]
	return service, known
}

// newHost returns a host for the kernel, with logins or without.
func newHost(name string, p *session.Profile, as Host) (*session.Host, error) {
	if as.Service {
		return session.NewService(name, p)
	}
	return session.NewHost(name, p, as.Certificate)
}

// Retire unloads the modules of a profile that no host uses any more, once nothing runs in them. It
// does not wait. Any goroutine.
func (s *Server) Retire(p *session.Profile) {
	s.Router.RetireProfile(p, func(err error) {
		if err != nil {
			s.options.Log.Warn("unloading modules", "err", err)
		}
	})
}

// closeHost ends the sessions of a host that is no longer served, or the entities of a service
// host.
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

// profile returns the profile of a host: the one that an equal host has in fresh, or had before, or
// else a new one. It adds it to fresh. The caller holds mu.
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
		// The host has not changed: its accounts stay in memory, its modules keep their state.
		fresh[key] = p
		return p, nil
	}
	p, err := s.Load(name, h)
	if err == nil {
		fresh[key] = p
	}
	return p, err
}

// Load loads the modules of a host into a new profile; the error is a *HostError. The caller gives
// the profile to [session.Host.SwapProfile], and the one that it replaces to Retire. Any goroutine
// but a loop's.
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

// moduleGivens returns the values that the modules of a host may look up.
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
		session.NewDependency(sm.IDGenerator(s.options.Resumption)),
		session.NewDependency(wallclock.Clock(s.options.Now)),
		session.NewDependency(register.Random{Reader: s.options.Random}),
		session.NewDependency(s.options.About),
	}, s.options.Given...)
}
