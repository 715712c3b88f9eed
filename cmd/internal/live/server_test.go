package live

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"canto/cmd/internal/running"
	"canto/session/sasl"
	"canto/xmlstream"
)

const password = "a password of the test's"

func TestMain(m *testing.M) { running.Main(m) }

// A server is a process with accounts.
type server struct {
	*running.Server
	t    testing.TB
	pool *x509.CertPool
}

// start runs a server whose configuration is more, with accounts for users.
func start(t testing.TB, more string, users ...string) *server {
	t.Helper()
	s := &server{Server: running.Start(t, "../../..", more), t: t, pool: x509.NewCertPool()}
	var lines strings.Builder
	for _, u := range users {
		fmt.Fprintf(&lines, "%s\t%s\n", u, password)
	}
	s.Run(lines.String(), "user", "import", "--shared-salt", "-")
	pem, err := os.ReadFile(s.Certificate())
	if err != nil {
		t.Fatal(err)
	}
	s.pool.AppendCertsFromPEM(pem)
	return s
}

// rss is the process's memory in bytes.
func (s *server) rss() int {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.Cmd.Process.Pid))
	if err != nil {
		s.t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), "VmRSS:")
	kb, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		s.t.Fatal(err)
	}
	return kb << 10
}

// metrics are the lines of /metrics that begin with a name.
func (s *server) metrics(name string) map[string]float64 {
	text, err := s.debug("/metrics")
	if err != nil {
		s.t.Fatal(err)
	}
	got := make(map[string]float64)
	for line := range strings.Lines(text) {
		if k, v, ok := strings.Cut(strings.TrimSpace(line), " "); ok && strings.HasPrefix(k, name) {
			got[k], _ = strconv.ParseFloat(v, 64)
		}
	}
	return got
}

// debug is a page of the server's debug port. Any goroutine.
func (s *server) debug(path string) (string, error) {
	c := http.Client{Timeout: waitTimeout}
	resp, err := c.Get("http://" + s.Debug + path)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return string(b), err
}

// waitTimeout is how long a test waits for something that must happen.
const waitTimeout = 30 * time.Second

// A client is one blocking connection.
type client struct {
	t   testing.TB
	nc  net.Conn
	got []byte
	cs  *tls.ConnectionState
}

func (s *server) dial(addr string) *client {
	s.t.Helper()
	nc, err := net.DialTimeout("tcp", addr, waitTimeout)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { nc.Close() })
	return &client{t: s.t, nc: nc}
}

const header = "<?xml version='1.0'?><stream:stream to='localhost' version='1.0' xmlns='jabber:client' " +
	"xmlns:stream='http://etherx.jabber.org/streams'>"

func (c *client) say(text string) {
	c.t.Helper()
	if _, err := io.WriteString(c.nc, text); err != nil {
		c.t.Fatalf("%.80q: %v", text, err)
	}
}

// until returns what comes up to and with the first of ends.
func (c *client) until(ends ...string) string {
	c.t.Helper()
	got, err := c.read(ends...)
	if err != nil {
		c.t.Fatalf("waiting for %q: %v after %.2000q", ends, err, got)
	}
	return got
}

func (c *client) read(ends ...string) (string, error) {
	c.nc.SetReadDeadline(time.Now().Add(waitTimeout))
	b := make([]byte, 64<<10)
	for {
		for _, end := range ends {
			if i := bytes.Index(c.got, []byte(end)); i >= 0 {
				got := string(c.got[:i+len(end)])
				c.got = c.got[i+len(end):]
				return got, nil
			}
		}
		n, err := c.nc.Read(b)
		c.got = append(c.got, b[:n]...)
		if err != nil {
			got := string(c.got)
			c.got = nil
			return got, err
		}
	}
}

// rest is all until the server closes.
func (c *client) rest() string {
	got, _ := c.read("\x00")
	return got
}

// leave ends the stream and waits until the server has.
func (c *client) leave() {
	c.say("</stream:stream>")
	c.rest()
}

// open sends a header and returns the features.
func (c *client) open() string {
	c.t.Helper()
	c.say(header)
	return c.until("</stream:features>")
}

// secure makes the connection TLS.
func (c *client) secure(cfg *tls.Config) {
	c.t.Helper()
	tc := tls.Client(c.nc, cfg)
	ctx, cancel := context.WithTimeout(context.Background(), waitTimeout)
	defer cancel()
	if err := tc.HandshakeContext(ctx); err != nil {
		c.t.Fatal(err)
	}
	cs := tc.ConnectionState()
	c.nc, c.cs = tc, &cs
}

// tls is a client's configuration.
func (s *server) tls(version uint16) *tls.Config {
	return &tls.Config{ServerName: "localhost", RootCAs: s.pool, MinVersion: version, MaxVersion: version}
}

// connect dials, starts TLS by STARTTLS or at once, and returns the features.
func (s *server) connect(direct bool, version uint16) (*client, string) {
	s.t.Helper()
	cfg := s.tls(version)
	if direct {
		c := s.dial(s.Direct)
		cfg.NextProtos = []string{"xmpp-client"}
		c.secure(cfg)
		if c.cs.NegotiatedProtocol != "xmpp-client" {
			s.t.Fatalf("ALPN: %q", c.cs.NegotiatedProtocol)
		}
		return c, c.open()
	}
	c := s.dial(s.Plain)
	c.open()
	c.say("<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>")
	c.until("<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>")
	c.secure(cfg)
	return c, c.open()
}

// authenticate runs a mechanism; the result is the name of the failure, or "".
func (c *client) authenticate(x *sasl.Client) string {
	c.t.Helper()
	x.Rand = random{}
	first, err := x.Start()
	if err != nil {
		c.t.Fatal(err)
	}
	c.say("<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='" + x.Mechanism.String() + "'>" +
		string(first) + "</auth>")
	for {
		el, err := xmlstream.Parse([]byte(c.until("</challenge>", "</success>", "</failure>",
			"<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>")))
		if err != nil {
			c.t.Fatal(err)
		}
		switch string(el.Local()) {
		case "challenge":
			next, err := x.Next(el.Text())
			if err != nil {
				c.t.Fatal(err)
			}
			c.say("<response xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>" + string(next) + "</response>")
		case "success":
			if err := x.Success(el.Text()); err != nil {
				c.t.Fatal(err)
			}
			return ""
		default:
			why, _ := el.First()
			return string(why.Local())
		}
	}
}

type random struct{}

func (random) Read(p []byte) (int, error) {
	f, err := os.Open("/dev/urandom")
	if err != nil {
		return 0, err
	}
	defer f.Close()
	return io.ReadFull(f, p)
}

// login is a session over STARTTLS with PLAIN, the cheapest, available.
func (s *server) login(user, resource string) *client {
	s.t.Helper()
	c, _ := s.connect(false, tls.VersionTLS13)
	c.bind(user, resource)
	return c
}

func (c *client) bind(user, resource string) {
	c.t.Helper()
	c.plain(user)
	c.say("<iq type='set' id='bind'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'><resource>" + resource +
		"</resource></bind></iq><presence/>")
	c.until("</iq>")
}

// plain authenticates with PLAIN and opens the stream that is bound next.
func (c *client) plain(user string) {
	c.t.Helper()
	c.say("<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>" +
		base64.StdEncoding.EncodeToString([]byte("\x00"+user+"\x00"+password)) + "</auth>")
	c.until("<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>")
	c.open()
}
