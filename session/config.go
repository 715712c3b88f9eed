package session

import (
	"math"
	"net/netip"
	"time"

	"canto/xmlstream"
)

// Limits are what peers may cost (design §9, [limits]). Zero is none, but for the sizes, where it is
// the default.
type Limits struct {
	Exempt              []netip.Prefix // addresses without the per-address limits
	Connections         int
	PerAddress          int
	LoginsPerAddress    Rate
	FailuresPerAddress  Rate
	FailuresPerAccount  Rate
	ResourcesPerAccount int
	Stanza              int // bytes, once authenticated
	StanzaBefore        int // bytes, before
	Rate                int // bytes a second that a stream may send
	RateBurst           int
	Outbox              int
	LoginTimeout        time.Duration
}

// A Rate is so many events in a time.
type Rate struct {
	N   int
	Per time.Duration
}

// DefaultLimits are those of a server without a configuration.
func DefaultLimits() Limits {
	return Limits{
		Exempt:              []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")},
		PerAddress:          256,
		LoginsPerAddress:    Rate{20, time.Second},
		FailuresPerAddress:  Rate{5, time.Minute},
		FailuresPerAccount:  Rate{10, time.Minute},
		ResourcesPerAccount: 16,
		Stanza:              256 << 10,
		StanzaBefore:        16 << 10,
		Rate:                256 << 10,
		RateBurst:           1 << 20,
		Outbox:              1 << 20,
		LoginTimeout:        30 * time.Second,
	}
}

// Exempted reports whether the per-address limits don't hold for a.
func (lim *Limits) Exempted(a netip.Addr) bool {
	a = a.Unmap()
	for _, p := range lim.Exempt {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

type limitSet struct {
	Limits
	before, after xmlstream.LimitID
}

// burst is how many bytes a stream may send at once, and how many it may owe.
func (lim *limitSet) burst() int64 {
	return min(max(int64(lim.RateBurst), int64(lim.Rate)), math.MaxInt32)
}

// Depth and node limits of a peer that has not logged in: enough for a header and SASL, no more
// (attack X13).
var unauthedLimits = xmlstream.Limits{Depth: 8, NameBytes: 256, Prefixes: 8, Attrs: 16, StanzaAttrs: 64, Nodes: 32}

// SetLimits puts new limits in force, for streams that are open too. Any goroutine.
func (r *Router) SetLimits(lim Limits) error {
	b := unauthedLimits
	b.StanzaBytes = lim.StanzaBefore
	before, err := b.ID()
	if err != nil {
		return err
	}
	after, err := xmlstream.Limits{StanzaBytes: lim.Stanza}.ID()
	if err != nil {
		return err
	}
	r.lim.Store(&limitSet{lim, before, after})
	return nil
}

func (r *Router) limits() *limitSet { return r.lim.Load() }

// Limits are those in force. Any goroutine.
func (r *Router) Limits() Limits { return r.lim.Load().Limits }

// hostLimits are the limits of one host: its own, or everybody's.
func (r *Router) hostLimits(h *Host) *Limits {
	if p := h.Profile(); p != nil && p.Limits != nil {
		return p.Limits
	}
	return &r.lim.Load().Limits
}

// HostLimits are the limits that hold for h. Any goroutine.
func (r *Router) HostLimits(h *Host) Limits { return *r.hostLimits(h) }
