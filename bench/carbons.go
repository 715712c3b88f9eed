package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"canto/bench/xmpp"
	"canto/session/stanza"
	"canto/xmlstream"
)

// This file turns features of clients on, and counts carbons: copies of messages for the other devices of an
// account (XEP-0280).

// enable sends a request of each client of list, InFlight at a time, and waits for the answers. payload
// appends what is in the request, on the client's loop. what names the requests in errors. It returns the
// first failure: a figure of clients without the feature would be of something else.
func (f *Fleet) enable(ctx context.Context, k int, list []*client, what string,
	payload func(c *client, b []byte) []byte) error {
	return f.request1(ctx, k, list, what, func(_ *loopState, c *client, t traceID) {
		b := append(f.scratch(c), "<iq type='set' id='"...)
		b = append(t.append(b), "'>"...)
		f.send(c, append(payload(c, b), "</iq>"...))
	})
}

// request1 is enable with requests that do sends, on the client's loop. t is the id of the request.
func (f *Fleet) request1(ctx context.Context, k int, list []*client, what string,
	do func(ls *loopState, c *client, t traceID)) error {
	p := &f.sc.Phases[k]
	id := f.firstStep[k]
	limit := f.limitInFlight(p.InFlight)
	for _, c := range list {
		select {
		case limit.places <- struct{}{}:
		case <-ctx.Done():
			return fmt.Errorf("%s took too long: %w", what, ctx.Err())
		}
		ls := f.loops[c.loop]
		ls.loop.Post(func() {
			y := ls.tally(id)
			y.Intended++
			y.Expected++
			if c.conn == nil || !c.online.Load() {
				y.Failed++
				f.requestFailed(Failure{"a client was not online", "put a ramp before this phase"})
				return
			}
			y.Sent++
			do(ls, c, traceID{run: f.run, boot: bootID, step: id, from: c.index,
				seq: c.sent.next(id, manyReceivers), at: now()})
		})
	}
	if err := f.awaitNoneInFlight(ctx, what); err != nil {
		return err
	}
	if w := f.firstFailure.Load(); w != nil {
		return fmt.Errorf("%d of %d %s failed: %w", f.failures.Load(), len(list), what, *w)
	}
	return nil
}

// requestFailed ends a request of enable without success. Any goroutine may call it.
func (f *Fleet) requestFailed(why Failure) {
	f.failures.Add(1)
	f.firstFailure.CompareAndSwap(nil, &why)
	f.requestEnded()
}

// requestEnded gives back the place in flight of a request of enable. Any goroutine may call it.
func (f *Fleet) requestEnded() {
	f.releaseInFlight()
	f.notify()
}

// turnCarbons turns carbons of the clients of list on, or off if the phase says so (XEP-0280 section 4).
func (f *Fleet) turnCarbons(ctx context.Context, k int, list []*client) error {
	name, on := "enable", true
	if f.sc.Phases[k].Off {
		name, on = "disable", false
	}
	return f.enable(ctx, k, list, "requests to "+name+" carbons", func(c *client, b []byte) []byte {
		// A copy may come before the answer.
		if on {
			c.flags |= flagCarbons
		} else {
			c.flags &^= flagCarbons
		}
		return append(b, "<"+name+" xmlns='"+xmpp.NSCarbons+"'/>"...)
	})
}

// copiesCarbons reports whether any client of the scenario may turn carbons on: then messages are looked
// into.
func (s *Scenario) copiesCarbons() bool {
	return s.Clients.Carbons || slices.ContainsFunc(s.Phases, func(p Phase) bool { return p.Kind == Carbons })
}

// device is the second device of the receiver p that gets carbons of the messages of a step; nil: another
// process has it.
func (f *Fleet) device(s *step, p *client) *client { return f.clients[uint32(int(p.index)+s.deviceAt)] }

// expectCarbon counts a carbon of a message to p as expected. If its device is not online, the carbon has
// failed. It is called on the sender's loop.
func (f *Fleet) expectCarbon(ls *loopState, s *step, p *client) {
	d := f.device(s, p)
	if d == nil {
		return
	}
	y := ls.tally(s.carbons)
	y.Intended++
	y.Sent++
	y.Expected++
	if !d.online.Load() {
		y.Failed++
		ls.countFailure(Failure{"a second device was not online", "look at the other failures"})
	}
}

// carbonOf returns the element of XEP-0280 in a message, and whether the copy is of a message that the
// account has sent. ok is false if the message is no carbon.
func carbonOf(e xmlstream.Element) (x xmlstream.Element, sent, ok bool) {
	if x, ok = e.Child(xmpp.CarbonReceived); ok {
		return x, false, true
	}
	x, ok = e.Child(xmpp.CarbonSent)
	return x, true, ok
}

// countCarbon counts the carbon e that c has received: x is the element of XEP-0280 in it. What is counted is
// the message inside, by its trace id: each device has to get it once, and in the order of its sender. A
// carbon that is not as XEP-0280 wants it, or that c must not get, is counted as wrong. A carbon of a step
// that expects none is ignored, if c has turned carbons on. It is called on c's loop.
func (f *Fleet) countCarbon(ls *loopState, c *client, e, x xmlstream.Element, sent bool) {
	m, err := forwardedMessage(x)
	if err != nil {
		return // it is no message of this suite
	}
	id, _ := m.Attr(stanza.AttrID)
	t, ok := parseTraceID(id)
	if !ok || t.run != f.run || int(t.step) >= len(f.steps) {
		return
	}
	s := &f.steps[t.step]
	if s.carbons == 0 && c.flags&flagCarbons != 0 {
		return
	}
	counted := t.step
	if s.carbons != 0 {
		counted = s.carbons
	}
	y := ls.tally(counted)
	if fault := f.carbonFault(c, e, m, t, s, sent); fault != "" {
		y.Wrong++
		ls.countFailure(Failure{fault, "the server breaks XEP-0280"})
		return
	}
	switch c.received.arrive(counted, t.from, t.seq) {
	case duplicate:
		y.Duplicated++
		return
	case outOfOrder:
		y.Reordered++
	}
	if t.boot == bootID {
		y.done(ls.readAt-t.at, s.lateAfter)
	} else {
		y.Done++
	}
}

// errNoMessage is the error of a carbon or archive result without a message in it.
var errNoMessage = errors.New("there is no forwarded message")

// forwardedMessage is the message that x has forwarded (XEP-0297).
func forwardedMessage(x xmlstream.Element) (m xmlstream.Element, err error) {
	w, ok := x.Child(xmpp.Forwarded)
	if !ok {
		return m, errNoMessage
	}
	if m, ok = w.Child(stanza.MessageName); !ok {
		return m, errNoMessage
	}
	return m, nil
}

// carbonFault says what is wrong with the carbon e of the message m, which has the trace id t and belongs to
// the step s; "" if nothing is. XEP-0280 sections 6 to 8, and 11: a carbon is from the bare address of the
// account that it is for, or it may be forged.
func (f *Fleet) carbonFault(c *client, e, m xmlstream.Element, t traceID, s *step, sent bool) string {
	from, _ := e.Attr(stanza.AttrFrom)
	to, _ := e.Attr(stanza.AttrTo)
	innerFrom, _ := m.Attr(stanza.AttrFrom)
	innerTo, _ := m.Attr(stanza.AttrTo)
	own, jid := f.bareAddress(c), c.jid.Load()
	sender := f.clients[t.from]
	switch {
	case t.from == c.index:
		return "a carbon came to the session that had sent the message"
	case c.flags&flagCarbons == 0:
		return "a carbon came to a session that has not turned them on"
	case string(from) != own:
		return "a carbon was not from the bare address of its account"
	case len(to) > 0 && jid != nil && string(to) != *jid:
		return "a carbon was not to the session that it came to"
	case sent:
		return "a carbon was marked as sent by a device that had received the message"
	case string(bareJID(innerTo)) != own:
		return "a carbon has a message to another account"
	case jid != nil && string(innerTo) == *jid:
		return "a carbon came to the session that the message was for"
	case sender != nil && string(bareJID(innerFrom)) != f.bareAddress(sender):
		return "a carbon has a message with another sender"
	case f.groups[c.group].name != s.copies:
		return "a carbon came to a session that should not have it"
	}
	return ""
}

// bareAddress is the bare address of c's account.
func (f *Fleet) bareAddress(c *client) string {
	return f.target.name(int(c.account)) + "@" + f.target.Domain
}
