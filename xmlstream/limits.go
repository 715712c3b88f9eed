package xmlstream

import (
	"errors"
	"fmt"
	"sync"
)

// Limits bound what one peer can make us hold. The zero value of a field means its default. Over any of
// them the stream ends with policy-violation.
type Limits struct {
	StanzaBytes int // bytes of one stanza: 256 KiB; advertised as XEP-0478
	Depth       int // elements inside one another: 64
	NameBytes   int // bytes of one name with its prefix, and of one namespace: 1,024
	Prefixes    int // prefixes in force at once, those of the stream header included: 16
	Attrs       int // attributes of one element, namespace declarations included: 64
	StanzaAttrs int // attributes of one stanza: 8,192
	Nodes       int // elements of one stanza: 16,384
}

// PreLogin are the limits for a peer that has not authenticated: small enough that a thousand of them,
// each holding an unfinished stanza, are no load (attack rows X13, T03).
var PreLogin = Limits{StanzaBytes: 16 << 10, Depth: 8, NameBytes: 256, Prefixes: 8, Attrs: 16,
	StanzaAttrs: 128, Nodes: 32}

// headerBytes is what a stream header, its XML declaration and blanks around it included, may take
// (attack row K09).
const headerBytes = 4 << 10

// The largest values of Limits: what fits the fields of a node.
const (
	maxStanza  = 1 << 30
	maxDepth   = 200
	maxName    = 1<<13 - 1
	maxAttrs   = 255
	maxNSDecls = 1<<15 - 16
)

// A LimitID stands for [Limits], so that a [Stream] can carry them in one byte. The zero LimitID stands
// for the defaults.
type LimitID uint8

var limitSets = struct {
	sync.Mutex
	used int
	at   [256]Limits // an entry is written before its ID is known to anyone, and never again
}{used: 1, at: [256]Limits{Limits{}.withDefaults()}}

// relaxedLimits holds for elements that were accepted or written by this process: routing may have added
// to them.
var relaxedLimits = Limits{StanzaBytes: 64 << 20, Depth: maxDepth, NameBytes: maxName, Prefixes: 64,
	Attrs: maxAttrs, StanzaAttrs: 1 << 20, Nodes: 1 << 20}

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

// ID registers l. Equal limits share an ID and none is given back: a 257th different set is an error of
// the configuration, as is a value that is negative or over what a parser can hold (1 GiB a stanza). Any
// goroutine. Cold path.
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

// Limits returns what id stands for, with the defaults filled in.
func (id LimitID) Limits() Limits { return limitSets.at[id] }
