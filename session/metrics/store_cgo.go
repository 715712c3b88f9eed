//go:build cgo

package metrics

// storeInHeap: with cgo, Pebble's block cache and memtables are allocated by malloc.
const storeInHeap = false
