package accounts

import (
	"context"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"canto/bench"
	"canto/bench/stub"
)

func target(addr, direct netip.AddrPort) bench.Target {
	return bench.Target{Addr: addr, Direct: direct, User: "new%d", Password: "secret", Insecure: true}
}

// Accounts are made by every way in, and can log in afterwards.
func TestRegister(t *testing.T) {
	for _, kind := range []string{"none", "starttls", "direct"} {
		t.Run(kind, func(t *testing.T) {
			s, err := stub.Start(stub.Config{RequireTLS: kind == "starttls"})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			last := 0
			c := Config{Target: target(s.Addr(), s.DirectAddr()), TLS: kind, N: 50, InFlight: 4,
				Progress: func(n int) {
					if n != last+1 {
						t.Errorf("progress from %d to %d", last, n)
					}
					last = n
				}}
			made, existed, err := Register(t.Context(), c)
			if made != 50 || existed != 0 || err != nil || last != 50 {
				t.Fatalf("%d made, %d existed, progress %d: %v", made, existed, last, err)
			}
			if st := s.Stats(); st.Registered != 50 || st.Accepted > 4 {
				t.Errorf("%d accounts on %d connections, of at most 4", st.Registered, st.Accepted)
			}
			sc := &bench.Scenario{Name: "x", Clients: bench.Clients{Count: 50, TLS: kind},
				Groups: []bench.Group{{Name: "all", Share: 1}}, Phases: []bench.Phase{{Kind: bench.Ramp}}}
			if _, err := bench.Run(t.Context(), sc, c.Target, bench.Options{}); err != nil {
				t.Errorf("logging in: %v", err)
			}
			c.N, last = 60, 0
			if made, existed, err = Register(t.Context(), c); made != 10 || existed != 50 || err != nil {
				t.Errorf("the second time %d were made, %d existed: %v", made, existed, err)
			}
		})
	}
}

// A domain is named in any spelling: TLS asks for its A-labels and the certificate is verified by them, and
// streams and addresses have what the server makes of it (RFC 7622 §3.2, RFC 6066 §3).
func TestDomainInAnySpelling(t *testing.T) {
	s, err := stub.Start(stub.Config{Domain: "b\u00fccher.example"})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	tc, err := tls.Dial("tcp", s.DirectAddr().String(), &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	defer tc.Close()
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE",
		Bytes: tc.ConnectionState().PeerCertificates[0].Raw})
	for _, domain := range []string{"b\u00fccher.example", "B\u00dcCHER.Example.", "xn--bcher-kva.example",
		"XN--BCHER-KVA.EXAMPLE"} {
		for _, kind := range []string{"starttls", "direct"} {
			to := target(s.Addr(), s.DirectAddr())
			to.Domain, to.Insecure, to.CA = domain, false, ca
			if _, _, err := Register(t.Context(), Config{Target: to, TLS: kind, N: 2}); err != nil {
				t.Errorf("%s, %s: %v", domain, kind, err)
			}
			sc := &bench.Scenario{Name: "x", Clients: bench.Clients{Count: 2, TLS: kind},
				Groups: []bench.Group{{Name: "all", Share: 1}}, Phases: []bench.Phase{{Kind: bench.Ramp}}}
			if _, err := bench.Run(t.Context(), sc, to, bench.Options{}); err != nil {
				t.Errorf("%s, %s: %v", domain, kind, err)
			}
		}
	}
	to := target(s.Addr(), s.DirectAddr())
	to.Domain = "no domain"
	if _, _, err := Register(t.Context(), Config{Target: to, N: 1}); err == nil ||
		!strings.Contains(err.Error(), `"no domain" is not a domain: write it like`) {
		t.Error(err)
	}
}

// What the stub calls its own exists.
func TestExisting(t *testing.T) {
	s, err := stub.Start(stub.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	made, existed, err := Register(t.Context(), Config{Target: bench.Target{Addr: s.Addr(),
		Password: "bench"}, N: 20})
	if made != 0 || existed != 20 || err != nil {
		t.Errorf("%d made, %d existed: %v", made, existed, err)
	}
}

const fields = "<query " +
	"xmlns='jabber:iq:register'><instructions>x</instructions><username/><password/></query>"

// A server says what a test wants.
type server struct {
	form string // answers a get; an <error> makes it an error
	// answers the nth set of a connection: "" success, "close", or an <error>
	set      func(conn, nth int, query string) string
	features string

	addr netip.AddrPort
	mu   sync.Mutex
	sets []string
}

var (
	iqEnd = regexp.MustCompile(`(?s)^.*?<iq type='(get|set)' id='([^']*)'[^>]*>(.*?)</iq>`)
	hello = regexp.MustCompile(`(?s)^.*?<stream:stream[^>]*>`)
)

func (s *server) start(t *testing.T) Config {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.addr = ln.Addr().(*net.TCPAddr).AddrPort()
	var wg sync.WaitGroup
	t.Cleanup(func() {
		ln.Close()
		wg.Wait()
	})
	wg.Add(1)
	go func() {
		defer wg.Done()
		for n := 1; ; n++ {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Add(1)
			go func() {
				defer wg.Done()
				defer c.Close()
				s.serve(c, n)
			}()
		}
	}()
	return Config{Target: target(s.addr, s.addr), N: 3, InFlight: 1}
}

func (s *server) serve(c net.Conn, conn int) {
	var text string
	buf := make([]byte, 4096)
	sets := 0
	for {
		n, err := c.Read(buf)
		if err != nil {
			return
		}
		text += string(buf[:n])
		if m := hello.FindString(text); m != "" {
			text = text[len(m):]
			io.WriteString(c, "<stream:stream xmlns='jabber:client' "+
				"xmlns:stream='http://etherx.jabber.org/streams' version='1.0' id='1'><stream:features>"+s.features+
				"</stream:features>")
		}
		for m := iqEnd.FindStringSubmatch(text); m != nil; m = iqEnd.FindStringSubmatch(text) {
			text = text[len(m[0]):]
			answer := s.form
			if strings.HasPrefix(answer, "<stream:error") { // as ejabberd and Canto say it
				io.WriteString(c, answer+"</stream:stream>")
				return
			}
			if m[1] == "set" {
				sets++
				s.mu.Lock()
				s.sets = append(s.sets, m[3])
				answer = s.set(conn, sets, m[3])
				s.mu.Unlock()
			}
			kind := "result"
			switch {
			case answer == "close":
				return
			case strings.HasPrefix(answer, "<error"):
				kind = "error"
			}
			fmt.Fprintf(c, "<iq type='%s' id='%s'>%s</iq>", kind, m[2], answer)
		}
	}
}

func errorElement(kind, condition string) string {
	return "<error type='" + kind + "'><" + condition +
		" xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/><text " +
		"xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'>because</text></error>"
}

func yes(int, int, string) string { return "" }

// Forms are filled in, as elements or as data forms, which take precedence.
func TestForms(t *testing.T) {
	for name, c := range map[string]struct{ form, want string }{
		"fields": {fields, "<query " +
			"xmlns='jabber:iq:register'><username>new0</username><password>secret</password></query>"},
		"more": {"<query " +
			"xmlns='jabber:iq:register'><key>k&amp;k</key><email/><username/><password/></query>",
			"<query " +
				"xmlns='jabber:iq:register'><key>k&amp;k</key><email>new0@localhost</email><username>new0</" +
				"username><password>secret</password></query>"},
		"data form": {"<query xmlns='jabber:iq:register'><username/><password/><x xmlns='jabber:x:data' " +
			"type='form'><title>T</title><field type='fixed'><value>Hello</value></field><field type='hidden' " +
			"var='FORM_TYPE'><value>jabber:iq:register</value></field><field type='text-single' " +
			"var='username'><required/></field><field type='text-private' " +
			"var='password'><required/></field><field type='text-single' var='shoe'/><field type='boolean' " +
			"var='news'><value>0</value><required/></field></x></query>",
			"<query xmlns='jabber:iq:register'><x xmlns='jabber:x:data' type='submit'><field var='FORM_TYPE' " +
				"type='hidden'><value>jabber:iq:register</value></field><field " +
				"var='username'><value>new0</value></field><field " +
				"var='password'><value>secret</value></field><field var='news'><value>0</value></field></x></query>"},
	} {
		t.Run(name, func(t *testing.T) {
			s := &server{form: c.form, set: yes}
			made, _, err := Register(t.Context(), s.start(t))
			if made != 3 || err != nil || s.sets[0] != c.want {
				t.Errorf("%d made, %v; it said\n%s\nand should have said\n%s", made, err, s.sets, c.want)
			}
		})
	}
}

// What can't work says so in one line, with a remedy, and at once.
func TestRefusals(t *testing.T) {
	form := func(inside string) string {
		return "<query xmlns='jabber:iq:register'><username/><password/><x xmlns='jabber:x:data' " +
			"type='form'><field var='username'/><field var='password'/>" + inside + "</x></query>"
	}
	for name, c := range map[string]struct {
		s    *server
		want string
	}{
		"captcha": {&server{form: form("<field var='FORM_TYPE' " +
			"type='hidden'><value>urn:xmpp:captcha</value></field>")}, "captcha"},
		"picture": {&server{form: form("<field var='x' type='text-single'><media " +
			"xmlns='urn:xmpp:media-element'/><required/></field>")}, "captcha"},
		"unknown": {&server{form: form("<field var='invitation' type='text-single'><required/></field>")},
			`"invitation"`},
		"elsewhere": {&server{form: "<query xmlns='jabber:iq:register'><instructions>Go to the " +
			"web</instructions><x xmlns='jabber:x:oob'><url>http://localhost/</url></x></query>"}, "elsewhere"},
		"off": {&server{form: errorElement("cancel", "service-unavailable")},
			"does not register accounts here: service-unavailable"},
		"strangers": {&server{form: "<stream:error><not-authorized " +
			"xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error>"},
			"does not register accounts here: the server ended the stream with not-authorized"},
		"not allowed": {&server{form: fields, set: func(int, int,
			string) string {
			return errorElement("cancel", "not-allowed")
		}}, "not-allowed"},
		"not accepted": {&server{form: fields, set: func(int, int,
			string) string {
			return errorElement("modify", "not-acceptable")
		}}, "--password"},
	} {
		t.Run(name, func(t *testing.T) {
			began := time.Now()
			made, existed, err := Register(t.Context(), c.s.start(t))
			var r bench.Failure
			if made+existed != 0 || !errors.As(err, &r) || !strings.Contains(err.Error(), c.want) ||
				r.Remedy == "" || strings.Contains(err.Error(), "\n") {
				t.Errorf("%d made, %d existed, %v", made, existed, err)
			}
			if time.Since(began) > 10*time.Second {
				t.Error("it went on trying")
			}
		})
	}
}

// A server that gives an account to a connection and no more gets a connection for each.
func TestOneEach(t *testing.T) {
	for name, second := range map[string]string{"not acceptable": errorElement("modify", "not-acceptable"),
		"closed": "close", "limit": errorElement("wait", "resource-constraint")} {
		t.Run(name, func(t *testing.T) {
			conns := 0
			s := &server{form: fields, set: func(conn, nth int, _ string) string {
				conns = conn // connections come one after another
				if nth > 1 {
					return second
				}
				return ""
			}}
			c := s.start(t)
			c.N = 6
			made, existed, err := Register(t.Context(), c)
			if made != 6 || existed != 0 || err != nil {
				t.Errorf("%d made, %d existed, %v", made, existed, err)
			}
			// One account was asked for twice: on the first connection, in vain, and on the second.
			if conns != 6 || len(s.sets) != 7 {
				t.Errorf("%d connections, %d requests", conns, len(s.sets))
			}
		})
	}
}

// What may work later is tried later, but not for ever.
func TestLimits(t *testing.T) {
	times := 0
	s := &server{form: fields, set: func(int, int, string) string {
		if times++; times <= 3 {
			return errorElement("wait", "policy-violation")
		}
		return ""
	}}
	if made, _, err := Register(t.Context(), s.start(t)); made != 3 || err != nil {
		t.Errorf("%d made, %v", made, err)
	}
	s = &server{form: fields, set: func(int, int,
		string) string {
		return errorElement("wait", "resource-constraint")
	}}
	c := s.start(t)
	c.GiveUpAfter = 200 * time.Millisecond
	made, _, err := Register(t.Context(), c)
	if made != 0 || err == nil || !strings.Contains(err.Error(),
		`limits registrations: resource-constraint ("because"), for 200ms now: raise its limits`) {
		t.Errorf("%d made, %v", made, err)
	}
}

func TestCancelled(t *testing.T) {
	asked := make(chan bool, 10)
	s := &server{form: fields, set: func(int, int, string) string {
		asked <- true
		return errorElement("wait", "resource-constraint")
	}}
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-asked
		cancel()
	}()
	if _, _, err := Register(ctx, s.start(t)); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

func TestServerUnreachable(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().(*net.TCPAddr).AddrPort()
	ln.Close()
	if _, _, err := Register(t.Context(), Config{Target: target(addr, addr), N: 1}); err == nil ||
		!strings.Contains(err.Error(), "connection refused: is the server running") {
		t.Errorf("%v", err)
	}
	if _, _, err := Register(t.Context(), Config{Target: bench.Target{User: "x"}, N: 1}); err == nil ||
		!strings.Contains(err.Error(), "%d") {
		t.Errorf("%v", err)
	}
}

// No password is sent in clear if TLS was asked for (attack T11).
func TestAttackT11(t *testing.T) {
	s := &server{form: fields, set: yes}
	c := s.start(t)
	c.TLS = "starttls"
	if made, _, err := Register(t.Context(), c); made != 0 || err == nil ||
		!strings.Contains(err.Error(), "does not offer STARTTLS") || len(s.sets) > 0 {
		t.Errorf("%d made, %v, it said %q", made, err, s.sets)
	}
}

// A certificate that is not the server's is refused.
func TestCertificate(t *testing.T) {
	s, err := stub.Start(stub.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	c := Config{Target: target(s.Addr(), s.DirectAddr()), TLS: "direct", N: 1}
	c.Target.Insecure = false
	if made, _, err := Register(t.Context(), c); made != 0 || err == nil ||
		!strings.Contains(err.Error(), "--insecure") {
		t.Errorf("%d made, %v", made, err)
	}
}
