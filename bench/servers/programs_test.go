//go:build peers

package servers

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"canto/session/sasl"
)

// cantoProgram builds Canto once.
var cantoProgram = sync.OnceValues(func() (string, error) {
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "canto").Output()
	if err != nil {
		return "", err
	}
	name := filepath.Join(programs, "canto")
	cmd := exec.Command("go", "build", "-o", name, "./cmd/canto")
	cmd.Dir = strings.TrimSpace(string(dir))
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return name, nil
})

func startServer(t *testing.T, kind string, options map[string]string) *Server {
	t.Helper()
	cfg := Config{Kind: kind, Dir: filepath.Join(t.TempDir(), "x"), Accounts: Accounts{N: 1000},
		Options: options}
	if kind == "canto" {
		var err error
		if cfg.Program, err = cantoProgram(); err != nil {
			t.Fatal(err)
		}
	}
	var log lockedBuffer
	cfg.Log = &log
	begin := time.Now()
	s, err := Start(t.Context(), cfg)
	if err != nil {
		t.Fatalf("%v\n%s", err, log.String())
	}
	t.Logf("%s %s started in %.1f s", s.Software, s.Version, time.Since(begin).Seconds())
	t.Cleanup(func() {
		if err := s.Stop(t.Context()); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("%s:\n%s", kind, log.String())
		}
	})
	return s
}

// A login is one connection, as small as it can be.
type login struct {
	net.Conn
	features string
}

// exchange sends text and reads until what end matches has come.
func (l *login) exchange(text, end string) (string, error) {
	if _, err := l.Write([]byte(text)); err != nil {
		return "", err
	}
	re := regexp.MustCompile(end)
	var got []byte
	buf := make([]byte, 4096)
	for {
		n, err := l.Read(buf)
		got = append(got, buf[:n]...)
		if re.Match(got) {
			return string(got), nil
		}
		if err != nil {
			return "", fmt.Errorf("%w after %q, waiting for %s", err, got, end)
		}
	}
}

func dial(s *Server, how string) (*login, error) { return dialHeader(s, how, header(s.Domain)) }

func dialHeader(s *Server, how, header string) (*login, error) {
	addr := s.Plain
	if how == "direct" {
		addr = s.Direct
	}
	c, err := net.DialTimeout("tcp", addr.String(), 5*time.Second)
	if err != nil {
		return nil, err
	}
	c.SetDeadline(time.Now().Add(5 * time.Second))
	l := &login{Conn: c}
	switch how {
	case "direct":
		l.Conn = tls.Client(c, s.TLS())
	case "starttls":
		if _, err := l.exchange(header, "</stream:features>"); err != nil {
			return nil, err
		}
		if _, err := l.exchange("<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>", "<proceed"); err != nil {
			return nil, err
		}
		l.Conn = tls.Client(c, s.TLS())
	}
	l.features, err = l.exchange(header, "</stream:features>")
	return l, err
}

var errRefused = errors.New("refused")

var inner = regexp.MustCompile(`>([^<]*)</`)

// logIn logs in, and asks for what the server can.
func logIn(s *Server, how, user, password string, m sasl.Mechanism) (disco string, err error) {
	l, err := dial(s, how)
	if err != nil {
		return "", err
	}
	defer l.Close()
	if !strings.Contains(l.features, m.String()+"<") {
		return "", fmt.Errorf("%v is not offered: %s", m, l.features)
	}
	c := sasl.Client{Mechanism: m, Username: user, Password: sasl.SecretString(password), Rand: rand.Reader}
	first, err := c.Start()
	if err != nil {
		return "", err
	}
	said, err := l.exchange(fmt.Sprintf("<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' "+
		"mechanism='%v'>%s</auth>", m, first), "</challenge>|</failure>|<success[^>]*/>|</success>")
	if err != nil {
		return "", err
	}
	if strings.Contains(said, "<challenge") {
		next, err := c.Next([]byte(inner.FindStringSubmatch(said)[1]))
		if err != nil {
			return "", err
		}
		if said, err = l.exchange("<response xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>"+string(next)+
			"</response>", "</failure>|<success[^>]*/>|</success>"); err != nil {
			return "", err
		}
	}
	if strings.Contains(said, "not-authorized") {
		return "", errRefused
	}
	if !strings.Contains(said, "<success") {
		return "", errors.New(said)
	}
	if m != sasl.Plain {
		if err := c.Success([]byte(inner.FindStringSubmatch(said)[1])); err != nil {
			return "", err
		}
	}
	if _, err := l.exchange(header(s.Domain), "</stream:features>"); err != nil {
		return "", err
	}
	bound, err := l.exchange("<iq id='b' type='set'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>",
		"</iq>")
	if err != nil {
		return "", err
	}
	if !strings.Contains(bound, user+"@"+s.Domain+"/") {
		return "", errors.New(bound)
	}
	for _, to := range []string{s.Domain, user + "@" + s.Domain} {
		d, err := l.exchange("<iq id='d' type='get' to='"+to+
			"'><query xmlns='http://jabber.org/protocol/disco#info'/></iq>", "</iq>|<iq[^>]*/>")
		if err != nil {
			return "", err
		}
		disco += d
	}
	if s.Rooms != "" {
		// One for each login: a room that its last occupant is leaving may lose an occupant that enters.
		room := strings.ToLower(how+"-"+m.String()) + "@" + s.Rooms
		if r, err := l.exchange("<presence to='"+room+
			"/me'><x xmlns='http://jabber.org/protocol/muc'/></presence>",
			"code=.110.[^>]*>.*</presence>|type=.error."); err != nil || strings.Contains(r, "error") {
			return "", fmt.Errorf("joining a room: %s (%v)", r, err)
		}
		if r, err := l.exchange("<message type='groupchat' to='"+room+
			"' id='g1'><body>hello</body></message>", "<body>hello</body>|type=.error."); err != nil ||
			strings.Contains(r, "error") {
			return "", fmt.Errorf("talking in a room: %s (%v)", r, err)
		}
	}
	_, err = l.Write([]byte("</stream:stream>"))
	return disco, err
}

func checkServer(t *testing.T, s *Server, mechanisms ...sasl.Mechanism) (disco string) {
	t.Helper()
	for _, how := range []string{"plain", "starttls", "direct"} {
		for _, m := range mechanisms {
			var err error
			if disco, err = logIn(s, how, "bench999", "bench", m); err != nil {
				t.Errorf("%s, %v: %v", how, m, err)
			}
			if _, err := logIn(s, how, "bench0", "wrong", m); !errors.Is(err, errRefused) {
				t.Errorf("%s, %v: a wrong password: %v", how, m, err)
			}
		}
	}
	if _, err := logIn(s, "plain", "bench1000", "bench", mechanisms[0]); err == nil {
		t.Error("an account too many could log in")
	}
	if err := s.Alive(); err != nil {
		t.Error(err)
	}
	return disco
}

func stopServer(t *testing.T, s *Server) {
	t.Helper()
	pids := slices.Clone(s.PIDs)
	for range 2 {
		if err := s.Stop(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if s.Alive() == nil {
		t.Error("a server that was stopped calls itself alive")
	}
	for _, pid := range pids {
		if running(pid) {
			t.Errorf("process %d is left", pid)
		}
	}
	for _, a := range []netip.AddrPort{s.Plain, s.Direct} {
		l, err := net.Listen("tcp", a.String())
		if err != nil {
			t.Errorf("its port is not free again: %v", err)
			continue
		}
		l.Close()
	}
}

func wants(t *testing.T, disco string, features ...string) {
	t.Helper()
	for _, f := range features {
		if !strings.Contains(disco, f) {
			t.Errorf("%s is not offered: %s", f, disco)
		}
	}
}

func TestCanto(t *testing.T) {
	s := startServer(t, "canto", nil)
	disco := checkServer(t, s, sasl.ScramSHA1, sasl.ScramSHA256)
	wants(t, disco, "urn:xmpp:ping", "urn:xmpp:blocking")
	if !strings.HasPrefix(s.Version, "0.") || s.Software != "Canto" {
		t.Errorf("%q %q", s.Software, s.Version)
	}
	stopServer(t, s)
}

func TestProsody(t *testing.T) {
	s := startServer(t, "prosody", nil)
	disco := checkServer(t, s, sasl.ScramSHA1, sasl.Plain)
	wants(t, disco, "urn:xmpp:ping", "urn:xmpp:blocking", "urn:xmpp:carbons:2", "jabber:iq:version")
	stopServer(t, s)
}

func TestProsodyOptions(t *testing.T) {
	s := startServer(t, "prosody", map[string]string{"archive": "on", "register": "on", "scram": "SHA-256",
		"gc": "default"})
	wants(t, checkServer(t, s, sasl.ScramSHA256), "urn:xmpp:mam:2")
	l, err := dial(s, "direct")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	wants(t, l.features, "http://jabber.org/features/iq-register")
	register(t, s)
	stopServer(t, s)
}

// register makes an account as a stranger, and logs it in.
func register(t *testing.T, s *Server) {
	t.Helper()
	for _, user := range []string{"stranger", "foreigner"} {
		l, err := dial(s, "plain")
		if err != nil {
			t.Fatal(err)
		}
		got, err := l.exchange("<iq id='r' type='set' to='"+s.Domain+
			"'><query xmlns='jabber:iq:register'><username>"+user+
			"</username><password>secret</password></query></iq>", "</iq>|<iq[^>]*/>")
		l.Close()
		if err != nil || strings.Contains(got, "error") {
			t.Errorf("registering: %s (%v)", got, err)
			continue
		}
		if _, err := logIn(s, "plain", user, "secret", sasl.Plain); err != nil {
			t.Errorf("logging in after registering: %v", err)
		}
	}
}

func TestCantoOptions(t *testing.T) {
	s := startServer(t, "canto", map[string]string{"register": "on", "memory": "1GiB"})
	l, err := dial(s, "direct")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	wants(t, l.features, "http://jabber.org/features/iq-register")
	stopServer(t, s)
}

func TestEjabberd(t *testing.T) {
	s := startServer(t, "ejabberd", nil)
	disco := checkServer(t, s, sasl.ScramSHA1, sasl.Plain)
	wants(t, disco, "urn:xmpp:ping", "urn:xmpp:blocking", "urn:xmpp:carbons:2", "jabber:iq:version")
	stopServer(t, s)
}

func TestEjabberdOptions(t *testing.T) {
	s := startServer(t, "ejabberd", map[string]string{"archive": "on", "register": "on",
		"scram": "SHA-256", "busywait": "on"})
	wants(t, checkServer(t, s, sasl.ScramSHA256), "urn:xmpp:mam:2")
	l, err := dial(s, "direct")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	wants(t, l.features, "http://jabber.org/features/iq-register")
	register(t, s)
	stopServer(t, s)
}

// All at once, two of each, with more accounts than one commit or directory block holds.
func TestTogether(t *testing.T) {
	var wg sync.WaitGroup
	kinds := append(Kinds(), Kinds()...)
	servers := make([]*Server, len(kinds))
	errs := make([]error, len(kinds))
	for i, kind := range kinds {
		cfg := Config{Kind: kind, Name: fmt.Sprint(kind, i), Dir: filepath.Join(t.TempDir(), fmt.Sprint(i)),
			Accounts: Accounts{N: 2500, Prefix: fmt.Sprint("u", i, "x")}}
		if kind == "canto" {
			var err error
			if cfg.Program, err = cantoProgram(); err != nil {
				t.Fatal(err)
			}
		}
		wg.Go(func() { servers[i], errs[i] = Start(t.Context(), cfg) })
	}
	wg.Wait()
	defer func() {
		for _, s := range servers {
			if s != nil {
				s.Stop(t.Context())
			}
		}
	}()
	for i, s := range servers {
		if errs[i] != nil {
			t.Error(errs[i])
			continue
		}
		// Each knows its own accounts only: no two share a folder or a port.
		for j := range servers {
			_, err := logIn(s, "plain", fmt.Sprint("u", j, "x2499"), "bench", sasl.ScramSHA1)
			if (err == nil) != (i == j) || i != j && !errors.Is(err, errRefused) {
				t.Errorf("account of %s at %s: %v", kinds[j], s.Name, err)
			}
		}
	}
	for _, s := range servers {
		if s != nil {
			stopServer(t, s)
		}
	}
}

// A folder that was used is used again: its accounts are there, and are not added twice.
func TestAgain(t *testing.T) {
	for _, kind := range Kinds() {
		t.Run(kind, func(t *testing.T) {
			cfg := Config{Kind: kind, Dir: t.TempDir(), Accounts: Accounts{N: 10}}
			if kind == "canto" {
				cfg.Program, _ = cantoProgram()
			}
			for range 2 {
				s, err := Start(t.Context(), cfg)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := logIn(s, "direct", "bench9", "bench", sasl.ScramSHA1); err != nil {
					t.Error(err)
				}
				stopServer(t, s)
			}
		})
	}
}

// SASL2 with Bind2, and then FAST with the token that it gave.
func TestProsodySASL2(t *testing.T) {
	s := startServer(t, "prosody", map[string]string{"sasl2": "on"})
	checkServer(t, s, sasl.ScramSHA1)
	for _, how := range []string{"plain", "direct"} {
		const agent = "<user-agent id='d4565fa7-4d72-4749-b3d3-740edbf87770'/>"
		const bind = "<bind xmlns='urn:xmpp:bind:0'><tag>bench</tag></bind>"
		end := "</success>|</failure>"
		header := strings.Replace(header(s.Domain), " to=", " from='bench1@"+s.Domain+"' to=", 1)
		open := func() *login {
			l, err := dialHeader(s, how, header)
			if err != nil {
				t.Fatal(err)
			}
			wants(t, l.features, "urn:xmpp:sasl:2", "urn:xmpp:bind:0", "urn:xmpp:fast:0", "HT-SHA-256-NONE")
			return l
		}
		l := open()
		got, err := l.exchange("<authenticate xmlns='urn:xmpp:sasl:2' mechanism='PLAIN'><initial-response>"+
			base64.StdEncoding.EncodeToString([]byte("\x00bench1\x00bench"))+"</initial-response>"+agent+bind+
			"<request-token xmlns='urn:xmpp:fast:0' mechanism='HT-SHA-256-NONE'/></authenticate>", end)
		l.Close()
		token := regexp.MustCompile(`token='([^']*)'|token="([^"]*)"`).FindStringSubmatch(got)
		if err != nil || !strings.Contains(got, "<bound") || token == nil {
			t.Errorf("%s: %s (%v)", how, got, err)
			continue
		}
		m := hmac.New(sha256.New, []byte(token[1]+token[2]))
		m.Write([]byte("Initiator"))
		l = open()
		got, err = l.exchange("<authenticate xmlns='urn:xmpp:sasl:2' "+
			"mechanism='HT-SHA-256-NONE'><initial-response>"+
			base64.StdEncoding.EncodeToString(append([]byte("bench1\x00"), m.Sum(nil)...))+"</initial-response>"+
			agent+bind+"<fast xmlns='urn:xmpp:fast:0'/></authenticate>", end)
		l.Close()
		if err != nil || !strings.Contains(got, "<bound") {
			t.Errorf("%s: by FAST: %s (%v)", how, got, err)
		}
	}
	stopServer(t, s)
}
