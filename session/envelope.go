package session

import (
	"canto/session/jid"
	"canto/session/stanza"
	"canto/session/stanzaid"
)

// Target is what kind of address a stanza is for, seen from this server. Hooks register for one
// Target or for several.
type Target uint8

// The targets.
const (
	ToSelf Target = iota // no 'to', or the sender's own bare JID
	ToBare               // a bare JID of ours
	ToFull               // a full JID of ours
	ToHost               // a domain of ours
	numTargets
)

// Targets lists all targets, for hooks that treat them alike.
var Targets = []Target{ToSelf, ToBare, ToFull, ToHost}

// An Origin names the client's stanza that the present one is, or that has caused it. It is a value, so
// that it means the same on each loop. It is zero for what the server sends of itself.
type Origin struct {
	Stream StreamRef // the client's stream
	Number uint32    // of the stanza in its stream, from 1; 0: the stream is not tracked
}

// An envelope is a stanza on its way between two entities, as values only: addresses, bytes and numbers. It
// has no pointer to an entity, a stream or a loop, and so means the same on another loop and later.
type envelope struct {
	from, to         jid.JID
	bytes            []byte // in the mail queue's buffer, or the own copy of an inbox or a job
	lang             string // xml:lang of the sender's stream
	origin           Origin
	lastWrite        Ticket      // with settlesOrigin: see Stanza.lastWrite
	creationTicket   Ticket      // see Stanza.creationTicket
	senderTicket     Ticket      // see Stanza.senderTicket
	number           stanzaid.ID // see Stanza.Number
	archived         bool        // see Stanza.Archived
	again            bool        // see Stanza.Again
	kind             stanza.Kind
	target           Target
	hops             uint8  // how often a hook has sent it on: see maxHops
	originLoopNumber uint16 // loop number (index + 1) of the sender's connection; 0: not known
	form             envelopeForm
	settlesOrigin    bool // the origin is settled where this stanza ends
	prePending       bool // the sender's Pre chain has not run yet
	noTo             bool // it was sent without 'to'
	unprocessed      bool // it refuses a stanza that no entity has processed: see sendReply
}

// An envelopeForm says what the bytes of an envelope are.
type envelopeForm uint8

// The forms.
const (
	formStanza        envelopeForm = iota // one element; the chains of hooks process it
	formReply                             // one element that this server made for one session; no chain runs
	formMoreAvailable                     // from an entity to a session: it has more, see MoreWhenDrained
	formMoreRequest                       // from a session to an entity: send more; the bytes are its cursor
)
