package stub

import (
	"net"
	"sync"
	"time"
)

// Faults are the faults of a Server. Any goroutine may change them while it runs. They hold from the next
// stanza on; each call begins to count again. 0 (or "") ends a fault.
type Faults struct{ s *Server }

// faults are the settings, under the server's lock.
type faults struct {
	drop, duplicate, reorder every
	messageErrors, iqErrors  every
	approvals                every
	dropCarbons              every
	duplicateCarbons         every
	forgeCarbons             every
	echoCarbons              every
	refuseCarbons            every
	refuseResumes            every
	dropReplays              every
	duplicateReplays         every
	replayHandled            every
	ignoreInactive           bool
	dropHeld                 every
	dropKept, duplicateKept  every
	dropPushes               every
	duplicatePushes          every
	misdirectPushes          every
	dropRows, duplicateRows  every
	swapRows, skipRows       every
	condition                string
	delay                    time.Duration
	refuse                   string
	slow                     time.Duration
}

// An every counts calls: hit is true on each n-th.
type every struct{ n, i int }

func (e *every) hit() bool {
	if e.n <= 0 {
		return false
	}
	e.i++
	return e.i%e.n == 0
}

// Stall stops all reads and writes of the server for d from now. It does not wait. Input that
// clients send meanwhile stays in the sockets, except for one read of each. The kernel alone
// accepts connections.
func (f *Faults) Stall(d time.Duration) { f.s.gate.shut(d) }

// Drop loses every n-th message, counted by receivers.
func (f *Faults) Drop(n int) { f.set(func(x *faults) { x.drop = every{n: n} }) }

// Duplicate delivers every n-th message twice.
func (f *Faults) Duplicate(n int) { f.set(func(x *faults) { x.duplicate = every{n: n} }) }

// Reorder holds every n-th message until the next one of the same sender to the same receiver was
// delivered. One that waits longer than Config.ReorderTimeout, or at the next call of Reorder, is
// delivered as it is and does not count as reordered.
func (f *Faults) Reorder(n int) {
	f.set(func(x *faults) {
		x.reorder = every{n: n}
		for k := range f.s.reordered {
			f.s.releaseReordered(k)
		}
	})
}

// Delay delays all stanzas to bound sessions by d, in order.
func (f *Faults) Delay(d time.Duration) { f.set(func(x *faults) { x.delay = d }) }

// ErrorEvery answers every n-th message, and every n-th IQ request, of bound sessions with the stanza error
// condition and does nothing else with it.
func (f *Faults) ErrorEvery(n int, condition string) {
	f.set(func(x *faults) { x.messageErrors, x.iqErrors, x.condition = every{n: n}, every{n: n}, condition })
}

// DropCarbons loses every n-th carbon.
func (f *Faults) DropCarbons(n int) { f.set(func(x *faults) { x.dropCarbons = every{n: n} }) }

// DuplicateCarbons sends every n-th carbon twice.
func (f *Faults) DuplicateCarbons(n int) { f.set(func(x *faults) { x.duplicateCarbons = every{n: n} }) }

// ForgeCarbons sends every n-th carbon from another account than that which it is for.
func (f *Faults) ForgeCarbons(n int) { f.set(func(x *faults) { x.forgeCarbons = every{n: n} }) }

// EchoCarbons also sends a carbon of every n-th message to the session that has sent it.
func (f *Faults) EchoCarbons(n int) { f.set(func(x *faults) { x.echoCarbons = every{n: n} }) }

// RefuseCarbons answers every n-th request to turn carbons on with resource-constraint.
func (f *Faults) RefuseCarbons(n int) { f.set(func(x *faults) { x.refuseCarbons = every{n: n} }) }

// RefuseResumes answers every n-th request to resume a session with item-not-found, and ends the session.
func (f *Faults) RefuseResumes(n int) { f.set(func(x *faults) { x.refuseResumes = every{n: n} }) }

// DropReplays does not send every n-th stanza again that a resumed session had not acknowledged.
func (f *Faults) DropReplays(n int) { f.set(func(x *faults) { x.dropReplays = every{n: n} }) }

// DuplicateReplays sends every n-th stanza that a resumed session had not acknowledged twice.
func (f *Faults) DuplicateReplays(n int) { f.set(func(x *faults) { x.duplicateReplays = every{n: n} }) }

// ReplayHandled sends in every n-th resumption also what the client says that it has handled, as far as it
// had not acknowledged it before.
func (f *Faults) ReplayHandled(n int) { f.set(func(x *faults) { x.replayHandled = every{n: n} }) }

// IgnoreInactive sends presence to inactive clients, too.
func (f *Faults) IgnoreInactive() { f.set(func(x *faults) { x.ignoreInactive = true }) }

// DropHeld loses every n-th presence that has waited for an inactive client.
func (f *Faults) DropHeld(n int) { f.set(func(x *faults) { x.dropHeld = every{n: n} }) }

// DropKept loses every n-th message that is kept for an account without a session.
func (f *Faults) DropKept(n int) { f.set(func(x *faults) { x.dropKept = every{n: n} }) }

// DuplicateKept delivers every n-th message that was kept twice.
func (f *Faults) DuplicateKept(n int) { f.set(func(x *faults) { x.duplicateKept = every{n: n} }) }

// DropPushes loses every n-th push.
func (f *Faults) DropPushes(n int) { f.set(func(x *faults) { x.dropPushes = every{n: n} }) }

// DuplicatePushes sends every n-th push twice.
func (f *Faults) DuplicatePushes(n int) { f.set(func(x *faults) { x.duplicatePushes = every{n: n} }) }

// MisdirectPushes sends every n-th push with a node that was not registered.
func (f *Faults) MisdirectPushes(n int) { f.set(func(x *faults) { x.misdirectPushes = every{n: n} }) }

// DropRows leaves a row out of the middle of every n-th page of an archive.
func (f *Faults) DropRows(n int) { f.set(func(x *faults) { x.dropRows = every{n: n} }) }

// DuplicateRows sends a row in the middle of every n-th page twice.
func (f *Faults) DuplicateRows(n int) { f.set(func(x *faults) { x.duplicateRows = every{n: n} }) }

// SwapRows exchanges two rows in the middle of every n-th page.
func (f *Faults) SwapRows(n int) { f.set(func(x *faults) { x.swapRows = every{n: n} }) }

// SkipRows names the row before the first one of every n-th page as the first one: pages that are read
// backwards lack it.
func (f *Faults) SkipRows(n int) { f.set(func(x *faults) { x.skipRows = every{n: n} }) }

// RefuseApprovals answers every n-th presence of type subscribed with resource-constraint, as if its sender's
// roster were full, and does nothing else with it.
func (f *Faults) RefuseApprovals(n int) { f.set(func(x *faults) { x.approvals = every{n: n} }) }

// RefuseLogins answers every login with the SASL failure condition ("temporary-auth-failure").
func (f *Faults) RefuseLogins(condition string) { f.set(func(x *faults) { x.refuse = condition }) }

// SlowLogin delays the last answer of each login by d; other connections are not delayed.
func (f *Faults) SlowLogin(d time.Duration) { f.set(func(x *faults) { x.slow = d }) }

// Close resets the n oldest connections, and returns how many there were.
func (f *Faults) Close(n int) int {
	f.s.mu.Lock()
	defer f.s.mu.Unlock()
	dropped := 0
	for _, c := range f.s.conns {
		if dropped == n {
			break
		}
		if !c.severed {
			c.severed = true
			c.raw.Close()
			dropped++
		}
	}
	f.s.stats.Severed += uint64(dropped)
	return dropped
}

func (f *Faults) set(change func(*faults)) {
	f.s.mu.Lock()
	defer f.s.mu.Unlock()
	change(&f.s.faults)
}

// A stallGate blocks all reads and writes while it is shut.
type stallGate struct {
	mu      sync.Mutex    // guards shutFor and until
	shutFor chan struct{} // closed when it opens; nil: it is open
	until   time.Time
	closing chan struct{}
}

// wait blocks while the server is stalled.
func (g *stallGate) wait() {
	for {
		g.mu.Lock()
		ch := g.shutFor
		g.mu.Unlock()
		if ch == nil {
			return
		}
		select {
		case <-ch:
		case <-g.closing:
			return
		}
	}
}

func (g *stallGate) shut(d time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if until := time.Now().Add(d); until.After(g.until) {
		g.until = until
	}
	if g.shutFor == nil {
		g.shutFor = make(chan struct{})
		time.AfterFunc(d, g.open)
	}
}

// open opens the gate, unless it was shut for longer in the meantime.
func (g *stallGate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if left := time.Until(g.until); left > 0 {
		time.AfterFunc(left, g.open)
		return
	}
	close(g.shutFor)
	g.shutFor = nil
}

// A stallConn is a connection whose reads and writes wait while the server is stalled.
type stallConn struct {
	net.Conn
	g *stallGate
}

// Read waits, and reads.
func (c stallConn) Read(p []byte) (int, error) {
	c.g.wait()
	n, err := c.Conn.Read(p)
	c.g.wait() // it may have been shut while the read waited
	return n, err
}

// Write waits, and writes.
func (c stallConn) Write(p []byte) (int, error) {
	c.g.wait()
	return c.Conn.Write(p)
}
