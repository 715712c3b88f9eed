package live

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"canto/session/sasl"
)

// bindings are those of a connection, computed on the client's side alone.
func (c *client) bindings(t *testing.T, s *server) sasl.ChannelBinding {
	b := sasl.ChannelBinding{TLS13: c.cs.Version >= tls.VersionTLS13}
	var err error
	if b.Exporter, err = c.cs.ExportKeyingMaterial("EXPORTER-Channel-Binding", nil, 32); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(c.cs.PeerCertificates[0].Raw)
	b.EndPoint = sum[:]
	b.Unique = c.cs.TLSUnique
	return b
}

// offeredBindings are the types that features list, in their order (XEP-0440 §3).
func offeredBindings(features string) (kinds []string) {
	for _, part := range strings.Split(features, "<channel-binding type='")[1:] {
		kind, _, _ := strings.Cut(part, "'")
		kinds = append(kinds, kind)
	}
	return kinds
}

// Each mechanism, with each channel binding, over STARTTLS and direct TLS, in TLS 1.3 and 1.2
// (RFC 5802 §6, RFC 9266, RFC 5929 §3 and §4, XEP-0440).
func TestMechanisms(t *testing.T) {
	s := start(t, "", "bob@localhost")
	for _, direct := range []bool{false, true} {
		for _, version := range []uint16{tls.VersionTLS13, tls.VersionTLS12} {
			for _, m := range []string{"SCRAM-SHA-1", "SCRAM-SHA-256", "SCRAM-SHA-512", "SCRAM-SHA-1-PLUS",
				"SCRAM-SHA-256-PLUS", "SCRAM-SHA-512-PLUS", "PLAIN"} {
				mech, _ := sasl.ParseMechanism(m)
				kinds := []string{""}
				if mech.Plus() {
					kinds = []string{"tls-exporter", "tls-server-end-point"}
					if version == tls.VersionTLS12 {
						kinds = []string{"tls-exporter", "tls-unique", "tls-server-end-point"}
					}
				}
				for _, kind := range kinds {
					t.Run(fmt.Sprintf("direct=%v/%s/%s/%s", direct, tls.VersionName(version), m, kind), func(t *testing.T) {
						c, features := s.connect(direct, version)
						defer c.leave()
						if !strings.Contains(features, "<mechanism>"+m+"</mechanism>") {
							t.Fatalf("not offered: %s", features)
						}
						x := &sasl.Client{Mechanism: mech, Username: "bob", Password: sasl.SecretString(password),
							ServerPlus: true}
						if mech.Plus() {
							if got := offeredBindings(features); !slices.Equal(got, kinds) {
								t.Fatalf("offered are the bindings %q, not %q", got, kinds)
							}
							x.Binding, x.BindingType = c.bindings(t, s), kind
						}
						if why := c.authenticate(x); why != "" {
							t.Fatal(why)
						}
						c.open()
						c.say("<iq type='set' id='b'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>")
						if got := c.until("</iq>"); !strings.Contains(got, "<jid>bob@localhost/") {
							t.Fatal(got)
						}
					})
				}
			}
		}
	}
}

// RFC 7627 §1, RFC 9266 §4.2: without the extended master secret two connections can have one master
// secret, and what is made of it binds to neither. Such a connection of TLS 1.2 is offered the end point
// alone.
func TestAttackUnextendedMasterSecret(t *testing.T) {
	s := start(t, "", "bob@localhost")
	for _, m := range []string{"SCRAM-SHA-1-PLUS", "SCRAM-SHA-256-PLUS", "SCRAM-SHA-512-PLUS"} {
		mech, _ := sasl.ParseMechanism(m)
		for kind, want := range map[string]string{"tls-unique": "not-authorized", "tls-server-end-point": ""} {
			c := s.dial(s.Direct)
			u, err := unextendedTLS(c.nc)
			if err != nil {
				t.Fatal(err)
			}
			c.nc = u
			features := c.open()
			if got := offeredBindings(features); !slices.Equal(got, []string{"tls-server-end-point"}) {
				t.Errorf("offered are the bindings %q", got)
			}
			sum := sha256.Sum256(u.cert)
			why := c.authenticate(&sasl.Client{Mechanism: mech, Username: "bob",
				Password: sasl.SecretString(password), ServerPlus: true,
				Binding: sasl.ChannelBinding{Unique: u.unique, EndPoint: sum[:]}, BindingType: kind})
			if why != want {
				t.Errorf("%s with %s: %q, want %q", m, kind, why, want)
			}
		}
	}
}

// RFC 9266 §4.2, RFC 5929 §3: a resumed session of TLS 1.2 with extended master secret has bindings of
// its own.
func TestBindingsOfResumedTLS12(t *testing.T) {
	s := start(t, "", "bob@localhost")
	cfg := s.tls(tls.VersionTLS12)
	cfg.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	mech, _ := sasl.ParseMechanism("SCRAM-SHA-256-PLUS")
	var before sasl.ChannelBinding
	for i, kind := range []string{"tls-unique", "tls-unique", "tls-exporter"} {
		c := s.dial(s.Direct)
		c.secure(cfg)
		if c.cs.DidResume != (i > 0) {
			t.Fatalf("connection %d has resumed: %v", i, c.cs.DidResume)
		}
		features := c.open()
		if !slices.Contains(offeredBindings(features), kind) {
			t.Fatalf("connection %d is offered %s", i, features)
		}
		b := c.bindings(t, s)
		if bytes.Equal(b.Unique, before.Unique) || bytes.Equal(b.Exporter, before.Exporter) {
			t.Error("two connections have one binding")
		}
		before = b
		if why := c.authenticate(&sasl.Client{Mechanism: mech, Username: "bob",
			Password: sasl.SecretString(password), ServerPlus: true,
			Binding: b, BindingType: kind}); why != "" {
			t.Errorf("connection %d with %s: %s", i, kind, why)
		}
		c.open()
		c.leave()
	}
}

// S08: the binding of another connection, a client that says it saw no -PLUS where it was offered, and
// tls-unique in TLS 1.3 fail.
func TestAttackS08(t *testing.T) {
	s := start(t, "", "bob@localhost")
	other, _ := s.connect(false, tls.VersionTLS13)
	c, _ := s.connect(false, tls.VersionTLS13)
	foreign := other.bindings(t, s)
	if bytes.Equal(foreign.Exporter, c.bindings(t, s).Exporter) {
		t.Fatal("two connections have one binding")
	}
	plus, _ := sasl.ParseMechanism("SCRAM-SHA-256-PLUS")
	bare, _ := sasl.ParseMechanism("SCRAM-SHA-256")
	secret := sasl.SecretString(password)
	for name, x := range map[string]*sasl.Client{
		"another connection's": {Mechanism: plus, Binding: foreign, BindingType: "tls-exporter"},
		"another certificate": {Mechanism: plus, Binding: sasl.ChannelBinding{EndPoint: make([]byte, 32),
			TLS13: true},
			BindingType: "tls-server-end-point"},
		"stripped": {Mechanism: bare, Binding: foreign},
		"tls-unique": {Mechanism: plus, Binding: sasl.ChannelBinding{Unique: make([]byte, 12)},
			BindingType: "tls-unique"},
	} {
		c, _ := s.connect(false, tls.VersionTLS13)
		x.Username, x.Password = "bob", secret
		if why := c.authenticate(x); why == "" {
			t.Errorf("%s: logged in", name)
		} else {
			t.Logf("%s: %s", name, why)
		}
	}
	// The end point is the hash of the very certificate in the file.
	text, err := os.ReadFile(s.Certificate())
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil || !bytes.Equal(cert.Raw, c.cs.PeerCertificates[0].Raw) {
		t.Fatal("the certificate is another", err)
	}
}

// RFC 5802 §6, RFC 9266 §3: a client whose library knows tls-unique alone can't bind in TLS 1.3, and is
// refused with each -PLUS form and with each flag 'y'. Such a try has tested no password: on its stream
// each mechanism may fail so once, without counting against the stream (RFC 6120 §6.4.4), its address or
// the account.
func TestBindingFailures(t *testing.T) {
	s := start(t, "[limits]\nexempt = []\nfailures_per_address = '2/h'\nfailures_per_account = '2/h'\n",
		"bob@localhost")
	unique := sasl.ChannelBinding{Unique: make([]byte, 12)}
	try := func(c *client, name string, b sasl.ChannelBinding, kind, pw string) string {
		t.Helper()
		mech, ok := sasl.ParseMechanism(name)
		if !ok {
			t.Fatal(name)
		}
		return c.authenticate(&sasl.Client{Mechanism: mech, Username: "bob", Password: sasl.SecretString(pw),
			Binding: b, BindingType: kind})
	}
	all := []string{"SCRAM-SHA-512-PLUS", "SCRAM-SHA-256-PLUS", "SCRAM-SHA-1-PLUS", "SCRAM-SHA-512",
		"SCRAM-SHA-256", "SCRAM-SHA-1"}
	for range 3 {
		c, _ := s.connect(true, tls.VersionTLS13)
		for _, m := range all {
			if why := try(c, m, unique, "tls-unique", password); why != "not-authorized" {
				t.Fatalf("%s: %q", m, why)
			}
		}
		if why := try(c, "PLAIN", unique, "", password); why != "" {
			t.Fatalf("PLAIN after binding failures: %s", why)
		}
		c.open()
		c.leave()
	}
	// A binding of the right type and with the wrong data is found out with the proof, whatever the password.
	other, _ := s.connect(true, tls.VersionTLS13)
	foreign := other.bindings(t, s)
	for _, pw := range []string{password, "wrong"} {
		c, _ := s.connect(true, tls.VersionTLS13)
		if why := try(c, "SCRAM-SHA-256-PLUS", foreign, "tls-exporter", pw); why != "not-authorized" {
			t.Fatalf("the binding of another connection: %q", why)
		}
	}
	failures := func() (n float64) {
		for k, v := range s.metrics("canto_") {
			if strings.Contains(k, "failures_per_") {
				n += v
			}
		}
		return n
	}
	if n := failures(); n != 0 {
		t.Errorf("%v binding failures were over a limit of failed logins", n)
	}
	// The second failure of a mechanism counts: the stream ends with the fifth that does.
	c, _ := s.connect(true, tls.VersionTLS13)
	for i := range 5 {
		if why := try(c, "SCRAM-SHA-1", unique, "", password); why != "not-authorized" {
			t.Fatalf("try %d: %q", i, why)
		}
	}
	c.say("<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='SCRAM-SHA-1'>" +
		base64.StdEncoding.EncodeToString([]byte("y,,n=bob,r=nonce")) + "</auth>")
	if got := c.rest(); !strings.Contains(got, "<not-authorized") ||
		!strings.Contains(got, "<policy-violation") {
		t.Errorf("after five counted failures: %s", got)
	}
	if failures() == 0 {
		t.Error("failures that count were not counted")
	}
}

// `[host] sasl` names -PLUS forms one by one: a list with one of them is complete
// (docs/configuration.md).
func TestPlusByName(t *testing.T) {
	for list, want := range map[string]string{
		"'SCRAM-SHA-256-PLUS', 'SCRAM-SHA-256'": "SCRAM-SHA-256-PLUS SCRAM-SHA-256",
		"'SCRAM-SHA-1', 'PLAIN'":                "SCRAM-SHA-1-PLUS SCRAM-SHA-1 PLAIN",
		"'PLAIN'":                               "PLAIN",
	} {
		s := start(t, "[host.localhost]\nsasl = ["+list+"]\n", "bob@localhost")
		c, features := s.connect(true, tls.VersionTLS13)
		var offered []string
		classic, _, _ := strings.Cut(features, "</mechanisms>") // SASL2 offers tokens besides
		for _, part := range strings.Split(classic, "<mechanism>")[1:] {
			m, _, _ := strings.Cut(part, "</mechanism>")
			offered = append(offered, m)
		}
		if got := strings.Join(offered, " "); got != want {
			t.Errorf("%s: offered %q, want %q", list, got, want)
			continue
		}
		if got := strings.Contains(features, "<sasl-channel-binding "); got != strings.Contains(want, "-PLUS") {
			t.Errorf("%s: channel bindings (XEP-0440) are offered: %v", list, got)
		}
		for m := sasl.Plain; m <= sasl.ScramSHA512Plus; m++ {
			in := slices.Contains(offered, m.String())
			x := &sasl.Client{Mechanism: m, Username: "bob", Password: sasl.SecretString(password),
				Binding: c.bindings(t, s), ServerPlus: true}
			why := c.authenticate(x)
			if in && why != "" || !in && why != "invalid-mechanism" {
				t.Errorf("%s: %v: %q", list, m, why)
			}
			c.leave()
			c, _ = s.connect(true, tls.VersionTLS13)
		}
		s.Stop(syscall.SIGTERM)
	}
}

// RFC 6120 §5.3.3 forbids white space after <starttls/> for the sake of byte precision, which dropping it
// keeps: a client that ends each line with a newline gets its handshake, whether the newline comes with
// <starttls/>, after it, or after <proceed/>.
func TestBlanksAfterStarttls(t *testing.T) {
	s := start(t, "", "bob@localhost")
	const starttls, proceed = "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>",
		"<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>"
	for _, version := range []uint16{tls.VersionTLS13, tls.VersionTLS12} {
		for _, blanks := range [][2]string{{"\n", ""}, {" \t\r\n", ""}, {"", "\n"}, {"", " \r\n\t"},
			{"\r\n", "\n"}} {
			c := s.dial(s.Plain)
			c.open()
			c.say(starttls + blanks[0])
			c.until(proceed)
			if blanks[1] != "" {
				c.say(blanks[1])
			}
			c.secure(s.tls(version))
			c.open()
			c.bind("bob", "r")
			c.leave()
		}
	}
	// Text is no white space, nor is a blank of Unicode, and what follows a blank is looked at, too (T09).
	for _, text := range []string{"x", "\n<", "\u00a0", "\n\x00", "\v", "\n<presence/>"} {
		c := s.dial(s.Plain)
		c.open()
		c.say(starttls + text)
		if got := c.rest(); !strings.Contains(got, "<policy-violation") || strings.Contains(got, "<proceed") {
			t.Errorf("%q: %s", text, got)
		}
	}
	// Blanks without end are no handshake.
	c := s.dial(s.Plain)
	c.open()
	c.say(starttls)
	c.until(proceed)
	c.say(strings.Repeat("\n", 4096))
	if got := c.rest(); strings.Contains(got, "<") {
		t.Errorf("answered by %q", got)
	}
}

// T09: what is sent in plain after <starttls/> never counts: it ends the stream, whether it comes
// with it or after <proceed/>.
func TestAttackT09Starttls(t *testing.T) {
	s := start(t, "", "bob@localhost")
	const starttls = "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>"
	for _, injected := range []string{
		header,
		"<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>AGJvYgB4</auth>",
		"<iq type='get' id='1'><ping xmlns='urn:xmpp:ping'/></iq>",
		starttls,
	} {
		c := s.dial(s.Plain)
		c.open()
		c.say(starttls + injected)
		if got := c.rest(); !strings.Contains(got, "<policy-violation") || strings.Contains(got, "<mechanism>") {
			t.Errorf("%q: %s", injected, got)
		}
		c = s.dial(s.Plain)
		c.open()
		c.say(starttls)
		c.until("<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>")
		c.say(injected)
		if got := c.rest(); strings.ContainsAny(got, "<") {
			t.Errorf("%q instead of a handshake is answered by %q", injected, got)
		}
	}
	// Nothing of the plain stream is left: features come again, and stanzas before them do not count.
	c := s.dial(s.Plain)
	if f := c.open(); strings.Contains(f, "<mechanisms") || !strings.Contains(f, "<required/>") {
		t.Errorf("offered in plain: %s", f)
	}
	c = s.dial(s.Plain)
	c.open()
	c.say("<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>AGJvYgB4</auth>")
	if got := c.rest(); !strings.Contains(got, "<policy-violation") &&
		!strings.Contains(got, "<not-authorized") && !strings.Contains(got, "<encryption-required") {
		t.Errorf("SASL in plain: %s", got)
	}
}
