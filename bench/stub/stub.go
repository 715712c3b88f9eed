// Package stub is an XMPP server with faults that can be chosen and that it counts. A test compares
// what the load generator reports with what the stub did. It is for a few thousand connections,
// with two goroutines for each and one lock for all routing.
//
//	s, err := stub.Start(stub.Config{})
//	defer s.Close()
//	s.Faults.Drop(100)
//	// … run the load generator against s.Addr() …
//	lost := s.Stats().Dropped
//
// It supports logins (STARTTLS, direct TLS, SASL, SASL2 with Bind 2 and FAST, registration), stream
// management with resumption, client states, messages to full and bare addresses, presence, rosters, chat
// rooms at conference.<domain>, carbons, messages for accounts that are away, pushes, archive queries,
// pings, disco and software versions. It checks little: a client that violates the protocol may not
// notice.
package stub

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"canto/session/jid"
	"canto/session/sasl"
)

// A Config says what a Server is. The zero Config is one for "localhost" on a free port of 127.0.0.1.
type Config struct {
	Addr   netip.AddrPort // of the listener that begins without TLS; 127.0.0.1, a free port
	Direct netip.AddrPort // of the one with direct TLS; 127.0.0.1, a free port
	Domain string         // localhost; rooms are at conference.<Domain>

	// Accounts exist for each name of Prefix and digits ("bench0"), all with the password Password. Others
	// come into being by registration (XEP-0077).
	Prefix   string // bench
	Password string // bench
	Users    int    // how many of those accounts there are, numbered from 0; 0: of any number

	Mechanisms []string // SCRAM-SHA-256, SCRAM-SHA-1, PLAIN; PLAIN is offered without TLS too
	Binding    bool     // offer the -PLUS forms under TLS, with tls-exporter
	RequireTLS bool     // offer nothing but STARTTLS before it
	SASL2      bool     // offer XEP-0388 with Bind 2 (XEP-0386), besides SASL and bind
	FAST       bool     // with SASL2: offer tokens (XEP-0484)
	NoInlineSM bool     // with Mobile and SASL2: sessions are resumed after the login, not within it
	Mobile     bool     // offer stream management with resumption (XEP-0198), and client states (XEP-0352)

	// BroadcastToAll sends presence to all clients instead of subscribers: see [Server.Befriend].
	BroadcastToAll bool
	Archive        int           // rows that each archive has; 0: 100
	Archiving      bool          // keep messages of type chat for both sides, in place of made-up rows
	Offline        bool          // keep messages for accounts without a session, and push (XEP-0160, XEP-0357)
	ReorderTimeout time.Duration // how long a message that [Faults.Reorder] holds waits for its next one; 1 s
}

// A Server listens from Start to Close. Its methods may be called from any goroutine.
type Server struct {
	// Faults are none at first.
	Faults *Faults

	cfg           Config
	offer         sasl.MechanismSet
	salt          []byte
	fake          sasl.Secret
	tls           *tls.Config
	pool          *x509.CertPool
	plain, direct net.Listener
	gate          stallGate
	closing       chan struct{}
	wg            sync.WaitGroup

	mu        sync.Mutex // guards the fields below, and the clients' fields that say so
	keys      map[string]sasl.Keys
	conns     []*client
	users     map[string]map[string]*client // by bare address and resource
	managed   map[string]*smSession         // sessions that can be resumed, by id
	accounts  map[string]string             // registered: name and password
	tokens    map[string]string             // FAST, by user and user agent
	roster    map[string]map[string]*contact
	rooms     map[string]*room
	reordered map[pair]*reordered
	kept      map[string][][]byte // messages for accounts without a session, by bare address
	pushID    int                 // of the last push
	// where accounts want their pushes, by bare address
	registrations map[string][]registration
	archives      map[string][]archived // by bare address
	rowID         int                   // of the last row
	faults        faults
	stats         Stats
}

// Stats are counters since Start. Connections and Sessions are current numbers.
type Stats struct {
	Connections uint64 // open
	Accepted    uint64 // ever
	Sessions    uint64 // bound
	Logins      uint64 // sessions that were ever bound
	Refused     uint64 // logins that failed
	Registered  uint64 // accounts
	// Routed is messages times receivers, those that a fault dropped included; messages that a fault
	// bounced are not.
	Routed     uint64
	Dropped    uint64 // of Routed: that were never delivered
	Duplicated uint64 // of Routed: that were delivered twice
	Reordered  uint64 // of Routed: delivered after the next one of the same sender to the same receiver
	Bounced    uint64 // messages that a fault answered by an error
	Returned   uint64 // messages without a receiver, or that a room refused
	FailedIQs  uint64 // requests that a fault answered by an error
	Presences  uint64 // presences times receivers
	IQs        uint64 // requests, answered or passed on
	Severed    uint64 // connections that a fault closed

	Carbons           uint64 // copies that sessions should have got
	DroppedCarbons    uint64 // of Carbons: that were never sent
	DuplicatedCarbons uint64 // of Carbons: that were sent twice
	ForgedCarbons     uint64 // of Carbons: that were from another account
	EchoedCarbons     uint64 // copies to the session that had sent the message: not in Carbons

	Resumed           uint64 // sessions
	RefusedResumes    uint64 // requests to resume a session that were answered by <failed/>
	Replayed          uint64 // stanzas that a resumed session had not acknowledged
	DroppedReplays    uint64 // of Replayed: that were not sent again
	DuplicatedReplays uint64 // of Replayed: that were sent twice
	ReplayedHandled   uint64 // messages that were sent again, and that the client had said to have handled
	Acknowledged      uint64 // requests of clients for an ack
	HeldPresences     uint64 // presences that waited for an inactive client

	Pages      uint64 // of archives
	WrongPages uint64 // of Pages: in which a fault left out, doubled or exchanged rows, or between which it did

	Kept              uint64 // messages that were kept for accounts without a session
	DroppedKept       uint64 // of Kept: that a fault lost
	DuplicatedKept    uint64 // of Kept: that are delivered twice
	Pushes            uint64 // to registrations, one of each kept message
	DroppedPushes     uint64 // of Pushes: that were never sent
	DuplicatedPushes  uint64 // of Pushes: that were sent twice
	MisdirectedPushes uint64 // of Pushes: that name another node than was registered
	AnsweredPushes    uint64 // results from app servers
}

// Start starts a server: it fills in the defaults of cfg, checks mechanisms and domain, makes a
// certificate, opens the listeners for STARTTLS and for direct TLS, and starts a goroutine that
// accepts on each. The server runs until its Close. An error is about an unknown mechanism, a bad
// domain, the certificate or an address that can't be listened on; no goroutine runs and no
// listener is open then.
func Start(cfg Config) (*Server, error) {
	free := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), 0)
	if !cfg.Addr.IsValid() {
		cfg.Addr = free
	}
	if !cfg.Direct.IsValid() {
		cfg.Direct = free
	}
	setDefault(&cfg.Domain, "localhost")
	setDefault(&cfg.Prefix, "bench")
	setDefault(&cfg.Password, "bench")
	setDefault(&cfg.Archive, 100)
	setDefault(&cfg.ReorderTimeout, time.Second)
	if len(cfg.Mechanisms) == 0 {
		cfg.Mechanisms = []string{"SCRAM-SHA-256", "SCRAM-SHA-1", "PLAIN"}
	}
	s := &Server{cfg: cfg, closing: make(chan struct{}), salt: random(sasl.SaltLen),
		fake: sasl.NewSecret(random(32)),
		keys: map[string]sasl.Keys{}, users: map[string]map[string]*client{}, accounts: map[string]string{},
		tokens: map[string]string{}, roster: map[string]map[string]*contact{}, rooms: map[string]*room{},
		reordered: map[pair]*reordered{}, kept: map[string][][]byte{},
		managed: map[string]*smSession{}, registrations: map[string][]registration{},
		archives: map[string][]archived{}}
	s.Faults = &Faults{s}
	s.gate.closing = s.closing
	var err error
	if s.offer, err = sasl.NewMechanismSet(cfg.Mechanisms...); err != nil {
		return nil, fmt.Errorf("stub: %w: name some of SCRAM-SHA-1, SCRAM-SHA-256, PLAIN", err)
	}
	if s.cfg.Domain, err = jid.PrepareDomain(cfg.Domain); err != nil {
		return nil, fmt.Errorf("stub: %q is not a domain: name it like localhost", cfg.Domain)
	}
	if s.tls, s.pool, err = certificate(s.cfg.Domain); err != nil {
		return nil, fmt.Errorf("stub: no certificate could be made: %w", err)
	}
	if s.plain, err = net.Listen("tcp", cfg.Addr.String()); err != nil {
		return nil, fmt.Errorf("stub: %w: name an address that is free", err)
	}
	if s.direct, err = net.Listen("tcp", cfg.Direct.String()); err != nil {
		s.plain.Close()
		return nil, fmt.Errorf("stub: %w: name an address that is free", err)
	}
	s.wg.Add(2)
	go s.accept(s.plain, false)
	go s.accept(s.direct, true)
	return s, nil
}

func setDefault[T comparable](p *T, v T) {
	var zero T
	if *p == zero {
		*p = v
	}
}

func random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b) // never fails
	return b
}

// certificate is a self-signed one for the domain, good for a day.
func certificate(domain string) (*tls.Config, *x509.CertPool, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	name, err := jid.NetworkName(domain)
	if err != nil {
		return nil, nil, err
	}
	now := time.Now()
	t := &x509.Certificate{SerialNumber: big.NewInt(now.UnixNano()), Subject: pkix.Name{CommonName: name},
		DNSNames:    []string{name},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, NotBefore: now.Add(-time.Hour),
		NotAfter: now.Add(24 * time.Hour), IsCA: true,
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return nil, nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, nil, err
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key,
		Leaf: leaf}}}, pool, nil
}

// Addr is the address for connections without TLS and with STARTTLS.
func (s *Server) Addr() netip.AddrPort { return s.plain.Addr().(*net.TCPAddr).AddrPort() }

// DirectAddr is the address for direct TLS.
func (s *Server) DirectAddr() netip.AddrPort { return s.direct.Addr().(*net.TCPAddr).AddrPort() }

// Pool verifies the stub's certificate, for the network name of Config.Domain.
func (s *Server) Pool() *x509.CertPool { return s.pool.Clone() }

// Close closes all connections, and returns when all goroutines have ended.
func (s *Server) Close() {
	s.mu.Lock()
	select {
	case <-s.closing:
	default:
		close(s.closing)
	}
	conns := slices.Clone(s.conns)
	for _, h := range s.reordered {
		h.timer.Stop()
	}
	s.mu.Unlock()
	s.plain.Close()
	s.direct.Close()
	for _, c := range conns {
		c.raw.Close()
	}
	s.wg.Wait()
}

// Stats returns the counters.
func (s *Server) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.stats
	st.Connections = uint64(len(s.conns))
	for _, u := range s.users {
		st.Sessions += uint64(len(u))
	}
	return st
}

// Befriend subscribes two accounts, by their names ("bench0"), to each other's presence.
func (s *Server) Befriend(a, b string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	x, errA := jid.New(a, s.cfg.Domain, "")
	y, errB := jid.New(b, s.cfg.Domain, "")
	if errA == nil && errB == nil {
		s.contact(x.String(), y.String()).sub = both
		s.contact(y.String(), x.String()).sub = both
	}
}

// accept accepts connections until the server is closed.
func (s *Server) accept(l net.Listener, direct bool) {
	defer s.wg.Done()
	for {
		raw, err := l.Accept()
		if err != nil {
			select {
			case <-s.closing:
				return
			case <-time.After(10 * time.Millisecond): // out of descriptors, most likely
				continue
			}
		}
		s.gate.wait()
		c := &client{s: s, raw: raw, nc: stallConn{raw, &s.gate}, wake: make(chan struct{}, 1),
			done: make(chan struct{})}
		s.mu.Lock()
		select {
		case <-s.closing:
			s.mu.Unlock()
			raw.Close()
			return
		default:
		}
		s.conns = append(s.conns, c)
		s.stats.Accepted++
		s.wg.Add(1)
		s.mu.Unlock()
		go c.serve(direct)
	}
}
