//go:build !race

package running

// build are the flags with which the program is built: none without the race detector.
var build []string
