package bench

import (
	"cmp"
	"context"
	"fmt"
	"strconv"

	"canto/bench/xmpp"
	"canto/session/stanza"
	"canto/xmlstream"
)

// This file is the client's side of stream management (XEP-0198): counts, acknowledgements, and sessions that
// are resumed; and that of client state indication (XEP-0352).

// An smState is the client's state of stream management. It outlives the connection if the session can be
// resumed. The client's loop uses it.
type smState struct {
	id    string // by which the session can be resumed; "": it can't be
	h     uint32 // stanzas that have come since <enabled/>, which an ack reports
	sent  uint32 // stanzas that were sent since <enable/>
	acked uint32 // of sent: that the server has acknowledged
	asked bool   // a request for an ack is unanswered
	// the stanzas after acked, the oldest first; empty if sessions are not resumed
	unacked [][]byte
}

// askEvery is how many stanzas a client sends between two requests for an ack. At most one is unanswered.
const askEvery = 10

// send appends a stanza of c to its output, and counts it. It reports false if the connection does not take
// it. It is called on c's loop, with a connection.
func (f *Fleet) send(c *client, b []byte) bool {
	if !c.conn.Append(b) {
		return false
	}
	if m := c.sm; m != nil {
		m.sent++
		if f.sc.Clients.Resume {
			m.unacked = append(m.unacked, append([]byte(nil), b...))
		}
		f.ask(c)
	}
	return true
}

// ask requests an ack, if it is time to.
func (f *Fleet) ask(c *client) {
	if m := c.sm; c.flags&flagSM != 0 && !m.asked && m.sent-m.acked >= askEvery {
		m.asked = true
		c.conn.Append([]byte("<r xmlns='" + xmpp.NSSM + "'/>"))
	}
}

// acknowledged takes the server's count of the client's stanzas that it has handled, which e has in h. ok is
// false if there is none, or if it is more than were sent, or less than before.
func (m *smState) acknowledged(e xmlstream.Element) (ok bool) {
	v, ok := e.Attr(xmpp.AttrHandled)
	n, err := strconv.ParseUint(string(v), 10, 32)
	h := uint32(n)
	if !ok || err != nil || h-m.acked > m.sent-m.acked {
		return false
	}
	if len(m.unacked) > 0 {
		m.unacked = m.unacked[h-m.acked:]
	}
	m.acked = h
	return true
}

// errAck is what is wrong with an ack.
var errAck = Failure{"the server acknowledged stanzas that were not sent", "the server breaks XEP-0198"}

// acked handles an <a/> of the server.
func (f *Fleet) acked(ls *loopState, c *client, e xmlstream.Element) {
	c.sm.asked = false
	if !c.sm.acknowledged(e) {
		ls.countFailure(errAck)
		return
	}
	f.ask(c)
}

// enabled notes that the server has turned stream management on: e is <enabled/>. What comes from now on is
// counted.
func (c *client) enabled(e xmlstream.Element) {
	c.flags |= flagSM
	c.sm.h = 0
	c.sm.id = ""
	if r, _ := e.Attr(xmpp.AttrResume); string(r) == "true" || string(r) == "1" {
		id, _ := e.Attr(stanza.AttrID)
		c.sm.id = string(id)
	}
}

// resumes reports whether c has a session that it may resume at its next login.
func (f *Fleet) resumes(c *client) bool { return f.sc.Clients.Resume && c.sm != nil && c.sm.id != "" }

// appendEnable appends the request for stream management.
func appendEnable(b []byte) []byte {
	return append(b, "<enable xmlns='"+xmpp.NSSM+"' resume='true'/>"...)
}

// appendResume appends the request to resume c's session.
func appendResume(b []byte, c *client) []byte {
	b = fmt.Appendf(b, "<resume xmlns='%s' h='%d' previd='", xmpp.NSSM, c.sm.h)
	return append(xmlstream.AppendValue(b, c.sm.id), "'/>"...)
}

// resumed ends a login by which the server has resumed c's session: e is <resumed/>. What the server has not
// handled is sent again.
func (f *Fleet) resumed(ls *loopState, c *client, e xmlstream.Element) error {
	m := c.sm
	id, _ := e.Attr(xmpp.AttrPrevID)
	if string(id) != m.id {
		return Failure{"the server resumed another session than was asked for", "the server breaks XEP-0198"}
	}
	if !m.acknowledged(e) {
		return errAck
	}
	l := c.login
	var t int64
	l.endPart(f, &t, f.stepOf(l, partBind), ls)
	if l.resume != 0 {
		ls.tally(l.resume).Done++
	}
	c.flags |= flagSM
	m.asked = false
	for _, b := range m.unacked {
		c.conn.Append(b)
	}
	if f.sc.Clients.Inactive { // a resumed stream is active (XEP-0352 section 5.2)
		c.conn.Append([]byte(sayInactive))
		c.flags |= flagInactive
	}
	f.loggedIn(ls, c)
	f.ask(c)
	return nil
}

// refused notes that the server did not resume c's session: e is <failed/>. The login goes on, with a session
// of its own. Where the server says how much it has handled, the rest is sent in that (XEP-0198 section 5).
func (f *Fleet) refused(ls *loopState, c *client, e xmlstream.Element) {
	if l := c.login; l.resume != 0 {
		ls.tally(l.resume).Failed++
	}
	cond := cmp.Or(xmpp.Condition(e, stanza.NSStanzas), "no reason")
	remedy := "look at the server's log"
	if cond == "item-not-found" {
		remedy = "the server does not have the session any more: how long does it keep one?"
	}
	ls.countFailure(Failure{fmt.Sprintf("a session was not resumed: %.60s", cond), remedy})
	m := c.sm
	f.forgetSession(c)
	if m.acknowledged(e) {
		c.login.again = m.unacked
	}
}

// forgetSession drops what c knows of its session. It is called on c's loop.
func (f *Fleet) forgetSession(c *client) {
	c.flags &^= flagSM | flagCarbons | flagInactive
	c.sm, c.room = nil, nil
	if c.resting.Swap(false) {
		f.resting.Add(-1)
	}
}

// turnSM turns stream management of the clients of list on (XEP-0198 section 3). nonza takes the answers.
func (f *Fleet) turnSM(ctx context.Context, k int, list []*client) error {
	return f.request1(ctx, k, list, "requests for stream management", func(_ *loopState, c *client, _ traceID) {
		c.sm = new(smState)
		c.conn.Append(appendEnable(f.scratch(c)))
	})
}

// smAnswered handles the answer e to a request of turnSM.
func (f *Fleet) smAnswered(ls *loopState, c *client, e xmlstream.Element) {
	if e.Is(xmpp.SMEnabled) && c.sm != nil && c.flags&flagSM == 0 {
		c.enabled(e)
		ls.tally(f.requestStep()).Done++
		f.requestEnded()
		return
	}
	why := Failure{fmt.Sprintf("stream management was refused: %.60s",
		cmp.Or(xmpp.Condition(e, stanza.NSStanzas), "no reason")), "look at the server's log"}
	ls.countFailure(why)
	if c.sm != nil && c.flags&flagSM == 0 {
		c.sm = nil
		ls.tally(f.requestStep()).Failed++
		f.requestFailed(why)
	}
}

// requestStep is the step of the requests of the phase that runs.
func (f *Fleet) requestStep() uint16 { return f.firstStep[f.phase.Load()] }

// What a client says of its user's attention (XEP-0352 section 4).
const (
	sayActive   = "<active xmlns='" + xmpp.NSCSI + "'/>"
	sayInactive = "<inactive xmlns='" + xmpp.NSCSI + "'/>"
)

// turnCSI lets the clients of list say that they are inactive, or active if the phase says so. A ping behind
// it shows that the server knows it.
func (f *Fleet) turnCSI(ctx context.Context, k int, list []*client) error {
	off := f.sc.Phases[k].Off
	return f.request1(ctx, k, list, "pings of clients that say whether they are active",
		func(_ *loopState, c *client, t traceID) {
			if off {
				c.flags &^= flagInactive
				c.conn.Append([]byte(sayActive))
			} else {
				c.conn.Append([]byte(sayInactive))
			}
			f.send(c, f.appendPing(f.scratch(c), t))
		})
}

// usesCSI reports whether any client of the scenario may say that it is inactive.
func (s *Scenario) usesCSI() bool {
	if s.Clients.Inactive {
		return true
	}
	for _, p := range s.Phases {
		if p.Kind == CSI {
			return true
		}
	}
	return false
}

// observes reports whether the scenario has a group that observes presence.
func (s *Scenario) observes() bool {
	for _, g := range s.Groups {
		if g.Observes {
			return true
		}
	}
	return false
}

// cut resets the connections of list, and waits until they are closed.
func (f *Fleet) cut(ctx context.Context, list []*client) error {
	f.onLoops(list, func(_ *loopState, c *client) {
		if c.conn != nil && c.online.Load() {
			c.flags |= flagLeaving
			f.disconnecting.Add(1)
			c.conn.Abort()
		}
	})
	return f.awaitDisconnected(ctx)
}

// awaitDisconnected waits until no connection is being closed, or the phase's length is over.
func (f *Fleet) awaitDisconnected(ctx context.Context) error {
	for f.disconnecting.Load() > 0 {
		if !f.awaitNotify(ctx) {
			return contextError(ctx)
		}
	}
	return nil
}

// awaitOffline waits until the server has ended all sessions of this process, as it does when it is stopped.
func (f *Fleet) awaitOffline(ctx context.Context) error {
	for f.sessions.Load() > 0 {
		if !f.awaitNotify(ctx) {
			if err := contextError(ctx); err != nil {
				return err
			}
			return fmt.Errorf("%d sessions were still there when the phase's length was over: has the server "+
				"restarted?", f.sessions.Load())
		}
	}
	return nil
}
