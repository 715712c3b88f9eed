package main

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// archived returns the ids of the messages in the archive of c, by their texts.
func (c *client) archived() map[string]string {
	ids := map[string]string{}
	c.backlog = nil
	if _, err := c.iq("set", "<query xmlns='urn:xmpp:mam:2'/>"); err != nil {
		return map[string]string{"error": err.Error()}
	}
	for _, n := range c.backlog {
		if result, ok := n.find("result"); ok {
			text, _ := result.find("forwarded", "message", "body")
			ids[text.Text] = result.attr("id")
		}
	}
	return ids
}

// A conversation is what the tests of the archive's commands look at: juliet has got "one", and "two" waits
// for her. Romeo has sent both.
func conversation(t *testing.T, s *site, p *process) (romeo, juliet map[string]string) {
	t.Helper()
	for _, name := range []string{"romeo", "juliet", "nurse"} {
		s.ok("user", "add", name+"@example.org", "--password", "x")
	}
	from, to := p.login("example.org", "romeo", "x"), p.login("example.org", "juliet", "x")
	to.send("<presence/>")
	if _, err := to.stanza(func(n node) bool { return n.XMLName.Local == "presence" }); err != nil {
		t.Fatal(err)
	}
	from.send("<message to='juliet@example.org' type='chat' id='m1'><body>one</body></message>")
	if _, err := to.stanza(body("one")); err != nil {
		t.Fatal(err)
	}
	to.send("</stream:stream>")
	to.ended()
	from.send("<message to='juliet@example.org' type='chat' id='m2'><body>two</body></message>")
	until(t, "a message waits", func() bool { return waiting(t, s, "juliet@example.org") == 1 })
	reader := p.login("example.org", "juliet", "x") // without presence: nothing is delivered to it
	juliet = reader.archived()
	reader.send("</stream:stream>")
	reader.ended()
	if romeo = from.archived(); len(romeo) != 2 || len(juliet) != 2 {
		t.Fatalf("the archives have %v and %v", romeo, juliet)
	}
	from.send("</stream:stream>")
	from.ended()
	return romeo, juliet
}

// shown returns what canto archive show --json prints.
func shown(t *testing.T, s *site, account string) (info archiveInfo) {
	t.Helper()
	if err := json.Unmarshal([]byte(s.ok("archive", "show", account, "--json")), &info); err != nil {
		t.Fatal(err)
	}
	return info
}

func waiting(t *testing.T, s *site, account string) int {
	t.Helper()
	return shown(t, s, account).Waiting
}

// The commands about archives do the same through a running server and on its store when it has stopped.
func TestArchiveCommands(t *testing.T) {
	for _, running := range []bool{false, true} {
		t.Run(map[bool]string{false: "on the store", true: "on a running server"}[running], func(t *testing.T) {
			t.Parallel()
			s := newSite(t, "example.org")
			p := s.serve()
			romeo, juliet := conversation(t, s, p)
			if !running {
				p.signal(syscall.SIGTERM)
				p.wait()
			}
			is := func(want string, args ...string) {
				t.Helper()
				if got := s.ok(args...); !regexp.MustCompile("^(?:" + want + ")$").MatchString(got) {
					t.Errorf("canto %v: %q does not match %q", args, got, want)
				}
			}
			row := func(id, direction, with, middle string) string {
				return fmt.Sprintf("jid        %s@example.org\nid         %s\ntime       20.*Z\ndirection  %s\n"+
					"with       %s\nkind       body\n%spush due   no\nretracted  no\nmoved      no\nsize       [1-9]\\d+\n",
					map[bool]string{true: "romeo", false: "juliet"}[direction == "sent"], id, direction, with, middle)
			}
			is(row(juliet["one"], "received", "romeo@example.org/test", "device     test\nwaiting    no\n"),
				"message", "juliet@example.org", juliet["one"])
			is(row(juliet["two"], "received", "romeo@example.org/test", "device     -\nwaiting    yes\n"),
				"message", "JULIET@example.org", juliet["two"])
			is(row(romeo["one"], "sent", "juliet@example.org", "waiting    no\n"),
				"message", "romeo@example.org", romeo["one"])
			is("(?s).*\ntext       \"one\"\n", "message", "juliet@example.org", juliet["one"], "--text")
			is(fmt.Sprintf(`{"jid":"juliet@example.org","id":"%s","time":"20.*Z","direction":"received",`+
				`"with":"romeo@example.org/test","kind":"body","devices":\[\],"waited":true,"waits":true,`+
				`"taken":null,"push_due":false,"retracted":false,"moved":false,"size":\d+}`+"\n", juliet["two"]),
				"message", "juliet@example.org", juliet["two"], "--json")
			is(`.*"devices":\["test"\],"waited":false,"waits":false,.*,"text":"one"}`+"\n",
				"message", "juliet@example.org", juliet["one"], "--json", "--text")

			s.fails(exitFailed, `absent@example.org: account not found: canto user list`, "message",
				"absent@example.org", juliet["one"])
			s.fails(exitFailed, `no id of the archive of juliet@example.org: take the id`, "message",
				"juliet@example.org", romeo["one"])
			s.fails(exitFailed, `"x y" is no id of the archive`, "message", "juliet@example.org", "x y")
			s.fails(exitFailed, `nurse@example.org: the archive is empty`, "message", "nurse@example.org", "x")

			is(`jid          juliet@example.org
messages     2
bytes        \d+
oldest       20.*Z
newest       20.*Z
waiting      1, \d+ bytes
preferences  default, always 0 addresses, never 0 addresses
`, "archive", "show", "juliet@example.org")
			is(`(?s).*\nmessages     0\nbytes        0\noldest       -\nnewest       -\nwaiting      0, 0 bytes\n.*`,
				"archive", "show", "nurse@example.org")
			if i := shown(t, s, "romeo@example.org"); i.Rows != 2 || i.Waiting != 0 || i.Oldest.After(*i.Newest) {
				t.Errorf("the archive of romeo: %+v", i)
			}
			s.fails(exitFailed, `absent@example.org: account not found`, "archive", "show", "absent@example.org")

			s.fails(exitUsage, `give either --before DATE or --keep N`, "archive", "trim", "juliet@example.org")
			s.fails(exitUsage, `give either --before DATE or --keep N`, "archive", "trim", "juliet@example.org",
				"--keep", "1", "--before", "2026-01-01")
			s.fails(exitUsage, `--before "yesterday" is no date`, "archive", "trim", "juliet@example.org", "--before",
				"yesterday")
			s.fails(exitUsage, `--keep`, "archive", "trim", "juliet@example.org", "--keep=-1")
			s.fails(exitFailed, `absent@example.org: account not found`, "archive", "trim", "absent@example.org",
				"--keep", "1")
			is("0 messages deleted\n", "archive", "trim", "juliet@example.org", "--before", "2001-01-01")
			is("0 messages deleted\n", "archive", "trim", "nurse@example.org", "--keep", "0")
			is("0 messages deleted\n", "archive", "trim", "juliet@example.org", "--keep", "2")
			is("1 messages deleted\n", "archive", "trim", "juliet@example.org", "--keep", "0") // one waits
			is(`{"jid":"juliet@example.org","deleted":0}`+"\n", "archive", "trim", "juliet@example.org", "--json",
				"--before", time.Now().Add(48*time.Hour).Format(time.DateOnly))
			is("1 messages deleted\n", "archive", "trim", "romeo@example.org", "--keep", "1")
			s.fails(exitFailed, `the message of 20.*Z was deleted, as it is older than the oldest one, which came at `+
				`20.*Z: module.archive.retention`, "message", "juliet@example.org", juliet["one"])
			is(`(?s).*\nmessages     1\n.*\nwaiting      1, .*`, "archive", "show", "juliet@example.org")

			if !running {
				p = s.serve()
			}
			c := p.login("example.org", "juliet", "x") // the server's own view is the same
			if ids := c.archived(); len(ids) != 1 || ids["two"] != juliet["two"] {
				t.Errorf("the archive of juliet has %v", ids)
			}
			c.send("<presence/>")
			if _, err := c.stanza(body("two")); err != nil {
				t.Fatal(err)
			}
			until(t, "it does not wait any more", func() bool { return waiting(t, s, "juliet@example.org") == 0 })
			is(row(juliet["two"], "received", "romeo@example.org/test", "device     -\n"+
				"waiting    no longer, test had it by 20.*Z\n"), "message", "juliet@example.org", juliet["two"])
			is(`.*"waits":false,"taken":{"device":"test","time":"20.*Z","archive":false},.*`+"\n",
				"message", "juliet@example.org", juliet["two"], "--json")
			is("1 messages deleted\n", "archive", "trim", "juliet@example.org", "--keep", "0")
			if ids := c.archived(); len(ids) != 0 {
				t.Errorf("the archive of juliet has %v", ids)
			}
		})
	}
}

// A running server whose host archives nothing refuses to trim, as it can't do it under the account's lock.
func TestArchiveTrimWithoutModule(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.certificate("example.org")
	s.write("canto.toml", listen+hostSection("example.org")+"modules = [\"-archive\"]\n")
	s.ok("user", "add", "romeo@example.org", "--password", "x")
	if got := s.ok("archive", "trim", "romeo@example.org", "--keep", "0"); got != "0 messages deleted\n" {
		t.Errorf("on the store: %q", got)
	}
	s.serve()
	s.fails(exitFailed, `romeo@example.org: the running server has no archive at example.org: load module archive`,
		"archive", "trim", "romeo@example.org", "--keep", "0")
	if i := shown(t, s, "romeo@example.org"); i.Rows != 0 {
		t.Errorf("%+v", i)
	}
}

// The preferences that a client has set are shown, by number and not by address.
func TestArchiveShowPreferences(t *testing.T) {
	t.Parallel()
	s := newSite(t, "example.org")
	p := s.serve()
	s.ok("user", "add", "romeo@example.org", "--password", "x")
	c := p.login("example.org", "romeo", "x")
	if _, err := c.iq("set", "<prefs xmlns='urn:xmpp:mam:2' default='roster'><always><jid>a@example.org</jid>"+
		"<jid>b@example.org</jid></always><never><jid>c@example.org</jid></never></prefs>"); err != nil {
		t.Fatal(err)
	}
	out := s.ok("archive", "show", "romeo@example.org")
	if !strings.HasSuffix(out, "preferences  roster, always 2 addresses, never 1 addresses\n") ||
		strings.Contains(out, "c@") {
		t.Error(out)
	}
	if got := s.ok("archive", "show", "romeo@example.org", "--json"); !strings.Contains(got,
		`"oldest":null,"newest":null,"waiting":0,"waiting_bytes":0,"preferences":{"policy":"roster","always":2,"never":1}}`) {
		t.Error(got)
	}
}

// A client chooses the node of its registration. It moves no cursor, and makes no further line or column.
func TestPushListQuotes(t *testing.T) {
	t.Parallel()
	s := newSite(t, "example.org")
	p := s.serve()
	s.ok("user", "add", "juliet@example.org", "--password", "x")
	c := p.login("example.org", "juliet", "x")
	if _, err := c.iq("set", "<enable xmlns='urn:xmpp:push:0' jid='app.example' "+
		"node='a&#x9;b&#xA;c&#x9B;2J&#x85;'/>"); err != nil {
		t.Fatal(err)
	}
	const want = "app.example\t\"a\\tb\\nc\\u009b2J\\u0085\"\t0 bytes of options\n"
	if got := s.ok("push", "list", "juliet@example.org"); got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
