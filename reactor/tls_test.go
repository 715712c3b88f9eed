package reactor_test

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	_ "unsafe" // for linkname

	"canto/reactor"
	"canto/reactor/buf"
	"canto/reactor/reactortest"
)

// goSuites are those that crypto/tls takes, best first; a tls.Config can't say.
//
//go:linkname goSuites crypto/tls.defaultCipherSuitesTLS13
var goSuites []uint16

//go:linkname goSuitesNoAES crypto/tls.defaultCipherSuitesTLS13NoAES
var goSuitesNoAES []uint16

func only(t *testing.T, id uint16) {
	a, b := goSuites, goSuitesNoAES
	goSuites, goSuitesNoAES = []uint16{id}, []uint16{id}
	t.Cleanup(func() { goSuites, goSuitesNoAES = a, b })
}

// ends counts how connections ended, and keeps what was seen of the last one.
type ends struct {
	script
	detached, std atomic.Int64
	ended         chan error
	last          atomic.Pointer[reactor.Conn]
	state         atomic.Pointer[tls.ConnectionState]
}

// newEnds is an echo that says how its connections end.
func newEnds() *ends {
	h := &ends{ended: make(chan error, 100)}
	h.data = func(c *reactor.Conn, p []byte) int { c.Append(p); return len(p) }
	h.secure = func(c *reactor.Conn, st *tls.ConnectionState) {
		if c.Detached() {
			h.detached.Add(1)
		} else {
			h.std.Add(1)
		}
		h.state.Store(st)
		h.last.Store(c)
	}
	h.closed = func(_ *reactor.Conn, err error) { h.ended <- err }
	return h
}

func (h *ends) reason(t *testing.T) error {
	t.Helper()
	select {
	case err := <-h.ended:
		return err
	case <-time.After(10 * time.Second):
		t.Fatal("it does not end")
		return nil
	}
}

// on runs f on c's loop and waits.
func on(c *reactor.Conn, f func()) {
	done := make(chan bool)
	c.Loop().Post(func() { f(); close(done) })
	<-done
}

func clientTLS() *tls.Config {
	return &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"xmpp-client"}}
}

// serverKinds are configurations that make crypto/tls end its handshake in different ways.
var serverKinds = []struct {
	name   string
	server func(c *tls.Config)
	client func(c *tls.Config)
}{
	{"as it comes", func(*tls.Config) {}, func(*tls.Config) {}},
	{"X25519", func(c *tls.Config) { c.CurvePreferences = []tls.CurveID{tls.X25519} }, func(*tls.Config) {}},
	{"another hello", func(c *tls.Config) {
		c.CurvePreferences = []tls.CurveID{tls.CurveP521}
	}, func(*tls.Config) {}},
	{"no tickets", func(c *tls.Config) { c.SessionTicketsDisabled = true }, func(*tls.Config) {}},
	{"tickets of our keys", func(c *tls.Config) {
		c.SetSessionTicketKeys([][32]byte{{1}})
	}, func(*tls.Config) {}},
	{"a client's certificate", func(c *tls.Config) {
		c.ClientAuth = tls.RequireAnyClientCert
	}, func(*tls.Config) {}},
	{"a large client's certificate", func(c *tls.Config) {
		c.ClientAuth = tls.RequireAnyClientCert
	}, func(c *tls.Config) {
		one := &c.Certificates[0] // its ticket is of several records
		for range 60 {
			one.Certificate = append(one.Certificate, one.Certificate[0])
		}
	}},
	{"another configuration", func(c *tls.Config) {
		other := c.Clone()
		c.Certificates = nil
		c.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return other, nil }
	}, func(*tls.Config) {}},
}

// Our server against crypto/tls's client, with each suite, with tickets and without, resumed, with each way
// of the key exchange, with our KeyUpdates, and with close_notify from either side.
func TestCompactServer(t *testing.T) {
	for _, id := range []uint16{tls.TLS_AES_128_GCM_SHA256, tls.TLS_AES_256_GCM_SHA384,
		tls.TLS_CHACHA20_POLY1305_SHA256} {
		for _, kind := range serverKinds {
			t.Run(tls.CipherSuiteName(id)+", "+kind.name, func(t *testing.T) {
				only(t, id)
				h := newEnds()
				conf := serverTLS(t)
				kind.server(conf)
				_, addr := serve(t, reactor.Config{Loops: 1,
					Listeners: []reactor.Listener{{Addr: "127.0.0.1:0", Handler: h, DirectTLS: conf}}})
				cc := clientTLS()
				cc.ClientSessionCache = tls.NewLRUClientSessionCache(4)
				cc.ServerName = "localhost"
				cc.Certificates = []tls.Certificate{certificate(t)}
				kind.client(cc)
				long := strings.Repeat("long text ", 20_000)
				for round := range 3 {
					c := tls.Client(dial(t, addr), cc)
					exchange(t, c, "first")
					st := c.ConnectionState()
					if st.Version != tls.VersionTLS13 || st.CipherSuite != id {
						t.Fatalf("%x %s", st.Version, tls.CipherSuiteName(st.CipherSuite))
					}
					if st.DidResume != (round > 0 && !conf.SessionTicketsDisabled) {
						t.Errorf("round %d resumed: %v", round, st.DidResume)
					}
					conn := h.last.Load()
					want, err := st.ExportKeyingMaterial("EXPORTER-Channel-Binding", nil, 32)
					if err != nil {
						t.Fatal(err)
					}
					on(conn, func() {
						mine, err := conn.TLS().ExportKeyingMaterial("EXPORTER-Channel-Binding", nil, 32)
						if err != nil || !bytes.Equal(mine, want) || conn.TLS() != h.state.Load() {
							t.Errorf("exporter %x and %x, %v", mine, want, err)
						}
						if !conn.Detached() {
							t.Errorf("detached: %v", conn.Detached())
						}
					})
					go io.WriteString(c, long)
					b := make([]byte, len(long))
					if _, err := io.ReadFull(c, b); err != nil || string(b) != long {
						t.Fatalf("%v", err)
					}
					on(conn, func() {
						if conn.Detached() {
							conn.Renew(0)
							conn.Renew(1)
							conn.ReleaseHandshakeState()
							if conn.TLS() != nil || !conn.Secure() || conn.PresentedCertificate() != nil {
								t.Error("something is left after Settle")
							}
						}
					})
					exchange(t, c, "with new keys")
					exchange(t, c, "and again")
					if round == 1 {
						conn.Close(nil)
						if n, err := c.Read(b); n != 0 || err != io.EOF {
							t.Errorf("the client's end: %d, %v", n, err)
						}
						c.Close()
					} else {
						c.CloseWrite()
						if n, err := c.Read(b); n != 0 || err != io.EOF {
							t.Errorf("close_notify is answered by %d, %v", n, err)
						}
					}
					if err := h.reason(t); err != nil {
						t.Errorf("it ended with %v", err)
					}
				}
			})
		}
	}
}

// Our client against crypto/tls's server.
func TestCompactClient(t *testing.T) {
	for _, id := range []uint16{tls.TLS_AES_128_GCM_SHA256, tls.TLS_AES_256_GCM_SHA384,
		tls.TLS_CHACHA20_POLY1305_SHA256} {
		for _, kind := range serverKinds {
			for _, cache := range []bool{false, true} {
				t.Run(fmt.Sprint(tls.CipherSuiteName(id), ", ", kind.name, ", cache ", cache), func(t *testing.T) {
					only(t, id)
					conf := serverTLS(t)
					kind.server(conf)
					ln, err := tls.Listen("tcp", "127.0.0.1:0", conf)
					if err != nil {
						t.Fatal(err)
					}
					defer ln.Close()
					served := make(chan error, 10)
					go func() {
						for {
							c, err := ln.Accept()
							if err != nil {
								return
							}
							go func() {
								_, err := io.Copy(c, c)
								c.Close()
								served <- err
							}()
						}
					}()
					r, _ := serve(t, reactor.Config{Loops: 1,
						Listeners: []reactor.Listener{{Addr: "127.0.0.1:0", Handler: new(echo)}}})
					cc := clientTLS()
					cc.ServerName = "localhost"
					cc.Certificates = []tls.Certificate{certificate(t)}
					kind.client(cc)
					if cache {
						cc.ClientSessionCache = tls.NewLRUClientSessionCache(4)
					}
					text := []byte(strings.Repeat("text of the client ", 5000))
					for round := range 2 {
						h := newEnds()
						var got []byte
						back := make(chan bool, 1)
						noted := h.secure
						h.secure = func(c *reactor.Conn, st *tls.ConnectionState) { noted(c, st); c.Append(text[:100]) }
						h.data = func(c *reactor.Conn, p []byte) int {
							before := len(got)
							got = append(got, p...)
							if before < 100 && len(got) >= 100 {
								if c.Detached() {
									c.Renew(1)
								}
								c.Append(text[100:])
							}
							if len(got) == len(text) {
								back <- true
							}
							return len(p)
						}
						r.Dial(r.Loops()[0], reactor.DialConfig{Addr: ln.Addr().(*net.TCPAddr).AddrPort(), TLS: cc,
							Handler: h}, func(err error) {
							h.ended <- err
						})
						select {
						case <-back:
						case err := <-h.ended:
							t.Fatal(err)
						case <-time.After(10 * time.Second):
							t.Fatalf("%d of %d bytes came back", len(got), len(text))
						}
						if !bytes.Equal(got, text) {
							t.Fatal("another text came back")
						}
						if want := !cache; (h.detached.Load() == 1) != want {
							t.Errorf("detached: %v", !want)
						}
						if st := h.state.Load(); st.DidResume != (cache && round > 0 && !conf.SessionTicketsDisabled) ||
							len(st.PeerCertificates) == 0 {
							t.Errorf("round %d resumed: %v, %d certificates", round, st.DidResume, len(st.PeerCertificates))
						}
						h.last.Load().Close(nil)
						if err := <-served; err != nil {
							t.Errorf("the server ended with %v", err)
						}
						if err := h.reason(t); err != nil {
							t.Errorf("the client ended with %v", err)
						}
					}
				})
			}
		}
	}
}

// The connections that stay on crypto/tls: TLS 1.2, and all with Config.StdTLS.
func TestCompactNot(t *testing.T) {
	for _, c := range []struct {
		std     bool
		version uint16
		want    bool
	}{{false, tls.VersionTLS13, true}, {false, tls.VersionTLS12, false}, {true, tls.VersionTLS13, false},
		{true, tls.VersionTLS12, false}} {
		h := newEnds()
		r, addr := serve(t, reactor.Config{StdTLS: c.std,
			Listeners: []reactor.Listener{{Addr: "127.0.0.1:0", Handler: h, DirectTLS: serverTLS(t)}}})
		cc := clientTLS()
		cc.MaxVersion = c.version
		cc.ServerName = "localhost"
		cc.ClientSessionCache = tls.NewLRUClientSessionCache(4)
		for round := range 3 {
			tc := tls.Client(dial(t, addr), cc)
			exchange(t, tc, "text")
			if tc.ConnectionState().DidResume != (round > 0) {
				t.Errorf("%+v: round %d resumed: %v", c, round, !(round > 0))
			}
			tc.Close()
		}
		if got := h.detached.Load() == 3; got != c.want || h.detached.Load()+h.std.Load() != 3 {
			t.Errorf("%+v: %d are detached", c, h.detached.Load())
		}
		if n := r.Configs(); n > 1 || c.std && n != 0 {
			t.Errorf("%d configurations are kept", n)
		}
	}
}

// PresentedCertificate is what the server has shown, and a key log of the configuration still gets
// its lines.
func TestCompactPresented(t *testing.T) {
	var log bytes.Buffer // crypto/tls has one lock for all key logs
	h := newEnds()
	cert := certificate(t)
	conf := &tls.Config{NextProtos: []string{"xmpp-client"}, KeyLogWriter: &log,
		GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			hello.Conn.(interface{ Present(*tls.Certificate) }).Present(&cert)
			return &cert, nil
		}}
	_, addr := serve(t, reactor.Config{Listeners: []reactor.Listener{{Addr: "127.0.0.1:0", Handler: h,
		DirectTLS: conf}}})
	exchange(t, tls.Client(dial(t, addr), clientTLS()), "text")
	c := h.last.Load()
	on(c, func() {
		if c.PresentedCertificate() != &cert || !c.Detached() {
			t.Errorf("%p was presented, want %p; detached %v", c.PresentedCertificate(), &cert, c.Detached())
		}
	})
	if s := log.String(); strings.Count(s, "_TRAFFIC_SECRET") != 4 || strings.ContainsRune(s, 0) {
		t.Errorf("the key log has %q", s)
	}
}

// mesh is a client and a server of ours over memory, with a hand on the wire between.
type mesh struct {
	t              testing.TB
	n              *reactortest.Net
	server, client *reactortest.Client
	data           []byte // that the server was given
	back           []byte // and the client
	ended          bool
	why            error // of the server's end
	peerWhy        error
}

// newMesh goes as far as the server's flight; first is what the client writes with its Finished. In a
// synctest bubble.
func newMesh(t testing.TB, conf, cc *tls.Config, first func(c *reactor.Conn)) *mesh {
	m := &mesh{t: t, n: reactortest.New(1, reactor.Config{Loops: 1})}
	m.server = m.n.ConnectTo(0, reactor.Listener{DirectTLS: conf, Handler: &script{
		data:   func(c *reactor.Conn, p []byte) int { m.data = append(m.data, p...); return len(p) },
		closed: func(_ *reactor.Conn, err error) { m.ended, m.why = true, err },
	}})
	m.client = m.n.Connect(0, &script{
		open: func(c *reactor.Conn) {
			if err := c.StartTLS(cc, reactor.ClientRole); err != nil {
				t.Error(err)
			}
		},
		secure: func(c *reactor.Conn, _ *tls.ConnectionState) { first(c) },
		data:   func(c *reactor.Conn, p []byte) int { m.back = append(m.back, p...); return len(p) },
		closed: func(_ *reactor.Conn, err error) { m.peerWhy = err },
	})
	settle(m.n)
	m.server.Write(m.client.Take())
	settle(m.n)
	m.client.Write(m.server.Take())
	settle(m.n)
	return m
}

// move passes on what both have written, until there is no more.
func (m *mesh) move() {
	for range 100 {
		settle(m.n)
		a, b := m.client.Take(), m.server.Take()
		if len(a)+len(b) == 0 {
			return
		}
		m.server.Write(a)
		m.client.Write(b)
	}
}

func (m *mesh) end() {
	m.client.Hangup(nil)
	m.server.Hangup(nil)
	settle(m.n)
	m.n.Advance(3 * time.Second)
	settle(m.n)
}

// The client's last flight and the bytes right after it, cut in two at every byte: nothing is lost,
// doubled or read as plaintext, whatever the first record is (attacks T07, K43).
func TestAttackT07K43EverySplit(t *testing.T) {
	conf := serverTLS(t)
	for _, c := range []struct {
		name  string
		first func(c *reactor.Conn)
		tail  string // after it, as it is
		data  string
		why   string
	}{
		{"data", func(c *reactor.Conn) { c.Append([]byte("<stream:stream>")) }, "", "<stream:stream>", ""},
		{"data and close_notify", func(c *reactor.Conn) {
			c.Append([]byte("<stream:stream>"))
			c.Close(nil)
		}, "", "<stream:stream>", "<nil>"},
		{"close_notify", func(c *reactor.Conn) { c.Close(nil) }, "", "", "<nil>"},
		{"a KeyUpdate", func(c *reactor.Conn) { c.Renew(1); c.Append([]byte("new keys")) }, "", "new keys", ""},
		{"an alert", func(c *reactor.Conn) {
			c.Say(21, []byte{2, 48}, 0)
			c.Append([]byte("late"))
		}, "", "", "remote error: tls: unknown certificate authority"},
		{"text in plain", func(c *reactor.Conn) {}, "<stream:stream>", "", "local error: tls: unexpected message"},
		{"data and text in plain", func(c *reactor.Conn) {
			c.Append([]byte("x"))
		}, "<presence/>", "x", "local error: tls: unexpected message"},
		{"a handshake message", func(c *reactor.Conn) {
			c.Say(22, []byte{20, 0, 0, 32}, 0)
		}, "", "", "local error: tls: unexpected message"},
	} {
		synctest.Test(t, func(t *testing.T) {
			length := 1
			for cut := 0; cut < length; cut++ {
				m := newMesh(t, conf, clientTLS(), c.first)
				wire := append(m.client.Take(), c.tail...)
				length = len(wire)
				m.server.Write(wire[:cut])
				settle(m.n)
				m.server.Write(wire[cut:])
				settle(m.n)
				if why := fmt.Sprint(m.why); string(m.data) != c.data || m.ended != (c.why != "") || m.ended &&
					why != c.why {
					t.Fatalf("%s, cut at %d of %d: %q, ended %v with %s; want %q and %q", c.name, cut, length, m.data,
						m.ended, why, c.data, c.why)
				}
				if !m.server.Conn().Detached() && !m.ended {
					t.Fatalf("%s: it is not detached", c.name)
				}
				m.move()
				m.end()
			}
			if length < 60 {
				t.Errorf("%s: a flight of %d bytes", c.name, length)
			}
		})
	}
}

// The same byte by byte, and the server's flight to a client too, with tickets after it.
func TestAttackK43Bytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, step := range []int{1, 2, 3, 5, 17, 64} {
			m := newMesh(t, serverTLS(t), clientTLS(), func(c *reactor.Conn) { c.Append([]byte("hello")) })
			for range 20 {
				a := m.client.Take()
				for len(a) > 0 {
					k := min(step, len(a))
					m.server.Write(a[:k])
					settle(m.n)
					a = a[k:]
				}
				if len(m.data) > 0 && len(m.back) == 0 {
					m.server.Conn().Append([]byte("to you"))
					settle(m.n)
				}
				b := m.server.Take()
				for len(b) > 0 {
					k := min(step, len(b))
					m.client.Write(b[:k])
					settle(m.n)
					b = b[k:]
				}
			}
			if string(m.data) != "hello" || string(m.back) != "to you" {
				t.Errorf("by %d: %q and %q", step, m.data, m.back)
			}
			m.end()
		}
	})
}

// secured is a mesh after its handshake.
func secured(t testing.TB) *mesh {
	m := newMesh(t, serverTLS(t), clientTLS(), func(*reactor.Conn) {})
	m.move()
	if !m.server.Conn().Detached() || !m.client.Conn().Detached() {
		t.Fatal("it is not detached")
	}
	return m
}

// FIN without close_notify is an error for OnClose, also within a record, and that record is not
// read; with close_notify it is none (attack K38).
func TestAttackK38Truncated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for cut := range 30 {
			m := secured(t)
			m.client.Conn().Append([]byte("<message/>"))
			settle(m.n)
			wire := m.client.Take()
			m.server.Write(wire[:cut])
			m.server.Hangup(nil)
			settle(m.n)
			if len(m.data) != 0 || !m.ended || !errors.Is(m.why, io.ErrUnexpectedEOF) {
				t.Errorf("cut at %d: %q, ended %v with %v", cut, m.data, m.ended, m.why)
			}
			m.end()
		}
		m := secured(t)
		m.client.Conn().Append([]byte("<message/>"))
		m.client.Conn().Close(nil)
		settle(m.n)
		m.server.Write(m.client.Take())
		m.server.Hangup(nil)
		settle(m.n)
		if string(m.data) != "<message/>" || !m.ended || m.why != nil {
			t.Errorf("with close_notify: %q, %v", m.data, m.why)
		}
		m.end()
	})
}

// A quiet connection keeps neither AEADs nor buffers, and goes on when there is traffic; a record that was
// half there waits for the rest.
func TestCompactQuiet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lent := buf.Input.InUse()
		m := secured(t)
		c := m.server.Conn()
		for round := range 3 {
			m.client.Conn().Append([]byte("text"))
			settle(m.n)
			wire := m.client.Take()
			m.server.Write(wire[:10])
			settle(m.n)
			if c.Held() != 10 || !c.Warm() {
				t.Errorf("round %d: %d bytes are held; warm %v", round, c.Held(), c.Warm())
			}
			m.n.Advance(9 * time.Second)
			if !c.Warm() {
				t.Error("it was cooled at once")
			}
			m.n.Advance(11 * time.Second)
			if c.Warm() || m.client.Conn().Warm() {
				t.Error("it is warm after 20 s")
			}
			m.server.Write(wire[10:])
			settle(m.n)
			if string(m.data) != strings.Repeat("text", round+1) || c.Held() != 0 {
				t.Errorf("round %d: %q, %d bytes are held", round, m.data, c.Held())
			}
		}
		m.n.TickLoops()
		settle(m.n)
		if n := m.n.Loops()[0].Meter().ParkedBytes; n != 0 {
			t.Errorf("%d bytes are parked", n)
		}
		m.server.Write([]byte{23, 3, 3, 1, 0, 1, 2, 3})
		m.end()
		if n := buf.Input.InUse(); n != lent {
			t.Errorf("%d buffers are not given back", n-lent)
		}
	})
}

// A peer that asks for KeyUpdates and reads nothing gets one answer, when it reads again; data for
// it is sealed in the right order meanwhile (attack T06).
func TestAttackT06NoReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := secured(t)
		m.server.SetWindow(0)
		m.server.Conn().Append([]byte("waits"))
		settle(m.n)
		for range 20 {
			m.client.Conn().Renew(1)
			m.server.Write(m.client.Take())
			settle(m.n)
		}
		if n := m.server.Take(); len(n) != 0 {
			t.Fatalf("%d bytes were read", len(n))
		}
		m.server.SetWindow(-1)
		m.server.Conn().Append([]byte(" and goes on"))
		settle(m.n)
		wire := m.server.Take()
		if want := (5 + 5 + 17) + (5 + 12 + 17) + (5 + 5 + 17); len(wire) != want {
			t.Errorf("%d bytes were written, want %d", len(wire), want)
		}
		m.client.Write(wire)
		m.move()
		if string(m.back) != "waits and goes on" || m.ended {
			t.Errorf("%q, ended %v", m.back, m.ended)
		}
		for range 40 {
			m.client.Conn().Renew(1)
		}
		m.move()
		if m.ended == false || !strings.Contains(fmt.Sprint(m.why), "unexpected message") ||
			!strings.Contains(fmt.Sprint(m.peerWhy), "remote error: tls: unexpected message") {
			t.Errorf("40 KeyUpdates in a row: ended %v with %v, the peer with %v", m.ended, m.why, m.peerWhy)
		}
		m.end()
	})
}

// A handler that pauses gets the records of that time later, once and in order; too many end the
// connection.
func TestCompactPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := reactortest.New(1, reactor.Config{Loops: 1})
		var got []byte
		var why error
		var conn *reactor.Conn
		paused := false
		h := &script{data: func(c *reactor.Conn, p []byte) int {
			conn = c
			k := min(len(p), 1000)
			got = append(got, p[:k]...)
			c.Pause()
			paused = true
			return k
		}, closed: func(_ *reactor.Conn, err error) { why = err }}
		l := &addrQueue{b: n.ConnectTo(0, reactor.Listener{Handler: h, DirectTLS: serverTLS(t)})}
		text := []byte(strings.Repeat("0123456789", 6000))
		l.a = n.Connect(0, &script{open: func(c *reactor.Conn) { c.StartTLS(clientTLS(), reactor.ClientRole) },
			secure: func(c *reactor.Conn, _ *tls.ConnectionState) { c.Append(text) }})
		for range 500 {
			settle(n)
			l.move(n.Now(), 0)
			settle(n)
			if paused {
				paused = false
				conn.Resume()
			}
		}
		if !bytes.Equal(got, text) || why != nil {
			t.Errorf("%d of %d bytes, %v", len(got), len(text), why)
		}
		l.a.Hangup(nil)
		l.b.Hangup(nil)
		settle(n)
	})
}

// A bit that flips, a record that comes twice, is lost or changes its place on the way to either side: the
// connection ends with bad_record_mac, and the peer hears it (attack K39).
func TestAttackK39Wire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, c := range []struct {
			name   string
			change func(a, b []byte) []byte
		}{
			{"flipped", func(a, b []byte) []byte { a[9] ^= 1; return slices.Concat(a, b) }},
			{"twice", func(a, b []byte) []byte { return slices.Concat(a, a, b) }},
			{"lost", func(a, b []byte) []byte { return b }},
			{"swapped", func(a, b []byte) []byte { return slices.Concat(b, a) }},
			{"shortened", func(a, b []byte) []byte { a[4]--; return slices.Concat(a[:len(a)-1], b) }},
		} {
			for _, toServer := range []bool{true, false} {
				m := secured(t)
				from, to := m.client, m.server
				if !toServer {
					from, to = to, from
				}
				var wire [2][]byte
				for i := range wire {
					from.Conn().Append([]byte(fmt.Sprint("record ", i)))
					settle(m.n)
					wire[i] = from.Take()
				}
				to.Write(c.change(wire[0], wire[1]))
				settle(m.n)
				m.move()
				mine, its, data := m.why, m.peerWhy, m.data
				if !toServer {
					mine, its, data = its, mine, m.back
				}
				if fmt.Sprint(mine) != "local error: tls: bad record MAC" ||
					fmt.Sprint(its) != "remote error: tls: bad record MAC" || bytes.Contains(data, []byte("record 1")) {
					t.Errorf("%s, to the server %v: %v and %v, after %q", c.name, toServer, mine, its, data)
				}
				m.end()
			}
		}
	})
}

// An idle connection keeps only its own structs, and nothing of crypto/tls.
func TestCompactHeap(t *testing.T) {
	heap := func() int64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	measure := func(std bool) (per int64) {
		synctest.Test(t, func(t *testing.T) {
			const pairs = 300
			n := reactortest.New(1, reactor.Config{Loops: 1, StdTLS: std, HandshakesPerAddr: 4096})
			conf, cc := serverTLS(t), clientTLS()
			secure := func(c *reactor.Conn, _ *tls.ConnectionState) {
				c.Append([]byte("hello"))
				c.ReleaseHandshakeState()
			}
			server := reactor.Listener{DirectTLS: conf, Handler: &script{secure: secure}}
			client := &script{open: func(c *reactor.Conn) { c.StartTLS(cc, reactor.ClientRole) }, secure: secure}
			lines := make([]*addrQueue, pairs)
			open := func(from, to int) {
				for i := from; i < to; i++ {
					lines[i] = &addrQueue{a: n.Connect(0, client), b: n.ConnectTo(0, server)}
					for range 8 {
						settle(n)
						lines[i].move(n.Now(), 0)
					}
				}
				n.Advance(40 * time.Second)
				settle(n)
			}
			open(0, 20) // what is shared
			before := heap()
			open(20, pairs)
			per = (heap() - before) / (2 * (pairs - 20))
			for _, l := range lines {
				if l.a.Conn().Detached() == std || l.b.Conn().Detached() == std {
					t.Fatalf("detached: %v", !std)
				}
				l.a.Hangup(nil)
				l.b.Hangup(nil)
			}
			settle(n)
		})
		return per
	}
	compact, std := measure(false), measure(true)
	t.Logf("%d bytes of heap for an idle connection, %d with crypto/tls", compact, std)
	if compact > 1200 || std < 3*compact {
		t.Errorf("%d bytes of heap for an idle connection, %d with crypto/tls", compact, std)
	}
	near(t, "what crypto/tls keeps", reactor.CryptoBytes, int(std-compact)-reactor.StdSize)
}

// ObjectSizes has the right sizes for objects of other packages.
func TestWarmBytes(t *testing.T) {
	const n = 1000
	all := make([]any, n)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for i := range all {
		all[i] = reactor.AEADs()
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	near(t, "two AEADs", reactor.AEADBytes, int(after.HeapAlloc-before.HeapAlloc)/n)
	runtime.KeepAlive(all)
}

func near(t *testing.T, what string, is, want int) {
	t.Helper()
	t.Logf("%s: %d bytes, and %d were measured", what, is, want)
	if is < want*85/100 || is > want*115/100 {
		t.Errorf("%s: %d bytes, and %d were measured", what, is, want)
	}
}
