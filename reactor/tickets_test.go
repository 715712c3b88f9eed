package reactor_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"sync/atomic"
	"testing"
	"time"

	"canto/reactor"
)

// named is a certificate of a host, good until then.
func named(t testing.TB, name string, until time.Time) *tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name},
		DNSNames: []string{name}, NotAfter: until}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

// A wallet is a client's cache of one ticket, which it offers to any server.
type wallet struct{ s *tls.ClientSessionState }

func (w *wallet) Get(string) (*tls.ClientSessionState, bool) { return w.s, w.s != nil }
func (w *wallet) Put(_ string, s *tls.ClientSessionState) {
	if s != nil {
		w.s = s
	}
}

// tickets are clients of one address, with a clock.
type tickets struct {
	t       *testing.T
	h       *ends
	version uint16
	now     atomic.Pointer[time.Time]
}

func newTickets(t *testing.T, version uint16) *tickets {
	k := &tickets{t: t, h: newEnds(), version: version}
	now := time.Now()
	k.now.Store(&now)
	return k
}

func (k *tickets) time() time.Time { return *k.now.Load() }

func (k *tickets) pass(d time.Duration) {
	now := k.time().Add(d)
	k.now.Store(&now)
}

// connect talks to addr as to the host called name, offering what is in w. The server's side stays until
// the client has closed.
func (k *tickets) connect(addr, name string, w *wallet, own *tls.Certificate) (resumed bool,
	server *reactor.Conn, end func(), err error) {
	k.t.Helper()
	cc := clientTLS()
	cc.ServerName, cc.ClientSessionCache, cc.MaxVersion, cc.Time = name, w, k.version, k.time
	if own != nil {
		cc.Certificates = []tls.Certificate{*own}
	}
	c := tls.Client(dial(k.t, addr), cc)
	_, err = c.Write([]byte("text"))
	if err == nil {
		_, err = c.Read(make([]byte, 100)) // which takes the ticket of TLS 1.3, too
	}
	if err != nil {
		k.h.reason(k.t)
		return false, nil, nil, err
	}
	end = func() {
		c.Close()
		if err := k.h.reason(k.t); err != nil {
			k.t.Errorf("it ended with %v", err)
		}
	}
	return c.ConnectionState().DidResume, k.h.last.Load(), end, nil
}

// once is connect and end, and what the server knew.
func (k *tickets) once(addr, name string, w *wallet) (resumed bool, shown *tls.Certificate,
	st tls.ConnectionState) {
	k.t.Helper()
	resumed, c, end, err := k.connect(addr, name, w, nil)
	if err != nil {
		k.t.Fatal(err)
	}
	on(c, func() { shown, st = c.PresentedCertificate(), *c.TLS() })
	end()
	return resumed, shown, st
}

// both runs f for the versions, with our record layer and without.
func both(t *testing.T, f func(t *testing.T, version uint16, std bool)) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		for _, std := range []bool{false, true} {
			t.Run(fmt.Sprint(tls.VersionName(version), ", std ", std), func(t *testing.T) { f(t, version, std) })
		}
	}
}

// A ticket gives a shorter handshake and nothing else. A client that resumes with another host's
// ticket gets the host that it asks for; no certificate counts as presented; and the ticket of
// another configuration (another port, STARTTLS for another host) is not accepted (attack T08).
func TestAttackT08OtherHost(t *testing.T) {
	both(t, func(t *testing.T, version uint16, std bool) {
		k := newTickets(t, version)
		var certs atomic.Pointer[map[string]*tls.Certificate]
		until := time.Now().AddDate(1, 0, 0)
		first := map[string]*tls.Certificate{"a.example": named(t, "a.example", until),
			"b.example": named(t, "b.example", until)}
		certs.Store(&first)
		conf := func() *tls.Config {
			return &tls.Config{NextProtos: []string{"xmpp-client"},
				GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
					c := (*certs.Load())[hello.ServerName]
					hello.Conn.(interface{ Present(*tls.Certificate) }).Present(c)
					return c, nil
				}}
		}
		r, addr := serve(t, reactor.Config{StdTLS: std, Loops: 1, Listeners: []reactor.Listener{
			{Addr: "127.0.0.1:0", Handler: k.h, DirectTLS: conf()},
			{Addr: "127.0.0.1:0", Handler: k.h, DirectTLS: conf()}}})
		other := r.Addrs()[1]
		if other == addr {
			other = r.Addrs()[0]
		}
		w := new(wallet)
		if resumed, shown, _ := k.once(addr, "a.example", w); resumed || shown != first["a.example"] {
			t.Fatalf("the first: resumed %v, shown %p", resumed, shown)
		}
		if resumed, shown, st := k.once(addr, "a.example", w); !resumed || shown != nil ||
			st.ServerName != "a.example" {
			t.Errorf("the same host: resumed %v, shown %p, for %q", resumed, shown, st.ServerName)
		}
		of := w.s
		if resumed, shown, st := k.once(addr, "b.example", w); shown != nil && shown != first["b.example"] ||
			resumed == (shown != nil) || st.ServerName != "b.example" || len(st.PeerCertificates) != 0 {
			t.Errorf("another host: resumed %v, shown %p, for %q", resumed, shown, st.ServerName)
		}
		if resumed, shown, _ := k.once(other, "a.example", &wallet{of}); resumed || shown != first["a.example"] {
			t.Errorf("another port: resumed %v, shown %p", resumed, shown)
		}

		// After a renewal, a client that resumes still knows the old certificate: it was not shown the new one.
		second := map[string]*tls.Certificate{"a.example": named(t, "a.example", until)}
		certs.Store(&second)
		if resumed, shown, _ := k.once(addr, "a.example", &wallet{of}); !resumed || shown != nil {
			t.Errorf("after a renewal: resumed %v, shown %p", resumed, shown)
		}
		if resumed, shown, _ := k.once(addr, "a.example", new(wallet)); resumed || shown != second["a.example"] {
			t.Errorf("without a ticket: resumed %v, shown %p", resumed, shown)
		}
	})
}

// The client certificate in a ticket counts only while it would count by itself: if its authority
// is still trusted, also where the configuration is a clone with the same keys (CVE-2025-68121),
// and until it expires (attack T08).
func TestAttackT08ClientCertificate(t *testing.T) {
	both(t, func(t *testing.T, version uint16, std bool) {
		k := newTickets(t, version)
		own := named(t, "romeo", time.Now().Add(48*time.Hour))
		trusts := func(c *tls.Certificate) *x509.CertPool {
			p := x509.NewCertPool()
			p.AddCert(c.Leaf)
			return p
		}
		var cas atomic.Pointer[x509.CertPool]
		cas.Store(trusts(own))
		base := &tls.Config{Certificates: []tls.Certificate{*named(t, "a.example", time.Now().AddDate(1, 0, 0))},
			NextProtos: []string{"xmpp-client"},
			Time:       k.time, ClientAuth: tls.RequireAndVerifyClientCert}
		base.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
			c := base.Clone()
			c.ClientCAs = cas.Load()
			return c, nil
		}
		_, addr := serve(t, reactor.Config{StdTLS: std, Loops: 1,
			Listeners: []reactor.Listener{{Addr: "127.0.0.1:0", Handler: k.h, DirectTLS: base}}})
		w := new(wallet)
		for round := range 2 {
			resumed, c, end, err := k.connect(addr, "a.example", w, own)
			if err != nil {
				t.Fatal(err)
			}
			on(c, func() {
				if p := c.TLS().PeerCertificates; resumed != (round > 0) || len(p) != 1 ||
					p[0].Subject.CommonName != "romeo" {
					t.Errorf("round %d: resumed %v, %d certificates", round, resumed, len(p))
				}
			})
			end()
		}
		cas.Store(trusts(named(t, "another", time.Now().Add(48*time.Hour))))
		if _, _, _, err := k.connect(addr, "a.example", &wallet{w.s}, own); err == nil {
			t.Error("a ticket of an authority that is not trusted any more was taken")
		}
		cas.Store(trusts(own))
		resumed, _, end, err := k.connect(addr, "a.example", &wallet{w.s}, own)
		if err != nil || !resumed {
			t.Fatalf("trusted again: resumed %v, %v", resumed, err)
		}
		end()
		k.pass(49 * time.Hour)
		if _, _, _, err := k.connect(addr, "a.example", &wallet{w.s}, own); err == nil {
			t.Error("a ticket with a certificate that has expired was taken")
		}
	})
}

// The keys of tickets change each day, though each handshake has a configuration of its own; old
// ones are accepted for a week, and after it there is a full handshake (attack T08).
func TestAttackT08Rotation(t *testing.T) {
	both(t, func(t *testing.T, version uint16, std bool) {
		k := newTickets(t, version)
		conf := &tls.Config{Certificates: []tls.Certificate{*named(t, "a.example", time.Now().AddDate(1, 0, 0))},
			NextProtos: []string{"xmpp-client"}, Time: k.time}
		r, addr := serve(t, reactor.Config{StdTLS: std, Loops: 1,
			Listeners: []reactor.Listener{{Addr: "127.0.0.1:0", Handler: k.h, DirectTLS: conf}}})
		opens := func(c *tls.Config, s *tls.ClientSessionState) bool {
			ticket, _, err := s.ResumptionState()
			if err != nil {
				t.Fatal(err)
			}
			st, err := c.DecryptTicket(ticket, tls.ConnectionState{})
			return st != nil && err == nil
		}
		w := new(wallet)
		k.once(addr, "a.example", w)
		keys := conf
		if !std {
			keys = r.Detaching(conf)
		}
		first, start := w.s, k.time()
		frozen := keys.Clone() // the keys of the first day, as its clock stands still
		frozen.Time = func() time.Time { return start }
		if !opens(frozen, first) {
			t.Fatal("the keys of the first day don't open its ticket")
		}
		for day := range 7 {
			today := new(wallet)
			if resumed, _, _ := k.once(addr, "a.example", today); resumed || opens(frozen, today.s) != (day == 0) {
				t.Errorf("day %d: its ticket opens with the first day's keys: %v", day, opens(frozen, today.s))
			}
			if resumed, _, _ := k.once(addr, "a.example", &wallet{first}); !resumed {
				t.Errorf("day %d: the first ticket is not taken", day)
			}
			if k.pass(23 * time.Hour); day == 0 {
				k.pass(2 * time.Hour)
			}
		}
		k.pass(24 * time.Hour)
		if resumed, _, _ := k.once(addr, "a.example", &wallet{first}); resumed {
			t.Error("a ticket is taken after more than a week")
		}
		for range 3 { // until the key of the first day is thrown away
			k.pass(25 * time.Hour)
			k.once(addr, "a.example", new(wallet))
		}
		if opens(keys, first) {
			t.Error("the first day's key is still kept")
		}
	})
}
