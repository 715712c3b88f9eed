//go:build invariants || race

package xmlstream

// invariants is true in builds with -tags invariants or -race: a stale Element panics, and the bytes of
// expired ones are overwritten.
const invariants = true
