//go:build interop

package interop

import (
	"bytes"
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"canto/cmd/internal/running"
)

// python is Debian's own, whose packages the clients are.
const python = "/usr/bin/python3"

func TestMain(m *testing.M) { running.Main(m) }

// A canto is a server with two accounts.
type canto struct {
	*running.Server
	t             *testing.T
	plain, direct string // ports
	romeo, juliet string // passwords
}

func start(t *testing.T) *canto {
	c := &canto{Server: running.Start(t, "../../..", ""), t: t, romeo: "r0m30-secret", juliet: "jul13t-secret"}
	c.plain, c.direct = port(c.Plain), port(c.Direct)
	c.Run("", "user", "passwd", "romeo@localhost", "--password", c.romeo)
	c.Run("", "user", "passwd", "juliet@localhost", "--password", c.juliet)
	return c
}

func port(addr string) string {
	_, p, _ := net.SplitHostPort(addr)
	return p
}

// run runs a client's script; its last line is "ok".
func run(t *testing.T, dir, name string, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err := cmd.Run()
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if err != nil || lines[len(lines)-1] != "ok" {
		t.Fatalf("%s %v: %v\n%s\n%s", name, args, err, out.String(), tail(errOut.String()))
	}
	t.Log(out.String())
}

func tail(s string) string {
	if len(s) > 4000 {
		return s[len(s)-4000:]
	}
	return s
}

func (c *canto) slixmpp(port, mech, how, stage string) {
	c.t.Helper()
	script, _ := filepath.Abs("testdata/slix.py")
	run(c.t, c.Dir, python, script, port, c.Certificate(), mech, how, c.romeo, c.juliet, stage)
}

// Every mechanism over STARTTLS and direct TLS (XEP-0368), and a wrong password.
func TestSlixmppLogin(t *testing.T) {
	c := start(t)
	for _, mech := range []string{"SCRAM-SHA-1", "SCRAM-SHA-256", "SCRAM-SHA-512", "PLAIN"} {
		c.slixmpp(c.plain, mech, "starttls", "login")
		c.slixmpp(c.direct, mech, "direct", "login")
	}
	c.slixmpp(c.plain, "SCRAM-SHA-256", "starttls", "wrong")
}

// Two users subscribe, see one another, chat, block, keep vCards; after kill -9 and a restart what was
// kept for one of them is there.
func TestSlixmppChat(t *testing.T) {
	c := start(t)
	c.slixmpp(c.plain, "SCRAM-SHA-256", "starttls", "chat")
	c.Stop(syscall.SIGKILL)
	c.Serve()
	c.slixmpp(c.plain, "SCRAM-SHA-256", "starttls", "later")
}

func TestAioxmpp(t *testing.T) {
	c := start(t)
	script, _ := filepath.Abs("testdata/aio.py")
	run(t, c.Dir, python, script, c.plain, c.romeo, c.juliet)
	run(t, c.Dir, python, script, c.direct, c.romeo, c.juliet, "direct")
}

// npm's @xmpp/client, installed where CANTO_NODE_MODULES says.
func TestXMPPJS(t *testing.T) {
	c := start(t)
	dir := os.Getenv("CANTO_NODE_DIR")
	if dir == "" {
		t.Fatal("CANTO_NODE_DIR names no folder with @xmpp/client in its node_modules")
	}
	text, err := os.ReadFile("testdata/client.js")
	if err != nil {
		t.Fatal(err)
	}
	script := filepath.Join(dir, "canto-client.mjs")
	if err := os.WriteFile(script, text, 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, dir, "node", script, "xmpp://127.0.0.1:"+c.plain, c.romeo, c.juliet)
	run(t, dir, "node", script, "xmpps://127.0.0.1:"+c.direct, c.romeo, c.juliet)
}

// A person at a terminal: profanity in tmux, with the text of its screen checked.
func TestProfanity(t *testing.T) {
	c := start(t)
	home := t.TempDir()
	sock := filepath.Join(home, "tmux")
	tmux := func(args ...string) string {
		cmd := exec.Command("tmux", append([]string{"-S", sock, "-f", "/dev/null"}, args...)...)
		cmd.Env = append(os.Environ(), "HOME="+home, "XDG_CONFIG_HOME="+home+"/config", "XDG_DATA_HOME="+home+"/share", "TERM=xterm", "LANG=C.UTF-8", "LC_ALL=C.UTF-8")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("tmux %v: %s", args, out)
		}
		return string(out)
	}
	tmux("new-session", "-d", "-s", "p", "-x", "140", "-y", "40", "profanity")
	defer tmux("kill-server")
	screen := func() string { return tmux("capture-pane", "-p", "-t", "p") }
	wait := func(text string) {
		t.Helper()
		for end := time.Now().Add(20 * time.Second); ; time.Sleep(100 * time.Millisecond) {
			s := screen()
			if strings.Contains(s, text) {
				return
			}
			if time.Now().After(end) {
				t.Fatalf("%q does not show on the screen:\n%s", text, s)
			}
		}
	}
	say := func(text string) { tmux("send-keys", "-t", "p", "-l", text); tmux("send-keys", "-t", "p", "Enter") }
	wait("Profanity")
	say("/connect romeo@localhost server 127.0.0.1 port " + c.plain + " tls trust")
	wait("password")
	say(c.romeo)
	wait("romeo@localhost")
	wait("logged in successfully")
	say("/msg romeo@localhost hello from a terminal")
	wait("hello from a terminal")
	say("/win 1")
	say("/roster add juliet@localhost")
	say("/roster")
	wait("juliet@localhost")
	say("/disconnect")
	wait("logged out successfully")
}
