package session

import (
	"crypto/tls"
	"hash/maphash"
	"sync"
	"sync/atomic"

	"canto/session/jid"
)

// A Host is one served domain: at most 256 bytes, so that ten thousand idle ones are nothing. Its
// fields never change but through the pointers.
type Host struct {
	Name string
	ID   uint32  // order of appearance in this process
	JID  jid.JID // of the domain

	service bool // users do not log in: its bare domain is an entity, and what is at it is made by stanzas
	profile atomic.Pointer[Profile]
	// nil, or without a certificate: it is to be read
	cert        atomic.Pointer[hostCertificate]
	loadCert    atomic.Pointer[func() (*tls.Certificate, error)] // nil: the default certificate
	vars        atomic.Pointer[[]any]
	connections atomic.Int32
}

// A hostCertificate is a state of a host's certificate: each drop makes another one.
type hostCertificate struct{ cert *tls.Certificate }

// A Table is the one of the process: address -> *Entity, in 256 shards by slot, and domain -> *Host. It
// knows the entities that live here; that a recipient lives here, nothing outside this package may
// assume.
type Table struct {
	shards       [shards]shard
	hosts        atomic.Pointer[map[string]*Host]
	hostMu       sync.Mutex
	removedHosts map[string]*Host // removed hosts: one that is added again is the same Host
	nextID       uint32
	size         atomic.Int64
}

const shards = 256

type shard struct {
	mu              sync.RWMutex
	entities        entityMap
	negativeCache   map[jid.JID]struct{} // bounded: addresses known to have nothing
	creationEpoch   uint32               // entities made: what was read before one is not remembered as absence
	revocationEpoch uint32               // accounts kicked: a login that began before one does not bind after it
}

// negativePerShard bounds what is remembered of addresses without an entity: 65,536 in all.
const negativePerShard = 256

// NewTable makes an empty one.
func NewTable() *Table {
	t := new(Table)
	t.hosts.Store(&map[string]*Host{})
	return t
}

// entityMap is a set of Entities by address: open addressing over pointers, as the key is in what they
// point to. A map with the JID as its key costs four times as much. Under the shard's lock.
type entityMap struct {
	cells []*Entity // of a power of two; at most three quarters are taken
	tags  []uint16  // of the hashes, so that few others are looked at
	n     int
}

// hashSeed is secret: a user who chooses addresses can't choose in which slots they go.
var hashSeed = maphash.MakeSeed()

const minEntityCells = 8

func hashAddr(addr jid.JID) uint64 { return maphash.String(hashSeed, addr.String()) }

// Host is the host that serves domain. Any goroutine.
func (t *Table) Host(domain string) (*Host, bool) {
	h, ok := (*t.hosts.Load())[domain]
	return h, ok
}

// Hosts are all of them. The map is not to be changed. Any goroutine.
func (t *Table) Hosts() map[string]*Host { return *t.hosts.Load() }

// AddHost has t serve hs; false: a domain is served already, or was served in the other role, with or
// without logins, since the process began, and nothing is added. A domain that was removed before gets
// its old Host back, with the profile and certificate of the new one, as entities and sessions that are
// still in memory point to it: [Table.Host] says which one is served. Any goroutine.
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
		if was, ok := t.removedHosts[h.Name]; ok && was.service != h.service {
			return false // what is in memory of it is of the other role
		}
		m[h.Name] = h
	}
	for _, h := range hs {
		if was, ok := t.removedHosts[h.Name]; ok {
			delete(t.removedHosts, h.Name)
			was.adopt(h)
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
	if t.removedHosts == nil {
		t.removedHosts = make(map[string]*Host)
	}
	t.removedHosts[domain] = h
	t.hosts.Store(&m)
	return h, true
}

func (t *Table) shard(bare jid.JID) *shard { return &t.shards[bare.Partition()%shards] }

// getOrCreate is what is at addr, made cold for an address not known to have nothing; false for one that is
// known so, on a host where users log in. On a service host, where a stanza may make an entity, there is
// one for as long as the host is served. It may have left the table when its lock is taken: see
// Table.lockEntity. Any goroutine.
func (t *Table) getOrCreate(h *Host, addr jid.JID) (*Entity, bool) {
	s := t.shard(addr)
	s.mu.RLock()
	e := s.entities.get(addr)
	if e != nil {
		s.mu.RUnlock()
		return e, true
	}
	_, absent := s.negativeCache[addr]
	s.mu.RUnlock()
	if absent && !h.service {
		return nil, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if e = s.entities.get(addr); e == nil {
		if h.service {
			if now, ok := t.Host(h.Name); !ok || now != h {
				return nil, false // it was taken away meanwhile
			}
			e = &Entity{host: h, addr: addr}
			if absent {
				e.resident = &h.Profile().absentSet
			}
		} else {
			a := &Account{Entity: Entity{host: h, addr: addr, kind: KindAccount}}
			a.live, e = a, &a.Entity
		}
		s.entities.add(e)
		t.size.Add(1)
	}
	return e, true
}

// LookupAccount is the account of a bare JID if it is in the table. Any goroutine.
func (t *Table) LookupAccount(bare jid.JID) (*Account, bool) {
	if e := t.Lookup(bare); e != nil {
		a := e.account()
		return a, a != nil
	}
	return nil, false
}

// Lookup is what is at addr if it is in the table; nil if it is not. Any goroutine.
func (t *Table) Lookup(addr jid.JID) *Entity {
	s := t.shard(addr)
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.entities.get(addr)
}

// NoteCreated forgets that there was nothing at addr: an entity was made. Any goroutine.
func (t *Table) NoteCreated(addr jid.JID) {
	s := t.shard(addr)
	s.mu.Lock()
	delete(s.negativeCache, addr)
	s.creationEpoch++
	s.mu.Unlock()
}

// creationEpoch counts the entities made in the shard of bare.
func (t *Table) creationEpoch(bare jid.JID) uint32 {
	s := t.shard(bare)
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.creationEpoch
}

// revoke counts a kick of bare.
func (t *Table) revoke(bare jid.JID) {
	s := t.shard(bare)
	s.mu.Lock()
	s.revocationEpoch++
	s.mu.Unlock()
}

// revocationEpoch counts the kicks of accounts in the shard of bare.
func (t *Table) revocationEpoch(bare jid.JID) uint32 {
	s := t.shard(bare)
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.revocationEpoch
}

// remove takes e out of the table, under its lock; absent: it is remembered as an address with nothing,
// unless something was made since births was read.
func (t *Table) remove(e *Entity, absent bool, births uint32) {
	s := t.shard(e.addr)
	s.mu.Lock()
	if s.entities.remove(e) {
		t.size.Add(-1)
	}
	if absent && births == s.creationEpoch {
		if len(s.negativeCache) >= negativePerShard || s.negativeCache == nil {
			s.negativeCache = make(map[jid.JID]struct{})
		}
		s.negativeCache[e.addr] = struct{}{}
	}
	s.mu.Unlock()
	e.resident = evictedMark
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
	for _, e := range s.entities.cells {
		if e != nil {
			dst = append(dst, e)
		}
	}
	return dst
}

// find is where addr is, or would go.
func (s *entityMap) find(addr jid.JID) (i int, tag uint16, ok bool) {
	h := hashAddr(addr)
	tag = uint16(h >> 48)
	mask := len(s.cells) - 1
	for i = int(h) & mask; s.cells[i] != nil; i = (i + 1) & mask {
		if s.tags[i] == tag && s.cells[i].addr == addr {
			return i, tag, true
		}
	}
	return i, tag, false
}

// get is the entity at addr; nil if there is none.
func (s *entityMap) get(addr jid.JID) *Entity {
	if s.n == 0 {
		return nil
	}
	if i, _, ok := s.find(addr); ok {
		return s.cells[i]
	}
	return nil
}

// add takes e in, which is not there.
func (s *entityMap) add(e *Entity) {
	if 4*(s.n+1) > 3*len(s.cells) {
		s.resize(max(2*len(s.cells), minEntityCells))
	}
	s.insert(e)
	s.n++
}

func (s *entityMap) insert(e *Entity) {
	i, tag, _ := s.find(e.addr)
	s.cells[i], s.tags[i] = e, tag
}

func (s *entityMap) resize(size int) {
	old := s.cells
	s.cells, s.tags = make([]*Entity, size), make([]uint16, size)
	for _, e := range old {
		if e != nil {
			s.insert(e)
		}
	}
}

// remove takes e out, if it is there.
func (s *entityMap) remove(e *Entity) bool {
	if s.get(e.addr) != e {
		return false
	}
	i, _, _ := s.find(e.addr)
	mask := len(s.cells) - 1
	// Those behind it move up, as far as they may, so that no look-up ends too early.
	for j := (i + 1) & mask; s.cells[j] != nil; j = (j + 1) & mask {
		home := int(hashAddr(s.cells[j].addr)) & mask
		if (j-home)&mask >= (j-i)&mask {
			s.cells[i], s.tags[i] = s.cells[j], s.tags[j]
			i = j
		}
	}
	s.cells[i], s.tags[i] = nil, 0
	if s.n--; len(s.cells) > minEntityCells && 8*s.n < len(s.cells) {
		s.resize(len(s.cells) / 2)
	}
	return true
}

// NewHost makes a host that runs p. The name is prepared (RFC 7622 §3.2) and must be a domain.
// cert reads the host's certificate, on first use and after [Host.InvalidateCertificate]; nil: it has none.
// Any goroutine.
func NewHost(name string, p *Profile, cert func() (*tls.Certificate, error)) (*Host, error) {
	j, err := jid.Parse(name)
	if err != nil {
		return nil, err
	}
	if l, _, r := j.Parts(); l != "" || r != "" {
		return nil, jid.ErrMalformed
	}
	h := &Host{Name: j.String(), JID: j}
	if cert != nil {
		h.loadCert.Store(&cert)
	}
	h.profile.Store(p)
	return h, nil
}

// NewService makes a host without logins, with the profile p: its bare domain is an entity, like every
// address at it, of the kinds that p serves. Any goroutine.
func NewService(name string, p *Profile) (*Host, error) {
	h, err := NewHost(name, p, nil)
	if err == nil {
		h.service = true
	}
	return h, err
}

// Service reports whether h was made by NewService. Any goroutine.
func (h *Host) Service() bool { return h.service }

// adopt gives h, which was removed, what a new Host of the same domain has.
func (h *Host) adopt(n *Host) {
	h.loadCert.Store(n.loadCert.Load())
	h.InvalidateCertificate()
	h.profile.Store(n.profile.Load())
}

// Profile is what h runs now; a chain asks once and stays with the answer. Any goroutine.
func (h *Host) Profile() *Profile { return h.profile.Load() }

// SwapProfile has h run p from now on and returns what it ran before. Nothing of a session is lost: flags,
// slots, parts and atoms belong to the process. Any goroutine.
func (h *Host) SwapProfile(p *Profile) (old *Profile) { return h.profile.Swap(p) }

// Certificate is the host's, parsed on first use; nil without an error if it has none of its own.
// It may read a file: never on a loop. Any goroutine.
func (h *Host) Certificate() (*tls.Certificate, error) {
	before := h.cert.Load()
	if before != nil && before.cert != nil {
		return before.cert, nil
	}
	load := h.loadCert.Load()
	if load == nil {
		return nil, nil
	}
	c, err := (*load)()
	if err != nil {
		return nil, err
	}
	// If it was dropped meanwhile, what was read may be the one before: the next handshake reads again.
	h.cert.CompareAndSwap(before, &hostCertificate{c})
	return c, nil
}

// InvalidateCertificate has the next handshake read the certificate again. Any goroutine.
func (h *Host) InvalidateCertificate() { h.cert.Store(new(hostCertificate)) }

// Connections counts the streams that named h in their header. Any goroutine.
func (h *Host) Connections() int { return int(h.connections.Load()) }

// About is what the program says of itself to those who ask (XEP-0092).
type About struct{ Name, Version string }
