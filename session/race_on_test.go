//go:build race

package session_test

// raced: sync.Pool forgets some of what it is given, on purpose.
const raced = true
