//go:build race

package main

// raced: the store has its blocks and tables in the heap in every other process, for the detector to see
// them.
const raced = true
