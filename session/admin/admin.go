// Package admin is the control plane on a local socket. A command that is given to a running server
// ([Call]) runs in it ([Listen]), with the same code that runs it on the data folder when there is
// no server. It is HTTP with one request, POST /run, on a Unix socket that only the owner of the
// server and root may use.
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

// A Command is what the operator gave: arguments and standard input.
type Command struct {
	Args  []string `json:"args"`            // the arguments after the program's name
	Stdin []byte   `json:"stdin,omitempty"` // all of standard input
}

// A Result is what a command has printed, and its exit status.
type Result struct {
	Out    []byte `json:"out"`    // standard output
	Err    []byte `json:"err"`    // standard error
	Status int    `json:"status"` // exit status
}

// maxCommand bounds a request in bytes: an import of a million accounts fits.
const maxCommand = 256 << 20

// maxPath is the longest path of a Unix socket in bytes: the size of sockaddr_un's path less the
// byte that ends it.
const maxPath = 107

// A Server is the socket of a running server.
type Server struct {
	ln  net.Listener
	srv *http.Server
}

// Listen opens the socket at path, which only its owner and root may use, and calls run for each
// command, on a goroutine for each. ctx ends when the client goes away or the Server is closed. A
// socket that a dead server has left is replaced; [ErrSocketInUse] says that a server answers
// there. A folder in which other users could put a socket is refused (attack K107).
func Listen(path string, run func(ctx context.Context, c Command) Result) (*Server, error) {
	return listen(path, maxCommand, run)
}

// listen is Listen with a bound on requests, in bytes:
//
//  1. Make the folder if it is missing, and refuse one that other users may write to or own.
//  2. Remove a socket at which no server answers.
//  3. Open the socket with mode 0600, and serve HTTP on it.
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
		// A sticky folder, as /tmp, is shared on purpose: chmod would be the wrong remedy.
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

// An ownerListener accepts only connections of the owner and of root, by the uid of the peer. It
// goes on after errors, as descriptors and memory that have run out come back; only a closed socket
// ends it.
type ownerListener struct{ net.Listener }

// maxAcceptBackoff is the longest pause after an error of Accept. The first pause is 5 ms, and each
// is twice as long.
const maxAcceptBackoff = time.Second

// Accept returns the next connection that is trusted.
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

// trusted reports whether user uid may do all that this process may: it is the same user, or root.
func trusted(uid int) bool { return uid == 0 || uid == os.Geteuid() }

// Close closes the socket and ends the contexts of commands that run.
func (s *Server) Close() error { return s.srv.Close() }

// ErrSocketInUse is returned by Listen if another server answers at the socket.
var ErrSocketInUse = errors.New("another server answers there")

// ErrNoServer is returned by Call if no server answers at the socket.
var ErrNoServer = errors.New("no server answers")

// Call gives c to the server at the socket path and returns the result. It waits until the command
// is done. With [ErrNoServer] no server has received c; with another error a server may have run
// it.
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
