//go:build !cgo

package metrics

// storeInHeap: without cgo Pebble's cache and tables of writes are in Go's heap.
const storeInHeap = true
