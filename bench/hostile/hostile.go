// Package hostile makes attacking connections: attacks that servers have seen in the past, at a
// volume that can be chosen, so that a scenario can show what they cost other clients.
//
// Each kind of attack is a number of connections, as varied as [About] says. When the server ends a
// connection, which it may do, the attacker opens the next. All that an attack does is counted, and
// bounded by its connections and its rate. It connects to the addresses of its Config only.
//
//	a, err := hostile.Start(ctx, "halfopen", hostile.Config{Addr: addr, Domain: "localhost", Connections: 500})
//	// … measure other clients …
//	stats := a.Stop()
//
// Each connection is an attacker with a goroutine (hostile.go). It uses a transport, which counts
// and can hijack TLS (transport.go, records.go), and mostly a session on it, which speaks XMPP
// (session.go). The other files have one kind of attack each.
package hostile

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"canto/session/sasl"
)

// A Config says which server to attack, and how much.
type Config struct {
	// Addr takes connections without TLS and with STARTTLS, Direct those with direct TLS. Either may
	// be zero.
	Addr, Direct netip.AddrPort
	Domain       string // Domain of the server.
	Connections  int    // Connections at a time.
	First        int    // First is the number of the first of these connections in the whole run.
	// Accounts is how many accounts attackers have: User knows the numbers from 0 to Accounts-1. 0:
	// First + Connections.
	Accounts int
	// User is the localpart of the account of the i-th connection in the whole run. Any goroutine may
	// call it. It must not name other accounts: an attack harms its own. The attack keyupdate works
	// without accounts.
	User     func(i int) string
	Password string // Password of all accounts.
	// TLS is how connections that log in connect: "none", "starttls", "direct"; "": none if Addr is
	// known. Where the server offers no login without TLS, STARTTLS is used nevertheless.
	TLS  string
	Rate float64 // Rate bounds the attempts that all connections make a second; 0: that of the kind.
	// Source is the address that the i-th connection comes from; nil, or a zero address: the system's
	// choice.
	Source func(i int) netip.AddrPort
}

// Stats are what an attack did.
type Stats struct {
	Attempts uint64 // Attempts are connections, and actions on them that cost the server.
	Refused  uint64 // Refused are attempts that the server has refused or ended.
	Bytes    uint64 // Bytes written, with TLS.
	Sessions uint64 // Sessions that were logged in.
	// Failed is how often the attack itself had a failure: no descriptor or port was left, an account
	// could not log in. Its effect is smaller then.
	Failed uint64
	Err    error // Err is the first such failure.
}

// A kind is a kind of attack.
type kind struct {
	name, about string  // of the command line, and what it does
	rows        string  // the rows of the list of attacks that it tests a defence against
	rate        float64 // attempts a second by default
	// pause before a refused connection comes again. It is longer where that takes a handshake, which
	// costs a server more than the attack itself.
	pause  time.Duration
	logsIn bool // needs accounts
	tls    bool // attacks TLS itself
	// run is the life of one connection, from dialling to its end. The error says why it ended: see
	// [Attack.countEnd]. round counts the connections of the attacker.
	run func(l *attacker, round int) error
}

// kinds are all attacks.
func kinds() []kind {
	const soon = 20 * time.Millisecond
	return []kind{
		{
			name: "halfopen", rows: "T01 T17 K27", rate: 1000, pause: soon, run: halfOpen,
			about: "connections that say nothing, half a header, half a ClientHello, a byte a second, or stop " +
				"in the handshake or in a login; half of them come and go",
		},
		{
			name: "xml", rows: "X13 X12 X01 X11 X14 K07 K09", rate: 2000, pause: soon, logsIn: true, run: badXML,
			about: "before login endless names, texts, tags, depths, attributes, document types, bytes one at " +
				"a time; after login as much of it as servers' limits allow, and then more",
		},
		{
			name: "slowreader", rows: "K21 K22 K20", rate: 10000, pause: soon, logsIn: true, run: slowReader,
			about: "sessions that ask for much, of the server and of each other, and read a byte a second or nothing",
		},
		{
			name: "keyupdate", rows: "T06 K33 K34 K40", rate: 20000, pause: 500 * time.Millisecond, tls: true,
			run: keyUpdates,
			about: "TLS 1.3 connections that send KeyUpdates, empty records, records of padding, or as many as " +
				"are borne between single bytes",
		},
		{
			name: "login", rows: "K67 S07 S05", rate: 200, pause: soon, logsIn: true, run: guessPasswords,
			about: "logins with wrong passwords, unknown users, forged proofs and nonces, broken or aborted " +
				"exchanges, by all mechanisms, the costly ones too",
		},
		{
			name: "presence", rows: "K58", rate: 5000, pause: soon, logsIn: true, run: flipPresence,
			about: "sessions that are each other's contacts and flip presence, ask strangers for " +
				"subscriptions, and send directed presence to many",
		},
	}
}

// Kinds are the names of the attacks.
func Kinds() (names []string) {
	for _, k := range kinds() {
		names = append(names, k.name)
	}
	return names
}

// About says what an attack does, and the rows of the list of attacks that it stands for. Both are
// empty for an unknown name.
func About(name string) (about string, rows []string) {
	for _, k := range kinds() {
		if k.name == name {
			return k.about, strings.Fields(k.rows)
		}
	}
	return "", nil
}

// Check returns an error that lists the attacks if there is none of this name.
func Check(name string) error {
	if slices.Contains(Kinds(), name) {
		return nil
	}
	return fmt.Errorf("there is no attack %q: one of %s", name, strings.Join(Kinds(), ", "))
}

// An Attack is a running attack.
type Attack struct {
	cfg    Config
	kind   kind
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	pace   limiter

	attempts, refused, bytes, sessions, failed atomic.Uint64

	hello []byte // a ClientHello

	mu  sync.Mutex // guards err
	err error      // the first error that is not a defence of the server

	deriving sync.Mutex                             // guards salted; held while keys are derived
	salted   map[sasl.Mechanism]sasl.SaltedPassword // keys of the last login
}

// Start begins an attack; ctx ends it. The error is about an unknown name or an unusable Config. A
// server that does not answer shows in [Stats] only.
func Start(ctx context.Context, name string, cfg Config) (*Attack, error) {
	if err := Check(name); err != nil {
		return nil, err
	}
	k := kinds()[slices.Index(Kinds(), name)]
	switch {
	case !cfg.Addr.IsValid() && !cfg.Direct.IsValid():
		return nil, fmt.Errorf("attack %s: no address of the server is known", name)
	case cfg.TLS == "direct" && !cfg.Direct.IsValid():
		return nil, fmt.Errorf("attack %s: no address for TLS first is known: use STARTTLS", name)
	case cfg.TLS != "direct" && cfg.TLS != "" && !cfg.Addr.IsValid():
		return nil, fmt.Errorf("attack %s: no address without TLS first is known: use direct TLS", name)
	case k.logsIn && cfg.User == nil:
		return nil, fmt.Errorf("attack %s: it logs in, and has no accounts", name)
	}
	if cfg.TLS == "" && !cfg.Addr.IsValid() {
		cfg.TLS = "direct"
	}
	if cfg.Accounts == 0 {
		cfg.Accounts = cfg.First + cfg.Connections
	}
	if cfg.Rate == 0 {
		cfg.Rate = k.rate
	}
	hello, err := clientHello(cfg.Domain)
	if err != nil {
		return nil, err
	}
	a := &Attack{cfg: cfg, kind: k, pace: limiter{rate: cfg.Rate}, hello: hello,
		salted: make(map[sasl.Mechanism]sasl.SaltedPassword)}
	a.ctx, a.cancel = context.WithCancel(ctx)
	for n := range cfg.Connections {
		l := &attacker{a: a, i: cfg.First + n, rng: rand.New(rand.NewPCG(uint64(cfg.First+n), 1))}
		a.wg.Go(func() { l.run(startSpread * time.Duration(n) / time.Duration(cfg.Connections)) })
	}
	return a, nil
}

// Stop ends the attack, waits until its goroutines have ended, and returns what it did. It may be
// called again, by any goroutine.
func (a *Attack) Stop() Stats {
	a.cancel()
	a.wg.Wait()
	a.mu.Lock()
	defer a.mu.Unlock()
	return Stats{Attempts: a.attempts.Load(), Refused: a.refused.Load(), Bytes: a.bytes.Load(),
		Sessions: a.sessions.Load(), Failed: a.failed.Load(), Err: a.err}
}

// attempt waits until the rate allows n more attempts, and counts them. The error is that of the
// attack's end.
func (a *Attack) attempt(n int) error {
	if err := a.pace.wait(a.ctx, n); err != nil {
		return err
	}
	a.attempts.Add(uint64(n))
	return nil
}

// A clientFault is a failure of the attack itself, and no defence of the server.
type clientFault struct{ error }

// Unwrap is the failure itself.
func (o clientFault) Unwrap() error { return o.error }

// countEnd counts the end of a connection by its error, and returns how long to wait before the
// next.
func (a *Attack) countEnd(err error) time.Duration {
	const later = time.Second
	var fault clientFault
	switch {
	case err == nil, errors.Is(err, errDone):
		return 20 * time.Millisecond
	case errors.As(err, &fault), errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE),
		errors.Is(err, syscall.EADDRNOTAVAIL),
		errors.Is(err, syscall.EADDRINUSE), errors.Is(err, syscall.ENOBUFS):
		a.countFault(err)
		return later
	case errors.Is(err, syscall.ECONNREFUSED):
		a.refused.Add(1)
		return later
	}
	a.refused.Add(1)
	return a.kind.pause
}

// countFault counts a failure of the attack itself.
func (a *Attack) countFault(err error) {
	a.failed.Add(1)
	a.mu.Lock()
	if a.err == nil {
		a.err = err
	}
	a.mu.Unlock()
}

// An attacker is one of an attack's connections, and all that follow it. One goroutine has it.
type attacker struct {
	a   *Attack
	i   int // number in the whole run
	rng *rand.Rand
}

// startSpread is the time over which the attackers begin.
const startSpread = time.Second

// run opens one connection after another, the first after a delay, until the attack ends.
func (l *attacker) run(after time.Duration) {
	if sleep(l.a.ctx, after) != nil {
		return
	}
	for round := 0; ; round++ {
		err := l.a.kind.run(l, round)
		if l.a.ctx.Err() != nil || sleep(l.a.ctx, l.a.countEnd(err)) != nil {
			return
		}
	}
}

// sleep waits for d, or until ctx ends, and returns the error of ctx.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return ctx.Err()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// A limiter spreads the actions of many goroutines evenly over time.
type limiter struct {
	rate float64    // a second
	mu   sync.Mutex // guards next
	next time.Time
}

// wait waits until n actions are allowed.
func (l *limiter) wait(ctx context.Context, n int) error {
	const burst = 50 * time.Millisecond // actions that were not used are lost, except for those of this time
	l.mu.Lock()
	now := time.Now()
	if l.next.Before(now.Add(-burst)) {
		l.next = now.Add(-burst)
	}
	at := l.next
	l.next = l.next.Add(time.Duration(float64(n) / l.rate * float64(time.Second)))
	l.mu.Unlock()
	if d := at.Sub(now); d > 0 {
		return sleep(ctx, d)
	}
	return ctx.Err()
}
