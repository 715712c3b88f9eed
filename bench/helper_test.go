package bench

import (
	"context"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
)

// TestMain is a worker process, if it is started as one.
func TestMain(m *testing.M) {
	if os.Getenv("CANTO_BENCH_WORKER") != "" {
		if err := ServeWorker(context.Background(), os.Stdin, os.Stdout, ""); err != nil {
			panic(err)
		}
		os.Exit(0)
	}
	if os.Getenv("CANTO_BENCH_STUB") != "" {
		serveStub()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func workerCommand(t *testing.T) []string {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return []string{"/usr/bin/env", "CANTO_BENCH_WORKER=1", self}
}

// A man in the middle takes STARTTLS out of what a server offers, and keeps what clients say.
type man struct {
	addr netip.AddrPort
	mu   sync.Mutex
	text strings.Builder
}

func (m *man) said() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.text.String()
}

func stripped(t *testing.T, to string) *man {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	m := &man{addr: ln.Addr().(*net.TCPAddr).AddrPort()}
	go func() {
		for {
			a, err := ln.Accept()
			if err != nil {
				return
			}
			b, err := net.Dial("tcp", to)
			if err != nil {
				a.Close()
				return
			}
			go func() {
				defer a.Close()
				buf := make([]byte, 64<<10)
				for {
					n, err := b.Read(buf)
					text := string(buf[:n])
					if i := strings.Index(text, "<starttls"); i >= 0 {
						j := strings.Index(text[i:], "</starttls>")
						if j < 0 {
							j = strings.Index(text[i:], "/>") + len("/>")
						} else {
							j += len("</starttls>")
						}
						text = text[:i] + text[i+j:]
					}
					io.WriteString(a, text)
					if err != nil {
						return
					}
				}
			}()
			go func() {
				defer b.Close()
				buf := make([]byte, 4096)
				for {
					n, err := a.Read(buf)
					m.mu.Lock()
					m.text.Write(buf[:n])
					m.mu.Unlock()
					b.Write(buf[:n])
					if err != nil {
						return
					}
				}
			}()
		}
	}()
	return m
}
