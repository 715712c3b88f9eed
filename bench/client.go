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
	conn    *reactor.Conn
	in      xmlstream.Stream
	login   *login // while it logs in
	heard   flows
	sent    counters
	jid     atomic.Pointer[string] // full, once bound
	index   uint32                 // in the whole fleet: the number of its account
	loop    uint16
	online  atomic.Bool
	flags   uint8
	friends atomic.Int32 // who are subscribed to it
	sm      *smState     // with stream management
	room    *room        // that it is in
	waits   []wait       // joins and subscriptions that are not answered
	page    string       // of the archive, to go on in front of
	token   *fastToken
}

const (
	flagSM     = 1 << iota // stanzas are counted
	flagLeave              // it is meant to go
	flagDeaf               // it does not read
	flagEnded              // why it ends has been counted
	flagFloods             // in some phase: its socket keeps little
)

// smState is stream management (XEP-0198): how many stanzas were received, for the server's requests.
type smState struct {
	h uint32
}

// A wait is a join or a subscription that was asked for.
type wait struct {
	step uint16
	at   int64
	to   string  // the room or contact, a bare JID
	room *room   // of a join
	who  *client // of a subscription
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
	c.login.mark(h.f, &c.login.opened, h.f.stepOf(c.login, partConnect), h.state(conn))
	conn.Arm(conn.Loop().Tick().After(time.Duration(h.f.sc.Clients.Timeout)))
	if h.f.sc.Clients.TLS != "direct" {
		c.header(h.f)
	}
}

// OnSecure begins it behind TLS.
func (h handler) OnSecure(conn *reactor.Conn, st *tls.ConnectionState) {
	c := conn.Owner.(*client)
	if c.login == nil {
		return
	}
	c.login.secure, c.login.shaking = true, false
	h.f.secured(st)
	conn.Settle()
	c.login.mark(h.f, &c.login.secured, h.f.stepOf(c.login, partSecure), h.state(conn))
	c.header(h.f)
}

// OnTimer ends a login that takes too long.
func (h handler) OnTimer(conn *reactor.Conn) {
	c := conn.Owner.(*client)
	if c.login != nil {
		h.f.loginFailed(c, Refusal{fmt.Sprintf("a login took over %v (%s)", time.Duration(h.f.sc.Clients.Timeout), c.login.where()), "the server is overloaded: log in slower, or set clients.timeout"})
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
	h.f.left(c)
	switch {
	case c.login != nil:
		if err == nil {
			err = Refusal{"the server closed the connection (" + c.login.where() + ")", "look at its log and its limits"}
		}
		h.f.loginFailed(c, err)
	case c.flags&(flagLeave|flagEnded) == 0:
		if err == nil {
			err = Refusal{"the server closed a session", "look at its log and its limits"}
		}
		ls.refuse(refusalOf(err, &h.f.target))
	}
	if c.flags&flagLeave != 0 {
		c.flags &^= flagLeave
		h.f.gone(c)
	}
}

// OnData takes what the server says.
func (h handler) OnData(conn *reactor.Conn, p []byte) int {
	c := conn.Owner.(*client)
	if c.conn != conn || c.flags&flagLeave != 0 && c.login == nil {
		return len(p)
	}
	ls := h.state(conn)
	ls.at = nanos(conn.Loop().Now())
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
			if c.login != nil && c.login.shaking {
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
	if c.login == nil && c.flags&(flagLeave|flagEnded) == 0 {
		ls.refuse(Refusal{"the server ended a stream", "look at its log and its limits"})
		c.flags |= flagEnded
	}
	c.conn.Close(nil)
}

// header begins a stream.
func (c *client) header(f *Fleet) {
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
		if t, ok := parseToken(id); ok {
			if t.run == f.run && int(t.step) < len(f.steps) {
				f.measured(ls, c, e, t, kind, isIQ)
			}
			if !isIQ || string(kind) != "get" && string(kind) != "set" {
				return
			}
		}
	}
	switch {
	case isIQ:
		f.answer(ls, c, e, kind)
	case isPresence:
		f.presence(ls, c, e, kind)
	}
}

// measured counts a stanza with a token.
func (f *Fleet) measured(ls *loopState, c *client, e xmlstream.Element, t token, kind []byte, isIQ bool) {
	s := &f.steps[t.step]
	y := ls.tally(t.step)
	if string(kind) == "error" {
		y.Failed++
		ls.refuse(stanzaRefusal(s.name, e))
		f.ended(s, t)
		return
	}
	if isIQ && string(kind) != "result" || !isIQ && (t.from == c.index && e.Is(stanza.PresenceName) || f.own(e)) {
		return // one's own presence comes back (RFC 6121 §4.2.2), and stands for nothing
	}
	if isIQ {
		f.turnPage(c, e)
	}
	h := c.heard.of(t.step, t.from)
	next := h.next
	was := h.arrived(t.seq)
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
	if t.clock == clockID {
		y.done(ls.at-t.at, s.late)
	} else {
		y.Done++ // on another machine's clock
	}
	f.ended(s, t)
}

// own reports whether a message is only the wrapper of a copy (XEP-0280): what is in it is not meant for
// this resource.
func (f *Fleet) own(e xmlstream.Element) bool {
	if !f.sc.Clients.Carbons {
		return false
	}
	_, in := e.Child(xmpp.CarbonReceived)
	_, out := e.Child(xmpp.CarbonSent)
	return in || out
}

func stanzaRefusal(what string, e xmlstream.Element) Refusal {
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
	return Refusal{fmt.Sprintf("%s was answered with %.60s", what, cond), remedy}
}

// nonza takes what is no stanza.
func (f *Fleet) nonza(ls *loopState, c *client, e xmlstream.Element) {
	switch {
	case e.Is(xmpp.SMRequest) && c.flags&flagSM != 0:
		c.conn.Append(fmt.Appendf(f.scratch(c), "<a xmlns='%s' h='%d'/>", xmpp.NSSM, c.sm.h))
	case e.Is(xmpp.StreamFailure):
		ls.refuse(streamRefusal(e))
		c.flags |= flagEnded
		c.conn.Close(nil)
	}
}

func streamRefusal(e xmlstream.Element) Refusal {
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
	return Refusal{fmt.Sprintf("the server ended a stream with %.60s", cond), remedy}
}

// answer takes an iq that is no answer to what is measured.
func (f *Fleet) answer(ls *loopState, c *client, e xmlstream.Element, kind []byte) {
	id, _ := e.Attr(stanza.AttrID)
	switch string(kind) {
	case "result", "error":
		f.asked(string(id), e)
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
