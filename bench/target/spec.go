// Package target describes the server under test and makes it ready: a server that runs already, or
// one that canto-bench starts (bench/servers), from a program, a package of the distribution, or a
// commit.
//
// A [Spec] is read from a file or made of command-line options. [Spec.Check] says whether it makes
// sense, and [Spec.Start] returns an [Instance], which has the bench.Target that clients need.
package target

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"canto/bench"
	"canto/bench/servers"
	"canto/session/jid"
	"canto/session/tomlstrict"
)

// A Spec is the description of a server: one to start (Kind), or one that runs (Server, Direct).
type Spec struct {
	Name string `toml:"name"` // Name in tables.

	// Kind of server to start and stop: "canto", "prosody", "ejabberd".
	Kind string `toml:"peer"`
	// Program of the server to start; "": canto is built, others are found in PATH.
	Program string `toml:"program"`
	Commit  string `toml:"commit"` // Commit that canto is built from.
	// Options of the server to start; see servers.Options.
	Options map[string]string `toml:"options"`

	// Server is host:port of a server that runs, without TLS and with STARTTLS.
	Server string `toml:"server"`
	Direct string `toml:"direct"` // Direct is its host:port with direct TLS.
	Domain string `toml:"domain"` // Domain of its accounts; "": the name in Server.
	// Rooms is the domain of its chat rooms; "": it is found by service discovery.
	Rooms    string   `toml:"rooms"`
	User     string   `toml:"user"`            // User is the localpart of its accounts, with %d for the number.
	First    int      `toml:"first" least:"0"` // First is the number of the first account.
	Password string   `toml:"password"`        // Password of all accounts.
	CA       string   `toml:"ca"`              // CA is the file of its certificate authority, in PEM.
	Insecure bool     `toml:"insecure"`        // Insecure accepts any certificate.
	PIDs     []int    `toml:"pids"`            // PIDs of its processes, if they run on this machine.
	Metrics  string   `toml:"metrics"`         // Metrics is the URL of its Prometheus metrics.
	Profiles string   `toml:"profiles"`        // Profiles is the URL of its /debug/pprof.
	Sources  []string `toml:"sources"`         // Sources are addresses to connect from.
}

// Read reads a Spec from a file and checks it. The error is one line with file, line and cause.
func Read(name string) (*Spec, error) {
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("the description of a server can't be read: %w", err)
	}
	e := new(Spec)
	if err := tomlstrict.Decode(b, e); err != nil {
		return nil, tomlstrict.Named(name, err)
	}
	if e.Name == "" {
		e.Name = strings.TrimSuffix(filepath.Base(name), ".toml")
	}
	if err := e.Check(); err != nil {
		return nil, tomlstrict.Named(name, tomlstrict.Placed(b, err))
	}
	return e, nil
}

// Check returns an error if the Spec contradicts itself or can't be meant. It asks no other
// machine. It reads the file CA.
func (e *Spec) Check() error {
	switch {
	case e.Kind == "" && e.Server == "" && e.Direct == "":
		return fmt.Errorf("which server? set peer (one of %s), or server (host:port)",
			strings.Join(servers.Kinds(), ", "))
	case e.Kind != "" && (e.Server != "" || e.Direct != ""):
		return tomlstrict.At(tomlstrict.Path{"peer"},
			"peer is a server that the suite starts, server one that runs: set one of them")
	case e.Kind != "" && !slices.Contains(servers.Kinds(), e.Kind):
		return tomlstrict.At(tomlstrict.Path{"peer"}, "peer is %q: one of %s", e.Kind,
			strings.Join(servers.Kinds(), ", "))
	case e.Commit != "" && (e.Kind != "canto" || e.Program != ""):
		return tomlstrict.At(tomlstrict.Path{"commit"}, "commit goes with peer = \"canto\", without a program")
	}
	if e.Kind != "" {
		return e.checkStarted()
	}
	return e.checkRunning()
}

// checkStarted is Check of a server to start. Its accounts, addresses and certificate are made, so
// they can't be set.
func (e *Spec) checkStarted() error {
	for _, f := range []struct {
		key string
		set bool
	}{
		{"domain", e.Domain != ""}, {"rooms", e.Rooms != ""}, {"user", e.User != ""}, {"first", e.First != 0},
		{"password", e.Password != ""}, {"ca", e.CA != ""}, {"insecure", e.Insecure}, {"pids", len(e.PIDs) > 0},
		{"metrics", e.Metrics != ""}, {"profiles", e.Profiles != ""}, {"sources", len(e.Sources) > 0},
	} {
		if f.set {
			return tomlstrict.At(tomlstrict.Path{f.key},
				"%s is of a server that runs: %s is started here, and its own is known; leave it out, or name the "+
					"server", f.key, e.Kind)
		}
	}
	if err := servers.CheckOptions(e.Kind, e.Options); err != nil {
		return tomlstrict.At(tomlstrict.Path{"options"}, "%v", err)
	}
	return nil
}

// checkRunning is Check of a server that already runs. It checks one field after another, and
// returns the first error, with the field's path in the file: program and options, which are not
// allowed; the addresses; domain and rooms; user and first; sources; pids; the URLs; and last the
// file of the CA, which it reads. An address without a name needs Domain, except on loopback.
func (e *Spec) checkRunning() error {
	for key, set := range map[string]bool{"program": e.Program != "", "options": len(e.Options) > 0} {
		if set {
			return tomlstrict.At(tomlstrict.Path{key},
				"%s is of a server that is started here: it goes with peer", key)
		}
	}
	for _, a := range []struct{ key, v string }{{"server", e.Server}, {"direct", e.Direct}} {
		if a.v == "" {
			continue
		}
		host, port, err := net.SplitHostPort(a.v)
		if err == nil && host != "" {
			_, err = net.LookupPort("tcp", port)
		}
		if err != nil || host == "" || port == "0" {
			return tomlstrict.At(tomlstrict.Path{a.key}, "%s: %q is not the address of a server: write host:port",
				a.key, tomlstrict.Short(a.v))
		}
		if ip, err := netip.ParseAddr(host); err == nil && e.Domain == "" && !ip.IsLoopback() &&
			(a.key == "server" || e.Server == "") {
			return tomlstrict.At(tomlstrict.Path{a.key},
				"the server has the address %s, and what is its XMPP domain? --domain NAME, or domain in its file", ip)
		}
	}
	for _, d := range []struct{ key, v string }{{"domain", e.Domain}, {"rooms", e.Rooms}} {
		if d.v == "" {
			continue
		}
		if _, err := jid.PrepareDomain(d.v); err != nil {
			return tomlstrict.At(tomlstrict.Path{d.key}, "%s: %q is not a domain: write it like example.org", d.key,
				tomlstrict.Short(d.v))
		}
	}
	if e.User != "" && (strings.Count(e.User, "%d") != 1 || strings.Count(e.User, "%") != 1) {
		return tomlstrict.At(tomlstrict.Path{"user"},
			"user: the accounts' name is %q: it needs one %%d, where their number goes", tomlstrict.Short(e.User))
	}
	if e.First < 0 {
		return tomlstrict.At(tomlstrict.Path{"first"}, "first is %d: 0 or more", e.First)
	}
	for _, s := range e.Sources {
		if _, err := netip.ParseAddr(s); err != nil {
			return tomlstrict.At(tomlstrict.Path{"sources"}, "%q is not an address to connect from: write 192.0.2.1",
				tomlstrict.Short(s))
		}
	}
	for _, pid := range e.PIDs {
		if pid < 1 {
			return tomlstrict.At(tomlstrict.Path{"pids"}, "pids has %d: the number of a process is 1 or more", pid)
		}
	}
	for _, a := range []struct{ key, v string }{{"metrics", e.Metrics}, {"profiles", e.Profiles}} {
		if a.v == "" {
			continue
		}
		if u, err := url.Parse(a.v); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
			return tomlstrict.At(tomlstrict.Path{a.key}, "%s: %q is not a URL: write http://127.0.0.1:5290", a.key,
				tomlstrict.Short(a.v))
		}
	}
	_, err := e.ca()
	return err
}

// ca reads the file CA; nil if none is named.
func (e *Spec) ca() ([]byte, error) {
	if e.CA == "" {
		return nil, nil
	}
	b, err := os.ReadFile(e.CA)
	if err != nil {
		return nil, tomlstrict.At(tomlstrict.Path{"ca"},
			"the CA's certificate can't be read: %v: name a file that this user may read", err)
	}
	if !x509.NewCertPool().AppendCertsFromPEM(b) {
		return nil, tomlstrict.At(tomlstrict.Path{"ca"},
			"there is no certificate in %s: the CA's must be PEM", e.CA)
	}
	return b, nil
}

// CheckTLS returns an error if clients with this kind of TLS ("none", "starttls", "direct") have no
// address to connect to. The Spec must have been checked.
func (e *Spec) CheckTLS(tls string) error {
	switch {
	case e.Kind != "":
	case tls == "direct" && e.Direct == "":
		return errors.New("the scenario wants TLS first, and no address for that is known: --direct " +
			"HOST:PORT, or --tls starttls")
	case tls != "direct" && e.Server == "":
		return errors.New("the scenario wants no TLS, or STARTTLS, and no address for that is known: " +
			"--server HOST:PORT, or --tls direct")
	}
	return nil
}

// Requirements are what a scenario needs of a server to start.
type Requirements struct {
	Accounts int // Accounts is how many it must have.
	// Requires are the features of bench.Scenario.Requires, some of which are options of servers.
	Requires []string
	Dir      string    // Dir is a folder to work in, which the caller removes.
	Log      io.Writer // Log takes what the server prints; may be nil.
}

// An Instance is a server that accepts clients: its bench.Target, and its process if it was
// started.
type Instance struct {
	bench.Target
	server *servers.Server
}

// Stop ends the server if it was started, within 30 s.
func (s *Instance) Stop() error {
	if s.server == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	return s.server.Stop(ctx)
}

// Restart stops the server if it was started, and starts it again with its data. pids are its new processes.
// Of a server that was not started it is an error.
func (s *Instance) Restart(ctx context.Context) (pids []int, err error) {
	if s.server == nil {
		return nil, errors.New("it was not started here")
	}
	return s.server.Restart(ctx)
}

// Alive returns why the server has ended, nil while it runs. Of a server that was not started it is
// nil.
func (s *Instance) Alive() error {
	if s.server == nil {
		return nil
	}
	return s.server.Alive()
}

// Start makes the server ready for clients. The error is one line, and then nothing runs.
func (e *Spec) Start(ctx context.Context, n Requirements) (*Instance, error) {
	if err := e.Check(); err != nil {
		return nil, err
	}
	if e.Kind == "" {
		return e.connectRunning(ctx)
	}
	options := map[string]string{}
	known := servers.Options(e.Kind)
	for feature, option := range map[string]string{"mam": "archive", "carbons": "carbons", "push": "push",
		"register": "register", "sasl2": "sasl2"} {
		if _, ok := known[option]; ok && slices.Contains(n.Requires, feature) {
			options[option] = "on"
		}
	}
	for k, v := range e.Options {
		options[k] = v
	}
	program, commit := e.Program, ""
	if e.Kind == "canto" && program == "" {
		var err error
		if program, commit, err = Build(ctx, n.Dir, e.Commit); err != nil {
			return nil, err
		}
	}
	accounts := servers.Accounts{N: n.Accounts}
	s, err := servers.Start(ctx, servers.Config{Kind: e.Kind, Name: e.Name, Program: program,
		Dir: filepath.Join(n.Dir, "server"), Accounts: accounts, Options: options, Log: n.Log})
	if err != nil {
		return nil, err
	}
	return &Instance{server: s, Target: bench.Target{Name: s.Name, Software: s.Software,
		Version: s.Version, Commit: commit, Config: s.Config, Addr: s.Plain, Direct: s.Direct,
		Domain: s.Domain, Rooms: s.Rooms, User: "bench%d", Password: "bench", CA: s.CA, PIDs: s.PIDs,
		Metrics: s.Metrics, Profiles: s.Profiles}}, nil
}

// connectRunning makes an Instance of a server that runs. It resolves names.
func (e *Spec) connectRunning(ctx context.Context) (*Instance, error) {
	t := bench.Target{Name: e.Name, Domain: e.Domain, Rooms: e.Rooms, User: e.User, First: e.First,
		Password: e.Password, Insecure: e.Insecure,
		PIDs: e.PIDs, Metrics: e.Metrics, Profiles: e.Profiles}
	var err error
	if t.Addr, err = address(ctx, e.Server); err != nil {
		return nil, err
	}
	if t.Direct, err = address(ctx, e.Direct); err != nil {
		return nil, err
	}
	if t.Domain == "" {
		host := e.Server
		if host == "" {
			host = e.Direct
		}
		if t.Domain, _, err = net.SplitHostPort(host); err != nil {
			return nil, err
		}
		if _, err := netip.ParseAddr(t.Domain); err == nil { // Check has let loopback alone past
			t.Domain = "localhost"
		}
	}
	if t.CA, err = e.ca(); err != nil {
		return nil, err
	}
	for _, s := range e.Sources {
		a, err := netip.ParseAddr(s)
		if err != nil {
			return nil, fmt.Errorf("%q is not an address to connect from: write 192.0.2.1", s)
		}
		t.Sources = append(t.Sources, a)
	}
	return &Instance{Target: t}, nil
}

// address resolves a host:port. It is done once: a run measures a server and not a resolver.
func address(ctx context.Context, s string) (netip.AddrPort, error) {
	if s == "" {
		return netip.AddrPort{}, nil
	}
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("%q is not the address of a server: write host:port", s)
	}
	n, err := net.DefaultResolver.LookupPort(ctx, "tcp", port)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("%q is not the address of a server: write host:port", s)
	}
	if name, err := jid.NetworkName(host); err == nil {
		host = name
	}
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("the server's name is unknown: %w: write it as the resolver "+
			"knows it, or its address and --domain", err)
	}
	return netip.AddrPortFrom(ips[0].Unmap(), uint16(n)), nil
}

// Build builds canto into dir from the module of the working directory, or from a commit of its
// repository. at names the commit.
func Build(ctx context.Context, dir, commit string) (program, at string, err error) {
	program = filepath.Join(dir, "canto")
	from := ""
	if commit != "" {
		program += "-" + strings.Map(func(r rune) rune {
			if strings.ContainsRune("~^/:@{}", r) {
				return '-'
			}
			return r
		}, commit)
		from = program + "-source"
		if out, err := exec.CommandContext(ctx, "git", "worktree", "add", "--detach", from,
			commit).CombinedOutput(); err != nil {
			return "", "", fmt.Errorf("commit %s can't be checked out: %s: name one that git log shows, and "+
				"run this in its repository", commit, oneLine(out))
		}
		defer exec.Command("git", "worktree", "remove", "--force", from).Run()
	}
	return program, Head(ctx, from), Compile(ctx, from, program, "canto/cmd/canto")
}

// Head is the commit of the repository that folder is in ("": the working directory), with "-dirty"
// if files differ from it; "" if it is in none.
func Head(ctx context.Context, folder string) string {
	git := exec.CommandContext(ctx, "git", "describe", "--always", "--dirty", "--exclude", "*")
	git.Dir = folder
	out, _ := git.Output()
	return strings.TrimSpace(string(out))
}

// Compile builds a package of this module from the folder ("": the working directory), with env
// added to the environment.
func Compile(ctx context.Context, folder, program, pkg string, env ...string) error {
	b := exec.CommandContext(ctx, "go", "build", "-o", program, pkg)
	b.Dir, b.Env = folder, append(os.Environ(), env...)
	if out, err := b.CombinedOutput(); err != nil {
		return fmt.Errorf("%s can't be built (%s): run this in its source, or name a program with --program",
			pkg, oneLine(out))
	}
	return nil
}

func oneLine(b []byte) string {
	s := strings.Join(strings.Fields(string(b)), " ")
	if len(s) > 200 {
		s = s[:200] + "…"
	}
	return s
}
