package reactor

import (
	"errors"
	"math/bits"
	"net/netip"
	"time"
)

// An Admitter is a Handler that tells guests, whose login is under way, from those it knows. What the known
// send is handled at once; what guests send waits where there is much of it, and so do their handshakes.
type Admitter interface {
	Handler
	// Guest reports whether c is one, and which host it asked for; 0 before it has. On c's loop.
	Guest(c *Conn) (host uint32, guest bool)
	// OnRefused: as many guests wait as may, and c is sent away. It may Append and Close; if it doesn't close,
	// the reason is ErrCrowded. On c's loop.
	OnRefused(c *Conn)
}

// ErrCrowded is what OnClose gets for a guest that found the queue full.
var ErrCrowded = errors.New("reactor: too many wait to log in")

// Costs are in microseconds of a core of 2026. What matters is that they stand to each other, and to a
// second, as the work does.
const (
	StepCost      = 30  // what a guest sends at a time: a header, a step of SASL, a bind
	HandshakeCost = 250 // a TLS handshake with an ECDSA certificate
)

const (
	// guestShare is how much of guests' work begins between two looks at the sockets.
	guestShare = 1000
	// guestBurst is how much may begin at once on a loop that had little to do.
	guestBurst = 10_000
	// guestPart is what guests get of a core, in percent, while the loop has work for others; othersFor is how
	// long it is taken to have some behind the last. Without any they get it all.
	guestPart = 70
	othersFor = 100 * time.Millisecond
	// guestsWaiting is how many may wait on a loop, a quarter of them only in the middle of their login, and
	// guestBytes what all of them may have sent.
	guestsWaiting = 8192
	guestBytes    = 16 << 20
)

// An admission says when the work for guests of one loop begins. Steps, handshakes and what the handler
// charges (reads of the store, derivations of keys) draw, each as much as it costs, from one bucket that
// time fills, and from a share of each turn. Who finds either empty waits: hosts come in turn, of a host
// its addresses, of an address who came first; and the more somebody's work has cost, the later is the
// next. While few log in, nobody waits, and nothing is allocated. On the loop.
type admission struct {
	l             *Loop
	tokens        int // below zero where work cost more than was known when it began
	filled        time.Time
	others        time.Time // when somebody known was read from
	spent         int       // of guestShare
	burst, room   int       // guestBurst, guestsWaiting
	bytes         int       // that those who wait have sent
	timed         bool      // a timer asks for the next turn
	steps, shakes fair
	shake         bool // whose turn it is, of the two queues
	waiting       map[*Conn]*waiter
}

// enter reports whether work may begin now, and pays for it.
func (a *admission) enter(cost int) bool {
	if a.ready() || a.spent >= guestShare || !a.fill() {
		return false
	}
	a.pay(cost)
	return true
}

// ready reports whether somebody waits who could go on: handshakes can't while as many as may are under way.
func (a *admission) ready() bool { return a.steps.n > 0 || a.shakes.n > 0 && !a.l.r.shakes.full() }

func (a *admission) pay(cost int) {
	a.tokens -= cost
	a.spent += cost
}

// fill adds what time has brought, and reports whether there is anything.
func (a *admission) fill() bool {
	switch d := a.l.now.Sub(a.filled); {
	case a.l.now.Sub(a.others) >= othersFor || d >= time.Second:
		a.tokens = a.burst
	case d < time.Millisecond:
		return a.tokens > 0
	default:
		a.tokens = min(a.tokens+int(d/time.Microsecond)*guestPart/100, a.burst)
	}
	a.filled = a.l.now
	return a.tokens > 0
}

// wait queues c, which has sent so many bytes; false: there is no room.
func (a *admission) wait(c *Conn, shake bool, size int) bool {
	var host uint32
	if c.port.admits != nil {
		host, _ = c.port.admits.Guest(c)
	}
	room := a.room
	if host == 0 && !c.Secure() {
		room -= room / 4
	}
	if a.n() >= room || a.bytes+size > guestBytes {
		return false
	}
	w := &waiter{c: c, since: a.l.now, size: size, shake: shake, cost: StepCost}
	if shake {
		w.cost = HandshakeCost
	}
	a.waiting[c] = w
	a.bytes += size
	a.queue(shake).push(host, AddrKey(c.Remote().Addr()), w)
	a.l.r.slots.guests.Add(1)
	c.flags |= flagWaits
	a.ask()
	return true
}

// Admit has f, which begins work that costs so many microseconds elsewhere, run when it is the turn of a
// guest of a host: now, if nobody waits. false: as many wait as may, and f is not run. On the loop.
func (l *Loop) Admit(host uint32, addr netip.Addr, cost int, f func()) bool {
	l.Owned()
	a := &l.guests
	switch {
	case a.enter(cost):
		f()
	case a.n() >= a.room:
		l.meter.Crowded++
		return false
	default:
		a.steps.push(host, AddrKey(addr), &waiter{f: f, since: l.now, cost: cost})
		l.r.slots.guests.Add(1)
		a.ask()
	}
	return true
}

// n is how many wait.
func (a *admission) n() int { return a.steps.n + a.shakes.n }

// more notes that c, which waits, has sent n more bytes.
func (a *admission) more(c *Conn, n int) {
	a.waiting[c].size += n
	a.bytes += n
}

func (a *admission) queue(shake bool) *fair {
	if shake {
		return &a.shakes
	}
	return &a.steps
}

// leave takes c, which is gone, out of its queue.
func (a *admission) leave(c *Conn) {
	if w := a.waiting[c]; w != nil {
		a.queue(w.shake).remove(w)
		a.l.r.slots.guests.Add(-1)
		a.forget(w)
	}
}

func (a *admission) forget(w *waiter) {
	if w.c == nil {
		return
	}
	delete(a.waiting, w.c)
	a.bytes -= w.size
	w.c.flags &^= flagWaits
}

// Charge has a guest of a host pay for work that it has set off elsewhere, as a read of the store. On the
// loop.
func (l *Loop) Charge(host uint32, addr netip.Addr, cost int) {
	l.Owned()
	l.guests.charge(host, addr, cost)
}

func (a *admission) charge(host uint32, addr netip.Addr, cost int) {
	a.pay(cost)
	if a.steps.n > 0 {
		a.steps.charge(host, AddrKey(addr), cost)
	}
}

// serve lets in whom there is something for, and says when to look again. Sockets have been looked at.
func (a *admission) serve() {
	a.spent = 0
	start := a.l.now
	for a.n() > 0 && a.spent < guestShare && a.fill() && a.l.now.Sub(start) <= turnBudget {
		w := a.next()
		if w == nil {
			break
		}
		a.l.r.slots.guests.Add(-1)
		a.forget(w)
		a.l.meter.Waits[min(bits.Len64(uint64(a.l.now.Sub(w.since)/time.Microsecond)), len(a.l.meter.Waits)-1)]++
		a.l.begin()
		a.admit(w)
	}
	if a.n() > 0 {
		a.ask()
	}
}

// admit begins what w has waited for; a panic ends it alone.
func (a *admission) admit(w *waiter) {
	defer a.l.recovered(w.c)
	a.pay(w.cost)
	if w.f != nil {
		w.f()
	} else {
		w.c.admitted(w.shake)
	}
	d := a.l.clock().Sub(a.l.now)
	a.l.meter.Handling += d
	a.l.measure(d)
}

// next takes a waiter from the one queue and the other in turn, nil if none can go on.
func (a *admission) next() *waiter {
	shakes := a.shakes.n > 0 && !a.l.r.shakes.full()
	if a.shake = !a.shake && shakes || a.steps.n == 0; a.shake {
		if !shakes {
			return nil
		}
		return a.shakes.next()
	}
	return a.steps.next()
}

// ask has serve called: when sockets have been looked at, or when there is something to spend again.
func (a *admission) ask() {
	if a.tokens > 0 && a.ready() {
		a.l.again()
		return
	}
	if a.timed {
		return
	}
	d := 10 * time.Millisecond // until some handshake has ended
	if a.tokens <= 0 {
		d = max(time.Millisecond, time.Duration(-a.tokens)*time.Microsecond*100/guestPart)
	}
	a.timed = a.l.r.backend.Later(d, func() {
		a.l.Post(func() {
			a.timed = false
			a.l.again()
		})
	}) // else the tick asks
}

// A fair queue takes in turn hosts, of each host addresses, and of each address those who wait, first
// come first served. One that has used up its credit waits until all others had their turn, and gets
// quantum then.
type fair struct {
	n     int
	hosts ring[uint32, *tenant]
}

// quantum is worth two steps.
const quantum = 2 * StepCost

// deepest is how far in debt one may be: it must not wait for ever for what one derivation has cost.
const deepest = -40 * quantum

type tenant struct {
	credit int
	addrs  ring[netip.Addr, *line]
}

type line struct {
	credit      int
	first, last *waiter
}

// A waiter is a guest in a queue, or something that one has set off.
type waiter struct {
	c          *Conn
	f          func()
	host       uint32
	addr       netip.Addr
	since      time.Time
	cost       int
	size       int // bytes that it has sent
	shake      bool
	prev, next *waiter
}

// A ring is keys in the order of their turns.
type ring[K comparable, V any] struct {
	at   map[K]*node[K, V]
	head *node[K, V]
}

type node[K comparable, V any] struct {
	key        K
	v          V
	prev, next *node[K, V]
}

// add puts a new key behind all others.
func (r *ring[K, V]) add(k K, v V) {
	n := &node[K, V]{key: k, v: v}
	if r.at == nil {
		r.at = make(map[K]*node[K, V])
	}
	r.at[k] = n
	if r.head == nil {
		n.prev, n.next = n, n
		r.head = n
		return
	}
	n.prev, n.next = r.head.prev, r.head
	n.prev.next, n.next.prev = n, n
}

func (r *ring[K, V]) remove(k K) {
	n := r.at[k]
	delete(r.at, k)
	if n.next == n {
		r.head = nil
		return
	}
	n.prev.next, n.next.prev = n.next, n.prev
	if r.head == n {
		r.head = n.next
	}
}

func (f *fair) push(host uint32, addr netip.Addr, w *waiter) {
	w.host, w.addr = host, addr
	t := f.hosts.at[host]
	if t == nil {
		f.hosts.add(host, &tenant{credit: quantum})
		t = f.hosts.at[host]
	}
	q := t.v.addrs.at[addr]
	if q == nil {
		t.v.addrs.add(addr, &line{credit: quantum})
		q = t.v.addrs.at[addr]
	}
	if w.prev = q.v.last; w.prev == nil {
		q.v.first = w
	} else {
		w.prev.next = w
	}
	q.v.last = w
	f.n++
}

// remove takes w out, and what nobody waits in any more.
func (f *fair) remove(w *waiter) {
	t := f.hosts.at[w.host].v
	q := t.addrs.at[w.addr].v
	if w.prev == nil {
		q.first = w.next
	} else {
		w.prev.next = w.next
	}
	if w.next == nil {
		q.last = w.prev
	} else {
		w.next.prev = w.prev
	}
	w.prev, w.next = nil, nil
	f.n--
	if q.first == nil {
		if t.addrs.remove(w.addr); t.addrs.head == nil {
			f.hosts.remove(w.host)
		}
	}
}

// next takes out the one whose turn it is. Somebody waits.
func (f *fair) next() *waiter {
	for {
		t := f.hosts.head.v
		if t.credit <= 0 {
			t.credit += quantum
			f.hosts.head = f.hosts.head.next
			continue
		}
		q := t.addrs.head.v
		if q.credit <= 0 {
			q.credit += quantum
			t.addrs.head = t.addrs.head.next
			continue
		}
		w := q.first
		t.credit = max(t.credit-w.cost, deepest)
		q.credit = max(q.credit-w.cost, deepest)
		f.remove(w)
		return w
	}
}

// charge takes from the credit of who still waits for more.
func (f *fair) charge(host uint32, addr netip.Addr, cost int) {
	t := f.hosts.at[host]
	if t == nil {
		return
	}
	t.v.credit = max(t.v.credit-cost, deepest)
	if q := t.v.addrs.at[addr]; q != nil {
		q.v.credit = max(q.v.credit-cost, deepest)
	}
}

// AddrKey is what counts as one address: an IPv4 address, an IPv6 /64.
func AddrKey(a netip.Addr) netip.Addr {
	a = a.Unmap().WithZone("")
	if a.Is6() {
		if p, err := a.Prefix(64); err == nil {
			return p.Addr()
		}
	}
	return a
}
