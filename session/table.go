package session

import (
	"sync"
	"sync/atomic"

	"canto/session/jid"
)

const shards = 256

// A Table is the one of the process: address -> *Entity, in 256 shards by slot, and domain -> *Host. It knows the
// entities that live here; that a recipient lives here, nothing outside this package may assume.
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
	entities entities
	absent   map[jid.JID]struct{} // bounded: addresses known to have nothing
	births   uint32               // entities made: what was read before one is not remembered as absence
	kicks    uint32               // accounts kicked: who was let in before one does not bind behind it
}

// absentPerShard bounds what is remembered of addresses without an entity: 65,536 in all.
const absentPerShard = 256

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

// AddHost has t serve hs; false: a domain is served already, or was served in the other role, with or without logins,
// since the process began, and nothing is added. A domain that was removed before gets its old Host back, with the
// profile and certificate of the new one, as entities and sessions that are still in memory point to it: [Table.Host]
// says which one is served. Any goroutine.
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
		if was, ok := t.gone[h.Name]; ok && was.service != h.service {
			return false // what is in memory of it is of the other role
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

// entity is what is at addr, made cold for an address not known to have nothing; false for one that is known so, on
// a host where users log in. On a service host, where a stanza may make an entity, there is one always. It may have
// left the table when its lock is taken: see Table.lock. Any goroutine.
func (t *Table) entity(h *Host, addr jid.JID) (*Entity, bool) {
	s := t.shard(addr)
	s.mu.RLock()
	e := s.entities.get(addr)
	if e != nil {
		s.mu.RUnlock()
		return e, true
	}
	_, absent := s.absent[addr]
	s.mu.RUnlock()
	if absent && !h.service {
		return nil, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if e = s.entities.get(addr); e == nil {
		if h.service {
			e = &Entity{host: h, addr: addr}
			if absent {
				e.resident = &h.Profile().absent
			}
		} else {
			a := &Account{Entity: Entity{host: h, addr: addr, kind: Accounts}}
			a.live, e = a, &a.Entity
		}
		s.entities.add(e)
		t.size.Add(1)
	}
	return e, true
}

// Loaded is the account of a bare JID if it is in the table. Any goroutine.
func (t *Table) Loaded(bare jid.JID) (*Account, bool) {
	if e := t.Found(bare); e != nil {
		a := e.account()
		return a, a != nil
	}
	return nil, false
}

// Found is what is at addr if it is in the table; nil if it is not. Any goroutine.
func (t *Table) Found(addr jid.JID) *Entity {
	s := t.shard(addr)
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.entities.get(addr)
}

// Born forgets that there was nothing at addr: an entity was made. Any goroutine.
func (t *Table) Born(addr jid.JID) {
	s := t.shard(addr)
	s.mu.Lock()
	delete(s.absent, addr)
	s.births++
	s.mu.Unlock()
}

// births counts the entities made in the shard of bare.
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

// drop takes e out of the table, under its lock; absent: it is remembered as an address with nothing, unless
// something was made since births was read.
func (t *Table) drop(e *Entity, absent bool, births uint32) {
	s := t.shard(e.addr)
	s.mu.Lock()
	if s.entities.remove(e) {
		t.size.Add(-1)
	}
	if absent && births == s.births {
		if len(s.absent) >= absentPerShard || s.absent == nil {
			s.absent = make(map[jid.JID]struct{})
		}
		s.absent[e.addr] = struct{}{}
	}
	s.mu.Unlock()
	e.resident = goneMark
}

// Len is the number of entities in memory. Any goroutine.
func (t *Table) Len() int { return int(t.size.Load()) }

// Accounts are those of one shard at this moment, for counting. Any goroutine.
func (t *Table) Accounts(shardIndex int, dst []*Account) []*Account {
	for _, e := range t.Entities(shardIndex, nil) {
		if a := e.account(); a != nil {
			dst = append(dst, a)
		}
	}
	return dst
}

// Entities are those of one shard at this moment, of any kind. Any goroutine.
func (t *Table) Entities(shardIndex int, dst []*Entity) []*Entity {
	s := &t.shards[shardIndex%shards]
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, e := range s.entities.slots {
		if e != nil {
			dst = append(dst, e)
		}
	}
	return dst
}
