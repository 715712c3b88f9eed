// Package servers starts, populates and stops the XMPP servers that canto-bench compares: Canto itself,
// Prosody and ejabberd. Each runs from a configuration and a data folder of its own, on loopback ports
// that are free, so that several run at once and nothing of the machine's own servers is touched. An
// external server is only named. It measures nothing.
package servers

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// A Config says what to start.
type Config struct {
	Kind string // one of Kinds
	Name string // what tables call it; empty: Kind
	// Program is the path of canto (needed), prosody or ejabberdctl (empty: from PATH).
	Program  string
	Dir      string // a folder of its own, made if it is missing; used again, it must have the same Accounts
	Domain   string // empty: localhost
	Accounts Accounts
	// Options change the configuration that is written; Options of the package says which there are.
	Options map[string]string
	// Log takes the lines that the server and its helpers print, from one goroutine at a time; may be nil.
	Log io.Writer
}

// A Server is one that accepts clients. Its fields are not to be changed; its methods may be called by
// any goroutine.
type Server struct {
	Name, Kind string
	Software   string // "Canto", "Prosody", "ejabberd"; empty: unknown
	Version    string // of its package, or what its program says
	Config     string // text of its configuration; empty: unknown
	Domain     string
	// Plain takes clients without TLS, which may STARTTLS; Direct those that begin with TLS. Both allow
	// logins, without TLS by PLAIN too.
	Plain, Direct netip.AddrPort
	Rooms         string // domain of its rooms (XEP-0045); empty: not offered
	PIDs          []int  // processes to measure; the first is the server's
	Metrics       string // URL of Prometheus' text; empty: none
	Profiles      string // URL of Go's /debug/pprof/; empty: none
	CA            []byte // PEM of its certificate

	mu   sync.Mutex
	proc *process // nil: external
}

// A kind is one server software: how to configure and to start it. Methods are called in this order,
// by one goroutine.
type launcher interface {
	// options are what Config.Options may hold, with their values; the first is the default, and none
	// at all is free text.
	options() map[string][]string
	// find finds the programs, and the version; the error says how to get what is missing.
	find(ctx context.Context, p *launch) error
	// configure writes files, and says what they are in p.server. Ports and options are chosen.
	configure(p *launch) error
	// populate adds the accounts, one at least, to the data folder, which has none.
	populate(ctx context.Context, p *launch) error
	// command is what starts the server.
	command(p *launch) command
}

// A plan is one start.
type launch struct {
	Config
	option           func(name string) string
	certificateFiles struct{ cert, key string } // files of the certificate
	ports            []uint16                   // that are free: STARTTLS, TLS, and one more
	found            map[string]string          // what find found, for the other methods
	server           *Server
	log              *outputTail
}

// file is the path of a file in the server's folder.
func (p *launch) file(name ...string) string {
	return filepath.Join(append([]string{p.Dir}, name...)...)
}

// A command is a program that serves until it is told to end.
type command struct {
	program string
	args    []string
	env     []string // added to ours
	// ready is how a line begins that the server prints when it has started; empty: none, and the ports
	// tell.
	ready string
}

func launcherOf(name string) (launcher, error) {
	switch name {
	case "canto":
		return canto{}, nil
	case "prosody":
		return prosody{}, nil
	case "ejabberd":
		return ejabberd{}, nil
	}
	return nil, fmt.Errorf("there is no server %q: use one of %s", name, strings.Join(Kinds(), ", "))
}

// Kinds are the servers that Start can start.
func Kinds() []string { return []string{"canto", "prosody", "ejabberd"} }

// Options are the options of a kind, each with its values, the default first; without values it takes
// any text. It is nil for an unknown kind.
func Options(name string) map[string][]string {
	k, err := launcherOf(name)
	if err != nil {
		return nil
	}
	return k.options()
}

// CheckOptions says which of the options a kind of server does not have, or can't have with that value.
func CheckOptions(kind string, options map[string]string) error {
	known := Options(kind)
	for _, name := range slices.Sorted(maps.Keys(options)) {
		values, ok := known[name]
		if !ok {
			return fmt.Errorf("%s has no option %q: there are %s", kind, name, strings.Join(slices.Sorted(maps.Keys(known)), ", "))
		}
		if value := options[name]; len(values) > 0 && !slices.Contains(values, value) {
			return fmt.Errorf("option %s can't be %q: it is one of %s", name, value, strings.Join(values, ", "))
		}
	}
	return nil
}

// startTimeout is how long a start may take if ctx does not say.
const startTimeout = 2 * time.Minute

// startAttempts is how often a start is tried when another program takes a port that was free.
const startAttempts = 3

// Start writes the configuration of cfg, adds its accounts, starts the server, and returns when it
// answers on both ports. ctx bounds the start only, by default to two minutes. The error is one line:
// what is missing or wrong, with the last that the server printed. Nothing runs after an error.
func Start(ctx context.Context, cfg Config) (s *Server, err error) {
	err = withLaunch(ctx, cfg, func(ctx context.Context, p *launch, k launcher) (err error) {
		s, err = p.start(ctx, k)
		return err
	})
	return s, err
}

// Prepare is what Start does before it starts the server: a Start with the same Dir and Accounts, on this machine
// or on another that the folder was carried to, finds the accounts made.
func Prepare(ctx context.Context, cfg Config) error {
	return withLaunch(ctx, cfg, func(ctx context.Context, p *launch, k launcher) error { return p.prepare(ctx, k) })
}

// withLaunch calls do with the plan that cfg makes.
func withLaunch(ctx context.Context, cfg Config, do func(context.Context, *launch, launcher) error) error {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, startTimeout)
		defer cancel()
	}
	k, err := launcherOf(cfg.Kind)
	if err != nil {
		return err
	}
	p, err := newPlan(k, cfg)
	if err != nil {
		return fmt.Errorf("%s: %w", cfg.Kind, err)
	}
	if err := do(ctx, p, k); err != nil {
		return fmt.Errorf("%s: %w%s", p.Name, err, p.log.lastOutput())
	}
	return nil
}

// newPlan checks cfg and fills its defaults in.
func newPlan(k launcher, cfg Config) (*launch, error) {
	if cfg.Name == "" {
		cfg.Name = cfg.Kind
	}
	if cfg.Domain == "" {
		cfg.Domain = "localhost"
	}
	if err := checkDomain(cfg.Domain); err != nil {
		return nil, err
	}
	if cfg.Dir == "" {
		return nil, errors.New("no folder for its data: set Dir")
	}
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return nil, err
	}
	cfg.Dir = dir
	cfg.Accounts = cfg.Accounts.defaults()
	if err := cfg.Accounts.check(); err != nil {
		return nil, err
	}
	if err := CheckOptions(cfg.Kind, cfg.Options); err != nil {
		return nil, err
	}
	known := k.options()
	p := &launch{Config: cfg, log: &outputTail{out: cfg.Log}, found: map[string]string{}, server: &Server{Name: cfg.Name, Kind: cfg.Kind, Domain: cfg.Domain}}
	p.option = func(name string) string {
		if v, ok := cfg.Options[name]; ok {
			return v
		}
		if values := known[name]; len(values) > 0 {
			return values[0]
		}
		return ""
	}
	return p, nil
}

func (p *launch) start(ctx context.Context, k launcher) (*Server, error) {
	if err := p.prepare(ctx, k); err != nil {
		return nil, err
	}
	for n := 1; ; n++ {
		p.log.reset()
		err := p.startServer(ctx, k.command(p))
		if err == nil {
			return p.server, nil
		}
		if !errors.Is(err, errTaken) && !p.log.portTaken() || n == startAttempts || ctx.Err() != nil {
			return nil, err
		}
		if err := p.configure(k); err != nil {
			return nil, err
		}
	}
}

// prepare writes all that the server needs.
func (p *launch) prepare(ctx context.Context, k launcher) error {
	if err := k.find(ctx, p); err != nil {
		return err
	}
	if err := os.MkdirAll(p.Dir, 0o700); err != nil {
		return err
	}
	if err := p.certificate(); err != nil {
		return err
	}
	if err := p.configure(k); err != nil {
		return err
	}
	if err := p.populate(ctx, k); err != nil {
		return fmt.Errorf("its accounts: %w", err)
	}
	return nil
}

// configure chooses ports that are free.
func (p *launch) configure(k launcher) (err error) {
	if p.ports, err = freePorts(3); err != nil {
		return err
	}
	p.server.Plain, p.server.Direct = loopback(p.ports[0]), loopback(p.ports[1])
	return k.configure(p)
}

// populate adds the accounts to a folder that is new. One that has been used must have the same.
func (p *launch) populate(ctx context.Context, k launcher) error {
	if p.Accounts.N == 0 {
		return nil
	}
	mark := p.file("accounts")
	have, err := os.ReadFile(mark)
	want := p.Accounts.fingerprint(p.Kind, p.Domain, p.option("scram"))
	switch {
	case err == nil && string(have) == want:
		return nil
	case err == nil:
		return fmt.Errorf("%s has others from a run before: name another folder, or remove it", p.Dir)
	case !errors.Is(err, os.ErrNotExist):
		return err
	}
	if err := k.populate(ctx, p); err != nil {
		return err
	}
	return os.WriteFile(mark, []byte(want), 0o600)
}

// startServer starts the server and waits until it answers.
func (p *launch) startServer(ctx context.Context, c command) error {
	proc, err := startProcess(c, p.Dir, p.log)
	if err != nil {
		return err
	}
	p.server.proc = proc
	if err := p.server.awaitReady(ctx); err != nil {
		proc.kill()
		return err
	}
	p.server.PIDs = processTree(proc.pid)
	return nil
}

// External is a server that somebody else has started, known by its addresses only. ca is the PEM that
// its certificate is checked by; nil: not known. Stop and Alive do nothing with it.
func External(name, domain string, plain, direct netip.AddrPort, ca []byte) *Server {
	return &Server{Name: name, Kind: "external", Domain: domain, Plain: plain, Direct: direct, CA: ca}
}

// TLS is a configuration for a client that checks the server's certificate; of an external one without
// a CA it checks nothing.
func (s *Server) TLS() *tls.Config { return clientTLS(s.Domain, s.CA) }

// Alive is nil while the server runs; else it says in one line how it ended, and what it printed last.
func (s *Server) Alive() error {
	if s.proc == nil {
		return nil
	}
	select {
	case <-s.proc.done:
		return fmt.Errorf("%s has ended: %s%s", s.Name, s.proc.exitStatus(), s.proc.log.lastOutput())
	default:
		return nil
	}
}

// stopTimeout is how long a server may take to end after it was asked to, if ctx does not say.
const stopTimeout = 20 * time.Second

// Stop asks the server to end, waits, and kills it and its children when ctx is done, or after 20 s. No
// process is left when it returns; the error says that it had to kill. Called again, it does nothing.
func (s *Server) Stop(ctx context.Context) error {
	if s.proc == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, stopTimeout)
	defer cancel()
	if !s.proc.stop(ctx) {
		return fmt.Errorf("%s did not end when it was asked to, and was killed%s", s.Name, s.proc.log.lastOutput())
	}
	return nil
}
