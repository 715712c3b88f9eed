package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// startServer runs `canto serve --dev` with these lines of [listen] until the test ends, and returns
// the fields of its ready line.
func startServer(t *testing.T, listen string) map[string]string {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "canto.toml")
	if err := os.WriteFile(file, []byte("[listen]\ndebug = []\ns2s = []\n"+listen), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	out, in := io.Pipe()
	done := make(chan int, 1)
	go func() {
		done <- execute(&run{ctx: ctx, args: []string{"serve", "--dev", "--config", file, "--data",
			filepath.Join(dir, "data")}, stdin: strings.NewReader(""), out: in, errOut: io.Discard})
		in.Close()
	}()
	t.Cleanup(func() {
		stop()
		if status := <-done; status != 0 {
			t.Errorf("exit status %d", status)
		}
	})
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if rest, ok := strings.CutPrefix(lines.Text(), "canto: ready "); ok {
			go io.Copy(io.Discard, out)
			fields := make(map[string]string)
			for _, f := range strings.Fields(rest) {
				k, v, _ := strings.Cut(f, "=")
				fields[k] = v
			}
			return fields
		}
	}
	t.Fatal("it never was ready")
	return nil
}

func talk(t *testing.T, addr string, conf *tls.Config) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	if conf != nil {
		return tls.Client(c, conf)
	}
	return c
}

func getStatus(t *testing.T, c net.Conn, in *bufio.Reader) int {
	t.Helper()
	fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
	res, err := http.ReadResponse(in, nil)
	if err != nil {
		t.Fatal(err)
	}
	io.Copy(io.Discard, res.Body)
	return res.StatusCode
}

func alpn(p ...string) *tls.Config { return &tls.Config{InsecureSkipVerify: true, NextProtos: p} }

// The reactor opens the http and https ports; net/http answers the requests, with 404 so far,
// and the ready line names them.
func TestServeWeb(t *testing.T) {
	at := startServer(t, "c2s = ['127.0.0.1:0']\nc2s_tls = []\nhttp = ['127.0.0.1:0']\nhttps = "+
		"['127.0.0.1:0']\n")
	for _, c := range []net.Conn{talk(t, at["http"], nil), talk(t, at["https"], alpn("http/1.1")),
		talk(t, at["https"], alpn())} {
		in := bufio.NewReader(c)
		for range 2 {
			if code := getStatus(t, c, in); code != 404 {
				t.Fatalf("status %d", code)
			}
		}
	}
	c := talk(t, at["http"], nil)
	io.WriteString(c, "GET / HTTP/1.1\r\nX: "+strings.Repeat("x", 17<<10))
	if b, _ := io.ReadAll(c); !strings.HasPrefix(string(b), "HTTP/1.1 431 ") {
		t.Fatalf("a head of 17 KiB: %q", b)
	}
}

// One address may stand for several protocols: c2s and c2s_tls by the first byte, c2s_tls and https by
// ALPN. A web request on an XMPP port gets nothing of itself back (T18).
func TestAttackT18SharedPort(t *testing.T) {
	// A port that is free now; the server's own check shows if it was taken meanwhile.
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	ln.Close()
	at := startServer(t, fmt.Sprintf("c2s = ['%[1]s']\nc2s_tls = ['%[1]s']\nhttp = []\nhttps = ['%[1]s']\n",
		addr))
	if at["c2s"] != addr || at["http"] != "" || at["https"] != "" {
		t.Fatalf("%v", at)
	}
	const header = "<stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' " +
		"to='localhost' version='1.0'>"
	for _, x := range []struct {
		conf *tls.Config
		want string
		not  string
	}{{nil, "<starttls", "zzz"}, {alpn("xmpp-client"), "<mechanism>", "<starttls"},
		{alpn(), "<mechanism>", "<starttls"}} {
		c := talk(t, addr, x.conf)
		io.WriteString(c, header)
		var b []byte
		for !strings.Contains(string(b), "</stream:features>") {
			p := make([]byte, 4096)
			n, err := c.Read(p)
			if err != nil {
				t.Fatalf("%q, %v", b, err)
			}
			b = append(b, p[:n]...)
		}
		if !strings.Contains(string(b), x.want) || strings.Contains(string(b), x.not) {
			t.Errorf("%v: %s", x.conf, b)
		}
	}
	c := talk(t, addr, alpn("http/1.1"))
	if code := getStatus(t, c, bufio.NewReader(c)); code != 404 {
		t.Errorf("http/1.1: status %d", code)
	}
	for _, conf := range []*tls.Config{nil, alpn("xmpp-client")} {
		c := talk(t, addr, conf)
		io.WriteString(c, "POST /secret-path HTTP/1.1\r\nHost: localhost\r\nCookie: "+
			"secret-cookie\r\n\r\n<secret>alert(1)</secret>")
		b, _ := io.ReadAll(c)
		if strings.Contains(string(b), "secret") || strings.Contains(string(b), "HTTP/") || len(b) == 0 {
			t.Errorf("a web request on an XMPP port: %q", b)
		}
	}
}

// SSLKEYLOGFILE is for browsers under study: here it has no effect (K42).
func TestAttackK42KeyLog(t *testing.T) {
	file := filepath.Join(t.TempDir(), "keys")
	t.Setenv("SSLKEYLOGFILE", file)
	at := startServer(t, "c2s = ['127.0.0.1:0']\nc2s_tls = []\nhttp = []\nhttps = ['127.0.0.1:0']\n")
	c := talk(t, at["https"], alpn("http/1.1"))
	if code := getStatus(t, c, bufio.NewReader(c)); code != 404 {
		t.Fatal(code)
	}
	if b, err := os.ReadFile(file); !os.IsNotExist(err) {
		t.Errorf("secrets were written: %d bytes, %v", len(b), err)
	}
}
