package offline_test

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"canto/session/mod"
	"canto/session/sessiontest"
)

// firstVersion returns a file system with a store that the version of the server before archives has written.
// In it four messages wait for juliet, and one for nurse: testdata/store-version-1.tar.gz. The messages came
// 90 seconds after each other, from a client whose stream has the language it.
func firstVersion(t *testing.T) *vfs.MemFS {
	t.Helper()
	f, err := os.Open("testdata/store-version-1.tar.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	fs := vfs.NewCrashableMem()
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.FileInfo().IsDir() {
			if err := fs.MkdirAll(path.Clean(h.Name), 0o755); err != nil {
				t.Fatal(err)
			}
			continue
		}
		w, err := fs.Create(path.Clean(h.Name), vfs.WriteCategoryUnspecified)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(w, r); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(w.Sync(), w.Close()); err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{"data", ""} {
		d, err := fs.OpenDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(d.Sync(), d.Close()); err != nil {
			t.Fatal(err)
		}
	}
	return fs
}

// moved are the messages that wait for juliet in the store of the first version, as a client gets them,
// without their ids.
var moved = []string{
	"<body>one</body><delay xmlns='urn:xmpp:delay' from='localhost' stamp='2026-01-01T00:00:00Z'/></message>",
	"<body>two &amp; more</body><no-permanent-store xmlns='urn:xmpp:hints'/>" +
		"<delay xmlns='urn:xmpp:delay' from='localhost' stamp='2026-01-01T00:01:30Z'/></message>",
	"<subject>three</subject><delay xmlns='urn:xmpp:delay' from='example.net' stamp='2020-01-01T00:00:00Z'>" +
		"theirs</delay><delay xmlns='urn:xmpp:delay' from='localhost' stamp='2026-01-01T00:03:00Z'/></message>",
	"<received xmlns='urn:xmpp:receipts' id='9'/><delay xmlns='urn:xmpp:delay' from='localhost' " +
		"stamp='2026-01-01T00:04:30Z'/></message>",
}

// checkMoved checks that juliet gets the messages of the first version once, in their order, and that her
// archive has those that may be archived.
func checkMoved(t *testing.T, s *sessiontest.Server) {
	t.Helper()
	juliet := s.Login("juliet", "juliet@localhost/balcony")
	juliet.Send("<iq type='set' id='q'><query xmlns='urn:xmpp:mam:2'/></iq>")
	s.Settle()
	page := juliet.Received()
	for text, want := range map[string]int{"<result ": 3, "<body>one</body>": 1, "two &amp; more": 0,
		"<subject>three</subject>": 1, "stamp='2026-01-01T00:03:00.000Z'": 1, "<count>3</count>": 1,
		"<stanza-id": 0, "from='localhost'": 0, "xml:lang='it'": 3} {
		if n := strings.Count(page, text); n != want {
			t.Errorf("the archive has %q %d times, want %d: %s", text, n, want, page)
		}
	}
	juliet.Send("<presence/>")
	s.Settle()
	var got []string
	for _, m := range juliet.Stanzas() {
		if strings.HasPrefix(m, "<message") {
			got = append(got, m)
		}
	}
	if len(got) != len(moved) {
		t.Fatalf("%d messages: %q", len(got), got)
	}
	for i, m := range got {
		if i == 1 != !strings.Contains(m, "<stanza-id ") {
			t.Errorf("message %d has an id of the archive, or has none: %s", i, m)
		}
		if !strings.HasSuffix(withoutID(m), moved[i]) {
			t.Errorf("message %d is %s, and should end in %s", i, m, moved[i])
		}
	}
	juliet.DropConn()
	s.Settle()
	again := s.Login("again", "juliet@localhost/garden")
	again.Send("<presence/>")
	s.Settle()
	if got := again.Received(); strings.Contains(got, "<message") {
		t.Errorf("they come again: %s", got)
	}
	again.DropConn()
	s.Settle()
}

// withoutID takes the stanza-id out of a message.
func withoutID(m string) string {
	from := strings.Index(m, "<stanza-id ")
	if from < 0 {
		return m
	}
	to := from + strings.Index(m[from:], "/>") + 2
	return m[:from] + m[to:]
}

// The messages of the first version move into the archive, or into rows of this version, at the first load of
// their account; an account that is not loaded keeps them as they are.
func TestRowsMove(t *testing.T) {
	s := sessiontest.New(t, sessiontest.Options{FS: firstVersion(t)})
	s.Advance(time.Hour)
	checkMoved(t, s)
	s.Restart()
	nurse := s.Login("nurse", "nurse@localhost/chamber")
	nurse.Send("<presence/>")
	s.Settle()
	if got := nurse.Received(); strings.Count(got, "<body>five</body>") != 1 ||
		!strings.Contains(got, "<stanza-id xmlns='urn:xmpp:sid:0' id='x' by='romeo@localhost'/>") {
		t.Errorf("nurse got %s", got)
	}
}

// A crash while rows move loses none and doubles none: the batch has all of it.
func TestCrashWhileRowsMove(t *testing.T) {
	for n := range 6 {
		left := n // writes that succeed before the crash
		s := sessiontest.New(t, sessiontest.Options{FS: firstVersion(t), AllowPanics: true})
		s.Settle()
		for range left {
			// Each message writes into both archives; the first one loads the account, and so moves its rows.
			romeo := s.Login("romeo", "romeo@localhost/orchard")
			romeo.Send("<message to='juliet@localhost' type='headline'><body>no row</body></message>")
			romeo.DropConn()
			if left%2 == 0 {
				s.Settle()
			}
		}
		s.Crash()
		checkMoved(t, s)
	}
}

// Without module archive all messages wait in rows of this version.
func TestRowsMoveWithoutArchive(t *testing.T) {
	s := sessiontest.New(t, sessiontest.Options{FS: firstVersion(t), Modules: withoutArchive()})
	juliet := s.Login("juliet", "juliet@localhost/balcony")
	juliet.Send("<presence/>")
	s.Settle()
	got := juliet.Received()
	for _, m := range moved {
		if strings.Count(got, m) != 1 {
			t.Errorf("%s is not there once in %s", m, got)
		}
	}
	if strings.Contains(got, "<stanza-id") {
		t.Errorf("an id that no archive has: %s", got)
	}
}

// A store of this version is refused by a program of the first one: the version of the store and of the table
// are higher (attack K110; that a higher version is refused is tested in package store).
func TestVersionRaised(t *testing.T) {
	fs := firstVersion(t)
	s := sessiontest.New(t, sessiontest.Options{FS: fs})
	if v := s.DB.Tables().Oldest("offline"); v != 1 {
		t.Errorf("the oldest row is of version %d", v)
	}
	fresh := sessiontest.New(t, sessiontest.Options{})
	if v := fresh.DB.Tables().Oldest("offline"); v != 3 {
		t.Errorf("the oldest row of a new store is of version %d", v)
	}
}

// withoutArchive are the default modules without the archive.
func withoutArchive() []string {
	return slices.DeleteFunc(mod.DefaultNames(), func(name string) bool { return name == "archive" })
}
