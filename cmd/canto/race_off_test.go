//go:build !race

package main

// raced: the tests are built without the race detector.
const raced = false
