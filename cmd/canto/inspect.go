package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"canto/session"
	"canto/session/jid"
	"canto/session/metrics"
	"canto/session/mod"
)

// modulesCmd is `canto modules`.
type modulesCmd struct {
	Host string `help:"Only this host." placeholder:"DOMAIN"`
}

// Run prints which modules each host loads, skips and leaves out. It reads the configuration;
// chooses the hosts, or the one of the argument; resolves the modules of each by their manifests,
// without running their code; and prints loaded, skipped and unused modules in this order. The
// errors are of the configuration and of modules that can't be resolved.
func (m *modulesCmd) Run(r *run) error {
	c, err := r.config()
	if err != nil {
		return err
	}
	hosts := c.hostNames()
	if len(hosts) == 0 {
		hosts = []string{"localhost"}
	}
	if m.Host != "" {
		d, err := parseDomain(m.Host)
		if err != nil {
			return err
		}
		hosts = []string{d}
	}
	for _, h := range hosts {
		want, err := c.modulesOf(h)
		if err != nil {
			return err
		}
		service := c.Host[h].Service
		chosen, skipped, err := session.Resolve(session.CoreOf(service), mod.All, want)
		fmt.Fprintf(r.out, "%s %s\n", roleName(service), h)
		for _, x := range chosen {
			fmt.Fprintf(r.out, "  loaded   %-14s %-34s %s\n             covers: %s\n", x.Name, x.Spec, x.Summary,
				x.Cases)
		}
		for _, s := range skipped {
			fmt.Fprintf(r.out, "  skipped  %-14s %-34s %s\n", s.Module, s.Spec, s.Reason)
		}
		for _, x := range mod.All {
			if !contains(want, x.Name) && (!service || mod.RunsAtService(&x)) {
				fmt.Fprintf(r.out, "  off      %-14s %-34s %s\n", x.Name, x.Spec, x.Summary)
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// roleName returns the name of a host's role.
func roleName(service bool) string {
	if service {
		return "service host"
	}
	return "host"
}

// contains reports whether list has s.
func contains(list []string, s string) bool {
	for _, x := range list {
		if x == s {
			return true
		}
	}
	return false
}

// checkCmd is `canto check`.
type checkCmd struct {
	What string       `arg:"" optional:"" enum:"config,dns,tls,limits,all" default:"all" help:"config, dns, tls, limits, or all."`
	For  sessionCount `help:"Check the limits for this number of sessions, as 100k or 1M; by default limits.connections, or 10k." placeholder:"N"`
}

// Run checks and changes nothing. It prints a line with ok or BAD for each check; if one is BAD the
// command fails.
//
//  1. config: roles, modules and options of the hosts, and the rights on the data folder.
//  2. tls: the certificate of each host with logins.
//  3. dns: where clients look for these hosts.
//  4. limits: whether the operating system allows enough sessions.
func (k *checkCmd) Run(r *run) error {
	c, err := r.config()
	if err != nil {
		return err
	}
	bad, refused := 0, false
	say := func(ok bool, format string, a ...any) {
		mark := "ok   "
		if !ok {
			mark = "BAD  "
			bad++
		}
		fmt.Fprintf(r.out, mark+format+"\n", a...)
	}
	on := func(what string) bool { return k.What == "all" || k.What == what }
	if on("config") {
		for _, h := range c.hostNames() {
			want, err := c.modulesOf(h)
			if err == nil {
				_, _, err = session.Resolve(session.CoreOf(c.Host[h].Service), mod.All, want)
			}
			say(err == nil, "config: %s %s %s", roleName(c.Host[h].Service), h, errorOrOK(err))
		}
		if fi, err := os.Stat(c.Data); err == nil && fi.Mode().Perm()&0o077 != 0 {
			say(false, "data: others may look into %s: chmod 700 %s", c.Data, c.Data)
		}
		if err := c.dryRun(); err != nil {
			say(false, "config: %v", err)
			refused = errors.As(err, new(*configError))
		}
		if len(c.Host) == 0 && c.file == "" {
			say(true, "config: no file; canto serve --dev needs none")
		}
	}
	if on("tls") {
		for _, h := range c.loginNames() { // clients do not connect to service hosts
			checkTLS(c, h, say)
		}
	}
	if on("dns") {
		for _, h := range c.loginNames() {
			r.checkDNS(h, say)
		}
	}
	if on("limits") {
		limits := machine{root: os.DirFS("/"), descriptors: descriptorLimit(), page: os.Getpagesize(),
			memoryLimit: int(c.Memory)}
		limits.check(r.out, c.limits().Connections, int(k.For), say)
	}
	if refused { // canto serve and canto reload have the same status for it
		return exitStatus{exitUsage, fmt.Errorf("checks that failed: %d", bad)}
	}
	if bad > 0 {
		return fmt.Errorf("checks that failed: %d", bad)
	}
	return nil
}

// A resolver asks DNS, as [net.Resolver] does.
type resolver interface {
	LookupSRV(ctx context.Context, service, proto, name string) (cname string, addrs []*net.SRV, err error)
	LookupHost(ctx context.Context, host string) (addrs []string, err error)
}

// checkDNS looks up where clients will look for a host (RFC 6120 section 3.2).
func (r *run) checkDNS(host string, say func(bool, string, ...any)) {
	name, err := jid.NetworkName(host)
	if err != nil {
		say(false, "dns: %s can't be in DNS: %v", host, err)
		return
	}
	ask := r.dns
	if ask == nil {
		ask = net.DefaultResolver
	}
	_, srv, err := ask.LookupSRV(r.ctx, "xmpp-client", "tcp", name)
	if err != nil {
		_, err := ask.LookupHost(r.ctx, name)
		say(err == nil, "dns: %s has no SRV record; clients try the name itself: %s", hostAndName(host, name),
			errorOrOK(err))
		return
	}
	for _, s := range srv {
		say(true, "dns: %s is at %s port %d", hostAndName(host, name), s.Target, s.Port)
	}
}

// hostAndName returns a domain, with its name on the network if that differs.
func hostAndName(host, name string) string {
	if host == name {
		return host
	}
	return host + " (" + name + ")"
}

// errorOrOK returns the text of err, or that all is fine.
func errorOrOK(err error) string {
	if err != nil {
		return err.Error()
	}
	return "is fine"
}

// checkTLS checks the certificate of a host: its files, its end, its names.
func checkTLS(c *config, host string, say func(bool, string, ...any)) {
	h := c.Host[host]
	if h.Certificate == "" {
		say(!c.C2S.RequireTLS, "tls: %s has no certificate: name certificate and key in its section", host)
		return
	}
	cert, err := readCertificate(h.Certificate, h.Key)
	if err != nil {
		say(false, "tls: %s: %v", host, err)
		return
	}
	if fi, err := os.Stat(h.Key); err == nil {
		if st, ok := fi.Sys().(*syscall.Stat_t); ok && int(st.Uid) != os.Geteuid() {
			say(false, "tls: %s belongs to user %d, who may change it: chown it to the user that runs the server",
				h.Key, st.Uid)
		}
	}
	left := time.Until(cert.Leaf.NotAfter)
	say(left > 14*24*time.Hour, "tls: %s: the certificate ends on %s", host,
		cert.Leaf.NotAfter.Format("2006-01-02"))
	name, err := jid.NetworkName(host)
	if err != nil {
		say(false, "tls: %s can't be in a certificate: %v", host, err)
		return
	}
	names := slices.Clone(cert.Leaf.DNSNames)
	for _, ip := range cert.Leaf.IPAddresses {
		names = append(names, ip.String())
	}
	say(cert.Leaf.VerifyHostname(name) == nil, "tls: %s: the certificate's names: %s", hostAndName(host, name),
		strings.Join(names, ", "))
	if cert.Leaf.SignatureAlgorithm == x509.PureEd25519 {
		say(true, "tls: %s: an Ed25519 signature has no tls-server-end-point; tls-exporter is offered", host)
	}
}

// bytesCmd is `canto bytes`.
type bytesCmd struct {
	Collect bool `help:"Run the garbage collector first, so that the figures are exact; it costs some CPU."`
}

// Run prints the memory report of the running server. Outside of the server it forwards the
// command to it, and returns an error if no server runs. Inside, it makes the report and prints a
// table: the parts in Go's heap, the rest of the heap and of the runtime, the parts outside of
// the heap, what the operating system says, and the store's size on disk.
func (b *bytesCmd) Run(r *run) error {
	if r.server == nil {
		c, err := r.config()
		if err != nil {
			return err
		}
		if done, err := r.forwardTo(c); done {
			return err
		}
		return fmt.Errorf("no server runs with the data folder %s", c.Data)
	}
	a := r.server.metrics.MemoryReport(b.Collect)
	const row = "%-45s %9v %14v %16v\n"
	line := func(name, count string, bytes int) {
		each := "-"
		if a.Sessions > 0 {
			each = strconv.Itoa(bytes / a.Sessions)
		}
		fmt.Fprintf(r.out, row, name, count, bytes, each)
	}
	fmt.Fprintf(r.out, row, "part", "count", "bytes", "bytes a session")
	var outside []metrics.MemoryPart
	for _, p := range a.Parts {
		if p.Heap {
			line(p.Name, strconv.Itoa(p.Count), p.Bytes)
		} else {
			outside = append(outside, p)
		}
	}
	line("all parts", "-", a.HeapBytes())
	line("live heap", "-", a.Live)
	line("heap not accounted for", "-", a.Unaccounted())
	line("garbage, and newer than the last collection", "-", a.Garbage)
	line("unused space in the heap", "-", a.Unused)
	line("stacks", strconv.Itoa(runtime.NumGoroutine()), a.Stacks)
	line("the runtime's own data", "-", a.Runtime)
	line("returned to the system", "-", a.Released)
	line("mapped from the system", "-", a.System-a.Released)
	for _, p := range outside {
		line(p.Name+", outside of the heap", "-", p.Bytes)
	}
	if rss, ok := residentBytes(); ok {
		line("resident (RSS)", "-", rss)
	}
	line("store on disk", "-", int(r.server.DB.Sizes().Disk))
	return nil
}

// residentBytes returns the resident set size of this process; false if it can't be read.
func residentBytes() (n int, ok bool) {
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0, false
	}
	_, err = fmt.Sscan(string(b), new(int), &n)
	return n * os.Getpagesize(), err == nil
}

// reloadCmd is `canto reload`.
type reloadCmd struct{}

// Run makes the running server read its configuration again.
func (reloadCmd) Run(r *run) error {
	if r.server != nil {
		late, err := r.server.reload()
		for _, k := range late {
			fmt.Fprintf(r.out, "%s: changed, and takes effect at the next start\n", k)
		}
		return err
	}
	c, err := r.config()
	if err != nil {
		return err
	}
	if done, err := r.forwardTo(c); done {
		return err
	}
	return fmt.Errorf("no server runs with the data folder %s", c.Data)
}
