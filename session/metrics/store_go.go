//go:build !cgo

package metrics

// storeInHeap: without cgo, Pebble's block cache and memtables are in Go's heap.
const storeInHeap = true
