package reactor

import "crypto/tls"

// A Handler gets the events of connections. All its methods are called on the loop that owns c, one at a
// time for each loop, and must not block. A panic in one is recovered: it is counted, logged with its
// stack, and closes c with ErrPanic. One Handler usually serves all connections of a port; the state of
// one connection is in Conn.HandlerState.
type Handler interface {
	// OnOpen is called once for each connection, before all other methods. With TLS from the first byte,
	// the handshake begins after it.
	OnOpen(c *Conn)
	// OnData gets received bytes, decrypted if c has TLS, and returns how many of them it has consumed. p
	// is valid until OnData returns. Only a handler that has paused c may leave bytes. They are parked,
	// and delivered again, before newer input, after Resume.
	OnData(c *Conn, p []byte) (used int)
	// OnSecure is called when a TLS handshake is done that StartTLS or the listener began. st may be read
	// for as long as c is open; Conn.TLS returns it until ReleaseHandshakeState.
	OnSecure(c *Conn, st *tls.ConnectionState)
	// OnTimer is called when the deadline of Conn.Arm has passed.
	OnTimer(c *Conn)
	// OnDrain is called when the outbox is empty: after c was write-blocked, and after Conn.NotifyDrain.
	OnDrain(c *Conn)
	// OnClose is called once, as the last method, at the end of a turn. err is nil if either side closed
	// cleanly. Otherwise it is the reason of Conn.Close, or the error that ended the connection.
	OnClose(c *Conn, err error)
}

// An OverflowHandler is a Handler that sends something before its connection ends with ErrInputOverflow.
type OverflowHandler interface {
	// OnOverflow is called, on c's loop, when more input came than is kept for a paused connection: the
	// peer had sent ahead of the pause, or the engine can't pause. It may call Append and Close. If it does
	// not close c, the reason is ErrInputOverflow.
	OnOverflow(c *Conn)
}
