//go:build invariants || race

package xmlstream

// invariants is true in builds with -tags invariants or -race. A method of an Element that is no longer valid
// then panics, Feed works on a copy of the fed bytes, and bytes that have expired are overwritten, so that a
// view that is kept too long is noticed.
const invariants = true
