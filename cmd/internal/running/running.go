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

var binary string

// Main builds the program, runs m, and ends the process. For TestMain.
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

// A Server is a process with a folder of its own, started with --dev.
type Server struct {
	T                    testing.TB
	Dir                  string
	Cmd                  *exec.Cmd
	Err                  bytes.Buffer // what it logged; good once it has ended
	Plain, Direct, Debug string       // addresses: STARTTLS, TLS first, metrics
}

// Start runs one whose configuration is more, until the test ends. It needs root, the path of the
// module's folder, for the test's result to depend on the sources.
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

// depend reads the sources of the program, so that the result of a test is not taken from the cache
// when they have changed: the program is built beside the test, not into it.
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

func (s *Server) config() string { return filepath.Join(s.Dir, "canto.toml") }

// Data is the data folder.
func (s *Server) Data() string { return filepath.Join(s.Dir, "data") }

// Certificate is the file with the certificate of localhost.
func (s *Server) Certificate() string { return filepath.Join(s.Data(), "localhost.crt") }

// Serve starts the process, again after Stop, and waits until it is ready.
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

func (s *Server) command(args ...string) *exec.Cmd {
	return exec.Command(binary, append(args, "--config", s.config(), "--data", s.Data())...)
}

// Run runs a command beside the server, with stdin.
func (s *Server) Run(stdin string, args ...string) {
	s.T.Helper()
	cmd := s.command(args...)
	cmd.Stdin = strings.NewReader(stdin)
	if out, err := cmd.CombinedOutput(); err != nil {
		s.T.Fatalf("canto %v: %s", args, out)
	}
}

// Stop ends the process with a signal; a second call does nothing.
func (s *Server) Stop(sig syscall.Signal) {
	if s.Cmd.ProcessState == nil {
		s.Cmd.Process.Signal(sig)
		s.Cmd.Wait()
	}
}

func freePort(t testing.TB) string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}
