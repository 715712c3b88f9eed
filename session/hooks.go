package session

import (
	"sort"

	"canto/session/jid"
	"canto/xmlstream"
)

// A Verdict is what a hook says of a stanza: ask the next hook, or it is handled here and no other is
// asked.
type Verdict uint8

// The two verdicts.
const (
	Pass Verdict = iota
	Done
)

// Target is whom a stanza is addressed to, seen from this server.
type Target uint8

// ToSelf: no 'to', or the sender's own bare JID. ToBare and ToFull: an account of ours; ToHost: a
// domain of ours.
const (
	ToSelf Target = iota
	ToBare
	ToFull
	ToHost
	numTargets
)

// Targets are all of them, for hooks that make no difference.
var Targets = []Target{ToSelf, ToBare, ToFull, ToHost}

// A Phase says when, among the hooks of one Chain, a hook is asked. What must come first has a name
// here instead of a larger number in some module.
type Phase uint8

// The phases, in order.
const (
	Guard    Phase = iota // may it pass? blocking, limits, permissions
	Rewrite               // what should it say? stanza ids, stripped payloads
	Archive               // keep it: MAM. Its id is drawn under the lock that delivery holds
	Copy                  // who else gets it? carbons, push
	Deliver               // hand it over
	Fallback              // it was not taken: offline storage, errors
	Record                // what became of it is known, and is written down: see [Stanza.Outcome] and [Stanza.Batch]
)

type link[F any] struct {
	f      F
	phase  Phase
	module string
}

// A Chain is an ordered list of hooks of one type. Modules add to it in Load; it is fixed from then
// on, so running it takes no lock of its own. Hooks never wait.
type Chain[F any] struct{ links, records []link[F] }

// Add puts f among the hooks of its phase, in load order. Those of phase Record are asked whatever the others said, and
// what they say makes no difference.
func (c *Chain[F]) Add(module string, ph Phase, f F) {
	if ph == Record {
		c.records = append(c.records, link[F]{f, ph, module})
		return
	}
	c.links = append(c.links, link[F]{f, ph, module})
	sort.SliceStable(c.links, func(i, j int) bool { return c.links[i].phase < c.links[j].phase })
}

// StanzaFunc is the type of most hooks.
type StanzaFunc func(ev *Stanza) Verdict

// SessionFunc runs under the account's lock.
type SessionFunc func(l *Local, s *Session)

// Run asks each of c until one is Done.
func Run(c *Chain[StanzaFunc], ev *Stanza) Verdict {
	for i := range c.links {
		if c.links[i].f(ev) == Done {
			return Done
		}
	}
	return Pass
}

// runPhases asks the links of c whose phase is in [from, to).
func runPhases(c *Chain[StanzaFunc], ev *Stanza, from, to Phase) Verdict {
	for i := range c.links {
		if p := c.links[i].phase; p < from || p >= to {
			continue
		}
		if c.links[i].f(ev) == Done {
			return Done
		}
	}
	return Pass
}

func runSessions(c *Chain[SessionFunc], l *Local, s *Session) {
	for i := range c.links {
		c.links[i].f(l, s)
	}
}

// Traits say what a stream is by now; a stream feature is offered by them.
type Traits uint8

// The traits.
const (
	Secure Traits = 1 << iota
	HasUser
	HasResource
	S2S
)

// A StreamFeature is one child of <stream:features/> (RFC 6120 §4.3.2): on which streams it is
// offered, how it is written there, and what the peer's answer does. On the stream's loop, under no
// lock.
type StreamFeature struct {
	Name           xmlstream.Name   // of the element that begins it
	More           []xmlstream.Name // of elements that go on with it
	IQ             bool             // Name is the payload of an iq of type set, sent before there is a session
	Needs, Forbids Traits
	Open           func(st Negotiation) bool // beside the traits: whether it is offered now, and so accepted. nil: yes
	Offer          func(st Negotiation, a *xmlstream.Appender)
	Handle         func(st Negotiation, e xmlstream.Element)
}

// Hooks are all the places where a module can take part: one field, one place. One Hooks serves all
// hosts of a Profile.
type Hooks struct {
	// Features are what streams may negotiate, in the order offered.
	Features []StreamFeature
	// Pre chains run for a stanza that a local client sent, before it is routed, under the sender's
	// lock, by the target it has. Done drops it.
	PreMessage, PrePresence, PreIQ [numTargets]Chain[StanzaFunc]
	// Chains are those of accounts, and for ToHost those of the host itself, which run under no lock.
	Chains
	// Absent runs for an iq to an address of ours without an account, and for one to an account that hides from the
	// sender: what is answered there with something else than service-unavailable. There is no account to look at.
	Absent Chain[StanzaFunc]
	// Refuses are asked, under the account's lock, before something that was kept is handed to one of its
	// clients: whether the account takes nothing from that address (XEP-0191). A live stanza is refused by the
	// Guard phase of its chain.
	Refuses []func(a *Account, from jid.JID) bool
	// Outgoing is asked about each element that is sent to a session, under the outbox lock.
	Outgoing Chain[OutFunc]
	// Bound and Unbound: a session gets or loses its resource. Available: its first presence with a
	// non-negative priority. Rested and Resumed: it lost its wire, or has another.
	Bound, Unbound, Available, Rested, Resumed Chain[SessionFunc]
	// Unsent is given what a session that ends had not sent.
	Unsent Chain[UnsentFunc]
	// Rest is asked when a session loses its wire and its client has not logged out: Done keeps it, resting, until
	// the module ends it. session.txt says after which endings it is asked.
	Rest Chain[func(l *Local, s *Session) Verdict]
	// Remote runs from the mail, under no lock, for a stanza to a domain that is not ours: Done if
	// somebody takes it there.
	Remote Chain[StanzaFunc]
	// Settled is called on the loop of a tracked stream when more of its stanzas are settled: all up to that
	// number; of those that are new, so many could not be stored, and were answered with an error. Under no lock.
	Settled Chain[func(st *Stream, number uint32, failed int)]
	// Make runs for a stanza to an address of a service host where there is nothing, under the lock of what may
	// come to be there: a hook may call [Stanza.Create].
	Make Chain[StanzaFunc]
	// Deleted says who is to be told that an account was deleted, and what: tell is called with a bare JID and a
	// stanza from the account's. It runs under the lock of an account that is in no table and has what is stored:
	// whether or not the account was in memory, and again after a crash.
	Deleted Chain[func(l *Local, a *Account, tell func(to jid.JID, el []byte))]

	kinds []*Behaviour // by KindID
	every Chains       // of iqs that every kind answers
}

// OnEveryIQ gives one payload to one handler for entities of every kind but accounts, where the kind itself has none.
// Under the entity's lock.
func (h *Hooks) OnEveryIQ(module string, set bool, name xmlstream.Name, f StanzaFunc, targets ...Target) {
	h.every.OnIQ(module, set, name, f, targets...)
}
