//go:build !invariants

package xmlstream

const invariants = false
