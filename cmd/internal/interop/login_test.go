//go:build interop

package interop

import (
	"path/filepath"
	"strings"
	"testing"
)

// Clients that log in by SASL2, Bind 2 and FAST, with TLS 1.2 and 1.3. slixmpp and aioxmpp log in by SASL of
// RFC 6120 in TestClients.
func TestLogins(t *testing.T) {
	t.Cleanup(removeGoClients)
	for _, version := range []string{"1.2", "1.3"} {
		s := start(t, version)
		pairs(s, "login.go", "login.js")
		t.Run("TLS "+version+"/go-xmpp", func(t *testing.T) {
			p := pairOf(t, s, "login.go", "starttls")
			p.run(filepath.Join(goClients(t), "gologin"), p.port(), p.how, p.romeo.address, p.romeo.password)
			list := s.Output("user", "clients", p.romeo.address)
			if !strings.HasPrefix(list, "d4565fa7-4d72-4749-b3d3-740edbf87770\tgologin\ta test\t") ||
				!strings.HasSuffix(list, "\tno token\n") {
				t.Errorf("its client: %q", list)
			}
		})
		t.Run("TLS "+version+"/@xmpp/client", func(t *testing.T) {
			p := pairOf(t, s, "login.js", "direct")
			xmppjs(p, "login.js")
			list := s.Output("user", "clients", p.romeo.address)
			if !strings.Contains(list, "\tHT-SHA-256-NONE until ") {
				t.Errorf("its client: %q", list)
			}
		})
	}
}
