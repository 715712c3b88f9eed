package reactor

import (
	"errors"
	"math/bits"
	"net/netip"
	"time"
)

// An Admitter is a Handler that tells guests, whose login is under way, from those it knows. What the known
// send is handled at once; what guests send waits where there is much of it, and so do their handshakes.
type AdmissionHandler interface {
	Handler
	// Unauthenticated reports whether c is one, and which host it asked for; 0 before it has. On c's loop.
	Unauthenticated(c *Conn) (host uint32, guest bool)
	// OnAdmissionRefused: as many guests wait as may, and c is sent away. It may Append and Close; if it
	// doesn't close, the reason is ErrAdmissionFull. On c's loop.
	OnAdmissionRefused(c *Conn)
}

// ErrAdmissionFull is what OnClose gets for a guest that found the queue full.
var ErrAdmissionFull = errors.New("reactor: too many wait to log in")

// Costs are in microseconds of a core of 2026. What matters is that they stand to each other, and to a
// second, as the work does.
const (
	LoginStepCost = 30  // what a guest sends at a time: a header, a step of SASL, a bind
	HandshakeCost = 250 // a TLS handshake with an ECDSA certificate
)

const (
	// turnQuota is how much of guests' work begins between two looks at the sockets.
	turnQuota = 1000
	// defaultAdmissionBurst is how much may begin at once on a loop that had little to do.
	defaultAdmissionBurst = 10_000
	// loginCPUPercent is what guests get of a core, in percent, while the loop has work for others;
	// sessionActivityWindow is how long it is taken to have some behind the last. Without any they get it
	// all.
	loginCPUPercent       = 70
	sessionActivityWindow = 100 * time.Millisecond
	// defaultAdmissionQueue is how many may wait on a loop, a quarter of them only in the middle of their
	// login, and maxQueuedBytes what all of them may have sent.
	defaultAdmissionQueue = 8192
	maxQueuedBytes        = 16 << 20
)

// An admission says when the work for guests of one loop begins. Steps, handshakes and what the handler
// charges (reads of the store, derivations of keys) draw, each as much as it costs, from one bucket that
// time fills, and from a share of each turn. Who finds either empty waits: hosts come in turn, of a host
// its addresses, of an address who came first; and the more somebody's work has cost, the later is the
// next. While few log in, nobody waits, and nothing is allocated. On the loop.
type admission struct {
	l                      *Loop
	tokens                 int // below zero where work cost more than was known when it began
	refilledAt             time.Time
	lastSessionInput       time.Time // when somebody known was read from
	turnSpent              int       // of turnQuota
	burst, maxQueued       int       // defaultAdmissionBurst, defaultAdmissionQueue
	queuedBytes            int       // that those who wait have sent
	timerArmed             bool      // a timer asks for the next turn
	loginSteps, handshakes fairQueue
	handshakeTurn          bool // whose turn it is, of the two queues
	queued                 map[*Conn]*waiter
}

// tryAdmit reports whether work may begin now, and pays for it.
func (a *admission) tryAdmit(cost int) bool {
	if a.hasRunnable() || a.turnSpent >= turnQuota || !a.refill() {
		return false
	}
	a.debit(cost)
	return true
}

// hasRunnable reports whether somebody waits who could go on: handshakes can't while as many as may are
// under way.
func (a *admission) hasRunnable() bool {
	return a.loginSteps.size > 0 || a.handshakes.size > 0 && !a.l.r.handshakeLimit.full()
}

func (a *admission) debit(cost int) {
	a.tokens -= cost
	a.turnSpent += cost
}

// refill adds what time has brought, and reports whether there is anything.
func (a *admission) refill() bool {
	switch d := a.l.now.Sub(a.refilledAt); {
	case a.l.now.Sub(a.lastSessionInput) >= sessionActivityWindow || d >= time.Second:
		a.tokens = a.burst
	case d < time.Millisecond:
		return a.tokens > 0
	default:
		a.tokens = min(a.tokens+int(d/time.Microsecond)*loginCPUPercent/100, a.burst)
	}
	a.refilledAt = a.l.now
	return a.tokens > 0
}

// enqueue queues c, which has sent so many bytes; false: there is no room.
func (a *admission) enqueue(c *Conn, shake bool, size int) bool {
	var host uint32
	if c.endpoint.admitter != nil {
		host, _ = c.endpoint.admitter.Unauthenticated(c)
	}
	room := a.maxQueued
	if host == 0 && !c.Secure() {
		room -= room / 4
	}
	if a.queueLen() >= room || a.queuedBytes+size > maxQueuedBytes {
		return false
	}
	w := &waiter{c: c, queuedAt: a.l.now, size: size, handshake: shake, cost: LoginStepCost}
	if shake {
		w.cost = HandshakeCost
	}
	a.queued[c] = w
	a.queuedBytes += size
	a.queueFor(shake).push(host, AddrKey(c.Remote().Addr()), w)
	a.l.r.handshakeSlots.queued.Add(1)
	c.flags |= flagAdmissionQueued
	a.scheduleRun()
	return true
}

// RunAdmitted has f, which begins work that costs so many microseconds elsewhere, run when it is the turn
// of a guest of a host: now, if nobody waits. false: as many wait as may, and f is not run. On the loop.
func (l *Loop) RunAdmitted(host uint32, addr netip.Addr, cost int, f func()) bool {
	l.AssertOwned()
	a := &l.admission
	switch {
	case a.tryAdmit(cost):
		f()
	case a.queueLen() >= a.maxQueued:
		l.meter.AdmissionRefused++
		return false
	default:
		a.loginSteps.push(host, AddrKey(addr), &waiter{run: f, queuedAt: l.now, cost: cost})
		l.r.handshakeSlots.queued.Add(1)
		a.scheduleRun()
	}
	return true
}

// queueLen is how many wait.
func (a *admission) queueLen() int { return a.loginSteps.size + a.handshakes.size }

// addBytes notes that c, which waits, has sent n more bytes.
func (a *admission) addBytes(c *Conn, n int) {
	a.queued[c].size += n
	a.queuedBytes += n
}

func (a *admission) queueFor(shake bool) *fairQueue {
	if shake {
		return &a.handshakes
	}
	return &a.loginSteps
}

// cancel takes c, which is gone, out of its queue.
func (a *admission) cancel(c *Conn) {
	if w := a.queued[c]; w != nil {
		a.queueFor(w.handshake).remove(w)
		a.l.r.handshakeSlots.queued.Add(-1)
		a.untrack(w)
	}
}

func (a *admission) untrack(w *waiter) {
	if w.c == nil {
		return
	}
	delete(a.queued, w.c)
	a.queuedBytes -= w.size
	w.c.flags &^= flagAdmissionQueued
}

// ChargeAdmission has a guest of a host pay for work that it has set off elsewhere, as a read of the
// store. On the loop.
func (l *Loop) ChargeAdmission(host uint32, addr netip.Addr, cost int) {
	l.AssertOwned()
	l.admission.charge(host, addr, cost)
}

func (a *admission) charge(host uint32, addr netip.Addr, cost int) {
	a.debit(cost)
	if a.loginSteps.size > 0 {
		a.loginSteps.charge(host, AddrKey(addr), cost)
	}
}

// runQueued lets in whom there is something for, and says when to look again. Sockets have been looked at.
func (a *admission) runQueued() {
	a.turnSpent = 0
	start := a.l.now
	for a.queueLen() > 0 && a.turnSpent < turnQuota && a.refill() && a.l.now.Sub(start) <= turnBudget {
		w := a.next()
		if w == nil {
			break
		}
		a.l.r.handshakeSlots.queued.Add(-1)
		a.untrack(w)
		a.l.meter.AdmissionWaits[min(bits.Len64(uint64(a.l.now.Sub(w.queuedAt)/time.Microsecond)),
			len(a.l.meter.AdmissionWaits)-1)]++
		a.l.updateTime()
		a.runWaiter(w)
	}
	if a.queueLen() > 0 {
		a.scheduleRun()
	}
}

// runWaiter begins what w has waited for; a panic ends it alone.
func (a *admission) runWaiter(w *waiter) {
	defer a.l.recoverPanic(w.c)
	a.debit(w.cost)
	if w.run != nil {
		w.run()
	} else {
		w.c.onAdmitted(w.handshake)
	}
	d := a.l.readClock().Sub(a.l.now)
	a.l.meter.Handling += d
	a.l.recordTurn(d)
}

// next takes a waiter from the one queue and the other in turn, nil if none can go on.
func (a *admission) next() *waiter {
	shakes := a.handshakes.size > 0 && !a.l.r.handshakeLimit.full()
	if a.handshakeTurn = !a.handshakeTurn && shakes || a.loginSteps.size == 0; a.handshakeTurn {
		if !shakes {
			return nil
		}
		return a.handshakes.pop()
	}
	return a.loginSteps.pop()
}

// scheduleRun has serve called: when sockets have been looked at, or when there is something to spend again.
func (a *admission) scheduleRun() {
	if a.tokens > 0 && a.hasRunnable() {
		a.l.wakeupAfterPoll()
		return
	}
	if a.timerArmed {
		return
	}
	d := 10 * time.Millisecond // until some handshake has ended
	if a.tokens <= 0 {
		d = max(time.Millisecond, time.Duration(-a.tokens)*time.Microsecond*100/loginCPUPercent)
	}
	a.timerArmed = a.l.r.backend.AfterFunc(d, func() {
		a.l.Post(func() {
			a.timerArmed = false
			a.l.wakeupAfterPoll()
		})
	}) // else the tick asks
}

// A fair queue takes in turn hosts, of each host addresses, and of each address those who wait, first
// come first served. One that has used up its credit waits until all others had their turn, and gets
// quantum then.
type fairQueue struct {
	size  int
	hosts roundRobin[uint32, *hostQueue]
}

// quantum is worth two steps.
const quantum = 2 * LoginStepCost

// minDeficit is how far in debt one may be: it must not wait for ever for what one derivation has cost.
const minDeficit = -40 * quantum

type hostQueue struct {
	deficit int
	addrs   roundRobin[netip.Addr, *addrQueue]
}

type addrQueue struct {
	deficit     int
	first, last *waiter
}

// A waiter is a guest in a queue, or something that one has set off.
type waiter struct {
	c          *Conn
	run        func()
	host       uint32
	addr       netip.Addr
	queuedAt   time.Time
	cost       int
	size       int // bytes that it has sent
	handshake  bool
	prev, next *waiter
}

// A ring is keys in the order of their turns.
type roundRobin[K comparable, V any] struct {
	nodes map[K]*roundRobinNode[K, V]
	head  *roundRobinNode[K, V]
}

type roundRobinNode[K comparable, V any] struct {
	key        K
	value      V
	prev, next *roundRobinNode[K, V]
}

// add puts a new key behind all others.
func (r *roundRobin[K, V]) add(k K, v V) {
	n := &roundRobinNode[K, V]{key: k, value: v}
	if r.nodes == nil {
		r.nodes = make(map[K]*roundRobinNode[K, V])
	}
	r.nodes[k] = n
	if r.head == nil {
		n.prev, n.next = n, n
		r.head = n
		return
	}
	n.prev, n.next = r.head.prev, r.head
	n.prev.next, n.next.prev = n, n
}

func (r *roundRobin[K, V]) remove(k K) {
	n := r.nodes[k]
	delete(r.nodes, k)
	if n.next == n {
		r.head = nil
		return
	}
	n.prev.next, n.next.prev = n.next, n.prev
	if r.head == n {
		r.head = n.next
	}
}

func (f *fairQueue) push(host uint32, addr netip.Addr, w *waiter) {
	w.host, w.addr = host, addr
	t := f.hosts.nodes[host]
	if t == nil {
		f.hosts.add(host, &hostQueue{deficit: quantum})
		t = f.hosts.nodes[host]
	}
	q := t.value.addrs.nodes[addr]
	if q == nil {
		t.value.addrs.add(addr, &addrQueue{deficit: quantum})
		q = t.value.addrs.nodes[addr]
	}
	if w.prev = q.value.last; w.prev == nil {
		q.value.first = w
	} else {
		w.prev.next = w
	}
	q.value.last = w
	f.size++
}

// remove takes w out, and what nobody waits in any more.
func (f *fairQueue) remove(w *waiter) {
	t := f.hosts.nodes[w.host].value
	q := t.addrs.nodes[w.addr].value
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
	f.size--
	if q.first == nil {
		if t.addrs.remove(w.addr); t.addrs.head == nil {
			f.hosts.remove(w.host)
		}
	}
}

// pop takes out the one whose turn it is. Somebody waits.
func (f *fairQueue) pop() *waiter {
	for {
		t := f.hosts.head.value
		if t.deficit <= 0 {
			t.deficit += quantum
			f.hosts.head = f.hosts.head.next
			continue
		}
		q := t.addrs.head.value
		if q.deficit <= 0 {
			q.deficit += quantum
			t.addrs.head = t.addrs.head.next
			continue
		}
		w := q.first
		t.deficit = max(t.deficit-w.cost, minDeficit)
		q.deficit = max(q.deficit-w.cost, minDeficit)
		f.remove(w)
		return w
	}
}

// charge takes from the credit of who still waits for more.
func (f *fairQueue) charge(host uint32, addr netip.Addr, cost int) {
	t := f.hosts.nodes[host]
	if t == nil {
		return
	}
	t.value.deficit = max(t.value.deficit-cost, minDeficit)
	if q := t.value.addrs.nodes[addr]; q != nil {
		q.value.deficit = max(q.value.deficit-cost, minDeficit)
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
