package bench

import (
	"maps"

	"canto/bench/sampler"
)

// slabGrowth is by how much the kernel's caches have grown.
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
