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

// tlsHandshakeType is the first byte of every TLS connection: the content type of the record that holds
// the ClientHello (RFC 8446 §5.1).
const tlsHandshakeType = 0x16

// A sniffer is the Handler of a connection until it is known what it speaks. The Handler that takes it
// then gets OnOpen, and OnSecure too if there was a handshake.
type sniffer struct {
	plain     *endpoint // for what begins in plain, and for a handshake that names no protocol
	byALPN    map[string]*endpoint
	directTLS *tls.Config // for what begins with TLS
	aborted   func(netip.AddrPort)
}

// serverEndpoint is of a server's end.
func serverEndpoint(h Handler) *endpoint {
	a, _ := h.(AdmissionHandler)
	return &endpoint{handler: h, role: ServerRole, admitter: a}
}

// listenerEndpoint is what ln's connections begin with.
func listenerEndpoint(ln Listener) *endpoint {
	p := serverEndpoint(ln.Handler)
	p.directTLS, p.accept, p.aborted = ln.DirectTLS, ln.Accept, ln.Aborted
	if ln.DirectTLS == nil || len(ln.Protocols) == 0 && !ln.AllowPlain {
		return p
	}
	s := &sniffer{plain: serverEndpoint(ln.Handler), byALPN: make(map[string]*endpoint, len(ln.Protocols)),
		directTLS: ln.DirectTLS,
		aborted:   ln.Aborted}
	for _, pr := range ln.Protocols {
		s.byALPN[pr.ALPN] = serverEndpoint(pr.Handler)
	}
	p.handler, p.admitter = s, nil
	if ln.AllowPlain {
		p.directTLS = nil // the first byte says
	}
	return p
}

func (s *sniffer) OnOpen(c *Conn) { c.Arm(c.loop.Tick() + sniffTicks) }

func (s *sniffer) OnData(c *Conn, p []byte) int {
	if p[0] != tlsHandshakeType {
		c.switchEndpoint(s.plain)
		return c.endpoint.handler.OnData(c, p)
	}
	if err := c.StartTLS(s.directTLS, ServerRole); err != nil {
		c.Close(err)
		return len(p)
	}
	c.tls.feed(p)
	c.tls.tryBeginHandshake(c)
	return len(p)
}

func (s *sniffer) OnSecure(c *Conn, st *tls.ConnectionState) {
	p := s.byALPN[st.NegotiatedProtocol]
	if p == nil {
		p = s.plain
	}
	c.switchEndpoint(p)
	p.handler.OnSecure(c, st)
}

func (s *sniffer) OnTimer(c *Conn) { c.Close(ErrHandshakeTimeout) }

func (s *sniffer) OnDrain(*Conn) {}

// OnClose: the connection never opened, as the handlers see it.
func (s *sniffer) OnClose(c *Conn, _ error) {
	if s.aborted != nil {
		s.aborted(c.Remote())
	}
}
