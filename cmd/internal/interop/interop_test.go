//go:build interop

package interop

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"canto/cmd/internal/running"
)

// python is Debian's interpreter: the clients are Debian's packages.
const python = "/usr/bin/python3"

// beside is how many clients run at a time: they wait more than they compute.
const beside = 12

func TestMain(m *testing.M) {
	flag.Parse()
	if err := flag.Set("test.parallel", fmt.Sprint(beside)); err != nil {
		panic(err)
	}
	running.Main(m)
}

// A user is an account for one test.
type user struct{ address, password string }

// A pair is a server and two accounts on it that one client has for itself.
type pair struct {
	*running.Server
	t             *testing.T
	how           string // starttls or direct
	romeo, juliet user
}

// start runs a server that speaks this version of TLS, or both if it is empty.
func start(t *testing.T, version string) *running.Server {
	more := ""
	if version != "" {
		more = "[c2s]\ntls_versions = ['" + version + "']\n"
	}
	return running.Start(t, "../../..", more)
}

// pairs makes two accounts for each name.
func pairs(s *running.Server, names ...string) {
	var lines strings.Builder
	for _, n := range names {
		for _, u := range users(n) {
			fmt.Fprintf(&lines, "%s\t%s\n", u.address, u.password)
		}
	}
	s.Run(lines.String(), "user", "import", "--shared-salt", "-")
}

// users are the accounts of a name.
func users(name string) [2]user {
	return [2]user{{"romeo." + name + "@localhost", "r0m30 secret"},
		{"juliet." + name + "@localhost", "jul13t-s€crét"}}
}

// pairOf is the pair of a name, for a test that uses it.
func pairOf(t *testing.T, s *running.Server, name, how string) *pair {
	u := users(name)
	return &pair{Server: s, t: t, how: how, romeo: u[0], juliet: u[1]}
}

// port is where the server listens for the pair's way into TLS.
func (p *pair) port() string {
	addr := p.Plain
	if p.how == "direct" {
		addr = p.Direct
	}
	_, port, _ := net.SplitHostPort(addr)
	return port
}

// environment is what clients get that read the CA from it, with a home folder of their own.
func (p *pair) environment(home string) []string {
	return append(os.Environ(), "SSL_CERT_FILE="+p.Certificate(), "NODE_EXTRA_CA_CERTS="+p.Certificate(),
		"HOME="+home,
		"XDG_CONFIG_HOME="+home+"/config", "XDG_DATA_HOME="+home+"/share", "TERM=xterm", "LANG=C.UTF-8",
		"LC_ALL=C.UTF-8")
}

// waitTimeout is how long a client may take. The cores may be busy with a dozen clients and fuzz targets.
const waitTimeout = 2 * time.Minute

// run runs a client; its last line is "ok".
func (p *pair) run(name string, args ...string) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), waitTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = p.environment(p.t.TempDir())
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err := cmd.Run()
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if err != nil || lines[len(lines)-1] != "ok" {
		p.t.Fatalf("%s %v: %v\n%s\n%s", name, args, err, out.String(), tail(errOut.String()))
	}
	p.t.Log(out.String())
}

func tail(s string) string {
	if len(s) > 4000 {
		return s[len(s)-4000:]
	}
	return s
}

// clients are those that log in, each with STARTTLS and with TLS first.
var clients = map[string]func(p *pair){
	"slixmpp":     func(p *pair) { p.slixmpp("login") },
	"aioxmpp":     aioxmpp,
	"xmppjs":      func(p *pair) { xmppjs(p, "client.js") },
	"profanity":   profanity,
	"mcabber":     mcabber,
	"go-sendxmpp": goSendxmpp,
	"go-xmpp": func(p *pair) {
		p.run(filepath.Join(goClients(p.t), "goxmpp"), p.port(), p.how, p.romeo.address, p.romeo.password)
	},
	"mellium": func(p *pair) {
		p.run(filepath.Join(goClients(p.t), "mellium"), p.port(), p.how, p.romeo.address, p.romeo.password)
	},
}

// Every client gets in with its defaults (RFC 6120 §5, §6; XEP-0368; RFC 5802; RFC 9266), sends, and
// receives.
func TestClients(t *testing.T) {
	type job struct{ version, how, name string }
	var jobs []job
	servers := make(map[string]*running.Server)
	for _, version := range []string{"1.3", "1.2"} {
		servers[version] = start(t, version)
		var names []string
		for name := range clients {
			for _, how := range []string{"starttls", "direct"} {
				jobs = append(jobs, job{version, how, name})
				names = append(names, name+"."+how)
			}
		}
		pairs(servers[version], names...)
	}
	t.Cleanup(removeGoClients)
	for _, j := range jobs {
		t.Run("TLS "+j.version+"/"+j.how+"/"+j.name, func(t *testing.T) {
			t.Parallel()
			clients[j.name](pairOf(t, servers[j.version], j.name+"."+j.how, j.how))
		})
	}
}

// A wrong password is refused, and that it is wrong is what the client hears.
func TestWrongPassword(t *testing.T) {
	t.Parallel()
	s := start(t, "")
	pairs(s, "wrong")
	pairOf(t, s, "wrong", "starttls").slixmpp("wrong")
}

// Two users subscribe, see one another, chat, block, keep vCards; after kill -9 and a restart what was
// kept for one of them is there.
func TestChat(t *testing.T) {
	t.Parallel()
	s := start(t, "")
	pairs(s, "chat")
	p := pairOf(t, s, "chat", "starttls")
	p.slixmpp("chat")
	s.Stop(syscall.SIGKILL)
	s.Serve()
	p.slixmpp("later")
}

func (p *pair) slixmpp(stage string) {
	p.t.Helper()
	script, _ := filepath.Abs("testdata/slix.py")
	p.run(python, script, p.port(), p.how, p.Certificate(), p.romeo.address, p.romeo.password,
		p.juliet.address, p.juliet.password, stage)
}

func aioxmpp(p *pair) {
	script, _ := filepath.Abs("testdata/aio.py")
	p.run(python, script, p.port(), p.how, p.romeo.address, p.romeo.password, p.juliet.address,
		p.juliet.password)
}

// npm's @xmpp/client, installed where CANTO_NODE_DIR says, runs a script of testdata.
func xmppjs(p *pair, script string, more ...string) {
	p.t.Helper()
	p.run("node", append(xmppjsArguments(p, script), more...)...)
}

// xmppjsArguments are what node gets to run a script of testdata.
func xmppjsArguments(p *pair, script string) []string {
	p.t.Helper()
	dir := os.Getenv("CANTO_NODE_DIR")
	if dir == "" {
		p.t.Fatal("CANTO_NODE_DIR names no folder with @xmpp/client in its node_modules")
	}
	text, err := os.ReadFile(filepath.Join("testdata", script))
	if err != nil {
		p.t.Fatal(err)
	}
	// A script has to be beside the modules that it imports.
	f, err := os.CreateTemp(dir, "canto-*.mjs")
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { os.Remove(f.Name()) })
	if _, err := f.Write(text); err != nil {
		p.t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		p.t.Fatal(err)
	}
	scheme := "xmpp"
	if p.how == "direct" {
		scheme = "xmpps"
	}
	return []string{f.Name(), scheme + "://localhost:" + p.port(), p.romeo.address, p.romeo.password,
		p.juliet.address, p.juliet.password}
}

var built struct {
	once sync.Once
	dir  string
	err  error
}

// removeGoClients removes what goClients has built. The next test that needs it has it built again.
func removeGoClients() {
	os.RemoveAll(built.dir)
	built.once, built.dir = sync.Once{}, ""
}

// goClients is the folder with the programs of testdata/goclients, a module of its own: the server needs
// none of what they import.
func goClients(t *testing.T) string {
	t.Helper()
	built.once.Do(func() {
		if built.dir, built.err = os.MkdirTemp("", "goclients"); built.err != nil {
			return
		}
		build := exec.Command("go", "build", "-o", built.dir, "./...")
		build.Dir = filepath.Join("testdata", "goclients")
		if out, err := build.CombinedOutput(); err != nil {
			built.err = fmt.Errorf("%w: %s", err, out)
		}
	})
	if built.err != nil {
		t.Fatalf("testdata/goclients can't be built: %v", built.err)
	}
	return built.dir
}

// One process listens, the other one sends.
func goSendxmpp(p *pair) {
	ctx, cancel := context.WithTimeout(context.Background(), waitTimeout)
	defer cancel()
	command := func(u user, args ...string) *exec.Cmd {
		args = append([]string{"-j", "localhost:" + p.port(), "-u", u.address, "-p", u.password}, args...)
		if p.how == "direct" {
			args = append([]string{"-t"}, args...)
		}
		cmd := exec.CommandContext(ctx, "go-sendxmpp", args...)
		cmd.Env = p.environment(p.t.TempDir())
		return cmd
	}
	listener := command(p.juliet, "-l")
	heard, err := listener.StdoutPipe()
	if err != nil {
		p.t.Fatal(err)
	}
	var complaint bytes.Buffer
	listener.Stderr = &complaint
	if err := listener.Start(); err != nil {
		p.t.Fatal(err)
	}
	const text = "hello from a command line"
	send := command(p.romeo, p.juliet.address)
	send.Stdin = strings.NewReader(text + "\n") // kept for the listener if it is not there yet
	if out, err := send.CombinedOutput(); err != nil {
		p.t.Fatalf("%v: %v: %s", send.Args, err, out)
	}
	var got strings.Builder
	b := make([]byte, 4096)
	for !strings.Contains(got.String(), text) {
		n, err := heard.Read(b)
		got.Write(b[:n])
		if err != nil {
			listener.Wait()
			p.t.Fatalf("the listener heard %q, and ended with %v: %s", got.String(), err, &complaint)
		}
	}
	listener.Process.Signal(syscall.SIGTERM)
	io.Copy(io.Discard, heard)
	listener.Wait()
}

// A terminal is a program in tmux, with keys to press and a screen to read.
type terminal struct {
	p          *pair
	sock, home string
}

// inTerminal starts a program, until the test ends; files are made in its home folder first.
func (p *pair) inTerminal(files map[string]string, program string) *terminal {
	x := p.terminal(files)
	x.run(program)
	return x
}

// terminal is a terminal without a program yet. Files are made in the home folder of its programs.
func (p *pair) terminal(files map[string]string) *terminal {
	dir, err := os.MkdirTemp("", "tmux") // short: a socket's path is
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { os.RemoveAll(dir) })
	writeFiles(p.t, dir, files)
	return &terminal{p, filepath.Join(dir, "s"), dir}
}

// writeFiles makes files in a folder, by their paths in it.
func writeFiles(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// run starts a program, until it or the test ends.
func (x *terminal) run(program string) {
	x.p.t.Helper()
	x.tmux("new-session", "-d", "-s", "p", "-x", "140", "-y", "40", program)
	x.p.t.Cleanup(func() { exec.Command("tmux", "-S", x.sock, "kill-server").Run() })
}

// runs says whether the program has not ended.
func (x *terminal) runs() bool {
	return exec.Command("tmux", "-S", x.sock, "has-session", "-t", "p").Run() == nil
}

func (x *terminal) tmux(args ...string) string {
	x.p.t.Helper()
	cmd := exec.Command("tmux", append([]string{"-S", x.sock, "-f", "/dev/null"}, args...)...)
	cmd.Env = x.p.environment(x.home)
	out, err := cmd.CombinedOutput()
	if err != nil {
		x.p.t.Fatalf("tmux %v: %s", args, out)
	}
	return string(out)
}

// wait waits for a text on the screen.
func (x *terminal) wait(text string) {
	x.p.t.Helper()
	for end := time.Now().Add(waitTimeout); ; time.Sleep(100 * time.Millisecond) {
		s := x.screen()
		if strings.Contains(s, text) {
			return
		}
		if time.Now().After(end) {
			x.p.t.Fatalf("%q does not show on the screen:\n%s", text, s)
		}
	}
}

// screen is what is on the screen.
func (x *terminal) screen() string {
	x.p.t.Helper()
	return x.tmux("capture-pane", "-p", "-t", "p")
}

// say types a line.
func (x *terminal) say(text string) {
	x.p.t.Helper()
	x.tmux("send-keys", "-t", "p", "-l", text)
	x.tmux("send-keys", "-t", "p", "Enter")
}

// At a terminal: profanity.
func profanity(p *pair) {
	x := p.inTerminal(nil, "profanity")
	x.wait("Profanity")
	legacy := ""
	if p.how == "direct" {
		legacy = " tls legacy"
	}
	x.say("/connect " + p.romeo.address + " server localhost port " + p.port() + legacy)
	x.wait("password")
	x.say(p.romeo.password)
	x.wait("logged in successfully")
	x.say("/msg " + p.romeo.address + " hello from a terminal")
	x.wait("hello from a terminal")
	x.say("/win 1")
	x.say("/roster add " + p.juliet.address)
	x.say("/roster")
	x.wait(p.juliet.address)
	x.say("/disconnect")
	x.wait("logged out successfully")
}

// At a terminal: mcabber, which marks a contact that has written with #.
func mcabber(p *pair) {
	kind := "set tls = 1"
	if p.how == "direct" {
		kind = "set ssl = 1"
	}
	rc := "set jid = " + p.romeo.address + "\nset password = " + p.romeo.password +
		"\nset server = localhost\nset port = " +
		p.port() + "\n" + kind + "\nset ssl_ca = " + p.Certificate() + "\n"
	x := p.inTerminal(map[string]string{".mcabber/mcabberrc": rc}, "mcabber")
	x.wait("Your status has been set")
	x.say("/say_to -q " + p.romeo.address + " hello from a terminal")
	x.wait("#{o} romeo")
	x.say("/quit")
}
