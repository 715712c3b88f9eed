package bench

// A flow is what one receiver has heard of one sender in one step: it tells the first time from the second,
// and order from disorder, without a memory of each stanza.
type sequence struct {
	key     uint64 // step and sender
	next    uint32 // all below have come, but for missing
	missing map[uint32]struct{}
}

// maxMissing bounds what a receiver remembers of one sender's gaps: what is missing beyond stays lost.
const maxMissing = 1 << 16

// arrival is what a stanza with a number was.
type arrival uint8

const (
	inOrder arrival = iota
	outOfOrder
	duplicate
)

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

// sequences are those of one receiver: most have one.
type sequences struct {
	one  sequence
	used bool
	more map[uint64]*sequence
}

func sequenceKey(step uint16, from uint32) uint64 { return uint64(step)<<32 | uint64(from) }

func (f *sequences) arrive(step uint16, from, seq uint32) arrival {
	return f.of(step, from).arrive(seq)
}

// of is the flow of one sender in a step; good until the next call.
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

// discardBefore drops what was heard in steps before first: their figures are closed.
func (f *sequences) discardBefore(first uint16) {
	if f.used && uint16(f.one.key>>32) < first {
		f.used = false
		f.one = sequence{}
	}
	for k := range f.more {
		if uint16(k>>32) < first {
			delete(f.more, k)
		}
	}
	if len(f.more) == 0 {
		f.more = nil
	}
}

// counters number what one sender sends: for each step and receiver from 0.
type counters struct {
	list []counter
	many map[uint64]uint32 // in place of list, when that is long
}

type counter struct {
	key  uint64
	next uint32
}

const manyReceivers = 1<<32 - 1 // the receiver of what goes to many

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
	if len(c.list) > 16 {
		c.many = make(map[uint64]uint32, 32)
		for _, e := range c.list {
			c.many[e.key] = e.next
		}
		c.list = nil
	}
	return 0
}

func (c *counters) reset() { *c = counters{} }
