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
	b      pebble.Batch
	owner  uint64
	system bool // may write anything: this package's own
	err    error
	names  []nameChange // the rows of the directory that it changes
	key    []byte       // scratch
	val    []byte       // scratch
}

// batches are used again once they are written, but for large ones.
var batches = sync.Pool{New: func() any { return new(Batch) }}

const maxPooled = 64 << 10

func (b *Batch) release() {
	if b.b.Len()+cap(b.key)+cap(b.val) > maxPooled {
		return
	}
	b.b.Reset()
	b.owner, b.system, b.err = 0, false, nil
	clear(b.names)
	b.names = b.names[:0]
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
func (b *Batch) Len() int { return int(b.b.Count()) }

// Err returns what makes b's commit fail, if anything yet.
func (b *Batch) Err() error { return b.err }

func (b *Batch) refuse(err error) {
	if b.err == nil {
		b.err = err
	}
}

func (b *Batch) check(owner uint64) bool {
	if !b.system && owner != b.owner {
		b.refuse(fmt.Errorf("%w: row of %#x in a batch of %#x", ErrOwner, owner, b.owner))
	}
	return b.err == nil
}

func (b *Batch) set(key, value []byte) {
	if b.b.Len()+len(key)+len(value) > maxBatchBytes {
		b.refuse(fmt.Errorf("%w: a batch of more than %d bytes", ErrKey, maxBatchBytes))
		return
	}
	if err := b.b.Set(key, value, nil); err != nil {
		b.refuse(err)
	}
}

func (b *Batch) del(key []byte) {
	if err := b.b.Delete(key, nil); err != nil {
		b.refuse(err)
	}
}

func (b *Batch) delRange(from, to []byte) {
	if err := b.b.DeleteRange(from, to, nil); err != nil {
		b.refuse(err)
	}
}

func (b *Batch) setNumber(key []byte, n uint64) {
	b.set(key, binary.BigEndian.AppendUint64(nil, n))
}

// A pending is a batch on its way, with its ticket; without a batch it stands for the refused tickets
// from first to ticket, so that refusing costs no memory.
type pending struct {
	b             *Batch
	first, ticket Ticket
	since         time.Time
}

// A failedRange is tickets that were never made durable, and why.
type failedRange struct {
	from, to Ticket
	err      error
}

// maxFailed is how many ranges of failed tickets are remembered, 2 MiB of them. Neighbours with one cause are
// one range. A ticket that is asked for only after so many later failures counts as failed: see [DB.Failed].
const maxFailed = 1 << 16

// commit is the committer: a queue, and the one goroutine that empties it.
type commit struct {
	db      *DB
	metrics Metrics

	mu       sync.Mutex
	queue    []pending
	ops      int // in queue
	bytes    int
	last     Ticket // the last given
	queued   Ticket // the last queued: refused ones are not
	applied  Ticket // visible to new snapshots
	changed  chan struct{}
	closing  bool
	failures []failedRange // in the order of tickets; no two of them overlap
	// forgotten is the last ticket of the ranges that were dropped because there were more than maxFailed.
	forgotten Ticket

	durable   atomic.Uint64
	anyFailed atomic.Bool
	listeners []func(last Ticket, err error) // copied on write, under mu
	wake      chan struct{}
	all       *pebble.Batch           // the committer's own: what one group writes
	names     groupNames              // the committer's own: what one group changes in the directory
	toApply   chan *pebble.Batch      // to applyAll, one at a time
	outcome   chan error              // from applyAll: Pebble's error, or its panic
	full      atomic.Pointer[failure] // not nil: writes are refused
	slow      atomic.Pointer[failure] // not nil: they are refused because too many wait
}

// overhead is what a queued batch takes besides its writes, in bytes: Pebble begins each with a kilobyte.
const overhead = 1536

func (c *commit) init(db *DB) {
	c.db = db
	c.changed = make(chan struct{})
	c.wake = make(chan struct{}, 1)
	c.all = new(pebble.Batch)
	c.toApply = make(chan *pebble.Batch)
	c.outcome = make(chan error, 1)
}

// Commit queues b and returns its ticket, without waiting. Once the ticket is durable or has failed, the
// listeners of Notify are told.
func (db *DB) Commit(b *Batch) Ticket { return db.commitAll(b) }

// commitAll queues batches one after the other, as [DB.Commit] does, with no other between them, and returns
// the ticket of the first; each of the others has the next one. None of them is written before all are
// queued, so that they share as few syncs as may be.
func (db *DB) commitAll(list ...*Batch) (first Ticket) {
	c := &db.commit
	c.mu.Lock()
	first = c.last + 1
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
func (c *commit) queueLocked(b *Batch) {
	c.last++
	t := c.last
	if c.closing || c.db.opts.ReadOnly {
		c.failLocked(t, t, fmt.Errorf("%w: closed, or read only", ErrUnavailable))
		return
	}
	c.queued = t
	if !b.system && c.tooSlow() {
		c.refuseLocked(b, t)
		return
	}
	c.queue = append(c.queue, pending{b, t, t, monotonic()})
	c.ops += b.Len()
	c.bytes += b.b.Len() + overhead
}

// tooSlow reports whether more waits for the disk than may. Under mu.
func (c *commit) tooSlow() bool {
	if c.slow.Load() == nil && c.bytes >= c.db.opts.QueueBytes {
		err := fmt.Errorf("%w: %d MiB wait for the disk of %s", ErrFull, c.bytes>>20, c.db.opts.Dir)
		c.slow.Store(&failure{err})
		c.metrics.FullEvents.Add(1)
		c.db.opts.Logger.Error("store: writes are refused", "err", err)
	}
	return c.slow.Load() != nil
}

// refuseLocked gives t a place in the queue without its batch: it fails when those before it are settled.
func (c *commit) refuseLocked(b *Batch, t Ticket) {
	b.release()
	if n := len(c.queue); n > 0 && c.queue[n-1].b == nil {
		c.queue[n-1].ticket = t
		return
	}
	c.queue = append(c.queue, pending{nil, t, t, monotonic()})
}

// Durable returns the ticket up to which everything is durable, or has failed: see [DB.Failed].
func (db *DB) Durable() Ticket { return Ticket(db.commit.durable.Load()) }

// Last returns the last ticket that was given.
func (db *DB) Last() Ticket {
	db.commit.mu.Lock()
	defer db.commit.mu.Unlock()
	return db.commit.last
}

// Failed returns why t's batch was not written, nil if it was or still may be. It costs one load while
// nothing has ever failed, so that a ticket can be asked for long after its group was written. Of the
// failures the last maxFailed are remembered: before those, whatever is not known to be durable is said to
// have failed, as the opposite would be a false acknowledgement.
func (db *DB) Failed(t Ticket) error {
	c := &db.commit
	if t == 0 || !c.anyFailed.Load() {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if i := c.failedAfter(t); i < len(c.failures) && c.failures[i].from <= t {
		return c.failures[i].err
	}
	if t <= c.forgotten {
		return errForgotten
	}
	return nil
}

// errForgotten is the answer for a ticket from before all failures that are remembered.
var errForgotten = fmt.Errorf("%w: it is not known any more whether the batch was written", ErrUnavailable)

// failedAfter returns the index of the first failed range that does not end before t. Under mu.
func (c *commit) failedAfter(t Ticket) int {
	return sort.Search(len(c.failures), func(i int) bool { return c.failures[i].to >= t })
}

// Notify has f called once for each group of batches, on the committer's goroutine, so f must not wait: all
// tickets up to last are durable. With an error, those above last that have been given failed, and will not
// become durable although Durable passes them later.
func (db *DB) Notify(f func(last Ticket, err error)) {
	c := &db.commit
	c.mu.Lock()
	defer c.mu.Unlock()
	c.listeners = append(c.listeners[:len(c.listeners):len(c.listeners)], f)
}

// Wait blocks until t is durable or has failed, and says which. For commands, tests and workers, never a
// loop.
func (db *DB) Wait(ctx context.Context, t Ticket) error {
	c := &db.commit
	for {
		c.mu.Lock()
		changed := c.changed
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
		case <-c.db.down:
			if Ticket(c.durable.Load()) >= t {
				return db.Failed(t)
			}
			return db.Err()
		}
	}
}

// waitApplied blocks until every batch given before is visible, or has failed, or the store has: Pebble
// may then never return from a write.
func (c *commit) waitApplied() {
	c.mu.Lock()
	t := c.queued
	for c.applied < t {
		changed := c.changed
		c.mu.Unlock()
		select {
		case <-changed:
		case <-c.db.down:
			return
		}
		c.mu.Lock()
	}
	c.mu.Unlock()
}

// failLocked remembers that the tickets from from to to failed. While the store closes they may be older than
// the newest failure.
func (c *commit) failLocked(from, to Ticket, err error) {
	i := c.failedAfter(from)
	if i > 0 && c.failures[i-1].to+1 == from && c.failures[i-1].err.Error() == err.Error() {
		c.failures[i-1].to = to
	} else {
		c.failures = slices.Insert(c.failures, i, failedRange{from, to, err})
	}
	if len(c.failures) > maxFailed {
		c.forgotten = c.failures[0].to
		c.failures[0] = failedRange{}
		c.failures = c.failures[1:]
	}
	c.anyFailed.Store(true)
}

// close has the committer finish what it has, and refuses more.
func (c *commit) close() {
	c.mu.Lock()
	c.closing = true
	c.mu.Unlock()
	select {
	case c.wake <- struct{}{}:
	default:
	}
	c.waitApplied()
}

func (c *commit) run() {
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
			if wait := c.db.opts.BatchDelay - time.Since(began); wait > 0 && !c.enough() {
				timer.Reset(wait)
				for gathering := true; gathering; {
					select {
					case <-timer.C:
						gathering = false
					case <-c.wake:
						gathering = !c.enough()
					case <-c.db.stop:
						gathering = false
					}
				}
				timer.Stop()
			}
			group := c.take()
			if len(group) == 0 {
				break
			}
			began = monotonic()
			c.write(group)
		}
	}
}

// enough reports whether gathering should end.
func (c *commit) enough() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closing || c.ops >= c.db.opts.BatchOps || c.bytes >= c.db.opts.BatchBytes
}

// take takes the next group off the queue: up to BatchOps operations, and at least one batch.
func (c *commit) take() []pending {
	c.mu.Lock()
	defer c.mu.Unlock()
	n, ops, bytes := 0, 0, 0
	for n < len(c.queue) {
		k, l := 0, 0
		if b := c.queue[n].b; b != nil {
			k, l = b.Len(), b.b.Len()+overhead
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
	if c.bytes <= c.db.opts.QueueBytes/2 && c.slow.Load() != nil {
		c.slow.Store(nil)
		c.db.opts.Logger.Info("store: the disk has caught up, writes are taken")
	}
	return group
}

// write makes a group durable, but for the batches that refuse themselves, and tells.
func (c *commit) write(group []pending) {
	last := group[len(group)-1].ticket
	err := c.db.Err()
	if err == nil {
		if f := c.full.Load(); f != nil {
			err = f.err
		}
	}
	if err == nil {
		err = c.db.fault(true)
	}
	var refused []failedRange
	conflicts := 0
	if err == nil {
		for _, p := range group {
			e := errQueue
			if p.b != nil {
				if e = p.b.err; e == nil {
					e = c.names.allow(c.db, p.b)
				}
				if e == nil {
					e = c.all.Apply(&p.b.b, nil)
				}
				if e == nil {
					c.names.changed(p.b)
				}
			}
			if e != nil {
				refused = append(refused, failedRange{p.first, p.ticket, e})
			}
			if e == errTaken || e == errGone || e == errChanged {
				conflicts++
			}
		}
		c.names.reset()
		ops := int(c.all.Count())
		if ops > 0 {
			err = c.apply(c.all)
		}
		if err == nil {
			c.metrics.Groups.Add(1)
			c.metrics.Batches.Add(uint64(len(group) - len(refused)))
			c.metrics.Ops.Add(uint64(ops))
			c.metrics.Latency.observe(monotonic().Sub(group[0].since))
		}
	}
	c.mu.Lock()
	before := Ticket(c.durable.Load())
	switch {
	case err != nil:
		// What is queued behind goes with it: listeners are told that all above last failed.
		last = max(last, c.queued)
		c.metrics.Failed.Add(uint64(len(group) + len(c.queue)))
		c.queue, c.ops, c.bytes = nil, 0, 0
		c.slow.Store(nil)
		c.failLocked(group[0].first, last, err)
	default:
		for _, p := range refused {
			c.failLocked(p.from, p.to, p.err)
		}
		c.metrics.Failed.Add(uint64(len(refused) - conflicts))
		c.metrics.Conflicts.Add(uint64(conflicts))
	}
	c.applied = max(c.applied, last)
	c.durable.Store(uint64(max(last, before)))
	for _, p := range group {
		if p.b != nil {
			p.b.release()
		}
	}
	listeners := c.listeners
	close(c.changed)
	c.changed = make(chan struct{})
	c.mu.Unlock()
	for _, f := range listeners {
		switch {
		case err != nil:
			f(before, err)
		case len(refused) > 0:
			f(refused[0].from-1, refused[0].err)
			f(last, nil)
		default:
			f(last, nil)
		}
	}
}

// errQueue is why a batch failed that came while too much waited for the disk.
var errQueue = fmt.Errorf("%w: too much waited for the disk", ErrFull)

// apply writes and syncs, and leaves all empty. Where Pebble can't write it panics, calls its logger's
// Fatalf, or waits for ever in a file of the write-ahead log (see [heldFS]); in each case the store has
// failed, and this group with it.
func (c *commit) apply(all *pebble.Batch) error {
	select {
	case c.toApply <- all:
	case <-c.db.down:
		return c.db.Err()
	}
	select {
	case err := <-c.outcome:
		if err != nil {
			c.db.fail(err)
		}
	case <-c.db.down:
	}
	if err := c.db.Err(); err != nil {
		return err // all may still be in Pebble's hands
	}
	if all.Len() > c.db.opts.BatchBytes/4 {
		c.all = new(pebble.Batch)
	} else {
		all.Reset()
	}
	return nil
}

// applyAll gives Pebble each group that apply sends. It is a goroutine of its own so that the committer
// can tell its listeners of a failure while Pebble does not return.
func (c *commit) applyAll() {
	defer c.db.running.Done()
	for {
		select {
		case all := <-c.toApply:
			c.outcome <- c.applyOne(all)
		case <-c.db.stop:
			return
		}
	}
}

func (c *commit) applyOne(all *pebble.Batch) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("writing: %v", r)
		}
	}()
	return c.db.peb.Apply(all, pebble.Sync)
}

// monotonic is for durations only.
func monotonic() time.Time { return time.Now() }
