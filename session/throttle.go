package session

import (
	"hash/maphash"
	"net/netip"
	"sync/atomic"
	"time"

	"canto/reactor"
)

// A Throttle limits events by key, as logins by address or by account. It is a fixed array of token
// buckets; a seeded hash of the key chooses the bucket. Two keys may share a bucket by chance: both are
// then limited more strictly, never less. Its memory does not grow. Its methods take no lock; any
// goroutine may call them.
type Throttle struct {
	seed    maphash.Seed
	buckets []atomic.Uint64 // upper half: tick of the last use; lower half: thousandths of tokens that are spent
}

// throttleBuckets makes a Throttle 512 KiB. With 1,000 keys under attack a key shares its bucket by 1.5
// per cent.
const throttleBuckets = 1 << 16

// NewThrottle returns a Throttle with full buckets.
func NewThrottle() *Throttle {
	return &Throttle{seed: maphash.MakeSeed(), buckets: make([]atomic.Uint64, throttleBuckets)}
}

// Take takes a token from the bucket of key, and returns false if it has none. The bucket holds rate.N
// tokens, and an empty one is full again after rate.Per; tokens come back evenly. A rate of zero is no
// limit.
func (t *Throttle) Take(key string, rate Rate, now reactor.Tick) bool {
	return t.take(maphash.String(t.seed, key), rate, now)
}

// TakeAddr is [Throttle.Take] for an IP address. All addresses of an IPv6 /64 are one key.
func (t *Throttle) TakeAddr(a netip.Addr, rate Rate, now reactor.Tick) bool {
	return t.take(t.addr(a), rate, now)
}

// addr is the hash of an address.
func (t *Throttle) addr(a netip.Addr) uint64 {
	return maphash.Comparable(t.seed, reactor.AddrKey(a))
}

// take takes a token from the bucket that the hash h chooses. It tries again when another goroutine has
// changed the bucket meanwhile.
func (t *Throttle) take(h uint64, rate Rate, now reactor.Tick) bool {
	if rate.N <= 0 || rate.Per <= 0 {
		return true
	}
	b := &t.buckets[h%throttleBuckets]
	perTick := uint64(rate.N) * 1000 * uint64(100*time.Millisecond) / uint64(rate.Per) // milli-tokens
	full := uint64(rate.N) * 1000
	for {
		old := b.Load()
		last, spent := reactor.Tick(old>>32), old&(1<<32-1)
		// Where rate.Per is so long that a tick brings less than a thousandth of a token (perTick is 0), the
		// time since the last use is multiplied first.
		if now > last {
			back := uint64(now-last) * perTick
			if perTick == 0 {
				back = uint64(now-last) * full * uint64(100*time.Millisecond) / uint64(rate.Per)
			}
			spent -= min(spent, back)
		}
		if spent+1000 > full {
			return false
		}
		if b.CompareAndSwap(old, uint64(now)<<32|(spent+1000)) {
			return true
		}
	}
}
