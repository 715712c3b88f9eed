package reactor

import "time"

// TickLength is the length of a Tick, which is the resolution of timers.
const TickLength = 100 * time.Millisecond

// A Tick is a point in time: the number of TickLengths since the reactor was made, plus 1. Zero
// means no deadline. It overflows after 13 years.
type Tick uint32

// After returns the tick that is d after t, rounded up.
func (t Tick) After(d time.Duration) Tick {
	return t + Tick((d+TickLength-1)/TickLength)
}

// A Timer is a deadline on the timer wheel of a loop. It is a field of what it times, so arming allocates
// nothing, and arming and disarming take the same time however many timers there are. The zero Timer is not
// armed. Loop.Arm arms it; it must not be copied while armed.
type Timer struct {
	next, prev *Timer // neighbours in the ring of its bucket; nil while not armed
	at         Tick
	// connIndex is, in a Conn's timer, the position in Loop.openConns plus 1. It is here because alignment
	// leaves four bytes free.
	connIndex uint32
	handler   TimerHandler // nil while not armed
}

// A TimerHandler is called when a Timer fires.
type TimerHandler interface {
	// OnTimer is called on the loop once the timer's tick has come. The timer is disarmed; OnTimer may arm it
	// again. A panic is caught.
	OnTimer(l *Loop)
}

// wheelBuckets is the number of buckets, and of ticks in one round of the wheel: 102 seconds. A
// timer that is further away stays in its bucket for several rounds.
const wheelBuckets = 1024

// A wheel is the timer wheel of a loop. The timer for a tick is in bucket tick mod wheelBuckets. On the loop.
type wheel struct {
	buckets [wheelBuckets]Timer // the heads of rings; the zero Timer is an empty bucket
	now     Tick                // the last tick that advance has handled
}

// arm puts t on the wheel, or moves it there. At 0 takes it off.
func (w *wheel) arm(t *Timer, at Tick, handler TimerHandler) {
	if t.next != nil {
		t.prev.next, t.next.prev = t.next, t.prev
		t.next, t.prev = nil, nil
	}
	t.at = at
	if at == 0 {
		t.handler = nil
		return
	}
	t.handler = handler
	if at <= w.now {
		at = w.now + 1 // already due: it fires with the next tick
	}
	head := &w.buckets[at%wheelBuckets]
	if head.next == nil {
		head.next, head.prev = head, head
	}
	t.prev, t.next = head.prev, head
	head.prev.next, head.prev = t, t
}

// advance fires the timers of all ticks up to now, one tick after another. Due timers of a bucket
// are moved to a ring of their own first, so that a callback may arm and disarm any timer, due ones
// included.
func (w *wheel) advance(l *Loop, now Tick) {
	for w.now < now {
		w.now++
		head := &w.buckets[w.now%wheelBuckets]
		if head.next == nil || head.next == head {
			continue
		}
		// The ring of due timers.
		var due Timer
		due.next, due.prev = &due, &due
		for t := head.next; t != head; {
			next := t.next
			if t.at <= w.now {
				t.prev.next, t.next.prev = t.next, t.prev
				t.prev, t.next = due.prev, &due
				due.prev.next, due.prev = t, t
			}
			t = next
		}
		for due.next != &due {
			t := due.next
			handler := t.handler
			w.arm(t, 0, nil)
			l.protect(nil, func() { handler.OnTimer(l) })
		}
	}
}
