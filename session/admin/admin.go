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
	"log"
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

// maxPath is the longest path of a socket: what sockaddr_un holds, less the byte that ends it.
const maxPath = 107

// A Server is the socket of a running server.
type Server struct {
	ln  net.Listener
	srv *http.Server
}

// Listen opens the socket at path, which only its owner and root may use, and gives each command to
// run. A socket that a dead server left behind is replaced. A folder where others could put a socket
// of theirs is refused (attack K107).
func Listen(path string, run func(ctx context.Context, c Command) Result) (*Server, error) {
	return listen(path, maxCommand, run)
}

func listen(path string, most int64, run func(ctx context.Context, c Command) Result) (*Server, error) {
	if len(path) > maxPath {
		return nil, fmt.Errorf("%s: longer than the %d bytes of a socket's path: name another with listen.admin",
			path, maxPath)
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("%w: name a place where this user may make a socket with listen.admin", err)
	}
	if fi, err := os.Stat(dir); err != nil {
		return nil, err
	} else if fi.Mode().Perm()&0o022 != 0 && (fi.Mode()&os.ModeSticky != 0 || ownerUID(fi) != os.Geteuid()) {
		// it is shared on purpose
		return nil, fmt.Errorf("%s: others may write there: name another place with listen.admin", dir)
	} else if fi.Mode().Perm()&0o022 != 0 {
		return nil, fmt.Errorf("%s: others may write there: chmod 700 %s, or name another place with "+
			"listen.admin", dir, dir)
	} else if uid := ownerUID(fi); !trusted(uid) {
		return nil, fmt.Errorf("%s: the folder of user %d: chown it, or name another place with listen.admin",
			dir, uid)
	}
	if fi, err := os.Lstat(path); err == nil {
		if fi.Mode()&os.ModeSocket == 0 {
			return nil, fmt.Errorf("%s: not a socket: remove it, or name another with listen.admin", path)
		}
		if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
			c.Close()
			return nil, fmt.Errorf("%s: %w: stop it, or name another place with listen.admin", path, ErrSocketInUse)
		}
		os.Remove(path)
	}
	ln, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("%w: name a place where this user may make a socket with listen.admin", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		ln.Close()
		return nil, err
	}
	ln = &ownerListener{ln}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /run", func(w http.ResponseWriter, r *http.Request) {
		var c Command
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, most)).Decode(&c); err != nil {
			status := http.StatusBadRequest
			if big := new(http.MaxBytesError); errors.As(err, &big) {
				status = http.StatusRequestEntityTooLarge
			}
			http.Error(w, err.Error(), status)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(run(r.Context(), c))
	})
	s := &Server{ln, &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute,
		MaxHeaderBytes: 16 << 10, ErrorLog: log.New(io.Discard, "", 0)}}
	go s.srv.Serve(ln)
	return s, nil
}

// ownerListener gives only connections of the owner and of root. No error but that of a closed socket
// ends it: descriptors and memory that ran out come back.
type ownerListener struct{ net.Listener }

// maxAcceptBackoff is how long it waits at most after an error, having begun with 5 ms.
const maxAcceptBackoff = time.Second

func (l *ownerListener) Accept() (net.Conn, error) {
	for pause := 5 * time.Millisecond; ; {
		c, err := l.Listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil, err
		}
		if err != nil {
			time.Sleep(pause)
			pause = min(2*pause, maxAcceptBackoff)
			continue
		}
		if uid, err := peerUID(c); err == nil && trusted(uid) {
			return c, nil
		}
		c.Close()
	}
}

// trusted reports whether user uid may do all that this process may.
func trusted(uid int) bool { return uid == 0 || uid == os.Geteuid() }

// Close ends it; the context of a command that is being carried out ends, too.
func (s *Server) Close() error { return s.srv.Close() }

// ErrSocketInUse: the socket is another server's.
var ErrSocketInUse = errors.New("another server answers there")

// ErrNoServer: nobody answers at the socket.
var ErrNoServer = errors.New("no server answers")

// Call gives c to the server behind the socket at path. [ErrNoServer] is returned only if c was not
// given to one.
func Call(path string, c Command) (Result, error) {
	if _, err := os.Stat(path); err != nil {
		return Result{}, ErrNoServer
	}
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _,
		_ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}}}
	body, err := json.Marshal(c)
	if err != nil {
		return Result{}, err
	}
	resp, err := client.Post("http://admin/run", "application/json", bytes.NewReader(body))
	if op := new(net.OpError); errors.As(err, &op) && op.Op == "dial" {
		if errors.Is(err, os.ErrPermission) { // a server may listen there
			return Result{}, fmt.Errorf("%s: %w", path, os.ErrPermission)
		}
		return Result{}, ErrNoServer
	}
	if err != nil {
		return Result{}, fmt.Errorf("the server ended or refused while it was asked, and may have done it or "+
			"not: %w", errors.Unwrap(err))
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
