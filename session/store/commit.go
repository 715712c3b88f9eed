package store

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"sort"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
)

// A Ticket is the number of a batch that was given to [DB.Commit]. There is one sequence of tickets
// for the whole store; it starts at 1 with each Open and grows by one with each batch. Batches are
// written and become durable in the order of their tickets. Ticket 0 stands for "nothing was
// written": it counts as durable.
type Ticket uint64

// maxBatchBytes is the largest size of one batch, in bytes of Pebble's encoding; set checks it (a deletion
// adds little). A larger batch is a programming error. It is the largest group too, unless Options.BatchBytes
// is larger. A group should stay below half of a memtable (Options.MemTableBytes, 32 MiB by default): Pebble
// writes a larger one by a slower path.
const maxBatchBytes = 8 << 20

// A Batch is a set of writes that become durable together or not at all.
//
// There are two kinds of batches. Those of modules come from [DB.NewBatch], that is from outside of this
// package. Such a batch belongs to one owner: the id of an entity. A write of another owner's row makes it
// fail with [ErrOwner] when it is committed. Those of the system come from this package: commands of the
// operator, the reservation of ids (Lease), the erasure of deleted entities. They may write any row.
//
// An error of a single write is kept in the batch and fails its commit, so that callers need not check each
// Put. The directory, below, is the table from names to entity ids; the rules for it are in directory.go.
//
// A Batch is used by one goroutine. [DB.Commit] takes it over: the caller must not touch it
// afterwards, as it goes back into a pool and becomes the batch of another caller.
type Batch struct {
	pebble  pebble.Batch
	owner   uint64
	system  bool         // a batch of this package: it may write any row, and a full queue does not refuse it
	err     error        // the first error of a write: the ticket of the commit fails with it
	changes []nameChange // the rows of the directory that it changes
	key     []byte       // scratch: the key that a table encodes
	val     []byte       // scratch: the value that a table encodes
	// failures is what BuildsOn was told, plus one; 0: nothing.
	failures uint64
	db       *DB
}

// batches is the pool of empty batches. A batch comes back after its group was written.
var batches = sync.Pool{New: func() any { return new(Batch) }}

// maxPooled is the largest batch that goes back into the pool, in bytes of its writes and scratch buffers.
// Larger ones are left to the garbage collector, so that a few large batches don't keep memory.
const maxPooled = 64 << 10

// release empties b and puts it into the pool, unless it is large. It is called by the committer
// when the batch is settled, and by refuseLocked.
func (b *Batch) release() {
	if b.pebble.Len()+cap(b.key)+cap(b.val) > maxPooled {
		return
	}
	b.pebble.Reset()
	b.owner, b.system, b.err, b.failures, b.db = 0, false, nil, 0, nil
	clear(b.changes)
	b.changes = b.changes[:0]
	batches.Put(b)
}

// NewBatch returns an empty batch for the rows of owner, an entity's id. It neither reads nor
// waits. For owner 0, which is the id of no entity, the batch's commit fails with [ErrOwner]. Any
// goroutine; the batch is the caller's until it is committed. A batch that is not committed may be
// left to the garbage collector.
func (db *DB) NewBatch(owner uint64) *Batch {
	b := batches.Get().(*Batch)
	b.db = db
	b.owner = owner
	if owner == 0 {
		b.err = fmt.Errorf("%w: 0 is the id of no entity", ErrOwner)
	}
	return b
}

// systemBatch returns an empty batch that may write rows of any owner and of the system's tables.
func (db *DB) systemBatch() *Batch {
	b := batches.Get().(*Batch)
	b.db = db
	b.system = true
	return b
}

// Owner returns the id of the entity whose rows b writes; 0 for a batch of this package.
func (b *Batch) Owner() uint64 { return b.owner }

// Len returns how many writes b has.
func (b *Batch) Len() int { return int(b.pebble.Count()) }

// Failures returns how often the store has refused or failed batches since it was opened; changes of the
// directory that conflict are not counted. While the number stays, a batch that was given to the store is
// durable, or will be, or fails together with all that are given after it before the number grows. It is one
// atomic load. Any goroutine.
func (b *Batch) Failures() uint64 { return b.db.committer.failureCount.Load() }

// BuildsOn lets the batch fail unless [Batch.Failures] still has that value when the batch is given to the
// store: for rows that are of no use without those of an earlier batch, which may not be durable yet.
func (b *Batch) BuildsOn(failures uint64) { b.failures = failures + 1 }

// Err returns the error with which b's commit will fail; nil if every write so far was accepted.
// The committer may still refuse b, see [DB.Commit].
func (b *Batch) Err() error { return b.err }

// fail remembers err as the error of b's commit. The first error counts.
func (b *Batch) fail(err error) {
	if b.err == nil {
		b.err = err
	}
}

// checkOwner reports whether b may write a row of owner. If not, or if b has failed before, the
// caller adds nothing: the commit fails anyway.
func (b *Batch) checkOwner(owner uint64) bool {
	if !b.system && owner != b.owner {
		b.fail(fmt.Errorf("%w: row of %#x in a batch of %#x", ErrOwner, owner, b.owner))
	}
	return b.err == nil
}

// set adds a write of value under key. Both are copied.
func (b *Batch) set(key, value []byte) {
	if b.pebble.Len()+len(key)+len(value) > maxBatchBytes {
		b.fail(fmt.Errorf("%w: a batch of more than %d bytes", ErrKey, maxBatchBytes))
		return
	}
	if err := b.pebble.Set(key, value, nil); err != nil {
		b.fail(err)
	}
}

// del adds the deletion of key.
func (b *Batch) del(key []byte) {
	if err := b.pebble.Delete(key, nil); err != nil {
		b.fail(err)
	}
}

// delRange adds the deletion of all keys in [from, to). Writes of the same batch that come after it
// are not deleted.
func (b *Batch) delRange(from, to []byte) {
	if err := b.pebble.DeleteRange(from, to, nil); err != nil {
		b.fail(err)
	}
}

// setNumber adds a write of n, 8 bytes big-endian. The rows of the system use it.
func (b *Batch) setNumber(key []byte, n uint64) {
	b.set(key, binary.BigEndian.AppendUint64(nil, n))
}

// A queuedBatch is one entry of the committer's queue.
//
// With a batch it stands for one ticket: first and ticket are equal. Without a batch it stands for
// the tickets from first to ticket, which were refused because the queue was full. Refused tickets
// that follow each other share one entry, so a client that makes the server write during an
// overload costs no memory.
type queuedBatch struct {
	batch         *Batch
	first, ticket Ticket
	queuedAt      time.Time // when the first of its tickets was given; for Metrics.Latency
}

// A failedRange says that the tickets from first to last failed, and why. If the failure was one of the
// store itself (see [DB.Err]), their writes may have reached the disk, and be there after a restart.
type failedRange struct {
	first, last Ticket
	err         error
}

// maxFailed is how many failedRanges are remembered: about 2 MiB. Neighbouring tickets that failed
// with the same error are one range. When there are more ranges the oldest is dropped, and
// [DB.Failed] counts all tickets before it as failed, see lastForgotten.
const maxFailed = 1 << 16

// committer makes batches durable in groups (group commit). It is a queue and two goroutines: run
// takes groups off the queue and settles them; applyAll calls Pebble for run.
//
// # The life of a batch
//
//  1. Commit (any goroutine) gives the batch the next ticket and appends it to the queue. It does
//     not wait.
//  2. run gathers batches for up to Options.BatchDelay since the last group began, then takes a
//     group from the head of the queue.
//  3. commitGroup leaves out the batches that fail individually, and writes the others to
//     Pebble as one batch with one sync.
//  4. commitGroup settles the group: it records the failures, moves durable to the group's last
//     ticket, wakes the callers of Wait, and calls the commit callbacks of OnCommit.
//
// # Why there is one order of tickets
//
// Each loop could have a queue of its own, and the store could settle batches in any order. With
// one order for the whole store:
//
//   - "All tickets up to n are settled" is one number. A loop with thousands of pending answers
//     compares each with one atomic load, and its list of waiters is a FIFO.
//   - Two loops that change one entity, one after the other under the entity's lock, get tickets in
//     that order. So the rows change on disk in the order in which the entity changed in memory.
//   - The rules of the directory (two batches that make the same name) have one outcome: the batch
//     with the lower ticket wins.
//   - After a crash the store has a prefix of the groups: if a batch survived, all successful
//     batches before it did.
//
// The order costs little, as Pebble has one write-ahead log anyway.
//
// # Invariants
//
//   - Under mu: durable == applied <= lastQueued <= lastTicket. durable and applied only grow. (durable is
//     the copy of applied that is read without mu.)
//   - The queue holds the tickets from durable+1 to lastQueued, less those of the group that is
//     being written: in order, without gaps.
//   - Only run takes from the queue, one group at a time. A group is settled before the next is
//     taken.
//   - The queue is empty, or run is in its inner loop, or wake holds a token. So no batch is
//     forgotten.
//   - A ticket above lastQueued was refused because the store is closed or read-only. It has failed
//     already; no callback reports it.
//   - Each callback runs on run's goroutine, after durable has been stored, with mu free.
//
// # Bounds
//
// The queue holds less than Options.QueueBytes plus one batch (at most maxBatchBytes); a batch counts as
// the size of its writes plus batchOverhead. From then on batches of modules are refused with [ErrFull],
// until half of the queue is written. Batches of the system are still taken: they are few. The group that is
// being written, up to Options.BatchBytes, is in addition.
//
// # What goes wrong
//
// A batch that fails individually (an error of one of its writes, the rules of the directory, a full queue)
// is left out, and the batches after it are written. If a whole group fails, all batches in the queue fail
// with it. When Pebble fails, the store is out of service for good ([DB.Err]): run goes on, and
// fails every group at once.
type committer struct {
	db      *DB
	metrics Metrics

	// mu guards the fields down to lastForgotten, and the writes of durable and of callbacks. It is a leaf
	// lock: no callback runs and no other lock is taken under it. Loops take it in Commit, so it is held for
	// short work only. There is no I/O under it, with one exception: a line in the log when the queue becomes
	// full, and one when it is half empty again. The longest work is the release of the batches of a group,
	// and the insertion of a failure into failures while the store closes.
	mu         sync.Mutex
	queue      []queuedBatch
	ops        int           // writes of all batches in queue
	bytes      int           // size of all batches in queue, each with batchOverhead
	lastTicket Ticket        // the last ticket that was given
	lastQueued Ticket        // the last ticket that went into the queue: see Invariants
	applied    Ticket        // the last settled ticket, as durable; for waitApplied
	progress   chan struct{} // closed, and replaced, when a group is settled
	closing    bool          // close was called: batches are refused
	failures   []failedRange // in the order of tickets; no two of them overlap
	// lastForgotten is the last ticket of the ranges that were dropped from failures, because there
	// were more than maxFailed.
	lastForgotten Ticket

	// durable is the last settled ticket, for readers without the lock. It is written under mu.
	durable atomic.Uint64
	// anyFailed is set with the first failure, and makes DB.Failed cheap before it.
	anyFailed atomic.Bool
	// failureCount is what Batch.Failures returns. It grows under mu.
	failureCount atomic.Uint64
	callbacks    []func(last Ticket, err error) // commit callbacks; copied on write, under mu
	wake         chan struct{}                  // one token: run checks the queue
	group        *pebble.Batch                  // run's own: the writes of the group that is being written
	directory    groupDirectory                 // run's own: what this group changes in the directory
	toApply      chan *pebble.Batch             // from apply to applyAll, one group at a time
	applyResult  chan error                     // from applyAll: Pebble's error, or its panic
	diskFull     atomic.Pointer[failure]        // not nil: no space, whole groups fail; diskspace.go sets it
	queueFull    atomic.Pointer[failure]        // not nil: the queue is full; set and reset under mu
}

// batchOverhead is the memory of a queued batch besides its writes, in bytes. Pebble allocates a
// buffer of 1 KiB for each batch; the rest is the Batch itself. With a smaller number many tiny
// batches would take more memory than Options.QueueBytes says.
const batchOverhead = 1536

// init prepares c before its goroutines start. Called by Open.
func (c *committer) init(db *DB) {
	c.db = db
	c.progress = make(chan struct{})
	c.wake = make(chan struct{}, 1)
	c.group = new(pebble.Batch)
	c.toApply = make(chan *pebble.Batch)
	c.applyResult = make(chan error, 1)
}

// Commit gives b to the store and returns its ticket. It neither waits nor does I/O: any goroutine,
// loops included. b belongs to the store from here on.
//
// The ticket is settled later: durable or failed. The commit callbacks ([DB.OnCommit]) run then,
// and [DB.Failed] says which of the two. The failures of one batch are: the error of one of its
// writes ([Batch.Err]); [ErrFull], if the queue or the disk is full; [ErrExists] or [ErrNotFound],
// if the directory has changed; [ErrUnavailable], if the store is closed, read-only or out of
// service. If the store is read-only, or [DB.Close] has begun, the ticket has failed when Commit returns,
// and no callback reports it: [DB.Wait] and [DB.Failed] do.
func (db *DB) Commit(b *Batch) Ticket { return db.commitAll(b) }

// commitAll commits the batches of list one after another, with no batch of another caller between
// them, and returns the ticket of the first; each of the others has the next ticket. list is not empty. All
// are queued before run can take a group, so that they share as few syncs as possible. A long list makes
// other callers of Commit wait for mu.
func (db *DB) commitAll(list ...*Batch) (first Ticket) {
	c := &db.committer
	c.mu.Lock()
	first = c.lastTicket + 1
	idle := len(c.queue) == 0
	for _, b := range list {
		c.queueLocked(b)
	}
	// A token for the first batch of an empty queue starts a group; one for a full group ends the gathering.
	// Batches in between need none: run takes them when BatchDelay is over.
	wake := len(c.queue) > 0 && (idle || c.ops >= db.opts.BatchOps || c.bytes >= db.opts.BatchBytes)
	c.mu.Unlock()
	if wake {
		select {
		case c.wake <- struct{}{}:
		default:
		}
	}
	return first
}

// queueLocked gives b the next ticket and appends it to the queue. If the store is closing or read-only, the
// ticket fails at once: earlier tickets may still be in the queue then. The caller holds mu.
func (c *committer) queueLocked(b *Batch) {
	c.lastTicket++
	t := c.lastTicket
	if c.closing || c.db.opts.ReadOnly {
		c.failLocked(t, t, fmt.Errorf("%w: closed, or read only", ErrUnavailable))
		return
	}
	c.lastQueued = t
	if b.failures != 0 && b.failures != c.failureCount.Load()+1 && b.err == nil {
		b.err = errBuildsOn
	}
	if !b.system && c.queueOverflows() {
		c.refuseLocked(b, t)
		return
	}
	c.queue = append(c.queue, queuedBatch{b, t, t, monotonicNow()})
	c.ops += b.Len()
	c.bytes += b.pebble.Len() + batchOverhead
}

// queueOverflows reports whether batches of modules are refused because the queue is full. It sets
// queueFull when the queue has reached Options.QueueBytes; takeGroup resets it at half of that, so
// that the store does not switch with every batch. The caller holds mu.
func (c *committer) queueOverflows() bool {
	if c.queueFull.Load() == nil && c.bytes >= c.db.opts.QueueBytes {
		err := fmt.Errorf("%w: %d MiB wait for the disk of %s", ErrFull, c.bytes>>20, c.db.opts.Dir)
		c.queueFull.Store(&failure{err})
		c.metrics.FullEvents.Add(1)
		c.db.opts.Logger.Error("store: writes are refused", "err", err)
	}
	return c.queueFull.Load() != nil
}

// refuseLocked queues the ticket t without its batch, which is released. The ticket can't fail at
// once: tickets are settled in order, so it fails when its entry comes to the head of the queue.
// The caller holds mu.
func (c *committer) refuseLocked(b *Batch, t Ticket) {
	c.failureCount.Add(1)
	b.release()
	if n := len(c.queue); n > 0 && c.queue[n-1].batch == nil {
		c.queue[n-1].ticket = t
		return
	}
	c.queue = append(c.queue, queuedBatch{nil, t, t, monotonicNow()})
}

// Durable returns the last settled ticket: every ticket up to it is durable, or has failed (see
// [DB.Failed]). It is one atomic load. Any goroutine.
func (db *DB) Durable() Ticket { return Ticket(db.committer.durable.Load()) }

// Last returns the last ticket that was given. Any goroutine.
func (db *DB) Last() Ticket {
	db.committer.mu.Lock()
	defer db.committer.mu.Unlock()
	return db.committer.lastTicket
}

// Failed returns why the batch of t was not written; nil if it was written, or if t is not settled
// yet (compare [DB.Durable] before). Any goroutine. While nothing has ever failed it is one atomic
// load, so it may be asked for each ticket.
//
// The last maxFailed ranges of failures are remembered. A ticket from before them counts as failed, even if
// it was durable: an acknowledgement for a write that is lost would be worse than an error for one that is
// there. So ask soon after the ticket is settled.
func (db *DB) Failed(t Ticket) error {
	c := &db.committer
	if t == 0 || !c.anyFailed.Load() {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if i := c.failedAfter(t); i < len(c.failures) && c.failures[i].first <= t {
		return c.failures[i].err
	}
	if t <= c.lastForgotten {
		return errForgotten
	}
	return nil
}

// errForgotten is what Failed returns for a ticket that is older than all remembered failures.
var errForgotten = fmt.Errorf("%w: it is no longer known whether the batch was written", ErrUnavailable)

// failedAfter returns the index in failures of the first range that contains t or comes after it;
// len(failures) if there is none. The caller holds mu.
func (c *committer) failedAfter(t Ticket) int {
	return sort.Search(len(c.failures), func(i int) bool { return c.failures[i].last >= t })
}

// OnCommit registers f as a commit callback. The committer calls it on its own goroutine when a
// group is settled: f must not block, and must not call Wait or Snapshot. Callbacks can't be
// removed.
//
// The arguments are for logs, metrics and tests. A callback that needs to know the outcome of a ticket asks
// [DB.Durable] and [DB.Failed], which are up to date when f runs. There are three kinds of calls:
//
//   - err is nil: all tickets up to last are settled; single ones may have failed.
//   - The whole group has failed: last is the last ticket that was settled before, and err the error of all
//     tickets that are settled now, those in the queue included.
//   - Single batches of the group were refused: the first call has the ticket before the first refused one,
//     and its error; a second call follows, with the group's last ticket and nil.
func (db *DB) OnCommit(f func(last Ticket, err error)) {
	c := &db.committer
	c.mu.Lock()
	defer c.mu.Unlock()
	c.callbacks = append(c.callbacks[:len(c.callbacks):len(c.callbacks)], f)
}

// Wait blocks until t is settled and returns its error; nil if it is durable. It returns ctx's error if ctx
// ends first, and [DB.Err] if the store goes out of service; t may then be in the store after a restart. It
// may wait for the disk: for commands, tests and workers, never for a loop or a commit callback. For a ticket
// that was never given it waits until ctx ends.
func (db *DB) Wait(ctx context.Context, t Ticket) error {
	c := &db.committer
	for {
		c.mu.Lock()
		// progress is read under mu together with durable: a group that is settled after that closes it.
		changed := c.progress
		done := Ticket(c.durable.Load()) >= t
		c.mu.Unlock()
		if err := db.Failed(t); err != nil {
			return err
		}
		if done {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		case <-c.db.failedCh:
			// Out of service: t fails, unless it was settled before. run may not have settled it yet.
			if Ticket(c.durable.Load()) >= t {
				return db.Failed(t)
			}
			return db.Err()
		}
	}
}

// waitApplied blocks until every batch that was queued before the call is settled, so that a
// snapshot sees it. It returns early, without an error, if the store goes out of service, as Pebble may then
// never return from a write: [DB.Err] says so. [DB.Snapshot] and close call it; never a loop or the
// committer's goroutine, which would wait for itself.
func (c *committer) waitApplied() {
	c.mu.Lock()
	t := c.lastQueued
	for c.applied < t {
		changed := c.progress
		c.mu.Unlock()
		select {
		case <-changed:
		case <-c.db.failedCh:
			return
		}
		c.mu.Lock()
	}
	c.mu.Unlock()
}

// failLocked remembers that the tickets from first to last failed with err. A range that follows its
// neighbour, with the same text of the error, extends it. Usually a range is appended. It is inserted only
// while the store closes: a ticket that is refused then fails before older tickets that are still queued. The
// caller holds mu.
func (c *committer) failLocked(first, last Ticket, err error) {
	i := c.failedAfter(first)
	if i > 0 && c.failures[i-1].last+1 == first && c.failures[i-1].err.Error() == err.Error() {
		c.failures[i-1].last = last
	} else {
		c.failures = slices.Insert(c.failures, i, failedRange{first, last, err})
	}
	if len(c.failures) > maxFailed {
		c.lastForgotten = c.failures[0].last
		c.failures[0] = failedRange{}
		c.failures = c.failures[1:]
	}
	c.anyFailed.Store(true)
}

// close makes the committer refuse further batches and write the queued ones without gathering, and waits
// until these are settled. [DB.Close] calls it once, before it closes DB.stop: so the queue is empty, or the
// store out of service, when run and applyAll stop.
func (c *committer) close() {
	c.mu.Lock()
	c.closing = true
	c.mu.Unlock()
	select {
	case c.wake <- struct{}{}:
	default:
	}
	c.waitApplied()
}

// run is the committer's goroutine, from Open until DB.stop is closed. Its outer loop sleeps while
// the queue is empty. The inner loop commits one group after another until the queue is empty:
//
//  1. If the last group began less than Options.BatchDelay ago, gather: wait for the rest of that
//     time, or until the queue fills a group, or until the store stops. So a busy store syncs once
//     in BatchDelay, and an idle store syncs the first batch at once.
//  2. Take a group off the queue; go back to sleep if there is none.
//  3. commitGroup writes and settles it.
//
// A stale token in wake does no harm: run finds the queue empty and sleeps again.
func (c *committer) run() {
	defer c.db.running.Done()
	var began time.Time // when the last group was taken
	timer := time.NewTimer(time.Hour)
	timer.Stop()
	for {
		select {
		case <-c.wake:
		case <-c.db.stop:
			return
		}
		for {
			// Gather. The time that the last group took to write counts, so that a slow disk adds no wait.
			if wait := c.db.opts.BatchDelay - time.Since(began); wait > 0 && !c.groupFull() {
				timer.Reset(wait)
				for gathering := true; gathering; {
					select {
					case <-timer.C:
						gathering = false
					case <-c.wake:
						gathering = !c.groupFull()
					case <-c.db.stop:
						gathering = false
					}
				}
				timer.Stop()
			}
			group := c.takeGroup()
			if len(group) == 0 {
				break
			}
			began = monotonicNow()
			c.commitGroup(group)
		}
	}
}

// groupFull reports whether run should stop gathering: the queue fills a group, or the store
// closes.
func (c *committer) groupFull() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closing || c.ops >= c.db.opts.BatchOps || c.bytes >= c.db.opts.BatchBytes
}

// takeGroup takes the next group off the head of the queue: as many batches as fit Options.BatchOps
// and Options.BatchBytes, but at least one, as one batch may be larger than that. It returns
// nothing if the queue is empty. When the queue is down to half of Options.QueueBytes, batches are
// taken again. Called by run only; the entries of the group belong to run from here on.
func (c *committer) takeGroup() []queuedBatch {
	c.mu.Lock()
	defer c.mu.Unlock()
	n, ops, bytes := 0, 0, 0
	for n < len(c.queue) {
		k, l := 0, 0
		if b := c.queue[n].batch; b != nil {
			k, l = b.Len(), b.pebble.Len()+batchOverhead
		}
		if n > 0 && (ops+k > c.db.opts.BatchOps || bytes+l > c.db.opts.BatchBytes) {
			break
		}
		n, ops, bytes = n+1, ops+k, bytes+l
	}
	group := c.queue[:n:n]
	if n == len(c.queue) {
		c.queue = nil // so that the array can be collected once the group is settled
	} else {
		c.queue = c.queue[n:]
	}
	c.ops -= ops
	c.bytes -= bytes
	if c.bytes <= c.db.opts.QueueBytes/2 && c.queueFull.Load() != nil {
		c.queueFull.Store(nil)
		c.db.opts.Logger.Info("store: the disk has caught up, writes are accepted again")
	}
	return group
}

// commitGroup writes a group and settles its tickets. It is called by run only, with no lock held.
// It returns when the group is durable or has failed.
//
//  1. The whole group fails if the store is out of service, the disk is full, or a test's Fault
//     says so.
//  2. Each batch is checked in the order of tickets. It is refused, alone, if the queue was full, if one of
//     its writes failed, or if its changes break a rule of the directory (checkBatch, which may read from
//     Pebble, and sees the changes of the batches before it in this group). The writes of all others are
//     collected in c.group.
//  3. apply writes c.group and syncs. An error means that Pebble failed: the store is out of
//     service.
//  4. Under mu the group is settled: failures are recorded before durable moves, so that a reader
//     that sees the new Durable also finds the failure. If the whole group failed, all batches in the queue
//     fail too: the cause would fail them as well, and each may build on one that is lost. After a single
//     refused batch the kernel sees to that: it invalidates the entity.
//  5. The batches go back into the pool, and the callers of Wait and waitApplied wake up.
//  6. The commit callbacks run, without the lock. If single batches were refused, they hear of the
//     first refusal before they hear of the whole group: see [DB.OnCommit].
func (c *committer) commitGroup(group []queuedBatch) {
	last := group[len(group)-1].ticket
	// Step 1: does the whole group fail?
	err := c.db.Err()
	if err == nil {
		if f := c.diskFull.Load(); f != nil {
			err = f.err
		}
	}
	if err == nil {
		err = c.db.injectFault(true)
	}
	var refused []failedRange
	conflicts := 0
	if err == nil {
		// Step 2: collect the writes of the group, without the batches that fail by themselves.
		for _, p := range group {
			e := errQueueFull // p is a run of refused tickets, without a batch
			if p.batch != nil {
				if e = p.batch.err; e == nil {
					e = c.directory.checkBatch(c.db, p.batch)
				}
				if e == nil {
					e = c.group.Apply(&p.batch.pebble, nil)
				}
				if e == nil {
					c.directory.applyBatch(p.batch)
				}
			}
			if e != nil {
				refused = append(refused, failedRange{p.first, p.ticket, e})
			}
			if e == errNameTaken || e == errNameGone || e == errRowChanged {
				conflicts++
			}
		}
		c.directory.reset()

		// Step 3: write and sync. A group without writes settles at once, as those before it are durable.
		ops := int(c.group.Count())
		if ops > 0 {
			err = c.apply(c.group)
		}
		if err == nil {
			c.metrics.Groups.Add(1)
			c.metrics.Batches.Add(uint64(len(group) - len(refused)))
			c.metrics.Ops.Add(uint64(ops))
			c.metrics.Latency.observe(monotonicNow().Sub(group[0].queuedAt))
		}
	}

	// Step 4: settle the tickets of the group.
	c.mu.Lock()
	before := Ticket(c.durable.Load())
	switch {
	case err != nil:
		// The batches in the queue fail too, and are left to the garbage collector.
		last = max(last, c.lastQueued)
		c.metrics.Failed.Add(uint64(len(group) + len(c.queue)))
		c.queue, c.ops, c.bytes = nil, 0, 0
		c.queueFull.Store(nil)
		c.failureCount.Add(1)
		c.failLocked(group[0].first, last, err)
	default:
		for _, p := range refused {
			c.failLocked(p.first, p.last, p.err)
		}
		c.metrics.Failed.Add(uint64(len(refused) - conflicts))
		if len(refused) > conflicts {
			c.failureCount.Add(1)
		}
		c.metrics.Conflicts.Add(uint64(conflicts))
	}
	c.applied = max(c.applied, last)
	c.durable.Store(uint64(max(last, before)))

	// Step 5: give the batches back, and wake the callers of Wait and waitApplied.
	for _, p := range group {
		if p.batch != nil {
			p.batch.release()
		}
	}
	callbacks := c.callbacks
	close(c.progress)
	c.progress = make(chan struct{})
	c.mu.Unlock()

	// Step 6: run the commit callbacks.
	for _, f := range callbacks {
		switch {
		case err != nil:
			f(before, err)
		case len(refused) > 0:
			f(refused[0].first-1, refused[0].err)
			f(last, nil)
		default:
			f(last, nil)
		}
	}
}

// errBuildsOn is the error of a batch that builds on one that has failed: see Batch.BuildsOn.
var errBuildsOn = fmt.Errorf("%w: a batch before it has failed", ErrUnavailable)

// errQueueFull is the error of tickets that were refused because the queue was full.
var errQueueFull = fmt.Errorf("%w: the write queue was full", ErrFull)

// apply makes applyAll write the group to Pebble, with a sync, waits for it, and empties the group
// for its next use. It returns the store's error if that fails, or if the store goes out of service
// meanwhile.
//
// When Pebble can't write, it does one of three things: it panics (applyOne makes that an error),
// it calls Fatalf of its logger (see [logger]), or it blocks for ever in a file of the write-ahead
// log (see [walGuardFS]). In each case the store goes out of service, and failedCh wakes apply even
// if Pebble does not return. The group may then still be used by Pebble, so it is neither emptied
// nor used again.
func (c *committer) apply(group *pebble.Batch) error {
	select {
	case c.toApply <- group:
	case <-c.db.failedCh:
		return c.db.Err()
	}
	select {
	case err := <-c.applyResult:
		if err != nil {
			c.db.fail(err)
		}
	case <-c.db.failedCh:
	}
	if err := c.db.Err(); err != nil {
		return err // Pebble may still use the group
	}
	if group.Len() > c.db.opts.BatchBytes/4 {
		c.group = new(pebble.Batch) // does not keep the buffer of a large group
	} else {
		group.Reset()
	}
	return nil
}

// applyAll is a goroutine, from Open until DB.stop is closed. It calls Pebble for each group that
// apply sends. It is a goroutine of its own, as Pebble may never return from a write: then this goroutine is
// stuck until the process ends, while run still settles tickets, as failed, and calls the commit
// callbacks. At most one group is in flight, so applyResult, with room for one, never blocks.
func (c *committer) applyAll() {
	defer c.db.running.Done()
	for {
		select {
		case group := <-c.toApply:
			c.applyResult <- c.applyOne(group)
		case <-c.db.stop:
			return
		}
	}
}

// applyOne writes one group to Pebble and waits until its write-ahead log is synced. A panic of
// Pebble becomes an error.
func (c *committer) applyOne(group *pebble.Batch) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("writing: %v", r)
		}
	}()
	return c.db.pebble.Apply(group, pebble.Sync)
}

// monotonicNow returns the time for measuring durations. It is not Options.Now, which tests set.
func monotonicNow() time.Time { return time.Now() }
