package admin

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

func echo(_ context.Context, c Command) Result {
	return Result{Out: []byte(strings.Join(c.Args, " ")), Err: c.Stdin, Status: len(c.Args)}
}

func serve(t *testing.T, path string, most int64, run func(context.Context, Command) Result) *Server {
	t.Helper()
	s, err := listen(path, most, run)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestCall(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a", "sock")
	if _, err := Call(path, Command{}); err != ErrNoServer {
		t.Errorf("without a folder: %v", err)
	}
	s := serve(t, path, maxCommand, echo)
	r, err := Call(path, Command{Args: []string{"user", "list"}, Stdin: []byte("x\x00\xff")})
	if err != nil || string(r.Out) != "user list" || string(r.Err) != "x\x00\xff" || r.Status != 2 {
		t.Errorf("%+v %v", r, err)
	}
	if _, err := Listen(path, echo); !errors.Is(err, ErrSocketInUse) {
		t.Errorf("a second one: %v", err)
	}
	s.Close()
	if _, err := Call(path, Command{}); err != ErrNoServer {
		t.Errorf("after its end: %v", err)
	}
}

// The socket and its folder belong to the user of the server; anything else is refused.
func TestAttackK107(t *testing.T) {
	for _, c := range []struct {
		name  string
		set   func(dir string) // makes what stands at dir/a/sock
		words string           // of the refusal; none: it is taken
	}{
		{"nothing there", func(string) {}, ""},
		{"an empty folder", func(d string) { os.Mkdir(d+"/a", 0o700) }, ""},
		{"a folder that others may read", func(d string) { os.Mkdir(d+"/a", 0o755) }, ""},
		{"a folder that others may write", func(d string) {
			os.Mkdir(d+"/a", 0)
			os.Chmod(d+"/a", 0o777)
		}, "/a: others may write there: chmod 700"},
		{"a sticky folder", func(d string) {
			os.Mkdir(d+"/a", 0)
			os.Chmod(d+"/a", os.ModeSticky|0o777)
		}, "/a: others may write there: name another place with listen.admin"},
		{"a folder that a group may write", func(d string) {
			os.Mkdir(d+"/a", 0)
			os.Chmod(d+"/a", 0o770)
		}, "/a: others may write there: chmod 700"},
		{"a link to a folder that others may write", func(d string) {
			os.Mkdir(d+"/b", 0)
			os.Chmod(d+"/b", 0o777)
			os.Symlink(d+"/b", d+"/a")
		}, "/a: others may write there: chmod 700"},
		{"a file", func(d string) {
			os.Mkdir(d+"/a", 0o700)
			os.WriteFile(d+"/a/sock", nil, 0o600)
		}, "/a/sock: not a socket: remove it"},
		{"a link to a file", func(d string) {
			os.Mkdir(d+"/a", 0o700)
			os.WriteFile(d+"/victim", nil, 0o600)
			os.Symlink(d+"/victim", d+"/a/sock")
		}, "/a/sock: not a socket: remove it"},
		{"a link to nothing", func(d string) {
			os.Mkdir(d+"/a", 0o700)
			os.Symlink(d+"/victim", d+"/a/sock")
		}, "/a/sock: not a socket: remove it"},
		{"a dead server's", func(d string) {
			os.Mkdir(d+"/a", 0o700)
			ln, _ := net.Listen("unix", d+"/a/sock")
			ln.(*net.UnixListener).SetUnlinkOnClose(false)
			ln.Close()
		}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			c.set(dir)
			path := dir + "/a/sock"
			s, err := Listen(path, echo)
			if c.words != "" {
				if err == nil || !strings.Contains(err.Error(), c.words) || strings.Contains(err.Error(), "\n") {
					t.Errorf("%v; want %s", err, c.words)
				}
				if _, err := os.Stat(dir + "/victim"); err == nil != (c.name == "a link to a file") {
					t.Errorf("what the link is to: %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			if fi, err := os.Lstat(path); err != nil || fi.Mode() != os.ModeSocket|0o600 {
				t.Errorf("the socket: %v %v", fi.Mode(), err)
			}
			if fi, err := os.Stat(dir + "/a"); c.name == "nothing there" &&
				(err != nil || fi.Mode() != os.ModeDir|0o700) {
				t.Errorf("its folder: %v %v", fi.Mode(), err)
			}
			if r, err := Call(path, Command{Args: []string{"x"}}); err != nil || string(r.Out) != "x" {
				t.Errorf("%v %v", r, err)
			}
		})
	}
	t.Run("a long path", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), strings.Repeat("x", 100))
		if _, err := Listen(path, echo); err == nil ||
			!strings.Contains(err.Error(), "name another with listen.admin") {
			t.Error(err)
		}
	})
	t.Run("huge", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "sock")
		ran := false
		serve(t, path, 64<<10, func(context.Context, Command) Result { ran = true; return Result{} })
		_, err := Call(path, Command{Stdin: make([]byte, 1<<20)})
		if err == nil || errors.Is(err, ErrNoServer) || ran {
			t.Errorf("a huge command: %v, carried out: %v", err, ran)
		}
		c := &http.Client{Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn,
			error) {
			return net.Dial("unix", path)
		}}}
		for _, bad := range []string{"", "{", "[]", "{\"args\":5}", strings.Repeat("[", 60<<10)} {
			resp, err := c.Post("http://admin/run", "application/json", strings.NewReader(bad))
			if err != nil {
				t.Errorf("%.20q: %v", bad, err)
				continue
			}
			if io.Copy(io.Discard, resp.Body); resp.StatusCode != http.StatusBadRequest || ran {
				t.Errorf("%.20q: status %d, carried out: %v", bad, resp.StatusCode, ran)
			}
			resp.Body.Close()
		}
		req, _ := http.NewRequest("POST", "http://admin/run", strings.NewReader("{}"))
		req.Header.Set("X", strings.Repeat("x", 64<<10))
		if resp, err := c.Do(req); err == nil && resp.StatusCode != http.StatusRequestHeaderFieldsTooLarge || ran {
			t.Errorf("a huge header: %v %v, carried out: %v", resp, err, ran)
		}
		if _, err := Call(path, Command{}); err != nil || !ran {
			t.Errorf("afterwards: %v, carried out: %v", err, ran)
		}
	})
	t.Run("stopped at work", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "sock")
		began := make(chan struct{})
		ended := make(chan struct{})
		s := serve(t, path, maxCommand, func(ctx context.Context, _ Command) Result {
			close(began)
			<-ctx.Done()
			close(ended)
			return Result{}
		})
		go func() {
			<-began
			var both sync.WaitGroup
			both.Go(func() { s.Close() })
			both.Go(func() { s.Close() })
			both.Wait()
		}()
		_, err := Call(path, Command{})
		if err == nil || errors.Is(err, ErrNoServer) { // else it would be carried out a second time
			t.Errorf("the server was stopped: %v", err)
		}
		<-ended
	})
	t.Run("another user", func(t *testing.T) {
		if !trusted(0) || !trusted(os.Geteuid()) || trusted(os.Geteuid()+1) {
			t.Error("it trusts other users than root and its own")
		}
		dir := t.TempDir()
		path := filepath.Join(dir, "sock")
		var out bytes.Buffer
		serve(t, path, maxCommand, func(context.Context, Command) Result {
			fmt.Fprint(&out, "ran")
			return Result{}
		})
		// as if modes had failed
		for p, mode := range map[string]os.FileMode{filepath.Dir(dir): 0o755, dir: 0o755, path: 0o666} {
			if err := os.Chmod(p, mode); err != nil {
				t.Fatal(err)
			}
		}
		got, isOther := asOtherUser(path, "POST /run HTTP/1.1\r\nHost: admin\r\nContent-Length: "+
			"2\r\nConnection: close\r\n\r\n{}")
		if isOther && (got != "" || out.Len() > 0) {
			t.Errorf("another user is answered: %q %q", got, &out)
		}
		if !isOther && !strings.Contains(got, "200 OK") {
			t.Errorf("the owner is not answered: %q", got)
		}
	})
}
