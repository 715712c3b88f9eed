package session

import (
	"crypto/tls"
	"hash/maphash"
	"sync"
	"sync/atomic"

	"canto/session/jid"
)

// This file has the table of entities and hosts: which entities are in memory, and which domains are served.

// A Host is one served domain. It takes at most 256 bytes, so that a process can serve ten thousand
// domains. After it was added to the [Table] its fields change through the atomic pointers only; any
// goroutine may call its methods.
type Host struct {
	Name string  // the domain, prepared
	ID   uint32  // 1 for the first host that this process has added, and so on
	JID  jid.JID // the domain as an address

	service bool // made by [NewService]: no logins; stanzas may make entities at its addresses
	profile atomic.Pointer[Profile]
	cert    atomic.Pointer[hostCertificate] // nil, or without a certificate: not read yet
	// reads it; nil: the default certificate is used
	loadCert    atomic.Pointer[func() (*tls.Certificate, error)]
	vars        atomic.Pointer[[]any] // values of [HostVar]
	connections atomic.Int32          // streams whose header named it
}

// A hostCertificate is a cached certificate. InvalidateCertificate replaces it by an empty one, so that a
// read that began before does not put an old certificate back.
type hostCertificate struct{ cert *tls.Certificate }

// A Table finds the entities in memory by address and the served hosts by domain. The process has one. An
// entity that is not in the table may exist in the store. Only this package may assume that a recipient is
// in this process: others send it a stanza.
//
// Entities stand in 256 shards by partition of their address, each with a lock of its own. A shard's lock is
// below the lock of an entity: nothing is locked under it.
type Table struct {
	shards       [shards]shard
	hosts        atomic.Pointer[map[string]*Host] // copied on write
	hostMu       sync.Mutex                       // guards changes of hosts, removedHosts and nextID
	removedHosts map[string]*Host                 // a domain that is added again gets its old Host back
	nextID       uint32
	size         atomic.Int64 // entities in all shards
}

// shards is the number of shards. More would only make an empty table larger: 256 locks on a machine of
// tens of processors are rarely contended.
const shards = 256

// A shard is a part of the [Table].
type shard struct {
	mu       sync.RWMutex // guards the fields below
	entities entityMap
	// negativeCache has addresses that are known to have no entity. It is emptied when it is full.
	negativeCache map[jid.JID]struct{}
	// creationEpoch counts the entities made in this shard. A look-up in the store that found nothing enters
	// the negative cache only if the count is still what it was before the look-up.
	creationEpoch uint32
	// revocationEpoch counts the accounts of this shard whose sessions were ended by an operator, or whose
	// password has changed. A login does not bind if the count has changed since its account was read.
	revocationEpoch uint32
}

// negativePerShard bounds the negative cache of a shard; it is 65,536 addresses in all.
const negativePerShard = 256

// NewTable returns an empty table.
func NewTable() *Table {
	t := new(Table)
	t.hosts.Store(&map[string]*Host{})
	return t
}

// An entityMap is a hash table from address to entity with open addressing and linear probing. The
// address is in the entity, so that a cell is a pointer and a tag: ten bytes. A Go map with the JID as
// its key takes four times as much. Under the shard's lock.
type entityMap struct {
	cells []*Entity // a power of two of them, at most three quarters taken
	tags  []uint16  // upper bits of the hashes: a different tag saves the comparison of addresses
	n     int       // cells taken
}

// hashSeed is random, so that users can't choose addresses that collide.
var hashSeed = maphash.MakeSeed()

// minEntityCells is the size of a map with one entity.
const minEntityCells = 8

// hashAddr is the hash of an address.
func hashAddr(addr jid.JID) uint64 { return maphash.String(hashSeed, addr.String()) }

// Host is the host that serves domain. Any goroutine.
func (t *Table) Host(domain string) (*Host, bool) {
	h, ok := (*t.hosts.Load())[domain]
	return h, ok
}

// Hosts returns all served hosts by domain. The caller must not change the map. Any goroutine.
func (t *Table) Hosts() map[string]*Host { return *t.hosts.Load() }

// AddHost makes t serve the hosts hs: all of them, or none and false. It fails if one of the domains is
// served already, or was served since the process began in the other role (with logins, or as a service).
// For a domain that was removed before, the old Host is served again, with profile and certificate of the
// new one, because entities and sessions in memory point to it: ask [Table.Host] for it. Any goroutine.
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
			return false // entities in memory are those of the other role
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

// RemoveHost ends the service of a domain and returns its host; false if it was not served. The caller closes
// the streams of the host. Any goroutine.
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

// shard is the shard of an address.
func (t *Table) shard(bare jid.JID) *shard { return &t.shards[bare.Partition()%shards] }

// getOrCreate returns the entity in memory at addr. If there is none it adds a cold one, which is loaded on
// demand. False: addr is in the negative cache and its host has logins, or its service host is no longer
// served. At a service host an address without an entity has a cold Entity, too, as a stanza may make an
// entity there. The entity may have left the table before the caller has its lock: see Table.lockEntity. Any
// goroutine.
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
				return nil, false // the host was removed meanwhile
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

// LookupAccount returns the account of a bare JID if it is in memory. Any goroutine.
func (t *Table) LookupAccount(bare jid.JID) (*Account, bool) {
	if e := t.Lookup(bare); e != nil {
		a := e.account()
		return a, a != nil
	}
	return nil, false
}

// Lookup returns the entity at addr if it is in memory, else nil. Any goroutine.
func (t *Table) Lookup(addr jid.JID) *Entity {
	s := t.shard(addr)
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.entities.get(addr)
}

// NoteCreated must be called after an entity was made at addr. It takes addr out of the negative cache. Any
// goroutine.
func (t *Table) NoteCreated(addr jid.JID) {
	s := t.shard(addr)
	s.mu.Lock()
	delete(s.negativeCache, addr)
	s.creationEpoch++
	s.mu.Unlock()
}

// creationEpoch is the creation epoch of the shard of bare.
func (t *Table) creationEpoch(bare jid.JID) uint32 {
	s := t.shard(bare)
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.creationEpoch
}

// revoke raises the revocation epoch of the shard of bare: logins that are under way there do not bind.
func (t *Table) revoke(bare jid.JID) {
	s := t.shard(bare)
	s.mu.Lock()
	s.revocationEpoch++
	s.mu.Unlock()
}

// revocationEpoch is the revocation epoch of the shard of bare.
func (t *Table) revocationEpoch(bare jid.JID) uint32 {
	s := t.shard(bare)
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.revocationEpoch
}

// remove takes e out of the table. absent: the store has no entity at its address, which enters the
// negative cache unless an entity was made in the shard since epoch, the creation epoch before the store
// was read. Under the lock of e.
func (t *Table) remove(e *Entity, absent bool, epoch uint32) {
	s := t.shard(e.addr)
	s.mu.Lock()
	if s.entities.remove(e) {
		t.size.Add(-1)
	}
	if absent && epoch == s.creationEpoch {
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

// Accounts appends the accounts of one shard that are in memory to dst, for counting. Any goroutine.
func (t *Table) Accounts(shardIndex int, dst []*Account) []*Account {
	for _, e := range t.Entities(shardIndex, nil) {
		if a := e.account(); a != nil {
			dst = append(dst, a)
		}
	}
	return dst
}

// Entities appends the entities of one shard that are in memory, of any kind, to dst. Any goroutine.
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

// find is the cell of addr, or the free cell where it would go, and the tag of its hash. There is a free
// cell.
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

// get is the entity at addr, or nil.
func (s *entityMap) get(addr jid.JID) *Entity {
	if s.n == 0 {
		return nil
	}
	if i, _, ok := s.find(addr); ok {
		return s.cells[i]
	}
	return nil
}

// add adds e, which must not be there.
func (s *entityMap) add(e *Entity) {
	if 4*(s.n+1) > 3*len(s.cells) {
		s.resize(max(2*len(s.cells), minEntityCells))
	}
	s.insert(e)
	s.n++
}

// insert puts e into the cell that find gives. There is room.
func (s *entityMap) insert(e *Entity) {
	i, tag, _ := s.find(e.addr)
	s.cells[i], s.tags[i] = e, tag
}

// resize moves all entities into size cells.
func (s *entityMap) resize(size int) {
	old := s.cells
	s.cells, s.tags = make([]*Entity, size), make([]uint16, size)
	for _, e := range old {
		if e != nil {
			s.insert(e)
		}
	}
}

// remove takes e out and returns true; false if it is not there. The entities that follow in the same run of
// taken cells move up, as far as their hashes allow, so that find does not stop too early.
func (s *entityMap) remove(e *Entity) bool {
	if s.get(e.addr) != e {
		return false
	}
	i, _, _ := s.find(e.addr)
	mask := len(s.cells) - 1
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

// NewHost makes a host with logins that runs the profile p. name is prepared here (RFC 7622 section 3.2); an
// error says that it is no domain. cert reads the host's own certificate, at its first use and after each
// [Host.InvalidateCertificate]; nil: it has none. Any goroutine.
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

// NewService makes a host without logins that runs the profile p. Its domain and the addresses at it may be
// entities of the kinds that p serves. Errors are those of [NewHost]. Any goroutine.
func NewService(name string, p *Profile) (*Host, error) {
	h, err := NewHost(name, p, nil)
	if err == nil {
		h.service = true
	}
	return h, err
}

// Service reports whether h was made by [NewService]. Any goroutine.
func (h *Host) Service() bool { return h.service }

// adopt gives h, which was removed, the profile and the certificate of n, a new Host of the same domain.
func (h *Host) adopt(n *Host) {
	h.loadCert.Store(n.loadCert.Load())
	h.InvalidateCertificate()
	h.profile.Store(n.profile.Load())
}

// Profile is the profile that h runs now. A reload may change it at any time: a chain asks once and keeps the
// answer. Any goroutine.
func (h *Host) Profile() *Profile { return h.profile.Load() }

// SwapProfile makes h run p and returns the profile that it ran before. Sessions keep their state, as flags,
// variables, parts and interned names are numbered for the process, not for a profile. Any goroutine.
func (h *Host) SwapProfile(p *Profile) (old *Profile) { return h.profile.Swap(p) }

// Certificate is the host's own certificate, read at its first use; nil without an error if the host has
// none. It may read a file, so it must not be called on a loop. Any other goroutine.
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
	// If it was invalidated meanwhile, c may be the old certificate: it is used once and not cached.
	h.cert.CompareAndSwap(before, &hostCertificate{c})
	return c, nil
}

// InvalidateCertificate makes the next handshake read the certificate again. Any goroutine.
func (h *Host) InvalidateCertificate() { h.cert.Store(new(hostCertificate)) }

// Connections counts the streams that named h in their header. Any goroutine.
func (h *Host) Connections() int { return int(h.connections.Load()) }

// About names the program, for answers to software version requests (XEP-0092).
type About struct {
	Name    string // "Canto"
	Version string // may be empty
}
