// Package hostile holds connections that mean no good: what was done to servers in the past, at a volume
// that can be chosen, so that a scenario can show what it costs everybody else.
package hostile

import (
	"context"
	"fmt"
	"net/netip"
)

// A Config says whom to attack, and how much.
type Config struct {
	Addr, Direct netip.AddrPort // plain and STARTTLS; TLS first. Either may be zero.
	Domain       string
	Connections  int
	First        int // number of the first of these connections in the whole run
	User         func(i int) string
	Password     string
}

// Stats are what an attack did.
type Stats struct {
	Attempts uint64 // connections opened, and things done on them that a server must bear
	Refused  uint64 // of those, what the server refused or ended
	Bytes    uint64 // written
}

// An Attack is one that goes on.
type Attack struct{}

// Stop ends it, and says what it did.
func (a *Attack) Stop() Stats { return Stats{} }

// Start begins an attack of a kind; ctx ends it, too.
func Start(ctx context.Context, kind string, cfg Config) (*Attack, error) {
	return nil, fmt.Errorf("there is no attack hostile-%s", kind)
}
