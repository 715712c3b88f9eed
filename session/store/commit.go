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

// A Ticket numbers what was given to the store. Tickets grow and become durable in order; 0 is durable
// already.
type Ticket uint64

// maxBatchBytes bounds one batch: more is a mistake, and would not fit a memtable.
const maxBatchBytes = 8 << 20

// A Batch is writes that become durable together or not at all. It belongs to one owner, and what is not
// the owner's makes its commit fail with ErrOwner. For one goroutine. Commit takes it: it is another's
// batch soon.
type Batch struct {
	pebble  pebble.Batch
	owner   uint64
	system  bool // may write anything: this package's own
	err     error
	changes []nameChange // the rows of the directory that it changes
	key     []byte       // scratch
	val     []byte       // scratch
}

// batches are used again once they are written, but for large ones.
var batches = sync.Pool{New: func() any { return new(Batch) }}

const maxPooled = 64 << 10

func (b *Batch) release() {
	if b.pebble.Len()+cap(b.key)+cap(b.val) > maxPooled {
		return
	}
	b.pebble.Reset()
	b.owner, b.system, b.err = 0, false, nil
	clear(b.changes)
	b.changes = b.changes[:0]
	batches.Put(b)
}

// NewBatch returns an empty batch for owner's rows.
func (db *DB) NewBatch(owner uint64) *Batch {
	b := batches.Get().(*Batch)
	b.owner = owner
	if owner == 0 {
		b.err = fmt.Errorf("%w: 0 is nobody's id", ErrOwner)
	}
	return b
}

func (db *DB) systemBatch() *Batch {
	b := batches.Get().(*Batch)
	b.system = true
	return b
}

// Owner returns whose batch it is.
func (b *Batch) Owner() uint64 { return b.owner }

// Len returns how many writes b holds.
func (b *Batch) Len() int { return int(b.pebble.Count()) }

// Err returns what makes b's commit fail, if anything yet.
func (b *Batch) Err() error { return b.err }

func (b *Batch) fail(err error) {
	if b.err == nil {
		b.err = err
	}
}

func (b *Batch) checkOwner(owner uint64) bool {
	if !b.system && owner != b.owner {
		b.fail(fmt.Errorf("%w: row of %#x in a batch of %#x", ErrOwner, owner, b.owner))
	}
	return b.err == nil
}

func (b *Batch) set(key, value []byte) {
	if b.pebble.Len()+len(key)+len(value) > maxBatchBytes {
		b.fail(fmt.Errorf("%w: a batch of more than %d bytes", ErrKey, maxBatchBytes))
		return
	}
	if err := b.pebble.Set(key, value, nil); err != nil {
		b.fail(err)
	}
}

func (b *Batch) del(key []byte) {
	if err := b.pebble.Delete(key, nil); err != nil {
		b.fail(err)
	}
}

func (b *Batch) delRange(from, to []byte) {
	if err := b.pebble.DeleteRange(from, to, nil); err != nil {
		b.fail(err)
	}
}

func (b *Batch) setNumber(key []byte, n uint64) {
	b.set(key, binary.BigEndian.AppendUint64(nil, n))
}

// A pending is a batch on its way, with its ticket; without a batch it stands for the refused tickets
// from first to ticket, so that refusing costs no memory.
type queuedBatch struct {
	batch         *Batch
	first, ticket Ticket
	queuedAt      time.Time
}

// A failedRange is tickets that were never made durable, and why.
type failedRange struct {
	first, last Ticket
	err         error
}

// maxFailed is how many ranges of failed tickets are remembered, 2 MiB of them. Neighbours with one cause are
// one range. A ticket that is asked for only after so many later failures counts as failed: see [DB.Failed].
const maxFailed = 1 << 16

// committer is the committer: a queue, and the one goroutine that empties it.
type committer struct {
	db      *DB
	metrics Metrics

	mu         sync.Mutex
	queue      []queuedBatch
	ops        int // in queue
	bytes      int
	lastTicket Ticket // the last given
	lastQueued Ticket // the last queued: refused ones are not
	applied    Ticket // visible to new snapshots
	progress   chan struct{}
	closing    bool
	failures   []failedRange // in the order of tickets; no two of them overlap
	// lastForgotten is the last ticket of the ranges that were dropped because there were more than maxFailed.
	lastForgotten Ticket

	durable     atomic.Uint64
	anyFailed   atomic.Bool
	listeners   []func(last Ticket, err error) // copied on write, under mu
	wake        chan struct{}
	group       *pebble.Batch           // the committer's own: what one group writes
	directory   groupDirectory          // the committer's own: what one group changes in the directory
	toApply     chan *pebble.Batch      // to applyAll, one at a time
	applyResult chan error              // from applyAll: Pebble's error, or its panic
	diskFull    atomic.Pointer[failure] // not nil: writes are refused
	queueFull   atomic.Pointer[failure] // not nil: they are refused because too many wait
}

// batchOverhead is what a queued batch takes besides its writes, in bytes: Pebble begins each with a
// kilobyte.
const batchOverhead = 1536

func (c *committer) init(db *DB) {
	c.db = db
	c.progress = make(chan struct{})
	c.wake = make(chan struct{}, 1)
	c.group = new(pebble.Batch)
	c.toApply = make(chan *pebble.Batch)
	c.applyResult = make(chan error, 1)
}

// Commit queues b and returns its ticket, without waiting. Once the ticket is durable or has failed, the
// listeners of Notify are told.
func (db *DB) Commit(b *Batch) Ticket { return db.commitAll(b) }

// commitAll queues batches one after the other, as [DB.Commit] does, with no other between them, and returns
// the ticket of the first; each of the others has the next one. None of them is written before all are
// queued, so that they share as few syncs as may be.
func (db *DB) commitAll(list ...*Batch) (first Ticket) {
	c := &db.committer
	c.mu.Lock()
	first = c.lastTicket + 1
	idle := len(c.queue) == 0
	for _, b := range list {
		c.queueLocked(b)
	}
	// The committer looks for itself while it gathers; it is woken for the first, and when it has enough.
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

// queueLocked gives b the next ticket, and a place in the queue.
func (c *committer) queueLocked(b *Batch) {
	c.lastTicket++
	t := c.lastTicket
	if c.closing || c.db.opts.ReadOnly {
		c.failLocked(t, t, fmt.Errorf("%w: closed, or read only", ErrUnavailable))
		return
	}
	c.lastQueued = t
	if !b.system && c.queueOverflows() {
		c.refuseLocked(b, t)
		return
	}
	c.queue = append(c.queue, queuedBatch{b, t, t, monotonicNow()})
	c.ops += b.Len()
	c.bytes += b.pebble.Len() + batchOverhead
}

// queueOverflows reports whether more waits for the disk than may. Under mu.
func (c *committer) queueOverflows() bool {
	if c.queueFull.Load() == nil && c.bytes >= c.db.opts.QueueBytes {
		err := fmt.Errorf("%w: %d MiB wait for the disk of %s", ErrFull, c.bytes>>20, c.db.opts.Dir)
		c.queueFull.Store(&failure{err})
		c.metrics.FullEvents.Add(1)
		c.db.opts.Logger.Error("store: writes are refused", "err", err)
	}
	return c.queueFull.Load() != nil
}

// refuseLocked gives t a place in the queue without its batch: it fails when those before it are settled.
func (c *committer) refuseLocked(b *Batch, t Ticket) {
	b.release()
	if n := len(c.queue); n > 0 && c.queue[n-1].batch == nil {
		c.queue[n-1].ticket = t
		return
	}
	c.queue = append(c.queue, queuedBatch{nil, t, t, monotonicNow()})
}

// Durable returns the ticket up to which everything is durable, or has failed: see [DB.Failed].
func (db *DB) Durable() Ticket { return Ticket(db.committer.durable.Load()) }

// Last returns the last ticket that was given.
func (db *DB) Last() Ticket {
	db.committer.mu.Lock()
	defer db.committer.mu.Unlock()
	return db.committer.lastTicket
}

// Failed returns why t's batch was not written, nil if it was or still may be. It costs one load while
// nothing has ever failed, so that a ticket can be asked for long after its group was written. Of the
// failures the last maxFailed are remembered: before those, whatever is not known to be durable is said to
// have failed, as the opposite would be a false acknowledgement.
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

// errForgotten is the answer for a ticket from before all failures that are remembered.
var errForgotten = fmt.Errorf("%w: it is not known any more whether the batch was written", ErrUnavailable)

// failedAfter returns the index of the first failed range that does not end before t. Under mu.
func (c *committer) failedAfter(t Ticket) int {
	return sort.Search(len(c.failures), func(i int) bool { return c.failures[i].last >= t })
}

// OnCommit has f called once for each group of batches, on the committer's goroutine, so f must not wait: all
// tickets up to last are durable. With an error, those above last that have been given failed, and will not
// become durable although Durable passes them later.
func (db *DB) OnCommit(f func(last Ticket, err error)) {
	c := &db.committer
	c.mu.Lock()
	defer c.mu.Unlock()
	c.listeners = append(c.listeners[:len(c.listeners):len(c.listeners)], f)
}

// Wait blocks until t is durable or has failed, and says which. For commands, tests and workers, never a
// loop.
func (db *DB) Wait(ctx context.Context, t Ticket) error {
	c := &db.committer
	for {
		c.mu.Lock()
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
			if Ticket(c.durable.Load()) >= t {
				return db.Failed(t)
			}
			return db.Err()
		}
	}
}

// waitApplied blocks until every batch given before is visible, or has failed, or the store has: Pebble
// may then never return from a write.
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

// failLocked remembers that the tickets from from to to failed. While the store closes they may be older than
// the newest failure.
func (c *committer) failLocked(from, to Ticket, err error) {
	i := c.failedAfter(from)
	if i > 0 && c.failures[i-1].last+1 == from && c.failures[i-1].err.Error() == err.Error() {
		c.failures[i-1].last = to
	} else {
		c.failures = slices.Insert(c.failures, i, failedRange{from, to, err})
	}
	if len(c.failures) > maxFailed {
		c.lastForgotten = c.failures[0].last
		c.failures[0] = failedRange{}
		c.failures = c.failures[1:]
	}
	c.anyFailed.Store(true)
}

// close has the committer finish what it has, and refuses more.
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

func (c *committer) run() {
	defer c.db.running.Done()
	var began time.Time
	timer := time.NewTimer(time.Hour)
	timer.Stop()
	for {
		select {
		case <-c.wake:
		case <-c.db.stop:
			return
		}
		for {
			// A busy committer syncs once in BatchDelay; an idle one at once.
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

// groupFull reports whether gathering should end.
func (c *committer) groupFull() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closing || c.ops >= c.db.opts.BatchOps || c.bytes >= c.db.opts.BatchBytes
}

// takeGroup takes the next group off the queue: up to BatchOps operations, and at least one batch.
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
		c.queue = nil
	} else {
		c.queue = c.queue[n:]
	}
	c.ops -= ops
	c.bytes -= bytes
	if c.bytes <= c.db.opts.QueueBytes/2 && c.queueFull.Load() != nil {
		c.queueFull.Store(nil)
		c.db.opts.Logger.Info("store: the disk has caught up, writes are taken")
	}
	return group
}

// commitGroup makes a group durable, but for the batches that refuse themselves, and tells.
func (c *committer) commitGroup(group []queuedBatch) {
	last := group[len(group)-1].ticket
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
		for _, p := range group {
			e := errQueueFull
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
	c.mu.Lock()
	before := Ticket(c.durable.Load())
	switch {
	case err != nil:
		// What is queued behind goes with it: listeners are told that all above last failed.
		last = max(last, c.lastQueued)
		c.metrics.Failed.Add(uint64(len(group) + len(c.queue)))
		c.queue, c.ops, c.bytes = nil, 0, 0
		c.queueFull.Store(nil)
		c.failLocked(group[0].first, last, err)
	default:
		for _, p := range refused {
			c.failLocked(p.first, p.last, p.err)
		}
		c.metrics.Failed.Add(uint64(len(refused) - conflicts))
		c.metrics.Conflicts.Add(uint64(conflicts))
	}
	c.applied = max(c.applied, last)
	c.durable.Store(uint64(max(last, before)))
	for _, p := range group {
		if p.batch != nil {
			p.batch.release()
		}
	}
	listeners := c.listeners
	close(c.progress)
	c.progress = make(chan struct{})
	c.mu.Unlock()
	for _, f := range listeners {
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

// errQueueFull is why a batch failed that came while too much waited for the disk.
var errQueueFull = fmt.Errorf("%w: too much waited for the disk", ErrFull)

// apply writes and syncs, and leaves all empty. Where Pebble can't write it panics, calls its logger's
// Fatalf, or waits for ever in a file of the write-ahead log (see [walGuardFS]); in each case the store has
// failed, and this group with it.
func (c *committer) apply(all *pebble.Batch) error {
	select {
	case c.toApply <- all:
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
		return err // all may still be in Pebble's hands
	}
	if all.Len() > c.db.opts.BatchBytes/4 {
		c.group = new(pebble.Batch)
	} else {
		all.Reset()
	}
	return nil
}

// applyAll gives Pebble each group that apply sends. It is a goroutine of its own so that the committer
// can tell its listeners of a failure while Pebble does not return.
func (c *committer) applyAll() {
	defer c.db.running.Done()
	for {
		select {
		case all := <-c.toApply:
			c.applyResult <- c.applyOne(all)
		case <-c.db.stop:
			return
		}
	}
}

func (c *committer) applyOne(all *pebble.Batch) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("writing: %v", r)
		}
	}()
	return c.db.pebble.Apply(all, pebble.Sync)
}

// monotonicNow is for durations only.
func monotonicNow() time.Time { return time.Now() }
