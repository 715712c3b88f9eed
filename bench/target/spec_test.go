package target

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func write(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "server.toml")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// certificate is one, in PEM.
func certificate(t *testing.T) []byte {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	b, err := x509.CreateCertificate(rand.Reader, c, c, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: b})
}

// A server that runs is described, not started.
func TestExternal(t *testing.T) {
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, certificate(t), 0o600); err != nil {
		t.Fatal(err)
	}
	e, err := Read(write(t, `
server   = "127.0.0.1:5222"
direct   = "[::1]:5223"
user     = "load%d"
first    = 7
password = "x"
pids     = [1, 2]
metrics  = "http://127.0.0.1:5290/metrics"
sources  = ["127.0.0.9"]
ca       = "`+ca+`"
`))
	if err != nil {
		t.Fatal(err)
	}
	s, err := e.Start(context.Background(), Requirements{})
	if err != nil {
		t.Fatal(err)
	}
	if s.Name != "server" || s.Addr.String() != "127.0.0.1:5222" || s.Direct.String() != "[::1]:5223" ||
		s.Domain != "localhost" || s.First != 7 ||
		len(s.PIDs) != 2 || s.Sources[0].String() != "127.0.0.9" || len(s.CA) == 0 || s.User != "load%d" {
		t.Errorf("%+v", s.Target)
	}
	if err := s.Stop(); err != nil || s.Alive() != nil {
		t.Error(err)
	}
}

// What is wrong is one line.
func TestMistakes(t *testing.T) {
	for text, want := range map[string]string{
		"sever = 'x'\n":                                  `:1: there is no key "sever": did you mean "server"?`,
		"name = 'x'\n":                                   "which server?",
		"peer = 'openfire'\n":                            `peer is "openfire": one of canto, prosody, ejabberd`,
		"peer = 'canto'\nserver = 'x:1'\n":               "set one of them",
		"peer = 'prosody'\ncommit = 'HEAD'\n":            "commit goes with",
		"peer = 'canto'\nprogram = 'x'\ncommit = 'HEAD'": "commit goes with",
	} {
		if _, err := Read(write(t, text)); err == nil || !strings.Contains(err.Error(), want) ||
			strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: %v", text, err)
		}
	}
	for text, want := range map[string]string{
		"server = 'x'\n":                               `not the address of a server: write host:port`,
		"server = '192.0.2.1:5222'\n":                  "--domain",
		"server = '127.0.0.1:1'\nca = '/none'\n":       "CA's certificate can't be read",
		"server = '127.0.0.1:1'\nsources = ['here']\n": `"here" is not an address to connect from`,
		"peer = 'canto'\nprogram = '/none/canto'\n":    "/none/canto",
	} {
		e, err := Read(write(t, text))
		if err == nil {
			_, err = e.Start(t.Context(), Requirements{Dir: t.TempDir(), Accounts: 1})
		}
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: %v", text, err)
		}
	}
}
