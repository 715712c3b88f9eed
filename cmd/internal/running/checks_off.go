//go:build !race

package running

var build []string
