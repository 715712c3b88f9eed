package fast

import (
	"context"
	"sync"

	"canto/session"
	"canto/session/store"
)

// maxClients is how many user agents an account has; beyond it the one that has not logged in for the longest
// time goes, with its tokens.
const maxClients = 32

// stripes is how many accounts can be read and changed at a time.
const stripes = 16

// A book reads and changes the rows of the accounts of one host, for workers. Changes of one account come one
// after the other, and each sees the one before it, although no change waits until it is durable: what is not
// durable yet is in memory. Any goroutine but a loop.
type book struct{ at [stripes]stripe }

// books has the book of each host.
var books = session.NewHostVar("fast", func(*session.Host) *book { return new(book) })

// A stripe has the accounts whose id has the same remainder.
type stripe struct {
	mu      sync.Mutex // also held while a row is read
	written map[rowKey]written
}

// A rowKey names a row.
type rowKey struct {
	owner uint64
	agent session.AgentID
}

// A written is a row that is not durable yet.
type written struct {
	row    client
	erased bool
	ticket store.Ticket
}

// lock returns the stripe of an account, locked and without what is durable.
func (b *book) lock(db *store.DB, owner uint64) *stripe {
	s := &b.at[owner%stripes]
	s.mu.Lock()
	durable := uint64(db.Durable())
	for k, w := range s.written {
		if uint64(w.ticket) <= durable {
			delete(s.written, k)
		}
	}
	return s
}

// note keeps a row until it is durable.
func (s *stripe) note(k rowKey, w written) {
	if s.written == nil {
		s.written = make(map[rowKey]written)
	}
	s.written[k] = w
}

// read returns a row. The caller has locked s.
func (s *stripe) read(db *store.DB, table *store.Map[string, client], k rowKey) (c client, found bool,
	err error) {
	if w, ok := s.written[k]; ok {
		return w.row, !w.erased, nil
	}
	return table.Get(db, k.owner, string(k.agent[:]))
}

// update reads a row, and lets change change it; found is false if there is none yet. If change returns true
// the row is written; update does not wait for that. If it is a new one, and the account has maxClients, the
// oldest is erased. The error is of the store.
func (b *book) update(db *store.DB, table *store.Map[string, client], k rowKey,
	change func(c *client, found bool) (write bool)) (t store.Ticket, err error) {
	s := b.lock(db, k.owner)
	defer s.mu.Unlock()
	c, found, err := s.read(db, table, k)
	if err != nil || !change(&c, found) {
		return 0, err
	}
	if err := db.Full(); err != nil {
		return 0, err
	}
	batch := db.NewBatch(k.owner)
	var old session.AgentID
	if !found {
		if old, err = s.oldest(db, table, k.owner); err != nil {
			return 0, err
		}
		if old != (session.AgentID{}) {
			table.Delete(batch, k.owner, string(old[:]))
		}
	}
	table.Put(batch, k.owner, string(k.agent[:]), c)
	t = db.Commit(batch)
	s.note(k, written{row: c, ticket: t})
	if old != (session.AgentID{}) {
		s.note(rowKey{k.owner, old}, written{erased: true, ticket: t})
	}
	return t, nil
}

// oldest returns the user agent that has to go for a new one; zero if there is space. The caller has locked
// s.
func (s *stripe) oldest(db *store.DB, table *store.Map[string, client], owner uint64) (id session.AgentID,
	err error) {
	seen := make(map[session.AgentID]int64)
	err = table.Scan(db, owner, "", func(key string, c client) bool {
		seen[agentOf(key)] = c.seen
		return true
	})
	for k, w := range s.written {
		switch {
		case k.owner != owner:
		case w.erased:
			delete(seen, k.agent)
		default:
			seen[k.agent] = w.row.seen
		}
	}
	if err != nil || len(seen) < maxClients {
		return id, err
	}
	for k, at := range seen {
		if id == (session.AgentID{}) || at < seen[id] || at == seen[id] && k.String() < id.String() {
			id = k
		}
	}
	return id, nil
}

// erase erases the rows of an account for which which returns true, and waits until that is durable. It
// returns how many there were.
func (b *book) erase(ctx context.Context, db *store.DB, table *store.Map[string, client], owner uint64,
	which func(id session.AgentID) bool) (n int, err error) {
	s := b.lock(db, owner)
	var gone []session.AgentID
	err = table.Scan(db, owner, "", func(key string, _ client) bool {
		if id := agentOf(key); which(id) {
			gone = append(gone, id)
		}
		return true
	})
	for k, w := range s.written {
		if k.owner == owner && !w.erased && which(k.agent) {
			gone = append(gone, k.agent)
		}
	}
	if err != nil || len(gone) == 0 {
		s.mu.Unlock()
		return 0, err
	}
	batch := db.NewBatch(owner)
	for _, id := range gone {
		table.Delete(batch, owner, string(id[:]))
	}
	t := db.Commit(batch)
	distinct := make(map[session.AgentID]bool)
	for _, id := range gone {
		distinct[id] = true
		s.note(rowKey{owner, id}, written{erased: true, ticket: t})
	}
	s.mu.Unlock()
	return len(distinct), db.Wait(context.WithoutCancel(ctx), t)
}

// Revoke erases the user agents of an account, with their tokens: that with the id, or all of them for the
// zero id. h is the host of the account in a running server, nil in a command without one. It waits until
// that is durable, and returns how many there were.
func Revoke(ctx context.Context, db *store.DB, h *session.Host, owner uint64, id session.AgentID) (n int,
	err error) {
	table, err := store.MapOf(db.Tables(), rows)
	if err != nil {
		return 0, err
	}
	b := new(book)
	if h != nil {
		b = books.Get(h)
	}
	return b.erase(ctx, db, table, owner, func(x session.AgentID) bool {
		return id == (session.AgentID{}) || x == id
	})
}
