// Package stanzaid makes the ids of archived messages: their stanza-ids (XEP-0359), which are also
// the uids in the archive (XEP-0313). An id is 64 bits that sort by time and name the node that
// made it. On the wire it is encrypted: see [Cipher].
//
//	| 42 bits: milliseconds since 2020 | 10 bits: node | 12 bits: counter |
//
// # The lease
//
// An id must never be given twice, also not after a crash while the clock went back. So ids are
// drawn below the end of a [Lease], which was made durable before. The store keeps that end; the
// caller extends the lease long before it is reached. After a restart the old end is the floor, and
// every new id is above it. Where the lease is used up there is no id ([ErrLease]) until the next
// end is durable: a message that is not archived does less harm than two messages with one id.
//
// # How the parts work together
//
// A [SharedGenerator] draws the ids for all entities of a process. A single generator for each
// archive would draw ids again if its last id was forgotten while the floor is ahead of the clock.
// Callers pass the time; the package reads no clock and uses no randomness.
package stanzaid

import (
	"errors"
	"sync/atomic"
	"time"
)

// An ID is the id of one message. The zero ID is none. IDs are compared with <.
type ID uint64

// The bits of an ID. They are stored and never change.
const (
	timeBits    = 42
	nodeBits    = 10
	counterBits = 12

	// MaxNode is the largest node number.
	MaxNode = 1<<nodeBits - 1
	// PerMilli is the number of ids of one node in one millisecond.
	PerMilli = 1 << counterBits
)

// epoch is 2020-01-01 UTC in Unix milliseconds, where the milliseconds of an ID begin. They last
// until the year 2159. It is part of stored ids and never changes.
const epoch = 1_577_836_800_000

// FirstAt returns the smallest ID of a moment: of node 0 and counter 0. A query by time begins with
// it. Moments before the epoch give the first ID, those that don't fit the last.
func FirstAt(t time.Time) ID { return atMilli(t.UnixMilli()) }

// atMilli is FirstAt for Unix milliseconds.
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

// Time returns when id was made, to the millisecond. It may be ahead of the clock, see
// [Generator.Next].
func (id ID) Time() time.Time {
	return time.UnixMilli(int64(id>>(nodeBits+counterBits)) + epoch).UTC()
}

// Node returns the number of the node that made id.
func (id ID) Node() uint16 { return uint16(id>>counterBits) & MaxNode }

// A Lease bounds the ids that may be given: above its floor, below its end. There is one for a
// process. Any goroutine.
type Lease struct {
	floor ID            // the end of the lease before: ids below it may have been given
	until atomic.Uint64 // the end: ids below it may be given
}

// NewLease returns a lease with the floor that the store has kept, the end of the lease before. It
// gives no id until the first Extend.
func NewLease(floor uint64) *Lease {
	l := &Lease{floor: ID(floor)}
	l.until.Store(floor)
	return l
}

// Floor returns the floor of l.
func (l *Lease) Floor() ID { return l.floor }

// Until returns the end of l.
func (l *Lease) Until() ID { return ID(l.until.Load()) }

// Extend moves the end to until, which must be durable in the store by now. An earlier end changes
// nothing.
func (l *Lease) Extend(until uint64) {
	for {
		old := l.until.Load()
		if until <= old || l.until.CompareAndSwap(old, until) {
			return
		}
	}
}

// Next returns the end to ask the store for at now: d after now, or d after the floor if the clock
// shows less.
func (l *Lease) Next(now time.Time, d time.Duration) uint64 {
	return uint64(max(FirstAt(now), l.floor) + ID(d.Milliseconds())<<(nodeBits+counterBits))
}

// Low reports whether less than d is left of the lease at now, so that the caller should extend it.
func (l *Lease) Low(now time.Time, d time.Duration) bool {
	return l.Until() < ID(l.Next(now, d))
}

// ErrLease is returned when the lease is used up: the caller has to wait until an extension is
// durable.
var ErrLease = errors.New("stanzaid: no id below the durable lease")

// A Generator draws ids that grow. One goroutine at a time. If its state is lost while the floor of
// the lease is ahead of the clock, a new one draws the same ids again: see [SharedGenerator].
type Generator struct {
	Last  ID // the last id that was drawn, or that the archive has
	lease *Lease
}

// NewGenerator returns a generator whose ids come after last: the last id of an archive, or 0.
func NewGenerator(l *Lease, last ID) Generator { return Generator{last, l} }

// Next returns an id of node that is larger than every one before, and as near to nowMilli, in Unix
// milliseconds, as possible. Ids run ahead of the clock when it went back, or when 4,096 ids of one
// millisecond are drawn. They are behind it while the lease ends before the present time, as after a jump of
// the clock. The error is [ErrLease].
func (g *Generator) Next(nowMilli int64, node uint16) (ID, error) {
	first := firstAfter(g.lease.floor) | ID(node&MaxNode)<<counterBits
	id := max(atMilli(nowMilli)|ID(node&MaxNode)<<counterBits, first)
	if id <= g.Last || id >= g.lease.Until() {
		// The next counter of the same millisecond, if the last id was of this node and the counter does not
		// overflow; else the next millisecond.
		if next := g.Last + 1; next.Node() == node&MaxNode && next>>(nodeBits+counterBits) == g.Last>>(nodeBits+
			counterBits) {
			id = max(next, first)
		} else {
			id = max(firstAfter(g.Last)|ID(node&MaxNode)<<counterBits, first)
		}
	}
	if id <= g.Last || id >= g.lease.Until() {
		return 0, ErrLease
	}
	g.Last = id
	return id, nil
}

// A SharedGenerator draws ids for all entities of a process. No id is given twice, to whichever
// entity. There must be one for each lease. Any goroutine: a draw is one compare-and-swap.
type SharedGenerator struct {
	lease *Lease
	last  atomic.Uint64 // the last ID that was drawn
}

// NewSharedGenerator returns a generator that draws ids below the end of l.
func NewSharedGenerator(l *Lease) *SharedGenerator { return &SharedGenerator{lease: l} }

// Lease returns the lease of s.
func (s *SharedGenerator) Lease() *Lease { return s.lease }

// Next returns a new id of node: see [Generator.Next].
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

// firstAfter returns the first ID of the millisecond after that of id; 0 for 0.
func firstAfter(id ID) ID {
	if id == 0 {
		return 0
	}
	return (id>>(nodeBits+counterBits) + 1) << (nodeBits + counterBits)
}
