package bench

import (
	"maps"

	"canto/bench/sampler"
)

// slabGrowth is how many bytes each of the kernel's slab caches has grown by since the run began.
// Caches that have not grown, or by less than a hundredth of all, are left out. It is nil where the
// kernel does not tell: /proc/slabinfo is root's.
func (c *collector) slabGrowth() map[string]int64 {
	now, err := sampler.Slabs()
	if err != nil || c.slabs == nil {
		return nil
	}
	var all int64
	for name, n := range now {
		now[name] = n - c.slabs[name]
		all += max(now[name], 0)
	}
	maps.DeleteFunc(now, func(_ string, n int64) bool { return n <= 0 || n < all/100 })
	return now
}
