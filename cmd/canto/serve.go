package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"os"
	"os/signal"
	"path/filepath"
	"reflect"
	"regexp"
	"runtime"
	"runtime/debug"
	"slices"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"canto/reactor"
	"canto/session"
	"canto/session/admin"
	"canto/session/jid"
	"canto/session/metrics"
	"canto/session/mod"
	"canto/session/mod/starttls"
	"canto/session/sasl"
	"canto/session/server"
	"canto/session/store"
)

// serveCmd is `canto serve`.
type serveCmd struct {
	Dev bool `help:"Start without a configuration file: domain localhost, a self-signed certificate, two accounts whose passwords are printed, data in ./canto-data."`
}

// A program is the server in this process, with the parts that belong to the command line:
// configuration, log, certificates and control plane.
type program struct {
	*server.Server
	cfg     atomic.Pointer[config] // replaced by a reload
	cli     *cli                   // the command line of canto serve
	dev     bool                   // --dev
	log     *slog.Logger
	metrics *metrics.Collector
	httpd   *http.Server // answers on the connections of http and https ports
	certs   *certificates
	ready   atomic.Bool // what /readyz says
	mu      sync.Mutex  // held during a reload, so that there is one at a time
	fatal   chan error  // has room for one: the store went out of service
}

// config returns the configuration in effect. Any goroutine.
func (s *program) config() *config { return s.cfg.Load() }

// Run starts the server and serves until SIGTERM or SIGINT, or until the store fails.
//
//  1. Read the configuration, and check everything that can be checked before anything is made
//     (preflight).
//  2. Open the server: store, hosts, ports.
//  3. Handle SIGHUP: reload.
//  4. Open the debug ports and the admin socket.
//  5. Run the loops, the check of certificates and the return of memory, and print the ready line.
//  6. At the end, stop being ready, let HTTP requests finish, and shut the reactor down, which
//     tells each client.
func (cmd *serveCmd) Run(r *run) error {
	if r.server != nil {
		return exitStatus{exitUsage, errors.New("the server runs already")}
	}
	c, err := cmd.config(r)
	if err != nil {
		return err
	}
	if r.onServe != nil {
		r.onServe()
	}
	s := &program{cli: r.cli, dev: cmd.Dev, fatal: make(chan error, 1)}
	c.startConfig = c
	s.cfg.Store(c)
	s.log = newLog(c, r.errOut)
	if err := s.preflight(c); err != nil {
		return err
	}
	limitMemory(c)
	if err := s.open(c, r); err != nil {
		return err
	}
	defer s.Close()
	stop, cancel := signal.NotifyContext(r.ctx, syscall.SIGTERM, syscall.SIGINT)
	defer cancel()
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	go func() {
		for range hup {
			if _, err := s.reload(); err != nil {
				s.log.Error("reload failed; nothing was changed", "err", err)
			}
		}
	}()
	close, err := s.openControlPlane(c)
	if err != nil {
		over, end := context.WithCancel(context.Background())
		end()
		s.Reactor.Run(over) // a run that is over at once closes the ports
		return err
	}
	defer close()
	running := make(chan error, 1)
	ctx, end := context.WithCancel(context.Background())
	defer end()
	go s.freeMemory(ctx)
	go s.certs.watch(ctx, cmp.Or(r.certInterval, certCheckInterval))
	go func() { running <- s.Reactor.Run(ctx) }()
	s.ready.Store(true)
	if r.onReady != nil {
		r.onReady(s)
	}
	fmt.Fprintf(r.out, "canto: ready %s\n", s.readyText(c))
	select {
	case err := <-running:
		return err
	case err := <-s.fatal:
		end()
		return err
	case <-stop.Done():
	}
	s.ready.Store(false)
	s.log.Info("shutting down")
	s.shutdownHTTP()
	s.Router.Stop()
	end()
	return <-running
}

// config returns the configuration of canto serve. Without --dev there must be a file.
func (cmd *serveCmd) config(r *run) (*config, error) {
	if !cmd.Dev {
		if r.cli.Config == "" {
			if _, err := os.Stat("canto.toml"); err != nil {
				return nil, exitStatus{exitUsage, errors.New("no configuration: name a file with --config, or " +
					"start with --dev")}
			}
		}
		return r.config()
	}
	c := defaults()
	if r.cli.Config != "" {
		var err error
		if c, err = readConfig(r.cli.Config); err != nil {
			return nil, err
		}
	}
	c.dev = true
	if err := c.devHosts(); err != nil {
		return nil, err
	}
	if r.cli.Data != "" {
		c.Data = r.cli.Data
	}
	return c, nil
}

// storeMemory is the store's share of the configured memory in bytes: block cache and memtables.
const storeMemory = 256 << 20

// gcPercent is the garbage collector's target, unless GOGC sets another: half of Go's default.
// Stanzas leave no garbage, so only logins pay for more frequent collections, a few per cent. The
// garbage of logins, which sets the peak of memory, is half as much.
const gcPercent = 50

// limitMemory sets the garbage collector's target, and tells it the configured bound: 80 % of it
// less the store's share, but at least 64 MiB.
func limitMemory(c *config) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	if c.Memory > 0 {
		debug.SetMemoryLimit(max(int64(c.Memory)*8/10-storeMemory, 64<<20))
	}
}

// preflight finds errors in c before anything is made: certificates that can't be read, no
// certificate at all, options that a module refuses, ports that can't be opened.
func (s *program) preflight(c *config) error {
	if err := c.checkCertificates(); err != nil {
		return err
	}
	if !s.dev { // with --dev certificates are made
		if err := c.checkTLSAvailable(); err != nil {
			return err
		}
	}
	if err := c.dryRun(); err != nil {
		return err
	}
	return c.checkPorts()
}

// checkPorts opens each port and closes it again, so that a port in use is reported before a data
// folder is made.
func (c *config) checkPorts() error {
	for _, l := range c.listenKeys() {
		for _, a := range l.addrs {
			ln, err := net.Listen("tcp", a)
			if err != nil {
				return portError(c.errorAt(portText(err), "listen", l.key), err)
			}
			ln.Close()
		}
	}
	return nil
}

// portError gives said the exit status for why, the operating system's error about a port.
func portError(said, why error) error {
	if errors.Is(why, syscall.EADDRINUSE) {
		return exitStatus{exitInUse, said}
	}
	return exitStatus{exitFailed, said}
}

// portText returns an error about a port with its remedy.
func portText(err error) string {
	remedy := "change [listen]"
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		remedy = "stop the program that uses it, or change [listen]"
	case errors.Is(err, syscall.EACCES):
		remedy = "a port below 1024 is root's: set AmbientCapabilities=CAP_NET_BIND_SERVICE in the unit " +
			"file, or change [listen]"
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		remedy = "this machine does not have that address: change [listen]"
	}
	return fmt.Sprintf("%v: %s", err, remedy)
}

// dryRun loads the modules of every host on an empty store in memory: only modules know which
// options they accept.
func (c *config) dryRun() error {
	log := slog.New(slog.DiscardHandler)
	s := &program{log: log, dev: c.dev}
	s.cfg.Store(c)
	s.certs = &certificates{program: s}
	var err error
	if s.Server, err = server.New(server.Options{Log: log, Now: time.Now, Random: rand.Reader,
		Store: store.Options{Dir: "rehearsal", FS: store.NewMemFS(), CacheBytes: 1 << 20, MemTableBytes: 1 << 20,
			MinFree: -1, Ballast: -1, CheckEvery: -1}}); err != nil {
		return err
	}
	defer s.Close()
	hosts := c.hostNames()
	if len(hosts) == 0 {
		hosts = []string{"localhost"}
	}
	return s.apply(c, hosts)
}

// open makes everything but the running loops, and closes it again after an error:
//
//  1. Make the server, which opens the store.
//  2. With --dev, make a certificate and accounts.
//  3. Load the hosts and their modules. Warn if there is no host with logins.
//  4. Bound the connections by the descriptors that the process may have.
//  5. Make the reactor, which opens the ports, and join it with the server.
func (s *program) open(c *config, r *run) error {
	o := store.Options{Dir: c.Data, Fatal: func(err error) {
		select {
		case s.fatal <- err:
		default:
		}
	}}
	if r.options != nil {
		r.options(&o)
	}
	s.certs = &certificates{program: s}
	var err error
	if s.Server, err = server.New(server.Options{
		Store:  o,
		Log:    s.log,
		Node:   uint16(c.Node),
		About:  session.About{Name: "Canto", Version: Version},
		Now:    time.Now,
		Random: rand.Reader,
		TLS:    s.certs.startTLSConfig,
	}); err != nil {
		return err
	}
	fail := func(err error) error {
		s.Close()
		return err
	}
	if s.dev {
		if err := s.devSetup(c, r.out); err != nil {
			return fail(err)
		}
	}
	if err := s.apply(c, c.hostNames()); err != nil {
		return fail(err)
	}
	switch hosts := s.Router.Table.Hosts(); {
	case len(hosts) == 0:
		s.log.Warn("no host is served: add a section like [host.\"example.org\"] to the configuration, or " +
			"run canto host add")
	case s.loginHosts() == 0:
		s.log.Warn("all hosts are service hosts, so no user can log in: add a section without service = " +
			"true, or run canto host add")
	}
	lim := c.limits()
	if n := connectionCap(descriptorLimit(), lim.Connections); n < lim.Connections {
		s.log.Warn("limits.connections is more than there are descriptors for: raise LimitNOFILE (canto "+
			"check limits)",
			"configured", lim.Connections, "connections", n)
	}
	loops, err := reactor.New(reactor.Config{
		Listeners:   s.Listeners(c.clientPorts(s.certs)),
		Log:         s.log,
		OutboxBytes: lim.Outbox,
		Connections: connectionCap(descriptorLimit(), lim.Connections),
		OnShutdown:  s.C2S.OnShutdown,
		Busy:        s.Router.Busy,
		StdTLS:      !c.C2S.CompactTLS,
	})
	if err != nil {
		return fail(portError(errors.New(portText(err)), err))
	}
	if err := s.Start(loops); err != nil {
		return fail(err)
	}
	s.metrics = &metrics.Collector{Reactor: s.Reactor, Router: s.Router, DB: s.DB}
	return nil
}

// loginHosts returns the number of hosts at which users can log in.
func (s *program) loginHosts() (n int) {
	for _, h := range s.Router.Table.Hosts() {
		if !h.Service() {
			n++
		}
	}
	return n
}

// Descriptors that are not for client connections.
const (
	fdStore    = 600 // Pebble's 500 open tables, its log and rotation, lock, ballast file
	fdOutgoing = 200 // streams to other servers, DNS
	fdHTTP     = 100 // debug and admin: http and https clients are counted as connections
	fdRest     = 128 // listeners, epoll descriptors, the log, certificates that are being read
)

// minConnections is the number of connections that are allowed even if there are hardly any
// descriptors.
const minConnections = 16

// connectionCap returns how many connections there may be with limit descriptors; configured, if
// above 0, is an upper bound.
func connectionCap(limit uint64, configured int) int {
	room := max(int(min(limit, 1<<30))-fdStore-fdOutgoing-fdHTTP-fdRest, minConnections)
	if configured > 0 {
		return min(configured, room)
	}
	return room
}

// descriptorLimit returns how many descriptors this process may open. Go has raised it to the hard
// limit already.
func descriptorLimit() uint64 {
	var rl syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &rl) != nil {
		return 1024 // the soft limit of most systems
	}
	return rl.Cur
}

// clientPorts returns the addresses on which clients reach the server.
func (c *config) clientPorts(certs *certificates) server.Ports {
	p := server.Ports{C2S: c.Listen.C2S, C2STLS: c.Listen.C2STLS, HTTP: c.Listen.HTTP, HTTPS: c.Listen.HTTPS}
	if c.hasCertificate() {
		p.TLS = certs.directTLSConfig
	}
	return p
}

// serveHTTP starts net/http on the connections that http and https ports accept. There are no pages
// yet: it answers 404.
func (s *program) serveHTTP() {
	s.httpd = &http.Server{Handler: http.NotFoundHandler(), ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout: time.Minute, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
		ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug)}
	go s.httpd.Serve(s.HTTP)
}

// shutdownHTTP waits up to 3 s for requests that are being answered.
func (s *program) shutdownHTTP() {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	s.httpd.Shutdown(ctx)
}

// readyText returns the addresses on which the server listens. Tests read it to find out about port
// 0.
func (s *program) readyText(c *config) string {
	var parts []string
	for _, name := range []string{"c2s", "http", "https"} {
		if addrs := s.Reactor.Addrs(name); len(addrs) > 0 || name == "c2s" {
			parts = append(parts, name+"="+strings.Join(addrs, ","))
		}
	}
	if n := len(s.Router.Table.Hosts()); n == 1 {
		for name := range s.Router.Table.Hosts() {
			parts = append(parts, "host="+name)
		}
	} else {
		parts = append(parts, fmt.Sprintf("hosts=%d", n))
	}
	return strings.Join(append(parts, "data="+c.Data), " ")
}

// hostNames returns the names of the hosts of the file, sorted.
func (c *config) hostNames() (names []string) {
	for n := range c.Host {
		names = append(names, n)
	}
	sort.Strings(names)
	return names
}

// loginNames returns the names of the hosts of the file at which users log in, sorted.
func (c *config) loginNames() []string {
	return slices.DeleteFunc(c.hostNames(), func(n string) bool { return c.Host[n].Service })
}

// modulesOf returns the modules of a host: the default list of its role, changed by "+name" and
// "-name"; or, if there are plain names, these. An unknown module is an error, and one that needs
// accounts at a service host.
func (c *config) modulesOf(host string) ([]string, error) {
	want, service := mod.DefaultNames(), c.Host[host].Service
	if service {
		want = mod.DefaultServiceNames()
	}
	changes := c.Host[host].Modules
	plain := slices.ContainsFunc(changes, func(m string) bool {
		return !strings.HasPrefix(m, "+") && !strings.HasPrefix(m, "-")
	})
	if plain {
		want = nil
	}
	for _, m := range changes {
		name := strings.TrimLeft(m, "+-")
		if all := moduleNames(); !slices.Contains(all, name) {
			return nil, c.errorAt(fmt.Sprintf("unknown module %q%s", name, suggestKey(name, all)), "host", host,
				"modules")
		}
		if service && !strings.HasPrefix(m, "-") && !mod.RunsAtService(manifest(name)) {
			return nil, c.errorAt(needsAccounts(name, host), "host", host, "modules")
		}
		if strings.HasPrefix(m, "-") {
			want = slices.DeleteFunc(want, func(x string) bool { return x == name })
		} else if !slices.Contains(want, name) {
			want = append(want, name)
		}
	}
	return want, nil
}

// host returns how a host of the file or of the store is served: see [server.Config].
func (s *program) host(c *config, name string) (server.Host, error) {
	modules, err := c.modulesOf(name)
	if err != nil {
		return server.Host{}, err
	}
	own := c.Host[name]
	h := server.Host{
		Service:    own.Service,
		Modules:    modules,
		Module:     c.options(name),
		OptionsKey: fmt.Sprintf("%#v %#v", c.Module, own.Module),
	}
	if own.Service { // the rest is about logins
		return h, nil
	}
	h.Mechanisms = own.SASL
	h.TLS = starttls.Policy{Available: c.hasCertificate(), Required: c.C2S.RequireTLS}
	h.Certificate, h.Renewed = s.certs.loader(name), s.certs.changed(name)
	if own.Limits != nil {
		lim := c.limits() // the host's section overrides some of them
		own.Limits.apply(&lim)
		h.Limits = &lim
	}
	return h, nil
}

// apply puts c into effect, with these hosts of the file: see [server.Server.Apply].
func (s *program) apply(c *config, hosts []string) error {
	return c.atLine(s.Apply(server.Config{Limits: c.limits(), Hosts: hosts,
		Host: func(name string) (server.Host, error) { return s.host(c, name) }}))
}

// atLine adds the line of the configuration and a remedy to err, an error of [server.Server.Apply].
func (c *config) atLine(err error) error {
	var le *server.LimitsError
	if errors.As(err, &le) {
		return c.errorAt(err.Error(), "limits")
	}
	var he *server.HostError
	if !errors.As(err, &he) {
		return err
	}
	host := he.Host
	switch he.Part {
	case server.PartStored:
		return c.errorAt(fmt.Sprintf("host %s is in the configuration and in the store: take it out of one of "+
			"them (canto host del %s)", host, host), "host", host)
	case server.PartRole:
		cause := "host %s has been a service host since canto was started: set service = true, or restart canto"
		if c.Host[host].Service {
			cause = "host %s has been a host with logins since canto was started: remove service, or " +
				"restart canto"
		}
		return c.errorAt(fmt.Sprintf(cause, host), "host", host, "service")
	case server.PartMechanisms:
		return c.errorAt(fmt.Sprintf("host %s: %s: the mechanisms are %s", host,
			strings.TrimPrefix(he.Err.Error(), "sasl: "), strings.Join(server.Mechanisms, ", ")), "host", host, "sasl")
	case server.PartModules:
		var ce *configError
		if errors.As(err, &ce) {
			return ce
		}
		var oe *session.OptionError
		if errors.As(err, &oe) {
			return c.optionAt(host, oe)
		}
		return c.errorAt(fmt.Sprintf("host %s: %v", host, he.Err), "host", host, "modules")
	}
	return fmt.Errorf("host %q: %w", host, he.Err)
}

// optionAt adds the line of the option to err: that in the host's section, if it has the key, else
// that in the section for all hosts.
func (c *config) optionAt(host string, err *session.OptionError) error {
	path := []string{"module", err.Module, err.Key}
	if own, ok := c.Host[host].Module[err.Module].(map[string]any); ok {
		if _, ok := own[err.Key]; ok {
			path = append([]string{"host", host}, path...)
		}
	}
	return c.errorAt(strings.Join(path[:len(path)-1], ".")+"."+err.Error(), path...)
}

// reload reads the configuration again and puts it into effect. After an error nothing has changed.
// late are the keys that have changed and take effect only at the next start. Any goroutine but a
// loop's.
func (s *program) reload() (late []string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.config()
	c, late, err := s.read()
	if err != nil {
		return nil, err
	}
	s.cfg.Store(c)
	if err := s.apply(c, c.hostNames()); err != nil {
		s.cfg.Store(old)
		return nil, err
	}
	s.log.Info("reloaded", "hosts", len(s.Router.Table.Hosts()))
	if len(late) > 0 {
		s.log.Warn("changed in the configuration, and takes effect at the next start", "keys",
			strings.Join(late, ", "))
	}
	return late, nil
}

// read reads the configuration again and checks that the running server can take it. late is as for
// reload. The caller holds mu, or only looks at the result.
func (s *program) read() (c *config, late []string, err error) {
	old := s.config()
	c = old
	if s.cli.Config != "" || !s.dev {
		path := s.cli.Config
		if path == "" {
			path = "canto.toml"
		}
		fresh, err := readConfig(path)
		if err != nil {
			return nil, nil, err
		}
		if s.cli.Data != "" {
			fresh.Data = old.Data
		}
		late = fresh.restartKeys(old)
		fresh.Data, fresh.dev = old.Data, old.dev
		if s.dev {
			if err := fresh.devHosts(); err != nil {
				return nil, nil, err
			}
			if err := fresh.devCertificates(); err != nil {
				return nil, nil, err
			}
		}
		c = fresh
	}
	if err := c.checkCertificates(); err != nil {
		return nil, nil, err
	}
	if err := c.checkTLSAvailable(); err != nil {
		return nil, nil, err
	}
	if err := c.checkOutbox(); err != nil {
		return nil, nil, err
	}
	return c, late, nil
}

// checkOutbox returns an error if limits.stanza is more than fits the outbox with which the process
// has started: a new outbox takes effect only at the next start.
func (c *config) checkOutbox() error {
	lim, outbox := c.limits(), c.startConfig.limits().Outbox
	if most := outbox - session.OutboxSpare; lim.Stanza > most {
		return c.errorAt(fmt.Sprintf("limits.stanza: %d bytes: until canto is restarted, limits.outbox is %d "+
			"bytes, and a "+
			"stanza at most %d: write less, or restart canto", lim.Stanza, outbox, most), "limits", "stanza")
	}
	return nil
}

// restartKeys returns the keys of c that differ from those with which the process has started and
// that are read only at the start. It sets c.startConfig.
func (c *config) restartKeys(running *config) (keys []string) {
	for _, k := range []struct {
		name string
		same bool
	}{
		{"data", c.Data == running.startConfig.Data},
		{"memory", c.Memory == running.startConfig.Memory},
		{"node", c.Node == running.startConfig.Node},
		{"log", c.Log == running.startConfig.Log},
		{"listen", reflect.DeepEqual(c.Listen, running.startConfig.Listen)},
		{"limits.connections", c.limits().Connections == running.startConfig.limits().Connections},
		{"limits.outbox", c.limits().Outbox == running.startConfig.limits().Outbox},
		{"c2s.compact_tls", c.C2S.CompactTLS == running.startConfig.C2S.CompactTLS},
		{"c2s.tls_versions", reflect.DeepEqual(c.C2S.TLSVersions, running.startConfig.C2S.TLSVersions)},
	} {
		if !k.same {
			keys = append(keys, k.name)
		}
	}
	c.startConfig = running.startConfig
	return keys
}

// openControlPlane opens the debug ports and the admin socket, and starts net/http for the client
// ports. closeAll closes all of it.
//
//  1. If there are debug ports, switch on the profiles of mutexes and blocking.
//  2. Register metrics, profiles and health checks.
//  3. Start net/http on the client ports, and open the debug ports.
//  4. Open the admin socket.
func (s *program) openControlPlane(c *config) (closeAll func(), err error) {
	var closers []func() error
	closeAll = func() {
		for _, f := range closers {
			f()
		}
	}
	if len(c.Listen.Debug) > 0 {
		// Mutex and block profiles are empty otherwise. Sampling one contention in 100, and one event for each
		// millisecond of waiting, costs too little to be measured.
		runtime.SetMutexProfileFraction(100)
		runtime.SetBlockProfileRate(int(time.Millisecond))
	}
	debugMux := http.NewServeMux()
	reg := prometheus.NewRegistry()
	reg.MustRegister(s.metrics, goMetrics(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	debugMux.Handle("GET /metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{}))
	debugMux.HandleFunc("GET /debug/pprof/", pprof.Index)
	debugMux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
	debugMux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	debugMux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	debugMux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	debugMux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, "ok\n")
	})
	debugMux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if !s.ready.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		fmt.Fprintln(w, s.ready.Load())
	})
	serve := func(addrs []string, h http.Handler) error {
		for _, a := range addrs {
			ln, err := net.Listen("tcp", a)
			if err != nil {
				return portError(errors.New(portText(err)), err)
			}
			srv := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: time.Minute,
				IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10, ErrorLog: slog.NewLogLogger(s.log.Handler(),
					slog.LevelDebug)}
			closers = append(closers, srv.Close)
			go func() {
				if err := srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
					s.log.Error("the debug port has failed: restart canto", "addr", a, "err", err)
				}
			}()
		}
		return nil
	}
	s.serveHTTP()
	closers = append(closers, s.httpd.Close)
	if err = serve(c.Listen.Debug, debugMux); err == nil && c.Listen.Admin != "" {
		var a *admin.Server
		if a, err = admin.Listen(c.adminSocket(), s.runCommand); err == nil {
			closers = append(closers, a.Close)
		}
	}
	if err != nil {
		closeAll()
		return nil, err
	}
	return closeAll, nil
}

// goMetrics returns the metrics of Go's runtime: garbage collection, CPU by class, and how long
// goroutines wait to run. docs/profiling.md explains them.
func goMetrics() prometheus.Collector {
	return collectors.NewGoCollector(collectors.WithGoCollectorRuntimeMetrics(collectors.MetricsGC,
		collectors.MetricsScheduler,
		collectors.GoRuntimeMetricsRule{Matcher: regexp.MustCompile(`^/cpu/classes/`)}))
}

// runCommand carries out a command that came over the admin socket.
func (s *program) runCommand(ctx context.Context, c admin.Command) admin.Result {
	var out, errOut bytes.Buffer
	status := execute(&run{ctx: ctx, args: c.Args, stdin: bytes.NewReader(c.Stdin), out: &out, errOut: &errOut,
		server: s})
	return admin.Result{Out: out.Bytes(), Err: errOut.Bytes(), Status: status}
}

// devHosts adds the host localhost for --dev, if the file names no host with logins.
func (c *config) devHosts() error {
	if len(c.loginNames()) > 0 {
		return nil
	}
	if c.Host["localhost"].Service {
		return c.errorAt("no host has logins, and --dev can't add localhost, as it is a service host: give "+
			"the service host "+
			"another name, or add a section like [host.\"example.org\"]", "host", "localhost", "service")
	}
	if c.Host == nil {
		c.Host = make(map[string]hostConfig)
	}
	c.Host["localhost"] = hostConfig{}
	return nil
}

// devCertificates gives each host with logins that has no certificate a self-signed one, which is
// kept in the data folder.
func (c *config) devCertificates() error {
	for _, name := range c.loginNames() {
		h := c.Host[name]
		if h.Certificate != "" {
			continue
		}
		h.Certificate, h.Key = filepath.Join(c.Data, name+".crt"), filepath.Join(c.Data, name+".key")
		if _, err := os.Stat(h.Certificate); err != nil {
			if err := selfSigned(name, h.Certificate, h.Key); err != nil {
				return err
			}
		}
		c.Host[name] = h
	}
	return nil
}

// devSetup makes what --dev promises, a certificate and two accounts, and prints the accounts. A
// second start with the same data folder prints them again.
func (s *program) devSetup(c *config, out io.Writer) error {
	if err := c.devCertificates(); err != nil {
		return err
	}
	file := filepath.Join(c.Data, "dev-accounts")
	if text, err := os.ReadFile(file); err == nil {
		_, err = out.Write(text)
		return err
	}
	host := c.loginNames()[0]
	var text bytes.Buffer
	for _, name := range []string{"romeo", "juliet"} {
		j, err := jid.New(name, host, "")
		if err != nil {
			return err
		}
		pw := server.Token(rand.Reader, 8)
		creds, err := deriveKeys(pw, sasl.DefaultIterations)
		if err != nil {
			return err
		}
		ctx := context.Background()
		_, err = s.DB.Accounts().Create(ctx, host, name, creds)
		if errors.Is(err, store.ErrExists) {
			err = s.DB.Accounts().SetKeys(ctx, host, name, creds)
		}
		if err != nil {
			return err
		}
		fmt.Fprintf(&text, "account %s password %s\n", j, pw)
	}
	if err := os.WriteFile(file, text.Bytes(), 0o600); err != nil {
		return err
	}
	_, err := out.Write(text.Bytes())
	return err
}
