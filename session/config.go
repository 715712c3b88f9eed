package session

import (
	"fmt"
	"math"
	"net/netip"
	"time"

	"canto/xmlstream"
)

// Limits bound what peers may use: the section [limits] of the configuration. Zero means no limit for
// Connections, PerAddress, ResourcesPerAccount and the rates; the sizes and the timeout must be set.
type Limits struct {
	Exempt              []netip.Prefix // addresses for which the limits per address do not hold
	Connections         int            // connections of the process
	PerAddress          int            // connections of one IP address; an IPv6 address is its /64
	LoginsPerAddress    Rate           // new connections of one address
	FailuresPerAddress  Rate           // failed logins of one address
	FailuresPerAccount  Rate           // failed logins of one account
	ResourcesPerAccount int            // sessions of one account
	Stanza              int            // bytes of the largest element, once the client is authenticated
	StanzaUnauthed      int            // bytes of the largest element before that
	Rate                int            // bytes a second that a stream may send
	RateBurst           int            // bytes that a stream may send at once
	Outbox              int            // bytes that may wait for one client
	LoginTimeout        time.Duration  // from the connection to the bound resource
}

// A Rate is N events in the time Per.
type Rate struct {
	N   int           // events
	Per time.Duration // the time in which they may happen
}

// DefaultLimits are the limits of a server without a configuration.
func DefaultLimits() Limits {
	return Limits{
		Exempt:              []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")},
		PerAddress:          256,
		LoginsPerAddress:    Rate{20, time.Second},
		FailuresPerAddress:  Rate{5, time.Minute},
		FailuresPerAccount:  Rate{10, time.Minute},
		ResourcesPerAccount: 16,
		Stanza:              256 << 10,
		StanzaUnauthed:      16 << 10,
		Rate:                256 << 10,
		RateBurst:           1 << 20,
		Outbox:              1 << 20,
		LoginTimeout:        30 * time.Second,
	}
}

// The smallest and largest value of each limit. A smaller one would keep out clients that do nothing wrong. A
// larger one would be no limit, or would not fit into the counters.
const (
	MinStanza        = 10_000           // bytes: RFC 6120 §13.12 forbids less
	MaxStanza        = 16 << 20         // bytes
	MinRate          = 4 << 10          // bytes a second: about what a login takes
	MaxRate          = 1 << 30          // bytes a second, and of a burst: tokens are counted in 32 bits
	MinOutbox        = 256 << 10        // bytes; and a stanza with OutboxSpare
	OutboxSpare      = 16 << 10         // bytes: what the server adds to the largest stanza
	MaxOutbox        = 1 << 30          // bytes
	MinLoginTimeout  = 5 * time.Second  // a handshake, two streams and PBKDF2 on a phone
	MaxLoginTimeout  = 10 * time.Minute // a connection that never logs in lives as long
	MaxLoginInterval = time.Minute      // between two connections of an address
	MaxRateEvents    = 1_000_000        // N of a Rate
	MaxRateWindow    = time.Hour        // Per of a Rate
)

// A LimitError says that a limit is out of its range.
type LimitError struct {
	Key string // its name in the configuration
	Why string // what is wrong, and which values are allowed
}

// Error is the key and the reason; the caller adds file and line.
func (e *LimitError) Error() string { return e.Key + ": " + e.Why }

// Check returns the first limit that is out of its range, as a [*LimitError]. It goes through the counts,
// the rates of events, the size of stanzas, the rate of bytes, the outbox and the login timeout, in this
// order. No value is corrected silently.
func (lim *Limits) Check() error {
	bad := func(key, format string, a ...any) error { return &LimitError{key, fmt.Sprintf(format, a...)} }
	for _, n := range []struct {
		key string
		v   int
	}{{"connections", lim.Connections}, {"per_address", lim.PerAddress},
		{"resources_per_account", lim.ResourcesPerAccount}} {
		if n.v < 0 {
			return bad(n.key, "%d is less than none: write 1 or more, or 0 for no limit", n.v)
		}
	}
	for _, r := range []struct {
		key  string
		rate Rate
	}{{"logins_per_address", lim.LoginsPerAddress}, {"failures_per_address", lim.FailuresPerAddress},
		{"failures_per_account", lim.FailuresPerAccount}} {
		if r.rate.N < 0 || r.rate.N > MaxRateEvents || r.rate.Per < 0 || r.rate.Per > MaxRateWindow {
			return bad(r.key, "%d in %v is out of range: write 1 to %d in a second, minute or hour, or 0 for no "+
				"limit", r.rate.N, r.rate.Per, MaxRateEvents)
		}
	}
	if l := lim.LoginsPerAddress; l.N > 0 && l.Per/time.Duration(l.N) > MaxLoginInterval {
		return bad("logins_per_address", "%d in %v keeps clients out that were cut off: write 1/m or more, "+
			"or 0 for no limit", l.N, l.Per)
	}
	if lim.Stanza < MinStanza || lim.Stanza > MaxStanza {
		return bad("stanza", "%d bytes: write %d bytes (RFC 6120 §13.12 forbids less) to %s", lim.Stanza,
			MinStanza, sizeText(MaxStanza))
	}
	if lim.Rate != 0 {
		switch {
		case lim.Rate < MinRate || lim.Rate > MaxRate:
			return bad("rate", "%d bytes a second: write %s/s (a login takes about that) to %s/s, or 0 for no limit",
				lim.Rate, sizeText(MinRate), sizeText(MaxRate))
		case lim.RateBurst < lim.Rate || lim.RateBurst > MaxRate:
			return bad("rate", "a burst of %d bytes: write one that is what a second has, %s, to %s", lim.RateBurst,
				sizeText(lim.Rate), sizeText(MaxRate))
		}
	}
	if least := max(MinOutbox, lim.Stanza+OutboxSpare); lim.Outbox < least || lim.Outbox > MaxOutbox {
		return bad("outbox", "%d bytes: write %s (the largest stanza, and what the server adds to it) to %s",
			lim.Outbox, sizeText(least), sizeText(MaxOutbox))
	}
	if lim.LoginTimeout < MinLoginTimeout || lim.LoginTimeout > MaxLoginTimeout {
		return bad("login_timeout", "%v: write %v (a handshake and a password on a phone) to %v",
			lim.LoginTimeout, MinLoginTimeout, MaxLoginTimeout)
	}
	return nil
}

// sizeText formats a number of bytes as the configuration has it: 16KiB.
func sizeText(n int) string {
	for _, u := range []struct {
		name string
		n    int
	}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}} {
		if n >= u.n && n%u.n == 0 {
			return fmt.Sprintf("%d%s", n/u.n, u.name)
		}
	}
	return fmt.Sprintf("%dB", n)
}

// Exempted reports whether the limits per address do not hold for a. Any goroutine.
func (lim *Limits) Exempted(a netip.Addr) bool {
	a = a.Unmap()
	for _, p := range lim.Exempt {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// A limitSet is the limits in force, with the limits of the parser that follow from them.
type limitSet struct {
	Limits
	unauthed, authed xmlstream.LimitID // before and after authentication
}

// burst is how many bytes a stream may send at once. It is also how far the tokens of a stream may fall below
// zero. Tokens are counted in an int32.
func (lim *limitSet) burst() int64 {
	return min(max(int64(lim.RateBurst), int64(lim.Rate)), math.MaxInt32)
}
