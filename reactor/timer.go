package reactor

import "time"

// TickLength is the resolution of timers.
const TickLength = 100 * time.Millisecond

// A Tick is a point in time in units of 100 ms since the reactor was made, at least 1. Zero is no
// deadline.
type Tick uint32

// After is t + d, rounded up.
func (t Tick) After(d time.Duration) Tick {
	return t + Tick((d+TickLength-1)/TickLength)
}

// A Timer is a field of what it times, on the wheel of one loop: arming, re-arming and disarming cost
// the same however many there are. The zero Timer is not armed.
type Timer struct {
	next, prev *Timer
	at         Tick
	connIndex  uint32 // a Conn's in its loop's list; here alignment leaves room for it
	handler    TimerHandler
}

// TimerHandler is told when its Timer's tick has come, on the loop.
type TimerHandler interface{ OnTimer(l *Loop) }

// wheelBuckets is how many ticks one round of the wheel has.
const wheelBuckets = 1024

type wheel struct {
	buckets [wheelBuckets]Timer // heads of rings
	now     Tick
}

// arm puts t on the wheel, or elsewhere on it; 0 takes it off.
func (w *wheel) arm(t *Timer, at Tick, to TimerHandler) {
	if t.next != nil {
		t.prev.next, t.next.prev = t.next, t.prev
		t.next, t.prev = nil, nil
	}
	t.at = at
	if at == 0 {
		t.handler = nil
		return
	}
	t.handler = to
	if at <= w.now {
		at = w.now + 1 // what is due already fires with the next tick
	}
	head := &w.buckets[at%wheelBuckets]
	if head.next == nil {
		head.next, head.prev = head, head
	}
	t.prev, t.next = head.prev, head
	head.prev.next, head.prev = t, t
}

// advance fires what is due up to now.
func (w *wheel) advance(l *Loop, now Tick) {
	for w.now < now {
		w.now++
		head := &w.buckets[w.now%wheelBuckets]
		if head.next == nil || head.next == head {
			continue
		}
		// Due timers move to a ring of their own first: what a callback arms or disarms is safe.
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
			to := t.handler
			w.arm(t, 0, nil)
			l.protect(nil, func() { to.OnTimer(l) })
		}
	}
}
