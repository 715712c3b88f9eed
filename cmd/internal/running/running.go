// Package running starts the canto program as a process of its own, for tests that look at it from
// outside.
package running

import (
	"bufio"
	"bytes"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// binary is the path of the program that Main has built.
var binary string

// Main builds the program, runs the tests of m, and ends the process. A TestMain calls it.
func Main(m *testing.M) {
	dir, err := os.MkdirTemp("", "canto")
	if err != nil {
		panic(err)
	}
	binary = filepath.Join(dir, "canto")
	if out, err := exec.Command("go", append(append([]string{"build"}, build...), "-o", binary,
		"canto/cmd/canto")...).CombinedOutput(); err != nil {
		panic(string(out))
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// A Server is a process of canto serve --dev with a folder of its own.
type Server struct {
	T      testing.TB   // the test that has started it
	Dir    string       // its folder: configuration and data
	Cmd    *exec.Cmd    // the process
	Err    bytes.Buffer // its log; may be read once the process has ended
	Plain  string       // address of the port with STARTTLS
	Direct string       // address of the port with direct TLS
	Debug  string       // address of the metrics
}

// Start starts a server with the lines more in its configuration. It runs until the test ends. root
// is the path of the module's folder; reading the sources makes the result of the test depend on
// them.
func Start(t testing.TB, root, more string) *Server {
	t.Helper()
	depend(t, root)
	s := &Server{T: t, Dir: t.TempDir(), Plain: freePort(t), Direct: freePort(t), Debug: freePort(t)}
	text := fmt.Sprintf("[listen]\nc2s = ['%s']\nc2s_tls = ['%s']\ndebug = ['%s']\nhttp = []\nhttps = []\n%s",
		s.Plain, s.Direct, s.Debug, more)
	if err := os.WriteFile(s.config(), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	s.Serve()
	t.Cleanup(func() { s.Stop(syscall.SIGTERM) })
	return s
}

// depend reads the sources of the program. The program is built beside the test, not into it, so
// without that go test would take a result from its cache although the sources have changed.
func depend(t testing.TB, root string) {
	for _, dir := range []string{"xmlstream", "reactor", "session", "cmd/canto"} {
		err := filepath.WalkDir(filepath.Join(root, dir), func(path string, d fs.DirEntry, err error) error {
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

// config is the configuration's file.
func (s *Server) config() string { return filepath.Join(s.Dir, "canto.toml") }

// Data returns the data folder.
func (s *Server) Data() string { return filepath.Join(s.Dir, "data") }

// Certificate returns the file with the certificate of localhost.
func (s *Server) Certificate() string { return filepath.Join(s.Data(), "localhost.crt") }

// Serve starts the process and waits until it is ready. After Stop it may be called again.
func (s *Server) Serve() {
	s.T.Helper()
	s.Err.Reset()
	s.Cmd = s.command("serve", "--dev")
	out, err := s.Cmd.StdoutPipe()
	if err != nil {
		s.T.Fatal(err)
	}
	s.Cmd.Stderr = &s.Err
	if err := s.Cmd.Start(); err != nil {
		s.T.Fatal(err)
	}
	sc := bufio.NewScanner(out)
	for sc.Scan() {
		if strings.HasPrefix(sc.Text(), "canto: ready") {
			return
		}
	}
	s.Cmd.Wait()
	s.T.Fatalf("the server did not start: %s", &s.Err)
}

// command returns the program with the configuration and data folder of s.
func (s *Server) command(args ...string) *exec.Cmd {
	return exec.Command(binary, append(args, "--config", s.config(), "--data", s.Data())...)
}

// Run runs another command of the program while the server runs, with stdin. A failure ends the
// test.
func (s *Server) Run(stdin string, args ...string) {
	s.T.Helper()
	cmd := s.command(args...)
	cmd.Stdin = strings.NewReader(stdin)
	if out, err := cmd.CombinedOutput(); err != nil {
		s.T.Fatalf("canto %v: %s", args, out)
	}
}

// Output runs another command of the program while the server runs, and returns what it prints. A failure
// ends the test.
func (s *Server) Output(args ...string) string {
	s.T.Helper()
	out, err := s.command(args...).Output()
	if err != nil {
		s.T.Fatalf("canto %v: %v: %s", args, err, out)
	}
	return string(out)
}

// Stop ends the process with a signal and waits for it. A second call does nothing.
func (s *Server) Stop(sig syscall.Signal) {
	if s.Cmd.ProcessState == nil {
		s.Cmd.Process.Signal(sig)
		s.Cmd.Wait()
	}
}

// freePort returns an address on which nothing listens at present.
func freePort(t testing.TB) string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}
