package session

import (
	"bytes"
	"crypto/tls"
	"net/netip"

	"canto/reactor"
	"canto/session/jid"
	"canto/xmlstream"
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
	// Send takes one complete element; el is copied. false: there is no room, or the wire closes. A wire that has
	// no room is a [Drainer].
	Send(el []byte) (ok bool)
	// Crowded reports whether more waits for the peer than it takes at a time: who floods it is slowed down.
	Crowded() bool
	// Close ends the stream and its connection at the end of a turn. A [*StreamError] is sent before that.
	Close(reason error)
	// Loop is where the connection is looked after: a hint, as it may have moved since.
	Loop() *Local
}

// A Drainer is a Wire that takes elements faster than its peer does: it says when the peer has them.
type Drainer interface {
	// NotifyDrain has [Stream.Drained] called on the stream's loop, under no lock, once the socket has taken
	// everything that was sent before, also where it has that already. false: the connection closes, and this is
	// never told, as it is not if it closes later. Any goroutine, any lock held.
	NotifyDrain() (ok bool)
}

// A Transport is the connection of one stream, TCP or WebSocket, of which the stream's loop takes care: all that
// is not a session's business. The stream's loop, unless a line says otherwise.
type Transport interface {
	Wire
	Drainer
	Open(from, to jid.JID, id, lang string) (ok bool) // the stream header, or <open/>; only front doors write headers
	// Closing reports whether the transport takes nothing any more, and not for want of room. Any goroutine.
	Closing() bool
	Pause()
	PauseToAnswer() // the peer waits for an answer; it is paused if it sends all the same
	Resume()
	Arm(at reactor.Tick)
	// StartTLS begins a handshake as the server of h (RFC 6120 §5.4.3).
	StartTLS(h *Host) error
	Remote() netip.AddrPort // any goroutine
	// TLS is nil while plain, and on transports that have none of their own.
	TLS() *tls.ConnectionState
	// Presented is the certificate that was shown to the peer, as far as it is known.
	Presented() *tls.Certificate
}

// deadlines of one stream, each a Tick in Stream.due; the earliest is armed.
const (
	dueLogin = iota
	dueRate
	numDue
)

// A Stream is one connection's half, c2s or s2s, touched on its loop only. On s2s it never has a
// Session. session.txt, beside this file, says of each field when it is set and who sets it.
type Stream struct {
	wire     Transport
	loop     *Local
	host     *Host
	sess     *Session // set by bind or resumption; whether still ours, only its lock tells
	in       xmlstream.Stream
	deal     *deal // negotiation; nil once a c2s stream is bound
	id       uint64
	due      [numDue]reactor.Tick
	tokens   int32        // bytes that may still be read before the stream is paused
	refilled reactor.Tick // when tokens were last added
	state    State
	ending   Ending // what has ended it, as far as it has heard of it
	traits   Traits
	parked   uint8 // reasons why no stanza is taken now
	bits     uint8
	works    uint16 // how many works are under way, each a reason parkedWork
}

// Reasons for parked.
const (
	parkedWork uint8 = 1 << iota // Await, Commit, a cold entity
	parkedRate
	parkedOutbox
	parkedTurn    // it had its share of this turn
	parkedPledges // it has as many stanzas open as it may
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

// A deal is what is known of a stream before it is bound.
type deal struct {
	from     jid.JID // what the peer's header claimed; never trusted
	peer     jid.JID // bare, as SASL's verifier returned it
	account  uint64  // its id in the store
	lang     string
	exchange any // SASL's state between two elements
	tries    int
	kicks    uint32 // of the table, when the account was looked up
}

// State is how far st has come.
func (st *Stream) State() State { return st.state }

// Traits say what st is by now.
func (st *Stream) Traits() Traits { return st.traits }

// Host is the domain that the peer's header named; nil before one did.
func (st *Stream) Host() *Host { return st.host }

// Local is the kernel's part of the loop that owns st. Any goroutine.
func (st *Stream) Local() *Local { return st.loop }

// Transport is st's connection.
func (st *Stream) Transport() Transport { return st.wire }

// Session is what st was bound to; nil before.
func (st *Stream) Session() *Session { return st.sess }

// ID numbers the streams of this process; it is never used again. Any goroutine.
func (st *Stream) ID() uint64 { return st.id }

// Peer is zero until SASL, then the bare JID of who is there, then the full one.
func (st *Stream) Peer() jid.JID {
	if st.sess != nil {
		return st.sess.jid
	}
	if st.deal != nil {
		return st.deal.peer
	}
	return jid.JID{}
}

// Exchange is what a feature keeps between two elements of one negotiation; SASL's is here.
func (st Negotiation) Exchange() any {
	if st.deal == nil {
		return nil
	}
	return st.deal.exchange
}

// SetExchange replaces it; nil ends the exchange.
func (st Negotiation) SetExchange(v any) {
	if st.deal != nil {
		st.deal.exchange = v
	}
}

// Fail counts a failed try to authenticate and returns how many there were on this stream.
func (st Negotiation) Fail() int {
	if st.deal == nil {
		return 0
	}
	st.deal.tries++
	return st.deal.tries
}

// Send sends one nonza, or the features, past no hook. A peer that has no room for what the server itself says
// does not read: its stream ends, as it could not go on without a hole.
func (st *Stream) Send(el []byte) {
	if st.state != Closing && !st.wire.Send(el) && !st.wire.Closing() {
		st.Close(errSlowReader)
	}
}

// Lang is the xml:lang of the peer's header (RFC 6120 §4.7.4); empty if it has none, or one that is not
// well-formed (BCP 47), which is stamped on nothing.
func (st *Stream) Lang() string {
	if r := st.in.Root(); r != nil && st.bits&bitLang != 0 {
		return r.Lang
	}
	return ""
}

// Claim says that who is looked up now, to become what Authenticated is given: a [Router.Kick] from
// here on keeps st from binding, whatever the lookup saw.
func (st Negotiation) Claim(who jid.JID) { st.deal.kicks = st.loop.router.Table.kicks(who.Bare()) }

// Authenticated ends a successful SASL negotiation (RFC 6120 §6.4.6): who is the bare JID that the
// verifier returned, account its id in the store. The peer restarts the stream next.
func (st Negotiation) Authenticated(who jid.JID, account uint64) {
	st.deal.peer, st.deal.account, st.deal.exchange = who.Bare(), account, nil
	st.traits |= HasUser
	st.restart()
}

// Secured is called when TLS is up; the peer restarts the stream next (RFC 6120 §5.4.3.3). Nothing
// that came before survives: host, id, language, a SASL exchange.
func (st *Stream) Secured() {
	st.traits |= Secure
	if st.host != nil {
		st.leaveHost()
	}
	st.deal = &deal{}
	st.restart()
}

// Upgrade is what the starttls feature calls: if nothing was sent behind <starttls/>, <proceed/> leaves and the
// handshake begins.
func (st Negotiation) Upgrade() { st.bits |= bitUpgrade }

// startTLS goes on with an Upgrade; rest is what was read behind <starttls/>. RFC 6120 §5.3.3 forbids white
// space there, but some clients end their lines with it, and it carries nothing: it is dropped. All else was
// sent in the clear and would be taken for something that TLS protects: it ends the stream (attack T09).
func (st reader) startTLS(rest []byte) {
	st.bits &^= bitUpgrade
	if len(bytes.TrimLeft(rest, " \t\r\n")) > 0 {
		st.Close(&StreamError{Condition: "policy-violation", Text: "data behind <starttls/>"})
		return
	}
	st.Send([]byte("<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>"))
	if err := st.wire.StartTLS(st.host); err != nil {
		st.loop.Log.Warn("STARTTLS failed", "err", err)
		st.state = Closing
		st.wire.Close(err)
	}
}

func (st *Stream) restart() {
	st.state = Opening
	st.bits &^= bitFeatures | bitHeader // an error from here on is the new stream's, behind its own header
	lim := st.loop.router.limits().before
	if st.traits&HasUser != 0 {
		lim = st.loop.router.limits().after
	}
	st.in.Reset(lim)
}

func (st *Stream) leaveHost() {
	if st.bits&bitCounted != 0 {
		st.host.conns.Add(-1)
		st.bits &^= bitCounted
	}
	st.host = nil
}

// Close ends st with a stream error, or with no more than the end tag if err is nil. Its client has not logged out: its
// session may rest. Closing twice is closing once.
func (st *Stream) Close(err error) { st.end(err, endingOf(err)) }

// end ends st by why.
func (st *Stream) end(err error, why Ending) {
	st.loop.Loop.Owned()
	if st.state == Closing {
		return
	}
	countClose(st.loop, err)
	if st.bits&bitHeader == 0 {
		// RFC 6120 §4.9.1.2: an error before our header is sent after one.
		st.openHeader()
	}
	st.state, st.ending = Closing, why
	if st.sess != nil {
		st.sess.closing(st.ref(), why)
	}
	st.wire.Close(err)
}

// Ready reports whether st takes another element now: it is neither closing nor parked.
func (st *Stream) Ready() bool { return st.state != Closing && st.parked == 0 }

// park stops reading until unpark takes the last reason away. Each park for parkedWork wants an unpark of its
// own: stanzas that waited for their account may have several works under way.
func (st *Stream) park(why uint8) {
	if st.parked == 0 {
		st.wire.Pause()
	}
	st.parked |= why
	if why == parkedWork {
		st.works++
	}
}

// parkToAnswer is park for work that ends in an answer that the peer waits for.
func (st Negotiation) parkToAnswer() {
	if st.parked == 0 {
		st.wire.PauseToAnswer()
	}
	st.parked |= parkedWork
	st.works++
}

func (st *Stream) unpark(why uint8) {
	if st.parked&why == 0 {
		return
	}
	if why == parkedWork {
		if st.works--; st.works > 0 {
			return
		}
	}
	if st.parked &^= why; st.parked == 0 && st.state != Closing && st.bits&bitGone == 0 {
		st.wire.Resume()
	}
}

// yield leaves the rest of st's input to the loop's next turn: others come first.
func (st reader) yield() {
	st.park(parkedTurn)
	st.loop.Loop.Post(func() { st.unpark(parkedTurn) })
}

// arm sets one deadline and the wire's timer to the earliest.
func (st *Stream) arm(which int, at reactor.Tick) {
	st.due[which] = at
	first := reactor.Tick(0)
	for _, d := range st.due {
		if d != 0 && (first == 0 || d < first) {
			first = d
		}
	}
	st.wire.Arm(first)
}

// Await runs work on a worker while st takes no element, then runs then on st's loop, unless the
// connection is gone by then. For negotiation only. Cold path. It reports whether the queue of c had
// room; if not, nothing is run.
func (st Negotiation) Await(c reactor.Class, work func() error, then func(err error)) (ok bool) {
	st.parkToAnswer()
	if c == reactor.Disk {
		st.charge(readCost)
	}
	return st.await(c, work, then)
}

// AwaitTurn is Await for work that costs a guest cost microseconds on a worker: it begins when it is st's turn,
// fair by address and host.
func (st Negotiation) AwaitTurn(c reactor.Class, cost int, work func() error, then func(err error)) (ok bool) {
	st.park(parkedWork)
	host, addr := st.payer()
	ok = st.loop.Loop.Admit(host, addr, cost, func() {
		st.loop.enter()
		defer st.loop.leave()
		if st.bits&bitGone == 0 && st.state != Closing && !st.await(c, work, then) {
			then(ErrBusy)
		}
	})
	if !ok {
		st.unpark(parkedWork)
	}
	return ok
}

func (st Negotiation) await(c reactor.Class, work func() error, then func(err error)) (ok bool) {
	if st.host == nil { // the stream has left its host, and its features with it
		st.unpark(parkedWork)
		return false
	}
	ok = st.loop.do(st.host.Profile(), c, work, func(err error) {
		st.loop.enter()
		defer st.loop.leave()
		if st.bits&bitGone != 0 {
			return
		}
		st.unpark(parkedWork)
		if st.state != Closing {
			then(err)
		}
	})
	if !ok {
		st.unpark(parkedWork)
	}
	return ok
}

// Costs of what a login sets off besides its own steps, as [reactor.StepCost].
const (
	readCost = 30 // one row
	loadCost = 60 // a resident set
)

// charge has st, which has not logged in, pay so many microseconds for work elsewhere: the later is its turn,
// and that of its address and host, where many log in.
func (st Negotiation) charge(cost int) {
	if st.sess == nil {
		host, addr := st.payer()
		st.loop.Loop.Charge(host, addr, cost)
	}
}

func (st Negotiation) payer() (host uint32, addr netip.Addr) {
	if st.host != nil {
		host = st.host.ID
	}
	return host, st.wire.Remote().Addr()
}

// Delay runs then after d, while st takes no element: the delay before an answer to a failed login.
func (st Negotiation) Delay(d reactor.Tick, then func()) {
	st.park(parkedWork)
	st.loop.After(d, func() {
		if st.bits&bitGone != 0 {
			return
		}
		st.unpark(parkedWork)
		if st.state != Closing {
			then()
		}
	})
}

// A StreamRef names a stream anywhere, of this process or another. The zero value is none: the
// session rests.
type StreamRef struct {
	Node uint16
	Inc  uint32 // of the node: its starts are counted
	ID   uint64
}

// A Negotiation is a Stream as a stream feature sees it (RFC 6120 §4.3): what was found out of its peer so far, and
// what may be done about it.
type Negotiation struct{ *Stream }

// Negotiation is st as a stream feature sees it.
func (st *Stream) Negotiation() Negotiation { return Negotiation{st} }

// A reader is a Stream as what reads its peer.
type reader struct{ *Stream }

func (st *Stream) reader() reader { return reader{st} }
