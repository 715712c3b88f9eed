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

// A Scenario is what the clients do, in phases one after another. It is read from TOML with [Parse]
// or [Find] (the files in bench/scenarios are meant to be copied), or made in Go. [Scenario.Check]
// must be called before it is used.
type Scenario struct {
	Name  string `toml:"name,omitempty"`  // Name is for reports.
	About string `toml:"about,omitempty"` // About says in a sentence what it measures.
	// Requires are features that the server must offer: "muc", "mam", "sm", "carbons", "csi", "push", "sasl2",
	// "register".
	Requires []string `toml:"requires,omitempty"`
	Clients  Clients  `toml:"clients,omitempty"` // Clients is what all clients have in common.
	// Groups divide the clients. Without any, all are one group, "all".
	Groups []Group `toml:"group,omitempty"`
	Phases []Phase `toml:"phase,omitempty"` // Phases run in this order.

	source     string // the text that it was read from
	overridden bool   // source is not what runs
}

// Clients are what all clients have in common.
type Clients struct {
	// Count is how many accounts have clients. Groups with a Share are parts of it. Groups with Of have
	// second clients of these accounts, which do not count.
	Count int    `toml:"count,omitempty" least:"1" usual:"none"`
	TLS   string `toml:"tls,omitempty"` // TLS is "none" (the default), "starttls" or "direct".
	// Mechanism of SASL. "": SCRAM-SHA-1, otherwise SCRAM-SHA-256 or -512, otherwise PLAIN, as
	// offered.
	Mechanism string `toml:"mechanism,omitempty"`
	// SASL2 is "auto" (the default), "off" or "require": XEP-0388 with Bind 2.
	SASL2 string `toml:"sasl2,omitempty"`
	// FAST lets later logins use tokens (XEP-0484), where the server offers them.
	FAST    bool `toml:"fast,omitempty"`
	Tickets bool `toml:"tickets,omitempty"` // Tickets lets later TLS handshakes resume sessions.
	// KeyExchange of TLS handshakes: "X25519", "P-256", "X25519MLKEM768"; "": what crypto/tls offers.
	KeyExchange string `toml:"key_exchange,omitempty"`
	// Quiet clients ask for no roster and send no presence.
	Quiet   bool `toml:"quiet,omitempty"`
	SM      bool `toml:"sm,omitempty"`      // SM turns stream management on (XEP-0198).
	Carbons bool `toml:"carbons,omitempty"` // Carbons turns message carbons on (XEP-0280).
	// Resume lets clients that have lost their connection resume their session at the next login, with SM.
	Resume bool `toml:"resume,omitempty"`
	// Inactive clients say that their user does not look at them (XEP-0352).
	Inactive bool `toml:"inactive,omitempty"`
	Timeout  Span `toml:"timeout,omitempty" least:"1ms"` // Timeout of a login; 0: 60 s.
}

// A Group is clients that do the same. Without any, all clients are one group, "all".
type Group struct {
	Name  string `toml:"name,omitempty"`                         // Name is how phases and actions refer to it.
	Count int    `toml:"count,omitempty" least:"1" usual:"none"` // Count of clients; or
	// Share of Clients.Count, from 0 to 1.
	Share float64 `toml:"share,omitempty" least:"0.000001" most:"1" usual:"none"`
	// Of names another group: the clients of this one are second devices of its accounts, one each. It has
	// neither Count nor Share; Check sets Count to that of the other group.
	Of string `toml:"of,omitempty"`
	// Apart gives the group a worker process of its own, at idle priority: clients that are measured
	// do not wait for it, and its lag does not count. The group acts within itself only. Agents do not
	// support it.
	Apart bool `toml:"apart,omitempty"`
	// Observes counts the presence of contacts that comes to the clients of the group, in each phase.
	Observes bool `toml:"observes,omitempty"`
}

// Kinds of phases.
const (
	Ramp     = "ramp"     // connects and logs in
	Hold     = "hold"     // runs its actions for Length, then waits for deliveries
	Storm    = "storm"    // closes a share of the group's connections at once, and logs in again
	Befriend = "befriend" // makes subscriptions to presence
	Join     = "join"     // enters chat rooms
	Carbons  = "carbons"  // turns message carbons on or off (XEP-0280)
	SM       = "sm"       // turns stream management on (XEP-0198)
	CSI      = "csi"      // clients say that they are inactive, or active again (XEP-0352)
	Push     = "push"     // registers with an app server of the run (XEP-0357)
	Fill     = "fill"     // writes a number of messages to each client of a group
	Settle   = "settle"   // waits, for servers that tidy up before memory is measured
	Cut      = "cut"      // resets the connections, without an end of the streams
	Restart  = "restart"  // the server is stopped (SIGTERM) and started again
	Drain    = "drain"    // waits for deliveries, then ends the streams
)

// A Phase is one stretch of a scenario. Its Kind says which of the other fields it uses.
type Phase struct {
	// Name is for results; "": the Kind. It is unique in a scenario.
	Name  string   `toml:"name,omitempty"`
	Kind  string   `toml:"kind,omitempty"`  // Kind is one of the constants from Ramp to Drain.
	Group []string `toml:"group,omitempty"` // Group has the names of its groups; empty: all.
	// Length of a hold or a settle. Other phases may not take longer; their default is 10 minutes.
	Length Span `toml:"length,omitempty" least:"1ms" usual:"none"`
	// Grace is how long a hold waits for deliveries when its Length is over; 0: 10 s. It ends as soon
	// as none is missing. Of a ramp it is how long it waits for messages that were kept for its clients; of
	// a csi with Off for presence that was held back.
	Grace Span `toml:"grace,omitempty" least:"1ms"`
	// Rate of logins, in an open loop; 0: a closed loop, see InFlight.
	Rate Rate `toml:"rate,omitempty" least:"1/h"`
	// InFlight bounds the logins, subscriptions or joins in flight; 0: 200, of joins 1.
	// Those of carbons and push are requests, and those of fill messages.
	InFlight int `toml:"in_flight,omitempty" least:"1"`
	// GoOn lets the run continue after a ramp that does not log in all clients, for lack of time or by
	// failures.
	GoOn bool `toml:"go_on,omitempty"`
	// Share of the group that a storm disconnects; 0: 1.
	Share float64 `toml:"share,omitempty" least:"0.000001" most:"1" usual:"none"`
	// Gentle storms end their streams. Others only close the connection.
	Gentle bool `toml:"gentle,omitempty"`
	// Stars and Friends are of befriend: each of the first Stars clients of the group gets Friends
	// subscribers among the others. With Stars = 0 each client gets the Friends clients that follow
	// it, in a ring.
	Stars   int `toml:"stars,omitempty" least:"0"`
	Friends int `toml:"friends,omitempty" least:"1" usual:"none"` // Friends: see Stars.
	// Rooms and Occupants are of join: the group's clients enter Rooms rooms, with Occupants in each.
	// Clients that are left over enter none.
	Rooms     int `toml:"rooms,omitempty" least:"1" usual:"none"`
	Occupants int `toml:"occupants,omitempty" least:"1" usual:"none"` // Occupants: see Rooms.
	// To of push is the group of its app servers, whose clients are online; of fill that which gets the
	// messages; of befriend that of the subscribers, of which each client gets Friends in turn, or so many that
	// all of To have a contact.
	To string `toml:"to,omitempty"`
	// Rows of fill is how many messages each client of To gets.
	Rows int `toml:"rows,omitempty" least:"1" usual:"none"`
	// Away of fill: To is offline, and messages go to its bare addresses.
	Away bool `toml:"away,omitempty"`
	// Rounds of a ramp: it logs the clients in so often, and ends their streams in between; 0: once.
	Rounds int `toml:"rounds,omitempty" least:"1"`
	// Off of carbons: they are turned off. Of csi: the clients are active again.
	Off bool `toml:"off,omitempty"`
	// Base of a hold or a ramp is the name of an earlier one that does the same without what is to be
	// measured: the figure added_cpu_us is by how much an operation of this phase costs the server more, and
	// cpu_ratio is how many times as much. Of a settle it is an earlier one: what has come since, resting
	// sessions or messages to clients that are away, is what the server's memory has grown by.
	Base string `toml:"base,omitempty"`
	// Do has the actions of a hold or a storm, which run side by side.
	Do []Action `toml:"do,omitempty"`
}

// Kinds of actions.
const (
	Chat      = "chat"      // messages between clients
	Presence  = "presence"  // presence broadcasts to subscribers, see Befriend
	Roster    = "roster"    // roster sets: add, rename, remove
	GroupChat = "groupchat" // messages to chat rooms, see Join
	Archive   = "archive"   // pages of the account's own archive (XEP-0313)
	Ping      = "ping"      // XEP-0199, to the server
	Slow      = "slow"      // the group stops reading for the length of the phase
	// each client writes messages to its partner as fast as the server takes them
	Flood = "flood"
)

// Hostile begins the names of attacks: "hostile-halfopen" and so on, see [hostile.Kinds]. An attack
// has Count connections of its own, and accounts with the numbers after those of the clients: see
// [Scenario.Accounts]. Its Rate, if any, bounds how much all its connections do.
const Hostile = "hostile-"

// maxHostile bounds an attack: each of its connections has goroutines and a file descriptor of this
// process.
const maxHostile = 20000

// An Action is what a group does in a hold or storm: at a Rate (open loop), where latencies count
// from the time at which an operation was due, or with a Window (closed loop), where the next
// operation begins when one has ended.
type Action struct {
	// Kind is one of the constants from Chat to Flood, or an attack.
	Kind string `toml:"kind,omitempty"`
	// Step is its name in results; "": the Kind. It is unique in a phase.
	Step  string `toml:"step,omitempty"`
	Group string `toml:"group,omitempty"` // Group acts; "": the phase's first.
	// Rate of operations, of all processes together.
	Rate Rate `toml:"rate,omitempty" least:"1/h" usual:"none"`
	// RateTo lets the rate rise evenly to this one.
	RateTo   Rate   `toml:"rate_to,omitempty" least:"1/h"`
	Arrivals string `toml:"arrivals,omitempty"` // Arrivals is "even" (the default) or "poisson".
	// Window is how many operations are in flight.
	Window int `toml:"window,omitempty" least:"1" usual:"none"`
	// Body of a message, in bytes; 0: 100.
	Body int `toml:"body,omitempty" least:"1" most:"60000"`
	// Partners of chat: "pairs" (the default), "ring", or "zipf": few clients receive most messages.
	Partners string `toml:"partners,omitempty"`
	// Zipf is the exponent of that, over 1; 0: 1.1.
	Zipf float64 `toml:"zipf,omitempty" least:"1.01"`
	// Late: longer latencies are counted as late; 0: 10 ms.
	Late Span `toml:"late,omitempty" least:"1us"`
	Page int  `toml:"page,omitempty" least:"1"` // Page of an archive, in messages; 0: 50.
	// Pages of archive: "walk" (the default; back through the archive, and again), "last" (the newest),
	// "first" (the oldest), "before" or "after" a row somewhere in the archive, "with" one contact, or "start"
	// at a time.
	Pages string `toml:"pages,omitempty"`
	// Contacts of roster: so many are added, one after another, and kept.
	Contacts int `toml:"contacts,omitempty" least:"0"`
	// Count of an attack's connections; 0: 100.
	Count int `toml:"count,omitempty" least:"1" most:"20000"`
	// To is the group that receives chat and flood messages; "": partners in the own group.
	To string `toml:"to,omitempty"`
	// Away of chat: the receivers are offline, and messages go to their bare addresses. A message is done
	// when a later ramp has brought it.
	Away bool `toml:"away,omitempty"`
	// Pushed of chat with Away: the receivers have registered in a phase of kind push. The pushes are counted
	// as a step of their own, "chat-pushes".
	Pushed bool `toml:"pushed,omitempty"`
	// Copies of chat is the group with Of that gets carbons of what To receives. They are counted as a step
	// of their own, "chat-carbons".
	Copies string `toml:"copies,omitempty"`
	// Held of presence: the receivers have said in a phase of kind csi that they are inactive. A presence
	// that is superseded by a later one is done when that comes; the last one in a csi with Off.
	Held bool `toml:"held,omitempty"`
	// Stars of presence: only the first clients of the group send; 0: those with subscribers.
	Stars int `toml:"stars,omitempty" least:"0"`

	fills bool // it is that of a fill: see Fleet.fill
}

// A Span is a time.Duration that is written "1m30s".
type Span time.Duration

// UnmarshalText reads "1m30s". A negative length is an error.
func (s *Span) UnmarshalText(b []byte) error {
	d, err := time.ParseDuration(string(b))
	if err == nil && d < 0 {
		err = errors.New("a length of time is not negative")
	}
	*s = Span(d)
	return err
}

// MarshalText writes what UnmarshalText reads.
func (s Span) MarshalText() ([]byte, error) { return []byte(time.Duration(s).String()), nil }

// A Rate is operations a second. It is written "500/s", "30/m" or "100/h".
type Rate float64

// MaxRate is the highest rate: an operation each nanosecond, the resolution of a schedule.
const MaxRate Rate = 1e9

const maxRateText = "1000000000/s"

// UnmarshalText reads "500/s", "30/m" or "100/h".
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

// MarshalText writes operations a second.
func (r Rate) MarshalText() ([]byte, error) { return fmt.Appendf(nil, "%g/s", float64(r)), nil }

// Parse reads a scenario and checks it. name is for errors, which are one line with file, line,
// cause and remedy.
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
	phaseKinds = []string{Ramp, Hold, Storm, Befriend, Join, Carbons, SM, CSI, Push, Fill, Settle, Cut,
		Restart, Drain}
	actionKinds = []string{Chat, Presence, Roster, GroupChat, Archive, Ping, Slow, Flood}
	features    = []string{"muc", "mam", "sm", "carbons", "csi", "push", "sasl2", "register"}
)

// Check fills in defaults, and returns an error if the scenario can't be run. The error is a
// tomlstrict.Misplaced, so that [Parse] can add the line.
//
// Its steps: it checks what all clients have in common; it computes the size of each group from
// counts and shares; it checks each phase, and the actions of each.
func (s *Scenario) Check() error {
	setDefault(&s.Clients.TLS, "none")
	setDefault(&s.Clients.SASL2, "auto")
	setDefault(&s.Clients.Timeout, Span(time.Minute))
	if !slices.Contains([]string{"none", "starttls", "direct"}, s.Clients.TLS) {
		return tomlstrict.At(tomlstrict.Path{"clients", "tls"}, "clients.tls is %q: none, starttls or direct",
			s.Clients.TLS)
	}
	if !slices.Contains([]string{"auto", "off", "require"}, s.Clients.SASL2) {
		return tomlstrict.At(tomlstrict.Path{"clients", "sasl2"}, "clients.sasl2 is %q: auto, off or require",
			s.Clients.SASL2)
	}
	if !slices.Contains([]string{"", "PLAIN", "SCRAM-SHA-1", "SCRAM-SHA-256", "SCRAM-SHA-512"},
		s.Clients.Mechanism) {
		return tomlstrict.At(tomlstrict.Path{"clients", "mechanism"},
			"clients.mechanism is %q: PLAIN, SCRAM-SHA-1, SCRAM-SHA-256, SCRAM-SHA-512, or nothing for what is "+
				"offered", s.Clients.Mechanism)
	}
	if _, ok := curvesByName[s.Clients.KeyExchange]; !ok {
		return tomlstrict.At(tomlstrict.Path{"clients", "key_exchange"},
			"clients.key_exchange is %q: X25519, P-256, X25519MLKEM768, or nothing for what crypto/tls offers",
			s.Clients.KeyExchange)
	}
	if s.Clients.Resume && !s.Clients.SM {
		return tomlstrict.At(tomlstrict.Path{"clients", "resume"},
			"clients.resume is for sessions with stream management: sm = true")
	}
	for _, f := range s.Requires {
		if !slices.Contains(features, f) {
			return tomlstrict.At(tomlstrict.Path{"requires"}, "requires has %q: one of %s", f,
				strings.Join(features, ", "))
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
		if g.Of != "" {
			if g.Share != 0 {
				return tomlstrict.At(append(here, "share"), "group %q is of %q, and has a share: leave it out, it has "+
					"as many clients as the other", g.Name, g.Of)
			}
			continue
		}
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
		return tomlstrict.At(tomlstrict.Path{"group", 0},
			"the shares of the groups are %g together: they make 1 of clients.count", shares)
	}
	total := 0
	for i, n := range apportion(weights, wanted) {
		g := &s.Groups[i]
		if g.Of != "" {
			continue
		}
		if g.Count == 0 {
			g.Count, g.Share = n, 0 // a second Check must not round again
		}
		if g.Count <= 0 {
			return tomlstrict.At(tomlstrict.Path{"group", i},
				"group %q has no clients: set its count, or its share and clients.count", g.Name)
		}
		total += g.Count
	}
	if s.Clients.Count != 0 && s.Clients.Count != total {
		return tomlstrict.At(tomlstrict.Path{"clients", "count"},
			"clients.count is %d, and the groups have %d together: leave it out, or give the groups shares of it",
			s.Clients.Count, total)
	}
	s.Clients.Count = total
	for i := range s.Groups {
		if err := s.checkOf(&s.Groups[i], tomlstrict.Path{"group", i}); err != nil {
			return err
		}
	}
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
			return tomlstrict.At(here("kind"), "phase %q: kind is %q: one of %s", p.Name, p.Kind,
				strings.Join(phaseKinds, ", "))
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
			if s.group(g).Of != "" && (p.Kind == Befriend || p.Kind == Join) {
				return tomlstrict.At(here("group"), "phase %q: group %q has second devices: the first ones of their "+
					"accounts can %s others", p.Name, g, p.Kind)
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
		if p.Base != "" && !slices.ContainsFunc(s.Phases[:i], func(q Phase) bool {
			return q.Name == p.Base && q.Kind == p.Kind
		}) {
			return tomlstrict.At(here("base"), "phase %q: there is no %s %q before it", p.Name, p.Kind,
				p.Base)
		}
		if p.Rate > MaxRate {
			return tomlstrict.At(here("rate"), "phase %q: the rate is %g/s: up to %s", p.Name, float64(p.Rate),
				maxRateText)
		}
		clients := s.members(p.Group)
		if p.Kind == Storm && int(float64(clients)*p.Share+.5) == 0 {
			return tomlstrict.At(here("share"), "phase %q: a share of %g is none of %d clients: a larger one, "+
				"or more clients", p.Name, p.Share, clients)
		}
		if p.Kind == Befriend && p.Stars > 0 && clients-min(p.Stars, clients) < p.Friends {
			return tomlstrict.At(here("friends"), "phase %q: a star needs %d friends, and there are %d other "+
				"clients: fewer "+
				"friends, or more clients", p.Name, p.Friends, clients-min(p.Stars, clients))
		}
		if p.Kind == Befriend && p.To != "" {
			if !names[p.To] || slices.Contains(p.Group, p.To) || s.apart(p.To) {
				return tomlstrict.At(here("to"), "phase %q: to is %q: it is the group of the subscribers, which have "+
					"none themselves", p.Name, p.To)
			}
			if p.Stars > 0 {
				return tomlstrict.At(here("stars"), "phase %q: with to, each client has subscribers: leave stars out",
					p.Name)
			}
		}
		if p.Kind == Befriend && p.To == "" && p.Friends <= 0 {
			return tomlstrict.At(here("friends"), "phase %q: how many friends?", p.Name)
		}
		if p.Kind == SM && s.Clients.SM {
			return tomlstrict.At(here("kind"), "phase %q: with clients.sm, stream management is on already", p.Name)
		}
		if p.Kind == Join && (p.Rooms <= 0 || p.Occupants <= 0) {
			return tomlstrict.At(here("rooms"), "phase %q: how many rooms and occupants?", p.Name)
		}
		if need := float64(p.Rooms) * float64(p.Occupants); p.Kind == Join && need > float64(clients) {
			return tomlstrict.At(here("rooms"), "phase %q: %d rooms of %d are more than %d clients: fewer "+
				"rooms or occupants, or more clients", p.Name, p.Rooms, p.Occupants, clients)
		}
		if p.Kind == Fill && (!names[p.To] || slices.Contains(p.Group, p.To) || s.apart(p.To)) {
			return tomlstrict.At(here("to"), "phase %q: to is %q: it is the group that the others write to, in their "+
				"process", p.Name, p.To)
		}
		if p.Kind == Fill && p.Rows <= 0 {
			return tomlstrict.At(here("rows"), "phase %q: how many rows?", p.Name)
		}
		if p.Kind == Push && (!names[p.To] || slices.Contains(p.Group, p.To)) {
			return tomlstrict.At(here("to"), "phase %q: to is %q: it is the group of the app servers, which do not "+
				"register themselves", p.Name, p.To)
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
					return tomlstrict.At(append(tomlstrict.Path{"phase", i, "do", j}, m.Path...), "phase %q: %s",
						p.Name, m.Why)
				}
				return tomlstrict.At(tomlstrict.Path{"phase", i, "do", j}, "phase %q: %v", p.Name, err)
			}
		}
	}
	return s.checkAway()
}

// checkAway is Check of the actions with Away. Their receivers have to log in afterwards, or all messages
// would count as lost; and for pushes they have to register before.
func (s *Scenario) checkAway() error {
	with := func(list []Phase, kind, group string) bool {
		return slices.ContainsFunc(list, func(p Phase) bool {
			return p.Kind == kind && slices.Contains(p.Group, group) && (kind != Ramp || p.Grace > 0)
		})
	}
	for i, p := range s.Phases {
		if p.Kind == Fill && p.Away && !with(s.Phases[i+1:], Ramp, p.To) {
			return tomlstrict.At(tomlstrict.Path{"phase", i, "away"}, "phase %q: no ramp after it logs %q in and "+
				"has a grace, in which the messages come: all would count as lost", p.Name, p.To)
		}
		for j, a := range p.Do {
			switch here := (tomlstrict.Path{"phase", i, "do", j}); {
			case a.Away && !with(s.Phases[i+1:], Ramp, a.To):
				return tomlstrict.At(append(here, "away"), "phase %q: %q: no ramp after it logs %q in and has a grace, "+
					"in which the messages come: all would count as lost", p.Name, a.Step, a.To)
			case a.Held && !slices.ContainsFunc(s.Phases[i+1:], func(q Phase) bool { return q.Kind == CSI && q.Off }):
				return tomlstrict.At(append(here, "held"), "phase %q: %q: no csi with off comes after it, in which the "+
					"last presence comes: it would count as lost", p.Name, a.Step)
			case a.Pushed && !with(s.Phases[:i], Push, a.To):
				return tomlstrict.At(append(here, "pushed"), "phase %q: %q: no phase of kind push before it registers "+
					"%q", p.Name, a.Step, a.To)
			}
		}
	}
	return nil
}

// checkFields checks the fields of a phase against its kind. It rejects fields that the kind does
// not use, and a rate together with in_flight; fills in the defaults of the kind; and checks the
// share of a storm. here returns the path of a field in the file, for the errors, which name the
// field and the phase.
func (p *Phase) checkFields(here func(key string) tomlstrict.Path) error {
	for _, f := range []struct {
		key   string
		set   bool
		kinds []string
	}{
		{"rate", p.Rate != 0, []string{Ramp, Storm}},
		{"in_flight", p.InFlight != 0, []string{Ramp, Storm, Befriend, Join, Carbons, SM, CSI, Push, Fill}},
		{"grace", p.Grace != 0, []string{Hold, Ramp, CSI}},
		{"to", p.To != "", []string{Push, Fill, Befriend}},
		{"rows", p.Rows != 0, []string{Fill}},
		{"away", p.Away, []string{Fill}},
		{"rounds", p.Rounds != 0, []string{Ramp}},
		{"go_on", p.GoOn, []string{Ramp}},
		{"share", p.Share != 0, []string{Storm}},
		{"gentle", p.Gentle, []string{Storm}},
		{"stars", p.Stars != 0, []string{Befriend}},
		{"friends", p.Friends != 0, []string{Befriend}},
		{"rooms", p.Rooms != 0, []string{Join}},
		{"occupants", p.Occupants != 0, []string{Join}},
		{"off", p.Off, []string{Carbons, CSI}},
		{"base", p.Base != "", []string{Hold, Ramp, Settle}},
	} {
		if f.set && !slices.Contains(f.kinds, p.Kind) {
			return tomlstrict.At(here(f.key), "phase %q: %s is for a %s: a %s does not use it", p.Name, f.key,
				strings.Join(f.kinds, " or a "), p.Kind)
		}
	}
	if p.Rate != 0 && p.InFlight != 0 {
		return tomlstrict.At(here("in_flight"), "phase %q has a rate (open loop), and in_flight (closed "+
			"loop): write one of them", p.Name)
	}
	switch {
	case p.Kind == Hold:
		setDefault(&p.Grace, Span(10*time.Second))
	case p.Kind == CSI:
		setDefault(&p.Grace, Span(10*time.Second))
		setDefault(&p.InFlight, 200)
	case p.Kind == Join:
		setDefault(&p.InFlight, 1)
	case (p.Kind == Ramp || p.Kind == Storm) && p.Rate == 0,
		slices.Contains([]string{Befriend, Carbons, SM, Push, Fill}, p.Kind):
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

// members is how many clients some groups have together.
func (s *Scenario) members(groups []string) (n int) {
	for _, g := range s.Groups {
		if slices.Contains(groups, g.Name) {
			n += g.Count
		}
	}
	return n
}

// checkOf is Check of the field Of of a group, whose path in the file is here. It sets the group's Count to
// that of the group that Of names.
func (s *Scenario) checkOf(g *Group, here tomlstrict.Path) error {
	if g.Of == "" {
		return nil
	}
	of := s.group(g.Of)
	switch {
	case of == nil:
		return tomlstrict.At(append(here, "of"), "group %q is of %q: there is no such group", g.Name, g.Of)
	case of.Of != "":
		return tomlstrict.At(append(here, "of"), "group %q is of %q, which has second devices itself: name the "+
			"group of the first ones", g.Name, g.Of)
	case g.Apart != of.Apart:
		return tomlstrict.At(append(here, "of"), "of groups %q and %q one is apart: the devices of an account are "+
			"in one process", g.Name, g.Of)
	case g.Count != 0 && g.Count != of.Count:
		return tomlstrict.At(append(here, "count"), "group %q is of %q, and has a count: leave it out, it has as "+
			"many clients as the other", g.Name, g.Of)
	}
	g.Count = of.Count
	return nil
}

// group is the group of that name; nil if there is none.
func (s *Scenario) group(name string) *Group {
	for i := range s.Groups {
		if s.Groups[i].Name == name {
			return &s.Groups[i]
		}
	}
	return nil
}

// apportion rounds weights to whole numbers that add up to n, by largest remainders (Hamilton's
// method). Weights that do not add up to n, within 1, are rounded one by one.
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

// check is Check of one action of p. The path of its errors begins at the action.
//
// Its steps: kind, name and groups; attacks; fields that the kind does not use; exactly one of rate
// and window; limits and defaults.
func (a *Action) check(s *Scenario, p *Phase, groups, steps map[string]bool) error {
	setDefault(&a.Step, a.Kind)
	attack := strings.HasPrefix(a.Kind, Hostile)
	if !attack && !slices.Contains(actionKinds, a.Kind) {
		return tomlstrict.At(tomlstrict.Path{"kind"}, "kind of %q is %q: one of %s, or %s…", a.Step, a.Kind,
			strings.Join(actionKinds, ", "), Hostile)
	}
	if steps[a.Step] || strings.ContainsAny(a.Step, ". ") {
		return tomlstrict.At(tomlstrict.Path{"step"}, "%q needs a step of its own, without dots and blanks", a.Step)
	}
	steps[a.Step] = true
	for effect, key := range a.effects() {
		if steps[effect] {
			return tomlstrict.At(tomlstrict.Path{key}, "%q: %s needs the step %q for what it counts, and there is an "+
				"action of that name", a.Step, key, effect)
		}
		steps[effect] = true
	}
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
		return tomlstrict.At(tomlstrict.Path{"to"},
			"%q: of %q and %q one is apart: senders and receivers must be in one process", a.Step, a.Group, a.To)
	}
	if attack {
		if err := hostile.Check(strings.TrimPrefix(a.Kind, Hostile)); err != nil {
			return fmt.Errorf("%q: %w", a.Step, err)
		}
		if a.Count < 0 || a.Count > maxHostile {
			return tomlstrict.At(tomlstrict.Path{"count"}, "%q: count is %d: up to %d", a.Step, a.Count, maxHostile)
		}
	}
	if a.Copies != "" && (!groups[a.Copies] || s.group(a.Copies).Of != a.To || a.To == "") {
		return tomlstrict.At(tomlstrict.Path{"copies"},
			"%q: copies is %q: it is a group whose clients are second devices of the group in to (of = \"…\")",
			a.Step, a.Copies)
	}
	paced := !attack && a.Kind != Slow && a.Kind != Flood
	for _, f := range []struct {
		key   string
		set   bool
		means bool
		what  string // the kinds that use it
	}{
		{"rate", a.Rate != 0, paced || attack, "what has single operations: not for slow and flood"},
		{"window", a.Window != 0, paced, "what has single operations: not for slow, flood and attacks"},
		{"rate_to", a.RateTo != 0, paced && a.Rate != 0, "a rate (open loop) that rises"},
		{"arrivals", a.Arrivals != "", paced && a.Rate != 0, "a rate (open loop)"},
		{"body", a.Body != 0, a.Kind == Chat || a.Kind == GroupChat || a.Kind == Flood,
			"chat, groupchat and flood"},
		{"partners", a.Partners != "", a.Kind == Chat, "chat"},
		{"zipf", a.Zipf != 0, a.Kind == Chat && a.Partners == "zipf", `chat with partners = "zipf"`},
		{"late", a.Late != 0, paced || a.Kind == Flood, "what has single operations: not for slow and attacks"},
		{"page", a.Page != 0, a.Kind == Archive, "archive"},
		{"pages", a.Pages != "", a.Kind == Archive, "archive"},
		{"contacts", a.Contacts != 0, a.Kind == Roster, "roster"},
		{"count", a.Count != 0, attack, "attacks (" + Hostile + "…)"},
		{"to", a.To != "", a.Kind == Chat || a.Kind == Flood, "chat and flood"},
		{"copies", a.Copies != "", a.Kind == Chat && !a.Away, "chat without away"},
		{"away", a.Away, a.Kind == Chat && a.To != "", "chat with to"},
		{"pushed", a.Pushed, a.Kind == Chat && a.Away, "chat with away"},
		{"stars", a.Stars != 0, a.Kind == Presence, "presence"},
		{"held", a.Held, a.Kind == Presence && a.Rate != 0, "presence with a rate"},
	} {
		if f.set && !f.means {
			return tomlstrict.At(tomlstrict.Path{f.key}, "%q does not use %s: it is for %s", a.Step, f.key, f.what)
		}
	}
	if paced && (a.Rate > 0) == (a.Window > 0) {
		return tomlstrict.At(tomlstrict.Path{"rate"},
			"%q needs a rate (open loop), or a window (closed loop)", a.Step)
	}
	for key, r := range map[string]Rate{"rate": a.Rate, "rate_to": a.RateTo} {
		if r > MaxRate {
			return tomlstrict.At(tomlstrict.Path{key}, "%q: %s is %g/s: up to %s", a.Step, key, float64(r),
				maxRateText)
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
		setDefault(&a.Pages, pagesWalk)
		if !slices.Contains(pageKinds, a.Pages) {
			return tomlstrict.At(tomlstrict.Path{"pages"}, "%q: pages is %q: one of %s", a.Step, a.Pages,
				strings.Join(pageKinds, ", "))
		}
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
		return tomlstrict.At(tomlstrict.Path{"partners"}, "%q: partners is %q: pairs, zipf or ring", a.Step,
			a.Partners)
	}
	if a.Partners == "zipf" && !(a.Zipf > 1) {
		return tomlstrict.At(tomlstrict.Path{"zipf"}, "%q: zipf is %g: it must be over 1", a.Step, a.Zipf)
	}
	if a.Body < 0 || a.Body > 60000 {
		return tomlstrict.At(tomlstrict.Path{"body"}, "%q: body is %d: from 0 to 60,000 bytes", a.Step, a.Body)
	}
	return nil
}

// effects are the steps of what an action causes, by name, with the keys that ask for them.
func (a *Action) effects() map[string]string {
	m := make(map[string]string)
	if a.Copies != "" {
		m[a.Step+"-carbons"] = "copies"
	}
	if a.Pushed {
		m[a.Step+"-pushes"] = "pushed"
	}
	return m
}

// apart reports whether a group is Apart, or, for "", whether any is.
func (s *Scenario) apart(group string) bool {
	return slices.ContainsFunc(s.Groups, func(g Group) bool {
		return g.Apart &&
			(group == "" || g.Name == group)
	})
}

// Overrides are what a command line, or a case of a suite, changes in a scenario. The zero value of
// a field changes nothing.
type Overrides struct {
	// Clients of all groups; the groups keep their shares.
	Clients int     `toml:"clients" least:"1"`
	Rates   float64 `toml:"rates" least:"0.000001"` // Rates multiplies all rates.
	// Rate is "max" or nothing: operations of holds that have a rate follow each other instead, with
	// MaxWindow in flight.
	Rate      string `toml:"rate"`
	Rows      int    `toml:"rows" least:"1"`     // Rows of each fill of archives.
	Length    Span   `toml:"length" least:"1ms"` // Length of each hold.
	TLS       string `toml:"tls"`                // TLS: see Clients.
	Mechanism string `toml:"mechanism"`          // Mechanism: see Clients.
	SASL2     string `toml:"sasl2"`              // SASL2: see Clients.
	FAST      bool   `toml:"fast"`               // FAST turns it on.
	SM        bool   `toml:"sm"`                 // SM turns it on.
	Carbons   bool   `toml:"carbons"`            // Carbons turns it on.
	Resume    bool   `toml:"resume"`             // Resume turns it on, with SM.
	// Restart puts a restart of the server before the first ramp that logs clients in again which were cut
	// off; the other clients come back before them.
	Restart   bool `toml:"restart"`
	Friends   int  `toml:"friends" least:"1"`   // Friends of each befriend phase.
	Occupants int  `toml:"occupants" least:"1"` // Occupants of each join phase.
}

// MaxWindow is how many operations are in flight where [Overrides] has the rate "max".
const MaxWindow = 500

// overrideRows sets the rows of all fills of clients that are online: others fill what waits for clients that
// are away.
func (s *Scenario) overrideRows(rows int) error {
	any := false
	for i := range s.Phases {
		if p := &s.Phases[i]; p.Kind == Fill && !p.Away {
			p.Rows, any = rows, true
		}
	}
	if !any {
		return fmt.Errorf("%d rows: the scenario fills no archive: archive-rows and archive-login do", rows)
	}
	return nil
}

// overrideRestart inserts a restart before the first ramp after a cut, and between them a ramp of the groups
// that are not in it, and a settle in which they get what they missed.
func (s *Scenario) overrideRestart() error {
	if at := slices.IndexFunc(s.Phases, func(p Phase) bool { return p.Kind == Cut }); at >= 0 {
		if next := slices.IndexFunc(s.Phases[at:], func(p Phase) bool { return p.Kind == Ramp }); next >= 0 {
			at += next
			var others []string
			for _, g := range s.Groups {
				if !slices.Contains(s.Phases[at].Group, g.Name) {
					others = append(others, g.Name)
				}
			}
			more := []Phase{{Name: "restart", Kind: Restart}}
			if len(others) > 0 {
				more = append(more, Phase{Name: "others-back", Kind: Ramp, Group: others},
					Phase{Name: "others-settle", Kind: Settle, Length: Span(2 * time.Second)})
			}
			s.Phases = slices.Insert(s.Phases, at, more...)
			return nil
		}
	}
	return errors.New("the scenario cuts no clients off that come back: resume does")
}

// overrideRate makes closed loops of the actions of a hold.
func (p *Phase) overrideRate() {
	for i := range p.Do {
		if a := &p.Do[i]; a.Rate > 0 && !strings.HasPrefix(a.Kind, Hostile) {
			a.Rate, a.RateTo, a.Arrivals, a.Window = 0, 0, "", MaxWindow
		}
	}
}

// Override changes the scenario as the flags of the command line ask, and checks the result. A number of
// clients is divided among the groups in their old proportions, at least one each; TLS, mechanism and
// SASL2 replace; FAST, stream management, carbons and resumption are only turned on; a length is for phases
// that hold; rates are factors, and the rate "max" is as many as the server takes; a restart is a phase more.
// The error says why the scenario can't be run so.
func (s *Scenario) Override(c Overrides) error {
	if c.Clients > 0 && s.Clients.Count > 0 {
		divided := 0
		weights := make([]float64, len(s.Groups))
		for i := range s.Groups {
			if g := &s.Groups[i]; g.Of != "" {
				g.Count = 0 // that of the other group, which Check knows
			} else {
				divided++
				weights[i] = float64(g.Count) / float64(s.Clients.Count) * float64(c.Clients)
			}
		}
		if c.Clients < divided {
			return fmt.Errorf("%d clients can't be %d groups: a client for each of them at least", c.Clients,
				divided)
		}
		parts := apportion(weights, c.Clients)
		for i := range parts {
			if parts[i] == 0 && s.Groups[i].Of == "" { // the largest group gives a client to one that would have none
				parts[slices.Index(parts, slices.Max(parts))]--
				parts[i]++
			}
		}
		for i := range parts {
			s.Groups[i].Count = parts[i] // 0 of a group with Of
		}
		s.Clients.Count = c.Clients
	}
	if c.Rows > 0 {
		if err := s.overrideRows(c.Rows); err != nil {
			return err
		}
	}
	if c.Rate != "" && c.Rate != "max" {
		return fmt.Errorf("the rate is %q: max, or nothing for that of the scenario", c.Rate)
	}
	if c.Restart {
		if err := s.overrideRestart(); err != nil {
			return err
		}
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
	s.Clients.SM = s.Clients.SM || c.SM || c.Resume
	s.Clients.Resume = s.Clients.Resume || c.Resume
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
		if c.Rate == "max" && p.Kind == Hold {
			p.overrideRate()
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

// Accounts is how many accounts the scenario needs: one for each client, without second devices, and,
// after those, one for each connection of the largest attack. It is good after Check.
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

// Sessions is how many clients the scenario has, with second devices. It is good after Check.
func (s *Scenario) Sessions() int {
	n := 0
	for _, g := range s.Groups {
		n += g.Count
	}
	return n
}

// Source is the text that the scenario was read from. If it was overridden or made in Go, Source is
// a text that means the same.
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

// setDefault sets *v to d if it has the zero value.
func setDefault[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}
