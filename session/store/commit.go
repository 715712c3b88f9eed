package store

import (
	"fmt"
	"time"

	"github.com/cockroachdb/pebble/v2"
)

// A Batch is rows of one owner, written together or not at all. Not safe for two goroutines; after
// Commit it is the store's.
type Batch struct {
	owner uint64
	b     *pebble.Batch
	err   error
}

// NewBatch begins one for the rows of owner, an account's id.
func (db *DB) NewBatch(owner uint64) *Batch { return &Batch{owner: owner, b: db.p.NewBatch()} }

// Put writes a row.
func (b *Batch) Put(t Table, key string, value []byte) {
	b.set(t, b.owner, key, value)
}

func (b *Batch) set(t Table, owner uint64, key string, value []byte) {
	if owner != b.owner {
		b.err = fmt.Errorf("store: a batch of owner %x takes no row of %x", b.owner, owner)
		return
	}
	k := t.key(owner, key)
	d := b.b.SetDeferred(len(k), len(value)+1)
	copy(d.Key, k)
	d.Value[0] = t.version
	copy(d.Value[1:], value)
	if err := d.Finish(); err != nil {
		b.err = err
	}
}

// Delete removes a row.
func (b *Batch) Delete(t Table, key string) {
	if err := b.b.Delete(t.key(b.owner, key), nil); err != nil {
		b.err = err
	}
}

// DeleteAll removes the owner's rows from key from on, up to key to; to "": to the last.
func (b *Batch) DeleteAll(t Table, from, to string) {
	end := t.key(b.owner, to)
	if to == "" {
		end = t.end(b.owner)
	}
	if err := b.b.DeleteRange(t.key(b.owner, from), end, nil); err != nil {
		b.err = err
	}
}

// Commit gives b to the store and returns its ticket. Any goroutine; it never waits for the disk.
func (db *DB) Commit(b *Batch) uint64 {
	db.mu.Lock()
	db.next++
	t := db.next
	if db.closed {
		b.err = ErrClosed
		db.fail(t, ErrClosed)
		db.last.Store(t)
		db.told = t
		db.mu.Unlock()
		return t
	}
	db.queue = append(db.queue, b)
	db.mu.Unlock()
	db.poke()
	return t
}

// Durable is the last ticket that is settled: it and all before it are durable or have failed.
func (db *DB) Durable() uint64 { return db.last.Load() }

// Given is the last ticket that was given out.
func (db *DB) Given() uint64 {
	db.mu.Lock()
	defer db.mu.Unlock()
	return db.next
}

// Err is why a settled ticket failed; nil: it is durable.
func (db *DB) Err(t uint64) error {
	db.mu.Lock()
	defer db.mu.Unlock()
	return db.failed[t]
}

// Notify has f called whenever tickets were settled, on the committer's goroutine.
func (db *DB) Notify(f func()) {
	db.mu.Lock()
	db.notify = append(db.notify, f)
	db.mu.Unlock()
}

// Await blocks until t is settled and returns its error.
func (db *DB) Await(t uint64) error {
	for {
		db.mu.Lock()
		ch, told := db.settled, db.told
		db.mu.Unlock()
		if told >= t {
			return db.Err(t)
		}
		<-ch
	}
}

// maxBatch is how many of Commit's batches become one of Pebble's.
const maxBatch = 4096

// commitLoop makes batches durable: whatever has come while one was synced is the next.
func (db *DB) commitLoop() {
	defer close(db.done)
	for {
		<-db.wake
		for {
			db.mu.Lock()
			n := min(len(db.queue), maxBatch)
			work := db.queue[:n:n]
			db.queue = db.queue[n:]
			if len(db.queue) == 0 {
				db.queue = nil
			}
			closed := db.closed
			db.mu.Unlock()
			if n == 0 {
				if closed {
					return
				}
				break
			}
			db.write(work)
		}
	}
}

func (db *DB) write(work []*Batch) {
	start := time.Now()
	first := db.last.Load() + 1
	refused := db.lowSpace(start)
	big := db.p.NewBatch()
	errs := make(map[uint64]error)
	for i, b := range work {
		err := b.err
		if err == nil {
			err = refused
		}
		if err == nil {
			err = big.Apply(b.b, nil)
		}
		if err != nil {
			errs[first+uint64(i)] = err
		}
		db.ops.Add(uint64(b.b.Count()))
		b.b.Close()
	}
	if big.Count() > 0 {
		if err := big.Commit(pebble.Sync); err != nil {
			for i := range work {
				errs[first+uint64(i)] = err
			}
		}
	} else {
		big.Close()
	}
	db.batches.Add(1)
	db.measure(time.Since(start))
	db.mu.Lock()
	for t, err := range errs {
		db.fail(t, err)
	}
	db.last.Store(first + uint64(len(work)) - 1)
	notify := db.notify
	db.mu.Unlock()
	for _, f := range notify {
		f()
	}
	// Whoever waits comes after whoever was told.
	db.mu.Lock()
	db.told = db.last.Load()
	close(db.settled)
	db.settled = make(chan struct{})
	db.mu.Unlock()
}

// rememberFailed is how many failed tickets are remembered; who waits for one asks at once.
const rememberFailed = 1 << 16

func (db *DB) fail(t uint64, err error) {
	if len(db.failed) >= rememberFailed {
		for old := range db.failed {
			if old+rememberFailed < t {
				delete(db.failed, old)
			}
		}
	}
	db.failed[t] = err
}

// lowSpace looks at the disk once a second.
func (db *DB) lowSpace(now time.Time) error {
	if now.Sub(db.lastLook) > time.Second {
		db.lastLook = now
		if n, err := db.free(); err == nil {
			low := n < MinFree
			if low != db.low.Swap(low) {
				if low {
					db.opt.Log.Error("too little disk space; writes are refused", "free", n, "needed", MinFree)
				} else {
					db.opt.Log.Info("there is disk space again; writes are taken")
					db.ballast()
				}
			}
		}
	}
	if db.low.Load() {
		return ErrFull
	}
	return nil
}
