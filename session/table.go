package session

import (
	"sync"
	"sync/atomic"

	"canto/session/jid"
)

const shards = 256

// A Table is the one of the process: bare JID -> *Account, in 256 shards by slot, and domain ->
// *Host. It knows the accounts that live here; that a recipient has an account or a session here,
// nothing outside this package may assume.
type Table struct {
	shards [shards]shard
	hosts  atomic.Pointer[map[string]*Host]
	hostMu sync.Mutex
	gone   map[string]*Host // removed hosts: one that is added again is the same Host
	nextID uint32
	size   atomic.Int64
}

type shard struct {
	mu       sync.RWMutex
	accounts accounts
	nobody   map[jid.JID]struct{} // bounded: addresses known to have no account
	births   uint32               // accounts made: what was read before one is not remembered as nobody
	kicks    uint32               // accounts kicked: who was let in before one does not bind behind it
}

// nobodyPerShard bounds what is remembered of addresses without an account: 65,536 in all.
const nobodyPerShard = 256

// NewTable makes an empty one.
func NewTable() *Table {
	t := new(Table)
	t.hosts.Store(&map[string]*Host{})
	return t
}

// Host is the host that serves domain. Any goroutine.
func (t *Table) Host(domain string) (*Host, bool) {
	h, ok := (*t.hosts.Load())[domain]
	return h, ok
}

// Hosts are all of them. The map is not to be changed. Any goroutine.
func (t *Table) Hosts() map[string]*Host { return *t.hosts.Load() }

// AddHost has t serve hs; false: a domain is served already, and nothing is added. A domain that was removed before gets its old Host
// back, with the profile and certificate of the new one, as accounts and sessions that are still in memory point
// to it: [Table.Host] says which one is served. Any goroutine.
func (t *Table) AddHost(hs ...*Host) bool {
	t.hostMu.Lock()
	defer t.hostMu.Unlock()
	old := *t.hosts.Load()
	m := make(map[string]*Host, len(old)+len(hs))
	for k, v := range old {
		m[k] = v
	}
	for _, h := range hs {
		if _, taken := m[h.Name]; taken {
			return false
		}
		m[h.Name] = h
	}
	for _, h := range hs {
		if was, ok := t.gone[h.Name]; ok {
			delete(t.gone, h.Name)
			was.renew(h)
			m[h.Name] = was
			continue
		}
		t.nextID++
		h.ID = t.nextID
	}
	t.hosts.Store(&m)
	return true
}

// RemoveHost ends the service of a domain; its streams are the caller's to close. Any goroutine.
func (t *Table) RemoveHost(domain string) (*Host, bool) {
	t.hostMu.Lock()
	defer t.hostMu.Unlock()
	old := *t.hosts.Load()
	h, ok := old[domain]
	if !ok {
		return nil, false
	}
	m := make(map[string]*Host, len(old))
	for k, v := range old {
		if k != domain {
			m[k] = v
		}
	}
	if t.gone == nil {
		t.gone = make(map[string]*Host)
	}
	t.gone[domain] = h
	t.hosts.Store(&m)
	return h, true
}

func (t *Table) shard(bare jid.JID) *shard { return &t.shards[bare.Slot()%shards] }

// Account is the account of a bare JID, made cold for an address not known to be nobody's; false for
// one that is. It may have left the table when its lock is taken: see Local.lockAccount. Any
// goroutine.
func (t *Table) Account(h *Host, bare jid.JID) (*Account, bool) {
	s := t.shard(bare)
	s.mu.RLock()
	a := s.accounts.get(bare)
	if a != nil {
		s.mu.RUnlock()
		return a, true
	}
	_, nobody := s.nobody[bare]
	s.mu.RUnlock()
	if nobody {
		return nil, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if a = s.accounts.get(bare); a == nil {
		a = &Account{bare: bare, Entity: Entity{host: h}}
		s.accounts.add(a)
		t.size.Add(1)
	}
	return a, true
}

// Loaded is the account of a bare JID if it is in the table. Any goroutine.
func (t *Table) Loaded(bare jid.JID) (*Account, bool) {
	s := t.shard(bare)
	s.mu.RLock()
	a := s.accounts.get(bare)
	s.mu.RUnlock()
	return a, a != nil
}

// Born forgets that bare was nobody's: an account was made. Any goroutine.
func (t *Table) Born(bare jid.JID) {
	s := t.shard(bare)
	s.mu.Lock()
	delete(s.nobody, bare)
	s.births++
	s.mu.Unlock()
}

// births counts the accounts made in the shard of bare.
func (t *Table) births(bare jid.JID) uint32 {
	s := t.shard(bare)
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.births
}

// kicked counts a kick of bare.
func (t *Table) kicked(bare jid.JID) {
	s := t.shard(bare)
	s.mu.Lock()
	s.kicks++
	s.mu.Unlock()
}

// kicks counts the kicks of accounts in the shard of bare.
func (t *Table) kicks(bare jid.JID) uint32 {
	s := t.shard(bare)
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.kicks
}

// drop takes a out of the table, under its lock; nobody: it is remembered as having no account,
// unless one was made since births was read.
func (t *Table) drop(a *Account, nobody bool, births uint32) {
	s := t.shard(a.bare)
	s.mu.Lock()
	if s.accounts.remove(a) {
		t.size.Add(-1)
	}
	if nobody && births == s.births {
		if len(s.nobody) >= nobodyPerShard || s.nobody == nil {
			s.nobody = make(map[jid.JID]struct{})
		}
		s.nobody[a.bare] = struct{}{}
	}
	s.mu.Unlock()
	a.resident = goneMark
}

// Len is the number of accounts in memory. Any goroutine.
func (t *Table) Len() int { return int(t.size.Load()) }

// Accounts are those of one shard at this moment, for counting and sweeping. Any goroutine.
func (t *Table) Accounts(shardIndex int, dst []*Account) []*Account {
	s := &t.shards[shardIndex%shards]
	s.mu.RLock()
	for _, a := range s.accounts.slots {
		if a != nil {
			dst = append(dst, a)
		}
	}
	s.mu.RUnlock()
	return dst
}
