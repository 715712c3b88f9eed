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
	// maxHijacked is how many connections are handed over at a time.
	maxHijacked = 1024
)

// A Web is the Handler of ports that speak HTTP/1.1. It reads one request's head on the loop, so that
// whoever sends nothing, or slowly, costs a connection and no goroutine; then the connection goes to
// net/http with the bytes as they came: what a head means is decided there alone (attack K105). A Web
// is the net.Listener that [http.Server.Serve] wants. A client that ends its own side (FIN) behind a
// request is taken for gone, as the engine below closes then: it gets no answer.
type HTTPListener struct {
	// Limit is how many connections may be handed over at a time, beyond it the answer is 503; 1,024.
	Limit int
	// Upgrade reports whether the connection, whose first request's head this is, goes to Upgraded
	// instead: that gets OnOpen and then all bytes from the head's first, and gives back what
	// Listener.Accept took. On the loop; nil: none does.
	Upgrade  func(c *Conn, head []byte) bool
	Upgraded Handler
	// Released is told of each connection that ends, unless Upgraded got it. On the loop.
	Released func(remote netip.AddrPort)
	// Refused counts answers of our own: 408, 431 and 503. On the loop.
	Refused func(status int)

	once             sync.Once
	accepted         chan net.Conn
	done             chan struct{}
	upgradedEndpoint *endpoint
	mu               sync.Mutex
	hijacked         int
	closed           bool
}

func (w *HTTPListener) init() {
	w.once.Do(func() {
		if w.Limit == 0 {
			w.Limit = maxHijacked
		}
		w.accepted = make(chan net.Conn, w.Limit)
		w.done = make(chan struct{})
		w.upgradedEndpoint = serverEndpoint(w.Upgraded)
	})
}

// Accept waits for the next connection whose first head has been read; for net/http.
func (w *HTTPListener) Accept() (net.Conn, error) {
	w.init()
	select {
	case nc := <-w.accepted:
		return nc, nil
	case <-w.done:
		return nil, net.ErrClosed
	}
}

// Close ends Accept; from now on the answer is 503.
func (w *HTTPListener) Close() error {
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
		case nc := <-w.accepted:
			nc.Close()
		default:
			return nil
		}
	}
}

// Addr is net.Listener's; a Web has as many addresses as ports.
func (w *HTTPListener) Addr() net.Addr { return &net.TCPAddr{} }

// Hijacked is how many connections net/http has. Any goroutine.
func (w *HTTPListener) Hijacked() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.hijacked
}

func (w *HTTPListener) hijackDone() {
	w.mu.Lock()
	w.hijacked--
	w.mu.Unlock()
}

// httpConn is the Owner of a connection of a Web.
type httpConn struct {
	head      []byte // what has been read of it, lent by buf.Input
	lineState uint8  // where in a line it ends: 0 at the start, 1 behind a CR there, 2 elsewhere
	refused   bool   // refused
	hijacked  *hijackedConn
}

// OnOpen waits for the first byte.
func (w *HTTPListener) OnOpen(c *Conn) {
	w.init()
	c.HandlerState = new(httpConn)
	c.Arm(c.loop.Tick() + idleTicks)
}

// OnData looks for the end of the head: an empty line.
func (w *HTTPListener) OnData(c *Conn, p []byte) int {
	o := c.HandlerState.(*httpConn)
	switch {
	case o.hijacked != nil:
		o.hijacked.onData(p)
		return len(p)
	case o.refused:
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
			o.head = buf.Input.Get(len(p))
		}
		o.head = append(o.head, p...)
	default:
		w.headComplete(c, o, p, end)
	}
	return len(p)
}

// scan goes on through a head; it returns how many bytes of p are in it, or -1 if p doesn't end it.
func (o *httpConn) scan(p []byte) int {
	for i, b := range p {
		switch {
		case b == '\n':
			if o.lineState < 2 {
				return i + 1
			}
			o.lineState = 0
		case b == '\r' && o.lineState == 0:
			o.lineState = 1
		default:
			o.lineState = 2
		}
	}
	return -1
}

// headComplete hands c on. The head is o.head and p[:end].
func (w *HTTPListener) headComplete(c *Conn, o *httpConn, p []byte, end int) {
	if w.Upgrade != nil {
		all := append(o.head[:len(o.head):len(o.head)], p...)
		if w.Upgrade(c, all[:len(o.head)+end]) {
			o.freeHead()
			c.switchEndpoint(w.upgradedEndpoint)
			if used := c.endpoint.handler.OnData(c, all); used < len(all) {
				c.parkInput(all[used:])
			}
			return
		}
	}
	w.mu.Lock()
	if w.closed || w.hijacked >= w.Limit {
		w.mu.Unlock()
		w.refuse(c, 503)
		return
	}
	w.hijacked++
	o.hijacked = c.hijack(o.head, p, w.hijackDone)
	w.accepted <- o.hijacked // it has room for the limit
	w.mu.Unlock()
	o.freeHead()
	c.Arm(0) // net/http has its own deadlines
}

func (o *httpConn) freeHead() {
	if o.head != nil {
		buf.Input.Put(o.head)
		o.head = nil
	}
}

var refusalResponses = map[int]string{
	408: "HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
	431: "HTTP/1.1 431 Request Header Fields Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
	503: "HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\nRetry-After: 10\r\n\r\n",
}

func (w *HTTPListener) refuse(c *Conn, status int) {
	c.HandlerState.(*httpConn).refused = true
	if w.Refused != nil {
		w.Refused(status)
	}
	c.Append([]byte(refusalResponses[status]))
	c.Close(nil)
}

// OnSecure has nothing to do: the head comes behind the handshake.
func (w *HTTPListener) OnSecure(*Conn, *tls.ConnectionState) {}

// OnTimer ends a head that takes too long, and what nobody reads any more.
func (w *HTTPListener) OnTimer(c *Conn) {
	o := c.HandlerState.(*httpConn)
	if o.hijacked == nil && o.head != nil {
		w.refuse(c, 408)
		return
	}
	c.Close(nil)
}

// OnDrain takes more from the goroutine.
func (w *HTTPListener) OnDrain(c *Conn) {
	if h := c.HandlerState.(*httpConn).hijacked; h != nil {
		h.pumpToOutbox()
	}
}

// OnClose tells the goroutine.
func (w *HTTPListener) OnClose(c *Conn, err error) {
	o := c.HandlerState.(*httpConn)
	o.freeHead()
	if o.hijacked != nil {
		o.hijacked.onClose(err)
	}
	if w.Released != nil {
		w.Released(c.Remote())
	}
}
