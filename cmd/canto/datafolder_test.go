package main

import (
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// unprivileged makes the site's processes run as a user without rights that owns its files. If the test
// is not run by root it changes nothing.
func (s *site) unprivileged() {
	s.t.Helper()
	s.program, s.attr = s.path("canto-test"), &syscall.SysProcAttr{}
	if os.Geteuid() == 0 {
		s.attr.Credential = &syscall.Credential{Uid: 65534, Gid: 65534}
		if err := os.Chmod(s.dir, 0o755); err != nil {
			s.t.Fatal(err)
		}
		if err := filepath.Walk(s.dir, func(p string, _ os.FileInfo, err error) error {
			if err != nil || p == s.dir {
				return err
			}
			return os.Lchown(p, 65534, 65534)
		}); err != nil {
			s.t.Fatal(err)
		}
	}
	if err := os.Link(os.Args[0], s.program); err != nil { // the folder that go test builds in may be closed
		copyFile(s.t, os.Args[0], s.program)
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(out, in); err != nil {
		t.Fatal(err)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
}

// A data folder that the server's user may not write to, for each cause: one line with path, cause and
// remedy, and exit status 1 at once. It is not called locked.
func TestServeFolderNotWritable(t *testing.T) {
	t.Parallel()
	chmod := func(mode os.FileMode, glob string) func(s *site) {
		return func(s *site) {
			list, err := filepath.Glob(s.path(glob))
			if err != nil || len(list) == 0 {
				s.t.Fatal(glob, err)
			}
			for _, p := range list {
				if err := os.Chmod(p, mode); err != nil {
					s.t.Fatal(err)
				}
			}
		}
	}
	for _, c := range []struct {
		name  string
		spoil func(s *site)
		want  string
	}{
		{"folder", chmod(0o500, "data"), `data/.*permission denied.*chown`},
		{"folder that can't be searched", chmod(0o600, "data"), `data.*permission denied.*chown`},
		{"lock", chmod(0o400, "data/LOCK"), `data/LOCK.*permission denied.*chown`},
		{"manifest", chmod(0, "data/MANIFEST-*"), `data/MANIFEST.*permission denied.*chown`},
		{"log", chmod(0, "data/*.log"), `data/.*permission denied.*chown`},
		{"a file", func(s *site) {
			if err := os.RemoveAll(s.data()); err != nil {
				s.t.Fatal(err)
			}
			s.write("data", "text")
		}, `data.*not a directory.*a file stands where a folder must be`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, "example.org")
			s.ok("user", "add", "romeo@example.org", "--password", "x")
			s.unprivileged()
			c.spoil(s)
			for _, command := range []string{"serve", "user add juliet@example.org --password x"} {
				refused(t, finish(t, s.command(strings.Fields(command)...), ""), exitFailed, c.want, command)
			}
		})
	}
}

// A folder that loses its right to be written to while the server runs: the server ends in order, with
// one line of cause and remedy and exit status 1, as soon as Pebble wants another file.
func TestServeFolderLosesPermission(t *testing.T) {
	t.Parallel()
	s := newSite(t, "example.org")
	if err := os.Mkdir(s.data(), 0o700); err != nil {
		t.Fatal(err)
	}
	s.unprivileged()
	p := s.serve()
	if err := os.Chmod(s.data(), 0o500); err != nil {
		t.Fatal(err)
	}
	for i := 0; ; i++ { // until the first log file is full
		text := strings.ReplaceAll(manyLines(20_000), "user", "user"+strconv.Itoa(i)+"-")
		if r := s.canto(text, "user", "import", "--shared-salt", "-"); r.status != 0 {
			// The server may have ended before it could answer.
			if r.status != exitFailed || strings.Count(r.err, "\n") != 1 {
				t.Errorf("the import: %+v", r)
			}
			break
		}
	}
	if status := p.wait(); status != exitFailed {
		t.Errorf("status %d, want %d", status, exitFailed)
	}
	if log := p.log.String(); !strings.Contains(log, "chown") || strings.Contains(log, "goroutine ") {
		t.Errorf("standard error: %.3000s", log)
	}
}

// A command on the folder of another user says so: it neither says that no server runs, nor advises to chown
// the folder of a live server. Files that root makes there belong to that user.
func TestFolderOfAnotherUser(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Log("only root can make a folder another's: nothing is tested")
		return
	}
	s := newSite(t, "example.org")
	if err := os.Mkdir(s.data(), 0o700); err != nil {
		t.Fatal(err)
	}
	s.unprivileged()
	p := s.serve()
	s.attr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65533, Gid: 65533}}
	s.write("canto.toml", listen)
	if err := os.Chmod(s.path("canto.toml"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, mode := range []os.FileMode{0o700, 0o711} {
		if err := os.Chmod(s.data(), mode); err != nil {
			t.Fatal(err)
		}
		for _, command := range []string{"reload", "bytes", "user list",
			"user add romeo@example.org --password x", "host list"} {
			refused(t, finish(t, s.command(strings.Fields(command)...), ""), exitFailed,
				`permission denied: the folder is user 65534's: run this as that user or as root`, command)
		}
	}
	p.signal(syscall.SIGTERM)
	p.wait()
	s.ok("user", "add", "juliet@example.org", "--password", "x") // as root
	list, err := os.ReadDir(s.data())
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range list {
		if fi, err := f.Info(); err != nil || fi.Sys().(*syscall.Stat_t).Uid != 65534 {
			t.Errorf("%s is not the owner's any more", f.Name())
		}
	}
	// A folder that can't be made: it is the parent that must be writable.
	cmd := s.command("host", "add", "example.net")
	cmd.Args[len(cmd.Args)-1] = "closed/data"
	if err := os.Mkdir(s.path("closed"), 0o755); err != nil {
		t.Fatal(err)
	}
	refused(t, finish(t, cmd, ""), exitFailed,
		`closed/data: permission denied: user 65533 must have the right to write where`, "host add")
}
