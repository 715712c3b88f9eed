package servers

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"canto/bench/xmpp"
)

// errTaken is the error if another program answers on the port.
var errTaken = errors.New("another server answers on its port")

// freePorts are n different free ports of loopback.
func freePorts(n int) ([]uint16, error) {
	var ports []uint16
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, fmt.Errorf("no free port: %w", err)
		}
		defer l.Close() // held until all are chosen, so that they differ
		ports = append(ports, l.Addr().(*net.TCPAddr).AddrPort().Port())
	}
	return ports, nil
}

func loopback(port uint16) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port)
}

func clientTLS(domain string, ca []byte) *tls.Config {
	c := &tls.Config{ServerName: domain, NextProtos: []string{"xmpp-client"}, MinVersion: tls.VersionTLS12}
	if len(ca) == 0 {
		c.InsecureSkipVerify = true
		return c
	}
	c.RootCAs = x509.NewCertPool()
	c.RootCAs.AppendCertsFromPEM(ca)
	return c
}

// awaitReady returns when the server has printed that it is ready, and answers on both ports with
// its own certificate.
func (s *Server) awaitReady(ctx context.Context) error {
	proc := s.process()
	if proc.ready != nil {
		select {
		case <-proc.ready:
		case <-proc.done:
			return fmt.Errorf("it ended instead of starting: %s", proc.exitStatus())
		case <-ctx.Done():
			return fmt.Errorf("it had not started: %w", ctx.Err())
		}
	}
	for {
		err := s.checkPorts(ctx)
		if err == nil || errors.Is(err, errTaken) {
			return err
		}
		select {
		case <-proc.done:
			return fmt.Errorf("it ended instead of starting: %s", proc.exitStatus())
		case <-ctx.Done():
			return fmt.Errorf("it had not started (%w): %v", ctx.Err(), err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// portCheckTimeout is how long one check of both ports may take.
const portCheckTimeout = 5 * time.Second

// checkPorts opens a stream on each port, and checks that the certificate is the server's.
func (s *Server) checkPorts(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, portCheckTimeout)
	defer cancel()
	for _, at := range []struct {
		addr     netip.AddrPort
		startTLS bool
	}{{s.Plain, true}, {s.Direct, false}} {
		if err := s.checkPort(ctx, at.addr, at.startTLS); err != nil {
			return fmt.Errorf("%s: %w", at.addr, err)
		}
	}
	return nil
}

// checkPort opens a stream under TLS on one port, and ends it.
func (s *Server) checkPort(ctx context.Context, addr netip.AddrPort, startTLS bool) error {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", addr.String())
	if err != nil {
		return err
	}
	defer c.Close()
	if t, ok := ctx.Deadline(); ok {
		c.SetDeadline(t)
	}
	if startTLS {
		if err := ask(c, header(s.Domain), "</stream:features>"); err != nil {
			return err
		}
		if err := ask(c, xmpp.RequestTLS, "<proceed"); err != nil {
			return err
		}
	}
	t := tls.Client(c, s.TLS())
	if err := t.HandshakeContext(ctx); err != nil {
		if wrong := new(tls.CertificateVerificationError); errors.As(err, &wrong) {
			return fmt.Errorf("%w: %v", errTaken, err)
		}
		return err
	}
	if err := ask(t, header(s.Domain), "</stream:features>"); err != nil {
		return err
	}
	_, err = t.Write([]byte(xmpp.EndStream))
	return err
}

// header is a client's stream header.
func header(domain string) string { return string(xmpp.AppendHeader(nil, domain, "")) }

// maxAnswer bounds what a server may send before the text that ask waits for, in bytes.
const maxAnswer = 64 << 10

// ask sends text and reads until end has come.
func ask(c net.Conn, text, end string) error {
	if _, err := c.Write([]byte(text)); err != nil {
		return err
	}
	var got []byte
	buf := make([]byte, 4096)
	for !bytes.Contains(got, []byte(end)) {
		n, err := c.Read(buf)
		got = append(got, buf[:n]...)
		if err != nil || len(got) > maxAnswer || bytes.Contains(got, []byte(xmpp.EndStream)) {
			return fmt.Errorf("no %s: it said %q (%v)", strings.Trim(end, "</>"), cut(string(got)), err)
		}
	}
	return nil
}

// checkDomain refuses a domain that can't stand unescaped in a certificate and in every server's
// files.
func checkDomain(d string) error {
	for _, label := range strings.Split(d, ".") {
		ok := label != "" && len(label) < 64
		for _, c := range label {
			ok = ok && (c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-')
		}
		if !ok {
			return fmt.Errorf("%s can't be its domain: name it like localhost or bench.example, in small letters",
				strconv.Quote(d))
		}
	}
	return nil
}
