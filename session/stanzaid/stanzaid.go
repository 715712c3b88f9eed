// Package stanzaid makes the ids of archived messages, which are their stanza-ids (XEP-0359) and the uids
// of the archive (XEP-0313): 64 bits that sort by time and name their maker.
//
//	| 42 bits: milliseconds since 2020 | 10 bits: node | 12 bits: counter |
//
// # The lease
//
// An id must never be given twice, also not after a crash with a clock that went back. So ids are drawn
// below a [Lease], a bound that was made durable before: the store keeps it, and it is moved on long
// before it is reached. After a restart the lease of the run before is the floor, and every new id lies
// above it. Where the lease is used up, there is no id ([ErrLease]) until the next is durable: better no
// archive than two messages of one id.
//
// Time is passed in. Nothing here is random.
package stanzaid

import (
	"errors"
	"sync/atomic"
	"time"
)

// An ID is the id of one message in one archive. The zero ID is none.
type ID uint64

// The bits of an ID.
const (
	timeBits    = 42
	nodeBits    = 10
	counterBits = 12

	// MaxNode is the largest node number.
	MaxNode = 1<<nodeBits - 1
	// PerMilli is how many ids of one node and millisecond there are.
	PerMilli = 1 << counterBits
)

// epoch is where the milliseconds begin: 2020-01-01 UTC, in Unix milliseconds. They last until the year
// 2159. It is in stored ids and never changes.
const epoch = 1_577_836_800_000

// FirstAt returns the smallest ID of a moment: of node 0 and counter 0. It is what a query by time begins
// with. Moments before the epoch, and those that do not fit, become the first and the last.
func FirstAt(t time.Time) ID { return atMilli(t.UnixMilli()) }

func atMilli(ms int64) ID {
	ms -= epoch
	switch {
	case ms < 0:
		return 0
	case ms >= 1<<timeBits:
		return ^ID(0)
	}
	return ID(ms) << (nodeBits + counterBits)
}

// Time returns when id was made, to the millisecond.
func (id ID) Time() time.Time {
	return time.UnixMilli(int64(id>>(nodeBits+counterBits)) + epoch).UTC()
}

// Node returns who made id.
func (id ID) Node() uint16 { return uint16(id>>counterBits) & MaxNode }

// TextLen is the length of every id's text.
const TextLen = 13

// alphabet is Crockford's base32 in lower case: its characters sort as their values do, and none is
// mistaken for another.
const alphabet = "0123456789abcdefghjkmnpqrstvwxyz"

var decodeTable = func() (v [256]uint8) {
	for i := range v {
		v[i] = 0xff
	}
	for i := range alphabet {
		v[alphabet[i]] = uint8(i)
	}
	return v
}()

// Append appends the text of id: 13 characters that sort as ids do.
func (id ID) Append(dst []byte) []byte {
	for shift := 60; shift >= 0; shift -= 5 {
		dst = append(dst, alphabet[id>>shift&31])
	}
	return dst
}

// String returns the text of id.
func (id ID) String() string { return string(id.Append(make([]byte, 0, TextLen))) }

// ErrText is returned for what is not the text of an ID. In the archive it is an item that is not found.
var ErrText = errors.New("stanzaid: not an id")

// Parse reads the text of an ID. There is one text for each: upper case is none.
func Parse[T string | []byte](s T) (ID, error) {
	if len(s) != TextLen || decodeTable[s[0]] > 15 { // 13 characters are 65 bits
		return 0, ErrText
	}
	var id ID
	for i := 0; i < TextLen; i++ {
		v := decodeTable[s[i]]
		if v == 0xff {
			return 0, ErrText
		}
		id = id<<5 | ID(v)
	}
	return id, nil
}

// A Lease bounds the ids that may be given: above its floor, below its end. One for a process. Any goroutine.
type Lease struct {
	floor ID
	until atomic.Uint64
}

// NewLease returns a lease with the floor that the store kept: the end of the lease before. Until the
// first Extend it gives no id.
func NewLease(floor uint64) *Lease {
	l := &Lease{floor: ID(floor)}
	l.until.Store(floor)
	return l
}

// Floor returns the floor.
func (l *Lease) Floor() ID { return l.floor }

// Until returns the end.
func (l *Lease) Until() ID { return ID(l.until.Load()) }

// Extend moves the end on to until, which must be durable by now. A smaller one changes nothing.
func (l *Lease) Extend(until uint64) {
	for {
		old := l.until.Load()
		if until <= old || l.until.CompareAndSwap(old, until) {
			return
		}
	}
}

// Next returns the end to ask the store for at now: d from now, or from where the clock was in the run
// before. Ask again when Low says so.
func (l *Lease) Next(now time.Time, d time.Duration) uint64 {
	return uint64(max(FirstAt(now), l.floor) + ID(d.Milliseconds())<<(nodeBits+counterBits))
}

// Low reports whether less than d is left of the lease at now.
func (l *Lease) Low(now time.Time, d time.Duration) bool {
	return l.Until() < ID(l.Next(now, d))
}

// ErrLease is returned when the lease is used up.
var ErrLease = errors.New("stanzaid: no id below the durable lease")

// A Generator draws ids that grow. It is 16 bytes: not safe for two goroutines. One that is forgotten may
// give an id again while the lease's floor is ahead of the clock: see [SharedGenerator].
type Generator struct {
	Last  ID // the last id drawn, or seen in the archive
	lease *Lease
}

// NewGenerator returns a generator that goes on behind last: the last id of the entity's archive, or 0.
func NewGenerator(l *Lease, last ID) Generator { return Generator{last, l} }

// Next returns an id of node that is larger than every one before and as near to now (in Unix
// milliseconds) as can be: when the clock went back, or 4,096 ids of a millisecond are drawn, ids run
// ahead of it. The error is ErrLease.
func (g *Generator) Next(nowMilli int64, node uint16) (ID, error) {
	id := max(atMilli(nowMilli), firstAfter(g.lease.floor)) | ID(node&MaxNode)<<counterBits
	if id <= g.Last {
		// The next counter of the same millisecond if that is ours, else the next millisecond.
		if next := g.Last + 1; next.Node() == node&MaxNode && next>>(nodeBits+counterBits) == g.Last>>(nodeBits+
			counterBits) {
			id = next
		} else {
			id = firstAfter(g.Last) | ID(node&MaxNode)<<counterBits
		}
	}
	if id <= g.Last || id >= g.lease.Until() {
		return 0, ErrLease
	}
	g.Last = id
	return id, nil
}

// A Source draws ids for all entities of a process: none is given twice, to whichever entity, whatever is
// forgotten of an entity meanwhile. Any goroutine.
type SharedGenerator struct {
	lease *Lease
	last  atomic.Uint64
}

// NewSharedGenerator returns a source that draws below l. There must be one for each lease and process.
func NewSharedGenerator(l *Lease) *SharedGenerator { return &SharedGenerator{lease: l} }

// Lease returns what s draws below.
func (s *SharedGenerator) Lease() *Lease { return s.lease }

// Next is [Generator.Next] for the process.
func (s *SharedGenerator) Next(nowMilli int64, node uint16) (ID, error) {
	for {
		last := s.last.Load()
		g := Generator{ID(last), s.lease}
		id, err := g.Next(nowMilli, node)
		if err != nil {
			return 0, err
		}
		if s.last.CompareAndSwap(last, uint64(id)) {
			return id, nil
		}
	}
}

// firstAfter returns the first ID of the millisecond after id's; 0 for 0.
func firstAfter(id ID) ID {
	if id == 0 {
		return 0
	}
	return (id>>(nodeBits+counterBits) + 1) << (nodeBits + counterBits)
}
