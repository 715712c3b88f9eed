//go:build !race

package carbons_test

// raced: the race detector allocates.
const raced = false
