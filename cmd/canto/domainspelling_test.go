package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
)

// The spellings of one domain (RFC 7622 §3.2): its U-labels, its A-labels, in any case.
var spellings = []string{"b\u00fccher.example", "B\u00dcCHER.Example", "xn--bcher-kva.example",
	"XN--bcher-KVA.EXAMPLE"}

const (
	bookshop = "b\u00fccher.example"
	network  = "xn--bcher-kva.example"
)

// RFC 6066 §3: server_name has A-labels, and is compared without regard to case. The certificate is that
// of the host that is meant, by TLS first and by STARTTLS, and not that of the first host.
func TestCertificateByAnySpelling(t *testing.T) {
	t.Parallel()
	s := newSite(t, "a.example", bookshop)
	p := s.serve()
	for _, name := range spellings {
		if c := handshake(t, p.direct, name); c.VerifyHostname(network) != nil {
			t.Errorf("TLS for %s shows the certificate of %v", name, c.DNSNames)
		}
		if c := afterStartTLS(t, p.plain, name); c.VerifyHostname(network) != nil {
			t.Errorf("STARTTLS for %s shows the certificate of %v", name, c.DNSNames)
		}
	}
	for _, name := range []string{"A.EXAMPLE", "a.example", "other.example", "", "not a name"} {
		if c := handshake(t, p.direct, name); c.VerifyHostname("a.example") != nil {
			t.Errorf("TLS for %q shows the certificate of %v", name, c.DNSNames)
		}
	}
}

// A certificate that --dev makes is one for the host's name on the network.
func TestDevCertificateOfAnyHost(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.write("canto.toml", listen+"[host.\""+bookshop+"\"]\n[host.\"[::1]\"]\n[host.\"192.0.2.7\"]\n")
	p := s.serve("--dev")
	for host, name := range map[string]string{bookshop: network, "[::1]": "::1", "192.0.2.7": "192.0.2.7"} {
		if c := afterStartTLS(t, p.plain, host); c.VerifyHostname(name) != nil {
			t.Errorf("the certificate of %s is for %v %v", host, c.DNSNames, c.IPAddresses)
		}
	}
}

// canto check tls compares a host with its certificate by its name on the network (RFC 6125 §6.4.2), and
// shows both.
func TestCheckTLSKnowsBothNames(t *testing.T) {
	t.Parallel()
	s := newSite(t, bookshop, "192.0.2.7")
	got := s.ok("check", "tls")
	for _, want := range []string{"ok   tls: " + bookshop + " (" + network + "): the certificate's names: " +
		network,
		"ok   tls: 192.0.2.7: the certificate's names: 192.0.2.7"} {
		if !strings.Contains(got, want+"\n") {
			t.Errorf("%q is not in\n%s", want, got)
		}
	}
	if err := selfSigned("a.example", s.path(bookshop+".crt"), s.path(bookshop+".key")); err != nil {
		t.Fatal(err)
	}
	r := s.canto("", "check", "tls")
	if want := "BAD  tls: " + bookshop + " (" + network +
		"): the certificate's names: a.example"; r.status == 0 || !strings.Contains(r.out, want) {
		t.Errorf("%q is not in %+v", want, r)
	}
}

// A zone is a resolver with some names; it records the questions.
type zone struct {
	srv   map[string]*net.SRV
	asked []string
}

func (z *zone) LookupSRV(_ context.Context, service, proto, name string) (string, []*net.SRV, error) {
	z.asked = append(z.asked, fmt.Sprintf("_%s._%s.%s", service, proto, name))
	if s := z.srv[name]; s != nil {
		return name, []*net.SRV{s}, nil
	}
	return "", nil, errors.New("no such host")
}

func (z *zone) LookupHost(_ context.Context, name string) ([]string, error) {
	z.asked = append(z.asked, name)
	return []string{"192.0.2.1"}, nil
}

// canto check dns asks for A-labels (RFC 6120 §3.2.1, RFC 5891 §4.5).
func TestCheckDNSAsksForALabels(t *testing.T) {
	t.Parallel()
	s := newSite(t, bookshop, "ma\u00f1ana.example")
	z := &zone{srv: map[string]*net.SRV{network: {Target: "xmpp.example.", Port: 5222}}}
	var out, errOut bytes.Buffer
	status := execute(&run{ctx: t.Context(), args: []string{"check", "dns", "--config", s.path("canto.toml"),
		"--data", s.data()},
		out: &out, errOut: &errOut, dns: z})
	want := "ok   dns: " + bookshop + " (" + network + ") is at xmpp.example. port 5222\n" +
		"ok   dns: ma\u00f1ana.example (xn--maana-pta.example) has no SRV record; clients try the name " +
		"itself: is fine\n"
	if status != 0 || out.String() != want {
		t.Errorf("status %d: %s%s", status, &out, &errOut)
	}
	if want := []string{"_xmpp-client._tcp." + network, "_xmpp-client._tcp.xn--maana-pta.example",
		"xn--maana-pta.example"}; !slices.Equal(z.asked, want) {
		t.Errorf("asked for %q", z.asked)
	}
}

// Domains on the command line may be in any spelling.
func TestCommandsTakeAnySpelling(t *testing.T) {
	t.Parallel()
	s := newSite(t, "example.org")
	for _, name := range spellings {
		s.ok("host", "add", name)
		if got := s.ok("host", "list"); !strings.Contains(got, bookshop+"\tstore\n") {
			t.Errorf("host add %s: %s", name, got)
		}
		s.ok("user", "add", "romeo@"+name, "--password", "x")
		for _, again := range spellings {
			if got := s.ok("user", "list", again); got != "romeo@"+bookshop+"\n" {
				t.Errorf("user list %s: %s", again, got)
			}
			s.fails(exitFailed, "host "+bookshop+" exists already", "host", "add", again)
			if got := s.ok("modules", "--host", again); !strings.HasPrefix(got, "host "+bookshop+"\n") {
				t.Errorf("modules --host %s: %s", again, got)
			}
		}
		s.ok("user", "del", "romeo@"+name)
		s.ok("host", "del", strings.ToUpper(name)+".")
		if got := s.ok("host", "list"); strings.Contains(got, bookshop) {
			t.Errorf("host del %s: %s", name, got)
		}
	}
	s.fails(exitFailed, "example.org: the configuration file names it already", "host", "add", "EXAMPLE.ORG.")
	for _, args := range [][]string{{"host", "add"}, {"host", "del"}, {"user", "list"}, {"modules", "--host"}} {
		for _, bad := range []string{"a b", "a@example.org", "example.org/r"} {
			s.fails(exitUsage, fmt.Sprintf(`%q is not a domain: write it like example.org`, bad), append(args, bad)...)
		}
	}
}

// A domain in the file that is not in its canonical form is an error that gives this form.
func TestHostSectionsSayTheirForm(t *testing.T) {
	t.Parallel()
	for written, kept := range map[string]string{"EXAMPLE.org": "example.org", network: bookshop,
		"example.org.": "example.org"} {
		s := newSite(t)
		s.write("canto.toml", listen+"[host.\""+written+"\"]\n")
		s.fails(exitUsage, fmt.Sprintf(`canto.toml:8: %q is not a domain in its canonical form: write %q`, written,
			kept), "serve")
	}
}

// Two spellings of one address are one port, which then speaks both STARTTLS and TLS.
func TestListenInAnySpelling(t *testing.T) {
	t.Parallel()
	for _, c := range [][2]string{{"LOCALHOST", "127.0.0.1"}, {"localhost.", "[::ffff:127.0.0.1]"},
		{"[0:0:0:0:0:0:0:1]", "[::1]"}} {
		ln, err := net.Listen("tcp", strings.Replace(c[1], "[::ffff:127.0.0.1]", "127.0.0.1", 1)+":0")
		if err != nil {
			t.Fatal(err)
		}
		_, port, _ := net.SplitHostPort(ln.Addr().String())
		addr := ln.Addr().String()
		ln.Close()
		s := newSite(t, "example.org")
		s.write("canto.toml", fmt.Sprintf("[listen]\nc2s = [%q]\nc2s_tls = [%q]\nhttp = []\nhttps = "+
			"[]\ndebug = []\n%s",
			c[0]+":"+port, c[1]+":"+port, hostSection("example.org")))
		s.serve()
		if cert := handshake(t, addr, "example.org"); cert.VerifyHostname("example.org") != nil {
			t.Errorf("%v: %v", c, cert.DNSNames)
		}
		if cert := afterStartTLS(t, addr, "example.org"); cert.VerifyHostname("example.org") != nil {
			t.Errorf("%v: %v", c, cert.DNSNames)
		}
	}
}
