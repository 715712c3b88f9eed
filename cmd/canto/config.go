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

// A config is the file, decoded strictly over the defaults. docs/configuration.md describes it.
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

	file string // for messages
	text []byte
	dev  bool

	startConfig *config // what the server that runs with this one started with
}

type logConfig struct {
	Level  string `toml:"level"`
	Format string `toml:"format"`
}

type listenConfig struct {
	C2S    []string `toml:"c2s"`
	C2STLS []string `toml:"c2s_tls"`
	S2S    []string `toml:"s2s"`
	HTTP   []string `toml:"http"`
	HTTPS  []string `toml:"https"`
	Debug  []string `toml:"debug"`
	Admin  string   `toml:"admin"`
}

type c2sConfig struct {
	RequireTLS  bool     `toml:"require_tls"`
	CompactTLS  bool     `toml:"compact_tls"`
	TLSVersions []string `toml:"tls_versions"`
}

// tlsVersions are those that c2s.tls_versions may name.
var tlsVersions = map[string]uint16{"1.2": tls.VersionTLS12, "1.3": tls.VersionTLS13}

// checkTLSVersions holds that there is a version, and that each is one of ours.
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

// tlsRange is the lowest and the highest version of TLS that is spoken.
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

// limitsConfig has pointers, so that a host's section overrides only what it names.
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

type hostConfig struct {
	Service     bool           `toml:"service"` // users do not log in
	Certificate string         `toml:"certificate"`
	Key         string         `toml:"key"`
	Modules     []string       `toml:"modules"`
	SASL        []string       `toml:"sasl"`
	Limits      *limitsConfig  `toml:"limits"`
	Module      map[string]any `toml:"module"`
}

// A size is bytes: "256KiB", "1MiB", "0".
type size int64

// UnmarshalText reads a size.
func (s *size) UnmarshalText(b []byte) error {
	n, err := parseSize(string(b))
	*s = size(n)
	return err
}

// Unquoted marks that a size may also be written as an integer, of bytes: see tomlstrict.
func (size) Unquoted() {}

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
		return 0, fmt.Errorf("%q is no size: write it like 256KiB, 1MiB or 2GiB", text)
	}
	return n * unit, nil
}

// A prefix is addresses: "10.0.0.0/8", or one alone.
type prefix netip.Prefix

// UnmarshalText reads a prefix, or an address, which is a prefix of all its bits. An IPv4 address that is
// mapped into IPv6 is the IPv4 address, as that is what peers' addresses are compared as.
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
		return fmt.Errorf("%q is no address and no range of addresses: write it like 192.0.2.7, 10.0.0.0/8 "+
			"or 2001:db8::/32", b)
	}
	*p = prefix(v.Masked())
	return nil
}

// A rate is events in a time: "20/s", "5/m", "0" for none.
type rate session.Rate

// UnmarshalText reads a rate.
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
		return fmt.Errorf("%q is no rate: write it like 20/s, 5/m or 100/h, 1 to %d of them; 0 alone is no limit",
			t, session.MaxRateEvents)
	}
	*r = rate{N: k, Per: units[per]}
	return nil
}

// A flow is bytes a second with a burst: "256KiB/s, burst 1MiB".
type byteRate struct{ rate, burst int64 }

// UnmarshalText reads a flow.
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
		return fmt.Errorf("%q is no rate of bytes: write it like 256KiB/s, burst 1MiB; 0 is no limit", t)
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

type duration time.Duration

// UnmarshalText reads a duration as Go writes it: "30s".
func (d *duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	if err != nil || v < 0 {
		return fmt.Errorf("%q is no duration: write it like 30s or 2m", b)
	}
	*d = duration(v)
	return nil
}

// apply puts what c names over lim.
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

func (c *config) limits() session.Limits {
	lim := session.DefaultLimits()
	c.Limits.apply(&lim)
	return lim
}

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

// readConfig reads the file at path. Its errors are one line each: file, line, cause, remedy.
func readConfig(path string) (*config, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, &configError{file: path, cause: fmt.Sprintf("%v: name a file that you may read with --config",
			errors.Unwrap(err))}
	}
	c := defaults()
	c.file, c.text = path, text
	if err := toml.Unmarshal(text, new(map[string]any)); err != nil { // is it TOML at all?
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

// A configError is what is wrong in the configuration, in one line: file, line, cause, remedy.
type configError struct {
	file  string
	line  int // 0: of no line
	cause string
	path  []string // what it is about
}

func (e *configError) Error() string {
	if e.line == 0 {
		return fmt.Sprintf("%s: %s", e.file, e.cause)
	}
	return fmt.Sprintf("%s:%d: %s", e.file, e.line, e.cause)
}

// errorAt is an error about what stands at path, or about the nearest table around it that the text names.
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

// decodeError turns a decoder's error about c's text into one line; path is where the text stands in whole,
// which is c but for a module's own section.
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
		cause = "this is no TOML: " + cause + ": text stands in quotes, lists in brackets, and a table " +
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

// suggestKey is a remedy: the known key that is most like want, or all of them.
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

// hostLimits are the limits that a host's section may change: the others hold before the server knows
// which host is meant, or for all together.
var hostLimits = []string{"exempt", "failures_per_account", "failures_per_address", "resources_per_account"}

// checkLimits looks for limits that can't be meant: the server's, and each host's.
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

// limitAt is err, of [session.Limits.Check], at the line of its key. Where the file does not name an
// outbox, it is the stanza that does not fit the default.
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

// minMemory is the least that memory may be: the store's share, and what the collector leaves above it.
const minMemory = 512 << 20

// maxMemory is the most that memory may be, which is the most that a size may be.
const maxMemory = 1 << 40

// check holds what the decoder can't see.
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
			return c.errorAt(fmt.Sprintf("%q is no domain in its canonical form: write it like example.org", name),
				"host", name)
		} else if d != name {
			return c.errorAt(fmt.Sprintf("%q is no domain in its canonical form: write %q", name, d), "host", name)
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

// checkService looks at a service host for keys that mean something only where users log in.
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

// needsAccounts says that a module can't run at a service host, and which can.
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

// manifest is that of the first module of that name; nil: there is none.
func manifest(name string) *session.Manifest {
	for i := range mod.All {
		if mod.All[i].Name == name {
			return &mod.All[i]
		}
	}
	return nil
}

// A port is what a key of [listen] names.
type listenKey struct {
	key   string
	addrs []string
}

// listenKeys are those that the server opens.
func (c *config) listenKeys() []listenKey {
	return []listenKey{{"c2s", c.Listen.C2S}, {"c2s_tls", c.Listen.C2STLS}, {"http", c.Listen.HTTP},
		{"https", c.Listen.HTTPS}, {"debug", c.Listen.Debug}}
}

// checkListen looks for addresses that are none, and for those that two ports would have to share and can't.
func (c *config) checkListen() error {
	taken := make(map[netip.AddrPort]string) // the key that names it
	for _, l := range append(c.listenKeys(), listenKey{"s2s", c.Listen.S2S}) {
		for i, a := range l.addrs {
			ap, err := parseListenAddr(a)
			if err != nil {
				return c.errorAt(fmt.Sprintf("%q is no address: write it like 0.0.0.0:5222 or [::]:5222", a), "listen",
					l.key)
			}
			if l.key == "s2s" {
				continue // nothing listens there yet
			}
			if l.key == "debug" && ap.Addr().Unmap().IsUnspecified() {
				return c.errorAt(fmt.Sprintf("debug on %q would show profiles of this process on every address of the "+
					"machine: name the one address that is meant, like 127.0.0.1:5290", a), "listen", l.key)
			}
			l.addrs[i] = ap.String() // one spelling, by which lists are compared
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

// checkSASL looks at a host's list of mechanisms; nil is the default one.
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

// parseListenAddr reads what a listener takes: without a host, it is every address.
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

// checkOptions reads the section of a module at path, also if no host runs the module. host is empty for
// a section of all hosts.
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

// checkModules looks for sections of modules that there are none of, and reads the others.
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

func moduleNames() (names []string) {
	for _, m := range mod.All {
		names = append(names, m.Name)
	}
	return names
}

// checkTLSAvailable says that clients could not connect at all.
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

// options decodes a module's own section for one host over the defaults in v, strictly.
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
