//go:build interop

package interop

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"canto/cmd/internal/running"
)

// withProsody says that the tests of the archive run against Debian's Prosody and not against Canto. So a
// client's script is checked by itself: what fails against both servers is a fault of the script.
var withProsody = os.Getenv("CANTO_INTEROP_PEER") == "prosody"

// A host is a server that can be started again on its data and its ports after Server.Stop.
type host struct {
	*running.Server
	restart func()
}

// newHost starts a server with an archive, and makes two accounts for each name.
func newHost(t *testing.T, names ...string) *host {
	t.Helper()
	if !withProsody {
		s := start(t, "")
		pairs(s, names...)
		return &host{s, s.Serve}
	}
	s := &running.Server{T: t, Dir: t.TempDir(), Plain: loopback(t), Direct: loopback(t)}
	h := &host{s, func() { startProsody(t, s) }}
	configureProsody(t, s, names)
	h.restart()
	t.Cleanup(func() { s.Stop(syscall.SIGTERM) })
	return h
}

// loopback returns an address on which nothing listens at present.
func loopback(t *testing.T) string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

// prosodyConfig archives every message, and ends a push registration at its first error, as Canto does.
const prosodyConfig = `run_as_root = true
pidfile = "%[1]s/prosody.pid"
data_path = "%[1]s/prosody"
log = { { levels = { min = "warn" }; to = "console" } }
interfaces = { "127.0.0.1" }
c2s_ports = { %[2]s }
c2s_direct_tls_ports = { %[3]s }
authentication = "internal_plain"
storage = "internal"
ssl = { certificate = "%[1]s/data/localhost.crt"; key = "%[1]s/data/localhost.key" }
modules_enabled = { "posix"; "disco"; "roster"; "saslauth"; "tls"; "offline"; "presence"; "message"; "iq";
	"ping"; "version"; "time"; "private"; "blocklist"; "carbons"; "mam"; "cloud_notify" }
modules_disabled = { "s2s"; "s2s_auth_certs"; "http"; "admin_shell"; "admin_socket" }
default_archive_policy = true
archive_expires_after = "never"
storage_archive_item_limit = 1000000
push_max_errors = 1
VirtualHost "localhost"
`

// configureProsody writes the configuration, the certificate and the accounts.
func configureProsody(t *testing.T, s *running.Server, names []string) {
	t.Helper()
	files := make(map[string]string)
	port := func(addr string) string { _, p, _ := net.SplitHostPort(addr); return p }
	files["prosody.cfg.lua"] = fmt.Sprintf(prosodyConfig, s.Dir, port(s.Plain), port(s.Direct))
	files["data/localhost.crt"], files["data/localhost.key"] = selfSigned(t)
	for _, n := range names {
		for _, u := range users(n) {
			local, _, _ := strings.Cut(u.address, "@")
			// Prosody escapes a byte of a file's name as %xx.
			local = strings.NewReplacer(".", "%2e", "-", "%2d").Replace(local)
			files["prosody/localhost/accounts/"+local+".dat"] = "return { [\"password\"] = \"" + u.password + "\" };\n"
		}
	}
	writeFiles(t, s.Dir, files)
}

// selfSigned makes a certificate for localhost, in PEM.
func selfSigned(t *testing.T) (crt, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()),
		Subject:      pkix.Name{CommonName: "localhost"},
		DNSNames:     []string{"localhost"},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(24 * time.Hour),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}))
}

// startProsody starts the process, and waits until it takes connections.
func startProsody(t *testing.T, s *running.Server) {
	t.Helper()
	s.Err = bytes.Buffer{}
	s.Cmd = exec.Command("prosody", "-F", "--config", filepath.Join(s.Dir, "prosody.cfg.lua"))
	s.Cmd.Stdout, s.Cmd.Stderr = &s.Err, &s.Err
	if err := s.Cmd.Start(); err != nil {
		t.Fatalf("prosody did not start: %v", err)
	}
	for end := time.Now().Add(waitTimeout); ; time.Sleep(20 * time.Millisecond) {
		c, err := net.Dial("tcp", s.Direct)
		if err == nil {
			c.Close()
			return
		}
		if time.Now().After(end) {
			s.Stop(syscall.SIGKILL)
			t.Fatalf("prosody did not start: %v: %s", err, &s.Err)
		}
	}
}
