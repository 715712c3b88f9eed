package bench

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"

	"canto/bench/hostile"
	"canto/session/tomlstrict"
)

// A Scenario is what clients do, in phases one after another. It is read from TOML (see the files in
// bench/scenarios, each of which can be copied and changed) or made in Go.
type Scenario struct {
	Name     string   `toml:"name,omitempty"`
	About    string   `toml:"about,omitempty"`
	Requires []string `toml:"requires,omitempty"` // what the server must offer: "muc", "mam", "sm", "carbons", "sasl2", "register"
	Clients  Clients  `toml:"clients,omitempty"`
	Groups   []Group  `toml:"group,omitempty"`
	Phases   []Phase  `toml:"phase,omitempty"`

	source     string
	overridden bool
}

// Clients are what all clients have in common.
type Clients struct {
	Count     int    `toml:"count,omitempty" least:"1" usual:"none"` // what groups with a share are shares of
	TLS       string `toml:"tls,omitempty"`                          // "none", "starttls", "direct"
	Mechanism string `toml:"mechanism,omitempty"`                    // "": SCRAM-SHA-1, else SCRAM-SHA-256, else PLAIN, as offered
	SASL2     string `toml:"sasl2,omitempty"`                        // "auto" (the default), "off", "require": XEP-0388 with Bind 2
	FAST      bool   `toml:"fast,omitempty"`                         // later logins with tokens (XEP-0484), where offered
	Tickets   bool   `toml:"tickets,omitempty"`                      // later TLS handshakes resume sessions
	// KeyExchange is what handshakes agree on a key by: "X25519", "P-256", "X25519MLKEM768"; "": what crypto/tls offers.
	KeyExchange string `toml:"key_exchange,omitempty"`
	Quiet       bool   `toml:"quiet,omitempty"`               // no roster is asked for and no presence sent
	SM          bool   `toml:"sm,omitempty"`                  // stream management (XEP-0198)
	Carbons     bool   `toml:"carbons,omitempty"`             // XEP-0280
	Timeout     Span   `toml:"timeout,omitempty" least:"1ms"` // of a login: 60 s
}

// A Group is clients that do the same. Without any, all clients are one group, "all".
type Group struct {
	Name  string  `toml:"name,omitempty"`
	Count int     `toml:"count,omitempty" least:"1" usual:"none"`                 // or
	Share float64 `toml:"share,omitempty" least:"0.000001" most:"1" usual:"none"` // of Clients.Count
	// Apart has the group live in a process of its own, which runs when nobody else wants the processor: who is measured
	// does not wait for it, and its lag is not the run's. What it does, it does within the group. Agents don't part.
	Apart bool `toml:"apart,omitempty"`
}

// Kinds of phases.
const (
	Ramp     = "ramp"     // connects and logs in
	Hold     = "hold"     // does its Do for Length, then waits for what is on its way
	Storm    = "storm"    // drops a share of the group's connections at once, and logs them in again
	Befriend = "befriend" // makes subscriptions
	Join     = "join"     // enters rooms
	Settle   = "settle"   // waits: for servers that tidy up, before memory is looked at
	Drain    = "drain"    // waits for what is on its way, then ends the streams
)

// A Phase is one stretch of a scenario. Which fields count depends on its Kind.
type Phase struct {
	Name  string   `toml:"name,omitempty"`
	Kind  string   `toml:"kind,omitempty"`
	Group []string `toml:"group,omitempty"` // default: all
	// Length of a hold or settle; of others the most that they may take (default 10 minutes).
	Length Span `toml:"length,omitempty" least:"1ms" usual:"none"`
	// Grace is how long a hold waits for what is on its way when its Length is over: 10 s. It ends as soon
	// as nothing is missing.
	Grace Span `toml:"grace,omitempty" least:"1ms"`
	// Rate of logins, open loop; without one, or of joins, InFlight at a time (default 200; of joins 1).
	Rate     Rate `toml:"rate,omitempty" least:"1/h"`
	InFlight int  `toml:"in_flight,omitempty" least:"1"`
	// GoOn: a ramp that does not get everybody in, for want of time or by failures, does not end the run.
	GoOn bool `toml:"go_on,omitempty"`
	// Share of the group that a storm drops; 1.
	Share float64 `toml:"share,omitempty" least:"0.000001" most:"1" usual:"none"`
	// Gentle storms end their streams; others only close the connection.
	Gentle bool `toml:"gentle,omitempty"`
	// Stars and Friends of befriend: the first Stars clients of the group are each subscribed to by Friends
	// others. Stars = 0: each client by the Friends behind it, in a ring.
	Stars   int `toml:"stars,omitempty" least:"0"`
	Friends int `toml:"friends,omitempty" least:"1" usual:"none"`
	// Rooms and Occupants of join: the group's clients enter Rooms rooms, Occupants each. Clients that
	// are left over enter none.
	Rooms     int      `toml:"rooms,omitempty" least:"1" usual:"none"`
	Occupants int      `toml:"occupants,omitempty" least:"1" usual:"none"`
	Do        []Action `toml:"do,omitempty"`
}

// Kinds of actions.
const (
	Chat      = "chat"      // messages between clients
	Presence  = "presence"  // broadcasts to who is subscribed (befriend)
	Roster    = "roster"    // roster sets: add, rename, remove
	GroupChat = "groupchat" // messages to rooms (join)
	Archive   = "archive"   // pages of the own archive (XEP-0313)
	Ping      = "ping"      // XEP-0199, to the server
	Slow      = "slow"      // the group stops reading for the length of the phase
	Flood     = "flood"     // each of the group writes messages to its partner as fast as the server takes them
)

// Hostile is what the names of attacks begin with: "hostile-halfopen" and so on, see [hostile.Kinds]. They
// have connections of their own, Count of them, and accounts of their own, with the numbers behind those of
// the clients: see [Scenario.Accounts]. Their Rate, if there is one, is how much all of them do a second at most.
const Hostile = "hostile-"

// maxHostile bounds an attack: each of its connections has goroutines and a descriptor of this process.
const maxHostile = 20000

// An Action is what is done in a hold, at a rate (open loop: latencies count from the time at which each
// operation was meant to begin, whether or not it could) or with a window (closed loop, for
// comparison: the next operation begins when one has ended).
type Action struct {
	Kind     string  `toml:"kind,omitempty"`
	Step     string  `toml:"step,omitempty"`  // its name in results; default Kind
	Group    string  `toml:"group,omitempty"` // default: the phase's
	Rate     Rate    `toml:"rate,omitempty" least:"1/h" usual:"none"`
	RateTo   Rate    `toml:"rate_to,omitempty" least:"1/h"` // the rate rises evenly to this one
	Arrivals string  `toml:"arrivals,omitempty"`            // "even" (the default) or "poisson"
	Window   int     `toml:"window,omitempty" least:"1" usual:"none"`
	Body     int     `toml:"body,omitempty" least:"1" most:"60000"`  // bytes of text; 100
	Partners string  `toml:"partners,omitempty"`                     // of chat: "pairs" (the default), "zipf" (few get most), "ring"
	Zipf     float64 `toml:"zipf,omitempty" least:"1.01"`            // exponent, over 1; 1.1
	Late     Span    `toml:"late,omitempty" least:"1us"`             // operations that take longer are counted: 10 ms
	Page     int     `toml:"page,omitempty" least:"1"`               // of archive: messages; 50
	Contacts int     `toml:"contacts,omitempty" least:"0"`           // of roster: so many are added, one after the other, and kept
	Count    int     `toml:"count,omitempty" least:"1" most:"20000"` // of hostile connections; 100
	To       string  `toml:"to,omitempty"`                           // of chat and flood: the group that gets the messages; default: partners in the own group
	Stars    int     `toml:"stars,omitempty" least:"0"`              // of presence: only the first so many of the group send; 0: those with friends
}

// A Span is a time.Duration that is written "1m30s".
type Span time.Duration

// UnmarshalText reads "1m30s".
func (s *Span) UnmarshalText(b []byte) error {
	d, err := time.ParseDuration(string(b))
	if err == nil && d < 0 {
		err = errors.New("a length of time is not negative")
	}
	*s = Span(d)
	return err
}

// MarshalText is its reverse.
func (s Span) MarshalText() ([]byte, error) { return []byte(time.Duration(s).String()), nil }

// A Rate is operations a second. It is written "500/s", "30/m" or "100/h".
type Rate float64

// MaxRate is the highest that is taken: an operation in each nanosecond, which is how finely times are laid down.
const MaxRate Rate = 1e9

const maxRateText = "1000000000/s"

// UnmarshalText reads it.
func (r *Rate) UnmarshalText(b []byte) error {
	num, per, ok := strings.Cut(strings.TrimSpace(string(b)), "/")
	unit := map[string]float64{"s": 1, "m": 60, "min": 60, "h": 3600}[strings.TrimSpace(per)]
	v, err := strconv.ParseFloat(strings.TrimSpace(num), 64)
	if !ok || unit == 0 || err != nil || !(v >= 0) {
		return fmt.Errorf("%q is not a rate: write \"500/s\", \"30/m\" or \"100/h\"", b)
	}
	if Rate(v/unit) > MaxRate {
		return fmt.Errorf("%q is more than the most that can be asked for, %s", b, maxRateText)
	}
	*r = Rate(v / unit)
	return nil
}

// MarshalText is its reverse.
func (r Rate) MarshalText() ([]byte, error) { return fmt.Appendf(nil, "%g/s", float64(r)), nil }

// Parse reads a scenario; name is for errors, which are one line: file, line, cause, remedy.
func Parse(name string, text []byte) (*Scenario, error) {
	s := &Scenario{source: string(text)}
	if err := tomlstrict.Decode(text, s); err != nil {
		return nil, tomlstrict.Named(name, err)
	}
	if err := s.Check(); err != nil {
		return nil, tomlstrict.Named(name, tomlstrict.Placed(text, err))
	}
	return s, nil
}

var (
	phaseKinds  = []string{Ramp, Hold, Storm, Befriend, Join, Settle, Drain}
	actionKinds = []string{Chat, Presence, Roster, GroupChat, Archive, Ping, Slow, Flood}
	features    = []string{"muc", "mam", "sm", "carbons", "sasl2", "register"}
)

// Check fills in defaults, and says what can't be run and why.
func (s *Scenario) Check() error {
	setDefault(&s.Clients.TLS, "none")
	setDefault(&s.Clients.SASL2, "auto")
	setDefault(&s.Clients.Timeout, Span(time.Minute))
	if !slices.Contains([]string{"none", "starttls", "direct"}, s.Clients.TLS) {
		return tomlstrict.At(tomlstrict.Path{"clients", "tls"}, "clients.tls is %q: none, starttls or direct", s.Clients.TLS)
	}
	if !slices.Contains([]string{"auto", "off", "require"}, s.Clients.SASL2) {
		return tomlstrict.At(tomlstrict.Path{"clients", "sasl2"}, "clients.sasl2 is %q: auto, off or require", s.Clients.SASL2)
	}
	if !slices.Contains([]string{"", "PLAIN", "SCRAM-SHA-1", "SCRAM-SHA-256", "SCRAM-SHA-512"}, s.Clients.Mechanism) {
		return tomlstrict.At(tomlstrict.Path{"clients", "mechanism"}, "clients.mechanism is %q: PLAIN, SCRAM-SHA-1, SCRAM-SHA-256, SCRAM-SHA-512, or nothing for what is offered", s.Clients.Mechanism)
	}
	if _, ok := curvesByName[s.Clients.KeyExchange]; !ok {
		return tomlstrict.At(tomlstrict.Path{"clients", "key_exchange"}, "clients.key_exchange is %q: X25519, P-256, X25519MLKEM768, or nothing for what crypto/tls offers", s.Clients.KeyExchange)
	}
	for _, f := range s.Requires {
		if !slices.Contains(features, f) {
			return tomlstrict.At(tomlstrict.Path{"requires"}, "requires has %q: one of %s", f, strings.Join(features, ", "))
		}
	}
	if len(s.Groups) == 0 {
		s.Groups = []Group{{Name: "all", Share: 1}}
	}
	shares, counted, wanted := 0.0, 0, s.Clients.Count
	weights := make([]float64, len(s.Groups))
	names := map[string]bool{}
	for i := range s.Groups {
		g := &s.Groups[i]
		here := tomlstrict.Path{"group", i}
		if g.Name == "" || names[g.Name] {
			return tomlstrict.At(append(here, "name"), "group %d needs a name of its own", i+1)
		}
		names[g.Name] = true
		if g.Count != 0 && g.Share != 0 {
			return tomlstrict.At(append(here, "share"), "group %q has a share and a count: write one of them", g.Name)
		}
		if g.Share != 0 && !(g.Share > 0 && g.Share <= 1) {
			return tomlstrict.At(append(here, "share"), "group %q has the share %g: from 0 to 1", g.Name, g.Share)
		}
		if g.Count != 0 {
			counted++
			wanted -= g.Count
		}
		shares += g.Share
		weights[i] = g.Share * float64(s.Clients.Count)
	}
	if shares > 1.000001 || shares > 0 && counted == 0 && shares < .999999 {
		return tomlstrict.At(tomlstrict.Path{"group", 0}, "the shares of the groups are %g together: they make 1 of clients.count", shares)
	}
	total := 0
	for i, n := range apportion(weights, wanted) {
		g := &s.Groups[i]
		if g.Count == 0 {
			g.Count, g.Share = n, 0 // from here on it is so many
		}
		if g.Count <= 0 {
			return tomlstrict.At(tomlstrict.Path{"group", i}, "group %q has no clients: set its count, or its share and clients.count", g.Name)
		}
		total += g.Count
	}
	if s.Clients.Count != 0 && s.Clients.Count != total {
		return tomlstrict.At(tomlstrict.Path{"clients", "count"}, "clients.count is %d, and the groups have %d together: leave it out, or give the groups shares of it", s.Clients.Count, total)
	}
	s.Clients.Count = total
	if len(s.Phases) == 0 {
		return tomlstrict.At(nil, "there is no [[phase]]")
	}
	phases := map[string]bool{}
	for i := range s.Phases {
		p := &s.Phases[i]
		here := func(key string) tomlstrict.Path { return tomlstrict.Path{"phase", i, key} }
		setDefault(&p.Name, p.Kind)
		if phases[p.Name] || p.Name == "" || strings.ContainsAny(p.Name, ". ") {
			return tomlstrict.At(here("name"), "phase %d needs a name of its own, without dots and blanks", i+1)
		}
		phases[p.Name] = true
		if !slices.Contains(phaseKinds, p.Kind) {
			return tomlstrict.At(here("kind"), "phase %q: kind is %q: one of %s", p.Name, p.Kind, strings.Join(phaseKinds, ", "))
		}
		if len(p.Group) == 0 {
			for _, g := range s.Groups {
				p.Group = append(p.Group, g.Name)
			}
		}
		for _, g := range p.Group {
			if !names[g] {
				return tomlstrict.At(here("group"), "phase %q: there is no group %q", p.Name, g)
			}
			if s.apart(g) && (p.Kind == Befriend || p.Kind == Join) {
				return tomlstrict.At(here("group"), "phase %q: group %q is apart: it can't %s others", p.Name, g, p.Kind)
			}
		}
		if p.Length == 0 {
			if p.Kind == Hold || p.Kind == Settle {
				return tomlstrict.At(here("length"), "phase %q: a %s needs a length", p.Name, p.Kind)
			}
			p.Length = Span(10 * time.Minute)
		}
		if err := p.checkFields(here); err != nil {
			return err
		}
		if p.Rate > MaxRate {
			return tomlstrict.At(here("rate"), "phase %q: the rate is %g/s: up to %s", p.Name, float64(p.Rate), maxRateText)
		}
		clients := s.members(p.Group)
		if p.Kind == Storm && int(float64(clients)*p.Share+.5) == 0 {
			return tomlstrict.At(here("share"), "phase %q: a share of %g is none of %d clients: a larger one, or more clients", p.Name, p.Share, clients)
		}
		if p.Kind == Befriend && p.Stars > 0 && clients-min(p.Stars, clients) < p.Friends {
			return tomlstrict.At(here("friends"), "phase %q: a star can't have %d friends of %d clients: fewer friends, or more clients", p.Name, p.Friends, clients-min(p.Stars, clients))
		}
		if p.Kind == Befriend && p.Friends <= 0 {
			return tomlstrict.At(here("friends"), "phase %q: how many friends?", p.Name)
		}
		if p.Kind == Join && (p.Rooms <= 0 || p.Occupants <= 0) {
			return tomlstrict.At(here("rooms"), "phase %q: how many rooms and occupants?", p.Name)
		}
		if need := float64(p.Rooms) * float64(p.Occupants); p.Kind == Join && need > float64(clients) {
			return tomlstrict.At(here("rooms"), "phase %q: %d rooms of %d are more than %d clients: fewer rooms or occupants, or more clients", p.Name, p.Rooms, p.Occupants, clients)
		}
		if len(p.Do) > 0 && p.Kind != Hold && p.Kind != Storm {
			return tomlstrict.At(here("do"), "phase %q: only a hold or a storm has things to do", p.Name)
		}
		steps := map[string]bool{}
		for j := range p.Do {
			a := &p.Do[j]
			if err := a.check(s, p, names, steps); err != nil {
				var m *tomlstrict.Misplaced
				if errors.As(err, &m) {
					return tomlstrict.At(append(tomlstrict.Path{"phase", i, "do", j}, m.Path...), "phase %q: %s", p.Name, m.Why)
				}
				return tomlstrict.At(tomlstrict.Path{"phase", i, "do", j}, "phase %q: %v", p.Name, err)
			}
		}
	}
	return nil
}

// checkFields says which field means nothing to a phase of p's kind, and fills in the defaults of those that do. here is the
// path of a field.
func (p *Phase) checkFields(here func(key string) tomlstrict.Path) error {
	for _, f := range []struct {
		key   string
		set   bool
		kinds []string
	}{
		{"rate", p.Rate != 0, []string{Ramp, Storm}},
		{"in_flight", p.InFlight != 0, []string{Ramp, Storm, Befriend, Join}},
		{"grace", p.Grace != 0, []string{Hold}},
		{"go_on", p.GoOn, []string{Ramp}},
		{"share", p.Share != 0, []string{Storm}},
		{"gentle", p.Gentle, []string{Storm}},
		{"stars", p.Stars != 0, []string{Befriend}},
		{"friends", p.Friends != 0, []string{Befriend}},
		{"rooms", p.Rooms != 0, []string{Join}},
		{"occupants", p.Occupants != 0, []string{Join}},
	} {
		if f.set && !slices.Contains(f.kinds, p.Kind) {
			return tomlstrict.At(here(f.key), "phase %q: %s is for a %s: a %s does not look at it", p.Name, f.key, strings.Join(f.kinds, " or a "), p.Kind)
		}
	}
	if p.Rate != 0 && p.InFlight != 0 {
		return tomlstrict.At(here("in_flight"), "phase %q has a rate (open loop), and in_flight (closed loop): write one of them", p.Name)
	}
	switch {
	case p.Kind == Hold:
		setDefault(&p.Grace, Span(10*time.Second))
	case p.Kind == Join:
		setDefault(&p.InFlight, 1)
	case (p.Kind == Ramp || p.Kind == Storm) && p.Rate == 0 || p.Kind == Befriend:
		setDefault(&p.InFlight, 200)
	}
	if p.Kind == Storm {
		setDefault(&p.Share, 1)
		if !(p.Share > 0 && p.Share <= 1) {
			return tomlstrict.At(here("share"), "phase %q: share is %g: from 0 to 1", p.Name, p.Share)
		}
	}
	return nil
}

// members is how many clients groups have together.
func (s *Scenario) members(groups []string) (n int) {
	for _, g := range s.Groups {
		if slices.Contains(groups, g.Name) {
			n += g.Count
		}
	}
	return n
}

// apportion is n in whole numbers that are as weights are to each other, by largest remainders (Hamilton's method).
// Weights that don't make n, within 1, are rounded each for itself.
func apportion(weights []float64, n int) []int {
	sum := 0.0
	parts, order := make([]int, len(weights)), make([]int, len(weights))
	for i, w := range weights {
		sum += w
		parts[i] = int(w + 1e-9)
		n -= parts[i]
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int {
		return cmp.Compare(weights[b]-float64(parts[b]), weights[a]-float64(parts[a]))
	})
	for _, i := range order {
		switch rest := weights[i] - float64(parts[i]); {
		case n > 0 && n < len(weights) && rest > 1e-9:
			parts[i]++
			n--
		case n < 0 || n >= len(weights):
			parts[i] = int(weights[i] + .5)
		}
	}
	return parts
}

// check is Check of one action. The path of its errors begins at the action.
func (a *Action) check(s *Scenario, p *Phase, groups, steps map[string]bool) error {
	setDefault(&a.Step, a.Kind)
	attack := strings.HasPrefix(a.Kind, Hostile)
	if !attack && !slices.Contains(actionKinds, a.Kind) {
		return tomlstrict.At(tomlstrict.Path{"kind"}, "kind of %q is %q: one of %s, or %s…", a.Step, a.Kind, strings.Join(actionKinds, ", "), Hostile)
	}
	if steps[a.Step] || strings.ContainsAny(a.Step, ". ") {
		return tomlstrict.At(tomlstrict.Path{"step"}, "%q needs a step of its own, without dots and blanks", a.Step)
	}
	steps[a.Step] = true
	if a.Group == "" {
		a.Group = p.Group[0]
	}
	if !groups[a.Group] {
		return tomlstrict.At(tomlstrict.Path{"group"}, "%q: there is no group %q", a.Step, a.Group)
	}
	if a.To != "" && !groups[a.To] {
		return tomlstrict.At(tomlstrict.Path{"to"}, "%q: there is no group %q to send to", a.Step, a.To)
	}
	if a.To != "" && s.apart(a.To) != s.apart(a.Group) {
		return tomlstrict.At(tomlstrict.Path{"to"}, "%q: of %q and %q one is apart: who sends to whom must be in one process", a.Step, a.Group, a.To)
	}
	if attack {
		if err := hostile.Check(strings.TrimPrefix(a.Kind, Hostile)); err != nil {
			return fmt.Errorf("%q: %w", a.Step, err)
		}
		if a.Count < 0 || a.Count > maxHostile {
			return tomlstrict.At(tomlstrict.Path{"count"}, "%q: count is %d: up to %d", a.Step, a.Count, maxHostile)
		}
	}
	paced := !attack && a.Kind != Slow && a.Kind != Flood
	for _, f := range []struct {
		key   string
		set   bool
		means bool
		what  string // it is for
	}{
		{"rate", a.Rate != 0, paced || attack, "what has single operations: not for slow and flood"},
		{"window", a.Window != 0, paced, "what has single operations: not for slow, flood and attacks"},
		{"rate_to", a.RateTo != 0, paced && a.Rate != 0, "a rate (open loop) that rises"},
		{"arrivals", a.Arrivals != "", paced && a.Rate != 0, "a rate (open loop)"},
		{"body", a.Body != 0, a.Kind == Chat || a.Kind == GroupChat || a.Kind == Flood, "chat, groupchat and flood"},
		{"partners", a.Partners != "", a.Kind == Chat, "chat"},
		{"zipf", a.Zipf != 0, a.Kind == Chat && a.Partners == "zipf", `chat with partners = "zipf"`},
		{"late", a.Late != 0, paced || a.Kind == Flood, "what has single operations: not for slow and attacks"},
		{"page", a.Page != 0, a.Kind == Archive, "archive"},
		{"contacts", a.Contacts != 0, a.Kind == Roster, "roster"},
		{"count", a.Count != 0, attack, "attacks (" + Hostile + "…)"},
		{"to", a.To != "", a.Kind == Chat || a.Kind == Flood, "chat and flood"},
		{"stars", a.Stars != 0, a.Kind == Presence, "presence"},
	} {
		if f.set && !f.means {
			return tomlstrict.At(tomlstrict.Path{f.key}, "%q does not look at %s: it is for %s", a.Step, f.key, f.what)
		}
	}
	if paced && (a.Rate > 0) == (a.Window > 0) {
		return tomlstrict.At(tomlstrict.Path{"rate"}, "%q needs a rate (open loop), or a window (closed loop)", a.Step)
	}
	for key, r := range map[string]Rate{"rate": a.Rate, "rate_to": a.RateTo} {
		if r > MaxRate {
			return tomlstrict.At(tomlstrict.Path{key}, "%q: %s is %g/s: up to %s", a.Step, key, float64(r), maxRateText)
		}
	}
	if paced && a.Rate > 0 {
		setDefault(&a.Arrivals, "even")
	}
	switch a.Kind {
	case Chat:
		setDefault(&a.Partners, "pairs")
		if a.Partners == "zipf" {
			setDefault(&a.Zipf, 1.1)
		}
		setDefault(&a.Body, 100)
	case GroupChat, Flood:
		setDefault(&a.Body, 100)
	case Archive:
		setDefault(&a.Page, 50)
	}
	if attack {
		setDefault(&a.Count, 100)
	}
	if paced || a.Kind == Flood {
		setDefault(&a.Late, Span(10*time.Millisecond))
	}
	if !slices.Contains([]string{"", "even", "poisson"}, a.Arrivals) {
		return tomlstrict.At(tomlstrict.Path{"arrivals"}, "%q: arrivals is %q: even or poisson", a.Step, a.Arrivals)
	}
	if !slices.Contains([]string{"", "pairs", "zipf", "ring"}, a.Partners) {
		return tomlstrict.At(tomlstrict.Path{"partners"}, "%q: partners is %q: pairs, zipf or ring", a.Step, a.Partners)
	}
	if a.Partners == "zipf" && !(a.Zipf > 1) {
		return tomlstrict.At(tomlstrict.Path{"zipf"}, "%q: zipf is %g: it must be over 1", a.Step, a.Zipf)
	}
	if a.Body < 0 || a.Body > 60000 {
		return tomlstrict.At(tomlstrict.Path{"body"}, "%q: body is %d: from 0 to 60,000 bytes", a.Step, a.Body)
	}
	return nil
}

// apart reports whether a group is; "" is whether any is.
func (s *Scenario) apart(group string) bool {
	return slices.ContainsFunc(s.Groups, func(g Group) bool { return g.Apart && (group == "" || g.Name == group) })
}

// Overrides are what a command line, or a case of a suite, makes different of a scenario. The zero value of a
// field leaves it as it is.
type Overrides struct {
	Clients   int     `toml:"clients" least:"1"`      // in all; groups keep their shares
	Rates     float64 `toml:"rates" least:"0.000001"` // all are multiplied by it
	Length    Span    `toml:"length" least:"1ms"`     // of each hold
	TLS       string  `toml:"tls"`
	Mechanism string  `toml:"mechanism"`
	SASL2     string  `toml:"sasl2"`
	FAST      bool    `toml:"fast"`
	SM        bool    `toml:"sm"`
	Carbons   bool    `toml:"carbons"`
	Friends   int     `toml:"friends" least:"1"`   // of each befriend phase
	Occupants int     `toml:"occupants" least:"1"` // of each join phase
}

// Override makes them, and checks the outcome.
func (s *Scenario) Override(c Overrides) error {
	if c.Clients > 0 && s.Clients.Count > 0 {
		if c.Clients < len(s.Groups) {
			return fmt.Errorf("%d clients can't be %d groups: a client for each of them at least", c.Clients, len(s.Groups))
		}
		weights := make([]float64, len(s.Groups))
		for i, g := range s.Groups {
			weights[i] = float64(g.Count) / float64(s.Clients.Count) * float64(c.Clients)
		}
		parts := apportion(weights, c.Clients)
		for i := range parts {
			if parts[i] == 0 { // the largest lends a client to a group that would have none
				parts[slices.Index(parts, slices.Max(parts))]--
				parts[i]++
			}
		}
		for i := range parts {
			s.Groups[i].Count = parts[i]
		}
		s.Clients.Count = c.Clients
	}
	set := func(v *string, to string) {
		if to != "" {
			*v = to
		}
	}
	set(&s.Clients.TLS, c.TLS)
	set(&s.Clients.Mechanism, c.Mechanism)
	set(&s.Clients.SASL2, c.SASL2)
	s.Clients.FAST = s.Clients.FAST || c.FAST
	s.Clients.SM = s.Clients.SM || c.SM
	s.Clients.Carbons = s.Clients.Carbons || c.Carbons
	for i := range s.Phases {
		p := &s.Phases[i]
		if c.Length > 0 && p.Kind == Hold {
			p.Length = c.Length
		}
		if c.Friends > 0 && p.Kind == Befriend {
			p.Friends = c.Friends
		}
		if c.Occupants > 0 && p.Kind == Join {
			p.Occupants = c.Occupants
		}
		if c.Rates > 0 {
			p.Rate *= Rate(c.Rates)
			for j := range p.Do {
				p.Do[j].Rate *= Rate(c.Rates)
				p.Do[j].RateTo *= Rate(c.Rates)
			}
		}
	}
	if c != (Overrides{}) {
		s.overridden = true
	}
	return s.Check()
}

// Accounts is how many accounts it needs: one for each client and, from Clients.Count on, those that attacks
// log in with. Good after Check.
func (s *Scenario) Accounts() int {
	n := 0
	for _, p := range s.Phases {
		for _, a := range p.Do {
			if strings.HasPrefix(a.Kind, Hostile) {
				n = max(n, a.Count)
			}
		}
	}
	return s.Clients.Count + n
}

// Source is the text it was read from, or, where it was changed or made in Go, one that says the same.
func (s *Scenario) Source() string {
	if s.source != "" && !s.overridden {
		return s.source
	}
	b, err := toml.Marshal(s)
	if err != nil {
		return s.source
	}
	return string(b)
}

// setDefault sets *v where it is not set.
func setDefault[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}
