package bench

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"sync"
	"time"

	"canto/bench/hostile"
	"canto/bench/xmpp"
	"canto/xmlstream"
)

// A room is a chat room (XEP-0045) that clients of this process are in.
type room struct {
	jid       string     // bare address
	occupants int        // clients that have entered; guarded by mu
	mu        sync.Mutex // clients of all loops enter
}

// size is how many clients of this process are in the room.
func (r *room) size() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.occupants
}

// runAction runs the j-th action of phase k until ctx ends, or until its length is over and its
// operations are sent. start is the beginning of the phase on the monotonic clock.
//
// Its steps: it picks the clients of the groups; attacks, slow readers and floods have loops of
// their own; for the others it keeps the clients that have subscribers or a room, where the action
// needs one, computes this process's part of the rate, and runs an open or a closed loop.
// Operations that the open loop did not begin are counted as unsent.
func (f *Fleet) runAction(ctx context.Context, k, j int, start int64, length time.Duration,
	share Assignment) error {
	a := &f.sc.Phases[k].Do[j]
	id := f.actionStep(k, j)
	list := f.members(a.Group)
	to := list
	if a.To != "" {
		to = f.members(a.To)
	}
	if strings.HasPrefix(a.Kind, Hostile) {
		return f.runAttack(ctx, a, id, share)
	}
	if len(list) == 0 || len(to) == 0 {
		return nil // all of them are in other processes
	}
	if a.Stars > 0 {
		list = list[:min(a.Stars, len(list))]
	}
	switch a.Kind {
	case Slow:
		f.onLoops(list, func(_ *loopState, c *client) {
			if c.conn != nil {
				c.conn.Pause()
				c.flags |= flagNotReading
			}
		})
		<-ctx.Done()
		f.onLoops(list, func(_ *loopState, c *client) {
			if c.conn != nil && c.flags&flagNotReading != 0 {
				c.flags &^= flagNotReading
				c.conn.Resume()
			}
		})
		return nil
	case Flood:
		f.flood(ctx, a, id, list, to)
		return nil
	case Presence:
		var stars []*client
		for _, c := range list {
			if c.subscribers.Load() > 0 {
				stars = append(stars, c)
			}
		}
		if list = stars; len(list) == 0 {
			return Failure{"no client has subscribers to broadcast presence to",
				"put a befriend phase before this one"}
		}
	case GroupChat:
		var in []*client
		for _, c := range list {
			if c.room != nil { // clients enter rooms in other phases only
				in = append(in, c)
			}
		}
		if list = in; len(list) == 0 {
			return Failure{"no client is in a room", "put a join phase before this one"}
		}
	}
	part := 1.0
	if g := f.groupSize(a.Group); g > 0 {
		part = float64(len(f.members(a.Group))) / float64(g)
	}
	order := newPermutation(len(list), f.run)
	pick := func(n int) *client { return list[order.at(n)] }
	if s := f.steps[id].pushes; s != 0 {
		f.pushStep.Store(uint32(s))
	}
	fire := f.operationFunc(a, id, list, to, order, start+int64(length)+sendGrace)
	if a.Window > 0 {
		f.closedLoop(ctx, id, max(1, int(float64(a.Window)*part+.5)), 0, pick,
			func(c *client) int64 { return int64(f.receivers(a, c)) }, fire)
		return nil
	}
	p := &schedule{from: float64(a.Rate) * part, to: float64(a.RateTo) * part, length: length.Seconds(),
		poisson: a.Arrivals == "poisson",
		rng:     rand.New(rand.NewPCG(uint64(f.run), uint64(id)<<32|uint64(share.Worker)))}
	if p.from > 0 { // the first operations of the processes are evenly spaced, too
		p.offset = float64(share.Worker) / float64(share.Workers) / p.from
	}
	if unsent := f.openLoop(ctx, start, start+int64(length)+sendGrace, p, pick, fire); unsent > 0 {
		f.count(id, func(_ *loopState, y *tally) {
			y.Intended += unsent
			y.Unsent += unsent
		})
	}
	if a.Away && !errors.Is(ctx.Err(), context.Canceled) {
		f.awaitHandled(ctx, list) // no receiver shows that the server is done with a message
	}
	return nil
}

// count calls add with the tally of a step on the first loop, for counts that are no client's, and
// returns when add has run. It may not be called on a loop.
func (f *Fleet) count(id uint16, add func(ls *loopState, y *tally)) {
	f.onLoops([]*client{{}}, func(ls *loopState, _ *client) { add(ls, ls.tally(id)) })
}

// groupSize is how many clients a group has in all processes; 0 if there is no such group.
func (f *Fleet) groupSize(name string) int {
	for _, g := range f.groups {
		if g.name == name {
			return g.total
		}
	}
	return 0
}

// receivers is how many deliveries an operation of c causes.
func (f *Fleet) receivers(a *Action, c *client) int {
	switch a.Kind {
	case Presence:
		return int(c.subscribers.Load())
	case GroupChat:
		if r := c.room; r != nil {
			return r.size()
		}
	}
	return 1
}

// A permutation is an order of the numbers from 0 to n-1 that needs no table. Numbers that follow
// each other in it are far apart, so that operations spread evenly over groups and rooms.
type permutation struct {
	n, stride int // stride is coprime to n
}

// newPermutation uses the stride next to n times the golden ratio that has no common divisor with
// n.
func newPermutation(n int, seed uint32) permutation {
	stride := int(float64(n)*0.6180339887) | 1
	for stride > 1 && gcd(stride, n) != 1 {
		stride--
	}
	return permutation{n, max(stride, 1)}
}

// at is the i-th number. It begins again after n.
func (o permutation) at(i int) int { return int(int64(i%o.n) * int64(o.stride) % int64(o.n)) }

func gcd(a, b int) int {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// operationFunc returns the function that performs one operation of an action. It runs on the
// sender's loop, counts the operation, and sends its stanza. In an open loop, an operation that
// runs after end is counted as unsent instead.
//
// Each call: it counts the operation as due, and its receivers as expected; it fails the operation
// if the sender or the receiver is offline; it records how late it runs; it writes the stanza of
// the action's kind with a trace id and the next sequence number to that receiver; it fails the
// operation if the connection's output buffer is full.
func (f *Fleet) operationFunc(a *Action, id uint16, list, to []*client, o permutation,
	end int64) func(ls *loopState, op operation) {
	var zipf sync.Map // loop -> *rand.Zipf
	partner := func(ls *loopState, op operation) *client {
		i := o.at(op.number)
		switch {
		case a.fills:
			return to[op.number%len(to)]
		case a.Partners == "zipf":
			z, ok := zipf.Load(ls)
			if !ok {
				z = rand.NewZipf(ls.rng, a.Zipf, 1, uint64(len(to)-1))
				zipf.Store(ls, z)
			}
			p := to[z.(*rand.Zipf).Uint64()]
			if p == op.sender {
				p = to[(i+1)%len(to)]
			}
			return p
		case a.To != "":
			return to[i%len(to)]
		case a.Partners == "ring":
			return to[(i+1)%len(to)]
		}
		return to[min(i^1, len(to)-1)]
	}
	open := a.Window == 0
	return func(ls *loopState, op operation) {
		c := op.sender
		y := ls.tally(id)
		y.Intended++
		n := now()
		if open && n > end {
			y.Unsent++
			return
		}
		receivers := f.receivers(a, c)
		y.Expected += uint64(receivers)
		fail := func(r Failure) {
			y.Failed += uint64(receivers)
			ls.countFailure(r)
			for range receivers {
				f.completeDelivery(&f.steps[id])
			}
		}
		if !c.online.Load() || c.conn == nil {
			fail(Failure{"a sender was not online", "look at the other failures"})
			return
		}
		at := op.due
		if open {
			y.recordLag(n - at)
		} else {
			at = n
		}
		t := traceID{run: f.run, boot: bootID, step: id, from: c.index, at: at}
		b := f.scratch(c)
		var receiver *client // of chat
		switch a.Kind {
		case Chat:
			p := partner(ls, op)
			if a.Away {
				if p.online.Load() {
					fail(Failure{"a receiver was online", "log its group out with a drain before this phase"})
					return
				}
				t.seq = c.sent.next(id, p.index)
				b = ls.message(b, t, "chat", f.bareAddress(p), a.Body)
				if s := &f.steps[id]; s.pushes != 0 {
					f.expectPush(ls, s.pushes, p, at)
				}
				break
			}
			jid := p.jid.Load()
			if jid == nil || !p.online.Load() && !p.resting.Load() {
				fail(Failure{"a receiver was not online", "look at the other failures"})
				return
			}
			receiver = p
			t.seq = c.sent.next(id, p.index)
			b = ls.message(b, t, "chat", *jid, a.Body)
		case GroupChat:
			t.seq = c.sent.next(id, manyReceivers)
			b = ls.message(b, t, "groupchat", c.room.jid, a.Body)
		case Presence:
			t.seq = c.sent.next(id, manyReceivers)
			b = append(b, "<presence id='"...)
			b = t.append(b)
			b = append(b, "'><show>"...)
			b = append(b, [...]string{"away", "chat", "xa", "dnd"}[t.seq&3]...)
			b = append(b, "</show></presence>"...)
		case Ping:
			t.seq = c.sent.next(id, manyReceivers)
			b = f.appendPing(b, t)
		case Roster:
			t.seq = c.sent.next(id, manyReceivers)
			b = append(b, "<iq type='set' id='"...)
			b = t.append(b)
			who, what := t.seq/3%8, t.seq%3 // added, renamed, removed
			if a.Contacts > 0 {
				who, what = t.seq%uint32(a.Contacts), 0
			}
			b = fmt.Appendf(b, "'><query xmlns='%s'><item jid='friend%d@%s'", xmpp.NSRoster, who, f.target.Domain)
			switch what {
			case 0:
				b = append(b, " name='Friend'><group>Friends</group></item>"...)
			case 1:
				b = append(b, " name='Old friend'><group>Friends</group></item>"...)
			case 2:
				b = append(b, " subscription='remove'/>"...)
			}
			b = append(b, "</query></iq>"...)
		case Archive:
			t.seq = c.sent.next(id, manyReceivers)
			var ok bool
			if b, ok = f.appendPageQuery(ls, c, b, a, t); !ok {
				fail(Failure{"no message has come with an id of its receiver's archive (XEP-0359)",
					"put a fill to the group before this phase; if there is one, the server names no ids"})
				return
			}
		}
		ls.buf = b[:0]
		if !f.send(c, b) && !c.conn.Closing() { // a stanza to a stream that is closing counts as lost
			fail(Failure{"the server does not take what a client sends",
				"it is overloaded: its own limits slow down the sender, or lower the rate"})
			return
		}
		y.Sent++
		if a.Away && !open { // its answer makes room in the window
			f.send(c, f.appendPing(f.scratch(c), t))
		}
		if s := &f.steps[id]; s.carbons != 0 {
			f.expectCarbon(ls, s, receiver)
		}
	}
}

// appendPing appends a ping of the server (XEP-0199) to b.
func (f *Fleet) appendPing(b []byte, t traceID) []byte {
	b = append(b, "<iq type='get' id='"...)
	b = t.append(b)
	b = append(append(b, "' to='"...), f.target.Domain...)
	return append(b, "'><ping xmlns='"+xmpp.NSPing+"'/></iq>"...)
}

// message appends a message with body bytes of text to b.
func (ls *loopState) message(b []byte, t traceID, kind, to string, body int) []byte {
	b = append(append(append(b, "<message type='"...), kind...), "' id='"...)
	b = t.append(b)
	b = append(b, "' to='"...)
	b = xmlstream.AppendValue(b, to)
	b = append(b, "'><body>"...)
	for len(ls.filler) < body {
		ls.filler = append(ls.filler, "But soft, what light through yonder window breaks? It is the east. "...)
	}
	b = append(b, ls.filler[:body]...)
	return append(b, "</body></message>"...)
}

// flood lets the clients of list write as much as the server takes, until ctx ends. Each tick it
// fills the output of the next few clients, so that this process itself is not late with other
// operations. Messages that are still in sockets at the end are not lost: a message is expected
// when it arrives, or when a later one of the same sender does.
func (f *Fleet) flood(ctx context.Context, a *Action, id uint16, list, to []*client) {
	const ahead, atATime = 32 << 10, 256 << 10 // bytes of one client, and of all in a tick
	some := make([]*client, min(len(list), atATime/ahead))
	t := time.NewTicker(5 * time.Millisecond)
	defer t.Stop()
	for at := 0; ; at += len(some) {
		for i := range some {
			some[i] = list[(at+i)%len(list)]
		}
		f.onLoops(some, func(ls *loopState, c *client) {
			if c.conn == nil || !c.online.Load() {
				return
			}
			p := to[int(c.index)%len(to)]
			if a.To == "" {
				p = f.clients[c.index^1]
			}
			if p == nil {
				return
			}
			jid := p.jid.Load()
			if jid == nil {
				return
			}
			y := ls.tally(id)
			if c.conn.Buffered() > 0 {
				return
			}
			for n := 0; n < ahead; {
				k := traceID{run: f.run, boot: bootID, step: id, from: c.index, seq: c.sent.next(id, p.index), at: now()}
				b := ls.message(f.scratch(c), k, "chat", *jid, a.Body)
				ls.buf = b[:0]
				if n += len(b); !f.send(c, b) {
					break
				}
				y.Intended++
				y.Sent++ // countTraced knows how many are expected
			}
		})
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

// runAttack runs the attack of an action (bench/hostile) until ctx ends, and counts what it did.
func (f *Fleet) runAttack(ctx context.Context, a *Action, id uint16, share Assignment) error {
	cfg := f.attackConfig(a, share)
	if cfg.Connections == 0 {
		return nil // all of them are in other processes
	}
	kind := strings.TrimPrefix(a.Kind, Hostile)
	h, err := hostile.Start(ctx, kind, cfg)
	if err != nil {
		return err
	}
	<-ctx.Done()
	st := h.Stop()
	f.count(id, func(ls *loopState, y *tally) {
		y.Intended += st.Attempts
		y.Sent += st.Attempts
		y.Failed += st.Refused
		y.Expected += st.Refused
		if st.Err != nil {
			r := Failure{fmt.Sprintf("the attack %s had trouble of its own: %v", kind, st.Err),
				"it shows less than it should"}
			ls.failures = append(ls.failures, r.counted(st.Failed))
		}
	})
	return nil
}

// attackConfig is this process's part of an attack. The accounts of attackers follow those of the
// clients.
func (f *Fleet) attackConfig(a *Action, share Assignment) hostile.Config {
	from, to := share.rangeOf(a.Count)
	if share.Groups == ApartGroups {
		from, to = 0, 0
	}
	t, first := f.target, f.sc.Clients.Count
	return hostile.Config{
		Addr: t.Addr, Direct: t.Direct, Domain: t.Domain, TLS: f.sc.Clients.TLS, Connections: to - from,
		First: from, Accounts: a.Count,
		User: func(i int) string { return t.name(first + i) }, Password: t.Password,
		Rate:   float64(a.Rate) * float64(to-from) / float64(a.Count),
		Source: func(i int) netip.AddrPort { return t.source(f.sc.Clients.TLS, first+i, f.run) },
	}
}
