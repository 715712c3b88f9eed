package reactor_test

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"

	"canto/reactor"
)

// keeper notes data and what they cost beside.
type keeper struct {
	*ends
	mu   sync.Mutex
	data []byte
	over int
}

func newKeeper() *keeper {
	k := &keeper{ends: newEnds()}
	k.ends.data = func(c *reactor.Conn, p []byte) int {
		k.mu.Lock()
		k.data, k.over = append(k.data, p...), k.over+c.TakeTLSOverhead()
		k.mu.Unlock()
		return len(p)
	}
	return k
}

func (k *keeper) got() (string, int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return string(k.data), k.over
}

// What a peer may do wrong where crypto/tls stays, with TLS 1.2 or Config.StdTLS: the connection
// ends as with our own record layer, or nothing comes of it (attack K44: K33 to K40 once more).
func TestAttackK44Verdicts(t *testing.T) {
	type sealer = *reactor.Sealer
	const fine, alive = "", "alive"
	const mac, unexpected, overflow = "local error: tls: bad record MAC",
		"local error: tls: unexpected message", "local error: tls: record overflow"
	const large = "oversized record received"
	const idle = "too many bytes of TLS without data"
	times := func(n int, kind byte, content []byte, padding int) func(s sealer) []byte {
		return func(s sealer) (b []byte) {
			for range n {
				b = append(b, s.Record(kind, content, padding)...)
			}
			return b
		}
	}
	raw := func(b ...byte) func(sealer) []byte { return func(sealer) []byte { return b } }
	text := func(s sealer, p string) []byte { return s.Record(23, []byte(p), 0) }
	flip := func(at int) func(s sealer) []byte {
		return func(s sealer) []byte {
			b := text(s, "secret text")
			b[(at+len(b))%len(b)] ^= 4
			return b
		}
	}
	message := append([]byte{99, 0, 0xFF, 0xF0}, make([]byte, 16000)...) // the beginning of one of 64 KiB
	for _, c := range []struct {
		name       string
		bad        func(s sealer) []byte
		want12     string // of TLS 1.2; "-": it is not asked
		want13     string
		late, over bool // data after it is read; it is charged
	}{
		{"16 empty records", times(16, 23, nil, 0), alive, alive, true, true},
		{"17 empty records", times(17, 23, nil, 0), "too many ignored records", "too many ignored records", false,
			false},
		{"records of padding", times(17, 23, nil, 100), "-", "too many ignored records", false, false},
		{"large records of padding", times(3, 23, nil, 16000), "-", idle, false, false},
		{"a byte in 16,000 of padding", times(1, 23, []byte("x"), 16000), "-", alive, true, true},
		{"padding and no type", times(1, 0, nil, 100), "-", unexpected, false, false},
		{"the largest record", times(1, 23, make([]byte, 1<<14), 0), alive, alive, true, false},
		{"a byte too much", times(1, 23, make([]byte, 1<<14+1), 0), overflow, overflow, false, false},
		{"a header of 65,535", raw(23, 3, 3, 255, 255), large, large, false, false},
		{"a header of 2^14+2049", raw(23, 3, 3, 0x48, 1), large, large, false, false},
		{"a header of 15", raw(append([]byte{23, 3, 3, 0, 15}, make([]byte, 15)...)...), mac, mac, false, false},
		{"a type of 99", raw(append([]byte{99, 3, 3, 0, 40}, make([]byte, 40)...)...), mac, mac, false, false},
		{"close_notify in plain", raw(21, 3, 3, 0, 2, 1, 0), mac, mac, false, false},
		{"text in plain", raw([]byte("<presence/>")...), "received record with version",
			"received record with version", false, false},
		{"an empty handshake record", times(1, 22, nil, 0), unexpected, unexpected, false, false},
		{"an empty alert", times(1, 21, nil, 0), unexpected, unexpected, false, false},
		{"half an alert", times(1, 21, []byte{1}, 0), unexpected, unexpected, false, false},
		{"two alerts", times(1, 21, []byte{1, 0, 1, 0}, 0), unexpected, unexpected, false, false},
		{"an unknown alert", times(1, 21, []byte{2, 200}, 0), "remote error", "remote error", false, false},
		{"17 warnings", times(17, 21, []byte{1, 90}, 0), "too many ignored records", "too many ignored records",
			false, false},
		{"close_notify", times(1, 21, []byte{1, 0}, 0), "<nil>", "<nil>", false, false},
		{"a bit of the first byte", flip(13), mac, mac, false, false},
		{"a bit of the tag", flip(-1), mac, mac, false, false},
		{"a record twice", func(s sealer) []byte {
			b := text(s, "")
			return append(b, b...)
		}, mac, mac, false, false},
		{"a record left out", func(s sealer) []byte { text(s, "one"); return nil }, mac, mac, false, false},
		{"records swapped", func(s sealer) []byte {
			a := text(s, "late")
			return append(text(s, "late"), a...)
		}, mac, mac, false, false},
		{"a ClientHello", times(1, 22, []byte{1, 0, 0, 2, 3, 3}, 0), "tls:", "tls:", false, false},
		{"a Finished", times(1, 22, append([]byte{20, 0, 0, 12}, make([]byte, 12)...), 0), "tls:", "tls:", false,
			false},
		{"64 KiB of a handshake message", times(4, 22, message, 0), idle, idle, false, false},
		{"the same by the byte", times(2000, 22, []byte{99}, 0), "tls:", "tls:", false, false},
		{"17 KeyUpdates", func(s sealer) (b []byte) {
			for range 17 {
				b = append(b, s.Update()...)
			}
			return b
		}, "-", "too many non-advancing records", false, false},
		{"16 KeyUpdates", func(s sealer) (b []byte) {
			for range 16 {
				b = append(b, s.Update()...)
			}
			return b
		}, "-", alive, true, true},
	} {
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			want := c.want12
			if version == tls.VersionTLS13 {
				want = c.want13
			}
			if want == "-" {
				continue
			}
			t.Run(fmt.Sprint(c.name, ", ", tls.VersionName(version)), func(t *testing.T) {
				k := newKeeper()
				r, addr := serve(t, reactor.Config{StdTLS: true, Loops: 1,
					Listeners: []reactor.Listener{{Addr: "127.0.0.1:0", Handler: k, DirectTLS: serverTLS(t)}}})
				s := reactor.NewSealer(t, dial(t, addr), version)
				s.Write(text(s, "before"))
				waitFor(t, func() bool { d, _ := k.got(); return d == "before" })
				s.Write(append(c.bad(s), text(s, "late")...))
				if want != alive {
					if err := fmt.Sprint(k.reason(t)); !strings.Contains(err, want) {
						t.Errorf("it ended with %s, want %s", err, want)
					}
				} else {
					waitFor(t, func() bool { d, _ := k.got(); return strings.HasSuffix(d, "late") })
					s.Conn.(*net.TCPConn).CloseWrite() // in the midst of nothing, but without close_notify
					if err := fmt.Sprint(k.reason(t)); err != "unexpected EOF" {
						t.Errorf("cut off, it ended with %s", err)
					}
				}
				s.Close()
				waitFor(t, func() bool { return r.Connections() == 0 })
				if d, over := k.got(); strings.Contains(d, "late") != c.late || (over > 0) != c.over {
					t.Errorf("%d bytes were read, late %v; %d are charged", len(d), strings.Contains(d, "late"), over)
				}
			})
		}
	}
}

// A peer that falls silent within a record has sent no data. What crypto/tls buffers is counted,
// and the growth of its buffer, too (attack K44: K35, K38).
func TestAttackK44Held(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		k := newKeeper()
		r, addr := serve(t, reactor.Config{StdTLS: true, Loops: 1,
			Listeners: []reactor.Listener{{Addr: "127.0.0.1:0", Handler: k, DirectTLS: serverTLS(t)}}})
		s := reactor.NewSealer(t, dial(t, addr), version)
		s.Write(s.Record(23, []byte("before"), 0))
		waitFor(t, func() bool { d, _ := k.got(); return d == "before" })
		meter := func() reactor.Meter { return r.Loops()[0].Meter() }
		wire := s.Record(23, bytes.Repeat([]byte("x"), 1<<14), 0)
		for i, n := range []int{3, 7, 10_000} {
			s.Write(wire[:n])
			wire = wire[n:]
			want := []int{3, 10, 10_010}[i]
			waitFor(t, func() bool { return meter().ParkedBytes == want })
			on(k.last.Load(), func() {
				if n := k.last.Load().Held(); n != want {
					t.Errorf("%d bytes are held of %d", n, want)
				}
			})
		}
		s.Write(wire[:len(wire)-1])
		waitFor(t, func() bool {
			return meter().ParkedBytes == 1<<14+5+16+1-1 || meter().ParkedBytes == 1<<14+5+8+16-1
		})
		if n := meter().StdTLSGrowth; n < 13_000 || n > 40_000 {
			t.Errorf("buffers have grown by %d bytes", n)
		}
		s.Conn.(*net.TCPConn).CloseWrite()
		if err := fmt.Sprint(k.reason(t)); err != "unexpected EOF" {
			t.Errorf("cut off within a record, it ended with %s", err)
		}
		s.Close()
		waitFor(t, func() bool {
			return r.Connections() == 0 && meter().ParkedBytes == 0 && meter().StdTLSGrowth == 0
		})
		if d, _ := k.got(); d != "before" {
			t.Errorf("%d bytes were read", len(d))
		}
	}
}
