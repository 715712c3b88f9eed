package store

import (
	"fmt"
	"sync"
	"sync/atomic"
)

// A Lease reserves numbers durably before the first of them is used: ids are drawn below Until, and
// after a restart above Floor. So no id is given twice, whatever the clock does and whenever the
// process dies. Any goroutine.
//
//  1. A generator draws ids below Until.
//  2. Before it gets there, it calls Extend, which commits a later end and does not wait.
//  3. When that is durable, Until returns the later end. If the generator is faster than the disk,
//     it has no id until then.
type Lease struct {
	db           *DB
	key          []byte        // the store key of the stored end
	floor        uint64        // the stored end when the lease was opened
	until        atomic.Uint64 // the durable end
	firstPending atomic.Uint64 // the ticket of extensions[0]; 0: there is none
	mu           sync.Mutex    // guards requested and extensions
	requested    uint64        // the latest end that was asked for
	extensions   []extension   // ends that are not settled yet, in the order of tickets
	once         sync.Once     // for value
	value        any           // see Value
}

// An extension is an end that was committed with a ticket.
type extension struct {
	ticket Ticket
	until  uint64
}

// Lease returns the lease of a name. There is one for each name and store: a second call returns
// the same. The first call reads from the disk.
func (db *DB) Lease(name string) (*Lease, error) {
	db.leasesMu.Lock()
	defer db.leasesMu.Unlock()
	if l := db.leases[name]; l != nil {
		return l, nil
	}
	key := []byte(prefixLease + name)
	n, _, err := db.systemNumber(key)
	if err != nil {
		return nil, fmt.Errorf("store: lease %q: %w", name, err)
	}
	l := db.newLease(key, n, n)
	if db.leases == nil {
		db.leases = make(map[string]*Lease)
	}
	db.leases[name] = l
	return l, nil
}

// newLease returns the lease whose end is stored under key: numbers from floor to until are
// reserved.
func (db *DB) newLease(key []byte, floor, until uint64) *Lease {
	l := &Lease{db: db, key: key, floor: floor, requested: until}
	l.until.Store(until)
	db.OnCommit(func(Ticket, error) { l.applyDurable() })
	return l
}

// Value returns the result of the first make that was given to it. A module keeps state here that
// must live as long as the lease, such as the last id drawn, also while the module is unloaded and
// loaded again.
func (l *Lease) Value(make func() any) any {
	l.once.Do(func() { l.value = make() })
	return l.value
}

// Floor returns the end of the lease of the starts before: ids below it may have been given then.
func (l *Lease) Floor() uint64 { return l.floor }

// Until returns the durable end: ids below it may be given. It asks the store by itself whether an
// extension has become durable, as [DB.Wait] may return before the commit callbacks of its ticket
// have run.
func (l *Lease) Until() uint64 {
	if t := Ticket(l.firstPending.Load()); t != 0 && t <= l.db.Durable() {
		l.applyDurable()
	}
	return l.until.Load()
}

// Extend commits a later end and returns its ticket; it does not wait: loops may call it. Until
// grows when the ticket is durable. If until is not later than what was asked for before, nothing
// is committed and the ticket is 0.
func (l *Lease) Extend(until uint64) Ticket {
	l.mu.Lock()
	defer l.mu.Unlock()
	if until <= l.requested {
		return 0
	}
	b := l.db.systemBatch()
	b.setNumber(l.key, until)
	t := l.db.Commit(b)
	l.requested = until
	l.extensions = append(l.extensions, extension{t, until})
	l.firstPending.Store(uint64(l.extensions[0].ticket))
	return t
}

// lastPending returns the ticket of the last extension that is not settled yet; 0 if there is none.
func (l *Lease) lastPending() Ticket {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := len(l.extensions); n > 0 {
		return l.extensions[n-1].ticket
	}
	return 0
}

// applyDurable takes over the extensions that are settled. After a failure the same end may be
// asked for again. It is the lease's commit callback.
func (l *Lease) applyDurable() {
	l.mu.Lock()
	defer l.mu.Unlock()
	durable := l.db.Durable()
	for len(l.extensions) > 0 && l.extensions[0].ticket <= durable {
		if l.db.Failed(l.extensions[0].ticket) == nil {
			l.until.Store(l.extensions[0].until)
		}
		l.extensions = l.extensions[1:]
	}
	if len(l.extensions) == 0 {
		l.requested = l.until.Load() // so that an end that failed is not taken for one that was asked for
	}
	l.firstPending.Store(0)
	if len(l.extensions) > 0 {
		l.firstPending.Store(uint64(l.extensions[0].ticket))
	}
}
