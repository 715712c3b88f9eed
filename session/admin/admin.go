// Package admin is the control plane on a local socket: a command that is given to a running server is
// run there, by the same code that runs it on the data folder when no server does.
package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"
)

// A Command is what the command line said: its words behind the program's name, and standard input.
type Command struct {
	Args  []string `json:"args"`
	Stdin []byte   `json:"stdin,omitempty"`
}

// A Result is what it printed and its exit status.
type Result struct {
	Out    []byte `json:"out"`
	Err    []byte `json:"err"`
	Status int    `json:"status"`
}

// maxCommand bounds a request: an import of a million accounts fits.
const maxCommand = 256 << 20

// A Server is the socket of a running server.
type Server struct {
	ln  net.Listener
	srv *http.Server
}

// Listen opens the socket at path, which only its owner may use, and gives each command to run. A
// socket that a dead server left behind is replaced.
func Listen(path string, run func(ctx context.Context, c Command) Result) (*Server, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	if fi, err := os.Lstat(path); err == nil {
		if fi.Mode()&os.ModeSocket == 0 {
			return nil, fmt.Errorf("%s: not a socket: remove it, or name another with listen.admin", path)
		}
		if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
			c.Close()
			return nil, fmt.Errorf("%s: another server answers there", path)
		}
		os.Remove(path)
	}
	ln, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		ln.Close()
		return nil, err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /run", func(w http.ResponseWriter, r *http.Request) {
		var c Command
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxCommand)).Decode(&c); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(run(r.Context(), c))
	})
	s := &Server{ln, &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10}}
	go s.srv.Serve(ln)
	return s, nil
}

// Close ends it.
func (s *Server) Close() error { return s.srv.Close() }

// ErrNoServer: nobody answers at the socket.
var ErrNoServer = errors.New("no server answers")

// Call gives c to the server behind the socket at path.
func Call(path string, c Command) (Result, error) {
	if _, err := os.Stat(path); err != nil {
		return Result{}, ErrNoServer
	}
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}}}
	body, err := json.Marshal(c)
	if err != nil {
		return Result{}, err
	}
	resp, err := client.Post("http://admin/run", "application/json", bytes.NewReader(body))
	if err != nil {
		return Result{}, ErrNoServer
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		b, _ := io.ReadAll(io.LimitReader(resp.Body, 1024))
		return Result{}, fmt.Errorf("the server refused: %s", bytes.TrimSpace(b))
	}
	var r Result
	err = json.NewDecoder(resp.Body).Decode(&r)
	return r, err
}
