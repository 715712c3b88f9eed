package live

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"canto/session/sasl"
	"canto/xmlstream"
)

const password = "a password of the test's"

var binary string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "canto-live")
	if err != nil {
		panic(err)
	}
	binary = filepath.Join(dir, "canto")
	if out, err := exec.Command("go", "build", "-o", binary, "canto/cmd/canto").CombinedOutput(); err != nil {
		panic(string(out))
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// A server is a process with a data folder of its own.
type server struct {
	t                    testing.TB
	dir                  string
	cmd                  *exec.Cmd
	errOut               bytes.Buffer
	plain, direct, debug string // addresses
	pool                 *x509.CertPool
}

// start runs a server whose configuration is more, with accounts for users.
func start(t testing.TB, more string, users ...string) *server {
	t.Helper()
	depend(t)
	s := &server{t: t, dir: t.TempDir(), plain: freePort(t), direct: freePort(t), debug: freePort(t)}
	text := fmt.Sprintf("[listen]\nc2s = ['%s']\nc2s_tls = ['%s']\ndebug = ['%s']\nhttp = []\nhttps = []\n%s", s.plain, s.direct, s.debug, more)
	if err := os.WriteFile(s.config(), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	s.serve()
	t.Cleanup(func() { s.stop(syscall.SIGTERM) })
	var lines strings.Builder
	for _, u := range users {
		fmt.Fprintf(&lines, "%s\t%s\n", u, password)
	}
	if len(users) > 0 {
		cmd := exec.Command(binary, "user", "import", "--shared-salt", "--config", s.config(), "--data", s.data(), "-")
		cmd.Stdin = strings.NewReader(lines.String())
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("import: %s", out)
		}
	}
	pem, err := os.ReadFile(filepath.Join(s.data(), "localhost.crt"))
	if err != nil {
		t.Fatal(err)
	}
	s.pool = x509.NewCertPool()
	s.pool.AppendCertsFromPEM(pem)
	return s
}

// depend reads the sources of the program, so that the result of a test is not taken from the cache
// when they have changed: the program is built beside the test, not into it.
func depend(t testing.TB) {
	for _, dir := range []string{"xmlstream", "reactor", "session", "cmd/canto"} {
		err := filepath.WalkDir(filepath.Join("../../..", dir), func(path string, d fs.DirEntry, err error) error {
			if err == nil && strings.HasSuffix(path, ".go") && !strings.HasSuffix(path, "_test.go") {
				_, err = os.ReadFile(path)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

func (s *server) config() string { return filepath.Join(s.dir, "canto.toml") }
func (s *server) data() string   { return filepath.Join(s.dir, "data") }

func (s *server) serve() {
	s.t.Helper()
	s.cmd = exec.Command(binary, "serve", "--dev", "--config", s.config(), "--data", s.data())
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	s.cmd.Stderr = &s.errOut
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	sc := bufio.NewScanner(out)
	for sc.Scan() {
		if strings.HasPrefix(sc.Text(), "canto: ready") {
			return
		}
	}
	s.cmd.Wait()
	s.t.Fatalf("the server did not start: %s", &s.errOut)
}

// stop ends the process; a second call does nothing.
func (s *server) stop(sig syscall.Signal) {
	if s.cmd.ProcessState == nil {
		s.cmd.Process.Signal(sig)
		s.cmd.Wait()
	}
}

// rss is the process's memory in bytes.
func (s *server) rss() int {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid))
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
	resp, err := http.Get("http://" + s.debug + "/metrics")
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	got := make(map[string]float64)
	for line := range strings.Lines(string(b)) {
		if k, v, ok := strings.Cut(strings.TrimSpace(line), " "); ok && strings.HasPrefix(k, name) {
			got[k], _ = strconv.ParseFloat(v, 64)
		}
	}
	return got
}

func freePort(t testing.TB) string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

// patience is how long a test waits for what must come.
const patience = 30 * time.Second

// A client is one blocking connection.
type client struct {
	t   testing.TB
	nc  net.Conn
	got []byte
	cs  *tls.ConnectionState
}

func (s *server) dial(addr string) *client {
	s.t.Helper()
	nc, err := net.DialTimeout("tcp", addr, patience)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { nc.Close() })
	return &client{t: s.t, nc: nc}
}

const header = "<?xml version='1.0'?><stream:stream to='localhost' version='1.0' xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'>"

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
	c.nc.SetReadDeadline(time.Now().Add(patience))
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
	ctx, cancel := context.WithTimeout(context.Background(), patience)
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
		c := s.dial(s.direct)
		cfg.NextProtos = []string{"xmpp-client"}
		c.secure(cfg)
		if c.cs.NegotiatedProtocol != "xmpp-client" {
			s.t.Fatalf("ALPN: %q", c.cs.NegotiatedProtocol)
		}
		return c, c.open()
	}
	c := s.dial(s.plain)
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
	c.say("<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='" + x.Mechanism.String() + "'>" + string(first) + "</auth>")
	for {
		el, err := xmlstream.Parse([]byte(c.until("</challenge>", "</success>", "</failure>", "<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>")))
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
	c.say("<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>" + base64.StdEncoding.EncodeToString([]byte("\x00"+user+"\x00"+password)) + "</auth>")
	c.until("<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>")
	c.open()
	c.say("<iq type='set' id='bind'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'><resource>" + resource + "</resource></bind></iq><presence/>")
	c.until("</iq>")
}
