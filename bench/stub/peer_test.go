package stub

import (
	"crypto/rand"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"canto/bench/xmpp"
	"canto/session/sasl"
	"canto/xmlstream"
)

// A peer is a client by hand.
type peer struct {
	t   *testing.T
	nc  net.Conn
	p   *xmlstream.Parser
	in  xmlstream.Stream
	jid string
}

func start(t *testing.T, cfg Config) *Server {
	t.Helper()
	s, err := Start(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func dial(t *testing.T, to netip.AddrPort) *peer {
	t.Helper()
	nc, err := net.Dial("tcp", to.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	return &peer{t: t, nc: nc, p: xmlstream.NewParser(nil)}
}

func (p *peer) secure(s *Server) {
	p.t.Helper()
	c := tls.Client(p.nc, &tls.Config{RootCAs: s.Pool(), ServerName: "localhost"})
	if err := c.Handshake(); err != nil {
		p.t.Fatal(err)
	}
	p.nc = c
}

func (p *peer) say(format string, args ...any) {
	p.t.Helper()
	if _, err := fmt.Fprintf(p.nc, format, args...); err != nil {
		p.t.Fatal(err)
	}
}

// next is the next element as text, or the error that came instead.
func (p *peer) next() (xmlstream.Element, error) {
	p.t.Helper()
	for {
		t, err := p.p.Next(&p.in)
		switch {
		case err == nil && t.End:
			return xmlstream.Element{}, io.EOF
		case err == nil && (t.Whitespace || string(t.Local()) == "stream"):
		case err == nil:
			return t.Clone(), nil
		case err != xmlstream.ErrNeedMore:
			return xmlstream.Element{}, err
		default:
			b := make([]byte, 4096)
			p.nc.SetReadDeadline(time.Now().Add(20 * time.Second))
			n, err := p.nc.Read(b)
			if err != nil {
				return xmlstream.Element{}, err
			}
			p.p.Feed(&p.in, b[:n])
		}
	}
}

// get is the next element, which must contain all of want in its text.
func (p *peer) get(want ...string) xmlstream.Element {
	p.t.Helper()
	e, err := p.next()
	if err != nil {
		p.t.Fatalf("%v came instead of %q", err, want)
	}
	for _, w := range want {
		if !strings.Contains(string(e.Raw()), w) {
			p.t.Fatalf("%s does not contain %s", e.Raw(), w)
		}
	}
	return e
}

// open sends a header and returns the features.
func (p *peer) open() xmlstream.Element {
	p.t.Helper()
	p.in.Reset(0)
	p.say("<?xml version='1.0'?><stream:stream xmlns='jabber:client' " +
		"xmlns:stream='http://etherx.jabber.org/streams' version='1.0' to='localhost'>")
	return p.get("features")
}

// auth logs in and returns how that ended.
func (p *peer) auth(c *sasl.Client) xmlstream.Element {
	p.t.Helper()
	c.Rand = rand.Reader
	first, err := c.Start()
	if err != nil {
		p.t.Fatal(err)
	}
	p.say("<auth xmlns='%s' mechanism='%s'>%s</auth>", xmpp.NSSASL, c.Mechanism, first)
	e := p.get()
	if string(e.Local()) == "challenge" {
		answer, err := c.Next(e.Text())
		if err != nil {
			p.t.Fatal(err)
		}
		p.say("<response xmlns='%s'>%s</response>", xmpp.NSSASL, answer)
		e = p.get()
	}
	if string(e.Local()) == "success" {
		if err := c.Success(e.Text()); err != nil {
			p.t.Fatal(err)
		}
	}
	return e
}

func (p *peer) bind(resource string) {
	p.t.Helper()
	p.say("<iq type='set' id='b'><bind xmlns='%s'><resource>%s</resource></bind></iq>", xmpp.NSBind, resource)
	e := p.get("result", "<jid>")
	b, _ := e.First()
	j, _ := b.First()
	p.jid = string(j.Text())
}

// login is all of it for "bench<i>".
func login(t *testing.T, s *Server, i int) *peer { return loginAs(t, s, i, "r") }

// loginAs is login with a resource.
func loginAs(t *testing.T, s *Server, i int, resource string) *peer {
	t.Helper()
	p := dial(t, s.Addr())
	p.open()
	if e := p.auth(&sasl.Client{Mechanism: sasl.ScramSHA1, Username: fmt.Sprintf("bench%d", i),
		Password: sasl.SecretString("bench")}); string(e.Local()) != "success" {
		t.Fatalf("%s", e.Raw())
	}
	p.open()
	p.bind(resource)
	return p
}

// online is login and presence.
func online(t *testing.T, s *Server, i int) *peer {
	t.Helper()
	p := login(t, s, i)
	p.say("<presence/>")
	p.get("<presence", p.jid)
	return p
}

// quiet checks that nothing is left to come before the answer to a ping.
func (p *peer) quiet() {
	p.t.Helper()
	p.say("<iq type='get' id='quiet'><ping xmlns='urn:xmpp:ping'/></iq>")
	p.get("id='quiet'")
}
