//go:build !race

package reactor_test

const raced = false
