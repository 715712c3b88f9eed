package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"canto/session/sasl"
	"canto/session/store"
)

// With this variable set the test binary is the program: it carries a command line out.
const asCanto = "CANTO_TEST_COMMAND"

func TestMain(m *testing.M) {
	if os.Getenv(asCanto) != "" {
		main()
	}
	os.Exit(m.Run())
}

// waitTimeout is how long a test waits for something that must happen; no test expects it to pass.
const waitTimeout = 30 * time.Second

// A site is a folder with a configuration, as an operator has one.
type site struct {
	t       *testing.T
	dir     string
	program string               // what its commands run; empty: the test binary
	attr    *syscall.SysProcAttr // of its commands
}

// listen takes free ports; the address of a port tells STARTTLS and direct TLS apart.
const listen = `
[listen]
c2s     = ["127.0.0.1:0"]
c2s_tls = ["127.0.0.2:0"]
http    = []
https   = []
debug   = []
`

func hostSection(name string) string {
	return fmt.Sprintf("[host.%q]\ncertificate = \"%s.crt\"\nkey = \"%s.key\"\n", name, name, name)
}

// newSite makes a folder for a server of the hosts, each with its certificate. No data folder is made.
func newSite(t *testing.T, hosts ...string) *site {
	t.Helper()
	dir, err := os.MkdirTemp("", "canto") // short: a socket's path is
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	s := &site{t: t, dir: dir}
	text := listen
	for _, h := range hosts {
		s.certificate(h)
		text += hostSection(h)
	}
	s.write("canto.toml", text)
	return s
}

func (s *site) path(name string) string { return filepath.Join(s.dir, name) }
func (s *site) data() string            { return s.path("data") }

func (s *site) write(name, text string) {
	s.t.Helper()
	if err := os.WriteFile(s.path(name), []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) certificate(host string) {
	s.t.Helper()
	if err := selfSigned(host, s.path(host+".crt"), s.path(host+".key")); err != nil {
		s.t.Fatal(err)
	}
}

// A said is the output and the exit status of a command.
type said struct {
	status   int
	out, err string
}

// command is a process in the site's folder.
func (s *site) command(args ...string) *exec.Cmd {
	cmd := exec.Command(cmp.Or(s.program, os.Args[0]), append(args, "--config", "canto.toml", "--data",
		"data")...)
	cmd.Dir, cmd.SysProcAttr = s.dir, s.attr
	cmd.Env = append(os.Environ(), asCanto+"=1")
	return cmd
}

// canto runs a command to its end, in this process, as a hundred processes would take long. Paths in the
// output are as if the site's folder were the current one.
func (s *site) canto(stdin string, args ...string) said {
	s.t.Helper()
	var out, errOut bytes.Buffer
	// ends a server that should not have started
	ctx, cancel := context.WithTimeout(context.Background(), waitTimeout)
	defer cancel()
	args = append(args, "--config", s.path("canto.toml"), "--data", s.data())
	status := execute(&run{ctx: ctx, args: args, stdin: strings.NewReader(stdin), out: &out, errOut: &errOut})
	here := func(b *bytes.Buffer) string { return strings.ReplaceAll(b.String(), s.dir+"/", "") }
	return said{status, here(&out), here(&errOut)}
}

func finish(t *testing.T, cmd *exec.Cmd, stdin string) said {
	t.Helper()
	var out, errOut bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errOut
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	late := time.AfterFunc(waitTimeout, func() { cmd.Process.Kill() })
	defer late.Stop()
	err := cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return said{cmd.ProcessState.ExitCode(), out.String(), errOut.String()}
}

// ok runs a command that must succeed with an empty standard error, and returns its output.
func (s *site) ok(args ...string) string {
	s.t.Helper()
	r := s.canto("", args...)
	if r.status != 0 || r.err != "" {
		s.t.Fatalf("canto %v: status %d: %s", args, r.status, r.err)
	}
	return r.out
}

// fails runs a command that must fail with status and one line of all the words, in that order.
func (s *site) fails(status int, words string, args ...string) {
	s.t.Helper()
	refused(s.t, s.canto("", args...), status, words, args...)
}

func refused(t *testing.T, r said, status int, words string, args ...string) {
	t.Helper()
	if r.status != status {
		t.Errorf("canto %v: status %d, want %d", args, r.status, status)
	}
	if !strings.HasPrefix(r.err, "canto: ") || strings.Count(r.err, "\n") != 1 ||
		!strings.HasSuffix(r.err, "\n") {
		t.Errorf("canto %v: standard error is not one line: %q", args, r.err)
	}
	if r.out != "" {
		t.Errorf("canto %v: standard output of a command that failed: %q", args, r.out)
	}
	if !regexp.MustCompile(words).MatchString(r.err) {
		t.Errorf("canto %v: %q does not match %q", args, r.err, words)
	}
}

// A process is a running server.
type process struct {
	t             *testing.T
	cmd           *exec.Cmd
	plain, direct string   // addresses: STARTTLS, TLS first
	ready         string   // its ready line
	server        *program // nil for another process
	status        int
	log           *syncBuffer
	done          chan struct{} // closed when it has ended
}

// A syncBuffer is standard error of a running process. Any goroutine.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// serve starts a server and waits until it is ready. The test's end ends it.
func (s *site) serve(args ...string) *process {
	s.t.Helper()
	p := &process{t: s.t, cmd: s.command(append([]string{"serve"}, args...)...), log: new(syncBuffer),
		done: make(chan struct{})}
	p.cmd.Stderr = p.log
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	late := time.AfterFunc(waitTimeout, func() { p.cmd.Process.Kill() })
	for sc := bufio.NewScanner(out); p.ready == "" && sc.Scan(); {
		if strings.HasPrefix(sc.Text(), "canto: ready") {
			p.ready = sc.Text()
		}
	}
	late.Stop()
	go func() {
		io.Copy(io.Discard, out)
		p.cmd.Wait()
		p.status = p.cmd.ProcessState.ExitCode()
		close(p.done)
	}()
	s.t.Cleanup(func() {
		p.cmd.Process.Kill()
		<-p.done
	})
	if p.ready == "" {
		<-p.done
		s.t.Fatalf("the server did not start: %s", p.log)
	}
	p.where()
	return p
}

// serveHere runs a server in this process, where its store can be changed and its parts be seen. stop
// is SIGTERM to it.
func (s *site) serveHere(options func(*store.Options)) (p *process, stop func()) {
	s.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	p = &process{t: s.t, log: new(syncBuffer), done: make(chan struct{})}
	out := new(syncBuffer)
	up := make(chan *program, 1)
	go func() {
		p.status = execute(&run{ctx: ctx, args: []string{"serve", "--config", s.path("canto.toml"), "--data",
			s.data()},
			out: out, errOut: p.log, options: options, onReady: func(s *program) {
				up <- s
			}, certInterval: 20 * time.Millisecond})
		close(p.done)
	}()
	s.t.Cleanup(func() { cancel(); p.wait() })
	select {
	case p.server = <-up:
	case <-p.done:
		s.t.Fatalf("the server did not start: %s", p.log)
	}
	until(s.t, "it is ready", func() bool { p.ready = out.String(); return strings.HasSuffix(p.ready, "\n") })
	p.where()
	return p, cancel
}

// where parses the ready line.
func (p *process) where() {
	addrs, _, _ := strings.Cut(strings.TrimPrefix(p.ready, "canto: ready c2s="), " ")
	for _, a := range strings.Split(addrs, ",") {
		if strings.HasPrefix(a, "127.0.0.2:") {
			p.direct = a
		} else {
			p.plain = a
		}
	}
}

func (p *process) signal(sig syscall.Signal) { p.cmd.Process.Signal(sig) }

// wait is the exit status, -1 if a signal ended it.
func (p *process) wait() int {
	p.t.Helper()
	select {
	case <-p.done:
	case <-time.After(waitTimeout):
		p.t.Fatalf("the server does not end: %s", p.log)
	}
	return p.status
}

// says waits for a line of the log that matches.
func (p *process) says(words string) string {
	p.t.Helper()
	re := regexp.MustCompile("(?m)^.*" + words + ".*$")
	var line string
	until(p.t, "the log says "+words, func() bool {
		line = re.FindString(p.log.String())
		return line != ""
	})
	return line
}

// until waits for a condition.
func until(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(waitTimeout); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

// A node is one element.
type node struct {
	XMLName xml.Name
	Attrs   []xml.Attr `xml:",any,attr"`
	Nodes   []node     `xml:",any"`
	Text    string     `xml:",chardata"`
}

func (n node) attr(name string) string {
	for _, a := range n.Attrs {
		if a.Name.Local == name {
			return a.Value
		}
	}
	return ""
}

// find is the element at the end of a path of local names below n.
func (n node) find(path ...string) (node, bool) {
	for _, p := range path {
		found := false
		for _, c := range n.Nodes {
			if c.XMLName.Local == p {
				n, found = c, true
				break
			}
		}
		if !found {
			return node{}, false
		}
	}
	return n, true
}

func (n node) has(path ...string) bool { _, ok := n.find(path...); return ok }

// A client is a blocking XMPP client.
type client struct {
	host, jid string
	conn      net.Conn
	dec       *xml.Decoder
	features  node
	ids       int
	backlog   []node // what came while an answer was waited for
	binding   string // of -PLUS: tls-exporter if empty
}

// errClosed is the end of the stream without an error.
var errClosed = errors.New("the stream was closed")

// A streamError is what ended a stream.
type streamError string

func (e streamError) Error() string { return "stream error: " + string(e) }

// connect opens a stream with STARTTLS; with direct, on a port where TLS comes first.
func connect(addr, host string, direct bool) (c *client, err error) {
	nc, err := net.DialTimeout("tcp", addr, waitTimeout)
	if err != nil {
		return nil, err
	}
	nc.SetDeadline(time.Now().Add(waitTimeout))
	defer func() {
		if err != nil {
			nc.Close()
		}
	}()
	c = &client{host: host, conn: nc}
	if direct {
		c.conn = tls.Client(nc, &tls.Config{ServerName: host, InsecureSkipVerify: true})
		return c, c.header()
	}
	if err = c.header(); err != nil {
		return nil, err
	}
	c.send("<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>")
	if n, err := c.next(); err != nil || n.XMLName.Local != "proceed" {
		return nil, fmt.Errorf("no STARTTLS: %v %v", n.XMLName, err)
	}
	c.conn = tls.Client(nc, &tls.Config{ServerName: host, InsecureSkipVerify: true})
	return c, c.header()
}

func (c *client) send(text string) error {
	_, err := io.WriteString(c.conn, text)
	return err
}

// header opens the stream, again, and reads the features.
func (c *client) header() error {
	if err := c.send("<?xml version='1.0'?><stream:stream xmlns='jabber:client' " +
		"xmlns:stream='http://etherx.jabber.org/streams' version='1.0' to='" + c.host + "'>"); err != nil {
		return err
	}
	c.dec = xml.NewDecoder(c.conn)
	for {
		tok, err := c.dec.Token()
		if err != nil {
			return err
		}
		if _, ok := tok.(xml.StartElement); ok {
			break
		}
	}
	n, err := c.next()
	c.features = n
	return err
}

// next reads the next element. A stream error is an error.
func (c *client) next() (n node, err error) {
	for {
		tok, err := c.dec.Token()
		if err != nil {
			return n, err
		}
		switch tok := tok.(type) {
		case xml.EndElement:
			return n, errClosed
		case xml.StartElement:
			if err := c.dec.DecodeElement(&n, &tok); err != nil {
				return n, err
			}
			if n.XMLName.Local == "error" && n.XMLName.Space == "http://etherx.jabber.org/streams" {
				return n, streamError(n.Nodes[0].XMLName.Local)
			}
			return n, nil
		}
	}
}

// saslFailure is the condition of a failed login.
type saslFailure string

func (e saslFailure) Error() string { return "login failed: " + string(e) }

// auth logs in; m is a mechanism's name.
func (c *client) auth(m, name, password string) error {
	mech, ok := sasl.ParseMechanism(m)
	if !ok {
		return fmt.Errorf("%s is not known", m)
	}
	x := &sasl.Client{Mechanism: mech, Username: name, Password: sasl.SecretString(password), Rand: rand.Reader}
	if tc, ok := c.conn.(*tls.Conn); ok {
		cs := tc.ConnectionState()
		x.ServerPlus = true
		if mech.Plus() {
			x.Binding.TLS13 = true
			exp, err := cs.ExportKeyingMaterial("EXPORTER-Channel-Binding", nil, 32)
			if err != nil {
				return err
			}
			x.Binding.Exporter, x.BindingType = exp, c.binding
			sum := sha256.Sum256(cs.PeerCertificates[0].Raw) // a test's certificates are signed with SHA-256
			x.Binding.EndPoint = sum[:]
		}
	}
	text, err := x.Start()
	if err != nil {
		return err
	}
	c.send("<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='" + m + "'>" + string(text) + "</auth>")
	for {
		n, err := c.next()
		if err != nil {
			return err
		}
		switch n.XMLName.Local {
		case "challenge":
			if text, err = x.Next([]byte(n.Text)); err != nil {
				return err
			}
			c.send("<response xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>" + string(text) + "</response>")
		case "success":
			if err := x.Success([]byte(n.Text)); err != nil {
				return err
			}
			return c.header()
		case "failure":
			return saslFailure(n.Nodes[0].XMLName.Local)
		default:
			return fmt.Errorf("%v instead of an answer to auth", n.XMLName)
		}
	}
}

func (c *client) bind(resource string) error {
	n, err := c.iq("set", "<bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'><resource>"+resource+
		"</resource></bind>")
	if err != nil {
		return err
	}
	j, _ := n.find("bind", "jid")
	c.jid = j.Text
	return nil
}

// A stanzaError is a stanza's error: its type and condition.
type stanzaError struct{ kind, condition string }

func (e stanzaError) Error() string { return "stanza error: " + e.kind + " " + e.condition }

func errorOf(n node) error {
	if n.attr("type") != "error" {
		return nil
	}
	e, _ := n.find("error")
	if len(e.Nodes) == 0 {
		return stanzaError{e.attr("type"), "none"}
	}
	return stanzaError{e.attr("type"), e.Nodes[0].XMLName.Local}
}

// iq sends a request and waits for the answer; other stanzas are kept for stanza.
func (c *client) iq(kind, payload string) (node, error) {
	c.ids++
	id := fmt.Sprintf("q%d", c.ids)
	if err := c.send("<iq type='" + kind + "' id='" + id + "'>" + payload + "</iq>"); err != nil {
		return node{}, err
	}
	for {
		n, err := c.next()
		if err != nil {
			return n, err
		}
		if n.XMLName.Local == "iq" && n.attr("id") == id {
			return n, errorOf(n)
		}
		c.backlog = append(c.backlog, n)
	}
}

// stanza returns the next stanza that matches.
func (c *client) stanza(suits func(n node) bool) (node, error) {
	for i, n := range c.backlog {
		if suits(n) {
			c.backlog = append(c.backlog[:i:i], c.backlog[i+1:]...)
			return n, nil
		}
	}
	for {
		n, err := c.next()
		if err != nil || suits(n) {
			return n, err
		}
		c.backlog = append(c.backlog, n)
	}
}

func body(text string) func(n node) bool {
	return func(n node) bool { b, _ := n.find("body"); return n.XMLName.Local == "message" && b.Text == text }
}

// ended reads until the stream is closed and returns the stream error, if any.
func (c *client) ended() error {
	for {
		if _, err := c.next(); err != nil {
			c.conn.Close()
			return err
		}
	}
}

// login connects as name@host with STARTTLS and binds; the test's end closes it.
func (p *process) login(host, name, password string) *client {
	p.t.Helper()
	c, err := p.try(host, "SCRAM-SHA-256", name, password)
	if err != nil {
		p.t.Fatalf("%s@%s: %v", name, host, err)
	}
	return c
}

func (p *process) try(host, mechanism, name, password string) (*client, error) {
	c, err := connect(p.plain, host, false)
	if err != nil {
		return nil, err
	}
	p.t.Cleanup(func() { c.conn.Close() })
	if err = c.auth(mechanism, name, password); err == nil {
		err = c.bind("test")
	}
	if err != nil {
		c.conn.Close()
		return nil, err
	}
	return c, nil
}

// half logs in as name@host and does not bind.
func (p *process) half(host, name, password string) *client {
	p.t.Helper()
	c, err := connect(p.plain, host, false)
	if err == nil {
		p.t.Cleanup(func() { c.conn.Close() })
		err = c.auth("SCRAM-SHA-1", name, password)
	}
	if err != nil {
		p.t.Fatalf("%s@%s: %v", name, host, err)
	}
	return c
}

// Spellings that many programs understand: help, help of a command, and the version as a flag. A wrong
// command line is one line that names canto help.
func TestHelp(t *testing.T) {
	for _, c := range []struct{ args, want string }{
		{"help", "Run the server."},
		{"--help", "Run the server."},
		{"", "Run the server."},
		{"help user add", "--password-stdin"},
		{"help check", "config, dns, tls, limits"},
		{"--version", "canto " + Version},
		{"version", "canto " + Version},
	} {
		var out, errOut bytes.Buffer
		status := execute(&run{ctx: t.Context(), args: strings.Fields(c.args), stdin: strings.NewReader(""),
			out: &out, errOut: &errOut})
		if status != 0 || !strings.Contains(out.String(), c.want) || errOut.Len() > 0 {
			t.Errorf("canto %s: status %d: %s%s", c.args, status, &out, &errOut)
		}
	}
	for _, args := range []string{"hepl", "user", "user add", "--frob", "serve extra", "help nothing"} {
		var out, errOut bytes.Buffer
		status := execute(&run{ctx: t.Context(), args: strings.Fields(args), stdin: strings.NewReader(""),
			out: &out, errOut: &errOut})
		refused(t, said{status, out.String(), errOut.String()}, exitUsage, `: see canto help\n$`, args)
	}
}
