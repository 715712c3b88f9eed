// Package servers launches the XMPP servers that canto-bench compares: Canto, Prosody and ejabberd.
// It starts, populates and stops them. Each has a configuration and a data folder of its own, and
// free ports of loopback, so that several can run at once, and the machine's own servers are not
// touched. A server that runs already is only named (External). The package measures nothing.
//
// Each kind of server has a launcher (canto.go, prosody.go, ejabberd.go). Start checks the Config,
// makes a certificate, chooses ports, lets the launcher write the configuration and the accounts,
// starts the process (process.go), and waits until it answers (startup.go).
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
	Kind string // Kind is one of Kinds.
	Name string // Name in tables; "": Kind.
	// Program is the path of canto (required), of prosody or of ejabberdctl ("": from PATH).
	Program string
	// Dir is a folder of the server's own, which is made if it is missing. If it is used again, the
	// Accounts must be the same.
	Dir      string
	Domain   string   // Domain of the accounts; "": localhost.
	Accounts Accounts // Accounts that the server has.
	// Options change the configuration; the function Options says which there are.
	Options map[string]string
	// Log takes the lines that the server and its tools print, from one goroutine at a time; may be
	// nil.
	Log io.Writer
}

// A Server accepts clients. Its fields must not be changed. Its methods may be called by any
// goroutine.
type Server struct {
	Name, Kind string // Name in tables, and the kind of server.
	Software   string // Software is "Canto", "Prosody" or "ejabberd"; "": unknown.
	Version    string // Version of its package, or as its program reports it.
	Config     string // Config is the text of its configuration; "": unknown.
	Domain     string // Domain of its accounts.
	// Plain takes clients without TLS and with STARTTLS, Direct those with direct TLS. Both allow
	// logins, without TLS by PLAIN too.
	Plain, Direct netip.AddrPort
	Rooms         string // Rooms is the domain of its chat rooms (XEP-0045); "": none.
	PIDs          []int  // PIDs of its processes; the first is the server's.
	Metrics       string // Metrics is the URL of its Prometheus metrics; "": none.
	Profiles      string // Profiles is the URL of its /debug/pprof/; "": none.
	CA            []byte // CA is its certificate in PEM.

	stopping sync.Mutex // serializes Stop and Restart
	command  command    // that started it
	dir      string     // it was started in
	mu       sync.Mutex // guards proc
	proc     *process   // nil: external
}

// A launcher knows how to configure and start one kind of server. One goroutine calls its methods,
// in this order.
type launcher interface {
	// options are what Config.Options may have, with their values. The first value is the default;
	// without values, any text is allowed.
	options() map[string][]string
	// find finds the programs and the version. The error says how to get what is missing.
	find(ctx context.Context, p *launch) error
	// configure writes the configuration, and fills in p.server. Ports and options are chosen.
	configure(p *launch) error
	// populate adds the accounts, at least one, to the data folder, which has none.
	populate(ctx context.Context, p *launch) error
	command(p *launch) command // command returns what starts the server.
}

// A launch is the state of one start.
type launch struct {
	Config
	option           func(name string) string   // value of an option, or its default
	certificateFiles struct{ cert, key string } // of the server's certificate
	ports            []uint16                   // free ports: STARTTLS, direct TLS, and one more
	found            map[string]string          // results of find, for the other methods
	server           *Server
	log              *outputTail
}

// file is the path of a file in the server's folder.
func (p *launch) file(name ...string) string {
	return filepath.Join(append([]string{p.Dir}, name...)...)
}

// A command is a program that serves until it is asked to end.
type command struct {
	program string
	args    []string
	env     []string // added to the environment
	// ready begins the line that the server prints when it has started; "": it prints none, and only
	// the ports are checked.
	ready string
}

// launcherOf returns the launcher of a kind of server.
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

// Options are the options of a kind of server with their values, the default first; without values
// any text is allowed. It is nil for an unknown kind.
func Options(name string) map[string][]string {
	k, err := launcherOf(name)
	if err != nil {
		return nil
	}
	return k.options()
}

// CheckOptions returns an error for options that a kind of server does not have, or that can't have
// this value.
func CheckOptions(kind string, options map[string]string) error {
	known := Options(kind)
	for _, name := range slices.Sorted(maps.Keys(options)) {
		values, ok := known[name]
		if !ok {
			return fmt.Errorf("%s has no option %q: there are %s", kind, name,
				strings.Join(slices.Sorted(maps.Keys(known)), ", "))
		}
		if value := options[name]; len(values) > 0 && !slices.Contains(values, value) {
			return fmt.Errorf("option %s can't be %q: it is one of %s", name, value, strings.Join(values, ", "))
		}
	}
	return nil
}

// startTimeout is how long a start may take if ctx has no deadline.
const startTimeout = 2 * time.Minute

// startAttempts is how often a start is tried if another program takes a port that was free.
const startAttempts = 3

// Start writes the configuration of cfg, adds its accounts, starts the server, and returns when it
// answers on both ports. ctx bounds the start only, by default to two minutes. The error is one
// line: what is missing or wrong, with the last output of the server. Nothing runs after an error.
func Start(ctx context.Context, cfg Config) (s *Server, err error) {
	err = withLaunch(ctx, cfg, func(ctx context.Context, p *launch, k launcher) (err error) {
		s, err = p.start(ctx, k)
		return err
	})
	return s, err
}

// Prepare does what Start does before it starts the server. A Start with the same Dir and Accounts,
// on this machine or on another one that has the folder, finds the accounts.
func Prepare(ctx context.Context, cfg Config) error {
	return withLaunch(ctx, cfg, func(ctx context.Context, p *launch,
		k launcher) error {
		return p.prepare(ctx, k)
	})
}

// withLaunch calls do with the launch of cfg.
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
	p, err := newLaunch(k, cfg)
	if err != nil {
		return fmt.Errorf("%s: %w", cfg.Kind, err)
	}
	if err := do(ctx, p, k); err != nil {
		return fmt.Errorf("%s: %w%s", p.Name, err, p.log.lastOutput())
	}
	return nil
}

// newLaunch checks cfg and fills in its defaults.
func newLaunch(k launcher, cfg Config) (*launch, error) {
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
	p := &launch{Config: cfg, log: &outputTail{out: cfg.Log}, found: map[string]string{},
		server: &Server{Name: cfg.Name, Kind: cfg.Kind, Domain: cfg.Domain}}
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

// start prepares the server and starts it, on other ports if these are taken.
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

// prepare writes all files that the server needs.
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

// configure chooses free ports and writes the configuration.
func (p *launch) configure(k launcher) (err error) {
	if p.ports, err = freePorts(3); err != nil {
		return err
	}
	p.server.Plain, p.server.Direct = loopback(p.ports[0]), loopback(p.ports[1])
	return k.configure(p)
}

// populate adds the accounts to a new folder. One that was used before must have the same accounts.
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
	p.server.proc, p.server.command, p.server.dir = proc, c, p.Dir
	if err := p.server.awaitReady(ctx); err != nil {
		proc.kill()
		return err
	}
	p.server.PIDs = processTree(proc.pid)
	return nil
}

// External is a server that was not started here. ca is the PEM that its certificate is checked by;
// nil: unknown. Stop and Alive do nothing for it.
func External(name, domain string, plain, direct netip.AddrPort, ca []byte) *Server {
	return &Server{Name: name, Kind: "external", Domain: domain, Plain: plain, Direct: direct, CA: ca}
}

// TLS is a configuration for a client that checks the server's certificate. For an external server
// without a CA it checks nothing.
func (s *Server) TLS() *tls.Config { return clientTLS(s.Domain, s.CA) }

// Alive returns nil while the server runs; otherwise one line says how it ended, with its last
// output.
func (s *Server) Alive() error {
	proc := s.process()
	if proc == nil {
		return nil
	}
	select {
	case <-proc.done:
		return fmt.Errorf("%s has ended: %s%s", s.Name, proc.exitStatus(), proc.log.lastOutput())
	default:
		return nil
	}
}

// stopTimeout is how long a server may take to end, if ctx allows more.
const stopTimeout = 20 * time.Second

// Stop asks the server to end, waits, and kills it with its children when ctx ends, or after 20 s.
// No process is left when it returns. The error says that it was killed. It may be called again.
func (s *Server) Stop(ctx context.Context) error {
	s.stopping.Lock()
	defer s.stopping.Unlock()
	return s.stop(ctx)
}

// process is the process that runs now, or ran last; nil: the server is external.
func (s *Server) process() *process {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.proc
}

// stop is Stop. The caller holds s.stopping.
func (s *Server) stop(ctx context.Context) error {
	proc := s.process()
	if proc == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, stopTimeout)
	defer cancel()
	if !proc.stop(ctx) {
		return fmt.Errorf("%s did not end when it was asked to, and was killed%s", s.Name, proc.log.lastOutput())
	}
	return nil
}

// Restart stops the server as Stop does, starts it again with the same configuration, ports and data, and
// returns its processes when it answers, in place of PIDs. After an error nothing runs. A server that was not
// started here can't be restarted.
func (s *Server) Restart(ctx context.Context) (pids []int, err error) {
	s.stopping.Lock()
	defer s.stopping.Unlock()
	old := s.process()
	if old == nil {
		return nil, fmt.Errorf("%s was not started here", s.Name)
	}
	if err := s.stop(ctx); err != nil {
		return nil, err
	}
	old.log.reset()
	proc, err := startProcess(s.command, s.dir, old.log)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.proc = proc
	s.mu.Unlock()
	if err := s.awaitReady(ctx); err != nil {
		proc.kill()
		return nil, fmt.Errorf("%s: %w%s", s.Name, err, proc.log.lastOutput())
	}
	return processTree(proc.pid), nil
}
