package xmlstream

import (
	"errors"
	"sync"
	"sync/atomic"
)

// Limits bound what one peer can make us hold. The zero value of a field means its default.
type Limits struct {
	StanzaBytes int // of one stanza: 256 KiB; at most 1 GiB
	Depth       int // of elements, the stanza itself included: 64
	NameBytes   int // of one name: 1,024
	Prefixes    int // declarations in force at once: 16
	Attrs       int // of one element: 64
	StanzaAttrs int // of one stanza: 8,192
	Nodes       int // elements of one stanza: 4,096
}

// headerBytes bounds a stream header and what stands in front of it (attack K09).
const headerBytes = 4 << 10

// LimitID stands for Limits, so that a Stream can carry them in one byte. Zero: the defaults.
type LimitID uint8

var (
	limitSets  atomic.Pointer[[]Limits]
	limitMu    sync.Mutex
	errManySet = errors.New("xmlstream: more than 256 different sets of limits")
	errHuge    = errors.New("xmlstream: a stanza limit over 1 GiB")
)

func init() { limitSets.Store(&[]Limits{Limits{}.filled()}) }

func (l Limits) filled() Limits {
	def := func(v *int, d int) {
		if *v <= 0 {
			*v = d
		}
	}
	def(&l.StanzaBytes, 256<<10)
	def(&l.Depth, 64)
	def(&l.NameBytes, 1024)
	def(&l.Prefixes, 16)
	def(&l.Attrs, 64)
	def(&l.StanzaAttrs, 8192)
	def(&l.Nodes, 4096)
	return l
}

// ID registers l. Equal limits share an ID and none is given back: a 257th different set is an error,
// and so is a stanza limit over 1 GiB, as offsets are 32 bits. Any goroutine. Cold path.
func (l Limits) ID() (LimitID, error) {
	l = l.filled()
	if l.StanzaBytes > 1<<30 {
		return 0, errHuge
	}
	l.Depth, l.NameBytes = min(l.Depth, maxDepth), min(l.NameBytes, 1<<15)
	limitMu.Lock()
	defer limitMu.Unlock()
	sets := *limitSets.Load()
	for i := range sets {
		if sets[i] == l {
			return LimitID(i), nil
		}
	}
	if len(sets) == 256 {
		return 0, errManySet
	}
	sets = append(sets[:len(sets):len(sets)], l)
	limitSets.Store(&sets)
	return LimitID(len(sets) - 1), nil
}

func (id LimitID) limits() *Limits { return &(*limitSets.Load())[id] }

const maxDepth = 1024
