package reactor

import (
	"crypto/tls"
	"net"
	"net/netip"
	"sync"

	"canto/reactor/buf"
)

const (
	// maxHead bounds the head of a request, in bytes (answer 431).
	maxHead = 16 << 10
	// headTicks is how long a head may take, from its first byte: 10 s (answer 408). idleTicks is how long
	// a connection may be silent before that: a minute.
	headTicks = 100
	idleTicks = 600
	// maxHijacked is the default of HTTPListener.Limit.
	maxHijacked = 1024
)

// An HTTPListener is the Handler of ports that speak HTTP/1.1, and the net.Listener that
// [http.Server.Serve] wants. It reads the head of the first request on the loop, so that a client that sends
// nothing, or sends slowly, costs a connection and no goroutine. Then net/http gets the connection, as a
// hijackedConn, with all bytes as they came: only net/http decides what a head means (attack K105). A client
// that sends FIN right after its request gets no answer, because the engine closes the connection then.
//
// Fields must be set before the first use. Accept, Close, Addr and Hijacked are safe on any goroutine; the
// methods of Handler are called on loops.
type HTTPListener struct {
	// Limit bounds the connections that net/http has at a time; 1,024. A connection beyond it gets 503.
	Limit int
	// Upgrade reports whether connection c, with this head of its first request, goes to Upgraded instead.
	// It is called on the loop; head is valid during the call. With nil no connection does.
	Upgrade func(c *Conn, head []byte) bool
	// Upgraded gets OnOpen, and then all bytes from the head on, of the connections that Upgrade chose. It
	// gives back what Listener.Accept counted.
	Upgraded Handler
	// Released is called for each connection that ends, unless Upgraded got it, so that what
	// Listener.Accept counted is given back. On the loop.
	Released func(remote netip.AddrPort)
	// Refused is called with the status of each answer that does not come from net/http: 408, 431 or 503.
	// On the loop.
	Refused func(status int)

	once             sync.Once
	accepted         chan net.Conn // connections for Accept; its capacity is Limit
	done             chan struct{} // closed by Close
	upgradedEndpoint *endpoint
	mu               sync.Mutex // guards hijacked and closed
	hijacked         int        // connections that net/http has, or that wait for Accept
	closed           bool
}

// init makes the unexported fields, on the first call of any method.
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

// Accept implements net.Listener: it waits for the next connection with a complete head of its first request.
// After Close it returns net.ErrClosed.
func (w *HTTPListener) Accept() (net.Conn, error) {
	w.init()
	select {
	case nc := <-w.accepted:
		return nc, nil
	case <-w.done:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener: it ends Accept and closes the connections that wait for it.
// Further requests get 503. The second call returns net.ErrClosed.
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

// Addr implements net.Listener. The address is empty, as several ports may share an HTTPListener.
func (w *HTTPListener) Addr() net.Addr { return &net.TCPAddr{} }

// Hijacked returns how many connections net/http has. Any goroutine.
func (w *HTTPListener) Hijacked() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.hijacked
}

// hijackDone counts a hijacked connection less. Any goroutine.
func (w *HTTPListener) hijackDone() {
	w.mu.Lock()
	w.hijacked--
	w.mu.Unlock()
}

// An httpConn is the HandlerState of a connection of an HTTPListener.
type httpConn struct {
	head      []byte        // the part of the first head that has come, lent by buf.Input
	lineState uint8         // where head ends: 0 at the start of a line, 1 after a CR there, 2 elsewhere
	refused   bool          // an answer of ours was sent; further input is dropped
	hijacked  *hijackedConn // set once net/http has the connection
}

// OnOpen implements Handler: it arms the deadline for the first byte.
func (w *HTTPListener) OnOpen(c *Conn) {
	w.init()
	c.HandlerState = new(httpConn)
	c.Arm(c.loop.Tick() + idleTicks)
}

// OnData implements Handler: it passes input of a hijacked connection on, and otherwise collects
// the head, up to its end, an empty line.
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
	searched := p[:min(len(p), maxHead-len(o.head))]
	end := o.scan(searched)
	switch {
	case end < 0 && len(searched) < len(p):
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

// scan continues the search for the end of the head in p. It returns how many bytes of p belong to
// the head, or -1 if the head does not end in p.
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

// headComplete decides which handler gets the connection. Its head is o.head and p[:end]; p[end:]
// follows it. Upgraded gets it if Upgrade says so; else net/http gets it, or it is refused at the
// limit and after Close.
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
	w.accepted <- o.hijacked // does not block: the capacity is the limit
	w.mu.Unlock()
	o.freeHead()
	c.Arm(0) // net/http has its own deadlines
}

// freeHead gives the buffer of the head back.
func (o *httpConn) freeHead() {
	if o.head != nil {
		buf.Input.Put(o.head)
		o.head = nil
	}
}

// refusalResponses are the answers of refuse, by status.
var refusalResponses = map[int]string{
	408: "HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
	431: "HTTP/1.1 431 Request Header Fields Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
	503: "HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\nRetry-After: 10\r\n\r\n",
}

// refuse answers with a status and closes the connection.
func (w *HTTPListener) refuse(c *Conn, status int) {
	c.HandlerState.(*httpConn).refused = true
	if w.Refused != nil {
		w.Refused(status)
	}
	c.Append([]byte(refusalResponses[status]))
	c.Close(nil)
}

// OnSecure implements Handler; it does nothing, as the head comes after the handshake.
func (w *HTTPListener) OnSecure(*Conn, *tls.ConnectionState) {}

// OnTimer implements Handler: a head took too long, a connection was silent, or the peer of a
// hijacked one did not read what was written before Close.
func (w *HTTPListener) OnTimer(c *Conn) {
	o := c.HandlerState.(*httpConn)
	if o.hijacked == nil && o.head != nil {
		w.refuse(c, 408)
		return
	}
	c.Close(nil)
}

// OnDrain implements Handler: the outbox of a hijacked connection has space for more output.
func (w *HTTPListener) OnDrain(c *Conn) {
	if h := c.HandlerState.(*httpConn).hijacked; h != nil {
		h.pumpToOutbox()
	}
}

// OnClose implements Handler: a hijacked connection ends for its goroutine, too.
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
