package stub

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"time"

	"canto/session/sasl"
	"canto/session/stanza"
	"canto/xmlstream"
)

// maxQueue bounds what is queued for a client that does not read, in bytes. Beyond that the client
// is dropped.
const maxQueue = 64 << 20

// A client is one connection. Until it is bound only its reading goroutine writes to it; from then on
// everything goes through its queue, which others fill too.
type client struct {
	s       *Server
	raw     net.Conn // the connection that Close closes
	nc      net.Conn // gated, and TLS on top of it
	state   *tls.ConnectionState
	in      xmlstream.Stream
	restart bool // the next thing to come is a new header
	starttl bool // the next thing to come is a TLS handshake

	sasl     *sasl.Exchange
	sasl2    *sasl2Request // of a login by SASL2
	user     string        // that is authenticated
	bound    bool          // for the reading goroutine; it may have lost its address since
	severed  bool          // guarded by the server's lock, as are the fields below
	bare     string
	resource string
	full     string // empty: not bound, or no longer
	// available is the last presence that was broadcast; nil: there is none, or it was taken back.
	available xmlstream.Element
	directed  map[string]bool
	joined    map[*room]string
	carbons   bool           // it has turned them on
	sm        *smSession     // nil: without stream management
	resting   bool           // its connection is lost, and its session can be resumed
	gentle    bool           // it has ended its stream
	inactive  bool           // it has said so
	held      []heldPresence // what waits until it is active

	qmu    sync.Mutex // guards queue, queued and ending
	queue  []delivery
	queued int
	ending bool // the queue is written, and then the connection is closed
	wake   chan struct{}
	done   chan struct{}
}

// A delivery is bytes that are written at due or later.
type delivery struct {
	due time.Time
	b   []byte
}

var errEnd = errors.New("stub: the stream is over")

// serve reads and handles input until the connection ends.
func (c *client) serve(direct bool) {
	defer c.s.wg.Done()
	defer c.s.removeClient(c)
	if direct && c.secure() != nil {
		return
	}
	p, buf := xmlstream.NewParser(nil), make([]byte, 8<<10)
	for {
		n, err := c.nc.Read(buf)
		if n > 0 {
			if err := c.handle(p, buf[:n]); err != nil {
				c.end(err)
				return
			}
		}
		if err != nil {
			return
		}
	}
}

func (c *client) secure() error {
	t := tls.Server(c.nc, c.s.tls)
	if err := t.Handshake(); err != nil {
		return err
	}
	cs := t.ConnectionState()
	c.nc, c.state = t, &cs
	return nil
}

// handle parses and handles input.
func (c *client) handle(p *xmlstream.Parser, b []byte) error {
	p.Feed(&c.in, b)
	for {
		t, err := p.Next(&c.in)
		switch {
		case err == xmlstream.ErrNeedMore:
			return nil
		case err == io.EOF:
			c.s.mu.Lock()
			c.gentle = true
			c.s.mu.Unlock()
			return errEnd
		case err != nil:
			return err
		case t.Whitespace:
			continue
		case t.End:
			c.s.mu.Lock()
			c.gentle = true
			c.s.mu.Unlock()
			return errEnd
		case string(t.Local()) == "stream" && string(t.Space()) == stanza.NSStream:
			err = c.header()
		case c.bound:
			c.s.stanza(c, t.Element)
		default:
			err = c.negotiate(t.Element)
		}
		if err != nil {
			return err
		}
		if c.restart {
			b = b[len(b)-p.Rest(&c.in):]
			c.restart = false
			c.in.Reset(0)
			if c.starttl {
				c.starttl = false
				if err := c.secure(); err != nil {
					return err
				}
				return nil // bytes in the clear after <starttls/> do not count
			}
			p.Feed(&c.in, b)
		}
	}
}

// end sends the reason of the stream's end, if the client still reads.
func (c *client) end(err error) {
	var syntax *xmlstream.SyntaxError
	last := "</stream:stream>"
	if errors.As(err, &syntax) {
		last = fmt.Sprintf("<stream:error><%s "+
			"xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error></stream:stream>", syntax.Condition)
	}
	if !c.bound {
		c.write("%s", last)
		return
	}
	c.s.mu.Lock()
	c.sendPlain([]byte(last))
	c.finish()
	c.s.mu.Unlock()
	select { // the queue may hold answers that the peer waits for
	case <-c.done:
	case <-c.s.closing:
	case <-time.After(5 * time.Second):
	}
}

// write writes to a client that is not bound.
func (c *client) write(format string, args ...any) error {
	_, err := c.nc.Write(fmt.Appendf(nil, format, args...))
	return err
}

// send queues the stanza b for a bound client, under the server's lock.
func (c *client) send(b []byte) {
	if c.sm == nil {
		c.sendPlain(b)
		return
	}
	c.sm.out++
	c.sm.queue = append(c.sm.queue, b)
	if !c.resting {
		c.sendPlain(b)
		c.sm.ask(c)
	}
}

// sendPlain queues what does not count as a stanza, under the server's lock.
func (c *client) sendPlain(b []byte) {
	d := delivery{b: b}
	if c.s.faults.delay > 0 {
		d.due = time.Now().Add(c.s.faults.delay)
	}
	c.push(d)
}

func (c *client) sendf(format string, args ...any) { c.send(fmt.Appendf(nil, format, args...)) }

func (c *client) push(d delivery) {
	c.qmu.Lock()
	defer c.qmu.Unlock()
	if c.ending {
		return
	}
	c.queue = append(c.queue, d)
	if c.queued += len(d.b); c.queued > maxQueue {
		c.raw.Close()
	}
	c.wakeWriter()
}

// finish closes the connection when the queue is written.
func (c *client) finish() {
	c.qmu.Lock()
	defer c.qmu.Unlock()
	c.ending = true
	c.wakeWriter()
}

func (c *client) wakeWriter() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// deliver writes the queue in order. It runs once the client is bound.
func (c *client) deliver() {
	defer c.s.wg.Done()
	defer close(c.done)
	defer c.raw.Close()
	var out []byte
	for {
		out = out[:0]
		c.qmu.Lock()
		now, n := time.Now(), 0
		for n < len(c.queue) && !c.queue[n].due.After(now) {
			out = append(out, c.queue[n].b...)
			n++
		}
		c.queue = slices.Delete(c.queue, 0, n)
		c.queued -= len(out)
		wait := time.Hour
		if len(c.queue) > 0 {
			wait = c.queue[0].due.Sub(now)
		}
		over := c.ending && len(c.queue) == 0
		c.qmu.Unlock()
		if len(out) > 0 {
			if _, err := c.nc.Write(out); err != nil {
				return
			}
			continue
		}
		if over {
			return
		}
		t := time.NewTimer(wait)
		select {
		case <-c.wake:
		case <-t.C:
		}
		t.Stop()
	}
}

// removeClient removes a client when its input has ended.
func (s *Server) removeClient(c *client) {
	s.mu.Lock()
	s.conns = slices.DeleteFunc(s.conns, func(x *client) bool { return x == c })
	if c.full != "" && !s.rest(c) {
		s.unbind(c)
	}
	s.mu.Unlock()
	c.raw.Close()
	c.qmu.Lock()
	c.queue = nil
	c.qmu.Unlock()
	c.finish()
}

// unbind takes a client's address away, and sends its unavailable presence.
func (s *Server) unbind(c *client) {
	for k := range s.reordered {
		if k.from == c || k.to == c {
			s.releaseReordered(k)
		}
	}
	s.markUnavailable(c)
	if u := s.users[c.bare]; u[c.resource] == c {
		delete(u, c.resource)
		if len(u) == 0 {
			delete(s.users, c.bare)
		}
	}
	c.full = ""
}
