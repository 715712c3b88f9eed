//go:build tlspeers

package reactor_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"canto/reactor"
)

// A tool is a foreign TLS program that we talk to over its standard input and output.
type tool struct {
	t    *testing.T
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  chan []byte
	seen []byte
}

func start(t *testing.T, name string, args ...string) *tool {
	t.Helper()
	p := &tool{t: t, cmd: exec.Command(name, args...), out: make(chan []byte, 1000)}
	var err error
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.cmd.Stderr = p.cmd.Stdout
	if err := p.cmd.Start(); err != nil {
		t.Fatalf("%v: install openssl and gnutls-bin", err)
	}
	go func() {
		defer close(p.out)
		for {
			b := make([]byte, 64<<10)
			n, err := out.Read(b)
			if err != nil {
				return
			}
			p.out <- b[:n]
		}
	}()
	t.Cleanup(func() { p.cmd.Process.Kill(); p.cmd.Wait() })
	return p
}

func (p *tool) write(s string) {
	p.t.Helper()
	if _, err := io.WriteString(p.in, s); err != nil {
		p.t.Fatal(err)
	}
}

// await reads until s has come.
func (p *tool) await(s string) {
	p.t.Helper()
	late := time.After(10 * time.Second)
	for !bytes.Contains(p.seen, []byte(s)) {
		select {
		case b, ok := <-p.out:
			if p.seen = append(p.seen, b...); !ok {
				p.t.Fatalf("it ended before %q: %s", s, p.seen)
			}
		case <-late:
			p.t.Fatalf("%q does not come: %s", s, p.seen)
		}
	}
	p.seen = p.seen[bytes.Index(p.seen, []byte(s))+len(s):]
}

var tools = map[uint16][2]string{ // as OpenSSL and GnuTLS name a suite
	tls.TLS_AES_128_GCM_SHA256:       {"TLS_AES_128_GCM_SHA256", "+AES-128-GCM"},
	tls.TLS_AES_256_GCM_SHA384:       {"TLS_AES_256_GCM_SHA384", "+AES-256-GCM"},
	tls.TLS_CHACHA20_POLY1305_SHA256: {"TLS_CHACHA20_POLY1305_SHA256", "+CHACHA20-POLY1305"},
}

// Our server against OpenSSL's client, with KeyUpdates from both, and resumed.
func TestPeerOpenSSLClient(t *testing.T) {
	for _, name := range tools {
		h := newEnds()
		_, addr := serve(t, reactor.Config{Listeners: []reactor.Listener{{Addr: "127.0.0.1:0", Handler: h,
			DirectTLS: serverTLS(t)}}})
		session := filepath.Join(t.TempDir(), "session")
		for round := range 2 {
			args := []string{"s_client", "-connect", addr, "-tls1_3", "-ciphersuites", name[0], "-alpn", "xmpp-client"}
			if args = append(args, "-sess_out", session); round > 0 {
				args = append(args, "-sess_in", session)
			}
			p := start(t, "openssl", args...)
			if p.await("\n---\n"); round > 0 {
				p.await("Reused, TLSv1.3")
			}
			p.write("first line\n")
			p.await("first line")
			for i := range 5 {
				p.write("k\n") // its own key; what is read with a command is thrown away
				p.await("KEYUPDATE")
				p.write(fmt.Sprint("line with new keys ", i, "\n"))
				p.await(fmt.Sprint("line with new keys ", i))
				p.write("K\n") // and ours
				p.await("KEYUPDATE")
				p.write(fmt.Sprint("line with both new ", i, "\n"))
				p.await(fmt.Sprint("line with both new ", i))
				c := h.last.Load()
				on(c, func() { c.Renew(1) })
				p.write(fmt.Sprint("line after ours ", i, "\n"))
				p.await(fmt.Sprint("line after ours ", i))
			}
			p.write("Q\n")
			if err := h.reason(t); err != nil {
				t.Errorf("%s: it ended with %v", name[0], err)
			}
			p.cmd.Wait()
		}
		if n := h.detached.Load(); n != 2 {
			t.Errorf("%s: %d are detached", name[0], n)
		}
	}
}

// Our server against GnuTLS's client.
func TestPeerGnuTLSClient(t *testing.T) {
	for _, name := range tools {
		h := newEnds()
		_, addr := serve(t, reactor.Config{Listeners: []reactor.Listener{{Addr: "127.0.0.1:0", Handler: h,
			DirectTLS: serverTLS(t)}}})
		_, port, _ := net.SplitHostPort(addr)
		p := start(t, "gnutls-cli", "--insecure", "--no-ca-verification", "--alpn", "xmpp-client", "-p", port,
			"127.0.0.1",
			"--priority", "NORMAL:-VERS-ALL:+VERS-TLS1.3:-CIPHER-ALL:"+name[1], "--inline-commands")
		p.await("Simple Client Mode")
		for i := range 3 { // GnuTLS takes 8 KeyUpdates a second
			p.write(fmt.Sprint("line ", i, "\n"))
			p.await(fmt.Sprint("line ", i))
			p.write("^rekey^\n")
			p.await("Rekey was completed")
			p.write(fmt.Sprint("with new keys ", i, "\n"))
			p.await(fmt.Sprint("with new keys ", i))
			c := h.last.Load()
			on(c, func() { c.Renew(1) })
			p.write(fmt.Sprint("after ours ", i, "\n"))
			p.await(fmt.Sprint("after ours ", i))
		}
		long := strings.Repeat("a long line ", 3000)
		p.write(long + "\n")
		p.await(long)
		p.in.Close()
		if err := h.reason(t); err != nil {
			t.Errorf("%s: it ended with %v", name[0], err)
		}
		if n := h.detached.Load(); n != 1 {
			t.Errorf("%s: %d are detached", name[0], n)
		}
	}
}

// files are a certificate and its key as the tools read them.
func files(t *testing.T) (cert, key string) {
	c := certificate(t)
	der, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for p, b := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: c.Certificate[0]},
		key: {Type: "PRIVATE KEY", Bytes: der}} {
		if err := os.WriteFile(p, pem.EncodeToMemory(b), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

func freePort(t *testing.T) string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	return port
}

// Our client against OpenSSL's server, which sends its tickets after the handshake. GnuTLS's server
// is left out: it can't listen on loopback only.
func TestPeerOpenSSLServer(t *testing.T) {
	cert, key := files(t)
	r, _ := serve(t, reactor.Config{Loops: 1,
		Listeners: []reactor.Listener{{Addr: "127.0.0.1:0", Handler: new(echo)}}})
	for _, name := range tools {
		port := freePort(t)
		p := start(t, "openssl", "s_server", "-accept", "127.0.0.1:"+port, "-tls1_3", "-ciphersuites", name[0],
			"-cert", cert, "-key", key, "-rev", "-alpn", "xmpp-client", "-num_tickets", "4")
		p.await("ACCEPT")
		h := newEnds()
		got, updates := make(chan string, 100), 0
		h.data = func(c *reactor.Conn, b []byte) int {
			got <- string(b)
			if updates++; c.Detached() && updates%4 == 0 { // it sleeps a second after each
				c.Renew(1)
			}
			return len(b)
		}
		secure := make(chan bool, 1)
		noted := h.secure
		h.secure = func(c *reactor.Conn, st *tls.ConnectionState) { noted(c, st); secure <- true }
		r.Dial(r.Loops()[0], reactor.DialConfig{Addr: netip.MustParseAddrPort("127.0.0.1:" + port),
			TLS: clientTLS(), Handler: h}, func(err error) {
			h.ended <- err
		})
		select {
		case <-secure:
		case err := <-h.ended:
			t.Fatalf("%s: %v", name[0], err)
		}
		c := h.last.Load()
		for i := range 10 {
			c.Append([]byte(fmt.Sprint("line ", i, "\n")))
			for text := ""; !strings.Contains(text, fmt.Sprint(i, " enil")); {
				select {
				case s := <-got:
					text += s
				case err := <-h.ended:
					t.Fatalf("%s: it ended with %v", name[0], err)
				case <-time.After(10 * time.Second):
					t.Fatalf("%s: line %d does not come back: %q", name[0], i, text)
				}
			}
		}
		c.Close(nil)
		if err := h.reason(t); err != nil {
			t.Errorf("%s: it ended with %v", name[0], err)
		}
		if n := h.detached.Load(); n != 1 {
			t.Errorf("%s: %d are detached", name[0], n)
		}
	}
}
