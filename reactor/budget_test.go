package reactor_test

import (
	"os"
	"strings"
	"testing"

	"canto/reactor"
)

// What every connection costs, in bytes.
func TestBudget(t *testing.T) {
	for name, max := range map[string]uintptr{"Conn": 128, "tlsConn": 160, "Timer": 40, "gnetConn": 48,
		"webConn": 48} {
		if n := reactor.Sizes()[name]; n > max || n == 0 {
			t.Errorf("a %s is %d bytes, of at most %d", name, n, max)
		}
	}
}

// gnet.go calls two unexported functions of gnet as they are in one version. A change of the
// version fails here, so that those functions are compared again.
func TestEngineVersion(t *testing.T) {
	mod, err := os.ReadFile("../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(mod), "github.com/panjf2000/gnet/v2 v2.9.7\n") {
		t.Error("go.mod names another gnet: are newStreamConn and (*eventloop).register0 what gnet.go says " +
			"they are?")
	}
}
