package hostile

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"time"

	"canto/session/jid"
)

// errDone ends the life of a connection that has done its part of the attack.
var errDone = errors.New("hostile: the connection has done its part")

// A transport is a TCP connection to the server. Reads and writes go through top, which may be TLS.
// The end of the attack closes it.
type transport struct {
	net.Conn          // the TCP connection itself; Write counts
	top      net.Conn // TLS, or the transport itself
	a        *Attack
	release  func() bool
	written  *recordLog // the TLS records that were written; nil: not recorded
}

// dial opens a connection, which is an attempt.
func (l *attacker) dial(to netip.AddrPort) (*transport, error) {
	if err := l.a.attempt(1); err != nil {
		return nil, err
	}
	d := net.Dialer{Timeout: 10 * time.Second, KeepAlive: -1}
	if l.a.cfg.Source != nil {
		if from := l.a.cfg.Source(l.i); from.IsValid() && from.Addr().IsLoopback() == to.Addr().IsLoopback() {
			d.LocalAddr = net.TCPAddrFromAddrPort(from)
		}
	}
	nc, err := d.DialContext(l.a.ctx, "tcp", to.String())
	if err != nil {
		return nil, err
	}
	// Close resets the connection, so that its local port is free at once. A caller that wants a FIN
	// calls closeGracefully.
	nc.(*net.TCPConn).SetLinger(0)
	w := &transport{Conn: nc, a: l.a}
	w.top = w
	w.release = context.AfterFunc(l.a.ctx, func() { nc.Close() })
	return w, nil
}

// Write writes to the TCP connection and counts.
func (w *transport) Write(p []byte) (int, error) {
	n, err := w.Conn.Write(p)
	w.a.bytes.Add(uint64(n))
	if w.written != nil {
		w.written.pass(p[:n])
	}
	return n, err
}

// Close resets the connection.
func (w *transport) Close() error {
	w.release()
	return w.Conn.Close()
}

// closeGracefully makes Close end the connection with a FIN instead of a reset.
func (w *transport) closeGracefully() { w.Conn.(*net.TCPConn).SetLinger(-1) }

// send writes text through top.
func (w *transport) send(text string) error {
	_, err := io.WriteString(w.top, text)
	return err
}

// sendCounted is send, as n attempts.
func (w *transport) sendCounted(n int, text string) error {
	if err := w.a.attempt(n); err != nil {
		return err
	}
	return w.send(text)
}

// trickle sends text a byte at a time, with a pause before each, for life.
func (w *transport) trickle(text string, pause, life time.Duration) error {
	over := time.Now().Add(life)
	for i := range len(text) {
		if err := w.readFor(pause); err != nil {
			return err
		}
		if time.Now().After(over) {
			return nil
		}
		if err := w.sendCounted(1, text[i:i+1]); err != nil {
			return err
		}
	}
	return w.readFor(time.Until(over))
}

// readFor reads and drops input for d. The error says why the server ended the connection; nil: it
// did not.
func (w *transport) readFor(d time.Duration) error {
	w.Conn.SetReadDeadline(time.Now().Add(d))
	_, err := io.Copy(io.Discard, w.top)
	w.Conn.SetReadDeadline(time.Time{})
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil
	case err == nil:
		return io.EOF
	}
	return err
}

// drain reads and drops input on a goroutine of its own until the connection ends. The channel gets
// the reason.
func (w *transport) drain() <-chan error {
	end := make(chan error, 1)
	w.a.wg.Go(func() {
		_, err := io.Copy(io.Discard, w.top)
		if err == nil {
			err = io.EOF
		}
		end <- err
		w.Conn.Close() // a blocked write ends
	})
	return end
}

// secure puts TLS on top. An attack on TLS itself records the keys: see hijack.
func (w *transport) secure() error {
	cfg := w.a.tls()
	if w.a.kind.tls {
		w.written = new(recordLog)
		cfg.KeyLogWriter = w.written
	}
	t := tls.Client(w, cfg)
	w.Conn.SetDeadline(time.Now().Add(answerTimeout))
	if err := t.HandshakeContext(w.a.ctx); err != nil {
		return err
	}
	w.Conn.SetDeadline(time.Time{})
	if w.written != nil {
		w.written.sealed = 0 // those so far were under the keys of the handshake
	}
	w.top = t
	return nil
}

// tls is the configuration of attackers, which accept any certificate.
func (a *Attack) tls() *tls.Config {
	c := &tls.Config{ServerName: ServerName(a.cfg.Domain), InsecureSkipVerify: true,
		MinVersion: tls.VersionTLS12}
	if a.cfg.Direct.IsValid() {
		c.NextProtos = []string{"xmpp-client"}
	}
	return c
}

// ServerName is the name of a domain in TLS and certificates. A domain that has no such name is
// returned as it is, and no certificate is valid for it.
func ServerName(domain string) string {
	if name, err := jid.NetworkName(domain); err == nil {
		return name
	}
	return domain
}

// clientHello is the record that begins a handshake.
func clientHello(domain string) ([]byte, error) {
	var s sink
	err := tls.Client(&s, &tls.Config{ServerName: ServerName(domain), InsecureSkipVerify: true}).Handshake()
	if len(s.b) == 0 {
		return nil, err
	}
	return s.b, nil
}

// A sink is a connection that keeps what is written and has nothing to read.
type sink struct {
	net.Conn
	b []byte
}

// Read has nothing to read.
func (s *sink) Read([]byte) (int, error) { return 0, io.EOF }

// Write keeps p.
func (s *sink) Write(p []byte) (int, error) { s.b = append(s.b, p...); return len(p), nil }

// Close does nothing.
func (s *sink) Close() error { return nil }

// SetDeadline does nothing.
func (s *sink) SetDeadline(time.Time) error { return nil }

// SetWriteDeadline does nothing.
func (s *sink) SetWriteDeadline(time.Time) error {
	return nil
}
