package session

import (
	"crypto/tls"
	"net/netip"
	"sync"

	"canto/reactor"
	"canto/session/jid"
	"canto/xmlstream"
)

// A Session is a resource of an account: what a client has bound (RFC 6120 section 7). It outlives its
// connection: after the stream has ended it may hibernate, until another stream resumes it. It knows its
// stream only as a [Wire] and a [StreamRef]: never its loop's data, its socket or TLS.
//
// The account's lock guards the fields, unless their comment says otherwise. session.txt, beside this
// file, explains each field.
type Session struct {
	account  *Account  // never changes
	jid      jid.JID   // full; never changes
	presence []byte    // last broadcast presence, as it was sent; nil: unavailable
	vars     *varNode  // values of modules, a list; nil for most sessions
	flags    Flags     // booleans of modules
	stream   StreamRef // of its stream; zero: it hibernates
	// wire is that stream's transport, a *hibernatingWire while the session hibernates, or nil after its
	// removal. stream and wire are written under both locks, and may be read under either.
	wire     Wire
	outbox   *outbox    // under outboxMu; nil while nothing waits
	outboxMu sync.Mutex // guards outbox and ending, and with the account's lock stream and wire
	priority int8       // of presence
	traits   Traits
	ending   Ending // under outboxMu: why the session, or its stream, ends; notEnded: neither does
}

// Account returns the account that s is a resource of. Any goroutine.
func (s *Session) Account() *Account { return s.account }

// JID returns the full JID. Any goroutine.
func (s *Session) JID() jid.JID { return s.jid }

// Host returns the account's host. Any goroutine.
func (s *Session) Host() *Host { return s.account.host }

// Traits returns the traits of the stream that s has, or had last. Under the account's lock.
func (s *Session) Traits() Traits { return s.traits }

// Presence returns the last broadcast presence as the client sent it, and its priority; nil if s
// is unavailable. The bytes never change: new presence is a new slice. Under the account's lock.
func (s *Session) Presence() (p []byte, priority int8) { return s.presence, s.priority }

// SetPresence sets the last broadcast presence and its priority; nil makes s unavailable. s keeps
// p, which must not change from then on. Under the account's lock.
func (s *Session) SetPresence(p []byte, priority int8) { s.presence, s.priority = p, priority }

// Connected reports whether s has a stream: it is a connected resource (RFC 6120 section 7).
// Under the account's lock.
func (s *Session) Connected() bool { return s.stream != (StreamRef{}) }

// Available reports whether s has sent presence: it is an available resource (RFC 6121 section
// 4.2.1). A hibernating session stays available. Under the account's lock.
func (s *Session) Available() bool { return s.presence != nil }

// Interested reports whether s has requested the roster: it is an interested resource (RFC 6121
// section 2.2). Under the account's lock.
func (s *Session) Interested() bool { return interested.Is(s) }

// SetInterested makes s an interested resource. Under the account's lock.
func (s *Session) SetInterested() { interested.Set(s, true) }

// interested is the flag of Session.Interested.
var interested = NewFlag("interested")

// hibernating reports whether s has no stream. Under the account's lock or the outbox lock.
func (s *Session) hibernating() bool { return s.stream == (StreamRef{}) }

// Traits are what a stream has negotiated so far. A stream feature is offered according to them
// (StreamFeature.Needs and Forbids).
type Traits uint8

// The traits.
const (
	Secure      Traits = 1 << iota // TLS protects the stream
	HasUser                        // SASL has succeeded
	HasResource                    // a session is bound or resumed
	S2S                            // the peer is a server; no front door sets it yet
)

// An Ending is why a stream, or a session, has ended. The end of a stream is not always the end
// of its session: Account.endSession decides by the endingTable (session.txt explains its rows),
// whether the session hibernates. (If the account is unreadable for good the session is removed
// in any case.)
type Ending uint8

// The endings. Up to connLost they are ends of a stream; the others are decisions to end the session.
const (
	notEnded   Ending = iota // nothing has ended
	loggedOut                // the peer's end tag (RFC 6120 section 4.4)
	peerError                // the peer's stream error (RFC 6120 section 4.9)
	ourError                 // our stream error, for the peer's input or for a failure here
	shutdown                 // the server stops (RFC 6120 section 4.9.3.19)
	slowReader               // the client is a slow consumer: its queue is full
	takenOver                // another stream resumes the session (XEP-0198 section 5)
	connLost                 // the connection was lost without an end tag
	overflow                 // the queue of a hibernating session is full
	expired                  // the module that kept the session hibernating has ended it
	displaced                // it hibernated, and a new session of the account needed its place
	superseded               // another stream has bound its resource (RFC 6120 section 7.7.2.2)
	kicked                   // an operator has banned the account, changed its password or removed its host
	deleted                  // its account was deleted
	hookFailed               // a hook that was to keep or resume the session has panicked
	numEndings
)

// State is how far a stream has come. It only grows, except for the restarts of RFC 6120 section
// 4.3.3.
type State uint8

// The states. The stream types of Prosody are: "c2s_unauthed" is Unauthed, "c2s_unbound" is Authed without
// a session, "c2s" is Authed with one; its "notopen" is Opening.
const (
	Opening  State = iota // no stream header yet; again after STARTTLS and after SASL
	Unauthed              // the header was received
	Authed                // SASL has succeeded (or dialback), and the stream was restarted
	Closing               // a stream error or the end tag was sent: no input is handled any more
)

// A Wire is what a [Session] knows of its connection. All methods may be called by any goroutine, with any
// lock held; none blocks.
type Wire interface {
	// Send queues one complete element for the peer; el is copied. It returns false if there is no room for
	// it, or if the wire is closing. A wire that may be out of room is a [Drainer].
	Send(el []byte) (ok bool)
	// Congested reports whether more output waits for the peer than the high-water mark. Clients that send
	// more to such a peer are slowed down.
	Congested() bool
	// Close ends the stream and its connection at the end of a turn of its loop. If reason is a
	// [*StreamError] the peer is sent it first.
	Close(reason error)
	// Loop returns the loop that owns the connection. It is a hint: a session may be resumed on another.
	Loop() *LoopRouter
}

// A Drainer is a [Wire] that buffers output: it takes elements faster than its peer reads them, and notifies
// when the peer's socket has taken them.
type Drainer interface {
	// NotifyDrain requests a call of [Stream.Drained], on the stream's loop and under no lock, when the socket
	// has taken everything that was sent before; at once if it has already. It returns false if the
	// connection is closing; then, or if the connection closes later, the call never comes. Any goroutine,
	// any lock held.
	NotifyDrain() (ok bool)
}

// A Transport is the connection of one [Stream], over TCP or WebSocket: a [Wire] with all that is for the
// stream and not for its session. A front door implements it. Methods are called on the stream's loop,
// unless their comment says otherwise.
type Transport interface {
	Wire
	Drainer
	// Open sends the server's stream header, or <open/> on a WebSocket.
	Open(from, to jid.JID, id, lang string) (ok bool)
	// Closing reports whether Send fails because the transport closes, not for want of room. Any goroutine.
	Closing() bool
	// Pause stops the reading of input, until Resume.
	Pause()
	// PauseForReply is Pause while the peer waits for a reply. As such a peer sends nothing, the socket may
	// stay in the poller's set until it does: see reactor.Conn.PauseForReply.
	PauseForReply()
	// Resume continues the reading; input that Feed did not take comes first.
	Resume()
	// Arm sets the timer that calls [Stream.OnDeadline]; 0 stops it.
	Arm(at reactor.Tick)
	// StartTLS begins a handshake with the certificate of h (RFC 6120 section 5.4.3).
	StartTLS(h *Host) error
	// Remote returns the peer's address. Any goroutine.
	Remote() netip.AddrPort
	// TLS returns the state of TLS; nil without TLS, and on transports that have none of their own.
	TLS() *tls.ConnectionState
	// PresentedCertificate returns the certificate that the peer was shown, nil if it is not known.
	PresentedCertificate() *tls.Certificate
}

// Indexes of Stream.deadlines. The transport's timer is set to the earliest.
const (
	deadlineLogin = iota // the stream must have a session by then
	deadlineRate         // the stream has earned tokens by then, and is read again
	numDeadlines
)

// A Stream is one connection's half in the kernel: a client's, or another server's (then it has no
// Session). It belongs to its loop, which alone may use it: methods run there, unless their comment says
// otherwise. session.txt, beside this file, says of each field when it is set and by which code.
type Stream struct {
	transport   Transport
	loop        *LoopRouter
	host        *Host
	sess        *Session          // set when it is bound; only its lock tells whether it is still this stream's
	in          xmlstream.Stream  // the parser's state between two reads
	negotiation *negotiationState // nil once a session is bound
	id          uint64
	deadlines   [numDeadlines]reactor.Tick
	tokens      int32        // bytes that may be read before the stream is over its rate
	refilledAt  reactor.Tick // when tokens were last added
	state       State
	ending      Ending // why it has ended, if endStream was called
	traits      Traits
	parked      uint8  // reasons why no element is handled now: parkedWork...
	bits        uint8  // bitHeader...
	pendingWork uint16 // works in flight; parkedWork is set until there is none
}

// Reasons for Stream.parked.
const (
	parkedWork      uint8 = 1 << iota // an Await, a Commit or a bind is in flight
	parkedRate                        // the peer is over its rate
	parkedOutbox                      // back-pressure: the peer does not read its output
	parkedTurn                        // the stream has used its share of this turn
	parkedUnsettled                   // maxUnsettled of its stanzas are not settled
)

// Bits of Stream.bits.
const (
	bitHeader   uint8 = 1 << iota // our header was sent
	bitFeatures                   // features were sent after the present header
	bitCounted                    // counted in Host.connections
	bitGone                       // the connection is closed
	bitUpgrade                    // <starttls/> was handled: the handshake follows
	bitLang                       // the xml:lang of the peer's header is well-formed
	bitTracked                    // its stanzas are numbered: see Stream.Track
)

// A negotiationState is what a [Stream] has found out about its peer before a session is bound. The
// stream's loop owns it.
type negotiationState struct {
	claimedFrom     jid.JID // 'from' of the peer's header; never trusted
	peer            jid.JID // bare, as SASL's verifier returned it; zero before
	accountID       uint64  // id of peer's account in the store
	exchange        any     // SASL's state between two elements: see Negotiation.Exchange
	authFailures    int     // failed tries to authenticate on this stream
	revocationEpoch uint32  // of the Table, before the account was looked up
	// exclusive is the namespace of the only elements that may come now; None: all may
	exclusive xmlstream.Atom
}

// A StreamRef names a stream of this process or of another. The zero value names none: a session with
// it hibernates.
type StreamRef struct {
	Node        uint16 // number of the process
	Incarnation uint32 // number of the process's start: ids begin again with each
	ID          uint64 // see Stream.ID
}

// State returns how far st has come.
func (st *Stream) State() State { return st.state }

// Traits returns what st has negotiated so far.
func (st *Stream) Traits() Traits { return st.traits }

// Host returns the host that the peer's header named; nil before the header.
func (st *Stream) Host() *Host { return st.host }

// LoopRouter returns the kernel's part of the loop that owns st. Any goroutine.
func (st *Stream) LoopRouter() *LoopRouter { return st.loop }

// Transport returns st's connection.
func (st *Stream) Transport() Transport { return st.transport }

// Session returns the session that was bound to st or resumed on it; nil before.
func (st *Stream) Session() *Session { return st.sess }

// ID returns the number of st in this process. It is never used again. Any goroutine.
func (st *Stream) ID() uint64 { return st.id }

// Peer returns the address of the client: zero before SASL has succeeded, then the bare JID,
// after binding the full JID.
func (st *Stream) Peer() jid.JID {
	if st.sess != nil {
		return st.sess.jid
	}
	if st.negotiation != nil {
		return st.negotiation.peer
	}
	return jid.JID{}
}

// Lang returns the xml:lang of the peer's header (RFC 6120 section 4.7.4). It is empty if there
// is none, or if it is not well-formed (BCP 47): stanzas are not stamped with it then.
func (st *Stream) Lang() string {
	if r := st.in.Root(); r != nil && st.bits&bitLang != 0 {
		return r.Lang
	}
	return ""
}

// CanReceive reports whether st handles another element now: it is neither closing nor parked.
func (st *Stream) CanReceive() bool { return st.state != Closing && st.parked == 0 }

// ref returns the StreamRef of st. Any goroutine.
func (st *Stream) ref() StreamRef {
	return StreamRef{Node: st.loop.router.Node, Incarnation: st.loop.router.Incarnation, ID: st.id}
}

// park pauses the transport until unpark has taken the last reason away. Each park for parkedWork
// needs its own unpark, because several works may be in flight: of stanzas that waited for their
// account.
func (st *Stream) park(why uint8) {
	if st.parked == 0 {
		st.transport.Pause()
	}
	st.parked |= why
	if why == parkedWork {
		st.pendingWork++
	}
}

// unpark takes one reason away, and resumes the transport after the last. It does nothing if st
// is not parked for that reason.
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

// setDeadline sets one deadline (0: none), and the transport's timer to the earliest.
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

// A Negotiation is a [Stream] in its role for a stream feature (RFC 6120 section 4.3): with the
// methods that ask and change what is known about the peer. They run on the stream's loop.
type Negotiation struct{ *Stream }

// Negotiation returns st in its role for a stream feature.
func (st *Stream) Negotiation() Negotiation { return Negotiation{st} }

// A streamReader is a [Stream] in its role as the reader of its peer: see stream.go.
type streamReader struct{ *Stream }

func (st *Stream) streamReader() streamReader { return streamReader{st} }
