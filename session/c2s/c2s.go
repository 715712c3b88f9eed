// Package c2s serves client connections on TCP (RFC 6120 section 4). It joins the reactor and the
// kernel: [Handler] is the reactor's handler of these connections. It feeds what they have read to
// a [session.Stream], and gives the stream a wire, so that the kernel can write to the connection.
// Each method says on which goroutine it runs; most run on the connection's loop.
package c2s

import (
	"crypto/tls"
	"net/netip"
	"sync"

	"canto/reactor"
	"canto/session"
	"canto/session/jid"
	"canto/xmlstream"
)

// A Handler is the [reactor.Handler] of client connections, those with direct TLS, too. Its
// exported fields do not change once the reactor runs.
type Handler struct {
	// Router is the kernel.
	Router *session.Router
	// TLS is the configuration for a host, or for any if h is nil; nil: there is no certificate.
	// Any goroutine; must not wait.
	TLS func(h *session.Host) *tls.Config
	// Throttle limits connections by address; nil: none.
	Throttle *session.Throttle

	// perAddr counts the open connections of each address.
	perAddr addrCounter
}

// Accept reports whether an address may open another connection: limits per_address and
// logins_per_address. It runs on the accept goroutine, before the connection costs anything. Each
// true is given back by OnClose, or by ReleaseAddress if the connection never opens.
func (d *Handler) Accept(remote netip.AddrPort) bool {
	lim := d.Router.Limits()
	if lim.Exempted(remote.Addr()) {
		return true
	}
	if d.Throttle != nil && !d.Throttle.TakeAddr(remote.Addr(), lim.LoginsPerAddress, d.Router.Tick()) {
		d.Router.CountRefused("logins_per_address")
		return false
	}
	if !d.perAddr.add(remote.Addr(), lim.PerAddress) {
		d.Router.CountRefused("per_address")
		return false
	}
	return true
}

// Refusal returns what a connection is sent that Accept refuses or that finds the server full: a
// stream that ends with an error (RFC 6120 sections 4.9.1.2, 4.9.3.14, 4.9.3.17). Any goroutine.
func (d *Handler) Refusal(full bool) []byte {
	err := session.ErrPolicyViolation
	if full {
		err = session.ErrResourceConstraint
	}
	return append(err.Append([]byte(headerPrefix+">")), "</stream:stream>"...)
}

// headerPrefix is the constant beginning of the server's stream header.
const headerPrefix = "<?xml version='1.0'?><stream:stream xmlns='jabber:client' " +
	"xmlns:stream='http://etherx.jabber.org/streams' version='1.0'"

// AcceptHTTP is Accept for connections that are no login, as HTTP's: only the number of open
// connections of the address counts. Each true is given back by ReleaseAddress. The accept
// goroutine.
func (d *Handler) AcceptHTTP(remote netip.AddrPort) bool {
	lim := d.Router.Limits()
	if !lim.Exempted(remote.Addr()) && !d.perAddr.add(remote.Addr(), lim.PerAddress) {
		d.Router.CountRefused("per_address")
		return false
	}
	return true
}

// ReleaseAddress gives back what Accept or AcceptHTTP took. Any goroutine.
func (d *Handler) ReleaseAddress(remote netip.AddrPort) {
	lim := d.Router.Limits()
	if !lim.Exempted(remote.Addr()) {
		d.perAddr.remove(remote.Addr())
	}
}

// OnOpen makes the stream of a new connection. The connection's loop.
func (d *Handler) OnOpen(c *reactor.Conn) {
	l := d.Router.LoopRouter(c.Loop())
	w := (*wire)(c)
	var traits session.Traits
	if c.Secure() {
		traits = session.Secure
	}
	c.HandlerState = session.NewStream(l, w, traits)
}

// OnData feeds what was read to the stream, and returns how much of it was consumed; the reactor
// parks the rest. p is valid until OnData returns. Once the client is authenticated, the reactor
// may drop what the handshake left: nothing is bound to the TLS channel after that. The
// connection's loop.
func (d *Handler) OnData(c *reactor.Conn, p []byte) (used int) {
	st := c.HandlerState.(*session.Stream)
	used, over := st.Feed(p, c.TakeTLSOverhead())
	if over {
		c.MarkOverRate()
	}
	if st.State() == session.Authed {
		c.ReleaseHandshakeState()
	}
	return used
}

// highWater is the high-water mark of a connection's output, in bytes. While more waits for the
// client, the kernel reads nothing from it (back-pressure): a client that does not read its answers
// gets no more (attack K23), and a client that floods another one is slowed down.
const highWater = 256 << 10

// OnSecure goes on with a stream after its TLS handshake. The connection's loop.
func (d *Handler) OnSecure(c *reactor.Conn, _ *tls.ConnectionState) {
	if st, ok := c.HandlerState.(*session.Stream); ok {
		st.Secured()
	}
}

// OnTimer runs the stream's deadlines. The connection's loop.
func (d *Handler) OnTimer(c *reactor.Conn) {
	st := c.HandlerState.(*session.Stream)
	st.OnDeadline()
}

// OnDrain does nothing: a wire hears of a drained socket through NotifyDrain.
func (d *Handler) OnDrain(*reactor.Conn) {}

// OnOverflow ends the stream of a client that has sent more than may be parked while it is paused,
// where TCP can't slow it. The connection's loop.
func (d *Handler) OnOverflow(c *reactor.Conn) {
	if st, ok := c.HandlerState.(*session.Stream); ok {
		d.Router.CountRefused("paused_input")
		st.Close(session.ErrPolicyViolation)
	}
}

// Unauthenticated reports whether c has no session yet, and the id of the host at which it logs in,
// 0 while that is unknown. It implements [reactor.AdmissionHandler]. The connection's loop.
func (d *Handler) Unauthenticated(c *reactor.Conn) (host uint32, unauthenticated bool) {
	st, ok := c.HandlerState.(*session.Stream)
	if !ok || st.Session() != nil {
		return 0, !ok
	}
	if h := st.Host(); h != nil {
		host = h.ID
	}
	return host, true
}

// OnAdmissionRefused ends the stream of a client for which the admission queue has no place (RFC
// 6120 section 4.9.3.17). It implements [reactor.AdmissionHandler]. The connection's loop.
func (d *Handler) OnAdmissionRefused(c *reactor.Conn) {
	if st, ok := c.HandlerState.(*session.Stream); ok {
		st.Close(session.ErrResourceConstraint)
	}
}

// OnClose ends the stream of a connection that has ended, and gives its address back. err is why it
// ended; nil if either side closed it cleanly. The connection's loop.
func (d *Handler) OnClose(c *reactor.Conn, err error) {
	remote := c.Remote()
	if st, ok := c.HandlerState.(*session.Stream); ok {
		st.OnClosed(err)
	}
	d.ReleaseAddress(remote)
}

// OnShutdown notifies a client that the server shuts down (RFC 6120 section 4.9.3.20), unless it may
// resume its session. The connection's loop.
func (d *Handler) OnShutdown(c *reactor.Conn) {
	if st, ok := c.HandlerState.(*session.Stream); ok {
		session.Shutdown(st)
	}
}

// A wire is a TCP connection as the kernel sees it: a [session.Transport]. It is the reactor.Conn
// itself under another method set, so it costs no memory. Methods run on the connection's loop
// unless they say otherwise.
type wire reactor.Conn

// The kernel asks for these by interface.
var (
	_ session.Wire      = (*wire)(nil)
	_ session.Drainer   = (*wire)(nil)
	_ session.Transport = (*wire)(nil)
)

// conn returns w as the connection that it is.
func (w *wire) conn() *reactor.Conn { return (*reactor.Conn)(w) }

// Open writes the stream header (RFC 6120 section 4.2); an empty attribute is left out.
func (w *wire) Open(from, to jid.JID, id, lang string) bool {
	b := append(make([]byte, 0, 256), headerPrefix...)
	b = appendAttr(b, "id", id)
	b = appendAttr(b, "from", from.String())
	b = appendAttr(b, "to", to.String())
	b = appendAttr(b, "xml:lang", lang)
	return w.conn().Append(append(b, '>'))
}

// appendAttr appends an attribute with its value escaped; nothing if v is empty.
func appendAttr(b []byte, name, v string) []byte {
	if v == "" {
		return b
	}
	b = append(append(append(b, ' '), name...), "='"...)
	return append(xmlstream.AppendValue(b, v), '\'')
}

// Send appends a copy of el to the output. It returns false if nothing was taken: the connection is
// closing, or its output is at its limit. Any goroutine.
func (w *wire) Send(el []byte) bool { return w.conn().Append(el) }

// Congested reports whether more than highWater waits for the client. Any goroutine.
func (w *wire) Congested() bool { return w.conn().Buffered() > highWater }

// Closing reports whether the connection is closing. Any goroutine.
func (w *wire) Closing() bool { return w.conn().Closing() }

// Pause stops reading from the client.
func (w *wire) Pause() { w.conn().Pause() }

// PauseForReply is Pause for a client that waits for a reply: its socket stays in the poll, and leaves it
// only if the client sends all the same.
func (w *wire) PauseForReply() { w.conn().PauseForReply() }

// Resume ends a pause.
func (w *wire) Resume() { w.conn().Resume() }

// Arm sets the time of the next OnTimer.
func (w *wire) Arm(at reactor.Tick) { w.conn().Arm(at) }

// TLS returns the state of the TLS connection; nil: there is none.
func (w *wire) TLS() *tls.ConnectionState { return w.conn().TLS() }

// PresentedCertificate returns the server's certificate of the handshake; nil: there is none.
func (w *wire) PresentedCertificate() *tls.Certificate { return w.conn().PresentedCertificate() }

// Remote returns the client's address. Any goroutine.
func (w *wire) Remote() netip.AddrPort { return w.conn().Remote() }

// Stream returns the stream of w; nil if it has none yet. Any goroutine.
func (w *wire) Stream() *session.Stream {
	st, _ := w.conn().HandlerState.(*session.Stream)
	return st
}

// Loop returns the kernel's part of the connection's loop. Any goroutine.
func (w *wire) Loop() *session.LoopRouter {
	c := w.conn()
	return c.Handler().(*Handler).Router.LoopRouter(c.Loop())
}

// NotifyDrain makes the loop call the stream's Drained once the socket has taken all bytes that
// wait now. It returns false if the connection is closing: then there is no call. It implements
// [session.Drainer]. Any goroutine.
func (w *wire) NotifyDrain() bool {
	c := w.conn()
	if c.Closing() {
		return false
	}
	c.AfterFlush(w.onFlushed)
	return true
}

// onFlushed is the callback of NotifyDrain; taken: the socket has all bytes, and the connection is open.
func (w *wire) onFlushed(taken bool) {
	if st := w.Stream(); st != nil && taken {
		st.Drained()
	}
}

// StartTLS begins a TLS handshake with the certificate of h; later bytes of the peer are TLS records.
func (w *wire) StartTLS(h *session.Host) error {
	return w.conn().StartTLS(w.conn().Handler().(*Handler).TLS(h), reactor.ServerRole)
}

// Close ends the stream and the connection at the end of a turn (RFC 6120 sections 4.4 and
// 4.9.1.1). A [session.StreamError] is sent with the end tag, nil sends the end tag alone, after
// everything that waits for the client; other reasons send nothing. Any goroutine.
func (w *wire) Close(reason error) {
	var last []byte
	if se, ok := reason.(*session.StreamError); ok {
		last = append(se.Append(nil), "</stream:stream>"...)
	} else if reason == nil {
		last = []byte("</stream:stream>")
	}
	w.conn().CloseWith(last, reason)
}

// An addrCounter counts connections by address. It has at most as many entries as there are
// connections. Any goroutine.
type addrCounter struct {
	mu sync.Mutex         // guards n
	n  map[netip.Addr]int // by reactor.AddrKey; only counts above 0
}

// add counts a connection and returns true, unless its address has limit connections; 0 is no limit.
func (a *addrCounter) add(addr netip.Addr, limit int) bool {
	k := reactor.AddrKey(addr)
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.n == nil {
		a.n = make(map[netip.Addr]int)
	}
	if limit > 0 && a.n[k] >= limit {
		return false
	}
	a.n[k]++
	return true
}

// remove takes back an add.
func (a *addrCounter) remove(addr netip.Addr) {
	k := reactor.AddrKey(addr)
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.n[k] > 1 {
		a.n[k]--
	} else {
		delete(a.n, k)
	}
}

// Stream returns the stream of a connection of this handler; nil for a connection of another one.
// The connection's loop.
func (d *Handler) Stream(c *reactor.Conn) *session.Stream {
	if st, ok := c.HandlerState.(*session.Stream); ok {
		return st
	}
	return nil
}
