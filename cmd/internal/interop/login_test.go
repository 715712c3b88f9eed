//go:build interop

package interop

import (
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"canto/session/sasl"
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

// A rawClient is a stream over TLS on which a test writes elements itself.
type rawClient struct {
	t    *testing.T
	conn *tls.Conn
}

// rawLogin opens a stream to localhost, which has direct TLS.
func rawLogin(t *testing.T, port string, version uint16) *rawClient {
	t.Helper()
	conn, err := tls.Dial("tcp", "localhost:"+port, &tls.Config{InsecureSkipVerify: true,
		ServerName: "localhost", MinVersion: version, MaxVersion: version})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	c := &rawClient{t, conn}
	c.ask("<stream:stream to='localhost' version='1.0' xmlns='jabber:client' "+
		"xmlns:stream='http://etherx.jabber.org/streams'>", "</stream:features>")
	return c
}

// ask writes text, and reads until one of ends has come.
func (c *rawClient) ask(text string, ends ...string) (got string) {
	c.t.Helper()
	c.conn.SetDeadline(time.Now().Add(15 * time.Second))
	if _, err := c.conn.Write([]byte(text)); err != nil {
		c.t.Fatal(err)
	}
	b := make([]byte, 4096)
	for {
		n, err := c.conn.Read(b)
		got += string(b[:n])
		for _, end := range ends {
			if strings.Contains(got, end) {
				return got
			}
		}
		if err != nil {
			c.t.Fatalf("%v after %s", err, got)
		}
	}
}

// binding returns what the client can bind to.
func (c *rawClient) binding() (b sasl.ChannelBinding) {
	cs := c.conn.ConnectionState()
	b.TLS13 = cs.Version == tls.VersionTLS13
	b.Exporter, _ = cs.ExportKeyingMaterial("EXPORTER-Channel-Binding", nil, 32)
	sum := sha256.Sum256(cs.PeerCertificates[0].Raw)
	b.EndPoint, b.Unique = sum[:], cs.TLSUnique
	return b
}

// Tokens by each channel binding of TLS 1.2 and 1.3, on the wire: a token is good on a later connection, with
// the binding of that connection and its own mechanism only (S08).
func TestTokenBindings(t *testing.T) {
	const agent = "<user-agent id='22222222-4d72-4749-b3d3-740edbf87770'/>"
	s := start(t, "")
	pairs(s, "bindings")
	p := pairOf(t, s, "bindings", "direct")
	local, _, _ := strings.Cut(p.romeo.address, "@")
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		c := rawLogin(t, p.port(), version)
		mechanisms := sasl.TokenMechanisms(c.binding())
		if want := map[uint16]int{tls.VersionTLS12: 4, tls.VersionTLS13: 3}[version]; len(mechanisms) != want {
			t.Fatalf("%d mechanisms in %x", len(mechanisms), version)
		}
		for _, m := range mechanisms {
			plain := base64.StdEncoding.EncodeToString([]byte("\x00" + local + "\x00" + p.romeo.password))
			got := rawLogin(t, p.port(), version).ask("<authenticate xmlns='urn:xmpp:sasl:2' mechanism='PLAIN'>"+
				"<initial-response>"+plain+"</initial-response>"+agent+"<request-token xmlns='urn:xmpp:fast:0' "+
				"mechanism='"+m.String()+"'/></authenticate>", "</success>", "</failure>")
			_, token, _ := strings.Cut(got, " token='")
			token, _, _ = strings.Cut(token, "'")
			login := func(by sasl.TokenMechanism, b func(sasl.ChannelBinding) sasl.ChannelBinding) string {
				c := rawLogin(t, p.port(), version)
				proof := by.InitiatorMAC(sasl.SecretString(token), b(c.binding()))
				return c.ask("<authenticate xmlns='urn:xmpp:sasl:2' mechanism='"+by.String()+"'><initial-response>"+
					string(sasl.AppendTokenMessage(local, proof))+"</initial-response>"+agent+
					"<fast xmlns='urn:xmpp:fast:0'/></authenticate>", "</success>", "</failure>")
			}
			own := func(b sasl.ChannelBinding) sasl.ChannelBinding { return b }
			other := func(sasl.ChannelBinding) sasl.ChannelBinding { return c.binding() } // of another connection
			if got := login(m, own); !strings.Contains(got, "<success ") {
				t.Errorf("%x, %v: %s", version, m, got)
			}
			got = login(m, other)
			tied := m == sasl.TokenExporter || m == sasl.TokenUnique
			if strings.Contains(got, "<not-authorized") != tied {
				t.Errorf("%x, %v, with the binding of another connection: %s", version, m, got)
			}
			for _, by := range mechanisms {
				if by == m {
					continue
				}
				if got := login(by, own); !strings.Contains(got, "<not-authorized") {
					t.Errorf("%x, a token for %v by %v: %s", version, m, by, got)
				}
			}
		}
	}
}
