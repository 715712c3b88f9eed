//go:build race

package reactor_test

// raced: sync.Pool forgets some of what it is given, on purpose.
const raced = true
