//go:build !invariants && !race

package xmlstream

const checked = false

func poison([]byte) {}
