//go:build !invariants && !race

package xmlstream

// invariants is false in usual builds: see invariants_on.go. The checks cost nothing then.
const invariants = false
