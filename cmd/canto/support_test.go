package main

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"canto/session/mod"
)

var rewrite = flag.Bool("rewrite", false, "write docs/support.md")

// docs/support.md is printed from the manifests.
func TestSupportPage(t *testing.T) {
	var b strings.Builder
	b.WriteString("# What is supported\n\nPrinted from the modules' manifests: `go test ./cmd/canto -run " +
		"SupportPage -rewrite`. The kernel is\nRFC 6120 (client to server) and the routing of RFC 6121 " +
		"section 8; addresses are RFC 7622.\n\n| module | specification | covered | default |\n|---|---|---|---|\n")
	for _, m := range mod.All {
		on := "on"
		switch {
		case m.Off:
			on = "off"
		case mod.RunsAtService(&m):
			on = "on, at service hosts too"
		}
		if m.Name == "" || m.Spec == "" || m.Summary == "" || m.Cases == "" || m.New == nil {
			t.Errorf("the manifest of %q is incomplete", m.Name)
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", m.Name, m.Spec, m.Cases, on)
	}
	b.WriteString("\nNot there yet: server to server, rooms (XEP-0045), PEP (XEP-0163), " +
		"WebSocket (RFC 7395), BOSH.\n")
	const file = "../../docs/support.md"
	if *rewrite {
		if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(file)
	if err != nil || string(got) != b.String() {
		t.Errorf("docs/support.md is not what the manifests say: run go test ./cmd/canto -run SupportPage "+
			"-rewrite (%v)", err)
	}
}
