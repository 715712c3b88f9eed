//go:build cgo

package metrics

// storeInHeap: with cgo Pebble's cache and tables of writes are malloc's.
const storeInHeap = false
