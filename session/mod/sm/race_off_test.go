//go:build !race

package sm_test

// raced: the race detector allocates.
const raced = false
