package xmlstream

import (
	"hash/maphash"
	"sync"
	"sync/atomic"
)

// An Atom stands for a string that was interned with [Intern]: a namespace or a local name. Two Atoms
// other than [Unknown] stand for the same string if and only if they are equal.
type Atom uint32

const (
	None    Atom = 0         // the empty string: the namespace of an attribute without a prefix
	Unknown Atom = 1<<32 - 1 // a string that was not interned; it is equal to no other: see [Element.Is]
)

// The namespaces that the stream layer itself knows (RFC 6120 section 4.8, RFC 7395 section 3.3, XEP-0220).
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

// atoms is the table of interned strings. The mutex guards writing. Reading takes no lock, as a reader never
// sees a half-written entry: Intern writes an entry before the bucket that refers to it, and a table that is
// full is replaced by a larger copy.
var atoms struct {
	sync.Mutex // Intern holds it
	table      atomic.Pointer[atomTable]
}

// An atomTable is a hash table with open addressing.
type atomTable struct {
	buckets []atomic.Uint32 // an Atom, or 0 if free; their number is a power of two, and half are free
	entries []atomEntry     // by Atom; those from used on are empty
	used    uint32          // how many entries are in use; guarded by the mutex
}

// An atomEntry is an interned string. It does not change.
type atomEntry struct {
	s      string
	b      []byte // the same bytes
	hash   uint32
	ncname bool // s is a name without a colon, and so may be written in a tag
}

// atomSeed is the seed of the hashes of strings, random for each process.
var atomSeed = maphash.MakeSeed()

// newAtomTable returns a table of n buckets, a power of two. Atom 0 is None, so the first one that is
// used is 1.
func newAtomTable(n int) *atomTable {
	return &atomTable{buckets: make([]atomic.Uint32, n), entries: make([]atomEntry, n/2), used: 1}
}

// Intern returns the Atom of s, and makes one if s is new. Any goroutine may call it. Never call it with
// bytes of a peer: Atoms are never removed, so the peer could fill the memory.
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

// put stores the Atom a, whose string has the hash h, in the first free bucket. The lock is held.
func (t *atomTable) put(h, a uint32) {
	mask := uint32(len(t.buckets) - 1)
	for i := h & mask; ; i = (i + 1) & mask {
		if t.buckets[i].Load() == 0 {
			t.buckets[i].Store(a)
			return
		}
	}
}

// find returns the Atom of s, whose hash is h, or Unknown.
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

// lookup returns the Atom of b, or Unknown if b was never interned. Any goroutine may call it.
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

// String returns the string that was interned; it is empty for None and Unknown. Any goroutine may call it.
func (a Atom) String() string {
	if a == None || a == Unknown {
		return ""
	}
	return atoms.table.Load().entries[a].s
}

// bytes returns the same as String. It must not be changed.
func (a Atom) bytes() []byte {
	if a == None || a == Unknown {
		return nil
	}
	return atoms.table.Load().entries[a].b
}

// ncname reports whether a is a name that XML allows, without a colon.
func (a Atom) ncname() bool {
	return a != None && a != Unknown && atoms.table.Load().entries[a].ncname
}

// A Name is an expanded name: a namespace and a local name. Make it once, as a package variable. It is
// comparable, so it can be the key of a map; but a == b is also true for two names that are both
// [Unknown], so ask an element for its name with [Element.Is].
type Name struct {
	Space Atom // the namespace, None if there is none
	Local Atom // the local name
}

// N returns the Name of a namespace and a local name, which it interns: N("urn:xmpp:ping", "ping"), or
// N("", "to") for an attribute. Any goroutine may call it, but not with bytes of a peer.
func N(space, local string) Name { return Name{Intern(space), Intern(local)} }

// Known reports whether neither half of n is [Unknown].
func (n Name) Known() bool { return n.Space != Unknown && n.Local != Unknown }

// String returns n as {namespace}local, or as local if it has no namespace.
func (n Name) String() string {
	if n.Space == None {
		return n.Local.String()
	}
	return "{" + n.Space.String() + "}" + n.Local.String()
}
