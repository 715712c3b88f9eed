package reactor

import (
	"crypto/tls"
	"net/netip"
)

// A Protocol is one of several that share a port with DirectTLS, chosen by ALPN (RFC 7301).
type Protocol struct {
	// ALPN is the name that the handshake agrees on: "xmpp-client", "xmpp-server", "http/1.1".
	ALPN string
	// Handler gets the connections of this protocol.
	Handler Handler
}

// sniffTicks is how long a connection to a port with several protocols may be silent at first: 30
// seconds.
const sniffTicks = 300

// tlsHandshakeType is the first byte of every TLS connection: the content type of the record with
// the ClientHello (RFC 8446 section 5.1).
const tlsHandshakeType = 0x16

// A sniffer is the Handler of a connection until its protocol is known, from the first byte or from ALPN. The
// Handler of the protocol then gets OnOpen, OnSecure if there was a handshake, and all plaintext.
type sniffer struct {
	plain     *endpoint            // for connections in plain, and for handshakes without a known ALPN name
	byALPN    map[string]*endpoint // by Protocol.ALPN
	directTLS *tls.Config          // for connections that begin with TLS
	aborted   func(netip.AddrPort) // Listener.Aborted; may be nil
}

// serverEndpoint returns the endpoint of accepted connections with handler h, in plain.
func serverEndpoint(h Handler) *endpoint {
	a, _ := h.(AdmissionHandler)
	return &endpoint{handler: h, role: ServerRole, admitter: a}
}

// listenerEndpoint returns the endpoint that ln's connections begin with: ln.Handler's, or that of
// a sniffer if several protocols or plain connections share the port. A sniffer takes no part in
// admission; handshakes do, and the Handler that it switches to.
func listenerEndpoint(ln Listener) *endpoint {
	ep := serverEndpoint(ln.Handler)
	ep.directTLS, ep.accept, ep.aborted = ln.DirectTLS, ln.Accept, ln.Aborted
	if ln.DirectTLS == nil || len(ln.Protocols) == 0 && !ln.AllowPlain {
		return ep
	}
	s := &sniffer{plain: serverEndpoint(ln.Handler), byALPN: make(map[string]*endpoint, len(ln.Protocols)),
		directTLS: ln.DirectTLS,
		aborted:   ln.Aborted}
	for _, proto := range ln.Protocols {
		s.byALPN[proto.ALPN] = serverEndpoint(proto.Handler)
	}
	ep.handler, ep.admitter = s, nil
	if ln.AllowPlain {
		ep.directTLS = nil // the first byte decides
	}
	return ep
}

// OnOpen implements Handler: it arms the deadline for the first byte.
func (s *sniffer) OnOpen(c *Conn) { c.Arm(c.loop.Tick() + sniffTicks) }

// OnData implements Handler: with the first bytes it either starts TLS and gives them to the handshake,
// or switches to the Handler of plain connections. Once TLS has begun, input goes past it.
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

// OnSecure implements Handler: it switches to the Handler of the ALPN name.
func (s *sniffer) OnSecure(c *Conn, st *tls.ConnectionState) {
	ep := s.byALPN[st.NegotiatedProtocol]
	if ep == nil {
		ep = s.plain
	}
	c.switchEndpoint(ep)
	ep.handler.OnSecure(c, st)
}

// OnTimer implements Handler: the protocol is not known in time.
func (s *sniffer) OnTimer(c *Conn) { c.Close(ErrHandshakeTimeout) }

// OnDrain implements Handler.
func (s *sniffer) OnDrain(*Conn) {}

// OnClose implements Handler. No other Handler has seen the connection, so Listener.Aborted is
// called.
func (s *sniffer) OnClose(c *Conn, _ error) {
	if s.aborted != nil {
		s.aborted(c.Remote())
	}
}
