// Package xmpp is the client's side of XMPP that all clients of the load generator share: the XML names, the
// messages of stream negotiation and login (RFC 6120), and a blocking connection.
//
// The fleet of the package bench has thousands of clients on event loops. It feeds a parser of its own, and
// takes the names (names.go) and the messages (negotiate.go) from here. The clients that register accounts
// (bench/accounts) and that attack (bench/hostile) have a goroutine each, and use a [Conn].
//
// Nothing here knows a policy: which mechanism is chosen, what an error means for a run, and how long an
// answer may take is decided by the caller.
package xmpp

import (
	"cmp"
	"errors"
	"fmt"
	"io"

	"canto/session/stanza"
	"canto/xmlstream"
)

// A Conn is the client's end of a stream on a connection that blocks. One goroutine uses it at a time. It has
// no deadlines: the caller sets them on the connection.
type Conn struct {
	rw     io.ReadWriter
	in     xmlstream.Stream
	parser *xmlstream.Parser
	buf    []byte // of one read
}

// readBytes is how much a Conn reads at once. Features and most stanzas fit in. An attack has a
// Conn for each of its connections, so it is no larger.
const readBytes = 4 << 10

// NewConn returns a Conn that reads and writes rw. It sends nothing.
func NewConn(rw io.ReadWriter) *Conn {
	return &Conn{rw: rw, parser: xmlstream.NewParser(nil), buf: make([]byte, readBytes)}
}

// Secure replaces the connection by rw, which is the same one under TLS. Bytes that came in the clear after
// the last element are dropped (RFC 6120 section 5.4.3.3). The caller begins a new stream with Open.
func (c *Conn) Secure(rw io.ReadWriter) {
	if c.in.Root() != nil {
		c.parser.Rest(&c.in)
	}
	c.rw = rw
}

// Open sends a stream header, and returns the first element of the server's stream, which should be
// [Features]. The element is good until the next call. to and from are as for [AppendHeader].
func (c *Conn) Open(to, from string) (xmlstream.Element, error) {
	c.in.Reset(0)
	if _, err := c.rw.Write(AppendHeader(nil, to, from)); err != nil {
		return xmlstream.Element{}, err
	}
	for c.in.Root() == nil {
		_, err := c.parser.Next(&c.in)
		if errors.Is(err, xmlstream.ErrNeedMore) {
			err = c.read()
		}
		if err != nil {
			return xmlstream.Element{}, err
		}
	}
	return c.Next()
}

// Next reads the next element of the server's stream. It is good until the next call. The error is a
// [StreamError], io.EOF at the end of the stream, one of the connection, or one of xmlstream.
func (c *Conn) Next() (xmlstream.Element, error) {
	for {
		e, err := c.parser.Stanza(&c.in)
		switch {
		case err == nil && e.Is(StreamFailure):
			return e, StreamError{cmp.Or(Condition(e, stanza.NSStreams), "error")}
		case err == nil:
			return e, nil
		case !errors.Is(err, xmlstream.ErrNeedMore):
			return e, err
		}
		if err := c.read(); err != nil {
			return e, err
		}
	}
}

// read feeds one read to the parser. An error that comes with bytes is dropped: the next read
// returns it again.
func (c *Conn) read() error {
	n, err := c.rw.Read(c.buf)
	if n == 0 {
		return cmp.Or(err, io.ErrNoProgress)
	}
	c.parser.Feed(&c.in, c.buf[:n])
	return nil
}

// A StreamError is the error by which the server ended the stream (RFC 6120 section 4.9).
type StreamError struct {
	Condition string // the name of the defined condition; "error" if there was none
}

// Error names the condition.
func (e StreamError) Error() string {
	return fmt.Sprintf("the server ended the stream with %.60s", e.Condition)
}
