package servers

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func fakeConfig(t *testing.T, mode string) Config {
	t.Setenv(fakeMode, mode)
	t.Setenv("GORACE", "atexit_sleep_ms=0") // else each process takes a second to end under -race
	return Config{Kind: "canto", Program: os.Args[0], Dir: filepath.Join(t.TempDir(), "server"),
		Accounts: Accounts{N: 3}}
}

func TestStartAndStop(t *testing.T) {
	var log lockedBuffer
	cfg := fakeConfig(t, "ok")
	cfg.Name, cfg.Log = "canto (new)", &log
	s, err := Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Stop(t.Context())
	if s.Name != "canto (new)" || s.Kind != "canto" || s.Software != "Canto" || s.Version != "9.9" ||
		s.Domain != "localhost" || s.Rooms != "" {
		t.Errorf("%q %q %q %q %q %q", s.Name, s.Kind, s.Software, s.Version, s.Domain, s.Rooms)
	}
	if len(s.PIDs) != 1 || !running(s.PIDs[0]) || !strings.HasSuffix(s.Metrics, "/metrics") ||
		!strings.HasSuffix(s.Profiles, "/debug/pprof/") {
		t.Errorf("%v %q %q", s.PIDs, s.Metrics, s.Profiles)
	}
	if text, err := os.ReadFile(filepath.Join(cfg.Dir, "canto.toml")); err != nil || string(text) != s.Config {
		t.Errorf("the configuration is not what is told: %v", err)
	}
	if lines, _ := os.ReadFile(filepath.Join(cfg.Dir,
		"imported")); string(lines) != "bench0@localhost\tbench\nbench1@localhost\tbench\n"+
		"bench2@localhost\tbench\n" {
		t.Errorf("imported: %q", lines)
	}
	if err := s.Alive(); err != nil {
		t.Error(err)
	}
	for range 2 {
		if err := s.Stop(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if running(s.PIDs[0]) {
		t.Error("it runs still")
	}
	if err := s.Alive(); err == nil || !strings.Contains(err.Error(), "canto (new) has ended: exit status 0") {
		t.Errorf("ended: %v", err)
	}
	if !strings.Contains(log.String(), "canto: ready") {
		t.Errorf("log: %q", log.String())
	}
}

func TestStopKills(t *testing.T) {
	s, err := Start(t.Context(), fakeConfig(t, "deaf"))
	if err != nil {
		t.Fatal(err)
	}
	if len(s.PIDs) != 2 {
		t.Errorf("processes %v, not one and its child", s.PIDs)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := s.Stop(ctx); err == nil || !strings.Contains(err.Error(), "was killed") {
		t.Errorf("a deaf server: %v", err)
	}
	for _, pid := range s.PIDs {
		if running(pid) {
			t.Errorf("process %d is left", pid)
		}
	}
}

// A restart stops the process, and starts another one with the same ports. After an error nothing runs.
func TestRestart(t *testing.T) {
	s, err := Start(t.Context(), fakeConfig(t, "ok"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Stop(t.Context())
	old, plain := s.PIDs[0], s.Plain
	pids, err := s.Restart(t.Context())
	if err != nil || len(pids) == 0 || pids[0] == old || running(old) || !running(pids[0]) || s.Plain != plain {
		t.Fatalf("process %v, then %v: %v", old, pids, err)
	}
	if err := s.Alive(); err != nil {
		t.Error(err)
	}
	if err := s.checkPorts(t.Context()); err != nil {
		t.Error(err)
	}
	if err := s.Stop(t.Context()); err != nil || running(pids[0]) || s.Alive() == nil {
		t.Errorf("it did not stop: %v", err)
	}
	s.command.args = []string{"version"} // ends at once
	if _, err := s.Restart(t.Context()); err == nil || s.Alive() == nil {
		t.Errorf("a server that ends instead of starting: %v", err)
	}
	if _, err := External("x", "localhost", plain, plain, nil).Restart(t.Context()); err == nil {
		t.Error("a server was restarted that was not started here")
	}
}

func TestStartAgainWhenAPortIsTaken(t *testing.T) {
	s, err := Start(t.Context(), fakeConfig(t, "taken once"))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Stop(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestFolderUsedAgain(t *testing.T) {
	cfg := fakeConfig(t, "ok")
	start := func() error {
		s, err := Start(t.Context(), cfg)
		if err == nil {
			err = s.Stop(t.Context())
		}
		return err
	}
	if err := start(); err != nil {
		t.Fatal(err)
	}
	imported := filepath.Join(cfg.Dir, "imported")
	if err := os.Remove(imported); err != nil {
		t.Fatal(err)
	}
	if err := start(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(imported); err == nil {
		t.Error("accounts were added twice")
	}
	cfg.Accounts.Password = "other"
	if err := start(); err == nil || !strings.Contains(err.Error(), "name another folder") {
		t.Errorf("other accounts in the folder: %v", err)
	}
}

// What was prepared, and carried elsewhere, is started without adding accounts.
func TestPrepare(t *testing.T) {
	cfg := fakeConfig(t, "ok")
	if err := Prepare(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(cfg.Dir, "imported")); err != nil {
		t.Fatalf("no accounts were added: %v", err)
	}
	elsewhere := filepath.Join(t.TempDir(), "server")
	if err := os.Rename(cfg.Dir, elsewhere); err != nil {
		t.Fatal(err)
	}
	cfg.Dir = elsewhere
	s, err := Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(elsewhere, "imported")); err == nil {
		t.Error("accounts were added twice")
	}
	cfg.Program = filepath.Join(t.TempDir(), "none")
	if err := Prepare(t.Context(), cfg); err == nil || !strings.HasPrefix(err.Error(), "canto: ") {
		t.Errorf("without a program: %v", err)
	}
}

func TestStartErrors(t *testing.T) {
	change := func(f func(c *Config)) func(c *Config) { return f }
	for _, tt := range []struct {
		name, mode string
		change     func(c *Config)
		want       []string
	}{
		{"ends", "dies", nil, []string{"canto: it ended instead of starting: exit status 3; it printed " +
			"last: first line | the disk is   full"}},
		{"another server", "another", nil, []string{"another server answers"}},
		{"unknown kind", "ok", change(func(c *Config) { c.Kind = "jabberd" }),
			[]string{`no server "jabberd"`, "canto, prosody, ejabberd"}},
		{"unknown option", "ok", change(func(c *Config) { c.Options = map[string]string{"rooms": "on"} }),
			[]string{`no option "rooms"`, "archive, carbons, memory, modules, push, rate, register"}},
		{"bad option", "ok", change(func(c *Config) { c.Options = map[string]string{"register": "yes"} }),
			[]string{`register can't be "yes"`, "off, on"}},
		{"no program", "ok", change(func(c *Config) { c.Program = "" }), []string{"go build canto/cmd/canto"}},
		{"missing program", "ok", change(func(c *Config) { c.Program = "/nowhere/canto" }),
			[]string{"/nowhere/canto", "go build -o"}},
		{"not a program", "ok", change(func(c *Config) { c.Program = "/bin/false" }),
			[]string{"/bin/false", "go build"}},
		{"no folder", "ok", change(func(c *Config) { c.Dir = "" }), []string{"set Dir"}},
		{"bad domain", "ok", change(func(c *Config) { c.Domain = `a"b` }), []string{"small letters"}},
		{"bad prefix", "ok", change(func(c *Config) { c.Accounts.Prefix = "a b" }),
			[]string{"small letters and digits"}},
		{"no prosody", "ok", change(func(c *Config) { c.Kind, c.Program = "prosody", "no-such-prosody" }),
			[]string{"prosody: no-such-prosody is not installed: apt install prosody"}},
		{"no ejabberd", "ok", change(func(c *Config) { c.Kind, c.Program = "ejabberd", "no-such-ctl" }),
			[]string{"ejabberd: no-such-ctl is not installed: apt install ejabberd"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := fakeConfig(t, tt.mode)
			if tt.change != nil {
				tt.change(&cfg)
			}
			s, err := Start(t.Context(), cfg)
			if err == nil {
				s.Stop(t.Context())
				t.Fatal("it started")
			}
			for _, w := range tt.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("%v\nlacks %q", err, w)
				}
			}
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("not one line: %q", err)
			}
		})
	}
}

func TestStartHasAnEnd(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	s, err := Start(ctx, fakeConfig(t, "silent"))
	if err == nil {
		s.Stop(t.Context())
	}
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a server that never is ready: %v", err)
	}
}

func TestFreePorts(t *testing.T) {
	ports, err := freePorts(8)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[uint16]bool{}
	for _, p := range ports {
		if seen[p] {
			t.Errorf("%d twice", p)
		}
		seen[p] = true
		l, err := net.Listen("tcp", loopback(p).String())
		if err != nil {
			t.Error(err)
			continue
		}
		l.Close()
	}
}

func TestExternal(t *testing.T) {
	a := netip.MustParseAddrPort("192.0.2.1:5222")
	s := External("theirs", "example.org", a, netip.AddrPort{}, nil)
	if s.Plain != a || s.Alive() != nil || s.Stop(t.Context()) != nil || !s.TLS().InsecureSkipVerify ||
		s.TLS().ServerName != "example.org" {
		t.Errorf("%+v", s)
	}
	if s = External("theirs", "example.org", a, a, []byte("x")); s.TLS().InsecureSkipVerify {
		t.Error("with a CA nothing is checked")
	}
}

func TestTail(t *testing.T) {
	var out bytes.Buffer
	l := &outputTail{out: &out}
	ready := l.watch("ready")
	for _, s := range []string{"o", "ne\n\ntw", "o\nnot ready\n", "3\n4\n5\n", "no end"} {
		l.Write([]byte(s))
	}
	if got := l.lastOutput(); got != "; it printed last: two | not ready | 3 | 4 | 5" {
		t.Errorf("%q", got)
	}
	select {
	case <-ready:
		t.Error("ready too early")
	default:
	}
	l.Write([]byte("\nready now\n" + strings.Repeat("x", 5000) + "\n"))
	<-ready
	if n := len(l.lastOutput()); n > 1000 {
		t.Errorf("%d bytes of a long line", n)
	}
	if l.portTaken() {
		t.Error("taken without a word")
	}
	l.Write([]byte("Address already in use\n"))
	if !l.portTaken() {
		t.Error("not taken")
	}
	if !strings.HasPrefix(out.String(), "one\n\ntwo\n") || out.Len() < 5000 {
		t.Errorf("passed on: %d bytes", out.Len())
	}
}
