package session

import (
	"crypto/tls"
	"net/netip"
	"sync"

	"canto/reactor"
	"canto/session/jid"
	"canto/xmlstream"
)

// A Session is a resource, and outlives connections. It lives in its Account's list; everything is
// under the account's lock unless a comment says otherwise. It knows its stream by wire and ref
// only, never its loop, socket or TLS.
type Session struct {
	account  *Account  // never changes
	jid      jid.JID   // full; never changes
	presence []byte    // last broadcast presence, as it was sent; nil if unavailable
	vars     *varNode  // modules' own state, a list; nil for most
	flags    Flags     // modules' booleans
	stream   StreamRef // which one it has; zero: resting
	// that stream's; a resting where it rests. Both written under both locks, read under either
	wire     Wire
	outbox   *outbox // outbox lock; nil while nothing waits
	outboxMu sync.Mutex
	priority int8
	traits   Traits
	ending   Ending // outbox lock: what ends it, or its stream; notEnded: nothing
}

// Account is whose resource s is. Any goroutine.
func (s *Session) Account() *Account { return s.account }

// JID is the full JID. Any goroutine.
func (s *Session) JID() jid.JID { return s.jid }

// Host is the account's. Any goroutine.
func (s *Session) Host() *Host { return s.account.host }

// Traits are those of the stream that it has, or had last.
func (s *Session) Traits() Traits { return s.traits }

// Presence is the last broadcast presence as the client sent it, and its priority; nil if
// unavailable. The bytes are never changed: a new presence is a new slice.
func (s *Session) Presence() (p []byte, priority int8) { return s.presence, s.priority }

// SetPresence keeps p, which is never changed from now on, as the last broadcast presence; nil: unavailable.
func (s *Session) SetPresence(p []byte, priority int8) { s.presence, s.priority = p, priority }

// Connected reports whether s is a connected resource (RFC 6120 §7): bound, with a stream.
func (s *Session) Connected() bool { return s.stream != (StreamRef{}) }

// Available reports whether s is an available resource (RFC 6121 §4.2.1). Every one is connected, or
// rests.
func (s *Session) Available() bool { return s.presence != nil }

// Interested reports whether s is an interested resource (RFC 6121 §2.2): it asked for the roster.
func (s *Session) Interested() bool { return interested.Is(s) }

// SetInterested makes s an interested resource.
func (s *Session) SetInterested() { interested.Set(s, true) }

var interested = NewFlag("interested")

// hibernating reports whether s has no stream. Under the account's lock, or the outbox lock.
func (s *Session) hibernating() bool { return s.stream == (StreamRef{}) }

// Traits say what a stream is by now; a stream feature is offered by them.
type Traits uint8

// The traits.
const (
	Secure Traits = 1 << iota
	HasUser
	HasResource
	S2S
)

// An Ending is what has ended a stream, or a session that has none. The end of a stream is not the end of
// its session: what follows for the session is a row of the table in session.txt, and is decided by
// Account.endSession, but where the account can't be read for good: then the session is removed.
type Ending uint8

// The endings. Up to connLost they are of a stream; those after it are decisions that the session itself
// ends.
const (
	notEnded   Ending = iota // nothing has ended
	loggedOut                // the peer's end tag (RFC 6120 §4.4)
	peerError                // the peer's stream error (RFC 6120 §4.9)
	ourError                 // a stream error of ours, for what the peer has sent or for a failure here
	shutdown                 // the server stops (RFC 6120 §4.9.3.19)
	slowReader               // the client does not read, and more waits for it than may
	connLost                 // the connection was lost without an end tag
	overflow                 // it rested for longer than it can keep what it is sent
	expired                  // the module that kept it at rest has ended it
	displaced                // it rested, and the account needed its place for another session
	superseded               // another stream has bound its resource (RFC 6120 §7.7.2.2)
	kicked                   // by an operator: banned, given another password, its host taken away
	deleted                  // its account was deleted
	hookFailed               // a hook panicked that was to keep it at rest, or to go on with it
	numEndings
)

// State is how far a stream has come; it only grows, but for the restarts of RFC 6120 §4.3.3.
type State uint8

// Opening: no stream header yet (Prosody's "notopen"). Unauthed: header seen. Authed: SASL or
// dialback done. Closing: a stream error or the end tag was sent; nothing more is read. The seed's
// types follow: c2s_unauthed is Unauthed, c2s_unbound is Authed without a Session, c2s with.
const (
	Opening State = iota
	Unauthed
	Authed
	Closing
)

// A Wire is what a [Session] knows of its connection. Any goroutine, any lock held.
type Wire interface {
	// Send takes one complete element; el is copied. false: there is no room, or the wire closes. A wire
	// that has no room is a [Drainer].
	Send(el []byte) (ok bool)
	// Congested reports whether more waits for the peer than it takes at a time: clients that flood it are
	// slowed down.
	Congested() bool
	// Close ends the stream and its connection at the end of a turn. A [*StreamError] is sent before that.
	Close(reason error)
	// Loop is where the connection is looked after: a hint, as it may have moved since.
	Loop() *LoopRouter
}

// A Drainer is a Wire that takes elements faster than its peer does: it says when the peer has them.
type Drainer interface {
	// NotifyDrain has [Stream.Drained] called on the stream's loop, under no lock, once the socket has taken
	// everything that was sent before, also where it has that already. false: the connection closes, and this is
	// never told, as it is not if it closes later. Any goroutine, any lock held.
	NotifyDrain() (ok bool)
}

// A Transport is the connection of one stream, TCP or WebSocket, of which the stream's loop takes care:
// all that is not a session's business. The stream's loop, unless a line says otherwise.
type Transport interface {
	Wire
	Drainer
	// the stream header, or <open/>; only front doors write headers
	Open(from, to jid.JID, id, lang string) (ok bool)
	// Closing reports whether the transport takes nothing any more, and not for want of room. Any goroutine.
	Closing() bool
	Pause()
	PauseForReply() // the peer waits for an answer; it is paused if it sends all the same
	Resume()
	Arm(at reactor.Tick)
	// StartTLS begins a handshake as the server of h (RFC 6120 §5.4.3).
	StartTLS(h *Host) error
	Remote() netip.AddrPort // any goroutine
	// TLS is nil while plain, and on transports that have none of their own.
	TLS() *tls.ConnectionState
	// PresentedCertificate is the certificate that was shown to the peer, as far as it is known.
	PresentedCertificate() *tls.Certificate
}

// deadlines of one stream, each a Tick in Stream.deadlines; the earliest is armed.
const (
	deadlineLogin = iota
	deadlineRate
	numDeadlines
)

// A Stream is one connection's half, c2s or s2s, touched on its loop only. On s2s it never has a
// Session. session.txt, beside this file, says of each field when it is set and who sets it.
type Stream struct {
	transport   Transport
	loop        *LoopRouter
	host        *Host
	sess        *Session // set by bind or resumption; whether still ours, only its lock tells
	in          xmlstream.Stream
	negotiation *negotiationState // negotiation; nil once a c2s stream is bound
	id          uint64
	deadlines   [numDeadlines]reactor.Tick
	tokens      int32        // bytes that may still be read before the stream is paused
	refilledAt  reactor.Tick // when tokens were last added
	state       State
	ending      Ending // what has ended it, as far as it has heard of it
	traits      Traits
	parked      uint8 // reasons why no stanza is taken now
	bits        uint8
	pendingWork uint16 // how many works are under way, each a reason parkedWork
}

// Reasons for parked.
const (
	parkedWork uint8 = 1 << iota // Await, Commit, a cold entity
	parkedRate
	parkedOutbox
	parkedTurn      // it had its share of this turn
	parkedUnsettled // it has as many stanzas open as it may
)

// Bits of a Stream.
const (
	bitHeader   uint8 = 1 << iota // our header was sent
	bitFeatures                   // features were sent for the present header
	bitCounted                    // counted in its host
	bitGone                       // the connection is closed
	bitUpgrade                    // <starttls/> was taken: the handshake follows
	bitLang                       // the xml:lang of the peer's header is well-formed
	bitTracked                    // its stanzas are numbered: see Track
)

// A negotiationState is what is known of a stream before it is bound.
type negotiationState struct {
	claimedFrom     jid.JID // what the peer's header claimed; never trusted
	peer            jid.JID // bare, as SASL's verifier returned it
	accountID       uint64  // its id in the store
	lang            string
	exchange        any // SASL's state between two elements
	authFailures    int
	revocationEpoch uint32 // of the table, when the account was looked up
}

// A StreamRef names a stream anywhere, of this process or another. The zero value is none: the
// session rests.
type StreamRef struct {
	Node        uint16
	Incarnation uint32 // of the node: its starts are counted
	ID          uint64
}

// State is how far st has come.
func (st *Stream) State() State { return st.state }

// Traits say what st is by now.
func (st *Stream) Traits() Traits { return st.traits }

// Host is the domain that the peer's header named; nil before one did.
func (st *Stream) Host() *Host { return st.host }

// LoopRouter is the kernel's part of the loop that owns st. Any goroutine.
func (st *Stream) LoopRouter() *LoopRouter { return st.loop }

// Transport is st's connection.
func (st *Stream) Transport() Transport { return st.transport }

// Session is what st was bound to; nil before.
func (st *Stream) Session() *Session { return st.sess }

// ID numbers the streams of this process; it is never used again. Any goroutine.
func (st *Stream) ID() uint64 { return st.id }

// Peer is zero until SASL, then the bare JID of who is there, then the full one.
func (st *Stream) Peer() jid.JID {
	if st.sess != nil {
		return st.sess.jid
	}
	if st.negotiation != nil {
		return st.negotiation.peer
	}
	return jid.JID{}
}

// Lang is the xml:lang of the peer's header (RFC 6120 §4.7.4); empty if it has none, or one that is not
// well-formed (BCP 47), which is stamped on nothing.
func (st *Stream) Lang() string {
	if r := st.in.Root(); r != nil && st.bits&bitLang != 0 {
		return r.Lang
	}
	return ""
}

// CanReceive reports whether st takes another element now: it is neither closing nor parked.
func (st *Stream) CanReceive() bool { return st.state != Closing && st.parked == 0 }

func (st *Stream) ref() StreamRef {
	return StreamRef{Node: st.loop.router.Node, Incarnation: st.loop.router.Incarnation, ID: st.id}
}

// park stops reading until unpark takes the last reason away. Each park for parkedWork wants an unpark of its
// own: stanzas that waited for their account may have several works under way.
func (st *Stream) park(why uint8) {
	if st.parked == 0 {
		st.transport.Pause()
	}
	st.parked |= why
	if why == parkedWork {
		st.pendingWork++
	}
}

func (st *Stream) unpark(why uint8) {
	if st.parked&why == 0 {
		return
	}
	if why == parkedWork {
		if st.pendingWork--; st.pendingWork > 0 {
			return
		}
	}
	if st.parked &^= why; st.parked == 0 && st.state != Closing && st.bits&bitGone == 0 {
		st.transport.Resume()
	}
}

// setDeadline sets one deadline and the wire's timer to the earliest.
func (st *Stream) setDeadline(which int, at reactor.Tick) {
	st.deadlines[which] = at
	first := reactor.Tick(0)
	for _, d := range st.deadlines {
		if d != 0 && (first == 0 || d < first) {
			first = d
		}
	}
	st.transport.Arm(first)
}

// A Negotiation is a Stream as a stream feature sees it (RFC 6120 §4.3): what was found out of its peer
// so far, and what may be done about it.
type Negotiation struct{ *Stream }

// Negotiation is st as a stream feature sees it.
func (st *Stream) Negotiation() Negotiation { return Negotiation{st} }

// A streamReader is a Stream as what reads its peer.
type streamReader struct{ *Stream }

func (st *Stream) streamReader() streamReader { return streamReader{st} }
