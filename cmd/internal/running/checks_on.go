//go:build race

package running

// build are the flags for the program: under the race detector it checks itself, too.
var build = []string{"-tags", "invariants"}
