package reactor

import (
	"crypto/tls"
	"net/netip"
)

// A Protocol is one of several that share a port.
type Protocol struct {
	ALPN    string // "xmpp-client", "xmpp-server", "http/1.1"
	Handler Handler
}

// sniffTicks is how long a port that speaks several protocols waits for the first byte.
const sniffTicks = 300

// recordHandshake is the first byte of every TLS connection: the content type of the record that holds
// the ClientHello (RFC 8446 §5.1).
const recordHandshake = 0x16

// A sniffer is the Handler of a connection until it is known what it speaks. The Handler that takes it
// then gets OnOpen, and OnSecure too if there was a handshake.
type sniffer struct {
	plain  *port // for what begins in plain, and for a handshake that names no protocol
	speaks map[string]*port
	direct *tls.Config // for what begins with TLS
	lost   func(netip.AddrPort)
}

// portOf is of a server's end.
func portOf(h Handler) *port {
	a, _ := h.(Admitter)
	return &port{h: h, role: ServerRole, admits: a}
}

// ports is what ln's connections begin with.
func ports(ln Listener) *port {
	p := portOf(ln.Handler)
	p.direct, p.accept, p.lost = ln.Direct, ln.Accept, ln.Lost
	if ln.Direct == nil || len(ln.Speaks) == 0 && !ln.Plain {
		return p
	}
	s := &sniffer{plain: portOf(ln.Handler), speaks: make(map[string]*port, len(ln.Speaks)), direct: ln.Direct,
		lost: ln.Lost}
	for _, pr := range ln.Speaks {
		s.speaks[pr.ALPN] = portOf(pr.Handler)
	}
	p.h, p.admits = s, nil
	if ln.Plain {
		p.direct = nil // the first byte says
	}
	return p
}

func (s *sniffer) OnOpen(c *Conn) { c.Arm(c.loop.Tick() + sniffTicks) }

func (s *sniffer) OnData(c *Conn, p []byte) int {
	if p[0] != recordHandshake {
		c.become(s.plain)
		return c.port.h.OnData(c, p)
	}
	if err := c.StartTLS(s.direct, ServerRole); err != nil {
		c.Close(err)
		return len(p)
	}
	c.tls.feed(p)
	c.tls.hello(c)
	return len(p)
}

func (s *sniffer) OnSecure(c *Conn, st *tls.ConnectionState) {
	p := s.speaks[st.NegotiatedProtocol]
	if p == nil {
		p = s.plain
	}
	c.become(p)
	p.h.OnSecure(c, st)
}

func (s *sniffer) OnTimer(c *Conn) { c.Close(ErrTimeout) }

func (s *sniffer) OnDrain(*Conn) {}

// OnClose: the connection never opened, as the handlers see it.
func (s *sniffer) OnClose(c *Conn, _ error) {
	if s.lost != nil {
		s.lost(c.Remote())
	}
}
