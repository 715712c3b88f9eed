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
	Software string // what it says of itself; asked for (XEP-0092) if empty
	Version  string
	Commit   string
	Config   string // the text of its configuration, for the report

	Addr   netip.AddrPort // plain and STARTTLS
	Direct netip.AddrPort // direct TLS (XEP-0368)
	Domain string
	Rooms  string // domain of its rooms (XEP-0045); found by disco if empty

	User     string // of the accounts, with the number in it: "bench%d"
	First    int    // number of the first
	Password string // of all

	Insecure bool   // any certificate will do; else it must be Domain's, by CA (PEM) or the system's roots
	CA       []byte `json:",omitempty"`

	Sources []netip.Addr // addresses to connect from; none: on loopback some of 127.1.0.0/16, elsewhere the system's choice

	PIDs     []int  // the server's processes, if they are on this machine
	Metrics  string // URL of its Prometheus metrics
	Profiles string // URL of its /debug/pprof
}

// Check fills in defaults, and says what is missing for a scenario with this kind of TLS.
func (t *Target) Check(kind string) error {
	setDefault(&t.User, "bench%d")
	setDefault(&t.Domain, "localhost")
	setDefault(&t.Name, "server")
	for _, name := range []*string{&t.Domain, &t.Rooms} {
		if *name == "" {
			continue
		}
		d, err := jid.Domain(*name)
		if err != nil {
			return fmt.Errorf("%q is no domain: write it like example.org", *name)
		}
		*name = d // as the server will write it
	}
	if strings.Count(t.User, "%d") != 1 || strings.Count(t.User, "%") != 1 {
		return fmt.Errorf("the accounts' name is %q: it needs one %%d, where their number goes", t.User)
	}
	if a := t.addr(kind); !a.IsValid() {
		if kind == "direct" {
			return errors.New("the scenario wants TLS first, and no address for that is known: --direct HOST:PORT, or --tls starttls")
		}
		return errors.New("no address of the server is known: --server HOST:PORT")
	}
	return nil
}

// ServerName is what TLS calls the server: see [hostile.ServerName].
func (t *Target) ServerName() string { return hostile.ServerName(t.Domain) }

func (t *Target) addr(kind string) netip.AddrPort {
	if kind == "direct" {
		return t.Direct
	}
	return t.Addr
}

func (t *Target) name(i int) string { return strings.Replace(t.User, "%d", fmt.Sprint(t.First+i), 1) }

// number is which client has the account with a bare address, if any may have: name, the other way round.
func (t *Target) number(bare string) (i uint32, ok bool) {
	before, behind, _ := strings.Cut(t.User, "%d")
	local, domain, _ := strings.Cut(bare, "@")
	digits, pre := strings.CutPrefix(local, before)
	digits, suf := strings.CutSuffix(digits, behind)
	n, err := strconv.ParseUint(digits, 10, 31)
	client := int(n) - t.First
	if !pre || !suf || err != nil || client < 0 || domain != t.Domain || t.name(client) != local {
		return 0, false
	}
	return uint32(client), true
}

// source is the address that client i of a run connects from: each serves at most 25,000, so that ports do not
// run out, and runs that follow each other have different ones on loopback, where closed connections keep
// their ports for a minute.
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
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, byte(1 + n/62500), byte(n / 250 % 250), byte(n%250 + 1)}), 0)
}

// curvesByName are those that a scenario may name.
var curvesByName = map[string][]tls.CurveID{"": nil, "X25519": {tls.X25519}, "P-256": {tls.CurveP256}, "X25519MLKEM768": {tls.X25519MLKEM768}}

// tls is the configuration that all clients share.
func (t *Target) tls(clients *Clients) (*tls.Config, error) {
	kind := clients.TLS
	if kind == "none" {
		return nil, nil
	}
	c := &tls.Config{ServerName: t.ServerName(), InsecureSkipVerify: t.Insecure, MinVersion: tls.VersionTLS12, CurvePreferences: curvesByName[clients.KeyExchange]}
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
