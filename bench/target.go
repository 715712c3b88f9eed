package bench

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"canto/bench/hostile"
	"canto/session/jid"
)

// A Target is the server that is measured, and the accounts on it.
type Target struct {
	Name     string // what tables call it
	Software string // its name; "": the server is asked (XEP-0092)
	Version  string // of its software, asked likewise
	Commit   string // of its source, if it was built by canto-bench
	Config   string // the text of its configuration, for the report

	Addr   netip.AddrPort // for connections without TLS and with STARTTLS
	Direct netip.AddrPort // for direct TLS (XEP-0368)
	Domain string         // XMPP domain; "": localhost
	Rooms  string         // domain of its chat rooms (XEP-0045); "": it is found by service discovery

	User     string // localpart of the accounts, with %d for the number: "bench%d"
	First    int    // number of the first account
	Password string // of all accounts

	// accept any certificate; otherwise it must be one for Domain, by CA or the system's roots
	Insecure bool
	// PEM of the certificate authority; empty: the system's roots
	CA []byte `json:",omitempty"`

	// Sources are the addresses to connect from. With none, on loopback some of 127.1.0.0/16 are used,
	// elsewhere the system's choice.
	Sources []netip.Addr

	PIDs     []int  // the server's processes, if they run on this machine
	Metrics  string // URL of its Prometheus metrics; "": none
	Profiles string // URL of its /debug/pprof; "": none
}

// Check fills in defaults, and returns an error if something is missing for clients with this kind
// of TLS: "none", "starttls" or "direct".
func (t *Target) Check(kind string) error {
	setDefault(&t.User, "bench%d")
	setDefault(&t.Domain, "localhost")
	setDefault(&t.Name, "server")
	for _, name := range []*string{&t.Domain, &t.Rooms} {
		if *name == "" {
			continue
		}
		d, err := jid.PrepareDomain(*name)
		if err != nil {
			return fmt.Errorf("%q is not a domain: write it like example.org", *name)
		}
		*name = d // as the server will write it
	}
	if strings.Count(t.User, "%d") != 1 || strings.Count(t.User, "%") != 1 {
		return fmt.Errorf("the accounts' name is %q: it needs one %%d, where their number goes", t.User)
	}
	if a := t.addr(kind); !a.IsValid() {
		if kind == "direct" {
			return errors.New("the scenario wants TLS first, and no address for that is known: --direct " +
				"HOST:PORT, or --tls starttls")
		}
		return errors.New("no address of the server is known: --server HOST:PORT")
	}
	return nil
}

// ServerName is the server's name in TLS: see [hostile.ServerName].
func (t *Target) ServerName() string { return hostile.ServerName(t.Domain) }

// addr is the address for this kind of TLS.
func (t *Target) addr(kind string) netip.AddrPort {
	if kind == "direct" {
		return t.Direct
	}
	return t.Addr
}

// name is the localpart of the i-th client's account.
func (t *Target) name(i int) string { return strings.Replace(t.User, "%d", fmt.Sprint(t.First+i), 1) }

// number is the inverse of name: the index of the client with a bare address. ok is false if no
// client can have it.
func (t *Target) number(bare string) (i uint32, ok bool) {
	prefix, suffix, _ := strings.Cut(t.User, "%d")
	local, domain, _ := strings.Cut(bare, "@")
	digits, pre := strings.CutPrefix(local, prefix)
	digits, suf := strings.CutSuffix(digits, suffix)
	n, err := strconv.ParseUint(digits, 10, 31)
	client := int(n) - t.First
	if !pre || !suf || err != nil || client < 0 || domain != t.Domain || t.name(client) != local {
		return 0, false
	}
	return uint32(client), true
}

// source is the address that client i of a run connects from. An address serves 25,000 clients at
// most, so that its ports suffice. On loopback, runs that follow each other have different
// addresses: closed connections occupy their ports for a minute (TIME_WAIT).
func (t *Target) source(kind string, i int, run uint32) netip.AddrPort {
	const each = 25000
	if len(t.Sources) > 0 {
		return netip.AddrPortFrom(t.Sources[i%len(t.Sources)], 0)
	}
	to := t.addr(kind).Addr()
	if !to.IsLoopback() || !to.Is4() {
		return netip.AddrPort{}
	}
	n := i/each + int(run%10000)*5
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, byte(1 + n/62500), byte(n / 250 % 250),
		byte(n%250 + 1)}), 0)
}

// curvesByName are the key exchanges that a scenario may name.
var curvesByName = map[string][]tls.CurveID{"": nil, "X25519": {tls.X25519}, "P-256": {tls.CurveP256},
	"X25519MLKEM768": {tls.X25519MLKEM768}}

// tls is the configuration that all clients share; nil without TLS.
func (t *Target) tls(clients *Clients) (*tls.Config, error) {
	kind := clients.TLS
	if kind == "none" {
		return nil, nil
	}
	c := &tls.Config{ServerName: t.ServerName(), InsecureSkipVerify: t.Insecure,
		MinVersion: tls.VersionTLS12, CurvePreferences: curvesByName[clients.KeyExchange]}
	if kind == "direct" {
		c.NextProtos = []string{"xmpp-client"}
	}
	if len(t.CA) > 0 {
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(t.CA) {
			return nil, errors.New("there is no certificate in the file of --ca: it must be PEM")
		}
	}
	if clients.Tickets {
		c.ClientSessionCache = tls.NewLRUClientSessionCache(256)
	}
	return c, nil
}
