package reactor_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"canto/reactor"
	"canto/reactor/buf"
	"canto/reactor/reactortest"
)

// site answers what the tests ask for.
func site() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/hello", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "hello %s", r.URL.Query().Get("n"))
	})
	mux.HandleFunc("/sum", func(w http.ResponseWriter, r *http.Request) {
		h := sha256.New()
		n, err := io.Copy(h, r.Body)
		fmt.Fprintf(w, "%d %x %v", n, h.Sum(nil), err)
	})
	mux.HandleFunc("/big", func(w http.ResponseWriter, r *http.Request) {
		b := bytes.Repeat([]byte("0123456789abcdef"), 1024)
		for range 1024 {
			if _, err := w.Write(b); err != nil {
				return
			}
		}
	})
	return mux
}

// webServer serves site through an HTTPListener until the test ends.
func webServer(t testing.TB, w *reactor.HTTPListener) {
	srv := &http.Server{Handler: site(), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute,
		MaxHeaderBytes: 16 << 10}
	done := make(chan struct{})
	go func() { srv.Serve(w); close(done) }()
	t.Cleanup(func() { srv.Close(); <-done })
}

// raw has Web's connections without net/http.
func raw(t testing.TB, w *reactor.HTTPListener) func() net.Conn {
	t.Cleanup(func() { w.Close() })
	return func() net.Conn {
		t.Helper()
		nc, err := w.Accept()
		if err != nil {
			t.Fatal(err)
		}
		return nc
	}
}

func response(t testing.TB, r *bufio.Reader) (int, string) {
	t.Helper()
	res, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(b)
}

// One port of each kind, over real sockets: keep-alive, pipelining, a body larger than all buffers, an
// answer larger than all buffers.
func TestWeb(t *testing.T) {
	for _, secure := range []bool{false, true} {
		t.Run(fmt.Sprint("tls=", secure), func(t *testing.T) {
			w := new(reactor.HTTPListener)
			webServer(t, w)
			ln := reactor.Listener{Addr: "127.0.0.1:0", Handler: w}
			if secure {
				ln.DirectTLS = serverTLS(t)
				ln.DirectTLS.NextProtos = []string{"http/1.1"}
			}
			r, addr := serve(t, reactor.Config{Listeners: []reactor.Listener{ln}})
			c := dial(t, addr)
			if secure {
				c = tls.Client(c, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}})
			}
			in := bufio.NewReader(c)
			for i := range 3 {
				fmt.Fprintf(c, "GET /hello?n=%d HTTP/1.1\r\nHost: x\r\n\r\n", i)
				if code, body := response(t, in); code != 200 || body != fmt.Sprint("hello ", i) {
					t.Fatal(code, body)
				}
			}
			io.WriteString(c, "GET /hello?n=a HTTP/1.1\r\nHost: x\r\n\r\nGET /hello?n=b HTTP/1.1\r\nHost: x\r\n\r\n")
			for _, want := range []string{"hello a", "hello b"} {
				if _, body := response(t, in); body != want {
					t.Fatalf("%q, not %q", body, want)
				}
			}
			body := bytes.Repeat([]byte("body of a request "), 1<<18)
			go func() {
				fmt.Fprintf(c, "POST /sum HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", len(body))
				c.Write(body)
			}()
			if _, got := response(t, in); got != fmt.Sprintf("%d %x <nil>", len(body), sha256.Sum256(body)) {
				t.Fatal(got)
			}
			io.WriteString(c, "GET /big HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
			if _, got := response(t, in); got != strings.Repeat("0123456789abcdef", 1<<20) {
				t.Fatalf("%d bytes of 16 MiB", len(got))
			}
			if _, err := in.ReadByte(); err != io.EOF {
				t.Fatalf("after the last answer: %v", err)
			}
			c.Close()
			waitFor(t, func() bool { return w.Hijacked() == 0 && r.Connections() == 0 })
		})
	}
}

// heads are requests that parsers disagree about: whatever they are, the bytes reach net/http as they
// came, whole or cut anywhere, and never before the head is whole (K105).
var heads = []string{
	"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
	"GET / HTTP/1.1\nHost: x\n\n",
	"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET " +
		"/smuggled HTTP/1.1\r\n\r\n",
	"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 5\r\n\r\nabcde",
	"GET / HTTP/1.1\r\nHost: x\r\nX: a\r\n folded\r\n\r\n",
	"GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding : chunked\r\n\r\n",
	"GET / HTTP/1.1\r\nHost: x\r\nX: a\r\r\n\n",
	"\r\nGET / HTTP/1.1\r\n\r\n",
	"\n",
	"GET / HTTP/1.1\r\nHost: x\r\nX: \x00\xff\x80\r\n\r\n",
	"GET / HTTP/1.1\r\rHost: x\r\r\n\r\n",
}

func TestAttackK105Heads(t *testing.T) {
	w := new(reactor.HTTPListener)
	accept := raw(t, w)
	for _, head := range heads {
		for cut := range len(head) + 1 {
			n := reactortest.New(1, reactor.Config{Loops: 1})
			c := n.Connect(0, w)
			if cut > 0 {
				c.Send([]byte(head[:cut]))
			}
			if cut < len(head) {
				c.Send([]byte(head[cut:]))
			}
			nc := accept()
			b := make([]byte, len(head))
			if _, err := io.ReadFull(nc, b); err != nil || string(b) != head {
				t.Fatalf("%q cut at %d: %q, %v", head, cut, b, err)
			}
			nc.Close()
			n.Run()
		}
		n := reactortest.New(1, reactor.Config{Loops: 1})
		c := n.Connect(0, w)
		c.SendChunks([]byte(head), 1)
		nc := accept()
		b := make([]byte, len(head))
		if _, err := io.ReadFull(nc, b); err != nil || string(b) != head {
			t.Fatalf("%q byte by byte: %q, %v", head, b, err)
		}
		nc.Close()
		c.Close(nil)
		if w.Hijacked() != 0 {
			t.Fatal("a connection is still counted")
		}
	}
}

// What net/http makes of the same heads: nothing is smuggled.
func TestAttackK105Smuggling(t *testing.T) {
	w := new(reactor.HTTPListener)
	var mu sync.Mutex
	var paths []string
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		paths = append(paths, r.URL.Path)
		mu.Unlock()
	})}
	done := make(chan struct{})
	go func() { srv.Serve(w); close(done) }()
	t.Cleanup(func() { srv.Close(); <-done })
	_, addr := serve(t, reactor.Config{Listeners: []reactor.Listener{{Addr: "127.0.0.1:0", Handler: w}}})
	for _, head := range heads {
		c := dial(t, addr)
		io.WriteString(c, head)
		res, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatalf("%q: %v", head, err)
		}
		if strings.Contains(head, "Length: 3") && res.StatusCode != 400 {
			t.Errorf("%q: %s", head, res.Status)
		}
		c.Close()
	}
	mu.Lock()
	defer mu.Unlock()
	for _, p := range paths {
		if p != "/" {
			t.Errorf("%s was smuggled in", p)
		}
	}
}

// A head may take 16 KiB and 10 s from its first byte, and costs no goroutine; a connection that
// sends nothing at all is closed after a minute (T17).
func TestAttackT17Head(t *testing.T) {
	var refused []int
	lost := 0
	w := &reactor.HTTPListener{Refused: func(s int) {
		refused = append(refused, s)
	}, Released: func(netip.AddrPort) { lost++ }}
	t.Cleanup(func() { w.Close() })
	n := reactortest.New(1, reactor.Config{Loops: 1})
	out := buf.Input.InUse() + buf.Outbox.InUse()

	big := n.Connect(0, w)
	big.SendChunks([]byte("GET / HTTP/1.1\r\nX: "+strings.Repeat("x", 16<<10)), 1000)
	if got := string(big.Received()); !strings.HasPrefix(got, "HTTP/1.1 431 ") || !big.Ended() {
		t.Fatalf("a head of 16 KiB and more: %q", got)
	}
	whole := n.Connect(0, w)
	whole.Send([]byte("GET / HTTP/1.1\r\nX: " + strings.Repeat("x", 20<<10) + "\r\n\r\n"))
	if got := string(whole.Received()); !strings.HasPrefix(got, "HTTP/1.1 431 ") {
		t.Fatalf("the same in one piece: %q", got)
	}
	fits := n.Connect(0, w)
	fits.Send([]byte("GET / HTTP/1.1\r\nX: " +
		strings.Repeat("x", 16<<10-len("GET / HTTP/1.1\r\nX: \r\n\r\n")) + "\r\n\r\n"))
	if w.Hijacked() != 1 {
		t.Fatal("a head of 16 KiB was refused")
	}
	fits.Close(nil)

	before := runtime.NumGoroutine()
	slow, silent := n.Connect(0, w), n.Connect(0, w)
	for range 9 {
		slow.Send([]byte("G"))
		n.Advance(1099 * time.Millisecond) // progress moves no deadline
	}
	if slow.Ended() {
		t.Fatal("ended before 10 s")
	}
	n.Advance(time.Second)
	if got := string(slow.Received()); !strings.HasPrefix(got, "HTTP/1.1 408 ") || !slow.Ended() {
		t.Fatalf("a head that takes 10 s: %q", got)
	}
	n.Advance(49 * time.Second)
	if silent.Ended() || runtime.NumGoroutine() > before {
		t.Fatal("ended before a minute, or waiting costs a goroutine")
	}
	n.Advance(3 * time.Second)
	if got := silent.Received(); len(got) > 0 || !silent.Ended() {
		t.Fatalf("a minute of nothing: %q, %v", got, silent.Ended())
	}
	n.Advance(3 * time.Second)
	if n.Connections() != 0 || lost != 5 || fmt.Sprint(refused) != "[431 431 408]" {
		t.Fatalf("%d connections, %d lost, refused %v", n.Connections(), lost, refused)
	}
	if now := buf.Input.InUse() + buf.Outbox.InUse(); now != out {
		t.Fatalf("%d buffers are lent, %d before", now, out)
	}
}

// At its limit an HTTPListener answers 503; when a connection ends, another one is accepted.
func TestWebLimit(t *testing.T) {
	w := &reactor.HTTPListener{Limit: 3}
	accept := raw(t, w)
	n := reactortest.New(1, reactor.Config{Loops: 1})
	const head = "GET / HTTP/1.1\r\n\r\n"
	var conns []net.Conn
	for range 3 {
		n.Connect(0, w).Send([]byte(head))
		conns = append(conns, accept())
	}
	c := n.Connect(0, w)
	c.Send([]byte(head))
	if got := string(c.Received()); !strings.HasPrefix(got, "HTTP/1.1 503 ") || !c.Ended() {
		t.Fatalf("%q", got)
	}
	conns[0].Close()
	n.Run()
	n.Connect(0, w).Send([]byte(head))
	accept().Close()
	n.Run()
	for _, nc := range conns[1:] {
		nc.Close()
	}
	n.Run()
	if w.Hijacked() != 0 {
		t.Fatalf("%d are still counted", w.Hijacked())
	}
	w.Close()
	c = n.Connect(0, w)
	c.Send([]byte(head))
	if got := string(c.Received()); !strings.HasPrefix(got, "HTTP/1.1 503 ") {
		t.Fatalf("after Close: %q", got)
	}
}

// Memory is bounded both ways: a goroutine that doesn't read pauses the connection, a client that
// doesn't read makes Write wait, and all arrives in the end.
func TestWebBackPressure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := new(reactor.HTTPListener)
		accept := raw(t, w)
		n := reactortest.New(1, reactor.Config{Loops: 1})
		c := n.Connect(0, w)
		head := []byte("POST / HTTP/1.1\r\n\r\n")
		body := bytes.Repeat([]byte("0123456789"), 1<<20/10)
		c.Send(append(head, body...))
		if !c.Paused() {
			t.Fatal("a megabyte went in, and no goroutine reads it")
		}
		nc := accept()
		var got bytes.Buffer
		go io.Copy(&got, nc)
		settle(n)
		if got.Len() != len(head)+len(body) || !bytes.Equal(got.Bytes()[len(head):], body) || c.Paused() {
			t.Fatalf("%d of %d bytes", got.Len(), len(head)+len(body))
		}

		c.SetWindow(0)
		var wrote atomic.Int64
		go func() {
			for i := 0; i < len(body); i += 1 << 10 {
				k, _ := nc.Write(body[i:min(i+1<<10, len(body))])
				wrote.Add(int64(k))
			}
			nc.Close()
		}()
		settle(n)
		held := wrote.Load()
		if held < 128<<10 || held > 512<<10 {
			t.Fatalf("%d bytes were taken for a client that does not read", held)
		}
		if b := c.Conn().Buffered(); b > 128<<10 {
			t.Fatalf("%d bytes are in the outbox", b)
		}
		var back []byte
		for range 10_000 {
			c.SetWindow(10_000)
			settle(n)
			n.Advance(reactor.TickLength)
			back = append(back, c.Take()...)
			if c.Ended() {
				break
			}
		}
		if !bytes.Equal(back, body) || !c.Ended() {
			t.Fatalf("%d of %d bytes came back, ended %v", len(back), len(body), c.Ended())
		}
		n.Advance(10 * time.Second)
		if w.Hijacked() != 0 || n.Connections() != 0 {
			t.Fatalf("%d hijacked, %d connections", w.Hijacked(), n.Connections())
		}
	})
}

// settle goes on until the loops and every goroutine have nothing to do but wait.
func settle(n *reactortest.Net) {
	for range 100_000 {
		n.Run()
		synctest.Wait()
		if !n.Pending() {
			return
		}
	}
	panic("it never comes to rest")
}

// With a client that never reads, Write waits for a minute, and the connection ends soon after its
// goroutine has closed it.
func TestAttackK22Web(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := new(reactor.HTTPListener)
		accept := raw(t, w)
		n := reactortest.New(1, reactor.Config{Loops: 1})
		c := n.Connect(0, w)
		c.SetWindow(0)
		c.Send([]byte("GET / HTTP/1.1\r\n\r\n"))
		nc := accept()
		result := make(chan error, 1)
		start := time.Now()
		go func() {
			_, err := nc.Write(make([]byte, 1<<20))
			nc.Close()
			result <- err
		}()
		settle(n)
		if err := <-result; err == nil || time.Since(start) != time.Minute {
			t.Fatalf("Write: %v after %v", err, time.Since(start))
		}
		settle(n)
		if w.Hijacked() != 1 {
			t.Fatal("a connection that holds bytes is counted no more")
		}
		n.Advance(61 * time.Second)
		n.Advance(5 * time.Second)
		if w.Hijacked() != 0 || n.Connections() != 0 {
			t.Fatalf("%d hijacked, %d connections", w.Hijacked(), n.Connections())
		}
	})
}

// A hijackedConn does what net.Conn promises: deadlines, errors after Close, the end of the peer.
func TestWebConn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := new(reactor.HTTPListener)
		accept := raw(t, w)
		n := reactortest.New(1, reactor.Config{Loops: 1})
		open := func() (*reactortest.Client, net.Conn) {
			c := n.Connect(0, w)
			c.Send([]byte("\n"))
			nc := accept()
			nc.Read(make([]byte, 10))
			return c, nc
		}
		b := make([]byte, 10)
		timeout := func(err error) bool {
			ne, ok := err.(net.Error)
			return ok && ne.Timeout()
		}

		c, nc := open()
		start := time.Now()
		nc.SetReadDeadline(start.Add(time.Second))
		if _, err := nc.Read(b); !timeout(err) || time.Since(start) != time.Second {
			t.Fatal(err, time.Since(start))
		}
		nc.SetReadDeadline(start) // in the past
		if _, err := nc.Read(b); !timeout(err) {
			t.Fatal(err)
		}
		nc.SetReadDeadline(time.Time{})
		c.Send([]byte("x"))
		if k, err := nc.Read(b); k != 1 || err != nil {
			t.Fatal(k, err)
		}
		go func() { time.Sleep(time.Second); nc.SetReadDeadline(time.Unix(1, 0)) }()
		if _, err := nc.Read(b); !timeout(err) {
			t.Fatalf("a deadline set while Read waits: %v", err)
		}
		nc.SetDeadline(time.Now().Add(time.Second))
		time.Sleep(2 * time.Second)
		if _, err := nc.Write(b); !timeout(err) {
			t.Fatal(err)
		}
		if err := nc.Close(); err != nil {
			t.Fatal(err)
		}
		if nc.Close() == nil {
			t.Fatal("Close twice")
		}
		if _, err := nc.Read(b); err != net.ErrClosed {
			t.Fatal(err)
		}
		if _, err := nc.Write(b); err == nil {
			t.Fatal("Write after Close")
		}
		n.Run()
		if !c.Ended() {
			t.Fatal("Close didn't reach the peer")
		}

		c, nc = open() // the peer ends while Read waits
		read := make(chan error)
		go func() { _, err := nc.Read(b); read <- err }()
		synctest.Wait()
		c.Close(nil)
		if err := <-read; err != io.EOF {
			t.Fatal(err)
		}
		if _, err := nc.Write(b); err == nil {
			t.Fatal("Write to a connection that has ended")
		}
		nc.Close()
		c, nc = open() // and with an error
		c.Close(io.ErrUnexpectedEOF)
		if _, err := nc.Read(b); err != io.ErrUnexpectedEOF {
			t.Fatal(err)
		}
		nc.Close()
		c, nc = open() // while Write waits
		c.SetWindow(0)
		wrote := make(chan error)
		go func() { _, err := nc.Write(make([]byte, 1<<20)); wrote <- err }()
		settle(n)
		c.Close(nil)
		if err := <-wrote; err == nil {
			t.Fatal("a Write without a peer succeeded")
		}
		nc.Close()
		n.Advance(10 * time.Second)
		if w.Hijacked() != 0 || n.Connections() != 0 {
			t.Fatalf("%d hijacked, %d connections", w.Hijacked(), n.Connections())
		}
	})
}

// When the reactor shuts down every hijacked connection ends, and its goroutine with it.
func TestWebDrain(t *testing.T) {
	w := new(reactor.HTTPListener)
	accept := raw(t, w)
	r, err := reactor.New(reactor.Config{Log: quiet, Loops: 2,
		Listeners: []reactor.Listener{{Addr: "127.0.0.1:0", Handler: w}}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	ended := make(chan struct{})
	const conns = 10
	for i := range conns {
		c := dial(t, r.Addrs()[0])
		io.WriteString(c, "GET / HTTP/1.1\r\n\r\n")
		nc := accept()
		go func() {
			if i%2 == 0 {
				io.Copy(io.Discard, nc)
			} else {
				for {
					if _, err := nc.Write(make([]byte, 100_000)); err != nil {
						break
					}
				}
			}
			nc.Close()
			ended <- struct{}{}
		}()
		t.Cleanup(func() { c.Close() })
	}
	stop()
	for range conns {
		<-ended
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool { return w.Hijacked() == 0 })
}

// Connections that end in each state, over sockets, leave nothing in use (T01).
func TestAttackT01Web(t *testing.T) {
	w := new(reactor.HTTPListener)
	webServer(t, w)
	r, addr := serve(t, reactor.Config{Listeners: []reactor.Listener{{Addr: "127.0.0.1:0", Handler: w}}})
	states := []string{"", "G", "GET / HTTP/1.1\r\nHost: x\r\n", "GET /hello HTTP/1.1\r\nHost: x\r\n\r\n",
		"GET /big HTTP/1.1\r\nHost: x\r\n\r\n",
		"POST /sum HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nhalf", "nonsense\r\n\r\n",
		strings.Repeat("x", 17<<10)}
	round := func(n int) {
		for i := range n {
			c, err := net.Dial("tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			io.WriteString(c, states[i%len(states)])
			if i%3 == 0 {
				c.SetReadDeadline(time.Now().Add(time.Millisecond))
				c.Read(make([]byte, 100))
			}
			if i%2 == 0 {
				c.(*net.TCPConn).SetLinger(0)
			}
			c.Close()
		}
		waitFor(t, func() bool { return r.Connections() == 0 && w.Hijacked() == 0 })
	}
	round(200)
	goroutines, fds, out := runtime.NumGoroutine(), descriptors(t), buf.Outbox.InUse()+buf.Input.InUse()
	round(5000)
	waitFor(t, func() bool { return runtime.NumGoroutine() <= goroutines+4 })
	waitFor(t, func() bool { return descriptors(t) <= fds+2 })
	waitFor(t, func() bool { return buf.Outbox.InUse()+buf.Input.InUse() <= out })
}

// A connection goes to Upgraded, with every byte, if Upgrade says so for its first head.
func TestWebUpgrade(t *testing.T) {
	var got bytes.Buffer
	opened, lost := 0, 0
	h := &script{open: func(*reactor.Conn) {
		opened++
	}, data: func(c *reactor.Conn, p []byte) int { got.Write(p); return len(p) }}
	w := &reactor.HTTPListener{Upgraded: h, Released: func(netip.AddrPort) { lost++ },
		Upgrade: func(c *reactor.Conn, head []byte) bool {
			if !bytes.HasSuffix(head, []byte("\r\n\r\n")) {
				t.Errorf("%q is no head", head)
			}
			return bytes.Contains(head, []byte("Upgrade: websocket"))
		}}
	t.Cleanup(func() { w.Close() })
	n := reactortest.New(1, reactor.Config{Loops: 1})
	c := n.Connect(0, w)
	c.SendChunks([]byte("GET / HTTP/1.1\r\nUpgrade: websocket\r\n\r\nfirst frame"), 7)
	c.Send([]byte(", second frame"))
	if opened != 1 || got.String() != "GET / HTTP/1.1\r\nUpgrade: websocket\r\n\r\nfirst frame, second frame" {
		t.Fatalf("opened %d times: %q", opened, got.String())
	}
	n.Advance(2 * time.Minute) // the Web's deadlines are gone
	c.Close(nil)
	if lost != 0 || w.Hijacked() != 0 {
		t.Fatalf("%d released, %d hijacked", lost, w.Hijacked())
	}
	c = n.Connect(0, w)
	c.Send([]byte("GET / HTTP/1.1\r\n\r\n"))
	if w.Hijacked() != 1 {
		t.Fatal("what does not ask went elsewhere")
	}
	c.Close(nil)
}

// On a port of several protocols the first byte and ALPN decide which handler gets a connection;
// the handler sees it as if the port were its own.
func TestSniff(t *testing.T) {
	w := new(reactor.HTTPListener)
	webServer(t, w)
	var events sync.Map
	note := func(c *reactor.Conn, what string) {
		v, _ := events.LoadOrStore(c, new([]string))
		*v.(*[]string) = append(*v.(*[]string), what)
	}
	lines := make(chan string, 10)
	h := &script{open: func(c *reactor.Conn) { note(c, "open") },
		secure: func(c *reactor.Conn, st *tls.ConnectionState) { note(c, "secure") },
		data:   func(c *reactor.Conn, p []byte) int { note(c, "data"); c.Append(p); return len(p) },
		closed: func(c *reactor.Conn, err error) {
			v, _ := events.Load(c)
			lines <- strings.Join(*v.(*[]string), " ")
		}}
	conf := serverTLS(t)
	conf.NextProtos = []string{"xmpp-client", "http/1.1"}
	var lost atomic.Int32
	_, addr := serve(t, reactor.Config{Listeners: []reactor.Listener{{Addr: "127.0.0.1:0", Handler: h,
		DirectTLS: conf, AllowPlain: true,
		Protocols: []reactor.Protocol{{ALPN: "http/1.1", Handler: w}}, Aborted: func(netip.AddrPort) {
			lost.Add(1)
		}}}})
	c := dial(t, addr)
	exchange(t, c, "<stream>")
	c.Close()
	if got := <-lines; got != "open data" {
		t.Errorf("plain: %s", got)
	}
	for _, alpn := range [][]string{{"xmpp-client"}, nil} {
		for _, cut := range []bool{false, true} {
			raw := dial(t, addr)
			if cut {
				raw = bytewise{raw}
			}
			c := tls.Client(raw, &tls.Config{InsecureSkipVerify: true, NextProtos: alpn})
			exchange(t, c, "<stream>")
			c.Close()
			if got := <-lines; got != "open secure data" {
				t.Errorf("ALPN %v: %s", alpn, got)
			}
		}
	}
	tc := tls.Client(dial(t, addr), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}})
	io.WriteString(tc, "GET /hello HTTP/1.1\r\nHost: x\r\n\r\n")
	if code, body := response(t, bufio.NewReader(tc)); code != 200 || body != "hello " {
		t.Error(code, body)
	}
	tc.Close()
	if lost.Load() != 0 {
		t.Errorf("%d are taken for lost", lost.Load())
	}
	dial(t, addr).Close() // not a byte
	bad := dial(t, addr)
	bad.Write([]byte("\x16nonsense that is no hello"))
	io.Copy(io.Discard, bad)
	bad.Close()
	waitFor(t, func() bool { return lost.Load() == 2 })
}

// bytewise sends byte by byte.
type bytewise struct{ net.Conn }

func (b bytewise) Write(p []byte) (int, error) {
	for i := range p {
		if _, err := b.Conn.Write(p[i : i+1]); err != nil {
			return i, err
		}
	}
	return len(p), nil
}

// A connection that sends nothing to a port of several protocols is closed after a while (T17).
func TestAttackT17Sniff(t *testing.T) {
	var lost int
	opened := false
	h := &script{open: func(*reactor.Conn) { opened = true }}
	n := reactortest.New(1, reactor.Config{Loops: 1})
	c := n.ConnectTo(0, reactor.Listener{Handler: h, DirectTLS: &tls.Config{}, AllowPlain: true,
		Aborted: func(netip.AddrPort) {
			lost++
		}})
	n.Advance(29 * time.Second)
	if c.Ended() {
		t.Fatal("ended early")
	}
	n.Advance(2 * time.Second)
	if !c.Ended() || lost != 1 || opened {
		t.Fatalf("ended %v, lost %d, opened %v", c.Ended(), lost, opened)
	}
}

// A certificate for two protocols is no bridge between them (T18): an ALPN name that the port does
// not have gets no connection.
func TestAttackT18Ports(t *testing.T) {
	w := new(reactor.HTTPListener)
	webServer(t, w)
	conf := serverTLS(t)
	conf.NextProtos = []string{"http/1.1"}
	_, addr := serve(t, reactor.Config{Listeners: []reactor.Listener{{Addr: "127.0.0.1:0", Handler: w,
		DirectTLS: conf}}})
	for _, p := range []string{"xmpp-client", "xmpp-server", "h2"} {
		c := tls.Client(dial(t, addr), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{p}})
		if err := c.Handshake(); err == nil || !strings.Contains(err.Error(), "application protocol") {
			t.Errorf("ALPN %s on https: %v", p, err)
		}
	}
}

// Ten thousand connections in each state, in memory: afterwards there is not a connection, a buffer, a
// goroutine or a byte of heap more (T01).
func TestAttackT01WebStates(t *testing.T) {
	w := new(reactor.HTTPListener)
	accept := raw(t, w)
	n := reactortest.New(1, reactor.Config{Loops: 2})
	const head = "GET / HTTP/1.1\r\n\r\n"
	states := map[string]func(c *reactortest.Client){
		"silent":    func(c *reactortest.Client) {},
		"half head": func(c *reactortest.Client) { c.Send([]byte("GET / HTTP/1.1\r\n")) },
		"refused":   func(c *reactortest.Client) { c.Send(make([]byte, 17<<10)) },
		"closed by the server": func(c *reactortest.Client) {
			c.Send([]byte(head))
			accept().Close()
			n.Run()
		},
		"closed by the peer": func(c *reactortest.Client) {
			c.Send([]byte(head))
			c.Close(io.ErrUnexpectedEOF)
			accept().Close()
		},
		"paused": func(c *reactortest.Client) {
			c.Send([]byte(head))
			nc := accept()
			c.Send(make([]byte, 100<<10))
			c.Close(nil)
			nc.Close()
		},
		"unwritten": func(c *reactortest.Client) {
			c.SetWindow(0)
			c.Send([]byte(head))
			nc := accept()
			nc.Write(make([]byte, 10<<10))
			n.Run()
			nc.Close()
			c.Close(nil)
		},
		"with deadlines": func(c *reactortest.Client) {
			c.Send([]byte(head))
			nc := accept()
			nc.SetDeadline(time.Now().Add(time.Hour))
			nc.Close()
			n.Run()
		},
	}
	heap := func() int64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	for name, state := range states {
		round := func(count int) {
			for i := range count {
				c := n.Connect(i, w)
				state(c)
				c.Close(nil)
				if i%100 == 0 {
					n.Advance(5 * time.Second) // those that linger
				}
			}
			n.Advance(5 * time.Second)
		}
		round(200)
		before, goroutines, out := heap(), runtime.NumGoroutine(), buf.Outbox.InUse()+buf.Input.InUse()
		many := 10_000
		if raced {
			many = 1000 // it is five times as slow, and looks for something else
		}
		round(many)
		if n.Connections() != 0 || w.Hijacked() != 0 {
			t.Errorf("%s: %d connections, %d hijacked", name, n.Connections(), w.Hijacked())
		}
		if now := buf.Outbox.InUse() + buf.Input.InUse(); now != out {
			t.Errorf("%s: %d buffers are lent, %d before", name, now, out)
		}
		if now := runtime.NumGoroutine(); now > goroutines {
			t.Errorf("%s: %d goroutines, %d before", name, now, goroutines)
		}
		if grown := heap() - before; grown > 400<<10 { // 40 bytes each of 10,000
			t.Errorf("%s: the heap has grown by %d bytes", name, grown)
		}
	}
}
