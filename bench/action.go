package bench

import (
	"context"
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

// A room is one of the rooms that clients of this process are in.
type room struct {
	jid       string // bare
	occupants int    // that have entered; changed while clients join only
	mu        sync.Mutex
}

func (r *room) size() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.occupants
}

// runAction does one action of a hold until ctx ends, or its length is over.
func (f *Fleet) runAction(ctx context.Context, k, j int, start int64, length time.Duration, share Partition) error {
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
			return Failure{"nobody has friends to broadcast presence to", "put a befriend phase in front"}
		}
	case GroupChat:
		var in []*client
		for _, c := range list {
			if c.room != nil { // nobody joins or leaves meanwhile
				in = append(in, c)
			}
		}
		if list = in; len(list) == 0 {
			return Failure{"nobody is in a room", "put a join phase in front"}
		}
	}
	part := 1.0
	if g := f.groupSize(a.Group); g > 0 {
		part = float64(len(f.members(a.Group))) / float64(g)
	}
	order := newPermutation(len(list), f.run)
	pick := func(n int) *client { return list[order.at(n)] }
	fire := f.operationFunc(a, id, list, to, order, start+int64(length)+sendGrace)
	if a.Window > 0 {
		f.closedLoop(ctx, id, max(1, int(float64(a.Window)*part+.5)), pick, func(c *client) int64 { return int64(f.receivers(a, c)) }, fire)
		return nil
	}
	p := &schedule{from: float64(a.Rate) * part, to: float64(a.RateTo) * part, length: length.Seconds(), poisson: a.Arrivals == "poisson",
		rng: rand.New(rand.NewPCG(uint64(f.run), uint64(id)<<32|uint64(share.Worker)))}
	if p.from > 0 { // processes take turns
		p.offset = float64(share.Worker) / float64(share.Workers) / p.from
	}
	if unsent := f.openLoop(ctx, start, start+int64(length)+sendGrace, p, pick, fire); unsent > 0 {
		f.count(id, func(_ *loopState, y *tally) {
			y.Intended += unsent
			y.Unsent += unsent
		})
	}
	return nil
}

// count lets add change the counts of a step that no client's loop has counted. It runs on the first loop, and count
// returns when it has.
func (f *Fleet) count(id uint16, add func(ls *loopState, y *tally)) {
	f.onLoops([]*client{{}}, func(ls *loopState, _ *client) { add(ls, ls.tally(id)) })
}

func (f *Fleet) groupSize(name string) int {
	for _, g := range f.groups {
		if g.name == name {
			return g.total
		}
	}
	return 0
}

// receivers is how many deliveries an operation of c stands for.
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

// An order is a permutation of 0..n-1 without a table: neighbours in it are far from each other.
type permutation struct{ n, stride int }

func newPermutation(n int, seed uint32) permutation {
	stride := int(float64(n)*0.6180339887) | 1
	for stride > 1 && gcd(stride, n) != 1 {
		stride--
	}
	return permutation{n, max(stride, 1)}
}

func (o permutation) at(i int) int { return int(int64(i%o.n) * int64(o.stride) % int64(o.n)) }

func gcd(a, b int) int {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// operationFunc is what one operation of an action does, on the sender's loop. In an open loop, one that comes to its turn
// after end is not sent.
func (f *Fleet) operationFunc(a *Action, id uint16, list, to []*client, o permutation, end int64) func(ls *loopState, op operation) {
	var zipf sync.Map // loop -> *rand.Zipf
	partner := func(ls *loopState, op operation) *client {
		i := o.at(op.number)
		switch {
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
				f.completeDelivery(&f.steps[id], traceID{})
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
		switch a.Kind {
		case Chat:
			p := partner(ls, op)
			jid := p.jid.Load()
			if jid == nil || !p.online.Load() {
				fail(Failure{"a receiver was not online", "look at the other failures"})
				return
			}
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
			b = append(b, "<iq type='get' id='"...)
			b = t.append(b)
			b = append(append(append(b, "' to='"...), f.target.Domain...), "'><ping xmlns='"+xmpp.NSPing+"'/></iq>"...)
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
			b = append(b, "<iq type='set' id='"...)
			b = t.append(b)
			b = fmt.Appendf(b, "'><query xmlns='%s' queryid='q'><set xmlns='%s'><max>%d</max><before>", xmpp.NSMAM, xmpp.NSRSM, a.Page)
			b = xmlstream.AppendText(b, c.page)
			b = append(b, "</before></set></query></iq>"...)
		}
		ls.buf = b[:0]
		if !c.conn.Append(b) && !c.conn.Closing() { // what is sent to a closed stream counts as lost
			fail(Failure{"the server does not take what a client sends", "it is overloaded: its own limits slow down the sender, or lower the rate"})
			return
		}
		y.Sent++
	}
}

// message appends one with so many bytes of text.
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

// notePage notes where an archive's next page begins: pages are read from the newest back.
func (f *Fleet) notePage(c *client, e xmlstream.Element) {
	fin, ok := e.Child(xmpp.ArchiveEnd)
	if !ok {
		return
	}
	c.page = ""
	if v, _ := fin.Attr(xmpp.AttrComplete); string(v) == "true" {
		return
	}
	if set, ok := fin.Child(xmpp.ResultSet); ok {
		if first, ok := set.Child(xmpp.ResultSetFirst); ok {
			c.page = string(first.Text())
		}
	}
}

// flood has each of list write as much as the server takes; all of them no more than the bench itself can without
// being late with everything else. What waits in sockets when the phase is over is not lost: a message is expected
// when it arrives, or one that its sender sent later.
func (f *Fleet) flood(ctx context.Context, a *Action, id uint16, list, to []*client) {
	const ahead, atATime = 32 << 10, 256 << 10 // bytes: of one, and of all in a tick
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
				if n += len(b); !c.conn.Append(b) {
					break
				}
				y.Intended++
				y.Sent++ // what of it is expected is known where it arrives
			}
		})
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

// runAttack runs connections that mean no good beside the others.
func (f *Fleet) runAttack(ctx context.Context, a *Action, id uint16, share Partition) error {
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
			r := Failure{fmt.Sprintf("the attack %s had trouble of its own: %v", kind, st.Err), "it shows less than it should"}
			ls.failures = append(ls.failures, r.counted(st.Failed))
		}
	})
	return nil
}

// attackConfig are this process's share of an attack. Their accounts are those behind the clients'.
func (f *Fleet) attackConfig(a *Action, share Partition) hostile.Config {
	from, to := share.rangeOf(a.Count)
	if share.Groups == ApartGroups {
		from, to = 0, 0
	}
	t, first := f.target, f.sc.Clients.Count
	return hostile.Config{
		Addr: t.Addr, Direct: t.Direct, Domain: t.Domain, TLS: f.sc.Clients.TLS, Connections: to - from, First: from, Accounts: a.Count,
		User: func(i int) string { return t.name(first + i) }, Password: t.Password,
		Rate:   float64(a.Rate) * float64(to-from) / float64(a.Count),
		Source: func(i int) netip.AddrPort { return t.source(f.sc.Clients.TLS, first+i, f.run) },
	}
}
