package reactor_test

import (
	"testing"

	"canto/reactor"
)

// What every connection costs, in bytes.
func TestBudget(t *testing.T) {
	for name, max := range map[string]uintptr{"Conn": 128, "tlsConn": 160, "Timer": 40, "gnetConn": 64, "webConn": 48} {
		if n := reactor.Sizes()[name]; n > max || n == 0 {
			t.Errorf("a %s is %d bytes, of at most %d", name, n, max)
		}
	}
}
