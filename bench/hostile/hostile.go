// Package hostile holds connections that mean no good: what was done to servers in the past, at a volume
// that can be chosen, so that a scenario can show what it costs everybody else.
//
// Each kind is a number of connections that do harm in turn, as varied as [About] says. When the server
// ends one, which is its right, the next begins. All that an attack does is counted, and bounded: by its
// connections, and by its rate. It connects to the addresses of its Config, and to no other.
//
//	a, err := hostile.Start(ctx, "halfopen", hostile.Config{Addr: addr, Domain: "localhost", Connections: 500})
//	… measure the others …
//	stats := a.Stop()
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

// A Config says whom to attack, and how much.
type Config struct {
	Addr, Direct netip.AddrPort // plain and STARTTLS; TLS first. Either may be zero.
	Domain       string
	Connections  int
	First        int // number of the first of these connections in the whole run
	// Accounts is how many there are of attackers: User knows 0 to Accounts-1. 0: First + Connections.
	Accounts int
	// User is the localpart of the account of the i-th connection in the whole run. It is called from any
	// goroutine. No account of somebody innocent: an attack does to it what it can.
	// keyupdate can do without.
	User     func(i int) string
	Password string // of all
	// TLS is how those connect who log in: "none", "starttls", "direct"; empty: none if Addr is known. Where
	// the server offers no login without it, STARTTLS is used nevertheless.
	TLS string
	// Rate is how many attempts a second all connections make together, at most; 0: what the kind has.
	Rate float64
	// Source is the address that the i-th connection comes from; nil, or a zero address: the system's choice.
	Source func(i int) netip.AddrPort
}

// Stats are what an attack did.
type Stats struct {
	Attempts uint64 // connections opened, and things done on them that a server must bear
	Refused  uint64 // of those, what the server refused or ended
	Bytes    uint64 // written, TLS and all
	Sessions uint64 // that were logged in
	// Failed is how often something went wrong that is no defence of the server: no descriptor or port was
	// left, an account could not log in. What an attack shows is worth less then. Err is the first such error.
	Failed uint64
	Err    error
}

// A kind is a sort of attack.
type kind struct {
	name, about string
	rows        string  // of the list of attacks: what each shows a defence against
	rate        float64 // attempts a second, where a Config says nothing
	// pause is before a connection that was refused comes again: longer where that is a handshake, which costs a
	// server more than what the attack is about.
	pause  time.Duration
	logsIn bool // needs accounts
	tls    bool // is about TLS
	// run is the life of one connection, from dialling to its end. The error says why it ended: see
	// [Attack.countEnd]. round counts the lives of l.
	run func(l *attacker, round int) error
}

func kinds() []kind {
	const soon = 20 * time.Millisecond
	return []kind{
		{
			name: "halfopen", rows: "T01 T17 K27", rate: 1000, pause: soon, run: halfOpen,
			about: "connections that say nothing, half a header, half a ClientHello, a byte a second, or stop in the handshake or in a login; half of them come and go",
		},
		{
			name: "xml", rows: "X13 X12 X01 X11 X14 K07 K09", rate: 2000, pause: soon, logsIn: true, run: badXML,
			about: "before login endless names, texts, tags, depths, attributes, document types, bytes one at a time; after login as much of it as servers' limits allow, and then more",
		},
		{
			name: "slowreader", rows: "K21 K22 K20", rate: 10000, pause: soon, logsIn: true, run: slowReader,
			about: "sessions that ask for much, of the server and of each other, and read a byte a second or nothing",
		},
		{
			name: "keyupdate", rows: "T06 K33 K34 K40", rate: 20000, pause: 500 * time.Millisecond, tls: true, run: keyUpdates,
			about: "TLS 1.3 connections that send KeyUpdates, empty records, records of padding, or as many as are borne between single bytes",
		},
		{
			name: "login", rows: "K67 S07 S05", rate: 200, pause: soon, logsIn: true, run: guessPasswords,
			about: "logins with wrong passwords, unknown users, forged proofs and nonces, broken or aborted exchanges, by all mechanisms, the costly ones too",
		},
		{
			name: "presence", rows: "K58", rate: 5000, pause: soon, logsIn: true, run: flipPresence,
			about: "sessions that are each other's contacts and flip presence, ask strangers for subscriptions, and send directed presence to many",
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

// About says what an attack of a kind does, and which rows of the list of attacks it stands for; both are
// empty for an unknown kind.
func About(name string) (about string, rows []string) {
	for _, k := range kinds() {
		if k.name == name {
			return k.about, strings.Fields(k.rows)
		}
	}
	return "", nil
}

// Check is nil if there is such a kind; else the error says which there are.
func Check(name string) error {
	if slices.Contains(Kinds(), name) {
		return nil
	}
	return fmt.Errorf("there is no attack %q: one of %s", name, strings.Join(Kinds(), ", "))
}

// An Attack is one that goes on.
type Attack struct {
	cfg    Config
	kind   kind
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	pace   limiter

	attempts, refused, bytes, sessions, failed atomic.Uint64

	hello []byte // a ClientHello

	mu  sync.Mutex
	err error // the first that is none of the server's defence

	deriving sync.Mutex
	salted   map[sasl.Mechanism]sasl.Salted // what the last login derived
}

// Start begins an attack of a kind; ctx ends it, too. The error is that of an unknown kind or of a Config
// that it can't work with; that a server does not answer shows in [Stats] only.
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
	a := &Attack{cfg: cfg, kind: k, pace: limiter{rate: cfg.Rate}, hello: hello, salted: make(map[sasl.Mechanism]sasl.Salted)}
	a.ctx, a.cancel = context.WithCancel(ctx)
	for n := range cfg.Connections {
		l := &attacker{a: a, i: cfg.First + n, rng: rand.New(rand.NewPCG(uint64(cfg.First+n), 1))}
		a.wg.Go(func() { l.run(startSpread * time.Duration(n) / time.Duration(cfg.Connections)) })
	}
	return a, nil
}

// Stop ends it, waits until nothing of it is left, and says what it did. Called again it says so again. Any
// goroutine.
func (a *Attack) Stop() Stats {
	a.cancel()
	a.wg.Wait()
	a.mu.Lock()
	defer a.mu.Unlock()
	return Stats{Attempts: a.attempts.Load(), Refused: a.refused.Load(), Bytes: a.bytes.Load(), Sessions: a.sessions.Load(), Failed: a.failed.Load(), Err: a.err}
}

// attempt waits until n more attempts may be made, and counts them; the error is that of the end.
func (a *Attack) attempt(n int) error {
	if err := a.pace.wait(a.ctx, n); err != nil {
		return err
	}
	a.attempts.Add(uint64(n))
	return nil
}

// clientFault is an error that is none of the server's defence.
type clientFault struct{ error }

func (o clientFault) Unwrap() error { return o.error }

// countEnd counts what a life ended by, and returns how long to wait before the next.
func (a *Attack) countEnd(err error) time.Duration {
	const later = time.Second
	var fault clientFault
	switch {
	case err == nil, errors.Is(err, errDone):
		return 20 * time.Millisecond
	case errors.As(err, &fault), errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE), errors.Is(err, syscall.EADDRNOTAVAIL),
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

func (a *Attack) countFault(err error) {
	a.failed.Add(1)
	a.mu.Lock()
	if a.err == nil {
		a.err = err
	}
	a.mu.Unlock()
}

// A line is one of an attack's connections, and all that come after it. Only one goroutine has it.
type attacker struct {
	a   *Attack
	i   int // its number in the whole run
	rng *rand.Rand
}

// startSpread is how long it takes until all lines have begun.
const startSpread = time.Second

// run is all lives of l, from a time on.
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

// sleep is for d, or until ctx ends, whose error it returns then.
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

// A limiter spreads what many goroutines do evenly over time.
type limiter struct {
	rate float64 // a second
	mu   sync.Mutex
	next time.Time
}

// wait waits for the turn of n.
func (l *limiter) wait(ctx context.Context, n int) error {
	const behind = 50 * time.Millisecond // what was not used is not made up for, but for this
	l.mu.Lock()
	now := time.Now()
	if l.next.Before(now.Add(-behind)) {
		l.next = now.Add(-behind)
	}
	at := l.next
	l.next = l.next.Add(time.Duration(float64(n) / l.rate * float64(time.Second)))
	l.mu.Unlock()
	if d := at.Sub(now); d > 0 {
		return sleep(ctx, d)
	}
	return ctx.Err()
}
