package bench

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync/atomic"
	"time"
)

// This file contains the two ways in which a phase offers load. A scenario is a list of phases. A phase
// of kind hold has actions, as chat or presence. An action in a phase is a step, which is what figures
// are kept for. An operation is one message, broadcast or request of a step.
//
// An open loop (openLoop) begins operations at the times of a schedule. The times are fixed before
// the phase and do not depend on answers. A server that stalls therefore gets the same operations
// as one that does not, and each operation that waits is charged for the time it waited. Without
// that, the stall itself would stop the client from measuring it (coordinated omission).
//
// A closed loop (closedLoop) keeps a window of operations in flight: the next one begins when one
// has ended. It finds the highest rate, and its latencies hide stalls.
//
// Each action has a goroutine, its pacer, which runs one of the two loops. A pacer does not send: it
// passes operations to the event loops of the sending clients through a dispatcher.

// A schedule is the arrival schedule of an open loop: the times at which its operations are due.
// They are evenly spaced, or have exponentially distributed intervals (poisson). The rate is constant, or
// changes linearly from one value to another. It is used by one pacer.
type schedule struct {
	from    float64    // initial rate, operations a second; a schedule that begins at 0 has no operation
	to      float64    // rate at the end of length; if 0, the rate stays at the initial one
	length  float64    // seconds from the beginning of the phase to its end
	poisson bool       // exponentially distributed intervals
	rng     *rand.Rand // for the intervals
	offset  float64    // seconds from the beginning of the phase to the first operation
	elapsed float64    // seconds from the first operation to the next one
	n       int        // operations that next has returned
}

// rate returns the rate at t seconds after the first operation. The offset of the first operation is less
// than one interval, so it makes no difference here, nor in remaining.
func (s *schedule) rate(t float64) float64 {
	if s.to > 0 && s.length > 0 {
		return s.from + (s.to-s.from)*min(t/s.length, 1)
	}
	return s.from
}

// next returns when the next operation is due, in seconds from the beginning of the phase, and advances the
// schedule. ok is false when the phase's length is over, or if the rate is 0.
func (s *schedule) next() (t float64, ok bool) {
	const rounding = 1e-9 // seconds: an operation that is due at the very end is not in the phase
	r := s.rate(s.elapsed)
	if r <= 0 {
		return 0, false
	}
	t = s.offset + s.elapsed
	s.n++
	switch {
	case s.poisson:
		s.elapsed += s.rng.ExpFloat64() / r
	case s.to > 0:
		s.elapsed += 1 / r
	default:
		// n / r, not a sum of intervals: rounding errors would accumulate, and the phase would have an operation
		// more or less.
		s.elapsed = float64(s.n) / r
	}
	return t, t < s.length-rounding
}

// remaining returns how many operations of the schedule the pacer has not dispatched when it gives up:
// the one that the last call to next returned, which was within the length, and all after it. With random
// intervals it is the expected number.
func (s *schedule) remaining() uint64 {
	t := min(s.elapsed, s.length)
	return 1 + uint64((s.length-t)*(s.rate(t)+s.rate(s.length))/2+.5)
}

// coalesceWithin: if the next operation is due within this time, the pacer sleeps for half of it and then
// dispatches all that are due by then. So a pacer wakes the event loops at most once in 100 µs at high
// rates, and an operation leaves at most that much later for this reason.
const coalesceWithin = 200 * time.Microsecond

// An operation is one operation of an action that is due.
type operation struct {
	number int // in its action, from 0, in this process
	sender *client
	due    int64 // on the machine's monotonic clock, in ns; see now
}

// A dispatcher passes operations to the event loops of their senders, several at a time. add and
// dispatch are for the pacer. run is called on the loop of the sender.
type dispatcher struct {
	f      *Fleet
	byLoop [][]operation // added and not dispatched yet, by the number of the loop
	run    func(ls *loopState, op operation)
	queued atomic.Int64 // operations in dispatched batches that have not run to their end
}

// maxQueued bounds the operations that were dispatched and have not run; a batch of 1,024 may exceed it.
// At a rate that the loops can't keep up with, the pacer waits, and the operations stay in the schedule:
// that costs no memory.
const maxQueued = 1 << 16

// newDispatcher returns a dispatcher for one pacer.
func newDispatcher(f *Fleet, run func(ls *loopState, op operation)) *dispatcher {
	return &dispatcher{f: f, byLoop: make([][]operation, len(f.loops)), run: run}
}

// add keeps op for the next dispatch.
func (d *dispatcher) add(op operation) {
	d.byLoop[op.sender.loop] = append(d.byLoop[op.sender.loop], op)
}

// dispatch passes all operations that were added to their loops, and does not wait for them. The
// operations of an event loop that has ended are dropped and not counted: loops end with the process's
// part of the run.
func (d *dispatcher) dispatch() {
	for i, list := range d.byLoop {
		if len(list) == 0 {
			continue
		}
		ls := d.f.loops[i]
		d.byLoop[i] = nil // the loop owns list now
		d.queued.Add(int64(len(list)))
		if !ls.loop.Post(func() {
			for _, op := range list {
				d.run(ls, op)
			}
			d.queued.Add(-int64(len(list)))
		}) {
			d.queued.Add(-int64(len(list)))
		}
	}
}

// sendGrace is how long after the end of its phase an open loop still sends operations that were
// due in the phase. A load generator that was held up for a moment can catch up in this time. An operation
// that is not sent then counts as unsent.
const sendGrace = int64(2 * time.Second)

// openLoop begins operations at the times of s until the schedule ends, ctx is cancelled, or end
// has passed. start and end are on the monotonic clock; end is the end of the phase plus sendGrace. ctx may
// have the end of the phase as its deadline, which does not end the loop: it sends what is late until end
// (sleepUntil sleeps up to 20 ms also after the deadline, so the loop does not spin).
// senderOf returns the sender of the n-th operation, and run is called on its loop.
//
// It returns how many operations were due in the phase and were not dispatched; 0 if ctx was cancelled, as
// the run is over then. An operation that was dispatched, but runs after end, is counted by run.
//
// Each round does three steps: it sleeps until the next operation is due; it adds all that are due
// by now, and dispatches them; it sleeps for half of coalesceWithin if the next one is due within that time.
// While maxQueued operations are queued it waits for the loops.
func (f *Fleet) openLoop(ctx context.Context, start, end int64, s *schedule, senderOf func(n int) *client,
	run func(ls *loopState, op operation)) (unsent uint64) {
	const dispatchEvery = 1024 // operations: a pacer that is far behind still dispatches in bounded steps
	d := newDispatcher(f, run)
	n := 0
	t, ok := s.next()
	for ok && !errors.Is(ctx.Err(), context.Canceled) {
		if now() >= end {
			return s.remaining()
		}
		due := start + int64(t*1e9)
		sleepUntil(ctx, due)
		if d.queued.Load() >= maxQueued {
			sleepUntil(ctx, now()+int64(coalesceWithin))
			continue
		}
		for until := now(); ok && due <= until && d.queued.Load() < maxQueued; {
			d.add(operation{n, senderOf(n), due})
			n++
			if n%dispatchEvery == 0 {
				d.dispatch()
			}
			if t, ok = s.next(); ok {
				due = start + int64(t*1e9)
			}
		}
		d.dispatch()
		if ok && due-now() < int64(coalesceWithin) {
			sleepUntil(ctx, now()+int64(coalesceWithin)/2)
		}
	}
	return 0
}

// A window is the state of a closed loop that deliveries change. There is one for each step with a window.
type window struct {
	completed atomic.Int64  // deliveries that have ended, and that the pacer has not taken yet
	signal    chan struct{} // wakes the pacer; its capacity is 1
}

// completeDelivery tells the closed loop of the step s, if it has one, that a delivery has ended,
// successfully or not. It may be called on any loop: f.windows does not change while the actions of a
// phase run.
func (f *Fleet) completeDelivery(s *step) {
	if w := f.windows[s.id]; w != nil {
		w.completed.Add(1)
		select {
		case w.signal <- struct{}{}:
		default:
		}
	}
}

// closedLoop keeps size operations of the step id in flight until ctx ends or, if total is not 0, so many
// have ended, or none has for fillStall. It returns how many have ended. senderOf returns the sender of
// the n-th operation, deliveries returns how many deliveries complete an operation of a sender, and run
// is called on the sender's loop. All senders of a step should have about the same number of receivers: the
// loop takes the number of the last sender for all operations in flight. A lost delivery makes the window
// smaller until the phase ends.
//
// Each round fills the window, dispatches, waits for deliveries, and makes room for as many
// operations as have ended.
func (f *Fleet) closedLoop(ctx context.Context, id uint16, size, total int, senderOf func(n int) *client,
	deliveries func(c *client) int64, run func(ls *loopState, op operation)) (done int) {
	w := f.windows[id]
	d := newDispatcher(f, run)
	n := 0
	w.completed.Store(0)
	free := int64(size) // operations that the window has room for
	var each int64 = 1  // deliveries of an operation
	stall := time.NewTimer(fillStall)
	defer stall.Stop()
	for ctx.Err() == nil && (total == 0 || done < total) {
		for ; free > 0 && (total == 0 || n < total); free-- {
			c := senderOf(n)
			each = max(deliveries(c), 1)
			d.add(operation{n, c, now()})
			n++
		}
		d.dispatch()
		select {
		case <-w.signal:
			stall.Reset(fillStall)
		case <-stall.C:
			if total > 0 {
				return done
			}
		case <-ctx.Done():
			return done
		}
		ended := w.completed.Load() / each
		w.completed.Add(-ended * each)
		free += ended
		done += int(ended)
	}
	return done
}
