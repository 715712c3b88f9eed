package session

import (
	"hash/maphash"
	"net/netip"
	"sync/atomic"
	"time"

	"canto/reactor"
)

// A Throttle is a fixed set of token buckets, chosen by a seeded hash of what is limited: an
// address, an account. Two keys may share a bucket, which makes it stricter by chance, never wider;
// nothing a peer does makes it grow. Any goroutine.
type Throttle struct {
	seed    maphash.Seed
	buckets []atomic.Uint64 // tick of the last use, and thousandths of tokens spent
}

const throttleBuckets = 1 << 16

// NewThrottle makes one.
func NewThrottle() *Throttle {
	return &Throttle{seed: maphash.MakeSeed(), buckets: make([]atomic.Uint64, throttleBuckets)}
}

// Take takes one token of key's bucket, which holds rate.N and fills in rate.Per; false: it is empty.
// A rate of zero is no limit. Spent tokens come back evenly.
func (t *Throttle) Take(key string, rate Rate, now reactor.Tick) bool {
	return t.take(maphash.String(t.seed, key), rate, now)
}

// TakeAddr is Take for an address: an IPv6 host is its /64.
func (t *Throttle) TakeAddr(a netip.Addr, rate Rate, now reactor.Tick) bool {
	return t.take(t.addr(a), rate, now)
}

func (t *Throttle) addr(a netip.Addr) uint64 {
	return maphash.Comparable(t.seed, reactor.AddrKey(a))
}

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
