package bench

import (
	"cmp"
	"crypto/tls"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"canto/bench/xmpp"
	"canto/reactor"
	"canto/session/stanza"
	"canto/xmlstream"
)

// A client is one connection and its account. Its loop alone uses it, except for the atomic fields.
type client struct {
	conn        *reactor.Conn          // nil: there is none
	in          xmlstream.Stream       // state of the parser between reads
	login       *login                 // nil: there is no login under way
	received    sequences              // sequence numbers of the stanzas that came, by sender
	sent        counters               // sequence numbers of the next stanzas, by receiver
	jid         atomic.Pointer[string] // the full address; nil before the first login
	index       uint32                 // in all processes
	account     uint32                 // the number of its account, without Target.First
	loop        uint16                 // the number of its loop
	group       uint16                 // the number of its group
	online      atomic.Bool            // bound and ready for operations
	flags       uint16                 // see flagSM and the others
	resting     atomic.Bool            // it has lost its connection, and can resume its session
	subscribers atomic.Int32           // how many clients are subscribed to its presence
	sm          *smState               // nil without stream management
	room        *room                  // the room that it is in; nil: none
	pending     []pendingRequest       // joins and subscriptions that are not answered
	reader      *archiveReader         // nil: it knows nothing of its archive
	fast        *fastToken             // the token of the next login; nil: none
	// where its pushes go; nil: it has not registered
	push atomic.Pointer[pushRegistration]
}

// Flags of a client.
const (
	flagSM             = 1 << iota // stream management is on: received stanzas are counted
	flagLeaving                    // the fleet is closing the connection: its end is no failure
	flagNotReading                 // reading is paused
	flagFailureCounted             // the reason of the end has been counted
	flagFloods                     // it floods in some phase: its socket has a small send buffer
	flagCarbons                    // it has asked for carbons
	flagSamples                    // it will ask for pages that begin somewhere in its archive
	flagInactive                   // it has said that it is inactive, and the server knows
	flagGentle                     // the fleet has ended its stream
)

// A pendingRequest is a join or a subscription that waits for its answer.
type pendingRequest struct {
	step    uint16
	at      int64   // when it was sent, on the monotonic clock
	to      string  // bare address of the room or contact
	room    *room   // of a join
	contact *client // of a subscription
}

// A handler is the reactor.Handler of all clients of a fleet. The reactor calls its methods on the
// loop of the connection.
type handler struct{ f *Fleet }

func (h handler) state(conn *reactor.Conn) *loopState { return h.f.loops[conn.Loop().Index()] }

// OnOpen begins the stream when the TCP connection is open; with direct TLS the handshake comes
// first. It starts the timeout of the login.
func (h handler) OnOpen(conn *reactor.Conn) {
	c := conn.HandlerState.(*client)
	c.conn = conn
	if c.login == nil {
		conn.Close(nil)
		return
	}
	c.login.endPart(h.f, &c.login.opened, h.f.stepOf(c.login, partConnect), h.state(conn))
	conn.Arm(conn.Loop().Tick().After(time.Duration(h.f.sc.Clients.Timeout)))
	if h.f.sc.Clients.TLS != "direct" {
		c.openStream(h.f)
	}
}

// OnSecure begins a stream under TLS when the handshake is done.
func (h handler) OnSecure(conn *reactor.Conn, st *tls.ConnectionState) {
	c := conn.HandlerState.(*client)
	if c.login == nil {
		return
	}
	c.login.secure, c.login.handshaking = true, false
	h.f.noteTLS(st)
	conn.ReleaseHandshakeState()
	c.login.endPart(h.f, &c.login.secured, h.f.stepOf(c.login, partSecure), h.state(conn))
	c.openStream(h.f)
}

// OnTimer fails a login that takes longer than Clients.Timeout.
func (h handler) OnTimer(conn *reactor.Conn) {
	c := conn.HandlerState.(*client)
	if c.login != nil {
		h.f.loginFailed(c, Failure{fmt.Sprintf("a login took over %v (%s)",
			time.Duration(h.f.sc.Clients.Timeout), c.login.describe()),
			"the server is overloaded: log in slower, or set clients.timeout"})
		conn.Close(nil)
	}
}

// OnDrain does nothing: the fleet does not wait for its sends.
func (h handler) OnDrain(*reactor.Conn) {}

// OnClose ends a login or session whose connection has ended. It counts a failure, except where the
// fleet itself closes the connection.
func (h handler) OnClose(conn *reactor.Conn, err error) {
	c := conn.HandlerState.(*client)
	if c.conn != conn {
		return // a storm has dialled again already
	}
	ls := h.state(conn)
	c.conn = nil
	c.in.Reset(h.f.limits)
	restarting := h.f.restarting.Load() // before the phase sees that all are offline
	h.f.markOffline(c)
	switch {
	case restarting && c.login == nil:
	case c.login != nil:
		if err == nil {
			err = Failure{"the server closed the connection (" + c.login.describe() + ")",
				"look at its log and its limits"}
		}
		h.f.loginFailed(c, err)
	case c.flags&(flagLeaving|flagFailureCounted) == 0:
		if err == nil {
			err = Failure{"the server closed a session", "look at its log and its limits"}
		}
		ls.countFailure(failureOf(err, &h.f.target))
	}
	if c.flags&flagLeaving != 0 {
		c.flags &^= flagLeaving
		h.f.disconnected(c)
	}
}

// OnData parses input and handles each element: negotiate during a login, stanza afterwards. It
// takes all of p. Bytes that follow the answer to STARTTLS in the clear are dropped.
func (h handler) OnData(conn *reactor.Conn, p []byte) int {
	c := conn.HandlerState.(*client)
	if c.conn != conn || c.flags&flagLeaving != 0 && c.login == nil {
		return len(p)
	}
	ls := h.state(conn)
	ls.readAt = nanos(conn.Loop().Now())
	if c.flags&flagInactive != 0 {
		h.f.countEvent(ls, countInactiveWrites)
	}
	ls.parser.Feed(&c.in, p)
	for {
		if c.in.Root() == nil {
			if _, err := ls.parser.Next(&c.in); err != nil {
				h.syntax(ls, c, err)
				return len(p)
			}
			continue
		}
		e, err := ls.parser.Stanza(&c.in)
		if err != nil {
			h.syntax(ls, c, err)
			return len(p)
		}
		if c.login != nil {
			if err := h.f.negotiate(ls, c, e); err != nil {
				h.f.loginFailed(c, err)
				conn.Close(nil)
				return len(p)
			}
			if c.login != nil && c.login.handshaking {
				return len(p) // bytes in the clear after the answer to STARTTLS do not count
			}
			continue
		}
		h.f.stanza(ls, c, e)
		if c.conn != conn {
			return len(p)
		}
	}
}

// syntax ends a connection after an error of the parser. xmlstream.ErrNeedMore is none: the element
// goes on in the next read.
func (h handler) syntax(ls *loopState, c *client, err error) {
	if errors.Is(err, xmlstream.ErrNeedMore) {
		return
	}
	if c.login == nil && c.flags&(flagLeaving|flagFailureCounted) == 0 && !h.f.restarting.Load() {
		ls.countFailure(Failure{"the server ended a stream", "look at its log and its limits"})
		c.flags |= flagFailureCounted
	}
	c.conn.Close(nil)
}

// openStream sends a stream header. Under TLS it has the client's address for a server with SASL2.
func (c *client) openStream(f *Fleet) {
	c.in.Reset(f.limits)
	from := ""
	if f.sc.Clients.SASL2 != "off" && c.login != nil && c.login.secure {
		// XEP-0388 section 2: the features may depend on the address. Never in the clear.
		from = f.bareAddress(c)
	}
	c.conn.Append(xmpp.AppendHeader(f.scratch(c), f.target.Domain, from))
}

// stanza handles an element of an online client. A stanza with a trace id of this run is measured;
// the others are requests and presence of the protocol. It is called on c's loop.
func (f *Fleet) stanza(ls *loopState, c *client, e xmlstream.Element) {
	isMessage, isPresence, isIQ := e.Is(stanza.MessageName), e.Is(stanza.PresenceName), e.Is(stanza.IQName)
	if !isMessage && !isPresence && !isIQ {
		f.nonza(ls, c, e)
		return
	}
	if c.flags&flagSM != 0 {
		c.sm.h++
	}
	if c.flags&flagInactive != 0 {
		f.countEvent(ls, countInactiveStanzas)
	}
	kind, _ := e.Attr(stanza.AttrType)
	if isMessage && c.reader != nil && len(c.reader.queries) > 0 {
		if x, ok := e.Child(xmpp.ArchiveResult); ok {
			f.archiveRow(ls, c, e, x)
			return
		}
	}
	if isMessage && f.watchCarbons {
		if x, sent, ok := carbonOf(e); ok {
			f.countCarbon(ls, c, e, x, sent)
			return
		}
	}
	if id, ok := e.Attr(stanza.AttrID); ok {
		if t, ok := parseTraceID(id); ok {
			if t.run == f.run && int(t.step) < len(f.steps) {
				f.countTraced(ls, c, e, t, kind, isIQ)
			}
			if !isIQ || string(kind) != "get" && string(kind) != "set" {
				return
			}
		}
	}
	switch {
	case isIQ:
		f.replyIQ(ls, c, e, kind)
	case isPresence:
		f.presence(ls, c, e, kind)
	}
}

// countTraced counts a stanza with a trace id as delivered, duplicated, out of order or failed,
// records its latency, and tells a closed loop about it. The client's own presence, which servers
// send back (RFC 6121 section 4.2.2), does not count. A stanza from another machine has no latency,
// since clocks differ.
func (f *Fleet) countTraced(ls *loopState, c *client, e xmlstream.Element, t traceID, kind []byte,
	isIQ bool) {
	s := &f.steps[t.step]
	y := ls.tally(t.step)
	if string(kind) == "error" {
		y.Failed++
		why := stanzaFailure(s.name, e)
		ls.countFailure(why)
		if s.request {
			f.requestFailed(why)
		}
		if isIQ {
			f.endPage(ls, c, xmlstream.Element{}, t)
		}
		if !s.away || isIQ { // a message to a receiver that is away is followed by a ping, whose answer counts
			f.completeDelivery(s)
		}
		return
	}
	if isIQ && string(kind) != "result" || !isIQ && t.from == c.index && e.Is(stanza.PresenceName) {
		return
	}
	if s.request && f.sc.Phases[s.phase].Kind == CSI && !f.sc.Phases[s.phase].Off {
		c.flags |= flagInactive // the server has handled what came before the ping
	}
	if s.away && isIQ { // the ping that follows a message in a closed loop
		f.completeDelivery(s)
		return
	}
	if isIQ {
		f.endPage(ls, c, e, t)
	} else if c.flags&flagSamples != 0 {
		f.sample(ls, c, e, t)
	}
	h := c.received.of(t.step, t.from)
	next := h.next
	was := h.arrive(t.seq)
	if s.flood {
		y.Expected += uint64(h.next - next)
	}
	if s.held && was == inOrder { // those before it are superseded
		clear(h.missing)
		y.Done += uint64(h.next - next - 1)
	}
	switch was {
	case duplicate:
		y.Duplicated++
		return
	case outOfOrder:
		if !isIQ { // RFC 6120 section 10.1 orders stanzas between two entities, not a server's replies
			y.Reordered++
		}
	}
	if t.boot == bootID && !s.away && !s.held {
		y.done(ls.readAt-t.at, s.lateAfter)
	} else {
		y.Done++
	}
	if s.away {
		return
	}
	if s.request {
		f.requestEnded()
	}
	f.completeDelivery(s)
}

// stanzaFailure is a stanza error as a Failure. what names the request that it answers.
func stanzaFailure(what string, e xmlstream.Element) Failure {
	x, _ := e.Child(stanza.ErrorName)
	cond := cmp.Or(xmpp.Condition(x, stanza.NSStanzas), "error")
	remedy := "look at the server's log"
	switch cond {
	case "service-unavailable", "recipient-unavailable":
		remedy = "the receiver was not online, or the server does not have this feature"
	case "resource-constraint", "policy-violation", "not-acceptable":
		remedy = "a limit of the server"
	case "feature-not-implemented":
		remedy = "the server does not have this feature"
	case "item-not-found":
		remedy = "an account or room does not exist"
	case "remote-server-not-found", "remote-server-timeout":
		remedy = "is --domain the server's?"
	}
	return Failure{fmt.Sprintf("%s was answered with %.60s", what, cond), remedy}
}

// nonza handles an element that is no stanza: one of stream management, or a stream error.
func (f *Fleet) nonza(ls *loopState, c *client, e xmlstream.Element) {
	switch {
	case e.Is(xmpp.SMRequest) && c.flags&flagSM != 0:
		c.conn.Append(fmt.Appendf(f.scratch(c), "<a xmlns='%s' h='%d'/>", xmpp.NSSM, c.sm.h))
	case e.Is(xmpp.SMAnswer) && c.flags&flagSM != 0:
		f.acked(ls, c, e)
	case e.Is(xmpp.SMEnabled), e.Is(xmpp.SMFailed):
		f.smAnswered(ls, c, e)
	case e.Is(xmpp.StreamFailure):
		if !f.restarting.Load() {
			ls.countFailure(streamFailure(e))
		}
		c.flags |= flagFailureCounted
		c.conn.Close(nil)
	}
}

// streamFailure is a stream error as a Failure.
func streamFailure(e xmlstream.Element) Failure {
	cond := cmp.Or(xmpp.Condition(e, stanza.NSStreams), "error")
	remedy := "look at the server's log"
	switch cond {
	case "conflict":
		remedy = "another client has logged in to the account: is another run going on?"
	case "host-unknown":
		remedy = "--domain must be a domain of the server"
	case "policy-violation", "resource-constraint":
		remedy = "a limit of the server"
	case "system-shutdown":
		remedy = "the server was stopped"
	}
	return Failure{fmt.Sprintf("the server ended a stream with %.60s", cond), remedy}
}

// replyIQ handles an IQ that is not measured. It passes an answer to queryIQ, and answers a
// request: pings, roster pushes and pushes to an app server with a result, others with
// service-unavailable.
func (f *Fleet) replyIQ(ls *loopState, c *client, e xmlstream.Element, kind []byte) {
	id, _ := e.Attr(stanza.AttrID)
	switch string(kind) {
	case "result", "error":
		f.deliverIQ(string(id), e)
		return
	}
	b := append(f.scratch(c), "<iq type='"...)
	child, _ := e.First()
	known := child.Is(xmpp.Roster) || child.Is(xmpp.Ping) || f.answerPush(ls, c, child)
	if known {
		b = append(b, "result' id='"...)
	} else {
		b = append(b, "error' id='"...)
	}
	b = xmlstream.AppendValue(b, id)
	if from, ok := e.Attr(stanza.AttrFrom); ok {
		b = append(b, "' to='"...)
		b = xmlstream.AppendValue(b, from)
	}
	if known {
		b = append(b, "'/>"...)
	} else {
		b = append(b, "'><error type='cancel'><service-unavailable xmlns='"+stanza.NSStanzas+"'/></error></iq>"...)
	}
	f.send(c, b)
}
