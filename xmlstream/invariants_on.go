//go:build invariants

package xmlstream

// invariants is true in builds with -tags invariants: a stale Element panics, and the bytes of expired ones are
// overwritten.
const invariants = true
