package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
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
	"canto/session/c2s"
	"canto/session/jid"
	"canto/session/metrics"
	"canto/session/mod"
	"canto/session/mod/bind"
	"canto/session/mod/clock"
	"canto/session/mod/register"
	"canto/session/mod/saslauth"
	"canto/session/mod/starttls"
	"canto/session/mod/storage"
	"canto/session/sasl"
	"canto/session/store"
)

type serveCmd struct {
	Dev bool `help:"Needs no file: domain localhost, a self-signed certificate, two accounts with printed passwords, data in ./canto-data."`
}

// mechanisms are what a host offers whose section has no sasl; -PLUS forms come with them.
var mechanisms = []string{"SCRAM-SHA-1", "SCRAM-SHA-256", "SCRAM-SHA-512", "PLAIN"}

// A server is all that runs.
type server struct {
	cfg      atomic.Pointer[config]
	cli      *cli
	dev      bool
	log      *slog.Logger
	db       *store.DB
	router   *session.Router
	reactor  *reactor.Reactor
	metrics  *metrics.Collector
	door     *c2s.Door
	web      *reactor.Web
	httpd    *http.Server // what answers on web's connections
	failures *session.Throttle
	secret   sasl.Secret
	certs    *certificates
	ready    atomic.Bool
	mu       sync.Mutex // one reload at a time
	profiles map[string]*session.Profile
	fatal    chan error
}

func (s *server) config() *config { return s.cfg.Load() }

// Run serves until SIGTERM or SIGINT.
func (cmd *serveCmd) Run(r *run) error {
	if r.server != nil {
		return exitStatus{exitUsage, errors.New("the server runs already")}
	}
	c, err := cmd.config(r)
	if err != nil {
		return err
	}
	if r.begin != nil {
		r.begin()
	}
	s := &server{cli: r.cli, dev: cmd.Dev, profiles: make(map[string]*session.Profile), fatal: make(chan error, 1)}
	c.started = c
	s.cfg.Store(c)
	s.log = newLog(c, r.errOut)
	if err := s.look(c); err != nil {
		return err
	}
	limitMemory(c)
	if err := s.open(c, r); err != nil {
		return err
	}
	defer s.db.Close()
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
	close, err := s.planes(c)
	if err != nil {
		over, end := context.WithCancel(context.Background())
		end()
		s.reactor.Run(over) // gives the ports back
		return err
	}
	defer close()
	running := make(chan error, 1)
	ctx, end := context.WithCancel(context.Background())
	defer end()
	go s.giveBack(ctx)
	go s.certs.watch(ctx, cmp.Or(r.look, lookAtCertificates))
	go func() { running <- s.reactor.Run(ctx) }()
	s.ready.Store(true)
	if r.up != nil {
		r.up(s)
	}
	fmt.Fprintf(r.out, "canto: ready %s\n", s.where(c))
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
	s.endWeb()
	end()
	return <-running
}

func (cmd *serveCmd) config(r *run) (*config, error) {
	if !cmd.Dev {
		if r.cli.Config == "" {
			if _, err := os.Stat("canto.toml"); err != nil {
				return nil, exitStatus{exitUsage, errors.New("no configuration: name a file with --config, or start with --dev")}
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
	c.devHosts()
	if r.cli.Data != "" {
		c.Data = r.cli.Data
	}
	return c, nil
}

// storeMemory is the store's share of the configured memory: its cache and memory tables.
const storeMemory = 256 << 20

// gcPercent is the collector's, unless GOGC names another: half of the runtime's own. Chat leaves no garbage, so
// it is logins that pay, a few per cent; and what they leave between sessions, a peak and for good, is half.
const gcPercent = 50

func limitMemory(c *config) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	if c.Memory > 0 {
		debug.SetMemoryLimit(max(int64(c.Memory)*8/10-storeMemory, 64<<20))
	}
}

// look finds what is wrong in c before anything is made.
func (s *server) look(c *config) error {
	if err := c.checkCertificates(); err != nil {
		return err
	}
	if !s.dev { // there, certificates are made
		if err := c.needTLS(); err != nil {
			return err
		}
	}
	if err := c.rehearse(); err != nil {
		return err
	}
	return c.probe()
}

// probe opens each port and closes it again: one that is taken is known before a data folder is made.
func (c *config) probe() error {
	for _, l := range c.ports() {
		for _, a := range l.addrs {
			ln, err := net.Listen("tcp", a)
			if err != nil {
				return portError(c.at(portText(err), "listen", l.key), err)
			}
			ln.Close()
		}
	}
	return nil
}

// portError is said with the exit status of why, which is the system's about a port that can't be opened.
func portError(said, why error) error {
	if errors.Is(why, syscall.EADDRINUSE) {
		return exitStatus{exitTaken, said}
	}
	return exitStatus{exitFailed, said}
}

// portText says what an operator does about a port that can't be opened.
func portText(err error) string {
	remedy := "change [listen]"
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		remedy = "stop the program that uses it, or change [listen]"
	case errors.Is(err, syscall.EACCES):
		remedy = "a port below 1024 is root's: set AmbientCapabilities=CAP_NET_BIND_SERVICE in the unit file, or change [listen]"
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		remedy = "this machine does not have that address: change [listen]"
	}
	return fmt.Sprintf("%v: %s", err, remedy)
}

// rehearse loads the modules of every host on an empty store in memory: only they know their options.
func (c *config) rehearse() error {
	log := slog.New(slog.DiscardHandler)
	db, err := store.Open(store.Options{Dir: "rehearsal", FS: store.NewMemFS(), Logger: log,
		CacheBytes: 1 << 20, MemTableBytes: 1 << 20, MinFree: -1, Ballast: -1, CheckEvery: -1})
	if err != nil {
		return err
	}
	defer db.Close()
	s := &server{log: log, db: db, dev: c.dev}
	s.cfg.Store(c)
	s.certs = &certificates{server: s}
	s.router = &session.Router{Table: session.NewTable(), Durable: storage.Durable(db), Directory: storage.Directory(db), Log: log}
	if err := s.router.SetLimits(c.limits()); err != nil {
		return c.at(err.Error(), "limits")
	}
	hosts := c.hostNames()
	if len(hosts) == 0 {
		hosts = []string{"localhost"}
	}
	fresh := make(map[string]*session.Profile)
	for _, h := range hosts {
		if _, err := s.profile(c, h, fresh); err != nil {
			return err
		}
	}
	return nil
}

// open brings everything up but the loops' turning.
func (s *server) open(c *config, r *run) error {
	o := store.Options{Dir: c.Data, Logger: s.log, Fatal: func(err error) {
		select {
		case s.fatal <- err:
		default:
		}
	}}
	if r.options != nil {
		r.options(&o)
	}
	db, err := store.Open(o)
	if err != nil {
		return err
	}
	s.db = db
	fail := func(err error) error {
		db.Close()
		return err
	}
	_, key, err := db.Secrets().Current("scram")
	if err != nil {
		return fail(err)
	}
	s.secret = sasl.NewSecret(key)
	s.certs = &certificates{server: s}
	if s.dev {
		if err := s.devSetup(c, r.out); err != nil {
			return fail(err)
		}
	}
	s.failures = session.NewThrottle()
	s.router = &session.Router{
		Table:       session.NewTable(),
		Durable:     storage.Durable(db),
		Directory:   storage.Directory(db),
		Log:         s.log,
		Node:        uint16(c.Node),
		Incarnation: db.Incarnation(),
		Clock:       func() reactor.Tick { return s.reactor.Tick() },
		StreamID:    func() string { return token(16) },
	}
	if err := s.router.SetLimits(c.limits()); err != nil {
		return fail(err)
	}
	if err := s.hosts(c); err != nil {
		return fail(err)
	}
	if len(s.router.Table.Hosts()) == 0 {
		s.log.Warn("no host is served: add a section like [host.\"example.org\"] to the configuration, or run canto host add")
	}
	s.door = &c2s.Door{Router: s.router, TLS: s.certs.forHost, Throttle: session.NewThrottle()}
	s.web = &reactor.Web{Lost: s.door.Lost, Refused: func(status int) { s.router.CountRefused(fmt.Sprint("http_", status)) }}
	listeners := s.listeners(c)
	lim := c.limits()
	if n := connectionCap(descriptorLimit(), lim.Connections); n < lim.Connections {
		s.log.Warn("limits.connections is more than there are descriptors for: raise LimitNOFILE (canto check limits)",
			"configured", lim.Connections, "connections", n)
	}
	s.reactor, err = reactor.New(reactor.Config{
		Listeners:   listeners,
		Log:         s.log,
		OutboxBytes: lim.Outbox,
		Connections: connectionCap(descriptorLimit(), lim.Connections),
		Drain:       s.door.Drain,
		StdTLS:      !c.C2S.CompactTLS,
	})
	if err != nil {
		return fail(portError(errors.New(portText(err)), err))
	}
	s.router.Workers = s.reactor.Workers()
	s.router.Start(s.reactor.Loops())
	if err := s.buryAll(); err != nil {
		return fail(err)
	}
	s.metrics = &metrics.Collector{Reactor: s.reactor, Router: s.router, DB: s.db}
	return nil
}

// Descriptors that are kept from client connections.
const (
	fdStore    = 600 // 500 tables at a time, the log and its rotation, the lock, the ballast
	fdOutgoing = 200 // streams to other servers, DNS
	fdHTTP     = 100 // debug and admin: http and https clients are counted as connections
	fdRest     = 128 // listeners, pollers, logs, certificates while they are read
)

// minConnections is what a server has however few descriptors there are.
const minConnections = 16

// connectionCap is how many connections there may be with limit descriptors.
func connectionCap(limit uint64, configured int) int {
	room := max(int(min(limit, 1<<30))-fdStore-fdOutgoing-fdHTTP-fdRest, minConnections)
	if configured > 0 {
		return min(configured, room)
	}
	return room
}

// descriptorLimit is what the system grants this process; Go has raised it to the hard limit already.
func descriptorLimit() uint64 {
	var rl syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &rl) != nil {
		return 1024 // what every system gives
	}
	return rl.Cur
}

// listeners are the ports that clients reach. An address that stands in c2s and in c2s_tls, or in
// c2s_tls and in https, is one port that speaks both.
func (s *server) listeners(c *config) (list []reactor.Listener) {
	secure := c.certified()
	shared := func(addrs []string, a string) bool { return !strings.HasSuffix(a, ":0") && slices.Contains(addrs, a) }
	for _, a := range c.Listen.C2S {
		if !secure || !shared(c.Listen.C2STLS, a) {
			list = append(list, reactor.Listener{Addr: a, Name: "c2s", Handler: s.door, Accept: s.door.Accept, Refusal: s.door.Refusal, Lost: s.door.Lost})
		}
	}
	for _, a := range c.Listen.HTTP {
		list = append(list, reactor.Listener{Addr: a, Name: "http", Handler: s.web, Accept: s.door.AcceptOther, Lost: s.door.Lost})
	}
	if !secure {
		return list
	}
	for _, a := range c.Listen.C2STLS {
		ln := reactor.Listener{Addr: a, Name: "c2s", Handler: s.door, Accept: s.door.Accept, Refusal: s.door.Refusal, Lost: s.door.Lost, Direct: s.certs.direct(), Plain: shared(c.Listen.C2S, a)}
		if shared(c.Listen.HTTPS, a) {
			ln.Direct = s.certs.base("xmpp-client", "http/1.1")
			ln.Speaks = []reactor.Protocol{{ALPN: "http/1.1", Handler: s.web}}
		}
		list = append(list, ln)
	}
	for _, a := range c.Listen.HTTPS {
		if !shared(c.Listen.C2STLS, a) {
			list = append(list, reactor.Listener{Addr: a, Name: "https", Handler: s.web, Accept: s.door.AcceptOther, Lost: s.door.Lost, Direct: s.certs.web()})
		}
	}
	return list
}

// serveWeb has net/http answer on the connections that the http and https ports hand over.
func (s *server) serveWeb() {
	s.httpd = &http.Server{Handler: http.NotFoundHandler(), ReadHeaderTimeout: 10 * time.Second, ReadTimeout: time.Minute, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10, ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug)}
	go s.httpd.Serve(s.web)
}

// endWeb lets requests that are being answered come to an end, for a while.
func (s *server) endWeb() {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	s.httpd.Shutdown(ctx)
}

// where says what listens on what, for people and for tests that ask for port 0.
func (s *server) where(c *config) string {
	var parts []string
	for _, name := range []string{"c2s", "http", "https"} {
		if addrs := s.reactor.Addrs(name); len(addrs) > 0 || name == "c2s" {
			parts = append(parts, name+"="+strings.Join(addrs, ","))
		}
	}
	if n := len(s.router.Table.Hosts()); n == 1 {
		for name := range s.router.Table.Hosts() {
			parts = append(parts, "host="+name)
		}
	} else {
		parts = append(parts, fmt.Sprintf("hosts=%d", n))
	}
	return strings.Join(append(parts, "data="+c.Data), " ")
}

func (c *config) hostNames() (names []string) {
	for n := range c.Host {
		names = append(names, n)
	}
	sort.Strings(names)
	return names
}

// modulesOf is a host's list: the default, changed by "+name" and "-name", or replaced by plain names.
func (c *config) modulesOf(host string) ([]string, error) {
	want := mod.Default()
	changes := c.Host[host].Modules
	plain := slices.ContainsFunc(changes, func(m string) bool { return !strings.HasPrefix(m, "+") && !strings.HasPrefix(m, "-") })
	if plain {
		want = nil
	}
	for _, m := range changes {
		name := strings.TrimLeft(m, "+-")
		if all := moduleNames(); !slices.Contains(all, name) {
			return nil, c.at(fmt.Sprintf("unknown module %q%s", name, nearest(name, all)), "host", host, "modules")
		}
		if strings.HasPrefix(m, "-") {
			want = slices.DeleteFunc(want, func(x string) bool { return x == name })
		} else if !slices.Contains(want, name) {
			want = append(want, name)
		}
	}
	return want, nil
}

// profile makes the profile of a host, or gives the one that an equal host has.
func (s *server) profile(c *config, host string, fresh map[string]*session.Profile) (*session.Profile, error) {
	want, err := c.modulesOf(host)
	if err != nil {
		return nil, err
	}
	h := c.Host[host]
	mechs := h.SASL
	if mechs == nil {
		mechs = mechanisms
	}
	key := fmt.Sprintf("%q %q %#v %#v %#v %v", want, mechs, c.Module, h.Module, c.C2S.RequireTLS, c.certified())
	if h.Limits != nil {
		lim := c.limits() // the host's own change some of them
		h.Limits.apply(&lim)
		key += fmt.Sprintf("%+v", lim)
	}
	if p := fresh[key]; p != nil {
		return p, nil
	}
	if p := s.profiles[key]; p != nil {
		// What has not changed goes on as it is: accounts stay in memory, modules keep their counts.
		fresh[key] = p
		return p, nil
	}
	offer, err := sasl.NewOffer(mechs...)
	if err != nil {
		return nil, c.at(fmt.Sprintf("host %s: %s: the mechanisms are %s", host, strings.TrimPrefix(err.Error(), "sasl: "), strings.Join(mechanisms, ", ")), "host", host, "sasl")
	}
	p, err := session.Load(s.router, session.Core, mod.All, want, c.options(host), s.given(c, offer)...)
	var ce *configError
	if errors.As(err, &ce) {
		return nil, ce
	}
	var oe *session.OptionError
	if errors.As(err, &oe) {
		return nil, c.optionAt(host, oe)
	}
	if err != nil {
		return nil, c.at(fmt.Sprintf("host %s: %v", host, err), "host", host, "modules")
	}
	if h.Limits != nil {
		lim := c.limits()
		h.Limits.apply(&lim)
		p.Limits = &lim
	}
	fresh[key] = p
	return p, nil
}

// optionAt is err at the line of the option: the host's own section, if it has the key, else all hosts'.
func (c *config) optionAt(host string, err *session.OptionError) error {
	path := []string{"module", err.Module, err.Key}
	if own, ok := c.Host[host].Module[err.Module].(map[string]any); ok {
		if _, ok := own[err.Key]; ok {
			path = append([]string{"host", host}, path...)
		}
	}
	return c.at(strings.Join(path[:len(path)-1], ".")+"."+err.Error(), path...)
}

func (s *server) given(c *config, offer sasl.Offer) []session.Given {
	return []session.Given{
		session.Give(s.db),
		session.Give(starttls.Policy{Available: c.certified(), Required: c.C2S.RequireTLS}),
		session.Give(saslauth.Policy{
			Offer:     offer,
			PlainText: !c.C2S.RequireTLS,
			Rand:      rand.Reader,
			FakeKey:   s.secret,
			Failures:  s.failures,
			EndPoint:  endPoint,
		}),
		session.Give(bind.Resources(func() string { return token(8) })),
		session.Give(clock.Clock(time.Now)),
		session.Give(register.Random{Reader: rand.Reader}),
		session.Give(session.About{Name: "Canto", Version: Version}),
	}
}

// token is n random bytes in hexadecimal.
func token(n int) string {
	b := make([]byte, n)
	rand.Read(b)
	return hex.EncodeToString(b)
}

// hosts brings the table to what file and store say.
func (s *server) hosts(c *config) error {
	snap := s.db.Snapshot()
	var stored []string
	err := s.db.Hosts().List(snap, func(h store.HostRecord) bool {
		stored = append(stored, h.Domain)
		return true
	})
	snap.Close()
	if err != nil {
		return err
	}
	want := make(map[string]bool)
	for _, n := range c.hostNames() {
		want[n] = true
	}
	for _, n := range stored {
		if want[n] {
			return c.at(fmt.Sprintf("host %s is in the configuration and in the store: take it out of one of them (canto host del %s)", n, n), "host", n)
		}
		want[n] = true
	}
	fresh := make(map[string]*session.Profile) // those that are used from now on
	var add []*session.Host
	swap := make(map[*session.Host]*session.Profile)
	var names []string
	for n := range want {
		names = append(names, n)
	}
	sort.Strings(names)
	for _, n := range names {
		p, err := s.profile(c, n, fresh)
		if err != nil {
			return err
		}
		if h, ok := s.router.Table.Host(n); ok {
			swap[h] = p
			continue
		}
		h, err := session.NewHost(n, p, s.certs.loader(n))
		if err != nil {
			return fmt.Errorf("host %q: %w", n, err)
		}
		add = append(add, h)
	}
	// From here on nothing fails.
	old := s.profiles
	s.profiles = fresh
	for h, p := range swap {
		h.Swap(p)
		if s.certs.changed(h.Name) {
			h.DropCertificate()
		}
	}
	s.router.Table.AddHost(add...)
	for n := range s.router.Table.Hosts() {
		if !want[n] {
			s.router.Table.RemoveHost(n)
			s.closeHost(n)
		}
	}
	for key, p := range old {
		if fresh[key] == p {
			continue
		}
		s.router.Retire(p, func(err error) {
			if err != nil {
				s.log.Warn("unloading modules", "err", err)
			}
		})
	}
	return nil
}

// buryAll works off, one after the other, the accounts that were deleted while no server ran, or shortly before
// it stopped.
func (s *server) buryAll() error {
	var gone []store.DeletedAccount
	snap := s.db.Snapshot()
	defer snap.Close()
	if err := s.db.Accounts().Deleted(snap, func(d store.DeletedAccount) bool {
		gone = append(gone, d)
		return true
	}); err != nil {
		return err
	}
	var next func()
	next = func() {
		for len(gone) > 0 {
			d := gone[0]
			gone = gone[1:]
			err := storage.Bury(s.router, s.db, d, next)
			if err == nil {
				return
			}
			s.log.Error("a deleted account can't be worked off", "account", d.Local+"@"+d.Domain, "err", err)
		}
	}
	next()
	return nil
}

// closeHost ends the sessions of a domain that is served no more.
func (s *server) closeHost(name string) {
	for i := range 256 {
		for _, a := range s.router.Table.Accounts(i, nil) {
			if a.JID().Domain() == name {
				s.router.Kick(a.JID(), session.ErrHostGone)
			}
		}
	}
}

// reload reads the configuration again; on an error nothing is changed. late are the keys whose new
// values want a restart.
func (s *server) reload() (late []string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.config()
	c, late, err := s.read()
	if err != nil {
		return nil, err
	}
	if err := s.router.SetLimits(c.limits()); err != nil {
		return nil, c.at(err.Error(), "limits")
	}
	s.cfg.Store(c)
	if err := s.hosts(c); err != nil {
		s.cfg.Store(old)
		return nil, errors.Join(err, s.router.SetLimits(old.limits()))
	}
	s.log.Info("reloaded", "hosts", len(s.router.Table.Hosts()))
	if len(late) > 0 {
		s.log.Warn("changed in the configuration, and used from the next start on", "keys", strings.Join(late, ", "))
	}
	return late, nil
}

// read reads the configuration again, and checks that the running server can take it. late is as for reload.
func (s *server) read() (c *config, late []string, err error) {
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
		late = fresh.wantRestart(old)
		fresh.Data, fresh.dev = old.Data, old.dev
		if s.dev {
			fresh.devHosts()
			if err := fresh.devCertificates(); err != nil {
				return nil, nil, err
			}
		}
		c = fresh
	}
	if err := c.checkCertificates(); err != nil {
		return nil, nil, err
	}
	if err := c.needTLS(); err != nil {
		return nil, nil, err
	}
	if err := c.fitsOutbox(); err != nil {
		return nil, nil, err
	}
	return c, late, nil
}

// fitsOutbox is an error about a stanza that the outbox does not hold which the process started with: another one is
// used from the next start on.
func (c *config) fitsOutbox() error {
	lim, outbox := c.limits(), c.started.limits().Outbox
	if most := outbox - session.OutboxSpare; lim.Stanza > most {
		return c.at(fmt.Sprintf("limits.stanza: %d bytes: until canto is started again, limits.outbox is %d bytes, and a "+
			"stanza at most %d: write less, or start canto again", lim.Stanza, outbox, most), "limits", "stanza")
	}
	return nil
}

// wantRestart are the keys of c that differ from those that the process runs with and that it reads
// only when it starts.
func (c *config) wantRestart(running *config) (keys []string) {
	for _, k := range []struct {
		name string
		same bool
	}{
		{"data", c.Data == running.started.Data},
		{"memory", c.Memory == running.started.Memory},
		{"node", c.Node == running.started.Node},
		{"log", c.Log == running.started.Log},
		{"listen", reflect.DeepEqual(c.Listen, running.started.Listen)},
		{"limits.connections", c.limits().Connections == running.started.limits().Connections},
		{"limits.outbox", c.limits().Outbox == running.started.limits().Outbox},
		{"c2s.compact_tls", c.C2S.CompactTLS == running.started.C2S.CompactTLS},
		{"c2s.tls_versions", reflect.DeepEqual(c.C2S.TLSVersions, running.started.C2S.TLSVersions)},
	} {
		if !k.same {
			keys = append(keys, k.name)
		}
	}
	c.started = running.started
	return keys
}

// planes opens the debug listeners and the admin socket, and serves what the reactor reads of http.
func (s *server) planes(c *config) (closeAll func(), err error) {
	var closers []func() error
	closeAll = func() {
		for _, f := range closers {
			f()
		}
	}
	if len(c.Listen.Debug) > 0 {
		// Mutex and block profiles are empty otherwise. One contention in 100, and one goroutine for each
		// millisecond of waiting, cost too little to be seen.
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
	debugMux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok\n") })
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
			srv := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: time.Minute, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10, ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug)}
			closers = append(closers, srv.Close)
			go func() {
				if err := srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
					s.log.Error("the debug port is served no more: start canto again", "addr", a, "err", err)
				}
			}()
		}
		return nil
	}
	s.serveWeb()
	closers = append(closers, s.httpd.Close)
	if err = serve(c.Listen.Debug, debugMux); err == nil && c.Listen.Admin != "" {
		var a *admin.Server
		if a, err = admin.Listen(c.socket(), s.command); err == nil {
			closers = append(closers, a.Close)
		}
	}
	if err != nil {
		closeAll()
		return nil, err
	}
	return closeAll, nil
}

// goMetrics are the runtime's: of the collector, of the CPU by what it was for, and how long goroutines wait to
// run. docs/profiling.md reads them.
func goMetrics() prometheus.Collector {
	return collectors.NewGoCollector(collectors.WithGoCollectorRuntimeMetrics(collectors.MetricsGC, collectors.MetricsScheduler,
		collectors.GoRuntimeMetricsRule{Matcher: regexp.MustCompile(`^/cpu/classes/`)}))
}

// command carries out what came over the admin socket.
func (s *server) command(ctx context.Context, c admin.Command) admin.Result {
	var out, errOut bytes.Buffer
	status := execute(&run{ctx: ctx, args: c.Args, stdin: bytes.NewReader(c.Stdin), out: &out, errOut: &errOut, server: s})
	return admin.Result{Out: out.Bytes(), Err: errOut.Bytes(), Status: status}
}

// devHosts names the host of --dev where the file names none.
func (c *config) devHosts() {
	if len(c.Host) == 0 {
		c.Host = map[string]hostConfig{"localhost": {}}
	}
}

// devCertificates gives each host without a certificate a self-signed one, kept in the data folder.
func (c *config) devCertificates() error {
	for _, name := range c.hostNames() {
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

// devSetup makes what --dev promises: a certificate and two accounts.
func (s *server) devSetup(c *config, out io.Writer) error {
	if err := c.devCertificates(); err != nil {
		return err
	}
	file := filepath.Join(c.Data, "dev-accounts")
	if text, err := os.ReadFile(file); err == nil {
		_, err = out.Write(text)
		return err
	}
	host := c.hostNames()[0]
	var text bytes.Buffer
	for _, name := range []string{"romeo", "juliet"} {
		j, err := jid.New(name, host, "")
		if err != nil {
			return err
		}
		pw := token(8)
		creds, err := derive(pw, sasl.DefaultIterations)
		if err != nil {
			return err
		}
		ctx := context.Background()
		_, err = s.db.Accounts().Create(ctx, host, name, creds)
		if errors.Is(err, store.ErrExists) {
			err = s.db.Accounts().SetKeys(ctx, host, name, creds)
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
