package reactor

import "crypto/tls"

// A Handler is told what happens to connections. Every method is called on the loop that owns c, one
// at a time for one loop, and must not block. A panic in one is recovered: it is counted, logged with
// its stack, and closes c.
type Handler interface {
	OnOpen(c *Conn) // once, before anything else
	// OnData is called with decrypted bytes, good until it returns, and returns how many it took.
	// What it leaves is parked in c and comes again, in front of what is read next, after Resume;
	// only a paused Handler may leave any.
	OnData(c *Conn, p []byte) (used int)
	// OnSecure: a handshake is done, begun by StartTLS or by the listener. st is good for as long as
	// the connection, or until Settle.
	OnSecure(c *Conn, st *tls.ConnectionState)
	OnTimer(c *Conn)            // the deadline set by c.Arm has passed
	OnDrain(c *Conn)            // the outbox is empty: after it was full, or after NotifyDrain
	OnClose(c *Conn, err error) // once, last, at the end of a turn; nil if either side closed cleanly
}

// An Overflower is a Handler that wants the last word when a connection ends because more came than
// may be kept while it is paused: where the engine can't pause, or the peer sent its FIN right behind.
// OnOverflow may Append and Close; if it doesn't close, the reason is ErrInputOverflow.
type OverflowHandler interface{ OnOverflow(c *Conn) }
