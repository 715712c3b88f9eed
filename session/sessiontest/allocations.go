package sessiontest

import (
	"math"
	"runtime"
)

// Allocations are those that once makes for each of the messages that it sends, once warm: the least of ten
// measurements. A collection of garbage, which empties pools, and the goroutines of the store only add to a
// measurement; what the path of a message itself allocates is in each.
func Allocations(messages int, once func()) float64 {
	for range 20 {
		once()
	}
	least := math.Inf(1)
	var before, after runtime.MemStats
	for range 10 {
		runtime.ReadMemStats(&before)
		once()
		runtime.ReadMemStats(&after)
		least = min(least, float64(after.Mallocs-before.Mallocs)/float64(messages))
	}
	return least
}
