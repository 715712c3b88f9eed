package xmlstream

import (
	"errors"
	"fmt"
	"sync"
)

// Limits bound the memory and the work that one peer can cause. A field of 0 means its default. A stream that
// exceeds one of them ends with policy-violation.
type Limits struct {
	StanzaBytes int // bytes of one stanza, by default 256 KiB; advertised to peers (XEP-0478)
	Depth       int // elements inside one another, by default 64
	NameBytes   int // bytes of a name with its prefix, and of a namespace, by default 1,024
	Prefixes    int // namespace prefixes in force at once, the stream header's included, by default 16
	Attrs       int // attributes of one element, namespace declarations included, by default 64
	StanzaAttrs int // attributes of one stanza, by default 8,192
	Nodes       int // elements of one stanza, by default 16,384
}

// PreLogin are the limits for a peer that has not authenticated. They are so small that a thousand peers that
// each keep a stanza unfinished do no harm (attack rows X13, T03).
var PreLogin = Limits{StanzaBytes: 16 << 10, Depth: 8, NameBytes: 256, Prefixes: 8, Attrs: 16,
	StanzaAttrs: 128, Nodes: 32}

// headerBytes is how many bytes a stream header may have, with its XML declaration and the white space around
// that (attack row K09). It is the same for all Limits, but not more than StanzaBytes.
const headerBytes = 4 << 10

// The largest values that Limits may have. The fields of node, attr and nsDecl hold no more.
const (
	maxStanza  = 1 << 30    // offsets are uint32
	maxDepth   = 200        // rewrite has a stack of this size
	maxName    = 1<<13 - 1  // attr.kind has 13 bits for the length of a prefix
	maxAttrs   = 255        // node.nattr is a uint8
	maxNSDecls = 1<<15 - 16 // node.ns has 15 bits for declarations inside an element
)

// A LimitID stands for a set of [Limits] that was registered with [Limits.ID], so a [Stream] holds them
// in one byte. 0 stands for the defaults.
type LimitID uint8

// limitSets are the registered sets of limits, by LimitID. The mutex guards used and the writing of
// entries. A reader needs no lock: an entry is written before its LimitID is returned, and does not
// change after that.
var limitSets = struct {
	sync.Mutex
	used int
	at   [256]Limits
}{used: 1, at: [256]Limits{Limits{}.withDefaults()}}

// relaxedLimits are for elements that this process has accepted or written: routing may have added to
// them, so the limits of a stream could refuse them.
var relaxedLimits = Limits{StanzaBytes: 64 << 20, Depth: maxDepth, NameBytes: maxName, Prefixes: 64,
	Attrs: maxAttrs, StanzaAttrs: 1 << 20, Nodes: 1 << 20}

// withDefaults returns l with the defaults in place of zeros.
func (l Limits) withDefaults() Limits {
	d := func(v *int, n int) {
		if *v == 0 {
			*v = n
		}
	}
	d(&l.StanzaBytes, 256<<10)
	d(&l.Depth, 64)
	d(&l.NameBytes, 1024)
	d(&l.Prefixes, 16)
	d(&l.Attrs, 64)
	d(&l.StanzaAttrs, 8192)
	d(&l.Nodes, 16384)
	return l
}

// ID registers l and returns its LimitID; equal limits have the same. It fails if a value is negative or more
// than a tree can hold, and for a 257th set, as none is ever removed: call it for the configuration only. Any
// goroutine may call it.
func (l Limits) ID() (LimitID, error) {
	l = l.withDefaults()
	for _, c := range []struct {
		what   string
		v, max int
	}{
		{"StanzaBytes", l.StanzaBytes, maxStanza}, {"Depth", l.Depth, maxDepth},
		{"NameBytes", l.NameBytes, maxName},
		{"Prefixes", l.Prefixes, 1024}, {"Attrs", l.Attrs, maxAttrs}, {"StanzaAttrs", l.StanzaAttrs, maxStanza},
		{"Nodes", l.Nodes, maxStanza},
	} {
		if c.v < 0 || c.v > c.max {
			return 0, fmt.Errorf("xmlstream: limit %s is %d, and must be from 1 to %d", c.what, c.v, c.max)
		}
	}
	limitSets.Lock()
	defer limitSets.Unlock()
	for i := range limitSets.used {
		if limitSets.at[i] == l {
			return LimitID(i), nil
		}
	}
	if limitSets.used == len(limitSets.at) {
		return 0, errors.New("xmlstream: more than 256 different sets of limits")
	}
	limitSets.at[limitSets.used] = l
	limitSets.used++
	return LimitID(limitSets.used - 1), nil
}

// Limits returns the limits that id stands for, with the defaults filled in. Any goroutine may call it.
func (id LimitID) Limits() Limits { return limitSets.at[id] }
