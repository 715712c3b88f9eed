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

// A client is one connection and its account. All of it belongs to the client's loop, but for what is atomic.
type client struct {
	conn        *reactor.Conn
	in          xmlstream.Stream
	login       *login // while it logs in
	received    sequences
	sent        counters
	jid         atomic.Pointer[string] // full, once bound
	index       uint32                 // in the whole fleet: the number of its account
	loop        uint16
	online      atomic.Bool
	flags       uint8
	subscribers atomic.Int32     // who are subscribed to it
	sm          *smState         // with stream management
	room        *room            // that it is in
	pending     []pendingRequest // joins and subscriptions that are not answered
	page        string           // of the archive, to go on in front of
	fast        *fastToken
}

const (
	flagSM             = 1 << iota // stanzas are counted
	flagLeaving                    // it is meant to go
	flagNotReading                 // it does not read
	flagFailureCounted             // why it ends has been counted
	flagFloods                     // in some phase: its socket keeps little
)

// smState is stream management (XEP-0198): how many stanzas were received, for the server's requests.
type smState struct {
	h uint32
}

// A wait is a join or a subscription that was asked for.
type pendingRequest struct {
	step    uint16
	at      int64
	to      string  // the room or contact, a bare JID
	room    *room   // of a join
	contact *client // of a subscription
}

// handler is the reactor's way to clients.
type handler struct{ f *Fleet }

func (h handler) state(conn *reactor.Conn) *loopState { return h.f.loops[conn.Loop().Index()] }

// OnOpen begins the stream, or TLS does.
func (h handler) OnOpen(conn *reactor.Conn) {
	c := conn.Owner.(*client)
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

// OnSecure begins it behind TLS.
func (h handler) OnSecure(conn *reactor.Conn, st *tls.ConnectionState) {
	c := conn.Owner.(*client)
	if c.login == nil {
		return
	}
	c.login.secure, c.login.handshaking = true, false
	h.f.secured(st)
	conn.Settle()
	c.login.endPart(h.f, &c.login.secured, h.f.stepOf(c.login, partSecure), h.state(conn))
	c.openStream(h.f)
}

// OnTimer ends a login that takes too long.
func (h handler) OnTimer(conn *reactor.Conn) {
	c := conn.Owner.(*client)
	if c.login != nil {
		h.f.loginFailed(c, Failure{fmt.Sprintf("a login took over %v (%s)", time.Duration(h.f.sc.Clients.Timeout), c.login.describe()), "the server is overloaded: log in slower, or set clients.timeout"})
		conn.Close(nil)
	}
}

// OnDrain is not used.
func (h handler) OnDrain(*reactor.Conn) {}

// OnClose counts a client that was lost.
func (h handler) OnClose(conn *reactor.Conn, err error) {
	c := conn.Owner.(*client)
	if c.conn != conn {
		return // a storm has replaced it
	}
	ls := h.state(conn)
	c.conn = nil
	c.in.Reset(h.f.limits)
	h.f.markOffline(c)
	switch {
	case c.login != nil:
		if err == nil {
			err = Failure{"the server closed the connection (" + c.login.describe() + ")", "look at its log and its limits"}
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

// OnData takes what the server says.
func (h handler) OnData(conn *reactor.Conn, p []byte) int {
	c := conn.Owner.(*client)
	if c.conn != conn || c.flags&flagLeaving != 0 && c.login == nil {
		return len(p)
	}
	ls := h.state(conn)
	ls.readAt = nanos(conn.Loop().Now())
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
				return len(p) // nothing in plain may follow
			}
			continue
		}
		h.f.stanza(ls, c, e)
		if c.conn != conn {
			return len(p)
		}
	}
}

func (h handler) syntax(ls *loopState, c *client, err error) {
	if errors.Is(err, xmlstream.ErrNeedMore) {
		return
	}
	if c.login == nil && c.flags&(flagLeaving|flagFailureCounted) == 0 {
		ls.countFailure(Failure{"the server ended a stream", "look at its log and its limits"})
		c.flags |= flagFailureCounted
	}
	c.conn.Close(nil)
}

// openStream begins a stream.
func (c *client) openStream(f *Fleet) {
	c.in.Reset(f.limits)
	from := ""
	if f.sc.Clients.SASL2 != "off" && c.login != nil && c.login.secure {
		// XEP-0388 section 2: the server may need the address for what it offers. Never in the clear.
		from = f.target.name(int(c.index)) + "@" + f.target.Domain
	}
	c.conn.Append(xmpp.AppendHeader(f.scratch(c), f.target.Domain, from))
}

// stanza takes what comes to a client that is online.
func (f *Fleet) stanza(ls *loopState, c *client, e xmlstream.Element) {
	isMessage, isPresence, isIQ := e.Is(stanza.MessageName), e.Is(stanza.PresenceName), e.Is(stanza.IQName)
	if !isMessage && !isPresence && !isIQ {
		f.nonza(ls, c, e)
		return
	}
	if c.flags&flagSM != 0 {
		c.sm.h++
	}
	kind, _ := e.Attr(stanza.AttrType)
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

// countTraced counts a stanza with a token.
func (f *Fleet) countTraced(ls *loopState, c *client, e xmlstream.Element, t traceID, kind []byte, isIQ bool) {
	s := &f.steps[t.step]
	y := ls.tally(t.step)
	if string(kind) == "error" {
		y.Failed++
		ls.countFailure(stanzaFailure(s.name, e))
		f.completeDelivery(s, t)
		return
	}
	if isIQ && string(kind) != "result" || !isIQ && (t.from == c.index && e.Is(stanza.PresenceName) || f.isCarbon(e)) {
		return // one's own presence comes back (RFC 6121 §4.2.2), and stands for nothing
	}
	if isIQ {
		f.notePage(c, e)
	}
	h := c.received.of(t.step, t.from)
	next := h.next
	was := h.arrive(t.seq)
	if s.flood {
		y.Expected += uint64(h.next - next)
	}
	switch was {
	case duplicate:
		y.Duplicated++
		return
	case outOfOrder:
		if !isIQ { // answers may overtake one another (RFC 6120 §10.1 orders stanzas, not replies)
			y.Reordered++
		}
	}
	if t.boot == bootID {
		y.done(ls.readAt-t.at, s.lateAfter)
	} else {
		y.Done++ // on another machine's clock
	}
	f.completeDelivery(s, t)
}

// isCarbon reports whether a message is only the wrapper of a copy (XEP-0280): what is in it is not meant for
// this resource.
func (f *Fleet) isCarbon(e xmlstream.Element) bool {
	if !f.sc.Clients.Carbons {
		return false
	}
	_, in := e.Child(xmpp.CarbonReceived)
	_, out := e.Child(xmpp.CarbonSent)
	return in || out
}

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

// nonza takes what is no stanza.
func (f *Fleet) nonza(ls *loopState, c *client, e xmlstream.Element) {
	switch {
	case e.Is(xmpp.SMRequest) && c.flags&flagSM != 0:
		c.conn.Append(fmt.Appendf(f.scratch(c), "<a xmlns='%s' h='%d'/>", xmpp.NSSM, c.sm.h))
	case e.Is(xmpp.StreamFailure):
		ls.countFailure(streamFailure(e))
		c.flags |= flagFailureCounted
		c.conn.Close(nil)
	}
}

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

// replyIQ takes an iq that is no answer to what is measured.
func (f *Fleet) replyIQ(ls *loopState, c *client, e xmlstream.Element, kind []byte) {
	id, _ := e.Attr(stanza.AttrID)
	switch string(kind) {
	case "result", "error":
		f.deliverIQ(string(id), e)
		return
	}
	b := append(f.scratch(c), "<iq type='"...)
	child, _ := e.First()
	known := child.Is(xmpp.Roster) || child.Is(xmpp.Ping)
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
	c.conn.Append(b)
}
