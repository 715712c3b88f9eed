package xmlstream

import (
	"sync"
	"sync/atomic"
)

// An Atom stands for a string that our own code interned. Two atoms other than Unknown are the same
// string exactly if they are ==.
type Atom uint32

// None is the empty string: the namespace of a plain attribute. Unknown is a string that nobody
// interned: see [Element.Is].
const (
	None    Atom = 0
	Unknown Atom = 1<<32 - 1
)

type atomTable struct {
	index map[string]Atom
	list  []string
}

var (
	atoms  = newAtoms()
	atomMu sync.Mutex
)

func newAtoms() *atomic.Pointer[atomTable] {
	p := new(atomic.Pointer[atomTable])
	p.Store(&atomTable{map[string]Atom{"": None}, []string{""}})
	return p
}

// Intern is the Atom of s, made if it is new. Any goroutine, at any time (the table is copied on
// write), but never with a peer's bytes.
func Intern(s string) Atom {
	if a, ok := atoms.Load().index[s]; ok {
		return a
	}
	atomMu.Lock()
	defer atomMu.Unlock()
	old := atoms.Load()
	if a, ok := old.index[s]; ok {
		return a
	}
	t := &atomTable{make(map[string]Atom, len(old.index)+1), append(old.list[:len(old.list):len(old.list)], s)}
	for k, v := range old.index {
		t.index[k] = v
	}
	a := Atom(len(old.list))
	t.index[s] = a
	atoms.Store(t)
	return a
}

func (a Atom) String() string {
	if t := atoms.Load(); int(a) < len(t.list) {
		return t.list[a]
	}
	return "?"
}

func (t *atomTable) of(b []byte) Atom {
	if a, ok := t.index[string(b)]; ok {
		return a
	}
	return Unknown
}

// A Name is an expanded name. It is for package variables and map keys; whether something that was
// parsed has a name is asked with Is, as == holds between any two unknown names.
type Name struct{ Space, Local Atom }

// N interns both halves of a name: N("urn:xmpp:ping", "ping"), N("", "to"). As [Intern].
func N(space, local string) Name { return Name{Intern(space), Intern(local)} }

// Known reports whether neither half is Unknown.
func (n Name) Known() bool { return n.Space != Unknown && n.Local != Unknown }

// The namespaces that XML itself binds.
const (
	nsXML   = "http://www.w3.org/XML/1998/namespace"
	nsXMLNS = "http://www.w3.org/2000/xmlns/"
)

var (
	atomXML    = Intern(nsXML)
	atomClient = Intern("jabber:client")
	atomServer = Intern("jabber:server")
	atomStream = Intern("http://etherx.jabber.org/streams")
	atomLang   = Intern("lang")
)
