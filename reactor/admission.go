package reactor

import (
	"errors"
	"math/bits"
	"net/netip"
	"time"
)

// This file is the admission of the work of unauthenticated connections. The terms:
//
//   - Costs are in microseconds. The token bucket fills with time. The quota bounds the work between two
//     polls; the turn after a poll renews it, or any turn while nothing is queued that could use it. Both
//     bound the work that begins.
//   - A waiter is a piece of work in the admission queue. Each loop has two: loginSteps and handshakes.
//   - handshakeLimit (tls.go) bounds the handshakes in flight of the process. At the limit queued handshakes
//     wait, even if there are tokens. handshakeSlots are something else: a semaphore for processors.

// An AdmissionHandler is a Handler that distinguishes unauthenticated connections (their login is under
// way) from established sessions. Input of established sessions is handled at once. Input and TLS
// handshakes of unauthenticated connections pass admission: they wait while there is much of it.
type AdmissionHandler interface {
	Handler
	// Unauthenticated reports whether c is an unauthenticated connection, and a number for the host that
	// it wants to log in to; 0 before the host is known. The handler chooses the numbers. They are used only
	// to share admission fairly between hosts, and not for established sessions. On c's loop.
	Unauthenticated(c *Conn) (host uint32, unauthenticated bool)
	// OnAdmissionRefused is called when c can't be queued because the admission queue is full. It may
	// Append an error and Close. If it does not, the reactor closes c afterwards with ErrAdmissionFull. On
	// c's loop.
	OnAdmissionRefused(c *Conn)
}

// ErrAdmissionFull is what OnClose gets for an unauthenticated connection that found the admission
// queue full.
var ErrAdmissionFull = errors.New("reactor: too many connections wait to log in")

// Costs of the work of unauthenticated connections, in microseconds on a core of a server of 2026. They are
// constants, as a measured time would charge a connection for what else the machine did. Only their
// relation to each other and to a second matters.
const (
	// LoginStepCost is the cost of one input: a stream header, a step of SASL, a bind.
	LoginStepCost = 30
	// HandshakeCost is the cost of a TLS handshake with an ECDSA certificate.
	HandshakeCost = 250
)

const (
	// turnQuota is the cost of the work that may begin between two polls: a millisecond.
	turnQuota = 1000
	// defaultAdmissionBurst is the size of the token bucket, as a cost: after a quiet time 10 ms of work may
	// begin, a turnQuota after each poll, before the rate of the bucket matters.
	defaultAdmissionBurst = 10_000
	// loginCPUPercent is the rate at which the bucket fills, in percent of a core, while established
	// sessions are active on the loop: one of them has sent something within sessionActivityWindow. While
	// none is active, each refill fills the bucket to the top.
	loginCPUPercent       = 70
	sessionActivityWindow = 100 * time.Millisecond
	// defaultAdmissionQueue bounds the two queues of a loop together: 8,192 login steps are a quarter of a
	// second of a core, as many handshakes two seconds. Connections that have neither named a host nor done
	// a handshake may fill three quarters of it; the last quarter is for logins that have begun so far.
	// maxQueuedBytes bounds the input of all queued connections.
	defaultAdmissionQueue = 8192
	maxQueuedBytes        = 16 << 20
)

// An admission decides when the work of one loop's unauthenticated connections begins. A piece of work is
// a login step, a handshake, or what the handler charges (reads of the store, derivations of keys). Each
// takes its cost from one token bucket, which refills over time, and from the quota of the turn. Work
// that finds either empty waits in a queue, one for handshakes and one for everything else, which are
// served in turn: one waiter of each, whatever its cost. Each queue is a deficit round robin by host and
// then by address, first come first served within an address. While few connections log in, nothing waits
// and nothing is allocated. Loops share only the limit of handshakes in flight (handshakeLimit), and a
// count of all waiters (handshakeSlots.waiters), which decides how often handshakes yield. On the loop.
type admission struct {
	l *Loop
	// tokens is the content of the bucket, in microseconds of work. It is negative after work that
	// cost more than was there.
	tokens           int
	refilledAt       time.Time // when tokens was last set from the time
	lastSessionInput time.Time // when an established session last sent something
	// turnSpent is the cost of the work since the last poll. Once it reaches turnQuota, nothing more begins.
	// Loop.turn resets it: by runQueued after a poll that was asked for, or by itself if nothing could begin.
	turnSpent              int
	burst, maxQueued       int       // Config.AdmissionBurst and AdmissionQueue
	queuedBytes            int       // input of the connections in queued
	timerArmed             bool      // a timer will ask for the next turn
	loginSteps, handshakes fairQueue // everything but handshakes; handshakes
	handshakeTurn          bool      // next has taken its last waiter from handshakes
	// queued holds the waiters of connections. Functions of RunAdmitted are not in it.
	queued map[*Conn]*waiter
}

// tryAdmit reports whether work of this cost may begin now, and takes the cost. It returns false while
// queued work could begin, as that comes first. The caller checks handshakeLimit before it asks for a
// handshake.
func (a *admission) tryAdmit(cost int) bool {
	if a.hasRunnable() || a.turnSpent >= turnQuota || !a.refill() {
		return false
	}
	a.debit(cost)
	return true
}

// hasRunnable reports whether work is queued that could begin. At the limit of handshakes in
// flight, queued handshakes can't.
func (a *admission) hasRunnable() bool {
	return a.loginSteps.size > 0 || a.handshakes.size > 0 && !a.l.r.handshakeLimit.full()
}

// debit takes a cost from the bucket and from the turn's quota, without a check. Either may become
// overdrawn.
func (a *admission) debit(cost int) {
	a.tokens -= cost
	a.turnSpent += cost
}

// refill adds the tokens that the time since the last refill has brought, and reports whether there
// are any. Without active sessions, or after a second without a refill, the bucket is filled up, which
// also cancels a debt. Otherwise nothing is added within a millisecond of the last refill.
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

// enqueue queues c's handshake or the size bytes of input that it has sent, and sets
// flagAdmissionQueued. It returns false, and changes nothing, if the queue is full; the caller counts that
// in Meter.AdmissionRefused. c must not be queued. The host is 0 for a Handler that takes no part in
// admission: handshakes of its connections are queued all the same.
func (a *admission) enqueue(c *Conn, handshake bool, size int) bool {
	var host uint32
	if c.endpoint.admitter != nil {
		host, _ = c.endpoint.admitter.Unauthenticated(c)
	}
	limit := a.maxQueued
	if host == 0 && !c.Secure() {
		limit -= limit / 4
	}
	if a.queueLen() >= limit || a.queuedBytes+size > maxQueuedBytes {
		return false
	}
	w := &waiter{c: c, queuedAt: a.l.now, size: size, handshake: handshake, cost: LoginStepCost}
	if handshake {
		w.cost = HandshakeCost
	}
	a.queued[c] = w
	a.queuedBytes += size
	a.queueFor(handshake).push(host, AddrKey(c.Remote().Addr()), w)
	a.l.r.handshakeSlots.waiters.Add(1)
	c.flags |= flagAdmissionQueued
	a.scheduleRun()
	return true
}

// RunAdmitted runs f, as work of an unauthenticated connection of this host and address: inside the call
// if tryAdmit allows it, otherwise when its turn in the queue comes, after a later poll. f begins work
// elsewhere that costs cost microseconds, such as a key derivation. False means that the queue is full; f
// will not run then, and Meter.AdmissionRefused has counted it. A queued f runs even if its connection has
// closed meanwhile: f must check that. On the loop.
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
		l.r.handshakeSlots.waiters.Add(1)
		a.scheduleRun()
	}
	return true
}

// queueLen returns the number of waiters in both queues.
func (a *admission) queueLen() int { return a.loginSteps.size + a.handshakes.size }

// addBytes notes that c, which is in queued, has sent n more bytes. They are counted, and not
// refused here: onTraffic has turned reading off, so this happens once for each wait. An engine that can't
// pause reading gets here with each read, until maxParkedBytes ends c.
func (a *admission) addBytes(c *Conn, n int) {
	a.queued[c].size += n
	a.queuedBytes += n
}

// queueFor returns the queue of handshakes, or that of login steps.
func (a *admission) queueFor(handshake bool) *fairQueue {
	if handshake {
		return &a.handshakes
	}
	return &a.loginSteps
}

// cancel removes c, which is closing, from its queue, if it is in one.
func (a *admission) cancel(c *Conn) {
	if w := a.queued[c]; w != nil {
		a.queueFor(w.handshake).remove(w)
		a.l.r.handshakeSlots.waiters.Add(-1)
		a.untrack(w)
	}
}

// untrack removes w's connection, if it has one, from queued, and clears its flag.
func (a *admission) untrack(w *waiter) {
	if w.c == nil {
		return
	}
	delete(a.queued, w.c)
	a.queuedBytes -= w.size
	w.c.flags &^= flagAdmissionQueued
}

// ChargeAdmission charges an unauthenticated connection of this host and address for work that it
// has caused already, such as a read of the store: the bucket is debited. If work of that host or address
// is queued now, it waits longer; otherwise the debt of the address is not remembered. On the loop.
func (l *Loop) ChargeAdmission(host uint32, addr netip.Addr, cost int) {
	l.AssertOwned()
	l.admission.charge(host, addr, cost)
}

// charge is ChargeAdmission without the check of the goroutine. It counts in the queue of login steps only.
func (a *admission) charge(host uint32, addr netip.Addr, cost int) {
	a.debit(cost)
	if a.loginSteps.size > 0 {
		a.loginSteps.charge(host, AddrKey(addr), cost)
	}
}

// runQueued begins queued work, until the bucket, the quota of the turn or turnBudget (loop.go) is used up.
// It then schedules the next run, if work is left. Loop.turn calls it after each poll that wakeupAfterPoll
// asked for, also with empty queues. turnBudget is checked against the start of the last waiter, so it may
// be exceeded by one.
func (a *admission) runQueued() {
	a.turnSpent = 0
	start := a.l.now
	for a.queueLen() > 0 && a.turnSpent < turnQuota && a.refill() && a.l.now.Sub(start) <= turnBudget {
		w := a.next()
		if w == nil {
			break
		}
		a.l.r.handshakeSlots.waiters.Add(-1)
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

// runWaiter takes the cost of w and begins its work, and adds its time to the meter. A panic in it closes
// w's connection, or is only logged if w is a function (recoverPanic).
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

// next removes and returns a waiter. It takes a handshake if one can begin, and if the last waiter was not a
// handshake or no login step is queued; otherwise it takes a login step. It returns nil if only handshakes
// are queued and none can begin.
func (a *admission) next() *waiter {
	runnableHandshakes := a.handshakes.size > 0 && !a.l.r.handshakeLimit.full()
	if a.handshakeTurn = !a.handshakeTurn && runnableHandshakes || a.loginSteps.size == 0; a.handshakeTurn {
		if !runnableHandshakes {
			return nil
		}
		return a.handshakes.pop()
	}
	return a.loginSteps.pop()
}

// scheduleRun arranges the next call of runQueued: after the next poll if work can begin; otherwise
// when the bucket will be positive at its rate, or, at the limit of handshakes in flight, after 10 ms. (The
// bucket may be filled earlier, if sessions stop being active; the wait is not shortened then.) A Memory,
// the engine of tests, has no timers; Loop.tick asks for a run there.
func (a *admission) scheduleRun() {
	if a.tokens > 0 && a.hasRunnable() {
		a.l.wakeupAfterPoll()
		return
	}
	if a.timerArmed {
		return
	}
	d := 10 * time.Millisecond
	if a.tokens <= 0 {
		d = max(time.Millisecond, time.Duration(-a.tokens)*time.Microsecond*100/loginCPUPercent)
	}
	a.timerArmed = a.l.r.backend.AfterFunc(d, func() {
		a.l.Post(func() {
			a.timerArmed = false
			a.l.wakeupAfterPoll()
		})
	})
}

// A fairQueue is a deficit round robin: hosts take turns, and within a host addresses do; waiters of
// one address are served first come first served. Each host and each address has a deficit
// counter, which is its credit: it keeps its turn while the counter is positive, and each waiter takes its
// cost from it. Otherwise it is passed over when its turn comes, and gets quantum. An entry exists only
// while something waits in it, so a debt ends with the entry.
type fairQueue struct {
	size  int
	hosts roundRobin[uint32, *hostQueue]
}

// quantum is added to a deficit counter each time it is passed over; it pays for two login steps.
const quantum = 2 * LoginStepCost

// minDeficit is the lower limit of a deficit counter. Without it, one key derivation could make an address
// wait for thousands of rounds. It also bounds how long pop searches.
const minDeficit = -40 * quantum

// A hostQueue holds the waiters of one host.
type hostQueue struct {
	deficit int // the deficit counter, as a cost
	addrs   roundRobin[netip.Addr, *addrQueue]
}

// An addrQueue is the list of waiters of one address at one host.
type addrQueue struct {
	deficit     int // the deficit counter, as a cost
	first, last *waiter
}

// A waiter is a piece of work in a queue: of a connection, or a function of RunAdmitted.
type waiter struct {
	c          *Conn  // nil for a function
	run        func() // nil for a connection
	host       uint32
	addr       netip.Addr // as AddrKey returns it
	queuedAt   time.Time
	cost       int
	size       int  // bytes of input that c has sent
	handshake  bool // c's handshake is to begin; else its input is to be delivered
	prev, next *waiter
}

// A roundRobin is a ring of keys with values, in the order of their turns.
type roundRobin[K comparable, V any] struct {
	nodes map[K]*roundRobinNode[K, V]
	head  *roundRobinNode[K, V] // the next one to be served
}

// A roundRobinNode is an element of a ring.
type roundRobinNode[K comparable, V any] struct {
	key        K
	value      V
	prev, next *roundRobinNode[K, V]
}

// add puts a new key right before head: all others have their turn first.
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

// remove removes a key that is in the ring.
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

// push appends w to the list of its host and address.
func (f *fairQueue) push(host uint32, addr netip.Addr, w *waiter) {
	w.host, w.addr = host, addr
	hostNode := f.hosts.nodes[host]
	if hostNode == nil {
		f.hosts.add(host, &hostQueue{deficit: quantum})
		hostNode = f.hosts.nodes[host]
	}
	addrNode := hostNode.value.addrs.nodes[addr]
	if addrNode == nil {
		hostNode.value.addrs.add(addr, &addrQueue{deficit: quantum})
		addrNode = hostNode.value.addrs.nodes[addr]
	}
	if w.prev = addrNode.value.last; w.prev == nil {
		addrNode.value.first = w
	} else {
		w.prev.next = w
	}
	addrNode.value.last = w
	f.size++
}

// remove removes w, and its address and host if nothing else waits there. An address that comes
// again starts with a new deficit counter.
func (f *fairQueue) remove(w *waiter) {
	hq := f.hosts.nodes[w.host].value
	aq := hq.addrs.nodes[w.addr].value
	if w.prev == nil {
		aq.first = w.next
	} else {
		w.prev.next = w.next
	}
	if w.next == nil {
		aq.last = w.prev
	} else {
		w.next.prev = w.prev
	}
	w.prev, w.next = nil, nil
	f.size--
	if aq.first == nil {
		if hq.addrs.remove(w.addr); hq.addrs.head == nil {
			f.hosts.remove(w.host)
		}
	}
}

// pop removes and returns the waiter that is next, and takes its cost from the counters of its
// host and its address. The queue must not be empty.
func (f *fairQueue) pop() *waiter {
	for {
		hq := f.hosts.head.value
		if hq.deficit <= 0 {
			hq.deficit += quantum
			f.hosts.head = f.hosts.head.next
			continue
		}
		aq := hq.addrs.head.value
		if aq.deficit <= 0 {
			aq.deficit += quantum
			hq.addrs.head = hq.addrs.head.next
			continue
		}
		w := aq.first
		hq.deficit = max(hq.deficit-w.cost, minDeficit)
		aq.deficit = max(aq.deficit-w.cost, minDeficit)
		f.remove(w)
		return w
	}
}

// charge takes a cost from the counters of a host and an address that have entries.
func (f *fairQueue) charge(host uint32, addr netip.Addr, cost int) {
	hostNode := f.hosts.nodes[host]
	if hostNode == nil {
		return
	}
	hostNode.value.deficit = max(hostNode.value.deficit-cost, minDeficit)
	if addrNode := hostNode.value.addrs.nodes[addr]; addrNode != nil {
		addrNode.value.deficit = max(addrNode.value.deficit-cost, minDeficit)
	}
}

// AddrKey returns what counts as one address for limits and queues: an IPv4 address, or the /64
// prefix of an IPv6 address, without a zone.
func AddrKey(a netip.Addr) netip.Addr {
	a = a.Unmap().WithZone("")
	if a.Is6() {
		if p, err := a.Prefix(64); err == nil {
			return p.Addr()
		}
	}
	return a
}
