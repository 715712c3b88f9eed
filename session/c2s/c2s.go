// Package c2s is the front door for clients on TCP: it takes the bytes of a connection through the
// loop's parser to the kernel, and gives the kernel's elements a wire (RFC 6120 §4).
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

// A Door is the [reactor.Handler] of client connections.
type Handler struct {
	Router *session.Router
	// TLS is the configuration for a host, or for any if h is nil; nil: there is no certificate.
	// Any goroutine; must not wait.
	TLS func(h *session.Host) *tls.Config
	// Throttle limits connections by address; nil: none.
	Throttle *session.Throttle

	perAddr addrCounter
}

// Accept is asked on the accept goroutine, before a connection costs anything: whether its address
// may open another (limits per_address and logins_per_address). Each true is given back by OnClose.
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

// Refusal is what a connection is told that Accept refuses, or that finds the server full: a stream that
// ends with an error (RFC 6120 §4.9.1.2, §4.9.3.14, §4.9.3.17). Any goroutine.
func (d *Handler) Refusal(full bool) []byte {
	err := session.ErrPolicyViolation
	if full {
		err = session.ErrResourceConstraint
	}
	return append(err.Append([]byte(headerPrefix+">")), "</stream:stream>"...)
}

// headerPrefix is ours as far as it is always the same.
const headerPrefix = "<?xml version='1.0'?><stream:stream xmlns='jabber:client' " +
	"xmlns:stream='http://etherx.jabber.org/streams' version='1.0'"

// AcceptHTTP is Accept for what is no login, as HTTP is: only the number of open connections counts.
// Each true is given back by Lost.
func (d *Handler) AcceptHTTP(remote netip.AddrPort) bool {
	lim := d.Router.Limits()
	if !lim.Exempted(remote.Addr()) && !d.perAddr.add(remote.Addr(), lim.PerAddress) {
		d.Router.CountRefused("per_address")
		return false
	}
	return true
}

// ReleaseAddress gives back what Accept took, for a connection that never opened.
func (d *Handler) ReleaseAddress(remote netip.AddrPort) {
	lim := d.Router.Limits()
	if !lim.Exempted(remote.Addr()) {
		d.perAddr.remove(remote.Addr())
	}
}

// OnOpen makes the stream of a new connection.
func (d *Handler) OnOpen(c *reactor.Conn) {
	l := d.Router.LoopRouter(c.Loop())
	w := (*wire)(c)
	var traits session.Traits
	if c.Secure() {
		traits = session.Secure
	}
	c.HandlerState = session.NewStream(l, w, traits)
}

// OnData gives the stream what was read. Behind a login nothing is bound to the TLS channel any more.
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

// highWater is how much may wait for a client before nothing more is read from it: what it asks for
// is charged to its own patience (attack K23), and whoever floods it is slowed down.
const highWater = 256 << 10

// OnSecure goes on with a stream after its handshake.
func (d *Handler) OnSecure(c *reactor.Conn, _ *tls.ConnectionState) {
	if st, ok := c.HandlerState.(*session.Stream); ok {
		st.Secured()
	}
}

// OnTimer looks at the stream's deadlines.
func (d *Handler) OnTimer(c *reactor.Conn) {
	st := c.HandlerState.(*session.Stream)
	st.OnDeadline()
}

// OnDrain is not used: a wire is told when the socket has everything, see NotifyDrain.
func (d *Handler) OnDrain(*reactor.Conn) {}

// OnOverflow ends the stream of a client that sends ahead of its pause, where TCP can't slow it.
func (d *Handler) OnOverflow(c *reactor.Conn) {
	if st, ok := c.HandlerState.(*session.Stream); ok {
		d.Router.CountRefused("paused_input")
		st.Close(session.ErrPolicyViolation)
	}
}

// Unauthenticated reports whether c has a session yet, and for which host it logs in.
func (d *Handler) Unauthenticated(c *reactor.Conn) (host uint32, guest bool) {
	st, ok := c.HandlerState.(*session.Stream)
	if !ok || st.Session() != nil {
		return 0, !ok
	}
	if h := st.Host(); h != nil {
		host = h.ID
	}
	return host, true
}

// OnAdmissionRefused ends the stream of a client that would wait behind too many others (RFC 6120 §4.9.3.17).
func (d *Handler) OnAdmissionRefused(c *reactor.Conn) {
	if st, ok := c.HandlerState.(*session.Stream); ok {
		st.Close(session.ErrResourceConstraint)
	}
}

// OnClose takes the stream apart.
func (d *Handler) OnClose(c *reactor.Conn, err error) {
	remote := c.Remote()
	if st, ok := c.HandlerState.(*session.Stream); ok {
		st.OnClosed(err)
	}
	d.ReleaseAddress(remote)
}

// OnShutdown tells a client that the server goes (RFC 6120 §4.9.3.20).
func (d *Handler) OnShutdown(c *reactor.Conn) {
	if st, ok := c.HandlerState.(*session.Stream); ok {
		st.Close(session.ErrSystemShutdown)
	}
}

// wire is a TCP connection as the kernel sees it, a [session.Transport].
type wire reactor.Conn

var (
	_ session.Wire      = (*wire)(nil)
	_ session.Drainer   = (*wire)(nil)
	_ session.Transport = (*wire)(nil)
)

func (w *wire) conn() *reactor.Conn { return (*reactor.Conn)(w) }

func (w *wire) Open(from, to jid.JID, id, lang string) bool {
	b := append(make([]byte, 0, 256), headerPrefix...)
	b = appendAttr(b, "id", id)
	b = appendAttr(b, "from", from.String())
	b = appendAttr(b, "to", to.String())
	b = appendAttr(b, "xml:lang", lang)
	return w.conn().Append(append(b, '>'))
}

func appendAttr(b []byte, name, v string) []byte {
	if v == "" {
		return b
	}
	b = append(append(append(b, ' '), name...), "='"...)
	return append(xmlstream.AppendValue(b, v), '\'')
}

func (w *wire) Send(el []byte) bool                    { return w.conn().Append(el) }
func (w *wire) Congested() bool                        { return w.conn().Buffered() > highWater }
func (w *wire) Closing() bool                          { return w.conn().Closing() }
func (w *wire) Pause()                                 { w.conn().Pause() }
func (w *wire) PauseForReply()                         { w.conn().PauseForReply() }
func (w *wire) Resume()                                { w.conn().Resume() }
func (w *wire) Arm(at reactor.Tick)                    { w.conn().Arm(at) }
func (w *wire) TLS() *tls.ConnectionState              { return w.conn().TLS() }
func (w *wire) PresentedCertificate() *tls.Certificate { return w.conn().PresentedCertificate() }
func (w *wire) Remote() netip.AddrPort                 { return w.conn().Remote() }

// Stream is the stream of w. Any goroutine.
func (w *wire) Stream() *session.Stream {
	st, _ := w.conn().HandlerState.(*session.Stream)
	return st
}

// Loop is the kernel's part of the connection's loop. Any goroutine.
func (w *wire) Loop() *session.LoopRouter {
	c := w.conn()
	return c.Handler().(*Handler).Router.LoopRouter(c.Loop())
}

// NotifyDrain is [session.Drainer]. Any goroutine.
func (w *wire) NotifyDrain() bool {
	c := w.conn()
	if c.Closing() {
		return false
	}
	c.AfterFlush(w.onFlushed)
	return true
}

func (w *wire) onFlushed(taken bool) {
	if st := w.Stream(); st != nil && taken {
		st.Drained()
	}
}

func (w *wire) StartTLS(h *session.Host) error {
	return w.conn().StartTLS(w.conn().Handler().(*Handler).TLS(h), reactor.ServerRole)
}

// Close ends the stream and the connection (RFC 6120 §4.4, §4.9.1.1). A client that does not read is told
// the error too, behind all that waits for it.
func (w *wire) Close(reason error) {
	var last []byte
	if se, ok := reason.(*session.StreamError); ok {
		last = append(se.Append(nil), "</stream:stream>"...)
	} else if reason == nil {
		last = []byte("</stream:stream>")
	}
	w.conn().CloseWith(last, reason)
}

// addrCounter counts connections by address. Its size is bounded by the number of connections.
type addrCounter struct {
	mu sync.Mutex
	n  map[netip.Addr]int
}

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

// Stream is the kernel's half of a connection of this door, nil for any other. The connection's loop.
func (d *Handler) Stream(c *reactor.Conn) *session.Stream {
	if st, ok := c.HandlerState.(*session.Stream); ok {
		return st
	}
	return nil
}
