package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"canto/session/sasl"
)

// Every command does the same through the admin socket of a running server and on the store without one.
func TestCommands(t *testing.T) {
	for _, running := range []bool{false, true} {
		t.Run(map[bool]string{false: "on the store", true: "on a running server"}[running], func(t *testing.T) {
			t.Parallel()
			s := newSite(t, "example.org")
			if running {
				s.serve()
			}
			is := func(want string, args ...string) {
				t.Helper()
				if got := s.ok(args...); !regexp.MustCompile("^(?:" + want + ")$").MatchString(got) {
					t.Errorf("canto %v: %q does not match %q", args, got, want)
				}
			}
			is("", "user", "add", "romeo@example.org", "--password", "x")
			is("juliet@example.org\t[A-Z2-7]{20}\n", "user", "add", "Juliet@EXAMPLE.org")
			if r := s.canto("s3cret\n", "user", "add", "nurse@example.org", "--password-stdin"); r != (said{}) {
				t.Errorf("add --password-stdin: %+v", r)
			}
			is("juliet@example.org\nnurse@example.org\nromeo@example.org\n", "user", "list")
			is("juliet@example.org\nnurse@example.org\nromeo@example.org\n", "user", "list", "example.org")
			is("", "user", "list", "example.net")
			is(`jid      romeo@example.org
id       [0-9a-f]{16}
created  \d{4}-.*Z
banned   false
keys     SCRAM-SHA-1, 10000 iterations
keys     SCRAM-SHA-256, 10000 iterations
keys     SCRAM-SHA-512, 10000 iterations
`, "user", "show", "romeo@example.org")
			is("", "user", "ban", "romeo@example.org")
			is("", "user", "ban", "romeo@example.org")
			is(`(?s).*banned   true.*`, "user", "show", "romeo@example.org")
			is("", "user", "unban", "romeo@example.org")
			is("", "user", "unban", "romeo@example.org")
			is(`(?s).*banned   false.*`, "user", "show", "romeo@example.org")
			is("", "push", "list", "romeo@example.org")
			is(`\[\]\n`, "push", "list", "romeo@example.org", "--json")
			s.fails(exitFailed, `no-such@example.org`, "push", "list", "no-such@example.org")
			is("", "user", "clients", "romeo@example.org")
			is(`\[\]\n`, "user", "clients", "romeo@example.org", "--json")
			s.fails(exitFailed, `no-such@example.org: account not found`, "user", "clients", "no-such@example.org")
			s.fails(exitFailed, `romeo@example.org has no client d4565fa7-4d72-4749-b3d3-740edbf87770`, "user",
				"clients", "romeo@example.org", "--revoke", "D4565FA7-4d72-4749-b3d3-740edbf87770")
			s.fails(exitUsage, `"phone" is no id of a client`, "user", "clients", "romeo@example.org", "--revoke",
				"phone")
			is("", "user", "passwd", "romeo@example.org", "--password", "y")
			is("", "user", "del", "nurse@example.org")
			is("juliet@example.org\nromeo@example.org\n", "user", "list")

			s.fails(exitFailed, `account romeo@example.org exists already: canto user passwd`, "user", "add",
				"ROMEO@example.org", "--password", "x")
			for _, c := range []string{"show", "del", "ban", "unban", "passwd"} {
				s.fails(exitFailed, `absent@example.org: account not found: canto user list`, "user", c,
					"absent@example.org")
				s.fails(exitUsage, `"example.org" is not an account: write it like name@domain`, "user", c, "example.org")
				s.fails(exitUsage, `"a@b/c" is not an account: write it like name@domain`, "user", c, "a@b/c")
			}
			s.fails(exitUsage, `"a b@example.org": `, "user", "add", "a b@example.org")
			s.fails(exitUsage, `the password has U\+000A as its character 2`, "user", "add", "tybalt@example.org",
				"--password", "a\nb")
			refused(t, s.canto("\n", "user", "add", "tybalt@example.org", "--password-stdin"), exitUsage,
				`the password is empty`)
			is("juliet@example.org\nromeo@example.org\n", "user", "list")

			is("example.org\tfile\n", "host", "list")
			is("", "host", "add", "example.net")
			is("", "user", "add", "mercutio@example.net", "--password", "x")
			is("example.net\tstore\nexample.org\tfile\n", "host", "list")
			is("juliet@example.org\nromeo@example.org\nmercutio@example.net\n", "user", "list")
			s.fails(exitFailed, `host example.net exists already: canto host list`, "host", "add", "example.net")
			s.fails(exitFailed, `example.org: the configuration file names it already`, "host", "add", "example.org")
			s.fails(exitUsage, `"a@b" is not a domain`, "host", "add", "a@b")
			s.fails(exitUsage, `"a b" is not a domain`, "host", "add", "a b")
			is("", "host", "del", "example.net")
			s.fails(exitFailed, `host example.net not found: canto host list`, "host", "del", "example.net")
			is("example.org\tfile\n", "host", "list")
			is("mercutio@example.net\n", "user", "list", "example.net") // its accounts are kept

			is(`(?s)host example.org\n  loaded .*`, "modules")
			is(`canto \S+( \(.*\))?\n`, "version")
			if running {
				is(`(?s)part  *count .*live heap .*store on disk .*`, "bytes")
				s.fails(exitUsage, `unexpected argument|unknown flag`, "user", "list", "--nonsense")
			} else {
				s.fails(exitFailed, `no server runs with the data folder data`, "bytes")
				s.fails(exitFailed, `no server runs with the data folder data`, "reload")
			}
		})
	}
}

// An argument that is not UTF-8 is not changed into one that is (RFC 8265 §4.2: a password is of Unicode),
// and one that is empty is not taken for none.
func TestArgumentsThatAreNone(t *testing.T) {
	t.Parallel()
	s := newSite(t, "example.org")
	for _, command := range []string{"add", "passwd"} {
		s.fails(exitUsage, `argument 5 is not UTF-8`, "user", command, "romeo@example.org", "--password", "caf\xe9")
		s.fails(exitUsage, `argument 4 is not UTF-8`, "user", command, "romeo@example.org", "--password=caf\xe9")
		s.fails(exitUsage, `--password is empty`, "user", command, "romeo@example.org", "--password", "")
	}
	s.fails(exitUsage, `argument 3 is not UTF-8`, "user", "show", "rom\xe9o@example.org")
	s.fails(exitUsage, `--host is empty`, "modules", "--host", "")
	for _, flag := range []string{"--config", "--data"} {
		var out, errOut bytes.Buffer
		status := execute(&run{ctx: t.Context(), args: []string{"user", "list", flag, ""}, out: &out,
			errOut: &errOut})
		refused(t, said{status, out.String(), errOut.String()}, exitUsage, flag+" is empty", "user list", flag)
	}
	s.nothingMade()
}

// A command that changes something that must exist makes no data folder.
func TestChangersMakeNoFolder(t *testing.T) {
	t.Parallel()
	s := newSite(t, "example.org")
	for _, c := range []string{"user passwd romeo@example.org", "user del romeo@example.org",
		"user ban romeo@example.org", "user unban romeo@example.org", "host del example.net",
		"archive trim romeo@example.org --keep 1"} {
		s.fails(exitFailed, `data: there is no data folder: give it with --data, or make one with canto serve`,
			strings.Fields(c)...)
		s.nothingMade()
	}
	s.ok("host", "add", "example.net")
	s.ok("user", "add", "romeo@example.org", "--password", "x")
}

// A command that only reads makes nothing.
func TestReadersMakeNoFolder(t *testing.T) {
	t.Parallel()
	s := newSite(t, "example.org")
	for _, args := range []string{"user list", "user list example.org", "user show a@example.org", "host list",
		"archive show a@example.org", "message a@example.org x"} {
		s.fails(exitFailed, `data: there is no data folder: give it with --data, or make one with canto serve`,
			strings.Fields(args)...)
	}
	s.fails(exitFailed, `no server runs`, "bytes")
	s.fails(exitFailed, `no server runs`, "reload")
	s.ok("modules")
	s.ok("version")
	s.canto("", "check", "config")
	s.nothingMade()

	// Nor does it make a store of a folder that is none.
	if err := os.Mkdir(s.data(), 0o700); err != nil {
		t.Fatal(err)
	}
	s.fails(exitFailed, `no store there: data: .*canto serve`, "user", "list")
	if list, _ := os.ReadDir(s.data()); len(list) != 0 {
		t.Errorf("an empty folder has %v now", list)
	}
}

// A host of the store is served when the command has returned, and its sessions end when it is deleted.
func TestHostAddDel(t *testing.T) {
	t.Parallel()
	s := newSite(t, "example.org")
	p := s.serve()
	if _, err := connect(p.plain, "example.net", false); err != streamError("host-unknown") {
		t.Errorf("before it is added: %v", err)
	}
	s.ok("host", "add", "example.net")
	s.ok("user", "add", "juliet@example.net", "--password", "x")
	juliet := p.login("example.net", "juliet", "x")
	s.ok("user", "add", "nurse@example.net", "--password", "x")
	half := p.half("example.net", "nurse", "x")
	s.ok("host", "del", "example.net")
	if err := half.bind("later"); err != streamError("host-gone") {
		t.Errorf("binding on a host that was deleted: %v", err)
	}
	if err := juliet.ended(); err != streamError("host-gone") {
		t.Errorf("a session of a host that was deleted: %v", err)
	}
	if _, err := connect(p.plain, "example.net", false); err != streamError("host-unknown") {
		t.Errorf("after it was deleted: %v", err)
	}
	s.ok("host", "add", "example.net")
	p.login("example.net", "juliet", "x") // the account was kept
}

// Banned: no mechanism lets the account in, with the right password or a wrong one, and its sessions end.
func TestAttackS23(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.certificate("example.org")
	s.write("canto.toml", listen+"[limits]\nfailures_per_account = '0'\n"+hostSection("example.org"))
	s.ok("user", "add", "romeo@example.org", "--password", "x")
	p := s.serve()
	first, second := p.login("example.org", "romeo", "x"), p.login("example.org", "romeo", "x")
	if err := first.ended(); err != streamError("conflict") { // the same resource
		t.Fatal(err)
	}
	// Logged in, and not bound yet, when the ban comes.
	half := p.half("example.org", "romeo", "x")
	s.ok("user", "ban", "romeo@example.org")
	if err := second.ended(); err != streamError("policy-violation") {
		t.Errorf("a live session: %v", err)
	}
	if err := half.bind("later"); err != streamError("reset") {
		t.Errorf("binding after the ban: %v", err)
	}
	tried := 0
	mechs, _ := half.features.find("mechanisms")
	if first, err := connect(p.plain, "example.org", false); err == nil {
		mechs, _ = first.features.find("mechanisms")
		first.conn.Close()
	}
	for _, m := range mechs.Nodes {
		tried++
		if _, err := p.try("example.org", m.Text, "romeo", "x"); err != saslFailure("account-disabled") {
			t.Errorf("%s: %v", m.Text, err)
		}
		// A client without the password does not learn of the ban.
		if _, err := p.try("example.org", m.Text, "romeo", "wrong"); err != saslFailure("not-authorized") {
			t.Errorf("%s with a wrong password: %v", m.Text, err)
		}
	}
	if tried < 7 { // SCRAM with three hashes, their -PLUS forms, PLAIN
		t.Errorf("only %d mechanisms are offered", tried)
	}
	s.ok("user", "passwd", "romeo@example.org", "--password", "y") // a new password is no way round it
	if _, err := p.try("example.org", "PLAIN", "romeo", "y"); err != saslFailure("account-disabled") {
		t.Errorf("with a new password: %v", err)
	}
	s.ok("user", "unban", "romeo@example.org")
	p.login("example.org", "romeo", "y")
}

// A new password, and the end of the account, end its sessions.
func TestSessionsEnd(t *testing.T) {
	t.Parallel()
	s := newSite(t, "example.org")
	s.ok("user", "add", "romeo@example.org", "--password", "x")
	p := s.serve()
	romeo := p.login("example.org", "romeo", "x")
	s.ok("user", "passwd", "romeo@example.org", "--password", "y")
	if err := romeo.ended(); err != streamError("reset") {
		t.Errorf("after passwd: %v", err)
	}
	if _, err := p.try("example.org", "SCRAM-SHA-1", "romeo", "x"); err != saslFailure("not-authorized") {
		t.Errorf("with the old password: %v", err)
	}
	romeo = p.login("example.org", "romeo", "y")
	if _, err := romeo.iq("set", "<query xmlns='jabber:iq:roster'>"+
		"<item jid='juliet@example.net'/></query>"); err != nil {
		t.Fatal(err)
	}
	s.ok("user", "del", "romeo@example.org")
	if err := romeo.ended(); err != streamError("not-authorized") {
		t.Errorf("after del: %v", err)
	}
	if _, err := p.try("example.org", "SCRAM-SHA-1", "romeo", "y"); err != saslFailure("not-authorized") {
		t.Errorf("a deleted account: %v", err)
	}
	s.ok("user", "add", "romeo@example.org", "--password", "z")
	n, err := p.login("example.org", "romeo", "z").iq("get", "<query xmlns='jabber:iq:roster'/>")
	if err != nil || n.has("query", "item") {
		t.Errorf("another account of the same name has the old roster: %v %v", n, err)
	}
}

func TestImport(t *testing.T) {
	t.Parallel()
	s := newSite(t, "example.org")
	s.write("users.tsv", "broken\n")
	s.fails(exitFailed, `users.tsv:1: no tab: `, "user", "import", s.path("users.tsv"))
	s.fails(exitFailed, `is a folder: name a file, or - for standard input`, "user", "import", s.dir)
	s.nothingMade()
	s.ok("host", "add", "example.net") // from here on there is a store, and an import adds nothing to it
	for _, c := range []struct{ name, text, words string }{
		{"no tab", "a@example.org\tx\n\nb@example.org x\n",
			`users.tsv:3: no tab: a line is jid<TAB>password; nothing was imported`},
		{"no account", "a@example.org\tx\nexample.org\tx\n",
			`users.tsv:2: "example.org" is not an account: .*; nothing was imported`},
		{"no address", "a@example.org\tx\na b@example.org\tx\n",
			`users.tsv:2: "a b@example.org": .*; nothing was imported`},
		{"no password", "a@example.org\tx\nb@example.org\t\n", `users.tsv:2: .*password.*; nothing was imported`},
		{"a password that can't be one", "a@example.org\tx\nb@example.org\tx\ty\n",
			`users.tsv:2: the password has U\+0009 as its character 2, which is a control character.*; nothing was imported`},
		{"an unassigned character", "a@example.org\tx\nb@example.org\tlove \u0378\n",
			`users.tsv:2: the password has U\+0378 as its character 6, .*: letters, digits, symbols and blanks of any script are allowed.*; nothing was imported`},
		{"a long password", "b@example.org\t" + strings.Repeat("x", 1024) + "\n",
			`users.tsv:1: the password has 1024 bytes: .*up to 1,023 bytes; nothing was imported`},
		{"another encoding", "b@example.org\tcaf\xe9\n", `users.tsv:1: the password is not UTF-8: `},
		{"a name with a blank", "ro meo@example.org\tx\n",
			`users.tsv:1: "ro meo@example.org": localpart has a character that is not allowed there \(' '\): write it like name@domain; nothing was imported`},
		{"a long line", "a@example.org\tx\nb@example.org\t" + strings.Repeat("x", 70<<10) + "\n",
			`users.tsv:2: longer than 65536 bytes: a line is jid<TAB>password, and ends with a newline; nothing was imported`},
		{"late", strings.Repeat("\n", 3) + manyLines(3000) + "broken\n",
			`users.tsv:3004: no tab: .*; nothing was imported`},
	} {
		s.write("users.tsv", c.text)
		s.fails(exitFailed, c.words, "user", "import", "--shared-salt", s.path("users.tsv"))
		if out := s.ok("user", "list"); out != "" {
			t.Errorf("%s: these are imported: %q", c.name, out)
		}
	}
	s.fails(exitFailed, `missing.tsv: no such file`, "user", "import", s.path("missing.tsv"))
	s.fails(exitUsage, `--iterations is from \d+ to \d+`, "user", "import", "--iterations", "1", "users.tsv")

	p := s.serve()
	s.write("users.tsv", "romeo@example.org\tx\r\nJuliet@example.org\ty\n")
	// Through the server, whose current folder is another one, and with the file not as the last argument.
	cmd := s.command("user", "import", "users.tsv")
	sub := filepath.Join(s.dir, "sub")
	if err := os.Mkdir(sub, 0o700); err != nil {
		t.Fatal(err)
	}
	os.Rename(s.path("users.tsv"), filepath.Join(sub, "users.tsv"))
	cmd.Dir = sub
	cmd.Args = append(cmd.Args[:len(cmd.Args)-4], "--config", s.path("canto.toml"), "--data", s.data())
	if r := finish(t, cmd, ""); r != (said{out: "2 accounts added\n"}) {
		t.Errorf("through the server: %+v", r)
	}
	p.login("example.org", "romeo", "x")
	p.login("example.org", "juliet", "y")

	// The accounts that exist are reported, and the others are added.
	r := s.canto("nurse@example.org\tx\nromeo@example.org\tother\n", "user", "import", "-")
	want := said{exitFailed, "1 accounts added\n",
		"canto: standard input:2: account romeo@example.org exists already\ncanto: standard input: 1 of 2 " +
			"accounts were not added, see above\n"}
	if r != want {
		t.Errorf("an account that exists: %+v, want %+v", r, want)
	}
	p.login("example.org", "nurse", "x")
	if _, err := p.try("example.org", "PLAIN", "romeo", "other"); err != saslFailure("not-authorized") {
		t.Errorf("the import changed a password: %v", err)
	}
}

// The file of an import is read by the process of the user that typed the command, with that user's rights
// and that process's /dev/stdin; the server opens nothing.
func TestImportReadsAsTheCaller(t *testing.T) {
	t.Parallel()
	s := newSite(t, "example.org")
	if err := os.Mkdir(s.data(), 0o700); err != nil {
		t.Fatal(err)
	}
	s.unprivileged()
	p := s.serve()
	s.attr = nil
	r := finish(t, s.command("user", "import", "/dev/stdin"), "romeo@example.org\tx\n")
	if r != (said{out: "1 accounts added\n"}) {
		t.Errorf("/dev/stdin: %+v", r)
	}
	s.write("users.tsv", "juliet@example.org\ty\n") // 0600: where root runs the test, the server may not read it
	s.ok("user", "import", s.path("users.tsv"))
	p.login("example.org", "juliet", "y")
	s.fails(exitFailed, `missing.tsv: no such file or directory: name a file that you may read`, "user",
		"import", s.path("missing.tsv"))
}

func manyLines(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "user%d@example.org\tsecret\n", i)
	}
	return b.String()
}

// 20,000 accounts for a load test; design §9 says 5 s, and the time is printed, not judged.
func TestImportMany(t *testing.T) {
	t.Parallel()
	s := newSite(t, "example.org")
	p := s.serve()
	start := time.Now()
	r := s.canto(manyLines(20_000), "user", "import", "--shared-salt", "-")
	t.Logf("20,000 accounts in %v", time.Since(start).Round(time.Millisecond))
	if r != (said{out: "20000 accounts added\n"}) {
		t.Fatalf("%d %q %q", r.status, r.out, r.err)
	}
	p.login("example.org", "user19999", "secret")
	if n := strings.Count(s.ok("user", "list", "example.org"), "\n"); n != 20_000 {
		t.Errorf("%d accounts are there", n)
	}
	if _, err := p.try("example.org", "PLAIN", "user20000", "secret"); !errors.Is(err,
		saslFailure(sasl.NotAuthorized.String())) {
		t.Errorf("one that was not imported: %v", err)
	}
}

// A host is added and deleted only if the running server can take its file as it is: a command that fails
// has changed nothing.
func TestHostCommandsWithBrokenFile(t *testing.T) {
	t.Parallel()
	s := newSite(t, "example.org")
	s.ok("host", "add", "example.net")
	s.serve()
	good, err := os.ReadFile(s.path("canto.toml"))
	if err != nil {
		t.Fatal(err)
	}
	s.write("canto.toml", string(good)+"[limits]\nstanza = 'x'\n")
	before := []string{"--config", s.path("good.toml")}
	s.write("good.toml", string(good))
	call := func(args ...string) said {
		var out, errOut bytes.Buffer
		status := execute(&run{ctx: t.Context(), args: append(append(args, before...), "--data", s.data()),
			out: &out, errOut: &errOut})
		return said{status, out.String(), errOut.String()}
	}
	for _, command := range [][]string{{"host", "add", "example.com"}, {"host", "del", "example.net"}} {
		refused(t, call(command...), exitUsage, `canto.toml:12: .*"x" is not a size.*; nothing was changed`,
			command...)
	}
	if got := call("host", "list").out; got != "example.net\tstore\nexample.org\tfile\n" {
		t.Errorf("the hosts are now %q", got)
	}
}

// help and --version may come after --config and --data, and help after user and host.
func TestPlainWords(t *testing.T) {
	for _, c := range []struct{ args, want string }{
		{"", "--help"},
		{"help user", "user --help"},
		{"--config c --version", "--config c version"},
		{"--config=c --version", "--config=c version"},
		{"--data d help", "--data d --help"},
		{"user help", "user --help"},
		{"--data d host help", "--data d host --help"},
		{"user show help", "user show help"},
		{"user add a@b --password help", "user add a@b --password help"},
		{"--config c", "--config c"},
	} {
		if got := strings.Join(plainWords(strings.Fields(c.args)), " "); got != c.want {
			t.Errorf("canto %s: %s, not %s", c.args, got, c.want)
		}
	}
}
