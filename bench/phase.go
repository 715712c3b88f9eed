package bench

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"sync"
	"time"

	"canto/bench/xmpp"
	"canto/session/stanza"
	"canto/xmlstream"
)

// This file runs the phases of a scenario in one process. In an open loop operations begin at the times of a
// schedule; in a closed loop a fixed number of them is in flight (pace.go).

// Phase runs this process's part of the k-th phase of the scenario; part says which part of each group's
// clients the process has. It is for one goroutine at a time.
//
// It returns when the part is done: all logins have succeeded or failed, all joins or subscriptions
// are answered, or the length of a hold or settle is over. It does not wait for operations of a hold that are
// in flight then: the coordinator goes on collecting for the scenario's Phase.Grace. The error is that of ctx
// if it was cancelled, or says why the phase could not be done. The end of the phase's length is an error for
// logins, joins and subscriptions, which should have ended by then, and not for the other kinds.
func (f *Fleet) Phase(ctx context.Context, k int, part Assignment) error {
	p := &f.sc.Phases[k]
	list := f.members(p.Group...)
	start := now()
	ctx, cancel := context.WithTimeout(ctx, time.Duration(p.Length))
	defer cancel()
	f.failures.Store(0)
	f.firstFailure.Store(nil)
	f.phase.Store(int32(k))
	f.phaseBegan.Store(start)
	f.restarting.Store(p.Kind == Restart)
	defer func() { // the server may be stopped before the restart is known here
		f.restarting.Store(k+1 < len(f.sc.Phases) && f.sc.Phases[k+1].Kind == Restart)
	}()
	switch p.Kind {
	case Ramp:
		err := f.rampRounds(ctx, k, list, start, part)
		if p.GoOn && !errors.Is(err, context.Canceled) {
			return nil // the sessions, and the reasons of failures, are counted
		}
		return err
	case Storm:
		return f.storm(ctx, k, list, start, part)
	case Hold:
		return f.runActions(ctx, k, start, time.Duration(p.Length), part)
	case Settle:
		debug.FreeOSMemory() // of this process, whose heap a ramp has grown
		<-ctx.Done()
		return contextError(ctx)
	case Befriend:
		return f.befriend(ctx, k, list)
	case Join:
		return f.join(ctx, k, list, part)
	case Carbons:
		return f.turnCarbons(ctx, k, list)
	case SM:
		return f.turnSM(ctx, k, list)
	case CSI:
		return f.turnCSI(ctx, k, list)
	case Cut:
		return f.cut(ctx, list)
	case Restart:
		return f.awaitOffline(ctx)
	case Fill:
		return f.fill(ctx, k, list, part)
	case Push:
		return f.registerPush(ctx, k, list)
	}
	return f.drain(ctx, list)
}

// contextError returns the error of ctx, or nil if ctx only ran out of time, as a phase of kind hold does.
func contextError(ctx context.Context) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return nil
	}
	return ctx.Err()
}

// runActions runs the actions of phase k concurrently until ctx ends, and returns the first error.
// start is the beginning of the phase on the monotonic clock; open loops schedule operations for length
// after it.
//
// First it makes the windows of closed loops. It resets the sequence numbers of all senders and waits
// until that is done, since receivers count from 0 in each step (the operations of an action in a phase).
// It starts a goroutine for each action. It waits for ctx, also if all actions have ended before, and
// then for the goroutines. An action that fails cancels the others.
func (f *Fleet) runActions(ctx context.Context, k int, start int64, length time.Duration,
	part Assignment) error {
	p := &f.sc.Phases[k]
	for j := range p.Do {
		if p.Do[j].Window > 0 {
			f.windows[f.actionStep(k, j)] = &window{signal: make(chan struct{}, 1)}
		}
	}
	for _, list := range f.groups {
		f.onLoops(list.clients, func(_ *loopState, c *client) { c.sent.reset() })
	}
	errs := make(chan error, len(p.Do)+1)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	for j := range p.Do {
		wg.Add(1)
		go func() {
			defer wg.Done()
			if err := f.runAction(ctx, k, j, start, length, part); err != nil {
				errs <- err
				cancel()
			}
		}()
	}
	<-ctx.Done()
	err := contextError(ctx)
	wg.Wait()
	select {
	case e := <-errs:
		return e
	default:
		return err
	}
}

// rampRounds is ramp, as often as the phase has Rounds. Before each but the first the streams of list are
// ended.
func (f *Fleet) rampRounds(ctx context.Context, k int, list []*client, start int64, part Assignment) error {
	for n := range max(f.sc.Phases[k].Rounds, 1) {
		if n > 0 {
			if err := f.drain(ctx, list); err != nil {
				return err
			}
			f.failures.Store(0)
			start = now()
		}
		if err := f.ramp(ctx, k, list, start, part); err != nil {
			return err
		}
	}
	return nil
}

// ramp logs in the clients of list that are not online, at this process's part of the phase's rate (open
// loop), or with its part of InFlight logins at a time (closed loop). The process's part is its share of
// all clients of the groups. ramp returns when all logins have ended; see awaitLogins. It stops early
// when too many have failed. A schedule that ends before list leaves logins that never begin: awaitLogins
// says so.
func (f *Fleet) ramp(ctx context.Context, k int, list []*client, start int64, part Assignment) error {
	p := &f.sc.Phases[k]
	id := f.firstStep[k]
	total := 0 // clients of the groups in all processes
	for _, g := range p.Group {
		total += f.groupSize(g)
	}
	fraction := float64(len(list)) / float64(max(total, 1))
	offline := list[:0:0]
	for _, c := range list {
		if !c.online.Load() {
			offline = append(offline, c)
		}
	}
	before := f.sessions.Load()
	goal := int64(len(offline))
	if p.Rate > 0 {
		f.limitInFlight(0)
		times := &schedule{from: float64(p.Rate) * fraction, length: time.Duration(p.Length).Seconds(),
			rng: rand.New(rand.NewPCG(uint64(f.run), uint64(id)))}
		for _, c := range offline {
			t, ok := times.next()
			if !ok {
				break
			}
			at := start + int64(t*1e9)
			sleepUntil(ctx, at)
			if ctx.Err() != nil || f.tooManyFailures(len(offline)) {
				break
			}
			f.dial(c, id, at)
		}
	} else {
		limit := f.limitInFlight(max(1, int(float64(p.InFlight)*fraction+.5)))
		for _, c := range offline {
			select {
			case limit.places <- struct{}{}:
			case <-ctx.Done():
			}
			if ctx.Err() != nil || f.tooManyFailures(len(offline)) {
				break
			}
			f.dial(c, id, now())
		}
	}
	return f.awaitLogins(ctx, before, goal)
}

// tooManyFailures reports whether so many logins have failed that going on is pointless: ten, and a
// twentieth of them. awaitLogins, which decides at the end, accepts a twentieth; the ten let a small
// phase run to its end.
func (f *Fleet) tooManyFailures(of int) bool { return f.failures.Load() > int64(10+of/20) }

// awaitLogins waits until goal logins have ended. before is how many sessions existed before the first of
// them. Up to a twentieth of them may fail, which is only counted. More failures are an error, and so is
// the end of the phase's length.
func (f *Fleet) awaitLogins(ctx context.Context, before, goal int64) error {
	for f.sessions.Load()-before+f.failures.Load() < goal {
		if f.tooManyFailures(int(goal)) {
			break
		}
		if !f.awaitNotify(ctx) {
			if err := contextError(ctx); err != nil {
				return err
			}
			return fmt.Errorf("%d of %d clients were logged in when the phase's length was over: give it more, "+
				"or log in fewer", f.sessions.Load()-before, goal)
		}
	}
	if w := f.firstFailure.Load(); w != nil && f.failures.Load()*20 > goal {
		return fmt.Errorf("%d of %d logins failed: %w", f.failures.Load(), goal, *w)
	}
	return nil
}

// storm closes the connections of a share of list at once and logs the clients in again at once, as
// after a failure of the network. The actions of the phase run meanwhile.
//
// First it starts the actions and gives them a second. It disconnects the first part of list, Share of
// it, those that are online, and waits until their connections are closed. It dials them all without a
// bound; their latency is timed from the moment of the disconnection. It waits for the logins, and ends
// the actions.
func (f *Fleet) storm(ctx context.Context, k int, list []*client, start int64, part Assignment) error {
	p := &f.sc.Phases[k]
	id := f.firstStep[k]
	actionsEnd := make(chan error, 1)
	actionCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	if len(p.Do) > 0 {
		go func() { actionsEnd <- f.runActions(actionCtx, k, start, time.Duration(p.Length), part) }()
		time.Sleep(time.Second) // the actions are under way when the storm begins
	} else {
		actionsEnd <- nil
	}
	var dropped []*client
	for _, c := range list[:int(float64(len(list))*p.Share+.5)] {
		if c.online.Load() {
			dropped = append(dropped, c)
		}
	}
	at := now()
	f.phaseBegan.Store(at)
	f.onLoops(dropped, func(_ *loopState, c *client) { f.disconnect(c, p.Gentle) })
	for f.disconnecting.Load() > 0 {
		if !f.awaitNotify(ctx) {
			return ctx.Err()
		}
	}
	before := f.sessions.Load()
	f.limitInFlight(0)
	f.dialAll(dropped, id, at)
	err := f.awaitLogins(ctx, before, int64(len(dropped)))
	cancel()
	if e := <-actionsEnd; err == nil && !errors.Is(e, context.Canceled) {
		err = e
	}
	return err
}

// drain ends the streams of list, and waits until no connection is being closed, or the length is over.
func (f *Fleet) drain(ctx context.Context, list []*client) error {
	f.onLoops(list, func(_ *loopState, c *client) {
		if c.conn == nil {
			f.forgetSession(c) // that rests
		}
		f.disconnect(c, true)
	})
	return f.awaitDisconnected(ctx)
}

// completePending ends the join or subscription of c that waits for an answer from the bare address to,
// if there is one, and reports whether there was. ok says whether it succeeded; if not, why is counted.
// The latency ends when the loop read the answer. It is called on c's loop.
func (f *Fleet) completePending(ls *loopState, c *client, to []byte, ok bool, why Failure) (waited bool) {
	for i, w := range c.pending {
		if w.to != string(to) {
			continue
		}
		c.pending = append(c.pending[:i], c.pending[i+1:]...)
		y := ls.tally(w.step)
		if ok {
			y.done(ls.readAt-w.at, f.steps[w.step].lateAfter)
			if w.contact != nil {
				w.contact.subscribers.Add(1)
			}
			if w.room != nil {
				c.room = w.room
				w.room.mu.Lock()
				w.room.occupants++
				w.room.mu.Unlock()
			}
		} else {
			y.Failed++
			ls.countFailure(why)
			f.failures.Add(1)
		}
		f.releaseInFlight() // last: awaitNoneInFlight returns when all is counted
		f.notify()
		return true
	}
	return false
}

// failRequester fails the pending subscription of the client with the bare address to, because the
// server did not take c's answer to it. It is called on c's loop, and acts on the other client's
// loop.
func (f *Fleet) failRequester(c *client, to []byte, why Failure) {
	i, ok := f.target.number(string(to))
	o := f.clients[i]
	if !ok || o == nil || o == c {
		return
	}
	ls, bare := f.loops[o.loop], []byte(f.bareAddress(c))
	ls.loop.Post(func() { f.completePending(ls, o, bare, false, why) })
}

// befriend makes subscriptions to presence. With To, each client of list gets Friends subscribers of that
// group, in turn. With Stars, the first clients of list each get Friends
// subscribers among the others; otherwise each client gets the Friends clients that follow it in
// list. At most InFlight are unanswered. The contact's client approves by itself: see presence.
func (f *Fleet) befriend(ctx context.Context, k int, list []*client) error {
	p := &f.sc.Phases[k]
	id := f.firstStep[k]
	f.limitInFlight(p.InFlight)
	type subscription struct{ subscriber, contact *client }
	var pairs []subscription
	if p.To != "" {
		to := f.members(p.To)
		if len(list) > 0 && len(to) == 0 {
			return Failure{fmt.Sprintf("no client of group %s is in this process", p.To),
				"that group needs two clients for each process: fewer --workers"}
		}
		each := min(cmp.Or(p.Friends, max(1, len(to)/max(1, len(list)))), len(to))
		for i, c := range list {
			for j := range each {
				pairs = append(pairs, subscription{to[(i*each+j)%len(to)], c})
			}
		}
	} else if p.Stars > 0 {
		n := min(p.Stars, len(list))
		others := list[n:]
		if len(others) < p.Friends {
			return Failure{fmt.Sprintf("a star needs %d friends, and there are %d other clients", p.Friends,
				len(others)),
				"more clients, or fewer processes"}
		}
		for i, star := range list[:n] {
			for j := range p.Friends {
				pairs = append(pairs, subscription{others[(i*p.Friends+j)%len(others)], star})
			}
		}
	} else {
		for i, c := range list {
			for j := 1; j <= p.Friends && j < len(list); j++ {
				pairs = append(pairs, subscription{list[(i+j)%len(list)], c})
			}
		}
	}
	for _, x := range pairs {
		bare := f.bareAddress(x.contact)
		err := f.request(ctx, x.subscriber, pendingRequest{step: id, to: bare, contact: x.contact},
			func(b []byte) []byte {
				b = append(b, "<presence type='subscribe' to='"...)
				b = xmlstream.AppendValue(b, bare)
				return append(b, "'/>"...)
			})
		if err != nil {
			return fmt.Errorf("subscriptions took too long: %w", err)
		}
	}
	return f.awaitNoneInFlight(ctx, "subscriptions")
}

// request sends a join or a subscription of c, and w describes it. stanza appends the stanza to the
// buffer that it is given, on c's loop. Before that, request waits for a place in flight. The answer goes
// to completePending. A client that is not online counts as a failure without a reason. The error is that
// of ctx. request is for the goroutine of the phase, which has set a bound of at least 1 (limitInFlight).
func (f *Fleet) request(ctx context.Context, c *client, w pendingRequest,
	stanza func(b []byte) []byte) error {
	select {
	case f.inFlight.Load().places <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	ls := f.loops[c.loop]
	ls.loop.Post(func() {
		y := ls.tally(w.step)
		y.Intended++
		y.Expected++
		if c.conn == nil || !c.online.Load() {
			y.Failed++
			f.failures.Add(1)
			f.releaseInFlight()
			f.notify()
			return
		}
		y.Sent++
		w.at = now()
		c.pending = append(c.pending, w)
		f.send(c, stanza(f.scratch(c)))
	})
	return nil
}

// awaitNoneInFlight waits until no operation of the phase is in flight. what names the operations in the
// error, which says that the phase's length is over. Failed ones are counted, and are not an error here.
func (f *Fleet) awaitNoneInFlight(ctx context.Context, what string) error {
	limit := f.inFlight.Load()
	for len(limit.places) > 0 {
		if !f.awaitNotify(ctx) {
			if err := contextError(ctx); err != nil {
				return err
			}
			return fmt.Errorf("%d %s were not answered within the phase's length", len(limit.places), what)
		}
	}
	return nil
}

// presence handles a presence stanza without a trace id, which are those that no step measures: a
// subscription request, which it approves; the answer to one; an error; and the presence by which a room
// tells an occupant that it has entered (status 110). A room that the occupant has created is locked
// until it is configured (XEP-0045 section 10.1.2), so presence accepts the default configuration. It is
// called on c's loop.
func (f *Fleet) presence(ls *loopState, c *client, e xmlstream.Element, kind []byte) {
	from, _ := e.Attr(stanza.AttrFrom)
	switch string(kind) {
	case "subscribe":
		b := append(f.scratch(c), "<presence type='subscribed' to='"...)
		b = xmlstream.AppendValue(b, from)
		f.send(c, append(b, "'/>"...))
		return
	case "subscribed":
		f.completePending(ls, c, bareJID(from), true, Failure{})
		return
	case "unsubscribed":
		f.completePending(ls, c, bareJID(from), false,
			Failure{"a subscription was refused", "do the accounts have their own rules?"})
		return
	case "error":
		why := stanzaFailure("joining or subscribing", e)
		if !f.completePending(ls, c, bareJID(from), false, why) {
			f.failRequester(c, bareJID(from), why)
		}
		return
	}
	if f.sc.Groups[c.group].Observes && (len(kind) == 0 || string(kind) == "unavailable") &&
		string(bareJID(from)) != f.bareAddress(c) {
		f.countEvent(ls, countObserved)
	}
	if len(c.pending) == 0 {
		return
	}
	x, ok := e.Child(xmpp.MUCUser)
	if !ok {
		return
	}
	var self, created bool
	for k, ok := x.First(); ok; k, ok = k.Next() {
		if k.Is(xmpp.MUCStatus) {
			code, _ := k.Attr(stanza.AttrCode)
			self = self || string(code) == "110"
			created = created || string(code) == "201"
		}
	}
	if !self {
		return
	}
	if created {
		b := append(f.scratch(c), "<iq type='set' id='unlock' to='"...)
		b = xmlstream.AppendValue(b, bareJID(from))
		b = append(b, "'><query xmlns='"+xmpp.NSMUCOwner+"'><x xmlns='"+xmpp.NSDataForms+
			"' type='submit'/></query></iq>"...)
		f.send(c, b)
	}
	f.completePending(ls, c, bareJID(from), true, Failure{})
}

// bareJID returns jid without its resource. It shares jid's memory.
func bareJID(jid []byte) []byte {
	for i, b := range jid {
		if b == '/' {
			return jid[:i]
		}
	}
	return jid
}

// join lets clients join rooms. The rooms of the scenario are divided among the processes; all occupants
// of a room are in one process. First one client joins each room, which may create it, 16 at a time; then
// the others, InFlight at a time. A creator's join counts as done before its configuration of the room is
// answered: servers handle the stanzas of a room in order. For a server without rooms the error is an
// [ErrNotOffered].
func (f *Fleet) join(ctx context.Context, k int, list []*client, part Assignment) error {
	p := &f.sc.Phases[k]
	id := f.firstStep[k]
	if f.target.Rooms == "" {
		return ErrNotOffered{"muc"}
	}
	from, to := p.Rooms*part.Worker/part.Workers, p.Rooms*(part.Worker+1)/part.Workers
	if need := (to - from) * p.Occupants; need > len(list) {
		return Failure{fmt.Sprintf("%d rooms of %d need %d clients, and this process has %d", to-from,
			p.Occupants, need, len(list)),
			"all occupants of a room are in one process: fewer --workers, or more clients"}
	}
	rooms := make([]*room, to-from)
	for i := range rooms {
		rooms[i] = &room{jid: fmt.Sprintf("bench%x-%d@%s", f.run, from+i, f.target.Rooms)}
	}
	const creating = 16 // rooms at a time: the creator of a room also configures it
	enter := func(c *client, r *room) error {
		return f.request(ctx, c, pendingRequest{step: id, to: r.jid, room: r}, func(b []byte) []byte {
			return fmt.Appendf(b, "<presence to='%s/n%d'><x xmlns='%s'><history maxstanzas='0'/></x></presence>",
				r.jid, c.index, xmpp.NSMUC)
		})
	}
	f.limitInFlight(creating)
	for i, r := range rooms {
		if err := enter(list[i*p.Occupants], r); err != nil {
			return err
		}
	}
	if err := f.awaitNoneInFlight(ctx, "joins"); err != nil {
		return err
	}
	f.limitInFlight(p.InFlight)
	for j := 1; j < p.Occupants; j++ {
		for i, r := range rooms {
			if err := enter(list[i*p.Occupants+j], r); err != nil {
				return fmt.Errorf("joins took too long: %w", err)
			}
		}
	}
	return f.awaitNoneInFlight(ctx, "joins")
}
