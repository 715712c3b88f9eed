package store

import (
	"fmt"
	"sync"
	"sync/atomic"
)

// A Lease is a number that is promised durably before it is used: ids are drawn below Until, and after a
// restart above Floor, so that none is ever given twice whatever the clock does. Any goroutine.
type Lease struct {
	db           *DB
	key          []byte
	floor        uint64
	until        atomic.Uint64
	firstPending atomic.Uint64 // the ticket of wait[0]; 0: none waits
	mu           sync.Mutex
	requested    uint64
	extensions   []extension
	once         sync.Once
	value        any
}

type extension struct {
	ticket Ticket
	until  uint64
}

// Lease returns the lease of a name: one for each name and store, whoever asks.
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

// newLease returns the lease that is stored under key: from floor to until, which is durable.
func (db *DB) newLease(key []byte, floor, until uint64) *Lease {
	l := &Lease{db: db, key: key, floor: floor, requested: until}
	l.until.Store(until)
	db.OnCommit(func(Ticket, error) { l.applyDurable() })
	return l
}

// Value returns what make returned the first time: state that must live as long as the lease, such as the
// last number drawn, whichever modules are loaded meanwhile.
func (l *Lease) Value(make func() any) any {
	l.once.Do(func() { l.value = make() })
	return l.value
}

// Floor returns the end of the last lease of earlier starts: ids below it may have been given.
func (l *Lease) Floor() uint64 { return l.floor }

// Until returns the end of the lease that is durable: ids below it may be given. It looks itself for what
// has become durable, as [DB.Wait] may return before the listeners of that ticket are told.
func (l *Lease) Until() uint64 {
	if t := Ticket(l.firstPending.Load()); t != 0 && t <= l.db.Durable() {
		l.applyDurable()
	}
	return l.until.Load()
}

// Extend asks for a later end, without waiting. Until follows when it is durable. An earlier end than
// asked for before changes nothing.
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

// lastPending returns the ticket of the last extension that is not settled yet; 0: there is none.
func (l *Lease) lastPending() Ticket {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := len(l.extensions); n > 0 {
		return l.extensions[n-1].ticket
	}
	return 0
}

// applyDurable takes over the extensions that have become durable or have failed.
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
		l.requested = l.until.Load() // what has failed may be asked for again
	}
	l.firstPending.Store(0)
	if len(l.extensions) > 0 {
		l.firstPending.Store(uint64(l.extensions[0].ticket))
	}
}
