package bench

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync/atomic"
	"time"
)

// A pace is the times at which operations are meant to begin. They are laid down in advance and do not
// depend on how long operations take (an open loop), so that a server which stalls can't slow down
// what measures it.
type schedule struct {
	from, to float64 // operations a second, at the beginning and end
	length   float64 // seconds
	poisson  bool
	rng      *rand.Rand
	offset   float64 // when the first begins
	elapsed  float64
	n        int
}

// next is when the next operation begins, in seconds from the beginning; ok is false at the end.
func (p *schedule) next() (t float64, ok bool) {
	r := p.from
	if p.to > 0 && p.length > 0 {
		r += (p.to - p.from) * min(p.elapsed/p.length, 1)
	}
	if r <= 0 {
		return 0, false
	}
	t = p.offset + p.elapsed
	p.n++
	switch {
	case p.poisson:
		p.elapsed += p.rng.ExpFloat64() / r
	case p.to > 0:
		p.elapsed += 1 / r
	default:
		p.elapsed = float64(p.n) / r // not added up: a rate for a length is a number without a remainder
	}
	return t, t < p.length-1e-9
}

// remaining is how many operations the pace has not given out yet, that of the last call of next among them, if it was
// within the length. Of a pace whose distances are drawn it is what is to be expected.
func (p *schedule) remaining() uint64 {
	rate := func(t float64) float64 {
		if p.to > 0 && p.length > 0 {
			return p.from + (p.to-p.from)*min(t/p.length, 1)
		}
		return p.from
	}
	t := min(p.elapsed, p.length)
	return 1 + uint64((p.length-t)*(rate(t)+rate(p.length))/2+.5)
}

// coalesceWithin bounds how many operations are put together: what is due within it leaves together.
const coalesceWithin = 200 * time.Microsecond

// An operation is one that is due.
type operation struct {
	number int // its number
	sender *client
	due    int64
}

// dispatcher hands operations to the loops of their clients.
type dispatcher struct {
	f      *Fleet
	byLoop [][]operation
	run    func(ls *loopState, op operation)
	queued atomic.Int64 // operations that loops were given and have not begun
}

// maxQueued bounds the operations that wait for their loops: a rate that they can't keep up with costs no memory.
const maxQueued = 1 << 16

func newDispatcher(f *Fleet, fire func(ls *loopState, op operation)) *dispatcher {
	return &dispatcher{f: f, byLoop: make([][]operation, len(f.loops)), run: fire}
}

func (b *dispatcher) add(op operation) {
	b.byLoop[op.sender.loop] = append(b.byLoop[op.sender.loop], op)
}

func (b *dispatcher) dispatch() {
	for i, list := range b.byLoop {
		if len(list) == 0 {
			continue
		}
		ls := b.f.loops[i]
		b.byLoop[i] = nil
		b.queued.Add(int64(len(list)))
		if !ls.loop.Post(func() {
			for _, op := range list {
				b.run(ls, op)
			}
			b.queued.Add(-int64(len(list)))
		}) {
			b.queued.Add(-int64(len(list)))
		}
	}
}

// sendGrace is how long after the end of its phase an open loop still sends what was due within the phase: it was
// meant, and a client that was held up for a moment makes up for it. What is not sent then is counted as unsent.
const sendGrace = int64(2 * time.Second)

// openLoop fires operations at their times until the pace ends, ctx is cancelled, or end has passed, which is the end
// of the phase with [sendGrace]. It returns how many were due in the phase and were never handed to a loop; those that
// a loop is given too late are fire's to count. pick says whose operation the n-th is.
func (f *Fleet) openLoop(ctx context.Context, start, end int64, p *schedule, pick func(n int) *client, fire func(ls *loopState, op operation)) (unsent uint64) {
	b := newDispatcher(f, fire)
	n := 0
	t, ok := p.next()
	for ok && !errors.Is(ctx.Err(), context.Canceled) {
		if now() >= end {
			return p.remaining()
		}
		due := start + int64(t*1e9)
		sleepUntil(ctx, due)
		if b.queued.Load() >= maxQueued {
			sleepUntil(ctx, now()+int64(coalesceWithin))
			continue
		}
		for until := now(); ok && due <= until && b.queued.Load() < maxQueued; {
			b.add(operation{n, pick(n), due})
			n++
			if n&1023 == 0 {
				b.dispatch() // who is far behind still goes on in bounded steps
			}
			if t, ok = p.next(); ok {
				due = start + int64(t*1e9)
			}
		}
		b.dispatch()
		if ok && due-now() < int64(coalesceWithin) {
			sleepUntil(ctx, now()+int64(coalesceWithin)/2)
		}
	}
	return 0
}

// A window is a closed loop's: how many operations are on their way.
type window struct {
	completed atomic.Int64 // deliveries that have come
	signal    chan struct{}
}

// completeDelivery gives an operation's place in the window back.
func (f *Fleet) completeDelivery(s *step, _ traceID) {
	if w := f.windows[s.id]; w != nil {
		w.completed.Add(1)
		select {
		case w.signal <- struct{}{}:
		default:
		}
	}
}

// closedLoop keeps size operations on their way until ctx ends. An operation has ended when the deliveries
// that cost says have come.
func (f *Fleet) closedLoop(ctx context.Context, id uint16, size int, pick func(n int) *client, cost func(c *client) int64, fire func(ls *loopState, op operation)) {
	w := f.windows[id]
	b := newDispatcher(f, fire)
	n := 0
	w.completed.Store(0)
	room := int64(size) // in operations
	var each int64 = 1
	for ctx.Err() == nil {
		for ; room > 0; room-- {
			c := pick(n)
			each = max(cost(c), 1)
			b.add(operation{n, c, now()})
			n++
		}
		b.dispatch()
		select {
		case <-w.signal:
		case <-ctx.Done():
			return
		}
		got := w.completed.Load() / each
		w.completed.Add(-got * each)
		room += got
	}
}
