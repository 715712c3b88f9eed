package bench

// A sequence is what one receiver has received from one sender in one step. It tells a first
// delivery from a second one, and the right order from a wrong one, without storing each number.
type sequence struct {
	key     uint64              // step and sender; see sequenceKey
	next    uint32              // all numbers below it have come, except for the missing ones
	missing map[uint32]struct{} // numbers below next that have not come
}

// maxMissing bounds how many missing numbers are stored. Beyond that, a number that comes late
// counts as a duplicate.
const maxMissing = 1 << 16

// An arrival is what the receiver makes of a sequence number.
type arrival uint8

const (
	inOrder arrival = iota
	outOfOrder
	duplicate
)

// arrive notes that the stanza with number seq has come.
func (f *sequence) arrive(seq uint32) arrival {
	switch {
	case seq == f.next:
		f.next++
		return inOrder
	case seq > f.next:
		for ; f.next < seq; f.next++ {
			if len(f.missing) < maxMissing {
				if f.missing == nil {
					f.missing = make(map[uint32]struct{})
				}
				f.missing[f.next] = struct{}{}
			}
		}
		f.next++
		return inOrder
	}
	if _, ok := f.missing[seq]; ok {
		delete(f.missing, seq)
		return outOfOrder
	}
	return duplicate
}

// sequences are those of one receiver. Most receivers have one sender, which needs no map.
type sequences struct {
	one  sequence // the first sender, if used
	used bool
	more map[uint64]*sequence
}

// sequenceKey combines a step and a sender.
func sequenceKey(step uint16, from uint32) uint64 { return uint64(step)<<32 | uint64(from) }

// arrive is sequence.arrive of a sender in a step.
func (f *sequences) arrive(step uint16, from, seq uint32) arrival {
	return f.of(step, from).arrive(seq)
}

// of returns the sequence of a sender in a step. It is good until the next call.
func (f *sequences) of(step uint16, from uint32) *sequence {
	k := sequenceKey(step, from)
	if !f.used {
		f.one, f.used = sequence{key: k}, true
	}
	if f.one.key == k {
		return &f.one
	}
	g := f.more[k]
	if g == nil {
		if f.more == nil {
			f.more = make(map[uint64]*sequence)
		}
		g = &sequence{key: k}
		f.more[k] = g
	}
	return g
}

// discardBefore drops the sequences of steps before first, whose counts are final, but not those of steps
// that keep picks.
func (f *sequences) discardBefore(first uint16, keep func(step uint16) bool) {
	over := func(key uint64) bool { return uint16(key>>32) < first && !keep(uint16(key>>32)) }
	if f.used && over(f.one.key) {
		f.used = false
		f.one = sequence{}
	}
	for k := range f.more {
		if over(k) {
			delete(f.more, k)
		}
	}
	if len(f.more) == 0 {
		f.more = nil
	}
}

// counters give each stanza of one sender its sequence number: from 0 for each step and receiver.
type counters struct {
	list []counter         // of a few receivers
	many map[uint64]uint32 // in place of list when there are more than maxList receivers
}

// maxList bounds the list of counters, which is searched from its beginning: a map is faster beyond that.
const maxList = 16

// A counter is the next sequence number of a step and receiver.
type counter struct {
	key  uint64
	next uint32
}

// manyReceivers stands for the receiver of a stanza that goes to several clients, or to the server.
const manyReceivers = 1<<32 - 1 // the receiver of stanzas to several clients

// next returns the next number for a receiver in a step.
func (c *counters) next(step uint16, to uint32) uint32 {
	k := sequenceKey(step, to)
	if c.many != nil {
		n := c.many[k]
		c.many[k] = n + 1
		return n
	}
	for i := range c.list {
		if c.list[i].key == k {
			c.list[i].next++
			return c.list[i].next - 1
		}
	}
	c.list = append(c.list, counter{k, 1})
	if len(c.list) > maxList {
		c.many = make(map[uint64]uint32, 2*maxList)
		for _, e := range c.list {
			c.many[e.key] = e.next
		}
		c.list = nil
	}
	return 0
}

// reset forgets all numbers.
func (c *counters) reset() { *c = counters{} }
