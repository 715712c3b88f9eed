package reactor

import (
	"crypto/tls"
	"net"
	"net/netip"
	"sync"

	"canto/reactor/buf"
)

const (
	// maxHead bounds one request's head.
	maxHead = 16 << 10
	// headTicks is how long a head may take, from its first byte; idleTicks how long a connection may
	// wait before that.
	headTicks = 100
	idleTicks = 600
	// webLimit is how many connections are handed over at a time.
	webLimit = 1024
)

// A Web is the Handler of ports that speak HTTP/1.1. It reads one request's head on the loop, so that
// whoever sends nothing, or slowly, costs a connection and no goroutine; then the connection goes to
// net/http with the bytes as they came: what a head means is decided there alone (attack K105). A Web
// is the net.Listener that [http.Server.Serve] wants. A client that ends its own side (FIN) behind a
// request is taken for gone, as the engine below closes then: it gets no answer.
type Web struct {
	// Limit is how many connections may be handed over at a time, beyond it the answer is 503; 1,024.
	Limit int
	// Upgrade reports whether the connection, whose first request's head this is, goes to Upgraded
	// instead: that gets OnOpen and then all bytes from the head's first, and gives back what
	// Listener.Accept took. On the loop; nil: none does.
	Upgrade  func(c *Conn, head []byte) bool
	Upgraded Handler
	// Lost is told of each connection that ends, unless Upgraded got it. On the loop.
	Lost func(remote netip.AddrPort)
	// Refused counts answers of our own: 408, 431 and 503. On the loop.
	Refused func(status int)

	once     sync.Once
	queue    chan net.Conn
	done     chan struct{}
	upgraded *port
	mu       sync.Mutex
	handed   int
	closed   bool
}

func (w *Web) init() {
	w.once.Do(func() {
		if w.Limit == 0 {
			w.Limit = webLimit
		}
		w.queue = make(chan net.Conn, w.Limit)
		w.done = make(chan struct{})
		w.upgraded = portOf(w.Upgraded)
	})
}

// Accept waits for the next connection whose first head has been read; for net/http.
func (w *Web) Accept() (net.Conn, error) {
	w.init()
	select {
	case nc := <-w.queue:
		return nc, nil
	case <-w.done:
		return nil, net.ErrClosed
	}
}

// Close ends Accept; from now on the answer is 503.
func (w *Web) Close() error {
	w.init()
	w.mu.Lock()
	if w.closed {
		w.mu.Unlock()
		return net.ErrClosed
	}
	w.closed = true
	close(w.done)
	w.mu.Unlock()
	for {
		select {
		case nc := <-w.queue:
			nc.Close()
		default:
			return nil
		}
	}
}

// Addr is net.Listener's; a Web has as many addresses as ports.
func (w *Web) Addr() net.Addr { return &net.TCPAddr{} }

// Handed is how many connections net/http has. Any goroutine.
func (w *Web) Handed() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.handed
}

func (w *Web) left() {
	w.mu.Lock()
	w.handed--
	w.mu.Unlock()
}

// webConn is the Owner of a connection of a Web.
type webConn struct {
	head   []byte // what has been read of it, lent by buf.Tail
	col    uint8  // where in a line it ends: 0 at the start, 1 behind a CR there, 2 elsewhere
	closed bool   // refused
	h      *handed
}

// OnOpen waits for the first byte.
func (w *Web) OnOpen(c *Conn) {
	w.init()
	c.Owner = new(webConn)
	c.Arm(c.loop.Tick() + idleTicks)
}

// OnData looks for the end of the head: an empty line.
func (w *Web) OnData(c *Conn, p []byte) int {
	o := c.Owner.(*webConn)
	switch {
	case o.h != nil:
		o.h.feedIn(p)
		return len(p)
	case o.closed:
		return len(p)
	}
	if o.head == nil {
		c.Arm(c.loop.Tick() + headTicks)
	}
	look := p[:min(len(p), maxHead-len(o.head))]
	end := o.scan(look)
	switch {
	case end < 0 && len(look) < len(p):
		w.refuse(c, 431)
	case end < 0:
		if o.head == nil {
			o.head = buf.Tail.Get(len(p))
		}
		o.head = append(o.head, p...)
	default:
		w.complete(c, o, p, end)
	}
	return len(p)
}

// scan goes on through a head; it returns how many bytes of p are in it, or -1 if p doesn't end it.
func (o *webConn) scan(p []byte) int {
	for i, b := range p {
		switch {
		case b == '\n':
			if o.col < 2 {
				return i + 1
			}
			o.col = 0
		case b == '\r' && o.col == 0:
			o.col = 1
		default:
			o.col = 2
		}
	}
	return -1
}

// complete hands c on. The head is o.head and p[:end].
func (w *Web) complete(c *Conn, o *webConn, p []byte, end int) {
	if w.Upgrade != nil {
		all := append(o.head[:len(o.head):len(o.head)], p...)
		if w.Upgrade(c, all[:len(o.head)+end]) {
			o.drop()
			c.become(w.upgraded)
			if used := c.port.h.OnData(c, all); used < len(all) {
				c.keep(all[used:])
			}
			return
		}
	}
	w.mu.Lock()
	if w.closed || w.handed >= w.Limit {
		w.mu.Unlock()
		w.refuse(c, 503)
		return
	}
	w.handed++
	o.h = c.handOver(o.head, p, w.left)
	w.queue <- o.h // it has room for the limit
	w.mu.Unlock()
	o.drop()
	c.Arm(0) // net/http has its own deadlines
}

func (o *webConn) drop() {
	if o.head != nil {
		buf.Tail.Put(o.head)
		o.head = nil
	}
}

var refusals = map[int]string{
	408: "HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
	431: "HTTP/1.1 431 Request Header Fields Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
	503: "HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\nRetry-After: 10\r\n\r\n",
}

func (w *Web) refuse(c *Conn, status int) {
	c.Owner.(*webConn).closed = true
	if w.Refused != nil {
		w.Refused(status)
	}
	c.Append([]byte(refusals[status]))
	c.Close(nil)
}

// OnSecure has nothing to do: the head comes behind the handshake.
func (w *Web) OnSecure(*Conn, *tls.ConnectionState) {}

// OnTimer ends a head that takes too long, and what nobody reads any more.
func (w *Web) OnTimer(c *Conn) {
	o := c.Owner.(*webConn)
	if o.h == nil && o.head != nil {
		w.refuse(c, 408)
		return
	}
	c.Close(nil)
}

// OnDrain takes more from the goroutine.
func (w *Web) OnDrain(c *Conn) {
	if h := c.Owner.(*webConn).h; h != nil {
		h.pumpOut()
	}
}

// OnClose tells the goroutine.
func (w *Web) OnClose(c *Conn, err error) {
	o := c.Owner.(*webConn)
	o.drop()
	if o.h != nil {
		o.h.ended(err)
	}
	if w.Lost != nil {
		w.Lost(c.Remote())
	}
}
