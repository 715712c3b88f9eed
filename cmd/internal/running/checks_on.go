//go:build race

package running

// build are the flags with which the program is built: with the race detector, it checks its
// invariants, too.
var build = []string{"-tags", "invariants"}
