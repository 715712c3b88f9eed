package xmlstream

import (
	"hash/maphash"
	"sync"
	"sync/atomic"
)

// An Atom stands for a string that our own code interned. Two atoms other than [Unknown] are the same
// string exactly if they are ==.
type Atom uint32

const (
	None    Atom = 0         // the empty string: the namespace of a plain attribute
	Unknown Atom = 1<<32 - 1 // a string that nobody interned: see [Element.Is]
)

// Namespaces that the stream layer itself deals with (RFC 6120 §4.8, RFC 7395 §3.3, XEP-0220).
const (
	NSClient    = "jabber:client"
	NSServer    = "jabber:server"
	NSStream    = "http://etherx.jabber.org/streams"
	NSDialback  = "jabber:server:dialback"
	NSFraming   = "urn:ietf:params:xml:ns:xmpp-framing"
	NSComponent = "jabber:component:accept"
	NSXML       = "http://www.w3.org/XML/1998/namespace"
	nsXMLNS     = "http://www.w3.org/2000/xmlns/"
)

var (
	atomClient    = Intern(NSClient)
	atomServer    = Intern(NSServer)
	atomStream    = Intern(NSStream)
	atomDialback  = Intern(NSDialback)
	atomComponent = Intern(NSComponent)
	atomXML       = Intern(NSXML)
)

// atoms is an open-addressed table that is never changed in a way that a reader could see half: an entry
// is written before the slot that leads to it, and a table that must grow is copied and swapped. So
// reading takes no lock.
var atoms struct {
	sync.Mutex // held by Intern
	table      atomic.Pointer[atomTable]
}

type atomTable struct {
	buckets []atomic.Uint32 // an Atom, 0 if free; a power of two, at most half full
	entries []atomEntry     // by Atom; length is the capacity, used counts
	used    uint32          // under the lock
}

type atomEntry struct {
	s      string
	b      []byte // the same
	hash   uint32
	ncname bool // may stand in a tag
}

var atomSeed = maphash.MakeSeed()

func newAtomTable(n int) *atomTable {
	return &atomTable{buckets: make([]atomic.Uint32, n), entries: make([]atomEntry, n/2), used: 1}
}

// Intern returns the Atom of s, making one if it is new. Any goroutine, at any time, but never with a
// peer's bytes: atoms are not given back.
func Intern(s string) Atom {
	if s == "" {
		return None
	}
	atoms.Lock()
	defer atoms.Unlock()
	t := atoms.table.Load()
	if t == nil {
		t = newAtomTable(1024)
		atoms.table.Store(t)
	}
	h := uint32(maphash.String(atomSeed, s))
	if a := t.find(h, s); a != Unknown {
		return a
	}
	if int(t.used) == len(t.entries) {
		big := newAtomTable(2 * len(t.buckets))
		copy(big.entries, t.entries)
		for a := uint32(1); a < t.used; a++ {
			big.put(t.entries[a].hash, a)
		}
		big.used = t.used
		t = big
		atoms.table.Store(t)
	}
	a := t.used
	t.used++
	b := []byte(s)
	t.entries[a] = atomEntry{s: string(b), b: b, hash: h, ncname: isNCName(s)}
	t.put(h, a)
	return Atom(a)
}

func (t *atomTable) put(h, a uint32) {
	mask := uint32(len(t.buckets) - 1)
	for i := h & mask; ; i = (i + 1) & mask {
		if t.buckets[i].Load() == 0 {
			t.buckets[i].Store(a)
			return
		}
	}
}

func (t *atomTable) find(h uint32, s string) Atom {
	mask := uint32(len(t.buckets) - 1)
	for i := h & mask; ; i = (i + 1) & mask {
		a := t.buckets[i].Load()
		if a == 0 {
			return Unknown
		}
		if e := &t.entries[a]; e.hash == h && e.s == s {
			return Atom(a)
		}
	}
}

// lookup returns the Atom of b without making one.
func lookup(b []byte) Atom {
	if len(b) == 0 {
		return None
	}
	t := atoms.table.Load()
	h := uint32(maphash.Bytes(atomSeed, b))
	mask := uint32(len(t.buckets) - 1)
	for i := h & mask; ; i = (i + 1) & mask {
		a := t.buckets[i].Load()
		if a == 0 {
			return Unknown
		}
		if e := &t.entries[a]; e.hash == h && e.s == string(b) {
			return Atom(a)
		}
	}
}

// String returns the string that was interned; "" for None and for Unknown. Any goroutine.
func (a Atom) String() string {
	if a == None || a == Unknown {
		return ""
	}
	return atoms.table.Load().entries[a].s
}

// bytes is String, not to be changed.
func (a Atom) bytes() []byte {
	if a == None || a == Unknown {
		return nil
	}
	return atoms.table.Load().entries[a].b
}

// ncname reports whether a may be written as the local part of a name.
func (a Atom) ncname() bool {
	return a != None && a != Unknown && atoms.table.Load().entries[a].ncname
}

// A Name is an expanded name. It is for package variables and map keys; whether something that was parsed
// has a name is asked with [Element.Is], as == holds between any two unknown names.
type Name struct{ Space, Local Atom }

// N interns both halves of a name: N("urn:xmpp:ping", "ping"), N("", "to"). Any goroutine.
func N(space, local string) Name { return Name{Intern(space), Intern(local)} }

// Known reports whether neither half is Unknown.
func (n Name) Known() bool { return n.Space != Unknown && n.Local != Unknown }

// String returns n in the usual notation: {space}local.
func (n Name) String() string {
	if n.Space == None {
		return n.Local.String()
	}
	return "{" + n.Space.String() + "}" + n.Local.String()
}
