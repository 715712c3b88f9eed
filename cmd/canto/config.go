package main

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"

	"canto/session"
	"canto/session/jid"
	"canto/session/mod"
	"canto/session/sasl"
	"canto/session/tomlstrict"
)

// A config is the configuration file, decoded strictly over the defaults. docs/configuration.md
// describes the keys. It does not change once it is in effect: a reload makes a new one.
type config struct {
	Data   string                `toml:"data"`
	Memory size                  `toml:"memory"`
	Node   int                   `toml:"node"`
	Log    logConfig             `toml:"log"`
	Listen listenConfig          `toml:"listen"`
	C2S    c2sConfig             `toml:"c2s"`
	Limits limitsConfig          `toml:"limits"`
	Host   map[string]hostConfig `toml:"host"`
	Module map[string]any        `toml:"module"`

	file string // its name, for messages; empty: there is none
	text []byte // its text, in which errorAt finds lines
	dev  bool   // of canto serve --dev

	startConfig *config // the configuration with which the running server has started
}

// logConfig is the table [log].
type logConfig struct {
	Level  string `toml:"level"`
	Format string `toml:"format"`
}

// listenConfig is the table [listen].
type listenConfig struct {
	C2S    []string `toml:"c2s"`
	C2STLS []string `toml:"c2s_tls"`
	S2S    []string `toml:"s2s"`
	HTTP   []string `toml:"http"`
	HTTPS  []string `toml:"https"`
	Debug  []string `toml:"debug"`
	Admin  string   `toml:"admin"`
}

// c2sConfig is the table [c2s].
type c2sConfig struct {
	RequireTLS  bool     `toml:"require_tls"`
	CompactTLS  bool     `toml:"compact_tls"`
	TLSVersions []string `toml:"tls_versions"`
}

// tlsVersions are the versions that c2s.tls_versions may name.
var tlsVersions = map[string]uint16{"1.2": tls.VersionTLS12, "1.3": tls.VersionTLS13}

// checkTLSVersions checks that c2s.tls_versions names at least one version, and only known ones.
func (c *config) checkTLSVersions() error {
	for _, v := range c.C2S.TLSVersions {
		if tlsVersions[v] == 0 {
			return c.errorAt(fmt.Sprintf("tls_versions has %q: the versions are \"1.2\" and \"1.3\"", v), "c2s",
				"tls_versions")
		}
	}
	if len(c.C2S.TLSVersions) == 0 {
		return c.errorAt("tls_versions is empty: name \"1.2\", \"1.3\", or both", "c2s", "tls_versions")
	}
	return nil
}

// tlsRange returns the lowest and the highest version of TLS to accept.
func (c c2sConfig) tlsRange() (lowest, highest uint16) {
	for _, v := range c.TLSVersions {
		n := tlsVersions[v]
		if lowest == 0 || n < lowest {
			lowest = n
		}
		highest = max(highest, n)
	}
	return lowest, highest
}

// limitsConfig is the table [limits], or a host's. It has pointers, so that a host's table
// overrides only the keys that it has.
type limitsConfig struct {
	Exempt              *[]prefix `toml:"exempt"`
	Connections         *int      `toml:"connections"`
	PerAddress          *int      `toml:"per_address"`
	LoginsPerAddress    *rate     `toml:"logins_per_address"`
	FailuresPerAddress  *rate     `toml:"failures_per_address"`
	FailuresPerAccount  *rate     `toml:"failures_per_account"`
	ResourcesPerAccount *int      `toml:"resources_per_account"`
	Stanza              *size     `toml:"stanza"`
	Rate                *byteRate `toml:"rate"`
	Outbox              *size     `toml:"outbox"`
	LoginTimeout        *duration `toml:"login_timeout"`
}

// hostConfig is a table [host."example.org"].
type hostConfig struct {
	Service     bool           `toml:"service"` // a service host, without logins
	Certificate string         `toml:"certificate"`
	Key         string         `toml:"key"`
	Modules     []string       `toml:"modules"`
	SASL        []string       `toml:"sasl"`
	Limits      *limitsConfig  `toml:"limits"`
	Module      map[string]any `toml:"module"`
}

// A size is a number of bytes: "256KiB", "1MiB", "0".
type size int64

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *size) UnmarshalText(b []byte) error {
	n, err := parseSize(string(b))
	*s = size(n)
	return err
}

// Unquoted marks that a size may also be written as an integer, in bytes: see package tomlstrict.
func (size) Unquoted() {}

// parseSize parses a size, up to 1 TiB.
func parseSize(text string) (int64, error) {
	t := strings.TrimSpace(text)
	unit := int64(1)
	for _, u := range []struct {
		name string
		n    int64
	}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"kB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"B", 1}} {
		if rest, ok := strings.CutSuffix(t, u.name); ok {
			t, unit = strings.TrimSpace(rest), u.n
			break
		}
	}
	n, err := strconv.ParseInt(t, 10, 64)
	if err != nil || n < 0 || n > 1<<40/unit {
		return 0, fmt.Errorf("%q is not a size: write it like 256KiB, 1MiB or 2GiB", text)
	}
	return n * unit, nil
}

// A prefix is a range of addresses, as "10.0.0.0/8", or a single address.
type prefix netip.Prefix

// UnmarshalText implements encoding.TextUnmarshaler. A single address is a prefix of all its bits.
// An IPv4 address that is mapped into IPv6 becomes the IPv4 address, as peers' addresses are
// compared in that form.
func (p *prefix) UnmarshalText(b []byte) error {
	v, err := netip.ParsePrefix(string(b))
	if err != nil {
		var a netip.Addr
		if a, err = netip.ParseAddr(string(b)); err == nil && a.Zone() == "" {
			v = netip.PrefixFrom(a, a.BitLen())
		}
	}
	if mapped := v.Addr(); mapped.Is4In6() && v.Bits() >= 96 {
		v = netip.PrefixFrom(mapped.Unmap(), v.Bits()-96)
	}
	if err != nil || !v.IsValid() {
		return fmt.Errorf("%q is not an address or a range of addresses: write it like 192.0.2.7, 10.0.0.0/8 "+
			"or 2001:db8::/32", b)
	}
	*p = prefix(v.Masked())
	return nil
}

// A rate is a number of events in a time: "20/s", "5/m"; "0" is no limit.
type rate session.Rate

// UnmarshalText implements encoding.TextUnmarshaler.
func (r *rate) UnmarshalText(b []byte) error {
	t := strings.TrimSpace(string(b))
	if t == "0" {
		*r = rate{}
		return nil
	}
	n, per, ok := strings.Cut(t, "/")
	units := map[string]time.Duration{"s": time.Second, "m": time.Minute, "h": time.Hour}
	k, err := strconv.Atoi(n)
	if !ok || err != nil || units[per] == 0 || k < 1 || k > session.MaxRateEvents {
		return fmt.Errorf("%q is not a rate: write it like 20/s, 5/m or 100/h, 1 to %d of them; 0 alone is "+
			"no limit",
			t, session.MaxRateEvents)
	}
	*r = rate{N: k, Per: units[per]}
	return nil
}

// A byteRate is bytes per second with a burst, in bytes: "256KiB/s, burst 1MiB".
type byteRate struct{ rate, burst int64 }

// UnmarshalText implements encoding.TextUnmarshaler. Without a burst it is four times the rate, up
// to session.MaxRate.
func (f *byteRate) UnmarshalText(b []byte) error {
	t := strings.TrimSpace(string(b))
	if t == "0" {
		*f = byteRate{}
		return nil
	}
	perSecond, burst, has := strings.Cut(t, ",")
	perSecond, ok := strings.CutSuffix(strings.TrimSpace(perSecond), "/s")
	n, err := parseSize(perSecond)
	if !ok || err != nil {
		return fmt.Errorf("%q is not a rate of bytes: write it like 256KiB/s, burst 1MiB; 0 is no limit", t)
	}
	f.rate, f.burst = n, max(n, min(4*n, session.MaxRate))
	if has {
		text, ok := strings.CutPrefix(strings.TrimSpace(burst), "burst ")
		if f.burst, err = parseSize(text); err != nil || !ok {
			return fmt.Errorf("%q: the burst is written like burst 1MiB", t)
		}
	}
	return nil
}

// A duration is a time as Go writes it: "30s".
type duration time.Duration

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	if err != nil || v < 0 {
		return fmt.Errorf("%q is not a duration: write it like 30s or 2m", b)
	}
	*d = duration(v)
	return nil
}

// apply sets in lim the limits that c has.
func (c *limitsConfig) apply(lim *session.Limits) {
	set := func(dst *int, src *int) {
		if src != nil {
			*dst = *src
		}
	}
	bytes := func(dst *int, src *size) {
		if src != nil {
			*dst = int(*src)
		}
	}
	rates := func(dst *session.Rate, src *rate) {
		if src != nil {
			*dst = session.Rate(*src)
		}
	}
	if c.Exempt != nil {
		lim.Exempt = nil
		for _, p := range *c.Exempt {
			lim.Exempt = append(lim.Exempt, netip.Prefix(p))
		}
	}
	set(&lim.Connections, c.Connections)
	set(&lim.PerAddress, c.PerAddress)
	set(&lim.ResourcesPerAccount, c.ResourcesPerAccount)
	rates(&lim.LoginsPerAddress, c.LoginsPerAddress)
	rates(&lim.FailuresPerAddress, c.FailuresPerAddress)
	rates(&lim.FailuresPerAccount, c.FailuresPerAccount)
	bytes(&lim.Stanza, c.Stanza)
	bytes(&lim.Outbox, c.Outbox)
	if c.Rate != nil {
		lim.Rate, lim.RateBurst = int(c.Rate.rate), int(c.Rate.burst)
	}
	if c.LoginTimeout != nil {
		lim.LoginTimeout = time.Duration(*c.LoginTimeout)
	}
}

// limits returns the limits of the whole server: the defaults, with those of [limits].
func (c *config) limits() session.Limits {
	lim := session.DefaultLimits()
	c.Limits.apply(&lim)
	return lim
}

// defaults returns the configuration without a file.
func defaults() *config {
	return &config{
		Data: "canto-data",
		Log:  logConfig{"info", "text"},
		Listen: listenConfig{
			C2S:    []string{"127.0.0.1:5222"},
			C2STLS: []string{"127.0.0.1:5223"},
			S2S:    []string{"127.0.0.1:5269"},
			HTTP:   []string{"127.0.0.1:5280"},
			HTTPS:  []string{"127.0.0.1:5281"},
			Debug:  []string{"127.0.0.1:5290"},
			Admin:  "admin.sock",
		},
		C2S: c2sConfig{RequireTLS: true, CompactTLS: true, TLSVersions: []string{"1.2", "1.3"}},
	}
}

// readConfig reads and checks the file at path. An error is one line: file, line, cause, remedy.
//
//  1. Check that the text is TOML.
//  2. Check keys and kinds of values (checkKeys), and decode over the defaults.
//  3. Check the values (check).
//  4. Make the paths of certificates relative to the folder of the file.
func readConfig(path string) (*config, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, &configError{file: path, cause: fmt.Sprintf("%v: name a file that you may read with --config",
			errors.Unwrap(err))}
	}
	c := defaults()
	c.file, c.text = path, text
	if err := toml.Unmarshal(text, new(map[string]any)); err != nil { // the text is not TOML
		return nil, c.decodeError(err, c)
	}
	if err := c.checkKeys(c); err != nil {
		return nil, err
	}
	d := toml.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(c); err != nil {
		return nil, c.decodeError(err, c)
	}
	if err := c.check(); err != nil {
		return nil, err
	}
	dir := filepath.Dir(path)
	for name, h := range c.Host {
		for _, f := range []*string{&h.Certificate, &h.Key} {
			if *f != "" && !filepath.IsAbs(*f) {
				*f = filepath.Join(dir, *f)
			}
		}
		c.Host[name] = h
	}
	return c, nil
}

// A configError is an error in the configuration, one line: file, line, cause, remedy. The exit
// status is exitUsage.
type configError struct {
	file  string
	line  int      // 0: it is not about a line
	cause string   // with the remedy
	path  []string // the key that it is about
}

// Error returns the line.
func (e *configError) Error() string {
	if e.line == 0 {
		return fmt.Sprintf("%s: %s", e.file, e.cause)
	}
	return fmt.Sprintf("%s:%d: %s", e.file, e.line, e.cause)
}

// errorAt returns a configError about the key at path. Its line is that of the key, or of the
// nearest table around it that the text has.
func (c *config) errorAt(cause string, path ...string) error {
	e := &configError{file: c.file, cause: cause, path: path}
	if e.file == "" {
		e.file = "configuration"
	}
	at := make(tomlstrict.Path, len(path))
	for i, name := range path {
		at[i] = name
	}
	e.line = tomlstrict.Line(c.text, at)
	return e
}

// decodeError makes a configError of a decoder's error about c's text. whole is the configuration,
// and path is where c's text stands in it: whole is c, but for a module's section, which is decoded
// by itself.
func (c *config) decodeError(err error, whole *config, path ...string) error {
	cause := strings.ReplaceAll(strings.TrimPrefix(err.Error(), "toml: "), "\n", " ")
	var de *toml.DecodeError
	if !errors.As(err, &de) {
		return whole.errorAt(cause, path...)
	}
	row, column := de.Position()
	var p unstable.Parser
	p.Reset(c.text)
	for p.NextExpression() {
	}
	if p.Error() != nil {
		cause = "this is not TOML: " + cause + ": text stands in quotes, lists in brackets, and a table " +
			"begins with a line like [listen]"
		return &configError{file: c.file, line: row, cause: cause}
	}
	full := slices.Concat(path, c.keyAt(row, column))
	if name := shownKey(full); name != "" && !strings.Contains(cause, name) {
		cause = name + ": " + cause
	}
	if len(path) > 0 {
		return whole.errorAt(cause, full...)
	}
	return &configError{file: c.file, line: row, cause: cause}
}

// suggestKey returns the end of an error about an unknown key: the known key that is most similar,
// or all known keys.
func suggestKey(want string, keys []string) string {
	if len(keys) == 0 {
		return ""
	}
	keys = slices.Sorted(slices.Values(keys))
	if best := tomlstrict.Nearest(want, keys); best != "" {
		return fmt.Sprintf("; did you mean %q?", best)
	}
	return "; known here: " + strings.Join(keys, ", ")
}

// hostLimits are the limits that a host's section may have. The others apply before the server
// knows the host, or to all hosts together.
var hostLimits = []string{"exempt", "failures_per_account", "failures_per_address", "resources_per_account"}

// checkLimits checks the limits of the server and of each host.
func (c *config) checkLimits() error {
	lim := c.limits()
	if err := c.limitAt(lim.Check(), "limits"); err != nil {
		return err
	}
	for _, name := range c.hostNames() {
		own := c.Host[name].Limits
		if own == nil {
			continue
		}
		v := reflect.ValueOf(*own)
		for i := range v.NumField() {
			key := v.Type().Field(i).Tag.Get("toml")
			if !v.Field(i).IsNil() && !slices.Contains(hostLimits, key) {
				return c.errorAt(fmt.Sprintf("limits.%s holds for all hosts: write it under [limits]; a host's own "+
					"are %s",
					key, strings.Join(hostLimits, ", ")), "host", name, "limits", key)
			}
		}
		lim := c.limits()
		own.apply(&lim)
		if err := c.limitAt(lim.Check(), "host", name, "limits"); err != nil {
			return err
		}
	}
	return nil
}

// limitAt adds the line of the key to err, an error of [session.Limits.Check]. If the file has no
// outbox, the error is about the stanza, which does not fit the default outbox.
func (c *config) limitAt(err error, path ...string) error {
	var le *session.LimitError
	if !errors.As(err, &le) {
		return err
	}
	key := le.Key
	if key == "outbox" && c.Limits.Outbox == nil {
		key = "stanza"
	}
	return c.errorAt(strings.Join(path, ".")+"."+err.Error(), append(path, key)...)
}

// minMemory is the smallest value of memory: the store's share, and as much for Go's heap.
const minMemory = 512 << 20

// maxMemory is the largest value of memory, as of every size.
const maxMemory = 1 << 40

// check checks what the decoder can't: ranges, combinations, names. The first error is returned.
//
//  1. Data folder, memory, limits.
//  2. The sections of modules.
//  3. Each host: its name in canonical form, certificate with key, keys that its role can't have,
//     its modules with their options, its mechanisms.
//  4. TLS versions, log, node, addresses.
func (c *config) check() error {
	if c.Data == "" {
		return c.errorAt("data is empty: name the folder of the store, like canto-data", "data")
	}
	if c.Memory != 0 && (c.Memory < minMemory || c.Memory > maxMemory) {
		return c.errorAt(fmt.Sprintf("memory: %d bytes: write 512MiB (the store alone takes %d MiB) to 1024GiB, "+
			"or 0 for no limit", c.Memory, storeMemory>>20), "memory")
	}
	if err := c.checkLimits(); err != nil {
		return err
	}
	if err := c.checkModules(c.Module, "module"); err != nil {
		return err
	}
	for _, name := range c.hostNames() {
		h := c.Host[name]
		if d, err := jid.PrepareDomain(name); err != nil {
			return c.errorAt(fmt.Sprintf("%q is not a domain in its canonical form: write it like example.org", name),
				"host", name)
		} else if d != name {
			return c.errorAt(fmt.Sprintf("%q is not a domain in its canonical form: write %q", name, d), "host", name)
		}
		if h.Certificate == "" && h.Key != "" {
			return c.errorAt("certificate and key go together: name both files, or neither", "host", name, "key")
		}
		if h.Certificate != "" && h.Key == "" {
			return c.errorAt("certificate and key go together: name both files, or neither", "host", name,
				"certificate")
		}
		if err := c.checkService(name); err != nil {
			return err
		}
		if _, err := c.modulesOf(name); err != nil {
			return err
		}
		if err := c.checkModules(h.Module, "host", name, "module"); err != nil {
			return err
		}
		if err := c.checkSASL(name, h.SASL); err != nil {
			return err
		}
	}
	if err := c.checkTLSVersions(); err != nil {
		return err
	}
	switch c.Log.Level {
	case "debug", "info", "warn", "error":
	default:
		return c.errorAt(fmt.Sprintf("log level %q: it is debug, info, warn or error", c.Log.Level), "log", "level")
	}
	switch c.Log.Format {
	case "text", "json":
	default:
		return c.errorAt(fmt.Sprintf("log format %q: it is text or json", c.Log.Format), "log", "format")
	}
	if c.Node < 0 || c.Node > 1023 {
		return c.errorAt("node is from 0 to 1023", "node")
	}
	return c.checkListen()
}

// checkService returns an error if a service host has keys that mean something only at a host with
// logins.
func (c *config) checkService(host string) error {
	h := c.Host[host]
	if !h.Service {
		return nil
	}
	for _, k := range []struct {
		key string
		has bool
		why string
	}{
		{"certificate", h.Certificate != "", "clients do not connect to a service host"},
		{"sasl", h.SASL != nil, "users do not log in at a service host"},
		{"limits", h.Limits != nil, "a host's own limits are those of logins, and users do not log in at a " +
			"service host"},
	} {
		if k.has {
			return c.errorAt(fmt.Sprintf("%s: %s: take %s out, or set service = false", k.key, k.why, k.key), "host",
				host, k.key)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(h.Module)) {
		if m := manifest(name); m != nil && !mod.RunsAtService(m) {
			return c.errorAt(needsAccounts(name, host), "host", host, "module", name)
		}
	}
	return nil
}

// needsAccounts returns the text of an error: module can't run at a service host; with the modules
// that can.
func needsAccounts(module, host string) string {
	var names []string
	for i := range mod.All {
		if mod.RunsAtService(&mod.All[i]) {
			names = append(names, mod.All[i].Name)
		}
	}
	return fmt.Sprintf("the module %s is for accounts, and the service host %s has none: take it out, or "+
		"set service = false; "+
		"modules of a service host are %s", module, host, strings.Join(names, ", "))
}

// manifest returns the manifest of the first module with that name; nil if there is none.
func manifest(name string) *session.Manifest {
	for i := range mod.All {
		if mod.All[i].Name == name {
			return &mod.All[i]
		}
	}
	return nil
}

// A listenKey is a key of [listen] and its addresses.
type listenKey struct {
	key   string
	addrs []string
}

// listenKeys returns the keys of the ports that the server opens.
func (c *config) listenKeys() []listenKey {
	return []listenKey{{"c2s", c.Listen.C2S}, {"c2s_tls", c.Listen.C2STLS}, {"http", c.Listen.HTTP},
		{"https", c.Listen.HTTPS}, {"debug", c.Listen.Debug}}
}

// checkListen checks the addresses of [listen]: each must be valid, debug must not be on every
// address, and two keys may have the same address only if they can share a port. It replaces each
// address by its canonical spelling.
func (c *config) checkListen() error {
	taken := make(map[netip.AddrPort]string) // address -> the key that has it
	for _, l := range append(c.listenKeys(), listenKey{"s2s", c.Listen.S2S}) {
		for i, a := range l.addrs {
			ap, err := parseListenAddr(a)
			if err != nil {
				return c.errorAt(fmt.Sprintf("%q is not an address: write it like 0.0.0.0:5222 or [::]:5222", a),
					"listen",
					l.key)
			}
			if l.key == "s2s" {
				continue // nothing listens there yet
			}
			if l.key == "debug" && ap.Addr().Unmap().IsUnspecified() {
				return c.errorAt(fmt.Sprintf("debug on %q would show profiles of this process on every address of the "+
					"machine: name the one address that is meant, like 127.0.0.1:5290", a), "listen", l.key)
			}
			l.addrs[i] = ap.String() // canonical, so that restartKeys and Listeners can compare
			first := taken[ap]
			together := first == "c2s" && l.key == "c2s_tls" || first == "c2s_tls" && l.key == "https"
			if first != "" && ap.Port() != 0 && !together {
				return c.errorAt(fmt.Sprintf("%q stands under %s, too: one address is shared by c2s and c2s_tls, and by "+
					"c2s_tls and https, but by no others", a, first), "listen", l.key)
			}
			taken[ap] = l.key
		}
	}
	return nil
}

// checkSASL checks a host's list of mechanisms. nil is the default list.
func (c *config) checkSASL(host string, list []string) error {
	if list != nil && len(list) == 0 {
		return c.errorAt(fmt.Sprintf("sasl is empty, and there would be no way to log in at %s: name mechanisms "+
			"(%s), or leave sasl out",
			host, strings.Join(sasl.MechanismNames(), ", ")), "host", host, "sasl")
	}
	for _, m := range list {
		if _, ok := sasl.ParseMechanism(m); !ok {
			return c.errorAt(fmt.Sprintf("unknown SASL mechanism %q%s", m, suggestKey(m, sasl.MechanismNames())),
				"host",
				host, "sasl")
		}
	}
	return nil
}

// parseListenAddr parses an address to listen on. Without a host it means every address; localhost
// is 127.0.0.1.
func parseListenAddr(a string) (netip.AddrPort, error) {
	if strings.HasPrefix(a, ":") {
		a = "[::]" + a
	} else if host, port, err := net.SplitHostPort(a); err == nil {
		if name, err := jid.NetworkName(host); err == nil && name == "localhost" {
			a = "127.0.0.1:" + port
		}
	}
	ap, err := netip.ParseAddrPort(a)
	if err != nil {
		return ap, err
	}
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port()), nil
}

// checkOptions decodes and checks the section of a module at path, also if no host runs the module.
// host is empty for a section of all hosts.
func (c *config) checkOptions(host, module string, section map[string]any, path []string) error {
	i := slices.IndexFunc(mod.All, func(m session.Manifest) bool { return m.Name == module && m.Options != nil })
	if i < 0 {
		for _, key := range slices.Sorted(maps.Keys(section)) {
			return c.errorAt(fmt.Sprintf("unknown key %q: the module %s has no options", shownKey(append(path, key)),
				module), append(path, key)...)
		}
		return nil
	}
	v := mod.All[i].Options()
	if err := c.options(host)(module, v); err != nil {
		return err
	}
	if oc, ok := v.(session.OptionChecker); ok {
		if key, why := oc.Check(); why != "" {
			return c.optionAt(host, &session.OptionError{Module: module, Key: key, Why: why})
		}
	}
	return nil
}

// checkModules checks the sections of modules: each must belong to a module that exists, and have
// options that it accepts.
func (c *config) checkModules(sections map[string]any, path ...string) error {
	for _, name := range slices.Sorted(maps.Keys(sections)) {
		if all := moduleNames(); !slices.Contains(all, name) {
			return c.errorAt(fmt.Sprintf("unknown module %q%s", name, suggestKey(name, all)), append(path, name)...)
		}
		if _, ok := sections[name].(map[string]any); !ok {
			return c.errorAt(fmt.Sprintf("%s is a module's section: write [%s]", name,
				strings.Join(append(path, name), ".")), append(path, name)...)
		}
		host := ""
		if path[0] == "host" {
			host = path[1]
		}
		if err := c.checkOptions(host, name, sections[name].(map[string]any), append(path, name)); err != nil {
			return err
		}
	}
	return nil
}

// moduleNames returns the names of all modules.
func moduleNames() (names []string) {
	for _, m := range mod.All {
		names = append(names, m.Name)
	}
	return names
}

// checkTLSAvailable returns an error if no client could log in: TLS is required, or only -PLUS
// mechanisms are named, and no host has a certificate.
func (c *config) checkTLSAvailable() error {
	if c.hasCertificate() {
		return nil
	}
	if !c.C2S.RequireTLS {
		for _, name := range c.hostNames() {
			if list := c.Host[name].SASL; len(list) > 0 && !slices.ContainsFunc(list, func(m string) bool {
				return !strings.HasSuffix(m, "-PLUS")
			}) {
				return c.errorAt("sasl names -PLUS forms only, which need TLS, and no host has a certificate: name "+
					"certificate and key, or another mechanism",
					"host", name, "sasl")
			}
		}
		return nil
	}
	return c.errorAt("no host has a certificate, and clients may not connect without TLS: name " +
		"certificate and " +
		"key in its section, or, for tests on loopback, set c2s.require_tls = false")
}

// hasCertificate reports whether some host has a certificate.
func (c *config) hasCertificate() bool {
	for _, h := range c.Host {
		if h.Certificate != "" {
			return true
		}
	}
	return false
}

// options returns a function that decodes the options of a module for one host over the defaults in
// v: first the section for all hosts, then the host's. Unknown keys are errors.
func (c *config) options(host string) func(module string, v any) error {
	return func(module string, v any) error {
		for _, s := range []struct {
			path []string
			m    map[string]any
		}{{[]string{"module", module}, c.Module}, {[]string{"host", host, "module", module}, c.Host[host].Module}} {
			section, ok := s.m[module]
			if !ok {
				continue
			}
			text, err := toml.Marshal(section)
			if err != nil {
				return c.errorAt(err.Error(), s.path...)
			}
			own := &config{text: text}
			var ce *configError
			if err := own.checkKeys(v, s.path...); errors.As(err, &ce) {
				return c.errorAt(ce.cause, ce.path...)
			}
			d := toml.NewDecoder(bytes.NewReader(text))
			d.DisallowUnknownFields()
			if err := d.Decode(v); err != nil {
				return own.decodeError(err, c, s.path...)
			}
		}
		return nil
	}
}
