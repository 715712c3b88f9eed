//go:build race

package main

// raced: the tests are built with the race detector. Pebble then keeps blocks and memtables in Go's heap, in
// every other process, so that the detector sees them.
const raced = true
