package bench

import (
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

// Phase runs this process's share of the k-th phase, and returns when its part is done: logins have
// succeeded or failed, a hold's length is over. What is on its way then is not waited for. start is the
// moment on the machine's monotonic clock at which the phase begins.
func (f *Fleet) Phase(ctx context.Context, k int, share Partition) error {
	p := &f.sc.Phases[k]
	list := f.members(p.Group...)
	start := now()
	ctx, cancel := context.WithTimeout(ctx, time.Duration(p.Length))
	defer cancel()
	f.failures.Store(0)
	f.firstFailure.Store(nil)
	switch p.Kind {
	case Ramp:
		err := f.ramp(ctx, k, list, start, share)
		if p.GoOn && !errors.Is(err, context.Canceled) {
			return nil // how many are in, and why others are not, is counted
		}
		return err
	case Storm:
		return f.storm(ctx, k, list, start, share)
	case Hold:
		return f.runActions(ctx, k, start, time.Duration(p.Length), share)
	case Settle:
		debug.FreeOSMemory() // the clients' own, after a ramp
		<-ctx.Done()
		return contextError(ctx)
	case Befriend:
		return f.befriend(ctx, k, list)
	case Join:
		return f.join(ctx, k, list, share)
	}
	return f.drain(ctx, list)
}

// contextError is nil if only the time is over.
func contextError(ctx context.Context) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return nil
	}
	return ctx.Err()
}

// runActions does a phase's things side by side until ctx ends, and returns the first error.
func (f *Fleet) runActions(ctx context.Context, k int, start int64, length time.Duration, share Partition) error {
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
			if err := f.runAction(ctx, k, j, start, length, share); err != nil {
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

// ramp logs list in.
func (f *Fleet) ramp(ctx context.Context, k int, list []*client, start int64, share Partition) error {
	p := &f.sc.Phases[k]
	id := f.firstStep[k]
	whole := 0
	for _, g := range p.Group {
		whole += f.groupSize(g)
	}
	part := float64(len(list)) / float64(max(whole, 1))
	out := list[:0:0]
	for _, c := range list {
		if !c.online.Load() {
			out = append(out, c)
		}
	}
	before := f.sessions.Load()
	goal := int64(len(out))
	if p.Rate > 0 {
		f.limitInFlight(0)
		pc := &schedule{from: float64(p.Rate) * part, length: time.Duration(p.Length).Seconds(), rng: rand.New(rand.NewPCG(uint64(f.run), uint64(id)))}
		for _, c := range out {
			t, ok := pc.next()
			if !ok {
				break
			}
			at := start + int64(t*1e9)
			sleepUntil(ctx, at)
			if ctx.Err() != nil || f.tooManyFailures(len(out)) {
				break
			}
			f.dial(c, id, at)
		}
	} else {
		slots := f.limitInFlight(max(1, int(float64(p.InFlight)*part+.5)))
		for _, c := range out {
			select {
			case slots.places <- struct{}{}:
			case <-ctx.Done():
			}
			if ctx.Err() != nil || f.tooManyFailures(len(out)) {
				break
			}
			f.dial(c, id, now())
		}
	}
	return f.awaitLogins(ctx, before, goal)
}

// tooManyFailures reports whether so many logins have failed that going on tells nothing: before all have ended, ten more than
// the twentieth that may.
func (f *Fleet) tooManyFailures(of int) bool { return f.failures.Load() > int64(10+of/20) }

// awaitLogins waits until all have ended. Up to a twentieth that failed are counted; more are an error.
func (f *Fleet) awaitLogins(ctx context.Context, before, goal int64) error {
	for f.sessions.Load()-before+f.failures.Load() < goal {
		if f.tooManyFailures(int(goal)) {
			break
		}
		if !f.awaitNotify(ctx) {
			if err := contextError(ctx); err != nil {
				return err
			}
			return fmt.Errorf("%d of %d clients were logged in when the phase's length was over: give it more, or log in fewer", f.sessions.Load()-before, goal)
		}
	}
	if w := f.firstFailure.Load(); w != nil && f.failures.Load()*20 > goal {
		return fmt.Errorf("%d of %d logins failed: %w", f.failures.Load(), goal, *w)
	}
	return nil
}

// storm drops clients all at once and logs them in again all at once; the phase's actions go on meanwhile.
func (f *Fleet) storm(ctx context.Context, k int, list []*client, start int64, share Partition) error {
	p := &f.sc.Phases[k]
	id := f.firstStep[k]
	acts := make(chan error, 1)
	actx, cancel := context.WithCancel(ctx)
	defer cancel()
	if len(p.Do) > 0 {
		go func() { acts <- f.runActions(actx, k, start, time.Duration(p.Length), share) }()
		time.Sleep(time.Second) // they have begun when the storm does
	} else {
		acts <- nil
	}
	var hit []*client
	for _, c := range list[:int(float64(len(list))*p.Share+.5)] {
		if c.online.Load() {
			hit = append(hit, c)
		}
	}
	at := now()
	f.onLoops(hit, func(_ *loopState, c *client) { f.disconnect(c, p.Gentle) })
	for f.disconnecting.Load() > 0 {
		if !f.awaitNotify(ctx) {
			return ctx.Err()
		}
	}
	before := f.sessions.Load()
	f.limitInFlight(0)
	f.dialAll(hit, id, at)
	err := f.awaitLogins(ctx, before, int64(len(hit)))
	cancel()
	if e := <-acts; err == nil && !errors.Is(e, context.Canceled) {
		err = e
	}
	return err
}

// drain ends the streams.
func (f *Fleet) drain(ctx context.Context, list []*client) error {
	f.onLoops(list, func(_ *loopState, c *client) { f.disconnect(c, true) })
	for f.disconnecting.Load() > 0 {
		if !f.awaitNotify(ctx) {
			return contextError(ctx)
		}
	}
	return nil
}

// completePending ends a wait of c for what answered, if there is one; on c's loop. ok is false if it failed.
func (f *Fleet) completePending(ls *loopState, c *client, to []byte, ok bool, why Failure) (waited bool) {
	for i := range c.pending {
		if c.pending[i].to != string(to) {
			continue
		}
		w := c.pending[i]
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
		f.releaseInFlight() // last: who waits for it looks at what was done
		f.notify()
		return true
	}
	return false
}

// failRequester ends the wait of the client with address to, which c could not answer: the server did not take it.
func (f *Fleet) failRequester(c *client, to []byte, why Failure) {
	i, ok := f.target.number(string(to))
	o := f.clients[i]
	if !ok || o == nil || o == c {
		return
	}
	ls, bare := f.loops[o.loop], []byte(f.target.name(int(c.index))+"@"+f.target.Domain)
	ls.loop.Post(func() { f.completePending(ls, o, bare, false, why) })
}

// befriend has clients subscribe to others' presence: who is asked answers by itself.
func (f *Fleet) befriend(ctx context.Context, k int, list []*client) error {
	p := &f.sc.Phases[k]
	id := f.firstStep[k]
	f.limitInFlight(p.InFlight)
	type pair struct{ who, whom *client }
	var pairs []pair
	if p.Stars > 0 {
		n := min(p.Stars, len(list))
		others := list[n:]
		if len(others) < p.Friends {
			return Failure{fmt.Sprintf("a star can't have %d friends of %d clients", p.Friends, len(others)), "more clients, or fewer processes"}
		}
		for i, star := range list[:n] {
			for j := range p.Friends {
				pairs = append(pairs, pair{others[(i*p.Friends+j)%len(others)], star})
			}
		}
	} else {
		for i, c := range list {
			for j := 1; j <= p.Friends && j < len(list); j++ {
				pairs = append(pairs, pair{list[(i+j)%len(list)], c})
			}
		}
	}
	for _, x := range pairs {
		bare := f.target.name(int(x.whom.index)) + "@" + f.target.Domain
		err := f.request(ctx, x.who, pendingRequest{step: id, to: bare, contact: x.whom}, func(b []byte) []byte {
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

// request waits for a place among the operations in flight, and then sends a join or a subscription of c, which w
// describes: stanza appends it to a buffer of c's loop. completePending takes the answer. A client that is not online is
// counted as a failure. The error is that of ctx.
func (f *Fleet) request(ctx context.Context, c *client, w pendingRequest, stanza func(b []byte) []byte) error {
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
		c.conn.Append(stanza(f.scratch(c)))
	})
	return nil
}

// awaitNoneInFlight waits until nothing is on its way.
func (f *Fleet) awaitNoneInFlight(ctx context.Context, what string) error {
	slots := f.inFlight.Load()
	for len(slots.places) > 0 {
		if !f.awaitNotify(ctx) {
			if err := contextError(ctx); err != nil {
				return err
			}
			return fmt.Errorf("%d %s were not answered in the phase's length", len(slots.places), what)
		}
	}
	return nil // those that failed are counted, with their reasons
}

// presence takes one without a token: requests of subscriptions, their answers, and what rooms say.
func (f *Fleet) presence(ls *loopState, c *client, e xmlstream.Element, kind []byte) {
	from, _ := e.Attr(stanza.AttrFrom)
	switch string(kind) {
	case "subscribe":
		b := append(f.scratch(c), "<presence type='subscribed' to='"...)
		b = xmlstream.AppendValue(b, from)
		c.conn.Append(append(b, "'/>"...))
		return
	case "subscribed":
		f.completePending(ls, c, bareJID(from), true, Failure{})
		return
	case "unsubscribed":
		f.completePending(ls, c, bareJID(from), false, Failure{"a subscription was refused", "have the accounts rules of their own?"})
		return
	case "error":
		why := stanzaFailure("joining or subscribing", e)
		if !f.completePending(ls, c, bareJID(from), false, why) {
			f.failRequester(c, bareJID(from), why)
		}
		return
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
	if created { // a room of its own making is locked until it is configured (XEP-0045 §10.1.2)
		b := append(f.scratch(c), "<iq type='set' id='unlock' to='"...)
		b = xmlstream.AppendValue(b, bareJID(from))
		b = append(b, "'><query xmlns='"+xmpp.NSMUCOwner+"'><x xmlns='"+xmpp.NSDataForms+"' type='submit'/></query></iq>"...)
		c.conn.Append(b)
	}
	f.completePending(ls, c, bareJID(from), true, Failure{})
}

// bareJID is a JID without its resource.
func bareJID(jid []byte) []byte {
	for i, b := range jid {
		if b == '/' {
			return jid[:i]
		}
	}
	return jid
}

// join has clients enter rooms: one first, which may have to make it, then the others.
func (f *Fleet) join(ctx context.Context, k int, list []*client, share Partition) error {
	p := &f.sc.Phases[k]
	id := f.firstStep[k]
	if f.target.Rooms == "" {
		return ErrNotOffered{"muc"}
	}
	from, to := p.Rooms*share.Worker/share.Workers, p.Rooms*(share.Worker+1)/share.Workers
	if need := (to - from) * p.Occupants; need > len(list) {
		return Failure{fmt.Sprintf("%d rooms of %d need %d clients, and this process has %d", to-from, p.Occupants, need, len(list)), "all occupants of a room are in one process: fewer --workers, or more clients"}
	}
	rooms := make([]*room, to-from)
	for i := range rooms {
		rooms[i] = &room{jid: fmt.Sprintf("bench%x-%d@%s", f.run, from+i, f.target.Rooms)}
	}
	enter := func(c *client, r *room) error {
		return f.request(ctx, c, pendingRequest{step: id, to: r.jid, room: r}, func(b []byte) []byte {
			return fmt.Appendf(b, "<presence to='%s/n%d'><x xmlns='%s'><history maxstanzas='0'/></x></presence>", r.jid, c.index, xmpp.NSMUC)
		})
	}
	f.limitInFlight(16)
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
