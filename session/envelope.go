package session

import (
	"canto/session/jid"
	"canto/session/stanza"
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

// An Origin says where a stanza comes from that a client sent: its stream, and which of that stream's
// stanzas it is, from 1; 0 on a stream that is not tracked. It is zero for what this server said of
// itself.
type Origin struct {
	Stream StreamRef
	Number uint32
}

// An envelope is a stanza between two entities: addresses, bytes and numbers, never a pointer, a function
// or an interface. It means the same on another loop and later.
type envelope struct {
	from, to         jid.JID
	bytes            []byte // in the loop's mail buffer, or an inbox's or a job's own copy
	lang             string // of the sender's stream
	origin           Origin // of a stanza that a client sent, and of what it sets off
	lastWrite        Ticket // what a carrier has made entities store so far
	creationTicket   Ticket // see Stanza
	kind             stanza.Kind
	target           Target
	hops             uint8
	originLoopNumber uint16 // of the connection that the stanza came from, and one; 0: not known
	form             envelopeForm
	settlesOrigin    bool // origin is settled where the stanza ends
	prePending       bool // the sender's Pre chain is yet to run
	noTo             bool // it had no 'to'
	unprocessed      bool // it answers a stanza that no entity has looked at: it waits for nothing
}

// An envelopeForm says what the bytes of an envelope are.
type envelopeForm uint8

const (
	formStanza envelopeForm = iota // one element, that chains look at
	formReply                      // one, made by this server for one session: no chain looks at it
	// of an entity to a session: it has more for it; the bytes say what. See [LoopRouter.MoreWhenDrained]
	formMoreAvailable
	formMoreRequest // of a session to an entity: it has room for that
)
