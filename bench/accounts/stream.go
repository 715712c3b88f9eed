package accounts

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"time"

	"canto/bench"
	"canto/bench/xmpp"
	"canto/session/stanza"
	"canto/xmlstream"
)

// A stream is one connection that registers accounts. It is not logged in. For one goroutine.
type stream struct {
	nc     net.Conn
	xml    *xmpp.Conn
	domain string
	stop   func() bool // no longer close nc with the context
	asked  int         // requests, for their ids
	form   *form
	used   int // accounts that were asked for
}

// answerTimeout is how long a server may take to answer.
const answerTimeout = 30 * time.Second

// open connects and goes on until registration can be requested. It closes the connection if it
// fails.
func open(ctx context.Context, c *Config, source net.Addr) (*stream, error) {
	t := &c.Target
	addr := t.Addr
	if c.TLS == "direct" {
		addr = t.Direct
	}
	d := net.Dialer{Timeout: 10 * time.Second, LocalAddr: source}
	nc, err := d.DialContext(ctx, "tcp", addr.String())
	if err != nil {
		return nil, explain(err, t)
	}
	s := &stream{nc: nc, xml: xmpp.NewConn(nc), domain: t.Domain}
	s.stop = context.AfterFunc(ctx, func() { nc.Close() })
	if err := s.begin(ctx, c); err != nil {
		s.close()
		return nil, explain(err, t)
	}
	return s, nil
}

func (s *stream) close() {
	s.stop()
	s.nc.SetWriteDeadline(time.Now().Add(time.Second))
	io.WriteString(s.nc, xmpp.EndStream)
	s.nc.Close()
}

// begin makes the connection ready: TLS as the Config wants it, a stream, and the form.
// Registration is tried also if the features do not offer it, which servers may leave out.
func (s *stream) begin(ctx context.Context, c *Config) error {
	if c.TLS == "direct" {
		if err := s.secure(ctx, c); err != nil {
			return err
		}
	}
	features, err := s.header()
	if err != nil {
		return err
	}
	if c.TLS == "starttls" {
		if _, ok := features.Child(xmpp.StartTLS); !ok {
			// Never on in clear (attack T11).
			return bench.Failure{What: "the server does not offer STARTTLS", Remedy: "--tls direct or --tls none"}
		}
		if err := s.write(xmpp.RequestTLS); err != nil {
			return err
		}
		e, err := s.xml.Next()
		if err != nil {
			return err
		}
		if !e.Is(xmpp.Proceed) {
			return bench.Failure{What: "the server refused STARTTLS", Remedy: "look at its log: has it a certificate?"}
		}
		if err := s.secure(ctx, c); err != nil {
			return err
		}
		if _, err := s.header(); err != nil {
			return err
		}
	}
	// Whether it says so among its features or not (it may): the form tells.
	s.form, err = s.askForm()
	return err
}

// secure puts TLS on the connection.
func (s *stream) secure(ctx context.Context, c *Config) error {
	conf := &tls.Config{ServerName: c.Target.ServerName(), InsecureSkipVerify: c.Target.Insecure,
		MinVersion: tls.VersionTLS12}
	if c.TLS == "direct" {
		conf.NextProtos = []string{"xmpp-client"}
	}
	if len(c.Target.CA) > 0 {
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(c.Target.CA) {
			return bench.Failure{What: "there is no certificate in the file of --ca", Remedy: "it must be PEM"}
		}
	}
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	s.nc.SetDeadline(time.Time{})
	t := tls.Client(s.nc, conf)
	if err := t.HandshakeContext(ctx); err != nil {
		return err
	}
	s.nc = t
	s.xml.Secure(t)
	return nil
}

// header begins a stream and returns the server's features, which are good until the next element is read.
func (s *stream) header() (xmlstream.Element, error) {
	s.nc.SetDeadline(time.Now().Add(answerTimeout))
	e, err := s.xml.Open(s.domain, "")
	if err == nil && !e.Is(xmpp.Features) {
		err = bench.Failure{What: fmt.Sprintf("the server said <%.40s/> instead of its features", e.Local()),
			Remedy: "is this an XMPP server for clients?"}
	}
	return e, err
}

func (s *stream) write(format string, a ...any) error {
	s.nc.SetDeadline(time.Now().Add(answerTimeout))
	_, err := fmt.Fprintf(s.nc, format, a...)
	return err
}

// request sends an IQ and returns its answer.
func (s *stream) request(kind string, payload []byte) (xmlstream.Element, error) {
	s.asked++
	id := fmt.Sprintf("reg%d", s.asked)
	if err := s.write("<iq type='%s' id='%s' to='%s'>%s</iq>", kind, id,
		xmlstream.AppendValue(nil, s.domain), payload); err != nil {
		return xmlstream.Element{}, err
	}
	for {
		e, err := s.xml.Next()
		if err != nil {
			return e, err
		}
		if got, _ := e.Attr(stanza.AttrID); e.Is(stanza.IQName) && string(got) == id {
			return e, nil
		}
	}
}

// A stanzaError is a stanza error (RFC 6120 section 8.3).
type stanzaError struct {
	condition string
	wait      bool // its type is "wait": the request may succeed later
	text      string
}

// Error is the condition, with the server's text if there is one.
func (f stanzaError) Error() string {
	if f.text == "" {
		return f.condition
	}
	return fmt.Sprintf("%s (%.100q)", f.condition, f.text)
}

// stanzaErrorOf is the error in an IQ, nil if there is none.
func stanzaErrorOf(e xmlstream.Element) error {
	if t, _ := e.Attr(stanza.AttrType); string(t) != "error" {
		return nil
	}
	f := stanzaError{condition: "error"}
	x, ok := e.Child(stanza.ErrorName)
	if !ok {
		return f
	}
	t, _ := x.Attr(stanza.AttrType)
	f.wait = string(t) == "wait"
	if text, ok := x.Child(xmpp.ErrorText); ok {
		f.text = string(text.Text())
	}
	f.condition = cmp.Or(xmpp.Condition(x, stanza.NSStanzas), f.condition)
	return f
}

// explain explains err to the operator.
func explain(err error, t *bench.Target) error {
	var (
		r    bench.Failure
		cert *tls.CertificateVerificationError
		ne   net.Error
		end  xmpp.StreamError
		f    stanzaError
	)
	switch {
	case errors.As(err, &r), errors.As(err, &f), errors.Is(err, context.Canceled):
		return err
	case errors.As(err, &end):
		switch end.Condition {
		case "host-unknown":
			return bench.Failure{What: end.Error(), Remedy: "--domain must be a domain of the server"}
		}
		return err
	case errors.Is(err, syscall.ECONNREFUSED):
		return bench.Failure{What: "connection refused", Remedy: "is the server running, and is this its address?"}
	case errors.As(err, &cert):
		return bench.Failure{What: "the server's certificate is not one for " + t.Domain,
			Remedy: "name its CA with --ca, or take any with --insecure"}
	case errors.As(err, &ne) && ne.Timeout():
		return bench.Failure{What: "the server does not answer",
			Remedy: "look at its log, or at the firewall between"}
	}
	return err
}
